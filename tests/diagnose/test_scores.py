"""Scores of one selection, against scikit-learn and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, log_loss

from diagnose import scores
from zoo.tables import SCHEMAS

Make = Callable[..., pd.DataFrame]


def test_scores_equal_those_of_scikit_learn(said: Make) -> None:
    draw = np.random.RandomState(0)
    labels = draw.choice(["small", "large"], 200, p=[0.3, 0.7])
    small = draw.rand(200)
    predicted = np.where(small > 0.5, "small", "large")
    own = np.where(labels == "small", small, 1 - small)
    rows = said(labels, predicted, probability=np.maximum(small, 1 - small), label_probability=own)
    (row,) = scores(rows).to_dict("records")
    assert row["accuracy"] == pytest.approx(100 * (labels == predicted).mean())
    assert row["balanced_accuracy"] == pytest.approx(100 * balanced_accuracy_score(labels, predicted))
    assert row["log_loss"] == pytest.approx(
        log_loss(labels == "small", small, labels=[False, True]), rel=1e-9
    )
    assert list(row) == SCHEMAS["scores"].names


def test_calibration_error_by_hand(said: Make) -> None:
    """Three answers at 0.95, two right; two at 0.6, one right: (3 |0.95 - 2/3| + 2 |0.6 - 1/2|) / 5."""
    rows = said(["a", "a", "b", "a", "b"], ["a"] * 5, probability=[0.95, 0.95, 0.95, 0.6, 0.6])
    expected = 100 * (3 * abs(0.95 - 2 / 3) + 2 * abs(0.6 - 0.5)) / 5
    assert scores(rows)["calibration_error"].iloc[0] == pytest.approx(expected)


def test_a_calibrated_diagnoser_has_little_calibration_error(said: Make) -> None:
    draw = np.random.RandomState(0)
    probability = draw.uniform(0.5, 1, 20_000)
    right = draw.rand(20_000) < probability
    rows = said(["a"] * 20_000, np.where(right, "a", "b"), probability=probability)
    assert scores(rows)["calibration_error"].iloc[0] < 1.5
    off = said(["a"] * 20_000, np.where(right, "a", "b"), probability=np.minimum(probability + 0.2, 1))
    assert scores(off)["calibration_error"].iloc[0] > 10


def test_an_answer_withheld_is_wrong_and_told(said: Make) -> None:
    rows = said(["a", "a", "a", "b"], ["a", None, None, "b"], regret=[0.0, 2.0, 4.0, 0.0])
    (row,) = scores(rows).to_dict("records")
    assert (row["accuracy"], row["answered"], row["regret"]) == (50, 50, 1.5)
    assert np.isnan(row["log_loss"])
    assert np.isnan(row["calibration_error"])


def test_clear_and_ambiguous_cases_are_scored_apart(said: Make) -> None:
    rows = said(["a"] * 4, ["a", "a", "b", "b"], clear=[True, True, True, False])
    (row,) = scores(rows).to_dict("records")
    assert row["accuracy_clear"] == pytest.approx(200 / 3)
    assert row["accuracy_ambiguous"] == 0
    assert np.isnan(scores(said(["a"], ["a"], clear=[True]))["accuracy_ambiguous"].iloc[0])


def test_an_impossible_truth_costs_a_finite_loss(said: Make) -> None:
    rows = said(["a"], ["b"], label_probability=[0.0])
    assert scores(rows)["log_loss"].iloc[0] == pytest.approx(-np.log(1e-6))


def test_each_draw_and_diagnoser_has_its_row(said: Make) -> None:
    parts: list[Any] = [
        said(["a", "b"], answers, diagnoser=name, draw=draw)
        for name, draw, answers in (("x", 1, ["a", "b"]), ("x", 2, ["a", "a"]), ("y", 1, ["b", "b"]))
    ]
    table = scores(pd.concat(parts)).set_index(["diagnoser", "draw"])["accuracy"]
    assert table.to_dict() == {("x", 1): 100, ("x", 2): 50, ("y", 1): 50}
