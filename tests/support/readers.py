"""Every reader of files from strangers, with a valid file for each and invalid contents for all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save

from steerchat.concepts.files import read_concept, read_examples, read_header
from steerchat.concepts.vector import ConceptVector
from steerchat.course.lesson import read_course, read_lesson
from steerchat.measures.chance import load_chance
from steerchat.measures.profile import load_profile
from steerchat.models.fingerprint import json_object, tensors
from steerchat.storage.store import Store
from steerchat.system.settings import load_settings

CONCEPT = b'kind = "x"\n' + b'[[examples]]\nprompt = "p"\npositive = "yes, yes"\nnegative = "no"\n' * 2
LESSON = (
    b'+++\ntitle = "T"\nabout = "A"\nminutes = 3\n+++\n## One\nText.\n\n'
    b'```task\ndo = "/steer"\nhints = ["Type it."]\n```\n'
)
COURSE = b'lessons = ["a.md"]\n[tracks.short]\nabout = "x"\nlessons = ["a.md"]\n'
CELL = {"strength": 2.0, "tokens": 60, "mean": 0.0, "between": 0.1, "within": 0.1}
CHANCE = json.dumps({"fingerprint": "f", "cells": [CELL]}).encode()


def vector(metadata: dict[str, str] | None = None, lengths: int = 4) -> bytes:
    given = {"format": "steerchat-concept-1", "name": "n", "fingerprint": "f", "method": "mean", "report": "{}"}
    return save({"directions": torch.randn(4, 8), "raw_lengths": torch.ones(lengths)}, given | (metadata or {}))


def header(path: Path) -> object:
    return read_header(path)


def profile(path: Path) -> object:
    return load_profile(path, "f", path)


def chance(path: Path) -> object:
    found = load_chance(path, "f")
    return found and found.band(2.0, 60)


def course(path: Path) -> object:
    return read_course(path.parent)


def configuration(path: Path) -> object:
    return load_settings({}, path, {})


def history(path: Path) -> object:
    with Store.open(path) as store:
        return store.pairs(limit=5)


READERS: dict[str, tuple[str, Callable[[Path], object], bytes]] = {
    "vector": ("v.safetensors", ConceptVector.load, vector()),
    "vector's header": ("v.safetensors", header, vector()),
    "profile": ("profile.safetensors", profile, vector({"corpus": "c"})),
    "model": ("model.safetensors", tensors, vector()),
    "model's configuration": ("config.json", json_object, b'{"architectures": ["LlamaForCausalLM"]}'),
    "concept": ("c.toml", read_concept, CONCEPT),
    "examples as JSONL": ("e.jsonl", read_examples, b'{"prompt": "p", "positive": "yes", "negative": "no"}\n' * 2),
    "examples as CSV": ("e.csv", read_examples, b'prompt,positive,negative\np,"yes, yes",no\np,yes,no\n'),
    "configuration": ("config.toml", configuration, b'temperature = 0.5\nmodel = "x"\nseed = 3\n'),
    "chance": ("chance.json", chance, CHANCE),
    "lesson": ("a.md", read_lesson, LESSON),
    "course": ("course.toml", course, COURSE),
}
DEEP = 100_000
RUBBISH: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(4096),
    "a pickle": b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.",
    "a zip with a path upwards": b"PK\x03\x04" + bytes(22) + b"../../owned",
    "a header of 2**63 bytes": (2**63 - 1).to_bytes(8, "little") + b"{}",
    "a header that is not there": (1 << 30).to_bytes(8, "little") + b"{",
    "deep lists": b"x = " + b"[" * DEEP,
    "deep JSON": b"[" * DEEP,
    "deep JSON, named": b'{"fingerprint": "f", "cells": ' + b"[" * DEEP,
    "a number of 5,000 digits": b"seed = " + b"9" * 5000,
    "a key twice": b'kind = "x"\nkind = "y"\n',
    "no text": b"kind = \xff\xfe",
    "other types": b"lessons = 3\ntracks = 3\nexamples = 3\ntuned = 3\nkind = 3\nseed = [1]\nmodel = {}\n",
    "other types inside": b'lessons = []\ntracks = [1]\nexamples = [3]\ntuned = [{layers = nan}]\nmodel = ""\n',
    "NaN": b'{"fingerprint": "f", "cells": [{"strength": NaN, "tokens": 0, "mean": 1, "between": 1, "within": "x"}]}',
    "no cells": b'{"fingerprint": "f", "cells": []}',
    "a lesson that opens with a huge number": b"+++\nminutes = " + b"9" * 5000 + b"\n+++\n## One\n",
    "a lesson that opens with deep lists": b"+++\nminutes = " + b"[" * DEEP + b"\n+++\n## One\n",
    "a vector whose report is a list": vector({"report": "[1]"}),
    "a vector with deep report": vector({"report": "[" * DEEP}),
    "a vector with more lengths than layers": vector(lengths=5),
    "a vector cut short": vector()[:-5],
}
