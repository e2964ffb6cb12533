"""The authors' two tables as one zoo of cases, so that every diagnoser can compete on them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from diagnose.cases import SETTINGS, Cases, answers_and_gains
from diagnose.features import ALIASES, CONFIG_COLUMNS, LOGARITHMS, METRICS, RUN_COLUMNS, TRACKS
from diagnose.labels import label
from diagnose.published import CASES, read_published
from zoo.tables import FAILURE_TASKS, SCHEMAS

ZOO = "mdtree"
"""Name of the authors' zoo on the leaderboard."""

FIXED: dict[str, Any] = {
    "dataset": "cifar10",
    "architecture": "resnet18",
    "learning_rate": 0.05,
    "recipe": "paper",
    "noise_seed": 0,
}
"""What all of its configurations share, as far as it is published."""


def published_cases(folder: str | Path) -> Cases:
    """The authors' clean and noisy zoos as the cases of one zoo, in the authors' order of rows.

    Answers to the published questions are the authors', and for Q2 data those from width 32 up alone, as
    published; the whole question is answered from their test accuracies. Their features are means over five
    runs: those of a single run are not published, and the tracks see the same. Of a label's confidence nothing
    is known, and its gap says whether it is clear. What they did not measure (agreement, distance) is NaN.

    Args:
        folder: Where the authors' tables lie.

    Raises:
        FileNotFoundError: If a table is not there.
        ValueError: If a table lacks columns, rows or values.
    """
    tables = read_published(folder)
    tables.index = pd.Index(
        [
            f"noise{noise:g}-width{width}-data{amount}-batch{batch}"
            for noise, width, amount, batch in tables[
                ["label_noise", "width", "data_amount", "batch_size"]
            ].itertuples(index=False)
        ],
        name="config_id",
    )
    configs, runs = _configs(tables), _runs(tables)
    settings = configs.set_index("config_id")[list(SETTINGS)]
    features = dict.fromkeys(TRACKS, _features(tables))
    return Cases(settings, features, *answers_and_gains(_labels(tables, configs, runs)))


def _configs(tables: pd.DataFrame) -> pd.DataFrame:
    """Rows of the table `configs`."""
    known = ["width", "batch_size", "data_amount", "label_noise"]
    configs = tables[known].assign(parameters=tables["para_amount"], sample_passes=0, **FIXED)
    return configs.reset_index().reindex(columns=SCHEMAS["configs"].names)


def _runs(tables: pd.DataFrame) -> pd.DataFrame:
    """Rows of the table `runs`: one a configuration, with the mean of its five."""
    runs = tables[["train_loss", "train_error"]].assign(
        validation_loss=tables["test_loss"],
        validation_error=tables["test_error"],
        test_error=100 - tables["test_accuracy"],
        status="done",
        seed=0,
    )
    runs.insert(0, "run_id", runs.index + "-0")
    return runs.reset_index().reindex(columns=SCHEMAS["runs"].names)


def _labels(tables: pd.DataFrame, configs: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Rows of the table `labels`, with the authors' own answers."""
    labels = label(configs, runs)
    theirs = {task: tables[column] for task, column, _ in CASES.values()}
    for task in FAILURE_TASKS:
        rows = labels["task"] == task
        labels.loc[rows, "label"] = labels.loc[rows, "config_id"].map(theirs[task])
    smallest = {task: width for task, _, width in CASES.values()}
    widths = labels["config_id"].map(tables["width"])
    return labels[widths >= labels["task"].map(smallest).fillna(0)]


def _features(tables: pd.DataFrame) -> pd.DataFrame:
    """Their columns, under their names and ours."""
    ours = {ours: tables[theirs] for theirs, ours in ALIASES.items() if theirs in tables}
    shared = {"learning_rate": FIXED["learning_rate"], "log_learning_rate": math.log(FIXED["learning_rate"])}
    frame = tables.assign(parameters=tables["para_amount"], **shared, **ours)
    names = [*CONFIG_COLUMNS, *RUN_COLUMNS, *METRICS, *LOGARITHMS, *ALIASES]
    return frame.reindex(columns=list(dict.fromkeys(names)))
