"""The file `status.json` of a zoo that is being built: who looks from anywhere reads it, `mdzoo status` too."""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from cluster.progress import line_of
from zoo.storage import Store

NAME = "status.json"
SECONDS_BETWEEN_WRITES, SECONDS_BETWEEN_READS = 5.0, 1.0
SILENT_SECONDS = 60.0
"""After how long a build that says nothing is taken for dead."""


class StatusFile:
    """Says how far a build is, in a file that is replaced whole every few seconds, however long its tasks take.

    Its keys: `state` (running, finished, interrupted or broken), `stages` (of train and measure what they count
    (`unit`), `done`, `diverged` and `failed` of the `total`, units a second (`rate`)), `running` tasks,
    `seconds_left`, units by host (`hosts`), `seconds` since the build began, the time of writing (`updated`, seconds
    since 1970), and the driver's `host` and `pid`.

    Args:
        store: Where the zoo lives.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._began = store, time.monotonic()
        self._facts: Callable[[], dict[str, Any]] = dict
        self._ended = threading.Event()
        self._writer = threading.Thread(target=self._write_now_and_then, daemon=True)

    def follow(self, facts: Callable[[], dict[str, Any]]) -> None:
        """Write what this function says from now on."""
        self._facts = facts

    def __enter__(self) -> Self:
        """Begin to write."""
        self._writer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Say how the build ended."""
        self._ended.set()
        self._writer.join(timeout=2.0)  # a storage that hangs holds up no end
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        with suppress(OSError):  # what ended the build, if anything did, is what matters
            self._write("interrupted" if interrupted else "finished" if kind is None else "broken")

    def _write_now_and_then(self) -> None:
        while True:
            with suppress(OSError):  # the tasks, whose commits matter, will meet the same trouble
                self._write("running")
            if self._ended.wait(SECONDS_BETWEEN_WRITES):
                return

    def _write(self, state: str) -> None:
        seconds = round(time.monotonic() - self._began, 1)
        facts = {"state": state, **self._facts(), "seconds": seconds, "updated": round(time.time(), 1)}
        made = facts | {"host": platform.node(), "pid": os.getpid()}
        self._store.write(NAME, json.dumps(made, indent=1).encode())


def read_status(store: Store) -> dict[str, Any] | None:
    """What the last build said; None if none ever said anything."""
    return json.loads(store.read(NAME)) if store.exists(NAME) else None


def follow(store: Store, as_json: bool = False) -> None:
    """Print a line whenever a build says something new, until it has ended or is taken for dead."""
    last = None
    while True:
        facts = read_status(store)
        if facts is not None and facts != last:
            print(json.dumps(facts) if as_json else status_line(facts), flush=True)
            last = facts
        if facts is None or facts["state"] != "running":
            return
        if time.time() - facts["updated"] > SILENT_SECONDS:
            print(
                f"mdzoo: the build on {facts['host']} has said nothing for over {SILENT_SECONDS:.0f} s: it was "
                "killed, or is cut off; `mdzoo build` goes on from there",
                file=sys.stderr,
            )
            return
        time.sleep(SECONDS_BETWEEN_READS)


def status_line(facts: dict[str, Any]) -> str:
    """One line for a human."""
    hosts = ", ".join(f"{host} {count:,}" for host, count in facts.get("hosts", {}).items())
    said = line_of(facts) or "nothing to do yet"
    return f"{facts['state']}: {said}, {facts.get('running', 0)} tasks at work" + (
        f" ({hosts})" if hosts else ""
    )
