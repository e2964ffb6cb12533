"""The published table on the authors' tables, to 0.05 points: percent correct on the noisy zoo."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pandas as pd
import pytest

from diagnose import DIAGNOSERS, FEATURE_SETS, MDTreeClassifier, Split, limited, random_cells

CASES = {
    "Q1, 8 random cells": ("temperature", partial(random_cells, levels=[8])),
    "Q1, data level <= 1": ("temperature", partial(limited, axis="data_amount", levels=[5_000])),
    "Q1, width <= 2": ("temperature", partial(limited, axis="width", levels=[2])),
    "Q2 width, 1 random data level": ("width", partial(random_cells, levels=[1], axes=["data_amount"])),
    "Q2 width, data level <= 1": ("width", partial(limited, axis="data_amount", levels=[5_000])),
    "Q2 data, 1 random width": ("data", partial(random_cells, levels=[1], axes=["width"])),
    "Q2 data, width <= 32": ("data", partial(limited, axis="width", levels=[32])),
}
MD_TREE = [87.70, 75.89, 82.56, 74.10, 78.16, 76.66, 76.34]
HYPERPARAMETER = [49.56, 64.74, 60.12, 53.54, 53.54, 61.20, 61.20]
VALIDATION = [72.82, 51.73, 67.55, 55.79, 63.61, 69.05, 67.82]
TRAINING_ROWS = [96, 156, 120, 167, 167, 127, 127]


@pytest.fixture(scope="module")
def case(
    published_rows: Callable[..., pd.DataFrame],
) -> Callable[[str], tuple[str, pd.DataFrame, list[Split]]]:
    """Name of a case -> its task, its rows, and its splits for the published draws."""
    columns = {"temperature": "bs_failure", "width": "width_vs_batch", "data": "data_vs_batch"}

    def found(name: str) -> tuple[str, pd.DataFrame, list[Split]]:
        task, protocol = CASES[name]
        rows = published_rows(columns[task], smallest_width=32 if task == "data" else 0)
        return task, rows, list(protocol(rows))

    return found


def _accuracies(
    build: Callable[[int], object], rows: pd.DataFrame, splits: list[Split], columns: list[str]
) -> Iterator[float]:
    for split in splits:
        training, test = rows.loc[split.training], rows.loc[split.test]
        fitted = build(split.draw).fit(training[columns], training["label"])  # type: ignore[attr-defined]
        yield 100 * float(np.mean(fitted.predict(test[columns]) == test["label"]))


@pytest.mark.parametrize(("name", "published"), [*zip(CASES, MD_TREE, strict=True)])
def test_md_tree(
    case: Callable[..., tuple[str, pd.DataFrame, list[Split]]], name: str, published: float
) -> None:
    task, rows, splits = case(name)
    accuracies = list(
        _accuracies(lambda _: MDTreeClassifier(structure=task), rows, splits, rows.columns.tolist())
    )
    assert len(accuracies) == 5
    assert np.mean(accuracies) == pytest.approx(published, abs=0.05)


@pytest.mark.parametrize(
    ("features", "name", "published"),
    [
        *zip(["hyperparameter"] * 7, CASES, HYPERPARAMETER, strict=True),
        *zip(["validation"] * 7, CASES, VALIDATION, strict=True),
    ],
)
def test_baseline_trees(
    case: Callable[..., tuple[str, pd.DataFrame, list[Split]]], features: str, name: str, published: float
) -> None:
    task, rows, splits = case(name)
    columns = list(FEATURE_SETS[features].columns[task])
    # The two figures of Q2 data were measured with the released script, which keeps the first seed for all.
    seeds = {split.draw: 42 if task == "data" else split.draw for split in splits}
    build = DIAGNOSERS[f"{features}_tree"].build
    accuracies = list(_accuracies(lambda draw: build(task, seeds[draw]), rows, splits, columns))
    assert np.mean(accuracies) == pytest.approx(published, abs=0.05)


@pytest.mark.parametrize(("name", "rows_learned_from"), [*zip(CASES, TRAINING_ROWS, strict=True)])
def test_training_sizes(
    case: Callable[..., tuple[str, pd.DataFrame, list[Split]]], name: str, rows_learned_from: int
) -> None:
    _, rows, splits = case(name)
    assert {len(split.test) for split in splits} == {int((rows["label_noise"] > 0).sum())}
    assert len(splits[-1].training) == rows_learned_from


def test_exact_search_gains_nine_points_on_the_data_limited_protocol(
    case: Callable[..., tuple[str, pd.DataFrame, list[Split]]],
) -> None:
    """Recipes: an exact joint search inside the bounds gains 9.5 points there."""
    task, rows, splits = case("Q1, data level <= 1")
    exact = _accuracies(
        lambda _: MDTreeClassifier(structure=task, search="exact"), rows, splits[:1], rows.columns.tolist()
    )
    assert next(exact) == pytest.approx(75.89 + 9.5, abs=0.5)


def test_exact_search_labels_at_least_as_much_of_the_training_side_right(
    case: Callable[..., tuple[str, pd.DataFrame, list[Split]]],
) -> None:
    for name in CASES:
        task, rows, splits = case(name)
        training = rows.loc[splits[0].training]
        scores = [
            MDTreeClassifier(structure=task, search=search).fit(training, training["label"])
            for search in ("published", "exact")
        ]
        published, exact = (tree.score(training, training["label"]) for tree in scores)
        assert exact >= published
