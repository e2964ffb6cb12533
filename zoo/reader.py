"""Open a zoo: its tables as DataFrames, its models as plain modules."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import fragments, tables
from zoo.storage import Store, open_store

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

MANIFEST = "zoo.json"
MERGED = ("runs", "history", "metrics", "labels")
"""Tables that a build merges at its end."""


@dataclass(frozen=True)
class Zoo:
    """A zoo on storage.

    Attributes:
        store: Where it lives.
        name: Name of its spec.
        spec: Text of its spec.
        metric_recipe: Recipe of its landscape metrics.
    """

    store: Store
    name: str
    spec: str
    metric_recipe: str

    def table(self, name: str) -> pd.DataFrame:
        """A merged table: configs, runs, history, metrics or labels.

        Raises:
            ValueError: If no table has that name, or its file has another schema.
            FileNotFoundError: If the zoo has not come that far.
        """
        if name not in tables.COLUMNS:
            raise ValueError(f"no table is named {name!r}; tables: {', '.join(tables.COLUMNS)}")
        file = f"{name}.parquet"
        if not self.store.exists(file):
            raise FileNotFoundError(
                f"{self.store} has no {file}: the zoo is not built that far; run `mdzoo build` on it again"
            )
        return tables.from_bytes(name, self.store.read(file), f"{self.store}/{file}").to_pandas()

    @cached_property
    def _runs(self) -> pd.DataFrame:
        return self.table("runs").set_index("run_id")

    def status(self) -> dict[str, Any]:
        """How far the zoo is, from what its tasks have committed.

        Returns:
            Its name, the configurations and runs planned, runs by status and how many are missing (not
            trained yet, or their checkpoint is gone), the runs and pairs measured, and whether it is labelled.
        """
        configs = self.table("configs")
        planned = {
            f"{c}-{seed}"
            for c, seeds in zip(configs["config_id"], configs["seeds"], strict=True)
            for seed in seeds
        }
        counts = Counter(
            run.status for run_id, run in fragments.trained_runs(self.store).items() if run_id in planned
        )
        measured = fragments.measured(self.store, self.metric_recipe)
        ends = {name: counts[name] for name in ("done", "diverged", "failed")}
        return {
            "name": self.name,
            "configurations": len(configs),
            "runs": len(planned),
            **ends,
            "missing": len(planned) - sum(ends.values()),
            "measurements": sum({i.run_id, i.other_run_id or i.run_id} <= planned for i in measured),
            "labelled": self.store.exists("labels.parquet"),
        }

    def model(self, config_id: str, seed: int) -> nn.Module:
        """The trained network of a configuration and a seed, as an ordinary module in eval mode.

        Raises:
            KeyError: If the zoo has no such run.
            ValueError: If the run has no weights, or their file is damaged.
        """
        from zoo.checkpoints import load_run, verify

        run_id = f"{config_id}-{seed}"
        if run_id not in self._runs.index:
            raise KeyError(f"no run {run_id} in this zoo; its runs are in table('runs')")
        run = self._runs.loc[run_id].to_dict()
        if run["status"] != "done":
            raise ValueError(f"run {run_id} has no weights: it is {run['status']} ({run['reason']})")
        verify(self.store, run["checkpoint"], run["checkpoint_sha256"])
        return load_run(self.store, run["checkpoint"], int(run["checkpoint_index"]), run_id)


def open_zoo(root: str | Path) -> Zoo:
    """Open the zoo in a folder, or at a URI such as `s3://bucket/zoos/demo`.

    Raises:
        FileNotFoundError: If there is no zoo.
        ValueError: If it was written with another schema version.
    """
    store = open_store(root)
    if not store.exists(MANIFEST):
        remedy = f"make one with `mdzoo build SPEC --out {root}`"
        raise FileNotFoundError(f"{root} holds no zoo ({MANIFEST} is missing); {remedy}")
    manifest = json.loads(store.read(MANIFEST))
    if manifest["schema_version"] != tables.SCHEMA_VERSION:
        raise ValueError(
            f"{root} has schema version {manifest['schema_version']}, this mdzoo reads version "
            f"{tables.SCHEMA_VERSION}; open it with mdzoo {manifest['package_version']}"
        )
    return Zoo(store, manifest["name"], manifest["spec"], manifest["metric_recipe"])
