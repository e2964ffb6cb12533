"""Cases: what there is to diagnose in one zoo, ready to be split: features, true answers, and what they gain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from diagnose.features import TRACKS, feature_table
from diagnose.labels import GAINS

SETTINGS = ("data_amount", "width", "label_noise", "dataset")
"""Columns of `configs` that protocols select by."""

CLEAR_CONFIDENCE = 0.9
"""A label is clear if so many of the resampled seeds give it."""

CLEAR_GAP = 1.0
"""Where the seeds are not known: if its gap is at least so many points. About one published Q1 label in ten
hangs on less."""


@dataclass(frozen=True, eq=False)
class Cases:
    """The configurations of a zoo as cases to be diagnosed. All frames are indexed by `config_id`.

    Attributes:
        settings: A row a configuration: `SETTINGS`.
        features: For each track a row a configuration, from `feature_table`.
        answers: For each task the configurations that have an answer: `label` and `clear`.
        gains: For each task the same rows: a column an answer, the gain in test accuracy from acting on it,
            in points.
    """

    settings: pd.DataFrame
    features: Mapping[str, pd.DataFrame]
    answers: Mapping[str, pd.DataFrame]
    gains: Mapping[str, pd.DataFrame]

    def rows(self, task: str) -> pd.DataFrame:
        """`SETTINGS` and `label` of the configurations that have an answer to a task; what protocols split."""
        return self.settings.join(self.answers[task]["label"], how="inner")

    def sample(self, task: str, track: str) -> pd.DataFrame:
        """`label` and all features of a track, for the configurations that have an answer to a task."""
        return self.answers[task][["label"]].join(self.features[track])

    def regret(self, task: str, config_ids: pd.Index, predicted: np.ndarray) -> np.ndarray:
        """The gain forgone by acting on each answer: the best gain less that of the answer, in points.

        No answer, or one that the task does not know, is no action and gains nothing.
        """
        gains = self.gains[task].loc[config_ids]
        places = gains.columns.get_indexer(pd.Index(predicted, dtype=object))
        gained = gains.to_numpy()[np.arange(len(gains)), places]
        return np.asarray(gains.max(axis=1).to_numpy() - np.where(places >= 0, gained, 0.0))


@dataclass(frozen=True, eq=False)
class ZooTables:
    """What diagnosis reads of a zoo: its tables of the same names."""

    configs: pd.DataFrame
    runs: pd.DataFrame
    metrics: pd.DataFrame
    labels: pd.DataFrame


def cases_of(tables: ZooTables, recipe: str = "default") -> Cases:
    """The cases of a zoo, from its tables.

    Configurations whose label is `optimal` are no cases, as published; the answer `nothing` of the remedy
    tasks is an answer.

    Args:
        tables: Of a built zoo.
        recipe: Metric recipe that the features read.

    Raises:
        ValueError: If there are metrics, but none of that recipe.
    """
    read = tables.configs, tables.runs, tables.metrics, recipe
    features = {track: feature_table(*read, track) for track in TRACKS}
    settings = tables.configs.set_index("config_id")[list(SETTINGS)]
    return Cases(settings, features, *answers_and_gains(tables.labels))


def answers_and_gains(labels: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """The attributes `answers` and `gains` of `Cases`, from rows of the table `labels`."""
    answers, gains = {}, {}
    for task, rooms in GAINS.items():
        rows = labels[(labels["task"] == task) & (labels["label"] != "optimal")].set_index("config_id")
        answers[task] = rows[["label"]].assign(clear=is_clear(rows["confidence"], rows["gap"]))
        gained = {name: rows[list(r)].max(axis=1) if r else 0.0 for name, r in rooms.items()}
        gains[task] = pd.DataFrame(gained, index=rows.index)
    return answers, gains


def is_clear(confidence: pd.Series, gap: pd.Series) -> pd.Series:
    """Whether each label is beyond doubt: by its confidence or, where there is none, by its gap in points."""
    return (confidence >= CLEAR_CONFIDENCE).where(confidence.notna(), gap >= CLEAR_GAP)
