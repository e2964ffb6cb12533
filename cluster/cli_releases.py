"""The verbs of the program `mdzoo` that make what others take away: `publish`, `verify` and `report`."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.terminal import Json, ZooFolder, show
from zoo import open_zoo
from zoo.publishing.terms import LICENCES, Terms
from zoo.storage import Folder


def publish(
    folder: ZooFolder,
    out: Annotated[
        str, typer.Option(help="Empty folder of the release, or s3://BUCKET/PREFIX.", show_default=False)
    ],
    title: Annotated[
        str | None, typer.Option(help="Its title; from the zoo's name if not given.", show_default=False)
    ] = None,
    authors: Annotated[
        list[str] | None, typer.Option("--author", help="Who publishes it; may be given several times.")
    ] = None,
    licence: Annotated[str, typer.Option(help=f"Of the data: {', '.join(LICENCES)}.")] = "CC-BY-4.0",
    release_version: Annotated[str, typer.Option("--release", help="Version of the release.")] = "1.0.0",
    date: Annotated[str | None, typer.Option(help="Day of publication; today if not given.")] = None,
    url: Annotated[str | None, typer.Option(help="Where it will be found, for citations.")] = None,
    weights: Annotated[
        float | None,
        typer.Option(min=0, help="MiB of weights at most, 0: none; all if not given.", show_default=False),
    ] = None,
    push_to: Annotated[
        str | None,
        typer.Option(
            help="Send it to this data-set repository, OWNER/NAME, of the Hugging Face hub; private if new."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a release of a zoo: a data set that others download, check, cite and load with the tools they have."""
    from zoo.publishing.publish import publish as make
    from zoo.publishing.publish import push

    if push_to is not None and "://" in out:
        raise typer.BadParameter("is sent from a folder of this machine", param_hint="--out with --push-to")
    given = Terms(date or datetime.date.today().isoformat(), licence=licence, version=release_version)
    if authors:
        given = given._replace(authors=tuple(authors))
    if url or push_to:
        given = given._replace(url=url or f"https://huggingface.co/datasets/{push_to}")
    facts = make(open_zoo(folder), out, given, title=title, weights_mib=weights)
    if push_to is not None:
        facts["repository"] = push(Path(out), push_to)
    show(facts, as_json)


def report(
    folder: Annotated[
        str, typer.Argument(help="A zoo or release; or a folder of `mdzoo benchmark`.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder of the site.", show_default=False)],
    benchmark: Annotated[
        Path | None,
        typer.Option(help="Folder of `mdzoo benchmark`; `benchmark` in the zoo's, if there is one."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a static site: phase plots to look into, the leaderboard, a page a protocol, the MD trees."""
    from cluster.report import report as write
    from diagnose.exchange import MANIFEST

    is_benchmark = (Path(folder) / MANIFEST).is_file()
    if is_benchmark:
        benchmark = Path(folder)
    elif benchmark is None and (Path(folder) / "benchmark").is_dir():
        benchmark = Path(folder) / "benchmark"
    zoo = None if is_benchmark else open_zoo(folder)
    pages = write(zoo, None if benchmark is None else Folder(benchmark), Folder(out))
    show({"site": str(out / pages[0]), "pages": len(pages)}, as_json)


def verify(folder: ZooFolder, as_json: Json = False) -> None:
    """Check a release: every byte, and that tables, weights and descriptions agree. Exit code 1 if they do not."""
    from zoo.publishing.verify import verify as check

    report = check(folder)
    rate = report.size / 1e6 / max(report.seconds, 1e-9)
    show(
        {
            "files": report.files,
            "bytes": report.size,
            "weights checked": report.runs,
            "seconds": round(report.seconds, 2),
            "MB per second": round(rate),
            "faults": [str(fault) for fault in report.faults],
        },
        as_json,
    )
    if report.faults:
        print(f"mdzoo: not as published, the first fault: {report.faults[0]}", file=sys.stderr)
        raise typer.Exit(1)
