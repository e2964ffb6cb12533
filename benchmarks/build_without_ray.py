"""Build a zoo on one machine without Ray, over processes, and measure it by several recipes.

    python benchmarks/build_without_ray.py paper-small --out DIR --data-dir DATA --processes 10 --device cuda

For machines that have torch but no Ray, as some with a GPU. `--set 'seeds = 2' ...` changes settings of the spec;
`--recipes default ...` measures by more recipes than the spec's; `--curve-epochs 5` shortens the published curve,
which takes 50 epochs. Prints what the build and each measuring took.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import re
import time
import traceback
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import torch

from cluster import driver
from cluster.executors import Feed, Outcome, Task
from zoo.landscape.recipes import RECIPES, MetricRecipe
from zoo.spec import parse_spec, read_spec

_SHARED: list[Any] = []
"""Values that each process holds once, found by their place."""


class Place(int):
    """Where a shared value stands."""


class ProcessExecutor:
    """Runs jobs in new processes, that all know what was shared and the recipes as they are here."""

    def __init__(self, processes: int) -> None:
        self._processes = self.running = processes

    def share(self, value: Any) -> Place:
        """Keep a value for the processes to come."""
        _SHARED.append(value)
        return Place(len(_SHARED) - 1)

    def run(self, feed: Feed) -> Iterator[Outcome]:
        """Yield an outcome for each task, in the order of completion; tasks are sized so that none is split."""
        known = (_SHARED, RECIPES)
        with futures.ProcessPoolExecutor(
            self._processes, multiprocessing.get_context("spawn"), _begin, known
        ) as pool:
            # What a task needs is for Ray to know; the driver, who says so, cannot be sent to a process.
            pending: set[futures.Future[Outcome]] = set()
            while True:
                while len(pending) < 2 * self._processes and (task := feed()) is not None:
                    pending.add(pool.submit(_call, task._replace(need=None)))
                if not pending:
                    return
                ended, pending = futures.wait(pending, return_when=futures.FIRST_COMPLETED)
                yield from (future.result() for future in ended)


def _begin(shared: list[Any], recipes: dict[str, MetricRecipe]) -> None:
    torch.set_num_threads(1)
    _SHARED.extend(shared)
    RECIPES.update(recipes)


def _call(task: Task) -> Outcome:
    began = time.monotonic()
    values = [_SHARED[value] if isinstance(value, Place) else value for value in task.shared]
    try:
        result, error = task.function(task.job, *values), None
    except Exception:
        result, error = None, traceback.format_exc()
    return Outcome(task, result, error, seconds=time.monotonic() - began)


def main() -> None:
    """Build and measure as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("spec")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", nargs="*", default=[], help="lines of TOML for [settings]")
    parser.add_argument("--recipes", nargs="*", default=[], help="to measure by, beside the spec's")
    parser.add_argument("--metrics", nargs="*", default=[], help="of those recipes; all if not given")
    parser.add_argument("--curve-epochs", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.curve_epochs:
        paper = RECIPES["paper"]
        curve = dataclasses.replace(paper.curve, epochs=options.curve_epochs)
        RECIPES["paper"] = dataclasses.replace(paper, curve=curve)
    text = read_spec(options.spec).text
    for line in options.set:
        text = re.sub(rf"(?m)^{line.split()[0]} = .*\n", "", text)
    text = text.replace("[settings]\n", "\n".join(["[settings]", *options.set, ""]))
    executor = ProcessExecutor(options.processes)
    shared = {"data_dir": options.data_dir, "device": options.device}
    print(driver.build(parse_spec(text), options.out, executor, stack_size=1, **shared))
    for recipe in options.recipes:
        again = driver.measure_again(options.out, executor, metrics=options.metrics, recipe=recipe, **shared)
        print(recipe, again, flush=True)


if __name__ == "__main__":
    main()
