"""Grids of settings, and the configurations they stand for, made one by one as they are asked for.

A grid of a million configurations is held as its axes. What is listed at once are only the combinations that
stacks have in common, its groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, NamedTuple

from zoo.config import RECIPES, TrainConfig
from zoo.datasets import DataSource
from zoo.stacks import stack_key

LENGTHS = ("sample_passes", "epochs", "steps")
SHAPING = ("width", "batch_size", "data_amount", *LENGTHS)
"""Axes along which the configurations of a stack may not differ."""

NOT_IDENTITY = ("train_limit", "test_limit")
"""Settings of the data set, which enter a configuration by its fingerprint."""

PAPER: dict[str, Any] = {"schedule": "constant", "warm_up": 0.0}
"""What the paper recipe prescribes where a spec does not say otherwise; and 81 epochs, 51 for small batches."""


@dataclass(frozen=True, slots=True)
class Grid:
    """One product of axes: each setting with its values, seeds apart."""

    values: Mapping[str, tuple[Any, ...]]
    seeds: tuple[int, ...]

    @property
    def source(self) -> DataSource:
        """The data set of the grid, as it is to be loaded."""
        name, *options = (self._single(k) for k in ("dataset", "image_size", "train_limit", "test_limit"))
        return DataSource(name, *options)

    @property
    def is_paper(self) -> bool:
        """Whether the grid trains by the paper recipe."""
        return self._single("recipe") == "paper"

    def _single(self, key: str) -> Any:
        return self.values.get(key, (None,))[0]

    def split(self) -> Iterator[Grid]:
        """Grids that together are this one, and whose configurations could share a stack."""
        axes = [key for key in SHAPING if key in self.values]
        for combination in product(*(self.values[key] for key in axes)):
            fixed = {key: (value,) for key, value in zip(axes, combination, strict=True)}
            yield Grid({**self.values, **fixed}, self.seeds)

    def __len__(self) -> int:
        """Number of its configurations."""
        return prod(len(values) for values in self.values.values())

    def configurations(self, fingerprint: str) -> Iterator[TrainConfig]:
        """The configurations of the grid, one by one.

        Args:
            fingerprint: Fingerprint of the grid's data set.
        """
        keys = [key for key in self.values if key not in NOT_IDENTITY]
        for combination in product(*(self.values[key] for key in keys)):
            yield _configuration(dict(zip(keys, combination, strict=True)), fingerprint)


def _configuration(settings: dict[str, Any], fingerprint: str) -> TrainConfig:
    """One configuration; lengths become sample passes, the recipe fills in what it prescribes."""
    if settings.get("recipe") == "paper":
        settings = {**PAPER, **settings}
        if not any(key in settings for key in LENGTHS):
            settings["epochs"] = 51 if settings["batch_size"] <= 64 else 81
    if "epochs" in settings:
        settings["sample_passes"] = settings.pop("epochs") * settings["data_amount"]
    elif "steps" in settings:
        settings["sample_passes"] = settings.pop("steps") * settings["batch_size"]
    if not settings.get("label_noise"):
        settings.pop("noise_seed", None)  # without noise no draw of it changes anything
    name = settings.pop("dataset")
    dataset = "parquet" if name.startswith("parquet:") else name  # a path is never identity
    version = RECIPES[settings.get("recipe", "default")]
    return TrainConfig(dataset=dataset, data_fingerprint=fingerprint, recipe_version=version, **settings)


class Group(NamedTuple):
    """Configurations that could share a stack: of parts of one or several grids.

    Attributes:
        example: One of them.
        grids: Grids with the fingerprint of their data set; several may hold the same configuration.
    """

    example: TrainConfig
    grids: tuple[tuple[Grid, str], ...]

    def configurations(self) -> Iterator[tuple[TrainConfig, tuple[int, ...]]]:
        """Each configuration with its seeds."""
        if len(self.grids) == 1:
            grid, fingerprint = self.grids[0]
            yield from ((config, grid.seeds) for config in grid.configurations(fingerprint))
            return
        seeds: dict[TrainConfig, dict[int, None]] = defaultdict(dict)
        for grid, fingerprint in self.grids:
            for config in grid.configurations(fingerprint):
                seeds[config] |= dict.fromkeys(grid.seeds)
        yield from ((config, tuple(sorted(own))) for config, own in seeds.items())

    def size(self) -> tuple[int, int]:
        """Numbers of its configurations and runs."""
        if len(self.grids) == 1:
            grid, _ = self.grids[0]
            return len(grid), len(grid) * len(grid.seeds)
        seeds = [len(own) for _, own in self.configurations()]
        return len(seeds), sum(seeds)


def groups_of(grids: Iterable[tuple[Grid, str]]) -> list[Group]:
    """Grids, each with the fingerprint of its data set, as groups; those with the most steps first.

    The last tasks of a build are then short.
    """
    found: dict[tuple[str | int, ...], Group] = {}
    for grid, fingerprint in grids:
        for part in grid.split():
            example = next(part.configurations(fingerprint))
            group = found.setdefault(stack_key(example), Group(example, ()))
            found[stack_key(example)] = group._replace(grids=(*group.grids, (part, fingerprint)))

    def order(group: Group) -> tuple[object, ...]:
        return -group.example.steps, -group.example.width, stack_key(group.example)

    return sorted(found.values(), key=order)
