"""Phase plots to look into: charts of Vega-Lite in which the data amount is moved and a cell is chosen.

The same quantities as `zoo.plots` draws. Each chart has a parameter `amount`, the place of the data amount that is
shown, and cells that carry their `config_id`; what holds the charts sets the one and listens for the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import altair as alt
import matplotlib
import pandas as pd

from zoo.plots import QUANTITIES, Quantity, context_of, families, is_light, means, norm_of, text_of

SCHEMES = {
    "magma_r": ("magma", True),
    "viridis": ("viridis", False),
    "RdBu": ("redblue", False),
    "cividis": ("cividis", False),
}
"""Vega's names of the colour maps, and whether they are turned round."""

CELL = 46
"""Pixels a cell is wide and high."""


class PhaseChart(NamedTuple):
    """A chart of one quantity at one level of label noise.

    Attributes:
        quantity: What it shows.
        label_noise: Share of labels that are redrawn.
        spec: The chart in Vega-Lite.
    """

    quantity: Quantity
    label_noise: float
    spec: dict[str, Any]


class PhaseFamily(NamedTuple):
    """Charts of configurations that differ in width, batch size, data amount and label noise only.

    Attributes:
        context: What they have in common.
        amounts: Their data amounts, in the order of the parameter `amount`.
        config_ids: Its configurations, in the order of the axes.
        charts: The charts, quantity by quantity.
    """

    context: str
    amounts: list[int]
    config_ids: list[str]
    charts: list[PhaseChart]


def phase_charts(
    configs: pd.DataFrame, runs: pd.DataFrame, metrics: pd.DataFrame, recipe: str = "default"
) -> list[PhaseFamily]:
    """The charts of a zoo; a quantity without any value has none.

    Args:
        configs: Table `configs`.
        runs: Table `runs`.
        metrics: Table `metrics`; may be empty.
        recipe: Metric recipe to show.
    """
    found = []
    for combination, family in families(configs):
        amounts = sorted(family["data_amount"].unique().tolist())
        charts = []
        for quantity in QUANTITIES:
            value = family["config_id"].map(means(quantity, runs, metrics, recipe))
            cells = family.assign(value=value, amount=family["data_amount"].map(amounts.index)).dropna(
                subset="value"
            )
            if len(cells):
                charts += _of_noises(quantity, cells)
        ordered = family.sort_values(["label_noise", "data_amount", "width", "batch_size"])
        found.append(
            PhaseFamily(context_of(family, combination), amounts, ordered["config_id"].tolist(), charts)
        )
    return found


def _of_noises(quantity: Quantity, cells: pd.DataFrame) -> list[PhaseChart]:
    """A chart for each level of label noise, all of them in one scale of colours."""
    norm = norm_of(quantity.scale, cells["value"])
    colours = matplotlib.colormaps[quantity.colours](norm(cells["value"].to_numpy()))
    columns = ["config_id", "width", "batch_size", "data_amount", "label_noise", "amount", "value"]
    shown = cells[columns].assign(
        text=[text_of(value, quantity) for value in cells["value"]],
        ink=["#222" if is_light(colour) else "#fff" for colour in colours],
    )
    domain = [float(norm.vmin or 0.0), float(norm.vmax or 0.0)]
    return [
        PhaseChart(quantity, float(str(noise)), _chart(quantity, own, shown, domain))
        for noise, own in shown.groupby("label_noise")
    ]


def _chart(
    quantity: Quantity, cells: pd.DataFrame, whole: pd.DataFrame, domain: list[float]
) -> dict[str, Any]:
    scheme, reverse = SCHEMES[quantity.colours]
    scale: dict[str, Any] = {"scheme": scheme, "reverse": reverse, "domain": domain, "clamp": True}
    if quantity.scale == "log" and domain[0] > 0:
        scale["type"] = "log"
    sides = {axis: sorted(whole[axis].unique().tolist()) for axis in ("width", "batch_size")}
    base = (
        alt.Chart(cells)
        .transform_filter("datum.amount == amount")
        .encode(
            x=alt.X("width:O", scale=alt.Scale(domain=sides["width"]), axis=alt.Axis(labelAngle=0)),
            y=alt.Y("batch_size:O", title="batch size", scale=alt.Scale(domain=sides["batch_size"][::-1])),
            tooltip=[
                alt.Tooltip("value:Q", title=quantity.title, format=".4g"),
                *(
                    alt.Tooltip(f"{n}:Q", title=n.replace("_", " "))
                    for n in ("width", "batch_size", "data_amount")
                ),
                alt.Tooltip("label_noise:Q", title="label noise"),
            ],
        )
    )
    colour = alt.Color(
        "value:Q",
        title=quantity.unit,
        scale=alt.Scale(**scale),
        legend=alt.Legend(orient="bottom", gradientLength=150),
    )
    cursor: dict[str, Any] = {"cursor": "pointer"}
    layers = base.mark_rect(**cursor).encode(color=colour) + base.mark_text(fontSize=11, **cursor).encode(
        text="text:N", color=alt.Color("ink:N", scale=None)
    )
    last = len(set(whole["amount"])) - 1
    chart = (
        layers.resolve_scale(color="independent")
        .add_params(alt.param(name="amount", value=last))
        .properties(width=CELL * len(sides["width"]), height=0.7 * CELL * len(sides["batch_size"]))
    )
    spec: dict[str, Any] = chart.to_dict()
    return spec
