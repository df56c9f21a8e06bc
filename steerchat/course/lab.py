"""Measurements for lessons: several answers under a few settings, in one batch, as figures that a lesson can judge.

Everything is measured on the model at hand. Answers to the same prompts with the same seeds differ by the setting
alone; what random directions of the same strength do to them is the chance that a setting has to beat.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..concepts.vector import ConceptVector, edits, random_vector
from ..engine.engine import Engine, Output, Row
from ..engine.reading import head
from ..engine.sampling import Sampling
from ..experiments.trials import Condition, Trials
from ..measures.calibration import Calibration
from ..measures.chance import Chance, ChanceCell, clarity, fluency
from ..measures.effect import recipe_direction
from ..measures.words import INDEPENDENT
from ..values.recipe import Recipe, Term, parse_layers

if TYPE_CHECKING:
    from ..concepts.library import Library, Report

PROMPTS = ("Tell me about the weather", "Describe your favourite place")
SEEDS = range(5)
TOKENS = 40
DIRECTIONS = 4


@dataclass(frozen=True)
class Trial:
    """A setting against normal answers and random directions, over every prompt and seed.

    Attributes:
        effects: one a pair of answers, in standard deviations of the neutral corpus.
        chance: (low, high), the band of random directions measured in the same run, for as many pairs.
        cost: perplexity ratio, geometric mean.
        repetition: mean share of repeated 3-grams.
        words: mean gain by the concept's word list, towards the concept; None without such a list.
        random_words: the same of the random directions.
        sample: the first steered answer.
        same: how many steered answers equal the normal one, token for token.
    """

    term: Term
    effects: tuple[float, ...]
    chance: tuple[float, float]
    cost: float
    repetition: float
    words: float | None
    random_words: float | None
    sample: str
    same: int

    @property
    def effect(self) -> float:
        return float(np.mean(self.effects))

    @property
    def verdict(self) -> str:
        """On both axes, in the chat's own words."""
        moved = clarity(self.effects, self.chance)
        if moved != "within chance" and self.effect < self.chance[0]:
            moved = "the other way"
        return f"{moved}, {fluency(self.cost, self.repetition)}"

    @property
    def facts(self) -> dict[str, float]:
        found = {
            "effect": self.effect,
            "low": self.chance[0],
            "high": self.chance[1],
            "cost": self.cost,
            "repetition": self.repetition,
            "same": self.same,
            "answers": len(self.effects),
        }
        if self.words is not None and self.random_words is not None:
            found |= {"words": self.words, "random_words": self.random_words}
        return found


class Lab:
    """Measures on one model, and remembers what it measured while the chat runs.

    Args:
        engine: the model.
        library: the concepts.
        report: told of progress.
        stopped: asked between steps; Interrupted is raised once it says so.
    """

    def __init__(self, engine: Engine, library: Library, report: Report, stopped: Any) -> None:
        self.engine = engine
        self.library = library
        self._report = report
        self._stopped = stopped
        self._trials: dict[tuple[str, ...], Trials] = {
            prompts: Trials(engine, library, prompts, SEEDS, report, stopped) for prompts in (PROMPTS, PROMPTS[:1])
        }
        self._kept: dict[Any, Trial] = {}
        self.profile = Calibration(library).profile(engine, report)

    def term(self, concept: str, layers: str = "", strength: float | None = None, operation: Any = "add") -> Term:
        """A concept where it is recommended on this model, unless told otherwise."""
        where, guess, _ = self.library.recommended(concept, self.engine.fingerprint)
        chosen = parse_layers(layers or where, self.engine.n_layers)
        return Term(((concept, 1.0),), chosen, guess if strength is None else strength, operation)

    def vectors(self, term: Term) -> dict[str, ConceptVector]:
        return {name: self.library.vector(name, self.engine, self._report) for name, _ in term.parts}

    def trials(self, prompts: Sequence[str] = PROMPTS) -> Trials:
        return self._trials[tuple(prompts)]

    def scores(self, term: Term, outputs: Sequence[Output]) -> np.ndarray:
        """Each answer's concept score along a term's direction."""
        found = recipe_direction(Recipe((self.added(term),)), self.vectors(term))
        if found is None:
            return np.zeros(len(outputs))
        direction, layer = found
        return np.array([self.profile.score(direction, layer, output.reading.states[layer]) for output in outputs])

    def added(self, term: Term) -> Term:
        """The same term as an addition: a direction is read alike, whatever is done with it."""
        return Term(term.parts, term.layers, term.strength, "add")

    def trial(self, term: Term, prompts: Sequence[str] = PROMPTS) -> Trial:
        return self.sweep([term], prompts)[0]

    def sweep(self, terms: Sequence[Term], prompts: Sequence[str] = PROMPTS, chance: bool = True) -> list[Trial]:
        """A trial of each setting; those that were not measured yet go in one run.

        Args:
            terms: the settings.
            prompts: one of `PROMPTS` or all.
            chance: whether to measure random directions too, which takes four times as long as the settings.
        """
        keys = [(self._digest(term), tuple(prompts), chance) for term in terms]
        new = [term for term, key in zip(terms, keys, strict=True) if key not in self._kept]
        if new:
            trials = self.trials(prompts)
            beaten = [self.added(term) for term in new if term.strength and chance]
            controls = {one.name: one for term in beaten for one in trials.at_random(term, DIRECTIONS)}
            answered = self.steered(new, prompts, [Condition("normal"), *controls.values()])
            normal = trials.normal(TOKENS)
            for term, outputs in zip(new, answered, strict=True):
                # A push of strength 0 has no chance to beat: whatever it changes is a mistake.
                random = trials.random(self.added(term), DIRECTIONS, TOKENS) if term.strength and chance else normal
                self._kept[self._digest(term), tuple(prompts), chance] = self._judged(term, normal, outputs, random)
        return [self._kept[key] for key in keys]

    def steered(
        self, terms: Sequence[Term], prompts: Sequence[str] = PROMPTS, beside: Sequence[Condition] = ()
    ) -> list[list[Output]]:
        """Answers under each of `terms`; those that are not kept yet go in one run, together with other conditions."""
        trials = self.trials(prompts)
        pushed = [replace(trials.pushed(term), name=f"steered {self._digest(term)}") for term in terms]
        conditions = [*pushed, *beside]
        return trials.answers(conditions, TOKENS, f"answering under {len(conditions)} settings")[: len(terms)]

    def _digest(self, term: Term) -> Any:
        concepts = (self.library.get(name) for name, _ in term.parts)
        return term, tuple(concept.digest for concept in concepts)

    def _judged(self, term: Term, normal: list[Output], steered: list[Output], random: list[Output]) -> Trial:
        count = len(normal)
        base = self.scores(term, normal)
        effects = self.scores(term, steered) - base
        chance = self._chance(term, self.scores(term, random).reshape(-1, count) - base)
        measure = INDEPENDENT.get(term.parts[0][0]) if len(term.parts) == 1 else None
        words = random_words = None
        if measure is not None:
            towards = lambda outputs: float(np.mean([measure.towards(one.answer.text) for one in outputs]))  # noqa: E731
            words, random_words = towards(steered) - towards(normal), towards(random) - towards(normal)
        return Trial(
            term,
            tuple(float(effect) for effect in effects),
            chance.band(term.strength, TOKENS, count),
            cost(steered, normal),
            float(np.mean([one.answer.repetition or 0.0 for one in steered])),
            words,
            random_words,
            steered[0].answer.text,
            sum(a.answer.token_ids == b.answer.token_ids for a, b in zip(normal, steered, strict=True)),
        )

    def _chance(self, term: Term, effects: np.ndarray) -> Chance:
        """The chance band of random effects, (directions, pairs)."""
        within = effects.var(axis=1, ddof=1).mean()
        between = effects.mean(axis=1).var(ddof=1) - within / effects.shape[1] if len(effects) > 1 else 0.0
        cell = ChanceCell(
            term.strength, TOKENS, float(effects.mean()), math.sqrt(max(0.0, between)), float(math.sqrt(within))
        )
        return Chance(self.engine.fingerprint, (cell,))

    # Reading

    def states(self, texts: Sequence[str]) -> list[Tensor]:
        """(layers, hidden) after each block at the last token of each plain text."""
        encoded = [self.engine.prompter.raw(text) for text in texts]
        pairs = [(ids[:-1] or self.engine.prompter.start(), ids[-1:]) for ids in encoded]
        return list(self.engine.states(pairs, "last"))

    @torch.inference_mode()
    def guesses(self, prompt: str) -> list[tuple[str, float]]:
        """The logit lens: the likeliest next token after each block, as if the model stopped there, and its chance."""
        states = self.states([prompt])[0].to(self.engine.device, self.engine.model.dtype)
        probabilities = head(self.engine.model, self._norm(states)).float().softmax(dim=-1)
        best = probabilities.max(dim=-1)
        return [
            (self.engine.prompter.text([int(token)]), float(chance))
            for token, chance in zip(best.indices, best.values, strict=True)
        ]

    def _norm(self, states: Tensor) -> Tensor:
        """The model's last norm, which stands between the last block and the output embeddings."""
        model = self.engine.model
        decoder = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
        for name in ("norm", "ln_f", "final_layer_norm", "final_layernorm"):
            if (norm := getattr(decoder, name, None)) is not None:
                return norm(states)
        return states

    # By hand

    def by_hand(self, term: Term, prompt: str, count: int = 12) -> tuple[list[int], list[int]]:
        """The same greedy answer twice: by `steer_by_hand`, and by the engine."""
        engine = self.engine
        pushes = edits(Recipe((term,)), self.vectors(term), self.profile.lengths)
        ids = engine.prompter.chat([{"role": "user", "content": prompt}])
        greedy = Sampling(temperature=0.0, repetition_penalty=1.0, max_tokens=count)
        run = engine.generate([Row(tuple(ids), pushes, 0)], greedy)
        while True:
            try:
                next(run)
            except StopIteration as end:
                theirs = list(end.value[0].answer.token_ids)
                break
        push = pushes[0]
        block = engine.blocks[push.layer]
        return steer_by_hand(engine.model, block, push.vector.to(engine.device), ids, len(theirs)), theirs


# A lesson shows these lines, in a terminal of 80.
@torch.inference_mode()
def steer_by_hand(
    model: Any,
    block: Any,
    push: Tensor,
    prompt: list[int],
    count: int,
) -> list[int]:
    # The answer begins at the last position of the prompt.
    start = len(prompt) - 1

    def add_the_push(module: Any, inputs: Any, output: Any) -> Any:
        # The stream is (batch, position, hidden); some blocks
        # give a tuple that begins with it.
        alone = isinstance(output, Tensor)
        stream = (output if alone else output[0]).clone()
        stream[:, start:] += push
        return stream if alone else (stream, *output[1:])

    handle = block.register_forward_hook(add_the_push)
    try:
        tokens = list(prompt)
        for _ in range(count):
            read = torch.tensor([tokens], device=push.device)
            scores = model(read).logits[0, -1]
            tokens.append(int(scores.argmax()))
    finally:
        # Or every later answer would be steered too.
        handle.remove()
    return tokens[len(prompt) :]


def source_by_hand() -> str:
    """The lines of `steer_by_hand` as they run."""
    return inspect.getsource(steer_by_hand).rstrip()


def cost(steered: Sequence[Output], normal: Sequence[Output]) -> float:
    """Perplexity ratio, geometric mean; NaN when no answer could be read."""
    logs = [
        math.log(a.answer.perplexity / b.answer.perplexity)
        for a, b in zip(steered, normal, strict=True)
        if a.answer.perplexity and b.answer.perplexity
    ]
    return math.exp(float(np.mean(logs))) if logs else math.nan


def random_cosine(hidden: int, directions: int = 20) -> float:
    """The largest cosine between random directions of a width: what counts as unrelated."""
    vectors = torch.stack([random_vector(seed, 1, hidden, "").directions[0] for seed in range(directions)])
    between = (vectors @ vectors.T).fill_diagonal_(0)
    return float(between.abs().max())
