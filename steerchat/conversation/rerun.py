"""What a pair of the history is good for: run it again, take over how it was made, go on from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..storage.journal import versions
from ..storage.pages import pair_page
from ..storage.records import Filters
from ..values.errors import UsageError
from ..values.recipe import Recipe
from ..values.results import Answer, Event, Notice, Pair, PairDone, divergence
from ..values.setting import Message, Setting
from .runner import Question
from .session import Session
from .turn import Turn

if TYPE_CHECKING:
    from ..engine.sampling import Sampling
    from ..storage.records import StoredPair

# Settings that a pair's sampling holds, by the names that it has for them.
_SAMPLING = ("temperature", "top_p", "repetition_penalty", "max_tokens")


def rerun(session: Session, pair_id: int) -> Iterator[Event]:
    """Answer a logged pair again with all that it was made of, and say whether the same came of it.

    Raises:
        UnknownName: there is no such pair.
        UsageError: another model answered it.
    """
    stored = logged(session, pair_id)
    pair = stored.pair
    columns = {column: list(messages) for column, messages in stored.messages.items()}
    question = Question(pair.prompt, columns["normal"], columns.get("steered"))
    unlike = differences(session, stored)
    setting = Setting("", pair.recipe, along=_along(session, stored))
    events = session.answer(question, setting, pair.seed, kind="rerun", raw=pair.raw, sampling=_sampling(stored))
    for event in events:
        yield event
        if isinstance(event, PairDone):
            yield Notice(_compared(stored, event.pair, unlike))


def differences(session: Session, stored: StoredPair) -> list[str]:
    """What is not as it was when a pair was answered, and may change its texts."""
    engine = session.engine
    now = {**versions(), "processor": engine.processor, "products": engine.products}
    then = {name: stored.versions.get(name, "") for name in now}
    now |= {"threads": str(engine.threads), "device": str(engine.device), "dtype": engine.dtype}
    then |= {"threads": str(stored.threads), "device": stored.device, "dtype": stored.dtype}
    found = [f"{name} {then[name]} then, {now[name]} now" for name in now if then[name] not in ("", now[name])]
    for name, digest in stored.vectors.items():
        if session.library.vector(name, engine, session.report).digest != digest:
            found.append(f"{name} was made anew or changed")
    return found


def use(session: Session, pair_id: int) -> list[object]:
    """Take over a pair's recipe, sampling and seed. Returns what to show.

    Raises:
        UnknownName: there is no such pair, or a concept is gone.
        UsageError: the model lacks a layer of it.
    """
    stored = _stored(session, pair_id)
    recipe, said = stored.pair.recipe, _take_recipe(session, stored)
    changes = {name: value for name, value in stored.sampling.items() if name in _SAMPLING}
    if "steer_thinking" in stored.sampling:
        changes["steer_thinking"] = "on" if stored.sampling["steer_thinking"] else "off"
    told = []
    for name, value in {**changes, "scope": recipe.scope}.items():
        before = getattr(session.settings, name)
        after = session.settings.change(name.replace("_", "-"), value, f"pair {stored.id}")
        told += [f"{name.replace('_', '-')} {after} (was {before})"] if after != before else []
    session.reseed(stored.pair.seed)
    sentence = f"Settings as in pair {stored.id}: {', '.join([*told, f'seed {stored.pair.seed} for the next answer'])}."
    return [*said, recipe, Notice(sentence)]


def fork(session: Session, pair_id: int) -> list[object]:
    """Go on from a pair as a new conversation, with its recipe. Returns what to show.

    Raises:
        UnknownName: there is no such pair, or a concept is gone.
        UsageError: it has no answer, no conversation, or a layer that the model lacks.
    """
    stored = _stored(session, pair_id)
    if stored.pair.raw:
        raise UsageError(f"pair {stored.id} only carries a text on", "fork a pair of a conversation")
    if not _answered(stored):
        raise UsageError(f"pair {stored.id} was never answered", f"/history rerun {stored.id} answers it")
    return _go_on(session, stored, None)


def resume(session: Session, session_id: int | None = None) -> list[object]:
    """Go on with a conversation of the history, the last one when None. Returns what to show.

    Raises:
        UnknownName: there is no such session, or a concept is gone.
        UsageError: nothing was said in it, or the model lacks a layer of its recipe.
    """
    store = session.journal.store
    if store is None:
        raise UsageError("this chat is not logged, so there is nothing to go on with", "the first lines said why")
    if session_id is not None:
        store.session(session_id)
    turns = store.pairs(Filters(kind="chat", session=session_id), limit=50)
    last = next((stored for stored in turns if _answered(stored) and stored.session_id is not None), None)
    if last is None:
        where = "in the history" if session_id is None else f"in session {session_id}"
        raise UsageError(f"there is no conversation {where} to go on with", "say something; /session lists them")
    return _go_on(session, last, last.session_id)


def _go_on(session: Session, stored: StoredPair, session_id: int | None) -> list[object]:
    said = _take_recipe(session, stored)
    turns = conversation(session, stored)
    session.go_on(turns, _system(stored), stored.pair, session_id)
    count = f"{len(turns)} turn{'s' if len(turns) > 1 else ''}"
    what = f"A new conversation from pair {stored.id}" if session_id is None else f"Session {session_id} goes on"
    return [pair_page(stored), Notice(f"{what}: {count}."), *said, session.recipe]


def conversation(session: Session, stored: StoredPair) -> list[Turn]:
    """Every turn that a pair's answers go on from, and its own; what was logged of each, where it still is."""
    store = session.journal.store
    assert store is not None
    normal = _answers(stored.messages["normal"])
    steered = _answers(stored.messages.get("steered", ()))
    known = {one.id: one for one in store.chosen([number for number in stored.context if number is not None])}
    turns = []
    for place, (user, answer) in enumerate(normal):
        number = stored.context[place] if place < len(stored.context) else None
        if number in known:
            turns.append(_turn(known[number]))
        else:
            other = steered[place][1] if place < len(steered) else None
            turns.append(Turn(user, answer, other, None, stored.pair.seed, stored.pair.recipe))
    return [*turns, _turn(stored)]


def _stored(session: Session, pair_id: int) -> StoredPair:
    if session.journal.store is None:
        raise UsageError("this chat is not logged, so there is no pair to go by", "the first lines said why")
    return session.journal.store.pair(pair_id)


def _take_recipe(session: Session, stored: StoredPair) -> list[object]:
    """Steer as a pair was; sentences about what may not be as it was."""
    recipe, engine = stored.pair.recipe, session.engine
    for name in recipe.concepts:
        session.library.get(name)
    deepest = max((max(term.layers) for term in recipe.terms), default=0)
    if deepest >= engine.n_layers:
        raise UsageError(
            f"pair {stored.id} steers layer {deepest}, and {engine.name} has layers 0 to {engine.n_layers - 1}",
            f"{stored.pair.model} answered it: start steerchat with that --model",
        )
    session.recipe = recipe
    session.settings.change("scope", recipe.scope, f"pair {stored.id}")
    if stored.fingerprint == engine.fingerprint:
        return []
    return [Notice(f"{stored.pair.model} answered this; from here on it is {engine.name}.")]


def _along(session: Session, stored: StoredPair) -> Recipe | None:
    """The recipe along which a control of an experiment was read; None for any other pair."""
    if stored.experiment_id is None or session.journal.store is None:
        return None
    settings = session.journal.store.experiment(stored.experiment_id).spec.get("settings", ())
    found = (one.get("along") for one in settings if one["recipe"] == stored.pair.recipe.to_json())
    along = next(found, None)
    return None if along is None else Recipe.from_json(along)


def _sampling(stored: StoredPair) -> Sampling:
    from ..engine.sampling import Sampling

    sampling = dict(stored.sampling)
    both = [one for one in (stored.pair.normal, stored.pair.steered) if one is not None]
    if any(one.finish == "interrupted" for one in both):  # it ends where it was stopped
        sampling["max_tokens"] = max(one.tokens for one in both) or sampling["max_tokens"]
    return Sampling(**sampling)


def _compared(stored: StoredPair, pair: Pair, unlike: Sequence[str]) -> str:
    """Whether both texts are the same, and what explains it if not."""
    columns = (("normal", stored.pair.normal, pair.normal), ("steered", stored.pair.steered, pair.steered))
    parted, compared = [], False
    for column, old, new in columns:
        if old is None or new is None or not _complete(old):
            continue
        compared = True
        at = divergence(old.token_ids, new.token_ids)
        if at is not None and not (old.finish == "interrupted" and at == len(old.token_ids)):
            parted.append(f"the {column} answer parts from the logged one at token {at + 1}")
    if not compared:
        return f"Pair {stored.id} broke off before anything came of it; this is what it asks for."
    if not parted:
        texts = "texts" if stored.pair.steered is not None else "text"
        return f"The same {texts} as in pair {stored.id}, token for token."
    reason = "Not as it was: " + "; ".join(unlike) if unlike else "Nothing that was logged of it differs"
    return f"Not the same as pair {stored.id}: {' and '.join(parted)}. {reason}."


def _complete(answer: Answer) -> bool:
    """Whether what was logged of an answer is what the model said, as far as it goes."""
    return answer.finish != "failed" and (answer.finish != "interrupted" or bool(answer.token_ids))


def _answered(stored: StoredPair) -> bool:
    return stored.status in ("complete", "interrupted") and stored.normal_id is not None


def _turn(stored: StoredPair) -> Turn:
    pair = stored.pair
    steered = None if pair.steered is None else pair.steered.text
    return Turn(pair.prompt, pair.normal.text, steered, pair.id, pair.seed, pair.recipe)


def _answers(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """The exchanges of a context: what was said, and what was answered."""
    spoken = [one["content"] for one in messages if one["role"] != "system"]
    return list(zip(spoken[::2], spoken[1::2], strict=False))


def _system(stored: StoredPair) -> str:
    first = stored.messages["normal"][0]
    return first["content"] if first["role"] == "system" else ""


def logged(session: Session, pair_id: int | None, earlier: bool = False) -> StoredPair:
    """A pair of the history that this model answered.

    Args:
        session: with the history.
        pair_id: the last one of this conversation when None.
        earlier: without a conversation, take the newest steered one of the history.

    Raises:
        UsageError: when there is none, or it was answered by another model.
    """
    if session.journal.store is None:
        raise UsageError("nothing is logged, so there is no pair to look into", "see /help trouble")
    wanted = pair_id if pair_id is not None or session.last is None else session.last.id
    if wanted is None and earlier:
        newest = session.journal.store.pairs(limit=100)
        wanted = next((one.id for one in newest if one.pair.steered is not None), None)
    if wanted is None:
        raise UsageError("there is no answer yet", "/steer happy, then say something, or name a pair by its number")
    stored = session.journal.store.pair(wanted)
    if stored.fingerprint != session.engine.fingerprint:
        raise UsageError(f"pair {stored.id} was answered by {stored.pair.model}", "start steerchat with that --model")
    return stored


def prompt_of(session: Session, stored: StoredPair, column: str) -> list[int]:
    """The tokens that a column's answer goes on from."""
    prompter = session.engine.prompter
    if stored.pair.raw:
        return prompter.raw(stored.pair.prompt)
    return prompter.chat(stored.messages.get(column) or stored.messages["normal"])
