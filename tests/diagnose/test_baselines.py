"""The diagnosers and their registry."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.dummy import DummyClassifier

from diagnose import DIAGNOSERS, FEATURE_SETS, Diagnoser, full_board, register
from diagnose.baselines import BASELINE_SETS, BoostedTrees
from diagnose.tuned import TUNED
from zoo.tables import REMEDY_TASKS

ANSWERS = {
    "temperature": ("small", "large"),
    "width": ("width", "batch"),
    "data": ("data", "batch"),
    **dict.fromkeys(REMEDY_TASKS, ("labels", "nothing")),
}


def _samples(diagnoser: Diagnoser, task: str, rows: int = 60) -> tuple[pd.DataFrame, np.ndarray]:
    """Features of which each tells the answer alone, in the units of a zoo."""
    columns = list(FEATURE_SETS[diagnoser.features].columns[task])
    first = np.arange(rows) % 3 == 0
    shift = {"train_error": (0, 20), "mode_connectivity_peak": (-28, -2), "hessian_t": (5, 8)}
    draw = np.random.RandomState(0)
    data = {c: np.where(first, *shift.get(c, (0, 9))) + 0.1 * draw.rand(rows) for c in columns}
    return pd.DataFrame(data, index=range(rows)), np.where(first, *ANSWERS[task])


BOARD = {diagnoser.name: diagnoser for diagnoser in full_board()}
ASKED = [(name, task) for name, diagnoser in BOARD.items() for task in diagnoser.tasks]


@pytest.mark.parametrize(("name", "task"), [(name, task) for name, task in ASKED if name in DIAGNOSERS])
def test_each_learns_what_each_of_its_features_tells(name: str, task: str) -> None:
    if name == "majority":
        pytest.skip("it reads no feature")
    diagnoser = DIAGNOSERS[name]
    X, y = _samples(diagnoser, task)
    assert (diagnoser.build(task, 42).fit(X, y).predict(X) == y).mean() > 0.9


@pytest.mark.parametrize("name", DIAGNOSERS)
def test_each_handles_missing_values_and_a_single_class(name: str) -> None:
    diagnoser = DIAGNOSERS[name]
    X, y = _samples(diagnoser, "temperature")
    holes = X.mask(np.random.RandomState(1).rand(*X.shape) < 0.3)
    holes.iloc[:, :1] = np.nan  # one of the features could not be had at all
    assert set(diagnoser.build("temperature", 42).fit(holes, y).predict(holes)) <= {"small", "large"}
    alone = diagnoser.build("temperature", 42).fit(X, ["large"] * len(X)).predict(X)
    if name.startswith("md_tree"):
        assert (alone == "large").mean() > 0.4  # bounded: it cannot give up its prior
    else:
        assert set(alone) == {"large"}


def test_majority_is_the_most_frequent_answer() -> None:
    X, y = _samples(DIAGNOSERS["majority"], "width")
    assert X.shape[1] == 0
    assert set(DIAGNOSERS["majority"].build("width", 1).fit(X, y).predict(X)) == {"batch"}


def test_baseline_trees_are_gini_trees_of_depth_four_with_the_seed_of_the_draw() -> None:
    for name in (
        "hyperparameter_tree",
        "hyperparameter_complete_tree",
        "validation_tree",
        "landscape_tree",
    ):
        tree = DIAGNOSERS[name].build("temperature", 38)[-1]
        assert (tree.criterion, tree.max_depth, tree.random_state) == ("gini", 4, 38)


def test_boosting_is_the_same_twice() -> None:
    draw = np.random.RandomState(0)
    X, y = draw.rand(80, 4), draw.choice(["small", "large"], 80)
    first, second = (clone(BoostedTrees(random_state=3)).fit(X, y).predict(X) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_boosting_without_xgboost_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(
        ImportError, match=r"xgboost is not installed; install it with: pip install 'mdzoo\[boost\]'"
    ):
        BoostedTrees().fit([[0], [1]], ["a", "b"])


def test_track_is_that_of_the_features() -> None:
    chosen = ("validation_tree", "single_checkpoint_logistic", "md_tree", "copied_label")
    by_name = {diagnoser.name: diagnoser for diagnoser in full_board()}
    assert [by_name[name].track for name in chosen] == ["single", "single", "twin", "hidden"]


def _build(task: str, seed: int) -> Any:
    return DummyClassifier()


def test_a_users_own_diagnoser_is_registered_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diagnose.baselines.DIAGNOSERS", registry := dict(DIAGNOSERS))
    own = register(Diagnoser("own", "all", _build))
    assert registry["own"] is own
    assert "own" not in DIAGNOSERS
    with pytest.raises(ValueError, match="already registered as 'own'"):
        register(own)


@pytest.mark.parametrize(
    ("diagnoser", "message"),
    [
        (
            Diagnoser("own", "weights", _build),
            r"own reads the feature set 'weights'; it must be one of \['none'",
        ),
        (
            Diagnoser("own", "all", _build, ("noise",)),
            r"own answers the tasks \['noise'\]; they must be among",
        ),
    ],
)
def test_what_does_not_exist_cannot_be_asked_for(diagnoser: Diagnoser, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        register(diagnoser)


def test_the_policy_on_nulls_is_stated_and_kept() -> None:
    """A hole is what the median of the training side would have been there."""
    for name, diagnoser in DIAGNOSERS.items():
        assert diagnoser.nulls == "median of the training side"
        X, y = _samples(diagnoser, "width")
        holes = X.mask(np.random.RandomState(2).rand(*X.shape) < 0.2)
        filled = holes.fillna(holes.median())
        first, second = (
            diagnoser.build("width", 1).fit(table, y).predict(table) for table in (holes, filled)
        )
        assert first.tolist() == second.tolist(), name


def test_what_does_not_draw_answers_alike_with_any_seed() -> None:
    for name, diagnoser in DIAGNOSERS.items():
        if not diagnoser.seeded:
            X, y = _samples(diagnoser, "data")
            y = np.random.RandomState(5).permutation(y)
            answers = [diagnoser.build("data", seed).fit(X, y).predict(X).tolist() for seed in (1, 2)]
            assert answers[0] == answers[1], name


def test_the_whole_board_has_every_method_on_every_set_once() -> None:
    board = full_board()
    names = [diagnoser.name for diagnoser in board]
    assert len(set(names)) == len(names)
    assert set(DIAGNOSERS) < set(names)
    assert {f"{features}_{method}" for features in BASELINE_SETS for method in TUNED} <= set(names)
    reads = {d.name: d.features for d in board}
    assert reads["hyperparameter_logistic"] == "hyperparameter_complete"
    assert reads["single_checkpoint_extra_trees"] == "single_checkpoint"


def test_the_parameter_stump_asks_one_question_of_the_parameter_count() -> None:
    diagnoser = DIAGNOSERS["parameter_stump"]
    assert FEATURE_SETS[diagnoser.features].columns["width"] == ("log_para_amount",)
    X = pd.DataFrame({"log_para_amount": [1.0, 2, 3, 4, 5, 6]})
    answers = diagnoser.build("width", 1).fit(X, list("wwbbww")).predict(X)
    assert answers.tolist() in (list("wwwwww"), list("bbbbww"), list("wwbbbb"))


def test_untrained_thresholds_are_the_published_starts_whatever_they_are_shown() -> None:
    X, y = _samples(DIAGNOSERS["md_tree_untrained"], "data")
    tree = DIAGNOSERS["md_tree_untrained"].build("data", 1).fit(X, y[::-1])
    assert tree.thresholds_.tolist() == [0.5, -10, 7, 7, -10, 7]


def test_the_copied_label_is_that_of_the_same_grid_point_or_the_nearest() -> None:
    columns = list(FEATURE_SETS["grid_point"].columns["temperature"])
    grid = pd.DataFrame(
        [[8.0, 9.0, batch, rate] for batch in (2.0, 3.0, 4.0) for rate in (-2.0, -1.0)], columns=columns
    )
    y = np.array(list("abcdef"))
    copied = DIAGNOSERS["copied_label"].build("temperature", 1).fit(grid, y)
    order = [3, 0, 5, 1]
    assert copied.predict(grid.iloc[order]).tolist() == y[order].tolist()
    near = pd.DataFrame([[8.0, 9.0, 3.9, -1.1]], columns=columns)
    assert copied.predict(near).tolist() == ["f"]
