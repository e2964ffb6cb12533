"""The stage functions: what one task does, from its part of the plan to a commit on storage.

Plain Python: they run the same in this process and in a Ray worker, and read and write nothing but the
zoo's store.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from itertools import chain, product
from typing import Any, NamedTuple

import torch
from torch import nn

from zoo import checkpoints, fragments
from zoo.config import Run, seed_of
from zoo.datasets import Dataset, RunData, Split, select
from zoo.landscape.measure import RECIPES as METRIC_RECIPES
from zoo.landscape.measure import measure_pair, measure_run
from zoo.landscape.registry import PAIR_METRICS, RUN_METRICS, Metric
from zoo.models import image_shape, initial_model
from zoo.plan import MeasureJob
from zoo.stacks import Stack
from zoo.storage import Store
from zoo.training import RunResult, train_stack

Row = dict[str, Any]


class Report(NamedTuple):
    """What a task did: how many runs ended in which status, or measurements, and its seconds."""

    counts: Counter[str]
    seconds: float


@cache
def provenance(device: str) -> dict[str, str]:
    """The columns that say what made a row."""
    name = device if device == "cpu" else torch.cuda.get_device_name(device)
    versions = {"package_version": version("mdzoo"), "torch_version": torch.__version__}
    return versions | {"device": name, "host": platform.node()}


def train(stack: Stack, dataset: Dataset, store: Store, engine: str = "loop", device: str = "cpu") -> Report:
    """Train a stack and commit it: its checkpoint first, then, last, the fragment that names it."""
    began = time.perf_counter()
    results = train_stack(stack, dataset, engine, device)
    kept = [r for r in results if r.weights is not None]
    name = digest = None
    if kept:
        shape = image_shape(dataset, stack.runs[0].config)
        data = checkpoints.pack(
            [r.run for r in kept], [r.weights for r in kept if r.weights is not None], shape
        )
        digest = hashlib.sha256(data).hexdigest()
        name = store.write_named_by_content(checkpoints.FOLDER, data, ".safetensors")
    made = provenance(device) | {"engine": engine}
    rows = []
    for result in results:
        row = _run_row(result) | made
        if result in kept:
            row |= {"checkpoint": name, "checkpoint_index": kept.index(result), "checkpoint_sha256": digest}
        rows.append(row)
    fragments.commit_runs(store, rows)
    return Report(Counter(r.status for r in results), time.perf_counter() - began)


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


def measure(job: MeasureJob, dataset: Dataset, store: Store, device: str = "cpu") -> Report:
    """Make the measurements of a job and commit them in one fragment."""
    began = time.perf_counter()
    config = job.config
    data = _on(device, select(dataset, config))
    recipe = METRIC_RECIPES[job.recipe].for_data_fraction(config.data_amount / len(dataset.train_labels))
    runs = {Run(config, run.seed).run_id: run for run in job.runs}
    done = [run_id for run_id, run in runs.items() if run.status == "done"]

    @cache
    def model(run_id: str) -> nn.Module:
        run = runs[run_id]
        assert run.checkpoint is not None  # a run that is done names its checkpoint
        assert run.checkpoint_index is not None
        return checkpoints.load_run(store, run.checkpoint, run.checkpoint_index, run_id).to(device)

    made = provenance(device)
    rows: list[Row] = []
    for item in job.measurements:
        if item.other_run_id is not None:
            key = (item.run_id, item.other_run_id)
            bend = initial_model(
                config.architecture, config.width, image_shape(dataset, config), seed_of("bend", *key)
            )
            found = measure_pair(model(key[0]), model(key[1]), data, recipe, key, bend.to(device))
        elif item.run_id in done:
            found = measure_run(model(item.run_id), data, recipe, (item.run_id,))
            found += _without_value(PAIR_METRICS, job.recipe, "one_run") if len(done) == 1 else []
        else:
            status = runs[item.run_id].status
            found = _without_value(RUN_METRICS, job.recipe, status) + _without_value(
                PAIR_METRICS, job.recipe, status
            )
        ids = {"config_id": config.config_id, "step": runs[item.run_id].steps} | item._asdict()
        rows += [row | ids | made for row in found]
    fragments.commit_metrics(store, rows)
    return Report(Counter(measurements=len(job.measurements)), time.perf_counter() - began)


def _on(device: str, data: RunData) -> RunData:
    def moved(split: Split) -> Split:
        return Split(split.images.to(device), split.labels.to(device))

    return RunData(moved(data.train), moved(data.validation), moved(data.test), data.classes)


def _without_value(registry: Mapping[str, Metric[Any]], recipe: str, reason: str) -> list[Row]:
    named = chain.from_iterable(product(metric.names, metric.splits) for metric in registry.values())
    return [{"metric": name, "split": split, "recipe": recipe, "reason": reason} for name, split in named]
