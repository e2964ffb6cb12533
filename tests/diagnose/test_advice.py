"""Calibrated remedies, expected gains, and the right to abstain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB

from diagnose import FEATURE_SETS, Cases, random_cells
from diagnose.advice import RemedyAdvisor

KNOWN = ["x"]


def _line(rows: int = 400, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame]:
    """Width helps where x is high, data where it is low; at -1 < x < 1 nothing gains a point."""
    draw = np.random.RandomState(seed)
    x = draw.uniform(-5, 5, rows)
    gains = pd.DataFrame({"width": x, "data": -x, "nothing": 0.0}).clip(lower=0)
    labels = np.select([x >= 1, x <= -1], ["width", "data"], "nothing")
    return pd.DataFrame({"x": x}), labels, gains


def test_the_temperature_undoes_overconfidence() -> None:
    """Five copies of one noisy feature make naive Bayes five times too sure: T is near five, bounded there."""
    draw = np.random.RandomState(0)
    y = draw.choice(["a", "b"], 4_000)
    x = (y == "a") + draw.normal(size=4_000)
    copies = np.repeat(x[:, None], 4, axis=1)
    advisor = RemedyAdvisor(GaussianNB()).fit(copies, y)
    assert advisor.temperature_ == pytest.approx(4, rel=0.15)
    once = GaussianNB().fit(x[:, None], y).predict_proba(x[:, None])
    off = np.abs(advisor.predict_proba(copies) - once)
    assert off.mean() < 0.02 < np.abs(advisor.model_.predict_proba(copies) - once).mean()


def test_a_temperature_changes_no_likeliest_answer_and_few_rows_have_none() -> None:
    X, y, _ = _line()
    advisor = RemedyAdvisor(LogisticRegression()).fit(X, y)
    assert (advisor.predict(X) == LogisticRegression().fit(X, y).predict(X)).all()
    assert advisor.temperature_ != 1
    assert RemedyAdvisor(LogisticRegression()).fit(X[:19], y[:19]).temperature_ == 1


def test_expected_gains_are_regressions_of_the_gains() -> None:
    X, y, _ = _line()
    gains = pd.DataFrame({"width": 2 * X["x"] + 1, "data": -X["x"]})
    advisor = RemedyAdvisor(regressor=LinearRegression()).fit(X, y, gains=gains)
    pd.testing.assert_frame_equal(advisor.expected_gains(X), gains)


def test_deciding_by_gain_takes_the_largest_or_nothing() -> None:
    X, y, gains = _line()
    test, labels, _ = _line(200, seed=1)
    advisor = RemedyAdvisor(DummyClassifier(), decide="gain").fit(X, y, gains=gains)
    sure = (test["x"].abs() - 1).abs() > 0.1
    assert (advisor.predict(test)[sure] == labels[sure]).all()
    for decide in ("probability", "gain"):
        likeliest = RemedyAdvisor(DummyClassifier(), decide=decide).fit(X, y).predict(test)
        assert set(likeliest) == {pd.Series(y).mode()[0]}, "without gains the likeliest is all that is known"


def test_without_nothing_among_the_answers_something_is_always_done() -> None:
    X, y, gains = _line()
    kept = y != "nothing"
    advisor = RemedyAdvisor(decide="gain").fit(X[kept], y[kept], gains=gains.loc[kept, ["width", "data"]])
    assert set(advisor.predict(pd.DataFrame({"x": [0.01, -0.01, 4.0]}))) <= {"width", "data"}


def test_it_abstains_where_the_likeliest_is_not_likely_enough() -> None:
    X, y, _ = _line()
    advisor = RemedyAdvisor(LogisticRegression(), abstain_below=0.8).fit(X, y)
    said, shares = advisor.predict(X), advisor.predict_proba(X).max(axis=1)
    assert [answer is None for answer in said] == (shares < 0.8).tolist()
    assert 0 < np.mean(shares < 0.8) < 1
    right = said == y
    assert right[shares >= 0.8].mean() > (LogisticRegression().fit(X, y).predict(X) == y).mean()


def test_a_missing_feature_is_the_median_and_one_label_is_the_answer() -> None:
    X, y, gains = _line()
    advisor = RemedyAdvisor(decide="gain").fit(X, y, gains=gains)
    missing, median = pd.DataFrame({"x": [np.nan]}), pd.DataFrame({"x": [X["x"].median()]})
    np.testing.assert_allclose(advisor.predict_proba(missing), advisor.predict_proba(median))
    only = RemedyAdvisor().fit(X, np.full(len(y), "data"))
    assert set(only.predict(X)) == {"data"}
    assert only.predict_proba(X).min() == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"decide": "luck"}, r"decide is 'luck'; it must be one of \('probability', 'gain'\)"),
        ({"abstain_below": 1.5}, r"abstain_below is 1.5; it must be in \[0, 1\]"),
    ],
)
def test_wrong_parameters_are_refused(given: dict[str, object], message: str) -> None:
    X, y, _ = _line()
    with pytest.raises(ValueError, match=message):
        RemedyAdvisor(**given).fit(X, y)  # type: ignore[arg-type]


def test_gains_that_were_not_learned_cannot_be_told() -> None:
    X, y, _ = _line()
    with pytest.raises(ValueError, match="was fitted without gains; pass them to fit"):
        RemedyAdvisor().fit(X, y).expected_gains(X)


class _Side(NamedTuple):
    X: pd.DataFrame
    y: np.ndarray
    gains: pd.DataFrame


@pytest.fixture(scope="module")
def clean(authors_cases: Cases) -> list[tuple[_Side, _Side]]:
    """48 random cells of the authors' clean zoo to learn from, and the rest of it, for three draws."""

    def side(config_ids: pd.Index) -> _Side:
        own = sample.loc[config_ids]
        return _Side(own[columns], own["label"].to_numpy(), authors_cases.gains["remedy"].loc[config_ids])

    def sides() -> Iterator[tuple[_Side, _Side]]:
        for split in random_cells(rows, (1000, 1001, 1002), [48]):
            yield side(split.training), side(split.test)

    rows = authors_cases.rows("remedy")
    rows = rows[rows["label_noise"] == 0]
    sample = authors_cases.sample("remedy", "twin")
    columns = [c for c in FEATURE_SETS["all"].columns["remedy"] if sample[c].notna().any()]
    return list(sides())


def _calibration_error(shares: np.ndarray, right: np.ndarray) -> float:
    bins = np.minimum((10 * shares).astype(int), 9)
    return sum(abs((shares - right)[bins == b].sum()) for b in range(10)) / len(right)


def test_on_real_tables_it_is_calibrated_and_knows_the_gains(clean: list[tuple[_Side, _Side]]) -> None:
    raw, scaled, alike, regret = [], [], [], []
    for training, test in clean:
        advisor = RemedyAdvisor(decide="gain").fit(training.X, training.y, gains=training.gains)
        right = advisor.classes_[advisor.predict_proba(test.X).argmax(axis=1)] == test.y
        raw.append(_calibration_error(advisor.model_.predict_proba(test.X.to_numpy()).max(axis=1), right))
        scaled.append(_calibration_error(advisor.predict_proba(test.X).max(axis=1), right))
        told = advisor.expected_gains(test.X)
        alike += [np.corrcoef(told[name], test.gains[name])[0, 1] for name in ("width", "data")]
        gained = test.gains.to_numpy()[
            np.arange(len(told)), told.columns.get_indexer(advisor.predict(test.X))
        ]
        regret.append((test.gains.max(axis=1) - gained).mean())
    assert np.mean(scaled) < 0.05 < np.mean(raw)  # 0.028 and 0.068 measured over four draws
    assert np.mean(alike) > 0.85
    assert np.mean(regret) < 0.3  # 0.19 measured; the mean gain of the best remedy is over 5 points


def test_on_real_tables_those_answered_are_told_better(clean: list[tuple[_Side, _Side]]) -> None:
    training, test = clean[0]
    accuracy, answered = [], []
    for below in (0.0, 0.6, 0.8):
        said = RemedyAdvisor(abstain_below=below).fit(training.X, training.y).predict(test.X)
        told = np.array([answer is not None for answer in said])
        accuracy.append((said[told] == test.y[told]).mean())
        answered.append(told.mean())
    assert accuracy == sorted(accuracy)
    assert accuracy[-1] > accuracy[0] + 0.05
    assert 1 == answered[0] > answered[1] > answered[2] > 0.4
