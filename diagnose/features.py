"""Features: a documented pivot of the tables `configs`, `runs` and `metrics`, and the named sets of it.

On the tracks `twin` and `hidden` a feature is the mean over a configuration's finished runs, or over its pairs
of runs, of what could be had. On the track `single` it is what one checkpoint shows: the finished run with the
smallest seed, no other's numbers, and nothing of a pair. Where nothing could be had a feature is NaN; what a
diagnoser makes of that is its `Diagnoser.nulls`. Errors are percent, logarithms natural.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from zoo.tables import FAILURE_TASKS, REMEDY_TASKS

TASKS = (*FAILURE_TASKS, *REMEDY_TASKS)
"""All questions: the three published ones, and which remedy helps most."""

LOGARITHMS = {
    "log_data_amount": "data_amount",
    "log_parameters": "parameters",
    "log_batch_size": "batch_size",
    "log_learning_rate": "learning_rate",
    "log_hessian_trace": "hessian_trace",
    "log_hessian_top_eigenvalue": "hessian_top_eigenvalue",
    "log_hessian_density": "hessian_density",
    "log_hessian_effective_rank": "hessian_effective_rank",
    "log_worst_case_sharpness": "worst_case_sharpness",
    "log_random_sharpness": "random_sharpness",
    "log_gradient_norm": "gradient_norm",
    "log_gradient_variance": "gradient_variance",
    "log_gradient_noise_scale": "gradient_noise_scale",
    "log_parameter_norm": "parameter_norm",
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
CHECKPOINT_METRICS = (
    "hessian_trace",
    "hessian_top_eigenvalue",
    "hessian_density",
    "hessian_negative_share",
    "hessian_effective_rank",
    "worst_case_sharpness",
    "random_sharpness",
    "gradient_norm",
    "gradient_variance",
    "gradient_noise_scale",
    "parameter_norm",
    "log_spectral_norms",
    "log_frobenius_norms",
    "spectral_alpha",
    "spectral_alpha_weighted",
    "confidence",
    "entropy",
    "overconfidence",
    "calibration_error",
    "margin_scaled",
    "margin_normalised",
    "dead_units",
    "activation_zeros",
)
"""Metrics of one checkpoint that are features."""

VALIDATION_METRICS = ("confidence", "entropy", "overconfidence", "calibration_error", "margin_scaled")
"""Metrics that are features on validation images too, there as `validation_<metric>`."""

SINGLE_METRICS = (*CHECKPOINT_METRICS, *(f"validation_{name}" for name in VALIDATION_METRICS))
"""Features that are a metric of one checkpoint."""

METRICS = (
    *SINGLE_METRICS,
    "mode_connectivity",
    "mode_connectivity_peak",
    "cka",
    "agreement",
    "l2_distance",
)
"""Metrics that are features. Those of a pair are told from those of one checkpoint by their rows."""

TRACKS = ("single", "twin", "hidden")
"""What a diagnoser may see: one checkpoint, several runs of a configuration, or the hidden hyperparameters."""

SHARED_WORK = {
    "mode_connectivity_peak": "mode_connectivity",
    "agreement": "cka",
    "hessian_negative_share": "hessian_density",
    "hessian_effective_rank": "hessian_density",
    "gradient_variance": "gradient_norm",
    "gradient_noise_scale": "gradient_norm",
    "entropy": "confidence",
    "overconfidence": "confidence",
    "calibration_error": "confidence",
    "margin_normalised": "margin_scaled",
    "activation_zeros": "dead_units",
}
"""Metrics that come with another at no further cost."""


@dataclass(frozen=True)
class FeatureSet:
    """What a diagnoser sees.

    Attributes:
        name: Name of the set.
        track: `single` if one checkpoint shows it, `twin` if it takes several runs of a configuration,
            `hidden` if it sees the hyperparameters that the diagnosis is about.
        columns: For each task the features, in the published order, which decides ties inside a tree.
    """

    name: str
    track: str
    columns: Mapping[str, tuple[str, ...]]

    @property
    def sources(self) -> set[str]:
        """The columns of `configs` and `runs` and the metrics that the features are made of."""
        names = {name for columns in self.columns.values() for name in columns}
        aliased = {ALIASES.get(name, name) for name in names}
        plain = {LOGARITHMS.get(name, name) for name in aliased}
        return {name.removeprefix("validation_") if name in METRICS else name for name in plain}

    @property
    def models(self) -> int:
        """How many trained models of a configuration it takes at least."""
        if self.track == "twin":
            return 2
        return int(not self.sources <= set(CONFIG_COLUMNS))


_VALIDATION = ("train_error", "train_loss", "test_loss", "test_error")
_LANDSCAPE = ("train_error", "mode_connectivity_peak", "CKA", "hessian_t")
_AMOUNTS = ("log_data_amount", "log_para_amount")
_ALL = (
    *(*_AMOUNTS, *_VALIDATION, *_LANDSCAPE[1:]),
    *("mode_connectivity", "hessian_e", "agreement", "l2_distance"),
)
_LOGS = {source: name for name, source in LOGARITHMS.items()}
_CHECKPOINT = (
    *_AMOUNTS,
    *_VALIDATION,
    *(_LOGS.get(name, name) for name in SINGLE_METRICS),
)


def _same(columns: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(TASKS, columns)


FEATURE_SETS = {
    feature_set.name: feature_set
    for feature_set in (
        FeatureSet("none", "single", _same(())),
        FeatureSet(
            "hyperparameter",
            "single",
            _same(_AMOUNTS) | {"width": _AMOUNTS[:1], "data": _AMOUNTS[1:]},
        ),
        FeatureSet("hyperparameter_complete", "single", _same(_AMOUNTS)),
        FeatureSet("parameters", "single", _same(_AMOUNTS[1:])),
        FeatureSet("validation", "single", _same(_VALIDATION)),
        FeatureSet("single_checkpoint", "single", _same((*_AMOUNTS, *_VALIDATION, "hessian_t", "hessian_e"))),
        FeatureSet("checkpoint_landscape", "single", _same(_CHECKPOINT)),
        FeatureSet("landscape", "twin", _same(_LANDSCAPE)),
        FeatureSet("landscape_parameters", "twin", _same((*_LANDSCAPE, _AMOUNTS[1]))),
        FeatureSet("all", "twin", _same(_ALL)),
        FeatureSet("grid_point", "hidden", _same((*_AMOUNTS, "log_bs", "log_learning_rate"))),
    )
}
"""Feature sets by name. The hyperparameter and validation sets are the published ones; the published
hyperparameter set leaves out what is constant in its training side of Q2, the complete one does not; for the
remedy tasks, of which nothing is published, they are the same. Batch size
and learning rate are in none but `grid_point`, since the temperature is what is asked for."""


def feature_table(
    configs: pd.DataFrame,
    runs: pd.DataFrame,
    metrics: pd.DataFrame,
    recipe: str = "default",
    track: str = "twin",
) -> pd.DataFrame:
    """All features of all configurations, as one track shows them.

    Metrics are taken at the last step measured, on the training images (or on none, as the distance of
    weights; those of `VALIDATION_METRICS` on validation images too), from the rows of one recipe.

    Args:
        configs: Rows of the table `configs`.
        runs: Rows of the table `runs`; those that are not done are left out.
        metrics: Rows of the table `metrics`; may be empty.
        recipe: Metric recipe to read, `default` or `paper`.
        track: One of `TRACKS`. `single`: of each configuration the finished run with the smallest seed, and
            the metrics of that run alone, so that metrics of pairs are NaN. `twin` and `hidden`: means over
            all finished runs and over all pairs.

    Returns:
        A row a configuration, indexed by `config_id` in the order of `configs`; a column for each of
        `CONFIG_COLUMNS`, `RUN_COLUMNS`, `METRICS`, `LOGARITHMS` and `ALIASES`. NaN where the track has no
        value: no finished run, a metric that was not measured or whose value is null, the logarithm of what
        is not positive. A null of the single track's run is not made good by another run.

    Raises:
        ValueError: If the track is unknown, or there are metrics, but none of that recipe.
    """
    if track not in TRACKS:
        raise ValueError(f"track is {track!r}; it must be one of {TRACKS}")
    recipes = sorted(set(metrics["recipe"]))
    if recipes and recipe not in recipes:
        raise ValueError(f"no metrics of recipe {recipe!r} were measured; recipes in the table: {recipes}")
    done = runs[runs["status"] == "done"]
    read = metrics[metrics["recipe"] == recipe]
    if track == "single":
        done = _first(done)
        read = _alone(read, done)
    table = configs.set_index("config_id")[list(CONFIG_COLUMNS)].astype(float)
    table = table.join(done.groupby("config_id")[list(RUN_COLUMNS)].mean())
    table = table.join(_metric_means(read))
    for name, source in LOGARITHMS.items():
        table[name] = np.log(table[source].where(table[source] > 0))
    for alias, name in ALIASES.items():
        table[alias] = table[name]
    return table


def _first(done: pd.DataFrame) -> pd.DataFrame:
    """Of each configuration the finished run with the smallest seed: the one checkpoint of the single track."""
    return done.sort_values("seed").drop_duplicates("config_id")


def _alone(metrics: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The metrics of those runs that no other run has a part in."""
    return metrics[metrics["other_run_id"].isna() & metrics["run_id"].isin(runs["run_id"])]


def _metric_means(metrics: pd.DataFrame) -> pd.DataFrame:
    """Means over runs or pairs of each metric, a column each, indexed by configuration."""
    on_train = metrics["split"].isna() | (metrics["split"] == "train")
    on_validation = (metrics["split"] == "validation") & metrics["metric"].isin(VALIDATION_METRICS)
    prefix = on_validation.map({True: "validation_", False: ""})
    named = metrics.assign(metric=prefix + metrics["metric"].astype(str))
    read = named[on_train | on_validation].astype({"value": float})
    read = read[read["step"] == read.groupby(["run_id", "metric"])["step"].transform("max")]
    means = read.groupby(["config_id", "metric"])["value"].mean().unstack("metric")
    return means.reindex(columns=list(METRICS))


def feature_costs(runs: pd.DataFrame, metrics: pd.DataFrame, recipe: str = "default") -> pd.DataFrame:
    """What each feature set costs for one configuration of a zoo, by what `feature_table` reads of its track.

    Losses and errors are counted as free: training shows them.

    Args:
        runs: Rows of the table `runs`.
        metrics: Rows of the table `metrics`.
        recipe: Metric recipe whose cost to count.

    Returns:
        A row a feature set, indexed by its name: `track`; `models` (trained models: on the twin track the mean
        number of finished runs; on the single track the one checkpoint, or none where the set reads settings
        alone); `sample_passes` (of the metrics, a backward pass counted as 2 forward ones, mean over the
        configurations measured; on the single track of the one checkpoint).
    """
    done = runs[runs["status"] == "done"]
    models = done.groupby("config_id").size()
    spent = metrics[metrics["recipe"] == recipe]
    read = {"single": _alone(spent, _first(done)), "twin": spent, "hidden": spent}
    rows = []
    for feature_set in FEATURE_SETS.values():
        twin = feature_set.track == "twin"
        rows.append(
            {
                "features": feature_set.name,
                "track": feature_set.track,
                "models": float(models.mean()) if twin and len(models) else float(feature_set.models),
                "sample_passes": _passes(read[feature_set.track], feature_set.sources),
            }
        )
    return pd.DataFrame(rows).set_index("features")


def _passes(metrics: pd.DataFrame, sources: set[str]) -> float:
    """Mean over configurations of what those metrics cost, what came with another counted once."""
    needed = {SHARED_WORK.get(name, name) for name in sources}
    own = metrics[metrics["metric"].isin(needed)]
    keys = ["config_id", "run_id", "other_run_id", "metric"]
    each = own.groupby(keys, dropna=False)["sample_passes"].max()
    sums = each.groupby("config_id").sum()
    return float(sums.mean()) if len(sums) else 0.0
