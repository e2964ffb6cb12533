"""The verbs of the program `mdzoo` that let diagnosers compete: `benchmark` and `score`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from cluster.terminal import WRONG_USE, Json, import_modules, look_here, stop
from zoo import open_zoo
from zoo.storage import Folder

if TYPE_CHECKING:
    import pandas as pd

    from diagnose.baselines import Diagnoser
    from diagnose.boards import Board
    from diagnose.cases import Cases
    from diagnose.competition import Standings
    from diagnose.releases import Release

    Zoos = tuple[Mapping[str, Cases], Mapping[str, pd.DataFrame]]

DRAWS = 50


def benchmark(
    out: Annotated[Path, typer.Option(help="Folder of the leaderboard.", show_default=False)],
    folders: Annotated[
        list[str] | None, typer.Argument(help="Folders or URIs of one or more zoos.", show_default=False)
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the MD-tree authors' tables: run their experiment instead.", show_default=False
        ),
    ] = None,
    board: Annotated[
        bool,
        typer.Option(
            "--board", help="With --published: let all diagnosers compete on those tables too, both ways."
        ),
    ] = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="All tuned baselines, and from noisy labels to clean ones too: slow."),
    ] = False,
    draws: Annotated[
        int, typer.Option(min=1, help="Draws a protocol; the first five are the published.")
    ] = DRAWS,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Of the diagnosers that are known, those that compete, by name; all if not given."),
    ] = None,
    entrants: Annotated[
        list[str] | None,
        typer.Option(
            "--diagnoser",
            help="A scikit-learn classifier that competes too: package.module:Class, or "
            "package.module:Class@FEATURES with the name of a feature set.",
        ),
    ] = None,
    modules: Annotated[
        list[str] | None, typer.Option("--import", help="Python module that registers diagnosers.")
    ] = None,
    release: Annotated[
        Path | None, typer.Option(help="Frozen benchmark: refuse other selections than its.")
    ] = None,
    freeze: Annotated[
        str | None, typer.Option(help="Freeze the selections under this name, as OUT/release.json.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; as many as cores if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Let all diagnosers compete on all protocols. Run again, it asks only what is not known yet."""
    if bool(folders) == bool(published):
        raise typer.BadParameter("give folders of zoos, or --published DIR, one of the two")
    if board and not published:
        raise typer.BadParameter("belongs to --published; a zoo has its board anyway", param_hint="--board")
    import_modules(modules or [])
    store = Folder(out)
    if published:
        _published_experiment(published, store, as_json, quiet=board)
        if not board:
            return
    diagnosers = _diagnosers(entrants or [], only or [], "published" if published else "data", full)
    zoos, costs = _authors_zoo(published) if published else _opened(folders or [])
    competed = _boards(zoos, draws, bool(published), both=full or board)
    releases = _releases(competed, release, freeze, store)
    standings = _compete(store, zoos, competed, diagnosers, costs, releases, jobs)
    _print_standings(standings, as_json)


def score(
    file: Annotated[
        Path, typer.Argument(help="Predictions of a method, Parquet or CSV.", show_default=False)
    ],
    benchmark: Annotated[
        Path, typer.Option(help="Folder that `mdzoo benchmark --out` made.", show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Judge predictions that were made elsewhere, and put them on the leaderboard of a benchmark."""
    from diagnose.competition import judge
    from diagnose.exchange import reopen
    from diagnose.submissions import enter, read_submission

    store = Folder(benchmark)
    found = reopen(store)
    names = enter(store, found, read_submission(file))
    print(f"mdzoo: entered {', '.join(names)}", file=sys.stderr)
    _print_standings(judge(store, found), as_json)


def _published_experiment(folder: Path, store: Folder, as_json: bool, quiet: bool) -> None:
    """Run the published experiment, write it, and unless it is to be quiet print it."""
    from diagnose.published import published_report

    report = published_report(folder)
    for name, frame in report.tables.items():
        store.write(f"{name}.parquet", frame.to_parquet())
    store.write("published.md", report.page.encode())
    if not quiet:
        rows = report.tables["published"].to_json(orient="records")
        print(f'{{"published": {rows}}}' if as_json else report.page)


def _authors_zoo(folder: Path) -> Zoos:
    """The authors' tables as a zoo; what their features cost is not known."""
    from diagnose.published_cases import ZOO, published_cases

    return {ZOO: published_cases(folder)}, {}


def _opened(folders: list[str]) -> Zoos:
    """The cases of built zoos, and what their features cost."""
    from diagnose import ZooTables, cases_of, feature_costs

    zoos = [open_zoo(folder) for folder in folders]
    recipes, names = sorted({zoo.metric_recipe for zoo in zoos}), [zoo.name for zoo in zoos]
    if len(recipes) > 1:
        stop(f"the zoos were measured by different recipes, {recipes}; benchmark those of one recipe", 1)
    if twice := {name for name in names if names.count(name) > 1}:
        stop(f"several of the zoos are named {sorted(twice)}; a name in each spec tells them apart", 1)
    cases, costs = {}, {}
    for zoo in zoos:
        tables = ZooTables(*(zoo.table(name) for name in ("configs", "runs", "metrics", "labels")))
        cases[zoo.name] = cases_of(tables, recipes[0])
        costs[zoo.name] = feature_costs(tables.runs, tables.metrics, recipes[0])
    return cases, costs


def _diagnosers(entrants: list[str], only: list[str], bounds: str, full: bool) -> list[Diagnoser]:
    """Those of the board and those that are installed, or of them those asked for; and those of `--diagnoser`."""
    from diagnose.baselines import entrants_of
    from diagnose.entrants import installed_entrants, load_entrant

    look_here()
    own = [load_entrant(text) for text in entrants]
    known = [*entrants_of(bounds, full or bool(only)), *installed_entrants()]
    names = [diagnoser.name for diagnoser in known]
    if unknown := sorted(set(only) - set(names)):
        stop(f"no diagnoser is named {unknown}; there are {', '.join(names)}", WRONG_USE)
    diagnosers = [*(d for d in known if d.name in only or not only), *own]
    names = [diagnoser.name for diagnoser in diagnosers]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        stop(f"several diagnosers are named {twice}; choose other names", WRONG_USE)
    return diagnosers


def _boards(zoos: Mapping[str, Cases], draws: int, published: bool, both: bool) -> list[Board]:
    from diagnose.boards import boards, protocols_of
    from diagnose.protocols import seeds_of

    competed = list(boards(zoos, seeds_of(draws), protocols_of(published, both)))
    if not competed:
        stop("nothing to learn from or to diagnose: the zoos are too small, or all their labels optimal", 1)
    return competed


def _compete(
    store: Folder,
    zoos: Mapping[str, Cases],
    competed: list[Board],
    diagnosers: list[Diagnoser],
    costs: Mapping[str, pd.DataFrame],
    releases: list[Release],
    jobs: int | None,
) -> Standings:
    """Compete in so many processes, and show how far it is."""
    from diagnose.competition import compete

    with tqdm(unit="board", disable=None) as bar:

        def progress(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        processes = jobs or len(os.sched_getaffinity(0))
        return compete(store, zoos, competed, diagnosers, costs, releases, processes, progress)


def _releases(
    competed: Sequence[Board], asked: Path | None, frozen_as: str | None, store: Folder
) -> list[Release]:
    """The releases that the boards may be of: the one asked for, the one frozen now, those shipped."""
    from diagnose.releases import freeze, from_json, shipped

    releases = shipped()
    if asked:
        releases.insert(0, from_json(asked.read_text(), str(asked)))
        releases[0].check(competed)
    if frozen_as:
        releases.insert(0, freeze(frozen_as, competed))
        store.write("release.json", releases[0].to_json().encode())
    return releases


def _print_standings(standings: Standings, as_json: bool) -> None:
    for failure in standings.failures.reset_index(name="rows").to_dict("records"):
        print(
            "mdzoo: {diagnoser} gave no answer to {rows} rows: {reason}".format_map(failure), file=sys.stderr
        )
    board = standings.leaderboard.to_json(orient="records")
    print(f'{{"leaderboard": {board}}}' if as_json else standings.page)
