"""Rankings: who leads over many boards.

Elo ratings by bencheval, critical differences by scikit-posthocs.

A board is what a data set is to a benchmark of classifiers: on it two diagnosers meet. Entries of the hidden track
see what the diagnosis is about, and are not ranked.
"""

from __future__ import annotations

from importlib.metadata import version
from string import ascii_lowercase

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from diagnose.leaderboard import ENTRY
from zoo.tables import FAILURE_TASKS, SCHEMAS

RESAMPLES = 100
"""Of the boards, for the interval of an Elo rating."""

SIGNIFICANCE = 0.05

BOARD = ["zoo", "training_zoo", "task", "protocol", "level"]


def rankings(leaderboard: pd.DataFrame) -> pd.DataFrame:
    """Everybody's rank: within each zoo and task, and over the published questions of all zoos.

    Elo ratings are those of Bradley and Terry (Biometrika, 1952) by maximum likelihood, a draw half a win, of mean
    1000; their intervals resample the boards. Mean ranks that differ by less than the critical difference of
    Nemenyi's test (Demšar, JMLR 2006, section 3.2.2) share a letter.

    Args:
        leaderboard: Rows of the table `leaderboard`.

    Returns:
        Rows of the table `rankings`, best mean rank first; of those diagnosers alone that stand on all boards.
    """
    seen = leaderboard[leaderboard["track"] != "hidden"]
    scopes: list[tuple[str | None, str | None, pd.DataFrame]] = [
        (str(zoo), str(task), own) for (zoo, task), own in seen.groupby(["zoo", "task"], sort=False)
    ]
    published = seen[seen["task"].isin(FAILURE_TASKS)]
    if published[["zoo", "task"]].drop_duplicates().shape[0] > 1:
        scopes.append((None, None, published))
    parts = [_ranked(own).assign(zoo=zoo, task=task) for zoo, task, own in scopes]
    ranked = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=SCHEMAS["rankings"].names)
    return ranked.assign(package_version=version("mdzoo"))[SCHEMAS["rankings"].names]


def accuracies(leaderboard: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by board and diagnoser, of those diagnosers that stand on all boards."""
    wide = leaderboard.pivot_table("accuracy", BOARD, "diagnoser", sort=False, observed=True)
    return wide.dropna(axis="columns")


def _ranked(own: pd.DataFrame) -> pd.DataFrame:
    """The rankings of one scope."""
    wide = accuracies(own)
    table = pd.DataFrame(
        {
            "mean_accuracy": wide.mean(),
            "mean_rank": wide.rank(axis="columns", ascending=False).mean(),
            "boards": len(wide),
        }
    )
    table = table.join(_elo(wide)).join(_cliques(wide)).sort_values("mean_rank", kind="stable")
    entries = own[ENTRY].drop_duplicates("diagnoser").set_index("diagnoser")
    return table.join(entries).rename_axis("diagnoser").reset_index()


def _elo(wide: pd.DataFrame) -> pd.DataFrame:
    """Win rate in percent, Elo rating and its 95% interval, by diagnoser.

    One more board on which all are equal keeps the rating of who always wins, or never, finite.
    """
    rivals = max(len(wide.columns) - 1, 1)
    wins = 100 * (1 - (wide.rank(axis="columns", ascending=False).mean() - 1) / rivals)
    draws = np.random.default_rng(0)
    boards = [draws.integers(len(wide), size=len(wide)) for _ in range(RESAMPLES)]
    with threadpool_limits(1):  # matrices so small lose by being shared out
        resampled = pd.DataFrame([_ratings(wide.iloc[places]) for places in boards])
    low, high = (resampled.quantile(share) for share in (0.025, 0.975))
    return pd.DataFrame({"win_rate": wins, "elo": _ratings(wide), "elo_low": low, "elo_high": high})


def _ratings(wide: pd.DataFrame) -> pd.Series:
    """Elo ratings from accuracies by board and diagnoser."""
    from bencheval.elo_utils import EloHelper

    if len(wide.columns) < 2:
        return pd.Series(1000.0, index=wide.columns)
    errors = np.vstack([100 - wide.to_numpy(), np.zeros(len(wide.columns))])
    played = pd.DataFrame(
        {
            "method": np.tile(wide.columns.to_numpy(dtype=object), len(errors)),
            "task": np.repeat(np.arange(len(errors)), len(wide.columns)),
            "metric_error": errors.ravel(),
        }
    )
    return EloHelper().compute_mle_elo_from_ranks(played)


def _cliques(wide: pd.DataFrame) -> pd.Series:
    """The letters of each diagnoser: one for each largest run of neighbours in rank that differ from no other."""
    from scikit_posthocs import posthoc_nemenyi_friedman

    ranks = wide.rank(axis="columns", ascending=False).mean().sort_values(kind="stable")
    if len(wide) < 2 or len(ranks) < 3:
        return pd.Series("", index=ranks.index, name="cliques")
    alike = posthoc_nemenyi_friedman(wide.reset_index(drop=True)) >= SIGNIFICANCE
    alike = alike.loc[ranks.index, ranks.index].to_numpy()
    letters, last, found = [""] * len(ranks), -1, 0
    for first in range(len(ranks)):
        end = max(place for place in range(first, len(ranks)) if place == first or alike[first, place])
        if end > last:
            letter = ascii_lowercase[found % 26]
            letters[first : end + 1] = [own + letter for own in letters[first : end + 1]]
            last, found = end, found + 1
    return pd.Series(letters, index=ranks.index, name="cliques")
