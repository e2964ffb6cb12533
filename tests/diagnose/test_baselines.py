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
from diagnose.features import TASKS
from diagnose.tuned import TUNED
from zoo.tables import FAILURE_TASKS, REMEDIES, REMEDY_TASKS

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


LEARNERS = [diagnoser for diagnoser in DIAGNOSERS.values() if diagnoser.features != "none"]


@pytest.mark.parametrize(("name", "task"), [(d.name, task) for d in LEARNERS for task in d.tasks])
def test_each_learns_what_each_of_its_features_tells(name: str, task: str) -> None:
    diagnoser = DIAGNOSERS[name]
    X, y = _samples(diagnoser, task)
    assert (diagnoser.build(task, 42).fit(X, y).predict(X) == y).mean() > 0.9


def test_every_method_but_md_trees_and_advisors_answers_every_question() -> None:
    own = {"md": FAILURE_TASKS, "advisor": REMEDY_TASKS}
    for diagnoser in full_board():
        assert diagnoser.tasks == own.get(diagnoser.name.partition("_")[0], TASKS)
    assert sum(diagnoser.tasks == FAILURE_TASKS for diagnoser in DIAGNOSERS.values()) == 6
    assert Diagnoser("own", "all", _build).tasks == TASKS


@pytest.mark.parametrize(
    "name", ["copied_label", "landscape_tree", "validation_logistic", "landscape_xgboost"]
)
def test_six_remedies_are_told_apart(name: str) -> None:
    diagnoser = DIAGNOSERS[name]
    columns = list(FEATURE_SETS[diagnoser.features].columns["remedy"])
    place = np.arange(72) % 6
    draw = np.random.RandomState(0)
    X = pd.DataFrame({c: (place if i == 0 else 0) + 0.1 * draw.rand(72) for i, c in enumerate(columns)})
    y = np.array(REMEDIES)[place]
    assert (diagnoser.build("remedy", 1).fit(X, y).predict(X) == y).mean() > 0.9


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
