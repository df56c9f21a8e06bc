"""Facts that a lesson's goals and `/expect` compare: the chat's recipe, its turns and its last pair, as numbers."""

from __future__ import annotations

from ..conversation.chat import Chat
from ..values.measures import MEASURES
from ..values.operation import OPERATIONS
from ..values.results import divergence

STATE_FACTS = frozenset(
    {"terms", "strength", "layers", "depth", "on", "own", "turns", "gated"}
    | {f"{name}s" for name in OPERATIONS}
    | {"pair-same", "pair-effect", "pair-cost", "pair-tokens"}
    | {f"pair-{name}" for name in MEASURES}
)


def state_facts(chat: Chat) -> dict[str, float]:
    """The facts of a chat, with the strength of every concept by its name."""
    session, library = chat.session, chat.library
    recipe = session.recipe
    facts = dict.fromkeys(library.names(), 0.0)
    for term in recipe.terms:
        for name, weight in term.parts:
            facts[name] = facts.get(name, 0.0) + weight * term.strength
    layers = sorted({layer for term in recipe.terms for layer in term.layers})
    facts |= {
        "terms": len(recipe.terms),
        "strength": sum(abs(term.strength) for term in recipe.terms),
        "layers": len(layers),
        "on": float(recipe.active),
        "gated": sum(bool(term.gate) for term in recipe.terms),
        "turns": len(session.turns),
        "own": float(any(library.owns(name) for name in recipe.concepts)),
    }
    facts |= {f"{name}s": sum(term.operation == name for term in recipe.terms) for name in OPERATIONS}
    if layers:
        facts["depth"] = 100 * (layers[0] + layers[-1]) / 2 / max(1, session.engine.n_layers - 1)
    pair = session.last
    if pair is not None and pair.steered is not None:
        facts["pair-same"] = float(divergence(pair.normal.token_ids, pair.steered.token_ids) is None)
        facts["pair-tokens"] = pair.steered.tokens
        figures = pair.measures
        facts |= {f"pair-{name}": figures[name] for name in MEASURES}
        if pair.effect is not None:
            facts["pair-effect"] = pair.effect
        if pair.perplexity_ratio is not None:
            facts["pair-cost"] = pair.perplexity_ratio
    return facts
