"""Do word lists that others made agree? `pip install vaderSentiment empath; python tests/support/check_lexicons.py`

The measures of `/concept evaluate` are lists of this project. Here the answers to the same prompts are scored by VADER
(Hutto and Gilbert 2014), which rates sentiment, and by categories of Empath (Fast et al. 2016), which count words by
topic. Both are MIT licensed. The categories of a concept were chosen by their names, before any answer was scored; a
concept that none fits (formal, casual, brief, verbose) is left out. Takes some minutes.
One JSON object a concept on standard output; vectors/measured/lexicons.jsonl keeps it for tutorials/evaluation.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence

import numpy as np
from empath import Empath  # pyright: ignore[reportMissingImports]
from measuring import default_session
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # pyright: ignore[reportMissingImports]

from steerchat.conversation.runner import Runner
from steerchat.experiments.evaluation import TOKENS, by_prompt, interval
from steerchat.experiments.settings import chosen
from steerchat.system.folders import shipped_prompts
from steerchat.values.results import Pair
from steerchat.values.setting import Setting

PROMPTS, SEEDS = 12, 2
CATEGORIES = {
    "happy": ("joy", "cheerfulness", "fun"),
    "sad": ("sadness", "suffering", "disappointment"),
    "angry": ("anger", "rage", "hate", "irritability"),
    "fearful": ("fear", "nervousness", "horror"),
    "excited": ("anticipation", "zest", "celebration"),
    "calm": ("contentment", "sleep", "leisure"),
    "enthusiastic": ("optimism", "zest", "positive_emotion"),
    "pessimistic": ("disappointment", "negative_emotion", "pain"),
    "friendly": ("affection", "friends", "politeness", "warmth"),
    "technical": ("technology", "science", "tool", "computer"),
    "poetic": ("beauty", "art", "magic"),
    "pirate": ("ship", "sailing", "ocean"),
    "shakespeare": ("medieval", "royalty", "ancient"),
}
# The sign of the sentiment that a concept should bring; 0 where it should bring none.
SENTIMENT = {"happy": 1, "excited": 1, "enthusiastic": 1, "friendly": 1, "sad": -1, "angry": -1, "fearful": -1}
SENTIMENT["pessimistic"] = -1

_vader, _empath = SentimentIntensityAnalyzer(), Empath()


def sentiment(text: str) -> float:
    """VADER's compound score, from -1 to 1."""
    return float(_vader.polarity_scores(text)["compound"])


def topic(concept: str) -> Callable[[str], float]:
    """Words in the concept's categories of Empath, per 100 words."""
    categories = list(CATEGORIES[concept])

    def score(text: str) -> float:
        counts = _empath.analyze(text, categories=categories, normalize=True) or {}
        return 100.0 * sum(counts.values())

    return score


def gains(pairs: Sequence[Sequence[Pair]], score: Callable[[str], float]) -> np.ndarray:
    """(prompts,) steered minus normal."""
    return np.array(
        [
            np.mean([score(pair.steered.reply) - score(pair.normal.reply) for pair in group if pair.steered])
            for group in pairs
        ]
    )


def main() -> None:
    prompts = shipped_prompts("evaluation")[:PROMPTS]
    with default_session() as session:
        runner = Runner(session.reader, memo={})
        for name in sorted(CATEGORIES):
            print(f"  {name} ...", file=sys.stderr, flush=True)
            recipe = chosen(session, name)
            [trials] = runner.measure(prompts, [Setting("steered", recipe)], range(SEEDS), TOKENS, name)
            pairs = by_prompt(trials)
            normal = np.array([topic(name)(pair.normal.reply) for group in pairs for pair in group])
            by_topic = {other: float(gains(pairs, topic(other)).mean()) for other in CATEGORIES}
            row = {
                "concept": name,
                "recipe": str(recipe),
                "answers": len(trials),
                "categories": CATEGORIES[name],
                "normal": float(normal.mean()),
                "gain": interval(gains(pairs, topic(name))),
                "rank": 1 + sum(gain > by_topic[name] for gain in by_topic.values()),
                "gains": {other: round(gain, 2) for other, gain in by_topic.items()},
                "sentiment": interval(gains(pairs, sentiment)),
                "expected_sentiment": SENTIMENT.get(name, 0),
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
