"""Results of logged experiments, made again from their pairs."""

from __future__ import annotations

from ..conversation.runner import SETTING
from ..measures.calibration import Calibration
from ..storage.records import Filters, StoredExperiment, StoredPair, as_written
from ..storage.store import Store
from ..values.recipe import Recipe
from ..values.results import Pair
from ..values.setting import Setting
from .outcomes import Result, outcomes_of

# More pairs than any experiment has.
_ALL = 1_000_000


def pairs_of(store: Store, filters: Filters) -> list[StoredPair]:
    """Every pair that passes, oldest first."""
    return store.pairs(filters, limit=_ALL)[::-1]


def recalled(calibration: Calibration, experiment: StoredExperiment, pairs: list[StoredPair]) -> Result:
    """An experiment's result, of those of its pairs that are still there.

    Args:
        calibration: for the chance band of the model that answered, as it is known by now.
        pairs: oldest first.

    Raises:
        StoreError: another program changed the experiment to something that steerchat never writes.
    """
    by_setting: dict[Setting, list[Pair]] = {}
    with as_written(f"experiment {experiment.id}"):
        for index, spec in enumerate(experiment.spec["settings"]):
            recipe = Recipe.from_json(spec["recipe"])
            along = Recipe.from_json(spec["along"]) if "along" in spec else None
            own = [
                stored.pair
                for stored in pairs
                # Pairs of older versions have no index: there the recipe tells which setting it was.
                if stored.pair.recipe == recipe and stored.measures.get(SETTING, index) == index
            ]
            if own:
                setting = Setting(spec["label"], recipe, own[0].layer, own[0].strength, along, spec.get("asking", ""))
                by_setting[setting] = own
        stopped = experiment.status in ("interrupted", "failed")
        # Reports read the seed and the tokens of the spec as well, where a wrong one would be no StoreError any more.
        seeds, _, _ = (int(experiment.spec[name]) for name in ("repeats", "seed", "tokens"))
    chance = calibration.chance(pairs[0].fingerprint) if pairs else None
    outcomes = outcomes_of(chance, by_setting)
    return Result(experiment.kind, experiment.prompt, outcomes, seeds, stopped, experiment.id)
