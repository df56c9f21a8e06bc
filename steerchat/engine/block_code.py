"""The machine code of whole blocks for one token of each row: products with weights of four bits, norms, attention.

The threads stay together from the first block to the last and wait for each other between the parts of a block. torch's
operations are started one by one, which takes longer than most of these parts.
"""

from __future__ import annotations

from .machine_code import FLOAT, FLOATS, LANES, Code, Function, Value, Variable
from .product_code import RUNS, Arguments, copied, product, values, vectors

# What is the same for all blocks of a step.
STEP = (
    "rows",
    "blocks",  # where the first block's values are
    "count",  # of blocks
    "cosines",  # of each row, (head size)
    "sines",
    "turn",  # bytes between those of two rows
    "length",  # tokens before this one
    "mask",  # added to scores; zero for none
    "mask_row",  # bytes between two rows of it
    "inward",  # room for queries, keys and values
    "mixed",  # for what attention gives
    "between",  # for the states between attention and feed-forward
    "wide",  # for gates and ups
    "scratch",
    "share",
    "threads",
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
# The products of a block, by number: what is done to the states first, where they are, what is added, where the
# result goes.
_PRODUCTS = (
    ("normed", "before", "", "inward"),
    ("copied", "mixed", "before", "between"),
    ("normed", "between", "", "wide"),
    ("activated", "wide", "between", "after"),
)


def write_blocks(code: Code) -> None:
    """The function `step`, which takes the address of the values of STEP. Products have been written before."""
    for number, (kind, *_) in enumerate(_PRODUCTS):
        with code.function(f"product of block {number}", 1) as f:
            fill = {"normed": _normed, "copied": copied, "activated": _activated}[kind]
            product(f, _of_product(f, number), fill, 4)
    with code.function("attention", 1) as f:
        _attention(f, _of_block(f))
    with code.function("push", 1) as f:
        _push(f, _of_block(f))
    with code.function("blocks", 1) as f:
        step = values(f, STEP, f.arguments[0])
        with f.loop(0, step("count")) as number:
            block = step("blocks") + number * (8 * len(BLOCK))
            for part in ("product of block 0", "attention", *(f"product of block {number}" for number in (1, 2, 3))):
                f.call(part, block)
                f.wait()
            with f.where(values(f, BLOCK, block)("push")):
                f.call("push", block)
                f.wait()
    with code.function("step", 1) as f:
        f.parallel("blocks", f.arguments[0], values(f, STEP, f.arguments[0])("threads"))


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
    start, end = f.share(given("rows") * given("outputs_3") // LANES)
    with f.loop(start * (4 * LANES), end * (4 * LANES), 4 * LANES) as at:
        f.store(f.load(FLOATS, given("after") + at) + f.load(FLOATS, given("push") + at), given("pushed") + at)


def _normed(f: Function, given: Arguments, row: Value, states: Value) -> None:
    """RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467): x * weight / sqrt(mean(x^2) + epsilon)."""
    source = given("states") + row * given("inputs") * 4
    squares = Variable(f, f.value(0.0, FLOATS))
    with vectors(f, given("inputs")) as at:
        x = f.load(FLOATS, source + at)
        squares.set(f.fma(x, x, squares.get()))
    mean = f.sum(squares.get()) / given("inputs").float()
    scale = f.splat(f.value(1.0, FLOAT) / f.root(mean + given("epsilon")))
    with vectors(f, given("inputs")) as at:
        f.store(f.load(FLOATS, source + at) * scale * f.load(FLOATS, given("norm") + at), states + at)


def _activated(f: Function, given: Arguments, row: Value, states: Value) -> None:
    """SiLU(gate) * up, of rows that hold gates and then ups."""
    size = given("inputs") * 4
    gates = given("states") + row * size * 2
    with vectors(f, given("inputs")) as at:
        gate = f.load(FLOATS, gates + at)
        share = f.exp(f.value(0.0, FLOATS) - gate) + 1.0
        f.store(gate / share * f.load(FLOATS, gates + size + at), states + at)


def _attention(f: Function, given: Arguments) -> None:
    """A thread's part of the attention of one token in each row: of its heads.

    Threads whose heads share keys write the same keys and values at the same place.
    """
    heads, shared, size = given("heads"), given("shared"), given("size")
    length, wide = given("length"), size * 4
    queries = given("scratch") + f.thread() * given("share")
    scores = queries + wide
    start, end = f.share(given("rows") * heads)
    with f.loop(start, end) as item:
        row, head = item // heads, item % heads
        pair = head // (heads // shared)
        states = given("inward") + row * (heads + shared * 2) * wide
        offset = row * given("row") + pair * given("head")
        keys, values = given("keys") + offset, given("values") + offset
        _turn(f, given, row, states + head * wide, queries)
        _turn(f, given, row, states + (heads + pair) * wide, keys + length * wide)
        own = states + (heads + shared + pair) * wide
        with vectors(f, size) as at:
            f.store(f.load(FLOATS, own + at), values + length * wide + at)
        highest = _scores(f, given, row, queries, keys, scores)
        total = _weights(f, length, highest, scores)
        result = given("mixed") + item * wide
        done = Variable(f, f.value(0))
        for runs in RUNS:
            first = done.get()
            whole = first + (wide - first) // (4 * LANES * runs) * (4 * LANES * runs)
            with f.loop(first, whole, 4 * LANES * runs) as at:
                sums = [Variable(f, f.value(0.0, FLOATS)) for _ in range(runs)]
                with f.loop(0, length + 1) as token:
                    weight = f.splat(f.load(FLOAT, scores + token * 4))
                    for number, sum_ in enumerate(sums):
                        value = f.load(FLOATS, values + token * wide + at + 4 * LANES * number)
                        sum_.set(f.fma(weight, value, sum_.get()))
                for number, sum_ in enumerate(sums):
                    f.store(sum_.get() / f.splat(total), result + at + 4 * LANES * number)
            done.set(whole)


def _turn(f: Function, given: Arguments, row: Value, head: Value, result: Value) -> None:
    """Rotary position embedding of one head: x * cosines + (x with its halves exchanged) * sines."""
    half, turn = given("size") * 2, row * given("turn")
    for place, other in ((f.value(0), half), (half, f.value(0))):
        with f.loop(0, half, 4 * LANES) as at:
            here, there = at + place, at + other
            turned = f.load(FLOATS, head + here) * f.load(FLOATS, given("cosines") + turn + here)
            sines = f.load(FLOATS, given("sines") + turn + here)
            f.store(f.fma(f.load(FLOATS, head + there), sines, turned), result + here)


def _scores(f: Function, given: Arguments, row: Value, queries: Value, keys: Value, scores: Value) -> Value:
    """A head's score of every token, written to `scores`: the highest."""
    size, tokens, scaling, masked = given("size"), given("length") + 1, given("scaling"), given("mask")
    highest, mask = Variable(f, f.value(float("-inf"), FLOAT)), Variable(f, f.value(0.0, FLOAT))
    masks = masked + row * given("mask_row")
    with f.loop(0, tokens) as token:
        products = Variable(f, f.value(0.0, FLOATS))
        with vectors(f, size) as at:
            key = f.load(FLOATS, keys + token * size * 4 + at)
            products.set(f.fma(f.load(FLOATS, queries + at), key, products.get()))
        with f.where(masked):
            mask.set(f.load(FLOAT, masks + token * 4))
        score = f.fma(f.sum(products.get()), scaling, mask.get())
        f.store(score, scores + token * 4)
        highest.set(f.most(highest.get(), score))
    return highest.get()


def _weights(f: Function, length: Value, highest: Value, scores: Value) -> Value:
    """Make e^(score - highest) of every score: their sum."""
    f.store(f.value(float("-inf"), FLOATS), scores + (length + 1) * 4)  # the last vector may go beyond the last token
    total = Variable(f, f.value(0.0, FLOATS))
    with vectors(f, length + 1) as at:
        weight = f.exp(f.load(FLOATS, scores + at) - f.splat(highest))
        f.store(weight, scores + at)
        total.set(total.get() + weight)
    return f.sum(total.get())
