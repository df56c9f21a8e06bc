"""Experiments: prompts under many settings and seeds, run by the one runner, each pair logged.

All settings of a seed share its noise and its normal answer, so that a row differs by its setting alone. What was
finished when a run is stopped is kept, shown and logged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..conversation.runner import ROWS, Runner
from ..conversation.session import Session
from ..engine.processes import count
from ..values.errors import UsageError
from ..values.results import Delta, Event, Finished, Notice, Pair, PairDone, Started, drain
from ..values.setting import Setting
from .outcomes import Result, best, outcomes_of


def experiment(
    session: Session,
    kind: str,
    prompt: str,
    settings: Sequence[Setting],
    repeats: int,
    *,
    raw: bool = False,
    tokens: int | None = None,
    label: str = "",
) -> Result:
    """Answer a prompt under every setting. Stopping is no error: the result says how far it got.

    Args:
        repeats: seeds, counted from the session's.
        tokens: the longest answer; never longer than the session's.
        label: for its progress; the kind and the number of answers when empty.
    """
    if not prompt.strip():
        raise UsageError("the prompt is empty", f"/{kind} Tell me about the weather")
    if repeats < 1 or not settings:
        raise UsageError("there is nothing to answer", "at least one setting and one repeat")
    reader, journal, sampling = session.reader, session.journal, session.sampling()
    engine = reader.engine
    sampling = replace(sampling, max_tokens=min(sampling.max_tokens, tokens or sampling.max_tokens))
    spec = {
        "settings": [setting.to_json() for setting in settings],
        "repeats": repeats,
        "raw": raw,
        "tokens": sampling.max_tokens,
        "seed": session.settings.seed,
    }
    number = journal.begin_experiment(kind, prompt, spec, engine.name, engine.fingerprint, session.system)
    plan = replace(
        session.plan(kind, raw),
        experiment=number,
        sampling=sampling,
        rows=ROWS * count(),
        label=label or f"{kind}: {repeats * (len(settings) + 1)} answers",
    )
    status = "failed"
    try:
        seeds = range(session.settings.seed, session.settings.seed + repeats)
        trials = drain(Runner(reader).run([session.question(prompt, steered=True)], settings, seeds, plan))
        status = "interrupted" if session.stop.is_set() else "complete"
    finally:
        journal.finish_experiment(number, status)
    pairs: dict[Setting, list[Pair]] = {setting: [] for setting in settings}
    for trial in trials:
        pairs[settings[trial.setting]].append(trial.pair)
    outcomes = outcomes_of(reader.chance, pairs)
    if outcomes:  # what `/why` looks into then
        shown = best([outcome for outcome in outcomes if outcome.setting.along is None]) or outcomes[0]
        session.last = shown.pairs[0]
    return Result(kind, prompt, outcomes, repeats, session.stop.is_set(), number)


def compare_all(session: Session, prompts: Sequence[str], raw: bool = False) -> Iterator[Event]:
    """Answer many prompts outside the conversation, each as `session.compare` answers it alone.

    Yields:
        the events of one pair after the other, in the order of the prompts. Stopping ends with the batch at hand.

    Raises:
        UsageError: a prompt is empty.
        ModelError: a prompt does not fit the model; nothing was answered then.
    """
    if not all(prompt.strip() for prompt in prompts):
        raise UsageError("a prompt is empty", "one a line")
    recipe = replace(session.recipe, scope=session.settings.scope)
    plan = replace(session.plan("compare", raw), rows=ROWS * count(), label=f"compare: {len(prompts)} prompts")
    reader, done = session.reader, 0
    questions = [session.question(prompt, recipe.active) for prompt in prompts]
    for event in Runner(reader).run(questions, [Setting("", recipe)], [session.settings.seed], plan):
        if isinstance(event, PairDone):
            done += 1
            session.last = session.shown = event.pair
            yield from _events(event.pair, reader.engine.prompter.opens_thought(plan.thought) and not raw)
    if done < len(prompts):
        yield Notice(f"stopped after {done} of {len(prompts)} prompts")


def _events(pair: Pair, opened: bool) -> Iterator[Event]:
    """A pair that is finished, as a screen draws one that is not."""
    yield Started(("normal", f"steered: {pair.recipe}")[: len(pair.answers)], opened)
    for row, answer in enumerate(pair.answers):
        yield Delta(row, answer.text)
        yield Finished(row, answer)
    yield PairDone(pair)
