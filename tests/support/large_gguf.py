"""How much memory a 7B model of a GGUF takes: writes one of Mistral-7B's shape in Q4_K, and answers a pair with it.

    python tests/support/large_gguf.py FOLDER

The weights are random bytes, repeated so that 4.1 GB are written in seconds. FOLDER gets the file and a home for what
steerchat keeps of it. Prints the resident memory after loading, its peak, and the seconds, as a line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

HIDDEN, INNER, HEADS, SHARED, BLOCKS, TOKENS = 4096, 14336, 32, 8, 32, 32000
PROMPT, ANSWER = "w17 w4 w2026 hi w99 w31000 w5 w64", 16
# Rows that differ: the others repeat them.
_ROWS = 64
# Of a weight's numbers.
_SPREAD = 0.02


def weight(rng: np.random.Generator, out: int, size: int, kind: Kind) -> np.ndarray:
    """The bytes of a matrix (out, size) of random numbers: (out, bytes) uint8."""
    numbers, width = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (_ROWS, size // numbers, width), dtype=np.uint8)
    if kind == Kind.Q4_K:  # a number is scale * (0 to 63) * (0 to 15) - offset * (0 to 63)
        scale = _SPREAD / 200
        blocks[..., :4] = np.array([scale, scale * 7.5], np.float16).view(np.uint8)
    else:  # Q6_K: scale * (-128 to 127) * (-32 to 31)
        blocks[..., -2:] = np.array([_SPREAD / 1400], np.float16).view(np.uint8)
    return np.tile(blocks.reshape(_ROWS, -1), (out // _ROWS, 1))


def write(file: Path) -> None:
    """A Llama of 7.2 billion numbers, whose words are `w0`, `w1` and so on."""
    rng = np.random.default_rng(0)
    keys = HIDDEN // HEADS * SHARED
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["<s>", "</s>", *letters, *"0123456789", "Ġ", "hi"]
    tokens += [f"w{number}" for number in range(TOKENS - len(tokens))]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("large")
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(SHARED)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (TOKENS - 2))
    writer.add_token_merges(["h i"])
    writer.add_eos_token_id(1)
    shapes = {
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (keys, HIDDEN),
        "attn_v": (keys, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (INNER, HIDDEN),
        "ffn_up": (INNER, HIDDEN),
        "ffn_down": (HIDDEN, INNER),
    }
    layer = {name: weight(rng, *shape, Kind.Q4_K) for name, shape in shapes.items()}
    table, output = (weight(rng, TOKENS, HIDDEN, kind) for kind in (Kind.Q4_K, Kind.Q6_K))
    norm = np.ones(HIDDEN, np.float32)
    writer.add_tensor("token_embd.weight", table, raw_dtype=Kind.Q4_K)
    for block in range(BLOCKS):
        for name, data in layer.items():
            writer.add_tensor(f"blk.{block}.{name}.weight", data, raw_dtype=Kind.Q4_K)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{block}.{name}.weight", norm, raw_dtype=Kind.F32)
    writer.add_tensor("output_norm.weight", norm, raw_dtype=Kind.F32)
    writer.add_tensor("output.weight", output, raw_dtype=Kind.Q6_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def answer(file: Path) -> dict[str, object]:
    """Load the file as a chat does, and answer once as it is and once pushed."""
    import psutil
    import torch

    from steerchat.engine.decoding import Row
    from steerchat.engine.operations import Edit
    from steerchat.engine.sampling import Sampling
    from steerchat.models.find import find
    from steerchat.models.load import load
    from steerchat.values.results import drain

    begun = time.perf_counter()
    engine = load(find(str(file), progress=lambda event: None), "cpu")
    loaded = time.perf_counter()
    resident = psutil.Process().memory_info().rss
    prompt = tuple(engine.prompter.chat([{"role": "user", "content": PROMPT}]))
    push = Edit(engine.n_layers // 2, "add", torch.ones(engine.hidden))
    outputs = drain(engine.generate([Row(prompt), Row(prompt, (push,))], Sampling(max_tokens=ANSWER)))
    return {
        "file_gb": round(file.stat().st_size / 1e9, 2),
        "dtype": engine.dtype,
        "weights_gb": round(engine.size / 1e9, 2),
        "loaded_gb": round(resident / 1e9, 2),
        # The system counts in units of 1024 bytes, on macOS in bytes.
        "peak_gb": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9, 2
        ),
        "prompt_tokens": len(prompt),
        "answer_tokens": [len(output.answer.token_ids) for output in outputs],
        "load_seconds": round(loaded - begun, 1),
        "pair_seconds": round(time.perf_counter() - loaded, 1),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    os.environ["STEERCHAT_HOME"] = str(folder / "home")
    os.environ.pop("STEERCHAT_MODELS", None)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "large.gguf"
    if not file.exists():
        # In a process of its own, whose memory is none of a chat's.
        if (child := os.fork()) == 0:
            write(folder / "large.part")
            (folder / "large.part").rename(file)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit("the file was not written")
    print(json.dumps(answer(file)))
