"""Pictures of a leaderboard: accuracy against cost, accuracy against training size, critical differences."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from diagnose.leaderboard import ENTRY
from diagnose.rankings import accuracies

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRACKS = {"single": "#1b7837", "twin": "#2166ac", "hidden": "#999999"}
"""Colours of the tracks."""

CURVES = 6
"""Diagnosers shown in a picture of curves: the best, and whom they are compared with."""

_SIZE = 9  # points of small text


def plots(leaderboard: pd.DataFrame, rankings: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
    """All pictures of a leaderboard.

    Args:
        leaderboard: Rows of the table `leaderboard`.
        rankings: Rows of the table `rankings`.

    Yields:
        Names, and the bytes of PNG files: `cost_<zoo>_<task>` where costs are known, `size_<zoo>_<task>_<protocol>`,
        `ranks_<zoo>_<task>`.
    """
    within = leaderboard[leaderboard["zoo"] == leaderboard["training_zoo"]]
    for (zoo, task), part in within.groupby(["zoo", "task"], sort=False):
        if part["sample_passes"].notna().any():
            yield f"cost_{zoo}_{task}", _png(cost_plot(part))
        for protocol, board in part.groupby("protocol", sort=False):
            if board["level"].nunique() > 1:
                yield f"size_{zoo}_{task}_{protocol}", _png(size_plot(board))
    for (zoo, task), ranked in rankings.groupby(["zoo", "task"], sort=False):
        own = leaderboard[leaderboard["diagnoser"].isin(ranked["diagnoser"])]
        if len(ranked) > 2 and ranked["boards"].iloc[0] > 1:
            wide = accuracies(own[(own["zoo"] == zoo) & (own["task"] == task)])
            yield f"ranks_{zoo}_{task}", _png(rank_plot(wide, f"{zoo}, {task}"))


def cost_plot(board: pd.DataFrame) -> Figure:
    """Mean accuracy of each diagnoser over its boards against the sample passes that its features take.

    The line joins those that no cheaper one equals; hidden hyperparameters are left out.
    """
    figure, ax = _figure((8, 5))
    shown = board[board["track"] != "hidden"]
    points = shown.groupby(ENTRY, sort=False)[["accuracy", "sample_passes"]].mean().reset_index()
    points["cost"] = points["sample_passes"].fillna(0) + 1
    for track, own in points.groupby("track", sort=False):
        ax.scatter(own["cost"], own["accuracy"], color=TRACKS[str(track)], label=track, zorder=3)
    front = _front(points)
    ax.step(front["cost"], front["accuracy"], where="post", color="0.6", linewidth=1, zorder=1)
    ax.set_xscale("log")
    for cost in points["cost"].unique():
        _labels(ax, float(cost), points[points["cost"] == cost].sort_values("accuracy"))
    ax.set_xlim(0.5, 40 * float(points["cost"].max()))
    ax.set(
        xlabel="sample passes that the features of a configuration take, plus 1",
        ylabel="accuracy (%), mean over the boards",
        title=_title(board),
    )
    ax.legend(title="track", frameon=False)
    return figure


def size_plot(board: pd.DataFrame) -> Figure:
    """Accuracy against the level of a protocol with 95% intervals: the best diagnosers, and the compared one."""
    figure, ax = _figure((8, 5))
    means = board[board["track"] != "hidden"].groupby("diagnoser")["accuracy"].mean()
    names = list(means.sort_values(ascending=False).index[:CURVES])
    names += [name for name in board["versus"].dropna().unique() if name not in names]
    for place, name in enumerate(names):
        rows = board[board["diagnoser"] == name].sort_values("level")
        shift = 1 + 0.015 * (place - len(names) / 2)
        spans = np.abs(rows[["low", "high"]].to_numpy().T - rows["accuracy"].to_numpy())
        ax.errorbar(
            rows["level"] * shift,
            rows["accuracy"],
            yerr=spans,
            marker="o",
            markersize=4,
            capsize=2,
            label=name,
        )
    ax.set_xscale("log")
    levels = sorted(board["level"].unique())
    ax.set_xticks(levels, [f"{level:,}" for level in levels])
    ax.minorticks_off()
    ax.set(
        xlabel="level of the protocol: how much is learned from", ylabel="accuracy (%)", title=_title(board)
    )
    ax.legend(frameon=False, fontsize=_SIZE, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def rank_plot(wide: pd.DataFrame, title: str) -> Figure:
    """The critical-difference diagram of Demšar (JMLR 2006): mean ranks, and bars over those that are alike.

    Args:
        wide: Accuracy by board and diagnoser, from `diagnose.rankings.accuracies`.
        title: Of the picture.
    """
    from scikit_posthocs import critical_difference_diagram, posthoc_nemenyi_friedman

    ranks = wide.rank(axis="columns", ascending=False).mean()
    figure, ax = _figure((9, 1.5 + 0.22 * len(ranks)))
    alike = posthoc_nemenyi_friedman(wide.reset_index(drop=True))
    critical_difference_diagram(ranks, alike, ax=ax, label_props={"fontsize": _SIZE})
    ax.set_title(f"Mean rank over {len(wide)} boards: {title}", fontsize=11, pad=28)
    return figure


def _front(points: pd.DataFrame) -> pd.DataFrame:
    """Those that no cheaper one equals."""
    ordered = points.sort_values(["cost", "accuracy"], ascending=[True, False])
    before = ordered["accuracy"].cummax().shift(fill_value=-np.inf)
    return ordered[ordered["accuracy"] > before]


def _labels(ax: Axes, cost: float, column: pd.DataFrame) -> None:
    """Names beside the points of one cost, moved apart where they would lie on one another."""
    low, high = ax.get_ylim()
    least, height = (high - low) / 34, -np.inf
    for name, accuracy in zip(column["diagnoser"], column["accuracy"], strict=True):
        height = max(accuracy, height + least)
        ax.annotate(
            name,
            (cost, accuracy),
            xytext=(cost * 1.25, height),
            fontsize=7,
            va="center",
            arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.5},
        )


def _title(board: pd.DataFrame) -> str:
    protocols = board["protocol"].unique()
    named = f", {protocols[0]}" if len(protocols) == 1 else ""
    return f"{board['zoo'].iloc[0]}, {board['task'].iloc[0]}{named}"


def _figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=120)
    return sink.getvalue()


def file_name(name: str) -> str:
    """A name of a picture as a file's."""
    return re.sub(r"[^\w.-]", "-", name) + ".png"
