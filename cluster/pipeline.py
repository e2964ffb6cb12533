"""What a build does next: it measures configurations whose runs have ended, and trains others meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from zoo.config import Run, TrainConfig
from zoo.fragments import FAILED, LOST, TrainedRun
from zoo.stacks import STACK_SIZE, Stack

if TYPE_CHECKING:  # with torch, which `mdzoo --help` has no use for
    from zoo.measurements import MeasureJob, MeasurePart, Wanted
    from zoo.plan import Plan

Only = Literal["train", "measure", "failed"]
"""Parts of a build that can be done alone: one of the two kinds of tasks, or what failed before."""


@dataclass
class _Open:
    """A configuration that has runs on their way.

    Attributes:
        config: The configuration.
        left: How many.
        runs: Those that have ended.
    """

    config: TrainConfig
    left: int
    runs: list[TrainedRun]


@dataclass
class Pipeline:
    """The stacks and measuring jobs of a build, made as they are asked for.

    Args:
        plan: The runs that the zoo is to have.
        known: The runs that are committed, by run_id.
        wanted: What is to be measured; None: nothing.
        trains: Statuses of the runs to train; "missing" stands for those that are not committed.
        stack_size: Most runs of a stack of a configuration.
    """

    plan: Plan
    known: Mapping[str, TrainedRun]
    wanted: Wanted | None
    trains: frozenset[str]
    stack_size: Callable[[TrainConfig], int] = lambda _: STACK_SIZE
    _open: dict[str, _Open] = field(default_factory=dict)
    _ready: deque[MeasureJob] = field(default_factory=deque)

    def __post_init__(self) -> None:
        """Begin."""
        self._walk = self._groups()
        # Of runs that are trained now all rows are wanted, also where of others only those that failed are.
        self._fresh = replace(self.wanted, missing=True) if self.wanted is not None else None

    def next(self) -> Stack | MeasureJob | None:
        """What is to be done next; None: nothing before something else has ended."""
        return self._ready.popleft() if self._ready else next(self._walk, None)

    def ended(self, runs: Iterable[tuple[Run, TrainedRun]]) -> int:
        """Runs of a stack have ended, whatever became of them.

        Returns:
            How many measurements more there are than `expected` said.
        """
        parts, surprise = [], 0
        for run, trained in runs:
            own = self._open[run.config.config_id]
            own.runs.append(trained)
            own.left -= 1
            if not own.left:
                del self._open[run.config.config_id]
                part = self._fresh.part(own.config, own.runs) if self._fresh else None
                surprise += (len(part.measurements) if part else 0) - self._expected(len(own.runs))
                parts += [part] if part else []
        self._ready.extend(self._jobs(parts))
        return surprise

    def expected(self) -> tuple[int, int]:
        """How many runs there are to train, and how many measurements to make if all of them come off."""
        train = measure = 0
        for config, seeds in self.plan.configurations():
            due, there = self._sorted_out(config, seeds)
            train += len(due)
            part = None if due else self._part(config, there)
            new = self._expected(len(due) + len(there)) if due else 0
            measure += len(part.measurements) if part else new
        return train, measure

    def _groups(self) -> Iterator[Stack | MeasureJob]:
        """All there is to do that nothing has to end for."""
        for group in self.plan.groups:
            runs: list[Run] = []
            parts: list[MeasurePart] = []
            most = self.stack_size(group.example)
            for config, seeds in group.configurations():
                due, there = self._sorted_out(config, seeds)
                if due:
                    self._open[config.config_id] = _Open(config, len(due), there)
                    runs += [Run(config, seed) for seed in due]
                elif (part := self._part(config, there)) is not None:
                    parts.append(part)
                while len(runs) >= most:
                    yield Stack(tuple(runs[:most]))
                    del runs[:most]
                if sum(len(own.runs) for own in parts) >= STACK_SIZE:
                    yield from self._jobs(parts)
                    parts = []
            if runs:
                yield Stack(tuple(runs))
            yield from self._jobs(parts)

    def _sorted_out(self, config: TrainConfig, seeds: tuple[int, ...]) -> tuple[list[int], list[TrainedRun]]:
        """Of a configuration the seeds that are to be trained, and the runs that are committed and stay."""
        if not self.known:
            return (list(seeds) if "missing" in self.trains else []), []
        due, there, config_id = [], [], config.config_id
        for seed in seeds:
            run = self.known.get(f"{config_id}-{seed}")
            if (run.status if run else "missing") in self.trains:
                due.append(seed)
            elif run is not None and run.status != LOST:
                there.append(run)
        return due, there

    def _part(self, config: TrainConfig, runs: list[TrainedRun]) -> MeasurePart | None:
        return self.wanted.part(config, runs) if self.wanted is not None and runs else None

    def _expected(self, seeds: int) -> int:
        return self._fresh.expected(seeds) if self._fresh is not None else 0

    def _jobs(self, parts: Iterable[MeasurePart]) -> Iterator[MeasureJob]:
        return self.wanted.jobs(parts) if self.wanted is not None else iter(())


def trained_statuses(only: Only | None, retry_failed: bool) -> frozenset[str]:
    """Which runs a build trains, by their status; "missing" stands for those that are not committed."""
    if only == "measure":
        return frozenset()
    if only == "failed":
        return frozenset({FAILED})
    return frozenset({"missing", LOST} | ({FAILED} if retry_failed else set()))
