"""The stage functions: what one task does, from its part of the plan to a commit on storage.

Plain Python: they run the same in this process and in a Ray worker, and read and write nothing but the
zoo's store.
"""

from __future__ import annotations

import platform
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo import checkpoints, fragments
from zoo.config import Run, TrainConfig, seed_of
from zoo.datasets import Dataset, RunData, Split, select_alike
from zoo.engines.lane_library import library
from zoo.fragments import FAILED, Measurement, TrainedRun
from zoo.landscape.connectivity import Pair
from zoo.landscape.measure import RECIPES as METRIC_RECIPES
from zoo.landscape.measure import measure_pairs, measure_run, rows_without_value
from zoo.landscape.registry import PAIR_METRICS, RUN_METRICS
from zoo.measurements import MeasureJob
from zoo.models import image_shape, initial_model
from zoo.snapshots import Keeper
from zoo.stacks import SNAPSHOT_SECONDS, Stack
from zoo.storage import Store
from zoo.training import RunResult, train_stack

Row = dict[str, Any]


@cache
def provenance(device: str) -> dict[str, str]:
    """The columns that say what made a row."""
    name = device if device == "cpu" else torch.cuda.get_device_name(device)
    versions = {"package_version": version("mdzoo"), "torch_version": torch.__version__}
    return versions | {"device": name, "host": platform.node()}


def train(
    stack: Stack,
    dataset: Dataset,
    store: Store,
    engine: str = "loop",
    device: str = "cpu",
    snapshot_seconds: float = SNAPSHOT_SECONDS,
) -> list[TrainedRun]:
    """Train a stack and commit it: its checkpoint first, then, last, the fragment that names it.

    Meanwhile a snapshot is kept every `snapshot_seconds`, from which another try goes on. Where the engine cannot
    run, as lanes on a machine without their kernels, the plain one trains, and the runs say so.

    Returns:
        Its runs, in the stack's order.
    """
    _plain_float32()
    engine = "loop" if engine == "lanes" and library() is None else engine
    keeper = Keeper(store, stack, engine, snapshot_seconds)
    results = train_stack(stack, dataset, engine, device, keeper)
    kept = {r.run: r.weights for r in results if r.weights is not None}
    name = None
    if kept:
        shape = image_shape(dataset, stack.runs[0].config)
        data = checkpoints.pack(list(kept), list(kept.values()), shape)
        name = store.write_named_by_content(fragments.CHECKPOINTS, data, ".safetensors")
    made = provenance(device) | {"engine": engine}
    stored = {
        run: {"checkpoint": name, "checkpoint_index": index, "weights_sha256": checkpoints.sha256_of(weights)}
        for index, (run, weights) in enumerate(kept.items())
    }
    rows = [_run_row(r) | made | stored.get(r.run, {}) for r in results]
    fragments.commit_runs(store, rows)
    keeper.drop()
    return [_trained(row) for row in rows]


def _ids(run: Run) -> Row:
    return {
        "run_id": run.run_id,
        "config_id": run.config.config_id,
        "seed": run.seed,
        "recipe": run.config.recipe,
    }


def _trained(row: Row) -> TrainedRun:
    facts: dict[str, Any] = {name: row.get(name) for name in TrainedRun._fields}
    return TrainedRun(**facts)


def _run_row(result: RunResult) -> Row:
    same = ("status", "reason", "steps", "checkpoint_epoch", "final_loss", "seconds", "history")
    return _ids(result.run) | {name: getattr(result, name) for name in same} | result.scores


def commit_failure(stack: Stack, store: Store, reason: str) -> list[TrainedRun]:
    """Commit a stack that failed for good: a row a run, with the traceback as its reason.

    Returns:
        Its runs, in the stack's order.
    """
    made = provenance("cpu")
    rows = [_ids(run) | made | {"status": FAILED, "reason": reason, "history": []} for run in stack.runs]
    fragments.commit_runs(store, rows)
    return [TrainedRun(run.seed, FAILED) for run in stack.runs]


def measure(job: MeasureJob, dataset: Dataset, store: Store, device: str = "cpu") -> Counter[str]:
    """Make the measurements of a job and commit them in one fragment.

    Returns:
        How many were made.
    """
    _plain_float32()
    first = job.parts[0].config
    fraction = first.data_amount / len(dataset.train_labels)
    recipe = METRIC_RECIPES[job.recipe].for_data_fraction(fraction)
    shape, made = image_shape(dataset, first), provenance(device)
    committed: list[Row] = []
    twins: dict[tuple[str, ...], list[_Twins]] = defaultdict(list)  # by the metrics that are to be made

    def keep(config: TrainConfig, run: TrainedRun, item: Measurement, rows: list[Row]) -> None:
        ids = {"config_id": config.config_id, "step": _step(config, run)} | item._asdict()
        committed.extend(row | ids | made for row in rows)

    data_of_parts = _on(device, select_alike(dataset, [part.config for part in job.parts]))
    for part, data in zip(job.parts, data_of_parts, strict=True):
        config = part.config
        runs = {Run(config, run.seed).run_id: run for run in part.runs}
        model = _models(store, config, runs, device)
        for item, only in part.measurements:
            run = runs[item.run_id]
            if item.other_run_id is None and run.status != "done":
                rows = rows_without_value(RUN_METRICS, recipe, run.status, only)
            elif item.other_run_id is None:
                rows = measure_run(model(item.run_id), data, recipe, (item.run_id,), only)
            elif item.other_run_id == item.run_id:
                rows = rows_without_value(PAIR_METRICS, recipe, "one_run", only)
            else:
                bend = seed_of("bend", item.run_id, item.other_run_id)
                untrained = initial_model(config.architecture, config.width, shape, bend).to(device)
                pair = Pair(model(item.run_id), model(item.other_run_id), untrained)
                twins[only].append(_Twins(config, run, item, pair, data))
                continue
            keep(config, run, item, rows)
    for only, found in twins.items():
        keys = [(each.item.run_id, str(each.item.other_run_id)) for each in found]
        pairs, data_of_pairs = [each.pair for each in found], [each.data for each in found]
        measured = measure_pairs(pairs, data_of_pairs, recipe, keys, only)
        for each, rows in zip(found, measured, strict=True):
            keep(each.config, each.run, each.item, rows)
    fragments.commit_metrics(store, committed)
    return Counter(measurements=job.size)


class _Twins(NamedTuple):
    """Two runs of a configuration that are to be measured, and what of them goes into their rows."""

    config: TrainConfig
    run: TrainedRun
    item: Measurement
    pair: Pair
    data: RunData


def _models(
    store: Store, config: TrainConfig, runs: Mapping[str, TrainedRun], device: str
) -> Callable[[str], nn.Module]:
    """Loads a configuration's runs by their ids, each once, with the weights that were stored."""

    @cache
    def model(run_id: str) -> nn.Module:
        run = runs[run_id]
        place = run.checkpoint, run.checkpoint_index, run.weights_sha256
        assert place[0] is not None and place[1] is not None and place[2] is not None  # noqa: PT018 (done)
        own = Run(config, run.seed)
        return checkpoints.load_run(store, place[0], place[1], own, place[2]).to(device)

    return model


def _step(config: TrainConfig, run: TrainedRun) -> int:
    """The training step of a run's weights."""
    if config.recipe == "paper" and run.checkpoint_epoch is not None:
        return run.checkpoint_epoch * config.steps_per_epoch
    return run.steps


def _plain_float32() -> None:
    """Let float32 mean float32 on a GPU: its convolutions would otherwise round to 10 bits (TF32)."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _on(device: str, data: list[RunData]) -> list[RunData]:
    """The same on a device; what they share is moved once."""

    @cache
    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device)

    def split(own: Split) -> Split:
        return Split(moved(own.images), moved(own.labels))

    return [RunData(split(own.train), split(own.validation), split(own.test), own.classes) for own in data]
