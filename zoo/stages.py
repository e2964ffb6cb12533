"""The stage functions: what one task does, from its part of the plan to a commit on storage.

Plain Python: they run the same in this process and in a Ray worker, and read and write nothing but the
zoo's store.
"""

from __future__ import annotations

import hashlib
import platform
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from zoo import checkpoints, fragments
from zoo.config import Run, TrainConfig, seed_of
from zoo.datasets import Dataset, RunData, Split, select
from zoo.fragments import Measurement
from zoo.landscape.connectivity import Pair
from zoo.landscape.measure import RECIPES as METRIC_RECIPES
from zoo.landscape.measure import measure_pairs, measure_run, rows_without_value
from zoo.landscape.registry import PAIR_METRICS, RUN_METRICS
from zoo.models import image_shape, initial_model
from zoo.plan import MeasureJob, TrainedRun
from zoo.stacks import Stack
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
    stack: Stack, dataset: Dataset, store: Store, engine: str = "loop", device: str = "cpu"
) -> Counter[str]:
    """Train a stack and commit it: its checkpoint first, then, last, the fragment that names it.

    Returns:
        How many runs ended in which status.
    """
    _plain_float32()
    results = train_stack(stack, dataset, engine, device)
    kept = {r.run: r.weights for r in results if r.weights is not None}
    name = digest = None
    if kept:
        shape = image_shape(dataset, stack.runs[0].config)
        data = checkpoints.pack(list(kept), list(kept.values()), shape)
        digest = hashlib.sha256(data).hexdigest()
        name = store.write_named_by_content(fragments.CHECKPOINTS, data, ".safetensors")
    made = provenance(device) | {"engine": engine}
    stored = {
        run: {"checkpoint": name, "checkpoint_index": index, "checkpoint_sha256": digest}
        for index, run in enumerate(kept)
    }
    fragments.commit_runs(store, [_run_row(r) | made | stored.get(r.run, {}) for r in results])
    return Counter(r.status for r in results)


def _ids(run: Run) -> Row:
    return {
        "run_id": run.run_id,
        "config_id": run.config.config_id,
        "seed": run.seed,
        "recipe": run.config.recipe,
    }


def _run_row(result: RunResult) -> Row:
    same = ("status", "reason", "steps", "checkpoint_epoch", "final_loss", "seconds", "history")
    return _ids(result.run) | {name: getattr(result, name) for name in same} | result.scores


def commit_failure(stack: Stack, store: Store, reason: str) -> None:
    """Commit a stack that failed for good: a row a run, with the traceback as its reason."""
    made = provenance("cpu")
    rows = [_ids(run) | made | {"status": "failed", "reason": reason, "history": []} for run in stack.runs]
    fragments.commit_runs(store, rows)


def measure(job: MeasureJob, dataset: Dataset, store: Store, device: str = "cpu") -> Counter[str]:
    """Make the measurements of a job and commit them in one fragment.

    Returns:
        How many were made.
    """
    _plain_float32()
    config = job.config
    data = _on(device, select(dataset, config))
    recipe = METRIC_RECIPES[job.recipe].for_data_fraction(config.data_amount / len(dataset.train_labels))
    runs = {Run(config, run.seed).run_id: run for run in job.runs}
    for name, digest in {(run.checkpoint, run.checkpoint_sha256) for run in job.runs}:
        if name is not None and digest is not None:
            checkpoints.verify(store, name, digest)

    @cache
    def model(run_id: str) -> nn.Module:
        run = runs[run_id]
        assert run.checkpoint is not None  # a run that is done names its checkpoint
        assert run.checkpoint_index is not None
        return checkpoints.load_run(store, run.checkpoint, run.checkpoint_index, run_id).to(device)

    def untrained(key: tuple[str, ...]) -> nn.Module:
        shape = image_shape(dataset, config)
        return initial_model(config.architecture, config.width, shape, seed_of("bend", *key)).to(device)

    def rows_of_run(item: Measurement, only: tuple[str, ...]) -> list[Row]:
        if item.other_run_id == item.run_id:
            return rows_without_value(PAIR_METRICS, recipe, "one_run", only)
        if runs[item.run_id].status != "done":
            return rows_without_value(RUN_METRICS, recipe, runs[item.run_id].status, only)
        return measure_run(model(item.run_id), data, recipe, (item.run_id,), only)

    def rows() -> Iterator[tuple[Measurement, list[Row]]]:
        pairs: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
        for item, only in job.measurements:
            if item.other_run_id is None or item.other_run_id == item.run_id:
                yield item, rows_of_run(item, only)
            else:
                pairs[only].append((item.run_id, item.other_run_id))
        for only, keys in pairs.items():
            models = [Pair(model(key[0]), model(key[1]), untrained(key)) for key in keys]
            for key, measured in zip(keys, measure_pairs(models, data, recipe, keys, only), strict=True):
                yield Measurement(*key), measured

    made = provenance(device)
    committed: list[Row] = []
    for item, measured in rows():
        ids = {"config_id": config.config_id, "step": _step(config, runs[item.run_id])} | item._asdict()
        committed += [row | ids | made for row in measured]
    fragments.commit_metrics(store, committed)
    return Counter(measurements=len(job.measurements))


def _step(config: TrainConfig, run: TrainedRun) -> int:
    """The training step of a run's weights."""
    if config.recipe == "paper" and run.checkpoint_epoch is not None:
        return run.checkpoint_epoch * config.steps_per_epoch
    return run.steps


def _plain_float32() -> None:
    """Let float32 mean float32 on a GPU: its convolutions would otherwise round to 10 bits (TF32)."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _on(device: str, data: RunData) -> RunData:
    def moved(split: Split) -> Split:
        return Split(split.images.to(device), split.labels.to(device))

    return RunData(moved(data.train), moved(data.validation), moved(data.test), data.classes)
