"""Phase plots: a quantity over width and batch size, a panel for each data amount and label noise.

The phases of Yang et al. (Taxonomizing local versus global structure in neural network loss landscapes,
NeurIPS 2021) show as regions of such plots.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import NDArray

OTHER_AXES = {
    "dataset": "data set",
    "data_fingerprint": "data",
    "image_size": "pixels",
    "architecture": "architecture",
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
    "momentum": "momentum",
    "schedule": "schedule",
    "warm_up": "warm-up",
    "noise_seed": "noise seed",
    "recipe": "recipe",
    "recipe_version": "recipe version",
    "precision": "precision",
}
"""Columns of `configs` that separate plots where they vary, and what to call them in a title."""

PANEL_AXES = ["width", "batch_size", "data_amount", "label_noise"]
PANELS_A_ROW = 5
SMALLEST_WRITTEN_CELL_INCHES = 0.4
INK = "0.15"
MISSING: dict[str, Any] = {"facecolor": "0.94", "edgecolor": "0.7", "hatch": "/////", "linewidth": 0}


class Quantity(NamedTuple):
    """What a plot shows.

    Attributes:
        name: Column of `runs`, or metric; also the file's name.
        title: Title of the plot.
        unit: Label of the colour bar.
        colours: Colour map, all of them fit for the colour-blind.
        scale: linear, log, or diverging around zero.
        is_metric: Whether it stands in `metrics`, not in `runs`.
        split: Images the metric was measured on; None for a metric that has only one kind of row.
        decimals: Digits after the point in the cells of a scale that is not logarithmic.
    """

    name: str
    title: str
    unit: str
    colours: str
    scale: str = "linear"
    is_metric: bool = True
    split: str | None = None
    decimals: int = 1


QUANTITIES = (
    Quantity("test_error", "Test error", "test error [%]", "magma_r", is_metric=False),
    Quantity("train_error", "Training error", "training error [%]", "magma_r", is_metric=False),
    Quantity(
        "hessian_trace", "Hessian trace", "trace of the Hessian of the loss", "viridis", "log", split="train"
    ),
    Quantity(
        name="mode_connectivity",
        title="Mode connectivity",
        unit="training error: ends minus curve [points]",
        colours="RdBu",
        scale="diverging",
        split="train",
    ),
    Quantity("cka", "Similarity of runs", "CKA of the outputs of two runs", "cividis", decimals=2),
)


def phase_plots(
    configs: pd.DataFrame,
    runs: pd.DataFrame,
    metrics: pd.DataFrame,
    out: Path,
    recipe: str = "default",
) -> list[Path]:
    """Draws each quantity over width and batch size, as PNG files.

    A cell is the mean over the finished runs of a configuration (or their pairs); a cell without one is
    hatched. The panels of a file share one colour scale. Where configurations differ in more than width,
    batch size, data amount and label noise, each combination has a file of its own.

    Args:
        configs: Table `configs`, as `zoo.tables` has it.
        runs: Table `runs`.
        metrics: Table `metrics`; it may be empty.
        out: Folder for the files; made if missing.
        recipe: Metric recipe to show.

    Returns:
        The files, quantities in the order of `QUANTITIES`; one without any value has no file.

    Raises:
        ValueError: If there are no configurations, or the metrics have other recipes only.
    """
    if configs.empty:
        raise ValueError("the table configs has 0 rows, a phase plot needs 1 or more; build the zoo first")
    if len(metrics) and recipe not in (known := sorted(metrics["recipe"].unique())):
        raise ValueError(f"no metric was measured with recipe {recipe!r}; measured recipes are {known}")
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for quantity in QUANTITIES:
        value = means(quantity, runs, metrics, recipe)
        for combination, family in families(configs):
            cells = family.assign(value=family["config_id"].map(value))
            if cells["value"].notna().any():
                path = out / f"{_file_name(quantity.name, combination)}.png"
                draw(quantity, cells, context_of(family, combination)).savefig(path, dpi=160)
                paths.append(path)
    return paths


def draw(quantity: Quantity, cells: pd.DataFrame, context: str = "") -> Figure:
    """One figure: a panel for each data amount and label noise, and a colour bar that they share.

    Args:
        quantity: What is shown.
        cells: Columns width, batch_size, data_amount, label_noise and value, a row a configuration.
        context: Second line of the title.
    """
    widths, batches, amounts, noises = (sorted(cells[axis].unique()) for axis in PANEL_AXES)
    rows_a_noise = -(-len(amounts) // PANELS_A_ROW)
    columns = -(-len(amounts) // rows_a_noise)
    rows = rows_a_noise * len(noises)
    inches = float(np.clip(3.0 / max(len(widths), len(batches)), 0.2, 0.5))
    wide = columns * (inches * len(widths) + 0.3) + 1.7
    high = rows * (inches * len(batches) + 0.5) + 1.5
    figure = Figure(figsize=(max(wide, 4.2), high), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.06))
    panels = figure.subplots(rows, columns, squeeze=False)
    norm = norm_of(quantity.scale, cells["value"].dropna())
    for index, panel in enumerate(panels.flat):
        noise, place = divmod(index, rows_a_noise * columns)
        if place >= len(amounts):
            panel.remove()
            continue
        here = cells[(cells["data_amount"] == amounts[place]) & (cells["label_noise"] == noises[noise])]
        grid = here.groupby(["batch_size", "width"])["value"].mean().unstack()
        _draw_cells(panel, grid.reindex(index=batches, columns=widths), quantity, norm, inches)
        label_noise = f", {100 * noises[noise]:g}% label noise" if len(noises) > 1 else ""
        panel.set_title(f"{amounts[place]:,} images{label_noise}", fontsize=10 * _enlarged(figure), color=INK)
        lowest = place + columns >= len(amounts) and noise == len(noises) - 1
        _label_axes(panel, widths, batches, left=index % columns == 0, lowest=lowest)
    _draw_surroundings(figure, quantity, norm, context)
    return figure


def _draw_cells(panel: Axes, grid: pd.DataFrame, quantity: Quantity, norm: Normalize, inches: float) -> None:
    """Equal cells on a hatched ground, with the numbers in them where cells are large enough."""
    values = np.ma.masked_invalid(grid.to_numpy(float))
    shown = np.ma.maximum(values, float(norm.vmin or 0)) if isinstance(norm, LogNorm) else values
    panel.patch.set(**MISSING)
    panel.pcolormesh(shown, cmap=quantity.colours, norm=norm, edgecolors="white", linewidth=0.8)
    panel.set_aspect("equal")
    panel.spines[:].set_visible(False)
    if inches < SMALLEST_WRITTEN_CELL_INCHES:
        return
    colours = matplotlib.colormaps[quantity.colours](norm(shown))
    for row, column in np.argwhere(~np.ma.getmaskarray(values)):
        panel.annotate(
            text_of(values[row, column], quantity),
            (column + 0.5, row + 0.5),
            ha="center",
            va="center",
            fontsize=18 * inches,
            color=INK if is_light(colours[row, column]) else "white",
        )


def is_light(colour: NDArray[np.float64]) -> bool:
    """Whether dark writing can be read on a colour, given as red, green and blue from 0 to 1."""
    return bool(colour[:3] ** 2.2 @ (0.2126, 0.7152, 0.0722) > 0.25)


def _label_axes(panel: Axes, widths: list[int], batches: list[int], left: bool, lowest: bool) -> None:
    panel.set_xticks(np.arange(len(widths)) + 0.5, [str(width) for width in widths])
    panel.set_yticks(np.arange(len(batches)) + 0.5, [str(batch) for batch in batches])
    panel.tick_params(length=0, labelsize=9, labelcolor=INK, labelbottom=lowest, labelleft=left)
    if len(widths) > 8:
        panel.tick_params(axis="x", labelrotation=90)
    panel.set_xlabel("width" if lowest else "", fontsize=10, color=INK)
    panel.set_ylabel("batch size" if left else "", fontsize=10, color=INK)


def _draw_surroundings(figure: Figure, quantity: Quantity, norm: Normalize, context: str) -> None:
    """The colour bar, the title, and what hatched cells mean where there are any."""
    panels, enlarged = figure.axes, _enlarged(figure)
    bar = figure.colorbar(ScalarMappable(norm, quantity.colours), ax=panels, aspect=26, pad=0.02)
    bar.set_label(quantity.unit, fontsize=10 * enlarged, color=INK)
    bar.ax.tick_params(labelsize=9 * enlarged, labelcolor=INK, color=INK)
    bar.outline.set_visible(False)
    title = "\n".join(filter(None, (quantity.title, context)))
    figure.suptitle(title, fontsize=12 * enlarged, color=INK)
    if any(np.ma.is_masked(panel.collections[0].get_array()) for panel in panels):
        hatched = [Patch(**MISSING, label="no value")]
        figure.legend(
            handles=hatched, loc="outside lower right", fontsize=9 * enlarged, frameon=False, labelcolor=INK
        )


def _enlarged(figure: Figure) -> float:
    """How much larger to write in a figure that a page will show scaled down."""
    return float(np.clip(figure.get_figwidth() / 10, 1, 1.4))


def means(quantity: Quantity, runs: pd.DataFrame, metrics: pd.DataFrame, recipe: str) -> pd.Series[float]:
    """The mean of a quantity by `config_id`."""
    if not quantity.is_metric:
        return runs[runs["status"] == "done"].groupby("config_id")[quantity.name].mean()
    chosen = (metrics["metric"] == quantity.name) & (metrics["recipe"] == recipe)
    if quantity.split is not None:
        chosen &= metrics["split"] == quantity.split
    return metrics[chosen].groupby("config_id")["value"].mean()


def families(configs: pd.DataFrame) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """The configurations of each file, and the names and values that tell it from the others."""
    varying = [axis for axis in OTHER_AXES if configs[axis].nunique(dropna=False) > 1]
    if configs["data_fingerprint"].nunique() == configs["dataset"].nunique():
        varying = [axis for axis in varying if axis != "data_fingerprint"]
    separated = configs.assign(**_length(configs, varying))
    varying += separated.columns.difference(configs.columns, sort=False).to_list()
    if not varying:
        yield {}, configs
        return
    for values, family in separated.groupby(varying, dropna=False):
        yield dict(zip(varying, values, strict=True)), family


def _length(configs: pd.DataFrame, varying: list[str]) -> dict[str, pd.Series[float]]:
    """The length of training, where it is an axis of its own, in the unit with the fewest distinct values."""
    if not configs.duplicated([*PANEL_AXES, *varying]).any():
        return {}
    passes = configs["sample_passes"]
    units = {
        "sample passes": passes,
        "epochs": passes / configs["data_amount"],
        "steps": passes // configs["batch_size"],
    }
    unit = min(units, key=lambda name: units[name].nunique())
    return {unit: units[unit]}


def context_of(family: pd.DataFrame, combination: dict[str, object]) -> str:
    """What configurations have in common, in words."""
    first = family.iloc[0]
    always = [str(first["dataset"]), str(first["architecture"])]
    return ", ".join(
        always
        + [
            f"{OTHER_AXES.get(axis, axis)} {_plain(value)}"
            for axis, value in combination.items()
            if axis not in ("dataset", "architecture")
        ]
    )


def _file_name(quantity: str, combination: dict[str, object]) -> str:
    parts = [quantity, *(f"{axis}={_plain(value)}" for axis, value in combination.items())]
    return re.sub(r"[^\w.=+-]", "_", "-".join(parts))


def _plain(value: object) -> str:
    if isinstance(value, float):
        return "original" if np.isnan(value) else f"{value:g}"
    return str(value)


def norm_of(scale: str, values: pd.Series[float]) -> Normalize:
    """The colour scale of all panels; a logarithmic one begins at the smallest positive value."""
    low, high = float(values.min()), float(values.max())
    if scale == "diverging":
        return CenteredNorm(0, halfrange=max(abs(low), abs(high)) or 1.0)
    if scale == "log" and high > 0:
        low = float(values[values > 0].min())
        return LogNorm(low, high if high > low else 2 * low)
    return Normalize(low, high if high > low else low + 1)


def text_of(value: float, quantity: Quantity) -> str:
    """A number for a cell, in at most six characters."""
    if quantity.scale != "log":
        return f"{value:z.{quantity.decimals}f}"
    if 1_000 <= value < 1_000_000:
        return f"{value / 1_000:.1f}k"
    if 0.1 <= abs(value) < 1_000:
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"
    return f"{value:.0e}"
