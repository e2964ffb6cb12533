"""The plan of a zoo: a spec becomes runs, and trained runs become measurements."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from zoo import fragments, tables
from zoo.config import Run, TrainConfig
from zoo.datasets import Dataset, DatasetShape, DataSource, dataset_shape, load_dataset
from zoo.fragments import Measurement
from zoo.models import ImageShape, count_parameters, image_shape
from zoo.reader import MANIFEST, Zoo
from zoo.spec import SpecError, ZooSpec
from zoo.stacks import STACK_SIZE, cut_stacks
from zoo.storage import Store

BYTES_A_CONFIGURATION, BYTES_A_STACK, BYTES_A_RUN = 11_000, 20_000, 600
"""Disk beside the weights, as measured on the demo: a fragment of metrics, one of runs, rows of merged tables."""


class Plan(NamedTuple):
    """All runs of a spec, with their data sets by fingerprint."""

    runs: list[Run]
    datasets: dict[str, Dataset]

    @property
    def configurations(self) -> list[TrainConfig]:
        """Its configurations, each once."""
        return list(dict.fromkeys(run.config for run in self.runs))


class TrainedRun(NamedTuple):
    """What measuring has to know of a run: a few columns of its row in `runs`."""

    seed: int
    status: str
    steps: int
    checkpoint: str | None
    checkpoint_index: int | None


class MeasureJob(NamedTuple):
    """The measurements of one configuration that a task is to make."""

    config: TrainConfig
    runs: tuple[TrainedRun, ...]
    measurements: tuple[Measurement, ...]
    recipe: str


def make_plan(spec: ZooSpec, data_dir: Path | None = None) -> Plan:
    """Load the data sets of a spec and expand it into runs.

    Raises:
        SpecError: If the spec does not fit its data.
    """
    _checked_shapes(spec, data_dir)
    loaded = {source: load_dataset(source, data_dir) for source in spec.sources()}
    fingerprints = {source: dataset.fingerprint for source, dataset in loaded.items()}
    return Plan(list(spec.runs(fingerprints)), {d.fingerprint: d for d in loaded.values()})


def _checked_shapes(spec: ZooSpec, data_dir: Path | None) -> dict[DataSource, DatasetShape]:
    try:
        shapes = {source: dataset_shape(source, data_dir) for source in spec.sources()}
    except ValueError as error:
        raise SpecError(f"{spec.name}: {error}") from error
    spec.check(shapes)
    return shapes


def estimate(spec: ZooSpec, data_dir: Path | None = None, stack_size: int = STACK_SIZE) -> dict[str, int]:
    """What a build would take, without reading an image: counts, parameters, sample passes, bytes on disk.

    Raises:
        SpecError: If the spec does not fit its data.
    """
    shapes = _checked_shapes(spec, data_dir)
    stand_ins = {source: str(number) for number, source in enumerate(shapes)}
    by_stand_in = {stand_ins[s]: ImageShape(x.channels, x.image_size, x.classes) for s, x in shapes.items()}
    runs = list(spec.runs(stand_ins))
    configurations = len({run.config for run in runs})
    parameters = sum(
        count_parameters(c.architecture, c.width, by_stand_in[c.data_fingerprint])
        for c in (r.config for r in runs)
    )
    stacks = sum(1 for _ in cut_stacks(runs, stack_size))
    return {
        "configurations": configurations,
        "runs": len(runs),
        "stacks": stacks,
        "parameters": parameters,
        "sample_passes": sum(run.config.sample_passes for run in runs),
        "disk_bytes": 4 * parameters
        + BYTES_A_CONFIGURATION * configurations
        + BYTES_A_STACK * stacks
        + BYTES_A_RUN * len(runs),
    }


def write_plan(store: Store, spec: ZooSpec, plan: Plan) -> None:
    """Write the manifest and the table `configs`."""
    configurations = plan.configurations
    manifest = {
        "schema_version": tables.SCHEMA_VERSION,
        "package_version": version("mdzoo"),
        "name": spec.name,
        "configurations": len(configurations),
        "runs": len(plan.runs),
        "metric_recipe": spec.metric_recipe,
        "pairs": spec.pairs,
        "spec": spec.text,
    }
    store.write(MANIFEST, json.dumps(manifest, indent=1).encode())
    rows = [_config_row(config, plan.datasets[config.data_fingerprint]) for config in configurations]
    store.write("configs.parquet", tables.to_bytes(tables.to_table("configs", rows)))


def _config_row(config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    return dataclasses.asdict(config) | {
        "config_id": config.config_id,
        "parameters": count_parameters(config.architecture, config.width, image_shape(dataset, config)),
        "canonical_json": config.canonical_json(),
    }


def plan_measurements(runs: Iterable[TrainedRun], config_id: str, pairs: str) -> list[Measurement]:
    """All measurements of a configuration: each run that did not fail, and pairs of the runs that are done.

    Args:
        runs: The runs of the configuration.
        config_id: Its id.
        pairs: "ring" (each run in two pairs) or "all".

    Returns:
        Runs first, then pairs, by seed.
    """
    by_seed = sorted((run for run in runs if run.status != "failed"), key=lambda run: run.seed)
    ids = [f"{config_id}-{run.seed}" for run in by_seed if run.status == "done"]
    ring = list(pairwise(ids)) + ([(ids[0], ids[-1])] if len(ids) > 2 else [])
    chosen = ring if pairs == "ring" else list(combinations(ids, 2))
    return [Measurement(f"{config_id}-{run.seed}") for run in by_seed] + [
        Measurement(*pair) for pair in chosen
    ]


def measure_jobs(
    spec: ZooSpec, configurations: Iterable[TrainConfig], runs: pa.Table, done: set[Measurement]
) -> Iterator[MeasureJob]:
    """A job for each configuration with measurements that are not done.

    Args:
        spec: What is built.
        configurations: Its configurations.
        runs: The table `runs`.
        done: Measurements that are committed.
    """
    by_config: dict[str, list[TrainedRun]] = defaultdict(list)
    for row in runs.select(["config_id", *TrainedRun._fields]).to_pylist():
        by_config[row.pop("config_id")].append(TrainedRun(**row))
    for config in configurations:
        own = tuple(by_config[config.config_id])
        planned = plan_measurements(own, config.config_id, spec.pairs)
        if missing := tuple(m for m in planned if m not in done):
            yield MeasureJob(config, own, missing, spec.metric_recipe)


def status(zoo: Zoo) -> dict[str, Any]:
    """How far a zoo is, from what its tasks have committed.

    Returns:
        Its name, the configurations and runs planned, runs by status and how many are missing, and the
        measurements made.
    """
    manifest = json.loads(zoo.store.read(MANIFEST))
    configs = set(zoo.table("configs")["config_id"])
    ends = fragments.run_status(zoo.store).items()
    counts = Counter(status for run_id, status in ends if run_id.partition("-")[0] in configs)
    measured = fragments.measured(zoo.store, zoo.metric_recipe)
    return {
        "name": zoo.name,
        "configurations": manifest["configurations"],
        "runs": manifest["runs"],
        **{name: counts[name] for name in ("done", "diverged", "failed")},
        "missing": max(0, manifest["runs"] - counts.total()),
        "measurements": sum(item.run_id.partition("-")[0] in configs for item in measured),
        "labelled": zoo.store.exists("labels.parquet"),
    }
