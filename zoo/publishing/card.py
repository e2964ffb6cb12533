"""The data-set card of a release: what a reader has to know, and the front matter that a hub reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import NamedTuple

import pandas as pd
import yaml

from zoo.columns import COLUMNS
from zoo.publishing.terms import Terms
from zoo.tables import markdown

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""Rows below which a data set is of a hub's size category."""

AXES = (
    "dataset",
    "image_size",
    "architecture",
    "width",
    "batch_size",
    "data_amount",
    "label_noise",
    "learning_rate",
    "weight_decay",
    "sample_passes",
    "recipe",
)
"""Columns of `configs` that the card lists with their values."""

MOST_VALUES = 12
TEXT = Path(__file__).with_name("card.md")


class Contents(NamedTuple):
    """What a card tells of.

    Attributes:
        name: Name of the zoo.
        title: Title of the release.
        configs: Table `configs`.
        runs: Table `runs`, as released.
        metrics: Column `metric` of the table of that name; empty if the zoo is not measured.
        labels: Table `labels`; empty if the zoo is not labelled.
        sizes: Bytes by file.
        versions: Versions of the packages that made it.
    """

    name: str
    title: str
    configs: pd.DataFrame
    runs: pd.DataFrame
    metrics: pd.Series
    labels: pd.DataFrame
    sizes: Mapping[str, int]
    versions: Mapping[str, str]

    @property
    def tables(self) -> list[str]:
        """The tables that the release has."""
        return [name for name in COLUMNS if f"{name}.parquet" in self.sizes]

    @property
    def stored(self) -> int:
        """Runs whose weights it has."""
        return int(self.runs["checkpoint"].notna().sum())

    @property
    def description(self) -> str:
        """The release in two sentences."""
        names = ", ".join(sorted(set(self.configs["dataset"])))
        kinds = ", ".join(sorted(set(self.configs["architecture"])))
        return (
            f"A zoo of {len(self.runs):,} neural networks ({kinds}) trained on {names} over a grid of "
            f"{len(self.configs):,} settings that include known failures: too small a model, too hot or too cold "
            f"training, too little data, noisy labels. With {self.stored:,} checkpoints, {self.metrics.nunique()} "
            "metrics of the loss landscape and the label of what would help each most."
        )


def write_card(contents: Contents, terms: Terms) -> str:
    """The card as Markdown with YAML front matter."""
    front = yaml.safe_dump(_front_matter(contents, terms), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n{_body(contents, terms)}"


def _front_matter(contents: Contents, terms: Terms) -> dict[str, object]:
    size = next((name for most, name in SIZES if len(contents.runs) < most), "1M<n<10M")
    tables = ["runs", *(name for name in contents.tables if name != "runs")]
    return {
        "license": terms.licence.lower(),
        "pretty_name": contents.title,
        "tags": ["model-zoo", "model-diagnosis", "loss-landscape", "weight-space-learning", "mdzoo"],
        "task_categories": ["tabular-classification"],
        "size_categories": [size],
        "configs": [
            {"config_name": name, "data_files": f"{name}.parquet"}
            | ({"default": True} if name == "runs" else {})
            for name in tables
        ],
    }


def _body(contents: Contents, terms: Terms) -> str:
    runs, configs = contents.runs, contents.configs
    stored = runs[runs["checkpoint"].notna()]
    model = "# the weights are not in this release"
    if len(stored):
        config_id, seed = stored[["config_id", "seed"]].iloc[0]
        model = f'z.model("{config_id}", {seed})  # a torch module in eval mode'
    axes = [f"| `{axis}` | {_values(configs[axis])} |" for axis in AXES if configs[axis].notna().any()]
    return Template(TEXT.read_text()).substitute(
        title=contents.title,
        description=contents.description,
        files=len(contents.sizes),
        size=f"{sum(contents.sizes.values()) / 1e6:,.1f}",
        ends=", ".join(f"{count:,} {status}" for status, count in runs["status"].value_counts().items()),
        stored=f"{contents.stored:,}",
        mdzoo=contents.versions["mdzoo"],
        torch=", ".join(sorted(set(runs["torch_version"].dropna()))),
        axes="\n".join(axes),
        labels=_label_counts(contents.labels),
        width=configs["width"].min(),
        model=model,
        tables=markdown(contents.tables).strip(),
        licence=terms.licence,
        licence_url=terms.licence_url,
        bibtex=terms.bibtex(contents.title),
    )


def _values(column: pd.Series) -> str:
    """The values of a setting, in short."""
    found = sorted(column.dropna().unique().tolist())
    shown = [f"{value:,g}" if isinstance(value, int | float) else str(value) for value in found]
    if len(shown) > MOST_VALUES:
        return f"{len(shown)} values, {shown[0]} to {shown[-1]}"
    return ", ".join(shown)


def _label_counts(labels: pd.DataFrame) -> str:
    if labels.empty:
        return ""
    counts = labels.groupby(["task", "label"]).size()
    rows = "\n".join(
        f"| {task} | {', '.join(f'{label} {count:,}' for label, count in own.droplevel(0).items())} |"
        for task, own in counts.groupby(level=0)
    )
    return f"| question | configurations by label |\n| --- | --- |\n{rows}"
