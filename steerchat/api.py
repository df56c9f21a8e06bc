"""The same from Python: a model, its concepts, pairs and sweeps, as values. `import steerchat` gives it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .concepts.concept import Concept, Example, Extraction, check_examples
from .concepts.pages import cosine_map
from .conversation.app import App, config_path, history_path
from .conversation.rerun import logged
from .conversation.runner import Runner
from .conversation.session import Session
from .experiments.outcomes import Outcome, Result
from .experiments.readings import why
from .experiments.run import experiment
from .experiments.settings import STRENGTHS, at_layers, at_strengths, chosen
from .reports import cells  # noqa: F401  # declares what notebooks show
from .storage.records import Filters, StoredPair
from .storage.store import Store
from .system.folders import shipped_prompts
from .system.settings import description, load_settings
from .values.chart import Matrix, Points, Tokens
from .values.errors import ConceptError, UsageError
from .values.recipe import Recipe, parse_term
from .values.results import Event, Pair, PairDone
from .values.setting import Setting

if TYPE_CHECKING:
    from .concepts.vector import ConceptVector
    from .experiments.methods import MethodRow
    from .measures.capability import Capability, Quiz


class Model:
    """A loaded model with one conversation. `steerchat.load` makes it; it is a context manager.

    `session`: the verbs of the chat, for what is not here; it may change from one version to the next.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    def __repr__(self) -> str:
        engine = self.session.engine
        return f"<{engine.name}, {engine.n_layers} layers, {engine.device}, steered: {self.recipe}>"

    @property
    def name(self) -> str:
        """The model's, as it is logged."""
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

    def concepts(self) -> list[str]:
        """The names of those that there are, shipped and your own."""
        return self.session.library.names()

    def concept(self, name: str) -> ConceptVector:
        """A concept's vector on this model, extracted when there is none yet.

        Raises UnknownName when there is no such concept.
        """
        return self.session.library.vector(name, self.session.engine)

    def extract(self, name: str, examples: Sequence[Example], method: Extraction = "mean") -> ConceptVector:
        """A vector from contrast pairs; nothing is kept, see `keep`.

        Args:
            name: the vector's.
            examples: those with `held_out` measure how well the vector tells the two sides apart.
            method: `centred`, the mean difference over the replies' tokens less what the library's tones share; the
                `mean` difference, the first principal component (`pca`), the mean difference at each reply's
                last token (`end`), or that of the first pair alone (`last`).

        Raises:
            ConceptError: when the examples give no direction.
        """
        from .concepts.extract import extract

        engine = self.session.engine
        reference = self.session.library.reference(engine) if method == "centred" else None
        return extract(engine, Concept(name, "custom", "", check_examples(examples)), method, reference=reference)

    def keep(self, vector: ConceptVector, name: str = "") -> str:
        """Make a vector a concept of your own, for `steer` and for the chat. Returns its name.

        Args:
            vector: of this model, for example `model.concept("happy") - model.concept("sad")`.
            name: the vector's own when empty; a concept of yours of that name is replaced.

        Raises:
            ConceptError: for a name that it may not have, or a vector of another model, of zeros, or with NaN.
        """
        engine, library = self.session.engine, self.session.library
        if vector.fingerprint != engine.fingerprint:
            raise ConceptError(
                f"{vector.name} was read from another model than {engine.name}", "extract it on this one"
            )
        from . import commands  # noqa: F401  # declares the commands, whose words no concept may have
        from .slash.registry import registry

        name = library.check_name(name or vector.name)
        if name in registry.reserved_words():
            raise ConceptError(f"{name} is a word of the commands", "choose another name")
        concept = Concept(name, "custom", "Made in Python.", (), method="imported")
        library.keep_import(concept, replace(vector, name=name))
        return name

    def contrast(self, name: str, layers: Sequence[int]) -> Points:
        """The texts that a concept was made from, in two dimensions at each of some layers; see `.plot()`.

        Raises ConceptError for a concept without examples.
        """
        from .concepts.plane import pairs_in_plane

        engine, library = self.session.engine, self.session.library
        return pairs_in_plane(engine, library.get(name), library.vector(name, engine), layers)

    def cosines(self, layer: int | None = None) -> Matrix:
        """How alike the vectors of all concepts are that have one on this model; see `.plot()`."""
        return cosine_map(self.session.library, self.session.engine.fingerprint, layer)

    # Steering

    def steer(self, *terms: str) -> Recipe:
        """Replace what is steered: `happy 16 2.0` is CONCEPT LAYER STRENGTH; no term at all empties it.

        Another operation than adding comes first: `rotate happy 16 2.0`, `ablate sad`.

        Raises UnknownName for a concept that does not exist, UsageError for a layer the model lacks.
        """
        self.session.steer([parse_term(term) for term in terms])
        return self.recipe

    # Answers

    def events(self, prompt: str, *, seed: int | None = None, raw: bool = False) -> Iterator[Event]:
        """Answer a prompt outside the conversation, normal and steered, as it streams.

        Args:
            prompt: in the chat template, unless `raw`.
            seed: the same one gives the same pair; the setting's when None.
            raw: go on from the prompt itself.

        Yields:
            `Started`, then a `Delta` for each new piece of text (row 0 is normal, row 1 steered), `Finished` for each
            answer, and `PairDone` with the measured pair. `Notice` and `Progress` can come in between.
        """
        if seed is not None:
            seed = description("seed").parse(seed)
        return self.session.compare(prompt, raw=raw, seed=seed)

    def pair(self, prompt: str, *, seed: int | None = None, raw: bool = False) -> Pair:
        """The pair that `events` ends with."""
        return _last(self.events(prompt, seed=seed, raw=raw))

    def say(self, text: str) -> Pair:
        """The next turn of the conversation."""
        return _last(self.session.say(text))

    def why(self, pair: Pair, *concepts: str) -> Tokens:
        """A steered pair token by token: how likely each token is unsteered, and concepts in it; see `.plot()`.

        Args:
            pair: a logged one.
            concepts: to read in it, in place of those that it was steered with.

        Raises:
            UsageError: for a pair that was not logged or not steered.
        """
        if pair.id is None:
            raise UsageError("only logged pairs can be read again", "load(...) without log=False")
        return why(self.session, logged(self.session, pair.id), concepts).chart

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
        """Every layer by itself: an outcome each, means over `repeats` seeds of answers of up to `tokens` tokens.

        Args:
            prompt: what every row answers.
            concept: in place of what is steered; a mix (`happy:1,sad:-1`) is one too.
            strength: in units of a layer's typical length; the recipe's or the recommended one when None.
        """
        recipe = chosen(self.session, concept, None, strength)
        settings = at_layers(recipe, self.n_layers)
        return experiment(self.session, "layers", prompt, settings, repeats, tokens=tokens)

    def strengths(
        self,
        prompt: str,
        concept: str | None = None,
        layer: str | int | None = None,
        *,
        repeats: int = 4,
        tokens: int = 40,
        strengths: Sequence[float] = STRENGTHS,
    ) -> Result:
        """Strengths from pushing away to too much: an outcome each, as `layers` gives them.

        Args:
            layer: a number, a range `12-20` or a depth `55%`; the recipe's or the recommended ones when None.
            strengths: those to try; a negative one pushes away.
        """
        settings = at_strengths(chosen(self.session, concept, layer), strengths)
        return experiment(self.session, "strengths", prompt, settings, repeats, tokens=tokens)

    def at_budget(
        self,
        concept: str | None = None,
        layer: str | int | None = None,
        *,
        cost: float | None = None,
        kl: float | None = None,
        prompts: Sequence[str] = (),
        tokens: int = 40,
    ) -> Outcome | None:
        """The strongest setting that takes no more than a budget, as `/tune --cost` and `/tune --kl` find it.

        Args:
            concept, layer: as of `strengths`.
            cost: the perplexity ratio of the answers, such as 1.5.
            kl: in its place, the KL divergence of the next-token distributions from the unsteered ones, in nats, at
                the 95th percentile of tokens.
            prompts: each strength answers all of them; four of the shipped ones when empty.

        Returns:
            its `setting` has the recipe; None where every strength that was tried takes more.

        Raises:
            UsageError: unless one of both budgets is given.
        """
        from .experiments.tuning import at_budget, budget_of, within

        budget = budget_of(cost, kl)
        if budget is None:
            raise UsageError("no budget is given", "cost=1.5, or kl=1.0")
        recipe = chosen(self.session, concept, layer)
        result = at_budget(self.session, recipe, budget, prompts or shipped_prompts("tuning")[:4], tokens)
        return within(result.outcomes, budget)

    def compare_methods(
        self,
        *concepts: str,
        cost: float = 1.5,
        seeds: int = 2,
        prompts: Sequence[str] = (),
        asked: Sequence[Quiz] = (),
        kl: float | None = None,
    ) -> list[MethodRow]:
        """Operations and ways of extraction for some concepts, each at the strength that takes as much.

        Args:
            concepts: each with a word measure, such as `happy`.
            cost: the perplexity ratio of each method's answers.
            seeds: the number of answers to each prompt.
            prompts: at least two; the shipped ones for evaluation when empty.
            asked: questions with one right answer; every fourth of the shipped ones when empty.
            kl: in place of a cost, as of `at_budget`.

        Returns:
            a row for each concept and method: gain by words, what else moved, cost, and the share of right answers.

        Raises:
            ConceptError: for a concept that nothing measures but its own vector.
            UsageError: for a single prompt, which gives no interval.
        """
        from .experiments.methods import compare_methods
        from .experiments.tuning import Budget
        from .measures.capability import questions

        if len(prompts) == 1:
            raise UsageError("an interval over prompts needs at least two", "name another prompt")
        runner = Runner(self.session.reader, memo={})
        chosen_prompts = prompts or shipped_prompts("evaluation")[:12]
        budget = Budget("cost", cost) if kl is None else Budget("kl", kl)
        compared = compare_methods(runner, concepts, budget, chosen_prompts, range(seeds), asked or questions()[::4])
        return [row for rows in compared for row in rows]

    def capability(self, asked: Sequence[Quiz] = ()) -> dict[str, Capability]:
        """How many short questions are answered right, `normal` and `steered` by what is steered now.

        `asked`: questions with one right answer; all shipped ones when empty.
        """
        from .measures.capability import capability, questions

        settings = [Setting("steered", self.recipe)] if self.recipe.active else []
        return capability(self.session.reader, settings, asked or questions(), self.session.settings.seed)

    def close(self) -> None:
        """Close the history."""
        self.session.close()

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
        StoreError: when the history cannot be written; `log=False` does without.
    """
    chosen_settings = load_settings({"model": model, **settings}, config_path())
    app = App(chosen_settings).start()
    app.engine()
    app.store = Store.open(history_path()) if log else None
    if app.store is not None and app.store.refused is not None:
        raise app.store.refused
    return Model(app.conversation())


def history(search: str = "", filters: Filters | None = None, limit: int = 20) -> list[StoredPair]:
    """Logged pairs, newest first.

    Args:
        search: only pairs that hold all of its words.
        filters: which pairs, for example `Filters(concept="happy", min_effect=1.0)`.
        limit: at most so many.

    Raises:
        StoreError: when the history cannot be read.
    """
    with Store.open(history_path()) as store:
        if search:
            return [hit.stored for hit in store.search(search, filters, limit=limit)]
        return store.pairs(filters, limit=limit)


def _last(events: Iterator[Event]) -> Pair:
    pairs = [event.pair for event in events if isinstance(event, PairDone)]
    if not pairs:
        raise UsageError("no answer came", "ask again")
    return pairs[-1]
