"""How stacks are trained: on which engine, how many runs together, and which first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch

from zoo.config import TrainConfig
from zoo.costs import ENGINES, Costs
from zoo.engines.lane_network import Description, UnsupportedModelError, describe
from zoo.grids import Group
from zoo.models import ImageShape, build_model, work_of
from zoo.stacks import STACK_SIZE

STACK = "stack"
"""The engine of GPUs: it trains where it is asked for, as what it costs is not measured yet."""

SHORTEST, LONGEST = 2.0, 600.0
"""Seconds that a stack is to take: a shorter one would spend its time on being a task, a longer one is halved."""

MOST_RUNS = 128
"""Runs of a stack, at most."""


@dataclass(frozen=True)
class Planner:
    """What is chosen for the stacks of a zoo. The engine depends on the configuration alone, not on what is missing.

    Attributes:
        costs: What a step costs on each engine.
        shapes: Shape of the images of each data set, by fingerprint, before pooling.
        device: Torch device of the tasks.
        engine: The engine of all stacks; None: the faster one of each.
        stack_size: Runs of a stack, at most; None: as many as make a task neither short nor long.
    """

    costs: Costs
    shapes: Mapping[str, ImageShape]
    device: str = "cpu"
    engine: str | None = None
    stack_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse an engine that does not exist or train on the device, and a stack size that no stack has."""
        if self.engine not in (None, *ENGINES, STACK):
            raise ValueError(f"no engine is named {self.engine!r}; there are {', '.join((*ENGINES, STACK))}")
        if self.engine == "lanes" and self.device != "cpu":
            raise ValueError(f"device is {self.device!r}; lanes are the CPU's, use the engine 'loop'")
        if self.stack_size is not None and self.stack_size < 1:
            raise ValueError(f"stack size is {self.stack_size}; it has to be at least 1")

    def engine_of(self, config: TrainConfig) -> str:
        """The engine that trains a configuration: the loop where lanes do not know its architecture."""
        if self.engine == STACK:
            return STACK
        shape = self._shape(config)
        work = work_of(config.architecture, config.width, shape)
        if self.device != "cpu" or work is None or not in_lanes(config.architecture, config.width, shape):
            return "loop"
        if self.engine is not None:
            return self.engine
        return min(ENGINES, key=lambda engine: self.costs.of_step(engine, work, config.batch_size))

    def seconds_of(self, config: TrainConfig) -> float:
        """Seconds of one run's training, on a core of the machine of the table; of unknown work, one a step."""
        work = work_of(config.architecture, config.width, self._shape(config))
        engine = self.engine_of(config)
        known = engine if engine in ENGINES else "loop"
        step = self.costs.of_step(known, work, config.batch_size) if work else 1.0
        return config.steps * step

    def runs_of(self, config: TrainConfig) -> int:
        """Runs that train in one task."""
        if self.stack_size is not None:
            return self.stack_size
        if self.device != "cpu":
            return STACK_SIZE  # the table is of processors
        seconds, runs = self.seconds_of(config), STACK_SIZE
        while runs * seconds < SHORTEST and runs < MOST_RUNS:
            runs *= 2
        while runs * seconds > LONGEST and runs > 1:
            runs //= 2
        return runs

    def longest_first(self, groups: Iterable[Group]) -> list[Group]:
        """Groups in the order of their stacks' seconds, so that the last tasks of a build are short."""
        return sorted(groups, key=lambda g: -self.runs_of(g.example) * self.seconds_of(g.example))

    def _shape(self, config: TrainConfig) -> ImageShape:
        shape = self.shapes[config.data_fingerprint]
        return shape._replace(image_size=config.image_size or shape.image_size)


def in_lanes(architecture: str, width: int, shape: ImageShape) -> bool:
    """Whether lanes know an architecture."""
    return lane_network(architecture, width, shape) is not None


@cache
def lane_network(architecture: str, width: int, shape: ImageShape) -> Description | None:
    """What lanes compute for an architecture; None where they do not know it."""
    with torch.device("meta"):
        model = build_model(architecture, width, shape)
    try:
        return describe(model, (shape.channels, shape.image_size, shape.image_size))
    except UnsupportedModelError:
        return None
