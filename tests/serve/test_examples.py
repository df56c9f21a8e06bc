"""The examples of tutorials/server.md, as they stand, against a server with the tiny model."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from places import ROOT
from serving import Running, Serving

PAGE = (ROOT / "tutorials" / "server.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.S | re.M)


def here(text: str, server: Running) -> str:
    """With this server's address and model, whose layers are few."""
    text = text.replace("http://127.0.0.1:8321", server.url).replace("smollm2", server.service.base)
    return text.replace(":16:", ":2:").replace("happy 16", "happy 2")


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
