"""A Ray cluster that runs stage functions: one of this machine, or one that is joined."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from cluster import signals
from cluster.executors import Feed, Outcome
from cluster.ray_tasks import TasksUnderWay, places

GPU_SHARE = 0.25
"""Of a GPU, for a task that uses one: small networks leave most of it idle, so four share it."""


class RayExecutor(AbstractContextManager["RayExecutor"]):
    """Runs tasks of one core each as Ray tasks.

    Args:
        address: A Ray cluster to join; None starts a private one on this machine, which ends with this
            object, is reachable with a random token only, and has neither dashboard nor usage reports.
        cpus: Cores of the private one; None takes all.
        modules: Python modules that a worker imports first, such as those that register architectures.
        gpus: Of a GPU, what each task needs at least; 0 for none.
        patience: Seconds to wait for a node on which a task can run, as nodes may join late.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: int | None = None,
        modules: Iterable[str] = (),
        gpus: float = 0.0,
        patience: float = 0.0,
    ) -> None:
        self._address, self._cpus, self._modules = address, cpus, tuple(modules)
        self._need = {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})
        self._patience = patience
        self._latest: TasksUnderWay | None = None

    @property
    def running(self) -> int:
        """Tasks that have started and not ended."""
        started = list(self._latest.pending.values()) if self._latest is not None else []
        return sum(attempt.node is not None for attempt in started)

    def __enter__(self) -> Self:
        """Start the private cluster, or join the other.

        Raises:
            ConnectionError: If there is no cluster at the address, or no node of it has what a task needs.
        """
        self._ray = ray = _import_ray(private=self._address is None)
        # Not in TMPDIR: Ray's sockets lie below, and their paths must stay under 107 bytes.
        self._folder = tempfile.mkdtemp(prefix="mdzoo-", dir="/tmp") if self._address is None else None
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
        handlers = {number: signal.getsignal(number) for number in signals.HEARD}
        try:
            if self._folder is not None:
                ray.init(
                    "local", num_cpus=self._cpus, include_dashboard=False, _temp_dir=self._folder, **common
                )
            else:
                ray.init(self._address, **common)
            self._wait_for_room()
        except BaseException:
            self.__exit__()
            raise
        finally:
            for number, handler in handlers.items():  # ray.init replaces them
                signal.signal(number, handler)
        return self

    def _wait_for_room(self) -> None:
        """Nodes may join after the driver starts, as with `ray submit`; an autoscaler is told to start one."""
        until, asked = time.monotonic() + self._patience, False
        while not places(nodes := self._ray.nodes(), self._need):
            signals.check()
            if time.monotonic() > until:
                has = [_said(node["Resources"]) for node in nodes if node["Alive"]]
                raise ConnectionError(
                    f"a task needs {_said(self._need)} on one node, and the nodes of the Ray cluster have "
                    f"{' / '.join(has) or 'nothing'}; add a node, or wait for one with --patience SECONDS"
                )
            if not asked:
                asked = True
                self._ask_for([self._need])
            time.sleep(0.5)
        if asked:
            self._ask_for([])  # from here on the tasks themselves say what they need

    def _ask_for(self, bundles: list[dict[str, float]]) -> None:
        """Tell the autoscaler, where there is one, what is needed; it holds until told otherwise."""
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=bundles)

    def share(self, value: Any) -> Any:
        """A reference to the value in the object store."""
        return self._ray.put(value)

    def run(self, feed: Feed) -> Iterator[Outcome]:
        """Yield an outcome for each task; see `Executor.run`."""
        self._latest = TasksUnderWay(self._ray, self._need, self._modules, feed)
        return self._latest.outcomes()

    def __exit__(self, *_: object) -> None:
        """Stop the private cluster, or leave the one that was joined."""
        self._ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _said(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources[kind]:g} {kind}" for kind in ("CPU", "GPU") if kind in resources) or "none"


def use_token() -> None:
    """Take the cluster's token from the file where `ray` keeps it, unless the environment says otherwise."""
    if "RAY_AUTH_MODE" not in os.environ and (Path.home() / ".ray" / "auth_token").is_file():
        os.environ["RAY_AUTH_MODE"] = "token"


def _import_ray(private: bool) -> Any:
    """The module ray; it reads its authentication from the environment when it is first imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "ray" not in sys.modules:
        if not private:
            use_token()
        elif "RAY_AUTH_MODE" not in os.environ:
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    return ray
