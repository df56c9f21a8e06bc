"""What a model's configuration says of its texts: how long they may be, what ends a turn, what memory a token takes."""

from __future__ import annotations

from typing import Any

# More columns than a batch has beside those of its longest row.
_PADDING = 256


def context_size(config: Any) -> tuple[int, str]:
    """The most tokens that a text may have, and why they are fewer than the model's own context; empty where not."""
    size: int = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None) or 2048
    limits = [(size, "")]
    if getattr(config, "attn_temperature_tuning", False):
        why = "from there on it scales its queries by their column, which differs between rows of a batch"
        limits.append((config.floor_scale - _PADDING, why))
    rope = getattr(config, "rope_parameters", None) or {}
    if isinstance(rope, dict) and rope.get("rope_type") == "longrope":
        # Phi-3.5 and Phi-4-mini: what is kept of a text, and of shorter rows beside it, would no longer be what the
        # model computes.
        original = rope.get("original_max_position_embeddings")
        original = original or getattr(config, "original_max_position_embeddings", None) or size
        limits.append((original, "beyond its original context it turns all positions otherwise (LongRoPE)"))
    return min(limits)


def bytes_per_token(config: Any, layers: int, itemsize: int) -> int:
    """Bytes of a token's keys and values."""
    kept = 0
    for own in getattr(config, "per_layer_config", None) or [config] * layers:  # heads may differ by layer
        heads = getattr(own, "num_key_value_heads", None) or own.num_attention_heads
        kept += 2 * heads * (getattr(own, "head_dim", None) or own.hidden_size // own.num_attention_heads)
    return kept * itemsize


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a turn, by the generation configuration and by the tokenizer."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)
