"""Zoos made of numbers, and the authors' tables where they are at hand.

Functions that tests call come as fixtures, as test files cannot import one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from diagnose import Cases, ZooTables, cases_of, label, published_cases
from diagnose.features import METRICS
from zoo.config import TrainConfig
from zoo.tables import from_frame, to_table

PAIR_METRICS = ("mode_connectivity", "mode_connectivity_peak", "cka", "agreement", "l2_distance")


def _config_row(parameters: int = 1, **settings: Any) -> dict[str, Any]:
    """A row of `configs`; what is not given is that of a small grid on digits."""
    given: dict[str, Any] = {
        "dataset": "digits",
        "data_fingerprint": "f",
        "architecture": "cnn",
        "width": 2,
        "batch_size": 8,
    }
    config = TrainConfig(**(given | {"data_amount": 100, "sample_passes": 1000} | settings))
    fields = {name: getattr(config, name) for name in TrainConfig.__dataclass_fields__}
    return fields | {
        "config_id": config.config_id,
        "parameters": parameters,
        "canonical_json": config.canonical_json(),
    }


def _run_row(config_id: str, seed: int = 0, status: str = "done", **numbers: float) -> dict[str, Any]:
    """A row of `runs`."""
    return {
        "run_id": f"{config_id}-{seed}",
        "config_id": config_id,
        "seed": seed,
        "status": status,
        **numbers,
    }


def _frame(name: str, rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a zoo gives them back: through the Arrow schema."""
    return to_table(name, list(rows)).to_pandas()


def _graded(accuracies: Iterable[tuple[dict[str, Any], float]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables configs and runs with one finished run of the given test accuracy a configuration."""
    rows = [(_config_row(**settings), accuracy) for settings, accuracy in accuracies]
    runs = [_run_row(row["config_id"], test_error=100 - accuracy) for row, accuracy in rows]
    return _frame("configs", (row for row, _ in rows)), _frame("runs", runs)


def _measured(config: dict[str, Any], draw: np.random.RandomState) -> Iterable[dict[str, Any]]:
    for seed, metric in product(range(2), METRICS):
        value = float(draw.rand() * config["batch_size"] - (40 if "peak" in metric else 0))
        run_id = f"{config['config_id']}-{seed}"
        row = {"config_id": config["config_id"], "run_id": run_id, "step": 9, "metric": metric}
        if metric in PAIR_METRICS:
            row["other_run_id"] = f"{config['config_id']}-{1 - seed}"
        yield row | {"recipe": "default", "split": "train", "value": value}


def _made(noises: tuple[float, ...], architecture: str) -> ZooTables:
    """48 or 24 configurations whose test error has its valley at batch 8; the training error tells the batch."""
    draw = np.random.RandomState(0)
    grid = product((1, 2), (100, 200, 400), (2, 4, 8, 16), noises)
    configs = [
        _config_row(
            parameters=100 * width,
            architecture=architecture,
            width=width,
            data_amount=amount,
            batch_size=batch,
            label_noise=noise,
        )
        for width, amount, batch, noise in grid
    ]
    runs = []
    for config, seed in product(configs, range(2)):
        b, error = float(np.log2(config["batch_size"])), 40 - 8 * config["width"] - config["data_amount"] / 50
        error = error + 3 * (b - 3) ** 2 + draw.rand() + 20 * config["label_noise"]
        numbers = dict.fromkeys(("validation_error", "test_error"), error) | {"train_error": 10 * (4 - b)}
        numbers |= dict.fromkeys(("train_loss", "validation_loss", "test_loss"), error / 40)
        runs.append(_run_row(config["config_id"], seed, **numbers))
    metrics = [row for config in configs for row in _measured(config, draw)]
    tables = _frame("configs", configs), _frame("runs", runs), _frame("metrics", metrics)
    return ZooTables(*tables, label(*tables[:2]))


def _published_rows(authors: dict[float, pd.DataFrame], column: str, smallest_width: int = 0) -> pd.DataFrame:
    """Both tables as one zoo: rows with an answer in a column of theirs, and all of their features."""
    both = pd.concat([table.assign(label_noise=noise) for noise, table in authors.items()])
    both = both.assign(label=both[column], config_id=[f"{i:04}" for i in range(len(both))])
    kept = both[(both["label"] != "optimal") & (both["width"] >= smallest_width)]
    return kept.set_index("config_id")


def _said(labels: Iterable[str], predicted: Iterable[str | None], **given: Any) -> pd.DataFrame:
    """Predictions of one diagnoser on one selection, as a table gives them back."""
    rows = pd.DataFrame({"label": list(labels), "predicted": list(predicted)})
    place = {
        "zoo": "made",
        "training_zoo": "made",
        "task": "temperature",
        "protocol": "random_cells",
        "level": 1,
    }
    entry = {"diagnoser": "x", "features": "validation", "track": "single", "draw": 1, "split_id": "s"}
    known = {"training_rows": 5, "clear": True, "regret": 0.0, "seconds": 0.1, "package_version": "0"}
    rows = rows.assign(**(place | entry | known | given), config_id=[f"c{i}" for i in range(len(rows))])
    return from_frame("predictions", rows).to_pandas(strings_to_categorical=True)


@pytest.fixture(scope="session")
def said() -> Callable[..., pd.DataFrame]:
    """(labels, predicted, columns) -> predictions of one diagnoser on one selection."""
    return _said


@pytest.fixture(scope="session")
def authors(shared_data: Path) -> dict[float, pd.DataFrame]:
    """The authors' tables by label noise, with their columns."""
    names = {0.0: "dataframe_normal_public.csv", 0.1: "dataframe_noise_public.csv"}
    return {noise: pd.read_csv(shared_data / "mdtree" / name) for noise, name in names.items()}


@pytest.fixture(scope="session")
def noisy_zoo() -> ZooTables:
    """A zoo with a clean half and one with label noise."""
    return _made((0.0, 0.1), "cnn")


@pytest.fixture(scope="session")
def clean_zoo() -> ZooTables:
    """A zoo without label noise."""
    return _made((0.0,), "mlp")


@pytest.fixture(scope="session")
def noisy_cases(noisy_zoo: ZooTables) -> Cases:
    """The cases of `noisy_zoo`."""
    return cases_of(noisy_zoo)


@pytest.fixture(scope="session")
def clean_cases(clean_zoo: ZooTables) -> Cases:
    """The cases of `clean_zoo`."""
    return cases_of(clean_zoo)


@pytest.fixture(scope="session")
def authors_cases(shared_data: Path) -> Cases:
    """The authors' tables as the cases of one zoo."""
    return published_cases(shared_data / "mdtree")


@pytest.fixture(scope="session")
def config_row() -> Callable[..., dict[str, Any]]:
    """Settings -> a row of `configs`."""
    return _config_row


@pytest.fixture(scope="session")
def run_row() -> Callable[..., dict[str, Any]]:
    """(config_id, seed, status, numbers) -> a row of `runs`."""
    return _run_row


@pytest.fixture(scope="session")
def frame() -> Callable[..., pd.DataFrame]:
    """(table, rows) -> the table as a zoo gives it back."""
    return _frame


@pytest.fixture(scope="session")
def graded() -> Callable[..., tuple[pd.DataFrame, pd.DataFrame]]:
    """Pairs of settings and test accuracy -> tables configs and runs."""
    return _graded


@pytest.fixture(scope="session")
def published_rows(authors: dict[float, pd.DataFrame]) -> Callable[..., pd.DataFrame]:
    """(column of labels, smallest width) -> both tables of the authors as one zoo, answered rows only."""
    return lambda column, smallest_width=0: _published_rows(authors, column, smallest_width)
