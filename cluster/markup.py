"""Parts of a page as HTML: tables that sort, charts, pictures, and values that its scripts read."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Column(NamedTuple):
    """A column of a table on a page: its name in the frame, its head, and the digits of its numbers; None: text."""

    name: str
    title: str
    digits: int | None = None


def table(frame: pd.DataFrame, columns: Iterable[Column], best: str | None = None) -> str:
    """A table whose columns sort by a button; columns without a value are left out.

    Args:
        frame: A row each.
        columns: What is shown of it.
        best: Column by whose largest value a row is marked.
    """
    shown = [column for column in columns if column.name in frame and frame[column.name].notna().any()]
    heads = "".join(_head(column) for column in shown)
    top = frame[best].max() if best else None
    rows = []
    for row in frame.to_dict("records"):
        cells = "".join(_cell(row[column.name], column.digits) for column in shown)
        mark = ' class="best"' if best and row[best] == top else ""
        rows.append(f"<tr{mark}>{cells}</tr>")
    return scrolled(f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>")


def scrolled(inner: str) -> str:
    """What scrolls sideways by itself where it is too wide, by keyboard too."""
    return f'<div class="scroll" tabindex="0">{inner}</div>'


def _head(column: Column) -> str:
    kind = "" if column.digits is None else ' class="number"'
    return f'<th scope="col"{kind}><button type="button">{html.escape(column.title)}</button></th>'


def _cell(value: Any, digits: int | None) -> str:
    if digits is None:
        return f"<td>{'' if pd.isna(value) else html.escape(str(value))}</td>"
    if pd.isna(value):
        return '<td class="number" data-value=""></td>'
    return f'<td class="number" data-value="{value:.6g}">{value:,.{digits}f}</td>'


def chart(name: str, spec: dict[str, Any], wide: bool = False) -> str:
    """A chart of Vega-Lite; its name is unique on the page.

    Args:
        name: Its name.
        spec: The chart.
        wide: Whether it takes the width of the page.
    """
    kind = "chart wide" if wide else "chart"
    return f'<div class="{kind}" data-spec="{name}"></div>{data(name, spec)}'


def data(name: str, value: Any) -> str:
    """A value as JSON that scripts read by its name; no text in it can end the element."""
    text = json.dumps(value).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def picture(figure: Figure | Any, words: str) -> str:
    """A figure of matplotlib within the page, and what it shows in words."""
    sink = io.StringIO()
    figure.savefig(sink, format="svg")
    svg = sink.getvalue()
    return (
        f'<div class="picture" role="img" aria-label="{html.escape(words)}">{svg[svg.index("<svg") :]}</div>'
    )
