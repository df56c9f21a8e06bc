"""llama.cpp as its package for Python comes, for comparison: `python -P baseline_llama.py GGUF THREADS`.

A program of its own with the lines of `baseline.py`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any


def serve(model_path: str, threads: int) -> None:
    """Load the model, then answer line by line until standard input ends."""
    library: Any = importlib.import_module("llama_cpp")
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")  # C code prints too, which must not come between
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    model = library.Llama(model_path, n_ctx=0, n_threads=threads, n_threads_batch=threads, verbose=False)
    next(model.generate([model.token_bos()]))  # a package built for another CPU ends here
    print(json.dumps({"llama_cpp_python": library.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        sampling, prompt = task["sampling"], task["prompt"]
        options = {"temp": sampling["temperature"], "repeat_penalty": sampling["repetition_penalty"]}
        model.set_seed(task["seed"])
        model.reset()  # else it goes on from the prompt of the task before
        tokens = 0
        started = time.perf_counter()
        for token in model.generate(prompt, top_k=0, top_p=sampling["top_p"], min_p=0.0, **options):
            if token == model.token_eos():
                break
            tokens += 1
            if tokens == sampling["max_new_tokens"]:  # asked for another one, it would compute a step more
                break
        report = {"seconds": time.perf_counter() - started, "tokens": tokens}
        print(json.dumps(report), file=answers, flush=True)


if __name__ == "__main__":
    model_path, threads = sys.argv[1:]
    serve(model_path, int(threads))
