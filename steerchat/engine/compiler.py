"""Compiles machine code for this CPU, and keeps it for the next start."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from ..system.folders import cache_dir, write_whole
from ..system.memory import forget_code
from ..values.errors import SteerchatError
from . import machine_code, openmp
from .machine_code import Code
from .openmp import Threads

# Instructions that a CPU of Intel or AMD must have: where they are missing, LLVM calls functions that nobody has.
_NEEDED = ("f16c", "fma")
# Code that somebody may call stays in memory.
_held: list[Any] = []


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
        if found.get("avx2"):  # else LLVM takes two instructions for one, to wait less where nothing else is to do
            self._features += ",+fast-dpwssd"
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
        addresses = {name: engine.get_function_address(name) for name in names}
        forget_code(llvm.ffi.get_library_name())
        return addresses

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
        for source in (__file__, machine_code.__file__, openmp.__file__, *sources):
            digest.update(Path(source).read_bytes())
        return digest.hexdigest()[:32]


def _kept(path: Path) -> bytes | None:
    """The machine code of a file; None where there is none, or not all of it: it would end the program."""
    with suppress(OSError):
        data = path.read_bytes()
        digest, code = data[:32], data[32:]
        return code if hashlib.sha256(code).digest() == digest else None
    return None
