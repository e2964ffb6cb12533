"""What is competed on: the selections of every task, and of the authors' zoo."""

from __future__ import annotations

import pytest

from diagnose import PUBLISHED_PROTOCOLS, Cases, boards, seeds_of
from zoo.tables import FAILURE_TASKS, REMEDY_TASKS

GOAL = {
    ("temperature", "random_cells"): [1, 2, 4, 8, 12, 24],
    ("temperature", "data_amount_limited"): [5_000, 10_000, 15_000],
    ("temperature", "width_limited"): [2, 3, 4],
    ("width", "random_data_amount"): [1, 3],
    ("width", "data_amount_limited"): [5_000, 15_000],
    ("data", "random_width"): [1, 2],
    ("data", "width_limited"): [32, 64],
}
TEST_ROWS = {"temperature": 1560, "width": 1649, "data": 634}


def test_a_board_has_one_level_and_every_draw(noisy_cases: Cases) -> None:
    found = list(boards({"noisy": noisy_cases}, (1, 2, 3)))
    assert {board.task for board in found} == {*FAILURE_TASKS, *REMEDY_TASKS}
    for board in found:
        assert {split.level for split in board.splits} == {board.level}
        assert [split.draw for split in board.splits] == [1, 2, 3]
    assert len({board.name for board in found}) == len(found)


def test_no_configuration_is_on_both_sides_of_any_task(noisy_cases: Cases, clean_cases: Cases) -> None:
    found = list(boards({"a": noisy_cases, "b": clean_cases}, (1, 2)))
    assert {board.protocol for board in found if board.task == "remedy"} >= {
        "random_cells_all",
        "transfer_all",
    }
    for board in found:
        for split in board.splits:
            assert not set(split.training) & set(split.test)


def test_the_whole_question_is_learned_from_clean_and_noisy_labels_alike(noisy_cases: Cases) -> None:
    noise = noisy_cases.settings["label_noise"]
    for board in boards({"noisy": noisy_cases}, (1,)):
        for split in board.splits:
            assert noise.loc[split.training].nunique() == (2 if board.task in REMEDY_TASKS else 1)


def test_equal_selections_have_equal_hashes_and_others_do_not(noisy_cases: Cases) -> None:
    for board in boards({"noisy": noisy_cases}, (1, 2, 3)):
        told = {split.split_id: (tuple(split.training), tuple(split.test)) for split in board.splits}
        assert len(set(told.values())) == len(told)
        if board.protocol.endswith("_limited"):
            assert len(told) == 1


@pytest.mark.parametrize(("learn_from", "suffix"), [("clean", ""), ("noisy", "_from_noisy")])
def test_the_twenty_published_selections(authors_cases: Cases, learn_from: str, suffix: str) -> None:
    found = list(boards({"mdtree": authors_cases}, seeds_of(2), [PUBLISHED_PROTOCOLS[learn_from]]))
    levels: dict[tuple[str, str], list[int]] = {}
    for board in found:
        levels.setdefault((board.task, board.protocol.removesuffix(suffix)), []).append(board.level)
        noise = authors_cases.settings["label_noise"]
        for split in board.splits:
            assert set(noise.loc[split.training]) == {0.0 if learn_from == "clean" else 0.1}
            assert len(split.test) == TEST_ROWS[board.task] or learn_from == "noisy"
    assert levels == GOAL
