"""A competition from start to end: ask, judge, rank, and write it all into a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from diagnose.arena import Arena, predictions
from diagnose.baselines import Diagnoser
from diagnose.boards import Board
from diagnose.cases import Cases
from diagnose.evaluate import ABSTAINED
from diagnose.exchange import Benchmark, publish
from diagnose.leaderboard import aggregate
from diagnose.pages import markdown
from diagnose.rankings import rankings
from diagnose.releases import Release, release_of
from diagnose.scores import scores
from zoo.storage import Store
from zoo.tables import from_frame, to_bytes


class Standings(NamedTuple):
    """Where everybody stands.

    Attributes:
        leaderboard: Rows of the table `leaderboard`.
        rankings: Rows of the table `rankings`.
        page: Both as Markdown.
        failures: Rows that a diagnoser failed to answer, by its name and the reason; who abstains does not fail.
    """

    leaderboard: pd.DataFrame
    rankings: pd.DataFrame
    page: str
    failures: pd.Series


def compete(
    store: Store,
    zoos: Mapping[str, Cases],
    boards: Sequence[Board],
    diagnosers: Sequence[Diagnoser],
    costs: Mapping[str, pd.DataFrame],
    releases: Sequence[Release],
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Standings:
    """Let diagnosers compete on boards, in a folder; what is known there is not asked again.

    Args:
        store: The folder.
        zoos: Cases by the zoo's name.
        boards: What is competed on.
        diagnosers: Who competes.
        costs: What the feature sets cost, from `diagnose.feature_costs`, by the zoo's name.
        releases: Frozen benchmarks whose selections the boards may be.
        jobs: Processes.
        progress: Told how many pairs of a board and a diagnoser are done, and of how many.
    """
    arena = Arena(store, zoos, boards, diagnosers)
    due = arena.due()
    for done, _ in enumerate(arena.run(due, jobs), 1):
        progress(done, len(due))
    benchmark = Benchmark(zoos, boards, [d.name for d in diagnosers], costs, releases)
    publish(store, benchmark)
    return judge(store, benchmark)


def judge(store: Store, benchmark: Benchmark) -> Standings:
    """Judge what was said in a folder, and write `scores`, `leaderboard`, `rankings` and the page.

    Args:
        store: The folder of a competition.
        benchmark: What was competed on, and by whom.
    """
    scored, rows, failures = [], [], []
    for board in benchmark.boards:
        said = predictions(store, board, benchmark.diagnosers)
        if said.empty:
            continue
        scored.append(scores(said))
        release = release_of(board, benchmark.releases)
        rows.append(aggregate(said, benchmark.costs.get(board.zoo), release, scored=scored[-1]))
        silent = said["predicted"].isna() & (said["reason"].astype(object) != ABSTAINED)
        failed = said[silent].astype({"diagnoser": str, "reason": str})
        failures.append(failed.groupby(["diagnoser", "reason"]).size())
    leaderboard = pd.concat(rows, ignore_index=True)
    ranked = rankings(leaderboard)
    page = markdown(leaderboard, ranked)
    tables = {"scores": pd.concat(scored), "leaderboard": leaderboard, "rankings": ranked}
    for name, table in tables.items():
        store.write(f"{name}.parquet", to_bytes(from_frame(name, table)))
    store.write("leaderboard.md", page.encode())
    return Standings(leaderboard, ranked, page, pd.concat(failures).groupby(level=[0, 1]).sum())
