"""The program `mdzoo`: verbs only, each calls one function of the room that does the work."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from zoo import __version__, open_zoo
from zoo.storage import Store

FAILED_RUNS, INTERRUPTED = 3, 130

app = typer.Typer(
    name="mdzoo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""Build zoos of neural networks with known failures, and benchmark model diagnosis on them.

    A first zoo, in a few minutes and without a download:

    \b
      mdzoo build demo --out zoos/demo
      mdzoo plot zoos/demo
      mdzoo benchmark zoos/demo --out zoos/demo/benchmark

    Exit codes: 0 done; 1 an error; 2 a wrong option or spec; 3 the zoo is built, but runs of it failed
    (a run that diverged is a result, not a failure); 130 interrupted: the same command goes on.""",
)

ZooFolder = Annotated[
    Path, typer.Argument(help="Folder of a zoo that `mdzoo build` made.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]


@app.command()
def build(
    spec: Annotated[
        str, typer.Argument(help="A TOML file, or the name of a shipped spec.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the zoo.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what a build would take.")] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where data sets are read from, or downloaded to.", show_default=False)
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to use; a private one on this machine if not given.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Cores of the private cluster (all); 0: no Ray, in this process."),
    ] = None,
    stack_size: Annotated[int, typer.Option(min=1, help="Most runs that train together in one task.")] = 16,
    device: Annotated[str, typer.Option(help="Torch device of the tasks.")] = "cpu",
    modules: Annotated[
        list[str] | None,
        typer.Option("--import", help="Python module that registers architectures or metrics."),
    ] = None,
    retry_failed: Annotated[bool, typer.Option(help="Train again what failed in an earlier build.")] = False,
    as_json: Json = False,
) -> None:
    """Train, measure and label the zoo of a spec. Run again to go on where it stopped."""
    from zoo.plan import estimate
    from zoo.spec import SpecError, read_spec

    for module in modules or []:
        importlib.import_module(module)
    try:
        parsed = read_spec(spec)
        if dry_run:
            _print(estimate(parsed, data_dir, stack_size), as_json)
            return
    except (SpecError, FileNotFoundError) as error:
        _stop(str(error), 2)
    if out is None:
        _stop("--out is missing: give the folder of the zoo, or --dry-run", 2)
    _build(parsed, out, data_dir, address, workers, stack_size, device, modules or [], retry_failed, as_json)


def _build(
    spec: Any,
    out: Path,
    data_dir: Path | None,
    address: str | None,
    workers: int | None,
    stack_size: int,
    device: str,
    modules: list[str],
    retry_failed: bool,
    as_json: bool,
) -> None:
    from cluster import driver
    from cluster.executors import InProcessExecutor, RayExecutor
    from zoo.spec import SpecError

    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    executor = InProcessExecutor() if workers == 0 else RayExecutor(address, workers, modules)
    try:
        # What Ray has to say goes to stderr, so that stdout is the result alone.
        with contextlib.redirect_stdout(sys.stderr), executor:
            summary = driver.build(
                spec,
                out,
                executor,
                data_dir=data_dir,
                stack_size=stack_size,
                device=device,
                retry_failed=retry_failed,
            )
    except SpecError as error:
        _stop(str(error), 2)
    except KeyboardInterrupt:
        _stop("interrupted; what is trained is kept, the same command goes on from there", INTERRUPTED)
    facts = {"zoo": str(out), **summary.counts, "trained": summary.trained, "measured": summary.measured}
    _print(facts | {"unmeasured": summary.unmeasured, "seconds": summary.seconds}, as_json)
    if summary.counts["failed"] or summary.unmeasured:
        raise typer.Exit(FAILED_RUNS)


@app.command()
def status(folder: ZooFolder, as_json: Json = False) -> None:
    """Say how far a zoo is: runs done, diverged, failed and missing."""
    from zoo.plan import status as zoo_status

    _print(zoo_status(open_zoo(folder)), as_json)


@app.command()
def benchmark(
    folders: Annotated[list[Path], typer.Argument(help="Folders of one or more zoos.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the leaderboard.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Let all diagnosers compete on all protocols: predictions, leaderboard.parquet, leaderboard.md."""
    from diagnose import ZooTables, aggregate, markdown
    from diagnose import benchmark as compete
    from zoo.tables import from_frame, to_bytes

    zoos = [open_zoo(folder) for folder in folders]
    recipes = sorted({zoo.metric_recipe for zoo in zoos})
    if len(recipes) > 1:
        _stop(f"the zoos were measured by different recipes, {recipes}; benchmark those of one recipe", 1)
    store = Store(out)
    tables = {
        zoo.name: ZooTables(*(zoo.table(name) for name in ("configs", "runs", "metrics", "labels")))
        for zoo in zoos
    }
    predictions = compete(tables, recipes[0])
    leaderboard = aggregate(predictions)
    for name, frame in (("predictions", predictions), ("leaderboard", leaderboard)):
        store.write(f"{name}.parquet", to_bytes(from_frame(name, frame)))
    text = markdown(leaderboard)
    store.write("leaderboard.md", text.encode())
    print(json.dumps(leaderboard.to_dict("records")) if as_json else text)


@app.command()
def plot(
    folder: ZooFolder,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the pictures; `plots` in the zoo's if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw phase plots: errors, Hessian trace, connectivity and similarity over width and batch size."""
    from zoo.plots import phase_plots

    zoo = open_zoo(folder)
    configs, runs, metrics = (zoo.table(name) for name in ("configs", "runs", "metrics"))
    files = phase_plots(configs, runs, metrics, out or folder / "plots", zoo.metric_recipe)
    _print({"plots": [str(file) for file in files]}, as_json)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        print(f"{name.replace('_', ' ')}: {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, list):
        return "".join(f"\n  {item}" for item in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _stop(message: str, code: int) -> NoReturn:
    print(f"mdzoo: {message}", file=sys.stderr)
    raise typer.Exit(code)


def main() -> None:
    """Run the program; an error that names its remedy is printed without a traceback."""
    try:
        app()
    except (ValueError, FileNotFoundError, ConnectionError) as error:
        if os.environ.get("MDZOO_TRACEBACK"):
            raise
        print(f"mdzoo: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
