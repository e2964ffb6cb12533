"""Protocols: from which configurations a diagnoser may learn, and which it must diagnose.

It learns from configurations with clean labels. It diagnoses those with label noise, if the zoo has any (the
published transfer between data sets), and otherwise the clean ones left out. Rows whose answer is `optimal`
are dropped before anything is drawn, as published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

PUBLISHED_DRAWS = (42, 90, 38, 18, 72)
"""Seeds of the published draws (Zhou et al., ICML 2024, as in the authors' code)."""

CELL = ("data_amount", "width")


@dataclass(frozen=True, eq=False)
class Split:
    """One selection of training and test configurations, neither empty, none on both sides.

    Attributes:
        protocol: Name of the protocol.
        level: Size of the training side: number of cells, or the limit itself.
        draw: Seed of the draw, and of a diagnoser that draws.
        training: `config_id` of the configurations learned from.
        test: `config_id` of those diagnosed.
    """

    protocol: str
    level: int
    draw: int
    training: pd.Index
    test: pd.Index


def answered(configs: pd.DataFrame, labels: pd.DataFrame, task: str) -> pd.DataFrame:
    """The configurations whose answer to a task is not `optimal`.

    Args:
        configs: Rows of the table `configs`.
        labels: Rows of the table `labels`.
        task: One of `FAILURE_TASKS`.

    Returns:
        Columns data_amount, width, label_noise and label, indexed by `config_id`.
    """
    answers = labels[(labels["task"] == task) & (labels["label"] != "optimal")].set_index("config_id")[
        "label"
    ]
    settings = configs.set_index("config_id")[[*CELL, "label_noise"]]
    return settings.join(answers, how="inner")


def random_cells(
    rows: pd.DataFrame,
    draws: Sequence[int] = PUBLISHED_DRAWS,
    levels: Sequence[int] | None = None,
    axes: Sequence[str] = CELL,
) -> Iterator[Split]:
    """Learn from all configurations in some random cells of the grid.

    The cells are drawn as published: by numpy's legacy `choice` without replacement from the list of cells
    that hold clean rows, data amounts in the outer loop and widths in the inner, both ascending.

    Args:
        rows: From `answered`.
        draws: Seeds.
        levels: Numbers of cells; None takes 1, 2, 4, ... up to all.
        axes: What makes a cell; the published variants draw by `("data_amount",)` or `("width",)` alone.

    Raises:
        ValueError: If a level exceeds the number of cells.
    """
    cells = _clean(rows)[list(axes)].drop_duplicates().sort_values(list(axes))
    counts = [2**power for power in range(len(cells).bit_length())] if levels is None else levels
    if len(counts) and max(counts) > len(cells):
        raise ValueError(
            f"level {max(counts)} exceeds the {len(cells)} cells of the training side; ask for fewer"
        )
    protocol = "random_cells" if tuple(axes) == CELL else "random_" + "_".join(axes)
    places = pd.MultiIndex.from_frame(rows[list(axes)])
    for level in counts:
        for draw in draws:
            drawn = np.random.RandomState(draw).choice(len(cells), size=level, replace=False)
            learned = places.isin(pd.MultiIndex.from_frame(cells.iloc[drawn]))
            yield from _split(protocol, level, draw, rows, learned)


def limited(
    rows: pd.DataFrame, axis: str, draws: Sequence[int] = PUBLISHED_DRAWS, levels: Sequence[int] | None = None
) -> Iterator[Split]:
    """Learn from the small end of an axis: all configurations at or below a limit.

    Args:
        rows: From `answered`.
        axis: `data_amount` or `width`.
        draws: Seeds of the diagnosers; the selection is the same for all.
        levels: Limits; None takes every value of the axis.
    """
    limits = np.unique(_clean(rows)[axis]).tolist() if levels is None else levels
    for limit in limits:
        for draw in draws:
            yield from _split(f"{axis}_limited", limit, draw, rows, (rows[axis] <= limit).to_numpy())


def transfer(
    training: pd.DataFrame, test: pd.DataFrame, draws: Sequence[int] = PUBLISHED_DRAWS
) -> Iterator[Split]:
    """Learn from all clean configurations of one zoo and diagnose all of another.

    Args:
        training: From `answered` of the zoo to learn from.
        test: From `answered` of the other; a configuration that both zoos hold is not diagnosed.
        draws: Seeds of the diagnosers; the selection is the same for all.
    """
    clean = _clean(training)
    others = test.index.difference(clean.index, sort=False)
    for draw in draws:
        if len(clean) and len(others):
            yield Split("transfer", len(clean[list(CELL)].drop_duplicates()), draw, clean.index, others)


def _by_amount(rows: pd.DataFrame, draws: Sequence[int]) -> Iterator[Split]:
    return limited(rows, "data_amount", draws)


def _by_width(rows: pd.DataFrame, draws: Sequence[int]) -> Iterator[Split]:
    return limited(rows, "width", draws)


PROTOCOLS: Mapping[str, Callable[[pd.DataFrame, Sequence[int]], Iterator[Split]]] = {
    "random_cells": random_cells,
    "data_amount_limited": _by_amount,
    "width_limited": _by_width,
}
"""The protocols within one zoo, by name."""


def _clean(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["label_noise"] == 0]


def _split(protocol: str, level: int, draw: int, rows: pd.DataFrame, learned: np.ndarray) -> Iterator[Split]:
    """The split, unless one of its sides is empty."""
    clean = (rows["label_noise"] == 0).to_numpy()
    test = ~clean if not clean.all() else ~learned
    if (clean & learned).any() and test.any():
        yield Split(protocol, level, draw, rows.index[clean & learned], rows.index[test])
