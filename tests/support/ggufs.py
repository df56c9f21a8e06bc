"""GGUF files of tiny models of the real architecture, with weights of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

HIDDEN, INNER, HEADS, BLOCKS = 64, 96, 4, 2


def write_gguf(
    file: Path, layers: Kind, table: Kind, tied: bool, shared: int = HEADS, most: int = 0, factors: Sequence[float] = ()
) -> None:
    """A tiny Llama in a GGUF, its weights random and of these kinds, with `shared` heads for keys.

    Args:
        most: tensors in a part; the first part then has none.
        factors: that the frequencies of rotary positions are divided by.
    """
    rng = np.random.default_rng(0)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["<s>", "</s>", *letters, "hi", *(f"w{number}" for number in range(35))]
    writer = gguf.GGUFWriter(file, "llama", split_max_tensors=most, small_first_shard=bool(most))
    writer.add_name("tiny")
    writer.add_context_length(1024)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(shared)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(["h i"])
    writer.add_eos_token_id(1)
    keys = HIDDEN // HEADS * shared
    shapes = {"token_embd": (len(tokens), HIDDEN), "output_norm": (HIDDEN,)}
    shapes |= {} if tied else {"output": (len(tokens), HIDDEN)}
    for block in range(BLOCKS):
        here = {
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (keys, HIDDEN),
            "attn_v": (keys, HIDDEN),
            "ffn_down": (HIDDEN, INNER),
        }
        here |= {"attn_output": (HIDDEN, HIDDEN), "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN)}
        here |= {"attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,)}
        shapes |= {f"blk.{block}.{name}": shape for name, shape in here.items()}
    for name, shape in shapes.items():
        numbers = rng.normal(0, 0.1, shape).astype(np.float32)
        kind = Kind.F32 if len(shape) == 1 else table if name in ("token_embd", "output") else layers
        writer.add_tensor(f"{name}.weight", gguf.quantize(numbers, kind), raw_dtype=kind)
    if factors:
        writer.add_tensor("rope_freqs.weight", np.array(factors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
