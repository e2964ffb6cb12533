"""Labels: each configuration's room for improvement (RFI) along each axis, and its source of failure.

RFI is the gain in mean test accuracy from the best step along one axis, every other axis fixed; a
configuration may stay where it is, so no room is negative (Zhou et al., "MD tree", ICML 2024, Section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import pandas as pd

from zoo.config import TrainConfig
from zoo.tables import REMEDIES, SCHEMAS

AXES = ("batch_size", "learning_rate", "width", "data_amount")

FIXED = tuple(name for name in TrainConfig.__dataclass_fields__ if name not in {*AXES, "sample_passes"})
"""What two configurations must share to be compared.

Label noise is among them: cleaner labels are no step here. The length of training is not: in a grid whose
length is given in epochs or steps it follows the amount or the batch size. See `_repetition`."""


class Question(NamedTuple):
    """A question of diagnosis: which of two rooms for improvement is the larger."""

    first: str
    first_room: str
    second: str
    second_room: str


ROOMS = {
    "rfi_inc_temperature": ("rfi_inc_temperature",),
    "rfi_dec_temperature": ("rfi_dec_temperature",),
    "rfi_temperature": ("rfi_inc_temperature", "rfi_dec_temperature"),
    "rfi_width": ("rfi_width",),
    "rfi_data": ("rfi_data",),
}
"""A room of a question -> the columns of `labels` whose largest it is."""

QUESTIONS = {
    "temperature": Question("small", "rfi_inc_temperature", "large", "rfi_dec_temperature"),
    "width": Question("width", "rfi_width", "batch", "rfi_temperature"),
    "data": Question("data", "rfi_data", "batch", "rfi_temperature"),
}
"""The published questions: Q1, and the two of Q2. The label `optimal` is given where the rooms are equal."""

GAINS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    **{task: {q.first: ROOMS[q.first_room], q.second: ROOMS[q.second_room]} for task, q in QUESTIONS.items()},
    "remedy": {name: (f"near_{name}",) if name != "nothing" else () for name in REMEDIES},
    "remedy_whole": {name: (f"rfi_{name}",) if name != "nothing" else () for name in REMEDIES},
}
"""For each task and answer the columns of `labels` whose largest is the gain from acting on it; none: 0."""

_ROUNDING = 9  # decimals of an accuracy: equal errors, averaged in another order, stay equal


def label(configs: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The room for improvement and the source of failure of each configuration.

    The temperature has two axes, of which the larger room counts: a smaller batch or a larger learning rate
    is hotter. The accuracy of a configuration is the mean over its finished runs. A configuration without
    one gets no rows and is no step for the others.

    Args:
        configs: Rows of the table `configs`.
        runs: Rows of the table `runs`; `test_error` in percent.

    Returns:
        Rows of the table `labels`, one a configuration and task, in the order of `configs`; rooms and `gap`
        (the distance between the two that decide) in percent.

    Raises:
        ValueError: If runs belong to configurations that are not in `configs`.
    """
    grid = _graded(configs, runs)
    grid["rfi_inc_temperature"] = np.maximum(
        _room(grid, "batch_size", up=False), _room(grid, "learning_rate", up=True)
    )
    grid["rfi_dec_temperature"] = np.maximum(
        _room(grid, "batch_size", up=True), _room(grid, "learning_rate", up=False)
    )
    grid["rfi_temperature"] = grid[["rfi_inc_temperature", "rfi_dec_temperature"]].max(axis=1)
    grid["rfi_width"] = _room(grid, "width", up=True)
    grid["rfi_data"] = _room(grid, "data_amount", up=True)
    grid["package_version"] = version("mdzoo")
    answered = pd.concat([_answer(grid, task, question) for task, question in QUESTIONS.items()])
    return answered.sort_index(kind="stable").reset_index(drop=True)[SCHEMAS["labels"].names]


def _graded(configs: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Configurations with finished runs, their mean test accuracy, and the grid each stands in."""
    if unknown := sorted(set(runs["config_id"]) - set(configs["config_id"])):
        raise ValueError(
            f"{len(unknown)} configurations of runs are not in configs, such as {unknown[0]}; "
            "give both tables of the same zoo"
        )
    errors = runs[runs["status"] == "done"].groupby("config_id")["test_error"].agg(["mean", "size"])
    grid = configs.assign(
        test_accuracy=(100 - configs["config_id"].map(errors["mean"])).round(_ROUNDING),
        runs=configs["config_id"].map(errors["size"]),
        fixed=configs.groupby(list(FIXED), dropna=False).ngroup(),
    )
    grid["repetition"] = _repetition(grid)
    return grid.dropna(subset="test_accuracy").astype({"runs": "int64"}).reset_index(drop=True)


def _repetition(grid: pd.DataFrame) -> pd.Series:
    """Position among the configurations that differ in length alone, shortest first.

    It stands in for the length where that is an axis of its own: shortest is compared with shortest.
    """
    return grid.sort_values("sample_passes").groupby(["fixed", *AXES]).cumcount()


def _room(grid: pd.DataFrame, axis: str, up: bool) -> pd.Series:
    """Best accuracy at or beyond each configuration's place along the axis, less its own; in percent."""
    others = ["fixed", "repetition", *(other for other in AXES if other != axis)]
    from_the_end = grid.sort_values(axis, ascending=not up)
    return from_the_end.groupby(others)["test_accuracy"].cummax() - grid["test_accuracy"]


def _answer(grid: pd.DataFrame, task: str, question: Question) -> pd.DataFrame:
    """The rows of one task."""
    first, second = grid[question.first_room], grid[question.second_room]
    answers: Sequence[str] = (question.first, question.second)
    chosen = np.select([first > second, first < second], answers, default="optimal")
    return grid.assign(task=task, label=chosen, gap=(first - second).abs())
