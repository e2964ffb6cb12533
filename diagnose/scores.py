"""Scores: how good the answers of a diagnoser are on one selection of a board."""

from __future__ import annotations

import numpy as np
import pandas as pd

from zoo.tables import SCHEMAS

CELL = ["zoo", "training_zoo", "task", "protocol", "level", "diagnoser", "features", "track", "draw"]
"""Columns that name a diagnoser on a selection."""

LEAST_PROBABILITY = 1e-6
"""What the log loss counts for a true label that was called impossible: 13.8 nats, not infinity."""

BINS = 10
"""Of the calibration error: equally wide."""


def scores(predictions: pd.DataFrame) -> pd.DataFrame:
    """The scores of every diagnoser on every selection.

    A prediction that is null counts as wrong: a diagnoser that fails or abstains gains nothing by it.

    Args:
        predictions: Rows of the table `predictions`, one for each draw.

    Returns:
        Rows of the table `scores`: accuracies, calibration error and regret in percent, log loss in nats.
        `balanced_accuracy` is the mean over the true labels of the share told right; `calibration_error` the
        mean distance, over the rows in each of `BINS` bins of the probability of the answer, between that
        probability and the share told right (Guo et al., On Calibration of Modern Neural Networks, ICML 2017,
        eq. 3). Both are null for a diagnoser that gives no probabilities.
    """
    judged = judged_rows(predictions)
    cells = judged.groupby(CELL, sort=False, observed=True)
    table = cells.agg(
        split_id=("split_id", "first"),
        training_rows=("training_rows", "first"),
        test_rows=("right", "size"),
        accuracy=("right", "mean"),
        accuracy_clear=("right_clear", "mean"),
        accuracy_ambiguous=("right_ambiguous", "mean"),
        answered=("answered", "mean"),
        log_loss=("surprise", "mean"),
        regret=("regret", "mean"),
        seconds=("seconds", "first"),
        package_version=("package_version", "first"),
    )
    table["balanced_accuracy"] = _balanced(judged)
    table["calibration_error"] = _calibration_error(judged)
    return table.reset_index()[SCHEMAS["scores"].names]


def judged_rows(predictions: pd.DataFrame) -> pd.DataFrame:
    """The predictions with `right`, 100 or 0, and what else is averaged."""
    right = 100.0 * (predictions["predicted"].astype(object) == predictions["label"].astype(object))
    clear = predictions["clear"].astype(bool)
    named = predictions["label_probability"].clip(lower=LEAST_PROBABILITY)
    return predictions.assign(
        right=right,
        right_clear=right.where(clear),
        right_ambiguous=right.where(~clear),
        answered=100.0 * predictions["predicted"].notna(),
        surprise=-np.log(named),
    )


def _balanced(judged: pd.DataFrame) -> pd.Series:
    by_label = judged.groupby([*CELL, "label"], sort=False, observed=True)["right"].mean()
    return by_label.groupby(level=CELL, sort=False, observed=True).mean()


def _calibration_error(judged: pd.DataFrame) -> pd.Series:
    """Over the rows that have an answer with a probability."""
    told = judged[judged["probability"].notna() & judged["predicted"].notna()]
    bins = np.minimum((told["probability"] * BINS).astype(int), BINS - 1)
    off = (100 * told["probability"] - told["right"]).groupby([*(told[c] for c in CELL), bins], observed=True)
    cells = list(range(len(CELL)))
    rows = told.groupby(CELL, observed=True).size()
    return off.sum().abs().groupby(level=cells, observed=True).sum() / rows
