"""Build a zoo: plan, train, measure, label. What is committed already is never done again."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from cluster.executors import Executor
from cluster.progress import Progress
from diagnose.labels import label
from zoo import fragments, stages, tables
from zoo.config import Run
from zoo.plan import MeasureJob, make_plan, measure_jobs, write_plan
from zoo.reader import Zoo, open_zoo
from zoo.spec import ZooSpec
from zoo.stacks import STACK_SIZE, Stack, cut_stacks
from zoo.storage import Store


class Work(NamedTuple):
    """Where and how the tasks of a build run."""

    executor: Executor
    store: Store
    datasets: dict[str, Any]
    stack_size: int = STACK_SIZE
    engine: str = "loop"
    device: str = "cpu"


class Summary(NamedTuple):
    """How a build ended.

    Attributes:
        counts: Runs of the spec by status.
        trained: Runs that this build trained.
        measured: Measurements that this build made.
        unmeasured: Measurements whose task failed; the next build tries them again.
        seconds: Time of each stage: plan, train, measure, label (merging of tables included).
    """

    counts: Counter[str]
    trained: int
    measured: int
    unmeasured: int
    seconds: dict[str, float]


class _Clock:
    """Time of each stage, one after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now


def build(
    spec: ZooSpec,
    root: Path,
    executor: Executor,
    *,
    data_dir: Path | None = None,
    stack_size: int = STACK_SIZE,
    device: str = "cpu",
    retry_failed: bool = False,
) -> Summary:
    """Build a zoo, or finish one that was begun.

    Args:
        spec: What to build.
        root: Folder of the zoo.
        executor: Where the tasks run.
        data_dir: Where data sets are read from or downloaded to.
        stack_size: Largest number of runs a task trains.
        device: Torch device of the tasks.
        retry_failed: Train again what failed in an earlier build.

    Returns:
        How the zoo stands.
    """
    clock, store = _Clock(), Store(root.absolute())
    plan = make_plan(spec, data_dir)
    write_plan(store, spec, plan)
    datasets = {fingerprint: executor.share(dataset) for fingerprint, dataset in plan.datasets.items()}
    work = Work(executor, store, datasets, stack_size, device=device)

    clock.lap("plan")
    planned = {run.run_id for run in plan.runs}
    known = fragments.run_status(store)
    final = {run_id for run_id, status in known.items() if not (retry_failed and status == "failed")}
    missing = [run for run in plan.runs if run.run_id not in final]
    train(work, missing)
    runs, history = fragments.merge_runs(store, planned)
    _write(store, "runs", runs)
    _write(store, "history", history)

    clock.lap("train")
    jobs = list(measure_jobs(spec, plan.configurations, runs, fragments.measured(store, spec.metric_recipe)))
    counts = measure(work, jobs)
    _write(store, "metrics", fragments.merge_metrics(store, planned))
    clock.lap("measure")
    write_labels(open_zoo(store.root))
    clock.lap("label")

    return Summary(
        Counter(runs["status"].to_pylist()),
        len(missing),
        counts["measurements"],
        counts["failed"],
        clock.seconds,
    )


def train(work: Work, runs: Sequence[Run]) -> Counter[str]:
    """Train runs stack by stack; a stack that fails for good becomes rows with its traceback.

    Returns:
        Runs by status.
    """

    def stacks(fingerprint: str) -> Iterator[Stack]:
        return cut_stacks((r for r in runs if r.config.data_fingerprint == fingerprint), work.stack_size)

    def fail(stack: Stack, error: str) -> int:
        stages.commit_failure(stack, work.store, error)
        return len(stack.runs)

    with Progress("train", len(runs), "runs") as progress:
        return _dispatch(work, progress, stages.train, stacks, (work.engine, work.device), fail)


def measure(work: Work, jobs: Sequence[MeasureJob]) -> Counter[str]:
    """Make the measurements of the jobs; one whose task fails is left for the next build.

    Returns:
        How many were made ("measurements") and how many were not ("failed").
    """

    def own(fingerprint: str) -> Iterator[MeasureJob]:
        return (job for job in jobs if job.config.data_fingerprint == fingerprint)

    def fail(job: MeasureJob, error: str) -> int:
        print(f"measuring {job.config.config_id} failed:\n{error}", file=sys.stderr)
        return len(job.measurements)

    with Progress("measure", sum(len(job.measurements) for job in jobs), "measurements") as progress:
        return _dispatch(work, progress, stages.measure, own, (work.device,), fail)


def _dispatch(
    work: Work,
    progress: Progress,
    function: Callable[..., stages.Report],
    jobs: Callable[[str], Iterator[Any]],
    options: tuple[str, ...],
    fail: Callable[[Any, str], int],
) -> Counter[str]:
    """Run a stage function for the jobs of each data set; `fail` says how much a failed job leaves undone."""
    counts: Counter[str] = Counter()
    for fingerprint, dataset in work.datasets.items():
        for job, report, error in work.executor.run(
            function, jobs(fingerprint), dataset, work.store, *options
        ):
            done = Counter(failed=fail(job, error)) if error is not None else report.counts
            counts += done
            progress.add(done)
    return counts


def write_labels(zoo: Zoo) -> pd.DataFrame:
    """Label each configuration with its source of failure and write the table `labels`."""
    rows = label(zoo.table("configs"), zoo.table("runs"))
    _write(zoo.store, "labels", tables.from_frame("labels", rows))
    return rows


def _write(store: Store, name: str, table: pa.Table) -> None:
    store.write(f"{name}.parquet", tables.to_bytes(table))
