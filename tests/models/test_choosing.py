"""Choosing a model: what is installed, what fits into memory, what is used instead, and what a switch frees."""

from __future__ import annotations

import gc
import json
import re
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from chats import Shell
from tiny import finish, save_model, tiny_tokenizer, write_concepts

from steerchat.conversation.chat import Chat
from steerchat.engine.engine import Engine
from steerchat.engine.kernels import Kernels
from steerchat.models import find as models
from steerchat.models import load as loading
from steerchat.models import memory
from steerchat.models.background import Loader
from steerchat.models.catalogue import KNOWN
from steerchat.models.find import ModelFiles, find
from steerchat.models.installed import model_choices, suggestion
from steerchat.models.load import load
from steerchat.slash.registry import registry
from steerchat.system import folders
from steerchat.system.settings import load_settings
from steerchat.values.errors import ModelError, TooLarge
from steerchat.values.recipe import parse_term
from steerchat.values.results import Notice, Progress

Open = Callable[..., Chat]


@pytest.fixture
def open_chat(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """A chat on the tiny model; its notices are in `said`."""
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path / "home"))
    shipped = write_concepts(tmp_path / "shipped")
    monkeypatch.setattr(folders, "packaged", lambda name: shipped)

    def open_(ask: Callable[[str, Sequence[str]], str] | None = None, **options: str) -> Chat:
        given = {"model": str(tiny_folder), "device": "cpu", "max_tokens": "6"} | options
        said: list[str] = []

        def report(event: Notice | Progress) -> None:
            if isinstance(event, Notice):
                said.append(event.text)

        chat = Chat(load_settings(given), registry, report, ask)
        chat.said = said  # type: ignore[attr-defined]
        return chat.start()

    return open_


@pytest.fixture
def other_folder(tmp_path: Path) -> Path:
    """Another architecture, with fewer layers."""
    tokenizer = tiny_tokenizer()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=256, eos_token_id=2
    )
    torch.manual_seed(1)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def grown(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(loading, "free_memory", lambda device: free)


# Estimates


@pytest.mark.parametrize(("dtype", "itemsize"), [("float32", 4), ("bfloat16", 2)])
def test_the_estimate_is_the_size_of_the_loaded_weights(tiny_folder: Path, dtype: str, itemsize: int) -> None:
    found = find(str(tiny_folder), progress=print)
    assert memory.needs(found, memory.Precision(itemsize)).weights == load(found, "cpu", dtype).size


def test_what_a_pair_takes_is_counted(tiny_folder: Path) -> None:
    found = find(str(tiny_folder), progress=print)
    # Of each of 2 x 1024 tokens: keys and values of 2 heads of 16 in 4 layers, and a block's activations, 64 wide.
    assert memory.needs(found, memory.Precision(4)).beside == 2048 * (4 * 2 * 16 * 2 + 16 * 64) * 4


def test_the_default_models_parameters_are_known_before_it_is_fetched() -> None:
    assert memory.smaller(KNOWN["mistral"].parameters, 2, 10**10) == "qwen3-4b"
    assert memory.smaller(KNOWN["mistral"].parameters, 2, 10**9) == "smollm2-360m"
    assert memory.smaller(KNOWN["smollm2"].parameters, 2, 10**10) is None
    assert memory.smaller(KNOWN["mistral"].parameters, 2, 10**6) is None


# What does not fit


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find(str(tiny_folder), progress=print)
    grown(monkeypatch, 100_000)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("was read"))
    with pytest.raises(TooLarge, match=r"needs \d+ MB of memory in float32, and 0 MB may be used") as raised:
        load(found, "cpu", "float32")
    assert "--dtype int4 needs" in raised.value.hint and "--offload" in raised.value.hint


def test_an_alias_that_would_not_fit_is_not_fetched(open_chat: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    grown(monkeypatch, 20 * 10**9)
    monkeypatch.setattr(models, "_cached", lambda snapshot: None)
    monkeypatch.setattr(models, "_download", lambda *arguments: pytest.fail("was fetched"))
    chat = open_chat(model="mistral", dtype="float32")
    with pytest.raises(TooLarge, match=r"mistral needs 29\.0 GB") as raised:
        _ = chat.session.engine
    assert raised.value.smaller == "qwen3-4b" and "--fallback" in raised.value.hint


@pytest.fixture
def smaller_is_tiny(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """One model that runs out of memory while it is loaded, and the tiny one as what is taken instead."""
    name = str(tiny_folder)
    real = transformers.AutoModelForCausalLM.from_pretrained

    def from_pretrained(path: Path, **options: object) -> object:
        if path.name == "other":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return real(path, **options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(memory, "smaller", lambda *arguments: name)
    return name


def test_out_of_memory_in_a_script_is_an_error_without_fallback(
    open_chat: Open, other_folder: Path, smaller_is_tiny: str
) -> None:
    chat = open_chat(model=str(other_folder))
    for _ in range(2):
        with pytest.raises(TooLarge, match="other needs"):
            finish(chat.session.say("Hello?"))


def test_with_fallback_the_smaller_one_answers_and_it_is_said(
    open_chat: Open, other_folder: Path, smaller_is_tiny: str
) -> None:
    chat = open_chat(model=str(other_folder), fallback="on")
    assert finish(chat.session.say("Hello?")).model == "tiny"
    assert any("is loaded instead" in text for text in chat.said)  # type: ignore[attr-defined]
    assert chat.settings.model == smaller_is_tiny


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_at_a_terminal_the_smaller_one_is_offered(
    open_chat: Open, other_folder: Path, smaller_is_tiny: str, answer: str
) -> None:
    asked: list[str] = []

    def ask(question: str, choices: Sequence[str]) -> str:
        asked.append(question)
        return answer

    chat = open_chat(ask, model=str(other_folder))
    if answer == "yes":
        assert chat.session.engine.name == "tiny"
    else:
        with pytest.raises(TooLarge):
            _ = chat.session.engine
    assert len(asked) == 1 and "instead?" in asked[0]


# Switching


@pytest.mark.slow
def test_the_conversation_goes_on_with_another_model_and_its_own_vectors(open_chat: Open, other_folder: Path) -> None:
    chat = open_chat()
    chat.session.steer([parse_term("happy 1 3.0")])
    first = finish(chat.session.say("One?"))
    chat.switch_model(str(other_folder))
    second = finish(chat.session.say("Two?"))
    assert (first.model, second.model) == ("tiny", "other")
    assert [turn.prompt for turn in chat.session.turns] == ["One?", "Two?"]
    engine = chat.session.engine
    assert chat.library.vector("happy", engine).hidden == 32
    assert second.steered is not None and second.effect is not None


def test_a_switch_that_fails_leaves_the_model_at_hand(open_chat: Open) -> None:
    chat = open_chat()
    before = chat.session.engine
    with pytest.raises(ModelError):
        chat.switch_model("./nowhere.gguf")
    assert chat.session.engine is before and finish(chat.session.say("Still there?")).model == "tiny"


@pytest.mark.slow
def test_a_switch_before_the_first_model_is_loaded_loads_one_at_a_time(
    open_chat: Open, other_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, begun, go_on = [0], threading.Event(), threading.Event()
    real = transformers.AutoModelForCausalLM.from_pretrained

    def from_pretrained(*args: Any, **options: Any) -> object:
        at_work.append(at_work[-1] + 1)
        begun.set()
        go_on.wait(10)
        try:
            return real(*args, **options)
        finally:
            at_work.append(at_work[-1] - 1)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    chat = open_chat()
    chat.loader.start()
    waits = Loader(str(save_model(tmp_path / "waits")), chat.settings).start()
    assert begun.wait(10)
    threading.Timer(0.2, go_on.set).start()
    chat.switch_model(str(other_folder))
    assert finish(chat.session.say("One?")).model == "other"
    assert waits.wait().name == "waits" and max(at_work) == 1


def test_a_model_that_is_put_away_before_its_turn_is_not_loaded(
    open_chat: Open, other_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = open_chat()
    loaded: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def load(found: ModelFiles, *args: Any, **options: Any) -> Engine:
        begun.set()
        go_on.wait(10)
        loaded.append(found.name)
        return chat.session.engine

    chat.session.engine  # noqa: B018
    monkeypatch.setattr(loading, "load", load)
    first, late = (Loader(str(other_folder), chat.settings) for _ in range(2))
    first.start()
    assert begun.wait(10)
    late.start().drop()
    go_on.set()
    with pytest.raises(ModelError, match="unloaded"):
        late.wait()
    assert first.wait() is chat.session.engine and loaded == ["other"]


def test_a_model_that_would_not_fit_alone_either_puts_nothing_away(
    open_chat: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = open_chat(dtype="float32")
    before = chat.session.engine
    monkeypatch.setattr(models, "_cached", lambda snapshot: None)
    grown(monkeypatch, 10**9)
    with pytest.raises(TooLarge):
        chat.switch_model("mistral")
    assert chat.loader.ready is before


@pytest.mark.slow
def test_two_models_that_do_not_fit_at_once_take_turns(
    open_chat: Open, other_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = open_chat()
    chat.session.engine  # noqa: B018
    real = loading._placement

    def placement(name: str, *rest: object) -> object:
        if chat.loader.ready is not None:
            raise TooLarge(f"{name} needs more")
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "_placement", placement)
    chat.switch_model(str(other_folder))
    assert finish(chat.session.say("Two?")).model == "other"
    # One that fails after the other went: that one comes back.
    monkeypatch.setattr(loading, "check_kinds", lambda config, recurrent, name: name == "other" or _fail())
    with pytest.raises(ModelError, match="recurrent"):
        chat.switch_model(str(save_model(other_folder.parent / "again")))
    assert finish(chat.session.say("Three?")).model == "other"


def _fail() -> None:
    raise ModelError("recurrent")


@pytest.mark.slow
def test_twenty_switches_leave_memory_where_it_was(open_chat: Open, other_folder: Path, tiny_folder: Path) -> None:
    chat = open_chat()
    gone: list[weakref.ref] = []
    tensors: list[int] = []
    for number in range(20):
        chat.session.steer([parse_term("happy 1 3.0")])
        finish(chat.session.say(f"Number {number}?"))
        gone.append(weakref.ref(chat.session.engine.model))
        chat.switch_model(str([other_folder, tiny_folder][number % 2]))
        if number % 2:
            tensors.append(
                sum(one.nbytes for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter))
            )
    assert all(model() is None for model in gone)
    assert tensors[-1] <= tensors[1] * 1.02


# What is there


def test_the_shelf_names_files_sizes_and_needs(
    tmp_path: Path,
    other_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("STEERCHAT_MODELS", raising=False)
    cache = tmp_path / "hub"
    repository = cache / "models--some--model"
    (repository / "snapshots").mkdir(parents=True)
    other_folder.rename(repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(cache), raising=False)
    by_name = {one.name: one for one in model_choices(memory.Precision(4), tmp_path)}
    assert list(by_name) == [*KNOWN, "some/model"]
    assert by_name["mistral"].disk is None
    needs = by_name["some/model"].needs
    assert needs is not None and needs.weights > 4 * 32 * 50
    assert by_name["some/model"].disk and by_name["some/model"].disk > needs.weights


def test_a_model_with_code_of_its_own_is_refused_by_name_and_runs_when_trusted(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "coded")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "steerchat_own"
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "import pathlib\n"
        f"pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'steerchat_own'\n"
        "class Own(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    found = find(str(folder), progress=print)
    with pytest.raises(ModelError, match="its own Python code") as raised:
        load(found, "cpu", "float32")
    assert "--trust-remote-code" in raised.value.hint and not (tmp_path / "ran").exists()
    assert load(found, "cpu", "float32", code=True).n_layers == 4
    assert (tmp_path / "ran").exists()


def test_a_larger_model_is_suggested_where_it_fits_and_would_be_quick(tmp_path: Path) -> None:
    choices = model_choices(memory.Precision(4, "auto"), tmp_path)
    gated = {choice.name for choice in choices if choice.known and choice.known.gated}
    assert gated == {"gemma3-270m", "gemma3-1b", "llama3.2-1b", "llama3.2-3b"}
    by_name = {choice.name: choice for choice in choices}
    # An answer reads 1.1 GB of the 1.7 billion numbers for each token.
    assert by_name["qwen3-1.7b"].tokens_per_second(10e9) == pytest.approx(8.8, abs=0.1)
    for free, bandwidth, expected in [
        (16 * 10**9, 15e9, "smollm3"),
        (16 * 10**9, 10e9, "qwen3-1.7b"),  # an answer of smollm3 would have 4.9 tokens/s, slower than people read
        (16 * 10**9, 200e9, "mistral-v0.3"),
        (2 * 10**9, 200e9, "qwen3-1.7b"),
        (16 * 10**9, 0.5e9, None),
        (10**8, 200e9, None),
    ]:
        best = suggestion(choices, free, bandwidth)
        assert (best and best.name) == expected
    # Only what is larger than the model at hand is worth a word.
    at_hand = {name: suggestion(choices, 16 * 10**9, 15e9, name) for name in ("qwen3-1.7b", "smollm3", "mistral")}
    assert {name: best and best.name for name, best in at_hand.items()} == {
        "qwen3-1.7b": "smollm3",
        "smollm3": None,
        "mistral": None,
    }


def test_the_list_says_what_can_be_fetched_and_what_would_run_well(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "free_memory", lambda device: 16 * 10**9)
    monkeypatch.setattr(Kernels, "bandwidth", 200e9)
    out, _ = shell(stdin="Hello there\n/model list\n")
    assert re.search(r"llama3.2-1b +Llama 3.2, gated +2.5 GB +4.9 GB +yes +816 MB +24\d.\d", out)
    line = (
        "mistral-v0.3 would run well here, at about 42 tokens/s (a download of 14.5 GB): steerchat --model mistral-v0.3"
    )
    assert line in " ".join(out.split())
    assert line in " ".join(shell("model", "suggest")[0].split())
    monkeypatch.setattr(Kernels, "bandwidth", 2e9)
    out = shell("model", "suggest")[0]
    assert "qwen3-0.6b would run well" in out or "smollm2-360m would run well" in out
    monkeypatch.setattr(Kernels, "bandwidth", 1e7)
    assert "No larger model with a short name would run well here: 16.0 GB" in shell("model", "suggest")[0]
    listed = {row["name"]: row for row in map(json.loads, shell("model", "list", "--json")[0].splitlines())}
    assert listed["phi4-mini"]["licence"] == "MIT" and listed["phi4-mini"]["disk"] is None
    assert listed["phi4-mini"]["int4_memory"] < listed["phi4-mini"]["memory"] / 5
    assert listed["phi4-mini"]["int4_tokens_per_second"] is None  # without a model nothing is timed
