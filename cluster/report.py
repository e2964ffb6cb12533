"""The site of a zoo and of its benchmark: static pages that load nothing from elsewhere.

`index.html` says what there is; `zoo.html` (one a family of configurations) has the phase plots and the runs behind
each cell; `leaderboard.html` the rankings; `board-*.html` a protocol each; `trees.html` the MD trees.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from importlib import resources
from importlib.metadata import version
from string import Template
from typing import Any, NamedTuple

import pandas as pd

from cluster.markup import Column, chart, data, picture, scrolled, table
from diagnose import MDTreeClassifier, ZooTables, cases_of
from diagnose.arena import predictions
from diagnose.board_charts import cost_chart, error_chart, interval_chart, size_chart
from diagnose.board_plots import rank_plot
from diagnose.exchange import Benchmark, reopen
from diagnose.rankings import accuracies
from zoo import Zoo
from zoo.phase_charts import PhaseFamily, phase_charts
from zoo.storage import Store
from zoo.tables import FAILURE_TASKS, from_bytes

QUESTIONS = {
    "temperature": "Is the temperature too high or too low (Q1)?",
    "width": "Width or temperature (Q2)?",
    "data": "Data or temperature (Q2)?",
    "remedy": "What would help most, within a factor of two?",
    "remedy_whole": "What would help most, anywhere along its axis?",
}
BUNDLE = "window.vegaEmbed = vegaEmbed;"
"""What the script with Vega, Vega-Lite and Vega-Embed does when it is loaded."""

RUN_COLUMNS = ("seed", "status", "train_error", "validation_error", "test_error", "train_loss", "final_loss")


class Page(NamedTuple):
    """A page: its file, its title, the word for it in the list of pages (none: it is not in there), and its body."""

    file: str
    title: str
    word: str
    body: str


def report(zoo: Zoo | None, benchmark: Store | None, out: Store) -> list[str]:
    """Write the site.

    Args:
        zoo: A zoo, built or published; None leaves its pages out.
        benchmark: Folder of a benchmark; None leaves the leaderboard out.
        out: Where the site is to be.

    Returns:
        The files, the first page first.

    Raises:
        FileNotFoundError: If the zoo is not built to its end, or the benchmark has no leaderboard.
    """
    import vl_convert

    pages: list[Page] = []
    if zoo is not None:
        tables = {name: zoo.table(name) for name in ("configs", "runs", "metrics", "labels")}
        pages += _zoo_pages(zoo, tables)
    if benchmark is not None:
        pages += _board_pages(benchmark)
    if zoo is not None:
        pages.append(_trees_page(zoo, tables))
        pages.insert(0, _index_page(zoo, tables, pages))
    else:
        pages[0] = pages[0]._replace(file="index.html")
    template = Template(_asset("page.html"))
    for page in pages:
        nav = " ".join(_nav(pages, page))
        text = template.substitute(
            title=html.escape(page.title), nav=nav, body=page.body, version=version("mdzoo")
        )
        out.write(page.file, text.encode())
    for name in ("style.css", "site.js"):
        out.write(name, _asset(name).encode())
    out.write("vega.js", vl_convert.javascript_bundle(BUNDLE).encode())
    return [page.file for page in pages]


def _asset(name: str) -> str:
    return resources.files("cluster").joinpath("site", name).read_text()


def _nav(pages: Sequence[Page], current: Page) -> Iterator[str]:
    for page in pages:
        if page.word:
            here = ' aria-current="page"' if page.file == current.file else ""
            yield f'<a href="{page.file}"{here}>{html.escape(page.word)}</a>'


def _index_page(zoo: Zoo, tables: dict[str, pd.DataFrame], pages: Sequence[Page]) -> Page:
    configs, runs, labels = tables["configs"], tables["runs"], tables["labels"]
    ends = ", ".join(f"{count:,} {status}" for status, count in runs["status"].value_counts().items())
    facts = {
        "networks": f"{len(runs):,} ({ends})",
        "configurations": f"{len(configs):,}",
        "data": ", ".join(sorted(set(configs["dataset"]))),
        "architectures": ", ".join(sorted(set(configs["architecture"]))),
        "metrics": f"{tables['metrics']['metric'].nunique()}, recipe {zoo.metric_recipe}",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items())
    counts = labels.groupby(["task", "label"]).size().rename("configurations").reset_index()
    counts["question"] = counts["task"].map(QUESTIONS)
    columns = [
        Column("question", "question"),
        Column("label", "answer"),
        Column("configurations", "configurations", 0),
    ]
    links = "".join(f'<li><a href="{p.file}">{html.escape(p.title)}</a></li>' for p in pages)
    body = (
        f"<dl>{listed}</dl><h2>Pages</h2><ul>{links}</ul><h2>Sources of failure</h2>{table(counts, columns)}"
        f"<h2>Its spec</h2><pre>{html.escape(zoo.spec)}</pre>"
    )
    return Page("index.html", f"Zoo {zoo.name}", "Overview", body)


def _zoo_pages(zoo: Zoo, tables: dict[str, pd.DataFrame]) -> Iterator[Page]:
    families = phase_charts(tables["configs"], tables["runs"], tables["metrics"], zoo.metric_recipe)
    for number, family in enumerate(families):
        file = "zoo.html" if not number else f"zoo-{number}.html"
        word = "Phase plots" if len(families) == 1 else f"Phase plots {number + 1}"
        yield Page(file, f"Phases of {zoo.name}: {family.context}", word, _phases(family, tables))


def _phases(family: PhaseFamily, tables: dict[str, pd.DataFrame]) -> str:
    configs = tables["configs"].set_index("config_id").loc[family.config_ids]
    names = {str(row["config_id"]): _named(row) for row in configs.reset_index().to_dict("records")}
    own = tables["runs"][tables["runs"]["config_id"].isin(family.config_ids)].sort_values("seed")
    runs = {
        str(config_id): [
            [None if pd.isna(v) else v for v in row] for row in rows[list(RUN_COLUMNS)].to_numpy().tolist()
        ]
        for config_id, rows in own.groupby("config_id")
    }
    last = len(family.amounts) - 1
    chosen = "".join(f'<option value="{config_id}">{name}</option>' for config_id, name in names.items())
    heads = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in RUN_COLUMNS)
    parts = [
        '<p class="note">A cell is the mean over the finished runs of a configuration, or over their pairs. Move the '
        "slider to change the data amount; choose a cell, or a configuration from the list, to see its runs.</p>",
        f'<div class="controls"><label>training images <input type="range" id="amount" min="0" max="{last}" step="1" '
        f'value="{last}" data-amounts="{html.escape(json.dumps(family.amounts))}"></label> '
        '<output id="amount-shown" for="amount"></output></div>',
    ]
    by_quantity: dict[str, list[str]] = {}
    for place, shown in enumerate(family.charts):
        noise = f"<h3>{shown.label_noise:.0%} label noise</h3>"
        by_quantity.setdefault(shown.quantity.title, []).append(
            f"<div>{noise}{chart(f'phase-{place}', shown.spec)}</div>"
        )
    for title, charts in by_quantity.items():
        parts.append(f'<h2>{html.escape(title)}</h2><div class="charts">{"".join(charts)}</div>')
    runs_table = f'<table id="runs-table"><thead><tr>{heads}</tr></thead><tbody></tbody></table>'
    parts.append(
        f'<h2>Runs</h2><p><label>configuration <select id="configuration">{chosen}</select></label></p>'
        '<p id="runs-of" role="status">No cell is chosen yet.</p>'
        f"{scrolled(runs_table)}{data('runs', {'columns': RUN_COLUMNS, 'runs': runs, 'names': names})}"
    )
    return "".join(parts)


def _named(row: Mapping[Hashable, Any]) -> str:
    """A configuration by its place in a phase plot."""
    return (
        f"width {row['width']}, batch {row['batch_size']}, {row['data_amount']:,} images, "
        f"{row['label_noise']:.0%} noise"
    )


def _board_pages(store: Store) -> Iterator[Page]:
    read = {
        name: from_bytes(name, store.read(f"{name}.parquet"), name).to_pandas()
        for name in ("leaderboard", "rankings")
    }
    leaderboard, benchmark = read["leaderboard"], reopen(store)
    keys = ["zoo", "training_zoo", "task", "protocol"]
    pages = [
        _protocol_page(store, benchmark, dict(zip(keys, map(str, values), strict=True)), own)
        for values, own in leaderboard.groupby(keys, sort=False)
    ]
    yield _leaderboard_page(leaderboard, read["rankings"], pages)
    yield from pages


def _leaderboard_page(board: pd.DataFrame, rankings: pd.DataFrame, pages: Sequence[Page]) -> Page:
    columns = [
        Column("diagnoser", "diagnoser"),
        Column("features", "features"),
        Column("track", "track"),
        Column("mean_accuracy", "accuracy [%]", 1),
        Column("mean_rank", "mean rank", 2),
        Column("win_rate", "wins [%]", 1),
        Column("elo", "Elo", 0),
        Column("elo_low", "from", 0),
        Column("elo_high", "to", 0),
        Column("cliques", "alike"),
    ]
    parts = [
        '<p class="note">Each diagnoser learns from a part of the zoo and diagnoses the rest; a board is one such '
        "selection. Ranks, wins and Elo ratings compare all on the same boards; those that share a letter under "
        "<em>alike</em> do not differ significantly. <em>hidden</em> ones see the settings that are asked for.</p>"
    ]
    for number, (values, own) in enumerate(rankings.groupby(["zoo", "task"], dropna=False, sort=False)):
        zoo, task = (str(value) if isinstance(value, str) else None for value in values)
        title = QUESTIONS.get(task or "", "All questions") + (f" {zoo}" if zoo else "")
        parts.append(f"<h2>{html.escape(title)}</h2>{table(own.sort_values('mean_rank'), columns)}")
        on_board = board[
            (board["zoo"] == zoo) & (board["task"] == task) & board["diagnoser"].isin(own["diagnoser"])
        ]
        if len(own) > 2 and own["boards"].iloc[0] > 1 and len(on_board):
            drawn = rank_plot(accuracies(on_board), f"{zoo}, {task}")
            parts.append(
                f"<h3>Critical differences</h3>{picture(drawn, 'Mean ranks with critical differences')}"
            )
        if on_board["sample_passes"].notna().any():
            parts.append(
                f"<h3>Accuracy against cost</h3>{chart(f'cost-{number}', cost_chart(on_board), wide=True)}"
            )
    links = "".join(f'<li><a href="{page.file}">{html.escape(page.title)}</a></li>' for page in pages)
    parts.append(f"<h2>Protocols</h2><ul>{links}</ul>")
    return Page("leaderboard.html", "Leaderboard", "Leaderboard", "".join(parts))


def _protocol_page(store: Store, benchmark: Benchmark, which: dict[str, str], board: pd.DataFrame) -> Page:
    columns = [
        Column("diagnoser", "diagnoser"),
        Column("features", "features"),
        Column("track", "track"),
        Column("level", "level", 0),
        Column("accuracy", "accuracy [%]", 1),
        Column("low", "from", 1),
        Column("high", "to", 1),
        Column("difference", "versus MD tree", 1),
        Column("balanced_accuracy", "balanced [%]", 1),
        Column("regret", "regret [points]", 2),
        Column("calibration_error", "calibration error", 1),
        Column("training_rows", "learned from", 0),
        Column("test_rows", "diagnosed", 0),
    ]
    trained = "" if which["zoo"] == which["training_zoo"] else f" from {which['training_zoo']}"
    title = f"{which['zoo']}{trained}: {QUESTIONS[which['task']]} {which['protocol']}"
    parts = [
        f"<h2>Largest level</h2>{chart('intervals', interval_chart(board), wide=True)}",
    ]
    if board["level"].nunique() > 1:
        parts.append(f"<h2>Accuracy against training size</h2>{chart('sizes', size_chart(board), wide=True)}")
    ordered = board.sort_values(["level", "accuracy"], ascending=False)
    parts.append(f"<h2>All levels, with 95% intervals</h2>{table(ordered, columns, best='accuracy')}")
    asked = [own for own in benchmark.boards if all(getattr(own, name) == which[name] for name in which)]
    largest = max(asked, key=lambda own: own.level)
    said = predictions(store, largest, sorted(set(board["diagnoser"])))
    errors = error_chart(said, benchmark.zoos[largest.zoo].settings)
    parts.append(f"<h2>Where each errs, at the largest level</h2>{chart('errors', errors, wide=True)}")
    name = re.sub(r"[^\w.-]", "-", "-".join(which.values()))
    return Page(f"board-{name}.html", title, "", "".join(parts))


def _trees_page(zoo: Zoo, tables: dict[str, pd.DataFrame]) -> Page:
    cases = cases_of(ZooTables(**tables), zoo.metric_recipe)
    parts = [
        '<p class="note">The published trees, their thresholds learned from all configurations of the zoo by the '
        "exact search, and how many configurations of each label reach each leaf.</p>"
    ]
    for task in FAILURE_TASKS:
        sample = cases.sample(task, "twin")
        if sample["label"].nunique() < 2:
            continue
        tree = MDTreeClassifier(structure=task, search="exact", bounds="data").fit(sample, sample["label"])
        right = 100 * (tree.predict(sample) == sample["label"].to_numpy()).mean()
        words = html.escape(tree.export_text(show_counts=True))
        drawn = picture(tree.plot().get_figure(), f"MD tree: {QUESTIONS[task]}")
        parts.append(
            f"<h2>{QUESTIONS[task]}</h2>{drawn}<p>Right on {right:.1f}% of what it learned from.</p>"
            f"<details><summary>The same in words</summary><pre>{words}</pre></details>"
        )
    return Page("trees.html", f"MD trees of {zoo.name}", "MD trees", "".join(parts))
