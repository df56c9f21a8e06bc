"""Writes machine code: functions are Python that calls a `Function`, and LLVM compiles them.

torch has no precise product of states with weights of few bits, and between two of its operations lie microseconds.
What is written here computes with vectors of 16 numbers: LLVM makes of them what the CPU has, two of 8 or four of 4.

Every value is a whole number of 64 bits, which may be an address in bytes, a float32, or a vector of 16. Functions take
whole numbers and return nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from .openmp import Threads, outside

LANES = 16
INT, FLOAT, WORD = ir.IntType(64), ir.FloatType(), ir.IntType(32)
FLOATS, INTS, HALVES, SHORTS = (ir.VectorType(t, LANES) for t in (FLOAT, WORD, ir.HalfType(), ir.IntType(16)))
# Two whole numbers of 16 bits, or of 8, at each of the 16 places.
PAIRS, BYTE_PAIRS = ir.VectorType(ir.IntType(16), 2 * LANES), ir.VectorType(ir.IntType(8), 2 * LANES)
# The alignment of what is read and written, in bytes.
_ALIGNED = {INT: 8, HALVES: 2, SHORTS: 2, BYTE_PAIRS: 1}
# Without it LLVM halves vectors of 512 bits on CPUs that have them.
_WIDE = '{ "min-legal-vector-width"="512" "prefer-vector-width"="512" }'
# How two vectors become one that holds sums of two numbers, four times: places of the first of the two numbers, among
# those of both vectors, and how far the second is. Of each four numbers those two apart are added, then neighbours,
# then neighbouring fours.
_SUMS = [([4 * four + place for four in range(4) for place in fours], 2) for fours in ((0, 16, 1, 17), (0, 1, 16, 17))]
_SUMS += [([4 * four + place for four in (0, 2, 4, 6) for place in range(4)], 4)] * 2


class Value:
    """A number or a vector of a function that is being written. A Python number beside it is one of its type."""

    def __init__(self, function: Function, value: Any) -> None:
        self._function, self.value = function, value

    @property
    def _whole(self) -> bool:
        kind = self.value.type
        return isinstance(getattr(kind, "element", kind), ir.IntType)

    def _with(self, other: Any, whole: str, real: str = "") -> Value:
        operation = getattr(self._function.builder, whole if self._whole else real)
        return Value(self._function, operation(self.value, self._function.constant(other, self.value.type)))

    def __add__(self, other: Value | float) -> Value:
        return self._with(other, "add", "fadd")

    def __sub__(self, other: Value | float) -> Value:
        return self._with(other, "sub", "fsub")

    def __mul__(self, other: Value | float) -> Value:
        return self._with(other, "mul", "fmul")

    def __truediv__(self, other: Value | float) -> Value:
        return self._with(other, "", "fdiv")

    def __floordiv__(self, other: Value | int) -> Value:
        return self._with(other, "udiv")

    def __mod__(self, other: Value | int) -> Value:
        return self._with(other, "urem")

    def __and__(self, other: Value | int) -> Value:
        return self._with(other, "and_")

    def __or__(self, other: Value | int) -> Value:
        return self._with(other, "or_")

    def __lshift__(self, other: int) -> Value:
        return self._with(other, "shl") if other else self

    def __rshift__(self, other: int) -> Value:
        return self._with(other, "lshr") if other else self

    def bits(self, kind: Any) -> Value:
        """The same bits as another type."""
        return Value(self._function, self._function.builder.bitcast(self.value, kind))

    def floats(self) -> Value:
        """16 whole numbers or halves as float32."""
        builder, value = self._function.builder, self.value
        return Value(self._function, (builder.fpext if value.type == HALVES else builder.sitofp)(value, FLOATS))

    def pairs(self) -> Value:
        """Pairs of 8 bits as pairs of 16."""
        return Value(self._function, self._function.builder.sext(self.value, PAIRS))

    def shorts(self) -> Value:
        """16 whole numbers in 16 bits each."""
        return Value(self._function, self._function.builder.trunc(self.value, SHORTS))

    def float(self) -> Value:
        """A whole number as float32."""
        return Value(self._function, self._function.builder.sitofp(self.value, FLOAT))

    def ints(self) -> Value:
        """16 float32 without a fraction as whole numbers."""
        return Value(self._function, self._function.builder.fptosi(self.value, INTS))


class Variable:
    """A value that changes as the function runs."""

    def __init__(self, function: Function, first: Value) -> None:
        self._function, self._kind = function, first.value.type
        with function.builder.goto_entry_block():
            self._place = function.builder.alloca(self._kind)
        self.set(first)

    def get(self) -> Value:
        return Value(self._function, self._function.builder.load(self._place, typ=self._kind))

    def set(self, value: Value) -> None:
        self._function.builder.store(value.value, self._place)


class Function:
    """Writes one function.

    Args:
        code: that it is a part of.
        arguments: how many it takes.
    """

    def __init__(self, code: Code, name: str, arguments: int) -> None:
        kind = ir.FunctionType(ir.VoidType(), [INT] * arguments)
        self._code = code
        self.function = ir.Function(code.module, kind, name)
        self.builder: Any = ir.IRBuilder(self.function.append_basic_block())
        self.arguments = [Value(self, argument) for argument in self.function.args]
        self.registers = code.registers

    def constant(self, number: Value | float, kind: Any) -> Any:
        if isinstance(number, Value):
            return number.value
        return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)

    def value(self, number: float, kind: Any = INT) -> Value:
        return Value(self, self.constant(number, kind))

    def load(self, kind: Any, address: Value) -> Value:
        value = self.builder.load(self.builder.inttoptr(address.value, ir.PointerType()), typ=kind)
        value.align = _ALIGNED.get(kind, 4)
        return Value(self, value)

    def store(self, value: Value, address: Value) -> None:
        stored = self.builder.store(value.value, self.builder.inttoptr(address.value, ir.PointerType()))
        stored.align = _ALIGNED.get(value.value.type, 4)

    def prefetch(self, address: Value) -> None:
        """Let a line of memory come into the CPU's caches. Any address will do."""
        place = self.builder.inttoptr(address.value, ir.PointerType())
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(), WORD, WORD, WORD])
        self.builder.call(outside(self.builder, "llvm.prefetch.p0", kind), [place, WORD(0), WORD(2), WORD(1)])

    def choose(self, number: Value, a: Value, b: Value) -> Value:
        """a if a whole number is not zero, else b."""
        some = self.builder.icmp_signed("!=", number.value, self.constant(0, INT))
        return Value(self, self.builder.select(some, a.value, b.value))

    def lower(self, a: Value, b: Value) -> Value:
        """The lower of two whole numbers."""
        return Value(self, self.builder.select(self.builder.icmp_signed("<", a.value, b.value), a.value, b.value))

    def below(self, a: Value, b: Value) -> Value:
        """1 if a whole number is lower than another, else 0."""
        return Value(self, self.builder.zext(self.builder.icmp_signed("<", a.value, b.value), INT))

    @contextmanager
    def loop(self, start: Value | int, stop: Value, step: int = 1) -> Iterator[Value]:
        """What is written inside runs for start, start + step and so on, below stop."""
        builder = self.builder
        before = builder.block
        test, body, after = (builder.append_basic_block() for _ in range(3))
        builder.branch(test)
        builder.position_at_end(test)
        count = builder.phi(INT)
        count.add_incoming(self.constant(start, INT), before)
        builder.cbranch(builder.icmp_signed("<", count, stop.value), body, after)
        builder.position_at_end(body)
        yield Value(self, count)
        count.add_incoming(builder.add(count, self.constant(step, INT)), builder.block)
        builder.branch(test)
        builder.position_at_end(after)

    def parts(self, start: Value, end: Value, sizes: Sequence[int]) -> Iterator[tuple[Value, int]]:
        """What a loop over these writes runs for the first number of each part: parts of the first size as long as
        there are such, then of the next. The last size is 1."""
        for size in sizes:
            whole = start + (end - start) // size * size
            with self.loop(start, whole, size) as first:
                yield first, size
            start = whole

    @contextmanager
    def where(self, number: Value) -> Iterator[None]:
        """What is written inside runs if a whole number is not zero."""
        with self.builder.if_then(self.builder.icmp_signed("!=", number.value, self.constant(0, INT))):
            yield

    def splat(self, number: Value) -> Value:
        """A vector of one number."""
        none = ir.Constant(ir.VectorType(number.value.type, LANES), ir.Undefined)
        first = self.builder.insert_element(none, number.value, ir.Constant(ir.IntType(32), 0))
        return Value(self, self.builder.shuffle_vector(first, none, ir.Constant(INTS, [0] * LANES)))

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once."""
        return self._intrinsic("fma", a, b, c)

    def dot(self, a: Value, b: Value) -> Value:
        """The sums of the products of pairs, 16 whole numbers: LLVM knows it as one instruction where there is one."""
        builder, wide = self.builder, ir.VectorType(WORD, 2 * LANES)
        products = builder.mul(builder.sext(a.value, wide), builder.sext(b.value, wide))
        none = ir.Constant(wide, ir.Undefined)
        evens, odds = (ir.Constant(INTS, list(range(first, 2 * LANES, 2))) for first in (0, 1))
        sums = [builder.shuffle_vector(products, none, places) for places in (evens, odds)]
        return Value(self, builder.add(*sums))

    def nearest(self, a: Value) -> Value:
        """Rounded to whole numbers, which stay float32."""
        return self._intrinsic("rint", a)

    def most(self, a: Value, b: Value) -> Value:
        return self._intrinsic("maxnum", a, b)

    def least(self, a: Value, b: Value) -> Value:
        return self._intrinsic("minnum", a, b)

    def root(self, a: Value) -> Value:
        return self._intrinsic("sqrt", a)

    def sum(self, vector: Value) -> Value:
        """The sum of a vector's 16 numbers."""
        zero = self.constant(0.0, FLOAT)
        kind = ir.FunctionType(FLOAT, [FLOAT, FLOATS])
        summed = outside(self.builder, f"llvm.vector.reduce.fadd.v{LANES}f32", kind)
        return Value(self, self.builder.call(summed, [zero, vector.value], fastmath=("reassoc",)))

    def sums(self, vectors: Sequence[Value]) -> Value:
        """The sum of each of 16 vectors, as one vector."""
        builder, found = self.builder, [vector.value for vector in vectors]
        for places, apart in _SUMS:
            some, others = (ir.Constant(INTS, [place + by for place in places]) for by in (0, apart))
            found = [
                builder.fadd(builder.shuffle_vector(a, b, some), builder.shuffle_vector(a, b, others))
                for a, b in zip(found[::2], found[1::2], strict=True)
            ]
        return Value(self, found[0])

    def peak(self, vector: Value) -> Value:
        """The highest of a vector's 16 numbers, none of which is NaN."""
        found = outside(self.builder, f"llvm.vector.reduce.fmax.v{LANES}f32", ir.FunctionType(FLOAT, [FLOATS]))
        return Value(self, self.builder.call(found, [vector.value], fastmath=("nnan",)))

    def highest(self, a: Value, b: Value) -> Value:
        """The highest whole number of two vectors, a WORD; none is below zero."""
        higher = self.builder.icmp_unsigned(">", a.value, b.value)
        return self._reduced("umax", self.builder.select(higher, a.value, b.value))

    def total(self, whole: Value) -> Value:
        """The sum of a vector's 16 whole numbers, a WORD."""
        return self._reduced("add", whole.value)

    def _reduced(self, operation: str, vector: Any) -> Value:
        kind = ir.FunctionType(WORD, [INTS])
        reduce = outside(self.builder, f"llvm.vector.reduce.{operation}.v{LANES}i32", kind)
        return Value(self, self.builder.call(reduce, [vector]))

    def exp(self, vector: Value) -> Value:
        """e^x to float32's precision: 2^n * e^r with a polynomial for e^r (Cephes, expf). Beyond +-87 it stays."""
        x = self.least(self.most(vector, self.value(-87.0, FLOATS)), self.value(87.0, FLOATS))
        n = self.nearest(x * math.log2(math.e))
        r = self.fma(n, self.value(-0.693359375, FLOATS), x)  # ln 2 in two parts: the first has few bits
        r = self.fma(n, self.value(2.12194440e-4, FLOATS), r)
        p = self.value(1.9875691500e-4, FLOATS)
        for factor in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            p = self.fma(p, r, self.value(factor, FLOATS))
        power = ((n.ints() + 127) << 23).bits(FLOATS)
        result = (self.fma(p, r * r, r) + 1.0) * power
        nothing = self.builder.fcmp_unordered("uno", vector.value, vector.value)  # NaN stays NaN
        return Value(self, self.builder.select(nothing, vector.value, result.value))

    def call(self, name: str, *arguments: Value) -> None:
        self.builder.call(self._code.module.get_global(name), [argument.value for argument in arguments])

    def parallel(self, name: str, argument: Value, threads: Value) -> None:
        """Run a function of one argument on so many threads at once, and wait for all."""
        count = self.builder.trunc(threads.value, ir.IntType(32))
        self._code.threads.start(self.builder, self._code.module.get_global(name), argument.value, count)

    def wait(self) -> None:
        """Wait until all threads are here."""
        self._code.threads.wait(self.builder)

    def share(self, total: Value) -> tuple[Value, Value]:
        """Which of `total` parts this thread computes: from the first number to below the second."""
        number, count = (Value(self, value) for value in self._code.threads.place(self.builder))
        return total * number // count, total * (number + 1) // count

    def thread(self) -> Value:
        """The number of this thread."""
        return Value(self, self._code.threads.place(self.builder)[0])

    def _intrinsic(self, name: str, *values: Value) -> Value:
        kind = values[0].value.type
        suffix = f"v{LANES}f32" if kind == FLOATS else "f32"
        found = outside(self.builder, f"llvm.{name}.{suffix}", ir.FunctionType(kind, [kind] * len(values)))
        return Value(self, self.builder.call(found, [value.value for value in values]))


class Code:
    """Functions that are compiled together.

    Args:
        registers: as of `Machine`.
        threads: that it runs on.
    """

    def __init__(self, registers: int, threads: Threads) -> None:
        self.module: Any = ir.Module()
        self.registers, self.threads = registers, threads

    @contextmanager
    def function(self, name: str, arguments: int) -> Iterator[Function]:
        """A function that is written inside; those that it calls come first."""
        function = Function(self, name, arguments)
        yield function
        function.builder.ret_void()

    @property
    def text(self) -> str:
        text = re.sub(r"^(define .*\))$", r"\1 #0", str(self.module), flags=re.MULTILINE)
        return f"{text}\nattributes #0 = {_WIDE}\n"
