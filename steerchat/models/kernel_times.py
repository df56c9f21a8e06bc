"""What earlier loads of a model have found out and prepared on this machine, kept for the next start.

Beside the models in the cache lies a file per model, with a record for each machine that used it: a home folder may
be shared, and times of another CPU, another torch or another number of threads mislead. Prepared weights lie in a file
of their own, in the order that this machine's products want.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
import psutil
import torch
from torch import Tensor

from ..engine.backends import ALIGNED, BACKENDS
from ..engine.cores import OtherPrograms
from ..engine.kernels import Forms
from ..engine.linear import ROWS, FastLinear, Kind, Times
from ..engine.timing import measure
from ..engine.transformers_api import transformers
from ..system.folders import cache_dir, replacing, write_whole
from ..system.untrusted import claimed_header
from ..values.errors import SteerchatError

# Bytes of float32 weights below which a model is quick by any product.
_TINY = 8 * 1024 * 1024
# The metadata that makes a header longer.
_PADDING = "padding"
# Prepared weights are kept where the disk has so many times their size free.
_ROOM = 4
# Share of the cores' time that other programs took while products were timed. Above it, later starts measure again, so
# often at most: a machine may always be this busy.
_BUSY, _TRIES = 0.25, 3


class MachineRecord:
    """What this machine's earlier loads of a model have found out.

    Args:
        fingerprint: the model's.
        measured: times products.

    Attributes:
        lean: whether lean blocks and a lean decoder computed what the model's own do.
    """

    def __init__(self, fingerprint: str, measured: Callable[[Sequence[FastLinear]], Times] = measure) -> None:
        depends_on = machine() | {"products": sorted(backend.name for backend in BACKENDS)}
        self._path, self._key = _path(fingerprint), json.dumps(depends_on, sort_keys=True)
        digest = hashlib.sha256(self._key.encode()).hexdigest()[:16]
        self._prepared = self._path.with_name(f"{self._path.stem}-{digest}.safetensors")
        self._measured = measured
        self._times: Times = {}
        self.lean = False
        self._busy, self._tries = math.inf, 0
        with suppress(KeyError, TypeError, ValueError, AttributeError):  # no record of this machine that can be read
            record = _read(self._path)[self._key]
            self.lean = record["lean decoder"] is True
            self._times = _parsed(record["times"])
            self._busy, self._tries = float(record["busy"]), int(record["tries"])

    def times(self, layers: Sequence[FastLinear]) -> Times:
        """How quick each backend is: as kept, or measured now and kept.

        Nothing for a model too small to matter, or on a machine too busy to measure.
        """
        if sum(layer.in_features * layer.out_features * 4 for layer in layers) < _TINY:
            return {}
        known = all(layer.kind in self._times for layer in layers)
        if known and (self._busy <= _BUSY or self._tries >= _TRIES):
            return self._times
        others = OtherPrograms()
        times = self._measured(layers)
        busy = others.share()
        if not times or (known and busy >= self._busy):
            times, busy = (self._times, self._busy) if known else ({}, busy)
        if times:
            by_kind = {"x".join(map(str, kind)): dict(seconds) for kind, seconds in times.items()}
            record = {"lean decoder": self.lean, "busy": round(busy, 3), "tries": self._tries + 1, "times": by_kind}
            with suppress(SteerchatError):  # a cache that cannot be written costs a measurement at every start
                write_whole(self._path, json.dumps(_read(self._path) | {self._key: record}, indent=1).encode())
        return times

    def forms(self) -> Forms:
        """The weights that an earlier start prepared with this record's libraries, read when they are used."""
        from safetensors import SafetensorError, safe_open

        parts: dict[tuple[int, str], dict[int, Tensor]] = {}
        try:
            with safe_open(self._prepared, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  # the file itself is no iterable
                    number, backend, part = name.split()
                    parts.setdefault((int(number), backend), {})[int(part)] = file.get_tensor(name)
            return {key: (pair[0], pair[1]) for key, pair in parts.items()}
        except (OSError, SafetensorError, ValueError, KeyError):
            return {}  # they are prepared again

    def keep_forms(self, forms: Forms) -> None:
        """Keep prepared weights for the next start, in place of those for other libraries, where the disk has room."""
        from safetensors.torch import save_file

        tensors = {
            f"{number} {name} {part}": tensor
            for (number, name), pair in forms.items()
            for part, tensor in enumerate(pair)
        }
        size = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
        with suppress(OSError, SteerchatError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if size < _TINY or psutil.disk_usage(str(self._path.parent)).free < _ROOM * size:
                return
            _forget_forms(self._path)
            with replacing(self._prepared) as temporary:
                save_file(tensors, temporary, {_PADDING: ""})
                # The tensors follow the header, whose length has to leave them where products can read them.
                if beyond := (8 + claimed_header(temporary)) % ALIGNED:
                    save_file(tensors, temporary, {_PADDING: " " * (ALIGNED - beyond)})


def forget_times(fingerprint: str) -> None:
    """Let the next start measure this model again, on every machine."""
    path = _path(fingerprint)
    with suppress(OSError):
        path.unlink(missing_ok=True)
        _forget_forms(path)


def _forget_forms(path: Path) -> None:
    for prepared in path.parent.glob(f"{path.stem}-*.safetensors"):
        prepared.unlink(missing_ok=True)


def machine() -> dict[str, Any]:
    """What a record depends on beside the model: CPU, instruction sets, libraries, threads."""
    return {
        "cpu": cpu_name(),
        "instructions": instructions(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "llvmlite": llvmlite.__version__,
        "threads": torch.get_num_threads(),
    }


def cpu_name() -> str:
    """The CPU's name, with its stepping where the system tells it: many virtual machines say no more than Xeon."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return platform.processor() or platform.machine()
    values = dict(re.findall(r"^([\w ]+?)\s*: *(.*)$", text, re.MULTILINE))
    numbers = [values[name] for name in ("cpu family", "model", "stepping") if name in values]
    return " ".join([values.get("model name", platform.machine()), *(["/".join(numbers)] if numbers else [])])


def instructions() -> str:
    """The instruction sets that matter to products, as torch sees them."""
    labels = [torch.backends.cpu.get_cpu_capability()]
    for name, label in (("_is_avx512_bf16_supported", "AVX512-BF16"), ("_is_amx_tile_supported", "AMX")):
        if getattr(torch.cpu, name, bool)():
            labels.append(label)
    return " ".join(labels)


def _path(fingerprint: str) -> Path:
    return cache_dir() / "kernels" / f"{re.sub(r'[^0-9A-Za-z]', '', fingerprint)[:32] or 'model'}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        records = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return records if isinstance(records, dict) else {}


def _parsed(times: Any) -> dict[Kind, dict[str, list[float]]]:
    """Raises ValueError, TypeError or AttributeError for anything that is no record."""
    parsed: dict[Kind, dict[str, list[float]]] = {}
    for name, backends in times.items():
        out, size, bits = map(int, name.split("x"))
        parsed[out, size, bits] = {
            str(name): [float(second) for second in seconds] for name, seconds in backends.items()
        }
        if any(len(seconds) != len(ROWS) for seconds in parsed[out, size, bits].values()):
            raise ValueError("a record of other numbers of rows")
    return parsed
