"""/chance: which effects pushes in random directions have on a model, read along every concept."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..concepts.library import DEFAULT_LAYERS
from ..conversation.runner import Runner
from ..measures.chance import Chance, ChanceCell
from ..measures.effect import moved
from ..values.recipe import RANDOM, Term, parse_layers
from .evaluation import random_settings

# At which strengths and lengths of answer the chance band is measured.
CHANCE_STRENGTHS = (1.0, 2.0, 4.0)
CHANCE_TOKENS = (40, 120)


def measure_chance(
    runner: Runner, prompts: Sequence[str], seeds: Sequence[int], names: Sequence[str], directions: int = 6
) -> Chance:
    """Push answers in random directions and read them along every concept in `names`.

    Seeds of one prompt are alike, so that more of them do not make a band as narrow as more prompts would: what
    belongs to a direction on a prompt is told from what belongs to a seed. There are at least two seeds.

    Raises Interrupted when the runner was stopped.
    """
    engine, profile = runner.reader.engine, runner.reader.profile
    vectors = [runner.reader.vector(name) for name in names]
    layers = parse_layers(DEFAULT_LAYERS, engine.n_layers)
    cells = []
    for tokens in CHANCE_TOKENS:
        label = f"random directions: answers of {tokens} tokens"
        for strength in CHANCE_STRENGTHS:
            settings = random_settings(Term(((RANDOM, 1.0),), layers, strength), directions)
            trials = runner.measure(prompts, settings, seeds, tokens, label)
            states = [[[output.reading.states for output in trial.outputs] for trial in own] for own in trials]
            # (concepts, directions, answers)
            effects = np.array(
                [[[moved(vector, profile, *both) for both in own] for own in states] for vector in vectors]
            )
            by_prompt = effects.reshape(*effects.shape[:2], len(prompts), -1)
            cells.append(ChanceCell(strength, tokens, *(round(value, 3) for value in spreads(by_prompt))))
    return Chance(engine.fingerprint, tuple(cells))


def spreads(effects: np.ndarray) -> tuple[float, float, float]:
    """Mean, `between` and `within` of a `ChanceCell`, from effects (..., prompts, seeds) with at least two seeds."""
    means, variances = effects.mean(axis=-1), effects.var(axis=-1, ddof=1)
    within = math.sqrt(float(variances.mean()))
    # An observed mean differs from the true one by what single pairs add to it.
    between = math.sqrt(max(0.0, float(means.var(ddof=1)) - within**2 / effects.shape[-1]))
    return float(effects.mean()), between, within
