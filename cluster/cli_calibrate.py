"""The verb `mdzoo calibrate`: what training steps cost on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cluster.terminal import WRONG_USE, Json, stop


def calibrate(
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the table; for the zoos that are begun on this machine if not given."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure what training steps cost on this machine, so that its zoos train on the faster engine: two minutes."""
    from tqdm import tqdm

    from zoo.costs import CASES, own_table, told
    from zoo.costs import calibrate as measured

    try:
        with tqdm(total=len(CASES), desc="calibrate", unit="step") as bar:
            table = measured(CASES, done=lambda _: bar.update())
    except RuntimeError as error:
        stop(str(error), WRONG_USE)
    place = out or own_table()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(table.to_json())
    rows = list(told(table))
    if as_json:
        print(json.dumps(rows))
        return
    print("architecture width pixels batch  loop, ms  lanes, ms   ratio")
    for row in rows:
        names = f"{row['architecture']:<12} {row['width']:>5} {row['image_size']:>6} {row['batch_size']:>5}"
        ratio = row["loop"] / row["lanes"]
        print(f"{names} {1e3 * row['loop']:>9.3f} {1e3 * row['lanes']:>10.4f} {ratio:>7.1f}")
    print(f"written to {place}")
