"""Where stage functions run: in this process, or as Ray tasks. Both have one interface.

An executor asks for tasks one by one, keeps a bounded number of them in flight, and yields outcomes in the order of
completion; what an outcome makes possible may be among the next tasks. A task that raises, or whose worker dies, is
tried again; after `TRIES` its outcome is the traceback. One that ran out of memory is tried again in two halves. The
other executor is in `cluster.ray_executor`.
"""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from cluster import signals
from cluster.tasks import Usage, call

TRIES = 3

Function = Callable[..., Any]
Split = Callable[[Any], Sequence[Any]]
"""Gives the parts of a job that together do the same in less memory; none if it cannot be split."""


class Need(NamedTuple):
    """What a task takes, in bytes: of main memory, and of a GPU's; 0: not known."""

    memory: int = 0
    gpu_memory: int = 0


class Task(NamedTuple):
    """`function(job, *shared)`.

    Attributes:
        function: A function that the workers can import.
        job: What it is to do.
        shared: What many tasks are given: values, or handles from `Executor.share`.
        split: How its job is halved if memory runs out; None: it cannot be.
        need: Says what a job is expected to take, the whole one or a part; None: not known.
    """

    function: Function
    job: Any
    shared: tuple[Any, ...] = ()
    split: Split | None = None
    need: Callable[[Any], Need] | None = None

    def parts(self) -> list[Task]:
        """Tasks that together do the same in less memory; none if there are none."""
        return [self._replace(job=part) for part in self.split(self.job)] if self.split is not None else []


class Outcome(NamedTuple):
    """A task with its result, or with the traceback of its last try.

    Attributes:
        task: The task, or a half of one that ran out of memory.
        result: What its function returned.
        error: The traceback, if it failed for good.
        host: Name of the machine where it ended; None if not known.
        seconds: What its last try took.
        usage: What it took at its peak; None if it failed, or shared this process.
    """

    task: Task
    result: Any = None
    error: str | None = None
    host: str | None = None
    seconds: float = 0.0
    usage: Usage | None = None


Feed = Callable[[], Task | None]
"""Gives the next task; None: there is none before another has ended."""


def each(function: Function, jobs: Iterable[Any], *shared: Any, split: Split | None = None) -> Feed:
    """A feed of one function for many jobs."""
    tasks = (Task(function, job, shared, split) for job in jobs)
    return lambda: next(tasks, None)


class Executor(Protocol):
    """Runs tasks."""

    @property
    def running(self) -> int:
        """Tasks that run now."""
        ...

    def share(self, value: Any) -> Any:
        """Put a value where every task can read it; the handle may be among what a task shares."""
        ...

    def run(self, feed: Feed) -> Iterator[Outcome]:
        """Yield an outcome for each task, in the order of completion; parts of a split task have their own."""
        ...


class InProcessExecutor(AbstractContextManager["InProcessExecutor"]):
    """Runs tasks one after the other in this process."""

    running = 1

    def share(self, value: Any) -> Any:
        """The value itself."""
        return value

    def run(self, feed: Feed) -> Iterator[Outcome]:
        """Yield an outcome for each task; see `Executor.run`."""
        while (task := feed()) is not None:
            yield from self._do(task)

    def _do(self, task: Task) -> Iterator[Outcome]:
        error = ""
        for _ in range(TRIES):
            signals.check()
            began = time.monotonic()
            try:
                result = call("", (), task.function, task.job, *task.shared)
            except Exception as raised:
                error = traceback.format_exc()
                if parts := task.parts() if ran_out_of_memory(raised) else []:
                    for part in parts:
                        yield from self._do(part)
                    return
            else:
                yield Outcome(task, result, host=platform.node(), seconds=time.monotonic() - began)
                return
        yield Outcome(task, error=error, host=platform.node(), seconds=time.monotonic() - began)

    def __exit__(self, *_: object) -> None:
        """Nothing to release."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, the machine's or a GPU's."""
    cause = getattr(error, "cause", None) or error  # of an error that comes from a Ray task
    return isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError"
