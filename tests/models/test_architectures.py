"""Every architecture from door to door: read from files, extracted from, steered, swept, and told more than once.

The reference is transformers' own forward pass on one text without a cache, and one plain hook at a place that is
written down here for each architecture. It shares no code with steerchat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from engines import answers, recording_logits
from tiny import CONCEPTS, TEMPLATE, a_session, finish, tiny_tokenizer
from torch import Tensor

from steerchat.conversation.session import Session
from steerchat.engine.decoding import Row
from steerchat.engine.engine import Engine
from steerchat.engine.operations import Edit
from steerchat.engine.sampling import Sampling
from steerchat.engine.transformers_api import auto_model
from steerchat.experiments.run import experiment
from steerchat.experiments.settings import at_layers, at_strengths
from steerchat.measures.inspection import lens, likelihoods, wanted
from steerchat.models.find import find
from steerchat.models.load import load
from steerchat.storage.store import Store
from steerchat.values.recipe import parse_term

END = 2  # the token that ends a turn
LAYERS, HIDDEN, WINDOW = 4, 64, 9  # the window is shorter than every prompt here
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TEMPLATE
)

COMMON: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
HYBRID: dict[str, Any] = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "tie_word_embeddings": False,  # a tied random model says its last token again, whatever is pushed
}
SMALL_EYES: dict[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 32, "out_hidden_size": HIDDEN},
    **{"num_hidden_layers": 1, "depth": 1, "num_attention_heads": 2, "num_heads": 2},
}
PER_LAYER: dict[str, Any] = {"vocab_size_per_layer_input": 99, "hidden_size_per_layer_input": 8}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


@dataclass(frozen=True)
class Kind:
    """An architecture: its configuration, where its blocks are, and its chat template (None for a base model)."""

    config: Callable[..., Any]
    blocks: Callable[[Any], Any]
    options: dict[str, Any]
    template: str | None = TEMPLATE


def layers(model: Any) -> Any:
    return model.model.layers


KINDS = {
    "llama": Kind(transformers.LlamaConfig, layers, COMMON),
    "mistral": Kind(transformers.MistralConfig, layers, COMMON | {"sliding_window": WINDOW}, NO_SYSTEM),
    "qwen2": Kind(
        transformers.Qwen2Config,
        layers,
        COMMON | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    ),
    "qwen3": Kind(transformers.Qwen3Config, layers, COMMON | {"head_dim": 16}),
    "gemma2": Kind(
        transformers.Gemma2Config,
        layers,
        # Caps low enough to bite: without them the scores would be others.
        COMMON | HYBRID | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
        NO_SYSTEM,
    ),
    "gemma3": Kind(transformers.Gemma3TextConfig, layers, COMMON | HYBRID, NO_SYSTEM),
    "phi3": Kind(transformers.Phi3Config, layers, COMMON | {"sliding_window": WINDOW}),
    "gpt2": Kind(
        transformers.GPT2Config,
        lambda model: model.transformer.h,
        {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4, "n_positions": 512, "initializer_range": 0.2},
        None,
    ),
    "gpt_neox": Kind(transformers.GPTNeoXConfig, lambda model: model.gpt_neox.layers, COMMON, None),
    "granite": Kind(transformers.GraniteConfig, layers, COMMON | {"logits_scaling": 4.0, "residual_multiplier": 0.5}),
    # A setting of the same name, which multiplies.
    "hyperclovax": Kind(transformers.HyperCLOVAXConfig, layers, COMMON | {"logits_scaling": 0.25}),
    "cohere": Kind(transformers.CohereConfig, layers, COMMON | {"logit_scale": 0.25}),
    "opt": Kind(
        transformers.OPTConfig,
        lambda model: model.model.decoder.layers,
        {"hidden_size": HIDDEN, "ffn_dim": 128, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
        | {"max_position_embeddings": 512, "word_embed_proj_dim": HIDDEN, "init_std": 0.2},
        None,
    ),
    "mixtral": Kind(transformers.MixtralConfig, layers, COMMON | {"num_local_experts": 4}),
    "qwen3_moe": Kind(transformers.Qwen3MoeConfig, layers, COMMON | {"head_dim": 16, **EXPERTS}),
    "gpt_oss": Kind(
        transformers.GptOssConfig,
        layers,
        COMMON | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": WINDOW},
    ),
    # ALiBi: no positions, and masks of columns alone.
    "bloom": Kind(
        transformers.BloomConfig,
        lambda model: model.transformer.h,
        {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": 4, "initializer_range": 0.2},
        None,
    ),
    "mpt": Kind(
        transformers.MptConfig,
        lambda model: model.transformer.blocks,
        {"d_model": HIDDEN, "n_layers": LAYERS, "n_heads": 4, "max_seq_len": 512, "initializer_range": 0.2},
        None,
    ),
    # Four streams; the last two layers attend to keys of the first two.
    "gemma3n": Kind(
        transformers.Gemma3nTextConfig,
        layers,
        COMMON | HYBRID | PER_LAYER | {"num_kv_shared_layers": 2, "laurel_rank": 8},
        NO_SYSTEM,
    ),
    # Heads of two sizes.
    "gemma4": Kind(
        transformers.Gemma4TextConfig,
        layers,
        COMMON | HYBRID | PER_LAYER | {"num_kv_shared_layers": 2, "global_head_dim": 32},
        NO_SYSTEM,
    ),
    "llama4": Kind(
        transformers.Llama4TextConfig,
        layers,
        COMMON
        | {"head_dim": 16, "intermediate_size_mlp": 64, "num_local_experts": 2, "interleave_moe_layer_step": 2}
        | {"attention_chunk_size": WINDOW},
    ),
    # The text side of models that also see images.
    "mistral3": Kind(
        lambda **options: transformers.Mistral3Config(
            text_config=transformers.MistralConfig(**options).to_dict(),
            vision_config=SMALL_EYES | {"model_type": "pixtral"},
        ),
        lambda model: model.model.language_model.layers,
        COMMON,
    ),
    "qwen2_5_vl": Kind(
        lambda **options: transformers.Qwen2_5_VLConfig(text_config=options, vision_config=SMALL_EYES),
        lambda model: model.model.language_model.layers,
        COMMON | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}},
    ),
    "smollm3": Kind(transformers.SmolLM3Config, layers, COMMON | {"no_rope_layers": [1, 1, 1, 0]}),
}


@pytest.fixture(scope="module", params=list(KINDS))
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Kind, Engine]:
    """A model of each architecture, saved and loaded as a user's folder is."""
    folder = save_kind(request.param, tmp_path_factory.mktemp(request.param))
    return KINDS[request.param], load(find(str(folder), progress=print), "cpu", "float32")


def save_kind(name: str, folder: Path) -> Path:
    kind = KINDS[name]
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = kind.template
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    config = kind.config(vocab_size=len(tokenizer), **ids, **kind.options)
    auto_model(config).from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def session(tmp_path: Path, found: tuple[Kind, Engine]) -> Iterator[Session]:
    _, engine = found
    engine.forget()
    with Store.open(tmp_path / "history.db") as store:
        yield a_session(tmp_path, engine, store, temperature=0.0, repetition_penalty=1.0, max_tokens=6)


def plain(
    kind: Kind, engine: Engine, tokens: Sequence[int], edits: Sequence[Edit] = (), start: int = 0
) -> tuple[Tensor, Tensor]:
    """Logits (tokens, vocabulary) and block outputs (layers, tokens, hidden) of one text alone, without a cache,
    with every edit done to its block's output from position `start` on."""
    states: list[Tensor] = []

    def hook(layer: int) -> Any:
        def changed(module: Any, args: Any, output: Any) -> Any:
            state = (output if isinstance(output, Tensor) else output[0]).clone()
            active = state[0] if state.dim() == 4 else state  # the first of several streams
            for edit in edits:
                if edit.layer == layer:
                    part, unit = active[:, start:], edit.vector / edit.vector.norm()
                    if edit.operation == "add":
                        part += edit.vector
                    elif edit.operation == "ablate":
                        part -= (part @ unit)[..., None] * unit
                    else:
                        part[:] = edit.vector
            states.append(active[0])
            return state if isinstance(output, Tensor) else (state, *output[1:])

        return changed

    handles = [block.register_forward_hook(hook(layer)) for layer, block in enumerate(kind.blocks(engine.model))]
    with torch.no_grad():
        logits = engine.model(torch.tensor([list(tokens)]), use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return logits, torch.stack(states)


def greedy(
    kind: Kind, engine: Engine, prompt: Sequence[int], edits: Sequence[Edit], end: int, count: int
) -> tuple[int, ...]:
    """The likeliest tokens, one full forward pass each."""
    tokens = list(prompt)
    for _ in range(count):
        token = int(plain(kind, engine, tokens, edits, len(prompt) - 1)[0][-1].argmax())
        if token == end:
            break
        tokens.append(token)
    return tuple(tokens[len(prompt) :])


def test_a_model_without_positions_is_run_by_column_however_coarse_its_weights_are(tmp_path: Path) -> None:
    """Rounding would hide what a gap in a row does to its numbers."""
    folder = save_kind("mpt", tmp_path / "mpt")
    assert load(find(str(folder), progress=print), "cpu", "int8").passes.by_column


@pytest.mark.slow
def test_a_pair_is_what_a_plain_loop_says(found: tuple[Kind, Engine], session: Session) -> None:
    kind, engine = found
    session.system = "Be brief."
    session.steer([parse_term("random 1 6.0"), parse_term("happy 2 3.0")])
    with recording_logits(engine) as seen:
        pair = finish(session.say("How are you?", seed=5))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How are you?"}]
    prompt = engine.prompter.chat(messages)
    assert "brief" in engine.prompter.text(prompt)  # a refused system message opens the first one
    pushes = session.reader.edits(session.recipe, 5)
    assert len({edit.layer for edit in pushes}) == 2
    assert pair.steered is not None
    assert pair.normal.token_ids == greedy(kind, engine, prompt, (), END, 6)
    assert pair.steered.token_ids == greedy(kind, engine, prompt, pushes, END, 6)
    # The first step's scores of both rows, and that the push is no small thing to the reference.
    normal = plain(kind, engine, prompt)[0][-1]
    steered = plain(kind, engine, prompt, pushes, len(prompt) - 1)[0][-1]
    torch.testing.assert_close(seen[0], torch.stack([normal, steered]), atol=1e-4, rtol=1e-4)
    assert (steered - normal).abs().max() > 0.05
    # How likely the unsteered model finds the steered answer.
    answer = engine.prompter.reply(pair.steered.text)
    scores = plain(kind, engine, [*prompt, *answer])[0].log_softmax(-1)
    logs = [float(scores[len(prompt) - 1 + place, token]) for place, token in enumerate(answer)]
    assert pair.steered.perplexity == pytest.approx(torch.tensor(logs).mean().neg().exp().item(), rel=1e-3)


@pytest.mark.slow
def test_the_output_layer_and_the_lens_have_the_models_own_probabilities(found: tuple[Kind, Engine]) -> None:
    kind, engine = found
    prompt = engine.prompter.raw("How are you?")
    scores = plain(kind, engine, prompt)[0]
    chance = float(scores[-1].softmax(-1).max())
    assert wanted(engine, prompt, 1)[0].probability == pytest.approx(chance, rel=1e-3)
    assert lens(engine, prompt)[-1].guess.probability == pytest.approx(chance, rel=1e-3)
    chances = [float(scores.softmax(-1)[place, token]) for place, token in enumerate(prompt[1:])]
    guesses = [guess.probability for guess in likelihoods(engine, prompt[:1], prompt[1:])]
    assert guesses == pytest.approx(chances, rel=1e-3, abs=1e-6)


@pytest.mark.slow
def test_a_vector_is_the_difference_of_plain_means(found: tuple[Kind, Engine], session: Session) -> None:
    kind, engine = found
    raw = torch.zeros(LAYERS, HIDDEN)
    prompt = engine.prompter.chat([{"role": "user", "content": "Well?"}])
    for positive, negative in CONCEPTS["happy"]:
        for text, sign in ((positive, 1), (negative, -1)):
            states = plain(kind, engine, [*prompt, *engine.prompter.reply(text)])[1]
            raw += sign * states[:, len(prompt) :].mean(dim=1) / len(CONCEPTS["happy"])
    vector = session.library.vector("happy", engine)
    torch.testing.assert_close(vector.directions, raw / raw.norm(dim=-1, keepdim=True), atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_a_sweeps_rows_are_what_plain_loops_say(found: tuple[Kind, Engine], session: Session) -> None:
    kind, engine = found
    session.steer([parse_term("random 1 6.0")])
    prompt = engine.prompter.chat([{"role": "user", "content": "Tell me"}])
    settings = [*at_layers(session.recipe, LAYERS), *at_strengths(session.recipe, [-6.0, 0.0])]
    result = experiment(session, "layers", "Tell me", settings, 2)
    assert len(result.outcomes) == LAYERS + 2
    answers = set()
    for outcome in result.outcomes:
        for pair in outcome.pairs:
            pushes = session.reader.edits(outcome.setting.recipe, pair.seed)
            assert pair.steered is not None
            assert pair.steered.token_ids == greedy(kind, engine, prompt, pushes, END, 6)
            answers.add(pair.steered.token_ids)
    assert len(answers) > LAYERS


@pytest.mark.slow
def test_rows_that_ablate_and_replace_are_what_plain_loops_say(found: tuple[Kind, Engine]) -> None:
    kind, engine = found
    prompts = [engine.prompter.raw(text) for text in ("How are you today, my friend?", "Why?")]
    states = plain(kind, engine, prompts[0])[1]
    ablate, replace = Edit(1, "ablate", states[1, -1] + states[1, 5]), Edit(2, "replace", states[2, 3] + states[2, 4])
    rows = [Row(tuple(prompt), edits) for prompt in prompts for edits in ((), (ablate,), (replace,), (ablate, replace))]
    with recording_logits(engine) as seen:
        outputs = answers(engine, rows, Sampling(temperature=0.0, repetition_penalty=1.0, max_tokens=4))
    starts = [len(row.prompt) - 1 for row in rows]
    firsts = [plain(kind, engine, row.prompt, row.edits, start)[0][-1] for row, start in zip(rows, starts, strict=True)]
    torch.testing.assert_close(seen[0], torch.stack(firsts), atol=1e-4, rtol=1e-4)
    assert all((edited - firsts[0]).abs().max() > 0.05 for edited in firsts[1:3])
    for row, output in zip(rows, outputs, strict=True):
        assert output.answer.token_ids == greedy(kind, engine, row.prompt, row.edits, END, 4)


@pytest.mark.slow
def test_turns_that_reuse_their_caches_say_what_turns_without_say(found: tuple[Kind, Engine], session: Session) -> None:
    _, engine = found

    def talk(forget: bool) -> tuple[list[Any], int]:
        engine.forget()
        session.new()
        before, said = engine.passes.positions, []
        for prompt in ("How are you?", "And the weather then?", "Why?"):
            if forget:
                engine.forget()
            pair = finish(session.say(prompt, seed=3))
            assert pair.steered is not None
            said.append((pair.normal.token_ids, pair.steered.token_ids))
        return said, engine.passes.positions - before

    session.steer([parse_term("random 1 6.0")])
    session.reader.edits(session.recipe, 3)  # what is measured once is measured now
    kept, little = talk(forget=False)
    fresh, much = talk(forget=True)
    assert kept == fresh and any(normal != steered for normal, steered in kept)
    assert little < 0.8 * much
