"""The leaderboard: accuracy of each diagnoser on each protocol, as a table and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from diagnose.features import FEATURE_SETS
from zoo.tables import SCHEMAS

_BOARD = ["zoo", "training_zoo", "task", "protocol"]
_ENTRY = ["diagnoser", "features", "track"]

LEGEND = (
    "Percent of the test configurations diagnosed correctly: mean over the draws ± their standard deviation; "
    "the best of a column in bold, of those that see no hidden hyperparameters. A column is a level of its "
    "protocol (cells drawn, the largest data amount or width learned from, or zoos learned from), with the "
    "configurations: learned from → diagnosed."
)


def aggregate(predictions: pd.DataFrame) -> pd.DataFrame:
    """Accuracy over the draws.

    A prediction that is null counts as wrong: a diagnoser that fails gains nothing by it.

    Args:
        predictions: Rows of the table `predictions`.

    Returns:
        Rows of the table `leaderboard`, in the order in which the predictions came; accuracy (mean) and
        spread (standard deviation, with n - 1; null for one draw) in percent.
    """
    keys = [*_BOARD, "level", *_ENTRY]
    scored = predictions.assign(
        accuracy=100.0 * (predictions["predicted"] == predictions["label"]).fillna(False).astype(bool)
    )
    per_draw = scored.groupby([*keys, "draw"], sort=False, as_index=False).agg(
        accuracy=("accuracy", "mean"),
        training_rows=("training_rows", "first"),
        test_rows=("config_id", "size"),
        package_version=("package_version", "first"),
    )
    board = per_draw.groupby(keys, sort=False, as_index=False).agg(
        accuracy=("accuracy", "mean"),
        spread=("accuracy", "std"),
        draws=("draw", "size"),
        training_rows=("training_rows", "mean"),
        test_rows=("test_rows", "mean"),
        package_version=("package_version", "first"),
    )
    return board[SCHEMAS["leaderboard"].names]


def markdown(leaderboard: pd.DataFrame, costs: pd.DataFrame | None = None) -> str:
    """The leaderboard as Markdown: what the features cost, then a table a protocol, a row a diagnoser.

    Diagnosers are sorted by their mean over the levels, best first. One of the track `hidden` is never the
    best: it sees what the diagnosis is about.

    Args:
        leaderboard: Rows of the table `leaderboard`.
        costs: From `feature_costs`; None shows only how many trained models a set takes at least.
    """
    lines = ["# Leaderboard", "", LEGEND, "", *_costs(list(leaderboard["features"].unique()), costs), ""]
    for (zoo, learned, task), part in leaderboard.groupby(_BOARD[:3], sort=False):
        lines += [f"## {zoo}, {task}" + ("" if zoo == learned else f" (learned from {learned})"), ""]
        for protocol, board in part.groupby("protocol", sort=False):
            lines += [f"### {protocol}", "", *_table(board), ""]
    return "\n".join(lines)


def _costs(names: list[str], costs: pd.DataFrame | None) -> Iterator[str]:
    """The lines of the table of feature sets."""
    yield _line(["features", "track", "trained models", "sample passes"])
    yield _line(["---", "---", "---:", "---:"])
    for name in names:
        if costs is not None and name in costs.index:
            track, models, passes = costs.loc[name, ["track", "models", "sample_passes"]]
            yield _line([name, str(track), f"{models:g}", f"{passes:,.0f}"])
        elif name in FEATURE_SETS:
            yield _line([name, FEATURE_SETS[name].track, f"at least {FEATURE_SETS[name].models}", ""])


def _table(board: pd.DataFrame) -> Iterator[str]:
    """The lines of one protocol's table."""
    sizes = board.groupby("level")[["training_rows", "test_rows"]].first()
    head = [f"{level:,} ({a:.0f} → {b:.0f})" for level, a, b in sizes.itertuples()]
    yield _line(["diagnoser", "features", "track", *head])
    yield _line(["---"] * 3 + ["---:"] * len(head))
    scores = board.pivot(index=_ENTRY, columns="level", values="accuracy").round(1)
    spreads = board.pivot(index=_ENTRY, columns="level", values="spread")
    best = scores[scores.index.get_level_values("track") != "hidden"].max()
    for entry in scores.mean(axis=1).sort_values(ascending=False, kind="stable").index:
        cells = [str(part) for part in entry] + [
            _cell(*numbers) for numbers in zip(scores.loc[entry], spreads.loc[entry], best, strict=True)
        ]
        yield _line(cells)


def _cell(score: float, spread: float, best: float) -> str:
    if pd.isna(score):
        return ""
    number = f"**{score:.1f}**" if score == best else f"{score:.1f}"
    return number if pd.isna(spread) else f"{number} ± {spread:.1f}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
