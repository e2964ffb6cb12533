"""The choice of `MDGaussianProcess` and its constants, on the clean zoo of the MD-tree authors alone.

    python benchmarks/choose_diagnoser.py --draws 4

Each candidate learns from some clean rows as a published protocol says, and diagnoses the clean rows left out;
the noisy zoo is not read. The draws are none of those that the leaderboard uses. A second table asks the same
of the left-out rows after each measurement has been moved by an amount drawn once a draw, as in another zoo:
by a normal deviate of `SHIFT` in logs, in log odds for CKA. It shows who leans on the exact scale of a feature.

The limited rows of the clean table have one selection, hence no error. Candidates within half a point of each
other are hardly told apart by so few draws of one zoo: the chosen constants are round values inside that
plateau, not its highest point.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd

from diagnose import MDGaussianProcess, MDTreeClassifier, coordinates, tree_prior
from diagnose.baselines import DIAGNOSERS, Diagnoser, tuned_baselines
from diagnose.coordinates import FEATURES
from diagnose.features import FEATURE_SETS
from diagnose.protocols import Split, limited, random_cells
from diagnose.published import CASES

TABLE = Path("../shared/data/mdtree/dataframe_normal_public.csv")
FIRST_DRAW = 1000
SHIFT = 0.35

DATA, WIDTH = (("data_amount",), ("width",))
PROTOCOLS: Mapping[tuple[str, str], Callable[..., Iterator[Split]]] = {
    **{("Q1", f"{n} cells"): partial(random_cells, levels=[n]) for n in (1, 2, 4, 8, 12, 24)},
    **{("Q1", f"data {n}"): partial(limited, axis="data_amount", levels=[n * 5000]) for n in (1, 2, 3)},
    **{("Q1", f"width {n}"): partial(limited, axis="width", levels=[n]) for n in (2, 3, 4)},
    **{("Q2 width", f"{n} random data"): partial(random_cells, axes=DATA, levels=[n]) for n in (1, 3)},
    **{("Q2 width", f"data {n}"): partial(limited, axis="data_amount", levels=[n * 5000]) for n in (1, 3)},
    **{("Q2 data", f"{n} random width"): partial(random_cells, axes=WIDTH, levels=[n]) for n in (1, 2)},
    **{("Q2 data", f"width {n}"): partial(limited, axis="width", levels=[n]) for n in (32, 64)},
}
"""The rows of the table: (case, what is learned from) -> splits."""

VALIDATION = ("test_error", "test_loss")
MEASURED = tuple(FEATURES)  # as it stands before a candidate changes it


class Candidate(NamedTuple):
    """A method, and what it changes of the chosen one's constants.

    Attributes:
        build: Task -> an unfitted classifier.
        columns: Task -> the columns it is given.
        units: What every unit of a feature is multiplied by.
        without: Features left out.
        families: Whether structures that answer the same question vote together.
    """

    build: Callable[[str], Any]
    columns: Callable[[str], list[str]]
    units: float = 1
    without: tuple[str, ...] = ()
    families: bool = True


def _registered(diagnoser: Diagnoser) -> Candidate:
    columns = FEATURE_SETS[diagnoser.features].columns
    return Candidate(lambda task: diagnoser.build(task, 0), lambda task: list(columns[task]))


def _tree(search: str) -> Candidate:
    return Candidate(
        lambda task: MDTreeClassifier(structure=task, search=search),
        lambda task: list(FEATURE_SETS["landscape"].columns[task]),
    )


def _process(changes: Mapping[str, Any] | None = None, **parameters: float) -> Candidate:
    return Candidate(
        lambda task: MDGaussianProcess(structure=task, **parameters),
        lambda task: [*MEASURED, *coordinates.AMOUNTS],
        **(changes or {}),
    )


CANDIDATES: Mapping[str, Candidate] = {
    "MD tree, published": _tree("published"),
    "MD tree, exact": _tree("exact"),
    "MD tree, posterior": _tree("posterior"),
    "landscape, logistic": _registered(DIAGNOSERS["landscape_logistic"]),
    "parameters, random forest": _registered(
        next(d for d in tuned_baselines() if d.name == "landscape_parameters_random_forest")
    ),
    "process without trees": _process(tree_weight=0),
    "tree weight 0.15": _process(tree_weight=0.15),
    "tree weight 0.6": _process(tree_weight=0.6),
    "one structure": _process({"families": False}),
    "amplitude 1.5": _process(amplitude=1.5),
    "amplitude 6": _process(amplitude=6),
    "units halved": _process({"units": 0.5}),
    "units doubled": _process({"units": 2}),
    "without validation": _process({"without": VALIDATION}),
    "without barrier at middle": _process({"without": ("mode_connectivity",)}),
    "CHOSEN": _process(),
}


def samples(case: str, table: Path) -> pd.DataFrame:
    """The answered clean rows of a case, with columns as `random_cells` and `limited` read them."""
    _, column, smallest = CASES[case]
    rows = pd.read_csv(table)
    rows = rows[(rows[column] != "optimal") & (rows["width"] >= smallest)].reset_index(drop=True)
    return rows.assign(label=rows[column], label_noise=0.0)


def shifted(rows: pd.DataFrame, draw: int) -> pd.DataFrame:
    """The rows as a zoo might have measured them whose features all lie elsewhere."""
    move = dict(zip(MEASURED, np.random.RandomState(draw).normal(0, SHIFT, len(MEASURED)), strict=True))
    moved = rows.copy()
    for name in ("train_error", "train_loss", "test_error", "test_loss", "mode_connectivity_peak"):
        moved[name] = rows[name] * math.exp(move[name])
    odds = rows["CKA"].clip(0.01, 0.99) / (1 - rows["CKA"].clip(0.01, 0.99)) * math.exp(move["CKA"])
    moved["CKA"] = odds / (1 + odds)
    moved["mode_connectivity"] = rows["mode_connectivity"] * math.exp(move["mode_connectivity_peak"])
    moved["hessian_t"] = rows["hessian_t"] + move["hessian_t"]
    moved["hessian_e"] = rows["hessian_e"] + move["hessian_t"] + move["hessian_e"] / 2
    for name in ("train_error", "test_error"):
        moved[name] = moved[name].clip(upper=99)
    return moved


def scores(job: tuple[str, tuple[str, str], Path, int]) -> list[dict[str, Any]]:
    """Percent right of one candidate on one row of the table, a row a draw and a side."""
    name, (case, learned), table, draws = job
    candidate, rows, task = CANDIDATES[name], samples(case, table), CASES[case].task
    columns, found = candidate.columns(task), []
    with ExitStack() as changed:
        units = {n: s._replace(unit=s.unit * candidate.units) for n, s in FEATURES.items()}
        kept = {n: s for n, s in units.items() if n not in candidate.without}
        changed.enter_context(patch.dict(coordinates.FEATURES, kept, clear=True))
        if not candidate.families:
            changed.enter_context(patch.dict(tree_prior.FAMILIES, clear=True))
        for split in PROTOCOLS[case, learned](rows, draws=range(FIRST_DRAW, FIRST_DRAW + draws)):
            training, left = rows.loc[split.training], rows.loc[split.test]
            fitted = candidate.build(task).fit(training[columns], training["label"].to_numpy())
            for side, asked in (("clean", left), ("shifted", shifted(left, split.draw))):
                right = fitted.predict(asked[columns]) == left["label"].to_numpy()
                found.append(
                    {
                        "name": name,
                        "case": case,
                        "learned": learned,
                        "side": side,
                        "right": 100 * right.mean(),
                    }
                )
    return found


def table_of(found: pd.DataFrame, side: str) -> str:
    """Mean and standard error over the draws, a line a candidate, a column a row of the protocol."""
    groups = found[found["side"] == side].groupby(["name", "case", "learned"], sort=False)["right"]
    means, errors = groups.mean(), groups.sem().fillna(0)
    lines = [f"\n{side} rows: percent right, mean (standard error) over the draws"]
    for place, (case, learned) in enumerate(PROTOCOLS):
        lines.append(f"  {place + 1:>2}: {case}, {learned}")
    lines.append(f"{'':26}{'mean':>7} " + "".join(f"{place + 1:>11}" for place in range(len(PROTOCOLS))))
    for name in dict.fromkeys(found["name"]):
        cells = [f"{means[name, *row]:.1f} ({errors[name, *row]:.1f})" for row in PROTOCOLS]
        mean = np.mean([means[name, *row] for row in PROTOCOLS])
        lines.append(f"{name:26}{mean:>7.2f} " + "".join(f"{cell:>11}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--table", type=Path, default=Path(__file__).resolve().parents[1] / TABLE)
    given = parser.parse_args()
    jobs = [(name, row, given.table, given.draws) for name, row in product(CANDIDATES, PROTOCOLS)]
    with ProcessPoolExecutor(given.processes) as pool:
        found = pd.DataFrame([row for part in pool.map(scores, jobs) for row in part])
    for side in ("clean", "shifted"):
        print(table_of(found, side))


if __name__ == "__main__":
    main()
