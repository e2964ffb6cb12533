"""Protocols: from which configurations a diagnoser may learn, and which it must diagnose.

It learns from configurations with clean labels. It diagnoses those with label noise, if the zoo has any (the
published transfer between data sets), and otherwise the clean ones left out. A protocol `..._from_noisy` is
the other direction: it learns from configurations with label noise and diagnoses the clean ones. One that is
called `..._all` learns from both and diagnoses what is left out of both: whether cleaner labels would help most
can be learned in no other way. Rows whose answer is `optimal` are dropped before anything is drawn, as
published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd

from zoo.config import content_id

PUBLISHED_DRAWS = (42, 90, 38, 18, 72)
"""Seeds of the published draws (Zhou et al., ICML 2024, as in the authors' code)."""

FIRST_OTHER_DRAW = 100
"""Seed of the sixth draw; those after it are counted on by one."""

CELL = ("data_amount", "width")

SUFFIXES = {"clean": "", "noisy": "_from_noisy", "all": "_all"}
"""What is learned from -> how the names of such protocols end."""


def seeds_of(draws: int | Sequence[int]) -> tuple[int, ...]:
    """The seeds of so many draws: the five published ones, then 100, 101, 102 and so on.

    Args:
        draws: A number of draws; or the seeds themselves, which are given back.

    Raises:
        ValueError: If there are none, or one is given twice.
    """
    if isinstance(draws, int):
        further = range(FIRST_OTHER_DRAW, FIRST_OTHER_DRAW + max(0, draws - len(PUBLISHED_DRAWS)))
        seeds = (*PUBLISHED_DRAWS, *further)[: max(0, draws)]
    else:
        seeds = tuple(draws)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"draws is {draws!r}; it must be a number of at least 1, or seeds of which no two are equal"
        )
    return seeds


@dataclass(frozen=True, eq=False)
class Split:
    """One selection of training and test configurations, neither empty, none on both sides.

    Attributes:
        protocol: Name of the protocol.
        level: Size of the training side: number of cells, or the limit itself.
        draw: Seed of the draw, and of a diagnoser that draws.
        training: `config_id` of the configurations learned from.
        test: `config_id` of those diagnosed.
    """

    protocol: str
    level: int
    draw: int
    training: pd.Index
    test: pd.Index

    @cached_property
    def split_id(self) -> str:
        """Hash of the configurations on either side: equal for draws that select the same."""
        sides = ["\n".join(sorted(side.tolist())) for side in (self.training, self.test)]
        return content_id("\n\n".join(sides).encode(), 16)


def random_cells(
    rows: pd.DataFrame,
    draws: Sequence[int] = PUBLISHED_DRAWS,
    levels: Sequence[int] | None = None,
    axes: Sequence[str] = CELL,
    learn_from: str = "clean",
) -> Iterator[Split]:
    """Learn from all configurations in some random cells of the grid.

    The cells are drawn as published: by numpy's legacy `choice` without replacement from the list of cells
    that hold rows to learn from, data amounts in the outer loop and widths in the inner, both ascending.

    Args:
        rows: From `Cases.rows`.
        draws: Seeds.
        levels: Numbers of cells; None takes 1, 2, 4, ... up to all.
        axes: What makes a cell; the published variants draw by `("data_amount",)` or `("width",)` alone.
        learn_from: `clean` or `noisy`: which label noise is learned from, the other is diagnosed; or `all`.

    Raises:
        ValueError: If a level is below 1 or exceeds the number of cells.
    """
    cells = _source(rows, learn_from)[list(axes)].drop_duplicates().sort_values(list(axes))
    counts = [2**power for power in range(len(cells).bit_length())] if levels is None else levels
    if len(counts) and max(counts) > len(cells):
        raise ValueError(
            f"level {max(counts)} exceeds the {len(cells)} cells of the training side; ask for fewer"
        )
    if len(counts) and min(counts) < 1:
        raise ValueError(f"level {min(counts)} selects no cell to learn from; ask for at least 1")
    protocol = "random_cells" if tuple(axes) == CELL else "random_" + "_".join(axes)
    places = pd.MultiIndex.from_frame(cells).get_indexer(pd.MultiIndex.from_frame(rows[list(axes)]))
    for level in counts:
        for draw in draws:
            drawn = np.random.RandomState(draw).choice(len(cells), size=level, replace=False)
            learned = np.isin(places, drawn)
            yield from _split(protocol, level, draw, rows, learned, learn_from)


def limited(
    rows: pd.DataFrame,
    axis: str,
    draws: Sequence[int] = PUBLISHED_DRAWS,
    levels: Sequence[int] | None = None,
    learn_from: str = "clean",
) -> Iterator[Split]:
    """Learn from the small end of an axis: all configurations at or below a limit.

    Args:
        rows: From `Cases.rows`.
        axis: `data_amount` or `width`.
        draws: Seeds of the diagnosers; the selection is the same for all.
        levels: Limits; None takes every value of the axis.
        learn_from: `clean` or `noisy`: which label noise is learned from, the other is diagnosed; or `all`.

    Raises:
        ValueError: If a limit leaves nothing to learn from.
    """
    values = _source(rows, learn_from)[axis]
    limits = np.unique(values).tolist() if levels is None else levels
    for limit in limits:
        if not (values <= limit).any():
            smallest = f"the smallest is {values.min()}" if len(values) else "there is none at all"
            raise ValueError(f"no {learn_from} configuration has a {axis} of at most {limit}; {smallest}")
        for draw in draws:
            learned = (rows[axis] <= limit).to_numpy()
            yield from _split(f"{axis}_limited", limit, draw, rows, learned, learn_from)


def transfer(
    training: pd.DataFrame,
    test: pd.DataFrame,
    draws: Sequence[int] = PUBLISHED_DRAWS,
    learn_from: str = "clean",
) -> Iterator[Split]:
    """Learn from all configurations of one zoo, by default the clean ones, and diagnose all of another.

    Args:
        training: From `Cases.rows` of the zoo to learn from.
        test: From `Cases.rows` of the other; a configuration that both zoos hold is not diagnosed.
        draws: Seeds of the diagnosers; the selection is the same for all.
        learn_from: `clean`, `noisy` or `all`.
    """
    learned = _source(training, learn_from)
    others = test.index.difference(learned.index, sort=False)
    for draw in draws:
        if len(learned) and len(others):
            level = len(learned[list(CELL)].drop_duplicates())
            yield Split(f"transfer{SUFFIXES[learn_from]}", level, draw, learned.index, others)


def _limited_by(axis: str, rows: pd.DataFrame, draws: Sequence[int], learn_from: str) -> Iterator[Split]:
    return limited(rows, axis, draws, learn_from=learn_from)


def leave_one_data_set_out(
    zoos: Mapping[str, pd.DataFrame], draws: Sequence[int] = PUBLISHED_DRAWS, learn_from: str = "clean"
) -> Iterator[tuple[tuple[str, ...], str, Split]]:
    """Learn from the configurations of all zoos on other data sets, and diagnose one zoo.

    Where that is a single zoo it is `transfer`, and left out here.

    Args:
        zoos: From `Cases.rows`, by the zoo's name.
        draws: Seeds of the diagnosers; the selection is the same for all.
        learn_from: `clean`, `noisy` or `all`.

    Yields:
        Names of the zoos learned from, name of the one diagnosed, and the split; its level is the number of
        zoos learned from. Of a configuration that several zoos hold, the first counts.
    """
    for name, rows in zoos.items():
        others = {
            other: _source(theirs, learn_from)
            for other, theirs in zoos.items()
            if not set(theirs["dataset"]) & set(rows["dataset"])
        }
        others = {other: theirs for other, theirs in others.items() if len(theirs)}
        if len(others) < 2 or rows.empty:
            continue
        learned = pd.concat(list(others.values())).index.unique()
        protocol = f"leave_one_data_set_out{SUFFIXES[learn_from]}"
        for draw in draws:
            yield tuple(others), name, Split(protocol, len(others), draw, learned, rows.index)


Protocol = Callable[[pd.DataFrame, Sequence[int]], Iterator[Split]]


def _protocols(learn_from: str) -> dict[str, Protocol]:
    return {
        f"{name}{SUFFIXES[learn_from]}": partial(protocol, learn_from=learn_from)
        for name, protocol in (
            ("random_cells", random_cells),
            ("data_amount_limited", partial(_limited_by, "data_amount")),
            ("width_limited", partial(_limited_by, "width")),
        )
    }


PROTOCOLS: dict[str, Protocol] = _protocols("clean")
"""The protocols within one zoo, by name; each takes rows from `answered` and seeds."""

PROTOCOLS_FROM_NOISY: dict[str, Protocol] = _protocols("noisy")
"""The same in the other direction: from configurations with label noise to the clean ones."""

PROTOCOLS_ALL: dict[str, Protocol] = _protocols("all")
"""The same from all configurations of the cells drawn, or within the limit, to all others."""


def _source(rows: pd.DataFrame, learn_from: str) -> pd.DataFrame:
    """The rows that may be learned from."""
    return rows[_is_source(rows, learn_from)]


def _is_source(rows: pd.DataFrame, learn_from: str) -> np.ndarray:
    """Which rows may be learned from."""
    if learn_from not in SUFFIXES:
        raise ValueError(f"learn_from is {learn_from!r}; it must be one of {list(SUFFIXES)}")
    if learn_from == "all":
        return np.ones(len(rows), dtype=bool)
    return ((rows["label_noise"] == 0) == (learn_from == "clean")).to_numpy()


def _split(
    protocol: str, level: int, draw: int, rows: pd.DataFrame, learned: np.ndarray, learn_from: str
) -> Iterator[Split]:
    """The split, unless one of its sides is empty."""
    source = _is_source(rows, learn_from)
    test = ~learned if source.all() and learn_from != "noisy" else ~source
    if (source & learned).any() and test.any():
        yield Split(
            protocol + SUFFIXES[learn_from], level, draw, rows.index[source & learned], rows.index[test]
        )
