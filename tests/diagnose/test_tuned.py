"""Learners tuned inside the training side: what is chosen, and how small a side may be."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.tree import DecisionTreeClassifier

from diagnose.tuned import TUNED, BoostedTrees, Tuned


def _halves(rows: int, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first of three features tells the answer, but for some of the rows."""
    draw = np.random.RandomState(seed)
    X = draw.rand(rows, 3)
    flipped = draw.rand(rows) < noise
    return X, np.where((X[:, 0] > 0.5) ^ flipped, "large", "small")


@pytest.mark.parametrize("name", TUNED)
def test_each_method_learns_what_one_feature_tells(name: str) -> None:
    X, y = _halves(120)
    test, true = _halves(300, seed=1)
    learned = TUNED[name]().fit(X, y)
    assert (learned.predict(test) == true).mean() > 0.9
    shares = learned.predict_proba(test)
    assert shares.sum(axis=1) == pytest.approx(np.ones(300), abs=1e-6)
    assert (learned.classes_[shares.argmax(axis=1)] == true).mean() > 0.9


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize("labels", ["aaaaa", "aaaab", "aabbb", "aabcd", "ab", "a"])
def test_the_smallest_training_sides_are_enough(name: str, labels: str) -> None:
    X, y = np.random.RandomState(1).rand(len(labels), 2), np.array(list(labels))
    learned = TUNED[name]().fit(X, y)
    assert set(learned.predict(X)) <= set(labels)
    assert learned.predict_proba(X).shape == (len(labels), len(set(labels)))
    if len(set(labels)) == 1:
        assert set(learned.predict(np.random.RandomState(2).rand(9, 2))) == {"a"}
    assert (learned.scores_ == []) == (
        min(labels.count(label) for label in labels) < 2 or len(set(labels)) == 1
    )


def test_the_best_out_of_fold_is_chosen_and_the_first_of_equals() -> None:
    X, y = _halves(90, noise=0.25)
    stump, deep, idle = (
        DecisionTreeClassifier(max_depth=1),
        DecisionTreeClassifier(random_state=0),
        DummyClassifier(),
    )
    learned = Tuned([idle, deep, stump, DecisionTreeClassifier(max_depth=1)]).fit(X, y)
    assert learned.best_.get_params() == stump.get_params()
    assert np.argmax(learned.scores_) == 2
    assert learned.scores_[2] == learned.scores_[3] > learned.scores_[1]
    assert DecisionTreeClassifier(random_state=0).fit(X, y).score(X, y) == 1  # in the fold it would win


def test_candidates_are_left_unfitted() -> None:
    X, y = _halves(30)
    stump = DecisionTreeClassifier(max_depth=1)
    Tuned([stump, DecisionTreeClassifier(max_depth=2)]).fit(X, y)
    assert not hasattr(stump, "tree_")


def test_a_random_forest_is_judged_by_the_rows_left_out_of_its_bags() -> None:
    X, y = _halves(90, noise=0.25)
    learned = TUNED["random_forest"]().fit(X, y)
    assert learned.best_.oob_score_ * 100 == pytest.approx(max(learned.scores_))
    assert learned.best_.min_samples_leaf == (1, 3)[int(np.argmax(learned.scores_))]


def test_boosting_takes_its_rounds_and_depth() -> None:
    X, y = _halves(60)
    learned = BoostedTrees(n_estimators=7, max_depth=1).fit(X, y)
    trees = learned.model_.get_booster().trees_to_dataframe()
    assert trees["Tree"].nunique() == 7
    assert trees.groupby("Tree").size().max() <= 3
    assert learned.classes_[learned.predict_proba(X).argmax(axis=1)].tolist() == learned.predict(X).tolist()
