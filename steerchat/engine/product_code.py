"""The machine code of products with weights of few bits.

The states that are multiplied become whole numbers of 16 bits, with a scale for every 32 of them. This rounds each by
1/65534 of the largest at most, a hundredth of what bfloat16 does, and CPUs multiply such numbers twice as fast as
float32. They are summed without rounding; the sums of each group are scaled and added as float32.

Each row is computed alone, by the same operations in the same order whatever the number of rows and of threads, so a
row of a batch is to the bit what it is alone.

A weight lies in runs of 16 outputs, and in each run group after group of 32 inputs:

- four bits: for every 8 inputs, 16 whole numbers of 32 bits, one for each output. Of each, the low half holds the
  levels of inputs 0, 2, 4, 6 from the lowest bits up, and the high half those of 1, 3, 5, 7. For each group 16 scales
  and then 16 lowest numbers as halves: scale * level + low.
- eight bits: for every 2 inputs, the two levels of each of the 16 outputs; for each group 16 scales as halves.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

from .machine_code import (
    BYTE_PAIRS,
    FLOAT,
    FLOATS,
    HALVES,
    INT,
    INTS,
    LANES,
    PAIRS,
    WORD,
    Code,
    Function,
    Value,
    Variable,
)
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
    "apart",  # 1 where each thread computes all outputs of some rows, 0 where it computes some outputs of all rows
)
# Runs and rows whose sums are in registers at the same time, of CPUs with 32: a result does not depend on them.
_RUNS, _ROWS = (3, 2, 1), (8, 4, 2, 1)
# The largest whole number that a state becomes, and the largest state that counts as zero.
_MOST, _NOTHING = 32767.0, 1e-30

# A value by its name.
Arguments = Callable[[str], Value]
# Writes what a row's states are made of those that are given, and tells where they are.
Fill = Callable[[Function, Arguments, Value, Value], Value]


def write_products(code: Code) -> None:
    """`multiply 4` and `multiply 8`, for weights of so many bits: they take the address of the values of PRODUCT."""
    for bits in (4, 8):
        for runs in _RUNS:
            with code.function(f"sums {bits} {runs}", len(_States._fields) + 3) as f:
                _sum(f, bits, runs)
        with code.function(f"product {bits}", 1) as f:
            product(f, values(f, PRODUCT, f.arguments[0]), given_states, bits)
        with code.function(f"multiply {bits}", 1) as f:
            f.parallel(f"product {bits}", f.arguments[0], values(f, PRODUCT, f.arguments[0])("threads"))


def scratch(rows: int, inputs: int) -> int:
    """The float32 numbers that each thread needs room for, in a product of so many rows with so many inputs."""
    return rows * (inputs // 2 + 2 * inputs // GROUP + _RUNS[0] * LANES) + inputs + GROUP // 2 * _RUNS[0] * LANES


def values(f: Function, names: tuple[str, ...], address: Value) -> Arguments:
    """The values that lie at an address, `names` in their order."""

    def value(name: str) -> Value:
        kind = FLOAT if name.startswith(("epsilon", "scaling")) else INT
        return f.load(kind, address + 8 * names.index(name))

    return value


def vectors(f: Function, count: Value) -> AbstractContextManager[Value]:
    """The place of each vector in a row of so many numbers, in bytes."""
    return f.loop(0, count * 4, 4 * LANES)


def given_states(f: Function, given: Arguments, row: Value, room: Value) -> Value:
    """The states as they are."""
    return given("states") + row * given("inputs") * 4


def product(f: Function, given: Arguments, fill: Fill, bits: int) -> None:
    """A thread's part of a product.

    `fill`: its last argument is room for a row's states.
    """
    groups, runs, none = given("inputs") // GROUP, given("outputs") // LANES, f.value(0)
    (first, last), (start, end) = f.share(given("rows")), f.share(runs)
    first, last = f.choose(given("apart"), first, none), f.choose(given("apart"), last, given("rows"))
    start, end = f.choose(given("apart"), none, start), f.choose(given("apart"), runs, end)
    rows = last - first
    # What vectors are read of comes first: it begins where a line of the cache does.
    totals = given("scratch") + f.thread() * given("share")
    numbers = totals + (rows + GROUP // 2) * (_RUNS[0] * 4 * LANES)
    room = numbers + rows * groups * (2 * GROUP)
    scales = room + groups * (4 * GROUP)
    states = _States(rows, groups, numbers, scales, scales + rows * groups * 4)
    with f.loop(0, rows) as row:
        source = fill(f, given, first + row, room)
        with f.loop(0, groups) as group:
            _round(f, source + group * (4 * GROUP), states, group * rows + row)
    for run, together in f.parts(start, end, _RUNS):
        place = run * groups
        levels = given("levels") + place * (GROUP * LANES * bits // 8)
        f.call(f"sums {bits} {together}", *states, levels, given("scales") + place * _scales_bytes(bits), totals)
        with f.loop(0, rows) as row:
            for number in range(together):
                total = totals + (row * together + number) * (4 * LANES)
                _finish(f, given, first + row, run + number, f.load(FLOATS, total))


class _States(NamedTuple):
    """The states of some rows as whole numbers: how many rows and groups, and where the first row's first group is.

    The groups of one place are side by side, those of all rows, and so are their scales and the sums of what they
    stand for.
    """

    rows: Value
    groups: Value
    numbers: Value
    scales: Value
    sums: Value


def _round(f: Function, source: Value, states: _States, place: Value) -> None:
    """Make a group of float32 whole numbers, at a place among the groups of all rows.

    What is no number, or beyond all numbers, makes the scale such too.
    """
    parts = [f.load(FLOATS, source + 4 * LANES * part) for part in range(GROUP // LANES)]
    # Without the sign, the bits of a larger float32 are a larger whole number, and those of NaN the largest.
    most = f.highest(*(part.bits(INTS) & 0x7FFFFFFF for part in parts)).bits(FLOAT)
    unit = (most + _NOTHING) / _MOST
    ints = [f.nearest(part * f.splat(f.value(1.0, FLOAT) / unit)).ints() for part in parts]
    for number, part in enumerate(ints):
        f.store(part.shorts(), states.numbers + place * (2 * GROUP) + 2 * LANES * number)
    f.store(unit, states.scales + place * 4)
    f.store(unit * f.total(ints[0] + ints[1]).float(), states.sums + place * 4)


def _sum(f: Function, bits: int, runs: int) -> None:
    """Write the products of all rows with some runs of outputs: for each row the vectors of these runs.

    The function takes the states, where levels and scales of the first run are, and where the products go and, after
    them, the levels of one group of these runs.
    """
    *numbers, packed, scales, room = f.arguments
    states = _States(*numbers)
    levels = room + states.rows * (4 * LANES * runs)
    with f.loop(0, states.rows * runs) as place:
        f.store(f.value(0.0, FLOATS), room + place * (4 * LANES))
    with f.loop(0, states.groups) as group:
        here = [states.groups * number + group for number in range(runs)]
        for number, place in enumerate(here):
            for pair, level in enumerate(_levels(f, bits, packed + place * (GROUP * LANES * bits // 8))):
                f.store(level, levels + 4 * LANES * (pair * runs + number))
        factors = [_factors(f, bits, scales + place * _scales_bytes(bits)) for place in here]
        for row, count in f.parts(f.value(0), states.rows, [size for size in _ROWS if size <= f.registers // 4]):
            first = group * states.rows + row
            parts = _parts(f, levels, runs, states.numbers + first * (2 * GROUP), count)
            for number in range(count):
                own = first * 4 + 4 * number
                scale, sum_ = (f.splat(f.load(FLOAT, start + own)) for start in (states.scales, states.sums))
                result = room + (row + number) * (4 * LANES * runs)
                for (factor, low), part in zip(factors, parts[number], strict=True):
                    total = f.load(FLOATS, result)
                    total = total if low is None else f.fma(low, sum_, total)
                    f.store(f.fma(part.floats() * factor, scale, total), result)
                    result += 4 * LANES


def _parts(f: Function, levels: Value, runs: int, numbers: Value, count: int) -> list[list[Value]]:
    """The products of a group of some rows with the levels of some runs, whole numbers.

    Sums of few are added up in several parts: the next one need not wait for the last.
    """
    ways = max(1, min(4, f.registers // 2 // (count * runs)))
    sums = [[[Variable(f, f.value(0, INTS)) for _ in range(ways)] for _ in range(runs)] for _ in range(count)]
    with f.loop(0, f.value(GROUP // 2), ways) as pair:
        for way in range(ways):
            own = [
                f.load(PAIRS, levels + pair * (4 * LANES * runs) + 4 * LANES * (way * runs + run))
                for run in range(runs)
            ]
            for number in range(count):
                two = f.splat(f.load(WORD, numbers + pair * 4 + (2 * GROUP * number + 4 * way))).bits(PAIRS)
                for run in range(runs):
                    some = sums[number][run][way]
                    some.set(some.get() + f.dot(own[run], two))
    return [[functools.reduce(operator.add, (part.get() for part in some)) for some in row] for row in sums]


def _levels(f: Function, bits: int, address: Value) -> list[Value]:
    """A group's levels of a run: for every two inputs those of 16 outputs."""
    if bits == 8:
        return [f.load(BYTE_PAIRS, address + 2 * LANES * pair).pairs() for pair in range(GROUP // 2)]
    words = [f.load(PAIRS, address + 4 * LANES * eight) for eight in range(GROUP // 8)]
    return [(word >> 4 * pair) & 15 for word in words for pair in range(4)]


def _scales_bytes(bits: int) -> int:
    """Bytes of a run's scales, and lowest numbers, of one group."""
    return LANES * 2 * (8 // bits)


def _factors(f: Function, bits: int, address: Value) -> tuple[Value, Value | None]:
    """A group's scales of a run, and its lowest numbers."""
    scale = f.load(HALVES, address).floats()
    return scale, f.load(HALVES, address + 2 * LANES).floats() if bits == 4 else None


def _finish(f: Function, given: Arguments, row: Value, run: Value, sums: Value) -> None:
    """Write a run of a row's outputs."""
    place = (row * given("outputs") + run * LANES) * 4
    total = Variable(f, sums)
    for name, where in (("bias", run * (4 * LANES)), ("residual", place)):
        with f.where(given(name)):
            total.set(total.get() + f.load(FLOATS, given(name) + where))
    f.store(total.get(), given("result") + place)
