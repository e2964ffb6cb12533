"""Two nodes on this machine, and what may befall them: nothing is lost, nothing is there twice."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import driver
from cluster.executors import each
from cluster.ray_executor import RayExecutor
from tests.cluster.test_build import assert_equal_zoos
from tests.processes import descendants
from zoo import fragments
from zoo.config import Run, TrainConfig
from zoo.spec import read_spec
from zoo.stacks import Stack
from zoo.storage import Folder, Store

pytestmark = [pytest.mark.timeout(900), pytest.mark.cluster]

HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 2,
}
"""A node that is silent for a second or two is taken for dead, as tests have no minutes."""

CONFIG = dict(
    dataset="none", data_fingerprint="none", architecture="mlp", width=1, data_amount=1, sample_passes=1
)


def stacks(count: int) -> list[Stack]:
    return [Stack((Run(TrainConfig(batch_size=i + 1, **CONFIG), 0),)) for i in range(count)]


def commit(stack: Stack, store: Store) -> None:
    rows = [
        {
            "run_id": run.run_id,
            "config_id": run.config.config_id,
            "seed": run.seed,
            "status": "diverged",  # a status that needs no checkpoint
            "history": [],
        }
        for run in stack.runs
    ]
    fragments.commit_runs(store, rows)


def train(stack: Stack, store: Store, folder: str, seconds: float, crashes: float, errors: float) -> int:
    """Sleep and commit. Some kill their worker at first, before, during or after the commit; some always fail."""
    number = stack.runs[0].config.batch_size
    luck, tried = random.Random(number).random(), Path(folder) / f"tried-{number}"
    first = not tried.exists()
    tried.touch()
    time.sleep(seconds)
    if luck < crashes / 3 and first:
        os._exit(1)
    if luck < 2 * crashes / 3 and first:  # the file is written and not yet renamed
        os.replace = lambda *_: os._exit(1)  # type: ignore[assignment]
    if luck > 1 - errors:
        raise ValueError(f"stack {number} always fails")
    commit(stack, store)
    if luck < crashes and first:
        os._exit(1)
    return len(stack.runs)


def recorded(store: Store, work: list[Stack]) -> Counter[str]:
    """The rows of the merged table by run."""
    planned = {run.run_id for stack in work for run in stack.runs}
    table, _ = fragments.merge_runs(store, planned)
    return Counter(table["run_id"].to_pylist())


class Nodes:
    """A head without cores, and nodes of one core each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH},
        )
        self.address = self._cluster.address

    def add(self):
        return self._cluster.add_node(num_cpus=1, include_dashboard=False)

    def kill(self, node) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    def processes(self, node) -> list[int]:
        """The raylet of a node and its workers."""
        (raylet,) = node.all_processes["raylet"]
        return [raylet.process.pid, *descendants(raylet.process.pid)]

    def end(self) -> None:
        self._cluster.shutdown()


@contextlib.contextmanager
def nodes() -> Iterator[Nodes]:
    found = Nodes()
    try:
        yield found
    finally:
        found.end()


def test_two_thousand_stacks_with_crashes_errors_and_a_node_killed_midway(tmp_path):
    work, store, errors = stacks(2_000), Folder(tmp_path / "zoo"), 0.02
    with nodes() as cluster:
        cluster.add()
        victim = cluster.add()
        with RayExecutor(cluster.address) as executor:
            ended, failed = 0, []
            for outcome in executor.run(each(train, work, store, str(tmp_path), 0.0, 0.05, errors)):
                ended += 1
                if outcome.error is not None:
                    assert "always fails" in outcome.error
                    failed.append(outcome.task.job)
                if ended == 1_000:
                    cluster.kill(victim)
    assert ended == 2_000
    unlucky = [s for s in work if random.Random(s.runs[0].config.batch_size).random() > 1 - errors]
    assert sorted(map(repr, failed)) == sorted(map(repr, unlucky))
    assert recorded(store, work) == Counter(run.run_id for s in work if s not in unlucky for run in s.runs)
    assert list((tmp_path / "zoo").rglob(".*.tmp")), "of workers that died while they committed"
    store.sweep()
    assert not list((tmp_path / "zoo").rglob("*.tmp"))


MIB = 2**20


def fill(job: list[int], mib: int) -> int:
    """Take so much memory for each number, and hold it for a while."""
    held = [bytearray(mib * MIB) for _ in job]
    for block in held:
        block[::4096] = b"x" * len(block[::4096])
    time.sleep(5)
    return len(held)


def halves(job: list[int]) -> list[list[int]]:
    middle = len(job) // 2
    return [job[:middle], job[middle:]] if middle else []


def test_a_task_for_which_the_machine_has_no_memory_is_done_in_halves(monkeypatch):
    """Ray kills a worker when the machine's memory runs out; here that is 2.5 GiB from now, and four take 3.2."""
    memory = dict(re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text()))
    total, free = int(memory["MemTotal"]) // 1024, int(memory["MemAvailable"]) // 1024
    if free < 6_000:
        pytest.skip(f"{free} MiB of memory are free; this takes 6,000")
    monkeypatch.setenv("RAY_memory_usage_threshold", str((total - free + 2_560) / total))
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    with RayExecutor(cpus=1) as executor:
        outcomes = list(executor.run(each(fill, [[1, 2, 3, 4], [5]], 820, split=halves)))
    assert sorted(o.task.job for o in outcomes) == [[1, 2], [3, 4], [5]]
    assert all(o.error is None for o in outcomes)


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_what_ran_on_a_node_that_is_gone_runs_elsewhere(tmp_path, fault):
    """Ray alone says nothing of a frozen node for seven minutes; and another that joins late takes part."""
    work, store = stacks(12), Folder(tmp_path / "zoo")
    frozen: list[int] = []
    with nodes() as cluster:
        victim = cluster.add()
        with RayExecutor(cluster.address) as executor:
            began, gone, hosts = time.monotonic(), 0.0, 0
            try:
                for number, outcome in enumerate(
                    executor.run(each(train, work, store, str(tmp_path), 0.3, 0.0, 0.0))
                ):
                    assert outcome.error is None
                    hosts += outcome.host is not None
                    if number == 2:
                        cluster.add()
                        gone = time.monotonic()
                        if fault == "killed":
                            cluster.kill(victim)
                        else:
                            frozen = cluster.processes(victim)
                            for pid in frozen:
                                os.kill(pid, signal.SIGSTOP)
            finally:
                for pid in frozen:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            assert time.monotonic() - gone < 90
            assert gone > began
    assert hosts == 12
    assert recorded(store, work) == Counter(run.run_id for s in work for run in s.runs)


@pytest.mark.timeout(3_600)
def test_the_demo_built_on_two_nodes_of_which_one_is_killed_equals_the_one_built_alone(tmp_path):
    """The shipped spec, all 576 networks with their metrics, row for row and weight for weight."""
    spec = read_spec("demo")
    with RayExecutor() as executor:
        driver.build(spec, tmp_path / "alone", executor)
    with nodes() as cluster:
        cluster.add()
        victim = cluster.add()
        fragments_made = tmp_path / "two" / "fragments" / "runs"

        def kill_midway() -> None:
            while len(list(fragments_made.glob("*.parquet"))) < 36:  # of 72 stacks
                time.sleep(0.5)
            cluster.kill(victim)

        killer = threading.Thread(target=kill_midway, daemon=True)
        killer.start()
        with RayExecutor(cluster.address) as executor:
            summary = driver.build(spec, tmp_path / "two", executor)
        killer.join(timeout=1)
        assert not killer.is_alive()
    assert (summary.trained, summary.measured, summary.is_whole) == (576, 1_152, True)
    assert_equal_zoos(tmp_path / "alone", tmp_path / "two")
