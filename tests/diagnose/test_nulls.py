"""Nulls and bad input: each diagnoser of the whole board keeps its stated policy, and names what it lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from diagnose import FEATURE_SETS, Diagnoser, full_board
from diagnose.baselines import MEDIANS

BOARD = {diagnoser.name: diagnoser for diagnoser in full_board()}
READERS = [name for name, diagnoser in BOARD.items() if diagnoser.features != "none"]
SEED = 42

every_diagnoser = pytest.mark.parametrize("name", BOARD)
every_reader = pytest.mark.parametrize("name", READERS)
Fitted = Callable[..., Any]


def _columns(diagnoser: Diagnoser) -> list[str]:
    return list(FEATURE_SETS[diagnoser.features].columns["temperature"])


def _samples(diagnoser: Diagnoser, rows: int = 40, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Noise in the units of a zoo, of which the first feature, whatever it is, tells half of the answers."""
    draw = np.random.RandomState(seed)
    ranges = {"train_error": (0, 1), "mode_connectivity_peak": (-28, -2), "hessian_t": (5, 8), "CKA": (0, 1)}
    X = pd.DataFrame(
        {name: draw.uniform(*ranges.get(name, (0, 9)), size=rows) for name in _columns(diagnoser)},
        index=range(rows),
    )
    y = draw.choice(["small", "large"], rows)
    if len(X.columns):
        told = draw.rand(rows) < 0.5
        y[told] = np.where(X.iloc[:, 0] < X.iloc[:, 0].median(), "small", "large")[told]
    return X, y


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    """Name of a diagnoser -> it, fitted to `_samples`, once."""
    kept: dict[str, Any] = {}

    def fit(name: str) -> Any:
        if name not in kept:
            X, y = _samples(BOARD[name])
            kept[name] = BOARD[name].build("temperature", SEED).fit(X, y)
        return kept[name]

    return fit


def _answers(name: str, X: pd.DataFrame, y: np.ndarray, test: pd.DataFrame) -> list[str]:
    answers: list[str] = BOARD[name].build("temperature", SEED).fit(X, y).predict(test).tolist()
    return answers


@every_diagnoser
def test_the_policy_is_stated(name: str) -> None:
    assert BOARD[name].nulls == MEDIANS


@every_reader
def test_a_null_on_the_training_side_is_the_median_of_the_others_there(name: str) -> None:
    X, y = _samples(BOARD[name])
    test, _ = _samples(BOARD[name], seed=1)
    holes = X.mask(np.random.RandomState(2).rand(*X.shape) < 0.3)
    assert holes.isna().to_numpy().any()
    assert _answers(name, holes, y, test) == _answers(name, holes.fillna(holes.median()), y, test)


@every_reader
def test_a_null_on_the_test_side_alone_is_the_median_of_the_training_side(name: str, fitted: Fitted) -> None:
    X, _ = _samples(BOARD[name])
    test, _ = _samples(BOARD[name], seed=1)
    test += 2 * test.std()  # so that its own medians are others
    holes = test.mask(np.random.RandomState(3).rand(*test.shape) < 0.5)
    said = fitted(name).predict(holes).tolist()
    assert said == fitted(name).predict(holes.fillna(X.median())).tolist()


@every_reader
@pytest.mark.parametrize("place", [0, -1])
def test_a_feature_that_is_null_on_the_whole_training_side_is_a_constant(name: str, place: int) -> None:
    """What the test side has of it is read; its nulls there are that constant, 0."""
    X, y = _samples(BOARD[name])
    empty = X.columns[place]
    test, _ = _samples(BOARD[name], seed=1)
    test.loc[:19, empty] = np.nan
    expected = _answers(name, X.assign(**{empty: 0.0}), y, test.fillna(0.0))
    assert _answers(name, X.assign(**{empty: np.nan}), y, test) == expected


@every_diagnoser
def test_one_class_is_the_only_answer_but_of_md_trees(name: str) -> None:
    X, _ = _samples(BOARD[name])
    test, _ = _samples(BOARD[name], seed=1)
    said = set(_answers(name, X, np.array(["large"] * len(X)), test))
    if name.startswith("md_tree"):
        assert "large" in said  # bounded: it cannot give up its prior
        assert said <= {"small", "large"}
    else:
        assert said == {"large"}


@every_diagnoser
def test_a_label_that_the_training_side_does_not_show_is_just_wrong(name: str, fitted: Fitted) -> None:
    test, _ = _samples(BOARD[name], seed=1)
    said = fitted(name).predict(test)
    unseen = np.array(said, dtype=object)
    unseen[:10] = "neither"
    assert fitted(name).score(test, unseen) == 0.75
    assert set(said) <= {"small", "large"}


@every_reader
def test_a_feature_that_is_not_there_is_named(name: str, fitted: Fitted) -> None:
    test, _ = _samples(BOARD[name], seed=1)
    read = {"train_error", "CKA"} if name == "md_gp" else {test.columns[0], test.columns[-1]}
    for absent in read:
        if name.startswith("md_tree") and absent not in fitted(name).tree_.features():
            continue
        with pytest.raises(ValueError, match=absent):
            fitted(name).predict(test.rename(columns={absent: "another"}))


@pytest.mark.parametrize("name", [name for name in BOARD if name.startswith("md_tree")])
def test_md_trees_name_what_the_training_side_lacks(name: str) -> None:
    X, y = _samples(BOARD[name])
    with pytest.raises(ValueError, match=r"X lacks the columns \['hessian_t'\]"):
        BOARD[name].build("temperature", SEED).fit(X.drop(columns="hessian_t"), y)
