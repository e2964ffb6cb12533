"""Releases: the selections of a benchmark, frozen under a name, so that results of any day can be compared.

A release lists the hash of every selection (`Split.split_id`) by board. A board whose selections are those of a
release carries its name on the leaderboard; a changed label, grid or draw gives other hashes, and no name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

from diagnose.boards import Board
from zoo.config import content_id

SHIPPED = "releases"
"""Folder of the releases that come with the package."""


@dataclass(frozen=True)
class Release:
    """Frozen selections.

    Attributes:
        name: Its name with its version, such as `mdtree-1`.
        boards: For each board by name, its selections: hash -> the draws that make it.
    """

    name: str
    boards: Mapping[str, Mapping[str, list[int]]]

    @cached_property
    def label(self) -> str:
        """Its name and the hash of all that it holds, as on the leaderboard."""
        return f"{self.name} ({content_id(json.dumps(self.boards, sort_keys=True), 8)})"

    def covers(self, board: Board) -> bool:
        """Whether a board has just the selections of this release."""
        return self.boards.get(board.name) == _selections(board)

    def check(self, boards: Iterable[Board]) -> None:
        """Refuse boards that are not those of this release.

        Raises:
            ValueError: If a board has other selections, or one of the release is missing.
        """
        found = {board.name: board for board in boards}
        if missing := [name for name in self.boards if name not in found]:
            raise ValueError(
                f"release {self.name} has {len(missing)} boards that these zoos and options do not give, such as "
                f"{missing[0]}; run it on the zoos, the draws and the protocols it was frozen with"
            )
        if other := [name for name in self.boards if not self.covers(found[name])]:
            raise ValueError(
                f"{len(other)} boards have other selections than release {self.name}, such as {other[0]}: the "
                "zoos' labels or the draws differ; run it on the zoos and the draws it was frozen with"
            )

    def to_json(self) -> str:
        """The release as a file."""
        return json.dumps({"name": self.name, "boards": self.boards}, separators=(",", ":"), sort_keys=True)


def freeze(name: str, boards: Iterable[Board]) -> Release:
    """The selections of some boards under a name."""
    return Release(name, {board.name: _selections(board) for board in boards})


def from_json(text: str, source: str) -> Release:
    """The release in a file.

    Args:
        text: The file's text.
        source: What to call the file in an error.

    Raises:
        ValueError: If the text is no release.
    """
    try:
        found = json.loads(text)
        return Release(found["name"], found["boards"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{source} is no benchmark release ({error!r}); `mdzoo benchmark --freeze NAME` writes one"
        ) from error


def shipped() -> list[Release]:
    """The releases that come with the package."""
    folder = files("diagnose") / SHIPPED
    return [
        from_json(file.read_text(), file.name)
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".json")
    ]


def release_of(board: Board, releases: Iterable[Release]) -> str | None:
    """The label of the first release whose selections a board has; None if it is of none."""
    return next((release.label for release in releases if release.covers(board)), None)


def _selections(board: Board) -> dict[str, list[int]]:
    drawn: dict[str, list[int]] = {}
    for split in board.splits:
        drawn.setdefault(split.split_id, []).append(split.draw)
    return drawn
