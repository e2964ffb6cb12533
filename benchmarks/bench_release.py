"""Releases: how long publishing, checking and reading take.

    python benchmarks/bench_release.py ZOO [--rounds 5]

Publishes the zoo into a temporary folder and prints, as medians over rounds: seconds to publish; seconds to check it
and its bytes a second, beside those of `sha256sum` on the same files; seconds from `zoo.open` to the first model in a
process that has imported torch; and seconds for one pass over all weights, against loading one file a model, by
safetensors and by torch.save, of the same networks. Files are in the page cache throughout.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch

import zoo
from zoo.publishing.publish import publish
from zoo.publishing.terms import Terms
from zoo.publishing.verify import verify


def median(rounds: int, work: Callable[[], object]) -> float:
    """Median seconds of some rounds, after one to warm up."""
    work()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def first_model(place: Path) -> None:
    """Open a zoo and load one model."""
    opened = zoo.open(place)
    runs = opened.table("runs", ["config_id", "seed", "checkpoint"], [("status", "=", "done")])
    run = runs.dropna().iloc[0]
    opened.model(run["config_id"], int(run["seed"]))


def pass_over(place: Path, flat: bool) -> None:
    """Look at all weights of a release once, opened anew."""
    data = zoo.open(place).weights(flat=flat)
    for index in range(len(data)):
        data[index]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("zoo")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root, release = Path(folder), Path(folder) / "release"
        source, terms = zoo.open(options.zoo), Terms("2026-01-01")

        def make() -> None:
            shutil.rmtree(release, ignore_errors=True)
            publish(source, release, terms)

        seconds = median(options.rounds, make)
        data = zoo.open(release).weights()
        report = verify(str(release))
        assert not report.faults
        print(f"{len(data):,} networks, {report.files} files, {report.size / 1e6:.1f} MB")
        print(f"publish: {seconds:.2f} s")
        checked = median(options.rounds, lambda: verify(str(release)))
        command = ["sha256sum", "--quiet", "-c", "SHA256SUMS"]
        summed = median(options.rounds, lambda: subprocess.run(command, cwd=release, check=True))
        size = report.size / 1e6
        print(f"verify: {checked:.2f} s, {size / checked:.0f} MB/s; sha256sum {size / summed:.0f} MB/s")
        print(f"open and first model: {median(options.rounds, lambda: first_model(release)):.3f} s")
        items = [data[index] for index in range(len(data))]
        singles = [root / f"{item.run_id}.safetensors" for item in items]
        for item, path in zip(items, singles, strict=True):
            safetensors.torch.save_file({k: v.clone() for k, v in item.weights.items()}, path)
            torch.save({k: v.clone() for k, v in item.weights.items()}, path.with_suffix(".pt"))
        one = median(options.rounds, lambda: [safetensors.torch.load_file(path) for path in singles])
        pickled = median(
            options.rounds,
            lambda: [torch.load(path.with_suffix(".pt"), weights_only=True) for path in singles],
        )
        for flat in (False, True):
            own = median(options.rounds, lambda flat=flat: pass_over(release, flat))
            print(
                f"one pass {'as vectors' if flat else 'as state dicts'}: {own:.3f} s; one safetensors file a model "
                f"{one / own:.1f}x that, one file of torch.save {pickled / own:.1f}x"
            )


if __name__ == "__main__":
    main()
