"""Diagnosers on protocols: the predictions table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier
from sklearn.tree import DecisionTreeClassifier

from diagnose import (
    BOTH_DIRECTIONS,
    DIAGNOSERS,
    PROTOCOLS,
    PROTOCOLS_ALL,
    PROTOCOLS_FROM_NOISY,
    Cases,
    Diagnoser,
    ZooTables,
    aggregate,
    benchmark,
    cases_of,
    scores,
)
from diagnose.features import FEATURE_SETS, TASKS, FeatureSet
from zoo.tables import FAILURE_TASKS, REMEDY_TASKS, SCHEMAS, check


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


class _Stubborn(BaseEstimator):
    """Says what no question asks for."""

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> _Stubborn:
        return self

    def predict(self, X: pd.DataFrame) -> list[str]:
        return ["depth"] * len(X)


def _assert_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Equal rows, but for the time they took."""
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), other.drop(columns="seconds"))


def _diagnoser(trouble: str = "", **given: Any) -> Diagnoser:
    return Diagnoser(f"oracle {trouble}", "all", lambda task, seed: _Oracle(trouble), **given)


@pytest.fixture(scope="module")
def predictions(noisy_cases: Cases, clean_cases: Cases) -> pd.DataFrame:
    chosen = [DIAGNOSERS[name] for name in ("majority", "validation_tree", "md_tree_exact")]
    return benchmark({"noisy": noisy_cases, "clean": clean_cases}, draws=(42, 90), diagnosers=chosen)


def test_predictions_fit_their_schema(predictions: pd.DataFrame) -> None:
    table = pa.Table.from_pandas(predictions, schema=SCHEMAS["predictions"], preserve_index=False)
    check("predictions", table.schema, "the benchmark")
    assert table.num_rows == len(predictions) > 0
    filled = [name for name in table.schema.names if name != "reason"]
    assert [table[name].null_count for name in filled] == [0] * len(filled)


def test_every_diagnoser_answers_the_same_questions(predictions: pd.DataFrame) -> None:
    keys = ["zoo", "training_zoo", "task", "protocol", "level", "draw", "config_id"]
    published = predictions[predictions["task"].isin(FAILURE_TASKS)]
    asked = [part[keys].reset_index(drop=True) for _, part in published.groupby("diagnoser", observed=True)]
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
    for tasks, suffix in ((FAILURE_TASKS, ""), (REMEDY_TASKS, "_all")):
        asked = predictions[predictions["task"].isin(tasks)].astype({"protocol": str})
        found = asked.groupby(["training_zoo", "zoo"], observed=True)["protocol"].unique().map(set).to_dict()
        within, across = {f"{name}{suffix}" for name in inside}, {f"transfer{suffix}"}
        assert found == {
            ("noisy", "noisy"): within,
            ("clean", "clean"): within,
            ("noisy", "clean"): across,
            ("clean", "noisy"): across,
        }


def test_a_tree_learns_the_valley_that_the_zoo_was_made_with(predictions: pd.DataFrame) -> None:
    asked = predictions[(predictions["protocol"] == "transfer") & (predictions["zoo"] == "clean")]
    board = aggregate(asked[asked["task"] == "temperature"]).set_index("diagnoser")["accuracy"]
    assert board["validation_tree"] > board["majority"] + 10


def test_the_same_benchmark_twice_gives_the_same_rows(clean_cases: Cases) -> None:
    names = ("validation_xgboost", "hyperparameter_tree", "md_tree")
    first, second = (
        benchmark({"clean": clean_cases}, draws=(42,), diagnosers=[DIAGNOSERS[name] for name in names])
        for _ in range(2)
    )
    _assert_same(first, second)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [("fit", "RuntimeError: no way"), ("short", "ValueError: predict gave the shape")],
)
def test_a_broken_diagnoser_is_a_reason_in_its_rows_and_stops_no_other(
    clean_cases: Cases, trouble: str, reason: str
) -> None:
    majority = DIAGNOSERS["majority"]
    predictions = benchmark({"clean": clean_cases}, draws=(1,), diagnosers=[_diagnoser(trouble), majority])
    broken = predictions[predictions["diagnoser"] == f"oracle {trouble}"]
    assert broken["predicted"].isna().all()
    assert broken["reason"].str.startswith(reason).all()
    rest = predictions[predictions["diagnoser"] == "majority"]
    assert rest["predicted"].notna().all()
    assert rest["reason"].isna().all()
    assert len(rest) == len(broken) > 0
    pa.Table.from_pandas(predictions, schema=SCHEMAS["predictions"], preserve_index=False)


def test_a_diagnoser_is_asked_only_what_it_answers_and_sees_only_its_features(clean_cases: Cases) -> None:
    seen = []

    class Watching(DummyClassifier):
        def fit(self, X: pd.DataFrame, y: np.ndarray) -> DummyClassifier:
            seen.append(tuple(X.columns))
            return super().fit(X, y)

    own = Diagnoser("own", "hyperparameter", lambda task, seed: Watching(), tasks=("data",))
    predictions = benchmark({"clean": clean_cases}, draws=(1,), diagnosers=[own])
    assert set(predictions["task"]) == {"data"}
    assert set(seen) == {FEATURE_SETS["hyperparameter"].columns["data"]}


def test_the_draw_is_the_seed_that_a_diagnoser_is_built_with(clean_cases: Cases) -> None:
    seeds = []

    def build(task: str, seed: int) -> DummyClassifier:
        seeds.append(seed)
        return DummyClassifier()

    benchmark({"clean": clean_cases}, draws=(5, 6), diagnosers=[Diagnoser("own", "none", build)])
    assert set(seeds) == {5, 6}


def test_a_zoo_in_which_nothing_can_be_asked_has_no_predictions(clean_zoo: ZooTables) -> None:
    silent = clean_zoo.labels.assign(label="optimal")
    tables = replace(clean_zoo, labels=silent)
    predictions = benchmark({"clean": cases_of(tables)})
    assert predictions.empty
    assert list(predictions.columns) == SCHEMAS["predictions"].names


def _tree() -> DecisionTreeClassifier:
    return DecisionTreeClassifier(max_depth=3, random_state=0)


def _counting(built: list[int], seeded: bool) -> Diagnoser:
    def build(task: str, seed: int) -> DummyClassifier:
        built.append(seed)
        return DummyClassifier()

    return Diagnoser("own", "none", build, tasks=("width",), seeded=seeded)


def test_what_draws_nothing_is_run_once_for_draws_that_select_the_same(clean_cases: Cases) -> None:
    once: list[int] = []
    each: list[int] = []
    rows, others = (
        benchmark({"clean": clean_cases}, draws=3, diagnosers=[_counting(built, seeded)])
        for built, seeded in ((once, False), (each, True))
    )
    _assert_same(rows, others)
    cells = rows.groupby(["protocol", "level", "draw"], observed=True)["config_id"].agg(tuple).reset_index()
    assert len(each) == len(cells)
    assert len(once) == len(cells[["protocol", "level", "config_id"]].drop_duplicates()) < len(each)
    assert set(rows["draw"]) == {42, 90, 38}


def test_what_is_run_once_answers_as_if_it_were_run_each_time(noisy_cases: Cases) -> None:
    """All its splits diagnose the same configurations, having learned from others."""
    once, each = (
        benchmark(
            {"noisy": noisy_cases},
            draws=2,
            diagnosers=[Diagnoser("own", "validation", lambda task, seed: _tree(), seeded=seeded)],
        )
        for seeded in (False, True)
    )
    _assert_same(once, each)


def test_all_zoos_but_one_are_learned_from_where_there_are_three(
    noisy_zoo: ZooTables, clean_zoo: ZooTables
) -> None:
    zoos = {}
    for name, zoo in (("a", clean_zoo), ("b", clean_zoo), ("c", noisy_zoo)):
        tables = [
            t.assign(config_id=name + t["config_id"])
            for t in (zoo.configs, zoo.runs, zoo.metrics, zoo.labels)
        ]
        zoos[name] = cases_of(ZooTables(tables[0].assign(dataset=name), *tables[1:]))
    chosen = [DIAGNOSERS["validation_tree"]]
    predictions = benchmark(zoos, draws=(42,), diagnosers=chosen)
    left_out = predictions[predictions["protocol"] == "leave_one_data_set_out"]
    assert set(zip(left_out["training_zoo"], left_out["zoo"], strict=True)) == {
        ("a+b", "c"),
        ("a+c", "b"),
        ("b+c", "a"),
    }
    asked = left_out[left_out["task"] == "temperature"]
    for _, board in asked.groupby("zoo", observed=True):
        assert aggregate(board)["accuracy"].min() > 60
    assert left_out["predicted"].notna().all()


def test_a_feature_that_the_table_lacks_is_named(clean_cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    own = FeatureSet("own", "single", dict.fromkeys(TASKS, ("train_error", "noise_scale")))
    monkeypatch.setitem(FEATURE_SETS, "own", own)
    diagnoser = Diagnoser("own", "own", lambda task, seed: DummyClassifier())
    predictions = benchmark({"clean": clean_cases}, draws=(1,), diagnosers=[diagnoser])
    assert set(predictions["reason"]) == {
        "ValueError: the feature table lacks ['noise_scale'], which the set 'own' reads"
    }


def test_an_answer_that_is_none_of_the_labels_is_kept_and_wrong(clean_cases: Cases) -> None:
    strange = Diagnoser("own", "none", lambda task, seed: _Stubborn())
    predictions = benchmark({"clean": clean_cases}, draws=(1,), diagnosers=[strange])
    assert set(predictions["predicted"]) == {"depth"}
    assert scores(predictions)["accuracy"].max() == 0


def test_both_directions_run_where_they_are_asked_for(noisy_zoo: ZooTables, noisy_cases: Cases) -> None:
    chosen = [DIAGNOSERS["majority"]]
    predictions = benchmark(
        {"noisy": noisy_cases}, draws=(1,), diagnosers=chosen, protocols=[BOTH_DIRECTIONS]
    )
    noise = noisy_zoo.configs.set_index("config_id")["label_noise"].loc[predictions["config_id"]]
    back = predictions["protocol"].str.endswith("_from_noisy")
    published = predictions["task"].isin(FAILURE_TASKS).to_numpy()
    assert set(predictions["protocol"][published]) == set(PROTOCOLS | PROTOCOLS_FROM_NOISY)
    assert set(predictions["protocol"][~published]) == set(PROTOCOLS_ALL)
    assert ((noise.to_numpy() == 0) == back)[published].all()
