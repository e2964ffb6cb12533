"""What is known of an arena is not asked again, and what is asked is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.tree import DecisionTreeClassifier

from diagnose import Cases, Diagnoser, benchmark, boards
from diagnose.arena import Arena, predictions
from diagnose.protocols import seeds_of
from zoo.storage import Folder

ASKED: list[tuple[str, int]] = []


class _Counting(DummyClassifier):
    def fit(self, X: pd.DataFrame, y: np.ndarray, sample_weight: None = None) -> DummyClassifier:
        ASKED.append((self.strategy, self.random_state))
        return super().fit(X, y)


def _entrant(name: str, strategy: str = "stratified", seeded: bool = True) -> Diagnoser:
    return Diagnoser(
        name,
        "validation",
        lambda task, seed: _Counting(strategy=strategy, random_state=seed),
        tasks=("width",),
        seeded=seeded,
    )


def _arena(root: Path, cases: Cases, diagnosers: list[Diagnoser], draws: int = 2) -> Arena:
    found = [b for b in boards({"clean": cases}, seeds_of(draws)) if b.task == "width"]
    return Arena(Folder(root), {"clean": cases}, found, diagnosers)


def _run(arena: Arena) -> int:
    """How often a diagnoser was fitted."""
    ASKED.clear()
    asked = sum(arena.run(arena.due()))
    assert asked == len(ASKED)
    return asked


def _said(arena: Arena) -> pd.DataFrame:
    names = [d.name for d in arena.diagnosers]
    parts = [predictions(arena.store, board, names).astype(object) for board in arena.boards]
    return pd.concat(parts, ignore_index=True).drop(columns="seconds")


def test_an_arena_says_what_a_benchmark_in_memory_says(tmp_path: Path, clean_cases: Cases) -> None:
    entrants = [_entrant("one"), _entrant("two", "prior", seeded=False)]
    arena = _arena(tmp_path, clean_cases, entrants)
    _run(arena)
    memory = benchmark({"clean": clean_cases}, 2, entrants).astype(object).drop(columns="seconds")
    keys = ["diagnoser", "protocol", "level", "draw", "config_id"]
    pd.testing.assert_frame_equal(
        _said(arena).sort_values(keys, ignore_index=True), memory.sort_values(keys, ignore_index=True)
    )


def test_nothing_is_asked_twice_and_more_draws_ask_only_for_theirs(
    tmp_path: Path, clean_cases: Cases
) -> None:
    first = _arena(tmp_path, clean_cases, [_entrant("one")])
    assert _run(first) == sum(len(board.splits) for board in first.boards)
    before = _said(first)
    assert _run(_arena(tmp_path, clean_cases, [_entrant("one")])) == 0
    more = _arena(tmp_path, clean_cases, [_entrant("one")], draws=3)
    assert _run(more) == len(more.boards)
    assert {seed for _, seed in ASKED} == {seeds_of(3)[-1]}
    assert _run(_arena(tmp_path, clean_cases, [_entrant("one")])) == 0
    pd.testing.assert_frame_equal(_said(first), before)
    assert set(_said(more)["draw"]) == set(seeds_of(3))


def test_another_diagnoser_runs_only_its_own_cells(tmp_path: Path, clean_cases: Cases) -> None:
    _run(_arena(tmp_path, clean_cases, [_entrant("one")]))
    both = _arena(tmp_path, clean_cases, [_entrant("one"), _entrant("two", "prior")])
    _run(both)
    assert {strategy for strategy, _ in ASKED} == {"prior"}
    assert set(_said(both)["diagnoser"]) == {"one", "two"}


def test_a_changed_diagnoser_or_a_changed_case_is_asked_again(tmp_path: Path, clean_cases: Cases) -> None:
    arena = _arena(tmp_path, clean_cases, [_entrant("one")])
    asked = _run(arena)
    assert _run(_arena(tmp_path, clean_cases, [_entrant("one", "uniform")])) == asked
    features = {t: f.assign(train_loss=f["train_loss"] + 1) for t, f in clean_cases.features.items()}
    assert (
        _run(_arena(tmp_path, replace(clean_cases, features=features), [_entrant("one", "uniform")])) == asked
    )
    assert _run(_arena(tmp_path, clean_cases, [_entrant("one", "uniform")])) == asked


def test_what_was_done_before_an_interruption_is_kept(tmp_path: Path, clean_cases: Cases) -> None:
    arena = _arena(tmp_path, clean_cases, [_entrant("one")])
    ASKED.clear()
    run = arena.run(arena.due())
    next(run)
    run.close()
    done = len(ASKED)
    assert 0 < done < sum(len(board.splits) for board in arena.boards)
    assert _run(arena) == sum(len(board.splits) for board in arena.boards) - done


@pytest.mark.parametrize("seeded", [True, False])
def test_two_processes_say_what_one_says(tmp_path: Path, clean_cases: Cases, seeded: bool) -> None:
    def tree(task: str, seed: int) -> DecisionTreeClassifier:
        return DecisionTreeClassifier(max_depth=2, random_state=seed)

    entrant = Diagnoser("tree", "parameters", tree, tasks=("width",), seeded=seeded)
    one, two = (_arena(tmp_path / name, clean_cases, [entrant]) for name in ("one", "two"))
    asked = [sum(arena.run(arena.due(), jobs)) for arena, jobs in ((one, 1), (two, 2))]
    assert asked[0] == asked[1] > 0
    pd.testing.assert_frame_equal(_said(one), _said(two))
