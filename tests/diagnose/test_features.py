"""The feature table: means over runs and pairs, logarithms, aliases, and what is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from diagnose import FEATURE_SETS, ZooTables, feature_costs, feature_table
from diagnose.features import CONFIG_COLUMNS, METRICS, RUN_COLUMNS, TASKS, TRACKS
from zoo.tables import REMEDY_TASKS

Make = Callable[..., Any]


@pytest.fixture
def tables(config_row: Make, run_row: Make, frame: Make) -> Callable[[list[dict[str, Any]]], pd.DataFrame]:
    """Metric rows -> the feature table of one configuration with two finished runs and a diverged one."""
    config = config_row(parameters=50, learning_rate=0.5)
    name = config["config_id"]
    runs = [
        run_row(
            name, 0, train_error=1, train_loss=0.1, validation_error=10, validation_loss=1, test_error=60
        ),
        run_row(
            name, 1, train_error=3, train_loss=0.3, validation_error=20, validation_loss=2, test_error=80
        ),
        run_row(name, 2, "diverged", train_error=90, validation_error=90, test_error=90),
    ]
    shared = {"config_id": name, "run_id": f"{name}-0", "recipe": "default", "split": "train", "step": 7}

    def table(metrics: list[dict[str, Any]], recipe: str = "default", track: str = "twin") -> pd.DataFrame:
        rows = [shared | {"other_run_id": None} | metric for metric in metrics]
        configs = frame("configs", [config])
        return feature_table(configs, frame("runs", runs), frame("metrics", rows), recipe, track).loc[name]

    return table


def _metric(metric: str, value: float | None, **given: Any) -> dict[str, Any]:
    return {"metric": metric, "value": value, **given}


def test_features_of_runs_are_means_over_the_finished_ones(tables: Make) -> None:
    row = tables([])
    assert (row["train_error"], row["validation_error"], row["validation_loss"]) == (2, 15, 1.5)
    assert row["train_loss"] == pytest.approx(0.2)


def test_test_features_read_the_validation_half(tables: Make) -> None:
    """Labels read the other half; its error of 70 percent must be nowhere among the features."""
    row = tables([])
    assert (row["test_error"], row["test_loss"]) == (15, 1.5)
    assert 70 not in row.tolist()


def test_some_metrics_are_features_on_either_side(tables: Make) -> None:
    sides = [_metric("overconfidence", 0.1), _metric("overconfidence", 0.3, split="validation")]
    row = tables(
        [
            *sides,
            _metric("margin_normalised", 5, split="validation"),
            _metric("spectral_alpha", 3, split=None),
        ]
    )
    assert (row["overconfidence"], row["validation_overconfidence"], row["spectral_alpha"]) == (0.1, 0.3, 3)
    assert row[["margin_normalised", "validation_margin_scaled"]].isna().all()


def test_logarithms_are_natural(tables: Make) -> None:
    row = tables([])
    expected = {"log_data_amount": 100, "log_para_amount": 50, "log_bs": 8, "log_learning_rate": 0.5}
    for name, value in expected.items():
        assert row[name] == pytest.approx(np.log(value))


def test_hessian_features_are_the_log_of_the_mean_not_the_mean_of_the_logs(tables: Make) -> None:
    row = tables([_metric(m, v) for m, v in [("hessian_trace", 2), ("hessian_trace", 6)]])
    assert row["hessian_t"] == pytest.approx(np.log(4))
    assert np.isnan(row["hessian_e"])


def test_the_log_of_a_negative_trace_is_missing(tables: Make) -> None:
    row = tables([_metric("hessian_trace", -3)])
    assert row["hessian_trace"] == -3
    assert np.isnan(row["hessian_t"])


def test_metrics_of_pairs_are_means_of_what_could_be_had(tables: Make) -> None:
    pairs = [_metric("cka", v, other_run_id="x") for v in (0.2, 0.4)]
    row = tables([*pairs, _metric("cka", None, other_run_id="y", reason="diverged")])
    assert row["CKA"] == row["cka"] == pytest.approx(0.3)


def test_a_metric_that_could_not_be_had_at_all_is_missing(tables: Make) -> None:
    row = tables([_metric("cka", None, reason="one_run"), _metric("agreement", 0.5)])
    assert np.isnan(row["CKA"])
    assert row["agreement"] == 0.5


def test_metrics_are_those_of_the_training_images_or_of_none(tables: Make) -> None:
    row = tables(
        [
            _metric("mode_connectivity", -5),
            _metric("mode_connectivity", -50, split="test"),
            _metric("mode_connectivity", -70, split="validation"),
            _metric("l2_distance", 3, split=None),
        ]
    )
    assert (row["mode_connectivity"], row["l2_distance"]) == (-5, 3)


def test_metrics_are_those_of_one_recipe_at_its_last_step(tables: Make) -> None:
    rows = [
        _metric("agreement", 0.1, step=3),
        _metric("agreement", 0.2, step=7),
        _metric("agreement", 0.3, step=9, recipe="paper"),
    ]
    assert tables(rows)["agreement"] == 0.2
    assert tables(rows, "paper")["agreement"] == 0.3


def test_a_recipe_that_was_not_measured_is_refused(tables: Make) -> None:
    with pytest.raises(ValueError, match=r"no metrics of recipe 'paper'.*\['default'\]"):
        tables([_metric("cka", 1)], "paper")


def test_every_feature_of_every_set_is_a_column(noisy_zoo: ZooTables) -> None:
    table = feature_table(noisy_zoo.configs, noisy_zoo.runs, noisy_zoo.metrics)
    for feature_set in FEATURE_SETS.values():
        for columns in feature_set.columns.values():
            assert table[list(columns)].notna().to_numpy().all()
    assert table.index.tolist() == noisy_zoo.configs["config_id"].tolist()


@pytest.fixture
def one_and_all(config_row: Make, run_row: Make, frame: Make) -> dict[str, pd.DataFrame]:
    """The tables by track of two configurations.

    Of a: a diverged run of seed 0, runs of seeds 5 and 2, listed in that order, and a pair. Of b: no run that
    is done.
    """
    configs = [config_row(parameters=50, learning_rate=rate) for rate in (0.1, 0.2)]
    a, b = (row["config_id"] for row in configs)
    errors = dict.fromkeys(("train_error", "train_loss", "validation_error", "validation_loss"))
    runs = [
        run_row(a, 0, "diverged", **dict.fromkeys(errors, 99)),
        run_row(a, 5, **dict.fromkeys(errors, 7)),
        run_row(a, 2, **dict.fromkeys(errors, 3)),
        run_row(b, 0, "failed"),
    ]

    def row(seed: int, metric: str, value: float | None, other: int | None = None, **given: Any) -> Any:
        names = {"run_id": f"{a}-{seed}", "other_run_id": None if other is None else f"{a}-{other}"}
        shared = {"config_id": a, "recipe": "default", "split": "train", "step": 7}
        return shared | names | {"metric": metric, "value": value} | given

    metrics = [
        row(5, "hessian_trace", 1),
        row(2, "hessian_trace", 9),
        row(2, "hessian_trace", 77, step=3),
        row(2, "hessian_trace", 55, recipe="paper"),
        row(2, "hessian_trace", 33, split="validation"),
        row(5, "hessian_top_eigenvalue", 4),
        row(2, "hessian_top_eigenvalue", None, reason="not_finite"),
        row(2, "cka", 0.5, other=5, split=None),
        row(2, "mode_connectivity_peak", -3, other=5),
        row(2, "l2_distance", 0, other=2, reason="one_run"),  # a pair that has no twin is one still
    ]
    tables = frame("configs", configs), frame("runs", runs), frame("metrics", metrics)
    return {track: feature_table(*tables, track=track) for track in TRACKS}


def test_the_single_track_shows_the_finished_run_with_the_smallest_seed(
    one_and_all: dict[str, pd.DataFrame],
) -> None:
    single = one_and_all["single"].iloc[0]
    assert [single[name] for name in ("train_error", "train_loss", "test_error", "test_loss")] == [3] * 4
    assert single["hessian_trace"] == 9
    assert single["hessian_t"] == pytest.approx(np.log(9))
    assert single["log_para_amount"] == pytest.approx(np.log(50))


def test_the_single_track_shows_nothing_of_a_pair_and_no_other_run_for_a_null(
    one_and_all: dict[str, pd.DataFrame],
) -> None:
    single = one_and_all["single"].iloc[0]
    assert single[["cka", "CKA", "mode_connectivity_peak", "l2_distance"]].isna().all()
    assert single[["hessian_top_eigenvalue", "hessian_e"]].isna().all()


@pytest.mark.parametrize("track", ["twin", "hidden"])
def test_the_other_tracks_show_means_over_runs_and_pairs(
    one_and_all: dict[str, pd.DataFrame], track: str
) -> None:
    row = one_and_all[track].iloc[0]
    assert (row["train_error"], row["test_loss"]) == (5, 5)
    assert (row["hessian_trace"], row["hessian_top_eigenvalue"]) == (5, 4)
    assert (row["CKA"], row["mode_connectivity_peak"], row["l2_distance"]) == (0.5, -3, 0)


def test_without_a_finished_run_there_are_settings_alone(one_and_all: dict[str, pd.DataFrame]) -> None:
    for table in one_and_all.values():
        row = table.iloc[1]
        assert row[list(CONFIG_COLUMNS)].notna().all()
        assert row[[*RUN_COLUMNS, *METRICS, "hessian_t", "CKA", "test_error"]].isna().all()


def test_all_tracks_have_the_same_rows_and_columns(one_and_all: dict[str, pd.DataFrame]) -> None:
    shown = {track: (table.index.tolist(), table.columns.tolist()) for track, table in one_and_all.items()}
    assert shown["single"] == shown["twin"] == shown["hidden"]


def test_a_track_that_does_not_exist_is_refused(tables: Make) -> None:
    with pytest.raises(
        ValueError, match=r"track is 'both'; it must be one of \('single', 'twin', 'hidden'\)"
    ):
        tables([], track="both")


def test_a_recipe_of_pairs_alone_is_measured_on_the_single_track_too(tables: Make) -> None:
    """What is refused is a recipe that the zoo lacks, not a checkpoint without metrics."""
    rows = [_metric("cka", 0.5, other_run_id="x"), _metric("hessian_trace", 2, recipe="paper")]
    row = tables(rows, track="single")
    assert row[["cka", "hessian_trace"]].isna().all()


def test_remedies_are_asked_of_the_same_sets_and_the_hyperparameters_whole() -> None:
    for name, feature_set in FEATURE_SETS.items():
        assert tuple(feature_set.columns) == TASKS
        whole = FEATURE_SETS["hyperparameter_complete"] if name == "hyperparameter" else feature_set
        for task in REMEDY_TASKS:
            assert feature_set.columns[task] == whole.columns["temperature"]


def test_published_sets_stand_in_the_published_order_and_hide_the_temperature() -> None:
    landscape = ("train_error", "mode_connectivity_peak", "CKA", "hessian_t")
    assert FEATURE_SETS["landscape"].columns["temperature"] == landscape
    validation = ("train_error", "train_loss", "test_loss", "test_error")
    assert FEATURE_SETS["validation"].columns["data"] == validation
    hyperparameter = FEATURE_SETS["hyperparameter"].columns
    assert hyperparameter["temperature"] == ("log_data_amount", "log_para_amount")
    assert (hyperparameter["width"], hyperparameter["data"]) == (("log_data_amount",), ("log_para_amount",))
    open_sets = [s for s in FEATURE_SETS.values() if s.track != "hidden"]
    assert [s.name for s in FEATURE_SETS.values() if s not in open_sets] == ["grid_point"]
    seen = {column for s in open_sets for columns in s.columns.values() for column in columns}
    assert not seen & {"log_bs", "log_batch_size", "batch_size", "learning_rate", "log_learning_rate"}


def test_what_takes_several_runs_is_on_the_twin_track() -> None:
    twin = {"mode_connectivity", "mode_connectivity_peak", "CKA", "agreement", "l2_distance"}
    for feature_set in (s for s in FEATURE_SETS.values() if s.track != "hidden"):
        needs_twins = any(twin & set(columns) for columns in feature_set.columns.values())
        assert feature_set.track == ("twin" if needs_twins else "single")


def test_a_set_says_how_many_models_it_takes_and_what_it_is_made_of() -> None:
    models = {name: feature_set.models for name, feature_set in FEATURE_SETS.items()}
    assert {name for name, number in models.items() if number == 2} == {
        "landscape",
        "landscape_parameters",
        "all",
    }
    assert {name for name, number in models.items() if number == 1} == {
        "validation",
        "single_checkpoint",
        "checkpoint_landscape",
    }
    assert FEATURE_SETS["landscape_parameters"].sources == {
        "train_error",
        "mode_connectivity_peak",
        "cka",
        "hessian_trace",
        "parameters",
    }


def _spent(run: str, other: str | None, metric: str, passes: float | None, **given: Any) -> dict[str, Any]:
    row = {"config_id": run[0], "run_id": run, "other_run_id": other, "metric": metric, "recipe": "default"}
    return row | {"step": 1, "split": "train", "value": 1.0, "sample_passes": passes} | given


def test_cost_counts_shared_work_once_twins_altogether_and_one_checkpoint_alone(
    frame: Make, run_row: Make
) -> None:
    """Of a: two runs at 10 and 16, their pair's curve 100 (read four times) and similarity 7; of b: one at 40.

    The single track reads run a-0, the smallest seed, and b-1, the only one that is done.
    """
    curve = [
        _spent("a-0", "a-1", metric, 100, split=split)
        for metric in ("mode_connectivity", "mode_connectivity_peak")
        for split in ("train", "validation")
    ]
    alike = [_spent("a-0", "a-1", metric, 7) for metric in ("cka", "agreement")]
    lone_pair = [_spent("b-1", "b-1", "cka", None, reason="one_run")]
    traces = (("a-0", 10), ("a-1", 16), ("b-1", 40))
    alone = [_spent(run, None, "hessian_trace", n) for run, n in traces]
    alone += [_spent("a-1", None, "hessian_top_eigenvalue", 500)]
    foreign = [_spent("a-0", None, "hessian_trace", 9_000, recipe="paper")]
    runs = [run_row("a", 1), run_row("a", 0), run_row("b", 0, "diverged"), run_row("b", 1)]
    metrics = frame("metrics", [*curve, *alike, *lone_pair, *alone, *foreign])
    costs = feature_costs(frame("runs", runs), metrics)
    cost = {name: (row["models"], row["sample_passes"]) for name, row in costs.iterrows()}
    assert cost["landscape"] == (1.5, (26 + 100 + 7 + 40) / 2)
    assert cost["all"] == (1.5, (26 + 100 + 7 + 500 + 40) / 2)
    assert cost["single_checkpoint"] == (1, (10 + 40) / 2)
    assert cost["validation"] == (1, 0)
    assert cost["hyperparameter"] == cost["grid_point"] == (0, 0)
    assert costs["track"].to_dict() == {name: s.track for name, s in FEATURE_SETS.items()}


def test_a_zoo_without_metrics_costs_its_models_alone(frame: Make, run_row: Make) -> None:
    costs = feature_costs(frame("runs", [run_row("a", 0)]), frame("metrics", []))
    assert costs["sample_passes"].tolist() == [0.0] * len(FEATURE_SETS)
    assert costs.loc["all", "models"] == 1
