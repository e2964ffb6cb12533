"""Build a zoo: plan, train, measure, label; or measure it again. What is committed is never done again."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from cluster.executors import Executor, Split
from cluster.progress import Progress
from cluster.status_file import StatusFile
from zoo import fragments, stages, tables
from zoo.config import Run
from zoo.fragments import FAILED, LOST
from zoo.landscape.registry import functions_of
from zoo.plan import (
    MeasureJob,
    Plan,
    Planned,
    make_plan,
    measure_jobs,
    measurements_of,
    wanted_functions,
    write_plan,
)
from zoo.reader import Zoo, open_zoo
from zoo.spec import METRIC_RECIPES, ZooSpec, parse_spec
from zoo.stacks import STACK_SIZE, Stack, cut_stacks
from zoo.storage import Store, open_store


class Work(NamedTuple):
    """Where and how the tasks of a build run."""

    executor: Executor
    store: Store
    datasets: dict[str, Any]
    status: StatusFile
    stack_size: int = STACK_SIZE
    engine: str = "loop"
    device: str = "cpu"


class Summary(NamedTuple):
    """How a build ended.

    Attributes:
        counts: Runs of the spec by status.
        trained: Runs that this build trained, diverged ones included.
        measured: Runs and pairs that this build measured.
        unmeasured: Runs and pairs whose task failed; the next build tries them again.
        failed_metrics: Rows of the table `metrics` whose reason is an error.
        seconds: Time of each stage: plan, train, measure, label (merging of tables included).
    """

    counts: Counter[str]
    trained: int
    measured: int
    unmeasured: int
    failed_metrics: int
    seconds: dict[str, float]

    @property
    def is_whole(self) -> bool:
        """Whether nothing failed."""
        return not (self.counts[FAILED] or self.unmeasured or self.failed_metrics)


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
    root: str | Path,
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
        root: Folder of the zoo, or its URI in an object store.
        executor: Where the tasks run.
        data_dir: Where data sets are read from or downloaded to.
        stack_size: Largest number of runs a task trains.
        device: Torch device of the tasks.
        retry_failed: Train again what failed in an earlier build.

    Returns:
        How the zoo stands.
    """
    clock, store = _Clock(), open_store(root)
    plan = make_plan(spec, data_dir)
    with store.locked(), StatusFile(store) as status:
        write_plan(store, spec, plan)
        datasets = {fingerprint: executor.share(dataset) for fingerprint, dataset in plan.datasets.items()}
        work = Work(executor, store, datasets, status, stack_size, device=device)
        clock.lap("plan")

        known = fragments.run_status(store)
        again = (LOST, FAILED) if retry_failed else (LOST,)
        missing = [run for run in plan.runs if known.get(run.run_id, LOST) in again]
        trained = train(work, missing)
        runs, history = fragments.merge_runs(store, {run.run_id for run in plan.runs})
        _write(store, "runs", runs)
        _write(store, "history", history)
        clock.lap("train")

        planned = list(measurements_of(spec, plan.configurations, runs))
        measured, metrics = _measure_and_merge(
            work, planned, spec.metric_recipe, wanted_functions(spec), retry_failed
        )
        clock.lap("measure")

        from diagnose.labels import label  # with scikit-learn, which nothing before needs

        configs = tables.from_bytes("configs", store.read("configs.parquet"), "configs.parquet").to_pandas()
        _write(store, "labels", tables.from_frame("labels", label(configs, runs.to_pandas())))
        clock.lap("label")
    return _summary(runs, len(missing) - trained[FAILED], measured, metrics, clock)


def measure_again(
    root: str | Path,
    executor: Executor,
    *,
    metrics: Sequence[str] = (),
    recipe: str | None = None,
    data_dir: Path | None = None,
    device: str = "cpu",
    retry_failed: bool = False,
) -> Summary:
    """Measure a zoo that is built, and train nothing; rows that it has are kept.

    Args:
        root: Folder of the zoo, or its URI in an object store.
        executor: Where the tasks run.
        metrics: Names of the metrics; none stands for all that are registered.
        recipe: Recipe of the metrics; None takes the zoo's own.
        data_dir: Where data sets are read from or downloaded to.
        device: Torch device of the tasks.
        retry_failed: Measure again what failed.

    Returns:
        How the zoo stands.

    Raises:
        FileNotFoundError: If there is no zoo.
        ValueError: If a metric is not registered, the recipe unknown, or the data set not the zoo's.
    """
    clock, zoo = _Clock(), open_zoo(root)
    recipe = recipe or zoo.metric_recipe
    if recipe not in METRIC_RECIPES:
        raise ValueError(f"no metric recipe is named {recipe!r}; there are {', '.join(METRIC_RECIPES)}")
    functions, spec = functions_of(metrics), parse_spec(zoo.spec, f"the spec of {root}")
    plan = make_plan(spec, data_dir)
    _check_data(zoo, plan)
    with zoo.store.locked(), StatusFile(zoo.store) as status:
        datasets = {fingerprint: executor.share(dataset) for fingerprint, dataset in plan.datasets.items()}
        work = Work(executor, zoo.store, datasets, status, device=device)
        runs, _ = fragments.merge_runs(zoo.store, {run.run_id for run in plan.runs})
        clock.lap("plan")
        planned = list(measurements_of(spec, plan.configurations, runs))
        measured, rows = _measure_and_merge(work, planned, recipe, functions, retry_failed)
        clock.lap("measure")
    return _summary(runs, 0, measured, rows, clock)


def _check_data(zoo: Zoo, plan: Plan) -> None:
    """Refuse data sets other than those that the zoo was trained on."""
    trained_on = set(zoo.table("configs")["data_fingerprint"])
    if other := sorted(set(plan.datasets) - trained_on):
        raise ValueError(
            f"{zoo.store} was trained on data with fingerprints {sorted(trained_on)}, those found have {other}; "
            "give the folder of its data sets by --data-dir"
        )


def _measure_and_merge(
    work: Work,
    planned: Sequence[Planned],
    recipe: str,
    functions: frozenset[str],
    retry_failed: bool,
) -> tuple[Counter[str], pa.Table]:
    """Make what is missing, write the table `metrics`, and say what was made."""
    found = fragments.measured(work.store, recipe)
    measured = measure(work, list(measure_jobs(planned, found, recipe, functions, retry_failed)))
    metrics = fragments.merge_metrics(work.store, {item for own in planned for item in own.measurements})
    _write(work.store, "metrics", metrics)
    return measured, metrics


def _summary(
    runs: pa.Table, trained: int, measured: Counter[str], metrics: pa.Table, clock: _Clock
) -> Summary:
    return Summary(
        counts=Counter(runs["status"].to_pylist()),
        trained=trained,
        measured=measured["measurements"],
        unmeasured=measured[FAILED],
        failed_metrics=sum((reason or "").startswith(FAILED) for reason in metrics["reason"].to_pylist()),
        seconds=clock.seconds,
    )


def train(work: Work, runs: Sequence[Run]) -> Counter[str]:
    """Train runs stack by stack; a stack that fails for good becomes rows with its traceback.

    Returns:
        Runs by status.
    """

    def stacks(fingerprint: str) -> Iterator[Stack]:
        return cut_stacks((r for r in runs if r.config.data_fingerprint == fingerprint), work.stack_size)

    told: set[str] = set()

    def fail(stack: Stack, error: str) -> int:
        stages.commit_failure(stack, work.store, error)
        _tell_once(told, f"training a stack of {len(stack.runs)} runs failed", error)
        return len(stack.runs)

    with Progress("train", len(runs), "runs", work.status) as progress:
        options = work.engine, work.device
        return _dispatch(work, progress, stages.train, stacks, options, fail, Stack.halves)


def measure(work: Work, jobs: Sequence[MeasureJob]) -> Counter[str]:
    """Make the measurements of the jobs; one whose task fails is left for the next build.

    Returns:
        How many were made ("measurements") and how many were not ("failed").
    """

    def own(fingerprint: str) -> Iterator[MeasureJob]:
        return (job for job in jobs if job.data_fingerprint == fingerprint)

    told: set[str] = set()

    def fail(job: MeasureJob, error: str) -> int:
        ids = ", ".join(part.config.config_id for part in job.parts)
        _tell_once(told, f"measuring configurations {ids} failed", error)
        return job.size

    with Progress("measure", sum(job.size for job in jobs), "measurements", work.status) as progress:
        return _dispatch(work, progress, stages.measure, own, (work.device,), fail, MeasureJob.halves)


def _tell_once(told: set[str], what: str, error: str) -> None:
    """Print an error unless one that ends alike was printed before: thousands of stacks may fail for one reason."""
    last = error.strip().rpartition("\n")[2]
    if last not in told:
        told.add(last)
        print(f"mdzoo: {what} (others that fail alike are not told):\n{error}", file=sys.stderr)


def _dispatch(
    work: Work,
    progress: Progress,
    function: Callable[..., Counter[str]],
    jobs: Callable[[str], Iterator[Any]],
    options: tuple[str, ...],
    fail: Callable[[Any, str], int],
    split: Split,
) -> Counter[str]:
    """Run a stage function for the jobs of each data set; `fail` says how much a failed job leaves undone."""
    counts: Counter[str] = Counter()
    for fingerprint, dataset in work.datasets.items():
        shared = dataset, work.store, *options
        for job, result, error, host in work.executor.run(function, jobs(fingerprint), *shared, split=split):
            done = Counter(failed=fail(job, error)) if error is not None else result
            counts += done
            progress.add(done, work.executor.running, host)
    return counts


def _write(store: Store, name: str, table: pa.Table) -> None:
    store.write(f"{name}.parquet", tables.to_bytes(table))
