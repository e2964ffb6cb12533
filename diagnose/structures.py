"""MD trees as data: nested splits by feature name, with labels at the leaves.

The structures, starts and bounds are those of Zhou et al., "MD tree", ICML 2024, as in the authors' code.
Thresholds are listed in the order of the structure read from the root down, the branch at or below a
threshold before the branch above it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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

    def depth(self) -> int:
        """Splits on the longest way to a leaf."""
        return 1 + max(0 if isinstance(b, str) else b.depth() for b in (self.below, self.above))


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


def leaf_labels(branch: Tree | str) -> list[str]:
    """The labels of the leaves, each leaf on its own, in the order of the thresholds."""
    if isinstance(branch, str):
        return [branch]
    return [*leaf_labels(branch.below), *leaf_labels(branch.above)]


def leaves(
    tree: Tree, columns: Mapping[str, NDArray[np.float64]], thresholds: Sequence[float]
) -> NDArray[np.int64]:
    """The leaf that each row reaches, by its place in `leaf_labels`.

    Args:
        tree: The structure.
        columns: A value a row for each feature, without NaN.
        thresholds: A number a split.

    Returns:
        Places of shape (rows,).
    """
    remaining, places = iter(thresholds), count()

    def reached(branch: Tree | str) -> NDArray[np.int64]:
        if isinstance(branch, str):
            return np.array(next(places))
        at_most = columns[branch.feature] <= next(remaining)
        below = reached(branch.below)
        return np.where(at_most, below, reached(branch.above))

    return reached(tree)


def decide(
    tree: Tree, columns: Mapping[str, NDArray[np.float64]], thresholds: Sequence[float]
) -> NDArray[np.str_]:
    """The label of each row: that of the leaf it reaches, shape (rows,); arguments as of `leaves`."""
    return np.array(leaf_labels(tree))[leaves(tree, columns, thresholds)]


def text(
    tree: Tree, thresholds: Sequence[float], decimals: int = 2, notes: Sequence[str] | None = None
) -> str:
    """The tree as indented lines, in the manner of `sklearn.tree.export_text`; a note a leaf, if given."""
    remaining, said = iter(thresholds), iter(notes or [])

    def lines(branch: Tree | str, indent: str) -> Iterator[str]:
        if isinstance(branch, str):
            yield f"{indent}|--- class: {branch}" + (f" ({next(said)})" if notes else "")
            return
        threshold = f"{next(remaining):.{decimals}f}"
        yield f"{indent}|--- {branch.feature} <= {threshold}"
        yield from lines(branch.below, indent + "|   ")
        yield f"{indent}|--- {branch.feature} >  {threshold}"
        yield from lines(branch.above, indent + "|   ")

    return "\n".join(lines(tree, "")) + "\n"


def draw(
    tree: Tree, thresholds: Sequence[float], notes: Sequence[str], ax: Axes | None = None, decimals: int = 2
) -> Axes:
    """The tree as a drawing: a box a split with its bounds, a coloured box a leaf with its note.

    Args:
        tree: The structure.
        thresholds: A number a split.
        notes: A line a leaf.
        ax: Where to draw; None makes a figure of its own.
        decimals: Digits of a number after the point.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(2.2 * len(notes), 1.5 + tree.depth()), layout="constrained")
    colours = dict(zip(sorted(tree.labels()), plt.colormaps["Pastel1"](range(9)), strict=False))
    remaining, places = iter(thresholds), count()

    def box(x: float, depth: int, words: str, colour: Any) -> tuple[float, int]:
        style = {"boxstyle": "round", "facecolor": colour, "edgecolor": "0.4"}
        ax.text(x, -depth, words, ha="center", va="center", fontsize=9, bbox=style, zorder=2)
        return x, depth

    def placed(branch: Tree | str, depth: int) -> tuple[float, int]:
        if isinstance(branch, str):
            place = next(places)
            return box(place, depth, f"{branch}\n{notes[place]}", colours[branch])
        low, high = (f"{bound:.{decimals}f}" for bound in branch.bounds)
        words = f"{branch.feature} ≤ {next(remaining):.{decimals}f}\nbetween {low} and {high}"
        below, above = placed(branch.below, depth + 1), placed(branch.above, depth + 1)
        own = (below[0] + above[0]) / 2, depth
        for (x, y), answer in ((below, "yes"), (above, "no")):
            ax.plot([own[0], x], [-depth, -y], color="0.4", linewidth=1, zorder=1)
            middle = (own[0] + x) / 2, -(depth + y) / 2
            ax.text(*middle, answer, fontsize=8, ha="center", va="center", backgroundcolor="white")
        return box(*own, words, "white")

    placed(tree, 0)
    ax.set(xlim=(-0.6, len(notes) - 0.4), ylim=(-tree.depth() - 0.5, 0.5))
    ax.axis("off")
    return ax
