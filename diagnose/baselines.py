"""The diagnosers that compete: baselines, MD trees, and the registry a user's own enters.

A diagnoser is a scikit-learn classifier from a named feature set to a failure source. All that stand here
replace missing features by the median of the training side, and where that has one answer only, give it (an
MD tree cannot: its bounds hold it to its prior).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sklearn.dummy import DummyClassifier
from sklearn.impute import SimpleImputer
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from diagnose.features import FEATURE_SETS
from diagnose.md_tree import MDTreeClassifier
from diagnose.structures import STRUCTURES
from diagnose.tuned import TUNED, BoostedTrees
from zoo.tables import FAILURE_TASKS

__all__ = [
    "BASELINE_SETS",
    "DIAGNOSERS",
    "BoostedTrees",
    "Diagnoser",
    "full_board",
    "register",
    "tuned_baselines",
]


@dataclass(frozen=True)
class Diagnoser:
    """A method of diagnosis.

    Attributes:
        name: Its name on the leaderboard.
        features: The feature set it reads, a key of `FEATURE_SETS`.
        build: (task, seed of the draw) -> an unfitted scikit-learn classifier.
        tasks: The questions it answers.
        nulls: What it does with missing features.
        seeded: Whether the seed matters; if not, it is run once for all draws that select the same.
    """

    name: str
    features: str
    build: Callable[[str, int], Any]
    tasks: tuple[str, ...] = FAILURE_TASKS
    nulls: str = "its own affair"
    seeded: bool = True

    @property
    def track(self) -> str:
        """`single`, `twin` or `hidden`: what the feature set takes."""
        return FEATURE_SETS[self.features].track


DIAGNOSERS: dict[str, Diagnoser] = {}
"""All registered diagnosers by name, in the order of registration."""


def register(diagnoser: Diagnoser) -> Diagnoser:
    """Add a diagnoser to those that `benchmark` runs, and return it.

    Raises:
        ValueError: If the name is taken, or the feature set or a task unknown.
    """
    if diagnoser.name in DIAGNOSERS:
        raise ValueError(f"a diagnoser is already registered as {diagnoser.name!r}; choose another name")
    if diagnoser.features not in FEATURE_SETS:
        raise ValueError(
            f"{diagnoser.name} reads the feature set {diagnoser.features!r}; it must be one of {list(FEATURE_SETS)}"
        )
    if unknown := sorted(set(diagnoser.tasks) - set(FAILURE_TASKS)):
        raise ValueError(f"{diagnoser.name} answers the tasks {unknown}; they must be among {FAILURE_TASKS}")
    DIAGNOSERS[diagnoser.name] = diagnoser
    return diagnoser


def _imputed(*steps: Any) -> Pipeline:
    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), *steps)


def _tree(task: str, seed: int) -> Pipeline:
    """The published baseline tree: Gini, depth 4, the draw's seed."""
    return _imputed(DecisionTreeClassifier(criterion="gini", max_depth=4, random_state=seed))


def _stump(task: str, seed: int) -> Pipeline:
    return _imputed(DecisionTreeClassifier(max_depth=1, random_state=seed))


def _copied(task: str, seed: int) -> Pipeline:
    """The label of the same grid point, or of the nearest one by the logs of its coordinates."""
    return _imputed(StandardScaler(), KNeighborsClassifier(1))


def _md_tree(search: str, bounds: str) -> Callable[[str, int], MDTreeClassifier]:
    return lambda task, seed: MDTreeClassifier(structure=task, search=search, bounds=bounds)


def _untrained(task: str, seed: int) -> MDTreeClassifier:
    """The published structure at the values where its fit starts."""
    fixed = [(split.start, split.start) for split in STRUCTURES[task].splits()]
    return MDTreeClassifier(structure=task, search="exact", bounds=fixed)


def _own(name: str, features: str, build: Callable[[str, int], Any], seeded: bool = False) -> Diagnoser:
    return Diagnoser(name, features, build, nulls="median of the training side", seeded=seeded)


BASELINE_SETS = {
    "hyperparameter": "hyperparameter_complete",
    "validation": "validation",
    "landscape": "landscape",
    "landscape_parameters": "landscape_parameters",
    "single_checkpoint": "single_checkpoint",
    "all": "all",
}
"""What the tuned baselines are named after, and the feature set that is read."""


def tuned_baselines() -> list[Diagnoser]:
    """Each method of `TUNED` on each set of `BASELINE_SETS`, named `<set>_<method>`.

    They cost many times what the trees do, so that few are registered, see `REGISTERED_SETS`;
    `benchmark(zoos, diagnosers=full_board())` runs them all.
    """
    return [
        _own(f"{name}_{method}", features, partial(_tuned, build))
        for method, build in TUNED.items()
        for name, features in BASELINE_SETS.items()
    ]


def full_board() -> list[Diagnoser]:
    """All that are registered, and the tuned baselines that are not."""
    return [*DIAGNOSERS.values(), *(d for d in tuned_baselines() if d.name not in DIAGNOSERS)]


def _tuned(build: Callable[[], Any], task: str, seed: int) -> Pipeline:
    return _imputed(build())


REGISTERED_SETS = {"logistic": ("validation", "landscape"), "xgboost": ("validation", "landscape")}
"""Of each tuned method the sets on which it is registered; `full_board` has all methods on all sets."""

_REGISTERED = {f"{name}_{method}" for method, names in REGISTERED_SETS.items() for name in names}

for _diagnoser in (
    _own("majority", "none", lambda task, seed: DummyClassifier(strategy="most_frequent")),
    _own("copied_label", "grid_point", _copied),
    _own("parameter_stump", "parameters", _stump, seeded=True),
    _own("hyperparameter_tree", "hyperparameter", _tree, seeded=True),
    _own("hyperparameter_complete_tree", "hyperparameter_complete", _tree, seeded=True),
    _own("validation_tree", "validation", _tree, seeded=True),
    _own("landscape_tree", "landscape", _tree, seeded=True),
    *(baseline for baseline in tuned_baselines() if baseline.name in _REGISTERED),
    _own("md_tree_untrained", "landscape", _untrained),
    _own("md_tree", "landscape", _md_tree("published", "data")),
    _own("md_tree_exact", "landscape", _md_tree("exact", "data")),
    _own("md_tree_posterior", "landscape", _md_tree("posterior", "data")),
    # The bounds belong to ResNet-18 on CIFAR-10; on another zoo this shows how far they carry.
    _own("md_tree_published_bounds", "landscape", _md_tree("published", "published")),
):
    register(_diagnoser)
