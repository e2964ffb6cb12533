"""Labels: each configuration's room for improvement (RFI) along each axis, and its source of failure.

RFI is the gain in mean test accuracy from the best step along one axis, every other axis fixed; a
configuration may stay where it is, so no room is negative (Zhou et al., "MD tree", ICML 2024, Section 3).

A room is a maximum over means of few runs, and so biased upward, the more the further its axis reaches. Two
things are done about it: the whole question is asked within a factor of two on each axis (`near_*`), and a label
carries its confidence, the share of resampled seeds that give it again (`diagnose.confidence`).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diagnose.confidence import confidences
from diagnose.steps import Steps, steps_of
from zoo.tables import REMEDIES, SCHEMAS

WORTHWHILE = 1.0
"""Gain, in points, below which the whole question is answered by `nothing`: the published MD tree tells
only two in three of the Q1 labels right that hang on less."""


class Question(NamedTuple):
    """A question of diagnosis: which of two rooms for improvement is the larger."""

    first: str
    first_rooms: tuple[str, ...]
    second: str
    second_rooms: tuple[str, ...]


_TEMPERATURE = ("rfi_inc_temperature", "rfi_dec_temperature")

QUESTIONS = {
    "temperature": Question("small", _TEMPERATURE[:1], "large", _TEMPERATURE[1:]),
    "width": Question("width", ("rfi_width",), "batch", _TEMPERATURE),
    "data": Question("data", ("rfi_data",), "batch", _TEMPERATURE),
}
"""The published questions: Q1, and the two of Q2. The label `optimal` is given where the rooms are equal."""


def _rooms(prefix: str) -> dict[str, tuple[str, ...]]:
    return {name: (f"{prefix}_{name}",) if name != "nothing" else () for name in REMEDIES}


GAINS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    **{t: {q.first: q.first_rooms, q.second: q.second_rooms} for t, q in QUESTIONS.items()},
    "remedy": _rooms("near"),
    "remedy_whole": _rooms("rfi"),
}
"""For each task and answer the columns of `labels` whose largest is the gain from acting on it; none: 0."""

ROUNDING = 9
"""Decimals of an accuracy: equal errors, averaged in another order, stay equal."""

Rooms = dict[str, NDArray[np.float64]]


def label(configs: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The room for improvement and the source of failure of each configuration.

    The temperature has two axes, of which the larger room counts: a smaller batch or a larger learning rate
    is hotter. The accuracy of a configuration is the mean over its finished runs. A configuration without
    one gets no rows and is no step for the others.

    The whole question is what would help most: its label is the remedy of the largest room, of equals the first
    of `REMEDIES`, or `nothing` if that room is below `WORTHWHILE`.

    Args:
        configs: Rows of the table `configs`.
        runs: Rows of the table `runs`; `test_error` in percent.

    Returns:
        Rows of the table `labels`, one a configuration and task, in the order of `configs`; rooms and `gap`
        (the distance between the two rooms that decide; `nothing` counts as `WORTHWHILE`) in percent.

    Raises:
        ValueError: If runs belong to configurations that are not in `configs`.
    """
    if unknown := sorted(set(runs["config_id"]) - set(configs["config_id"])):
        raise ValueError(
            f"{len(unknown)} configurations of runs are not in configs, such as {unknown[0]}; "
            "give both tables of the same zoo"
        )
    done = runs[runs["status"] == "done"]
    grid = configs[configs["config_id"].isin(done["config_id"])].reset_index(drop=True)
    errors = done.groupby("config_id")["test_error"].agg(["mean", "size"]).loc[grid["config_id"]]
    accuracy = (100 - errors["mean"]).round(ROUNDING).to_numpy()
    steps = steps_of(grid)
    rooms = rooms_of(accuracy, steps)
    answers = answers_of(rooms)
    told = confidences(grid, done, steps, {task: answer for task, (answer, _) in answers.items()}, _again)
    parts = [
        grid.assign(
            **rooms,
            task=task,
            label=np.array(names_of(task))[answer],
            gap=gap,
            confidence=told[task],
            test_accuracy=accuracy,
            runs=errors["size"].to_numpy(),
            package_version=version("mdzoo"),
        )
        for task, (answer, gap) in answers.items()
    ]
    return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)[SCHEMAS["labels"].names]


def rooms_of(accuracy: NDArray[np.float64], steps: Mapping[str, Steps]) -> Rooms:
    """The gain from the best of some steps, by their name; shape (configurations,), in percent."""
    return {name: np.maximum(own.best(accuracy, -np.inf) - accuracy, 0.0) for name, own in steps.items()}


def names_of(task: str) -> list[str]:
    """The labels of a task, in the order in which `answers_of` counts them."""
    if task in QUESTIONS:
        return [QUESTIONS[task].first, QUESTIONS[task].second, "optimal"]
    return list(REMEDIES)


def answers_of(rooms: Rooms) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """For each task the answer of each configuration, as its place in `names_of`, and its gap in percent."""
    found = {}
    for task, answers in GAINS.items():
        gains = [np.max([rooms[room] for room in names], axis=0) for names in answers.values() if names]
        if task in QUESTIONS:
            first, second = gains
            found[task] = np.select([first > second, first < second], [0, 1], 2), np.abs(first - second)
        else:
            ranked = np.stack([*gains, np.full_like(gains[0], WORTHWHILE)])
            top = np.sort(ranked, axis=0)
            found[task] = _first_of_the_largest(ranked), top[-1] - top[-2]
    return found


def _first_of_the_largest(ranked: NDArray[np.float64]) -> NDArray[np.int64]:
    """Of the largest rooms the first; the last row, what is worthwhile, only where all rooms are below it."""
    return np.where(ranked[:-1].max(axis=0) < ranked[-1], len(ranked) - 1, ranked[:-1].argmax(axis=0))


def _again(accuracy: NDArray[np.float64], steps: Mapping[str, Steps]) -> dict[str, NDArray[np.int64]]:
    """The answers to all tasks from other accuracies."""
    answers = answers_of(rooms_of(accuracy.round(ROUNDING), steps))
    return {task: answer for task, (answer, _) in answers.items()}
