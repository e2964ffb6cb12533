"""Where stage functions run: in this process, or as Ray tasks. Both have one interface.

An executor takes jobs one by one from an iterator, keeps a bounded number of them in flight, and yields
outcomes in the order of completion. A job that raises, or whose worker dies, is tried again; after `TRIES`
its outcome is the traceback. One that ran out of memory is tried again in two halves. The other executor is in
`cluster.ray_executor`.
"""

from __future__ import annotations

import platform
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from cluster import signals
from cluster.tasks import call

TRIES = 3


class Outcome(NamedTuple):
    """A job with its result, or with the traceback of its last try.

    Attributes:
        job: The job, or a half of one that ran out of memory.
        result: What its function returned.
        error: The traceback, if it failed for good.
        host: Name of the machine where it ended; None if not known.
    """

    job: Any
    result: Any = None
    error: str | None = None
    host: str | None = None


Function = Callable[..., Any]
Split = Callable[[Any], Sequence[Any]]
"""Gives the parts of a job that together do the same in less memory; none if it cannot be split."""


class Executor(Protocol):
    """Runs `function(job, *shared)` for many jobs."""

    @property
    def running(self) -> int:
        """Tasks that run now."""
        ...

    def share(self, value: Any) -> Any:
        """Put a value where every task can read it; the handle may be passed to `run`."""
        ...

    def run(
        self, function: Function, jobs: Iterable[Any], *shared: Any, split: Split | None = None
    ) -> Iterator[Outcome]:
        """Yield an outcome for each job, in the order of completion; parts of a split job have their own."""
        ...


class InProcessExecutor(AbstractContextManager["InProcessExecutor"]):
    """Runs jobs one after the other in this process."""

    running = 1

    def share(self, value: Any) -> Any:
        """The value itself."""
        return value

    def run(
        self, function: Function, jobs: Iterable[Any], *shared: Any, split: Split | None = None
    ) -> Iterator[Outcome]:
        """Yield an outcome for each job; see `Executor.run`."""
        for job in jobs:
            signals.check()
            outcome, parts = self._try(function, job, shared, split)
            if parts:
                yield from self.run(function, parts, *shared, split=split)
            else:
                yield outcome

    def _try(
        self, function: Function, job: Any, shared: tuple[Any, ...], split: Split | None
    ) -> tuple[Outcome, Sequence[Any]]:
        """What became of a job; and the parts to do instead, if it ran out of memory and has some."""
        error, host = "", platform.node()
        for _ in range(TRIES):
            try:
                return Outcome(job, call("", (), function, job, *shared), host=host), ()
            except Exception as raised:
                error = traceback.format_exc()
                if parts := parts_of(job, raised, split):
                    return Outcome(job, error=error, host=host), parts
        return Outcome(job, error=error, host=host), ()

    def __exit__(self, *_: object) -> None:
        """Nothing to release."""


def parts_of(job: Any, error: BaseException, split: Split | None) -> Sequence[Any]:
    """The parts in which to try a job again whose memory ran out, the machine's or a GPU's; none for other errors."""
    cause = getattr(error, "cause", None) or error  # of an error that comes from a Ray task
    ran_out = isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError"
    return split(job) if ran_out and split is not None else ()
