"""huggingface_hub against a Hub on this machine: files are fetched once, and errors say what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub import COMMIT, Hub
from places import ROOT
from tiny import rows, write_concepts

pytestmark = pytest.mark.subprocess

HYBRID = {
    "model_type": "qwen3_next",
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
}
DEAD = "http://127.0.0.1:9"
WANTED = {
    *("config.json", "generation_config.json", "chat_template.jinja"),
    *("tokenizer.json", "tokenizer_config.json", "model.safetensors"),
}
FIND = """
import json, sys
from steerchat.models.find import find
from steerchat.values.errors import SteerchatError
from steerchat.values.results import Progress
bytes = []
def told(event):
    if isinstance(event, Progress):
        bytes.append((event.done, event.total))
names = [word for word in sys.argv[1:] if word != "--code"]
for name in names:
    bytes.clear()
    try:
        files = find(name, progress=told, code="--code" in sys.argv)
        print(json.dumps({"path": str(files.path), "fingerprint": files.fingerprint, "bytes": bytes}))
    except SteerchatError as error:
        print(json.dumps({"message": error.message, "hint": error.hint}))
"""
SHELL = """
import sys
from steerchat.system import folders
from steerchat.terminal import cli
folders.packaged = lambda name: shipped
sys.exit(cli.main())
"""
Find = Callable[..., dict[str, Any]]
FindAll = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def hub(tiny_folder: Path, tmp_path: Path) -> Iterator[Hub]:
    """A Hub with an open and a gated model of many files, and one that is larger than a client's buffer."""
    many, large, pickled, hybrid = (tmp_path / "served" / name for name in ("many", "large", "pickled", "hybrid"))
    for folder in (many, large, pickled, hybrid):
        folder.mkdir(parents=True)
    for file in tiny_folder.iterdir():
        (many / file.name).write_bytes(file.read_bytes())
    (many / "onnx").mkdir()
    for name in ("pytorch_model.bin", "own.py", "README.md", "onnx/model.safetensors", "consolidated.safetensors"):
        (many / name).write_bytes(b"unwanted")
    (large / "config.json").write_text("{}")
    for number in "12":
        (large / f"model-{number}.safetensors").write_bytes(os.urandom(1 << 20) * 24)
    shards = {"weight_map": {number: f"model-{number}.safetensors" for number in "12"}}
    (large / "model.safetensors.index.json").write_text(json.dumps(shards))
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"never read")
    (hybrid / "config.json").write_text(json.dumps(HYBRID))
    (hybrid / "model.safetensors").write_bytes(b"never fetched")
    models = {"org/hybrid": hybrid, "org/tiny": many, "org/shut": many, "org/large": large, "org/pickled": pickled}
    with Hub(models, gated={"org/shut"}) as here:
        yield here


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "STEERCHAT_HOME": str(tmp_path / "home")}
    return {**kept, **own, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}


@pytest.fixture
def find_all(environment: dict[str, str]) -> FindAll:
    """`models.find` of several models in a process of its own: the client reads its environment once."""

    def find_all(*arguments: str, **changes: str) -> list[dict[str, Any]]:
        command = [sys.executable, "-c", FIND, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment | changes, timeout=120)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return find_all


@pytest.fixture
def find(find_all: FindAll) -> Find:
    """The same of one model."""
    return lambda *arguments, **changes: find_all(*arguments, **changes)[0]


@pytest.mark.slow
def test_a_model_is_fetched_once_and_then_taken_from_the_cache(find: Find, hub: Hub) -> None:
    found = find("org/tiny")
    assert found["fingerprint"] == f"org/tiny@{COMMIT}"
    assert sorted(path for path, _, _ in hub.fetched) == sorted(WANTED)
    assert {path.name for path in Path(found["path"]).iterdir()} == WANTED
    # The configuration is read before the rest is fetched.
    total = sum(sent for path, _, sent in hub.fetched if path != "config.json")
    assert found["bytes"][-1] == [total, total] and len(found["bytes"]) > 3
    done = [one for one, _ in found["bytes"]]
    assert done == sorted(done)
    asked = hub.asked
    for changes in ({}, {"HF_ENDPOINT": DEAD}, {"HF_HUB_OFFLINE": "1"}):
        assert find("org/tiny", **changes) == {**found, "bytes": []}
    assert hub.asked == asked, "a cached model asks the Hub nothing"
    # Its code comes when it is wanted, and nothing else a second time.
    hub.fetched.clear()
    find("org/tiny", "--code")
    assert [path for path, _, _ in hub.fetched] == ["own.py"]


@pytest.mark.slow
def test_a_cache_that_another_program_filled_is_used_as_it_is(
    find: Find, hub: Hub, environment: dict[str, str]
) -> None:
    code = "import huggingface_hub as hub; print(hub.snapshot_download('org/tiny'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    asked = hub.asked
    assert find("org/tiny")["path"] == done.stdout.strip()
    assert hub.asked == asked


@pytest.mark.slow
def test_a_connection_that_breaks_goes_on_where_it_stood(find: Find, hub: Hub) -> None:
    hub.breaks = "model-2.safetensors"
    found = find("org/large")
    (_, begun, _), (_, first, sent) = [one for one in hub.fetched if one[0] == "model-2.safetensors"]
    # What the client had written by then is not sent again; it writes in pieces of ten megabytes.
    assert begun == 0 and first >= 10 << 20 and first + sent == 24 << 20
    served = (hub.models["org/large"] / "model-2.safetensors").read_bytes()
    assert (Path(found["path"]) / "model-2.safetensors").read_bytes() == served
    total = sum(file.stat().st_size for file in hub.models["org/large"].iterdir() if file.name != "config.json")
    assert found["bytes"][-1] == [total, total]


@pytest.mark.slow
def test_after_a_killed_download_files_that_came_whole_are_kept(
    find: Find, hub: Hub, environment: dict[str, str]
) -> None:
    hub.stall = "model-2.safetensors"
    client = subprocess.Popen([sys.executable, "-c", FIND, "org/large"], env=environment, stdout=subprocess.PIPE)
    assert hub.halfway.wait(120)
    cache = Path(environment["HF_HOME"]) / "hub" / "models--org--large"
    first = cache / "snapshots" / COMMIT / "model-1.safetensors"
    for _ in range(600):
        if first.exists():
            break
        time.sleep(0.1)
    client.kill()
    client.communicate()
    # What is there by now is no model yet.
    assert "cannot be reached" in find("org/large", HF_ENDPOINT=DEAD)["message"]
    hub.stall = ""
    hub.fetched.clear()
    find("org/large")
    assert [path for path, _, _ in hub.fetched if path.endswith(".safetensors")] == ["model-2.safetensors"]


@pytest.mark.slow
def test_each_refusal_says_what_to_do(find: Find, find_all: FindAll, hub: Hub) -> None:
    shut, missing, unrevised, pickled, hybrid = find_all(
        "org/shut", "org/none", "org/tiny@v9", "org/pickled", "org/hybrid"
    )
    assert "its terms have to be accepted" in shut["message"] and "hf auth login" in shut["hint"]
    assert missing["message"] == "the Hub has no model org/none" and "spelling" in missing["hint"]
    assert "no such revision" in unrevised["message"]
    assert "no safetensors weights" in pickled["message"] and "never read" in pickled["hint"]
    # A model with other layers than attention is refused before its weights are fetched.
    assert hybrid["message"].startswith("org/hybrid has layers of the kind linear_attention")
    assert "such as Llama" in hybrid["hint"]
    assert {path for path, _, _ in hub.fetched} == {"config.json"}
    assert find("org/shut", HF_TOKEN=hub.token)["fingerprint"] == f"org/shut@{COMMIT}"
    for changes in ({"HF_ENDPOINT": DEAD}, {"HF_HUB_OFFLINE": "1"}):
        offline = find("org/large", **changes)
        assert "not on this machine" in offline["message"] and "hf download org/large" in offline["hint"]
    assert not any(path.endswith(".bin") for path, _, _ in hub.fetched)


@pytest.mark.slow
def test_from_the_hub_to_a_logged_pair(hub: Hub, environment: dict[str, str], tmp_path: Path) -> None:
    shipped = write_concepts(tmp_path / "shipped")
    code = f"from pathlib import Path\nshipped = Path({str(shipped)!r})\n" + SHELL
    line = ["--model", "org/tiny", "--device", "cpu", "--max-tokens", "6", "compare", "--steer", "happy 2 4.0", "Well?"]
    command = [sys.executable, "-c", code, *line, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "fetching org/tiny" in done.stderr
    pair = json.loads(done.stdout)
    assert pair["model"] == "tiny" and pair["steered"]["text"] != pair["normal"]["text"]
    (row,) = rows(tmp_path / "home" / "history.db", "SELECT fingerprint FROM pairs")
    assert row["fingerprint"] == f"org/tiny@{COMMIT}"
