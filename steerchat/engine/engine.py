"""Running the model: rows of a batch, each with its own edits, as a stream of events.

The engine knows token ids, edits and seeds; it knows no concept, no conversation and no screen. A run of rows takes one
pass over what is new of their prompts, one pass a token, and one last pass that reads every answer with the unsteered
model: it gives perplexities and hidden states, and what it leaves in the cache is what the next turn goes on from.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch

from ..system.memory import give_back
from ..values.errors import ModelError
from ..values.results import UNWATCHED, Answer, Delta, Finished, Progress, Watch
from .batch import Batch, Context
from .configuration import bytes_per_token, context_size, stop_ids
from .contexts import Contexts, common_prefix, trees
from .cores import FreeCores
from .decoding import Decoding, NoNumbers, Row, Run, is_out_of_memory, numbered
from .hooks import FirstOverflow, Steering, device_of, find_blocks
from .kernels import Kernels
from .passes import Passes
from .prompting import Prompter
from .reading import Position, Reading, read, read_states, unread
from .reuse import Lower, NotByRow
from .sampling import Sampler, Sampling
from .turn import Turn

# Share of the free memory that one batch may plan to use: the rest is for activations and neighbours.
_MEMORY_SHARE = 0.5
# Share of the free memory that a second copy of the weights may take, for the speed of large batches.
_PACKED_SHARE = 0.25
# Texts that are only read go through the model so many tokens at a time: more would fall out of a CPU's cache.
_POSITIONS = 1024
# A shorter preamble of prompts is not worth a pass of its own.
_PREAMBLE = 8


@dataclass(frozen=True)
class Output:
    """A row's answer and, unless it was empty, how the unsteered model reads its reply."""

    answer: Answer
    reading: Reading


class Engine:
    """A loaded model that answers rows.

    Args:
        model: a causal language model of transformers, in eval mode, on its device.
        free_memory: bytes that may still be allocated on the model's device.
        kernels: how its linear layers multiply; None for torch's own way.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        fingerprint: str,
        free_memory: Callable[[], int],
        kernels: Kernels | None = None,
    ) -> None:
        self.model = model
        self.kernels = kernels
        self.name = name
        self.fingerprint = fingerprint
        self.prompter = Prompter(tokenizer)
        self.blocks = find_blocks(model)
        self.passes = Passes(model)
        self.turn = Turn()
        self._cores = FreeCores()
        self._free_memory = free_memory
        self._stops = stop_ids(model, tokenizer) | self.prompter.ends
        config = model.config.get_text_config()
        self.n_layers = len(self.blocks)
        self.hidden: int = config.hidden_size
        self.context_size, self._limited_by = context_size(config)
        self.vocabulary: int = config.vocab_size
        self._bytes_per_token = bytes_per_token(config, self.n_layers, model.dtype.itemsize)
        self.contexts = Contexts(self._bytes_per_token, free_memory)

    @property
    def device(self) -> torch.device:
        """Where it begins to compute; with accelerate's help, later layers may be elsewhere."""
        return device_of(self.model.get_input_embeddings())

    @property
    def threads(self) -> int | None:
        """CPU threads that compute; None on a GPU."""
        return self._cores.most or torch.get_num_threads() if self.device.type == "cpu" else None

    @property
    def processor(self) -> str:
        """What computes: another one may round differently."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"

    @property
    def products(self) -> str:
        """How its linear layers multiply, by rows at once: another way may round differently."""
        return "plain" if self.kernels is None else self.kernels.summary

    @property
    def dtype(self) -> str:
        """How its weights are held."""
        held = str(self.model.dtype).removeprefix("torch.")
        return held if self.kernels is None or held != "float32" else self.kernels.precision

    def generate(
        self, rows: Sequence[Row], sampling: Sampling, run: Run = Run()
    ) -> Generator[Delta | Finished, None, list[Output]]:
        """Answer every row.

        Args:
            rows: as many as wanted; they are run in as few batches as memory allows.
            sampling, run: for all.

        Yields:
            `Delta` and `Finished`, with the row's index.

        Returns:
            an `Output` per row, in order.

        Raises:
            ModelError: when a prompt does not fit the model, or memory does not hold even one row.
        """
        for row in rows:
            self.check(row.prompt)
        if not rows:
            return []
        sent = [0] * len(rows)
        ended: set[int] = set()
        outputs: list[Output] = []
        longest = max(len(row.prompt) for row in rows) + min(sampling.max_tokens, self.context_size)
        self.prepare_kernels(max(len(rows), run.like))
        size = self.batch_size(longest)
        while len(outputs) < len(rows):
            first = len(outputs)
            group = rows[first : first + size]
            try:
                outputs += yield from numbered(self._run(group, sampling, run), first, sent, ended)
                continue
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler, whose traceback keeps tensors alive.
            if self.kernels is not None:
                self.kernels.shrink()
            self.forget()
            if len(group) == 1:
                raise ModelError(
                    "there is not enough memory for one answer", "fewer --max-tokens, /new, or a smaller --model"
                )
            size = max(1, len(group) // 2)
        return outputs

    def read(self, prompt: Sequence[int], text: Sequence[int]) -> Reading:
        """How the unsteered model reads a text after a prompt of at least one token."""
        with self.turn:
            self.prepare_kernels(1)
            batch = self._prefilled([tuple(prompt[:-1])], len(text))
            return read(self.model, self.blocks, batch, [prompt[-1:]], [text])[0]

    def states(
        self,
        texts: Sequence[tuple[Sequence[int], Sequence[int]]],
        position: Position = "mean",
        watch: Watch = UNWATCHED,
        what: str = "",
        more: str = "",
    ) -> torch.Tensor:
        """The unsteered model's states while it reads texts after their prompts: (texts, layers, hidden) float32.

        Args:
            texts: (prompt ids, text ids); neither is empty.
            position: see `reading.read_states`.
            watch: told after every batch how far the work is, which `what` and `more` name. A pass of a large model
                takes long, so it is asked after every block: once it stops `what`, that raises Interrupted.
        """
        watch.report(Progress(what + more, 0, len(texts)))
        # What all prompts begin with is computed once, and so is a prompt that several texts reply to.
        shared = common_prefix([tuple(prompt) for prompt, _ in texts])
        with self.turn:
            start = self.prefill([shared])[0] if shared else None
        waiting = trees(texts, len(shared), forks=not self.passes.by_column)
        states, done = torch.empty(len(texts), self.n_layers, self.hidden), 0
        while waiting:
            longest = len(waiting[0][0])
            rows = max(1, min(_POSITIONS // longest, self.batch_size(len(shared) + longest, logits=False)))
            group, waiting = waiting[:rows], waiting[rows:]
            batch = Batch(self.passes, [start] * len(group), longest)
            with self.turn:
                self.prepare_kernels(_POSITIONS)
                read = read_states(self.blocks, batch, [tree for tree, _ in group], position, lambda: watch.check(what))
            for index, state in zip(chain.from_iterable(members for _, members in group), read, strict=True):
                states[index] = state
            done += len(read)
            watch.report(Progress(what + more, done, len(texts)))
        return states

    def check(self, prompt: Sequence[int]) -> None:
        """Raises ModelError when a prompt leaves no room for an answer."""
        if len(prompt) >= self.context_size:
            raise ModelError(
                f"the text has {len(prompt)} tokens and the model holds {self.context_size}"
                + (f": {self._limited_by}" if self._limited_by else ""),
                "shorten it, or /new for an empty conversation",
            )

    def run(self, tokens: Sequence[int]) -> torch.Tensor:
        """One pass over one text from its beginning. Returns its final hidden states, (tokens, hidden)."""
        self.prepare_kernels(1)
        return Batch(self.passes, [None], len(tokens)).forward([tokens])[0]

    def prepare_kernels(self, rows: int) -> None:
        """Use the products that are quickest for a batch of so many rows."""
        if self.kernels is not None:
            self.kernels.prepare(rows, int(self._free_memory() * _PACKED_SHARE))

    def forget(self) -> None:
        """Drop what is kept between turns, and give the memory back."""
        self.contexts.forget()
        give_back()

    @property
    def size(self) -> int:
        """Bytes of its weights."""
        held = sum(weight.numel() * weight.itemsize for weight in self.model.parameters())
        return held + (0 if self.kernels is None else self.kernels.size)

    def decoding(
        self, batch: Batch | None, rows: Sequence[Row], room: int, sampling: Sampling, lower: Lower | None = None
    ) -> Decoding:
        """The answers of rows, before their first step. Arguments as of `Decoding`."""
        steering = Steering(self.blocks, [row.edits for row in rows], self.hidden)
        sampler = Sampler(sampling, [row.prompt for row in rows], [row.seed for row in rows], self.device)
        thinks = self.prompter.thinks and not sampling.steer_thinking
        held = [self.prompter.opened(row.prompt) for row in rows] if thinks else None
        return Decoding(batch, rows, room, sampler, steering, self.prompter, self._stops, held, lower)

    # A run of rows that fit into memory together.

    def _run(
        self, rows: Sequence[Row], sampling: Sampling, run: Run
    ) -> Generator[Delta | Finished, None, list[Output]]:
        room = min(sampling.max_tokens, self.context_size - max(len(row.prompt) for row in rows))
        steered_prompt = any(row.scope == "all" and row.edits for row in rows)
        with self.turn:
            batch = self.steered_prompts(rows, room) if steered_prompt else self.prompts(rows, room)
        width, lengths = batch.width, batch.lengths.clone()
        # A pushed prompt changes every layer's keys and values.
        lower = None
        reads = run.keep is not None or any(row.read for row in rows)
        if reads and self.passes.by_row and not steered_prompt:
            lower = Lower(self.blocks, [row.edits for row in rows])
        decode = self.decoding(batch, rows, room, sampling, lower)
        for _ in self._cores.steps(lambda: decode.active > 0):
            if run.stopped():
                yield from decode.stop()
                break
            if run.dial is not None:
                decode.turn(run.dial(decode.step_number))
            with self.turn:
                try:
                    events = list(decode.step())
                except NoNumbers as found:
                    raise self._overflowed(rows, found.args[0]) from None
            yield from events
        opened = [self.prompter.opened(row.prompt) for row in rows]
        parts = [self.prompter.answer(said.text, begun) for said, begun in zip(decode.answers(), opened, strict=True)]
        heads = [[row.prompt[-1], *thought] for row, (thought, _) in zip(rows, parts, strict=True)]
        texts = [reply for _, reply in parts]
        with self.turn:
            if not reads:
                order, readings = range(len(rows)), [unread(self.n_layers, self.hidden) for _ in rows]
            elif steered_prompt:
                # Its keys and values hold the push: an unsteered reading needs prompts without.
                batch = self.prompts(rows, max(len(thought) + len(reply) for thought, reply in parts) + 1)
                order, readings = range(len(rows)), read(self.model, self.blocks, batch, heads, texts)
            else:
                order, readings = self._read_on(decode, lower, batch, width, lengths, heads, texts)
            if run.keep:
                contexts = {
                    row: batch.context(place, [*rows[row].prompt, *heads[row][1:], *texts[row]])
                    for place, row in enumerate(order)
                }
                self.contexts.keep(run.keep, [contexts[row] for row in range(len(rows))])
        by_row = dict(zip(order, readings, strict=True))
        return [
            Output(replace(answer, perplexity=by_row[row].perplexity), by_row[row])
            for row, answer in enumerate(decode.answers())
        ]

    def _read_on(
        self,
        decode: Decoding,
        lower: Lower | None,
        batch: Batch,
        width: int,
        lengths: torch.Tensor,
        heads: Sequence[Sequence[int]],
        texts: Sequence[Sequence[int]],
    ) -> tuple[Sequence[int], list[Reading]]:
        """Read the answers on the unsteered prompts that they were decoded on.

        Returns the rows in the order in which the batch now holds them, and their readings in that order.
        """
        plan = None
        if lower is not None and lower.noted:
            decode.complete()
            # What is noted is of whole answers, thoughts included, and of the tokens that were sampled.
            known = [len(heads[row]) == 1 and decode.is_whole(row, text) for row, text in enumerate(texts)]
            plan = lower.plan(known)
        order = range(len(texts)) if plan is None else plan.order
        decode.arrange(order)
        batch.rewind(width, lengths[list(order)])
        in_order = [heads[row] for row in order], [texts[row] for row in order]
        try:
            return order, read(self.model, self.blocks, batch, *in_order, plan=plan)
        except NotByRow:
            self.passes.by_row = False
        batch.rewind(width, lengths[list(order)])
        return order, read(self.model, self.blocks, batch, *in_order)

    def _overflowed(self, rows: Sequence[Row], layer: int | None) -> ModelError:
        """What to say of scores that are no numbers. A prompt's overflow shows one layer later in what is cached."""
        pushed = any(row.edits for row in rows)
        for prompt in dict.fromkeys(row.prompt for row in rows):
            with FirstOverflow(self.blocks) as first:
                self.run(prompt)
            if first.layer is not None:
                layer, pushed = first.layer, False
        place = "the scores" if layer is None else f"layer {layer}"
        return ModelError(
            f"{self.name} computes Inf or NaN from {place} on: too large for {self.dtype}",
            "a smaller strength, or start with --dtype float32" if pushed else "start with --dtype bfloat16 or float32",
        )

    def prompts(self, rows: Sequence[Row], room: int, start: Context | None = None) -> Batch:
        """A batch on the rows' prompts less the last token, without any push. `start`: what all prompts begin with."""
        bodies = [row.prompt[:-1] for row in rows]
        distinct = list(dict.fromkeys(bodies))
        if len(distinct) == len(bodies):
            return self._prefilled(bodies, room, start)
        contexts = dict(zip(distinct, self.prefill(distinct, start), strict=True))
        return Batch(self.passes, [contexts[body] for body in bodies], room + 1)

    def prefill(self, bodies: Sequence[tuple[int, ...]], start: Context | None = None) -> list[Context]:
        """The keys and values of texts, without any push."""
        batch = self._prefilled(bodies, 0, start)
        return [batch.context(index, body) for index, body in enumerate(bodies)]

    def _prefilled(self, bodies: Sequence[tuple[int, ...]], room: int, start: Context | None = None) -> Batch:
        """A row per body: what is kept of it is reused, the rest goes through the model in one pass."""
        bases = [start or self.beginning(body) for body in bodies]
        new = [body[len(base or ()) :] for base, body in zip(bases, bodies, strict=True)]
        batch = Batch(self.passes, bases, max(map(len, new)) + room + 1)
        if any(new):
            batch.forward(new)
        return batch

    def beginning(self, body: tuple[int, ...]) -> Context | None:
        """What is already computed of the beginning of a text, unsteered: by conversations, or of most prompts."""
        kept, preamble = self.contexts.reusable(body), self.prompter.preamble
        if len(preamble) < max(_PREAMBLE, len(kept or ())) or body[: len(preamble)] != preamble:
            return kept
        # Apart from what follows, whose length may change how it rounds.
        way = None if self.kernels is None else self.kernels.prepared
        if way not in self.contexts.preambles:
            batch = Batch(self.passes, [None], len(preamble))
            batch.forward([preamble])
            self.contexts.preambles[way] = batch.context(0, preamble)
        return self.contexts.preambles[way]

    def steered_prompts(self, rows: Sequence[Row], room: int) -> Batch:
        """As `prompts`, with the prompts of the rows of scope `all` pushed too; nothing is reused or kept."""
        bodies = [row.prompt[:-1] for row in rows]
        batch = Batch(self.passes, [None] * len(rows), max(map(len, bodies)) + room + 1)
        if any(bodies):
            edits = [row.edits if row.scope == "all" else () for row in rows]
            with Steering(self.blocks, edits, self.hidden, prompt=True):
                batch.forward(bodies)
        return batch

    def batch_size(self, tokens: int, logits: bool = True) -> int:
        """How many rows of so many tokens fit into the share of the free memory that a batch may take."""
        # One block's at a time: attention and a wider feed-forward. Scores are there thrice; noise is shared.
        activations = tokens * self.hidden * 16 * 4
        row = tokens * self._bytes_per_token + activations + (self.vocabulary * 16 if logits else 0)
        return max(1, int(self._free_memory() * _MEMORY_SHARE / row))
