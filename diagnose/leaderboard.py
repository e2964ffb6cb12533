"""The leaderboard: how good each diagnoser is on each board, with intervals, and against the MD tree."""

from __future__ import annotations

import numpy as np
import pandas as pd

from diagnose.intervals import Values, interval, matrices, resampled_means
from diagnose.scores import judged_rows, scores
from zoo.tables import SCHEMAS

VERSUS = "md_tree"
"""Whom all others are compared with: the MD tree by the published search."""

ENTRY = ["diagnoser", "features", "track"]

_MEANS = (
    *("accuracy", "balanced_accuracy", "accuracy_clear", "accuracy_ambiguous", "answered", "log_loss"),
    *("calibration_error", "regret", "seconds", "training_rows", "test_rows"),
)


def aggregate(
    predictions: pd.DataFrame,
    costs: pd.DataFrame | None = None,
    release: str | None = None,
    versus: str = VERSUS,
    scored: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The entries of one board.

    Accuracy is the mean over the draws of the accuracy on what a draw diagnoses. Its interval, and that of the
    difference to another diagnoser, take draws and configurations as samples (see `diagnose.intervals`).

    Args:
        predictions: Rows of the table `predictions` of a single board, one for each draw.
        costs: From `diagnose.feature_costs` of the zoo diagnosed; None: they are not known.
        release: Label of the frozen benchmark that the board is of.
        versus: Name of the diagnoser to compare with; where it is not among them, nothing is compared.
        scored: From `diagnose.scores.scores` of the predictions; None computes it.

    Returns:
        Rows of the table `leaderboard`, in the order in which the diagnosers came.

    Raises:
        ValueError: If there are no rows, or those of several boards.
    """
    place = predictions[["zoo", "training_zoo", "task", "protocol", "level"]].drop_duplicates()
    if len(place) != 1:
        raise ValueError(f"aggregate takes the predictions of one board; these are of {len(place)}")
    scored = scores(predictions) if scored is None else scored
    table = scored.groupby(ENTRY, sort=False, observed=True).agg(
        **{name: (name, "mean") for name in _MEANS},
        spread=("accuracy", "std"),
        draws=("draw", "size"),
        package_version=("package_version", "first"),
    )
    resamples = resampled_means(matrices(judged_rows(predictions)))
    return (
        table.reset_index()
        .astype(dict.fromkeys(ENTRY, str))
        .assign(release=release, **{str(name): value for name, value in place.iloc[0].items()})
        .merge(_intervals(resamples), on="diagnoser")
        .merge(_differences(scored, resamples, versus), on="diagnoser")
        .merge(_costs(costs), on="features", how="left")[SCHEMAS["leaderboard"].names]
    )


def _intervals(resamples: dict[str, Values]) -> pd.DataFrame:
    rows = [(name, *interval(means)) for name, means in resamples.items()]
    return pd.DataFrame(rows, columns=["diagnoser", "low", "high"])


def _differences(scored: pd.DataFrame, resamples: dict[str, Values], versus: str) -> pd.DataFrame:
    """Of all but the one that is compared with."""
    columns = ["diagnoser", "versus", "difference", "difference_low", "difference_high"]
    if versus not in resamples:
        return pd.DataFrame([(name, None, *[np.nan] * 3) for name in resamples], columns=columns)
    accuracies = scored.groupby("diagnoser", observed=True)["accuracy"].mean()
    rows = [
        (name, versus, accuracies[name] - accuracies[versus], *interval(means - resamples[versus]))
        if name != versus
        else (name, None, *[np.nan] * 3)
        for name, means in resamples.items()
    ]
    return pd.DataFrame(rows, columns=columns)


def _costs(costs: pd.DataFrame | None) -> pd.DataFrame:
    columns = ["features", "models", "sample_passes"]
    if costs is None:
        return pd.DataFrame(columns=columns).astype(
            {"features": str, "models": float, "sample_passes": float}
        )
    return costs.reset_index()[columns]
