"""What steerchat is compared with: other programs that answer, each in a process that steerchat never touches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..models.find import find
from ..system.threads import without_defaults
from ..values.errors import ModelError

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..engine.sampling import Sampling
    from ..system.settings import Settings


# What bench does not do without.
BASELINE = "generate"


def others(model: str, engine: Engine) -> dict[str, OtherProgram]:
    """What there is on this machine to compare an engine with, by the name in figures.

    transformers gets the same device, precision and number of threads; llama.cpp, where its package for Python is
    installed and the model is a GGUF, the same file and number of threads.
    """
    files = find(model, progress=lambda event: None)
    threads, dtype = str(engine.threads or 1), str(engine.model.dtype).removeprefix("torch.")
    device = str(engine.device)
    path = str(files.gguf or files.path)
    here = Path(__file__).parent
    command = [str(here / "baseline.py"), path, device, dtype, threads]
    programs = {BASELINE: OtherProgram("transformers alone", command)}
    if files.gguf is not None and device == "cpu" and find_spec("llama_cpp") is not None:
        programs["llama_cpp"] = OtherProgram("llama.cpp", [str(here / "baseline_llama.py"), path, threads])
    return programs


def another(settings: Settings) -> OtherProgram:
    """Another steerchat with these settings, which answers pair after pair until it is left."""
    command = ["-m", "steerchat.experiments.another", settings.model, settings.device, settings.dtype]
    return OtherProgram("another steerchat", command)


def start_seconds(settings: Settings) -> float:
    """Of another steerchat: from nothing to an answer that needs the model in memory, and out again.

    Raises ModelError when it does not start.
    """
    command = [sys.executable, "-P", "-m", "steerchat", "--model", settings.model]
    command += ["--device", settings.device, "--dtype", settings.dtype]
    lines = b"/steer random 0 1\n/quit\n"
    started = time.perf_counter()
    done = subprocess.run(command, input=lines, capture_output=True, env=_environment())
    seconds = time.perf_counter() - started
    if done.returncode:
        errors = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise ModelError(f"another steerchat did not start: {errors[0]}", "does `steerchat` alone work?")
    return seconds


def _environment() -> dict[str, str]:
    """Of another steerchat: it finds this one's package."""
    here = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}


class OtherProgram:
    """The process, started on entering and ended on leaving.

    Args:
        name: what errors call it.
        arguments: of Python. The program prints a line of its versions when it is ready, then one for each task that it
            reads.

    Attributes:
        versions: of what it runs on, once it is entered.

    Raises (on entering, and from `seconds`):
        ModelError: it cannot load the model, or ended.
    """

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.versions: dict[str, str] = {}
        self._name = name
        self._command = [sys.executable, "-P", *arguments]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        # A session of its own: Ctrl-C is for steerchat, which ends this one.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**without_defaults(_environment()), "HF_HUB_OFFLINE": "1"},
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        try:
            self.versions = self._read()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def seconds(self, prompt: Sequence[int], sampling: Sampling, seed: int) -> float:
        """Seconds of a token of one answer, the reading of its prompt included."""
        assert self._process is not None and self._process.stdin is not None
        options = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "repetition_penalty": sampling.repetition_penalty,
            "max_new_tokens": sampling.max_tokens,
        }
        task = {"prompt": list(prompt), "seed": seed, "sampling": options}
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it ended; why, is read below
        report = self._read()
        return report["seconds"] / max(1, report["tokens"])

    def _read(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        errors = self._process.communicate()[1].strip().splitlines() or ["it said nothing"]
        if (code := self._process.returncode) < 0:
            errors = [f"by signal {-code}, {signal.strsignal(-code)}"]
        raise ModelError(
            f"{self._name}, which steerchat is compared with, ended: {errors[-1]}", "bench needs memory for both"
        )
