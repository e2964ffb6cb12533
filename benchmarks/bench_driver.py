"""Driver: overhead a stack, and memory of the driver, with stacks that train nothing.

    python benchmarks/bench_driver.py

For 10, 1,000 and 10,000 planned stacks a fresh driver sends each as a Ray task that commits its rows and does
nothing else, and merges the tables at the end. Printed: milliseconds a stack from the first task to the last
commit on warm workers, without the commits' own files for comparison, and the driver's peak memory.

    python benchmarks/bench_driver.py --plan 1000000

Plans so many configurations of a spec, writes their table, counts what is to be done and makes the first stack.
Printed: seconds of processor time, and MiB at the peak and before.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from cluster.executors import each
from cluster.ray_executor import RayExecutor
from zoo import fragments
from zoo.config import Run, TrainConfig
from zoo.stacks import Stack
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
        stacks_of_one, times = [Stack((run,)) for run in runs], []
        for store in (None, Folder(Path(folder))):
            list(executor.run(each(commit_nothing, stacks_of_one[:10], None)))  # warm workers
            began = time.perf_counter()
            for outcome in executor.run(each(commit_nothing, stacks_of_one, store)):
                assert outcome.error is None, outcome.error
            times.append(1e3 * (time.perf_counter() - began) / stacks)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        table, _ = fragments.merge_runs(Folder(Path(folder)), {run.run_id for run in runs})
        assert len(table) == stacks
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"{stacks:>7,} stacks: {times[0]:6.2f} ms a stack, {times[1]:6.2f} ms with its commit; " + (
        f"driver's peak {before:,.0f} MiB, {after:,.0f} MiB with the merge"
    )


WIDE = """
name = "wide"
[settings]
dataset = "digits"
architecture = "mlp"
sample_passes = 1_000
[[grids]]
width = [1, 2, 3, 4]
batch_size = [8, 16, 32, 64, 128]
data_amount = [128, 256, 512, 768, 1_000]
weight_decay = [0.0, 0.0005]
label_noise = [0.0, 0.1, 0.2, 0.3, 0.4]
learning_rate = {rates}
"""


class PlanCost(NamedTuple):
    """What planning took: processor seconds, MiB before it and at its peak, and how much was planned."""

    seconds: float
    before: float
    peak: float
    configurations: int
    measurements: int


def plan(configurations: int) -> PlanCost:
    """Plan a spec of so many configurations, a multiple of 1,000, as a build of it does."""
    from cluster.pipeline import (  # with torch, which would hide the driver's own memory
        Pipeline,
        trained_statuses,
    )
    from zoo.measurements import Wanted
    from zoo.plan import make_plan, wanted_functions, write_plan
    from zoo.spec import parse_spec

    rates = [round(1e-5 * i, 8) for i in range(1, configurations // 1_000 + 1)]
    spec = parse_spec(WIDE.format(rates=rates))
    before, began = _peak(), time.process_time()
    planned = make_plan(spec)
    with tempfile.TemporaryDirectory() as folder:
        write_plan(Folder(Path(folder)), spec, planned)
        wanted = Wanted("default", wanted_functions(spec), "ring", {})
        pipeline = Pipeline(planned, {}, wanted, trained_statuses(None, False))
        _, measurements = pipeline.expected()
        assert isinstance(pipeline.next(), Stack)
    seconds = time.process_time() - began
    return PlanCost(seconds, before, _peak(), planned.size()[0], measurements)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plan"]:
        cost = plan(int(sys.argv[2]))
        print(
            f"{cost.configurations:,} configurations planned in {cost.seconds:.1f} s of processor time; "
            f"memory {cost.before:.0f} MiB before, {cost.peak:.0f} MiB at the peak"
        )
    elif len(sys.argv) > 1:
        print(measure(int(sys.argv[1])))
    else:
        for count in (10, 1_000, 10_000):
            subprocess.run([sys.executable, __file__, str(count)], check=True)
