"""The metric recipes `paper` and `default` side by side, from a zoo measured by both, and their rank correlations.

    python benchmarks/compare_recipes.py ZOO

Prints Markdown: a row a configuration, the mean over its runs or pairs by either recipe, and below it Spearman's
correlation over the configurations with its 95% interval by bootstrap (2,000 resamples).
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

import zoo

SHOWN = {
    ("hessian_trace", "train"): "trace",
    ("hessian_top_eigenvalue", "train"): "top eigenvalue",
    ("mode_connectivity", "train"): "connectivity",
    ("cka", None): "CKA",
}
SETTINGS = ["width", "batch_size", "data_amount", "label_noise"]
RESAMPLES = 2_000


def side_by_side(place: str) -> pd.DataFrame:
    """Means by configuration: columns (metric, recipe), rows by the settings."""
    opened = zoo.open(place)
    metrics, configs = opened.table("metrics"), opened.table("configs").set_index("config_id")
    found = {}
    for (metric, split), name in SHOWN.items():
        own = metrics[(metrics["metric"] == metric) & (metrics["split"].fillna("") == (split or ""))]
        for recipe in ("paper", "default"):
            of_recipe = own[own["recipe"] == recipe]
            found[name, recipe] = of_recipe.groupby("config_id")["value"].mean()
    table = pd.DataFrame(found, index=configs.index)
    return table.set_axis(pd.MultiIndex.from_frame(configs[SETTINGS])).sort_index()


def correlation(first: pd.Series, second: pd.Series) -> tuple[float, float, float, int]:
    """Spearman's correlation with its interval, and the number of configurations that have both."""
    both = pd.concat([first, second], axis=1).dropna().to_numpy()
    draws = np.random.default_rng(0).integers(len(both), size=(RESAMPLES, len(both)))
    resampled = [spearmanr(*both[rows].T).statistic for rows in draws]
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return float(spearmanr(*both.T).statistic), float(low), float(high), len(both)


def main(place: str) -> None:
    """Print the table."""
    table = side_by_side(place)
    names = list(SHOWN.values())
    print("| width | batch | images | noise | " + " | ".join(f"{n}, paper | default" for n in names) + " |")
    print("| ---: " * (len(SETTINGS) + 2 * len(names)) + "|")
    for settings, row in table.iterrows():
        values = [value for name in names for value in row[name][["paper", "default"]]]
        cells = [f"{value:.3g}" if pd.notna(value) else "" for value in values]
        shown = [f"{s:g}" for s in settings]
        print("| " + " | ".join([*shown, *cells]) + " |")
    print("\n| metric | rank correlation | configurations |\n| --- | ---: | ---: |")
    for name in names:
        value, low, high, count = correlation(table[name, "paper"], table[name, "default"])
        print(f"| {name} | {value:.2f} [{low:.2f}, {high:.2f}] | {count} |")


if __name__ == "__main__":
    main(sys.argv[1])
