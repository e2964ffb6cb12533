"""Build a zoo: plan, train and measure, label; or measure it again. What is committed is never done again."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from cluster.executors import Executor, Need, Outcome, Task
from cluster.pipeline import Only, Pipeline, trained_statuses
from cluster.progress import Progress
from cluster.resources import Estimates, size_of
from cluster.status_file import StatusFile
from zoo import fragments, stages, tables
from zoo.config import TrainConfig
from zoo.costs import costs_of
from zoo.engines.lane_library import NO_KERNELS, library
from zoo.fragments import FAILED, Measurement, TrainedRun
from zoo.landscape.measure import functions_of
from zoo.measurements import MeasureJob, Wanted, plan_measurements
from zoo.models import image_shape
from zoo.plan import CONFIGS, Plan, make_plan, refuse_release, wanted_functions, write_plan
from zoo.planner import Planner
from zoo.reader import Zoo, open_zoo
from zoo.snapshots import drop_all
from zoo.spec import METRIC_RECIPES, ZooSpec, parse_spec
from zoo.stacks import SNAPSHOT_SECONDS, Stack
from zoo.storage import Store, open_store


class Summary(NamedTuple):
    """How a build ended.

    Attributes:
        counts: Runs of the spec by status.
        trained: Runs that this build trained, diverged ones included.
        measured: Runs and pairs that this build measured.
        unmeasured: Runs and pairs whose task failed; the next build tries them again.
        failed_metrics: Rows of the table `metrics` whose reason is an error.
        seconds: Time of each part: plan, work (training and measuring), tables (merging them, and labelling).
        task_seconds: Time that tasks took, all workers together: train, measure.
    """

    counts: Counter[str]
    trained: int
    measured: int
    unmeasured: int
    failed_metrics: int
    seconds: dict[str, float]
    task_seconds: dict[str, float]

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
    stack_size: int | None = None,
    engine: str | None = None,
    device: str = "cpu",
    snapshot_seconds: float = SNAPSHOT_SECONDS,
    only: Only | None = None,
    retry_failed: bool = False,
) -> Summary:
    """Build a zoo, or finish one that was begun.

    Args:
        spec: What to build.
        root: Folder of the zoo, or its URI in an object store.
        executor: Where the tasks run.
        data_dir: Where data sets are read from or downloaded to.
        stack_size: Largest number of runs a task trains; None chooses it by what a run costs.
        engine: How stacks are trained; None chooses it by what a step costs.
        device: Torch device of the tasks.
        snapshot_seconds: Time between snapshots of a stack in training, the most that a preemption costs.
        only: Do a part of it alone: "train", "measure", or what "failed" in an earlier build.
        retry_failed: Do what failed in an earlier build again, beside all that is missing.

    Returns:
        How the zoo stands.
    """
    clock, store = _Clock(), open_store(root)
    refuse_release(store)
    plan = make_plan(spec, data_dir)
    with store.locked(), StatusFile(store) as status:
        write_plan(store, spec, plan)
        planner = Planner(costs_of(store), plan.shapes(), device, engine, stack_size)
        wanted = Wanted(
            spec.metric_recipe,
            wanted_functions(spec),
            spec.pairs,
            fragments.measured(store, spec.metric_recipe),
            missing=only != "failed",
            failed=retry_failed or only == "failed",
        )
        pipeline = Pipeline(
            plan._replace(groups=planner.longest_first(plan.groups)),
            fragments.trained_runs(store),
            None if only == "train" else wanted,
            trained_statuses(only, retry_failed),
            planner.runs_of,
        )
        work = _Work(executor, store, plan, pipeline, device, snapshot_seconds, planner.engine_of)
        clock.lap("plan")
        if library() is None and any(planner.engine_of(group.example) == "lanes" for group in plan.groups):
            print(f"mdzoo: {NO_KERNELS}; small networks train on the slower engine", file=sys.stderr)
        progress = work.do(status)
        if only in (None, "train"):  # else some stacks may still want theirs
            drop_all(store)
        store.sweep()
        clock.lap("work")
        runs, metrics = _merge(store, spec, plan)

        from diagnose.labels import label  # with scikit-learn, which nothing before needs

        configs = tables.from_bytes("configs", store.read(CONFIGS), CONFIGS).to_pandas()
        _write(store, "labels", tables.from_frame("labels", label(configs, runs.to_pandas())))
        clock.lap("tables")
    return _summary(runs, metrics, progress, clock)


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
    refuse_release(zoo.store)
    functions, spec = functions_of(metrics), parse_spec(zoo.spec, f"the spec of {root}")
    plan, store = make_plan(spec, data_dir), zoo.store
    _check_data(zoo, plan)
    with store.locked(), StatusFile(store) as status:
        found = fragments.measured(store, recipe)
        wanted = Wanted(recipe, functions, spec.pairs, found, failed=retry_failed)
        pipeline = Pipeline(plan, fragments.trained_runs(store), wanted, trained_statuses("measure", False))
        work = _Work(executor, store, plan, pipeline, device)
        clock.lap("plan")
        progress = work.do(status)
        clock.lap("work")
        runs, rows = _merge(store, spec, plan)
        clock.lap("tables")
    return _summary(runs, rows, progress, clock)


def _check_data(zoo: Zoo, plan: Plan) -> None:
    """Refuse data sets other than those that the zoo was trained on."""
    trained_on = set(zoo.table("configs")["data_fingerprint"])
    if other := sorted(set(plan.datasets) - trained_on):
        raise ValueError(
            f"{zoo.store} was trained on data with fingerprints {sorted(trained_on)}, those found have {other}; "
            "give the folder of its data sets by --data-dir"
        )


@dataclass
class _Work:
    """Training and measuring: what the pipeline gives becomes tasks, and what the tasks give feeds the pipeline.

    Args:
        executor: Where the tasks run.
        store: The zoo's store.
        plan: The runs that the zoo is to have, with its data sets.
        pipeline: What there is to do.
        device: Torch device of the tasks.
        snapshot_seconds: Time between snapshots of a stack in training.
        engine: How stacks of a configuration are trained.
    """

    executor: Executor
    store: Store
    plan: Plan
    pipeline: Pipeline
    device: str = "cpu"
    snapshot_seconds: float = SNAPSHOT_SECONDS
    engine: Callable[[TrainConfig], str] = lambda _: "loop"
    _told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Put each data set once where every task can read it."""
        self._datasets = {name: self.executor.share(data) for name, data in self.plan.datasets.items()}
        self._estimates = Estimates(self.store, self.device)

    def do(self, status: StatusFile) -> Progress:
        """Do it all; a stack that fails for good becomes rows, a measurement is left for the next build.

        Returns:
            What was done.
        """
        progress = Progress(lambda: self.executor.running)
        for stage, count in zip(("train", "measure"), self.pipeline.expected(), strict=True):
            progress.expect(stage, count)
        status.follow(progress.facts)
        with progress, self._estimates:
            for outcome in self.executor.run(self._next):
                stage = _stage(outcome.task.job)
                counts = self._trained(outcome, progress) if stage == "train" else self._measured(outcome)
                self._estimates.see(stage, self._size(outcome.task.job), outcome.usage)
                progress.add(stage, counts, outcome.seconds, outcome.host)
        return progress

    def _next(self) -> Task | None:
        job = self.pipeline.next()
        if job is None:
            return None
        shared: tuple[Any, ...] = self._datasets[job.example.data_fingerprint], self.store
        if isinstance(job, Stack):
            options = self.engine(job.example), self.device, self.snapshot_seconds
            return Task(stages.train, job, (*shared, *options), Stack.halves, self._need)
        return Task(stages.measure, job, (*shared, self.device), MeasureJob.halves, self._need)

    def _need(self, job: Stack | MeasureJob) -> Need:
        """What a job, or a half of one, is expected to take."""
        return self._estimates.need(_stage(job), self._size(job))

    def _size(self, job: Stack | MeasureJob) -> int:
        """As `resources.size_of`."""
        config = job.example
        shape = image_shape(self.plan.datasets[config.data_fingerprint], config)
        return size_of(job, shape, self.engine(config) if isinstance(job, Stack) else "loop")

    def _trained(self, outcome: Outcome, progress: Progress) -> Counter[str]:
        stack: Stack = outcome.task.job
        runs: list[TrainedRun] = outcome.result
        if outcome.error is not None:
            runs = stages.commit_failure(stack, self.store, outcome.error)
            self._tell_once(f"training a stack of {len(stack.runs)} runs failed", outcome.error)
        progress.expect("measure", self.pipeline.ended(zip(stack.runs, runs, strict=True)))
        return Counter(run.status for run in runs)

    def _measured(self, outcome: Outcome) -> Counter[str]:
        if outcome.error is None:
            return outcome.result
        job: MeasureJob = outcome.task.job
        ids = ", ".join(part.config.config_id for part in job.parts)
        self._tell_once(f"measuring configurations {ids} failed", outcome.error)
        return Counter(failed=job.size)

    def _tell_once(self, what: str, error: str) -> None:
        """Print an error unless one that ends alike was: thousands of stacks may fail for one reason."""
        last = error.strip().rpartition("\n")[2]
        if last not in self._told:
            self._told.add(last)
            print(f"mdzoo: {what} (others that fail alike are not told):\n{error}", file=sys.stderr)


def _stage(job: Stack | MeasureJob) -> str:
    return "train" if isinstance(job, Stack) else "measure"


def _merge(store: Store, spec: ZooSpec, plan: Plan) -> tuple[pa.Table, pa.Table]:
    """Write the tables `runs`, `history` and `metrics` of what is committed and belongs to the plan."""
    planned = {
        f"{config_id}-{seed}"
        for config, seeds in plan.configurations()
        for config_id in [config.config_id]
        for seed in seeds
    }
    runs, history = fragments.merge_runs(store, planned)
    _write(store, "runs", runs)
    _write(store, "history", history)
    metrics = fragments.merge_metrics(store, set(_measurements(runs, spec.pairs)))
    _write(store, "metrics", metrics)
    return runs, metrics


def _measurements(runs: pa.Table, pairs: str | int) -> Iterator[Measurement]:
    """All measurements that belong to the runs of a zoo."""
    ids, *columns = (runs[name].to_pylist() for name in ("config_id", "seed", "status"))
    by_config: dict[str, list[TrainedRun]] = {}
    for config_id, seed, status in zip(ids, *columns, strict=True):
        by_config.setdefault(config_id, []).append(TrainedRun(seed, status))
    for config_id, own in by_config.items():
        yield from plan_measurements(own, config_id, pairs)


def _summary(runs: pa.Table, metrics: pa.Table, progress: Progress, clock: _Clock) -> Summary:
    trained, measured = (progress.stages[name].counts for name in ("train", "measure"))
    return Summary(
        counts=Counter(runs["status"].to_pylist()),
        trained=trained.total() - trained[FAILED],
        measured=measured["measurements"],
        unmeasured=measured[FAILED],
        failed_metrics=sum((reason or "").startswith(FAILED) for reason in metrics["reason"].to_pylist()),
        seconds=clock.seconds,
        task_seconds={name: round(stage.task_seconds, 3) for name, stage in progress.stages.items()},
    )


def _write(store: Store, name: str, table: pa.Table) -> None:
    store.write(f"{name}.parquet", tables.to_bytes(table))
