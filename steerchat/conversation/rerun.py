"""Repeats a logged pair, reuses its recipe and settings, or continues its conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain, repeat
from typing import TYPE_CHECKING

from ..storage.journal import versions
from ..storage.pages import pair_page
from ..storage.records import Filters
from ..values.errors import UsageError
from ..values.recipe import Recipe
from ..values.results import Answer, Event, Notice, Pair, PairDone, divergence
from ..values.setting import Message, Setting
from ..values.text import counted
from .runner import POOL_THEN, ROWS_THEN, Question
from .session import Session

if TYPE_CHECKING:
    from ..engine.sampling import Sampling
    from ..storage.records import StoredPair

# Settings that a pair's sampling holds, by the names that it has for them.
_SAMPLING = ("temperature", "top_p", "repetition_penalty", "max_tokens")
# What stands beside them and tells how the prompt was rendered, and who asked.
_RENDERING = ("thinking", "rendered", "client")


def rerun(session: Session, pair_id: int) -> Iterator[Event]:
    """Answer a logged pair again under the same conditions, and compare the texts.

    Raises UnknownName when there is no such pair, UsageError when another model answered it.
    """
    stored = logged(session, pair_id)
    pair = stored.pair
    columns = {column: list(messages) for column, messages in stored.messages.items()}
    question = Question(pair.prompt, columns["normal"], columns.get("steered"))
    unlike = differences(session, stored)
    setting = Setting("", pair.recipe, along=_along(session, stored))
    plan = session.plan("rerun", pair.raw)
    plan = replace(plan, sampling=_sampling(stored), thought=_thought(stored), when=_rendered(stored))
    plan = replace(plan, dial=_turning(() if pair.steered is None else pair.steered.dial), like=_rows(stored))
    for event in session.answer(question, setting, pair.seed, plan):
        yield event
        if isinstance(event, PairDone):
            yield Notice(_compared(stored, event.pair, unlike))


def differences(session: Session, stored: StoredPair) -> list[str]:
    """What changed since a pair was answered and may change its texts, in words."""
    engine = session.engine
    now = {**versions(), "processor": engine.processor, "products": engine.products}
    now |= {"threads": str(engine.threads), "device": str(engine.device), "dtype": engine.dtype}
    then = {**stored.versions, "threads": str(stored.threads), "device": stored.device, "dtype": stored.dtype}
    changed = [name for name in now if then.get(name, "") not in ("", now[name])]
    changes = [f"{name} {then[name]} then, {now[name]} now" for name in changed]
    for name, digest in stored.vectors.items():
        if session.library.vector(name, engine, session.watch).digest != digest:
            changes.append(f"{name} was made anew or changed")
    return changes


def use(session: Session, pair_id: int) -> list[object]:
    """Take over a pair's recipe, sampling and seed. Returns what to show.

    Raises UnknownName when there is no such pair, or a concept is gone; UsageError when the model lacks a layer of it.
    """
    stored = session.store.pair(pair_id)
    recipe, notices = stored.pair.recipe, _take_recipe(session, stored)
    values = {name: value for name, value in stored.sampling.items() if name in _SAMPLING}
    thought = _thought(stored)
    values["thinking"] = "auto" if thought is None else "on" if thought else "off"
    if "steer_thinking" in stored.sampling:
        values["steer_thinking"] = "on" if stored.sampling["steer_thinking"] else "off"
    changes = []
    for name, value in {**values, "scope": recipe.scope}.items():
        before = getattr(session.settings, name)
        after = session.settings.change(name.replace("_", "-"), value, f"pair {stored.id}")
        changes += [f"{name.replace('_', '-')} {after} (was {before})"] if after != before else []
    session.reseed(stored.pair.seed)
    changes.append(f"seed {stored.pair.seed} for the next answer")
    return [*notices, recipe, Notice(f"Settings as in pair {stored.id}: {', '.join(changes)}.")]


def fork(session: Session, pair_id: int) -> list[object]:
    """Continue from a pair as a new conversation, with its recipe. Returns what to show.

    Raises UnknownName when there is no such pair, or a concept is gone; UsageError when it has no answer, no
    conversation, or a layer that the model lacks.
    """
    stored = session.store.pair(pair_id)
    if stored.pair.raw:
        raise UsageError(f"pair {stored.id} only carries a text on", "fork a pair of a conversation")
    if not _answered(stored):
        raise UsageError(f"pair {stored.id} was never answered", f"/history rerun {stored.id} answers it")
    return _go_on(session, stored, None)


def resume(session: Session, session_id: int | None = None) -> list[object]:
    """Continue a logged conversation, the last one when None. Returns what to show.

    Raises UnknownName when there is no such session, or a concept is gone; UsageError when nothing was said in it, or
    the model lacks a layer of its recipe.
    """
    if session_id is not None:
        session.store.session(session_id)
    turns = session.store.pairs(Filters(kind="chat", session=session_id), limit=50)
    last = next((stored for stored in turns if _answered(stored) and stored.session_id is not None), None)
    if last is None:
        where = "in the history" if session_id is None else f"in session {session_id}"
        raise UsageError(f"there is no conversation {where} to go on with", "say something; /session lists them")
    return _go_on(session, last, last.session_id)


def _go_on(session: Session, stored: StoredPair, session_id: int | None) -> list[object]:
    notices = _take_recipe(session, stored)
    turns = conversation(session, stored)
    first = stored.messages["normal"][0]
    session.go_on(turns, first["content"] if first["role"] == "system" else "", session_id)
    what = f"A new conversation from pair {stored.id}" if session_id is None else f"Session {session_id} goes on"
    return [pair_page(stored), Notice(f"{what}: {counted(len(turns), 'turn')}."), *notices, session.recipe]


def conversation(session: Session, stored: StoredPair) -> list[Pair]:
    """Every turn that a pair's answers go on from, as logged or, where that is gone, with its texts; then the pair."""
    known = {earlier.id: earlier for earlier in session.store.chosen([id for id in stored.context if id is not None])}
    normal = _exchanges(stored.messages["normal"])
    others = chain((answer for _, answer in _exchanges(stored.messages.get("steered", ()))), repeat(None))
    turns = []
    for (user, answer), other, pair_id in zip(normal, others, chain(stored.context, repeat(None)), strict=False):
        if pair_id in known:
            turns.append(known[pair_id].pair)
        else:
            pair, steered = stored.pair, None if other is None else Answer(other, 0, "end")
            turns.append(Pair(None, user, pair.model, pair.recipe, pair.seed, Answer(answer, 0, "end"), steered))
    return [*turns, stored.pair]


def _take_recipe(session: Session, stored: StoredPair) -> list[object]:
    """Make a pair's recipe the session's. Returns a notice when another model answered the pair."""
    recipe, engine = stored.pair.recipe, session.engine
    for name in recipe.named:
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


def _turning(turns: Sequence[tuple[int, float]]) -> Callable[[int], float]:
    """The dial of a logged answer, turned again at the same tokens."""

    def share(token: int) -> float:
        return next((share for turned, share in reversed(turns) if turned <= token), 1.0)

    return share


def _along(session: Session, stored: StoredPair) -> Recipe | None:
    """The recipe along which a control of an experiment was read; None for any other pair."""
    if stored.experiment_id is None:
        return None
    settings = session.store.experiment(stored.experiment_id).spec.get("settings", ())
    recipe = stored.pair.recipe.to_json()
    along = next((setting.get("along") for setting in settings if setting["recipe"] == recipe), None)
    return None if along is None else Recipe.from_json(along)


def _sampling(stored: StoredPair) -> Sampling:
    from ..engine.sampling import Sampling

    sampling = {name: value for name, value in stored.sampling.items() if name not in _RENDERING}
    answers = stored.pair.answers
    if any(answer.finish == "interrupted" for answer in answers):  # it ends where it was stopped
        sampling["max_tokens"] = max(answer.tokens for answer in answers) or sampling["max_tokens"]
    return Sampling(**sampling)


def _rows(stored: StoredPair) -> int:
    """How many rows a pair's batch had; 0 where that was not logged."""
    rows = stored.versions.get(ROWS_THEN, "")
    return int(rows) if rows.isdecimal() else 0


def _thought(stored: StoredPair) -> bool | None:
    """Whether a pair's chat template was told to let the model think; None when it was told nothing."""
    thought = stored.sampling.get("thinking")
    return thought if isinstance(thought, bool) else None


def _rendered(stored: StoredPair) -> datetime:
    """The local time that a pair's chat template may have put in."""
    try:
        return datetime.fromisoformat(stored.sampling["rendered"])
    except (KeyError, TypeError, ValueError):  # a pair of before
        return datetime.fromisoformat(stored.created).astimezone().replace(tzinfo=None)


def _compared(stored: StoredPair, pair: Pair, unlike: Sequence[str]) -> str:
    """Says whether both texts are the same or, if not, where they diverge and why."""
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
    reason = "Nothing that was logged of it differs"
    if unlike:
        reason = "Not as it was: " + "; ".join(unlike)
    elif stored.versions.get(POOL_THEN, "1") != "1":
        pool = f"a server answered it in a pool of up to {stored.versions[POOL_THEN]} rows"
        reason = f"Then {pool}, and some products round differently beside other rows; with --dtype float32 none does"
    elif _rows(stored) > len(pair.answers):
        reason = f"It was answered in a batch of {_rows(stored)} rows, and some products round differently there"
    return f"Not the same as pair {stored.id}: {' and '.join(parted)}. {reason}."


def _complete(answer: Answer) -> bool:
    """Whether a logged answer holds everything that the model generated until it ended or was stopped."""
    return answer.finish not in ("failed", "unasked") and (answer.finish != "interrupted" or bool(answer.token_ids))


def _answered(stored: StoredPair) -> bool:
    return stored.status in ("complete", "interrupted") and stored.normal_id is not None


def _exchanges(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """(message, answer) of each earlier turn in a context."""
    texts = [message["content"] for message in messages if message["role"] != "system"]
    return list(zip(texts[::2], texts[1::2], strict=False))


def logged(session: Session, pair_id: int | None, earlier: bool = False) -> StoredPair:
    """A pair of the history that this model answered.

    Args:
        pair_id: the last one of this conversation when None.
        earlier: without a conversation, take the newest steered one of the history.

    Raises:
        UsageError: when there is none, or it was answered by another model.
    """
    if pair_id is None and session.last is not None:
        pair_id = session.last.id
    if pair_id is None and earlier:
        newest = session.store.pairs(limit=100)
        pair_id = next((stored.id for stored in newest if stored.pair.steered is not None), None)
    if pair_id is None:
        raise UsageError("there is no answer yet", "/steer happy, then say something, or name a pair by its number")
    stored = session.store.pair(pair_id)
    if stored.fingerprint != session.engine.fingerprint:
        raise UsageError(f"pair {stored.id} was answered by {stored.pair.model}", "start steerchat with that --model")
    return stored


def conversation_number(session: Session, newest: bool) -> int:
    """This conversation's number in the history.

    Args:
        newest: while this one is empty, take the newest one, which may be of another chat.

    Raises:
        UsageError: when there is none.
    """
    if session.journal.session_id is not None:
        return session.journal.session_id
    if not newest:
        raise UsageError(
            "nothing was said in this conversation yet", "--session 3 names an earlier one; /session lists them"
        )
    number = next((stored.id for stored in session.store.sessions(limit=1000) if stored.pairs), None)
    if number is None:
        raise UsageError("the history is empty, so there is nothing to report", "say something first")
    return number


def prompt_of(session: Session, stored: StoredPair, column: str) -> list[int]:
    """The prompt of a column's answer, as token ids."""
    prompter = session.engine.prompter
    if stored.pair.raw:
        return prompter.raw(stored.pair.prompt)
    messages = stored.messages.get(column) or stored.messages["normal"]
    return prompter.chat(messages, _thought(stored), _rendered(stored))
