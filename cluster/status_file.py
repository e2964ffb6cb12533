"""The file `status.json` of a zoo that is being built: who looks from anywhere reads it, `mdzoo status` too."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import Any, Self

from tqdm import tqdm

from zoo.storage import Store

NAME = "status.json"
SECONDS_BETWEEN_WRITES, SECONDS_BETWEEN_READS = 5.0, 1.0
SILENT_SECONDS = 900.0
"""After how long a build that says nothing is followed no more."""


class StatusFile:
    """Says how far a build is, in a file that is replaced whole every few seconds.

    Its keys: `state` (running, finished, interrupted or broken), `stage`, what it counts (`unit`), `done` and
    `failed` of its `total`, `running` tasks, units a second (`rate`), `seconds_left`, units by host (`hosts`),
    `seconds` since the build began, the time of writing (`updated`, seconds since 1970), and the driver's `host`
    and `pid`.

    Args:
        store: Where the zoo lives.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._began, self._written = store, time.monotonic(), float("-inf")
        self._stage: dict[str, Any] = {"stage": "plan"}

    def stage(self, stage: str, unit: str, total: int) -> None:
        """A stage begins."""
        self._stage = {"stage": stage, "unit": unit, "total": total, "done": 0, "failed": 0, "running": 0}
        self._hosts: Counter[str] = Counter()
        self._stage_began = time.monotonic()
        self.write("running")

    def add(self, done: int, failed: int, running: int, host: str | None) -> None:
        """A task ended: what it did, how many run now, and where it ran."""
        self._stage["done"] += done
        self._stage["failed"] += failed
        self._stage["running"] = running
        self._hosts[host or "?"] += done
        seconds = time.monotonic() - self._stage_began
        rate = self._stage["done"] / seconds if seconds else 0.0
        left = self._stage["total"] - self._stage["done"]
        self._stage |= {"rate": round(rate, 3), "seconds_left": round(left / rate) if rate else None}
        self._stage["hosts"] = dict(self._hosts.most_common())
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self.write("running")

    def __enter__(self) -> Self:
        """The file itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Say how the build ended."""
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        ended = "interrupted" if interrupted else "finished" if kind is None else "broken"
        with suppress(OSError):  # what ended the build, if anything did, is what matters
            self.write(ended)

    def write(self, state: str) -> None:
        """Replace the file."""
        self._written = time.monotonic()
        seconds = round(self._written - self._began, 1)
        facts = {"state": state, **self._stage, "seconds": seconds, "updated": round(time.time(), 1)}
        made = facts | {"host": platform.node(), "pid": os.getpid()}
        self._store.write(NAME, json.dumps(made, indent=1).encode())


def read_status(store: Store) -> dict[str, Any] | None:
    """What the last build said; None if none ever said anything."""
    return json.loads(store.read(NAME)) if store.exists(NAME) else None


def follow(store: Store, as_json: bool = False) -> None:
    """Print a line whenever a build says something new, until it has ended or was silent for minutes."""
    last = None
    while True:
        facts = read_status(store)
        if facts is not None and facts != last:
            print(json.dumps(facts) if as_json else line_of(facts), flush=True)
            last = facts
        if facts is None or facts["state"] != "running":
            return
        if time.time() - facts["updated"] > SILENT_SECONDS:
            print(
                f"mdzoo: the build on {facts['host']} has said nothing for {SILENT_SECONDS / 60:.0f} minutes: its "
                "tasks are long, or it was killed; `mdzoo build` goes on from there",
                file=sys.stderr,
            )
            return
        time.sleep(SECONDS_BETWEEN_READS)


def line_of(facts: dict[str, Any]) -> str:
    """One line for a human."""
    if "total" not in facts:
        return f"{facts['state']}: {facts['stage']}"
    left, rate = facts.get("seconds_left"), facts.get("rate", 0.0)
    hosts = ", ".join(f"{host} {count:,}" for host, count in facts.get("hosts", {}).items())
    return (
        f"{facts['state']}: {facts['stage']} {facts['done']:,}/{facts['total']:,} {facts['unit']}, "
        f"{facts['running']} tasks at work, {facts['failed']} failed, {rate:.2f} {facts['unit']}/s"
        + (f", {tqdm.format_interval(left)} left" if left is not None else "")
        + (f" ({hosts})" if hosts else "")
    )
