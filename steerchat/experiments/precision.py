"""What weights of few bits cost: a model as it is loaded against the same model in float32."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..concepts.extract import extract
from ..concepts.library import Library
from ..concepts.vector import edits
from ..engine.batch import Batch
from ..engine.contexts import common_prefix
from ..engine.decoding import Row, Run
from ..engine.engine import Engine
from ..engine.reading import read
from ..engine.sampling import Sampling
from ..measures.calibration import Calibration
from ..measures.format_cost import FormatCost
from ..measures.profile import neutral_texts
from ..models.find import find
from ..models.kernel_times import machine
from ..models.load import load
from ..values.errors import ModelError, TooLarge
from ..values.page import Page, Table
from ..values.recipe import Recipe, Term
from ..values.results import Watch, drain
from .bench import CONCEPT, STRENGTH

# Neutral texts that are read side by side: they wait for a key as long as one batch takes.
_TEXTS = 50
# Rows of one batch: so many round as one row does.
_TOGETHER = 8
_TOKENS = 40


@dataclass(frozen=True)
class PrecisionReport:
    """The same model held in two ways.

    Attributes:
        model, dtype, machine: what is compared with float32, and where.
        megabytes, float32_megabytes: the weights in memory.
        texts, perplexity, float32_perplexity: over all tokens of so many replies of the neutral corpus.
        vectors, cosine: the lowest cosine between both models' vectors, over all layers of so many concepts.
        answers, same, same_alone: the share of answers, half of them steered, that have the tokens of float32's
            answer; and that have the same tokens in a batch as alone.
    """

    model: str
    dtype: str
    machine: dict[str, Any]
    megabytes: float
    float32_megabytes: float
    texts: int
    perplexity: float
    float32_perplexity: float
    vectors: int
    cosine: float
    answers: int
    same: float
    same_alone: float

    def page(self) -> Page:
        rows = [
            ("weights in memory", f"{self.megabytes:.0f} MB", f"{self.float32_megabytes:.0f} MB"),
            (f"perplexity of {self.texts} texts", f"{self.perplexity:.2f}", f"{self.float32_perplexity:.2f}"),
            (f"least cosine of {self.vectors} concepts' vectors, any layer", f"{self.cosine:.4f}", "1"),
            (f"of {self.answers} answers, the same tokens as in float32", f"{self.same:.0%}", "100%"),
            ("the same tokens in a batch as alone", f"{self.same_alone:.0%}", ""),
        ]
        table = Table((f"{self.model}", self.dtype, "float32"), rows, right=frozenset((1, 2)))
        return Page([table], [dict(vars(self))])


def compare_with_float32(
    engine: Engine, model: str, library: Library, prompts: Sequence[str], answers: int, watch: Watch
) -> PrecisionReport:
    """Load a model once more in float32 and compare it with how it is held now.

    Args:
        model: as after `--model`.
        library: the concepts whose vectors are compared.
        prompts: to answer, with as many seeds as `answers` needs.
        answers: how many, normal and steered ones together.

    Raises:
        ModelError: when it is held in float32 already, or does not fit once more.
        Interrupted: when the watch stops it, between two steps.
    """
    _require_few_bits(engine)
    megabytes = engine.size / 1e6
    exact = load(find(model, progress=watch.report), str(engine.device), "float32")
    float32_megabytes = exact.size / 1e6
    names = [name for name in library.names() if library.ships(name)]
    texts = neutral_texts(engine, library.neutral)
    total, done = len(texts) + len(names) + answers, 0

    def step(label: str, size: int = 1) -> None:
        nonlocal done
        watch.progress(f"comparing with float32: {label}", done, total)
        done += size

    perplexity, float32_perplexity = (
        _perplexity(held, texts, lambda read: step("perplexity", 0)) for held in (engine, exact)
    )
    done += len(texts)
    cosine, silent = 1.0, Watch(stopped=watch.stopped)
    for name in names:
        step("vectors")
        ours, theirs = (extract(held, library.get(name), watch=silent).directions for held in (engine, exact))
        cosine = min(cosine, float((ours * theirs).sum(dim=-1).min()))  # of directions of unit length
    rows = _rows(engine, library, prompts, answers)
    same = same_alone = 0
    for start in range(0, len(rows), _TOGETHER):
        batch = rows[start : start + _TOGETHER]
        step("answers", len(batch))
        ours, theirs = (_answers(held, batch, watch) for held in (engine, exact))
        alone = [_answers(engine, [row], watch)[0] for row in batch]
        same += sum(a == b for a, b in zip(ours, theirs, strict=True))
        same_alone += sum(a == b for a, b in zip(ours, alone, strict=True))
    return PrecisionReport(
        engine.name,
        engine.dtype,
        machine(),
        megabytes,
        float32_megabytes,
        len(texts),
        perplexity,
        float32_perplexity,
        len(names),
        cosine,
        len(rows),
        same / len(rows),
        same_alone / len(rows),
    )


def measured_format_cost(engine: Engine, model: str, library: Library, watch: Watch) -> FormatCost:
    """The perplexity of the neutral texts by the model as it is held, and in float32 where that fits beside it.

    Raises: as `compare_with_float32`, but for a model that does not fit once more.
    """
    _require_few_bits(engine)
    files = find(model, progress=watch.report)
    held: list[Engine] = [engine]
    with suppress(TooLarge):
        held.append(load(files, str(engine.device), "float32"))
    texts = neutral_texts(engine, library.neutral)
    perplexities: list[float] = []
    for number, engine_held in enumerate(held):
        check = partial(_read, watch, number * len(texts), len(held) * len(texts))
        perplexities.append(_perplexity(engine_held, texts, check))
    own, *others = perplexities
    return FormatCost(engine.dtype, len(texts), own, others[0] if others else None, files.gguf is not None)


def _perplexity(
    engine: Engine, texts: Sequence[tuple[tuple[int, ...], Sequence[int]]], check: Callable[[int], None]
) -> float:
    """Of all tokens of replies after their prompts.

    Args:
        check: told before every batch how many texts are read; what it raises ends the work.
    """
    # What all prompts begin with is computed once, and texts of one length are read side by side.
    shared = common_prefix([prompt[:-1] for prompt, _ in texts])
    with engine.turn:
        start = engine.prefill([shared])[0] if shared else None
    order = sorted(range(len(texts)), key=lambda index: len(texts[index][0]) + len(texts[index][1]))
    found: list[list[float]] = [[] for _ in texts]
    for first in range(0, len(order), _TEXTS):
        check(first)
        group = [texts[index] for index in order[first : first + _TEXTS]]
        heads, replies = [prompt[len(shared) :] for prompt, _ in group], [reply for _, reply in group]
        with engine.turn:
            engine.prepare_kernels(1)  # what an answer is computed with
            room = max(len(head) + len(reply) for head, reply in zip(heads, replies, strict=True))
            batch = Batch(engine.passes, [start] * len(group), room)
            readings = read(engine.model, engine.blocks, batch, heads, replies)
        for index, reading in zip(order[first:], readings, strict=False):
            found[index] = reading.log_probs.tolist()
    return math.exp(-statistics.fmean(log_prob for text in found for log_prob in text))


def _read(watch: Watch, before: int, total: int, read: int) -> None:
    watch.progress("measuring what few bits cost", before + read, total)


def _require_few_bits(engine: Engine) -> None:
    if engine.dtype == "float32":
        raise ModelError(f"{engine.name} is in float32 already", "start steerchat with --dtype auto")
    if engine.kernels is not None:
        engine.kernels.shrink()  # the forms that a sweep has added are none of a chat's


def _rows(engine: Engine, library: Library, prompts: Sequence[str], answers: int) -> list[Row]:
    """Pairs of a normal and a steered row: every prompt with the first seed, then with the next one."""
    recipe = Recipe((Term(((CONCEPT, 1.0),), (engine.n_layers // 2,), STRENGTH),))
    steered = edits(recipe, {CONCEPT: library.vector(CONCEPT, engine)}, Calibration(library).profile(engine).lengths)
    rows: list[Row] = []
    for number in range(answers // 2):
        seed, place = divmod(number, len(prompts))
        prompt = tuple(engine.prompter.chat([{"role": "user", "content": prompts[place]}]))
        rows += [Row(prompt, (), seed), Row(prompt, steered, seed)]
    return rows


def _answers(engine: Engine, rows: Sequence[Row], watch: Watch) -> list[tuple[int, ...]]:
    outputs = drain(engine.generate(rows, Sampling(max_tokens=_TOKENS), Run(watch.stopped)))
    watch.check("comparing with float32")
    return [tuple(output.answer.token_ids) for output in outputs]
