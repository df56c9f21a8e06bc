"""Does `/lens` predict where steering works? `python tests/support/check_lens.py FILE` measures it in ten minutes.

Each of the seventeen concepts is pushed at every layer by itself, as `/layers` does, on three prompts for tuning. What
is read without an answer is compared with what came out, layer by layer, by Spearman's rank correlation: the step of
`/lens`, its logit lens, the agreement of the pairs, the length of their difference, and the depth, the plainest guess.
A JSON object for each concept is added to the file. Concepts that it has are left out, so that a run can be stopped and
started again: begin without a file after a change of vectors. vectors/measured/lens.jsonl is for
tutorials/evaluation.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import default_session

from steerchat.conversation.runner import ROWS, Runner
from steerchat.conversation.session import Session
from steerchat.experiments.outcomes import outcomes_of
from steerchat.experiments.settings import at_layers, chosen
from steerchat.measures.prediction import STRENGTH, rank_correlation, read_layers
from steerchat.measures.reader import Reader
from steerchat.measures.words import INDEPENDENT
from steerchat.system.folders import shipped_prompts

TOKENS = 30


def measured(session: Session, runner: Runner, name: str, prompts: Sequence[str]) -> dict[str, Any]:
    """What a push at each layer did, over the layers."""
    settings = at_layers(chosen(session, name, None, STRENGTH), session.engine.n_layers)
    trials = runner.measure(prompts, settings, [0], TOKENS, name, ROWS)
    pairs = {setting: [trial.pair for trial in own] for setting, own in zip(settings, trials, strict=True)}
    outcomes = outcomes_of(runner.reader.chance, pairs)
    figures = {"effects": "effect", "words": "words", "costs": "cost"}
    found = {key: [round(getattr(outcome, each) or 0.0, 3) for outcome in outcomes] for key, each in figures.items()}
    return {"concept": name, "layers": [outcome.setting.layer for outcome in outcomes], **found}


def compared(reader: Reader, row: dict[str, Any]) -> dict[str, Any]:
    """A row of `measured` with what is read without an answer, and how well their orders agree."""
    name, layers = row["concept"], row["layers"]
    readings, vector = read_layers(reader, name), reader.vector(name)
    read = {
        "step": [readings[layer].step or 0.0 for layer in layers],
        "lens": [readings[layer].lens or 0.0 for layer in layers],
        "agreement": [readings[layer].agreement or 0.0 for layer in layers],
        "length": [float(vector.raw_lengths[layer] / reader.profile.lengths[layer]) for layer in layers],
        "depth": [float(layer) for layer in layers],
    }
    correlations = {
        each: {key: round(rank_correlation(values, row[key]), 3) for key in ("effects", "words")}
        for each, values in read.items()
    }
    rounded = {each: [round(value, 3) for value in values] for each, values in read.items() if each != "depth"}
    return row | {"read": rounded, "rank_correlation": correlations}


def main(file: Path) -> None:
    prompts = shipped_prompts("tuning")[4:7]
    with default_session() as session:
        runner = Runner(session.reader, memo={})
        written = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        missing = sorted(set(INDEPENDENT) - {json.loads(line)["concept"] for line in written})
        for number, name in enumerate(missing, 1):
            print(f"{name}: {number} of {len(missing)}", file=sys.stderr)
            row = compared(runner.reader, measured(session, runner, name, prompts))
            with file.open("a", encoding="utf-8") as out:
                print(json.dumps(row), file=out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
