"""What a benchmark gives away so that any method, in any language, can enter it by a file of predictions.

splits.parquet          every selection: the configurations on either side
cases/<zoo>.parquet     what may be read of each configuration: its settings and features
answers/<zoo>.parquet   true answers, and what each answer gains
benchmark.json          who competed, what features cost, and the releases
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

import pandas as pd

from diagnose.boards import Board
from diagnose.cases import SETTINGS, Cases
from diagnose.labels import GAINS
from diagnose.protocols import Split
from diagnose.releases import Release
from zoo.storage import Store
from zoo.tables import from_bytes, from_frame, to_bytes

MANIFEST = "benchmark.json"
GAIN = "gain_"


class Benchmark(NamedTuple):
    """A benchmark as others find it: `answers` and `gains` of its zoos' cases, but no features.

    Attributes:
        zoos: Cases by the zoo's name.
        boards: What is competed on.
        diagnosers: Names of those that competed here.
        costs: What the feature sets cost, from `diagnose.feature_costs`, by the zoo's name.
        releases: Releases that it was run against.
    """

    zoos: Mapping[str, Cases]
    boards: Sequence[Board]
    diagnosers: Sequence[str]
    costs: Mapping[str, pd.DataFrame]
    releases: Sequence[Release]


def publish(store: Store, benchmark: Benchmark) -> None:
    """Write a benchmark's files; the manifest last."""
    for name, cases in benchmark.zoos.items():
        features = pd.concat([cases.features[t].assign(track=t) for t in ("single", "twin")])
        shown = cases.settings.join(features.drop(columns=[c for c in SETTINGS if c in features]))
        store.write(f"cases/{quote(name)}.parquet", shown.reset_index().to_parquet(index=False))
        store.write(f"answers/{quote(name)}.parquet", _answers(cases).to_parquet(index=False))
    splits = pd.DataFrame([row for board in benchmark.boards for row in _rows(board)])
    store.write("splits.parquet", to_bytes(from_frame("splits", splits)))
    manifest = {
        "zoos": list(benchmark.zoos),
        "diagnosers": list(benchmark.diagnosers),
        "costs": {name: table.reset_index().to_dict("records") for name, table in benchmark.costs.items()},
        "releases": [json.loads(release.to_json()) for release in benchmark.releases],
    }
    store.write(MANIFEST, json.dumps(manifest, indent=1).encode())


def reopen(store: Store) -> Benchmark:
    """The benchmark in a folder.

    Raises:
        FileNotFoundError: If there is none.
    """
    if not store.exists(MANIFEST):
        raise FileNotFoundError(
            f"{store} holds no benchmark ({MANIFEST} is missing); `mdzoo benchmark --out` makes one"
        )
    manifest = json.loads(store.read(MANIFEST))
    splits = from_bytes("splits", store.read("splits.parquet"), "splits.parquet").to_pandas()
    keys = ["zoo", "training_zoo", "task", "protocol", "level"]
    boards = [
        Board(zoo, tuple(learned.split("+")), task, protocol, int(level), tuple(_splits(rows)))
        for (zoo, learned, task, protocol, level), rows in splits.groupby(keys, sort=False)
    ]
    return Benchmark(
        {name: _cases(store, name) for name in manifest["zoos"]},
        boards,
        manifest["diagnosers"],
        {name: pd.DataFrame(rows).set_index("features") for name, rows in manifest["costs"].items()},
        [Release(release["name"], release["boards"]) for release in manifest["releases"]],
    )


def _answers(cases: Cases) -> pd.DataFrame:
    """A row a configuration and task."""
    return pd.concat(
        [
            answers.join(cases.gains[task].add_prefix(GAIN)).assign(task=task).reset_index()
            for task, answers in cases.answers.items()
        ]
    )


def _cases(store: Store, zoo: str) -> Cases:
    """The cases of a zoo, but for their features."""
    rows = _frame(store, f"answers/{quote(zoo)}.parquet").set_index("config_id")
    answers, gains = {}, {}
    for task, own in rows.groupby("task", sort=False):
        answers[str(task)] = own[["label", "clear"]]
        gains[str(task)] = own.rename(columns=lambda name: name.removeprefix(GAIN))[list(GAINS[str(task)])]
    settings = _frame(store, f"cases/{quote(zoo)}.parquet", ["config_id", *SETTINGS])
    return Cases(settings.drop_duplicates("config_id").set_index("config_id"), {}, answers, gains)


def _frame(store: Store, name: str, columns: list[str] | None = None) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(store.read(name)), columns=columns)


def _rows(board: Board) -> Iterable[dict[str, object]]:
    """A row of the table `splits` for each selection of a board, with all draws that make it."""
    drawn: dict[str, list[Split]] = {}
    for split in board.splits:
        drawn.setdefault(split.split_id, []).append(split)
    for split_id, splits in drawn.items():
        yield {
            "zoo": board.zoo,
            "training_zoo": board.training_zoo,
            "task": board.task,
            "protocol": board.protocol,
            "level": board.level,
            "draws": [split.draw for split in splits],
            "split_id": split_id,
            "training": list(splits[0].training),
            "test": list(splits[0].test),
        }


def _splits(rows: pd.DataFrame) -> Iterable[Split]:
    """The selections of a board, from its rows of the table `splits`."""
    for row in rows.to_dict("records"):
        sides = (pd.Index(row[side], name="config_id") for side in ("training", "test"))
        training, test = sides
        for draw in row["draws"]:
            yield Split(row["protocol"], int(row["level"]), int(draw), training, test)
