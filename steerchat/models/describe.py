"""Write what a GGUF file says of its model, as transformers reads it: `describe.py GGUF ARCHITECTURE FOLDER`.

The folder gets the configuration and the tokenizer, ready for `from_pretrained`, and `tensors.json`, which names the
model's parameter for each tensor. It is a program of its own because transformers prints its progress, keeps the
interpreter busy for seconds, and can only be stopped by ending its process. It imports nothing of steerchat, so that it
runs by its path from any working directory.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path


def describe(gguf_file: Path, architecture: str, folder: Path) -> None:
    """Write what the GGUF says into the new `folder`."""
    import accelerate
    import gguf
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers import modeling_gguf_pytorch_utils as reader

    config = AutoConfig.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
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
    describe(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
