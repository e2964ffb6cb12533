"""What there is to measure of trained runs, and the jobs in which it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations, groupby, pairwise
from operator import itemgetter
from typing import Any, NamedTuple

from zoo.config import TrainConfig
from zoo.fragments import FAILED, NO_ROWS, Measurement, Rows, TrainedRun
from zoo.landscape.measure import PAIR_METRICS, RUN_METRICS
from zoo.landscape.registry import Metric
from zoo.stacks import STACK_SIZE


class Due(NamedTuple):
    """A measurement, and the registered functions that are to make it, by their first names."""

    item: Measurement
    metrics: tuple[str, ...]


class MeasurePart(NamedTuple):
    """The measurements of one configuration that a task is to make."""

    config: TrainConfig
    runs: tuple[TrainedRun, ...]
    measurements: tuple[Due, ...]


class MeasureJob(NamedTuple):
    """What a task is to measure: configurations whose runs could train in one stack, so that their curves do."""

    parts: tuple[MeasurePart, ...]
    recipe: str

    @property
    def example(self) -> TrainConfig:
        """One of its configurations, with the data and the shapes of all."""
        return self.parts[0].config

    def halves(self) -> list[MeasureJob]:
        """Two jobs with half of the measurements each; none if there is one measurement."""
        items = [(part, due) for part in self.parts for due in part.measurements]
        middle = len(items) // 2
        return [self._with(items[:middle]), self._with(items[middle:])] if middle else []

    def _with(self, items: Iterable[tuple[MeasurePart, Due]]) -> MeasureJob:
        grouped = groupby(items, key=itemgetter(0))
        return self._replace(
            parts=tuple(part._replace(measurements=tuple(due for _, due in own)) for part, own in grouped)
        )

    @property
    def size(self) -> int:
        """Number of its measurements."""
        return sum(len(part.measurements) for part in self.parts)


def chosen_pairs(ids: Sequence[str], pairs: str | int) -> list[tuple[str, str]]:
    """Which runs of a configuration are paired.

    Args:
        ids: The runs by seed.
        pairs: "ring" (each run with the next, the last with the first), "all", or a number of pairs: neighbours
            first, then those two apart, and so on; all where there are no more.
    """
    if pairs == "ring":
        return list(pairwise(ids)) + ([(ids[0], ids[-1])] if len(ids) > 2 else [])
    apart = [list(zip(ids, ids[distance:], strict=False)) for distance in range(1, len(ids))]
    by_distance = [pair for distance in apart for pair in distance]
    return list(combinations(ids, 2)) if pairs == "all" else by_distance[: int(pairs)]


def plan_measurements(runs: Iterable[TrainedRun], config_id: str, pairs: str | int) -> list[Measurement]:
    """All measurements of a configuration: each run that did not fail, and pairs of the runs that are done.

    Args:
        runs: The runs of the configuration.
        config_id: Its id.
        pairs: As for `chosen_pairs`.

    Returns:
        Runs first, then pairs, by seed; a run that is alone is paired with itself.
    """
    by_seed = sorted((run for run in runs if run.status != FAILED), key=lambda run: run.seed)
    ids = [f"{config_id}-{run.seed}" for run in by_seed if run.status == "done"]
    chosen = chosen_pairs(ids, pairs) + ([(ids[0], ids[0])] if len(ids) == 1 else [])
    return [Measurement(f"{config_id}-{run.seed}") for run in by_seed] + [
        Measurement(*pair) for pair in chosen
    ]


@dataclass(frozen=True)
class Wanted:
    """What is to be measured, and what of it is there.

    Attributes:
        recipe: The metric recipe.
        functions: Registered functions whose rows are wanted, by first name.
        pairs: As for `chosen_pairs`.
        found: What is committed for the recipe, from `fragments.measured`.
        missing: Whether to make rows that are missing.
        failed: Whether to make rows again that failed.
    """

    recipe: str
    functions: frozenset[str]
    pairs: str | int
    found: Mapping[Measurement, Rows]
    missing: bool = True
    failed: bool = False

    def part(self, config: TrainConfig, runs: Sequence[TrainedRun]) -> MeasurePart | None:
        """What is to be measured of a configuration's runs; None if that is nothing."""
        items = plan_measurements(runs, config.config_id, self.pairs)
        due = tuple(Due(item, metrics) for item in items if (metrics := self._due(item)))
        return MeasurePart(config, tuple(runs), due) if due else None

    def expected(self, seeds: int) -> int:
        """How many measurements a configuration of so many runs has, if all come off and none is there."""
        return self._expected(seeds)

    def jobs(self, parts: Iterable[MeasurePart]) -> Iterator[MeasureJob]:
        """Jobs for parts whose runs could share a stack, each of as many runs as a stack may have."""
        group: list[MeasurePart] = []
        for part in parts:
            if group and sum(len(own.runs) for own in [*group, part]) > STACK_SIZE:
                yield MeasureJob(tuple(group), self.recipe)
                group = []
            group.append(part)
        if group:
            yield MeasureJob(tuple(group), self.recipe)

    def _due(self, item: Measurement) -> tuple[str, ...]:
        """The functions that a measurement lacks rows of, by first name."""
        return self._due_of(item.other_run_id is not None, self.found.get(item, NO_ROWS))

    @cached_property
    def _due_of(self) -> Callable[[bool, Rows], tuple[str, ...]]:
        """The same by what matters: thousands of measurements have the same rows."""

        @cache
        def due(is_pair: bool, rows: Rows) -> tuple[str, ...]:
            registry: Mapping[str, Metric[Any]] = PAIR_METRICS if is_pair else RUN_METRICS
            wanted = ((first, metric.rows) for first, metric in registry.items() if first in self.functions)
            return tuple(first for first, made in wanted if any(self._is_due(row, rows) for row in made))

        return due

    @cached_property
    def _expected(self) -> Callable[[int], int]:
        @cache
        def expected(seeds: int) -> int:
            runs = [TrainedRun(seed, "done") for seed in range(seeds)]
            return sum(bool(self._due(item)) for item in plan_measurements(runs, "", self.pairs))

        return expected

    def _is_due(self, row: tuple[str, str | None], rows: Rows) -> bool:
        if row in rows.well:
            return False
        return self.failed if row in rows.failed else self.missing
