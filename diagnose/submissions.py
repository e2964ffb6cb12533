"""Submissions: predictions that a method made elsewhere, in a file, judged like all others.

The file is Parquet or CSV with the columns `diagnoser`, `task`, `split_id`, `config_id` and `predicted`, a row for
each configuration that the table `splits` of the benchmark lists as `test`. It may have `features` (the feature
set it read; `all` if it does not say), `draw` (for a method that answers each draw apart), and for each answer of a
task a column `probability_<answer>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from diagnose.arena import SCORED, file_of
from diagnose.boards import Board
from diagnose.evaluate import ABSTAINED
from diagnose.exchange import Benchmark
from diagnose.features import FEATURE_SETS
from diagnose.labels import GAINS
from zoo.storage import Store
from zoo.tables import SCHEMAS, from_frame, to_bytes

REQUIRED = ("diagnoser", "task", "split_id", "config_id", "predicted")
DEFAULT_FEATURES = "all"
PROBABILITY = "probability_"

MISSING = "not in the file"
"""The reason of a row that a file leaves out, though it answers others of the selection."""


def read_submission(path: str | Path) -> pd.DataFrame:
    """The rows of a file of predictions.

    Args:
        path: A Parquet file, or CSV if it is so called.

    Raises:
        ValueError: If it cannot be read, or lacks columns.
    """
    try:
        rows = pd.read_csv(path) if str(path).endswith(".csv") else pd.read_parquet(path)
    except (pa.ArrowInvalid, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is neither a Parquet file nor, by its name, CSV: {error}") from error
    if missing := [name for name in REQUIRED if name not in rows]:
        raise ValueError(
            f"{path} lacks the columns {missing}; a file of predictions has {list(REQUIRED)}, and may have "
            f"features, draw and {PROBABILITY}<answer>"
        )
    return rows


def enter(store: Store, benchmark: Benchmark, rows: pd.DataFrame) -> list[str]:
    """Judge a submission and keep it beside the benchmark's own predictions.

    Args:
        store: The benchmark's folder.
        benchmark: From `diagnose.exchange.reopen`.
        rows: From `read_submission`.

    Returns:
        The names of the methods in it.

    Raises:
        ValueError: If it names what the benchmark does not have, or answers something twice; nothing is kept.
    """
    tables = list(judged(benchmark, rows))
    for name, table in tables:
        store.write(name, to_bytes(table))
    return sorted(set(rows["diagnoser"].astype(str)))


def judged(benchmark: Benchmark, rows: pd.DataFrame) -> Iterator[tuple[str, pa.Table]]:
    """The file name and the table `predictions` of each method of a submission on each board that it answers."""
    _check(benchmark, rows)
    for name, own in rows.groupby("diagnoser", sort=False):
        for board in benchmark.boards:
            said = own[own["task"] == board.task]
            said = said[said["split_id"].isin({split.split_id for split in board.splits})]
            if len(said):
                yield file_of(SCORED, board, str(name)), _on(board, benchmark, said)


def _check(benchmark: Benchmark, rows: pd.DataFrame) -> None:
    """Refuse what cannot be judged."""
    if rows.empty:
        raise ValueError("the file has no rows; it must have one for each configuration to diagnose")
    if taken := sorted(set(rows["diagnoser"]) & set(benchmark.diagnosers)):
        raise ValueError(f"the benchmark has diagnosers of the names {taken}; choose others")
    known = {(board.task, split.split_id): split for board in benchmark.boards for split in board.splits}
    for (task, split_id), part in rows.groupby(["task", "split_id"], sort=False):
        cell = str(task), str(split_id)
        if cell not in known:
            raise ValueError(
                f"the benchmark has no selection {cell[1]!r} of the task {cell[0]!r}; its selections are in "
                "splits.parquet"
            )
        if strange := sorted(set(part["config_id"]) - set(known[cell].test)):
            raise ValueError(
                f"selection {cell[1]} of the task {cell[0]} does not ask for {len(strange)} configurations of "
                f"the file, such as {strange[0]}; it asks for those in its column `test`"
            )
    key = [name for name in ("diagnoser", "task", "split_id", "draw", "config_id") if name in rows]
    if (twice := rows.duplicated(key)).any():
        first = rows.loc[twice, key].iloc[0].to_dict()
        raise ValueError(f"{int(twice.sum())} rows answer what another has answered, such as {first}")
    _check_answers(rows)
    if "features" in rows and (unknown := sorted(set(rows["features"]) - set(FEATURE_SETS))):
        raise ValueError(
            f"the file names the feature sets {unknown}; they must be among {list(FEATURE_SETS)}"
        )


def _check_answers(rows: pd.DataFrame) -> None:
    """Refuse answers that a task does not have, and what is no probability."""
    for task, part in rows.groupby("task"):
        allowed = list(GAINS[str(task)])
        if strange := sorted(set(part["predicted"].dropna()) - set(allowed)):
            raise ValueError(
                f"the file answers {strange} to the task {task}; its answers are {allowed}, or null to abstain"
            )
        shares = part[[PROBABILITY + answer for answer in allowed if PROBABILITY + answer in part]]
        if len(shares.columns) == len(allowed):
            wrong = ~np.isclose(shares.sum(axis=1), 1, atol=1e-3) | (shares < 0).any(axis=1)
            if wrong.any():
                raise ValueError(
                    f"{int(wrong.sum())} rows of the task {task} have probabilities that are below 0 or do not "
                    f"add up to 1, such as {shares[wrong].iloc[0].to_dict()}"
                )


def _on(board: Board, benchmark: Benchmark, said: pd.DataFrame) -> pa.Table:
    """What a method says on a board, as a table `predictions`."""
    by_draw = "draw" in said
    parts, done = [], set()
    for split in board.splits:
        cell = (split.split_id, split.draw if by_draw else None)
        own = said[said["split_id"] == split.split_id]
        own = own[own["draw"] == split.draw] if by_draw else own
        if cell in done or own.empty:
            continue
        done.add(cell)
        judged = _judged(board, benchmark, split.test, own.set_index("config_id"))
        selection = {
            "level": split.level,
            "draw": cell[1],
            "split_id": split.split_id,
            "training_rows": len(split.training),
        }
        parts.append(from_frame("predictions", judged.assign(**selection)))
    return pa.concat_tables(parts) if parts else SCHEMAS["predictions"].empty_table()


def _judged(board: Board, benchmark: Benchmark, test: pd.Index, own: pd.DataFrame) -> pd.DataFrame:
    """The rows of one selection."""
    cases = benchmark.zoos[board.zoo]
    answers = cases.answers[board.task].loc[test]
    told = own.reindex(test)
    predicted = told["predicted"].astype(object).where(told["predicted"].notna(), None).to_numpy()
    features = str(own["features"].iloc[0]) if "features" in own else DEFAULT_FEATURES
    silent = np.where(test.isin(own.index), ABSTAINED, MISSING)
    return pd.DataFrame(
        {
            "zoo": board.zoo,
            "training_zoo": board.training_zoo,
            "task": board.task,
            "protocol": board.protocol,
            "diagnoser": str(own["diagnoser"].iloc[0]),
            "features": features,
            "track": FEATURE_SETS[features].track,
            "config_id": test,
            "label": answers["label"].to_numpy(dtype=object),
            "predicted": predicted,
            "probability": _probability(told, predicted),
            "label_probability": _probability(told, answers["label"].to_numpy(dtype=object)),
            "regret": cases.regret(board.task, test, predicted),
            "clear": answers["clear"].to_numpy(),
            "reason": pd.Series(silent, dtype=object).where(pd.isna(predicted), None).to_numpy(),
            "package_version": version("mdzoo"),
        }
    )


def _probability(told: pd.DataFrame, answers: np.ndarray) -> np.ndarray:
    """The probability that a file gives to some answers; NaN where it gives none."""
    named = [PROBABILITY + str(answer) for answer in answers]
    shares = told.filter(like=PROBABILITY)
    if shares.empty:
        return np.full(len(told), np.nan)
    places = shares.columns.get_indexer(pd.Index(named))
    return np.where(places >= 0, shares.to_numpy(dtype=float)[np.arange(len(told)), places], np.nan)
