"""The program `mdzoo`: verbs only, each calls one function of the room that does the work."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster import cli_calibrate, cli_diagnosis, cli_examine, cli_releases, signals
from cluster.executors import InProcessExecutor
from cluster.pipeline import Only
from cluster.ray_executor import GPU_SHARE, RayExecutor
from cluster.status_file import follow, read_status, status_line
from cluster.terminal import (
    FAILED_RUNS,
    WRONG_USE,
    Json,
    ZooFolder,
    import_modules,
    interrupted,
    show,
    stop,
)
from zoo import __version__, open_zoo
from zoo.stacks import SNAPSHOT_SECONDS
from zoo.storage import Folder

if TYPE_CHECKING:
    from cluster.driver import Summary

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
      mdzoo benchmark zoos/demo --out zoos/demo/benchmark --draws 2

    Exit codes: 0 done; 1 an error; 2 a wrong option or spec; 3 the zoo is built, but runs or metrics of
    it failed (a run that diverged is a result, not a failure); 130 interrupted: the same command goes on.""",
)


DataDir = Annotated[
    Path | None, typer.Option(help="Where data sets are read from, or downloaded to.", show_default=False)
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to use; a private one on this machine if not given.")
]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Cores of the private cluster (all); 0: no Ray, in this process."),
]
Device = Annotated[str, typer.Option(help="Torch device of the tasks.")]
Patience = Annotated[
    float, typer.Option(min=0, help="With --address: seconds to wait for a node on which a task can run.")
]
GpuShare = Annotated[
    float, typer.Option(min=0.01, help="With --device cuda: what a task takes of a GPU, which others share.")
]
Modules = Annotated[
    list[str] | None,
    typer.Option("--import", help="Python module that registers architectures or metrics."),
]


@app.command()
def build(
    spec: Annotated[
        str, typer.Argument(help="A TOML file, or the name of a shipped spec.", show_default=False)
    ],
    out: Annotated[
        str | None,
        typer.Option(help="Folder of the zoo, or s3://BUCKET/PREFIX, or gs://...", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what a build would take.")] = False,
    data_dir: DataDir = None,
    address: Address = None,
    workers: Workers = None,
    stack_size: Annotated[
        int | None,
        typer.Option(min=1, help="Most runs that train together in one task; chosen by what a run costs."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="loop, lanes, or stack (for GPUs); if not given, the faster of the first two."),
    ] = None,
    device: Device = "cpu",
    gpu_share: GpuShare = GPU_SHARE,
    patience: Patience = 0.0,
    modules: Modules = None,
    snapshot_seconds: Annotated[
        float, typer.Option(min=1, help="Time between snapshots of a stack: the most a preemption costs.")
    ] = SNAPSHOT_SECONDS,
    only: Annotated[
        Only | None,
        typer.Option(help="Do a part of it alone; failed: again what failed before.", show_default=False),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option(help="Do again what failed before, beside all that is missing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train, measure and label the zoo of a spec. Run again to go on where it stopped."""
    from zoo.plan import estimate
    from zoo.spec import SpecError, read_spec

    try:
        import_modules(modules or [])
        parsed = read_spec(spec)
        if dry_run:
            show(estimate(parsed, data_dir, stack_size, engine), as_json)
            return
        if out is None:
            raise typer.BadParameter("missing: give the folder of the zoo, or --dry-run", param_hint="--out")
        from cluster import driver

        with _executor(address, workers, modules or [], device, gpu_share, patience) as executor:
            summary = driver.build(
                parsed,
                out,
                executor,
                data_dir=data_dir,
                stack_size=stack_size,
                engine=engine,
                device=device,
                snapshot_seconds=snapshot_seconds,
                only=only,
                retry_failed=retry_failed,
            )
    except (SpecError, FileNotFoundError) as error:
        stop(str(error), WRONG_USE)
    except KeyboardInterrupt:
        interrupted("interrupted; what is trained is kept, the same command goes on from there")
    _report(out, summary, as_json)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    spec: Annotated[
        str, typer.Argument(help="A TOML file, or the name of a shipped spec.", show_default=False)
    ],
    out: Annotated[
        str, typer.Option(help="An absolute path that all nodes share, or a URI.", show_default=False)
    ],
    address: Annotated[str, typer.Option(help="Ray's job server.")] = "http://127.0.0.1:8265",
    modules: Modules = None,
    follow: Annotated[bool, typer.Option(help="Print the job's log until it ends.")] = True,
) -> None:
    """Build a zoo as a job of a running Ray cluster, and follow its log. Ctrl-C leaves the job at work.

    Other options are those of `mdzoo build`, as --device cuda.
    """
    from cluster import submission
    from zoo.spec import SpecError, read_spec

    try:
        text = read_spec(spec).text
    except (SpecError, FileNotFoundError) as error:
        stop(str(error), WRONG_USE)
    job = submission.submit(text, out, address, modules or [], context.args)
    print(f"job {job} at {address}, zoo {out}", flush=True)
    if not follow:
        return
    signals.install()
    try:
        code = submission.follow(job, address)
    except KeyboardInterrupt:
        interrupted(
            f"job {job} goes on; `ray job stop {job}` stops it, `mdzoo status {out} --watch` follows the zoo"
        )
    raise typer.Exit(code)


@app.command()
def measure(
    folder: ZooFolder,
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="Names of metrics, also several with commas between; all if not given."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Metric recipe; the zoo's own if not given.")] = None,
    data_dir: DataDir = None,
    address: Address = None,
    workers: Workers = None,
    device: Device = "cpu",
    gpu_share: GpuShare = GPU_SHARE,
    patience: Patience = 0.0,
    modules: Modules = None,
    retry_failed: Annotated[bool, typer.Option(help="Measure again what failed before.")] = False,
    as_json: Json = False,
) -> None:
    """Measure a zoo that is built: more metrics, or by another recipe. What it has stays, nothing is trained."""
    from cluster import driver

    names = [name for text in metrics or [] for name in text.split(",") if name]
    try:
        import_modules(modules or [])
        with _executor(address, workers, modules or [], device, gpu_share, patience) as executor:
            summary = driver.measure_again(
                folder,
                executor,
                metrics=names,
                recipe=recipe,
                data_dir=data_dir,
                device=device,
                retry_failed=retry_failed,
            )
    except KeyboardInterrupt:
        interrupted("interrupted; what is measured is kept, the same command goes on from there")
    _report(folder, summary, as_json)


def _report(place: str, summary: Summary, as_json: bool) -> None:
    """Print how a zoo stands, and exit with 3 if some of it failed."""
    ends = {status: summary.counts[status] for status in ("done", "diverged", "failed")}
    made = {
        name: getattr(summary, name)
        for name in ("trained", "measured", "unmeasured", "failed_metrics", "seconds", "task_seconds")
    }
    show({"zoo": place} | ends | made, as_json)
    if not summary.is_whole:
        print(
            "mdzoo: some of it failed; reasons are in the tables runs and metrics, try again with --retry-failed",
            file=sys.stderr,
        )
        raise typer.Exit(FAILED_RUNS)


def _check_device(device: str) -> None:
    """Refuse a device that no task could use, before anything is planned."""
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).partition("\n")[0]
        raise typer.BadParameter(f"{device!r} cannot be used here: {first}", param_hint="--device") from error


@contextlib.contextmanager
def _executor(
    address: str | None,
    workers: int | None,
    modules: list[str],
    device: str,
    gpu_share: float,
    patience: float,
) -> Iterator[InProcessExecutor | RayExecutor]:
    """Where the tasks run; meanwhile what Ray has to say goes to stderr, so that stdout is the result alone."""
    if address is not None and workers is not None:
        raise typer.BadParameter(
            "belongs to a private cluster; leave it out with --address", param_hint="--workers"
        )
    if address is None:  # the driver of a cluster may stand where no GPU is
        _check_device(device)
    signals.install()
    gpus = gpu_share if device.startswith("cuda") else 0.0
    chosen = InProcessExecutor() if workers == 0 else RayExecutor(address, workers, modules, gpus, patience)
    with contextlib.redirect_stdout(sys.stderr), chosen as executor:
        yield executor


@app.command()
def status(
    folder: ZooFolder,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the build that is at work, until it ends.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say how far a zoo is: runs done, diverged, failed and missing; and what a build that is at work does."""
    if watch:
        follow(open_zoo(folder).store, as_json)
        return
    zoo = open_zoo(folder)
    last = read_status(zoo.store)
    show(zoo.status() | {"build": last if as_json or last is None else status_line(last)}, as_json)


app.command()(cli_diagnosis.benchmark)
app.command()(cli_diagnosis.score)
app.command()(cli_examine.examine)
app.command()(cli_calibrate.calibrate)
app.command()(cli_releases.publish)
app.command()(cli_releases.verify)
app.command()(cli_releases.report)


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
    if out is None and not isinstance(zoo.store, Folder):
        raise typer.BadParameter(
            "missing: give a folder of this machine for the pictures", param_hint="--out"
        )
    files = phase_plots(configs, runs, metrics, out or Path(folder) / "plots", zoo.metric_recipe)
    show({"plots": [str(file) for file in files]}, as_json)


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


def main() -> None:
    """Run the program; an error that names its remedy is printed without a traceback."""
    try:
        app()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("MDZOO_TRACEBACK"):
            raise
        remedy = "; install mdzoo[cluster]" if isinstance(error, ModuleNotFoundError) else ""
        print(f"mdzoo: {error}{remedy}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
