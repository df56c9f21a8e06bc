"""Vector files that are hostile or damaged."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from tiny import LAYERS

HIDDEN = 64


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def gguf_string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


GGUF_ARCH = gguf_string("general.architecture") + struct.pack("<I", 8) + gguf_string("controlvector")
ROW = np.ones(HIDDEN, np.float32).tobytes()
F32 = {"dtype": "F32", "shape": [HIDDEN], "data_offsets": [0, len(ROW)]}


def gguf_tensor(name: str, dims: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    packed = struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", n) for n in dims)
    return gguf_string(name) + packed + struct.pack("<IQ", kind, offset)


def gguf_file(
    tensors: Sequence[bytes], data: bytes, fields: bytes = GGUF_ARCH, n_fields: int = 1, n: int = -1
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors) if n < 0 else n, n_fields) + fields + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


HUGE = 1 << 62
HOSTILE: dict[str, bytes] = {
    "empty.npy": b"",
    "short.npy": b"\x93NUM",
    "cut.npy": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({HIDDEN},), }}", ROW[:-8]),
    "huge-shape.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,), }", ROW),
    "negative.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-64,), }", ROW),
    "code.npy": npy("__import__('os').mkdir('pwned')"),
    "objects.npy": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", pickle.dumps([1])),
    "integers.npy": npy(f"{{'descr': '<i4', 'fortran_order': False, 'shape': ({HIDDEN},), }}", ROW),
    "small.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (63,), }", ROW[:-4]),
    "cube.npy": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, {HIDDEN}), }}", ROW),
    "scalar.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", ROW[:4]),
    "embeddings.npy": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': (5, {HIDDEN}), }}", ROW * 5),
    "nan.npy": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({HIDDEN},), }}", ROW[:-4] + b"\0\0\xc0\x7f"),
    "infinite.npy": npy(
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({HIDDEN},), }}", b"\0\0\x80\x7f" + ROW[4:]
    ),
    "overflow.npy": npy(
        f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({HIDDEN},), }}", np.full(HIDDEN, 1e300).tobytes()
    ),
    "too-long.npy": npy(
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({HIDDEN},), }}",
        np.full(HIDDEN, 3e38, np.float32).tobytes(),
    ),
    "zeros.npy": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({HIDDEN},), }}", b"\0" * len(ROW)),
    "empty.safetensors": b"",
    "huge-header.safetensors": struct.pack("<Q", HUGE) + b"{}",
    "cut-header.safetensors": safetensors({"v": F32}, ROW)[:30],
    "cut-data.safetensors": safetensors({"v": F32}, ROW)[:-9],
    "huge-shape.safetensors": safetensors({"v": F32 | {"shape": [HUGE, HUGE]}}, ROW),
    "wrong-offsets.safetensors": safetensors({"v": F32 | {"data_offsets": [0, HUGE]}}, ROW),
    "integers.safetensors": safetensors({"v": F32 | {"dtype": "I32"}}, ROW),
    "small.safetensors": safetensors({"v": F32 | {"shape": [32], "data_offsets": [0, 128]}}, ROW[:128]),
    "none.safetensors": safetensors({}),
    "nan.safetensors": safetensors({"v": F32}, b"\0\0\xc0\x7f" + ROW[4:]),
    "two.safetensors": safetensors({"a": F32, "b": F32 | {"data_offsets": [len(ROW), 2 * len(ROW)]}}, ROW * 2),
    "ours-in-name.safetensors": safetensors({"__metadata__": {"format": "steerchat-concept-1"}, "v": F32}, ROW),
    "ours-deep.safetensors": safetensors(
        {
            "__metadata__": {"format": "steerchat-concept-1", "report": "[" * 100_000},
            "directions": F32 | {"shape": [1, HIDDEN]},
            "raw_lengths": F32 | {"shape": [1], "data_offsets": [len(ROW), len(ROW) + 4]},
        },
        ROW + ROW[:4],
    ),
    "text.safetensors": b"This is not a vector at all.",
    "short.gguf": b"GGUF",
    "no-tensors.gguf": gguf_file([], b""),
    "version.gguf": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
    "many-fields.gguf": gguf_file([gguf_tensor("direction.1", [HIDDEN])], ROW, n_fields=HUGE),
    "many-tensors.gguf": gguf_file([gguf_tensor("direction.1", [HIDDEN])], ROW, n=HUGE),
    "long-string.gguf": gguf_file([], b"", fields=struct.pack("<Q", HUGE) + b"x"),
    "long-array.gguf": gguf_file([], b"", fields=gguf_string("a") + struct.pack("<IIQ", 9, 0, HUGE)),
    "no-arch.gguf": gguf_file([gguf_tensor("direction.1", [HIDDEN])], ROW, fields=b"", n_fields=0),
    "a-model.gguf": gguf_file([], b"", fields=GGUF_ARCH.replace(gguf_string("controlvector"), gguf_string("llama"))),
    "cut.gguf": gguf_file([gguf_tensor("direction.1", [HIDDEN])], ROW)[:-5],
    "huge-shape.gguf": gguf_file([gguf_tensor("direction.1", [HUGE])], ROW),
    "overflow-shape.gguf": gguf_file([gguf_tensor("direction.1", [1 << 32, 1 << 32])], ROW),
    "far.gguf": gguf_file([gguf_tensor("direction.1", [HIDDEN], offset=HUGE)], ROW),
    "small.gguf": gguf_file([gguf_tensor("direction.1", [32])], ROW),
    "square.gguf": gguf_file([gguf_tensor("direction.1", [HIDDEN, LAYERS])], ROW * LAYERS),
    "quantised.gguf": gguf_file([gguf_tensor("direction.1", [HIDDEN], kind=8)], ROW),
    "unknown-type.gguf": gguf_file([gguf_tensor("direction.1", [HIDDEN], kind=9999)], ROW),
    "beyond.gguf": gguf_file([gguf_tensor("direction.4", [HIDDEN])], ROW),
    "twice.gguf": gguf_file([gguf_tensor("direction.1", [HIDDEN])] * 2, ROW),
    "name.gguf": gguf_file([gguf_tensor("direction.-1", [HIDDEN])], ROW),
    "nan.gguf": gguf_file([gguf_tensor("direction.1", [HIDDEN])], b"\0\0\xc0\x7f" + ROW[4:]),
    "enormous.npy": b"\x93NUMPY" + b"\0" * 8_000_000,
}
