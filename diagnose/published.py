"""The published experiment, whole, on the authors' tables: all cases, methods and curves of its figures.

Source: Zhou et al., "MD tree: a model-diagnostic tree grown on loss landscape", ICML 2024, and the authors'
code. A diagnoser learns from the clean zoo and is tested on the noisy one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.tree import DecisionTreeClassifier

from diagnose.features import FEATURE_SETS
from diagnose.md_tree import MDTreeClassifier
from diagnose.one_step import mean_effects, published_one_step
from diagnose.protocols import PUBLISHED_DRAWS, Split, limited, random_cells

FILES = {0.0: "dataframe_normal_public.csv", 0.1: "dataframe_noise_public.csv"}
"""The authors' tables by label noise."""

ROWS = 13 * 13 * 10
"""Configurations of either zoo: widths x batch sizes x data amounts."""

_NEEDED = (
    *("data_amount", "log_data_amount", "log_para_amount", "width", "bs", "test_acc"),
    *("train_error", "train_loss", "test_loss", "test_error"),
    *("mode_connectivity_peak", "CKA", "hessian_t"),
    *("bs_failure", "width_vs_batch", "data_vs_batch"),
)


def read_published(folder: str | Path) -> pd.DataFrame:
    """The authors' two tables as one.

    Args:
        folder: Where `FILES` lie.

    Returns:
        Their columns, with `bs` and `test_acc` as `batch_size` and `test_accuracy`, and `label_noise`; the
        clean zoo first.

    Raises:
        FileNotFoundError: If a table is not there.
        ValueError: If a table lacks columns, rows or values.
    """
    both = pd.concat(
        [_table(Path(folder) / name).assign(label_noise=noise) for noise, name in FILES.items()],
        ignore_index=True,
    )
    return both.rename(columns={"bs": "batch_size", "test_acc": "test_accuracy"})


def _table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there; the published experiment needs {list(FILES.values())} of YefanZhou/ModelDiagnosis"
        )
    table = pd.read_csv(path)
    if missing := [column for column in _NEEDED if column not in table]:
        raise ValueError(f"{path} lacks the columns {missing}; give the authors' table as it is")
    different = len(table.drop_duplicates(["width", "bs", "data_amount"]))
    if not len(table) == different == ROWS:
        raise ValueError(
            f"{path} has {len(table)} rows of {different} configurations; it must have one for each of the {ROWS}"
        )
    if empty := [column for column in _NEEDED if table[column].isna().any()]:
        raise ValueError(f"{path} has empty cells in the columns {empty}; the authors' table has none")
    return table


class Case(NamedTuple):
    """A question to the published tables."""

    task: str
    labels: str
    smallest_width: int


CASES: Mapping[str, Case] = {
    "Q1": Case("temperature", "bs_failure", 0),
    "Q2 width": Case("width", "width_vs_batch", 0),
    "Q2 data": Case("data", "data_vs_batch", 32),
}
"""The published cases by name."""

Methods = Mapping[str, tuple[str, ...] | None]
"""The columns that each method reads, in the published order, which decides ties; None for an MD tree."""

COMPARED = ("hyperparameter_tree", "validation_tree", "md_tree")
"""The methods of the published table; every curve has them."""


class Curve(NamedTuple):
    """A published curve: a case, its rows -> splits, and the methods shown."""

    case: str
    splits: Callable[..., Iterator[Split]]
    methods: Methods


def _curve(case: str, splits: Callable[..., Iterator[Split]], others: Methods) -> Curve:
    columns = (FEATURE_SETS[name].columns[CASES[case].task] for name in ("hyperparameter", "validation"))
    return Curve(case, splits, {**dict(zip(COMPARED, (*columns, None), strict=True)), **others})


_Q1: Methods = {
    "hyperparameter_validation_tree": (
        FEATURE_SETS["hyperparameter"].columns["temperature"]
        + FEATURE_SETS["validation"].columns["temperature"]
    ),
    "md_tree_similarity": None,
}
_LANDSCAPE: Methods = {"landscape_tree": ("train_error", "mode_connectivity_peak", "CKA", "hessian_t")}
_HESSIAN_FIRST: Methods = {"landscape_tree": ("train_error", "mode_connectivity_peak", "hessian_t", "CKA")}

CURVES = (
    _curve("Q1", partial(random_cells, levels=range(1, 25)), {**_Q1, **_LANDSCAPE}),
    _curve("Q1", partial(limited, axis="data_amount"), _Q1),
    _curve("Q1", partial(limited, axis="width"), {**_Q1, **_HESSIAN_FIRST}),
    _curve("Q2 width", partial(random_cells, levels=range(1, 11), axes=["data_amount"]), _LANDSCAPE),
    _curve("Q2 width", partial(limited, axis="data_amount"), {}),
    _curve("Q2 data", partial(random_cells, levels=range(1, 6), axes=["width"]), {}),
    _curve("Q2 data", partial(limited, axis="width"), {}),
)
"""The curves of the published figures."""


def published_experiment(
    folder: str | Path,
    draws: Sequence[int] = PUBLISHED_DRAWS,
    curves: Sequence[Curve] = CURVES,
    tree_seed: int | None = None,
) -> pd.DataFrame:
    """Every method on every level of the published curves.

    Args:
        folder: Where the authors' tables lie.
        draws: Seeds of the draws.
        curves: Which to run.
        tree_seed: Seed of the trees; None takes each draw's own, as in the published table. The authors' code
            as released keeps the first draw's.

    Returns:
        A row a case, protocol, level, draw and method; `accuracy` in percent of the noisy zoo's rows that have
        an answer. Data amounts are image counts.
    """
    return _experiment(read_published(folder), draws, curves, tree_seed)


def _experiment(
    tables: pd.DataFrame, draws: Sequence[int], curves: Sequence[Curve], tree_seed: int | None
) -> pd.DataFrame:
    rows = []
    for curve in curves:
        task, labels, smallest_width = CASES[curve.case]
        asked = tables[(tables[labels] != "optimal") & (tables["width"] >= smallest_width)]
        for split in curve.splits(asked, draws=draws):
            training, test = asked.loc[split.training], asked.loc[split.test]
            about = {"case": curve.case, "protocol": split.protocol, "level": split.level, "draw": split.draw}
            sizes = {"training_rows": len(training), "test_rows": len(test)}
            for method, columns in curve.methods.items():
                read = list(columns or asked.columns)
                model = _model(method, task, split.draw if tree_seed is None else tree_seed)
                answers = model.fit(training[read], training[labels]).predict(test[read])
                accuracy = 100 * float(np.mean(answers == test[labels].to_numpy()))
                rows.append({**about, "method": method, **sizes, "accuracy": accuracy})
    return pd.DataFrame(rows)


def _model(method: str, task: str, seed: int) -> Any:
    """An unfitted classifier."""
    if method == "md_tree_similarity":
        return MDTreeClassifier(structure=f"{task}-similarity")
    if method == "md_tree":
        return MDTreeClassifier(structure=task)
    return DecisionTreeClassifier(criterion="gini", max_depth=4, random_state=seed)


_TABLE = "table"
_NOTEBOOKS = "notebooks"
_MEASURED = "authors' code"

FIGURES: Mapping[tuple[str, str], Mapping[int, tuple[str, float, float, float]]] = {
    ("Q1", "random_cells"): {8: (_TABLE, 49.56, 72.82, 87.70)},
    ("Q1", "data_amount_limited"): {
        5_000: (_TABLE, 64.74, 51.73, 75.89),
        10_000: (_NOTEBOOKS, 64.74, 78.18, 82.69),
        15_000: (_NOTEBOOKS, 64.74, 78.59, 81.60),
        20_000: (_NOTEBOOKS, 55.64, 79.23, 90.19),
    },
    ("Q1", "width_limited"): {
        2: (_TABLE, 60.12, 67.55, 82.56),
        3: (_NOTEBOOKS, 61.67, 69.42, 82.82),
        4: (_NOTEBOOKS, 63.62, 69.63, 82.82),
        6: (_NOTEBOOKS, 63.85, 49.45, 91.28),
    },
    ("Q2 width", "random_data_amount"): {
        1: (_TABLE, 53.54, 55.79, 74.10),
        2: (_NOTEBOOKS, 53.55, 68.14, 75.42),
        3: (_NOTEBOOKS, 53.55, 67.23, 76.88),
        4: (_NOTEBOOKS, 53.55, 67.27, 77.84),
    },
    ("Q2 width", "data_amount_limited"): {
        5_000: (_TABLE, 53.54, 63.61, 78.16),
        10_000: (_NOTEBOOKS, 53.55, 73.00, 80.90),
        15_000: (_NOTEBOOKS, 53.55, 73.95, 79.50),
        20_000: (_NOTEBOOKS, 53.55, 74.89, 79.50),
    },
    ("Q2 data", "random_width"): {1: (_MEASURED, 61.20, 69.05, 76.66)},
    ("Q2 data", "width_limited"): {32: (_MEASURED, 61.20, 67.82, 76.34)},
}
"""Accuracies by curve and level, of the methods `COMPARED`: those of the published table, those that the
authors' notebooks print, and two rows measured by running the authors' code."""

_LEVEL = ["case", "protocol", "level"]


def averages(accuracies: pd.DataFrame) -> pd.DataFrame:
    """The curves: means over the draws, beside the published figures where there are any.

    Args:
        accuracies: From `published_experiment`.

    Returns:
        A row a case, protocol, level and method: `accuracy` (mean) and `spread` (standard deviation over the
        draws, with n, as published) in percent, mean `training_rows`, `published`, `source` and `difference`.
    """
    means = accuracies.groupby([*_LEVEL, "method"], sort=False, as_index=False).agg(
        training_rows=("training_rows", "mean"),
        test_rows=("test_rows", "first"),
        draws=("draw", "size"),
        accuracy=("accuracy", "mean"),
        spread=("accuracy", lambda values: values.std(ddof=0)),
    )
    figures = pd.DataFrame(
        [
            (*curve, level, method, published, source)
            for curve, levels in FIGURES.items()
            for level, (source, *numbers) in levels.items()
            for method, published in zip(COMPARED, numbers, strict=True)
        ],
        columns=[*_LEVEL, "method", "published", "source"],
    )
    beside = means.merge(figures, how="left", on=[*_LEVEL, "method"])
    return beside.assign(difference=beside["accuracy"] - beside["published"])


class Report(NamedTuple):
    """What `published_report` gives: tables by name, and the page."""

    tables: Mapping[str, pd.DataFrame]
    page: str


def published_report(folder: str | Path, draws: Sequence[int] = PUBLISHED_DRAWS) -> Report:
    """The whole published experiment and the one-step experiment; writes nothing.

    Args:
        folder: Where the authors' tables lie.
        draws: Seeds.

    Returns:
        The tables `published_draws`, `published`, `one_step_draws` and `one_step`, and the page of `markdown`.
    """
    tables = read_published(folder)
    accuracies, steps = _experiment(tables, draws, CURVES, None), published_one_step(tables, draws)
    curves, gains = averages(accuracies), mean_effects(steps)
    named = {"published_draws": accuracies, "published": curves, "one_step_draws": steps, "one_step": gains}
    return Report(named, markdown(curves, gains))


def markdown(curves: pd.DataFrame, gains: pd.DataFrame) -> str:
    """The page: our figures beside the published ones, the curves, and the one-step changes.

    Args:
        curves: From `averages`.
        gains: From `diagnose.one_step.mean_effects`.
    """
    lines = ["# The published experiment", "", _INTRODUCTION, "", "## Beside the published figures", ""]
    lines += [_BESIDE, "", *_beside(curves), "", "## Curves", "", _CURVES_NOTE, ""]
    for (case, protocol), curve in curves.groupby(_LEVEL[:2], sort=False):
        lines += [f"### {case}, {protocol}", "", *_curve_table(curve), ""]
    lines += ["## One-step change", "", _STEPS_NOTE, "", *_step_table(gains)]
    return "\n".join(lines) + "\n"


_INTRODUCTION = (
    "Everything that Zhou et al. (MD tree, ICML 2024) show in their figures of diagnosis accuracy, from the "
    "authors' tables: learned from the clean zoo, tested on the zoo with 10% label noise. Accuracies are percent "
    "of the test rows, means over the draws ± their standard deviation (with n, as published). Levels of data "
    "are image counts."
)
_BESIDE = (
    "Each cell: ours / published / difference. Source: `table` is the published table, `notebooks` is what the "
    "authors' notebooks print, `authors' code` was measured by running it. That code as released keeps the first "
    "draw's seed in the trees of all draws, and so do the last two rows' published figures; ours take the seed of "
    "the draw, as the published table does."
)
_CURVES_NOTE = "Rows: level (training rows → test rows)."
_STEPS_NOTE = (
    "Gain in test accuracy, in points, after one / a random / the best step along the diagnosed axis. Clipped "
    "counts a loss as zero, as published; the gain does not. Harmed: percent of the rows that lose, and their "
    "mean loss. The oracle knows which axis holds the best configuration, not which of its steps help."
)


def _beside(curves: pd.DataFrame) -> Iterator[str]:
    yield from _head("case", "protocol", "level", "training rows", "source", *COMPARED)
    known = curves.dropna(subset="published")
    for (case, protocol, level), part in known.groupby(_LEVEL, sort=False):
        first, shown = part.iloc[0], part.set_index("method").loc[list(COMPARED)]
        triples = shown[["accuracy", "published", "difference"]].itertuples(index=False)
        cells = [f"{ours:.2f} / {theirs:.2f} / {difference:+z.2f}" for ours, theirs, difference in triples]
        size = f"{first['training_rows']:.0f}"
        yield _line(str(case), str(protocol), f"{level:,}", size, first["source"], *cells)


def _curve_table(curve: pd.DataFrame) -> Iterator[str]:
    methods = list(dict.fromkeys(curve["method"]))
    yield from _head("level", *methods)
    for level, part in curve.groupby("level", sort=False):
        first, shown = part.iloc[0], part.set_index("method").loc[methods]
        numbers = shown[["accuracy", "spread"]].itertuples(index=False)
        sizes = f"{level:,} ({first['training_rows']:.0f} → {first['test_rows']})"
        yield _line(sizes, *(f"{accuracy:.2f} ± {spread:.2f}" for accuracy, spread in numbers))


def _step_table(gains: pd.DataFrame) -> Iterator[str]:
    yield from _head("question", "method", "clipped", "published", "gain", "harmed (%)", "harm")
    for (question, method), part in gains.groupby(["question", "method"], sort=False):
        columns = [(part["clipped"], 2), (part["published"], 2), (part["gain"], 2)]
        columns += [(part["harmed"], 1), (part["harm"], 2)]
        cells = [" / ".join(f"{number:.{digits}f}" for number in column) for column, digits in columns]
        yield _line(str(question), str(method), *cells)


def _head(*names: str) -> Iterator[str]:
    yield _line(*names)
    yield _line(*(["---"] * len(names)))


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
