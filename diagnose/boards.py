"""Boards: what diagnosers compete on: a task, a protocol and a level of it on a zoo, with all selections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, permutations
from urllib.parse import quote

import pandas as pd

from diagnose.cases import Cases
from diagnose.protocols import (
    PROTOCOLS,
    PROTOCOLS_ALL,
    PROTOCOLS_FROM_NOISY,
    Protocol,
    Split,
    leave_one_data_set_out,
    limited,
    random_cells,
    transfer,
)
from zoo.tables import FAILURE_TASKS, REMEDY_TASKS

Protocols = Mapping[str, Mapping[str, Protocol]]
"""For each task the protocols within one zoo, by name."""

ZOO_PROTOCOLS: Protocols = {
    **dict.fromkeys(FAILURE_TASKS, PROTOCOLS),
    **dict.fromkeys(REMEDY_TASKS, PROTOCOLS_ALL),
}
"""Those of a zoo: the published questions from clean labels to noisy ones, the whole question from all to all."""

BOTH_DIRECTIONS: Protocols = {
    **dict.fromkeys(FAILURE_TASKS, PROTOCOLS | PROTOCOLS_FROM_NOISY),
    **dict.fromkeys(REMEDY_TASKS, PROTOCOLS_ALL),
}
"""The same, and the published questions from noisy labels to clean ones."""

_PUBLISHED_LEVELS: Mapping[str, Mapping[str, tuple[Sequence[str] | str, tuple[int, ...]]]] = {
    "temperature": {
        "random_cells": (("data_amount", "width"), (1, 2, 4, 8, 12, 24)),
        "data_amount_limited": ("data_amount", (5_000, 10_000, 15_000)),
        "width_limited": ("width", (2, 3, 4)),
    },
    "width": {
        "random_data_amount": (("data_amount",), (1, 3)),
        "data_amount_limited": ("data_amount", (5_000, 15_000)),
    },
    "data": {
        "random_width": (("width",), (1, 2)),
        "width_limited": ("width", (32, 64)),
    },
}
"""Twenty selections of the published curves: what is drawn or limited, and how much of it is learned from."""


def _published(learn_from: str) -> Protocols:
    def protocol(axes: Sequence[str] | str, levels: tuple[int, ...]) -> Protocol:
        if isinstance(axes, str):
            return partial(_limited, axis=axes, levels=levels, learn_from=learn_from)
        return partial(random_cells, axes=axes, levels=levels, learn_from=learn_from)

    return {
        task: {name: protocol(*what) for name, what in protocols.items()}
        for task, protocols in _PUBLISHED_LEVELS.items()
    }


def _limited(
    rows: pd.DataFrame, draws: Sequence[int], axis: str, levels: tuple[int, ...], learn_from: str
) -> Iterator[Split]:
    return limited(rows, axis, draws, levels, learn_from)


_REMEDY_PROTOCOLS = {
    "random_cells_all": partial(random_cells, levels=(4, 12, 24), learn_from="all"),
    "data_amount_limited_all": partial(_limited, axis="data_amount", levels=(15_000,), learn_from="all"),
    "width_limited_all": partial(_limited, axis="width", levels=(8,), learn_from="all"),
}

PUBLISHED_PROTOCOLS: Mapping[str, Protocols] = {
    "clean": _published("clean"),
    "noisy": _published("noisy"),
    "remedies": dict.fromkeys(REMEDY_TASKS, _REMEDY_PROTOCOLS),
}
"""Those of the authors' zoo by what is learned from: clean labels as published, noisy ones, and for the whole
question both."""


def protocols_of(published: bool, both: bool) -> list[Protocols]:
    """What a benchmark asks within each zoo.

    Args:
        published: Whether the zoo is the authors'.
        both: Whether the published questions are learned from noisy labels too.
    """
    if published:
        asked = ("clean", "noisy", "remedies") if both else ("clean", "remedies")
        return [PUBLISHED_PROTOCOLS[name] for name in asked]
    return [BOTH_DIRECTIONS if both else ZOO_PROTOCOLS]


@dataclass(frozen=True, eq=False)
class Board:
    """A task, a protocol and a level of it on a zoo.

    Attributes:
        zoo: Name of the zoo diagnosed.
        learned: Names of the zoos learned from.
        task: What is asked.
        protocol: Name of the protocol.
        level: Size of the training side, as the protocol counts it.
        splits: Its selections, one a draw.
    """

    zoo: str
    learned: tuple[str, ...]
    task: str
    protocol: str
    level: int
    splits: tuple[Split, ...]

    @property
    def training_zoo(self) -> str:
        """Names of the zoos learned from, joined by +."""
        return "+".join(self.learned)

    @property
    def name(self) -> str:
        """What tells it from all other boards, as a file name."""
        zoos = self.zoo if self.training_zoo == self.zoo else f"{self.zoo}~{self.training_zoo}"
        return quote(f"{zoos}~{self.task}~{self.protocol}~{self.level}", safe="+~")


def boards(
    zoos: Mapping[str, Cases], draws: Sequence[int], protocols: Sequence[Protocols] = (ZOO_PROTOCOLS,)
) -> Iterator[Board]:
    """All boards on some zoos: each within itself, the transfer between any two, leave one data set out.

    Args:
        zoos: Cases by the zoo's name.
        draws: Seeds of the draws, see `diagnose.protocols.seeds_of`.
        protocols: Those within each zoo.

    Yields:
        Boards with at least one selection.
    """
    for task in (*FAILURE_TASKS, *REMEDY_TASKS):
        rows = {name: cases.rows(task) for name, cases in zoos.items()}
        within = [protocol for each in protocols for protocol in each.get(task, {}).values()]
        found = _splits(rows, draws, within, "all" if task in REMEDY_TASKS else "clean")
        for (learned, zoo, protocol, level), group in groupby(found, _place):
            yield Board(zoo, learned, task, protocol, level, tuple(split for *_, split in group))


Found = tuple[tuple[str, ...], str, Split]
"""Zoos learned from, zoo diagnosed, and a selection."""


def _place(found: Found) -> tuple[tuple[str, ...], str, str, int]:
    learned, diagnosed, split = found
    return learned, diagnosed, split.protocol, split.level


def _splits(
    rows: Mapping[str, pd.DataFrame], draws: Sequence[int], protocols: Sequence[Protocol], learn_from: str
) -> Iterator[Found]:
    """All selections of a task, those of a board together."""
    for name, own in rows.items():
        for protocol in protocols:
            for split in protocol(own, draws):
                yield (name,), name, split
    for learned, diagnosed in permutations(rows, 2):
        for split in transfer(rows[learned], rows[diagnosed], draws, learn_from):
            yield (learned,), diagnosed, split
    yield from leave_one_data_set_out(rows, draws, learn_from)
