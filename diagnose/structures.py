"""MD trees as data: nested splits by feature name, with labels at the leaves.

The structures, starts and bounds are those of Zhou et al., "MD tree", ICML 2024, as in the authors' code.
Thresholds are listed in the order of the structure read from the root down, the branch at or below a
threshold before the branch above it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Tree:
    """A split of the rows by one feature, and what becomes of either part.

    Attributes:
        feature: Name of the feature.
        below: Tree or label of the rows at or below the threshold.
        above: Tree or label of the rows above it.
        start: The threshold before any fit.
        bounds: Where a fit may put it, both ends included.
    """

    feature: str
    below: Tree | str
    above: Tree | str
    start: float
    bounds: Bounds

    def splits(self) -> Iterator[Tree]:
        """This split and those beneath it, in the order of the thresholds."""
        yield self
        for branch in (self.below, self.above):
            if isinstance(branch, Tree):
                yield from branch.splits()

    def features(self) -> list[str]:
        """Names of the features, each once, in the order of first use."""
        return list(dict.fromkeys(split.feature for split in self.splits()))

    def labels(self) -> set[str]:
        """Labels of the leaves."""
        return set().union(*({b} if isinstance(b, str) else b.labels() for b in (self.below, self.above)))


def _error(below: Tree | str, above: Tree | str) -> Tree:
    return Tree("train_error", below, above, start=0.5, bounds=(0, 1))


def _connectivity(below: Tree | str, above: Tree | str) -> Tree:
    return Tree("mode_connectivity_peak", below, above, start=-10, bounds=(-30, 0))


def _sharpness(below: str, above: str) -> Tree:
    return Tree("hessian_t", below, above, start=7, bounds=(4, 9))


def _similarity(below: str, above: str) -> Tree:
    return Tree("CKA", below, above, start=0.5, bounds=(0.2, 0.8))


STRUCTURES: Mapping[str, Tree] = {
    "temperature": _error("small", _connectivity(_sharpness("large", "small"), "large")),
    "temperature-similarity": _error("small", _connectivity(_similarity("small", "large"), "large")),
    "width": _error(_connectivity("width", "batch"), _connectivity("width", "batch")),
    "data": _error(
        _connectivity(_sharpness("data", "batch"), _sharpness("data", "batch")),
        _connectivity("batch", _sharpness("data", "batch")),
    ),
}
"""The published structures. Errors are percent, `hessian_t` is the natural log of the Hessian trace; the
bounds belong to ResNet-18 on CIFAR-10."""


def settled(tree: Tree, bounds: Iterable[Bounds], start: Iterable[float]) -> Tree:
    """The tree with other bounds and starts, given one a threshold."""
    limits, starts = iter(bounds), iter(start)

    def rebuild(branch: Tree | str) -> Tree | str:
        return branch if isinstance(branch, str) else settle(branch)

    def settle(split: Tree) -> Tree:
        own = replace(split, bounds=next(limits), start=next(starts))
        below = rebuild(split.below)
        return replace(own, below=below, above=rebuild(split.above))

    return settle(tree)


def decide(
    tree: Tree, columns: Mapping[str, NDArray[np.float64]], thresholds: Sequence[float]
) -> NDArray[np.str_]:
    """The label of each row.

    Args:
        tree: The structure.
        columns: A value a row for each feature, without NaN.
        thresholds: A number a split.

    Returns:
        Labels of shape (rows,).
    """
    remaining = iter(thresholds)

    def labels(branch: Tree | str) -> NDArray[np.str_]:
        if isinstance(branch, str):
            return np.array(branch)
        at_most = columns[branch.feature] <= next(remaining)
        below = labels(branch.below)
        return np.where(at_most, below, labels(branch.above))

    return labels(tree)


def text(tree: Tree, thresholds: Sequence[float], decimals: int = 2) -> str:
    """The tree as indented lines, in the manner of `sklearn.tree.export_text`."""
    remaining = iter(thresholds)

    def lines(branch: Tree | str, indent: str) -> Iterator[str]:
        if isinstance(branch, str):
            yield f"{indent}|--- class: {branch}"
            return
        threshold = f"{next(remaining):.{decimals}f}"
        yield f"{indent}|--- {branch.feature} <= {threshold}"
        yield from lines(branch.below, indent + "|   ")
        yield f"{indent}|--- {branch.feature} >  {threshold}"
        yield from lines(branch.above, indent + "|   ")

    return "\n".join(lines(tree, "")) + "\n"
