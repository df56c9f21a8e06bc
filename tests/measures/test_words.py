from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerchat.measures.words import (
    INDEPENDENT,
    RATES,
    counted_words,
    is_english,
    spread,
    word_count,
    word_lists,
)
from steerchat.system.folders import packaged
from steerchat.values.errors import SteerchatError

VECTORS = packaged("vectors")
TEXTS = VECTORS / "texts"
CONCEPTS = [
    "happy",
    "sad",
    "angry",
    "fearful",
    "excited",
    "calm",
    "formal",
    "casual",
    "poetic",
    "technical",
    "pirate",
    "shakespeare",
    "enthusiastic",
    "pessimistic",
    "friendly",
    "brief",
    "verbose",
]
KEPT_BACK = [
    "Tell me about the weather",
    "How was your day?",
    "Tell me about your day",
    "What do you think about Mondays?",
    "Describe a city",
    "Describe the sea",
    "Explain quantum mechanics",
    "How do computers work?",
    "Tell me a story",
    "Tell me a short story about a dog",
    "Give me advice for a job interview",
    "What is the meaning of life?",
    "Write about a walk in the park",
]


def examples(concept: str) -> list[dict]:
    return tomllib.loads((VECTORS / f"{concept}.toml").read_text("utf-8"))["examples"]


def read_at_the_end(concept: str) -> bool:
    """Whether its pairs differ in where they stop: then no measure of the words tells positive from negative."""
    return tomllib.loads((VECTORS / f"{concept}.toml").read_text("utf-8")).get("method") == "end"


TOLD_BY_WORDS = [concept for concept in CONCEPTS if not read_at_the_end(concept)]


def neutral() -> list[dict[str, str]]:
    return [json.loads(line) for line in (TEXTS / "neutral.jsonl").read_text("utf-8").splitlines()]


def prompt_sets() -> dict[str, list[str]]:
    return tomllib.loads((TEXTS / "prompts.toml").read_text("utf-8"))


def key(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def test_every_shipped_concept_has_a_measure_of_its_name() -> None:
    assert sorted(INDEPENDENT) == sorted(CONCEPTS)
    assert all(measure.name == name and measure.unit for name, measure in INDEPENDENT.items())


@pytest.mark.parametrize("concept", TOLD_BY_WORDS)
def test_held_out_positives_score_above_their_negatives(concept: str) -> None:
    measure = INDEPENDENT[concept]
    pairs = [example for example in examples(concept) if example.get("held_out")]
    above = [measure.towards(pair["positive"]) > measure.towards(pair["negative"]) for pair in pairs]
    positive = mean(measure.towards(pair["positive"]) for pair in pairs)
    negative = mean(measure.towards(pair["negative"]) for pair in pairs)
    assert positive > negative
    assert mean(above) >= 0.75


@pytest.mark.parametrize("concept", TOLD_BY_WORDS)
def test_the_concept_stands_out_from_ordinary_replies(concept: str) -> None:
    measure = INDEPENDENT[concept]
    ordinary = mean(measure.towards(line["reply"]) for line in neutral())
    assert mean(measure.towards(example["positive"]) for example in examples(concept)) > ordinary


def test_only_brief_is_read_where_its_texts_stop() -> None:
    assert [concept for concept in CONCEPTS if read_at_the_end(concept)] == ["brief"]
    for example in examples("brief"):
        assert example["positive"].startswith(example["negative"] + " ")
        assert re.search(r"[.!?]$", example["negative"])


def test_only_brief_is_shown_by_a_lower_score() -> None:
    assert [name for name, measure in INDEPENDENT.items() if measure.direction == -1] == ["brief"]
    assert INDEPENDENT["brief"].score("three short words") == 3.0
    assert INDEPENDENT["brief"].towards("three short words") == -3.0


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("empty", ["", "  \n\t ", "... ?!", "1. "])
def test_a_text_without_words_scores_nothing(concept: str, empty: str) -> None:
    assert INDEPENDENT[concept].score(empty) == 0.0


def test_one_hit_in_a_short_text_does_not_outweigh_a_whole_answer() -> None:
    assert 0 < INDEPENDENT["pirate"].score("Ahoy!") <= 10


def test_a_repeated_word_counts_three_times_at_most() -> None:
    happy = INDEPENDENT["happy"]
    filler = "the table stands by the door of the room and the chair is in the hall near a window too"
    assert happy.score(f"happy happy happy {filler}") > happy.score(f"happy {filler} and so it does")
    assert happy.score("happy " * 200) == pytest.approx(1.5)
    assert INDEPENDENT["excited"].score("one! " * 200) == pytest.approx(1.5)


@pytest.mark.slow
@pytest.mark.parametrize("concept", list(RATES))
@given(
    text=st.text(max_size=200)
    | st.lists(st.sampled_from(["happy", "sad", "ahoy", "hath", "wow!", "12kg", "can't", "in'"])).map(" ".join)
)
def test_a_rate_is_finite_and_bounded_on_any_text(concept: str, text: str) -> None:
    # Every word can be a hit of each of its measure's lists, and no more than that.
    assert abs(INDEPENDENT[concept].score(text)) <= 100 * len(RATES[concept][1])


@pytest.mark.parametrize(
    ("concept", "hit", "miss"),
    [
        ("pirate", "We be sailin' home", "We are in 'the inn'"),
        ("shakespeare", "She runneth", "Her teeth"),
        ("shakespeare", "a belov'd face", "I'd say she'd know"),
        ("casual", "I can\u2019t", "I cannot"),
        ("casual", "you know", "you should know"),
        ("technical", "It weighs 10kg", "1. It is heavy"),
        ("happy", "the 'happy' one", "unhappyish"),
        ("happy", "Heaven's joys", "a killjoy"),
        ("happy", "Blissfully", "blis"),
        ("excited", '"Run!"', '"Run."'),
        ("pessimistic", "no point", "no pointers"),
        ("fearful", "a ghost's voice", "a host's voice"),
    ],
)
def test_marks_endings_and_apostrophes_are_read_as_meant(concept: str, hit: str, miss: str) -> None:
    assert INDEPENDENT[concept].score(hit) > 0
    assert INDEPENDENT[concept].score(miss) <= 0


def test_words_are_counted_without_the_numbers_of_a_list() -> None:
    assert word_count("1. Don't run.\n2) Walk 3 miles\n") == 5


@pytest.mark.parametrize("content", [None, "rage = ["])
def test_unreadable_word_lists_are_said_to_be_so(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "lists.toml"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(SteerchatError, match="cannot be read"):
        word_lists(path)


def test_no_entry_is_a_sentence_or_stands_twice_in_its_list() -> None:
    sentences = {
        key(sentence)
        for concept in CONCEPTS
        for example in examples(concept)
        for reply in (example["positive"], example["negative"])
        for sentence in re.split(r"(?<=[.!?;:])\s+|\n", reply)
    }
    for name, entries in word_lists().items():
        assert len(entries) == len(set(entries)), name
        for entry in entries:
            words = entry.split("_")
            assert len(words) <= 4, f"{name}: {entry}"
            # One-word exclamations are sentences too; a list of words cannot avoid those.
            assert len(words) == 1 or key(entry.replace("_", " ")) not in sentences, f"{name}: {entry}"


def test_every_list_that_is_weighed_exists_and_every_list_is_weighed() -> None:
    used = {name for _, parts in RATES.values() for part in parts for name in (part.words, part.unless) if name}
    assert used == set(word_lists())


def test_the_neutral_corpus_is_200_varied_replies_of_ordinary_length() -> None:
    lines = neutral()
    assert len(lines) == 200
    assert all(set(line) == {"prompt", "reply"} for line in lines)
    assert all(15 <= len(line["reply"].split()) <= 40 for line in lines)
    for field in ("prompt", "reply"):
        assert len({key(line[field]) for line in lines}) == 200
    assert len({" ".join(key(line["reply"]).split()[:2]) for line in lines}) > 120


def test_prompts_for_tuning_evaluation_examples_and_the_corpus_are_disjoint() -> None:
    prompts = prompt_sets()
    assert {name: len(entries) for name, entries in prompts.items()} == {"tuning": 24, "evaluation": 24}
    assert all(4 <= len(prompt.split()) <= 12 for entries in prompts.values() for prompt in entries)
    groups = {
        "tuning": prompts["tuning"],
        "evaluation": prompts["evaluation"],
        "neutral": [line["prompt"] for line in neutral()],
        "examples": [example["prompt"] for concept in CONCEPTS for example in examples(concept)],
        "kept back": KEPT_BACK,
    }
    owner: dict[str, str] = {}
    for group, entries in groups.items():
        for prompt in entries:
            assert owner.setdefault(key(prompt), group) == group, f"{prompt!r} is in {group} too"
    assert len({key(prompt) for prompt in prompts["tuning"] + prompts["evaluation"]}) == 48


def test_a_spread_is_the_deviation_over_answers_and_never_that_of_a_word_nobody_says() -> None:
    plain = "The train leaves at noon and it stops in every village on the way to the coast today."
    happy = [plain, plain + " What a joyful, wonderful, delightful trip with lovely friends!"]
    scores = [INDEPENDENT["happy"].score(text) for text in happy]
    assert spread(INDEPENDENT["happy"], happy) == pytest.approx(abs(scores[0] - scores[1]) / 2)
    # One answer of ten with one pirate word in twenty words: sqrt(0.1 * 0.9) * 100 / 20.
    assert spread(INDEPENDENT["pirate"], [plain]) == pytest.approx(1.5)


def test_the_counted_words_are_those_that_the_measure_counts():
    text = "1. Ahoy İ, matey!\n2. Sailin' the seven seas, ARRR. Ye’ve found no treasure, thou knowest."
    words = [text[start:end] for start, end in counted_words("pirate", text)]
    assert {"Ahoy", "matey", "Sailin'", "ARRR"} <= set(words)
    assert INDEPENDENT["pirate"].score(text) == pytest.approx(
        100 * len(words) / 20
    )  # a text of fewer words counts as 20
    assert counted_words("happy", "gloomy and sad") == []  # these count against it
    assert [text[a:b] for a, b in counted_words("shakespeare", text)] == ["thou", "knowest"]


@pytest.mark.parametrize(
    ("text", "english"),
    [
        (
            "The weather is fine today, and I hope that you have time for a walk along the river.",
            True,
        ),
        ("Het weer is vandaag mooi, en ik hoop dat je tijd hebt voor een wandeling langs de rivier in de zon.", False),
        (
            "Le temps est beau aujourd'hui, et j'espère que vous avez le temps pour une promenade.",
            False,
        ),
        (
            "今天天气怎么样？我希望你有时间和朋友们一起沿着河边散步。" * 3,
            False,
        ),
        ("Погода сегодня прекрасная, и я надеюсь, что у вас есть время погулять вдоль реки.", False),
        ("Oui.", True),  # too short to tell
    ],
)
def test_texts_in_other_languages_are_told_from_english_ones(text: str, english: bool) -> None:
    assert is_english([text]) is english
