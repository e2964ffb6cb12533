"""The critical-difference diagram of a leaderboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = 9  # points of small text


def rank_plot(wide: pd.DataFrame, title: str) -> Figure:
    """The critical-difference diagram of Demšar (JMLR 2006): mean ranks, and bars over those that are alike.

    Args:
        wide: Accuracy by board and diagnoser, from `diagnose.rankings.accuracies`.
        title: Of the picture.
    """
    from matplotlib.figure import Figure as Canvas
    from scikit_posthocs import critical_difference_diagram, posthoc_nemenyi_friedman

    ranks = wide.rank(axis="columns", ascending=False).mean()
    figure = Canvas(figsize=(9, 1.5 + 0.22 * len(ranks)), layout="constrained")
    ax = figure.subplots()
    alike = posthoc_nemenyi_friedman(wide.reset_index(drop=True))
    critical_difference_diagram(ranks, alike, ax=ax, label_props={"fontsize": _SIZE})
    ax.set_title(f"Mean rank over {len(wide)} boards: {title}", fontsize=11, pad=28)
    return figure
