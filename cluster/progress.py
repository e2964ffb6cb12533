"""How far a build is: a bar a stage on a terminal, plain lines elsewhere, and facts for the status file."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from tqdm import tqdm

LINE_SECONDS = 10.0
"""Time between plain lines."""


@dataclass
class Stage:
    """What a kind of task has done.

    Attributes:
        name: As in the status file, such as "train".
        unit: What is counted, such as "runs".
        total: How much there is to do, as far as it is known.
        counts: What was done, by how it ended.
        task_seconds: Time that tasks took, all workers together.
    """

    name: str
    unit: str
    total: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    task_seconds: float = 0.0

    @property
    def done(self) -> int:
        """How much was done, whatever became of it."""
        return self.counts.total()

    @property
    def task_seconds_left(self) -> float | None:
        """Time that tasks have still to take, if the rest is like what was done; None if nothing was."""
        left = self.total - self.done
        if not left:
            return 0.0
        return left * self.task_seconds / self.done if self.done else None


class Progress:
    """Counts what the stages of a build have done.

    Args:
        running: Says how many tasks run now.
    """

    def __init__(self, running: Callable[[], int]) -> None:
        self.stages = {s.name: s for s in (Stage("train", "runs"), Stage("measure", "measurements"))}
        self._running, self._hosts = running, Counter[str]()
        self._began = self._printed = time.monotonic()
        self._lines = not sys.stderr.isatty()
        self._bars = {
            name: tqdm(desc=name, unit=f" {stage.unit}", disable=self._lines, dynamic_ncols=True)
            for name, stage in self.stages.items()
        }

    def expect(self, stage: str, count: int) -> None:
        """There is so much more to do than was known."""
        self.stages[stage].total += count
        self._bars[stage].total = self.stages[stage].total

    def add(self, stage: str, counts: Counter[str], seconds: float, host: str | None) -> None:
        """Take in what a task did, how long it took, and where it ran."""
        own = self.stages[stage]
        own.counts += counts
        own.task_seconds += seconds
        self._hosts[host or "?"] += counts.total()
        self._bars[stage].update(counts.total())
        is_done = all(each.done == each.total for each in self.stages.values())
        if self._lines and (time.monotonic() - self._printed > LINE_SECONDS or is_done):
            self._printed = time.monotonic()
            print(line_of(self.facts()), file=sys.stderr, flush=True)

    def facts(self) -> dict[str, Any]:
        """What the status file says of it."""
        seconds = time.monotonic() - self._began
        running = self._running()
        left = [stage.task_seconds_left for stage in self.stages.values()]
        known = [own for own in left if own is not None]
        return {
            "stages": {
                name: {
                    "unit": stage.unit,
                    "total": stage.total,
                    "done": stage.done,
                    "diverged": stage.counts["diverged"],
                    "failed": stage.counts["failed"],
                    "rate": round(stage.done / seconds, 3) if seconds else 0.0,
                }
                for name, stage in self.stages.items()
                if stage.total
            },
            "running": running,
            "seconds_left": round(sum(known) / max(1, running)) if len(known) == len(left) else None,
            "hosts": dict(Counter(dict(self._hosts)).most_common()),  # a copy: another thread reads
        }

    def __enter__(self) -> Self:
        """Say how much there is to do."""
        if self._lines and any(stage.total for stage in self.stages.values()):
            print(line_of(self.facts()), file=sys.stderr, flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bars."""
        for bar in self._bars.values():
            bar.close()


def line_of(facts: dict[str, Any]) -> str:
    """One line for a human."""
    parts = []
    for name, stage in facts.get("stages", {}).items():
        parts.append(f"{name}: {stage['done']:,}/{stage['total']:,} {stage['unit']}")
        parts += [f"{stage[end]:,} {end}" for end in ("diverged", "failed") if stage[end]]
        if stage["done"]:
            parts.append(f"{stage['rate']:.2f}/s")
    if facts.get("seconds_left"):
        parts.append(f"{tqdm.format_interval(facts['seconds_left'])} left")
    return ", ".join(parts)
