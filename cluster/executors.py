"""Where stage functions run: in this process, or as Ray tasks. Both have one interface.

An executor takes jobs one by one from an iterator, keeps a bounded number of them in flight, and yields
outcomes in the order of completion. A job that raises, or whose worker dies, is tried again; after `TRIES`
its outcome is the traceback. The first line in this package that imports ray is in `RayExecutor`.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, Self

from cluster import signals
from cluster.tasks import call

TRIES = 3
WINDOW_PER_CPU = 3
"""Jobs in flight a core: enough that no worker waits for the driver, few enough to bound its memory."""

SECONDS_BETWEEN_LOOKS = 5.0
"""How often the number of cores is asked for again."""

SECONDS_BETWEEN_CHECKS = 1.0
"""How long at most a signal that got lost waits to be heard."""


class Outcome(NamedTuple):
    """A job with its result, or with the traceback of its last try."""

    job: Any
    result: Any = None
    error: str | None = None


Function = Callable[..., Any]


class Executor(Protocol):
    """Runs `function(job, *shared)` for many jobs."""

    def share(self, value: Any) -> Any:
        """Put a value where every task can read it; the handle may be passed to `run`."""
        ...

    def run(self, function: Function, jobs: Iterable[Any], *shared: Any) -> Iterator[Outcome]:
        """Yield an outcome for each job, in the order of completion."""
        ...


class InProcessExecutor(AbstractContextManager["InProcessExecutor"]):
    """Runs jobs one after the other in this process."""

    def share(self, value: Any) -> Any:
        """The value itself."""
        return value

    def run(self, function: Function, jobs: Iterable[Any], *shared: Any) -> Iterator[Outcome]:
        """Yield an outcome for each job; see `Executor.run`."""
        for job in jobs:
            signals.check()
            yield _try_here(function, job, shared)

    def __exit__(self, *_: object) -> None:
        """Nothing to release."""


def _try_here(function: Function, job: Any, shared: tuple[Any, ...]) -> Outcome:
    error = ""
    for _ in range(TRIES):
        try:
            return Outcome(job, call("", (), function, job, *shared))
        except Exception:
            error = traceback.format_exc()
    return Outcome(job, error=error)


class RayExecutor(AbstractContextManager["RayExecutor"]):
    """Runs jobs as Ray tasks of one core each.

    Args:
        address: A Ray cluster to join; None starts a private one on this machine, which ends with this
            object, is reachable with a random token only, and has neither dashboard nor usage reports.
        cpus: Cores of the private one; None takes all.
        modules: Python modules that a worker imports first, such as those that register architectures.
    """

    def __init__(
        self, address: str | None = None, cpus: int | None = None, modules: Iterable[str] = ()
    ) -> None:
        self._address, self._cpus, self._modules = address, cpus, tuple(modules)

    def __enter__(self) -> Self:
        """Start the private cluster, or join the other.

        Raises:
            ConnectionError: If there is no cluster at the address, or it has no cores.
        """
        self._ray = ray = _import_ray(private=self._address is None)
        # Not in TMPDIR: Ray's sockets lie below, and their paths must stay under 107 bytes.
        self._folder = tempfile.mkdtemp(prefix="mdzoo-", dir="/tmp") if self._address is None else None
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            if self._folder is not None:
                ray.init(
                    "local", num_cpus=self._cpus, include_dashboard=False, _temp_dir=self._folder, **common
                )
            else:
                ray.init(self._address, **common)
            if not self._cores():
                raise ConnectionError(
                    f"the Ray cluster at {self._address} has no cores yet; add nodes and try again"
                )
        except BaseException:
            self.__exit__()
            raise
        finally:
            for number, handler in handlers.items():  # ray.init replaces them
                signal.signal(number, handler)
        return self

    def _cores(self) -> int:
        return int(self._ray.cluster_resources().get("CPU", 0))

    def share(self, value: Any) -> Any:
        """A reference to the value in the object store."""
        return self._ray.put(value)

    def run(self, function: Function, jobs: Iterable[Any], *shared: Any) -> Iterator[Outcome]:
        """Yield an outcome for each job; see `Executor.run`."""
        # Ray's own retries are off: a try is counted here, whether the function raised or its worker died.
        remote = self._ray.remote(num_cpus=1, max_retries=0)(call)
        window, looked = 0, -math.inf
        waiting: list[tuple[Any, int]] = []
        pending: dict[Any, tuple[Any, int]] = {}
        left = iter(jobs)

        def submit(job: Any, tries: int) -> None:
            reference = remote.remote(os.getcwd(), self._modules, function, job, *shared)
            pending[reference] = (job, tries)

        while True:
            if time.monotonic() - looked > SECONDS_BETWEEN_LOOKS:  # nodes may join late
                window, looked = max(2, WINDOW_PER_CPU * self._cores()), time.monotonic()
            while len(pending) < window:
                if waiting:
                    submit(*waiting.pop())
                elif (job := next(left, _END)) is not _END:
                    submit(job, 1)
                else:
                    break
            if not pending:
                return
            done: list[Any] = []
            while not done:
                signals.check()
                done, _ = self._ray.wait(list(pending), num_returns=1, timeout=SECONDS_BETWEEN_CHECKS)
            ready = done[0]
            job, tries = pending.pop(ready)
            try:
                outcome = Outcome(job, self._ray.get(ready))
            except self._ray.exceptions.RayError as error:
                if tries < TRIES:
                    waiting.append((job, tries + 1))
                    continue
                outcome = Outcome(job, error=str(error))
            yield outcome

    def __exit__(self, *_: object) -> None:
        """Stop the private cluster, or leave the one that was joined."""
        self._ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


_END = object()


def _import_ray(private: bool) -> Any:
    """The module ray; it reads its authentication from the environment when it is first imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if private and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    return ray
