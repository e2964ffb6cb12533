"""Charts of a leaderboard to look into, in Vega-Lite: accuracy by training size and by cost, and where each errs."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from diagnose.leaderboard import ENTRY

Spec = dict[str, Any]

TRACKS = {"single": "#1b7837", "twin": "#2166ac", "hidden": "#999999"}
"""Colours of the tracks."""

HEIGHT, ROW = 300, 18
"""Pixels: of a chart, and of a row of one whose rows are diagnosers."""

FIT = alt.AutoSizeParams(type="fit-x", contains="padding")


def size_chart(board: pd.DataFrame) -> Spec:
    """Accuracy against the level of a protocol; a click on a name of the legend shows it alone, with 95% intervals.

    Args:
        board: Rows of the table `leaderboard` of one protocol.
    """
    chosen = alt.selection_point(fields=["diagnoser"], bind="legend")
    names = _best(board)
    base = alt.Chart(board[["diagnoser", "track", "level", "accuracy", "low", "high"]]).encode(
        x=alt.X("level:O", title="level: how much is learned from", axis=alt.Axis(labelAngle=0)),
        color=alt.Color(
            "diagnoser:N", sort=names, legend=alt.Legend(columns=2, orient="bottom", symbolLimit=60)
        ),
        opacity=alt.condition(chosen, alt.value(1), alt.value(0.08)),
        tooltip=[
            "diagnoser:N",
            "track:N",
            "level:O",
            *(alt.Tooltip(f"{name}:Q", format=".1f") for name in ("accuracy", "low", "high")),
        ],
    )
    line = base.mark_line(point=True).encode(
        y=alt.Y("accuracy:Q", title="accuracy [%]", scale=alt.Scale(zero=False))
    )
    span = base.mark_rule().encode(
        y=alt.Y("low:Q", title="accuracy [%]"),
        y2="high:Q",
        opacity=alt.condition(chosen, alt.value(1), alt.value(0), empty=False),
    )
    return _spec((span + line).add_params(chosen))


def interval_chart(board: pd.DataFrame) -> Spec:
    """Accuracy of each diagnoser with its 95% interval, the best first; of several levels the largest.

    Args:
        board: Rows of the table `leaderboard` of one protocol.
    """
    last = board[board["level"] == board["level"].max()]
    base = alt.Chart(last[["diagnoser", "track", "features", "accuracy", "low", "high"]]).encode(
        y=alt.Y("diagnoser:N", sort=_best(last), title=None, axis=alt.Axis(labelLimit=220)),
        color=alt.Color("track:N", scale=alt.Scale(domain=list(TRACKS), range=list(TRACKS.values()))),
        tooltip=[
            "diagnoser:N",
            "features:N",
            *(alt.Tooltip(f"{n}:Q", format=".1f") for n in ("accuracy", "low", "high")),
        ],
    )
    span = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title="accuracy [%]", scale=alt.Scale(zero=False)), x2="high:Q"
    )
    point = base.mark_point(filled=True, size=70, opacity=1).encode(x="accuracy:Q")
    return _spec(span + point, height=ROW * last["diagnoser"].nunique())


def cost_chart(board: pd.DataFrame) -> Spec:
    """Mean accuracy over boards against the sample passes that the features of a configuration take.

    The line joins those that no cheaper one equals, which are named.

    Args:
        board: Rows of the table `leaderboard` of one zoo and task; hidden hyperparameters are left out.
    """
    shown = board[board["track"] != "hidden"]
    points = shown.groupby(ENTRY, sort=False)[["accuracy", "sample_passes", "models"]].mean().reset_index()
    points["cost"] = points["sample_passes"].fillna(0) + 1
    ordered = points.sort_values(["cost", "accuracy"], ascending=[True, False])
    front = ordered[ordered["accuracy"] > ordered["accuracy"].cummax().shift(fill_value=-1.0)]
    x = alt.X("cost:Q", title="sample passes, plus 1", scale=alt.Scale(type="log"))
    y = alt.Y("accuracy:Q", title="accuracy [%], mean over boards", scale=alt.Scale(zero=False))
    every = (
        alt.Chart(points)
        .mark_point(filled=True, size=90, opacity=0.9)
        .encode(
            x=x,
            y=y,
            color=alt.Color("track:N", scale=alt.Scale(domain=list(TRACKS), range=list(TRACKS.values()))),
            tooltip=[
                "diagnoser:N",
                "features:N",
                alt.Tooltip("accuracy:Q", format=".1f"),
                alt.Tooltip("cost:Q", format=",.0f"),
                alt.Tooltip("models:Q", format=".1f", title="trained models"),
            ],
        )
    )
    line = (
        alt.Chart(front).mark_line(interpolate="step-after", color="#999999", strokeWidth=1).encode(x=x, y=y)
    )
    middle = points["cost"].max() ** 0.5  # names stand towards the middle of the chart
    cheap, dear = alt.Chart(front[front["cost"] <= middle]), alt.Chart(front[front["cost"] > middle])
    name = {"x": x, "y": y, "text": "diagnoser:N"}
    left = cheap.mark_text(align="left", dx=8, dy=-8, color="currentColor").encode(**name)
    right = dear.mark_text(align="right", dx=-8, dy=-8, color="currentColor").encode(**name)
    return _spec(line + every.interactive() + left + right)


def error_chart(said: pd.DataFrame, settings: pd.DataFrame) -> Spec:
    """Where each diagnoser errs: percent wrong over width and data amount, chosen from a list of diagnosers.

    Args:
        said: Rows of the table `predictions` of one board.
        settings: Width and data amount by `config_id`.
    """
    own = said.assign(wrong=100.0 * (said["predicted"].astype(object) != said["label"].astype(object)))
    own = own.astype({"diagnoser": str}).join(settings[["width", "data_amount"]], on="config_id")
    keys = ["diagnoser", "width", "data_amount"]
    cells = own.groupby(keys)["wrong"].agg(["mean", "size"]).reset_index().rename(columns={"mean": "wrong"})
    order = own.groupby("diagnoser")["wrong"].mean().sort_values().index.tolist()
    asked = alt.param(
        name="asked", value=order[0], bind=alt.binding_select(options=order, name="diagnoser ", labels=order)
    )
    base = (
        alt.Chart(cells)
        .transform_filter("datum.diagnoser == asked")
        .encode(
            x=alt.X("width:O", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("data_amount:O", title="training images", sort="descending"),
            tooltip=[
                "diagnoser:N",
                "width:O",
                "data_amount:O",
                alt.Tooltip("wrong:Q", format=".1f", title="wrong [%]"),
                alt.Tooltip("size:Q", title="answers"),
            ],
        )
    )
    colour = alt.Color(
        "wrong:Q", title="wrong [%]", scale=alt.Scale(scheme="magma", reverse=True, domain=[0, 100])
    )
    ink = alt.condition("datum.wrong > 55", alt.value("white"), alt.value("#222"))
    text = base.mark_text().encode(text=alt.Text("wrong:Q", format=".0f"), color=ink)
    return _spec((base.mark_rect().encode(color=colour) + text).add_params(asked), height=220)


def _best(board: pd.DataFrame) -> list[str]:
    means = board.groupby("diagnoser", observed=True)["accuracy"].mean()
    return list(map(str, means.sort_values(ascending=False).index))


def _spec(chart: alt.LayerChart | alt.Chart, height: Any = HEIGHT) -> Spec:
    spec: Spec = chart.properties(width="container", height=height, autosize=FIT).to_dict()
    return spec
