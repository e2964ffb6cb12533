"""The arena: a folder in which diagnosers compete, and what is known there of what they said.

    predictions/<board>~<diagnoser>.parquet   all that a diagnoser said on a board; the file is the commit
    scored/<board>~<name>.parquet             what came in a file, see `diagnose.submissions`

A file carries the fingerprints of the diagnoser and of the cases it was made from. As long as both hold, nothing
in it is asked again: another diagnoser or more draws run their own cells only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import pandas as pd
import pyarrow as pa
from joblib import Parallel, delayed

from diagnose.baselines import Diagnoser
from diagnose.boards import Board
from diagnose.cases import Cases
from diagnose.entrants import fingerprint
from diagnose.evaluate import answers, cells_in, cells_of, expanded, in_memory
from zoo.config import content_id
from zoo.storage import Store
from zoo.tables import SCHEMAS, from_bytes, to_bytes

KEY = b"mdzoo_key"
"""Name of the metadata of a file: the hash of the diagnoser and of the cases."""

ENTERED, SCORED = "predictions", "scored"
"""Folders: of what the diagnosers said here, and of what came in files."""


@dataclass(frozen=True, eq=False)
class Arena:
    """Boards, who competes on them, and where.

    Attributes:
        store: The folder.
        zoos: Cases by the zoo's name.
        boards: What is competed on.
        diagnosers: Who competes.
    """

    store: Store
    zoos: Mapping[str, Cases]
    boards: Sequence[Board]
    diagnosers: Sequence[Diagnoser]
    _hashes: dict[tuple[str, ...], str] = field(default_factory=dict)

    def due(self) -> list[tuple[Board, Diagnoser]]:
        """Who has something left to say, and where."""
        return [
            (board, diagnoser)
            for board in self.boards
            for diagnoser in self.diagnosers
            if board.task in diagnoser.tasks and not self._is_whole(board, diagnoser)
        ]

    def run(self, due: Sequence[tuple[Board, Diagnoser]], jobs: int = 1) -> Iterator[int]:
        """Ask what is not known yet; what is done is kept, however this ends.

        Args:
            due: From `due`.
            jobs: Processes.

        Yields:
            For each pair, as it is done, how many selections were asked.
        """
        yield from Parallel(n_jobs=jobs, return_as="generator_unordered")(
            delayed(_ask)(self.store, self._seen_on(board), board, diagnoser, self.key(board, diagnoser))
            for board, diagnoser in due
        )

    def key(self, board: Board, diagnoser: Diagnoser) -> str:
        """Hash of what decides what a diagnoser says on a board, its selections apart."""
        cases = [self._hash(zoo, board.task, diagnoser.track) for zoo in (*board.learned, board.zoo)]
        own = ("diagnoser", diagnoser.name)
        if own not in self._hashes:
            self._hashes[own] = fingerprint(diagnoser)
        return content_id("\n".join([self._hashes[own], *cases]))

    def _hash(self, *key: str) -> str:
        """Hash of what a zoo shows on a task and a track."""
        if key not in self._hashes:
            zoo, task, track = key
            cases = self.zoos[zoo]
            frames = cases.sample(task, track), cases.gains[task], cases.answers[task]
            rows = [pd.util.hash_pandas_object(frame).to_numpy().tobytes() for frame in frames]
            names = [",".join(map(str, frame.columns)).encode() for frame in frames]
            self._hashes[key] = content_id(b"\n".join([*names, *rows]))
        return self._hashes[key]

    def _seen_on(self, board: Board) -> dict[str, Cases]:
        return {name: self.zoos[name] for name in {*board.learned, board.zoo}}

    def _is_whole(self, board: Board, diagnoser: Diagnoser) -> bool:
        """Whether a diagnoser has answered all selections of a board."""
        known = _known(self.store, board, diagnoser, self.key(board, diagnoser))
        return known is not None and cells_of(board, diagnoser) <= cells_in(known)


def predictions(store: Store, board: Board, names: Sequence[str]) -> pd.DataFrame:
    """What was said on a board: by diagnosers, and in files; a row for each draw.

    Args:
        store: The arena's folder.
        board: What was asked.
        names: Diagnosers; those that have said nothing on the board are left out.

    Returns:
        Rows of the table `predictions`; texts are categorical.
    """
    begins = f"{SCORED}/{board.name}~"
    scored = [name for name in store.names(SCORED, ".parquet") if name.startswith(begins)]
    entered = [file_of(ENTERED, board, name) for name in names]
    files = [name for name in (*entered, *scored) if store.exists(name)]
    tables = [from_bytes("predictions", store.read(name), name) for name in files]
    return in_memory([expanded(table, board) for table in tables])


def file_of(folder: str, board: Board, name: str) -> str:
    """Where what was said on a board lies, by who said it."""
    return f"{folder}/{board.name}~{quote(name, safe=' ')}.parquet"


def _ask(store: Store, zoos: Mapping[str, Cases], board: Board, diagnoser: Diagnoser, key: str) -> int:
    """Ask a diagnoser what is not known of it yet, and commit all; how many selections it was asked."""
    known = _known(store, board, diagnoser, key)
    said = answers(diagnoser, board, zoos, frozenset() if known is None else cells_in(known))
    table = said if known is None else pa.concat_tables([known, said])
    table = table.replace_schema_metadata({**(SCHEMAS["predictions"].metadata or {}), KEY: key.encode()})
    store.write(file_of(ENTERED, board, diagnoser.name), to_bytes(table))
    return len(cells_in(said))


def _known(store: Store, board: Board, diagnoser: Diagnoser, key: str) -> pa.Table | None:
    """What a diagnoser said on a board before, unless it or the cases are others by now."""
    name = file_of(ENTERED, board, diagnoser.name)
    if not store.exists(name):
        return None
    table = from_bytes("predictions", store.read(name), name)
    return table if (table.schema.metadata or {}).get(KEY) == key.encode() else None
