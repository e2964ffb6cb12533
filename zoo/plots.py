"""Phase plots: a quantity over width and batch size, a panel for each data amount and label noise.

The phases of Yang et al. (Taxonomizing local versus global structure in neural network loss landscapes,
NeurIPS 2021) show as regions of such plots.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

OTHER_AXES = {
    **{"dataset": "", "data_fingerprint": "data", "image_size": "pixels", "architecture": ""},
    **{"learning_rate": "learning rate", "weight_decay": "weight decay", "momentum": "momentum"},
    **{"schedule": "schedule", "warm_up": "warm-up", "noise_seed": "noise seed", "recipe": "recipe"},
    **{"recipe_version": "recipe version", "precision": "precision"},
}
"""Columns of `configs` that separate plots where they vary, and what to call them in a title."""

PANELS_A_ROW = 5
INK, PAPER = "0.15", "0.93"


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
    """

    name: str
    title: str
    unit: str
    colours: str
    scale: str = "linear"
    is_metric: bool = True
    split: str | None = None


QUANTITIES = (
    Quantity("test_error", "Test error", "test error [%]", "magma_r", is_metric=False),
    Quantity("train_error", "Training error", "training error [%]", "magma_r", is_metric=False),
    Quantity(
        "hessian_trace", "Hessian trace", "trace of the Hessian of the loss", "viridis", "log", True, "train"
    ),
    Quantity(
        *(
            "mode_connectivity",
            "Mode connectivity",
            "mode connectivity [percentage points of training error]",
        ),
        *("RdBu", "diverging", True, "train"),
    ),
    Quantity("cka", "Similarity of runs", "CKA of the outputs of two runs", "cividis"),
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
        value = _means(quantity, runs, metrics, recipe)
        for combination, family in _families(configs):
            cells = family.assign(value=family["config_id"].map(value))
            if cells["value"].notna().any():
                path = out / f"{_file_name(quantity.name, combination)}.png"
                draw(quantity, cells, _context(family)).savefig(path, dpi=160)
                paths.append(path)
    return paths


def draw(quantity: Quantity, cells: pd.DataFrame, context: str) -> Figure:
    """One figure: a panel for each data amount and label noise, and a colour bar.

    Args:
        quantity: What is shown.
        cells: Columns width, batch_size, data_amount, label_noise and value, a row a configuration.
        context: What all configurations have in common, for the title.
    """
    widths, batches, amounts, noises = (
        sorted(cells[axis].unique()) for axis in ("width", "batch_size", "data_amount", "label_noise")
    )
    rows_a_noise = -(-len(amounts) // PANELS_A_ROW)
    columns = -(-len(amounts) // rows_a_noise)
    rows = rows_a_noise * len(noises)
    cell = float(np.clip(2.9 / max(len(widths), len(batches)), 0.2, 0.5))
    size = (columns * (cell * len(widths) + 0.45) + 1.5, rows * (cell * len(batches) + 0.5) + 1.0)
    figure = Figure(figsize=(max(size[0], 4.8), size[1]), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    colour = ScalarMappable(_norm(quantity, cells["value"]), matplotlib.colormaps[quantity.colours])
    for index, panel in enumerate(panels.flat):
        noise, place = divmod(index, rows_a_noise * columns)
        if place >= len(amounts):
            panel.set_visible(False)
            continue
        here = cells[(cells["data_amount"] == amounts[place]) & (cells["label_noise"] == noises[noise])]
        grid = here.groupby(["batch_size", "width"])["value"].mean().unstack()
        _draw_panel(panel, grid.reindex(index=batches, columns=widths), colour, cell)
        label_noise = f", {noises[noise]:.0%} noise" if len(noises) > 1 else ""
        panel.set_title(f"{amounts[place]:,} images{label_noise}", fontsize=9.5, color=INK)
    bar = figure.colorbar(colour, ax=panels, shrink=0.9, aspect=28, pad=0.02)
    bar.set_label(quantity.unit, fontsize=9.5, color=INK)
    bar.ax.tick_params(labelsize=8.5, color=INK)
    bar.outline.set_visible(False)
    figure.supxlabel("width", fontsize=10.5, color=INK)
    figure.supylabel("batch size", fontsize=10.5, color=INK)
    figure.suptitle(f"{quantity.title}\n", fontsize=13, color=INK)
    figure.text(0.5, 0.5, context)
    return figure


def _draw_panel(panel: Axes, grid: pd.DataFrame, colour: ScalarMappable, cell_inches: float) -> None:
    values = np.ma.masked_invalid(grid.to_numpy(float))
    panel.set_facecolor(PAPER)
    panel.patch.set(hatch="/////", edgecolor="0.75", linewidth=0)
    shown = colour.to_rgba(_clipped(values, colour.norm))
    mesh = panel.pcolormesh(values, edgecolors="white", linewidth=0.7)
    del shown, mesh
