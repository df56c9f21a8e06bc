"""Whether all layers of a model attend, told by its configuration: before its weights are fetched or read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engine.transformers_api import transformers
from ..values.errors import ModelError

# Families that people find easily, for hints.
FAMILIES = "Llama, Qwen3, Gemma 3, Phi or Mistral"
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


def check_json(config: Mapping[str, Any], name: str) -> None:
    """Raises ModelError for a config.json of a model that does more than attend. One that transformers does not know
    passes: what it has shows once it is loaded."""
    try:
        known = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
        several = (transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)
        kind: Any = next(mapping[type(known)] for mapping in several if type(known) in mapping)
        text = known.get_text_config()
    except Exception:  # a file of anybody's: transformers raises what it likes, and loading says what is wrong
        return
    check_kinds(text, bool(kind._is_stateful), name)


def check_kinds(config: Any, recurrent: bool, name: str) -> None:
    """Raises ModelError for layers with a state: the batch crops keys and values by position, which a state lacks.

    Args:
        config: of the model's text side.
        recurrent: whether its class says that it keeps a state.
        name: for people.
    """
    if getattr(config, "altup_active_idx", 0):
        raise ModelError(
            f"{name} computes on another of its streams than the first", f"choose one of {FAMILIES}; please report it"
        )
    unknown = sorted({*(getattr(config, "layer_types", None) or ())} - _ATTENTION)
    if unknown or recurrent:
        what = f"layers of the kind {unknown[0]}" if unknown else "recurrent layers"
        raise ModelError(
            f"{name} has {what}, and steerchat runs full, sliding and chunked attention only",
            f"choose a model with attention in all layers, such as {FAMILIES}",
        )
