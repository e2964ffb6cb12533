"""What a training step costs on each engine, as measured.

The seconds of a step of one model are taken to be a sum of what its modules, its parameters, the numbers that it puts
out and its multiplications cost each, on a core of the machine that was measured. A table of them is shipped; `mdzoo
calibrate` measures this machine. A zoo keeps the table that it was begun with, so that the engine of a configuration
does not depend on who builds the rest: it is chosen by the configuration alone.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from zoo.config import TrainConfig
from zoo.datasets import Split
from zoo.engines.lane_library import library
from zoo.models import ImageShape, Work, initial_model, work_of
from zoo.storage import Store

NAME = "costs.json"

ENGINES = ("loop", "lanes")
"""Engines that a table tells of."""


class Case(NamedTuple):
    """A step that is measured."""

    architecture: str
    width: int
    shape: ImageShape
    batch_size: int


@dataclass(frozen=True)
class Costs:
    """Seconds of a step's parts, by engine: a module, a parameter, a number put out, a multiplication.

    Attributes:
        machine: What was measured.
        seconds: For each engine the seconds of the parts.
        measured: The steps that they come from, and their seconds.
    """

    machine: str
    seconds: Mapping[str, tuple[float, ...]]
    measured: list[dict[str, Any]] = field(default_factory=list)

    def of_step(self, engine: str, work: Work, batch_size: int) -> float:
        """Seconds of one model's step."""
        return float(np.dot(self.seconds[engine], parts(work, batch_size)))

    def to_json(self) -> str:
        """The table as a text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Costs:
        """The table of a text.

        Raises:
            ValueError: If it is none.
        """
        try:
            facts = json.loads(text)
            seconds = {engine: tuple(facts["seconds"][engine]) for engine in ENGINES}
            if any(len(own) != len(Work._fields) for own in seconds.values()):
                raise ValueError("it has not a number for each part")
            return cls(facts["machine"], seconds, facts["measured"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no table of costs: {error!r}; make one with `mdzoo calibrate`") from error


def parts(work: Work, batch_size: int) -> tuple[float, ...]:
    """How often a step of a batch has each part of a cost."""
    return (
        float(work.modules),
        float(work.parameters),
        float(batch_size * work.values),
        float(batch_size * work.multiply_adds),
    )


def own_table() -> Path:
    """Where `mdzoo calibrate` writes the table of this machine, for the zoos that are begun on it."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "mdzoo" / NAME


def costs_here() -> Costs:
    """The table of this machine, or the one that is shipped.

    Raises:
        ValueError: If this machine's is broken.
    """
    place = own_table()
    if place.is_file():
        try:
            return Costs.from_json(place.read_text())
        except ValueError as error:
            raise ValueError(f"{place}: {error}, or remove it") from error
    return Costs.from_json((files("zoo.engines") / NAME).read_text())


def costs_of(store: Store) -> Costs:
    """The table that a zoo was begun with; of a new zoo this machine's, which is then kept with it."""
    with suppress(FileNotFoundError, ValueError):
        return Costs.from_json(store.read(NAME).decode())
    made = costs_here()
    store.write(NAME, made.to_json().encode())
    return made


CASES = tuple(
    Case(architecture, width, ImageShape(channels, size, 10), batch_size)
    for architecture, channels, size, widths in (
        ("mlp", 1, 14, (2, 16, 128)),
        ("cnn", 1, 14, (1, 2, 4, 8, 16, 32, 64)),
        ("cnn", 3, 32, (2, 8, 32)),
        ("resnet18", 3, 32, (2, 4, 8, 16)),
    )
    for width in widths
    for batch_size in ((8, 32, 128) if size < 32 else (8, 64))
)
"""The steps that a calibration measures."""


def calibrate(
    cases: tuple[Case, ...] = CASES, seconds: float = 0.3, done: Callable[[Case], object] | None = None
) -> Costs:
    """Measure this machine, on one thread.

    Args:
        cases: What to measure.
        seconds: Time for each case and engine, at least.
        done: Is told each case when it is measured.

    Raises:
        RuntimeError: If there are no lane kernels here, so that there is nothing to choose.
    """
    if library() is None:
        raise RuntimeError(
            "there are no lane kernels here, so there is one engine and nothing to choose from"
        )
    threads, measured = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for case in cases:
            for engine in ENGINES:
                measured.append(
                    {**case._asdict(), "engine": engine, "seconds": _step_seconds(case, engine, seconds)}
                )
            if done is not None:
                done(case)
    finally:
        torch.set_num_threads(threads)
    fitted = {engine: _fit([row for row in measured if row["engine"] == engine]) for engine in ENGINES}
    return Costs(f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}", fitted, measured)


def _fit(rows: list[dict[str, Any]]) -> tuple[float, ...]:
    """Costs of the parts, none below zero, with the least squares of relative errors."""
    from scipy.optimize import nnls  # which no build has use for

    table = []
    for row in rows:
        work = work_of(row["architecture"], row["width"], ImageShape(*row["shape"]))
        assert work is not None  # of our own architectures
        table.append(np.array(parts(work, row["batch_size"])) / row["seconds"])
    found, _ = nnls(np.array(table), np.ones(len(rows)))
    return tuple(found.tolist())


def _step_seconds(case: Case, engine: str, seconds: float) -> float:
    """Seconds of a step of one model, with all lanes at work; the median of some rounds."""
    from zoo.training import ENGINES as TRAINERS

    lanes = 1 if engine == "loop" else 2 * library().lanes_count(4)  # type: ignore[union-attr]
    config = TrainConfig("none", "", case.architecture, case.width, case.batch_size, 512, 512)
    models = [initial_model(case.architecture, case.width, case.shape, seed) for seed in range(lanes)]
    size = case.shape.image_size
    stream = torch.Generator().manual_seed(0)
    images = torch.rand(512, case.shape.channels, size, size, generator=stream)
    split = Split(images, torch.randint(0, case.shape.classes, (512,), generator=stream))
    trainer = TRAINERS[engine](models, [split] * lanes, [config] * lanes, "cpu")
    rounds = [_timed(trainer, lanes, case.batch_size, 1)]  # the first warms up
    steps = max(1, int(seconds / 5 / max(rounds[0], 1e-6)))
    return statistics.median(_timed(trainer, lanes, case.batch_size, steps) for _ in range(5)) / lanes


def _timed(trainer: Any, lanes: int, batch_size: int, steps: int) -> float:
    rows = torch.randint(0, 512, (lanes, steps, batch_size))
    rates = torch.full((lanes, steps), 0.01, dtype=torch.float64)
    began = time.perf_counter()
    trainer.advance(rows, rates)
    return (time.perf_counter() - began) / steps


def told(costs: Costs) -> Iterator[dict[str, Any]]:
    """What a table says of each step that was measured: seconds, by engine, as measured and as fitted."""
    by_case: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in costs.measured:
        key = (row["architecture"], row["width"], tuple(row["shape"]), row["batch_size"])
        by_case.setdefault(key, {})[row["engine"]] = row["seconds"]
    for (architecture, width, shape, batch_size), found in by_case.items():
        work = work_of(architecture, width, ImageShape(*shape))
        assert work is not None
        fitted = {f"{engine}_fitted": costs.of_step(engine, work, batch_size) for engine in ENGINES}
        yield (
            {"architecture": architecture, "width": width, "image_size": shape[1], "batch_size": batch_size}
            | found
            | fitted
        )
