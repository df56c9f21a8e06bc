"""Models that have a short name: small instruct models that people like, and the three that steerchat began with.

Each is declared once, below. Everything about them is known before anything is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownModel:
    """A model that can be named by an alias.

    Attributes:
        repository: on the Hub.
        parameters: the numbers in its weights; tied ones count once.
        licence: by its usual short name.
        gated: whether its authors want their terms accepted before it can be fetched.
    """

    repository: str
    parameters: int
    licence: str
    gated: bool = False

    @property
    def download(self) -> int:
        """Bytes to fetch: all of them are published in sixteen bits."""
        return 2 * self.parameters


DEFAULT = "smollm2"
_APACHE, _LLAMA, _GEMMA = "Apache 2.0", "Llama 3.2", "Gemma"
KNOWN = {
    DEFAULT: KnownModel("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008, _APACHE),
    "gemma3-270m": KnownModel("google/gemma-3-270m-it", 268_098_176, _GEMMA, gated=True),
    "smollm2-360m": KnownModel("HuggingFaceTB/SmolLM2-360M-Instruct", 361_821_120, _APACHE),
    "qwen3-0.6b": KnownModel("Qwen/Qwen3-0.6B", 596_049_920, _APACHE),
    "gemma3-1b": KnownModel("google/gemma-3-1b-it", 999_885_952, _GEMMA, gated=True),
    "llama3.2-1b": KnownModel("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400, _LLAMA, gated=True),
    "smollm2-1.7b": KnownModel("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1_711_376_384, _APACHE),
    "qwen3-1.7b": KnownModel("Qwen/Qwen3-1.7B", 1_720_574_976, _APACHE),
    "smollm3": KnownModel("HuggingFaceTB/SmolLM3-3B", 3_075_098_624, _APACHE),
    "llama3.2-3b": KnownModel("meta-llama/Llama-3.2-3B-Instruct", 3_212_749_824, _LLAMA, gated=True),
    "phi3": KnownModel("microsoft/Phi-3-mini-4k-instruct", 3_821_079_552, "MIT"),
    "phi4-mini": KnownModel("microsoft/Phi-4-mini-instruct", 3_836_021_760, "MIT"),
    "qwen3-4b": KnownModel("Qwen/Qwen3-4B-Instruct-2507", 4_022_468_096, _APACHE),
    "mistral": KnownModel("mistralai/Mistral-7B-Instruct-v0.2", 7_241_732_096, _APACHE),
    "mistral-v0.3": KnownModel("mistralai/Mistral-7B-Instruct-v0.3", 7_248_023_552, _APACHE),
}
