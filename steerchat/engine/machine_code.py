"""Machine code for this CPU: functions are written as Python that calls a `Function`, and LLVM compiles them.

torch has no product of float32 with weights of few bits, and between two of its operations lie microseconds. What is
written here computes with vectors of 16 numbers: LLVM makes of them what the CPU has, two of 8 or four of 4.

Every value is a whole number of 64 bits, which may be an address in bytes, a float32, or a vector of 16. Functions take
whole numbers and return nothing.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
from llvmlite import ir

from ..system.folders import cache_dir, write_whole
from ..values.errors import SteerchatError
from . import openmp
from .openmp import Threads

LANES = 16
INT, FLOAT = ir.IntType(64), ir.FloatType()
FLOATS, INTS, HALVES, BYTES = (ir.VectorType(t, LANES) for t in (FLOAT, ir.IntType(32), ir.HalfType(), ir.IntType(8)))
# The alignment of what is read and written, in bytes.
_ALIGNED = {INT: 8, HALVES: 2, BYTES: 1}
# Without it LLVM halves vectors of 512 bits on CPUs that have them.
_WIDE = '{ "min-legal-vector-width"="512" "prefer-vector-width"="512" }'
# Instructions that a CPU of Intel or AMD must have: where they are missing, LLVM calls functions that nobody has.
_NEEDED = ("f16c", "fma")
# Code that somebody may call stays in memory.
_held: list[Any] = []


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
        if value.type == BYTES:
            value = builder.sext(value, INTS)
        return Value(self._function, (builder.fpext if value.type == HALVES else builder.sitofp)(value, FLOATS))

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
        return ir.Constant(kind, [number] * LANES if isinstance(kind, ir.VectorType) else number)

    def value(self, number: float, kind: Any = INT) -> Value:
        return Value(self, self.constant(number, kind))

    def load(self, kind: Any, address: Value) -> Value:
        value = self.builder.load(self.builder.inttoptr(address.value, ir.PointerType()), typ=kind)
        value.align = _ALIGNED.get(kind, 4)
        return Value(self, value)

    def store(self, value: Value, address: Value) -> None:
        stored = self.builder.store(value.value, self.builder.inttoptr(address.value, ir.PointerType()))
        stored.align = _ALIGNED.get(value.value.type, 4)

    def choose(self, number: Value, a: Value, b: Value) -> Value:
        """a if a whole number is not zero, else b."""
        some = self.builder.icmp_signed("!=", number.value, self.constant(0, INT))
        return Value(self, self.builder.select(some, a.value, b.value))

    def lower(self, a: Value, b: Value) -> Value:
        """The lower of two whole numbers."""
        return Value(self, self.builder.select(self.builder.icmp_signed("<", a.value, b.value), a.value, b.value))

    def beyond(self, address: Value, offset: Value) -> Value:
        """An address and so many bytes more; zero, which stands for nothing, stays zero."""
        return self.choose(address, address + offset, address)

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

    @contextmanager
    def where(self, number: Value) -> Iterator[None]:
        """What is written inside runs if a whole number is not zero."""
        with self.builder.if_then(self.builder.icmp_signed("!=", number.value, self.constant(0, INT))):
            yield

    def splat(self, number: Value) -> Value:
        """A vector of one number."""
        none = ir.Constant(FLOATS, ir.Undefined)
        first = self.builder.insert_element(none, number.value, ir.Constant(ir.IntType(32), 0))
        return Value(self, self.builder.shuffle_vector(first, none, ir.Constant(INTS, [0] * LANES)))

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once."""
        return self._intrinsic("fma", a, b, c)

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
        summed = self._code.outside(f"llvm.vector.reduce.fadd.v{LANES}f32", kind)
        return Value(self, self.builder.call(summed, [zero, vector.value], fastmath=("reassoc",)))

    def highest(self, vector: Value) -> Value:
        """The highest of a vector's 16 numbers."""
        found = self._code.outside(f"llvm.vector.reduce.fmax.v{LANES}f32", ir.FunctionType(FLOAT, [FLOATS]))
        return Value(self, self.builder.call(found, [vector.value]))

    def exp(self, vector: Value) -> Value:
        """e^x to float32's precision: 2^n * e^r with a polynomial for e^r (Cephes, expf). Beyond +-87 it stays."""
        x = self.least(self.most(vector, self.value(-87.0, FLOATS)), self.value(87.0, FLOATS))
        n = self._intrinsic("rint", x * math.log2(math.e))
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
        found = self._code.outside(f"llvm.{name}.{suffix}", ir.FunctionType(kind, [kind] * len(values)))
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

    def outside(self, name: str, kind: Any) -> Any:
        """A function of LLVM or of the OpenMP library."""
        return self.module.globals.get(name) or ir.Function(self.module, kind, name)

    @property
    def text(self) -> str:
        text = re.sub(r"^(define .*\))$", r"\1 #0", str(self.module), flags=re.MULTILINE)
        return f"{text}\nattributes #0 = {_WIDE}\n"


class Machine:
    """This CPU's instructions.

    Args:
        threads: that code runs on.

    Attributes:
        registers: vectors of 16 float32 that the CPU's registers hold.

    Raises RuntimeError where the CPU has too few instructions.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self._cpu, self._features, found = llvm.get_host_cpu_name(), "", {}
        with suppress(RuntimeError):  # LLVM tells the instructions of some CPUs by their name alone
            found = llvm.get_host_cpu_features()
            self._features = found.flatten()
        if missing := [name for name in _NEEDED if found.get(name) is False]:
            raise RuntimeError(f"this CPU has no {missing[0]}")
        self.registers = 32 if found.get("avx512f") else 8

    def compile(
        self, write: Sequence[Callable[[Code], None]], names: Sequence[str], sources: Sequence[str]
    ) -> Mapping[str, int]:
        """The addresses of functions.

        Args:
            write: write them, one after the other.
            names: of those that are wanted.
            sources: the Python files that write them. Machine code that an earlier start has kept is taken while none
                of them, nor the CPU, has changed.
        """
        path = cache_dir() / "kernels" / f"code-{self._digest(sources)}"
        code = _kept(path)
        if code is None:
            code = self._compiled(write)
            with suppress(SteerchatError):  # without a cache it is compiled at every start
                write_whole(path, hashlib.sha256(code).digest() + code)
        for name, address in self._threads.addresses.items():
            llvm.add_symbol(name, address)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), self._target())  # the engine owns the target
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        _held.append(engine)
        return {name: engine.get_function_address(name) for name in names}

    def _compiled(self, write: Sequence[Callable[[Code], None]]) -> bytes:
        code = Code(self.registers, self._threads)
        for part in write:
            part(code)
        module = llvm.parse_assembly(code.text)
        target = self._target()
        builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options())
        passes = llvm.create_new_module_pass_manager()
        # Variables become registers. What else LLVM's usual passes do for this code takes twenty times as long.
        passes.add_sroa_pass()
        passes.add_instruction_combine_pass()
        passes.add_simplify_cfg_pass()
        passes.run(module, builder)
        return target.emit_object(module)

    def _target(self) -> Any:
        default = llvm.Target.from_default_triple()
        return default.create_target_machine(cpu=self._cpu, features=self._features, opt=3, jit=True)

    def _digest(self, sources: Sequence[str]) -> str:
        digest = hashlib.sha256()
        for part in (self._cpu, self._features, llvmlite.__version__, *sorted(self._threads.addresses)):
            digest.update(part.encode())
        for source in (__file__, openmp.__file__, *sources):
            digest.update(Path(source).read_bytes())
        return digest.hexdigest()[:32]


def _kept(path: Path) -> bytes | None:
    """The machine code of a file; None where there is none, or not all of it: it would end the program."""
    with suppress(OSError):
        data = path.read_bytes()
        digest, code = data[:32], data[32:]
        return code if hashlib.sha256(code).digest() == digest else None
    return None
