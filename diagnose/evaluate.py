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
from diagnose.protocols import (
    PROTOCOLS,
    PUBLISHED_DRAWS,
    Protocol,
    Split,
    answered,
    leave_one_data_set_out,
    seeds_of,
    transfer,
)
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
    draws: int | Sequence[int] = PUBLISHED_DRAWS,
    diagnosers: Iterable[Diagnoser] | None = None,
    protocols: Mapping[str, Protocol] = PROTOCOLS,
) -> pd.DataFrame:
    """Run every diagnoser on every protocol of each zoo, on the transfer between any two, and on what is left out.

    A diagnoser that raises gets rows without a prediction and the reason, and stops no other. One that draws
    nothing is run once where draws select the same configurations.

    Args:
        zoos: Tables by the zoo's name.
        recipe: Metric recipe that the features read.
        draws: How many draws, or their seeds (see `seeds_of`).
        diagnosers: Which to run; None runs all that are registered.
        protocols: Those within each zoo, by name. For both directions between clean and noisy labels give
            `PROTOCOLS | PROTOCOLS_FROM_NOISY`.

    Returns:
        Rows of the table `predictions`; the name of a training zoo that is several is theirs joined by `+`.

    Raises:
        ValueError: If a zoo has metrics, but none of that recipe, or there are no draws.
    """
    entrants = list(DIAGNOSERS.values() if diagnosers is None else diagnosers)
    seeds = seeds_of(draws)
    features = {name: feature_table(z.configs, z.runs, z.metrics, recipe) for name, z in zoos.items()}
    parts: list[pd.DataFrame] = []
    for task in FAILURE_TASKS:
        rows = {name: answered(zoo.configs, zoo.labels, task) for name, zoo in zoos.items()}
        samples = {name: rows[name][["label"]].join(features[name]) for name in zoos}
        said: dict[tuple[Any, ...], dict[str, Any]] = {}
        for learned, diagnosed, split in _splits(rows, seeds, protocols):
            pool = pd.concat([samples[name] for name in learned])
            training = pool[~pool.index.duplicated()].loc[split.training]
            test = samples[diagnosed].loc[split.test]
            where = {"zoo": diagnosed, "training_zoo": "+".join(learned), "task": task}
            for diagnoser in entrants:
                if task not in diagnoser.tasks:
                    continue
                seed = split.draw if diagnoser.seeded else None
                key = (diagnoser.name, learned, diagnosed, tuple(split.training), tuple(split.test), seed)
                if key not in said:
                    said[key] = _diagnose(diagnoser, task, split.draw, training, test)
                parts.append(pd.DataFrame(where | _described(diagnoser, split) | said[key]))
    columns = SCHEMAS["predictions"].names
    predictions = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return predictions.assign(package_version=version("mdzoo"))[columns]


def _splits(
    rows: Mapping[str, pd.DataFrame], seeds: Sequence[int], protocols: Mapping[str, Protocol]
) -> Iterator[tuple[tuple[str, ...], str, Split]]:
    """(zoos learned from, zoo diagnosed, split) of all protocols."""
    for name, own in rows.items():
        for protocol in protocols.values():
            for split in protocol(own, seeds):
                yield (name,), name, split
    for learned, diagnosed in permutations(rows, 2):
        for split in transfer(rows[learned], rows[diagnosed], seeds):
            yield (learned,), diagnosed, split
    yield from leave_one_data_set_out(rows, seeds)


def _diagnose(
    diagnoser: Diagnoser, task: str, draw: int, training: pd.DataFrame, test: pd.DataFrame
) -> dict[str, Any]:
    """What the diagnoser says of each test row, or why it could not."""
    columns = list(FEATURE_SETS[diagnoser.features].columns[task])
    try:
        if missing := [name for name in columns if name not in training.columns]:
            raise ValueError(f"the feature table lacks {missing}, which the set {diagnoser.features!r} reads")
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
