"""/plot: one chart, in the chat or as a figure in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..concepts.library import Library
from ..concepts.pages import cosine_map, entry, layer_chart
from ..conversation.chat import Chat
from ..experiments.charts import chart_of, gains
from ..experiments.recall import pairs_of, recalled
from ..figures import ENDINGS, HOW, available
from ..slash.arguments import Choice, Concept, Int, OneLayer, PathArg
from ..slash.registry import command
from ..storage.records import Filters
from ..system.folders import write_whole
from ..values.chart import Drawn
from ..values.errors import UsageError
from ..values.page import Page
from ..values.results import Notice
from .asking import Replace, confirm_replacing
from .concepts import fingerprint_of

_CLOUDS = 6  # layers at which pairs are drawn
_KINDS = ("layers", "strengths", "compare", "tune")


@command(
    "plot",
    examples=["/plot strengths", "/plot layers layers.pdf", "/plot library map.svg", "/plot concept --concept happy"],
    group="Notebook",
    shell=True,
    needs_model=False,
)
def plot(
    chat: Chat,
    what: Annotated[str, Choice(*_KINDS, "concept", "pairs", "library", "evaluation", metavar="WHAT")],
    file: Annotated[Path | None, PathArg("a .png, .svg or .pdf to write; without one, it is drawn here")] = None,
    *,
    experiment: Annotated[int | None, Int("an experiment in place of the newest of its kind", least=1)] = None,
    concept: Annotated[str | None, Concept("whose layers to draw")] = None,
    layer: Annotated[int | None, OneLayer("where to compare vectors, or to draw pairs", least=0)] = None,
    replace: Replace = False,
) -> Page | Notice:
    """Draws one chart, here or as a figure in a file.

    layers, strengths, compare, tune: the newest such experiment. concept: how far its examples come apart at each
    layer. library: how alike the vectors of all concepts are. evaluation: what each shipped concept moves, by word
    measures. pairs: the texts that a concept was made from, along its direction and across it, at one layer or at six.
    A .png has 300 dots per inch. --json gives the chart's data.
    """
    if file is not None and file.suffix.lower() not in ENDINGS:
        raise UsageError(f"no figure has the ending {file.suffix!r}", "end the name in .png, .svg or .pdf")
    if file is not None and not available():
        raise UsageError("figures are drawn by matplotlib, which is not installed", HOW)
    drawn = _chart(chat, what, experiment, concept, layer)
    if file is None:
        return Page([drawn], [drawn.to_json()])
    from ..figures.files import to_file

    confirm_replacing(chat, file, replace)
    write_whole(file, to_file(drawn, file.suffix.lower()))
    return Notice(f"{drawn.title}: drawn in {file}")


def _chart(chat: Chat, what: str, experiment: int | None, concept: str | None, layer: int | None) -> Drawn:
    match what:
        case "concept":
            return _concept(chat, concept)
        case "pairs":
            return _pairs(chat, concept, layer)
        case "library":
            return cosine_map(chat.library, fingerprint_of(chat), layer)
        case "evaluation":
            return _evaluation(chat.library, fingerprint_of(chat))
    return _experiment(chat, what, experiment)


def _experiment(chat: Chat, kind: str, number: int | None) -> Drawn:
    store = chat.session.store
    if number is None:
        newest = store.pairs(Filters(kind=kind), limit=1)
        if not newest or newest[0].experiment_id is None:
            raise UsageError(f"the history has no /{kind}", f"run /{kind} first, or name one with --experiment N")
        number = newest[0].experiment_id
    stored = store.experiment(number)
    result = recalled(chat.session.calibration, stored, pairs_of(store, Filters(experiment=number, undone=True)))
    if not result.outcomes:
        raise UsageError(f"experiment {number} has no measured pair", "run it again")
    return chart_of(result)


def _named(chat: Chat, name: str | None) -> str:
    name = name or next(iter(chat.session.recipe.concepts), None)
    if name is None:
        raise UsageError("no concept is named", "/plot concept --concept happy")
    return name


def _pairs(chat: Chat, name: str | None, layer: int | None) -> Drawn:
    from ..concepts.plane import pairs_in_plane

    name, engine, stopped = _named(chat, name), chat.session.engine, chat.session.stop.is_set
    vector = chat.library.vector(name, engine, chat.report, stopped=stopped)
    last = engine.n_layers - 1
    if layer is not None and layer > last:
        raise UsageError(f"no layer {layer}: this model has layers 0 to {last}", "choose another")
    layers = [layer] if layer is not None else sorted({round(share * last / (_CLOUDS - 1)) for share in range(_CLOUDS)})
    return pairs_in_plane(engine, chat.library.get(name), vector, layers, chat.report, stopped)


def _concept(chat: Chat, name: str | None) -> Drawn:
    name = _named(chat, name)
    chart = layer_chart(entry(chat.library, name, fingerprint_of(chat)))
    if chart is None:
        raise UsageError(f"{name} was not extracted on this model yet", f"/concept show {name} does it")
    return chart


def _evaluation(library: Library, fingerprint: str) -> Drawn:
    rows = [(name, library.measured(name, fingerprint)) for name in library.names()]
    measured = [(name, row["gains"]) for name, row in rows if row]
    if not measured:
        raise UsageError("no evaluation of this model ships", "/concept evaluate measures and shows it")
    return gains(measured)
