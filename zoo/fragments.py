"""Fragments: what tasks have committed, and the merge of it into tables.

A run is finished when a fragment lists it and its checkpoint is there. Two fragments may list the same run or
measurement (a retry can overlap its original): rows that came off win over rows that did not, then the
lexically first file wins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from zoo import tables
from zoo.storage import Store

RUNS, METRICS, CHECKPOINTS = "fragments/runs", "fragments/metrics", "checkpoints"
PACK = 256
"""Parts that a merge holds before it packs them."""

LOST = "lost"
"""Status of a run whose fragment says done, but whose checkpoint is gone."""

FAILED = "failed"
"""Status of a run, and beginning of the reason of a metric, that an error kept from being."""


class Measurement(NamedTuple):
    """What one measurement concerns: a run, or a pair of runs; a run without a twin is paired with itself."""

    run_id: str
    other_run_id: str | None = None


class TrainedRun(NamedTuple):
    """What measuring has to know of a run: a few columns of its row in `runs`."""

    seed: int
    status: str
    steps: int = 0
    checkpoint_epoch: int | None = None
    checkpoint: str | None = None
    checkpoint_index: int | None = None
    weights_sha256: str | None = None


class Rows(NamedTuple):
    """The (metric, split) rows of a measurement: those that came off, and those that failed and never came off."""

    well: frozenset[tuple[str, str | None]] = frozenset()
    failed: frozenset[tuple[str, str | None]] = frozenset()


NO_ROWS = Rows()


def commit_runs(store: Store, rows: list[dict[str, Any]]) -> None:
    """Commit rows of `runs` with their nested history; whatever file they name has to be there already."""
    store.write_named_by_content(RUNS, tables.to_bytes(tables.to_table("run_fragments", rows)), ".parquet")


def commit_metrics(store: Store, rows: list[dict[str, Any]]) -> None:
    """Commit rows of `metrics`; all rows of a registered function belong into one commit."""
    store.write_named_by_content(METRICS, tables.to_bytes(tables.to_table("metrics", rows)), ".parquet")


def trained_runs(store: Store) -> dict[str, TrainedRun]:
    """Every run that a fragment lists, by run_id; its status is LOST if its checkpoint is gone."""
    found: dict[str, TrainedRun] = {}
    for table, runs in _runs(store):
        for run_id, run in zip(table["run_id"].to_pylist(), runs, strict=True):
            if run_id not in found or found[run_id].status in (FAILED, LOST):
                found[run_id] = run
    return found


def merge_runs(store: Store, planned: Container[str]) -> tuple[pa.Table, pa.Table]:
    """The tables `runs` and `history` of all fragments, each planned run once, sorted by configuration and seed.

    Args:
        store: The zoo's store.
        planned: Ids of the runs to take; the folder may hold others, of an earlier spec.
    """
    chosen = trained_runs(store)

    def fresh() -> Iterator[pa.Table]:
        taken: set[str] = set()
        for table, runs in _runs(store):
            keep = []
            for run_id, run in zip(table["run_id"].to_pylist(), runs, strict=True):
                best = chosen.get(run_id)  # none: a late try committed it just now
                is_best = best is not None and run.status == best.status
                keep.append(run_id in planned and run_id not in taken and is_best)
                taken.update([run_id] if keep[-1] else [])
            yield table.filter(pa.array(keep, pa.bool_()))

    merged = _gather("run_fragments", fresh(), ["config_id", "seed"])
    runs = merged.drop_columns(["history"]).cast(tables.SCHEMAS["runs"])
    return runs, _unnest_history(merged)


def measured(store: Store, recipe: str) -> dict[Measurement, Rows]:
    """Which (metric, split) rows each measurement has for a metric recipe."""
    found: dict[Measurement, Rows] = {}
    kept: dict[Rows, Rows] = {}
    for table in _read(store, METRICS, "metrics"):
        here: dict[Measurement, tuple[set[tuple[str, str | None]], ...]] = defaultdict(lambda: (set(), set()))
        for item, row, own, well in _metric_keys(table):
            if own == recipe:
                here[item][0 if well else 1].add(row)
        for item, (well_here, failed_here) in here.items():
            before = found.get(item, NO_ROWS)
            well_now = before.well | well_here
            rows = Rows(frozenset(well_now), frozenset(before.failed | failed_here) - well_now)
            found[item] = kept.setdefault(rows, rows)
    return found


def merge_metrics(store: Store, planned: Container[Measurement]) -> pa.Table:
    """The table `metrics` of all fragments, each row of a planned measurement once, sorted by ids and metric."""
    well_somewhere = {
        (item, row, recipe)
        for table in _read(store, METRICS, "metrics")
        for item, row, recipe, well in _metric_keys(table)
        if well
    }

    def fresh() -> Iterator[pa.Table]:
        taken: set[tuple[Any, ...]] = set()
        for table in _read(store, METRICS, "metrics"):
            keep = []
            for item, row, recipe, well in _metric_keys(table):
                key = (item, row, recipe)
                keep.append(item in planned and key not in taken and (well or key not in well_somewhere))
                taken.update([key] if keep[-1] else [])
            yield table.filter(pa.array(keep, pa.bool_()))

    return _gather("metrics", fresh(), ["config_id", "run_id", "other_run_id", "metric", "split", "recipe"])


def _read(store: Store, folder: str, name: str) -> Iterator[pa.Table]:
    for fragment, data in store.read_each(store.names(folder, ".parquet")):
        yield tables.from_bytes(name, data, fragment)


def _runs(store: Store) -> Iterator[tuple[pa.Table, list[TrainedRun]]]:
    """Each fragment of runs, and its rows as runs."""
    there = set(store.names(CHECKPOINTS, ".safetensors"))
    kept: dict[Any, Any] = {}  # runs of a stack name the same file: one text for all
    for table in _read(store, RUNS, "run_fragments"):
        columns = [table[name].to_pylist() for name in TrainedRun._fields]
        runs = []
        for row in zip(*columns, strict=True):
            run = TrainedRun(*(kept.setdefault(value, value) for value in row))
            is_lost = run.status == "done" and run.checkpoint not in there
            runs.append(run._replace(status=LOST) if is_lost else run)
        yield table, runs


def _metric_keys(table: pa.Table) -> Iterator[tuple[Measurement, tuple[str, str | None], str, bool]]:
    """Of each row its measurement, (metric, split), recipe, and whether it came off."""
    names = ("run_id", "other_run_id", "metric", "split", "recipe", "reason")
    for run, other, metric, split, recipe, reason in zip(*(table[n].to_pylist() for n in names), strict=True):
        yield Measurement(run, other), (metric, split), recipe, not (reason or "").startswith(FAILED)


def _unnest_history(merged: pa.Table) -> pa.Table:
    nested = merged["history"].combine_chunks()
    parents = pc.list_parent_indices(nested)
    rows = pc.list_flatten(nested)
    columns = dict(zip([field.name for field in rows.type], rows.flatten(), strict=True))
    columns |= {name: merged[name].take(parents) for name in tables.FROM_RUN}
    schema = tables.SCHEMAS["history"]
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _gather(name: str, parts: Iterable[pa.Table], keys: list[str]) -> pa.Table:
    """The parts as one sorted table; small parts are packed on the way, as each carries kilobytes of its own."""
    packed, loose = [tables.to_table(name, [])], []
    for part in parts:
        loose.append(part)
        if len(loose) == PACK:
            packed.append(pa.concat_tables(loose).combine_chunks())
            loose = []
    return pa.concat_tables([*packed, *loose]).sort_by([(key, "ascending") for key in keys]).combine_chunks()
