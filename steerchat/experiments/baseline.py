"""transformers as it comes, for comparison: `python -P baseline.py MODEL DEVICE DTYPE THREADS`.

A program of its own that imports nothing of steerchat, so that nothing steerchat changes in a model, in torch or in
the environment can reach what it is compared with. It reads a JSON object a line, `{"prompt", "seed", "sampling"}`,
answers that prompt once with `generate`, and writes `{"seconds", "tokens"}`. Its first line says its versions.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def serve(model_path: Path, device: str, dtype: str, threads: int) -> None:
    """Load the model, a folder or a GGUF file, then answer line by line until standard input ends."""
    import torch
    import transformers

    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed must not come between
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    folder, extra = (model_path, {}) if model_path.is_dir() else (model_path.parent, {"gguf_file": model_path.name})
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), local_files_only=True, **extra
    )
    model.to(device).eval()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "dtype of generate": dtype}
    print(json.dumps(versions), file=answers, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        ids = torch.tensor([task["prompt"]], device=device)
        torch.manual_seed(task["seed"])
        started = time.perf_counter()
        answered = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, pad_token_id=0, **task["sampling"]
        )
        tokens = answered[0, ids.shape[1] :].tolist()  # which waits for a GPU
        report = {"seconds": time.perf_counter() - started, "tokens": len(tokens)}
        print(json.dumps(report), file=answers, flush=True)


if __name__ == "__main__":
    model_path, device, dtype, threads = sys.argv[1:]
    serve(Path(model_path), device, dtype, int(threads))
