"""How fast steerchat is on this machine, each figure against something measured by turns with it.

A machine is not equally fast from one minute to the next, so a ratio's two sides never run one after the other
as wholes where they can be interleaved: contestants advance one token each by turns, and the time of each is
added up. Every figure is measured several times and given with its lowest and highest value.

The figures named `..._vs_generate` compare with transformers' own `generate` in a process that steerchat never touches,
those named `..._vs_llama_cpp` with llama.cpp in another, where that is installed.
The others compare steerchat with itself: what a pair costs over an answer says nothing of how fast an answer is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from ..concepts.extract import extract
from ..concepts.library import Library
from ..concepts.vector import edits
from ..engine.decoding import Row, Run
from ..engine.engine import Engine, Output
from ..engine.operations import Edit
from ..engine.sampling import Sampling
from ..measures.calibration import Calibration
from ..models.kernel_times import machine
from ..system.settings import Settings
from ..values.errors import ModelError
from ..values.operation import OPERATIONS
from ..values.recipe import RANDOM, Recipe, Term
from ..values.results import UNWATCHED, Delta, Notice, Progress, Returning, Watch, drain
from .another import PROMPT
from .bench_report import BenchReport, Figure
from .versus import BASELINE, OtherProgram, another, others, start_seconds

T = TypeVar("T")
Samples = dict[str, float]
Step = tuple[str, Callable[[], Samples], int]  # a label, what measures once, and how often

FOLLOW_UP = "Go on, and tell me more about that."
CONCEPT = "happy"
STRENGTH = 2.0
STRENGTHS = tuple(number * 0.5 for number in range(1, 10))
TURNS = (2, 10)
# Seconds after which another program is idle: threads of llama.cpp spin for a third of one after their last product.
_REST = 0.5


@dataclass(frozen=True)
class _Size:
    """How much is measured: `tokens` an answer, `short` where dozens run one by one; repeats of each kind."""

    tokens: int
    short: int
    repeats: int
    sweeps: int


_FULL = _Size(tokens=64, short=24, repeats=5, sweeps=3)
_QUICK = _Size(tokens=24, short=12, repeats=3, sweeps=1)


def run_bench(
    engine: Engine,
    library: Library,
    settings: Settings,
    quick: bool = False,
    operations: bool = False,
    watch: Watch = UNWATCHED,
) -> BenchReport:
    """Measure everything, or what each operation adds to decoding.

    Args:
        engine: what is measured. What it kept of a conversation is forgotten.
        library: where the concept to extract comes from.
        settings: of this start; another steerchat is started with its model, device and dtype.
        quick: shorter answers and fewer repeats.
        operations: measure the operations alone.

    Raises:
        Interrupted: when the watch stops it, between two measurements.
        ModelError: when another steerchat does not start.
    """
    size = _QUICK if quick else _FULL
    if operations:
        bench = _Bench(engine, library, settings, size, watch)
        return _measure(bench, [("each operation", bench.operations, size.repeats)])
    watch.report(Progress("starting what steerchat is compared with", 0))
    with ExitStack() as started:
        programs: dict[str, OtherProgram] = {}
        for name, other in others(settings.model, engine).items():
            try:
                programs[name] = started.enter_context(other)
            except ModelError as error:
                if name == BASELINE:
                    raise
                watch.report(Notice(f"{error}; bench goes on without it"))
        bench = _Bench(engine, library, settings, size, watch, programs)
        return _measure(bench, _everything(bench, size))


def _everything(bench: _Bench, size: _Size) -> list[Step]:
    return [
        ("a start", bench.start, size.sweeps),
        ("one answer, a pair, and hooks", bench.overheads, size.repeats),
        ("the limit of memory", bench.bandwidth, size.repeats),
        ("other programs", bench.against_others, size.repeats),
        ("two chats at once", bench.beside_another, size.sweeps),
        ("ten turns", bench.first_tokens, size.sweeps),
        ("nine strengths", bench.strengths, size.sweeps),
        ("every layer", bench.layers, size.sweeps),
        (f"extracting {CONCEPT}", bench.extraction, size.sweeps),
    ]


def _measure(bench: _Bench, plan: Sequence[Step]) -> BenchReport:
    engine = bench.engine
    total, done = sum(repeats for *_, repeats in plan), 0
    samples: dict[str, list[float]] = {}
    for label, measure, repeats in plan:
        for _ in range(repeats):
            bench.watch.report(Progress(f"measuring: {label}", done, total))
            done += 1
            for name, value in measure().items():
                samples.setdefault(name, []).append(value)
            bench.watch.check("bench")
    bench.watch.report(Progress("measuring", total, total))
    return BenchReport(
        engine.name,
        str(engine.device),
        engine.dtype,
        engine.threads,
        machine() | {what: version for other in bench.others.values() for what, version in other.versions.items()},
        "" if engine.kernels is None else engine.kernels.description,
        {name: len(values) for name, values in samples.items()},
        {name: Figure(statistics.median(values), min(values), max(values)) for name, values in samples.items()},
    )


class _Bench:
    """The measurements. Each method measures once and returns its figures by name."""

    def __init__(
        self,
        engine: Engine,
        library: Library,
        settings: Settings,
        size: _Size,
        watch: Watch,
        others: Mapping[str, OtherProgram] = {},
    ) -> None:
        self.engine = engine
        self.others = others
        self._library = library
        self._settings = settings
        self.size = size
        self.watch = watch
        self._until_stopped = Run(watch.stopped)
        self._seed = 0
        self._prompt = tuple(engine.prompter.chat([{"role": "user", "content": PROMPT}]))
        # The direction does not matter to the time, and this one every model has.
        self._vectors = {RANDOM: library.vector(RANDOM, engine)}
        self._lengths = Calibration(library).profile(engine).lengths
        middle = engine.n_layers // 2
        self._one_layer = self._edits((middle,))
        self._all_layers = self._edits(tuple(range(engine.n_layers)))

    def overheads(self) -> Samples:
        self._seed += 1
        if self._seed == 1:
            # Threads, caches and libraries' first calls are nobody's cost.
            self._run([self._row(), self._row(self._one_layer)], 8)
        steered = self._row(self._one_layer)
        every = self._row(self._all_layers)
        mixed = self._row(_with(self._all_layers, tuple(OPERATIONS)))
        contests = [[self._row()], [self._row(), steered], [steered], [every], [mixed]]
        (decoding, whole), (_, pair), *hooks = self._by_turns(contests)
        names = ("hook_one_layer", "hook_all_layers", "hook_operations")
        # Of a pair all that it takes; of hooks what they add to decoding, without the reading that comes after it.
        return {"pair_vs_single": pair / whole} | {
            name: steered / decoding for name, (steered, _) in zip(names, hooks, strict=True)
        }

    def operations(self) -> Samples:
        """Each operation at one layer and at all, over decoding without a hook."""
        self._seed += 1
        if self._seed == 1:
            self._run([self._row(), self._row(self._one_layer)], 8)
        places = {"one_layer": self._one_layer, "all_layers": self._all_layers}
        hooks = {f"{name}_{where}": _with(edits, (name,)) for where, edits in places.items() for name in OPERATIONS}
        [(decoding, _), *steered] = self._by_turns([[self._row()], *([self._row(edits)] for edits in hooks.values())])
        return {name: seconds / decoding for name, (seconds, _) in zip(hooks, steered, strict=True)}

    def bandwidth(self) -> Samples:
        """Decoding steps by turns with multiplying every weight once.

        With kernels chosen by measuring, those multiply. Otherwise reading is a product with one vector, or with two,
        which some BLAS libraries do on more cores: whichever is quicker says what memory gives.
        """
        self._seed += 1
        read_with = self._reads()
        steps: list[float] = []
        reads: list[list[float]] = [[] for _ in read_with]
        started = time.perf_counter()
        for event in self.engine.generate([self._row()], self._sampling(self.size.tokens), self._until_stopped):
            if isinstance(event, Delta):
                steps.append(time.perf_counter() - started)
                way = len(steps) % len(read_with)
                started = time.perf_counter()
                with torch.inference_mode():
                    read_with[way]()
                self._synchronize()
                reads[way].append(time.perf_counter() - started)
            started = time.perf_counter()
        self.watch.check("bench")
        if len(steps) < 4:
            raise _too_short()
        # The first step holds the prompt.
        step, read = statistics.median(steps[1:]), min(map(statistics.median, reads))
        return {"bandwidth_fraction": read / step, "tokens_per_second": 1 / step, "limit_tokens_per_second": 1 / read}

    def _reads(self) -> list[Callable[[], object]]:
        """Ways to multiply every weight once, to be tried by turns."""
        kernels = self.engine.kernels
        if kernels is not None:
            vectors = {layer.shape: torch.ones(1, layer.in_features) for layer in kernels.layers}
            return [lambda: [layer.product(vectors[layer.shape]) for layer in kernels.layers]]
        weights = list(self._weights())
        ones = {(w.shape[1], n): w.new_ones(w.shape[1], n) for w in weights for n in (1, 2)}
        return [lambda n=n: [torch.mm(weight, ones[weight.shape[1], n]) for weight in weights] for n in (1, 2)]

    def against_others(self) -> Samples:
        """One answer and a pair, each from prompt to measured answer, against another program's run for each answer."""
        self._seed += 1
        alone, pair = [self._row()], [self._row(), self._row(self._one_layer)]
        (one, both), seconds = self._between_others(lambda: (self._ours(alone), self._ours(pair)))
        ratios = {f"vs_{name}": one / other for name, other in seconds.items()}
        return ratios | {f"pair_vs_{name}": both / (2 * other) for name, other in seconds.items()}

    def beside_another(self) -> Samples:
        """A pair while another steerchat answers pairs too, against the same pair alone."""
        self._seed += 1
        pair = [self._row(), self._row(self._one_layer)]
        before = self._ours(pair)
        with another(self._settings):
            self._ours(pair)  # until steerchat has seen that the cores are shared
            beside = self._ours(pair)
        return {"pair_beside_another": 2 * beside / (before + self._ours(pair))}

    def first_tokens(self) -> Samples:
        """Both columns of a conversation, each with its own answers, as a chat of ten turns has them."""
        self._seed += 1
        engine = self.engine
        waited: dict[int, float] = {}  # seconds to the first token, by the turn
        columns: list[list[dict[str, str]]] = [[], []]
        engine.forget()
        for turn in range(1, max(TURNS) + 1):
            for messages in columns:
                messages.append({"role": "user", "content": PROMPT if turn == 1 else FOLLOW_UP})
            started = time.perf_counter()
            prompts = [tuple(engine.prompter.chat(messages)) for messages in columns]
            rows = [Row(prompts[0], (), self._seed + turn), Row(prompts[1], self._one_layer, self._seed + turn)]
            run = Returning(
                engine.generate(rows, self._sampling(self.size.short), replace(self._until_stopped, keep=True))
            )
            for event in run:
                if isinstance(event, Delta) and turn not in waited:
                    waited[turn] = time.perf_counter() - started
            self.watch.check("bench")
            for messages, output in zip(columns, run.value, strict=True):
                messages.append({"role": "assistant", "content": output.answer.text})
        engine.forget()
        if not waited.keys() >= set(TURNS):
            raise _too_short()
        first, last = (waited[turn] for turn in TURNS)
        return {"ttft_turn10_vs_turn2": last / first}

    def strengths(self) -> Samples:
        self._seed += 1
        middle = (self.engine.n_layers // 2,)
        return {"strengths_speedup": self._speedup([self._row(self._edits(middle, s)) for s in STRENGTHS])}

    def layers(self) -> Samples:
        """A sweep against its rows one by one, and against another program's run for each of its rows."""
        self._seed += 1
        rows = [self._row(self._edits((layer,))) for layer in range(self.engine.n_layers)]
        sweep, seconds = self._between_others(lambda: self._ours(rows))
        ratios = {f"layers_vs_{name}": sweep / (len(rows) * other) for name, other in seconds.items()}
        return {"layers_speedup": self._speedup(rows), **ratios}

    def extraction(self) -> Samples:
        concept = self._library.get(CONCEPT)
        started = time.perf_counter()
        extract(self.engine, concept, watch=Watch(stopped=self.watch.stopped))
        return {"extract_seconds": time.perf_counter() - started}

    def start(self) -> Samples:
        return {"start_seconds": start_seconds(self._settings)}

    # How

    def _row(self, changes: tuple[Edit, ...] = ()) -> Row:
        return Row(self._prompt, changes, self._seed)

    def _edits(self, layers: tuple[int, ...], strength: float = STRENGTH) -> tuple[Edit, ...]:
        return edits(Recipe((Term(((RANDOM, 1.0),), layers, strength),)), self._vectors, self._lengths)

    def _sampling(self, tokens: int) -> Sampling:
        return Sampling(max_tokens=tokens)

    def _run(self, rows: Sequence[Row], tokens: int) -> list[Output]:
        return drain(self.engine.generate(rows, self._sampling(tokens), self._until_stopped))

    def _by_turns(self, contests: Sequence[Sequence[Row]]) -> list[tuple[float, float]]:
        """Seconds a token of each contest, all of them advancing a token by turns: decoding, and with the reading."""
        sampling = self._sampling(self.size.tokens)
        runs = [self.engine.generate(rows, sampling, self._until_stopped) for rows in contests]
        decoding, reading = [0.0 for _ in runs], [0.0 for _ in runs]
        ends: list[list[Output] | None] = [None for _ in runs]
        while None in ends:
            for index, (run, rows) in enumerate(zip(runs, contests, strict=True)):
                if ends[index] is not None:
                    continue
                started = time.perf_counter()
                try:
                    for _ in rows:  # a step tells an event for each row
                        next(run)
                    decoding[index] += time.perf_counter() - started
                except StopIteration as end:
                    ends[index] = end.value
                    reading[index] = time.perf_counter() - started
        return [
            (_per_token(steps, end or []), _per_token(steps + read, end or []))
            for steps, read, end in zip(decoding, reading, ends, strict=True)
        ]

    def _speedup(self, rows: Sequence[Row]) -> float:
        """How many times faster rows are answered together than one by one."""
        started = time.perf_counter()
        self._run(rows, self.size.short)
        together = time.perf_counter() - started
        started = time.perf_counter()
        for row in rows:
            self._run([row], self.size.short)
        return (time.perf_counter() - started) / together

    def _ours(self, rows: Sequence[Row]) -> float:
        """Seconds a token of these rows together, prompts and readings included."""
        started = time.perf_counter()
        outputs = self._run(rows, self.size.tokens)
        return _per_token(time.perf_counter() - started, outputs)

    def _between_others(self, measure: Callable[[], T]) -> tuple[T, dict[str, float]]:
        """What is measured, and seconds a token of the other programs' runs before and after it, prompts included."""

        def run() -> dict[str, float]:
            seconds: dict[str, float] = {}
            for name, other in self.others.items():
                seconds[name] = other.seconds(self._prompt, self._sampling(self.size.tokens), self._seed)
                time.sleep(_REST)
            return seconds

        before, measured, after = run(), measure(), run()
        return measured, {name: (before[name] + after[name]) / 2 for name in before}

    def _weights(self) -> Iterator[torch.Tensor]:
        """Every matrix that a decoding step reads whole: a table of input embeddings is looked up, unless tied."""
        model = self.engine.model
        table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        for parameter in model.parameters():
            if parameter.dim() >= 2 and (parameter is not table or table is head):
                yield parameter.detach().flatten(1)

    def _synchronize(self) -> None:
        if self.engine.device.type == "cuda":
            torch.cuda.synchronize()
        elif self.engine.device.type == "mps":
            torch.mps.synchronize()


def _with(changes: Sequence[Edit], operations: Sequence[str]) -> tuple[Edit, ...]:
    """The same edits by other operations, by turns."""
    return tuple(replace(edit, operation=operations[edit.layer % len(operations)]) for edit in changes)


def _per_token(seconds: float, outputs: Sequence[Output]) -> float:
    longest = max((output.answer.tokens for output in outputs), default=0)
    if not longest:
        raise _too_short()
    return seconds / longest


def _too_short() -> ModelError:
    return ModelError("the model ended its answer at once, so nothing could be timed", "try another --model")
