"""Convert a GGUF file into a folder of float32 safetensors and its tokenizer: `python -P convert.py GGUF FOLDER`.

It is a program of its own because transformers prints its progress, keeps the interpreter busy for seconds, and can
only be stopped by ending its process. It imports nothing of steerchat, so that it runs by its path from any working
directory.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any


def convert(gguf: Path, folder: Path) -> None:
    """Write the model in `gguf` to the new `folder`, ready for `from_pretrained`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are float32 now, but the model is still marked as quantised, and would refuse to be saved.
    model.hf_quantizer = None
    del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if model.generation_config.eos_token_id is None:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    folder.mkdir()
    model.save_pretrained(folder, max_shard_size="100GB")
    tokenizer.save_pretrained(folder)
    # safetensors makes its file readable for the user alone, and a teacher may want to share the folder.
    shutil.copymode(folder / "config.json", folder / "model.safetensors")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
