"""Diagnosers on protocols: every configuration of every test side, diagnosed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd

from diagnose.baselines import DIAGNOSERS, Diagnoser
from diagnose.features import FEATURE_SETS, feature_table
from diagnose.protocols import PROTOCOLS, PUBLISHED_DRAWS, Split, answered, transfer
from zoo.tables import FAILURE_TASKS, SCHEMAS


@dataclass(frozen=True, eq=False)
class ZooTables:
    """What diagnosis reads of a zoo: its tables of the same names."""

    configs: pd.DataFrame
    runs: pd.DataFrame
    metrics: pd.DataFrame
    labels: pd.DataFrame


def benchmark(
    zoos: Mapping[str, ZooTables],
    recipe: str = "default",
    draws: Sequence[int] = PUBLISHED_DRAWS,
    diagnosers: Iterable[Diagnoser] | None = None,
) -> pd.DataFrame:
    """Run every diagnoser on every protocol of each zoo, and on the transfer between any two.

    A diagnoser that raises gets rows without a prediction and the reason, and stops no other.

    Args:
        zoos: Tables by the zoo's name.
        recipe: Metric recipe that the features read.
        draws: Seeds.
        diagnosers: Which to run; None runs all that are registered.

    Returns:
        Rows of the table `predictions`.

    Raises:
        ValueError: If a zoo has metrics, but none of that recipe.
    """
    entrants = list(DIAGNOSERS.values() if diagnosers is None else diagnosers)
    features = {name: feature_table(z.configs, z.runs, z.metrics, recipe) for name, z in zoos.items()}
    parts: list[pd.DataFrame] = []
    for task in FAILURE_TASKS:
        rows = {name: answered(zoo.configs, zoo.labels, task) for name, zoo in zoos.items()}
        samples = {name: rows[name][["label"]].join(features[name]) for name in zoos}
        for learned, diagnosed, split in _splits(rows, draws):
            training, test = samples[learned].loc[split.training], samples[diagnosed].loc[split.test]
            for diagnoser in entrants:
                if task in diagnoser.tasks:
                    where = {"zoo": diagnosed, "training_zoo": learned, "task": task}
                    said = _diagnose(diagnoser, task, split.draw, training, test)
                    parts.append(pd.DataFrame(where | _described(diagnoser, split) | said))
    columns = SCHEMAS["predictions"].names
    predictions = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return predictions.assign(package_version=version("mdzoo"))[columns]


def _splits(rows: Mapping[str, pd.DataFrame], draws: Sequence[int]) -> Iterator[tuple[str, str, Split]]:
    """(zoo learned from, zoo diagnosed, split) of all protocols."""
    for name, own in rows.items():
        for protocol in PROTOCOLS.values():
            for split in protocol(own, draws):
                yield name, name, split
    for learned, diagnosed in permutations(rows, 2):
        for split in transfer(rows[learned], rows[diagnosed], draws):
            yield learned, diagnosed, split


def _diagnose(
    diagnoser: Diagnoser, task: str, draw: int, training: pd.DataFrame, test: pd.DataFrame
) -> dict[str, Any]:
    """What the diagnoser says of each test row, or why it could not."""
    columns = list(FEATURE_SETS[diagnoser.features].columns[task])
    try:
        fitted = diagnoser.build(task, draw).fit(training[columns], training["label"].to_numpy())
        said = np.asarray(fitted.predict(test[columns]), dtype=object)
        if said.shape != (len(test),):
            raise ValueError(f"predict gave the shape {said.shape}; it must give ({len(test)},)")
        predicted: list[str | None] = [str(answer) for answer in said]
        reason = None
    except Exception as error:  # a stranger's method may raise anything; its row says what
        predicted = [None] * len(test)
        reason = f"{type(error).__name__}: {error}"
    return {
        "config_id": test.index,
        "label": test["label"].array,
        "predicted": predicted,
        "reason": reason,
    }


def _described(diagnoser: Diagnoser, split: Split) -> dict[str, Any]:
    """The columns that all rows of a diagnoser on a split share."""
    return {
        "diagnoser": diagnoser.name,
        "features": diagnoser.features,
        "track": diagnoser.track,
        "protocol": split.protocol,
        "level": split.level,
        "draw": split.draw,
        "training_rows": len(split.training),
    }
