"""What steerchat is compared with: transformers' own generate, in a process that steerchat never touches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..models.find import find
from ..system.threads import without_defaults
from ..values.errors import ModelError

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..engine.sampling import Sampling


class Generate:
    """The process, started on entering and ended on leaving.

    Args:
        engine: what is compared with it: it gets the same device, precision and number of threads.

    Attributes:
        versions: of what it runs on, once it is entered.
        dtype: how it holds the weights.

    Raises (on entering, and from `seconds`):
        ModelError: it cannot load the model, or ended.
    """

    def __init__(self, model: str, engine: Engine) -> None:
        files = find(model, progress=lambda event: None)
        self.versions: dict[str, str] = {}
        self.dtype = str(engine.model.dtype).removeprefix("torch.")
        program = str(Path(__file__).with_name("baseline.py"))
        self._command = [sys.executable, "-P", program, str(files.gguf or files.path), str(engine.device), self.dtype]
        self._command += [str(engine.threads or 1)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        # A session of its own: Ctrl-C is for steerchat, which ends this one.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**without_defaults(os.environ), "HF_HUB_OFFLINE": "1"},
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
        """Seconds a token of one answer, the reading of its prompt included."""
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
        raise ModelError(
            f"transformers alone, which steerchat is compared with, ended: {errors[-1]}", "bench needs memory for both"
        )
