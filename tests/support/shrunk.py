"""Tiny models with random weights of any architecture of transformers, by its name."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny import tiny_tokenizer

# What these are called differs by architecture; a configuration gets those that it has.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "decoder_ffn_dim"), 128),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "num_heads"), 4),
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
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "layers")
_GROUPS = ("num_key_value_heads", "num_kv_heads", "num_global_key_value_heads")
# Models that read both ways unless they are told to write.
_TWO_WAYS = ("bert", "roberta", "rembert", "electra", "roformer", "megatron-bert", "xmod")


def shrunk(kind: str, draw: random.Random) -> Any:
    """A small configuration of an architecture, called as its `model_type`, with sizes that are drawn.

    Raises:
        Exception: any, when these sizes do not fit together in it.
    """
    config: Any = transformers.CONFIG_MAPPING[kind]
    whole = config(is_decoder=True) if kind in _TWO_WAYS else config()
    defaults = whole.get_text_config().to_dict()
    layers, groups = draw.randrange(2, 6), draw.choice([1, 2, 4])
    sizes = {**SIZES, **dict.fromkeys(_LAYERS, layers), **dict.fromkeys(_GROUPS, groups)}
    given = {name: size for name, size in sizes.items() if isinstance(defaults.get(name), int)}
    if isinstance(defaults.get("tie_word_embeddings"), bool):
        given["tie_word_embeddings"] = draw.random() < 0.5
    types = defaults.get("layer_types")
    if types:
        kinds = list(dict.fromkeys(types))
        given["layer_types"] = [kinds[layer % len(kinds)] for layer in range(layers)]
    if "kv_lora_rank" in given:  # each head has keys and values of its own, made of the small ones
        given["num_key_value_heads"] = 4
        given["head_dim"] = given["qk_rope_head_dim"]
    ids = {"vocab_size": len(tiny_tokenizer()), "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    if kind in _TWO_WAYS:
        given["is_decoder"] = True
    return type(whole.get_text_config())(**given, **ids)


def save_shrunk(kind: str, folder: Path, draw: random.Random) -> Path:
    """A model of this architecture as files, with the tiny tokenizer."""
    torch.manual_seed(draw.randrange(1000))
    model = transformers.AutoModelForCausalLM.from_config(shrunk(kind, draw))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
