"""Scaling: how busy the driver keeps many nodes, with stacks that sleep and commit their rows.

    python benchmarks/bench_cluster.py [NODES ...] [--seconds 5] [--stacks-a-node 6]

For each number of simulated nodes (1, 2, 4, 8, 16 and 64 if none is given) a cluster starts on this machine, each
node with a raylet of its own and one place, and a fresh driver sends stacks of a known sleep. Printed: the share of
time that the places were busy, from the first task to the last commit on workers that are warm, and the driver's
processor time and memory. The nodes share this machine's cores, so that the share is a lower bound.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cluster.executors import each
from cluster.ray_executor import RayExecutor
from zoo import fragments
from zoo.config import Run, TrainConfig
from zoo.stacks import Stack
from zoo.storage import Folder

CONFIG = dict(
    dataset="none", data_fingerprint="none", architecture="mlp", width=1, data_amount=1, sample_passes=1
)


def sleep_and_commit(stack: Stack, seconds: float, store: Folder) -> None:
    """A stack that trains nothing for a while."""
    time.sleep(seconds)
    rows = [
        {
            "run_id": r.run_id,
            "config_id": r.config.config_id,
            "seed": r.seed,
            "status": "diverged",
            "history": [],
        }
        for r in stack.runs
    ]
    fragments.commit_runs(store, rows)


def measure(nodes: int, seconds: float, stacks_a_node: int) -> str:
    """One cluster of so many nodes."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):  # one after another: all at once, 64 did not come up in a quarter of an hour
            cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20, wait=True)
        with RayExecutor(cluster.address) as executor, tempfile.TemporaryDirectory() as folder:
            store = Folder(Path(folder))
            work = [
                Stack((Run(TrainConfig(batch_size=i + 1, **CONFIG), 0),))
                for i in range(nodes * (stacks_a_node + 2))
            ]
            warm, work = work[: 2 * nodes], work[2 * nodes :]
            hosts = sum(1 for _ in executor.run(each(sleep_and_commit, warm, 2.0, store)))
            assert hosts == len(warm)
            began, before = time.monotonic(), time.process_time()
            for outcome in executor.run(each(sleep_and_commit, work, seconds, store)):
                assert outcome.error is None, outcome.error
            wall, processor = time.monotonic() - began, time.process_time() - before
            assert len(store.names(fragments.RUNS, ".parquet")) == len(warm) + len(work)
    finally:
        cluster.shutdown()
    busy = len(work) * seconds / (nodes * wall)
    return (
        f"{nodes:>3} nodes, {len(work):>4} stacks of {seconds:g} s: busy {100 * busy:5.1f}%, {wall:6.1f} s; driver "
        f"{1e3 * processor / len(work):5.2f} ms of processor time a stack, "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:4.0f} MiB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("nodes", nargs="*", type=int)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--stacks-a-node", type=int, default=6)
    given = parser.parse_args()
    if len(given.nodes) == 1:
        print(measure(given.nodes[0], given.seconds, given.stacks_a_node))
    else:
        options = [f"--seconds={given.seconds}", f"--stacks-a-node={given.stacks_a_node}"]
        for count in given.nodes or (1, 2, 4, 8, 16, 64):
            environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
            subprocess.run([sys.executable, __file__, str(count), *options], check=True, env=environment)
