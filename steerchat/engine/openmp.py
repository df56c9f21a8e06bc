"""torch's own threads for machine code: two pools of threads would wait for each other.

torch computes with GNU's OpenMP on Linux, with LLVM's on a Mac, which knows GNU's functions too, and with Intel's on
Windows, which is LLVM's and does not. Where none of them is found, one thread computes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from llvmlite import ir

_VOID, _ADDRESS, _INT, _SHORT = ir.VoidType(), ir.PointerType(), ir.IntType(64), ir.IntType(32)
# Where torch's package has its OpenMP.
_FOLDERS, _FILES = ("torch/lib", "torch.libs"), ("libgomp*.so*", "libomp*.dylib", "libiomp5*.*")
_NUMBERS = ("omp_get_thread_num", "omp_get_num_threads")
_GNU = (*_NUMBERS, "GOMP_parallel", "GOMP_barrier")
_LLVM = (*_NUMBERS, "__kmpc_fork_call", "__kmpc_push_num_threads", "__kmpc_global_thread_num", "__kmpc_barrier")
# LLVM's OpenMP wants to know which program calls it: its KMP_IDENT_KMPC, and no place in a source.
_CALLER = ir.LiteralStructType([_SHORT, _SHORT, _SHORT, _SHORT, _ADDRESS])


class Threads:
    """Writes what starts threads and what they do together.

    `addresses`: of the functions of an OpenMP library; none for one thread.
    """

    def __init__(self, addresses: Mapping[str, int]) -> None:
        self.addresses = addresses

    def start(self, builder: Any, task: Any, argument: Any, count: Any) -> None:
        """Run a function of one whole number on so many threads, and wait for all."""
        if "GOMP_parallel" in self.addresses:
            started = outside(builder, "GOMP_parallel", _kind(_ADDRESS, _INT, _SHORT, _SHORT))
            builder.call(started, [task, argument, count, _SHORT(0)])
        elif "__kmpc_fork_call" in self.addresses:
            caller, number = self._caller(builder), self._global_number(builder)
            wanted = outside(builder, "__kmpc_push_num_threads", _kind(_ADDRESS, _SHORT, _SHORT))
            builder.call(wanted, [caller, number, count])
            kind = ir.FunctionType(_VOID, [_ADDRESS, _SHORT, _ADDRESS], var_arg=True)
            fork = outside(builder, "__kmpc_fork_call", kind)
            builder.call(fork, [caller, _SHORT(1), _started(builder, task), argument])
        else:
            builder.call(task, [argument])

    def wait(self, builder: Any) -> None:
        """Wait until all threads are here."""
        if "GOMP_barrier" in self.addresses:
            builder.call(outside(builder, "GOMP_barrier", _kind()), [])
        elif "__kmpc_barrier" in self.addresses:
            barrier = outside(builder, "__kmpc_barrier", _kind(_ADDRESS, _SHORT))
            builder.call(barrier, [self._caller(builder), self._global_number(builder)])

    def place(self, builder: Any) -> tuple[Any, Any]:
        """The number of this thread, and how many there are."""
        if not self.addresses:
            return _INT(0), _INT(1)
        found = (outside(builder, name, ir.FunctionType(_SHORT, [])) for name in _NUMBERS)
        number, count = (builder.zext(builder.call(function, []), _INT) for function in found)
        return number, count

    def _global_number(self, builder: Any) -> Any:
        found = outside(builder, "__kmpc_global_thread_num", ir.FunctionType(_SHORT, [_ADDRESS]))
        return builder.call(found, [self._caller(builder)])

    def _caller(self, builder: Any) -> Any:
        module, name = builder.module, "caller"
        if name not in module.globals:
            text = bytearray(b";unknown;unknown;0;0;;\0")
            place: Any = ir.GlobalVariable(module, ir.ArrayType(ir.IntType(8), len(text)), "place")
            place.initializer, place.global_constant = ir.Constant(place.value_type, text), True
            caller: Any = ir.GlobalVariable(module, _CALLER, name)
            caller.initializer = ir.Constant(_CALLER, [_SHORT(0), _SHORT(2), _SHORT(0), _SHORT(0), place])
        return module.globals[name]


def _started(builder: Any, task: Any) -> Any:
    """What LLVM's OpenMP calls on each thread: it passes two numbers of the thread before the argument."""
    name = f"{task.name} started"
    if name not in builder.module.globals:
        function = ir.Function(builder.module, ir.FunctionType(_VOID, [_ADDRESS, _ADDRESS, _INT]), name)
        inner = ir.IRBuilder(function.append_basic_block())
        inner.call(task, [function.args[2]])
        inner.ret_void()
    return builder.module.globals[name]


def _kind(*arguments: Any) -> Any:
    return ir.FunctionType(_VOID, arguments)


def outside(builder: Any, name: str, kind: Any) -> Any:
    """A function of this type that is LLVM's or a library's."""
    return builder.module.globals.get(name) or ir.Function(builder.module, kind, name)


@cache
def torch_threads() -> Threads:
    """Those of torch's package."""
    site = Path(torch.__file__).parent.parent
    files = [file for folder in _FOLDERS for name in _FILES for file in sorted((site / folder).glob(name))]
    for file in files:
        with suppress(OSError):
            library = ctypes.CDLL(str(file))
            for names in (_GNU, _LLVM):
                with suppress(AttributeError):
                    return Threads({name: _address(library, name) for name in names})
    return Threads({})


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
