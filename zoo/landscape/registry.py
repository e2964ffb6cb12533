"""The metrics by name: a user adds one by registering a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import torch
from torch import nn

from zoo.landscape.estimate import Estimate
from zoo.landscape.recipes import MetricRecipe

if TYPE_CHECKING:
    from zoo.datasets import RunData

Subject = TypeVar("Subject")


class Pair(NamedTuple):
    """Two runs of one configuration.

    Attributes:
        first: One model.
        second: The other, of the same architecture.
        initial_model: An untrained model of that architecture, for recipes whose curve starts there.
    """

    first: nn.Module
    second: nn.Module
    initial_model: nn.Module | None = None


@dataclass(frozen=True, slots=True)
class Metric(Generic[Subject]):
    """A registered function and the rows that it makes: every name on every split, names first."""

    names: tuple[str, ...]
    splits: tuple[str | None, ...]
    measure: Callable[[Subject, RunData, MetricRecipe, torch.Generator], Iterable[Estimate]]

    @property
    def rows(self) -> list[tuple[str, str | None]]:
        """The (name, split) of each row, in order."""
        return list(product(self.names, self.splits))


RUN_METRICS: dict[str, Metric[nn.Module]] = {}
PAIR_METRICS: dict[str, Metric[Pair]] = {}

RunFunction = Callable[[nn.Module, "RunData", MetricRecipe, torch.Generator], Iterable[Estimate]]
PairFunction = Callable[[Pair, "RunData", MetricRecipe, torch.Generator], Iterable[Estimate]]


def register_run_metric(
    *names: str, splits: tuple[str | None, ...] = (None,)
) -> Callable[[RunFunction], RunFunction]:
    """Register a function of one model as a metric; use it as a decorator.

    The function takes (model, data, recipe, generator), leaves the model as it was, and gives one `Estimate`
    for each row: the first name on every split, then the next name. Names that one computation yields are
    registered together; the random stream is keyed by the first.

    Args:
        names: Names of the metrics.
        splits: Images they are measured on: train, validation, or None.

    Raises:
        ValueError: If no name is given, or one is taken.
    """
    return _register(RUN_METRICS, names, splits)


def register_pair_metric(
    *names: str, splits: tuple[str | None, ...] = (None,)
) -> Callable[[PairFunction], PairFunction]:
    """Register a function of two models as a metric: as `register_run_metric`, with a `Pair` for the model."""
    return _register(PAIR_METRICS, names, splits)


def _register(
    registry: dict[str, Metric[Subject]], names: tuple[str, ...], splits: tuple[str | None, ...]
) -> Callable[[Callable[..., Iterable[Estimate]]], Callable[..., Iterable[Estimate]]]:
    taken = {name for metric in registry.values() for name in metric.names}
    if not names:
        raise ValueError("a metric needs a name; none was given")
    if repeated := sorted(taken.intersection(names)):
        raise ValueError(
            f"metrics {repeated} are registered already; choose names other than {sorted(taken)}"
        )

    def add(function: Callable[..., Iterable[Estimate]]) -> Callable[..., Iterable[Estimate]]:
        registry[names[0]] = Metric(names, splits, function)
        return function

    return add
