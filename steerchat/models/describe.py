"""Write what a GGUF file says of its model, as transformers reads it: `describe.py ARCHITECTURE FOLDER GGUF...`.

The folder gets the configuration and the tokenizer, ready for `from_pretrained`, and `tensors.json`, which names the
model's parameter for each tensor. Several GGUF files are the parts of one model. It is a program of its own because
transformers prints its progress, keeps the interpreter busy for seconds, and can only be stopped by ending its process.
It imports nothing of steerchat, so that it runs by its path from any working directory.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

UNKNOWN = 3


def describe(architecture: str, folder: Path, gguf_file: Path, *parts: Path) -> None:
    """Write what the GGUF says into the new `folder`. Ends the program with `UNKNOWN` for an unknown architecture."""
    import accelerate
    import gguf
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers import modeling_gguf_pytorch_utils as reader

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
        config = AutoConfig.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    except ValueError as error:
        if "architecture" in str(error):
            sys.exit(UNKNOWN)
        raise
    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    generation = GenerationConfig.from_model_config(config)
    if generation.eos_token_id is None:
        generation.eos_token_id = tokenizer.eos_token_id
    with accelerate.init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    # transformers asks for the same table once for every module, and making it takes 20 ms.
    gguf.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)
    processor = reader.TENSOR_PROCESSORS.get(architecture, reader.TensorProcessor)(config=config.to_dict())
    parameters = reader.get_gguf_hf_weights_map(model, processor)
    folder.mkdir()
    config.save_pretrained(folder)
    generation.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "tensors.json").write_text(json.dumps(parameters), "utf-8")


if __name__ == "__main__":
    describe(sys.argv[1], *map(Path, sys.argv[2:]))
