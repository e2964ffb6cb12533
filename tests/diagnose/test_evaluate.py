"""Diagnosers on protocols: the predictions table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier

from diagnose import DIAGNOSERS, Diagnoser, ZooTables, aggregate, benchmark
from diagnose.features import FEATURE_SETS
from zoo.tables import SCHEMAS, check


class _Oracle(BaseEstimator):
    """Knows the answers by the feature table; or breaks, or answers too little."""

    def __init__(self, trouble: str = "") -> None:
        self.trouble = trouble

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> _Oracle:
        if self.trouble == "fit":
            raise RuntimeError("no way")
        self.seen_ = dict(zip(X.index, y, strict=True))
        return self

    def predict(self, X: pd.DataFrame) -> list[str]:
        assert not set(X.index) & set(self.seen_)
        return ["small"] * (len(X) - (self.trouble == "short"))


def _diagnoser(trouble: str = "", **given: Any) -> Diagnoser:
    return Diagnoser(f"oracle {trouble}", "all", lambda task, seed: _Oracle(trouble), **given)


@pytest.fixture(scope="module")
def predictions(noisy_zoo: ZooTables, clean_zoo: ZooTables) -> pd.DataFrame:
    chosen = [DIAGNOSERS[name] for name in ("majority", "validation_tree", "md_tree_exact")]
    return benchmark({"noisy": noisy_zoo, "clean": clean_zoo}, draws=(42, 90), diagnosers=chosen)


def test_predictions_fit_their_schema(predictions: pd.DataFrame) -> None:
    table = pa.Table.from_pandas(predictions, schema=SCHEMAS["predictions"], preserve_index=False)
    assert check("predictions", table, "the benchmark").num_rows == len(predictions) > 0
    filled = [name for name in table.schema.names if name != "reason"]
    assert [table[name].null_count for name in filled] == [0] * len(filled)


def test_every_diagnoser_answers_the_same_questions(predictions: pd.DataFrame) -> None:
    keys = ["zoo", "training_zoo", "task", "protocol", "level", "draw", "config_id"]
    asked = [part[keys].reset_index(drop=True) for _, part in predictions.groupby("diagnoser")]
    for other in asked[1:]:
        pd.testing.assert_frame_equal(asked[0], other)
    assert not predictions.duplicated([*keys, "diagnoser"]).any()


def test_true_answers_are_the_labels_without_optimal(predictions: pd.DataFrame, noisy_zoo: ZooTables) -> None:
    truth = noisy_zoo.labels.set_index(["config_id", "task"])["label"]
    own = predictions[predictions["zoo"] == "noisy"]
    expected = truth.loc[list(zip(own["config_id"], own["task"], strict=True))]
    assert own["label"].tolist() == expected.tolist()
    assert "optimal" not in set(predictions["label"])


def test_protocols_run_in_each_zoo_and_transfer_between_both(predictions: pd.DataFrame) -> None:
    inside = {"random_cells", "data_amount_limited", "width_limited"}
    found = predictions.groupby(["training_zoo", "zoo"])["protocol"].unique().map(set).to_dict()
    assert found == {
        ("noisy", "noisy"): inside,
        ("clean", "clean"): inside,
        ("noisy", "clean"): {"transfer"},
        ("clean", "noisy"): {"transfer"},
    }


def test_a_tree_learns_the_valley_that_the_zoo_was_made_with(predictions: pd.DataFrame) -> None:
    asked = predictions[(predictions["protocol"] == "transfer") & (predictions["zoo"] == "clean")]
    board = aggregate(asked[asked["task"] == "temperature"]).set_index("diagnoser")["accuracy"]
    assert board["validation_tree"] > board["majority"] + 10


def test_the_same_benchmark_twice_gives_the_same_rows(clean_zoo: ZooTables) -> None:
    names = ("validation_xgboost", "hyperparameter_tree", "md_tree")
    first, second = (
        benchmark({"clean": clean_zoo}, draws=(42,), diagnosers=[DIAGNOSERS[name] for name in names])
        for _ in range(2)
    )
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [("fit", "RuntimeError: no way"), ("short", "ValueError: predict gave the shape")],
)
def test_a_broken_diagnoser_is_a_reason_in_its_rows_and_stops_no_other(
    clean_zoo: ZooTables, trouble: str, reason: str
) -> None:
    majority = DIAGNOSERS["majority"]
    predictions = benchmark({"clean": clean_zoo}, draws=(1,), diagnosers=[_diagnoser(trouble), majority])
    broken = predictions[predictions["diagnoser"] == f"oracle {trouble}"]
    assert broken["predicted"].isna().all()
    assert broken["reason"].str.startswith(reason).all()
    rest = predictions[predictions["diagnoser"] == "majority"]
    assert rest["predicted"].notna().all()
    assert rest["reason"].isna().all()
    assert len(rest) == len(broken) > 0
    pa.Table.from_pandas(predictions, schema=SCHEMAS["predictions"], preserve_index=False)


def test_a_diagnoser_is_asked_only_what_it_answers_and_sees_only_its_features(clean_zoo: ZooTables) -> None:
    seen = []

    class Watching(DummyClassifier):
        def fit(self, X: pd.DataFrame, y: np.ndarray) -> DummyClassifier:
            seen.append(tuple(X.columns))
            return super().fit(X, y)

    own = Diagnoser("own", "hyperparameter", lambda task, seed: Watching(), tasks=("data",))
    predictions = benchmark({"clean": clean_zoo}, draws=(1,), diagnosers=[own])
    assert set(predictions["task"]) == {"data"}
    assert set(seen) == {FEATURE_SETS["hyperparameter"].columns["data"]}


def test_the_draw_is_the_seed_that_a_diagnoser_is_built_with(clean_zoo: ZooTables) -> None:
    seeds = []

    def build(task: str, seed: int) -> DummyClassifier:
        seeds.append(seed)
        return DummyClassifier()

    benchmark({"clean": clean_zoo}, draws=(5, 6), diagnosers=[Diagnoser("own", "none", build)])
    assert set(seeds) == {5, 6}


def test_a_zoo_in_which_nothing_can_be_asked_has_no_predictions(clean_zoo: ZooTables) -> None:
    silent = clean_zoo.labels.assign(label="optimal")
    tables = ZooTables(clean_zoo.configs, clean_zoo.runs, clean_zoo.metrics, silent)
    predictions = benchmark({"clean": tables})
    assert predictions.empty
    assert list(predictions.columns) == SCHEMAS["predictions"].names
