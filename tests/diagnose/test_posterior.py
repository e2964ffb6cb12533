"""The posterior over thresholds, against integration over a grid on which it is exact."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnose import STRUCTURES, MDTreeClassifier, Split, Tree, limited, random_cells
from diagnose import posterior as module
from diagnose.posterior import FLIP_RATES, Posterior
from diagnose.structures import decide, settled

THREE = Tree(
    "a", Tree("b", "x", "y", 0, (0, 2)), Tree("b", Tree("a", "z", "x", 0, (0, 2)), "y", 0, (0, 2)), 0, (0, 2)
)
TREES = {**STRUCTURES, "three labels": THREE}


def _problem(name: str, rows: int, seed: int) -> tuple[Tree, dict[str, np.ndarray], np.ndarray]:
    """Whole numbers on, inside and beyond the bounds of 0 and 2, many of them equal."""
    tree = TREES[name]
    places = len(list(tree.splits()))
    tree = settled(tree, [(0, 2)] * places, [1] * places)
    draw = np.random.RandomState(seed)
    columns = {feature: draw.choice([-1.0, 0, 1, 2, 3], rows) for feature in tree.features()}
    return tree, columns, draw.choice(sorted(tree.labels()), rows)


def _integrated(
    tree: Tree, columns: dict[str, np.ndarray], y: np.ndarray, asked: dict[str, np.ndarray]
) -> np.ndarray:
    """The midpoint rule, exact where all values are multiples of its step, a half."""
    labels, total, shares = sorted(tree.labels()), 0.0, 0.0
    for thresholds in product((0.25, 0.75, 1.25, 1.75), repeat=len(list(tree.splits()))):
        right = int((decide(tree, columns, thresholds) == y).sum())
        likelihood = sum((1 - e) ** right * (e / (len(labels) - 1)) ** (len(y) - right) for e in FLIP_RATES)
        total += likelihood
        shares = shares + likelihood * (decide(tree, asked, thresholds)[:, None] == np.array(labels))
    return np.asarray(shares / total)


@pytest.mark.parametrize("name", TREES)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 12))
@settings(max_examples=4, deadline=None, derandomize=True)
def test_probabilities_are_the_integral_over_all_thresholds_and_flip_rates(
    name: str, seed: int, rows: int
) -> None:
    tree, columns, y = _problem(name, rows, seed)
    draw = np.random.RandomState(seed)
    asked = {feature: draw.choice(np.arange(-1, 3.5, 0.5), 20) for feature in tree.features()}
    found = Posterior(tree, columns, y).probabilities(asked)
    assert found == pytest.approx(_integrated(tree, columns, y, asked), abs=1e-7)
    assert found.sum(axis=1) == pytest.approx(np.ones(20), abs=1e-12)
    assert found.min() >= -1e-12


@pytest.mark.parametrize("name", TREES)
def test_leaving_out_the_negligible_changes_nothing_that_counts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, *_ = _problem(name, 1, 0)
    draw = np.random.RandomState(0)
    columns = {feature: draw.uniform(-0.2, 2.2, 150) for feature in tree.features()}
    true = decide(tree, columns, [1.0] * len(list(tree.splits())))
    y = np.where(draw.rand(150) < 0.1, draw.choice(sorted(tree.labels()), 150), true)
    asked = {feature: draw.uniform(-0.2, 2.2, 50) for feature in tree.features()}
    pruned = Posterior(tree, columns, y).probabilities(asked)
    monkeypatch.setattr(module, "NEGLIGIBLE", 1e-300)
    assert pruned == pytest.approx(Posterior(tree, columns, y).probabilities(asked), abs=1e-6)


def _planted(rows: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    draw = np.random.RandomState(seed)
    ranges = {"train_error": (0, 1), "mode_connectivity_peak": (-30, 0), "hessian_t": (4, 9)}
    X = pd.DataFrame({name: draw.uniform(*ends, size=rows) for name, ends in ranges.items()})
    columns = dict(zip(X.columns.tolist(), X.to_numpy().T, strict=True))
    return X, decide(STRUCTURES["temperature"], columns, [0.4, -15.0, 6.0])


def test_the_order_of_the_training_rows_changes_nothing() -> None:
    X, y = _planted(60, seed=0)
    order = np.random.RandomState(1).permutation(60)
    first, second = (
        MDTreeClassifier(search="posterior").fit(X.iloc[rows], y[rows]).predict_proba(X)
        for rows in (np.arange(60), order)
    )
    assert first == pytest.approx(second, abs=1e-12)


def test_a_flip_rate_near_zero_leaves_only_the_optima(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without flips the posterior is even over the thresholds that label all right, the mode among them."""
    X, y = _planted(200, seed=3)
    monkeypatch.setattr(module, "FLIP_RATES", (1e-12,))
    averaged = MDTreeClassifier(search="posterior").fit(X, y)
    exact = MDTreeClassifier(search="exact").fit(X, y)
    assert averaged.thresholds_.tolist() == exact.thresholds_.tolist()
    assert averaged.predict_proba(X) == pytest.approx(
        (y[:, None] == averaged.classes_).astype(float), abs=1e-9
    )
    root = exact.thresholds_[0]
    errors = np.sort(X["train_error"])
    gap = errors[errors <= root].max(), errors[errors > root].min()
    inside = pd.DataFrame({"train_error": np.linspace(*gap, 5), "mode_connectivity_peak": -1, "hessian_t": 5})
    assert averaged.predict_proba(inside)[:, 1] == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_labels_that_say_nothing_leave_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = _planted(50, seed=4)
    monkeypatch.setattr(module, "FLIP_RATES", (0.5,))
    asked = pd.DataFrame(
        {"train_error": [0.25, 2], "mode_connectivity_peak": [-12, -24], "hessian_t": [9, 5]}
    )
    found = MDTreeClassifier(search="posterior").fit(X, y).predict_proba(asked)[:, 1]
    assert found == pytest.approx([0.75 + 0.25 * (12 / 30), (24 / 30) * (1 / 5)])


def test_equal_bounds_leave_a_threshold_no_choice() -> None:
    X, y = _planted(80, seed=5)
    bounds = [(0.4, 0.4), (-15, -15), (6, 6)]
    fixed = MDTreeClassifier(search="posterior", bounds=bounds).fit(X, y[::-1])
    assert fixed.predict_proba(X) == pytest.approx((y[:, None] == fixed.classes_).astype(float))
    on = pd.DataFrame({"train_error": [0.4, 1], "mode_connectivity_peak": [-1, -15], "hessian_t": [5, 6]})
    assert fixed.predict(on).tolist() == ["small", "large"]


def test_a_tree_of_one_label_is_sure_of_it() -> None:
    tree = MDTreeClassifier(structure=Tree("x", "a", "a", 0, (0, 1)), search="posterior").fit([[0.5]], ["a"])
    assert tree.predict_proba([[0.2], [2.0]]).tolist() == [[1], [1]]
    assert tree.predict([[0.2], [2.0]]).tolist() == ["a", "a"]


def test_the_answer_is_the_more_probable_label() -> None:
    X, y = _planted(40, seed=6)
    flipped = np.where(np.random.RandomState(0).rand(40) < 0.3, "small", y)
    tree = MDTreeClassifier(search="posterior").fit(X, flipped)
    shares = tree.predict_proba(X)
    assert tree.predict(X).tolist() == tree.classes_[shares.argmax(axis=1)].tolist()
    assert ((shares > 0.01) & (shares < 0.99)).any()


def test_more_rows_of_the_same_kind_make_it_surer() -> None:
    X, y = _planted(30, seed=7)
    asked, true = _planted(300, seed=8)
    places = np.searchsorted(["large", "small"], true)
    scores = []
    for copies in (1, 5):
        tree = MDTreeClassifier(search="posterior").fit(pd.concat([X] * copies), np.tile(y, copies))
        scores.append(np.log(tree.predict_proba(asked)[np.arange(300), places] + 1e-9).mean())
    assert scores[0] < scores[1] < 0


@pytest.mark.parametrize(
    ("protocol", "published"),
    [
        (partial(random_cells, levels=[8]), 87.7),
        (partial(limited, axis="data_amount", levels=[5_000]), 85.4),
        (partial(limited, axis="width", levels=[2]), 84.7),
    ],
    ids=["8 cells", "data level <= 1", "width <= 2"],
)
def test_average_over_thresholds_on_the_authors_tables(
    published_rows: Callable[..., pd.DataFrame],
    protocol: Callable[[pd.DataFrame], list[Split]],
    published: float,
) -> None:
    """The figures were measured on a grid of thresholds, so they are met to a fraction of a point."""
    rows = published_rows("bs_failure")
    accuracies = [
        MDTreeClassifier(search="posterior")
        .fit(rows.loc[split.training], rows.loc[split.training, "label"])
        .score(rows.loc[split.test], rows.loc[split.test, "label"])
        for split in protocol(rows)
    ]
    assert 100 * np.mean(accuracies) == pytest.approx(published, abs=0.25)
