"""The same from Python: a model, its concepts, pairs and sweeps, as values. `import steerchat` gives it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from . import folders
from .chat import config_path, history_path
from .concepts import Concept, Example, Extraction, check_examples
from .config import load_settings
from .errors import UsageError
from .experiments import STRENGTHS, Experiment, Result, at_layers, at_strengths, chosen
from .library import Library
from .loader import Loader
from .recipe import Recipe, parse_term
from .records import StoredPair
from .results import Event, Pair, PairDone
from .session import Session
from .store import Store

if TYPE_CHECKING:
    from .vectors import ConceptVector


class Model:
    """A loaded model with one conversation. `steerchat.load` makes it; it is a context manager.

    Attributes:
        session: the verbs of the chat, for what is not here.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def name(self) -> str:
        return self.session.engine.name

    @property
    def n_layers(self) -> int:
        """Layers count from 0."""
        return self.session.engine.n_layers

    @property
    def recipe(self) -> Recipe:
        """What is steered."""
        return self.session.recipe

    # Concepts

    def concept(self, name: str) -> ConceptVector:
        """A concept's vector on this model, extracted when there is none yet.

        Raises:
            UnknownName: when there is no such concept.
        """
        return self.session.library.vector(name, self.session.engine)

    def extract(self, name: str, examples: Sequence[Example], method: Extraction = "mean") -> ConceptVector:
        """A vector from contrast pairs; nothing is kept.

        Raises:
            ConceptError: when the examples give no direction.
        """
        from .extract import extract

        return extract(self.session.engine, Concept(name, "own", "", check_examples(examples)), method)

    # Steering

    def steer(self, *terms: str) -> Recipe:
        """Replace what is steered: `happy 16 2.0` is CONCEPT LAYER STRENGTH; no term at all empties it.

        Raises:
            UnknownName: for a concept that does not exist.
            UsageError: for a layer the model lacks.
        """
        self.session.steer([parse_term(term) for term in terms])
        return self.recipe

    def events(self, prompt: str, *, seed: int | None = None, raw: bool = False) -> Iterator[Event]:
        """Answer a prompt outside the conversation, normal and steered, as it streams.

        Args:
            prompt: in the chat template, unless `raw`.
            seed: the same one gives the same pair; the setting's when None.
            raw: go on from the prompt itself.
        """
        return self.session.compare(prompt, raw=raw, seed=seed)

    def pair(self, prompt: str, *, seed: int | None = None, raw: bool = False) -> Pair:
        """The pair that `events` ends with."""
        return _last(self.events(prompt, seed=seed, raw=raw))

    def say(self, text: str) -> Pair:
        """The next turn of the conversation."""
        return _last(self.session.say(text))

    # Experiments

    def layers(
        self,
        prompt: str,
        concept: str | None = None,
        strength: float | None = None,
        *,
        repeats: int = 4,
        tokens: int = 40,
    ) -> Result:
        """Every layer by itself: an outcome each, means over `repeats` seeds of answers of up to `tokens` tokens."""
        recipe = chosen(self.session, concept, None, strength)
        settings = at_layers(recipe, self.n_layers)
        return Experiment(self.session, "layers", prompt, settings, repeats, tokens=tokens).run()

    def strengths(
        self,
        prompt: str,
        concept: str | None = None,
        layer: str | None = None,
        *,
        repeats: int = 4,
        tokens: int = 40,
        strengths: Sequence[float] = STRENGTHS,
    ) -> Result:
        """Strengths from pushing away to too much: an outcome each."""
        settings = at_strengths(chosen(self.session, concept, layer), strengths)
        return Experiment(self.session, "strengths", prompt, settings, repeats, tokens=tokens).run()

    def close(self) -> None:
        """Close the history."""
        self.session.new()
        if self.session.journal.store is not None:
            self.session.journal.store.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(model: str | None = None, *, log: bool = True, **settings: Any) -> Model:
    """Load a model.

    Args:
        model: an alias, a Hub id, a folder or a .gguf file; the setting's when None.
        log: whether pairs go into the history.
        **settings: as `steerchat config` lists them, with underscores: `seed=1`, `max_tokens=60`.

    Raises:
        ModelError: when it cannot be found or loaded.
        UsageError: for an unknown setting or a value that does not fit.
    """
    found = load_settings({"model": model, **settings}, config_path())
    library = Library(folders.packaged("vectors"), folders.data_dir() / "concepts", folders.cache_dir() / "vectors")
    engine = Loader(found.model, found).start().wait()
    return Model(Session(found, library, lambda: engine, Store.open(history_path()) if log else None))


def history(search: str = "", limit: int = 20) -> list[StoredPair]:
    """Logged pairs, newest first; with `search`, those that hold its words. Raises StoreError."""
    with Store.open(history_path()) as store:
        if search:
            return [hit.stored for hit in store.search(search, limit=limit)]
        return store.pairs(limit=limit)


def _last(events: Iterator[Event]) -> Pair:
    pairs = [event.pair for event in events if isinstance(event, PairDone)]
    if not pairs:
        raise UsageError("no answer came", "ask again")
    return pairs[-1]
