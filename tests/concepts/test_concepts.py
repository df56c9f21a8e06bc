"""/concept: make, show, edit, delete, import and export concepts; hostile files are refused."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hostile_vectors import HOSTILE
from rich.console import Console
from safetensors.torch import save_file
from tiny import CONCEPTS, LAYERS, a_library, finish, save_model, tiny_tokenizer, write_concepts

from steerchat import commands  # noqa: F401  # declares /concept
from steerchat.concepts.concept import METHODS, Concept, Example, Tuning
from steerchat.concepts.exchange import import_vector
from steerchat.concepts.export import Push, export_vector
from steerchat.concepts.files import concept_toml, read_concept, read_examples
from steerchat.concepts.library import Library
from steerchat.conversation.session import Session
from steerchat.engine.engine import Engine
from steerchat.screen.render import Screen
from steerchat.slash.registry import registry
from steerchat.system.settings import Settings
from steerchat.terminal.cli import build
from steerchat.values.errors import ConceptError, Interrupted, SteerchatError, UnknownName, UsageError
from steerchat.values.operation import UNIT
from steerchat.values.page import Page
from steerchat.values.recipe import TermRequest
from steerchat.values.results import Notice, Watch

HIDDEN = 64
JOY = '/concept new joyful "What joy, what a day!" "There is a day." 2'


CTRL_C = "\x03"


class FakeChat:
    """What commands are given, on the tiny model: a real session and library, and a person with prepared answers."""

    def __init__(self, folder: Path, engine: Engine, answers: Sequence[str] | None = None) -> None:
        self.registry = registry
        self.library = Library(
            write_concepts(folder / "shipped"), folder / "concepts", folder / "vectors", registry.reserved_words()
        )
        self.settings = Settings(max_tokens=8)
        self.notices: list[str] = []
        self.report: Callable[[Any], None] = lambda event: (
            self.notices.append(event.text) if isinstance(event, Notice) else None
        )
        self.session = Session(self.settings, self.library, lambda: engine, None, self.report)
        self.loader = SimpleNamespace(ready=engine, name="tiny")
        self.answers = None if answers is None else list(answers)
        self.asked: list[str] = []

    @property
    def can_ask(self) -> bool:
        return self.answers is not None

    def ask(self, question: str, choices: Sequence[str] = ()) -> str:
        assert self.answers is not None
        self.asked.append(question)
        answer = self.answers.pop(0)
        if answer == CTRL_C:
            raise Interrupted("the question")
        assert not choices or answer in choices
        return answer

    def do(self, line: str) -> str:
        """What a line draws on a screen, as one text."""
        value = registry.parse(line).run(self)
        console = Console(file=io.StringIO(), width=200, color_system=None)
        screen = Screen(console, plain=True)
        if isinstance(value, list):
            for part in value:
                screen.show(part)
        elif hasattr(value, "__next__"):
            screen.stream(value)
        else:
            screen.show(value)
        return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def chat(tmp_path: Path, tiny: Engine) -> FakeChat:
    return FakeChat(tmp_path, tiny)


def files(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, to show that nothing was lost or left behind."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# Making, keeping, deleting


def test_a_concept_from_two_texts_survives_a_restart_and_steers(chat: FakeChat, tmp_path: Path, tiny: Engine) -> None:
    said = chat.do(JOY)
    assert "extracted from 1 pair" in said and "only 1 pair" in said and "/steer joyful" in said
    again = FakeChat(tmp_path, tiny)
    concept = again.library.get("joyful")
    assert concept.examples == (Example("", "What joy, what a day!", "There is a day."),)
    assert again.library.recommended("joyful", tiny.fingerprint) == ("2", 2.0, False)
    assert again.library.stored(concept, tiny.fingerprint) is not None
    notes = again.session.steer([TermRequest((("joyful", 1.0),), None, 60.0)])
    pair = finish(again.session.compare("Well?"))
    assert pair.steered is not None and pair.steered.text != pair.normal.text
    assert again.session.recipe.terms[0].layers == (2,) and not notes
    assert "no tuned strength" in " ".join(again.session.steer([TermRequest((("joyful", 1.0),))]))


def test_a_deleted_concept_no_longer_steers_and_leaves_no_file(chat: FakeChat, tmp_path: Path) -> None:
    before = files(tmp_path)
    chat.do(JOY)
    chat.session.steer([TermRequest((("joyful", 1.0),)), TermRequest((("happy", 1.0),))])
    assert "no longer steers" in chat.do("/concept delete joyful --yes")
    assert chat.session.recipe.concepts == ("happy",)
    assert files(tmp_path) == before
    with pytest.raises(UnknownName):
        chat.library.get("joyful")


def test_an_own_concept_hides_the_shipped_one_until_it_is_deleted(chat: FakeChat, tiny: Engine) -> None:
    shipped = chat.library.vector("happy", tiny).directions
    assert "hides the shipped one" in chat.do('/concept new happy "Wow" "Hm"')
    assert not torch.equal(chat.library.vector("happy", tiny).directions, shipped)
    assert "is back" in chat.do("/concept delete happy --yes")
    assert torch.equal(chat.library.vector("happy", tiny).directions, shipped)
    with pytest.raises(ConceptError, match="ships with steerchat"):
        chat.do("/concept delete happy --yes")


def test_deleting_asks_first_and_fails_where_nobody_answers(chat: FakeChat, tmp_path: Path, tiny: Engine) -> None:
    chat.do(JOY)
    with pytest.raises(UsageError, match="Nobody is there") as caught:
        chat.do("/concept delete joyful")
    assert caught.value.hint == "add --yes"
    asked = FakeChat(tmp_path, tiny, ["no"])
    assert "stays" in asked.do("/concept delete joyful")
    assert asked.library.owns("joyful")


def test_an_own_concept_is_replaced_only_when_told_to(chat: FakeChat, tmp_path: Path, tiny: Engine) -> None:
    chat.do(JOY)
    before = files(tmp_path / "concepts")
    with pytest.raises(UsageError, match="Replace it"):
        chat.do('/concept new joyful "Other" "Text"')
    with pytest.raises(Interrupted):
        FakeChat(tmp_path, tiny, ["no"]).do('/concept new joyful "Other" "Text"')
    assert files(tmp_path / "concepts") == before
    chat.do('/concept new joyful "Other" "Text" --replace')
    assert chat.library.get("joyful").examples[0].positive == "Other"


@pytest.mark.parametrize(
    "line",
    [
        '/concept new ../x "a" "b"',
        '/concept new "a b" "a" "b"',
        '/concept new random "a" "b"',
        '/concept new list "a" "b"',
        '/concept new z "" "b"',
        '/concept new z "a" "  "',
        '/concept new z "same" "same "',
        '/concept new z "only one"',
        '/concept new z "a" "b" 99',
        '/concept new z "a" "b" 3-1',
        '/concept new z "a" "b" --method best',
        "/concept new z --examples nowhere.csv",
        "/concept new",
        f'/concept new z "{"long " * 300}" "b"',
    ],
)
def test_what_cannot_become_a_concept_is_an_error_and_writes_nothing(line: str, chat: FakeChat, tmp_path: Path) -> None:
    before = files(tmp_path)
    with pytest.raises(SteerchatError) as caught:
        chat.do(line)
    assert caught.value.message and caught.value.hint
    assert files(tmp_path) == before


def test_stopping_the_extraction_keeps_nothing(chat: FakeChat, tmp_path: Path) -> None:
    before = files(tmp_path)
    chat.session.stop.set()
    with pytest.raises(Interrupted):
        chat.do(JOY)
    assert files(tmp_path) == before


def test_the_method_of_extraction_is_kept_with_the_concept(chat: FakeChat, tmp_path: Path, tiny: Engine) -> None:
    (tmp_path / "pairs.jsonl").write_text(
        "\n".join(json.dumps({"positive": f"joy {n}!", "negative": f"it is {n}."}) for n in range(4))
    )
    directions = {}
    for method in METHODS:
        chat.do(f"/concept new by-{method} --examples {tmp_path}/pairs.jsonl --method {method}")
        again = FakeChat(tmp_path, tiny)
        assert again.library.get(f"by-{method}").method == method
        directions[method] = again.library.vector(f"by-{method}", tiny).directions
    assert not any(torch.allclose(directions[one], directions["end"]) for one in ("mean", "last"))
    assert float((directions["mean"] * directions["pca"]).sum(-1).mean()) > 0.3


def centre(tmp_path: Path) -> None:
    """Extract the shipped concepts as `centred`, as those of the default model are."""
    for path in (tmp_path / "shipped").glob("*.toml"):
        path.write_text('method = "centred"\n' + path.read_text())


def reopened(tmp_path: Path) -> Library:
    return Library(tmp_path / "shipped", tmp_path / "concepts", tmp_path / "vectors")


def mean_states(engine: Engine, prompt: str, texts: Sequence[str]) -> torch.Tensor:
    """(layers, hidden) the mean state of replies, read one by one."""
    head = engine.prompter.chat([{"role": "user", "content": prompt}], thought=False)
    return torch.stack([engine.states([(head, engine.prompter.reply(text))])[0] for text in texts]).mean(dim=0)


def test_a_centred_concept_is_compared_with_the_mean_reply_of_the_tones(tmp_path: Path, tiny: Engine) -> None:
    chat = FakeChat(tmp_path, tiny)
    centre(tmp_path)
    with_each, without_each = (
        torch.stack([mean_states(tiny, "Well?", [pair[side] for pair in pairs]) for pairs in CONCEPTS.values()])
        for side in (0, 1)
    )
    tones, plain = with_each.mean(dim=0), without_each.mean(dim=0)
    each = torch.nn.functional.normalize(with_each - (0.8 * tones + 0.2 * without_each), dim=-1)

    def apart(raw: torch.Tensor) -> torch.Tensor:
        """2 (C + 2)^-1 raw at each layer, without the tones that are the concept itself."""
        near = torch.cosine_similarity(each, raw[None], dim=-1).mean(dim=1) >= 0.75
        others = each[~near]
        shared = torch.einsum("tlh,tlk->lhk", others, others) + 2 * torch.eye(raw.shape[-1])
        return 2 * torch.linalg.solve(shared, raw.unsqueeze(-1)).squeeze(-1)

    (tmp_path / "one.csv").write_text("prompt,positive,negative\nWell?,What joy!,It is so.\n")
    # Eight pairs: their own plain replies make up the rest.
    rows = [{"prompt": "Well?", "positive": f"joy {n}!", "negative": f"it is {n}."} for n in range(8)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "mean-centring" in chat.do(f"/concept new many --examples {tmp_path}/pairs.jsonl")
    with_it, without = (mean_states(tiny, "Well?", [row[side] for row in rows]) for side in ("positive", "negative"))
    many = reopened(tmp_path).vector("many", tiny)
    expected = apart(with_it - (0.8 * tones + 0.2 * without))
    torch.testing.assert_close(many.raw, expected, atol=1e-3, rtol=1e-3)
    # A tone is not taken out of itself: its direction only loses what it shares with the others.
    reference = reopened(tmp_path).reference(tiny)
    assert reference is not None
    torch.testing.assert_close(reference.apart(each[0]), apart(each[0]), atol=1e-3, rtol=1e-3)
    assert float((apart(each[0]) * each[0]).sum(-1).min()) > 0.7
    # A single pair: the library's plain replies do, so that the pair's topic stays out.
    chat.do('/concept new single --examples "' + str(tmp_path / "one.csv") + '"')
    single = reopened(tmp_path).vector("single", tiny)
    with_it, without = (mean_states(tiny, "Well?", [text]) for text in ("What joy!", "It is so."))
    expected = apart(with_it - without - 0.8 * (tones - plain))
    torch.testing.assert_close(single.raw, expected, atol=1e-3, rtol=1e-3)
    assert "mean-centring" in chat.do("/concept show single")
    chat.do('/concept new bare --method mean --examples "' + str(tmp_path / "one.csv") + '"')
    torch.testing.assert_close(reopened(tmp_path).vector("bare", tiny).raw, with_it - without, atol=1e-4, rtol=1e-3)
    assert "mean-centring" not in chat.do("/concept show bare")


def test_the_mean_reply_of_the_tones_is_read_once_and_again_for_other_tones(tmp_path: Path, tiny: Engine) -> None:
    chat = FakeChat(tmp_path, tiny)
    assert chat.library.reference(tiny) is None
    centre(tmp_path)
    reads: list[Any] = []

    def tones() -> torch.Tensor:
        reference = reopened(tmp_path).reference(tiny, Watch(reads.append))
        assert reference is not None
        return reference.tones

    first = tones()
    began = len(reads)
    assert began and "mean reply" in reads[0].label
    assert torch.equal(tones(), first) and len(reads) == began
    # A concept of the user's hides a shipped one, and changes nothing about the shipped tones.
    chat.library.add(Concept("happy", "custom", "", (Example("", "Sun!", "Rain."),)), tiny)
    assert torch.equal(tones(), first) and len(reads) == began
    for path in (tmp_path / "vectors").rglob("reference-*"):  # a broken file is read again
        path.write_bytes(b"no tensors")
    assert torch.equal(tones(), first) and len(reads) > began
    began = len(reads)
    (tmp_path / "shipped" / "sad.toml").unlink()
    assert not torch.equal(tones(), first) and len(reads) > began


def test_a_vector_of_another_method_is_out_of_date(tmp_path: Path, tiny: Engine) -> None:
    chat = FakeChat(tmp_path, tiny)
    before = chat.library.vector("happy", tiny)
    centre(tmp_path)
    assert chat.library.stored(chat.library.get("happy"), tiny.fingerprint) is None
    assert chat.library.vector("happy", tiny).digest != before.digest


def test_the_wizard_asks_for_pairs_and_tries_the_concept(tmp_path: Path, tiny: Engine) -> None:
    answers = ["../x", "Sunny", "Full of sun.", "Well?", "Sun!", "Sun!", "Well?", "Sun!", "Rain."]
    answers += ["", "Joy of joys", "A thing", "", "", "77", "3", "yes"]
    chat = FakeChat(tmp_path, tiny, answers)
    said = chat.do("/concept new")
    assert chat.answers == []
    concept = chat.library.get("sunny")
    assert concept.description == "Full of sun."
    assert concept.examples == (Example("Well?", "Sun!", "Rain."), Example("", "Joy of joys", "A thing"))
    assert [note for note in chat.notices if "../x" in note or "equal" in note or "no layer 77" in note]
    assert chat.session.recipe.concepts == ("sunny",) and chat.session.recipe.terms[0].layers == (3,)
    assert "normal" in said and "steered: sunny 3 x 2" in said


def test_ctrl_c_in_the_wizard_can_keep_the_pairs_that_were_typed(tmp_path: Path, tiny: Engine) -> None:
    pair = ["Well?", "Sun!", "Rain."]
    chat = FakeChat(tmp_path, tiny, ["", *pair, CTRL_C, "yes", "", "no"])
    assert "sunny is extracted from 1 pair" in chat.do("/concept new sunny") and chat.answers == []
    assert "Make sunny from the 1 pair typed so far?" in chat.asked
    for answers in (["", CTRL_C], ["", *pair, CTRL_C, "no"], ["", *pair, CTRL_C, CTRL_C]):
        with pytest.raises(Interrupted):
            FakeChat(tmp_path, tiny, answers).do("/concept new rainy")
    assert not chat.library.owns("rainy")


def test_the_wizard_makes_nothing_without_a_pair(tmp_path: Path, tiny: Engine) -> None:
    chat = FakeChat(tmp_path, tiny, ["sunny", "", "", ""])
    assert "No concept was made" in chat.do("/concept new")
    assert not chat.library.owns("sunny")


def test_editing_a_shipped_concept_opens_a_copy_of_ones_own(
    tmp_path: Path, tiny: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = FakeChat(tmp_path, tiny, [])

    def editor(change: Callable[[str], str]) -> None:
        def edit(filename: str) -> None:
            path = Path(filename)
            path.write_text(change(path.read_text()))

        monkeypatch.setattr("click.edit", edit)

    editor(lambda text: text)
    assert "unchanged" in chat.do("/concept edit happy")
    assert not chat.library.owns("happy")
    old = chat.library.vector("happy", tiny).directions
    editor(lambda text: text.replace("what joy", "what bliss"))
    assert "is saved" in chat.do("/concept edit happy")
    assert not torch.equal(chat.library.vector("happy", tiny).directions, old)
    editor(lambda text: text + "\n[[[")
    with pytest.raises(ConceptError) as caught:
        chat.do("/concept edit happy")
    assert "happy.toml" in caught.value.message and "edit happy again" in caught.value.hint
    assert "what bliss" in (tmp_path / "concepts" / "happy.toml").read_text()
    assert "happy.toml cannot be read" in chat.do("/concept list")
    assert "is back" in chat.do("/concept delete happy --yes")


def test_without_anybody_there_edit_says_where_the_file_is(chat: FakeChat, tmp_path: Path) -> None:
    assert str(tmp_path / "concepts" / "happy.toml") in chat.do("/concept edit happy")
    assert read_concept(tmp_path / "concepts" / "happy.toml") == replace(chat.library.get("happy"), source="user")


# Listing and showing


def test_the_list_says_what_is_recommended_and_whether_it_was_measured(chat: FakeChat, tiny: Engine) -> None:
    chat.do(JOY)
    chat.library.save(
        replace(chat.library.get("sad"), tuned=(Tuning(tiny.fingerprint, "1-2", 1.5), Tuning("other", "9", 3.0)))
    )
    page = registry.parse("/concept").run(chat)
    assert isinstance(page, Page)
    found = {row["name"]: row for row in page.objects}
    assert set(found) == {*CONCEPTS, "joyful", "random"}
    wanted = {"name", "kind", "description", "layer", "strength", "agreement", "separability"}
    assert all(wanted <= set(row) for row in page.objects)
    assert (found["sad"]["layer"], found["sad"]["strength"], found["sad"]["tuned"]) == ("1-2", 1.5, True)
    assert (found["joyful"]["layer"], found["joyful"]["tuned"], found["joyful"]["source"]) == ("2", False, "user")
    assert found["sad"]["shadows"] and not found["joyful"]["shadows"]
    assert found["joyful"]["agreement"] is not None and found["happy"]["agreement"] is None
    text = chat.do("/concept list")
    assert "1.5" in text and "2.0?" in text and "? no tuned strength for this model" in text and "* your own" in text
    json.dumps(page.objects, allow_nan=False)


def test_what_was_measured_of_a_shipped_concept_is_shown_at_that_setting_alone(
    chat: FakeChat, tmp_path: Path, tiny: Engine
) -> None:
    shipped = chat.library.get("happy").path
    assert shipped is not None
    tuned = f'[[tuned]]\nfingerprint = "{tiny.fingerprint}"\nlayers = "1-2"\nstrength = 1.75\n'
    shipped.write_text(shipped.read_text().replace("[[examples]]", tuned + "[[examples]]", 1))
    row = {"concept": "happy", "layers": "1-2", "strength": 1.75, "unit": "smiles", "gain": [4.25, 2.0, 6.0]}
    row |= {"normal": 1.0, "steered": 5.25, "random": 0.9, "asked": 2.4, "perplexity_ratio": 1.68}
    file = shipped.parent / "measured" / "evaluation.jsonl"
    file.parent.mkdir()
    file.write_text(json.dumps(row))
    assert "1.75" in chat.do("/concept list") and "+4.2" in chat.do("/concept list")
    assert "smiles: normal 1.0, steered 5.2, random 0.9, asked 2.4; cost x1.7" in chat.do("/concept show happy")
    page = registry.parse("/concept").run(chat)
    assert {one["name"]: one["measured"] and one["measured"]["unit"] for one in page.objects}["happy"] == "smiles"
    gains = {"sad": -1.0, "happy": 3.25, "calm": 0.4, "casual": 0.1, "excited": 1.5}
    file.write_text(json.dumps(row | {"gains": gains}))
    moved = "moves most, in spreads of each word measure: happy +3.2, excited +1.5, calm +0.4, casual +0.1"
    assert moved in chat.do("/concept show happy")
    file.write_text(json.dumps(row | {"strength": 2.0}))
    assert "+4.2" not in chat.do("/concept list")


def test_show_draws_the_layers_and_names_what_a_concept_resembles(chat: FakeChat, tmp_path: Path) -> None:
    rows = [("Well?", f"joy {n}!", f"it is {n}.", n > 5) for n in range(9)]
    text = "\n".join(
        json.dumps(dict(zip(("prompt", "positive", "negative", "held_out"), row, strict=True))) for row in rows
    )
    (tmp_path / "pairs.jsonl").write_text(text)
    chat.do(f"/concept new joyful --examples {tmp_path}/pairs.jsonl")
    (tmp_path / "pairs.jsonl").write_text(text.replace("joy", "joys"))
    chat.do(f"/concept new twin --examples {tmp_path}/pairs.jsonl")
    shown = chat.do("/concept show joyful")
    assert "6 pairs, method centred; 3 held-out for measuring" in shown
    assert "0.5 |" in shown and "layer  0  3" in shown
    assert shown.index("twin") > shown.index("similar concepts")
    assert "3 more concepts have no vector" in shown and "1 pair more in" in shown
    page = registry.parse("/concept show joyful").run(chat)
    assert isinstance(page, Page)
    data: Any = page.objects[0]
    assert len(data["agreement_by_layer"]) == len(data["separability_by_layer"]) == LAYERS
    assert data["resembles"]["twin"] > 0.5 and len(data["pairs"]) == 9


def test_random_can_be_shown_and_not_edited(chat: FakeChat) -> None:
    assert "drawn from the seed" in chat.do("/concept show random")
    with pytest.raises(ConceptError, match="no file"):
        chat.do("/concept edit random")


# Examples in files


EXAMPLES = (
    Example("Q, or so?", 'She said "wow",\nand left', "She left", False),
    Example("", "Hé \u2028!", "So.", True),
)


def test_examples_are_the_same_from_toml_jsonl_and_csv(tmp_path: Path) -> None:
    concept = Concept(
        "set", "style", "a description", EXAMPLES, (Tuning("f", "3", None), Tuning("g", "1-2", 1.5)), "pca"
    )
    (tmp_path / "set.toml").write_bytes(concept_toml(concept))
    (tmp_path / "set.jsonl").write_text("\n\n".join(json.dumps(vars(e), ensure_ascii=False) for e in EXAMPLES), "utf-8")
    quoted = [['"' + str(v).replace('"', '""') + '"' for v in vars(e).values()] for e in EXAMPLES]
    for mark in ",;\t":
        text = "\n".join(mark.join(row) for row in [["prompt", "Positive", "negative", "held_out"], *quoted])
        (tmp_path / "set.csv").write_text("\ufeff" + text, "utf-8")
        assert read_examples(tmp_path / "set.csv").examples == EXAMPLES
    assert read_examples(tmp_path / "set.jsonl").examples == EXAMPLES
    assert read_examples(tmp_path / "set.toml") == concept
    assert read_examples(tmp_path / "set.toml").digest == concept.digest


BROKEN_EXAMPLES = {
    "empty.jsonl": b"",
    "empty.csv": b"",
    "empty.toml": b"",
    "no-object.jsonl": b"[1, 2]\n",
    "no-json.jsonl": b'{"positive": "a", "negative": "b"}\n{"positive"',
    "deep.jsonl": b"[" * 100_000,
    "deep.toml": b"a = " + b"[" * 5000,
    "not-text.jsonl": b"\xff\xfe\x00",
    "no-negative.jsonl": b'{"positive": "a"}',
    "number.jsonl": b'{"positive": 3, "negative": "b"}',
    "word.jsonl": b'{"positive": "a", "negative": "b", "held_out": "false"}',
    "all-held-out.jsonl": b'{"positive": "a", "negative": "b", "held_out": true}',
    "equal.jsonl": b'{"positive": "a", "negative": "a"}',
    "no-head.csv": b"a,b\nc,d\n",
    "too-many.csv": b"positive,negative\na,b,c\n",
    "too-few.csv": b"positive,negative\na\n",
    "truth.csv": b"positive,negative,held_out\na,b,perhaps\n",
    "long-field.csv": b"positive,negative\n" + b"a" * 200_000 + b",b\n",
    "wrong-type.toml": b'examples = [{positive = 3, negative = "b"}]',
    "no-table.toml": b'examples = ["a", "b"]',
    "no-list.toml": b"examples = 3",
    "method.toml": b'method = "magic"\nexamples = [{positive = "a", negative = "b"}]',
    "strength.toml": b'examples = [{positive = "a", negative = "b"}]\n'
    b'[[tuned]]\nfingerprint = "f"\nlayers = "3"\nstrength = nan',
    "other.txt": b"positive,negative\na,b\n",
}


@pytest.mark.parametrize("name", BROKEN_EXAMPLES)
def test_a_broken_file_of_examples_is_named_in_the_error(name: str, tmp_path: Path, chat: FakeChat) -> None:
    (tmp_path / name).write_bytes(BROKEN_EXAMPLES[name])
    before = files(tmp_path)
    with pytest.raises(ConceptError, match=name) as caught:
        chat.do(f"/concept new z --examples {tmp_path / name}")
    assert caught.value.hint
    assert files(tmp_path) == before


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a device that never ends")
def test_a_device_under_the_name_of_a_file_is_not_read(tmp_path: Path, chat: FakeChat) -> None:
    for name in ("x.csv", "x.npy"):
        (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(ConceptError, match=r"not a regular file"):
        chat.do(f"/concept new z --examples {tmp_path}/x.csv")
    with pytest.raises(ConceptError, match=r"no (regular )?file"):
        chat.do(f"/concept import z {tmp_path}/x.npy --layer 1")


# Vectors out and in


@pytest.fixture
def happy(chat: FakeChat, tiny: Engine) -> Any:
    return chat.library.vector("happy", tiny)


def test_our_safetensors_come_back_as_they_were(chat: FakeChat, tmp_path: Path, tiny: Engine, happy: Any) -> None:
    chat.do(f"/concept export happy {tmp_path}/v.safetensors")
    chat.do(f"/concept import joy {tmp_path}/v.safetensors")
    again = FakeChat(tmp_path, tiny)
    vector = again.library.vector("joy", tiny)
    assert torch.allclose(vector.directions, happy.directions, atol=1e-6)
    assert vector.report["agreement"] == happy.report["agreement"]
    concept = again.library.get("joy")
    assert (concept.kind, concept.description, concept.method) == ("emotion", "what happy is", "imported")


def test_a_gguf_holds_every_block_but_the_first_at_the_length_of_strength_one(
    chat: FakeChat, tmp_path: Path, tiny: Engine, happy: Any
) -> None:
    chat.do("/steer happy 2 2.0")
    chat.do("/rotate happy 2 2.0")
    said = chat.do(f"/concept export happy {tmp_path}/v.gguf")
    assert "the file cannot express rotate happy 2 x 2.0." in said
    assert "cannot store layer 0" in said and "--control-vector-scaled" in said
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "llama"
    assert reader.fields["controlvector.layer_count"].contents() == LAYERS - 1
    assert [t.name for t in reader.tensors] == [f"direction.{n}" for n in range(1, LAYERS)]
    lengths = chat.session.calibration.profile(tiny).lengths
    for number, tensor in enumerate(reader.tensors, 1):
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32 and tensor.data.shape == (HIDDEN,)
        expected = happy.directions[number] * UNIT * lengths[number]
        assert torch.allclose(torch.from_numpy(np.array(tensor.data)), expected, atol=1e-6)
    chat.do(f"/concept import joy {tmp_path}/v.gguf")
    back = chat.library.vector("joy", tiny)
    assert torch.allclose(back.directions[1:], happy.directions[1:], atol=1e-6)
    assert not back.directions[0].any()


def repeng_file(
    path: Path,
    layers: Sequence[int],
    hidden: int = HIDDEN,
    hint: str = "llama",
    fields: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """As repeng writes them: no key of ours, layers from the last one down; with more fields of another tool."""
    writer = gguf.GGUFWriter(path, "controlvector")
    for key, value in fields.items():
        writer.add_string(key, value)
    writer.add_string("controlvector.model_hint", hint)
    writer.add_uint32("controlvector.layer_count", len(layers))
    for layer in layers:
        generator = np.random.default_rng(layer)
        writer.add_tensor(f"direction.{layer}", generator.normal(size=hidden).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_control_vector_of_repeng_comes_in_and_steers(chat: FakeChat, tmp_path: Path) -> None:
    repeng_file(tmp_path / "r.gguf", [3, 2, 1], hint="mistral")
    said = chat.do(f"/concept import joy {tmp_path}/r.gguf")
    assert (
        "blocks 1-3" in said
        and "cannot store block 0" in said
        and "made for mistral" in said
        and "No strength was measured" in said
    )
    expected = np.random.default_rng(2).normal(size=HIDDEN).astype(np.float32)
    vector = chat.library.vector("joy", chat.session.engine)
    assert np.allclose(vector.directions[2], expected / np.linalg.norm(expected), atol=1e-6)
    chat.session.steer([TermRequest((("joy", 1.0),), "2", 60.0)])
    pair = finish(chat.session.compare("Well?"))
    assert pair.steered is not None and pair.steered.text != pair.normal.text


@pytest.mark.slow
@pytest.mark.parametrize("form", ["npy", "float16.npy", "row.npy", "safetensors", "bfloat16.safetensors"])
def test_a_plain_direction_works_at_its_layer_at_once(form: str, chat: FakeChat, tmp_path: Path) -> None:
    direction = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(1))
    path = tmp_path / f"d.{form}"
    if form.endswith("npy"):
        array = direction.numpy().astype(np.float16 if "float16" in form else np.float64)
        np.save(path, array[None] if "row" in form else array)
    else:
        save_file({"anything": direction.bfloat16() if "bfloat16" in form else direction}, path)
    said = chat.do(f"/concept import dir {path} --layer 2")
    assert "at layer 2" in said
    vector = chat.library.vector("dir", chat.session.engine)
    assert torch.allclose(vector.directions[2], direction / direction.norm(), atol=1e-2)
    assert chat.library.recommended("dir", chat.session.engine.fingerprint)[0] == "2"
    chat.session.steer([TermRequest((("dir", 1.0),), None, 60.0)])
    pair = finish(chat.session.compare("Well?"))
    assert pair.steered is not None and pair.steered.text != pair.normal.text
    chat.session.steer([TermRequest((("dir", 1.0),), "1", 2.0)])
    with pytest.raises(ConceptError, match="no direction at layer 1"):
        list(chat.session.compare("Well?"))


def test_a_header_whose_length_begins_as_a_pickle_does_is_read(chat: FakeChat, tmp_path: Path) -> None:
    direction = rows([1])[1]
    for length in range(300):
        save_file({"direction": direction}, tmp_path / "d.safetensors", metadata={"note": "x" * length})
        if (tmp_path / "d.safetensors").read_bytes()[:1] == b"\x80":
            break
    assert (tmp_path / "d.safetensors").read_bytes()[:1] == b"\x80"
    chat.do(f"/concept import joy {tmp_path}/d.safetensors --layer 1")
    assert_rows(chat, "joy", {1: direction})


def rows(layers: Sequence[int]) -> dict[int, torch.Tensor]:
    return {layer: torch.randn(HIDDEN, generator=torch.Generator().manual_seed(layer)) for layer in layers}


def assert_rows(chat: FakeChat, name: str, expected: dict[int, torch.Tensor]) -> None:
    vector = chat.library.vector(name, chat.session.engine)
    for layer in range(LAYERS):
        row = expected.get(layer, torch.zeros(HIDDEN))
        assert torch.allclose(vector.directions[layer], row / row.norm().clamp_min(1e-9), atol=1e-6)


def test_a_profile_of_saklas_has_a_direction_for_each_of_its_blocks(chat: FakeChat, tmp_path: Path) -> None:
    expected = rows([0, 1, 3])
    save_file({f"layer_{layer}": row for layer, row in expected.items()}, tmp_path / "s.safetensors")
    said = chat.do(f"/concept import joy {tmp_path}/s.safetensors")
    assert "made by saklas" in said and "/steer joy" in said
    assert_rows(chat, "joy", expected)
    save_file({"layer_1": expected[1], "layer_9": expected[3]}, tmp_path / "more.safetensors")
    with pytest.raises(ConceptError, match="steers block 9"):
        chat.do(f"/concept import more {tmp_path}/more.safetensors")
    save_file({"layer_0": torch.randn(LAYERS, HIDDEN), "layer_1": expected[1]}, tmp_path / "flat.safetensors")
    with pytest.raises(ConceptError, match="layer_0 has shape"):
        chat.do(f"/concept import flat {tmp_path}/flat.safetensors")


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"method": "mean_diff", "coeff": 3.0}, "/steer joy"),
        ({"method": "directional_ablation", "coeff": 0.0, "target": "residual"}, "/ablate joy"),
        ({"method": "directional_ablation", "coeff": 2.0}, "taken out and then added again"),
        ({"method": "spherical"}, "steering-lite's method spherical"),
        ({"method": "mean_diff", "target_submodule": "mlp.down_proj"}, "steers mlp.down_proj"),
        ([], "does not say how"),
    ],
)
def test_a_vector_of_steering_lite_is_used_as_it_says_or_refused(
    chat: FakeChat, tmp_path: Path, settings: Any, answer: str
) -> None:
    expected = rows([1, 2])
    tensors = {f"layer{layer}.v": row for layer, row in expected.items()}
    save_file(tensors, tmp_path / "l.safetensors", metadata={"cfg": json.dumps(settings)})
    if answer.startswith("/"):
        assert answer in chat.do(f"/concept import joy {tmp_path}/l.safetensors")
        assert_rows(chat, "joy", expected)
    else:
        with pytest.raises(ConceptError, match=answer):
            chat.do(f"/concept import joy {tmp_path}/l.safetensors")


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"glp.mode": "add"}, "/steer joy"),
        ({"glp.mode": "project", "glp.hook_point": "residual_stream_post_layer"}, "/ablate joy"),
        ({"glp.mode": "project", "glp.hook_point": "ffn_out_pre_residual"}, "hook_point is ffn_out_pre_residual"),
        ({"glp.mode": "turn"}, "mode is turn"),
        ({"glp.mode": "project", "glp.structure": "per-execution-step"}, "more than one direction"),
    ],
)
def test_a_control_vector_with_a_mode_is_used_as_it_says_or_refused(
    chat: FakeChat, tmp_path: Path, fields: dict[str, str], answer: str
) -> None:
    repeng_file(tmp_path / "g.gguf", [1, 2], fields=fields)
    if answer.startswith("/"):
        said = chat.do(f"/concept import joy {tmp_path}/g.gguf")
        assert answer in said and ("taken out" in said) == answer.startswith("/ablate")
    else:
        with pytest.raises(ConceptError, match=answer):
            chat.do(f"/concept import joy {tmp_path}/g.gguf")


def test_an_array_with_a_row_a_layer_needs_no_layer(chat: FakeChat, tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(LAYERS, HIDDEN)).astype(np.float32)
    np.save(tmp_path / "all.npy", array)
    assert "layers 0-3" in chat.do(f"/concept import dir {tmp_path}/all.npy")
    with pytest.raises(ConceptError, match="which layers"):
        chat.do(f"/concept import other {tmp_path}/all.npy --layer 2")


def test_an_imported_vector_serves_its_own_model_only(chat: FakeChat, tmp_path: Path, tiny: Engine, happy: Any) -> None:
    chat.do(f"/concept export happy {tmp_path}/v.safetensors")
    chat.do(f"/concept export happy {tmp_path}/v.gguf")
    chat.do(f"/concept import joy {tmp_path}/v.gguf")
    other = Engine(tiny.model, tiny_tokenizer(), "other", "other-fingerprint", lambda: 1 << 30)
    elsewhere = FakeChat(tmp_path, other)
    for name in ("v.safetensors", "v.gguf"):
        with pytest.raises(ConceptError, match=f"{name} was read from another model"):
            elsewhere.do(f"/concept import joyous {tmp_path}/{name}")
    with pytest.raises(ConceptError, match="imported for another model"):
        elsewhere.library.vector("joy", other)
    assert chat.library.vector("joy", tiny) is not None


def test_importing_over_an_own_concept_asks_first(chat: FakeChat, tmp_path: Path) -> None:
    chat.do(JOY)
    np.save(tmp_path / "d.npy", np.ones(HIDDEN, np.float32))
    before = files(tmp_path)
    with pytest.raises(UsageError, match="Replace it"):
        chat.do(f"/concept import joyful {tmp_path}/d.npy --layer 1")
    assert files(tmp_path) == before
    chat.do(f"/concept import joyful {tmp_path}/d.npy --layer 1 --replace")
    assert chat.library.get("joyful").method == "imported"
    chat.do(JOY + " --replace")
    assert chat.library.vector("joyful", chat.session.engine).method == "centred"


def test_exporting_writes_over_a_file_only_when_told_to(chat: FakeChat, tmp_path: Path) -> None:
    target = tmp_path / "v.safetensors"
    target.write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        chat.do(f"/concept export happy {target}")
    assert target.read_text() == "precious"
    chat.do(f"/concept export happy {target} --replace")
    assert target.read_bytes() != b"precious"
    for bad in ("v.txt", "v.npy", "v"):
        with pytest.raises(ConceptError, match="format"):
            chat.do(f"/concept export happy {tmp_path / bad}")


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_are_replaced_and_never_followed(chat: FakeChat, tmp_path: Path) -> None:
    victim = tmp_path / "victim.toml"
    victim.write_text("precious")
    (tmp_path / "concepts").mkdir()
    (tmp_path / "concepts" / "joyful.toml").symlink_to(victim)
    chat.do(JOY + " --replace")
    (tmp_path / "v.gguf").symlink_to(victim)
    chat.do(f"/concept export joyful {tmp_path}/v.gguf --replace")
    chat.do("/concept delete joyful --yes")
    assert victim.read_text() == "precious"


# Files that mean harm


class Payload:
    """Runs when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("error")
def test_a_hostile_vector_is_a_clear_error_and_nothing_is_lost(name: str, tmp_path: Path, chat: FakeChat) -> None:
    path = tmp_path / name
    path.write_bytes(HOSTILE[name])
    before = files(tmp_path)
    option = "" if name.endswith("gguf") or name.startswith("ours") else " --layer 1"
    with pytest.raises(ConceptError, match=name) as caught:
        chat.do(f"/concept import evil {path}{option}")
    assert caught.value.hint and "\n" not in caught.value.message
    assert files(tmp_path) == before
    assert not Path("pwned").exists()


@pytest.mark.parametrize("name", ["v.pt", "v.bin", "v.safetensors", "v.npy", "v.gguf", "zip.safetensors"])
def test_a_pickle_is_never_opened_whatever_its_name(name: str, tmp_path: Path, chat: FakeChat) -> None:
    path = tmp_path / name
    if name.startswith("zip"):
        torch.save({"v": torch.ones(HIDDEN)}, path)
    else:
        path.write_bytes(pickle.dumps(Payload(tmp_path / "pwned")))
    with pytest.raises(ConceptError, match="never opened") as caught:
        chat.do(f"/concept import evil {path} --layer 1")
    assert not (tmp_path / "pwned").exists()
    assert "torch.load" in caught.value.hint and "weights_only=True" in caught.value.hint


def test_the_line_that_converts_several_arrays_does(
    tmp_path: Path, chat: FakeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "v.npz", np.full(HIDDEN, 1e-30, np.float32))  # whose squares are zero in float32
    with pytest.raises(ConceptError, match="several arrays") as caught:
        chat.do(f"/concept import dir {tmp_path}/v.npz --layer 1")
    monkeypatch.chdir(tmp_path)
    exec(caught.value.hint.partition('-c "')[2].removesuffix('"'), {})
    chat.do(f"/concept import dir {tmp_path}/v.npy --layer 1")
    assert float(chat.library.vector("dir", chat.session.engine).directions[1].norm()) == pytest.approx(1.0)


def test_the_line_that_converts_a_pickle_does(tmp_path: Path, chat: FakeChat, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(torch.randn(HIDDEN), tmp_path / "it's mine.pt")
    with pytest.raises(ConceptError) as caught:
        chat.do(f'/concept import dir "{tmp_path}/it\'s mine.pt" --layer 1')
    line = caught.value.hint.partition('-c "')[2].removesuffix('"')
    monkeypatch.chdir(tmp_path)
    exec(line, {})
    chat.do(f'/concept import dir "{tmp_path}/it\'s mine.safetensors" --layer 1')
    assert chat.library.get("dir").method == "imported"


def test_a_broken_vector_beside_an_imported_concept_is_an_error(chat: FakeChat, tmp_path: Path, tiny: Engine) -> None:
    np.save(tmp_path / "d.npy", np.ones(HIDDEN, np.float32))
    chat.do(f"/concept import dir {tmp_path}/d.npy --layer 1")
    (tmp_path / "concepts" / "dir.safetensors").write_bytes(b"junk")
    with pytest.raises(ConceptError):
        FakeChat(tmp_path, tiny).library.vector("dir", tiny)
    assert "dir" in FakeChat(tmp_path, tiny).do("/concept list")
    chat.do("/concept delete dir --yes")


def test_vectors_are_exchanged_without_a_chat(tmp_path: Path, tiny: Engine) -> None:
    library = a_library(tmp_path)
    vector = library.vector("sad", tiny)
    export_vector(vector, tmp_path / "v.gguf", torch.ones(LAYERS), "llama", {"kind": "emotion"}, Push([1], 2.0))
    found = import_vector(tmp_path / "v.gguf", "sad", tiny)
    assert found.layers == (1, 2, 3) and found.facts == {"kind": "emotion"}
    with pytest.raises(SteerchatError, match="cannot be written"):
        export_vector(vector, tmp_path / "v.gguf" / "v.gguf", torch.ones(LAYERS), "llama", {}, Push([1], 2.0))


# The shell


@pytest.mark.slow
def test_the_shell_lists_makes_and_deletes_concepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path / "home"))
    model = save_model(tmp_path / "tiny")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("positive,negative\nWhat joy!,It is a day\nOh wonder!,It is a thing\n")

    def steerchat(*words: str) -> str:
        result = CliRunner().invoke(build(), list(words), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    made = steerchat("concept", "new", "gleeful", "--examples", str(pairs), "2", "--model", str(model), "--json")
    assert json.loads(made.splitlines()[-1])["layer"] == "2"
    for words in (["concept", "list"], ["concepts"], ["concept"]):
        rows = [json.loads(line) for line in steerchat(*words, "--json", "--model", str(model)).splitlines()]
        assert {row["name"]: row["layer"] for row in rows}["gleeful"] == "2"
        assert {"happy", "random"} <= {row["name"] for row in rows}
    assert "gleeful" in steerchat("concept", "delete", "gleeful", "--yes")
    assert "gleeful" not in steerchat("concepts")
