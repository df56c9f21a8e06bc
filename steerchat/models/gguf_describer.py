"""Write what a GGUF file says of its model, as transformers reads it: `ARCHITECTURE FOLDER GGUF...`.

The folder gets the configuration and the tokenizer, ready for `from_pretrained`, and `tensors.json`, which names the
model's parameter for each tensor. Several GGUF files are the parts of one model. It is a program of its own because
transformers prints its progress, keeps the interpreter busy for seconds, and can only be stopped by ending its process.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import gguf
import torch

from ..engine.transformers_api import transformers
from .described import UNKNOWN
from .file_weights import empty_model


def describe(architecture: str, folder: Path, gguf_file: Path, *parts: Path) -> None:
    """Write what the GGUF says into the new `folder`. Ends the program with `UNKNOWN` for an unknown architecture."""
    reader: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    one_part = gguf.GGUFReader

    class Joined(one_part):
        """Has the tensors of all parts: their names tell what the configuration leaves out."""

        def __init__(self, path: Path) -> None:
            super().__init__(path)
            for part in parts:
                self.tensors += one_part(part).tensors

    if parts:
        gguf.GGUFReader = Joined
    try:
        config = transformers.AutoConfig.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    except ValueError as error:
        if "architecture" in str(error):
            sys.exit(UNKNOWN)
        raise
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    generation = transformers.GenerationConfig.from_model_config(config)
    if generation.eos_token_id is None:
        generation.eos_token_id = tokenizer.eos_token_id
    folder.mkdir()
    config.save_pretrained(folder)
    generation.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = empty_model(config, torch.float32)
    # transformers asks for the same table once for every module, and making it takes 20 ms.
    gguf.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)
    processor = reader.TENSOR_PROCESSORS.get(architecture, reader.TensorProcessor)(config=config.to_dict())
    parameters = reader.get_gguf_hf_weights_map(model, processor)
    (folder / "tensors.json").write_text(json.dumps(parameters), "utf-8")


if __name__ == "__main__":
    describe(sys.argv[1], *map(Path, sys.argv[2:]))
