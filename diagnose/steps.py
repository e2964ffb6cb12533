"""Steps: for every configuration of a grid, which others it can become by a step along one axis.

A step changes one axis and nothing else. It is near if it stays within a factor of two, so that all axes get an
equal budget; on the axis of label noise, where zero has no factor, the next cleaner level of the grid is near.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zoo.config import TrainConfig

AXES = ("batch_size", "learning_rate", "width", "data_amount")

FIXED = tuple(name for name in TrainConfig.__dataclass_fields__ if name not in {*AXES, "sample_passes"})
"""What two configurations must share to be compared along one of `AXES`.

The length of training is not among them: in a grid whose length is given in epochs or steps it follows the
amount or the batch size. Configurations that differ in length alone are compared shortest with shortest."""

NOISE = ("label_noise", "noise_seed")
"""What cleaner labels may change. A draw of the noise is compared with itself, and with no noise at all."""

FACTOR = 2.0
"""How far a near step goes."""

_SLACK = 1e-9  # of a ratio: learning rates are no exact fractions


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps along one axis in one direction; `origin` ascends.

    Attributes:
        origin: Row of the grid that a step leaves, shape (steps,).
        target: Row that it reaches.
    """

    origin: NDArray[np.int64]
    target: NDArray[np.int64]

    def where(self, kept: NDArray[np.bool_]) -> Self:
        """Some of the steps."""
        return type(self)(self.origin[kept], self.target[kept])

    def joined(self, other: Steps) -> Steps:
        """The steps of two axes, as one."""
        origin = np.concatenate([self.origin, other.origin])
        order = np.argsort(origin, kind="stable")
        return Steps(origin[order], np.concatenate([self.target, other.target])[order])

    def best(self, values: NDArray[np.float64], otherwise: float) -> NDArray[np.float64]:
        """The largest value at the targets of each row, at least `otherwise`; shape of `values`."""
        best = np.full(len(values), otherwise)
        if len(self.origin):
            starts = np.flatnonzero(np.r_[True, np.diff(self.origin) > 0])
            tops = np.maximum.reduceat(values[self.target], starts)
            best[self.origin[starts]] = np.maximum(tops, otherwise)
        return best


def steps_of(grid: pd.DataFrame) -> dict[str, Steps]:
    """All steps of a grid, by the column of the table `labels` that holds what the best of them gains.

    Args:
        grid: A row a configuration, with the columns of `configs`.

    Returns:
        Steps by `rfi_<remedy>` (the whole axis) and `near_<remedy>`.
    """
    codes = grid.groupby(list(FIXED), dropna=False).ngroup()
    length = grid.assign(fixed=codes).sort_values("sample_passes")
    grid = grid.assign(fixed=codes, repetition=length.groupby(["fixed", *AXES]).cumcount())
    whole = {
        "inc_temperature": _along(grid, "batch_size", up=False).joined(
            _along(grid, "learning_rate", up=True)
        ),
        "dec_temperature": _along(grid, "batch_size", up=True).joined(
            _along(grid, "learning_rate", up=False)
        ),
        "width": _along(grid, "width", up=True),
        "data": _along(grid, "data_amount", up=True),
        "labels": _cleaner(grid),
    }
    near = {name: steps.where(_is_near(grid, steps)) for name, steps in whole.items()}
    return {f"rfi_{n}": s for n, s in whole.items()} | {f"near_{n}": s for n, s in near.items()}


def _along(grid: pd.DataFrame, axis: str, up: bool) -> Steps:
    """Steps along one of `AXES`."""
    others = ["fixed", "repetition", *(other for other in AXES if other != axis)]
    return _beyond(grid, others, axis, up)


def _cleaner(grid: pd.DataFrame) -> Steps:
    """Steps to less label noise."""
    rest = [name for name in FIXED if name not in NOISE]
    grid = grid.assign(rest=grid.groupby(rest, dropna=False).ngroup())
    steps = _beyond(grid, ["rest", "repetition", *AXES], "label_noise", up=False)
    noise, draw = (grid[name].to_numpy() for name in NOISE)
    return steps.where((draw[steps.origin] == draw[steps.target]) | (noise[steps.target] == 0))


def _beyond(grid: pd.DataFrame, line: list[str], axis: str, up: bool) -> Steps:
    """From each configuration to all that stand beyond it on its line."""
    lines = grid.groupby(line, dropna=False).ngroup().to_numpy()
    values = grid[axis].to_numpy(dtype=float) * (1 if up else -1)
    order = np.lexsort((values, lines))
    lines, values = lines[order], values[order]
    found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for distance in range(1, int(np.bincount(lines).max(initial=1))):
        same = (lines[distance:] == lines[:-distance]) & (values[distance:] > values[:-distance])
        found.append((order[:-distance][same], order[distance:][same]))
    if not found:
        return Steps(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    origin, target = (np.concatenate(side) for side in zip(*found, strict=True))
    sort = np.argsort(origin, kind="stable")
    return Steps(origin[sort], target[sort])


def _is_near(grid: pd.DataFrame, steps: Steps) -> NDArray[np.bool_]:
    """Which steps stay within the factor on every axis, and go to the next cleaner level of noise."""
    near = np.ones(len(steps.origin), dtype=bool)
    for axis in AXES:
        values = grid[axis].to_numpy(dtype=float)
        ratio = values[steps.target] / values[steps.origin]
        near &= np.maximum(ratio, 1 / ratio) <= FACTOR * (1 + _SLACK)
    noise = grid["label_noise"].to_numpy(dtype=float)
    return near & (noise[steps.target] == steps.best(noise, -1.0)[steps.origin])
