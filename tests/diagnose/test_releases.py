"""Frozen selections."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diagnose import Cases, boards
from diagnose.boards import Board
from diagnose.releases import freeze, from_json, release_of, shipped


@pytest.fixture(scope="module")
def competed(clean_cases: Cases) -> list[Board]:
    return list(boards({"clean": clean_cases}, (1, 2)))


def test_a_release_survives_its_file_and_names_its_boards(competed: list[Board]) -> None:
    release = freeze("mine-1", competed)
    again = from_json(release.to_json(), "the file")
    again.check(competed)
    assert again == release
    assert {release_of(board, [again]) for board in competed} == {release.label}
    assert release.label.startswith("mine-1 (")


def test_other_draws_are_no_part_of_a_release(competed: list[Board], clean_cases: Cases) -> None:
    release = freeze("mine-1", competed)
    others = list(boards({"clean": clean_cases}, (1, 3)))
    assert not any(release.covers(board) for board in others)
    with pytest.raises(ValueError, match="boards have other selections than release mine-1, such as clean~"):
        release.check(others)
    with pytest.raises(ValueError, match="has 1 boards that these zoos and options do not give, such as"):
        release.check(competed[1:])


def test_a_changed_side_changes_the_hash(competed: list[Board]) -> None:
    release = freeze("mine-1", competed)
    board = competed[0]
    fewer = replace(board.splits[0], test=board.splits[0].test[1:])
    changed = replace(board, splits=(fewer, *board.splits[1:]))
    assert release.covers(board)
    assert not release.covers(changed)
    assert freeze("mine-1", [changed, *competed[1:]]).label != release.label


def test_what_is_no_release_is_refused() -> None:
    for text in ("{", "[1]", '{"name": "mine-1"}'):
        with pytest.raises(ValueError, match="the file is no benchmark release"):
            from_json(text, "the file")


def test_the_shipped_release_is_of_the_authors_zoo(authors_cases: Cases) -> None:
    from diagnose import PUBLISHED_PROTOCOLS, seeds_of

    found = list(boards({"mdtree": authors_cases}, seeds_of(50), list(PUBLISHED_PROTOCOLS.values())))
    (release,) = shipped()
    release.check(found)
    assert len(release.boards) == len(found) == 50
