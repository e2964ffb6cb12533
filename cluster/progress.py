"""Progress of a stage: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Self

from tqdm import tqdm

from cluster.status_file import StatusFile

LINE_SECONDS = 10.0
"""Time between plain lines."""


class Progress:
    """Counts what a stage has done, with its rate and the time left.

    Args:
        stage: Name of the stage, such as "train".
        total: How much there is to do.
        unit: What is counted, such as "runs".
        status: The file that says the same to those who look from elsewhere.
    """

    def __init__(self, stage: str, total: int, unit: str, status: StatusFile) -> None:
        terminal = sys.stderr.isatty()
        self._counts: Counter[str] = Counter()
        self._bar = tqdm(
            total=total, desc=stage, unit=f" {unit}", disable=not terminal, dynamic_ncols=True, smoothing=0.05
        )
        self._stage, self._unit, self._total, self._done = stage, unit, total, 0
        self._began = self._printed = time.monotonic()
        self._lines, self._status = not terminal, status
        status.stage(stage, unit, total)
        if self._lines and total:
            print(f"{stage}: {total} {unit} to do", file=sys.stderr, flush=True)

    def add(self, counts: Counter[str], running: int, host: str | None) -> None:
        """Take in what a task did, how many run now, and where it ran."""
        self._status.add(counts.total(), counts["failed"], running, host)
        self._counts += counts
        self._done += counts.total()
        self._bar.update(counts.total())
        if troubles := {k: v for k, v in self._counts.items() if k in ("diverged", "failed")}:
            self._bar.set_postfix(troubles)
        now = time.monotonic()
        if self._lines and (now - self._printed > LINE_SECONDS or self._done == self._total):
            self._printed = now
            self._print_line(now - self._began, troubles)

    def _print_line(self, seconds: float, troubles: dict[str, int]) -> None:
        rate = self._done / seconds if seconds > 0 else 0.0
        left = tqdm.format_interval((self._total - self._done) / rate) if rate else "?"
        extra = "".join(f", {count} {status}" for status, count in sorted(troubles.items()))
        done = f"{self._stage}: {self._done}/{self._total} {self._unit}"
        print(f"{done}, {rate:.2f} {self._unit}/s, {left} left{extra}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        """The progress itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bar."""
        self._bar.close()
