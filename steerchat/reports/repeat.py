"""The shell's line that answers a pair or an experiment of the history again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ..storage.records import StoredExperiment, StoredPair
from ..values.recipe import Recipe
from ..values.results import Pair

# Settings that a pair's sampling holds, as the shell's options.
_SAMPLING = ("temperature", "top_p", "repetition_penalty", "max_tokens")


def pair_line(stored: StoredPair) -> str:
    """What repeats a pair: from its prompt where it had no conversation before it, else from this history."""
    pair = stored.pair
    alone = all(len(messages) == 1 for messages in stored.messages.values())
    dialled = pair.steered is not None and pair.steered.dial
    if not alone or dialled or stored.kind not in ("chat", "compare", "rerun"):
        return f"steerchat history rerun {pair.id}"
    raw = ["--raw"] if pair.raw else []
    return _line("compare", pair, stored.sampling, raw)


def experiment_line(experiment: StoredExperiment, pairs: Sequence[StoredPair]) -> str:
    """What repeats an experiment; empty where its kind has no command of its own."""
    if not pairs:
        return ""
    spec, first = experiment.spec, pairs[0]
    recipes = [Recipe.from_json(setting["recipe"]) for setting in spec["settings"]]
    pushed = max(recipes, key=lambda recipe: max((term.strength for term in recipe.terms), default=0.0))
    options = ["--repeats", str(spec["repeats"]), *(["--raw"] if spec.get("raw") else [])]
    sampling = dict(first.sampling)
    match experiment.kind:
        case "layers" | "strengths":
            options += ["--tokens", str(spec["tokens"])]
            sampling.pop("max_tokens", None)
        case "compare":
            pushed = recipes[0]
            options += ["--control"] if len(recipes) > 1 else []
        case _:
            return ""
    return _line(experiment.kind, first.pair, sampling, options, pushed, int(spec["seed"]))


def _line(
    command: str,
    pair: Pair,
    sampling: Mapping[str, Any],
    options: Sequence[str],
    recipe: Recipe | None = None,
    seed: int | None = None,
) -> str:
    recipe = pair.recipe if recipe is None else recipe
    words = ["steerchat", command, pair.prompt]
    for term in recipe.terms if recipe.on else ():
        words += ["--steer", term.typed.removeprefix("/").removeprefix("steer add ")]
    words += [*options, "--seed", str(pair.seed if seed is None else seed)]
    words += ["--scope", recipe.scope] if recipe.scope != "generated" else []
    for name in _SAMPLING:
        if name in sampling:
            words += [f"--{name.replace('_', '-')}", f"{sampling[name]:g}"]
    if pair.prompt.startswith("-"):
        words = [*words[:2], *words[3:], "--", pair.prompt]
    return shlex.join(words)
