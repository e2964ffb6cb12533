"""The metrics by name: a user adds one by registering a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import nn

from zoo.landscape.connectivity import Pair
from zoo.landscape.estimate import Estimate
from zoo.landscape.recipes import SECTIONS, MetricRecipe

if TYPE_CHECKING:
    from zoo.datasets import RunData

Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True)
class Metric(Generic[Subject]):
    """A registered function and the rows that it makes: every name on every split, names first.

    Attributes:
        names: Names of the metrics.
        splits: Images they are measured on: train, validation, or None.
        section: The part of a `MetricRecipe` whose numbers they depend on; None: on none of it.
        measure: The function.
        together: Whether it takes lists of subjects, data and generators, and gives a list for each.
    """

    names: tuple[str, ...]
    splits: tuple[str | None, ...]
    section: str | None
    measure: Callable[..., Iterable[Any]]
    together: bool = False

    @property
    def rows(self) -> list[tuple[str, str | None]]:
        """The (name, split) of each row, in order."""
        return list(product(self.names, self.splits))


RUN_METRICS: dict[str, Metric[nn.Module]] = {}
PAIR_METRICS: dict[str, Metric[Pair]] = {}

RunFunction = Callable[[nn.Module, "RunData", MetricRecipe, torch.Generator], Iterable[Estimate]]
PairsFunction = Callable[
    [Sequence[Pair], Sequence["RunData"], MetricRecipe, Sequence[torch.Generator]],
    Sequence[Iterable[Estimate]],
]
PairFunction = Callable[[Pair, "RunData", MetricRecipe, torch.Generator], Iterable[Estimate]]


def metric_names() -> set[str]:
    """Names of all metrics that are registered, of runs and of pairs."""
    return {name for registry in (RUN_METRICS, PAIR_METRICS) for m in registry.values() for name in m.names}


def functions_of(names: Iterable[str]) -> frozenset[str]:
    """The registered functions that yield some metrics, each by its first name; all of them for no names.

    Raises:
        ValueError: If a metric is not registered.
    """
    wanted = set(names)
    if unknown := sorted(wanted - metric_names()):
        raise ValueError(
            f"no metrics are registered as {unknown}; there are {', '.join(sorted(metric_names()))}"
        )
    return frozenset(
        first
        for registry in (RUN_METRICS, PAIR_METRICS)
        for first, metric in registry.items()
        if not wanted or wanted.intersection(metric.names)
    )


def register_run_metric(
    *names: str, splits: tuple[str | None, ...] = (None,), section: str | None = None
) -> Callable[[RunFunction], RunFunction]:
    """Register a function of one model as a metric; use it as a decorator.

    The function takes (model, data, recipe, generator), leaves the model as it was, and gives one `Estimate`
    for each row: the first name on every split, then the next name. Names that one computation yields are
    registered together; the random stream is keyed by the first.

    Args:
        names: Names of the metrics.
        splits: Images they are measured on: train, validation, or None.
        section: The part of a `MetricRecipe` whose numbers go with the rows, as `trace`.

    Raises:
        ValueError: If no name is given, one is taken, or the recipes have no such section.
    """
    return _register(RUN_METRICS, names, splits, section)


def register_pair_metric(
    *names: str, splits: tuple[str | None, ...] = (None,), section: str | None = None
) -> Callable[[PairFunction], PairFunction]:
    """Register a function of two models as a metric: as `register_run_metric`, with a `Pair` for the model."""
    return _register(PAIR_METRICS, names, splits, section)


def register_pairs_metric(
    *names: str, splits: tuple[str | None, ...] = (None,), section: str | None = None
) -> Callable[[PairsFunction], PairsFunction]:
    """Register a function of many pairs of one architecture at once, as curves that train together.

    It takes (pairs, data, recipe, generators), data and a generator for each pair, and gives a list of estimates for
    each. The images of all are the same, the labels may not be. What a pair gets must not depend on the others.
    """
    return _register(PAIR_METRICS, names, splits, section, together=True)


def _register(
    registry: dict[str, Metric[Subject]],
    names: tuple[str, ...],
    splits: tuple[str | None, ...],
    section: str | None,
    together: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    taken = metric_names()
    if section not in (None, *SECTIONS):
        raise ValueError(f"a recipe has no section {section!r}; its sections are {list(SECTIONS)}")
    if not names:
        raise ValueError("a metric needs a name; none was given")
    if repeated := sorted(taken.intersection(names)):
        raise ValueError(
            f"metrics {repeated} are registered already; choose names other than {sorted(taken)}"
        )

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        registry[names[0]] = Metric(names, splits, section, function, together)
        return function

    return add
