"""Open a zoo, built or published: its tables as DataFrames or Arrow tables, its models as plain modules."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import fragments, tables
from zoo.config import Run, TrainConfig
from zoo.storage import Folder, Store, open_store

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from torch import nn

    from zoo.weights import WeightDataset

MANIFEST = "zoo.json"
MERGED = ("runs", "history", "metrics", "labels")
"""Tables that a build merges at its end."""

SHIPPED = Path(__file__).parent / "releases"
"""Releases that come with the package, a folder each."""


@dataclass(frozen=True)
class Zoo:
    """A zoo on storage.

    Attributes:
        store: Where it lives.
        name: Name of its spec.
        spec: Text of its spec.
        metric_recipe: Recipe of its landscape metrics.
        is_release: Whether it is a release: complete, with its checkpoints in shards, and not to be built on.
    """

    store: Store
    name: str
    spec: str
    metric_recipe: str
    is_release: bool = False

    def table(
        self, name: str, columns: Sequence[str] | None = None, filters: tables.Filters | None = None
    ) -> pd.DataFrame:
        """A merged table as a DataFrame: configs, runs, history, metrics or labels.

        Args:
            name: Its name.
            columns: Columns to read; None reads all.
            filters: Conditions that all rows have to meet, as `[("metric", "=", "cka"), ("value", ">", 0.9)]`; what
                does not meet them is not read, as far as it lies apart in the file.

        Raises:
            ValueError: If no table has that name or no column such a name, or the file has another schema.
            FileNotFoundError: If the zoo has not come that far.
        """
        return self.arrow(name, columns, filters).to_pandas()

    def arrow(
        self, name: str, columns: Sequence[str] | None = None, filters: tables.Filters | None = None
    ) -> pa.Table:
        """A merged table as an Arrow table; see `table`."""
        if name not in tables.COLUMNS:
            raise ValueError(f"no table is named {name!r}; tables: {', '.join(tables.COLUMNS)}")
        file = f"{name}.parquet"
        if not self.store.exists(file):
            raise FileNotFoundError(
                f"{self.store} has no {file}: the zoo is not built that far; run `mdzoo build` on it again"
            )
        with self.store.open(file) as opened:
            return tables.read(name, opened, f"{self.store}/{file}", columns, filters)

    def runs(self, **where: Any) -> pd.DataFrame:
        """The runs with their settings, a row each, indexed by run_id: columns of `runs`, then of `configs`.

        Args:
            where: Settings or columns of `runs`, each a value or a list of values, as `width=[4, 8]`,
                `status="done"`; all have to hold.

        Raises:
            ValueError: If neither table has such a column.
        """
        of = {
            table: [(n, *_condition(v)) for n, v in where.items() if n in tables.SCHEMAS[table].names]
            for table in ("configs", "runs")
        }
        if unknown := sorted(set(where) - {name for found in of.values() for name, *_ in found}):
            raise ValueError(f"runs have no columns {unknown}; see z.table('configs') and z.table('runs')")
        configs = self.table("configs", filters=of["configs"])
        chosen = [("config_id", "in", list(configs["config_id"]))] if of["configs"] else []
        runs = self.table("runs", filters=[*of["runs"], *chosen])
        settings = configs.drop(columns=[n for n in configs if n in runs and n != "config_id"])
        return runs.merge(settings, on="config_id", sort=False).set_index("run_id")

    def weights(
        self,
        runs: pd.DataFrame | None = None,
        *,
        metrics: Sequence[str] = (),
        label: str | None = None,
        flat: bool = False,
    ) -> WeightDataset:
        """Weights with metrics and labels, as a torch `Dataset` for learning from weights.

        Args:
            runs: Rows of `runs()`; those without weights are left out. None takes all.
            metrics: Names of metrics, the means over splits and pairs; or columns of `runs`, as `test_error`.
            label: A task of the table `labels`, as `temperature`; None: items have label -1.
            flat: Whether an item's weights are one vector instead of a dict of tensors.

        Raises:
            ValueError: If a metric or the task is unknown.
        """
        from zoo.weights import weight_dataset

        return weight_dataset(self, runs, metrics, label, flat)

    @cached_property
    def _places(self) -> pd.DataFrame:
        columns = ["run_id", "status", "reason", "checkpoint", "checkpoint_index", "weights_sha256"]
        return self.table("runs", columns).set_index("run_id")

    @cached_property
    def _configs(self) -> pd.Series:
        return self.table("configs", ["config_id", "canonical_json"]).set_index("config_id")["canonical_json"]

    def config(self, config_id: str) -> TrainConfig:
        """A configuration of this zoo.

        Raises:
            KeyError: If the zoo does not have it.
            ValueError: If what its table says is not what its id stands for.
        """
        if config_id not in self._configs.index:
            raise KeyError(f"no configuration {config_id} in this zoo; they are in table('configs')")
        config = TrainConfig.from_json(self._configs[config_id])
        if config.config_id != config_id:
            raise ValueError(
                f"{self.store}/configs.parquet is damaged: what it says of {config_id} belongs to {config.config_id}"
            )
        return config

    def status(self) -> dict[str, Any]:
        """How far the zoo is, from what its tasks have committed.

        Returns:
            Its name, the configurations and runs planned, runs by status and how many are missing (not
            trained yet, or their checkpoint is gone), the runs and pairs measured, and whether it is labelled.
        """
        configs = self.table("configs", ["config_id", "seeds"])
        planned = {
            f"{c}-{seed}"
            for c, seeds in zip(configs["config_id"], configs["seeds"], strict=True)
            for seed in seeds
        }
        if self.is_release:
            ended = dict(self._places["status"])
            pairs = self.table("metrics", ["run_id", "other_run_id"], [("recipe", "=", self.metric_recipe)])
            measured = {
                fragments.Measurement(*pair) for pair in pairs.replace({float("nan"): None}).to_numpy()
            }
        else:
            ended = {run_id: run.status for run_id, run in fragments.trained_runs(self.store).items()}
            measured = set(fragments.measured(self.store, self.metric_recipe))
        counts = Counter(status for run_id, status in ended.items() if run_id in planned)
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
        from zoo.checkpoints import load_run

        run = Run(self.config(config_id), seed)
        if run.run_id not in self._places.index:
            raise KeyError(f"no run {run.run_id} in this zoo; its runs are in table('runs')")
        row = self._places.loc[run.run_id].to_dict()
        if row["status"] != "done":
            raise ValueError(f"run {run.run_id} has no weights: it is {row['status']} ({row['reason']})")
        if not isinstance(row["checkpoint"], str):
            raise ValueError(
                f"the weights of run {run.run_id} are not in this release; those of runs with a checkpoint are"
            )
        place = row["checkpoint"], int(row["checkpoint_index"])
        return load_run(self.store, *place, run, row["weights_sha256"])


def _condition(value: Any) -> tuple[str, Any]:
    if isinstance(value, Collection) and not isinstance(value, str):
        return "in", list(value)
    return "=", value


def shipped_releases() -> list[str]:
    """The names of the releases that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{MANIFEST}"))


def store_at(root: str | Path) -> Store:
    """The store in a folder, at a URI, or of a shipped release by its name."""
    is_shipped = str(root) in shipped_releases() and not Path(root).exists()
    return Folder(SHIPPED / str(root)) if is_shipped else open_store(root)


def open_zoo(root: str | Path) -> Zoo:
    """Open the zoo in a folder, at a URI such as `s3://bucket/zoos/demo`, or a shipped release by its name.

    Raises:
        FileNotFoundError: If there is no zoo.
        ValueError: If it was written with another schema version, or its manifest cannot be read.
    """
    store = store_at(root)
    if not store.exists(MANIFEST):
        known = ", ".join(shipped_releases())
        remedy = f"make one with `mdzoo build SPEC --out {root}`, or open one that is shipped: {known}"
        raise FileNotFoundError(f"{root} holds no zoo ({MANIFEST} is missing); {remedy}")
    try:
        manifest = json.loads(store.read(MANIFEST))
        version, made_by = manifest["schema_version"], manifest["package_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{root}/{MANIFEST} is damaged ({error!r}); get it again") from error
    if version != tables.SCHEMA_VERSION:
        raise ValueError(
            f"{root} has schema version {version}, this mdzoo reads version {tables.SCHEMA_VERSION}; open it with "
            f"mdzoo {made_by}"
        )
    try:
        name, spec, recipe = (str(manifest[key]) for key in ("name", "spec", "metric_recipe"))
    except KeyError as error:
        raise ValueError(f"{root}/{MANIFEST} is damaged: it does not say {error}; get it again") from error
    return Zoo(store, name, spec, recipe, is_release="release" in manifest)
