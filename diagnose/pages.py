"""The leaderboard as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from diagnose.features import FEATURE_SETS
from diagnose.leaderboard import ENTRY

LEGEND = (
    "Percent of the test configurations diagnosed correctly: mean over the draws, and its 95% interval, for which "
    "draws and configurations are resampled; an answer withheld is a wrong one. The best of a column in bold, of "
    "those that see no hidden hyperparameters. A column is a level of its protocol (cells drawn, the largest data "
    "amount or width learned from, or zoos learned from), with the configurations: learned from → diagnosed."
)

VERSUS = (
    "Accuracy less that of `{versus}` on the same draws and configurations, in points, with the 95% interval of the "
    "difference; in bold where it leaves out zero."
)

MEASURES = (
    "Means over the levels above. Clear, ambiguous: accuracy where the label is beyond doubt, and where it is not. "
    "Calibration: expected calibration error of the probabilities, in percent. Regret: accuracy lost by acting on "
    "the diagnosis, in points. Seconds: fit and prediction of one selection."
)

RANKED = (
    "Over the boards (protocol x level) of each question: the mean rank, the share of pairings won, and the Elo "
    "rating (mean 1000) with its 95% interval over boards. Those that share a letter do not differ significantly in "
    "mean rank (Friedman and Nemenyi, 5%)."
)

_MEASURES = {
    "accuracy": ("accuracy", 1),
    "clear": ("accuracy_clear", 1),
    "ambiguous": ("accuracy_ambiguous", 1),
    "balanced": ("balanced_accuracy", 1),
    "answered": ("answered", 1),
    "calibration": ("calibration_error", 1),
    "log loss": ("log_loss", 2),
    "regret": ("regret", 2),
    "seconds": ("seconds", 2),
}


def markdown(leaderboard: pd.DataFrame, rankings: pd.DataFrame) -> str:
    """The page: what features cost, the rankings, and for each zoo and question a table a protocol.

    Diagnosers are sorted by their mean over the levels, best first. One of the track `hidden` is never the
    best: it sees what the diagnosis is about.

    Args:
        leaderboard: Rows of the table `leaderboard`.
        rankings: Rows of the table `rankings`.
    """
    lines = ["# Leaderboard", "", *_releases(leaderboard), LEGEND, "", *_costs(leaderboard), ""]
    if len(rankings):
        lines += ["## Rankings", "", RANKED, "", *_rankings(rankings)]
    for (zoo, learned, task), part in leaderboard.groupby(["zoo", "training_zoo", "task"], sort=False):
        lines += [f"## {zoo}, {task}" + ("" if zoo == learned else f" (learned from {learned})"), ""]
        for protocol, board in part.groupby("protocol", sort=False):
            lines += [f"### {protocol}", "", *_accuracies(board), ""]
            if board["versus"].notna().any():
                versus = board["versus"].dropna().iloc[0]
                lines += [VERSUS.format(versus=versus), "", *_differences(board), ""]
            lines += [MEASURES, "", *_measures(board), ""]
    return "\n".join(lines)


def _releases(leaderboard: pd.DataFrame) -> Iterator[str]:
    """Which frozen benchmarks the boards are of."""
    boards = leaderboard.drop_duplicates(["zoo", "training_zoo", "task", "protocol", "level"])
    counts = boards["release"].fillna("no release").value_counts(sort=False)
    yield "Selections: " + "; ".join(f"{n} boards of {name}" for name, n in counts.items()) + "."
    yield ""


def _costs(leaderboard: pd.DataFrame) -> Iterator[str]:
    """What the feature sets take."""
    yield from _head(["features", "track", "trained models", "sample passes"], numbers=2)
    for (name, track), rows in leaderboard.groupby(["features", "track"], sort=False):
        models, passes = rows["models"].mean(), rows["sample_passes"].mean()
        least = f"at least {FEATURE_SETS[name].models}" if name in FEATURE_SETS else ""
        known = pd.notna(models)
        yield _line(
            [str(name), str(track), f"{models:g}" if known else least, f"{passes:,.0f}" if known else ""]
        )


def _rankings(rankings: pd.DataFrame) -> Iterator[str]:
    for (zoo, task), rows in rankings.fillna({"zoo": "", "task": ""}).groupby(["zoo", "task"], sort=False):
        yield "### " + (f"{zoo}, {task}" if zoo else "The published questions of all zoos")
        yield ""
        yield from _head([*ENTRY, "mean accuracy", "mean rank", "wins (%)", "Elo", "alike"], numbers=5)
        for row in rows.to_dict("records"):
            elo = "{elo:.0f} [{elo_low:.0f}, {elo_high:.0f}]"
            cells = ["{diagnoser}", "{features}", "{track}", "{mean_accuracy:.1f}", "{mean_rank:.1f}"]
            yield _line([*cells, "{win_rate:.0f}", elo, "{cliques}"]).format_map(row)
        yield ""


def _accuracies(board: pd.DataFrame) -> Iterator[str]:
    """The table of a protocol."""
    sizes = board.groupby("level")[["training_rows", "test_rows"]].first()
    head = [f"{level:,} ({a:.0f} → {b:.0f})" for level, a, b in sizes.itertuples()]
    yield from _head([*ENTRY, *head], numbers=len(head))
    shown = board[board["track"] != "hidden"]
    best = shown.groupby("level")["accuracy"].max().round(1)
    for entry, rows in _ordered(board):
        cells = []
        for level in sizes.index:
            row = rows.loc[level] if level in rows.index else None
            cells.append("" if row is None else _cell(row, best[level] if level in best.index else None))
        yield _line([*entry, *cells])


def _cell(row: pd.Series, best: float | None) -> str:
    number = f"{row['accuracy']:.1f}"
    number = f"**{number}**" if best is not None and round(row["accuracy"], 1) == best else number
    return f"{number} [{row['low']:.1f}, {row['high']:.1f}]"


def _differences(board: pd.DataFrame) -> Iterator[str]:
    """The table of differences to one diagnoser."""
    levels = sorted(board["level"].unique())
    yield from _head(["diagnoser", "features", *(f"{level:,}" for level in levels)], numbers=len(levels))
    for entry, rows in _ordered(board[board["versus"].notna()]):
        cells = []
        for level in levels:
            row = rows.loc[level] if level in rows.index else None
            cells.append("" if row is None else _difference(row))
        yield _line([*entry[:2], *cells])


def _difference(row: pd.Series) -> str:
    low, high = row["difference_low"], row["difference_high"]
    number = f"{row['difference']:+.1f}"
    number = f"**{number}**" if low > 0 or high < 0 else number
    return f"{number} [{low:+.1f}, {high:+.1f}]"


def _measures(board: pd.DataFrame) -> Iterator[str]:
    """The other measures, means over the levels."""
    yield from _head(["diagnoser", "features", *_MEASURES], numbers=len(_MEASURES))
    for entry, rows in _ordered(board):
        cells = [_number(rows[column].mean(), digits) for column, digits in _MEASURES.values()]
        yield _line([*entry[:2], *cells])


def _ordered(board: pd.DataFrame) -> Iterable[tuple[tuple[str, ...], pd.DataFrame]]:
    """The entries with their rows by level, the best mean accuracy first."""
    groups = board.groupby(ENTRY, sort=False)
    entries = [(tuple(map(str, entry)), rows.set_index("level")) for entry, rows in groups]
    return sorted(entries, key=lambda found: -found[1]["accuracy"].mean())


def _number(value: float, digits: int) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def _head(names: Sequence[str], numbers: int) -> Iterator[str]:
    """The head of a table whose last columns are numbers."""
    yield _line(names)
    yield _line(["---"] * (len(names) - numbers) + ["---:"] * numbers)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
