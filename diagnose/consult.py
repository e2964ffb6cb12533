"""What a zoo says of a network that is not in it: the likely failure, what to change first, and how far to trust it.

Advisors answer. Which features they read is chosen by how often they answer the first question rightly on settings of
the zoo that were held out; then they learn from all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from diagnose.advice import RemedyAdvisor, uncalibrated
from diagnose.cases import ZooTables, cases_of
from diagnose.features import FEATURE_SETS, FeatureSet
from diagnose.md_tree import MDTreeClassifier
from diagnose.structures import Tree

QUESTION = "remedy_whole"
"""The question that is answered first: what, changed, would help most, anywhere along its axis."""

ASKED = (QUESTION, "temperature", "width", "data")
SETS = {
    "single": ("validation", "single_checkpoint", "checkpoint_landscape"),
    "twin": ("landscape", "landscape_parameters", "all", "checkpoint_landscape"),
}
"""Feature sets that are tried for a model alone, and for one with a twin."""

FOLDS = 5
NEIGHBOURS = 5
FAR, TOO_FAR = 95.0, 2.0
"""A model is far from the zoo if its neighbours are farther than those of so many percent of the zoo's own; and too
far to say anything if they are so many times as far as those of the loneliest."""

DEPTH = 3
"""Of the tree that explains the answer on one checkpoint."""


Rows = Mapping[str, pd.DataFrame]
"""The features of a model by track, a row each."""


class Step(NamedTuple):
    """One split on the way through a tree: the model's value of a feature, the threshold, and on which side it is."""

    feature: str
    value: float
    threshold: float

    @property
    def is_above(self) -> bool:
        """Whether the way goes on above the threshold."""
        return self.value > self.threshold


@dataclass(frozen=True)
class Path:
    """The way of a model through a tree.

    Attributes:
        task: What the tree answers.
        steps: The splits.
        answer: The label of the leaf.
        missing: Features that the model lacks, for which the zoo's median stood in.
    """

    task: str
    steps: tuple[Step, ...]
    answer: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What one diagnoser says of the model.

    Attributes:
        task: The question.
        diagnoser: Method and feature set.
        answer: Its answer.
        probabilities: Of each answer.
        gains: Points of test accuracy that acting on each answer is expected to gain.
        held_out: Percent of held-out configurations that it answers rightly.
        majority: Percent that the most frequent answer alone gets right.
    """

    task: str
    diagnoser: str
    answer: str
    probabilities: Mapping[str, float]
    gains: Mapping[str, float]
    held_out: float
    majority: float


@dataclass(frozen=True)
class Distance:
    """How far the model is from the zoo, by the features of the first answer.

    Attributes:
        percentile: Percent of the zoo's configurations that are nearer to their neighbours than the model to its.
        ratio: Its distance to them over that of the zoo's loneliest configuration.
        nearest: The configuration most like it.
        outside: Features whose value lies outside the zoo's: value, smallest and largest.
        missing: Features that could not be had of the model, for which the zoo's median stood in.
    """

    percentile: float
    ratio: float
    nearest: str
    outside: Mapping[str, tuple[float, float, float]]
    missing: tuple[str, ...]

    @property
    def is_far(self) -> bool:
        """Whether the answers should be doubted."""
        return self.percentile > FAR

    @property
    def is_too_far(self) -> bool:
        """Whether the answers should not be trusted at all."""
        return self.ratio > TOO_FAR


class HeldOut(NamedTuple):
    """Features that an advisor reads; percent of held-out settings that it and the most frequent answer get right."""

    features: FeatureSet
    accuracy: float
    majority: float


class Reference:
    """A zoo that models are compared with; what it learned for one model serves the next.

    Args:
        name: Name of the zoo.
        tables: Its tables.
        recipe: Recipe of its metrics.

    Raises:
        ValueError: If the zoo has too few answers to learn from, or only one.
    """

    def __init__(self, name: str, tables: ZooTables, recipe: str = "default") -> None:
        self.name, self.recipe = name, recipe
        self.metrics = frozenset(tables.metrics["metric"])
        self.cases = cases_of(tables, recipe)
        self._chosen: dict[tuple[str, str], HeldOut | None] = {}
        self._advisors: dict[tuple[str, str], RemedyAdvisor] = {}
        labels = self.cases.answers[QUESTION]["label"]
        answers, cells = labels.nunique(), self._cells.loc[labels.index].nunique()
        if len(labels) < 2 * FOLDS or min(answers, cells) < 2:
            raise ValueError(
                f"zoo {name} has {len(labels)} labelled configurations with {answers} different answers, of {cells} "
                f"widths and data amounts; {2 * FOLDS} with 2 of each are needed to learn from"
            )

    def answer(self, task: str, rows: Rows, track: str) -> Answer | None:
        """What the best method on held-out settings says; None where the zoo's answers are all the same.

        Args:
            task: The question.
            rows: The model's features by track, a row each.
            track: `single` for a model alone, `twin` for one with a twin.
        """
        chosen = self._choice(task, track)
        if chosen is None:
            return None
        advisor = self._advisor(task, track, chosen.features)
        row = rows[chosen.features.track][list(chosen.features.columns[task])]
        shares = dict(zip(map(str, advisor.classes_), advisor.predict_proba(row)[0].tolist(), strict=True))
        gains = {str(name): float(value) for name, value in advisor.expected_gains(row).iloc[0].items()}
        best, name = max(shares, key=lambda name: shares[name]), f"advisor on {chosen.features.name}"
        return Answer(task, name, best, shares, gains, chosen.accuracy, chosen.majority)

    def path(self, rows: Rows, track: str) -> Path | None:
        """The model's way through a tree: with a twin the MD tree of Q1, else one learned for `QUESTION`."""
        task = "temperature" if track == "twin" else QUESTION
        sample = self.cases.sample(task, track)
        if sample["label"].nunique() < 2:
            return None
        if track == "twin":
            tree = MDTreeClassifier(structure=task, search="exact", bounds="data").fit(
                sample, sample["label"]
            )
            names, medians = tree.tree_.features(), tree.medians_
            values, missing = _complete(rows["twin"].iloc[0], names, medians)
            steps, answer = _way(tree.tree_, tree.thresholds_.tolist(), values)
        else:
            names = list(FEATURE_SETS["checkpoint_landscape"].columns[task])
            names = [name for name in names if sample[name].notna().any()]
            medians = sample[names].median().to_numpy()
            learned = DecisionTreeClassifier(max_depth=DEPTH, min_samples_leaf=3, random_state=0)
            learned.fit(sample[names].fillna(dict(zip(names, medians, strict=True))), sample["label"])
            values, missing = _complete(rows["single"].iloc[0], names, medians)
            steps, answer = _learned_way(learned, names, values)
        read = {step.feature for step in steps}
        return Path(task, tuple(steps), answer, tuple(name for name in missing if name in read))

    def distance(self, rows: Rows, track: str) -> Distance:
        """How far the model is from anything in the zoo."""
        chosen = self._choice(QUESTION, track)
        assert chosen is not None  # a zoo of one answer was refused
        features = chosen.features
        columns = list(features.columns[QUESTION])
        own = self.cases.sample(QUESTION, features.track)[columns]
        columns = [name for name in columns if own[name].notna().any()]
        own, row = own[columns], rows[features.track][columns]
        space = make_pipeline(SimpleImputer(strategy="median"), StandardScaler()).fit(own)
        places, place = space.transform(own), space.transform(row)
        near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(own) - 1)).fit(places)
        within = near.kneighbors()[0].mean(axis=1)
        found, which = near.kneighbors(place)
        distance = float(found.mean())
        low, high, value = own.min(), own.max(), row.iloc[0]
        outside = {
            name: (float(value[name]), float(low[name]), float(high[name]))
            for name in columns
            if value[name] < low[name] or value[name] > high[name]
        }
        return Distance(
            float(100 * (within < distance).mean()),
            distance / float(within.max()),
            str(own.index[which[0, 0]]),
            outside,
            tuple(value.index[value.isna()]),
        )

    @cached_property
    def _cells(self) -> pd.Series:
        """Settings that are held out together: data set, width and data amount."""
        return self.cases.settings[["dataset", "width", "data_amount"]].astype(str).agg("-".join, axis=1)

    def _choice(self, task: str, track: str) -> HeldOut | None:
        """The features that an advisor reads, and how often it is right when held out; None: one answer only."""
        if (task, track) not in self._chosen:
            first = None if task == QUESTION else self._choice(QUESTION, track)
            sets = [FEATURE_SETS[name] for name in SETS[track]] if first is None else [first.features]
            found = [self._held_out(task, features) for features in sets]
            self._chosen[task, track] = max(filter(None, found), key=lambda one: one.accuracy, default=None)
        return self._chosen[task, track]

    def _held_out(self, task: str, features: FeatureSet) -> HeldOut | None:
        labels = self.cases.answers[task]["label"]
        cells = self._cells.loc[labels.index]
        if labels.nunique() < 2 or cells.nunique() < 2:
            return None
        X = self.cases.sample(task, features.track)[list(features.columns[task])]
        right = np.zeros(len(X), dtype=bool)
        for learned, left in GroupKFold(min(FOLDS, cells.nunique())).split(X, groups=cells):
            model = uncalibrated().fit(X.iloc[learned], labels.iloc[learned])
            right[left] = model.predict(X.iloc[left]) == labels.iloc[left].to_numpy()
        majority = labels.value_counts(normalize=True).iloc[0]
        return HeldOut(features, float(100 * right.mean()), float(100 * majority))

    def _advisor(self, task: str, track: str, features: FeatureSet) -> RemedyAdvisor:
        """An advisor that has learned from the whole zoo."""
        if (task, track) not in self._advisors:
            sample = self.cases.sample(task, features.track)
            gains = self.cases.gains[task].loc[sample.index]
            columns = list(features.columns[task])
            self._advisors[task, track] = RemedyAdvisor().fit(sample[columns], sample["label"], gains)
        return self._advisors[task, track]


def _complete(
    row: pd.Series, names: Sequence[str], medians: np.ndarray
) -> tuple[dict[str, float], list[str]]:
    """The row's values, a median where there is none, and the names of those."""
    missing = [name for name in names if pd.isna(row[name])]
    stands = dict(zip(names, medians.tolist(), strict=True))
    return {name: stands[name] if name in missing else float(row[name]) for name in names}, missing


def _way(tree: Tree, thresholds: Sequence[float], values: Mapping[str, float]) -> tuple[list[Step], str]:
    """The splits on the way of some values through a structure, and the leaf's label."""
    branch: Tree | str = tree
    steps, place = [], 0
    while isinstance(branch, Tree):
        steps.append(Step(branch.feature, values[branch.feature], thresholds[place]))
        place += 1
        if steps[-1].is_above:
            place += len(list(branch.below.splits())) if isinstance(branch.below, Tree) else 0
            branch = branch.above
        else:
            branch = branch.below
    return steps, branch


def _learned_way(
    tree: DecisionTreeClassifier, names: Sequence[str], values: Mapping[str, float]
) -> tuple[list[Step], str]:
    """The same through a tree of scikit-learn."""
    grown, node, steps = tree.tree_, 0, []
    while grown.children_left[node] >= 0:
        name = names[grown.feature[node]]
        steps.append(Step(name, values[name], float(grown.threshold[node])))
        children = grown.children_right if steps[-1].is_above else grown.children_left
        node = children[node]
    return steps, str(tree.classes_[int(grown.value[node].argmax())])
