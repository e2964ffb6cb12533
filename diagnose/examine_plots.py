"""An examination as a picture: the answer, the model among the networks of the zoo, and its way through the tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diagnose.consult import QUESTION, Path
from diagnose.words import ACTIONS, SOURCES, named

if TYPE_CHECKING:
    from diagnose.examine import Examination

COLOURS = {
    "inc_temperature": "#0072b2",
    "dec_temperature": "#d55e00",
    "width": "#009e73",
    "data": "#cc79a7",
    "labels": "#e69f00",
    "nothing": "#999999",
}
"""A colour a remedy, of Okabe and Ito: the colour-blind tell them apart."""

SHAPES = dict(zip(COLOURS, ("v", "^", "s", "D", "P", "o"), strict=True))
PLANES = {
    "single": (("train_error", "hessian_t"), ("train_error", "test_error")),
    "twin": (("train_error", "hessian_t"), ("mode_connectivity_peak", "CKA")),
}
"""Features that span the pictures of the zoo, a pair a picture."""

SMALL = 8


def draw(found: Examination) -> Figure:
    """The picture."""
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    top, bottom = np.array(figure.subfigures(2, 1, height_ratios=(4, 3))).tolist()
    axes = top.subplots(1, 2)
    for ax, plane in zip(axes, PLANES[found.track], strict=True):
        _plane(ax, found, plane)
    axes[0].legend(loc="best", fontsize=SMALL, framealpha=0.8)
    left, right = bottom.subplots(1, 2, width_ratios=(1, 1))
    _bars(left, found)
    _way(right, found.path)
    remedy, warning = found.remedy, ""
    if found.distance.is_far:
        warning = (
            "do not trust this: like nothing in the zoo" if found.distance.is_too_far else "far from the zoo"
        )
    sure = 100 * remedy.probabilities[remedy.answer]
    words = f"{SOURCES[remedy.answer].capitalize()} ({sure:.0f}%)"
    figure.suptitle(f"{words} - {warning}" if warning else words, fontsize=14)
    return figure


def _plane(ax: Axes, found: Examination, plane: tuple[str, str]) -> None:
    """The networks of the zoo by two features, marked by what would help each most, and the model among them."""
    track = "twin" if found.track == "twin" else "single"
    points = found.reference.cases.sample(QUESTION, track)
    x, y = plane
    for label, colour in COLOURS.items():
        own = points[points["label"] == label]
        if len(own):
            shape: dict[str, Any] = {"s": 22, "c": colour, "marker": SHAPES[label], "label": SOURCES[label]}
            ax.scatter(own[x], own[y], alpha=0.75, linewidth=0, **shape)
    place = found.features[[x, y]]
    if place.notna().all():
        star: dict[str, Any] = {"s": 320, "c": "black", "marker": "*", "label": "this model"}
        ax.scatter(*place, edgecolor="white", linewidth=1.2, zorder=3, **star)
    else:
        ax.set_title("not all of it could be seen of this model", fontsize=SMALL)
    if x.endswith("error"):
        ax.set_xscale("symlog", linthresh=1)
    ax.set(xlabel=named(x), ylabel=named(y))
    ax.spines[["top", "right"]].set_visible(False)


def _bars(ax: Axes, found: Examination) -> None:
    """How likely each answer is, and what acting on it is expected to gain."""
    remedy = found.remedy
    shares = pd.Series(remedy.probabilities).sort_values()
    ax.barh(np.arange(len(shares)), 100 * shares, color=[COLOURS[name] for name in shares.index])
    for place, (name, share) in enumerate(shares.items()):
        gain = remedy.gains[str(name)]
        words = f" {100 * share:.0f}%"
        if name != "nothing":
            words += f", {gain:+.1f} points"
        ax.text(100 * share, place, words, va="center", fontsize=SMALL)
    ax.set_yticks(np.arange(len(shares)), [ACTIONS[str(name)].partition(":")[0] for name in shares.index])
    ax.set(xlim=(0, 135), xlabel="probability [%], and gain of accuracy to expect", xticks=range(0, 101, 25))
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(
        f"{remedy.diagnoser}: right on {remedy.held_out:.0f}% of held-out settings", fontsize=SMALL + 1
    )


def _way(ax: Axes, path: Path | None) -> None:
    """The splits on the way, from top to bottom."""
    ax.axis("off")
    if path is None:
        return
    ax.set_title(
        "way through the MD tree" if path.task == "temperature" else "way through the tree",
        fontsize=SMALL + 1,
    )
    rows = [
        f"{named(s.feature)} = {s.value:.4g}   {'>' if s.is_above else '≤'}   {s.threshold:.4g}"
        + ("   (not seen: the zoo's median)" if s.feature in path.missing else "")
        for s in path.steps
    ]
    rows.append(SOURCES[path.answer])
    for place, words in enumerate(rows):
        is_leaf = place == len(rows) - 1
        style = {
            "boxstyle": "round,pad=0.5",
            "facecolor": "#dde8f0" if is_leaf else "white",
            "edgecolor": "0.5",
        }
        y = 1 - (place + 0.5) / len(rows)
        ax.text(
            0.5, y, words, ha="center", va="center", fontsize=SMALL + 1, bbox=style, transform=ax.transAxes
        )
        if not is_leaf:
            after = 1 - (place + 1.5) / len(rows)
            ax.annotate(
                "",
                (0.5, after + 0.06),
                (0.5, y - 0.06),
                xycoords="axes fraction",
                arrowprops={"arrowstyle": "->", "color": "0.4"},
            )
