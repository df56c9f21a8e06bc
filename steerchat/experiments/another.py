"""Another steerchat, for `bench`: `python -m steerchat.experiments.another MODEL DEVICE DTYPE`.

It prints a line when its model is loaded, then answers pair after pair until it is killed.
"""

from __future__ import annotations

import itertools
import sys

from ..engine.decoding import Row, Run
from ..engine.sampling import Sampling
from ..models.find import find
from ..models.load import load
from ..values.results import drain

PROMPT = "Tell me a long story about a journey by train through the mountains."


def answer_on(model: str, device: str, dtype: str) -> None:
    """Never returns. Raises ModelError when the model does not load."""
    engine = load(find(model, progress=lambda event: None), device, dtype)
    prompt = tuple(engine.prompter.chat([{"role": "user", "content": PROMPT}]))
    print("{}", flush=True)
    for seed in itertools.count(step=2):
        drain(engine.generate([Row(prompt, (), seed), Row(prompt, (), seed + 1)], Sampling(), Run()))


if __name__ == "__main__":
    answer_on(*sys.argv[1:])
