"""The machine code of products with weights of few bits.

Each row is computed alone, by the same operations in the same order whatever the number of rows and of threads, so a
row of a batch is to the bit what it is alone. Everything but the levels of a weight is float32.

A weight lies in runs of 16 outputs, and in each run group after group of 32 inputs:

- four bits: for every 8 inputs, 16 whole numbers of 32 bits, one for each output, with the levels of the 8 inputs from
  the lowest bits up; for each group 16 scales and then 16 lowest numbers as halves: scale * level + low.
- eight bits: for every input, the 16 outputs' levels; for each group 16 scales as halves.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from .machine_code import BYTES, FLOAT, FLOATS, HALVES, INT, INTS, LANES, Code, Function, Value, Variable
from .weights import GROUP

# What a product takes, 8 bytes each: addresses of float32 numbers unless it says otherwise. Rows lie one after the
# other without a gap. Zero for a bias or a residual that there is not.
PRODUCT = (
    "rows",  # how many
    "inputs",  # how many a row has
    "outputs",
    "states",
    "levels",  # as above
    "scales",
    "bias",
    "residual",  # added to the outputs
    "result",
    "scratch",  # that each thread has
    "share",  # bytes of it that a thread has
    "threads",
)
# Rows, and runs of outputs, whose sums are in registers at the same time; a row's numbers do not depend on it.
ROWS, RUNS = (4, 3, 2, 1), (4, 2, 1)
# Inputs whose levels of four bits are read at once.
_AT_ONCE = 8

# A value by its name.
Arguments = Callable[[str], Value]


def write_products(code: Code) -> None:
    """Functions that take the address of the values of PRODUCT, for weights of four bits and of eight.

    `multiply 4` computes the result, and `numbers 4` writes the weight as float32, (inputs, outputs).
    """
    for bits in (4, 8):
        for rows in ROWS:
            for runs in RUNS:
                _write_runs(code, bits, rows, runs)
        with code.function(f"product {bits}", 1) as f:
            product(f, values(f, PRODUCT, f.arguments[0]), copied, bits)
        with code.function(f"unpack {bits}", 1) as f:
            _unpack(f, values(f, PRODUCT, f.arguments[0]), bits)
        for name, task in (("multiply", "product"), ("numbers", "unpack")):
            with code.function(f"{name} {bits}", 1) as f:
                f.parallel(f"{task} {bits}", f.arguments[0], values(f, PRODUCT, f.arguments[0])("threads"))


def values(f: Function, names: tuple[str, ...], address: Value) -> Arguments:
    """The values that lie at an address, `names` in their order."""

    def value(name: str) -> Value:
        kind = FLOAT if name.startswith(("epsilon", "scaling")) else INT
        return f.load(kind, address + 8 * names.index(name))

    return value


def vectors(f: Function, count: Value) -> AbstractContextManager[Value]:
    """The place of each vector in a row of so many numbers, in bytes."""
    return f.loop(0, count * 4, 4 * LANES)


# What `runs` functions take: as in PRODUCT, but the first of some rows and the first of some runs of outputs.
_RUN = ("inputs", "outputs", "states", "sums", "levels", "scales", "bias", "residual", "result")


def _write_runs(code: Code, bits: int, rows: int, runs: int) -> None:
    """The products of some rows with some runs of outputs, all of whose sums are in registers."""
    with code.function(f"runs {bits} {rows} {runs}", len(_RUN)) as f:
        inputs, outputs, states, sums, levels, scales, bias, residual, result = f.arguments
        groups = inputs // GROUP
        run_levels, run_scales = inputs * _input_bytes(bits), groups * _group_bytes(bits)
        every = [(row, run) for row in range(rows) for run in range(runs)]
        zero = f.value(0.0, FLOATS)
        totals = {place: Variable(f, zero) for place in every}
        with f.loop(0, groups) as group:
            parts = {place: Variable(f, zero) for place in every}
            with f.loop(group * GROUP, group * GROUP + GROUP, _AT_ONCE) as first:
                read = [_levels(f, bits, levels + run_levels * run + first * _input_bytes(bits)) for run in range(runs)]
                for number in range(_AT_ONCE):
                    values = [
                        f.splat(f.load(FLOAT, states + (inputs * row + first + number) * 4)) for row in range(rows)
                    ]
                    for run in range(runs):
                        level = read[run](number)
                        for row in range(rows):
                            part = parts[row, run]
                            part.set(f.fma(level, values[row], part.get()))
            for run in range(runs):
                scale, low = _scale(f, bits, scales + run_scales * run + group * _group_bytes(bits))
                for row in range(rows):
                    total = totals[row, run]
                    if low is not None:
                        total.set(f.fma(low, f.splat(f.load(FLOAT, sums + (groups * row + group) * 4)), total.get()))
                    total.set(f.fma(scale, parts[row, run].get(), total.get()))
        with f.where(bias):
            for row, run in every:
                totals[row, run].set(totals[row, run].get() + f.load(FLOATS, bias + 4 * LANES * run))
        with f.where(residual):
            for row, run in every:
                before = f.load(FLOATS, residual + outputs * (4 * row) + 4 * LANES * run)
                totals[row, run].set(totals[row, run].get() + before)
        for row, run in every:
            f.store(totals[row, run].get(), result + outputs * (4 * row) + 4 * LANES * run)


def _input_bytes(bits: int) -> int:
    """Bytes of a run's levels of one input."""
    return LANES * bits // 8


def _group_bytes(bits: int) -> int:
    """Bytes of a run's scales, and lowest numbers, of one group."""
    return LANES * 2 * (8 // bits)


def _levels(f: Function, bits: int, address: Value) -> Callable[[int], Value]:
    """Reads a run's levels of some inputs: for each number of an input, 16 levels as `_scale` wants them.

    Four bits become 1 + level / 16, a level as the highest bits of a fraction: that is two operations on a CPU, and a
    whole number made a float32 is three.
    """
    if bits == 8:
        return lambda number: f.load(BYTES, address + _input_bytes(bits) * number).floats()
    words = f.load(INTS, address)

    def level(number: int) -> Value:
        shift = 4 * number - 19
        moved = words >> shift if shift > 0 else words << -shift
        return ((moved & 0x00780000) | 0x3F800000).bits(FLOATS)

    return level


def _scale(f: Function, bits: int, address: Value) -> tuple[Value, Value | None]:
    """A run's scales of one group and what is added, of levels as `_levels` gives them."""
    scale = f.load(HALVES, address).floats()
    if bits == 8:
        return scale, None
    scale = scale * 16.0
    return scale, f.load(HALVES, address + 2 * LANES).floats() - scale


def _unpack(f: Function, given: Arguments, bits: int) -> None:
    """A thread's part of a weight as float32, (inputs, outputs)."""
    outputs, groups = given("outputs"), given("inputs") // GROUP
    start, end = f.share(outputs // LANES)
    with f.loop(start, end) as run, f.loop(0, groups) as group:
        place = run * groups + group
        scale = given("scales") + place * _group_bytes(bits)
        with f.loop(0, f.value(GROUP), _AT_ONCE) as first:
            levels = _levels(f, bits, given("levels") + (place * GROUP + first) * _input_bytes(bits))
            for number in range(_AT_ONCE):
                value = levels(number)
                if bits == 4:
                    low = f.load(HALVES, scale + 2 * LANES).floats()
                    value = (value - 1.0) * 16.0 * f.load(HALVES, scale).floats() + low
                else:
                    value = value * f.load(HALVES, scale).floats()
                f.store(value, given("result") + ((group * GROUP + first + number) * outputs + run * LANES) * 4)


def product(
    f: Function, given: Arguments, fill: Callable[[Function, Arguments, Value, Value], None], bits: int
) -> None:
    """A thread's part of a product: of its outputs, for all rows.

    `fill`: writes the states that are multiplied, from those that are given.
    """
    rows, inputs, outputs = given("rows"), given("inputs"), given("outputs")
    states = given("scratch") + f.thread() * given("share")
    sums = states + rows * inputs * 4
    groups = inputs // GROUP
    with f.loop(0, rows) as row:
        own = states + row * inputs * 4
        fill(f, given, row, own)
        with f.loop(0, groups) as group:
            at = own + group * (GROUP * 4)
            f.store(f.sum(f.load(FLOATS, at) + f.load(FLOATS, at + 4 * LANES)), sums + (row * groups + group) * 4)
    start, end = f.share(outputs // LANES)
    run = Variable(f, start)
    for runs in RUNS:
        first = run.get()
        whole = first + (end - first) // runs * runs
        with f.loop(first, whole, runs) as at:
            _all_rows(f, given, bits, runs, at, states, sums)
        run.set(whole)


def _all_rows(f: Function, given: Arguments, bits: int, runs: int, run: Value, states: Value, sums: Value) -> None:
    """Some runs of outputs of all rows, as many rows and runs at once as registers hold."""
    rows, inputs, outputs = given("rows"), given("inputs"), given("outputs")
    groups, run_levels = inputs // GROUP, inputs * _input_bytes(bits)
    run_scales = groups * _group_bytes(bits)
    done = Variable(f, f.value(0))
    for count in ROWS:
        together = max(
            number for number in RUNS if number == 1 or (number <= runs and count * number <= f.registers // 2)
        )
        first = done.get()
        whole = first + (rows - first) // count * count
        with f.loop(first, whole, count) as row:
            for part in range(0, runs, together):
                place = (run + part) * (4 * LANES)
                f.call(
                    f"runs {bits} {count} {together}",
                    inputs,
                    outputs,
                    states + row * inputs * 4,
                    sums + row * groups * 4,
                    given("levels") + (run + part) * run_levels,
                    given("scales") + (run + part) * run_scales,
                    f.beyond(given("bias"), place),
                    f.beyond(given("residual"), row * outputs * 4 + place),
                    given("result") + row * outputs * 4 + place,
                )
        done.set(whole)


def copied(f: Function, given: Arguments, row: Value, states: Value) -> None:
    """The states as they are."""
    source = given("states") + row * given("inputs") * 4
    with vectors(f, given("inputs")) as at:
        f.store(f.load(FLOATS, source + at), states + at)
