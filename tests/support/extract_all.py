"""Writes what ships for the default model: the mean replies of the library and the vector of every concept.

`python tests/support/extract_all.py` takes about two minutes. Run `steerchat chance` and `steerchat concept evaluate`
afterwards: what they measured before belongs to the old vectors.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from steerchat.concepts.extract import extract
from steerchat.concepts.library import Library
from steerchat.conversation.app import App
from steerchat.system import folders
from steerchat.system.settings import load_settings
from steerchat.values.recipe import RANDOM


def main() -> None:
    vectors = folders.packaged("vectors")
    engine = App(load_settings({"dtype": "float32"}, None)).start().engine()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as empty:  # what a user has must not join in
        library = Library(vectors, Path(empty) / "concepts", Path(empty) / "vectors")
        reference = library.reference(engine)
        if reference is not None:
            reference.save(vectors / "measured" / "reference.safetensors")
        for name in library.names():
            if name == RANDOM:
                continue
            concept = library.get(name)
            assert concept.method != "imported"
            extract(engine, concept, concept.method, reference=reference).save(vectors / f"{name}.safetensors")
            print(f"{name}: {concept.method}, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
