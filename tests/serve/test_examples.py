"""The examples of tutorials/server.md, as they stand, against a server with the tiny model."""

from __future__ import annotations

import json
import subprocess

import pytest
from serving import Serving, blocks, here


def test_the_lines_for_python_steer(serving: Serving, capsys: pytest.CaptureFixture[str]):
    server = serving()
    [code] = blocks("python")
    exec(here(code, server), {})
    [stored] = server.service.store.pairs()
    assert stored.pair.steered is not None and capsys.readouterr().out.rstrip("\n") == stored.pair.steered.text


@pytest.mark.subprocess
def test_the_line_for_curl_compares(serving: Serving):
    server = serving()
    [line] = [block for block in blocks("sh") if block.startswith("curl")]
    done = subprocess.run(["bash", "-c", here(line, server)], capture_output=True, text=True, check=True)
    answered = json.loads(done.stdout)
    assert len(answered["choices"]) == 2 and answered["steerchat"]["effect"] is not None


def test_every_line_of_the_page_is_known_here():
    starts = ("pip install -e '.[serve]'", "steerchat serve", "STEERCHAT_TOKEN=", "curl ", '  "m')
    assert all(line.startswith(starts) for block in blocks("sh") for line in block.splitlines())
