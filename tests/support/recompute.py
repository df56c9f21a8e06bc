"""Effects and costs of `steerchat compare --json` once more, by transformers alone: nothing of steerchat is imported.

    steerchat compare "Tell me about the weather" --steer happy --json > pairs.jsonl
    python tests/support/recompute.py MODEL vectors < pairs.jsonl

MODEL is a folder with the model as transformers saves it (`steerchat config` says where the default one is), the other
one holds the concept's TOML and `texts/neutral.jsonl`. Each text is read by itself, in one pass without a cache.
"""

from __future__ import annotations

import json
import math
import sys
import tomllib
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor


class Recomputed:
    """A concept's scale on a model: the direction of its pairs, and the neutral replies along it.

    Args:
        model: a folder.
        vectors: a folder with `NAME.toml` and `texts/neutral.jsonl`.
        name: the concept.
    """

    def __init__(self, model: Path, vectors: Path, name: str) -> None:
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model)
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        examples = tomllib.loads((vectors / f"{name}.toml").read_text("utf-8"))["examples"]
        states = {
            side: torch.stack([self._read(example["prompt"], example[side])[0] for example in examples])
            for side in ("positive", "negative")
        }
        train = torch.tensor([not example.get("held_out", False) for example in examples])
        difference = (states["positive"] - states["negative"])[train].mean(dim=0)
        directions = difference / difference.norm(dim=-1, keepdim=True)
        self.layer = _clearest(*((states[side] * directions).sum(dim=-1) for side in states))
        self._direction = directions[self.layer]
        corpus = map(json.loads, (vectors / "texts" / "neutral.jsonl").read_text("utf-8").splitlines())
        neutral = torch.stack([self._read(one["prompt"], one["reply"])[0][self.layer] for one in corpus])
        self._neutral = neutral @ self._direction

    def pair(self, pair: dict[str, Any]) -> tuple[float, float]:
        """(effect, perplexity ratio) of an object of `compare --json`, from its prompt and its two texts."""
        (normal, base), (steered, cost) = (
            self._read(pair["prompt"], pair[side]["text"]) for side in ("normal", "steered")
        )
        moved = (steered - normal)[self.layer] @ self._direction
        return float(moved / self._neutral.std()), math.exp(cost - base)

    @torch.inference_mode()
    def _read(self, prompt: str, text: str) -> tuple[Tensor, float]:
        """(layers, hidden) mean over the text's tokens of each block's output, and minus their mean log-probability."""
        ask = [{"role": "user", "content": prompt}]
        head = self._tokenizer.apply_chat_template(ask, tokenize=False, add_generation_prompt=True)
        ids = self._tokenizer(head, add_special_tokens=False).input_ids
        start = len(ids)
        ids = torch.tensor([ids + self._tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids])
        found = self._model(ids, output_hidden_states=True, logits_to_keep=ids.shape[1] - start + 1)
        # The last one is after the final norm, which no block's output is; no concept is read there.
        states = torch.stack([state[0, start:].mean(dim=0) for state in found.hidden_states[1:]])
        scores = found.logits[0, :-1].log_softmax(dim=-1)
        return states, -float(scores.gather(1, ids[0, start:, None]).mean())


def _clearest(positive: Tensor, negative: Tensor) -> int:
    """The layer, its first and last tenth left out, that parts two sets of projections (texts, layers) the furthest."""
    spread = torch.cat([positive - positive.mean(dim=0), negative - negative.mean(dim=0)]).std(dim=0)
    clarity = (positive.mean(dim=0) - negative.mean(dim=0)) / spread
    margin = len(clarity) // 10
    return margin + int(clarity[margin : len(clarity) - margin].argmax())


if __name__ == "__main__":
    known: dict[str, Recomputed] = {}
    for line in sys.stdin:
        one = json.loads(line)
        (term,) = one["recipe"]["terms"]
        concept = term["concept"]
        if concept not in known:
            known[concept] = Recomputed(Path(sys.argv[1]), Path(sys.argv[2]), concept)
        effect, ratio = known[concept].pair(one)
        print(
            f"{one['id']} {concept}: effect {one['effect']:+.4f}, recomputed {effect:+.4f}; "
            f"cost {one['perplexity_ratio']:.4f}, recomputed {ratio:.4f}"
        )
