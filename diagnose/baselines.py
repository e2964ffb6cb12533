"""The diagnosers that compete: baselines, MD trees, and the registry a user's own enters.

A diagnoser is a scikit-learn classifier from a named feature set to a failure source. All that stand here
replace missing features by the median of the training side (see `MEDIANS`), and where that has one answer only,
give it (an MD tree cannot: its bounds hold it to its prior). An answer that the training side does not show is
never given, but by an MD tree, which knows those of its structure.
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

from diagnose.advice import RemedyAdvisor
from diagnose.features import FEATURE_SETS, TASKS
from diagnose.gaussian_process import MDGaussianProcess
from diagnose.md_tree import MDTreeClassifier
from diagnose.structures import STRUCTURES
from diagnose.tuned import TUNED, BoostedTrees
from zoo.tables import FAILURE_TASKS, REMEDY_TASKS

__all__ = [
    "BASELINE_SETS",
    "DIAGNOSERS",
    "BoostedTrees",
    "Diagnoser",
    "full_board",
    "register",
    "tuned_baselines",
]


MEDIANS = "median of the training side"
"""The policy on nulls of all that stand here; a feature that is null on the whole training side counts as 0."""


@dataclass(frozen=True)
class Diagnoser:
    """A method of diagnosis.

    A classifier answers any question; the published structures of MD trees answer the published three.

    Attributes:
        name: Its name on the leaderboard.
        features: The feature set it reads, a key of `FEATURE_SETS`.
        build: (task, seed of the draw) -> an unfitted scikit-learn classifier.
        tasks: The questions it answers.
        nulls: What it does with missing features (NaN), on either side.
        seeded: Whether the seed matters; if not, it is run once for all draws that select the same.
    """

    name: str
    features: str
    build: Callable[[str, int], Any]
    tasks: tuple[str, ...] = TASKS
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
    DIAGNOSERS[diagnoser.name] = checked(diagnoser)
    return diagnoser


def checked(diagnoser: Diagnoser) -> Diagnoser:
    """The diagnoser itself, if it asks for what there is.

    Raises:
        ValueError: If the feature set or a task is unknown.
    """
    if diagnoser.features not in FEATURE_SETS:
        raise ValueError(
            f"{diagnoser.name} reads the feature set {diagnoser.features!r}; it must be one of {list(FEATURE_SETS)}"
        )
    if unknown := sorted(set(diagnoser.tasks) - set(TASKS)):
        raise ValueError(f"{diagnoser.name} answers the tasks {unknown}; they must be among {TASKS}")
    return diagnoser


def _imputed(*steps: Any) -> Pipeline:
    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), *steps)


def _majority(task: str, seed: int) -> DummyClassifier:
    return DummyClassifier(strategy="most_frequent")


def _tree(task: str, seed: int) -> Pipeline:
    """The published baseline tree: Gini, depth 4, the draw's seed."""
    return _imputed(DecisionTreeClassifier(criterion="gini", max_depth=4, random_state=seed))


def _stump(task: str, seed: int) -> Pipeline:
    return _imputed(DecisionTreeClassifier(max_depth=1, random_state=seed))


def _copied(task: str, seed: int) -> Pipeline:
    """The label of the same grid point, or of the nearest one by the logs of its coordinates."""
    return _imputed(StandardScaler(), KNeighborsClassifier(1))


def _structured(search: str, bounds: str, task: str, seed: int) -> MDTreeClassifier:
    return MDTreeClassifier(structure=task, search=search, bounds=bounds)


def _untrained(task: str, seed: int) -> MDTreeClassifier:
    """The published structure at the values where its fit starts."""
    fixed = [(split.start, split.start) for split in STRUCTURES[task].splits()]
    return MDTreeClassifier(structure=task, search="exact", bounds=fixed)


def _own(
    name: str,
    features: str,
    build: Callable[[str, int], Any],
    tasks: tuple[str, ...] = TASKS,
    seeded: bool = False,
) -> Diagnoser:
    return Diagnoser(name, features, build, tasks, nulls=MEDIANS, seeded=seeded)


def _md_tree(name: str, build: Callable[[str, int], MDTreeClassifier]) -> Diagnoser:
    return _own(name, "landscape", build, FAILURE_TASKS)


def _gaussian_process(bounds: str, task: str, seed: int) -> MDGaussianProcess:
    """Our best diagnoser of the published questions, chosen by benchmarks/choose_diagnoser.py on clean labels."""
    return MDGaussianProcess(structure=task, bounds=bounds)


def advisors() -> list[Diagnoser]:
    """Advisors on the whole question: of several runs, of one checkpoint, and one that would rather say nothing."""
    gaining = partial(_advisor, "gain", 0.0)
    return [
        _own("advisor", "all", gaining, REMEDY_TASKS),
        _own("advisor_single", "single_checkpoint", gaining, REMEDY_TASKS),
        _own("advisor_cautious", "all", partial(_advisor, "probability", 0.5), REMEDY_TASKS),
    ]


def _advisor(decide: str, abstain_below: float, task: str, seed: int) -> RemedyAdvisor:
    return RemedyAdvisor(decide=decide, abstain_below=abstain_below)


def md_trees(bounds: str) -> list[Diagnoser]:
    """The MD trees by the three searches and the process on them, within `published` bounds or the `data`'s."""
    return [
        _md_tree("md_tree", partial(_structured, "published", bounds)),
        _md_tree("md_tree_exact", partial(_structured, "exact", bounds)),
        _md_tree("md_tree_posterior", partial(_structured, "posterior", bounds)),
        _own("md_gp", "all", partial(_gaussian_process, bounds), FAILURE_TASKS),
    ]


BASELINE_SETS = {
    "hyperparameter": "hyperparameter_complete",
    "validation": "validation",
    "landscape": "landscape",
    "landscape_parameters": "landscape_parameters",
    "single_checkpoint": "single_checkpoint",
    "checkpoint_landscape": "checkpoint_landscape",
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


def entrants_of(bounds: str, full: bool) -> list[Diagnoser]:
    """Who competes on a zoo.

    Args:
        bounds: Where MD trees look for their thresholds: `published` on the authors' zoo, `data` on others.
        full: Whether to add the tuned baselines that are not registered.
    """
    board = full_board() if full else list(DIAGNOSERS.values())
    if bounds == "data":
        return board
    bounded = {diagnoser.name: diagnoser for diagnoser in md_trees(bounds)}
    return [bounded.get(d.name, d) for d in board if d.name != "md_tree_published_bounds"]


def full_board() -> list[Diagnoser]:
    """All that are registered, and the tuned baselines that are not."""
    return [*DIAGNOSERS.values(), *(d for d in tuned_baselines() if d.name not in DIAGNOSERS)]


def _tuned(build: Callable[[], Any], task: str, seed: int) -> Pipeline:
    return _imputed(build())


REGISTERED_SETS = {"logistic": ("validation", "landscape"), "xgboost": ("validation", "landscape")}
"""Of each tuned method the sets on which it is registered; `full_board` has all methods on all sets."""

_REGISTERED = {f"{name}_{method}" for method, names in REGISTERED_SETS.items() for name in names}

for _diagnoser in (
    _own("majority", "none", _majority),
    _own("copied_label", "grid_point", _copied),
    _own("parameter_stump", "parameters", _stump, seeded=True),
    _own("hyperparameter_tree", "hyperparameter", _tree, seeded=True),
    _own("hyperparameter_complete_tree", "hyperparameter_complete", _tree, seeded=True),
    _own("validation_tree", "validation", _tree, seeded=True),
    _own("landscape_tree", "landscape", _tree, seeded=True),
    *(baseline for baseline in tuned_baselines() if baseline.name in _REGISTERED),
    _md_tree("md_tree_untrained", _untrained),
    *md_trees("data"),
    *advisors(),
    # The bounds belong to ResNet-18 on CIFAR-10; on another zoo this shows how far they carry.
    _md_tree("md_tree_published_bounds", partial(_structured, "published", "published")),
):
    register(_diagnoser)
