"""Do the verdicts hold on the default model? `python tests/support/check_verdicts.py [TOKENS]` says so in ten minutes.

Ten prompts on which no setting was chosen are answered with five seeds each: pushed in two random directions at 2.0,
read along happy, and towards three concepts at their recommended settings. Random pushes should be within chance in 18
of 20 comparisons, and each concept clear in 9 of 10. What came out is one JSON object on standard output;
vectors/measured/verdicts.jsonl keeps it for tutorials/evaluation.md.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace

from measuring import default_session

from steerchat.concepts.concept import Concept
from steerchat.concepts.library import DEFAULT_LAYERS
from steerchat.concepts.vector import random_vector
from steerchat.experiments.run import experiment
from steerchat.experiments.settings import chosen
from steerchat.system.folders import shipped_prompts
from steerchat.values.recipe import Recipe, Term, parse_layers
from steerchat.values.setting import Setting

CONCEPTS = ("happy", "formal", "poetic")
SEEDS, EACH = 5, 2


def main(tokens: int) -> None:
    prompts = shipped_prompts("evaluation")
    found: dict[str, list[tuple[str | None, list[float]]]] = {name: [] for name in ("random", *CONCEPTS)}
    with default_session("float32", max_tokens=tokens) as session:
        engine, library = session.engine, session.library
        layers = parse_layers(DEFAULT_LAYERS, engine.n_layers)
        for number, prompt in enumerate(prompts[:10]):
            settings = [Setting(name, chosen(session, name)) for name in CONCEPTS]
            for each in range(EACH):
                name = f"direction-{EACH * number + each}"
                vector = random_vector(1000 + EACH * number + each, engine.n_layers, engine.hidden, engine.fingerprint)
                concept = Concept(name, "control", "a random direction", (), method="imported")
                library.save(concept, replace(vector, report={"examples": concept.digest}))
                pushed = Recipe((Term(((name, 1.0),), layers, 2.0),))
                settings.append(Setting("random", pushed, along=settings[0].recipe))
            session.settings.seed = SEEDS * number
            result = experiment(session, "compare", prompt, settings, SEEDS)
            for one in result.outcomes:
                found[one.setting.label].append((one.clarity, one.effects))
            print(f"{number + 1} of 10: {prompt}", file=sys.stderr, flush=True)
        band = session.calibration.chance(engine.fingerprint)
    counts = {
        name: {
            **Counter(clarity or "no chance band" for clarity, _ in seen),
            "effects": [[round(effect, 2) for effect in effects] for _, effects in seen],
        }
        for name, seen in found.items()
    }
    means = band.band(2.0, tokens, SEEDS) if band else None
    edges = means and [round(edge, 2) for edge in means]
    print(json.dumps({"tokens": tokens, "seeds": SEEDS, "verdicts": counts, "band": edges}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 120)
