"""Driver: overhead a stack, and memory of the driver, with stacks that train nothing.

    python benchmarks/bench_driver.py

For 10, 1,000 and 10,000 planned stacks a fresh driver sends each as a Ray task that commits its rows and does
nothing else, and merges the tables at the end. Printed: milliseconds a stack from the first task to the last
commit on warm workers, without the commits' own files for comparison, and the driver's peak memory.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from cluster.ray_executor import RayExecutor
from zoo import fragments
from zoo.config import Run, TrainConfig
from zoo.stacks import Stack, cut_stacks
from zoo.storage import Folder

CONFIG = dict(
    dataset="none", data_fingerprint="none", architecture="mlp", width=1, data_amount=1, sample_passes=1
)


def commit_nothing(stack: Stack, store: Folder | None) -> Counter[str]:
    """A stack without training: its rows, committed if there is a store."""
    if store is not None:
        rows = [
            {
                "run_id": r.run_id,
                "config_id": r.config.config_id,
                "seed": r.seed,
                "status": "diverged",  # a status that needs no checkpoint
                "history": [],
            }
            for r in stack.runs
        ]
        fragments.commit_runs(store, rows)
    return Counter(done=len(stack.runs))


def measure(stacks: int) -> str:
    """One driver with so many stacks: ms a stack with and without commits, MiB at its peak."""
    runs = [Run(TrainConfig(batch_size=i + 1, **CONFIG), 0) for i in range(stacks)]
    with tempfile.TemporaryDirectory() as folder, RayExecutor() as executor:
        times = []
        for store in (None, Folder(Path(folder))):
            list(executor.run(commit_nothing, cut_stacks(runs[:10], 1), None))  # warm workers
            began = time.perf_counter()
            for outcome in executor.run(commit_nothing, cut_stacks(runs, 1), store):
                assert outcome.error is None, outcome.error
            times.append(1e3 * (time.perf_counter() - began) / stacks)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        table, _ = fragments.merge_runs(Folder(Path(folder)), {run.run_id for run in runs})
        assert len(table) == stacks
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"{stacks:>7,} stacks: {times[0]:6.2f} ms a stack, {times[1]:6.2f} ms with its commit; " + (
        f"driver's peak {before:,.0f} MiB, {after:,.0f} MiB with the merge"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(measure(int(sys.argv[1])))
    else:
        for count in (10, 1_000, 10_000):
            subprocess.run([sys.executable, __file__, str(count)], check=True)
