"""Entries of a board, their intervals, the ranks over many boards, and the page and pictures of it all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scikit_posthocs import posthoc_nemenyi_friedman

from diagnose import aggregate, markdown, rankings
from diagnose.board_charts import cost_chart, interval_chart, size_chart
from diagnose.board_plots import rank_plot
from diagnose.intervals import interval, resampled_means
from diagnose.rankings import accuracies
from zoo.tables import check, from_frame

Make = Callable[..., pd.DataFrame]


def _simulated(stream: np.random.Generator, draws: int, rows: int) -> np.ndarray:
    """Right or wrong at a rate that varies with the draw and with the configuration around 70%."""
    rate = 0.7 + stream.normal(0, 0.05, (draws, 1)) + stream.normal(0, 0.1, (1, rows))
    return 100.0 * (stream.random((draws, rows)) < rate)


def test_the_interval_covers_the_true_accuracy() -> None:
    """A little too often, as Owen proves: the part of the variance that is neither's own is counted thrice."""
    stream = np.random.default_rng(0)
    covered, widths, means = 0, [], []
    for repeat in range(100):
        matrix = _simulated(stream, 50, 400)
        low, high = interval(resampled_means({"x": matrix}, seed=repeat)["x"])
        covered += low <= 70 <= high
        widths.append(high - low)
        means.append(matrix.mean())
    assert covered >= 92
    assert np.mean(widths) < 1.5 * 2 * 1.96 * np.std(means)


def test_a_paired_difference_is_known_better_than_either_accuracy() -> None:
    stream = np.random.default_rng(1)
    one = _simulated(stream, 20, 200)
    other = np.where(stream.random(one.shape) < 0.05, 100.0, one)
    means = resampled_means({"one": one, "other": other})
    low, high = interval(means["other"] - means["one"])
    assert 0 < low < other.mean() - one.mean() < high
    widths = [np.subtract(*interval(means[name])[::-1]) for name in ("one", "other")]
    assert high - low < min(widths) / 3


def test_where_all_draws_are_one_only_configurations_vary() -> None:
    stream = np.random.default_rng(2)
    row = 100.0 * (stream.random((1, 400)) < 0.8)
    once, often = (resampled_means({"x": m})["x"].std() for m in (row, np.repeat(row, 30, axis=0)))
    expected = row.std() / np.sqrt(row.size)
    assert once == pytest.approx(expected, rel=0.1)
    assert often == pytest.approx(expected, rel=0.1)


def test_what_was_not_asked_does_not_count() -> None:
    matrix = np.array([[100.0, np.nan, 100.0], [100.0, 100.0, np.nan]])
    means = resampled_means({"x": matrix})["x"]
    assert np.isnan(means).mean() < 0.2  # a resample may have asked nothing
    assert np.allclose(means[~np.isnan(means)], 100)
    assert interval(means) == (100, 100)
    assert np.isnan(interval(np.full(5, np.nan))).all()


@pytest.fixture
def board(said: Make) -> pd.DataFrame:
    """Two draws in which x has 100 and 50, y 50 and 50, and z fails."""
    labels = ["a", "a", "b", "b"]
    parts = [
        said(labels, answers, diagnoser=name, draw=draw)
        for name, draw, answers in (
            ("x", 1, labels),
            ("x", 2, ["a"] * 4),
            ("y", 1, ["b"] * 4),
            ("y", 2, ["a"] * 4),
            ("z", 1, [None] * 4),
            ("z", 2, [None] * 4),
        )
    ]
    return pd.concat(parts)


def test_an_entry_is_the_mean_over_the_draws_against_another(board: pd.DataFrame) -> None:
    table = aggregate(board, release="mine-1 (abc)", versus="y")
    check("leaderboard", from_frame("leaderboard", table).schema, "it")
    table = table.set_index("diagnoser")
    assert table["accuracy"].to_dict() == {"x": 75, "y": 50, "z": 0}
    assert table["spread"]["x"] == pytest.approx(np.std([100, 50], ddof=1))
    assert table["difference"].to_dict() == pytest.approx({"x": 25, "y": np.nan, "z": -50}, nan_ok=True)
    assert (table["low"] <= table["accuracy"]).all()
    assert (table["high"] >= table["accuracy"]).all()
    assert set(table["release"]) == {"mine-1 (abc)"}
    assert table["draws"].to_list() == [2, 2, 2]


def test_the_order_of_rows_changes_nothing(board: pd.DataFrame) -> None:
    shuffled = board.sample(frac=1, random_state=0)
    one, other = (
        aggregate(rows, versus="y").set_index("diagnoser").sort_index() for rows in (board, shuffled)
    )
    pd.testing.assert_frame_equal(one, other)


def test_costs_stand_beside_each_entry(board: pd.DataFrame) -> None:
    costs = pd.DataFrame(
        {"features": ["validation"], "track": ["single"], "models": [1.0], "sample_passes": [70.0]}
    ).set_index("features")
    assert set(aggregate(board, costs)["sample_passes"]) == {70.0}
    assert aggregate(board)["sample_passes"].isna().all()


def test_several_boards_are_refused(board: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="takes the predictions of one board; these are of 2"):
        aggregate(pd.concat([board, board.assign(level=2)]))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """A leaderboard of three tasks and twelve boards: `best` always wins, `worst` never, two are much alike."""
    stream = np.random.default_rng(0)
    rows = []
    for task, level in ((t, n) for t in ("temperature", "width", "data") for n in (1, 2, 4, 8)):
        for name, mean in (("best", 90), ("one", 75), ("other", 75), ("worst", 50), ("seer", 99)):
            accuracy = mean + level + stream.uniform(-2, 2)
            rows.append(
                {
                    "zoo": "made",
                    "training_zoo": "made",
                    "task": task,
                    "protocol": "random_cells",
                    "level": level,
                    "diagnoser": name,
                    "features": "grid_point" if name == "seer" else "validation",
                    "track": "hidden" if name == "seer" else "single",
                    "accuracy": accuracy,
                    "low": accuracy - 2,
                    "high": accuracy + 2,
                    "versus": None if name == "one" else "one",
                    "difference": accuracy - 75,
                    "difference_low": accuracy - 77,
                    "difference_high": accuracy - 73,
                    "models": 1.0,
                    "sample_passes": {"best": 9_000.0, "one": 100.0}.get(name, 0.0),
                    "training_rows": 12.0 * level,
                    "test_rows": 100.0,
                }
            )
    return from_frame("leaderboard", pd.DataFrame(rows)).to_pandas()


@pytest.fixture(scope="module")
def ranked(table: pd.DataFrame) -> pd.DataFrame:
    return rankings(table)


def test_ranks_wins_and_ratings(ranked: pd.DataFrame) -> None:
    check("rankings", from_frame("rankings", ranked).schema, "it")
    assert "seer" not in set(ranked["diagnoser"])
    assert ranked["task"].isna().sum() == 4
    whole = ranked[ranked["task"].isna()].set_index("diagnoser")
    assert whole["boards"].to_list() == [12] * 4
    assert (whole.loc["best", "mean_rank"], whole.loc["worst", "mean_rank"]) == (1, 4)
    assert (whole.loc["best", "win_rate"], whole.loc["worst", "win_rate"]) == (100, 0)
    assert whole.index[0] == "best"
    assert whole["elo"].mean() == pytest.approx(1000, abs=1e-6)
    assert (whole["elo_low"] <= whole["elo"]).all()
    assert (whole["elo"] <= whole["elo_high"]).all()
    assert whole["elo"].between(0, 2000).all()


def test_the_rating_of_three_wins_in_four() -> None:
    """With the board on which both are equal 3.5 of 5: 400 log10(7/3) points apart."""
    rows = [
        {"zoo": "z", "training_zoo": "z", "task": "width", "protocol": "p", "level": level, "diagnoser": name}
        | {"features": "validation", "track": "single", "accuracy": float(accuracy)}
        for level, pair in enumerate([(9, 8), (7, 5), (6, 1), (2, 3)])
        for name, accuracy in zip("xy", pair, strict=True)
    ]
    elo = rankings(from_frame("leaderboard", pd.DataFrame(rows)).to_pandas()).set_index("diagnoser")["elo"]
    assert elo["x"] - elo["y"] == pytest.approx(400 * np.log10(3.5 / 1.5), abs=0.1)


def test_those_that_share_a_letter_do_not_differ(table: pd.DataFrame, ranked: pd.DataFrame) -> None:
    whole = ranked[ranked["task"].isna()].set_index("diagnoser")["cliques"]
    wide = table[table["track"] != "hidden"].pivot_table("accuracy", ["task", "level"], "diagnoser")
    differ = posthoc_nemenyi_friedman(wide.reset_index(drop=True)) < 0.05
    for one in whole.index:
        for other in whole.index:
            assert bool(set(whole[one]) & set(whole[other])) == (not differ.loc[one, other])
    assert not set(whole["best"]) & set(whole["worst"])
    assert set(whole["one"]) & set(whole["other"])


def test_the_page_has_every_board_and_marks_the_best_that_sees_nothing_hidden(
    table: pd.DataFrame, ranked: pd.DataFrame
) -> None:
    page = markdown(table, ranked)
    assert "Selections: 12 boards of no release." in page
    for task in ("temperature", "width", "data"):
        assert f"## made, {task}\n" in page
    cell = table.query("task == 'width' and level == 4 and diagnoser == 'best'").iloc[0]
    assert f"**{cell['accuracy']:.1f}** [{cell['low']:.1f}, {cell['high']:.1f}]" in page
    seer = table.query("diagnoser == 'seer'")["accuracy"]
    assert not any(f"**{accuracy:.1f}**" in page for accuracy in seer)
    assert "The published questions of all zoos" in page


def test_a_diagram_of_critical_differences(table: pd.DataFrame) -> None:
    own = table[table["task"] == "temperature"]
    figure = rank_plot(accuracies(own), "made, temperature")
    words = {text.get_text().split(" ")[0].strip("()") for text in figure.axes[0].texts}
    assert set(own["diagnoser"]) <= words | {t.get_text().split(" ")[-1] for t in figure.axes[0].texts}


def test_charts_hold_what_the_table_holds(table: pd.DataFrame) -> None:
    own = table[(table["task"] == "temperature") & (table["protocol"] == "random_cells")]
    for spec in (size_chart(own), interval_chart(own)):
        (rows,) = spec["datasets"].values()
        assert {row["diagnoser"] for row in rows} == set(own["diagnoser"])
    shown = set(own.loc[own["track"] != "hidden", "diagnoser"])
    front, every, *_ = (
        cost_chart(own)["datasets"][layer["data"]["name"]] for layer in cost_chart(own)["layer"]
    )
    assert {row["diagnoser"] for row in every} == shown
    for point in every:
        better = [
            row for row in front if row["cost"] <= point["cost"] and row["accuracy"] >= point["accuracy"]
        ]
        assert better, "each point is on the front or below it"
    (rows,) = size_chart(own)["datasets"].values()
    assert len(rows) == len(own)
    assert {round(row["accuracy"], 6) for row in rows} == set(own["accuracy"].round(6))
