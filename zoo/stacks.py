"""Runs into stacks: the unit of work, of scheduling and of checkpoint files.

Runs of a stack have equal shapes and step counts, so that they can be trained together. Which runs share
a stack is execution: it changes no run_id and no weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from zoo.config import Run, TrainConfig

STACK_SIZE = 16
"""Runs a stack: 16 models fill a vector register, and keep a task between a second and a few minutes."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Runs that train together."""

    runs: tuple[Run, ...]

    def halves(self) -> list[Stack]:
        """Two stacks with half of the runs each; none if there is one run."""
        middle = len(self.runs) // 2
        return [Stack(self.runs[:middle]), Stack(self.runs[middle:])] if middle else []

    @property
    def run_ids(self) -> list[str]:
        """The ids of its runs, in their order along the leading axis."""
        return [run.run_id for run in self.runs]


def stack_key(config: TrainConfig) -> tuple[str | int, ...]:
    """What runs of one stack have in common: data, shapes and number of steps."""
    c = config
    return (
        *(c.dataset, c.data_fingerprint, c.image_size or 0, c.architecture, c.precision),
        *(c.recipe, c.recipe_version, c.width, c.batch_size, c.data_amount, c.sample_passes),
    )


def cut_stacks(runs: Iterable[Run], size: int = STACK_SIZE) -> Iterator[Stack]:
    """Cut runs into stacks, those with the most steps first, so that the last tasks to end are short.

    Args:
        runs: The runs to train, in any order.
        size: Largest number of runs a stack.

    Raises:
        ValueError: If the size is below 1.
    """
    if size < 1:
        raise ValueError(f"stack size is {size}; it has to be at least 1")

    def order(run: Run) -> tuple[object, ...]:
        # Runs of a configuration stay together: their checkpoints are then in one file.
        return (-run.config.steps, -run.config.width, stack_key(run.config), run.config.config_id, run.seed)

    for _, group in groupby(sorted(runs, key=order), key=lambda run: stack_key(run.config)):
        alike = list(group)
        for start in range(0, len(alike), size):
            yield Stack(tuple(alike[start : start + size]))
