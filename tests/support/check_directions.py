"""Are there cleaner directions in states already read? `python tests/support/check_directions.py FILE [CONCEPT...]`

Two ways to clean a concept's shipped vector are compared with adding it as it is, each at the strength at which its
answers cost x1.5, as `/compare-methods` does it:

- `common`: the concept's direction at a layer, with its part along what is common to all layers doubled. Common is the
  first principal direction of how the concept's vector changes from layer to layer, after the idea of Global
  Evolutionary Steering (Jiang et al. 2026, arXiv 2603.12298). `common alone` adds that direction at every layer.
- `weights`: the concept's direction at a layer, projected on the directions that the block's feed-forward layer writes
  most into, the leading left singular vectors of its output weights: the weight-SVD space of steering-lite.

A JSON object for each concept and method is added to the file; concepts that it has are left out. A concept takes some
minutes on two quiet cores.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measuring import default_session
from torch import Tensor, nn

from steerchat.concepts.concept import Concept
from steerchat.conversation.runner import Runner
from steerchat.experiments.methods import Method, compare_methods
from steerchat.experiments.tuning import DEFAULT_BUDGET
from steerchat.measures.capability import questions
from steerchat.measures.reader import Reader
from steerchat.system.folders import shipped_prompts
from steerchat.values.recipe import Term

CONCEPTS = ("happy", "formal", "pirate", "sad", "technical", "calm", "casual", "angry")
LEADING = 64  # singular vectors of 576


def common(directions: Tensor) -> Tensor:
    """(hidden,) the first principal direction of the changes from layer to layer, on the side of the directions."""
    changes = nn.functional.normalize(directions[1:] - directions[:-1], dim=-1)
    found = torch.linalg.svd(changes, full_matrices=False).Vh[0]
    return found * torch.sign((directions @ found).sum())


def written(blocks: Iterable[Any]) -> Tensor:
    """(layers, hidden, LEADING) orthonormal: what each block's feed-forward layer writes most into."""
    found = []
    for block in blocks:
        layer = block.mlp.down_proj
        with torch.inference_mode():
            weights = layer(torch.eye(layer.in_features))  # whatever the weights are held in
        found.append(torch.linalg.svd(weights.T.float(), full_matrices=False).U[:, :LEADING])
    return torch.stack(found)


def ways(reader: Reader, concept: Concept, layers: tuple[int, ...]) -> list[Method]:
    """Adding the shipped vector, and adding it cleaned."""
    vector = reader.vector(concept.name)
    units = vector.directions
    shared = common(units)
    spaces = written(reader.engine.blocks)
    cleaned = {
        "common": units + (units @ shared)[:, None] * shared,
        "common alone": shared.expand_as(units),
        "weights": torch.einsum("lhr,lkr,lk->lh", spaces, spaces, units),
    }
    methods = [Method("add", lambda number: Term(((concept.name, 1.0),), layers, number))]
    for name, directions in cleaned.items():
        known = f"{concept.name} ({name})"
        reader.know(known, replace(vector, name=known, directions=nn.functional.normalize(directions, dim=-1)))
        methods.append(Method(name, lambda number, known=known: Term(((known, 1.0),), layers, number)))
    return methods


def main() -> None:
    file, *names = sys.argv[1:]
    path = Path(file)
    done = {json.loads(line)["concept"] for line in path.read_text().splitlines()} if path.exists() else set()
    left = [name for name in names or CONCEPTS if name not in done]
    prompts = shipped_prompts("evaluation")[:12]
    with default_session() as session, path.open("a") as out:
        runner = Runner(session.reader, memo={})
        for rows in compare_methods(runner, left, DEFAULT_BUDGET, prompts, (0,), questions()[::8], ways):
            for row in rows:
                print(json.dumps(row.to_json()), file=out, flush=True)
                print(f"{row.concept:10} {row.method:14} {row.typed:14} words {row.gain[0]:+.2f}", flush=True)


if __name__ == "__main__":
    main()
