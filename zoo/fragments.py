"""Fragments: what tasks have committed, and the merge of it into tables.

A run is finished when a fragment lists it. Two fragments may list the same run (a retry can overlap its
original): a run that did not fail wins over one that did, then the lexically first file wins.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from itertools import compress
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from zoo import tables
from zoo.storage import Store

RUNS, METRICS = "fragments/runs", "fragments/metrics"
PACK = 256
"""Parts that a merge holds before it packs them."""


class Measurement(NamedTuple):
    """What one measurement concerns: a run, or a pair of runs."""

    run_id: str
    other_run_id: str | None = None


def commit_runs(store: Store, rows: list[dict[str, Any]]) -> None:
    """Commit rows of `runs` with their nested history; whatever file they name has to be there already."""
    store.write_named_by_content(RUNS, tables.to_bytes(tables.to_table("run_fragments", rows)), ".parquet")


def commit_metrics(store: Store, rows: list[dict[str, Any]]) -> None:
    """Commit rows of `metrics`; all rows of a measurement belong into one commit."""
    store.write_named_by_content(METRICS, tables.to_bytes(tables.to_table("metrics", rows)), ".parquet")


def _read(store: Store, folder: str, name: str) -> Iterator[pa.Table]:
    for fragment in store.names(folder, ".parquet"):
        yield tables.from_bytes(name, store.read(fragment), fragment)


def run_status(store: Store) -> dict[str, str]:
    """The status of every run that a fragment lists, by run_id."""
    status: dict[str, str] = {}
    for table in _read(store, RUNS, "run_fragments"):
        for run_id, new in zip(table["run_id"].to_pylist(), table["status"].to_pylist(), strict=True):
            if status.get(run_id, "failed") == "failed":
                status[run_id] = new
    return status


def measured(store: Store, recipe: str) -> set[Measurement]:
    """The measurements that are committed for a metric recipe."""
    found: set[Measurement] = set()
    for table in _read(store, METRICS, "metrics"):
        own = table.filter(pc.equal(table["recipe"], recipe))
        found.update(map(Measurement, own["run_id"].to_pylist(), own["other_run_id"].to_pylist()))
    return found


def merge_runs(store: Store, planned: Container[str]) -> tuple[pa.Table, pa.Table]:
    """The tables `runs` and `history` of all fragments, each planned run once, sorted by configuration and seed.

    Args:
        store: The zoo's store.
        planned: Ids of the runs to take; the folder may hold others, of an earlier spec.
    """
    status = run_status(store)

    def fresh() -> Iterator[pa.Table]:
        taken: set[str] = set()
        for table in _read(store, RUNS, "run_fragments"):
            ids, own = (table[name].to_pylist() for name in ("run_id", "status"))
            pairs = zip(ids, own, strict=True)
            keep = [i in planned and i not in taken and s == status[i] for i, s in pairs]
            taken.update(compress(ids, keep))
            yield table.filter(pa.array(keep, pa.bool_()))

    merged = _gather("run_fragments", fresh(), ["config_id", "seed"])
    runs = merged.drop_columns(["history"]).cast(tables.SCHEMAS["runs"])
    return runs, _unnest_history(merged)


def _unnest_history(merged: pa.Table) -> pa.Table:
    nested = merged["history"].combine_chunks()
    parents = pc.list_parent_indices(nested)
    rows = pc.list_flatten(nested)
    columns = dict(zip([field.name for field in rows.type], rows.flatten(), strict=True))
    columns |= {name: merged[name].take(parents) for name in tables.FROM_RUN}
    schema = tables.SCHEMAS["history"]
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def merge_metrics(store: Store, planned: Container[str]) -> pa.Table:
    """The table `metrics` of all fragments, each measurement once a recipe, sorted by its ids and metric.

    Args:
        store: The zoo's store.
        planned: Ids of the runs to take; a pair is taken if both its runs are planned.
    """

    def fresh() -> Iterator[pa.Table]:
        taken: set[tuple[str, str | None, str]] = set()
        for table in _read(store, METRICS, "metrics"):
            columns = (table[name].to_pylist() for name in ("run_id", "other_run_id", "recipe"))
            keys = list(zip(*columns, strict=True))
            keep = [
                key not in taken and key[0] in planned and (key[1] is None or key[1] in planned)
                for key in keys
            ]
            yield table.filter(pa.array(keep, pa.bool_()))
            taken.update(keys)

    return _gather("metrics", fresh(), ["config_id", "run_id", "other_run_id", "metric", "split", "recipe"])


def _gather(name: str, parts: Iterable[pa.Table], keys: list[str]) -> pa.Table:
    """The parts as one sorted table; small parts are packed on the way, as each carries kilobytes of its own."""
    packed, loose = [tables.to_table(name, [])], []
    for part in parts:
        loose.append(part)
        if len(loose) == PACK:
            packed.append(pa.concat_tables(loose).combine_chunks())
            loose = []
    return pa.concat_tables([*packed, *loose]).sort_by([(key, "ascending") for key in keys]).combine_chunks()
