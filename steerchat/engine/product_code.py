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
from typing import NamedTuple

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
# Where rows are more than are computed at once, the levels of some runs are made float32 once for all of them, those of
# so many groups at a time: they stay in the CPU's first cache.
_UNPACKED, _MANY, _GROUPS_AT_ONCE = 32, 24, 3

# A value by its name.
Arguments = Callable[[str], Value]


def write_products(code: Code) -> None:
    """Functions that take the address of the values of PRODUCT, for weights of four bits and of eight.

    `multiply 4` computes the result, and `numbers 4` writes the weight as float32, (inputs, outputs).
    """
    for bits in (4, 8):
        for rows, runs in sorted({(rows, _together(code.registers, rows, runs)) for rows in ROWS for runs in RUNS}):
            _write_runs(code, bits, bits, rows, runs)
        for rows in ROWS:
            _write_runs(code, bits, _UNPACKED, rows, _together(code.registers, rows, RUNS[0]))
        with code.function(f"product {bits}", 1) as f:
            product(f, values(f, PRODUCT, f.arguments[0]), copied, bits)
        with code.function(f"unpack {bits}", 1) as f:
            _unpack(f, values(f, PRODUCT, f.arguments[0]), bits)
        for name, task in (("multiply", "product"), ("numbers", "unpack")):
            with code.function(f"{name} {bits}", 1) as f:
                f.parallel(f"{task} {bits}", f.arguments[0], values(f, PRODUCT, f.arguments[0])("threads"))


def scratch(rows: int, inputs: int) -> int:
    """The numbers that each thread needs room for, in a product of so many rows with so many inputs."""
    return rows * (inputs + inputs // GROUP) + LANES + RUNS[0] * LANES * GROUP * _GROUPS_AT_ONCE


def values(f: Function, names: tuple[str, ...], address: Value) -> Arguments:
    """The values that lie at an address, `names` in their order."""

    def value(name: str) -> Value:
        kind = FLOAT if name.startswith(("epsilon", "scaling")) else INT
        return f.load(kind, address + 8 * names.index(name))

    return value


def vectors(f: Function, count: Value) -> AbstractContextManager[Value]:
    """The place of each vector in a row of so many numbers, in bytes."""
    return f.loop(0, count * 4, 4 * LANES)


# What `runs` functions take: as in PRODUCT, but the first of some rows, of some runs of outputs and of some groups; how
# many groups; the bytes between the levels of two runs; and whether the result has the sums of earlier groups.
_RUN = ("inputs", "outputs", "states", "sums", "levels", "scales", "bias", "residual", "result")
_RUN += ("groups", "run_levels", "goes_on")


def _together(registers: int, rows: int, runs: int) -> int:
    """How many of some runs are computed at once for so many rows: their sums take half of the registers at most."""
    return max(number for number in RUNS if number == 1 or (number <= runs and rows * number <= registers // 2))


def _write_runs(code: Code, bits: int, held: int, rows: int, runs: int) -> None:
    """The products of some rows with some runs of outputs, all of whose sums are in registers.

    `held`: the bits that levels have where they are read: their own, or those of float32.
    """
    with code.function(f"runs {bits} {held} {rows} {runs}", len(_RUN)) as f:
        inputs, outputs, states, sums, levels, scales, bias, residual, result, some, run_levels, goes_on = f.arguments
        groups = inputs // GROUP
        run_scales = groups * _group_bytes(bits)
        every = [(row, run) for row in range(rows) for run in range(runs)]
        places = {(row, run): result + outputs * (4 * row) + 4 * LANES * run for row, run in every}
        zero = f.value(0.0, FLOATS)
        totals = {place: Variable(f, zero) for place in every}
        with f.where(goes_on):
            for place in every:
                totals[place].set(f.load(FLOATS, places[place]))
        with f.loop(0, some) as group:
            parts = {place: Variable(f, zero) for place in every}
            with f.loop(group * GROUP, group * GROUP + GROUP, _AT_ONCE) as first:
                read = [_levels(f, held, levels + run_levels * run + first * _input_bytes(held)) for run in range(runs)]
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
        for place in every:
            f.store(totals[place].get(), places[place])


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
    if bits == _UNPACKED:
        return lambda number: f.load(FLOATS, address + _input_bytes(bits) * number)
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


class _Part(NamedTuple):
    """What is computed of a product: some runs of outputs of some rows, and of some groups of inputs.

    Attributes:
        run, runs: the first, and how many.
        row, end: the first, and the one after the last.
        group, groups: the first, and how many.
        levels: the address of those of the first run and the first group.
        held: as of `_write_runs`.
        step: bytes between the levels of two runs.
    """

    run: Value
    runs: int
    row: Value
    end: Value
    group: Value
    groups: Value
    levels: Value
    held: int
    step: Value


def _all_rows(f: Function, given: Arguments, bits: int, runs: int, run: Value, states: Value, sums: Value) -> None:
    """Some runs of outputs of all rows."""
    rows, inputs, none = given("rows"), given("inputs"), f.value(0)
    groups, step = inputs // GROUP, inputs * _input_bytes(bits)
    levels = given("levels") + run * step
    few = rows if runs < RUNS[0] else f.choose(rows // _MANY, none, rows)
    _part(f, given, bits, _Part(run, runs, none, few, none, groups, levels, bits, step), states, sums)
    if runs < RUNS[0]:
        return
    unpacked = (sums + rows * groups * 4 + 4 * LANES) & -4 * LANES
    with f.where(rows - few), f.loop(0, groups, _GROUPS_AT_ONCE) as group:
        some = f.lower(groups - group, f.value(_GROUPS_AT_ONCE))
        room = some * (GROUP * _input_bytes(_UNPACKED))
        for number in range(runs):
            source = levels + step * number + group * (GROUP * _input_bytes(bits))
            with f.loop(0, some * GROUP, _AT_ONCE) as first:
                read = _levels(f, bits, source + first * _input_bytes(bits))
                for place in range(_AT_ONCE):
                    f.store(read(place), unpacked + room * number + (first + place) * _input_bytes(_UNPACKED))
        _part(f, given, bits, _Part(run, runs, few, rows, group, some, unpacked, _UNPACKED, room), states, sums)


def _part(f: Function, given: Arguments, bits: int, part: _Part, states: Value, sums: Value) -> None:
    """A part of a product, as many rows and runs at once as registers hold."""
    inputs, outputs, group = given("inputs"), given("outputs"), part.group
    groups = inputs // GROUP
    last = f.choose(groups - group - part.groups, f.value(0), f.value(1))  # whether these groups end the sums
    done = Variable(f, part.row)
    for count in ROWS:
        together = _together(f.registers, count, part.runs)
        first = done.get()
        whole = first + (part.end - first) // count * count
        with f.loop(first, whole, count) as row:
            for number in range(0, part.runs, together):
                run = part.run + number
                place = run * (4 * LANES)
                f.call(
                    f"runs {bits} {part.held} {count} {together}",
                    inputs,
                    outputs,
                    states + (row * inputs + group * GROUP) * 4,
                    sums + (row * groups + group) * 4,
                    part.levels + part.step * number,
                    given("scales") + (run * groups + group) * _group_bytes(bits),
                    f.beyond(given("bias") * last, place),
                    f.beyond(given("residual") * last, row * outputs * 4 + place),
                    given("result") + row * outputs * 4 + place,
                    part.groups,
                    part.step,
                    group,
                )
        done.set(whole)


def copied(f: Function, given: Arguments, row: Value, states: Value) -> None:
    """The states as they are."""
    source = given("states") + row * given("inputs") * 4
    with vectors(f, given("inputs")) as at:
        f.store(f.load(FLOATS, source + at), states + at)
