"""A spec: the TOML file that says which networks a zoo holds.

    name = "demo"

    [settings]                      # shared by all grids; a grid may override them
    dataset = "digits"
    architecture = "cnn"
    sample_passes = 6_000

    [[grids]]                       # a list is an axis; a grid is the product of its axes
    width = [1, 2, 4, 8]
    batch_size = [8, 32, 128]
    data_amount = [100, 1_000]
    seeds = 4

    [measure]
    pairs = "ring"

A wrong spec is refused before anything runs, with the key, the value and what is allowed.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from zoo.config import RECIPES, SCHEDULES, Run
from zoo.datasets import DatasetShape, DataSource
from zoo.grids import LENGTHS, Grid, Group, groups_of

PAIRS = ("ring", "all")
METRIC_RECIPES = ("default", "paper")


class SpecError(ValueError):
    """A spec that cannot be built; the message names the key, the value and what is allowed."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a key may hold: values of a kind inside bounds, or one of some words."""

    kind: type
    low: float | None = None
    below: float | None = None
    words: Sequence[str] | None = None
    axis: bool = False

    def allowed(self) -> str:
        if self.words is not None:
            return "one of " + ", ".join(self.words)
        noun = {int: "an integer", float: "a number", str: "a text"}[self.kind]
        low = "" if self.low is None else f" of at least {self.low:g}"
        if self.below is not None:
            return f"{noun}{low} and below {self.below:g}"
        return noun + low + (f" and at most {_LARGEST}" if self.kind is int else "")

    def accepts(self, value: Any) -> bool:
        kinds = {self.kind, int} if self.kind is float else {self.kind}
        if type(value) not in kinds:  # an exact type: True is no integer
            return False
        if self.words is not None:
            return value in self.words
        if isinstance(value, str):
            return bool(value)
        if not math.isfinite(value) or (self.kind is int and value > _LARGEST):
            return False
        return (self.low is None or value >= self.low) and (self.below is None or value < self.below)


_SMALLEST_RATE = 1e-9
_LARGEST = 2**31 - 1
_RULES = {
    "dataset": _Rule(str),
    "image_size": _Rule(int, low=1),
    "train_limit": _Rule(int, low=1),
    "test_limit": _Rule(int, low=2),
    "architecture": _Rule(str),
    "recipe": _Rule(str, words=sorted(RECIPES)),
    "schedule": _Rule(str, words=SCHEDULES),
    "warm_up": _Rule(float, low=0, below=1),
    "momentum": _Rule(float, low=0, below=1),
    "noise_seed": _Rule(int, low=0),
    "width": _Rule(int, low=1, axis=True),
    "batch_size": _Rule(int, low=1, axis=True),
    "learning_rate": _Rule(float, low=_SMALLEST_RATE, axis=True),
    "weight_decay": _Rule(float, low=0, axis=True),
    "data_amount": _Rule(int, low=1, axis=True),
    "label_noise": _Rule(float, low=0, below=1, axis=True),
    "sample_passes": _Rule(int, low=1, axis=True),
    "epochs": _Rule(int, low=1, axis=True),
    "steps": _Rule(int, low=1, axis=True),
    "seeds": _Rule(int, low=0, axis=True),
}
_REQUIRED = ("dataset", "architecture", "width", "batch_size", "data_amount")


@dataclass(frozen=True, slots=True)
class ZooSpec:
    """A parsed spec.

    Attributes:
        name: Name of the zoo.
        grids: Its grids.
        pairs: Which runs of a configuration are paired for twin metrics: "ring", "all" or a number of pairs.
        metric_recipe: Recipe of the landscape metrics.
        metrics: Names of those that a build measures; none stands for all that are registered.
        text: The TOML it was read from.
    """

    name: str
    grids: tuple[Grid, ...]
    pairs: str | int
    metric_recipe: str
    metrics: tuple[str, ...]
    text: str

    def sources(self) -> list[DataSource]:
        """The data sets of its grids, each once."""
        return list(dict.fromkeys(grid.source for grid in self.grids))

    def groups(self, fingerprints: Mapping[DataSource, str]) -> list[Group]:
        """Its configurations, each once, in groups that could share a stack; those with the most steps first.

        Args:
            fingerprints: The fingerprint of each of `sources()`.
        """
        return groups_of([(grid, fingerprints[grid.source]) for grid in self.grids])

    def runs(self, fingerprints: Mapping[DataSource, str]) -> Iterator[Run]:
        """All runs, each once, in the order of the groups.

        Args:
            fingerprints: The fingerprint of each of `sources()`.
        """
        for group in self.groups(fingerprints):
            for config, seeds in group.configurations():
                yield from (Run(config, seed) for seed in seeds)

    def check(self, shapes: Mapping[DataSource, DatasetShape]) -> None:
        """Refuse what does not fit the data sets or is not registered.

        Args:
            shapes: The shape of each of `sources()`.

        Raises:
            SpecError: If an architecture is unknown, an amount exceeds the training set, or a batch its amount.
        """
        from zoo.models import ARCHITECTURES, ImageShape, cannot_train

        for index, grid in enumerate(self.grids):
            shape, where = shapes[grid.source], f"grids[{index}]"
            architecture = grid.values["architecture"][0]
            if architecture not in ARCHITECTURES:
                known = ", ".join(sorted(ARCHITECTURES))
                raise SpecError(
                    f"{where}.architecture: {architecture!r} is not allowed; one of {known}, or register it"
                )
            amounts, batches = grid.values["data_amount"], grid.values["batch_size"]
            if max(amounts) > shape.train_images:
                allowed = f"at most {shape.train_images}, the training images of {grid.source.name}"
                raise SpecError(f"{where}.data_amount: {max(amounts)} is not allowed; {allowed}")
            if max(batches) > min(amounts):
                allowed = f"at most {min(amounts)}, the smallest data_amount of the grid"
                raise SpecError(f"{where}.batch_size: {max(batches)} is not allowed; {allowed}")
            if shape.test_images < 2:
                raise SpecError(
                    f"{where}.dataset: {grid.source.name} has {shape.test_images} test images; at least 2"
                )
            smallest = min(batches)
            if grid.is_paper:  # there the last batch of an epoch holds what is left
                smallest = min(amount % batch or batch for amount in amounts for batch in batches)
            image = ImageShape(shape.channels, shape.image_size, shape.classes)
            if error := cannot_train(architecture, min(grid.values["width"]), image, smallest):
                facts = f"batches of {smallest} and images of {shape.image_size} pixels"
                raise SpecError(f"{where}.architecture: {architecture!r} cannot train on {facts}: {error}")


def shipped_specs() -> list[str]:
    """Names of the specs that come with the package."""
    folder = resources.files("zoo") / "specs"
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def read_spec(name: str) -> ZooSpec:
    """The spec of a TOML file, or of a name among `shipped_specs()`.

    Raises:
        FileNotFoundError: If it is neither.
        SpecError: If it is not a valid spec.
    """
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise FileNotFoundError(f"no spec at {name}; shipped ones: {', '.join(shipped_specs())}")
        return parse_spec(path.read_text(), path.name)
    if name not in shipped_specs():
        raise FileNotFoundError(
            f"no spec is named {name!r}; give a path that ends in .toml, or one of {', '.join(shipped_specs())}"
        )
    return parse_spec((resources.files("zoo") / "specs" / f"{name}.toml").read_text(), f"{name}.toml")


def parse_spec(text: str, source: str = "spec") -> ZooSpec:
    """The spec in a TOML text.

    Args:
        text: The TOML.
        source: What to call it in an error.

    Raises:
        SpecError: If it is not TOML, has an unknown key, or a value that is not allowed.
    """
    try:
        return _parse(tomllib.loads(text), text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{source}: not valid TOML: {error}") from error
    except SpecError as error:
        raise SpecError(f"{source}: {error}") from None


def _parse(document: dict[str, Any], text: str) -> ZooSpec:
    _refuse_unknown("", document, ("name", "settings", "grids", "measure"))
    name = document.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise SpecError(f"name: {name!r} is not allowed; lower-case letters, digits, '.', '_' and '-'")
    settings, grids = document.get("settings", {}), document.get("grids", [])
    if not isinstance(settings, dict):
        raise SpecError(f"settings: {settings!r} is not allowed; a table [settings]")
    if not isinstance(grids, list) or not grids or not all(isinstance(grid, dict) for grid in grids):
        raise SpecError(f"grids: {grids!r} is not allowed; at least one table [[grids]]")
    measure = document.get("measure", {})
    if not isinstance(measure, dict):
        raise SpecError(f"measure: {measure!r} is not allowed; a table [measure]")
    _refuse_unknown("measure.", measure, ("pairs", "recipe", "metrics"))
    parsed = tuple(_grid(f"grids[{i}]", settings, grid) for i, grid in enumerate(grids))
    recipe = measure.get("recipe", parsed[0].values.get("recipe", ("default",))[0])
    if recipe not in METRIC_RECIPES:
        raise SpecError(f"measure.recipe: {recipe!r} is not allowed; one of {', '.join(METRIC_RECIPES)}")
    pairs = measure.get("pairs", "ring")
    if pairs not in PAIRS and not (type(pairs) is int and pairs >= 1):
        raise SpecError(
            f"measure.pairs: {pairs!r} is not allowed; one of {', '.join(PAIRS)}, or a number from 1"
        )
    metrics = measure.get("metrics")
    named = isinstance(metrics, list) and metrics and all(isinstance(metric, str) for metric in metrics)
    if metrics is not None and not named:
        raise SpecError(
            f"measure.metrics: {metrics!r} is not allowed; a list of names, or leave it out for all"
        )
    return ZooSpec(name, parsed, pairs, recipe, tuple(metrics or ()), text)


def _refuse_unknown(where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    for key, value in table.items():
        if key not in known:
            raise SpecError(f"{where}{key}: unknown key with value {value!r}; known keys: {', '.join(known)}")


def _grid(where: str, settings: Mapping[str, Any], own: Mapping[str, Any]) -> Grid:
    values: dict[str, tuple[Any, ...]] = {}
    # A grid's own length replaces a shared one, whichever of the three keys either uses.
    shared = {k: v for k, v in settings.items() if k not in LENGTHS or not set(LENGTHS) & set(own)}
    for table, place in ((shared, "settings"), (own, where)):
        _refuse_unknown(f"{place}.", table, tuple(_RULES))
        values |= {key: _values(f"{place}.{key}", value, _RULES[key]) for key, value in table.items()}
    for key in _REQUIRED:
        if key not in values:
            raise SpecError(f"{where}.{key}: missing; {_RULES[key].allowed()}, here or in [settings]")
    lengths = [key for key in LENGTHS if key in values]
    paper = values.get("recipe") == ("paper",)
    if len(lengths) > 1 or (not lengths and not paper):
        given = " and ".join(lengths) or "no length"
        raise SpecError(f"{where}: {given} is not allowed; exactly one of {', '.join(LENGTHS)}")
    if not paper and "sample_passes" in values and min(values["sample_passes"]) < max(values["batch_size"]):
        raise SpecError(
            f"{where}.sample_passes: {min(values['sample_passes'])} is not allowed; "
            f"at least {max(values['batch_size'])}, the largest batch_size"
        )
    if paper and lengths not in ([], ["epochs"]):
        raise SpecError(f"{where}.{lengths[0]}: not allowed with the paper recipe; give epochs, or nothing")
    seeds = values.pop("seeds", (1,))
    return Grid(values, tuple(range(seeds[0])) if _is_count(own, settings) else seeds)


def _is_count(own: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether seeds are given as a number of seeds rather than as a list of them."""
    return not isinstance(own.get("seeds", settings.get("seeds", 1)), list)


def _values(where: str, value: Any, rule: _Rule) -> tuple[Any, ...]:
    listed = value if isinstance(value, list) else [value]
    if isinstance(value, list) and not rule.axis:
        raise SpecError(f"{where}: {value!r} is not allowed; one value, not a list (use several grids)")
    if not listed:
        raise SpecError(f"{where}: [] is not allowed; at least one value")
    for item in listed:
        if not rule.accepts(item):
            raise SpecError(f"{where}: {item!r} is not allowed; {rule.allowed()}")
    if repeated := [item for i, item in enumerate(listed) if item in listed[:i]]:
        raise SpecError(f"{where}: {repeated[0]!r} is given twice; each value once")
    if where.endswith(".seeds") and not isinstance(value, list) and value < 1:
        raise SpecError(f"{where}: {value!r} is not allowed; at least 1 seed, or a list of seeds")
    return tuple(float(item) for item in listed) if rule.kind is float else tuple(listed)


def spec_fields() -> list[str]:
    """Keys that [settings] and [[grids]] may hold."""
    return list(_RULES)
