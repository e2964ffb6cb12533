"""Diagnosers on boards: every configuration of every test side, diagnosed."""

from __future__ import annotations

import inspect
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from diagnose.baselines import DIAGNOSERS, Diagnoser
from diagnose.boards import ZOO_PROTOCOLS, Board, Protocols, boards
from diagnose.cases import Cases
from diagnose.features import FEATURE_SETS
from diagnose.protocols import PUBLISHED_DRAWS, Split, seeds_of
from zoo.tables import SCHEMAS, from_frame

ABSTAINED = "abstained"
"""The reason of a row that a diagnoser chose not to answer, by predicting None."""


def benchmark(
    zoos: Mapping[str, Cases],
    draws: int | Sequence[int] = PUBLISHED_DRAWS,
    diagnosers: Iterable[Diagnoser] | None = None,
    protocols: Sequence[Protocols] = (ZOO_PROTOCOLS,),
) -> pd.DataFrame:
    """Run every diagnoser on every board of some zoos, in memory; `diagnose.arena` does it on storage.

    Args:
        zoos: Cases by the zoo's name.
        draws: How many draws, or their seeds (see `seeds_of`).
        diagnosers: Which to run; None runs all that are registered.
        protocols: Those within each zoo, see `diagnose.boards`.

    Returns:
        Rows of the table `predictions`.

    Raises:
        ValueError: If there are no draws.
    """
    entrants = list(DIAGNOSERS.values() if diagnosers is None else diagnosers)
    return in_memory(
        [
            expanded(answers(diagnoser, board, zoos), board)
            for board in boards(zoos, seeds_of(draws), protocols)
            for diagnoser in entrants
            if board.task in diagnoser.tasks
        ]
    )


Cell = tuple[str, int | None]
"""A selection and its draw; the draw of a diagnoser that draws nothing is None: it answers for all."""


def cells_of(board: Board, diagnoser: Diagnoser) -> frozenset[Cell]:
    """What a diagnoser has to answer on a board."""
    return frozenset((split.split_id, split.draw if diagnoser.seeded else None) for split in board.splits)


def cells_in(predictions: pa.Table) -> frozenset[Cell]:
    """What some predictions answer."""
    distinct = predictions.select(["split_id", "draw"]).group_by(["split_id", "draw"]).aggregate([])
    return frozenset(zip(distinct["split_id"].to_pylist(), distinct["draw"].to_pylist(), strict=True))


def answers(
    diagnoser: Diagnoser, board: Board, zoos: Mapping[str, Cases], known: Container[Cell] = frozenset()
) -> pa.Table:
    """What a diagnoser says on the selections of a board.

    A diagnoser that raises gets rows without a prediction and the reason, and stops no other. One that draws
    nothing answers once where draws select the same, and its draw is null.

    Args:
        diagnoser: Who is asked.
        board: What is asked.
        zoos: Cases by the zoo's name.
        known: What it need not be asked.

    Returns:
        A table `predictions`, in the order of the board's selections.
    """
    learned = [zoos[name] for name in board.learned]
    pool = _once([cases.sample(board.task, diagnoser.track) for cases in learned])
    gains = _once([cases.gains[board.task] for cases in learned])
    own = zoos[board.zoo]
    tests, clear = own.sample(board.task, diagnoser.track), own.answers[board.task]["clear"]
    parts, done = [], set()
    for split in board.splits:
        cell = (split.split_id, split.draw if diagnoser.seeded else None)
        if cell in known or cell in done:
            continue
        done.add(cell)
        sides = pool.loc[split.training], tests.loc[split.test], gains.loc[split.training]
        said = _diagnose(diagnoser, board.task, split.draw, *sides)
        judged = {
            "regret": own.regret(board.task, split.test, said["predicted"]),
            "clear": clear.loc[split.test].to_numpy(),
        }
        rows = pd.DataFrame(_described(diagnoser, board, split) | said | judged)
        parts.append(from_frame("predictions", rows))
    return pa.concat_tables(parts) if parts else SCHEMAS["predictions"].empty_table()


def _once(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all frames; of a configuration that several hold, the first."""
    whole = pd.concat(frames)
    return whole[~whole.index.duplicated()]


def expanded(predictions: pa.Table, board: Board) -> pa.Table:
    """The predictions of a board's selections, once for each draw that makes them; no draw is null."""
    places = predictions["split_id"].to_pandas().groupby(predictions["split_id"].to_pandas()).indices
    draws = predictions["draw"].to_pandas().to_numpy(dtype=float)
    taken = []
    for split in board.splits:
        own = places.get(split.split_id, np.empty(0, dtype=np.int64))
        taken.append(own[np.isnan(draws[own]) | (draws[own] == split.draw)])
    drawn = np.repeat([split.draw for split in board.splits], [len(own) for own in taken])
    rows = predictions.take(np.concatenate(taken))
    return rows.set_column(rows.schema.get_field_index("draw"), "draw", pa.array(drawn, type=pa.int64()))


def in_memory(tables: Sequence[pa.Table]) -> pd.DataFrame:
    """Tables of predictions as one frame; its texts are categorical, since all but `config_id` repeat themselves."""
    if not tables:
        return SCHEMAS["predictions"].empty_table().to_pandas()
    return pa.concat_tables(tables).to_pandas(strings_to_categorical=True)


def _diagnose(
    diagnoser: Diagnoser,
    task: str,
    draw: int,
    training: pd.DataFrame,
    test: pd.DataFrame,
    gains: pd.DataFrame,
) -> dict[str, Any]:
    """What the diagnoser says of each test row, or why it could not."""
    columns = list(FEATURE_SETS[diagnoser.features].columns[task])
    labels, begun = test["label"].to_numpy(dtype=object), time.perf_counter()
    nothing = np.full(len(test), np.nan)
    try:
        if missing := [name for name in columns if name not in training.columns]:
            raise ValueError(f"the feature table lacks {missing}, which the set {diagnoser.features!r} reads")
        fitted = _fitted(diagnoser.build(task, draw), training[columns], training["label"], gains)
        predicted = np.asarray(fitted.predict(test[columns]), dtype=object)
        if predicted.shape != (len(test),):
            raise ValueError(f"predict gave the shape {predicted.shape}; it must give ({len(test)},)")
        probability, label_probability = _probabilities(fitted, test[columns], predicted, labels)
        silent = pd.isna(predicted)
        predicted = np.array(
            [None if no else str(answer) for no, answer in zip(silent, predicted, strict=True)]
        )
        reason: Any = [ABSTAINED if no else None for no in silent]
    except Exception as error:  # a stranger's method may raise anything; its row says what
        predicted = np.full(len(test), None, dtype=object)
        probability = label_probability = nothing
        reason = f"{type(error).__name__}: {error}"
    return {
        "config_id": test.index,
        "label": labels,
        "predicted": predicted,
        "probability": probability,
        "label_probability": label_probability,
        "reason": reason,
        "seconds": time.perf_counter() - begun,
    }


def _fitted(model: Any, X: pd.DataFrame, y: pd.Series, gains: pd.DataFrame) -> Any:
    """The model, fitted; one whose `fit` asks for them sees the gains of its training side too."""
    wants = "gains" in inspect.signature(model.fit).parameters
    return model.fit(X, y.to_numpy(), **({"gains": gains} if wants else {}))


def _probabilities(
    fitted: Any, X: pd.DataFrame, predicted: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The probability it gives to its answer and to the true label; NaN if it gives none.

    A label that it has never heard of has the probability 0; an abstention has that of the likeliest answer.
    """
    nothing = np.full(len(labels), np.nan)
    if not hasattr(fitted, "predict_proba"):
        return nothing, nothing
    shares = np.asarray(fitted.predict_proba(X), dtype=float)
    classes = pd.Index(np.asarray(fitted.classes_, dtype=object))
    if shares.shape != (len(labels), len(classes)):
        raise ValueError(
            f"predict_proba gave the shape {shares.shape}; it must give ({len(labels)}, {len(classes)})"
        )

    def of(answers: np.ndarray) -> np.ndarray:
        places = classes.get_indexer(pd.Index(answers, dtype=object))
        return np.where(places >= 0, shares[np.arange(len(shares)), places], 0.0)

    return np.where(pd.isna(predicted), shares.max(axis=1), of(predicted)), of(labels)


def _described(diagnoser: Diagnoser, board: Board, split: Split) -> dict[str, Any]:
    """The columns that all rows of a diagnoser on a selection share."""
    return {
        "zoo": board.zoo,
        "training_zoo": board.training_zoo,
        "task": board.task,
        "protocol": board.protocol,
        "level": split.level,
        "draw": split.draw if diagnoser.seeded else None,
        "split_id": split.split_id,
        "diagnoser": diagnoser.name,
        "features": diagnoser.features,
        "track": diagnoser.track,
        "training_rows": len(split.training),
        "package_version": version("mdzoo"),
    }
