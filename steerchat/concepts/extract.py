"""From contrast pairs to a concept vector.

vector = activation(text with the concept) - activation(text without), for every layer in one pass.
Methods: `mean`, the mean difference over the replies' tokens (Rimsky et al. 2024, Contrastive Activation
Addition; Chen et al. 2025 also read reply tokens); `centred`, the same, against the library's tones (see
`reference`); `pca`, the first principal component of the pairs' differences,
uncentred and with its sign fixed (Zou et al. 2023, Representation Engineering); `end`, the mean difference at the last
tokens, for concepts that decide where a text ends; `last`, the last-token difference of one pair, as textbooks show it
(Turner et al. 2023, ActAdd).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine.engine import Engine
from ..values.errors import ConceptError, unknown
from ..values.results import UNWATCHED, Watch
from ..values.text import counted
from .concept import METHODS, Concept, Example, Extraction, Method
from .reference import CENTRED, Reference, examples_digest
from .vector import LEVELS, ConceptVector

FEW = 8  # the vector of fewer pairs is mostly their topics
LOW_AGREEMENT = 0.2  # below this mean cosine of the pairs' differences with their mean, the pairs contradict each other
_END_WARNING = "it is read at the ends of texts, so the effect of a whole answer hardly shows it: count words instead"


def extract(
    engine: Engine,
    concept: Concept,
    method: Extraction = "mean",
    watch: Watch = UNWATCHED,
    reference: Reference | None = None,
    read: tuple[Tensor, Tensor, Tensor] | None = None,
) -> ConceptVector:
    """A concept's vector on a model.

    Args:
        concept: its examples; held-out pairs measure the vector.
        method: see the module's docstring.
        reference: the mean replies of the library, for the method `centred`; without one, it is `mean`.
        read: what `read_texts` gave for all examples and the method's position, where that was read before.

    Returns:
        a vector whose report has `examples` (their digest), `pairs`, `agreement` per layer (mean cosine of each
        pair's difference with the mean of the others), `separability` per layer (probability that a held-out positive
        projects further than a held-out negative; None without held-out pairs), `read_layer`, `warnings`, per layer
        the mean projections of its two kinds of text (`vector.LEVELS`) and, for `centred`, per layer the cosine with
        what all tones share, of the mean difference (`shared_before`) and of the vector (`shared`).

    Raises:
        UnknownName: for a method that does not exist.
        ConceptError: when the examples give no direction.
        Interrupted: when the watch stops it, between two blocks.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS, ", ".join(METHODS))
    examples = concept.examples
    if method == "last":
        examples = tuple(e for e in examples if not e.held_out)[:1] + tuple(e for e in examples if e.held_out)
    positive, negative, lengths = read or read_texts(engine, concept.name, examples, method, watch)
    train = torch.tensor([not example.held_out for example in examples])
    differences = (positive - negative)[train]
    raw = _principal(differences) if method == "pca" else differences.mean(dim=0)
    plain = raw
    if method == "centred" and reference is not None:
        raw = reference.apart(raw - CENTRED * _tones(reference, negative[train]))
    vector = ConceptVector.from_raw(concept.name, raw, engine.fingerprint, method)
    agreement = _agreement(differences)
    separability = _separability(vector.directions, positive[~train], negative[~train])
    vector.report.update(
        examples=concept.digest,
        pairs=int(train.sum()),
        agreement=[round(float(a), 4) for a in agreement],
        separability=None if separability is None else [round(float(s), 4) for s in separability],
        read_layer=_read_layer(vector.directions, positive, negative),
        warnings=_warnings(concept, agreement, lengths),
        **_levels(vector.directions, positive[train], negative[train]),
    )
    if method == "centred" and reference is not None:
        vector.report.update(shared_before=_cosines(plain, reference.shared), shared=_cosines(raw, reference.shared))
    if method == "end":
        # The last layers decide about the next token.
        vector.report["read_layer"] = engine.n_layers - engine.n_layers // 10 - 1
        vector.report["warnings"].append(_END_WARNING)
    return vector


def read_levels(
    engine: Engine, concept: Concept, vector: ConceptVector, watch: Watch = UNWATCHED
) -> dict[str, list[float]]:
    """The `LEVELS` of a vector that was extracted before vectors had them. Arguments and errors as of `extract`."""
    examples = tuple(example for example in concept.examples if not example.held_out)
    positive, negative, _ = read_texts(engine, concept.name, examples, concept.method, watch)
    return _levels(vector.directions, positive, negative)


def _levels(directions: Tensor, positive: Tensor, negative: Tensor) -> dict[str, list[float]]:
    """For each layer the mean projection of the texts without the concept, and of those with it."""
    means = (torch.einsum("nlh,lh->l", states, directions) / len(states) for states in (negative, positive))
    return dict(zip(LEVELS, ([round(value, 5) for value in mean.tolist()] for mean in means), strict=True))


def read_reference(engine: Engine, examples: tuple[tuple[Example, ...], ...], watch: Watch = UNWATCHED) -> Reference:
    """The library's tones on a model.

    `examples`: what `reference_examples` gave. Raises as `extract`.
    """
    flat = tuple(example for tone in examples for example in tone)
    sides = read_texts(engine, "the library's mean reply", flat, "mean", watch)[:2]
    sizes = [len(tone) for tone in examples]
    positive, negative = (torch.stack([part.mean(dim=0) for part in side.split(sizes)]) for side in sides)
    return Reference.of(engine.fingerprint, examples_digest(examples), positive, negative)


def read_texts(
    engine: Engine, name: str, examples: tuple[Example, ...], method: Method, watch: Watch
) -> tuple[Tensor, Tensor, Tensor]:
    """The states of the positive and of the negative texts, each (pairs, layers, hidden); their lengths (pairs, 2)."""
    texts: list[tuple[list[int], list[int]]] = []
    for example in examples:
        chat = [{"role": "user", "content": example.prompt}]
        prompt = engine.prompter.chat(chat, thought=False) if example.prompt else engine.prompter.start()
        texts += [(prompt, engine.prompter.reply(text)) for text in (example.positive, example.negative)]
    longest = max(len(prompt) + len(text) for prompt, text in texts)
    if longest > engine.context_size:
        raise ConceptError(
            f"a text of {name} has {longest} tokens, and the context of {engine.name} {engine.context_size}",
            "shorten the text",
        )
    if any(not text for _, text in texts):
        raise ConceptError(f"a text of {name} has no tokens", "write at least one word")
    position = "last" if method in ("last", "end") else "mean"
    pairs = f" from {counted(len(examples), 'pair')}"
    states = engine.states(texts, position, watch, f"extracting {name}", pairs)
    lengths = torch.tensor([len(text) for _, text in texts]).view(-1, 2)
    return states[0::2], states[1::2], lengths


def _tones(reference: Reference, negative: Tensor) -> Tensor:
    """(layers, hidden) the mean reply of the tones less a plain one, which is taken out of a centred concept.

    The plain one is the mean of the concept's own, (pairs, layers, hidden). Of a few pairs that would be their topics
    above all: then it is the library's.
    """
    return reference.shared if len(negative) < FEW else reference.tones - negative.mean(dim=0)


def _cosines(raw: Tensor, shared: Tensor) -> list[float]:
    return [round(float(cosine), 4) for cosine in torch.cosine_similarity(raw, shared, dim=-1)]


def _principal(differences: Tensor) -> Tensor:
    """(layers, hidden) first right singular vector at each layer, as long as the mean projection on it.

    The differences are not centred: that would remove the very shift that is sought.
    """
    right = torch.linalg.svd(differences.transpose(0, 1), full_matrices=False).Vh[:, 0]
    projection = torch.einsum("nlh,lh->nl", differences, right).mean(dim=0)
    return right * projection.unsqueeze(-1)


def _agreement(differences: Tensor) -> Tensor:
    """(layers,) mean cosine of each pair's difference with the mean of the others; of one pair, with itself.

    Braun et al. 2025: the agreement of the pairs predicts whether the concept steers.
    """
    count = differences.shape[0]
    total = differences.sum(dim=0)
    others = total - differences if count > 1 else differences
    return torch.cosine_similarity(differences, others, dim=-1).mean(dim=0)


def _separability(directions: Tensor, positive: Tensor, negative: Tensor) -> Tensor | None:
    """(layers,) probability that a held-out positive projects further than a held-out negative (ROC area)."""
    if not len(positive):
        return None
    high = torch.einsum("nlh,lh->ln", positive, directions)
    low = torch.einsum("nlh,lh->ln", negative, directions)
    return (high[:, :, None] > low[:, None, :]).float().mean(dim=(1, 2))


def _read_layer(directions: Tensor, positive: Tensor, negative: Tensor) -> int:
    """The layer that separates the texts best: the distance of the projections' means divided by their spread.

    The first and last tenth are left out: their states are about single tokens, not about the meaning of a text.
    """
    high = torch.einsum("nlh,lh->ln", positive, directions)
    low = torch.einsum("nlh,lh->ln", negative, directions)
    spread = torch.cat([high - high.mean(1, keepdim=True), low - low.mean(1, keepdim=True)], dim=1).std(dim=1)
    clarity = (high.mean(1) - low.mean(1)) / spread.clamp_min(1e-9)
    margin = len(directions) // 10
    inner = clarity[margin : len(directions) - margin]
    return margin + int(inner.argmax())


def _warnings(concept: Concept, agreement: Tensor, lengths: Tensor) -> list[str]:
    warnings = []
    pairs = sum(not example.held_out for example in concept.examples)
    if pairs < FEW:
        warnings.append(
            f"only {counted(pairs, 'pair')}: the vector also carries their topics; {FEW} or more are better"
        )
    elif float(agreement.max()) < LOW_AGREEMENT:
        warnings.append("the pairs contradict each other: their differences point in different directions")
    positive, negative = lengths[:, 0], lengths[:, 1]
    if len(lengths) > 3 and concept.kind != "length":
        difference = positive[:, None] - negative
        longer = (difference > 0).float().mean() + 0.5 * (difference == 0).float().mean()
        if max(longer, 1 - longer) > 0.95:
            warnings.append("length alone separates the two kinds of text: the vector may steer length")
    return warnings
