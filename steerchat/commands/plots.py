"""/plot: one chart, in the chat or as a figure in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..concepts.charts import layer_chart
from ..concepts.library import Library
from ..concepts.pages import cosine_map, entry
from ..conversation.chat import Chat
from ..conversation.rerun import conversation_number, logged
from ..experiments.charts import chart_of, gains, methods
from ..experiments.readings import over_turns, why
from ..experiments.recall import pairs_of, recalled
from ..figures import ENDINGS, HOW, available
from ..reports.html import to_html
from ..reports.report import Chapter, Report
from ..slash.arguments import Choice, Concept, Int, OneLayer, PairId, PathArg
from ..slash.registry import command
from ..storage.pages import verdict_chart
from ..storage.ratings import by_recipe, rated_pairs
from ..storage.records import Filters
from ..system.folders import write_whole
from ..system.untrusted import parse_json, read_small
from ..values.chart import Drawn, Picture
from ..values.errors import UsageError
from ..values.page import Page
from ..values.results import Notice
from .asking import Replace, confirm_replacing
from .concepts import fingerprint_of
from .reports import FORMS

_CLOUDS = 6  # layers at which pairs are drawn
_KINDS = ("layers", "strengths", "compare", "tune")
_OTHERS = ("why", "probe", "methods", "history", "concept", "pairs", "library", "evaluation")


@command(
    "plot",
    examples=["/plot strengths", "/plot layers layers.pdf", "/plot why why.png", "/plot concept --concept happy"],
    group="Notebook",
    shell=True,
    needs_model=False,
)
def plot(
    chat: Chat,
    what: Annotated[str, Choice(*_KINDS, *_OTHERS, metavar="WHAT")],
    file: Annotated[
        Path | None, PathArg("a .png, .svg, .pdf, .html, .md or .json to write; without, it is drawn here")
    ] = None,
    *,
    experiment: Annotated[int | None, Int("an experiment in place of the newest of its kind", least=1)] = None,
    pair: Annotated[int | None, PairId("for why, a pair in place of the last steered one")] = None,
    rows: Annotated[Path | None, PathArg("for methods, what compare-methods --json printed")] = None,
    session: Annotated[int | None, Int("for probe, a conversation in place of this one", least=1)] = None,
    concept: Annotated[str | None, Concept("what to draw or to read")] = None,
    layer: Annotated[int | None, OneLayer("where to compare vectors, or to draw pairs", least=0)] = None,
    replace: Replace = False,
) -> Page | Notice:
    """Draws one chart, here or in a file.

    layers, strengths, compare, tune: the newest such experiment. why: a steered answer token by token, with surprise,
    concepts, gates and the dial. probe: concepts over the turns of a conversation. concept: how far its examples come
    apart at each layer. pairs: the texts that a concept was made from, along its direction and across it, at one layer
    or at six; on a page at every layer, one at a time. library: how alike the vectors of all concepts are. evaluation:
    what each shipped concept moves, by word measures. methods: what each way of steering gains at equal cost, as
    shipped or from --rows FILE. history: how often you chose the steered answer.

    A .png has 300 dots per inch. A .html is a page with the figure and its numbers; .md and .json have the numbers.
    Without a file, a terminal that shows images gets the figure (/set images off: the text).
    """
    if file is not None and file.suffix.lower() not in (*ENDINGS, *FORMS):
        ends = ".png, .svg or .pdf, or in .html, .md or .json"
        raise UsageError(f"no figure has the ending {file.suffix!r}", f"end the name in {ends}")
    if file is not None and file.suffix.lower() in ENDINGS and not available():
        raise UsageError("figures are drawn by matplotlib, which is not installed", HOW)
    page = file is not None and FORMS.get(file.suffix.lower()) is to_html
    drawn = _chart(chat, what, experiment, pair, session, concept, layer, rows, page)
    if file is None:
        return Page([Picture(drawn)], [drawn.to_json()])
    confirm_replacing(chat, file, replace)
    data, lacking = _written(drawn, file.suffix.lower())
    write_whole(file, data)
    boxes = f"; no font here has {lacking}, which are boxes: an .svg has them as text" if lacking else ""
    return Notice(f"{drawn.title}: drawn in {file}{boxes}")


def _written(drawn: Drawn, ending: str) -> tuple[bytes, str]:
    """The file, and the characters that it lacks."""
    if ending in FORMS:
        return FORMS[ending](Report(drawn.title, [], [Chapter("", [], [drawn])], {})).encode(), ""
    from ..figures.files import to_file

    return to_file(drawn, ending)


def _chart(
    chat: Chat,
    what: str,
    experiment: int | None,
    pair: int | None,
    session: int | None,
    concept: str | None,
    layer: int | None,
    rows: Path | None,
    page: bool,
) -> Drawn:
    match what:
        case "methods":
            return _methods(chat.library, rows, concept)
        case "history":
            rated = rated_pairs(chat.session.store, Filters(concept=concept, session=session, rated=True))
            if not rated:
                raise UsageError("no steered pair has a verdict yet", "/review shows some, /rate is for the last one")
            return verdict_chart(by_recipe(rated), "recipe")
        case "why":
            named = (concept,) if concept else chat.session.probes
            return why(chat.session, logged(chat.session, pair, earlier=chat.single), named).chart
        case "probe":
            return _over_turns(chat, session, concept)
        case "concept":
            return _concept(chat, concept)
        case "pairs":
            return _pairs(chat, concept, layer, page)
        case "library":
            return cosine_map(chat.library, fingerprint_of(chat), layer)
        case "evaluation":
            return _evaluation(chat.library, fingerprint_of(chat))
    return _experiment(chat, what, experiment)


def _experiment(chat: Chat, kind: str, number: int | None) -> Drawn:
    store = chat.session.store
    if number is None:
        number = store.newest_experiment(kind)
    if number is None:
        line = "/compare --repeats 5" if kind == "compare" else f"/{kind}"
        raise UsageError(f"the history has no {line}", f"run {line} first, or name one with --experiment N")
    stored = store.experiment(number)
    result = recalled(chat.session.calibration, stored, pairs_of(store, Filters(experiment=number, undone=True)))
    if not result.outcomes:
        raise UsageError(f"experiment {number} has no measured pair", "run it again")
    return chart_of(result)


def _over_turns(chat: Chat, number: int | None, concept: str | None) -> Drawn:
    turns = pairs_of(
        chat.session.store, Filters(kind="chat", session=number or conversation_number(chat.session, chat.single))
    )
    steered = [name for stored in turns for name in stored.pair.recipe.concepts]
    named = (concept,) if concept else chat.session.probes or tuple(dict.fromkeys(steered))
    if not named:
        raise UsageError("nothing was steered in this conversation", "/plot probe --concept happy reads a concept")
    return over_turns(chat.session, named, turns)


def _methods(library: Library, file: Path | None, concept: str | None) -> Drawn:
    """What `/compare-methods` measured: on the default model, unless a file has other rows."""
    path = file or library.shipped / "measured" / "methods.jsonl"
    try:
        rows = [parse_json(line) for line in read_small(path).splitlines() if line.strip()]
        chosen = [row for row in rows if concept is None or row["concept"] == concept]
        drawn = methods(chosen) if chosen else None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        raise UsageError(f"{path} has no rows of compare-methods", "compare-methods --json prints some") from None
    if drawn is None:
        raise UsageError(f"no methods were compared for {concept or 'any concept'}", "/compare-methods happy does it")
    return drawn


def _named(chat: Chat, name: str | None) -> str:
    name = name or next(iter(chat.session.recipe.concepts), None)
    if name is None:
        raise UsageError("no concept is named", "/plot concept --concept happy")
    return name


def _pairs(chat: Chat, name: str | None, layer: int | None, page: bool) -> Drawn:
    """At one layer, at every one for a page, which shows one at a time, or at some through the depth."""
    from ..concepts.plane import pairs_in_plane

    name, reader = _named(chat, name), chat.session.reader
    last = reader.engine.n_layers - 1
    some = sorted({round(share * last / (_CLOUDS - 1)) for share in range(_CLOUDS)})
    layers = [layer] if layer is not None else range(last + 1) if page else some
    concept, vector = reader.library.get(name), reader.vector(name)
    return pairs_in_plane(reader.engine, concept, vector, layers, reader.watch)


def _concept(chat: Chat, name: str | None) -> Drawn:
    name = _named(chat, name)
    chart = layer_chart(name, entry(chat.library, name, fingerprint_of(chat)).report)
    if chart is None:
        raise UsageError(f"{name} was not extracted on this model yet", f"/concept show {name} does it")
    return chart


def _evaluation(library: Library, fingerprint: str) -> Drawn:
    rows = [(name, library.measured(name, fingerprint)) for name in library.names()]
    measured = [(name, row["gains"]) for name, row in rows if row]
    if not measured:
        raise UsageError("no evaluation of this model ships", "/concept evaluate measures and shows it")
    return gains(measured)
