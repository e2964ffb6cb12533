"""Runs into stacks: the unit of work, of scheduling and of checkpoint files.

Runs of a stack have equal shapes and step counts, so that they can be trained together. Which runs share
a stack is execution: it changes no run_id and no weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoo.config import Run, TrainConfig

STACK_SIZE = 16
"""Runs a stack: 16 models fill a vector register, and keep a task between a second and a few minutes."""


SNAPSHOT_SECONDS = 600.0
"""Time between snapshots of a stack in training, and before the first: the most that a preemption costs."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Runs that train together."""

    runs: tuple[Run, ...]

    def halves(self) -> list[Stack]:
        """Two stacks with half of the runs each; none if there is one run."""
        middle = len(self.runs) // 2
        return [Stack(self.runs[:middle]), Stack(self.runs[middle:])] if middle else []

    @property
    def example(self) -> TrainConfig:
        """One of its configurations, with the data and the shapes of all."""
        return self.runs[0].config

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
