"""Features: a documented pivot of the tables `configs`, `runs` and `metrics`, and the named sets of it.

A feature is the mean over a configuration's finished runs, or over its pairs of runs, of what could be had;
where nothing could, it is NaN, and a diagnoser replaces it by the median of its training side. Errors are
percent, logarithms natural.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

LOGARITHMS = {
    "log_data_amount": "data_amount",
    "log_parameters": "parameters",
    "log_batch_size": "batch_size",
    "log_learning_rate": "learning_rate",
    "log_hessian_trace": "hessian_trace",
    "log_hessian_top_eigenvalue": "hessian_top_eigenvalue",
}
"""Features that are the natural logarithm of another; NaN where that is not positive."""

ALIASES = {
    "log_para_amount": "log_parameters",
    "log_bs": "log_batch_size",
    "test_loss": "validation_loss",
    "test_error": "validation_error",
    "hessian_t": "log_hessian_trace",
    "hessian_e": "log_hessian_top_eigenvalue",
    "CKA": "cka",
}
"""The authors' column name of a feature -> ours. Their test metrics are our validation metrics: no feature
reads the half of the test set that labels read."""

RUN_COLUMNS = ("train_loss", "train_error", "validation_loss", "validation_error")
CONFIG_COLUMNS = ("data_amount", "parameters", "batch_size", "learning_rate")
METRICS = (
    "hessian_trace",
    "hessian_top_eigenvalue",
    "mode_connectivity",
    "mode_connectivity_peak",
    "cka",
    "agreement",
    "l2_distance",
)


@dataclass(frozen=True)
class FeatureSet:
    """What a diagnoser sees.

    Attributes:
        name: Name of the set.
        track: `single` if one checkpoint shows it, `twin` if it takes several runs of a configuration.
        columns: For each task the features, in the published order, which decides ties inside a tree.
    """

    name: str
    track: str
    columns: Mapping[str, tuple[str, ...]]


_VALIDATION = ("train_error", "train_loss", "test_loss", "test_error")
_LANDSCAPE = ("train_error", "mode_connectivity_peak", "CKA", "hessian_t")
_ALL = (
    *("log_data_amount", "log_para_amount", *_VALIDATION, *_LANDSCAPE[1:]),
    *("mode_connectivity", "hessian_e", "agreement", "l2_distance"),
)


def _same(columns: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {"temperature": columns, "width": columns, "data": columns}


FEATURE_SETS = {
    feature_set.name: feature_set
    for feature_set in (
        FeatureSet("none", "single", _same(())),
        FeatureSet(
            "hyperparameter",
            "single",
            {
                "temperature": ("log_data_amount", "log_para_amount"),
                "width": ("log_data_amount",),
                "data": ("log_para_amount",),
            },
        ),
        FeatureSet("validation", "single", _same(_VALIDATION)),
        FeatureSet("landscape", "twin", _same(_LANDSCAPE)),
        FeatureSet("all", "twin", _same(_ALL)),
    )
}
"""Feature sets by name. The hyperparameter and validation sets are the published ones; batch size and
learning rate are in none of them, since the temperature is what is asked for."""


def feature_table(
    configs: pd.DataFrame, runs: pd.DataFrame, metrics: pd.DataFrame, recipe: str = "default"
) -> pd.DataFrame:
    """All features of all configurations.

    Metrics are taken at the last step measured, on the training images (or on none, as the distance of
    weights), from the rows of one recipe.

    Args:
        configs: Rows of the table `configs`.
        runs: Rows of the table `runs`; those that are not done are left out.
        metrics: Rows of the table `metrics`; may be empty.
        recipe: Metric recipe to read, `default` or `paper`.

    Returns:
        A row a configuration, indexed by `config_id` in the order of `configs`; a column for each of
        `CONFIG_COLUMNS`, `RUN_COLUMNS`, `METRICS`, `LOGARITHMS` and `ALIASES`.

    Raises:
        ValueError: If there are metrics, but none of that recipe.
    """
    table = configs.set_index("config_id")[list(CONFIG_COLUMNS)].astype(float)
    done = runs[runs["status"] == "done"]
    table = table.join(done.groupby("config_id")[list(RUN_COLUMNS)].mean())
    table = table.join(_metric_means(metrics, recipe))
    for name, source in LOGARITHMS.items():
        table[name] = np.log(table[source].where(table[source] > 0))
    for alias, name in ALIASES.items():
        table[alias] = table[name]
    return table


def _metric_means(metrics: pd.DataFrame, recipe: str) -> pd.DataFrame:
    """Means over runs or pairs of each metric, a column each, indexed by configuration."""
    recipes = sorted(set(metrics["recipe"]))
    if recipes and recipe not in recipes:
        raise ValueError(f"no metrics of recipe {recipe!r} were measured; recipes in the table: {recipes}")
    on_train = metrics["split"].isna() | (metrics["split"] == "train")
    read = metrics[on_train & (metrics["recipe"] == recipe)].astype({"value": float})
    read = read[read["step"] == read.groupby(["run_id", "metric"])["step"].transform("max")]
    means = read.groupby(["config_id", "metric"])["value"].mean().unstack("metric")
    return means.reindex(columns=list(METRICS))
