"""The tasks of a Ray cluster on their way: sent as there is room, watched, sent again, given up.

The tries are counted here and the nodes are watched here: Ray tells of a node that froze, or that the network cut
off, only after minutes.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cluster import signals
from cluster.executors import TRIES, Feed, Function, Need, Outcome, Task, ran_out_of_memory
from cluster.tasks import Gauge, Usage, call

WINDOW_PER_PLACE = 3
"""Tasks in flight for each that can run: no worker waits for the driver, and its memory is bounded."""

NODE_LOSSES = 10
"""Nodes that a task may lose before it is taken for the cause."""

SECONDS_BETWEEN_LOOKS = 2.0
"""How often the nodes are looked at: which have joined, which are gone."""

SECONDS_BETWEEN_CHECKS = 1.0
"""How long at most a signal that got lost waits to be heard."""

LEAST_DEADLINE, SLOWER = 600.0, 10.0
"""A task is given up on a node after so many seconds, or so many times what the slowest of its
function before took."""


@dataclass(eq=False, slots=True)
class _Attempt:
    """A task on its way.

    Attributes:
        task: The task.
        tries: How often it was tried, this time included.
        losses: How many nodes were lost with it.
        node: Node where it runs; None until it has started.
        host: The name of that machine.
        started: When it started, on the driver's clock.
    """

    task: Task
    tries: int = 1
    losses: int = 0
    node: str | None = None
    host: str | None = None
    started: float = 0.0

    def again(self, tries: int = 0, losses: int = 0) -> _Attempt:
        return _Attempt(self.task, self.tries + tries, self.losses + losses)

    def outcome(self, result: Any = None, error: str | None = None, usage: Usage | None = None) -> Outcome:
        seconds = time.monotonic() - self.started if self.node is not None else 0.0
        return Outcome(self.task, result, error, self.host, seconds, usage)


def _call_and_say_where(*given: Any) -> Iterator[Any]:
    """What a Ray task yields: first its node and its host's name, then the result of `call` and what that took."""
    import ray

    yield ray.get_runtime_context().get_node_id(), platform.node()
    gauge = Gauge()
    result = call(*given)
    yield result, gauge.read()


@dataclass(slots=True)
class Room:
    """What the nodes have for one task.

    Attributes:
        memory: Main memory of the largest node, in bytes.
        gpu_memory: Memory of the smallest GPU that a task ran on, in bytes; 0 until one has.
    """

    memory: int = 0
    gpu_memory: int = 0

    def share_of_gpu(self, need: int, least: float) -> float:
        """Of a GPU, what a task that needs so many bytes of it has to have, in sixteenths; at least a given share."""
        if not least or not self.gpu_memory:
            return least
        return min(1.0, max(least, math.ceil(16 * need / self.gpu_memory) / 16))

    def see(self, usage: Usage | None) -> None:
        """Take in on what GPU a task ran."""
        if usage is not None and usage.gpu_total:
            self.gpu_memory = min(usage.gpu_total, self.gpu_memory or usage.gpu_total)


@dataclass(slots=True)
class TasksUnderWay:
    """The tasks of one `RayExecutor.run`: what waits, what is on its way, and what becomes of it.

    A task on a node that is gone is sent again at once. Should the first try still end somewhere, what it commits is
    the same.
    """

    ray: Any
    need: dict[str, float]
    modules: tuple[str, ...]
    feed: Feed
    waiting: deque[_Attempt] = field(default_factory=deque)
    pending: dict[Any, _Attempt] = field(default_factory=dict)
    alive: frozenset[str] = frozenset()
    window: int = 2
    looked: float = 0.0
    slowest: dict[Function, float] = field(default_factory=dict)
    remote: Any = None
    room: Room = field(default_factory=lambda: Room())

    def outcomes(self) -> Iterator[Outcome]:
        """Send tasks as there is room, and yield what becomes of each; whatever is left is called off at the end."""
        self.look()
        self.renew()
        try:
            while True:
                while len(self.pending) < self.window and (attempt := self.next()) is not None:
                    self.send(attempt)
                if not self.pending:
                    return
                signals.check()
                ready, _ = self.ray.wait(list(self.pending), timeout=SECONDS_BETWEEN_CHECKS)
                for stream in ready:
                    if (outcome := self.take(stream)) is not None:
                        yield outcome
                if time.monotonic() - self.looked > SECONDS_BETWEEN_LOOKS:
                    before = self.alive
                    self.look()
                    if before - self.alive:
                        self.renew()
                        self.recall()
                    for stream in self.lost():
                        yield from self.send_again(stream)
        finally:
            for stream in self.pending:
                self.ray.cancel(stream)

    def next(self) -> _Attempt | None:
        """What is to be sent next: what has to go out again, else a new task."""
        if self.waiting:
            return self.waiting.popleft()
        task = self.feed()
        return _Attempt(task) if task is not None else None

    def send(self, attempt: _Attempt) -> None:
        """Send a task to where there is room for what it needs; in parts, if no node has that much."""
        task, most = attempt.task, self.room.memory
        need = task.need(task.job) if task.need is not None else Need()
        if most and need.memory > most and (parts := task.parts()):
            self.waiting.extendleft(_Attempt(part) for part in reversed(parts))
            return
        # One that cannot be split gets all of a node, and may be wrong about what it needs.
        asked: dict[str, Any] = {"memory": min(need.memory, most)} if most and need.memory else {}
        if share := self.room.share_of_gpu(need.gpu_memory, self.need.get("GPU", 0.0)):
            asked["num_gpus"] = share
        remote = self.remote.options(**asked) if asked else self.remote
        self.pending[remote.remote(os.getcwd(), self.modules, task.function, task.job, *task.shared)] = (
            attempt
        )

    def look(self) -> None:
        """See which nodes are there."""
        nodes = [node for node in self.ray.nodes() if node["Alive"]]
        self.alive = frozenset(node["NodeID"] for node in nodes)
        self.window, self.looked = max(2, WINDOW_PER_PLACE * places(nodes, self.need)), time.monotonic()
        self.room.memory = max((int(node["Resources"].get("memory", 0)) for node in nodes), default=0)

    def renew(self) -> None:
        """Make the remote function anew.

        Ray asks a node for room once for all tasks of a function, and waits for its answer, which a frozen node never
        gives, though others have room. Of a new function it asks anew.
        """
        # Ray's own retries are off: a try is counted here, whether the function raised or its worker died.
        needs = {"num_cpus": self.need["CPU"], "num_gpus": self.need.get("GPU", 0.0)}
        self.remote = self.ray.remote(max_retries=0, **needs)(_call_and_say_where)

    def recall(self) -> None:
        """Take back what has not started anywhere; it goes out with the new remote function."""
        for stream in [stream for stream, attempt in self.pending.items() if attempt.node is None]:
            self.ray.cancel(stream)
            self.waiting.append(self.pending.pop(stream).again())

    def take(self, stream: Any) -> Outcome | None:
        """What a task says next: where it has started, its result, or its error."""
        attempt = self.pending[stream]
        try:
            said = self.ray.get(next(stream))
        except self.ray.exceptions.RayError as error:
            del self.pending[stream]
            return self.failed(attempt, error)
        if attempt.node is None:
            (attempt.node, attempt.host), attempt.started = said, time.monotonic()
            return None
        del self.pending[stream]
        result, usage = said
        outcome = attempt.outcome(result, usage=usage)
        self.room.see(usage)
        function = attempt.task.function
        self.slowest[function] = max(self.slowest.get(function, 0.0), outcome.seconds)
        return outcome

    def failed(self, attempt: _Attempt, error: Exception) -> Outcome | None:
        """Send a task again, in two halves if memory ran out; or give up."""
        if parts := attempt.task.parts() if ran_out_of_memory(error) else []:
            self.waiting.extend(_Attempt(part) for part in parts)
            return None
        node_died = isinstance(error, self.ray.exceptions.NodeDiedError)
        again = attempt.again(losses=1) if node_died else attempt.again(tries=1)
        if again.tries > TRIES or again.losses > NODE_LOSSES:
            return attempt.outcome(error=str(error))
        self.waiting.append(again)
        return None

    def lost(self) -> list[Any]:
        """Tasks on nodes that are gone, and those that take far longer than any of their function before."""
        return [
            stream
            for stream, attempt in self.pending.items()
            if attempt.node is not None and (attempt.node not in self.alive or self.is_late(attempt))
        ]

    def is_late(self, attempt: _Attempt) -> bool:
        """Whether a task takes far longer than any of its function before; there is no telling for the first."""
        slowest = self.slowest.get(attempt.task.function, float("inf"))
        return time.monotonic() - attempt.started > max(LEAST_DEADLINE, SLOWER * slowest)

    def send_again(self, stream: Any) -> Iterator[Outcome]:
        """Give up a try, and send its task again."""
        attempt = self.pending.pop(stream)
        self.ray.cancel(stream, force=True)
        gone = attempt.node not in self.alive
        again = attempt.again(losses=1) if gone else attempt.again(tries=1)
        if again.tries > TRIES or again.losses > NODE_LOSSES:
            why = "its node was lost" if gone else f"it took over {time.monotonic() - attempt.started:.0f} s"
            yield attempt.outcome(error=f"given up, for the last time because {why}")
        else:
            self.waiting.append(again)


def places(nodes: Iterable[dict[str, Any]], need: dict[str, float]) -> int:
    """How many tasks of a need can run at once on the nodes that live."""
    return sum(
        min(int(node["Resources"].get(kind, 0.0) / amount) for kind, amount in need.items())
        for node in nodes
        if node["Alive"]
    )
