"""Engines for the tests: tiny models of real architectures with random weights, made in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from steerchat.engine.decoding import Row, Run
from steerchat.engine.engine import Engine, Output
from steerchat.engine.operations import Edit
from steerchat.engine.sampling import Sampling
from steerchat.values.results import Delta, Finished

HIDDEN = 64
LAYERS = 4
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0, max_tokens=12)


@cache
def tiny_tokenizer() -> Any:
    """Byte-level: every byte is a token, and a few merges, so that most characters beyond ASCII are split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the weather is fine and the user asks the assistant about the rain"] * 3, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIALS[0],
        eos_token=SPECIALS[2],
        additional_special_tokens=SPECIALS[1:2],
        chat_template=CHAT,
    )


def tiny_model(kind: str = "llama", seed: int = 0) -> Any:
    """A causal model of a real architecture whose random weights are large enough for its answers to vary."""
    torch.manual_seed(seed)
    common: dict[str, Any] = {"vocab_size": len(tiny_tokenizer()), "bos_token_id": 0, "eos_token_id": 2}
    modern: dict[str, Any] = {
        **common,
        "hidden_size": HIDDEN,
        "intermediate_size": 128,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "initializer_range": 0.15,
        "pad_token_id": 0,
    }
    configs: dict[str, Callable[[], Any]] = {
        "llama": lambda: transformers.LlamaConfig(**modern),
        # Heads, sizes and offsets for which there is machine code.
        "wide": lambda: transformers.LlamaConfig(**{**modern, "head_dim": 32}, attention_bias=True, mlp_bias=True),
        "gpt2": lambda: transformers.GPT2Config(
            **common, n_embd=HIDDEN, n_layer=LAYERS, n_head=4, n_positions=1024, initializer_range=0.15
        ),
        # Windows shorter than the prompts of the tests, in all layers and in some.
        "mistral": lambda: transformers.MistralConfig(**modern, sliding_window=9),
        "gemma3": lambda: transformers.Gemma3TextConfig(
            **modern, sliding_window=9, layer_types=["sliding_attention", "full_attention"] * 2
        ),
        "qwen3": lambda: transformers.Qwen3Config(**modern),
    }
    config = configs[kind]()
    config._attn_implementation = "sdpa"
    return transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def tiny_engine(
    kind: str = "llama", stops: Sequence[int] = (2,), free_memory: Callable[[], int] = lambda: 1 << 32, seed: int = 0
) -> Engine:
    """An engine on `tiny_model`; answers also end at `stops`, so that rows can be made to end early."""
    model = tiny_model(kind, seed)
    model.generation_config.eos_token_id = list(stops)
    return Engine(model, tiny_tokenizer(), f"tiny-{kind}", f"tiny-{kind}-{seed}", free_memory)


def drain(run: Generator[Delta | Finished, None, list[Output]]) -> tuple[list[Delta | Finished], list[Output]]:
    """A run's events and what it returns."""
    events: list[Delta | Finished] = []
    while True:
        try:
            events.append(next(run))
        except StopIteration as end:
            return events, end.value


def answers(engine: Engine, rows: Sequence[Row], sampling: Sampling, **options: Any) -> list[Output]:
    return drain(engine.generate(rows, sampling, Run(**options)))[1]


def push(layer: int, seed: int, size: float = 8.0) -> Edit:
    """A random push: LayerNorm would take away one that is the same in every dimension."""
    direction = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed))
    return Edit(layer, "add", direction * (size / direction.norm()))


@contextmanager
def recording_blocks(engine: Engine, layer: int) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Per forward pass, what block `layer` computed and what the next block was given: hooks are between the two."""
    computed: list[Tensor] = []
    handed_on: list[Tensor] = []

    def after(module: Any, args: Any, output: Any) -> None:
        computed.append((output if isinstance(output, Tensor) else output[0]).clone())

    def before(module: Any, args: Any, kwargs: Any) -> None:
        handed_on.append((args[0] if args else kwargs["hidden_states"]).clone())

    handles = [
        engine.blocks[layer].register_forward_hook(after),
        engine.blocks[layer + 1].register_forward_pre_hook(before, with_kwargs=True),
    ]
    try:
        yield computed, handed_on
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recording_logits(engine: Engine) -> Iterator[list[Tensor]]:
    """The logits of each pass that computes them, (rows, vocabulary): one per generated token."""
    seen: list[Tensor] = []
    handle = engine.model.register_forward_hook(lambda module, args, output: seen.append(output.logits[:, -1].clone()))
    try:
        yield seen
    finally:
        handle.remove()
