"""A tiny Llama with random weights, its tokenizer, its concepts: a whole steerchat that answers in milliseconds.

What it says is gibberish, but the same gibberish for the same seed, and every part in between is the real one.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models

from steerchat.concepts.library import Library
from steerchat.conversation.session import Session
from steerchat.engine.engine import Engine
from steerchat.storage.store import Store
from steerchat.system.settings import Settings
from steerchat.values.results import Event, Notice, Pair, PairDone

LAYERS = 4
CONTEXT = 512
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|unk|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONCEPTS = {
    "happy": [("I love it, what joy", "It is a table here"), ("Such a lovely day!", "The day has hours.")],
    "sad": [("I weep, all is lost", "It is a chair here"), ("Nothing but grey rain", "Some kind of weather")],
    "formal": [("One begs your pardon", "hey sorry bout that"), ("Kindly be advised", "just so you know")],
}


def tiny_tokenizer() -> Any:
    """A token for each printable ASCII character, which makes texts easy to foresee, and the control tokens."""
    characters = ["\n", *map(chr, range(32, 127))]
    vocabulary = {token: number for number, token in enumerate([*CONTROLS, *characters])}
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<|unk|>"))
    inner.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        unk_token="<|unk|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
    )


def tiny_model(tokenizer: Any, layers: int = LAYERS, heads: int = 4) -> Any:
    """Random weights, the same every time, large enough that a push changes what is said. A head has 16 numbers."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16 * heads,
        intermediate_size=32 * heads,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)


def tiny_engine() -> Engine:
    tokenizer = tiny_tokenizer()
    return Engine(tiny_model(tokenizer), tokenizer, "tiny", "tiny-fingerprint", lambda: 1 << 30)


def save_model(folder: Path, layers: int = LAYERS, heads: int = 4) -> Path:
    """The same model as files, for what loads one by its name; also with more layers, or narrower."""
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer, layers, heads).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_concepts(folder: Path) -> Path:
    """Three concepts and a neutral corpus, in the form that ships with steerchat."""
    (folder / "texts").mkdir(parents=True, exist_ok=True)
    for name, examples in CONCEPTS.items():
        lines = ['kind = "emotion"', f'description = "what {name} is"']
        for positive, negative in examples:
            lines += ["[[examples]]", 'prompt = "Well?"', f"positive = {json.dumps(positive)}"]
            lines += [f"negative = {json.dumps(negative)}"]
        (folder / f"{name}.toml").write_text("\n".join(lines), encoding="utf-8")
    corpus = [{"prompt": "Go on.", "reply": f"Sentence number {number} of many."} for number in range(8)]
    (folder / "texts" / "neutral.jsonl").write_text("\n".join(map(json.dumps, corpus)), encoding="utf-8")
    return folder


def a_library(folder: Path) -> Library:
    return Library(write_concepts(folder / "shipped"), folder / "concepts", folder / "vectors")


def a_session(
    folder: Path, engine: Engine, store: Store | None, report: Any = lambda event: None, **changes
) -> Session:
    """A session with short answers, on real files in `folder`."""
    settings = Settings(**{"max_tokens": 8, **changes})
    return Session(settings, a_library(folder), lambda: engine, store, report)


def finish(events: Any) -> Pair:
    """Runs a verb to its end and gives its last pair."""
    pairs = [event.pair for event in events if isinstance(event, PairDone)]
    return pairs[-1]


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def rows(path: Path, sql: str, *values: Any) -> list[dict[str, Any]]:
    """What another program reads in the history."""
    with sqlite3.connect(path) as db:
        db.row_factory = sqlite3.Row
        found = [dict(row) for row in db.execute(sql, values)]
    db.close()
    return found


ANSWERS = """
SELECT pairs.*, n.text AS normal, n.finish AS normal_finish, s.text AS steered, s.finish AS steered_finish
FROM pairs LEFT JOIN answers n ON n.id = normal_id LEFT JOIN answers s ON s.id = steered_id ORDER BY pairs.id
"""
