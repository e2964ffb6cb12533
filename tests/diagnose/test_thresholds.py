"""The exact search against brute force over all candidate thresholds."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from diagnose import STRUCTURES, Tree
from diagnose.structures import decide, settled
from diagnose.thresholds import exact_thresholds, published_thresholds

BOUNDS = {
    "train_error": (1.0, 4.0),
    "mode_connectivity_peak": (-3.0, 0.0),
    "hessian_t": (4.0, 7.0),
    "CKA": (0.0, 3.0),
}


def _problem(structure: str, rows: int, seed: int) -> tuple[Tree, dict[str, np.ndarray], np.ndarray]:
    """Few values, many of them equal and some on or beyond the bounds."""
    tree = STRUCTURES[structure]
    tree = settled(
        tree, [BOUNDS[s.feature] for s in tree.splits()], [BOUNDS[s.feature][0] for s in tree.splits()]
    )
    draw = np.random.RandomState(seed)
    columns = {n: draw.choice(np.arange(BOUNDS[n][0] - 1, BOUNDS[n][1] + 2), rows) for n in tree.features()}
    return tree, columns, draw.choice(sorted(tree.labels()), rows)


def _right(tree: Tree, columns: dict[str, np.ndarray], y: np.ndarray, thresholds: list[float]) -> int:
    return int((decide(tree, columns, thresholds) == y).sum())


def _candidates(split: Tree) -> list[float]:
    """Whole numbers are the only values, so these are all the ways to part them."""
    low, high = split.bounds
    return [*np.arange(low + 0.5, high), high]


@pytest.mark.parametrize("structure", STRUCTURES)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 30))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_exact_equals_brute_force(structure: str, seed: int, rows: int) -> None:
    tree, columns, y = _problem(structure, rows, seed)
    found = exact_thresholds(tree, columns, y)
    best = max(
        _right(tree, columns, y, list(trial)) for trial in product(*(_candidates(s) for s in tree.splits()))
    )
    assert _right(tree, columns, y, found) == best
    assert all(s.bounds[0] <= t <= s.bounds[1] for s, t in zip(tree.splits(), found, strict=True))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_exact_is_never_worse_than_the_published_pass(structure: str) -> None:
    gains = []
    for seed in range(10):
        tree, columns, y = _problem(structure, 60, seed)
        exact, published = exact_thresholds(tree, columns, y), published_thresholds(tree, columns, y)
        gains.append(_right(tree, columns, y, exact) - _right(tree, columns, y, published))
    assert min(gains) >= 0
    assert max(gains) > 0


def _literal_pass(tree: Tree, columns: dict[str, np.ndarray], y: np.ndarray) -> list[float]:
    """The published pass by a predictor asked anew at every step."""
    thresholds = [split.start for split in tree.splits()]
    for place, split in enumerate(tree.splits()):

        def loss(threshold: float, place: int = place) -> float:
            trial = [*thresholds[:place], threshold, *thresholds[place + 1 :]]
            return -_right(tree, columns, y, trial) / len(y)

        thresholds[place] = float(minimize_scalar(loss, bounds=split.bounds, method="bounded").x)
    return thresholds


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("seed", range(3))
def test_the_published_pass_is_that_of_a_predictor_asked_anew_at_every_step(
    structure: str, seed: int
) -> None:
    tree, columns, y = _problem(structure, 50, seed)
    assert published_thresholds(tree, columns, y) == _literal_pass(tree, columns, y)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("seed", range(4))
def test_the_published_pass_is_the_same_to_the_last_bit(structure: str, seed: int) -> None:
    """Its steps hang on differences of accuracies, so that these must be rounded alike."""
    draw, tree = np.random.RandomState(seed), STRUCTURES[structure]
    bounds = [split.bounds for split in tree.splits()]
    tree = settled(tree, bounds, [float(draw.uniform(*b)) for b in bounds])
    columns = {s.feature: draw.uniform(*s.bounds, size=137) for s in tree.splits()}
    y = draw.choice(sorted(tree.labels()), 137)
    assert published_thresholds(tree, columns, y) == _literal_pass(tree, columns, y)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("seed", range(3))
def test_a_row_on_a_threshold_is_below_it_in_the_published_pass(structure: str, seed: int) -> None:
    """The root is held at a value that rows have, and the others begin at one."""
    tree, columns, y = _problem(structure, 80, seed)
    bounds = [split.bounds for split in tree.splits()]
    tree = settled(tree, [(2.0, 2.0), *bounds[1:]], [2.0, *(low for low, _ in bounds[1:])])
    for split in list(tree.splits())[1:]:
        low, high = split.bounds
        columns[split.feature][::2] = low + 0.5 * (3.0 - np.sqrt(5.0)) * (high - low)
    assert (columns["train_error"] == 2).any()
    assert published_thresholds(tree, columns, y) == _literal_pass(tree, columns, y)


def _stump(
    values: list[float], labels: str, start: float = 0.0, bounds: tuple[float, float] = (0.0, 10.0)
) -> float:
    tree = Tree("x", "a", "b", start=start, bounds=bounds)
    return exact_thresholds(tree, {"x": np.array(values, dtype=float)}, np.array(list(labels)))[0]


def test_a_threshold_lies_halfway_between_the_values_that_it_parts() -> None:
    assert _stump([1, 2, 5, 6], "aabb") == 3.5


def test_ties_go_to_the_widest_margin() -> None:
    """One error at best: parting at 2 to 3 or at 4 to 8."""
    assert _stump([1, 2, 3, 4, 8, 9], "aababb") == 6
    assert _stump([1, 2, 6, 7, 8, 9], "aababb") == 4


@pytest.mark.parametrize(("start", "threshold"), [(1.0, 2.0), (9.0, 4.0)])
def test_equal_margins_go_to_the_nearest_to_the_start(start: float, threshold: float) -> None:
    """One error at best: parting at 1 to 3 or at 3 to 5, with 0 < 1 held as a and 5 > 4 as b."""
    assert _stump([0, 1, 3, 3, 5, 6], "aaabbb", start) == threshold


def test_where_no_value_divides_the_bounds_the_start_stands() -> None:
    assert _stump([1, 20], "ab", start=7, bounds=(5, 10)) == 7


def test_a_value_on_the_upper_bound_may_fall_below_the_threshold() -> None:
    assert _stump([1, 10, 12], "aab") == 10


def test_neighbouring_floats_are_parted() -> None:
    """Halfway between these two is, after rounding, the upper one."""
    below = float(np.nextafter(1, 2))
    above = float(np.nextafter(below, 2))
    assert (below + above) / 2 == above
    assert _stump([below, above], "ab") == below
