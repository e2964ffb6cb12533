"""The plan of a zoo: a spec becomes runs, and trained runs become measurements."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import combinations, groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from zoo import tables
from zoo.config import Run, TrainConfig
from zoo.datasets import Dataset, DatasetShape, DataSource, dataset_shape, load_dataset
from zoo.fragments import FAILED, Measurement
from zoo.landscape.measure import PAIR_METRICS, RUN_METRICS
from zoo.landscape.registry import Metric, functions_of
from zoo.models import ImageShape, count_parameters, image_shape
from zoo.reader import MANIFEST, MERGED
from zoo.spec import SpecError, ZooSpec
from zoo.stacks import STACK_SIZE, cut_stacks, stack_key
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
    checkpoint_epoch: int | None
    checkpoint: str | None
    checkpoint_index: int | None
    checkpoint_sha256: str | None


class Planned(NamedTuple):
    """A configuration with its trained runs and all its measurements."""

    config: TrainConfig
    runs: tuple[TrainedRun, ...]
    measurements: list[Measurement]


class Due(NamedTuple):
    """A measurement, and the registered functions that are to make it, by their first names."""

    item: Measurement
    metrics: tuple[str, ...]


class MeasurePart(NamedTuple):
    """The measurements of one configuration that a task is to make."""

    config: TrainConfig
    runs: tuple[TrainedRun, ...]
    measurements: tuple[Due, ...]


class MeasureJob(NamedTuple):
    """What a task is to measure: configurations whose runs could train in one stack, so that their curves do."""

    parts: tuple[MeasurePart, ...]
    recipe: str

    @property
    def data_fingerprint(self) -> str:
        """The data set of all its configurations."""
        return self.parts[0].config.data_fingerprint

    def halves(self) -> list[MeasureJob]:
        """Two jobs with half of the measurements each; none if there is one measurement."""
        items = [(part, due) for part in self.parts for due in part.measurements]
        middle = len(items) // 2
        return [self._with(items[:middle]), self._with(items[middle:])] if middle else []

    def _with(self, items: Iterable[tuple[MeasurePart, Due]]) -> MeasureJob:
        grouped = groupby(items, key=itemgetter(0))
        return self._replace(
            parts=tuple(part._replace(measurements=tuple(due for _, due in own)) for part, own in grouped)
        )

    @property
    def size(self) -> int:
        """Number of its measurements."""
        return sum(len(part.measurements) for part in self.parts)


def make_plan(spec: ZooSpec, data_dir: Path | None = None) -> Plan:
    """Load the data sets of a spec and expand it into runs.

    Raises:
        SpecError: If the spec does not fit its data.
    """
    _checked_shapes(spec, data_dir)
    wanted_functions(spec)
    loaded = {source: load_dataset(source, data_dir) for source in spec.sources()}
    fingerprints = {source: dataset.fingerprint for source, dataset in loaded.items()}
    return Plan(list(spec.runs(fingerprints)), {d.fingerprint: d for d in loaded.values()})


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
    seeds: dict[TrainConfig, list[int]] = defaultdict(list)
    for run in plan.runs:
        seeds[run.config].append(run.seed)
    rows = [
        _config_row(config, plan.datasets[config.data_fingerprint], seeds[config])
        for config in configurations
    ]
    text = json.dumps(manifest, indent=1).encode()
    if store.exists(MANIFEST) and store.read(MANIFEST) != text:
        # Tables of another spec would not fit the new plan; their fragments stay.
        for name in MERGED:
            store.delete(f"{name}.parquet")
    store.write(MANIFEST, text)
    store.write("configs.parquet", tables.to_bytes(tables.to_table("configs", rows)))


def _config_row(config: TrainConfig, dataset: Dataset, seeds: list[int]) -> dict[str, Any]:
    return dataclasses.asdict(config) | {
        "config_id": config.config_id,
        "parameters": count_parameters(config.architecture, config.width, image_shape(dataset, config)),
        "canonical_json": config.canonical_json(),
        "seeds": seeds,
        "package_version": version("mdzoo"),
    }


def chosen_pairs(ids: Sequence[str], pairs: str | int) -> list[tuple[str, str]]:
    """Which runs of a configuration are paired.

    Args:
        ids: The runs by seed.
        pairs: "ring" (each run with the next, the last with the first), "all", or a number of pairs: neighbours
            first, then those two apart, and so on; all where there are no more.
    """
    if pairs == "ring":
        return list(pairwise(ids)) + ([(ids[0], ids[-1])] if len(ids) > 2 else [])
    apart = [list(zip(ids, ids[distance:], strict=False)) for distance in range(1, len(ids))]
    by_distance = [pair for distance in apart for pair in distance]
    return list(combinations(ids, 2)) if pairs == "all" else by_distance[: int(pairs)]


def plan_measurements(runs: Iterable[TrainedRun], config_id: str, pairs: str | int) -> list[Measurement]:
    """All measurements of a configuration: each run that did not fail, and pairs of the runs that are done.

    Args:
        runs: The runs of the configuration.
        config_id: Its id.
        pairs: As for `chosen_pairs`.

    Returns:
        Runs first, then pairs, by seed; a run that is alone is paired with itself.
    """
    by_seed = sorted((run for run in runs if run.status != FAILED), key=lambda run: run.seed)
    ids = [f"{config_id}-{run.seed}" for run in by_seed if run.status == "done"]
    chosen = chosen_pairs(ids, pairs) + ([(ids[0], ids[0])] if len(ids) == 1 else [])
    return [Measurement(f"{config_id}-{run.seed}") for run in by_seed] + [
        Measurement(*pair) for pair in chosen
    ]


def measurements_of(
    spec: ZooSpec, configurations: Iterable[TrainConfig], runs: pa.Table
) -> Iterator[Planned]:
    """Each configuration with its trained runs and all its measurements.

    Args:
        spec: What is built.
        configurations: Its configurations.
        runs: The table `runs`.
    """
    by_config: dict[str, list[TrainedRun]] = defaultdict(list)
    for row in runs.select(["config_id", *TrainedRun._fields]).to_pylist():
        by_config[row.pop("config_id")].append(TrainedRun(**row))
    for config in configurations:
        own = tuple(by_config[config.config_id])
        yield Planned(config, own, plan_measurements(own, config.config_id, spec.pairs))


def measure_jobs(
    planned: Iterable[Planned],
    found: Mapping[Measurement, Mapping[tuple[str, str | None], bool]],
    recipe: str,
    functions: Container[str],
    retry_failed: bool = False,
) -> Iterator[MeasureJob]:
    """Jobs for the configurations with rows that are not committed, each of as many runs as a stack may have.

    Args:
        planned: From `measurements_of`.
        found: From `fragments.measured`, for the recipe.
        recipe: The metric recipe.
        functions: Which functions' rows are wanted, by first name.
        retry_failed: Whether a metric that failed counts as missing.
    """
    alike: dict[tuple[str | int, ...], list[MeasurePart]] = defaultdict(list)
    for config, runs, items in planned:
        due = [Due(item, _missing(item, found.get(item, {}), functions, retry_failed)) for item in items]
        if missing := tuple(one for one in due if one.metrics):
            alike[stack_key(config)].append(MeasurePart(config, runs, missing))
    for parts in alike.values():
        for job in _filled(parts):
            yield MeasureJob(tuple(job), recipe)


def _filled(parts: Iterable[MeasurePart]) -> Iterator[list[MeasurePart]]:
    """Parts in groups of at most `STACK_SIZE` runs, or of one part."""
    group: list[MeasurePart] = []
    for part in parts:
        if group and sum(len(own.runs) for own in [*group, part]) > STACK_SIZE:
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def _missing(
    item: Measurement,
    rows: Mapping[tuple[str, str | None], bool],
    functions: Container[str],
    retry_failed: bool,
) -> tuple[str, ...]:
    """The functions of which a measurement lacks a row."""
    registry: Mapping[str, Metric[Any]] = RUN_METRICS if item.other_run_id is None else PAIR_METRICS
    return tuple(
        first
        for first, metric in registry.items()
        if first in functions
        and not all(row in rows and (rows[row] or not retry_failed) for row in metric.rows)
    )
