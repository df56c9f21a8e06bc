"""Tiny models with random weights of any architecture of transformers, by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tiny import tiny_tokenizer

# What these are called differs by architecture; a configuration gets those that it has.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "decoder_ffn_dim"), 128),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "num_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length"), 512),
    **dict.fromkeys(("head_dim", "global_head_dim", "attention_head_dim", "v_head_dim", "qk_nope_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("vocab_size_per_layer_input", "hidden_size_per_layer_input"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "linear_num_key_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 16),
    "sliding_window": 16,
}


def shrunk(kind: str) -> Any:
    """A small configuration of an architecture, called as its `model_type`.

    Raises:
        Exception: any, when these sizes do not fit together in it.
    """
    config: Any = transformers.CONFIG_MAPPING[kind]
    defaults = config().get_text_config().to_dict()
    given = {name: size for name, size in SIZES.items() if isinstance(defaults.get(name), int)}
    types = defaults.get("layer_types")
    if types:
        kinds = list(dict.fromkeys(types))
        given["layer_types"] = [kinds[layer % len(kinds)] for layer in range(4)]
    if "kv_lora_rank" in given:  # each head has keys and values of its own, made of the small ones
        given["num_key_value_heads"] = 4
    ids = {"vocab_size": len(tiny_tokenizer()), "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    text = type(config().get_text_config())
    return text(**given, **ids)


def save_shrunk(kind: str, folder: Path) -> Path:
    """A model of this architecture as files, with the tiny tokenizer."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(shrunk(kind))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
