"""transformers without torch's compiler: half of the start, and 80 MB."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind
from ggufs import write_gguf

_ANSWER = """
import sys
opened = []
sys.addaudithook(lambda kind, found: kind == "open" and str(found[0]).endswith("modeling_gptj.py") and opened.append(1))
from pathlib import Path
from steerchat.models.find import find
from steerchat.models.load import load
from steerchat.engine.decoding import Row
from steerchat.engine.sampling import Sampling
from steerchat.values.results import drain
engine = load(find(sys.argv[1], progress=lambda event: None), "cpu")
drain(engine.generate([Row((1, 2)), Row((1, 2, 3))], Sampling(max_tokens=3)))
loaded = {"torch._dynamo", "sympy", "torch.distributed.tensor"} & set(sys.modules)
assert not loaded, loaded
import torch, transformers
assert len(opened) == 1, "the names of all models were looked for twice"
assert {"GPT2LMHeadModel", "LlamaForCausalLM"} <= set(dir(transformers))
assert "gpt2" in dir(transformers.models) and transformers.models.gpt2.GPT2Config
assert transformers.utils.is_torch_flex_attn_available()
assert transformers.utils.is_torch_distributed_available() == torch.distributed.is_available()
assert torch.equal(torch.compile(lambda x: x * 2, backend="eager")(torch.ones(2)), torch.full((2,), 2.0))
assert torch._dynamo.__file__
"""


@pytest.mark.slow
@pytest.mark.subprocess
def test_an_answer_needs_no_compiler_and_leaves_the_real_one_to_whoever_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path / "home"))
    write_gguf(tmp_path / "tiny.gguf", Kind.Q4_0, Kind.Q8_0, tied=False)
    command = [sys.executable, "-c", _ANSWER, str(tmp_path / "tiny.gguf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
