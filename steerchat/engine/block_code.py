"""The machine code of whole blocks for one token of each row: products with weights of four bits, norms, attention.

The threads stay together from the first block to the last and wait for each other between the parts of a block. torch's
operations are started one by one, which takes longer than most of these parts.
"""

from __future__ import annotations

from collections.abc import Sequence

from .machine_code import FLOAT, FLOATS, LANES, Code, Function, Value, Variable
from .product_code import Arguments, given_states, product, values, vectors

# What is the same for all blocks of a step.
STEP = (
    "rows",
    "blocks",  # where the first block's values are
    "count",  # of blocks
    "cosines",  # of each row, (head size)
    "sines",
    "turn",  # bytes between those of two rows
    "length",  # tokens before this one
    "alike",  # of those, so many of the first that have the same keys and values in all rows
    "mask",  # added to scores; zero for none
    "mask_row",  # bytes between two rows of it
    "inward",  # room for queries, keys and values
    "mixed",  # for what attention gives
    "between",  # for the states between attention and feed-forward
    "wide",  # for gates and ups
    "scratch",
    "share",
    "threads",
    "apart",  # as of PRODUCT
)
# What a block has of its own. Its four products are numbered: queries, keys and values; out of attention; gate and up;
# down. Its norms are those before the first and the third.
BLOCK = (
    "step",  # where the values of all blocks are
    "before",  # the states that enter, (rows, hidden)
    "after",  # for those that leave
    "push",  # added to them; zero for nothing
    "pushed",  # for the sums
    *(f"{name}_{number}" for number in range(4) for name in ("inputs", "outputs", "levels", "scales", "bias")),
    *(f"{name}_{number}" for number in (0, 2) for name in ("norm", "epsilon")),  # epsilon: float32
    "heads",
    "shared",  # heads of keys and values
    "size",  # of a head
    "scaling",  # float32
    "keys",
    "values",
    "row",  # bytes between the keys of two rows
    "head",  # bytes between the keys of two heads
)
# Vectors of a head whose sums are in registers at the same time.
_VECTORS = (4, 2, 1)
# The products of a block, by number: what is done to the states first, where they are, what is added, where the
# result goes.
_PRODUCTS = (
    ("normed", "before", "", "inward"),
    ("given", "mixed", "before", "between"),
    ("normed", "between", "", "wide"),
    ("activated", "wide", "between", "after"),
)


def write_blocks(code: Code) -> None:
    """Functions for one token of each row, and for what is around the attention of any number of tokens.

    `step` takes the address of the values of STEP. `inward` computes queries, keys and values, and `outward` everything
    after attention; they take the address of the values of BLOCK. Products have been written before.
    """
    for number, (kind, *_) in enumerate(_PRODUCTS):
        with code.function(f"product of block {number}", 1) as f:
            fill = {"normed": _normed, "given": given_states, "activated": _activated}[kind]
            product(f, _of_product(f, number), fill, 4)
    with code.function("attention", 1) as f:
        _attention(f, _of_block(f))
    with code.function("push", 1) as f:
        _push(f, _of_block(f))
    with code.function("after attention", 1) as f:
        f.call("product of block 1", f.arguments[0])
        for number in (2, 3):
            _wait(f, _of_block(f))
            f.call(f"product of block {number}", f.arguments[0])
    with code.function("blocks", 1) as f:
        step = values(f, STEP, f.arguments[0])
        with f.loop(0, step("count")) as number:
            block = step("blocks") + number * (8 * len(BLOCK))
            for part in ("product of block 0", "attention", "after attention"):
                f.call(part, block)
                _wait(f, step)
            with f.where(values(f, BLOCK, block)("push")):
                f.call("push", block)
                _wait(f, step)
    for name, task in (("inward", "product of block 0"), ("outward", "after attention")):
        with code.function(name, 1) as f:
            f.parallel(task, f.arguments[0], _of_block(f)("threads"))
    with code.function("step", 1) as f:
        f.parallel("blocks", f.arguments[0], values(f, STEP, f.arguments[0])("threads"))


def _wait(f: Function, given: Arguments) -> None:
    """Wait for the other threads, unless each goes on with rows of its own."""
    with f.where(f.value(1) - given("apart")):
        f.wait()


def _of_block(f: Function) -> Arguments:
    """A block's values and those of the step, by name."""
    block = values(f, BLOCK, f.arguments[0])
    step = values(f, STEP, block("step"))
    return lambda name: (block if name in BLOCK else step)(name)


def _of_product(f: Function, number: int) -> Arguments:
    """What a product of a block takes, by the names of PRODUCT."""
    given, (_, states, residual, result) = _of_block(f), _PRODUCTS[number]
    places = {"states": states, "residual": residual, "result": result}

    def value(name: str) -> Value:
        if name == "residual" and not residual:
            return f.value(0)
        return given(places.get(name) or (name if name in STEP else f"{name}_{number}"))

    return value


def _push(f: Function, given: Arguments) -> None:
    """A thread's part of the push: of its rows' numbers, outputs of the last product."""
    of_row = given("outputs_3") // LANES
    start, end = _share(f, given, given("rows") * of_row, of_row)
    with f.loop(start * (4 * LANES), end * (4 * LANES), 4 * LANES) as at:
        f.store(f.load(FLOATS, given("after") + at) + f.load(FLOATS, given("push") + at), given("pushed") + at)


def _normed(f: Function, given: Arguments, row: Value, room: Value) -> Value:
    """RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467): x * weight / sqrt(mean(x^2) + epsilon)."""
    source = given("states") + row * given("inputs") * 4
    squares = Variable(f, f.value(0.0, FLOATS))
    with vectors(f, given("inputs")) as at:
        x = f.load(FLOATS, source + at)
        squares.set(f.fma(x, x, squares.get()))
    mean = f.sum(squares.get()) / given("inputs").float()
    scale = f.splat(f.value(1.0, FLOAT) / f.root(mean + given("epsilon")))
    with vectors(f, given("inputs")) as at:
        f.store(f.load(FLOATS, source + at) * scale * f.load(FLOATS, given("norm") + at), room + at)
    return room


def _activated(f: Function, given: Arguments, row: Value, room: Value) -> Value:
    """SiLU(gate) * up, of rows that hold gates and then ups."""
    size = given("inputs") * 4
    gates = given("states") + row * size * 2
    with vectors(f, given("inputs")) as at:
        gate = f.load(FLOATS, gates + at)
        share = f.exp(f.value(0.0, FLOATS) - gate) + 1.0
        f.store(gate / share * f.load(FLOATS, gates + size + at), room + at)
    return room


def _share(f: Function, given: Arguments, total: Value, of_row: Value) -> tuple[Value, Value]:
    """A thread's part of `total`, as of `Function.share`: that of its own rows where it has such, `of_row` each."""
    own, some = f.share(given("rows")), f.share(total)
    start, end = (f.choose(given("apart"), a * of_row, b) for a, b in zip(own, some, strict=True))
    return start, end


def _attention(f: Function, given: Arguments) -> None:
    """A thread's part of the attention of one token in each row: of its heads.

    Heads that share keys go through them together, 16 tokens at a time: memory is read once, and in one go. Where
    threads would be left without any, each head is computed apart, and writes the same keys and values as others.
    """
    heads, shared, size = given("heads"), given("shared"), given("size")
    length, wide = given("length"), size * 4
    each = heads // shared
    together = f.choose(given("rows") * shared // given("threads"), each, f.value(1))
    queries = given("scratch") + f.thread() * given("share")
    peaks = queries + each * wide
    scores = peaks + each * (4 * LANES)
    step = (length // LANES + 2) * (4 * LANES)  # bytes of a head's scores
    start, end = _share(f, given, given("rows") * (heads // together), heads // together)
    with f.loop(start, end) as item:
        row, first = item * together // heads, item * together % heads
        pair = first // each
        states = given("inward") + row * (heads + shared * 2) * wide
        offset = row * given("row") + pair * given("head")
        keys, values = given("keys") + offset, given("values") + offset
        result = given("mixed") + item * together * wide
        with f.loop(0, together) as head:
            _turn(f, given, row, states + (first + head) * wide, queries + head * wide)
            f.store(f.value(float("-inf"), FLOATS), peaks + head * (4 * LANES))
            with vectors(f, size) as at:
                f.store(f.value(0.0, FLOATS), result + head * wide + at)
        _turn(f, given, row, states + (heads + pair) * wide, keys + length * wide)
        own = states + (heads + shared + pair) * wide
        with vectors(f, size) as at:
            f.store(f.load(FLOATS, own + at), values + length * wide + at)
        with f.loop(0, length + 1, LANES) as token:
            here = _source(f, given, token, keys, offset, pair)
            # Beyond the last token there may be no memory: its score stands there several times.
            places = [f.lower(token + number, length) * wide + here for number in range(LANES)]
            mask = Variable(f, f.value(0.0, FLOATS))
            with f.where(given("mask")):
                mask.set(f.load(FLOATS, given("mask") + row * given("mask_row") + token * 4))
            with f.loop(0, together) as head:
                products = _products(f, size, queries + head * wide, places)
                score = f.fma(products, f.splat(given("scaling")), mask.get())
                peak = peaks + head * (4 * LANES)
                f.store(score, scores + head * step + token * 4)
                f.store(f.most(f.load(FLOATS, peak), score), peak)
        with f.loop(0, together) as head:
            _weights(f, length, peaks + head * (4 * LANES), scores + head * step)
        with f.loop(0, length + 1, LANES) as token:
            here, last = _source(f, given, token, values, offset, pair), f.lower(token + LANES, length + 1)
            with f.loop(0, together) as head:
                _mix(f, token, last, size, scores + head * step, here, result + head * wide)


def _source(f: Function, given: Arguments, token: Value, own: Value, offset: Value, pair: Value) -> Value:
    """Where the keys or values of the next 16 tokens are read: where all rows have the same, those of the first row,
    which stay in the CPU's cache. The 16 after them are asked for, so that they come while these are computed.

    Args:
        token: the first.
        own: those of the row and the head.
        offset: how far those are from the first row's and first head's.
        pair: the number of the head.
    """
    first = own - offset + pair * given("head")
    wide, whole = given("size") * 4, given("alike") // LANES * LANES
    ahead = token + LANES
    source = f.choose(f.below(ahead, whole), first, own) + ahead * wide
    with f.loop(0, wide * LANES, 64) as line:
        f.prefetch(source + line)
    return f.choose(f.below(token, whole), first, own)


def _products(f: Function, size: Value, query: Value, keys: Sequence[Value]) -> Value:
    """A query's products with 16 keys."""
    found: list[Value] = []
    many = f.registers // 2
    for start in range(0, LANES, many):
        sums = [Variable(f, f.value(0.0, FLOATS)) for _ in range(many)]
        with vectors(f, size) as at:
            part = f.load(FLOATS, query + at)
            for sum_, key in zip(sums, keys[start : start + many], strict=True):
                sum_.set(f.fma(part, f.load(FLOATS, key + at), sum_.get()))
        found += [sum_.get() for sum_ in sums]
    return f.sums(found)


def _mix(f: Function, first: Value, last: Value, size: Value, weights: Value, values: Value, result: Value) -> None:
    """Add some tokens' values to a head's result, each times its weight."""
    for vector, count in f.parts(f.value(0), size // LANES, _VECTORS):
        places = [(vector + number) * (4 * LANES) for number in range(count)]
        sums = [Variable(f, f.load(FLOATS, result + place)) for place in places]
        with f.loop(first, last) as token:
            weight = f.splat(f.load(FLOAT, weights + token * 4))
            for place, sum_ in zip(places, sums, strict=True):
                sum_.set(f.fma(weight, f.load(FLOATS, values + token * size * 4 + place), sum_.get()))
        for place, sum_ in zip(places, sums, strict=True):
            f.store(sum_.get(), result + place)


def _turn(f: Function, given: Arguments, row: Value, head: Value, result: Value) -> None:
    """Rotary position embedding of one head: x * cosines + (x with its halves exchanged) * sines."""
    half, turn = given("size") * 2, row * given("turn")
    for place, other in ((f.value(0), half), (half, f.value(0))):
        with f.loop(0, half, 4 * LANES) as at:
            here, there = at + place, at + other
            turned = f.load(FLOATS, head + here) * f.load(FLOATS, given("cosines") + turn + here)
            sines = f.load(FLOATS, given("sines") + turn + here)
            f.store(f.fma(f.load(FLOATS, head + there), sines, turned), result + here)


def _weights(f: Function, length: Value, peaks: Value, scores: Value) -> None:
    """Make of scores e^score, divided by the sum of all.

    `peaks`: the highest score is one of these 16.
    """
    f.store(f.value(float("-inf"), FLOATS), scores + (length + 1) * 4)  # the last vector may go beyond the last token
    highest = f.splat(f.peak(f.load(FLOATS, peaks)))
    total = Variable(f, f.value(0.0, FLOATS))
    with vectors(f, length + 1) as at:
        weight = f.exp(f.load(FLOATS, scores + at) - highest)
        f.store(weight, scores + at)
        total.set(total.get() + weight)
    share = f.splat(f.value(1.0, FLOAT) / f.sum(total.get()))
    with vectors(f, length + 1) as at:
        f.store(f.load(FLOATS, scores + at) * share, scores + at)
