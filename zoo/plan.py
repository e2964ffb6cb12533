"""The plan of a zoo: what a spec stands for, what a build of it would take, and its first files."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from zoo import tables
from zoo.config import TrainConfig, content_id
from zoo.costs import costs_here
from zoo.datasets import Dataset, DatasetShape, DataSource, dataset_shape, load_dataset
from zoo.grids import Group
from zoo.landscape.measure import functions_of
from zoo.models import ImageShape, count_parameters, image_shape
from zoo.planner import Planner
from zoo.reader import MANIFEST, MERGED, open_zoo
from zoo.spec import SpecError, ZooSpec
from zoo.storage import Store

CONFIGS = "configs.parquet"

BYTES_A_CONFIGURATION, BYTES_A_STACK, BYTES_A_RUN = 11_000, 20_000, 600
"""Disk beside the weights, as measured on the demo: a fragment of metrics, one of runs, rows of merged tables."""


class Plan(NamedTuple):
    """The runs of a spec, made as they are asked for, and its data sets by fingerprint."""

    groups: list[Group]
    datasets: dict[str, Dataset]

    def configurations(self) -> Iterator[tuple[TrainConfig, tuple[int, ...]]]:
        """Each configuration with its seeds."""
        for group in self.groups:
            yield from group.configurations()

    def shapes(self) -> dict[str, ImageShape]:
        """Shape of each data set's images, by fingerprint."""
        return {
            name: ImageShape(dataset.train_images.shape[1], dataset.train_images.shape[2], dataset.classes)
            for name, dataset in self.datasets.items()
        }

    def size(self) -> tuple[int, int]:
        """Numbers of its configurations and runs."""
        configurations, runs = zip(*(group.size() for group in self.groups), strict=True)
        return sum(configurations), sum(runs)


def make_plan(spec: ZooSpec, data_dir: Path | None = None) -> Plan:
    """Load the data sets of a spec and expand it into runs.

    Raises:
        SpecError: If the spec does not fit its data.
    """
    _checked_shapes(spec, data_dir)
    wanted_functions(spec)
    loaded = {source: load_dataset(source, data_dir) for source in spec.sources()}
    fingerprints = {source: dataset.fingerprint for source, dataset in loaded.items()}
    return Plan(spec.groups(fingerprints), {d.fingerprint: d for d in loaded.values()})


def wanted_functions(spec: ZooSpec) -> frozenset[str]:
    """The functions of the metrics that a spec asks for, by first name.

    Raises:
        SpecError: If one is not registered.
    """
    try:
        return functions_of(spec.metrics)
    except ValueError as error:
        raise SpecError(f"measure.metrics: {error}; register it") from error


def _checked_shapes(spec: ZooSpec, data_dir: Path | None) -> dict[DataSource, DatasetShape]:
    try:
        shapes = {source: dataset_shape(source, data_dir) for source in spec.sources()}
    except ValueError as error:
        raise SpecError(f"dataset: {error}") from error
    spec.check(shapes)
    return shapes


def estimate(
    spec: ZooSpec, data_dir: Path | None = None, stack_size: int | None = None, engine: str | None = None
) -> dict[str, int]:
    """What a build would take, without reading an image.

    Counts, parameters, sample passes, seconds of training on a core of the machine of `costs_here`, bytes on disk.

    Raises:
        SpecError: If the spec does not fit its data.
    """
    shapes = _checked_shapes(spec, data_dir)
    stand_ins = {source: str(number) for number, source in enumerate(shapes)}
    by_stand_in = {stand_ins[s]: ImageShape(x.channels, x.image_size, x.classes) for s, x in shapes.items()}
    planner = Planner(costs_here(), by_stand_in, engine=engine, stack_size=stack_size)
    total: Counter[str] = Counter()
    seconds = 0.0
    for group in spec.groups(stand_ins):
        configurations, runs = group.size()
        config = group.example
        weights = count_parameters(config.architecture, config.width, by_stand_in[config.data_fingerprint])
        total += Counter(
            configurations=configurations,
            runs=runs,
            stacks=-(-runs // planner.runs_of(config)),
            parameters=runs * weights,
            sample_passes=runs * config.sample_passes,
        )
        seconds += runs * planner.seconds_of(config)
    disk = BYTES_A_CONFIGURATION * total["configurations"] + BYTES_A_STACK * total["stacks"]
    return {
        **total,
        "training_seconds": round(seconds),
        "disk_bytes": 4 * total["parameters"] + disk + BYTES_A_RUN * total["runs"],
    }


def write_plan(store: Store, spec: ZooSpec, plan: Plan) -> None:
    """Write the manifest and the table `configs`, unless the store has those of the same plan."""
    configurations, runs = plan.size()
    manifest = {
        "schema_version": tables.SCHEMA_VERSION,
        "package_version": version("mdzoo"),
        "name": spec.name,
        "configurations": configurations,
        "runs": runs,
        "metric_recipe": spec.metric_recipe,
        "pairs": spec.pairs,
        "data": sorted(plan.datasets),
        "spec": spec.text,
    }
    text = json.dumps(manifest, indent=1).encode()
    if store.exists(MANIFEST):
        if store.read(MANIFEST) == text and store.exists(CONFIGS):
            return
        # Tables of another spec would not fit the new plan; their fragments stay.
        for name in MERGED:
            store.delete(f"{name}.parquet")
    store.delete(CONFIGS)
    store.write(MANIFEST, text)
    rows = (row for group in plan.groups for row in _config_rows(group, plan.datasets))
    store.write(CONFIGS, tables.rows_to_bytes("configs", rows))


def refuse_release(store: Store) -> None:
    """Keep builds off a release.

    Raises:
        ValueError: If the store holds one.
    """
    if store.exists(MANIFEST) and open_zoo(str(store)).is_release:
        raise ValueError(
            f"{store} is a release, which does not change; build into another place, and publish that"
        )


def _config_rows(group: Group, datasets: Mapping[str, Dataset]) -> Iterator[dict[str, Any]]:
    config = group.example  # the shapes of all
    shape = image_shape(datasets[config.data_fingerprint], config)
    made = {
        "parameters": count_parameters(config.architecture, config.width, shape),
        "package_version": version("mdzoo"),
    }
    for config, seeds in group.configurations():
        text = config.canonical_json()
        ids = {"config_id": content_id(text), "canonical_json": text, "seeds": seeds}
        yield {**dict(zip(_FIELDS, _values(config), strict=True)), **ids, **made}


_FIELDS = tuple(field.name for field in dataclasses.fields(TrainConfig))
_values = attrgetter(*_FIELDS)
