"""Diagnosis: fit and predict against a row-by-row predictor, same structure, same data, same run.

    python benchmarks/bench_diagnose.py

The rival is the published way: nested conditions asked of one row at a time, each threshold by SciPy's bounded
scalar minimisation of minus the training accuracy, one pass. The same search by `MDTreeClassifier` must find
the same thresholds and give the same answers; the exact search and the posterior are timed beside it. Data: the
authors' tables if they lie beside the repository, else as many rows drawn at random.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from diagnose import STRUCTURES, MDTreeClassifier, Tree

ROUNDS = 5
TABLES = Path(__file__).resolve().parents[1] / "../shared/data/mdtree"


def samples(name: str, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """Features and answers to Q1 of one of the authors' tables, or drawn."""
    features = STRUCTURES["temperature"].features()
    path = TABLES / f"dataframe_{name}_public.csv"
    if path.exists():
        table = pd.read_csv(path).query("bs_failure != 'optimal'")
        return table[features], table["bs_failure"].tolist()
    draw = np.random.RandomState(seed)
    values = draw.uniform((0, -30, 4), (1, 0, 9), size=(1_560, 3))
    return pd.DataFrame(values, columns=features), draw.choice(["small", "large"], 1_560).tolist()


def by_row(tree: Tree, rows: Sequence[dict[str, float]], thresholds: Sequence[float]) -> list[str]:
    """The answer to each row, one condition after the other."""
    places = {id(split): place for place, split in enumerate(tree.splits())}
    answers = []
    for row in rows:
        branch: Tree | str = tree
        while isinstance(branch, Tree):
            low = row[branch.feature] <= thresholds[places[id(branch)]]
            branch = branch.below if low else branch.above
        answers.append(branch)
    return answers


def published_way(X: pd.DataFrame, y: Sequence[str], test: pd.DataFrame) -> tuple[list[float], Sequence[str]]:
    """Thresholds and answers, row by row."""
    tree, rows = STRUCTURES["temperature"], X.to_dict("records")
    thresholds = [split.start for split in tree.splits()]
    for place, split in enumerate(tree.splits()):

        def loss(threshold: float, place: int = place) -> float:
            trial = [*thresholds[:place], threshold, *thresholds[place + 1 :]]
            answers = by_row(tree, rows, trial)
            return -sum(a == b for a, b in zip(answers, y, strict=True)) / len(y)

        thresholds[place] = float(minimize_scalar(loss, bounds=split.bounds, method="bounded").x)
    return thresholds, by_row(tree, test.to_dict("records"), thresholds)


def ours(search: str) -> Callable[..., tuple[list[float], Sequence[str]]]:
    """Thresholds and answers by the classifier."""

    def run(X: pd.DataFrame, y: Sequence[str], test: pd.DataFrame) -> tuple[list[float], Sequence[str]]:
        tree = MDTreeClassifier(search=search).fit(X, y)
        return tree.thresholds_.tolist(), tree.predict(test).tolist()

    return run


def main() -> None:
    """Print a line a method: median seconds, their range, the ratio to the rival, percent right."""
    (X, y), (test, true) = samples("normal", 0), samples("noise", 1)
    methods = {"row by row": published_way} | {s: ours(s) for s in ("published", "exact", "posterior")}
    results = {name: method(X, y, test) for name, method in methods.items()}
    np.testing.assert_allclose(results["published"][0], results["row by row"][0])
    assert list(results["published"][1]) == list(results["row by row"][1])
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(ROUNDS):
        for name, method in methods.items():
            began = time.perf_counter()
            method(X, y, test)
            seconds[name].append(time.perf_counter() - began)
    print(f"fit on {len(X):,} rows and predict {len(test):,}, structure temperature, {ROUNDS} rounds")
    print(f"{'search':12} {'seconds':>9} {'range':>17} {'times faster (range)':>26} {'percent right':>14}")
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(seconds["row by row"], taken, strict=True)]
        middle, ratio = statistics.median(taken), statistics.median(ratios)
        right = 100 * np.mean([a == b for a, b in zip(results[name][1], true, strict=True)])
        spread = f"{min(taken):.4f}-{max(taken):.4f}"
        times = f"{ratio:.1f} ({min(ratios):.1f}-{max(ratios):.1f})"
        print(f"{name:12} {middle:>9.4f} {spread:>17} {times:>26} {right:>14.1f}")


if __name__ == "__main__":
    main()
