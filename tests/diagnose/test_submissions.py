"""Predictions that come in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diagnose import Cases, boards
from diagnose.arena import Arena, predictions
from diagnose.baselines import DIAGNOSERS
from diagnose.exchange import Benchmark, publish, reopen
from diagnose.releases import freeze
from diagnose.submissions import enter, read_submission
from zoo.storage import Folder

TASKS = ("temperature", "remedy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, noisy_cases: Cases) -> Folder:
    """A benchmark in which the landscape's tree has competed."""
    store, zoos = Folder(tmp_path_factory.mktemp("benchmark")), {"noisy": noisy_cases}
    competed = [board for board in boards(zoos, (42, 90)) if board.task in TASKS]
    arena = Arena(store, zoos, competed, [DIAGNOSERS["validation_tree"]])
    list(arena.run(arena.due()))
    publish(store, Benchmark(zoos, competed, ["validation_tree"], {}, [freeze("mine-1", competed)]))
    return store


@pytest.fixture(scope="module")
def same(folder: Folder) -> pd.DataFrame:
    """What the tree said, as if another language had said it."""
    parts = [predictions(folder, board, ["validation_tree"]) for board in reopen(folder).boards]
    rows = pd.concat([part.astype(object) for part in parts])
    rows = rows.drop_duplicates(["task", "split_id", "draw", "config_id"])
    return rows[["task", "split_id", "draw", "config_id", "predicted", "features"]].assign(diagnoser="theirs")


def _entered(folder: Folder, rows: pd.DataFrame) -> pd.DataFrame:
    assert enter(folder, reopen(folder), rows) == ["theirs"]
    parts = [predictions(folder, board, []).astype(object) for board in reopen(folder).boards]
    return pd.concat(parts, ignore_index=True)


def test_a_benchmark_is_found_again_as_it_was_written(folder: Folder, noisy_cases: Cases) -> None:
    found = reopen(folder)
    competed = [board for board in boards({"noisy": noisy_cases}, (42, 90)) if board.task in TASKS]
    assert [board.name for board in found.boards] == [board.name for board in competed]
    for ours, theirs in zip(competed, found.boards, strict=True):
        assert {(s.draw, s.split_id) for s in ours.splits} == {(s.draw, s.split_id) for s in theirs.splits}
        assert found.releases[0].covers(theirs)
    for task in TASKS:
        pd.testing.assert_frame_equal(found.zoos["noisy"].answers[task], noisy_cases.answers[task])
        pd.testing.assert_frame_equal(found.zoos["noisy"].gains[task], noisy_cases.gains[task])


def test_the_same_answers_in_a_file_are_judged_alike(folder: Folder, same: pd.DataFrame) -> None:
    judged = _entered(folder, same)
    ours = [predictions(folder, board, ["validation_tree"]) for board in reopen(folder).boards]
    ours = pd.concat([part.astype(object) for part in ours], ignore_index=True)
    ours = ours[ours["diagnoser"] == "validation_tree"]
    given = ["diagnoser", "probability", "label_probability", "seconds"]
    keys = ["task", "protocol", "level", "draw", "config_id"]
    pd.testing.assert_frame_equal(
        judged.drop(columns=given).sort_values(keys, ignore_index=True),
        ours.drop(columns=given).sort_values(keys, ignore_index=True),
    )


def test_csv_probabilities_and_abstentions(folder: Folder, same: pd.DataFrame, tmp_path: Path) -> None:
    rows = same[same["task"] == "temperature"].drop(columns=["draw", "features"])
    rows = rows.drop_duplicates(["split_id", "config_id"]).assign(
        probability_small=0.25, probability_large=0.75
    )
    rows.loc[rows.index[::3], "predicted"] = None
    rows.to_csv(tmp_path / "theirs.csv", index=False)
    judged = _entered(folder, read_submission(tmp_path / "theirs.csv"))
    judged = judged[judged["task"] == "temperature"]
    assert set(judged["draw"]) == {42, 90}
    assert set(judged["features"]) == {"all"}
    silent = judged["predicted"].isna()
    assert set(judged["reason"][silent]) == {"abstained"}
    expected = np.where(judged["label"] == "small", 0.25, 0.75)
    np.testing.assert_array_equal(judged["label_probability"].astype(float), expected)
    said = judged[~silent]
    np.testing.assert_array_equal(
        said["probability"].astype(float), np.where(said["predicted"] == "small", 0.25, 0.75)
    )


def test_what_a_file_leaves_out_is_no_answer(folder: Folder, same: pd.DataFrame) -> None:
    first = same["config_id"].iloc[0]
    judged = _entered(folder, same[same["config_id"] != first])
    left = judged[judged["config_id"] == first]
    assert len(left)
    assert left["predicted"].isna().all()
    assert set(left["reason"]) == {"not in the file"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.iloc[:0], "the file has no rows"),
        (lambda rows: rows.assign(diagnoser="validation_tree"), "has diagnosers of the names"),
        (lambda rows: rows.assign(split_id="0" * 16), "no selection '0000000000000000' of the task"),
        (
            lambda rows: rows.assign(config_id="strange"),
            "does not ask for 1 configurations of the file, such as",
        ),
        (lambda rows: pd.concat([rows, rows]), "rows answer what another has answered, such as"),
        (lambda rows: rows.assign(predicted="depth"), r"answers \['depth'\] to the task .*; its answers are"),
        (lambda rows: rows.assign(features="pixels"), r"names the feature sets \['pixels'\]"),
        (
            lambda rows: rows[rows["task"] == "temperature"].assign(
                probability_small=0.7, probability_large=0.7
            ),
            "rows of the task temperature have probabilities that are below 0 or do not add up to 1",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused(
    folder: Folder, same: pd.DataFrame, change: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        enter(folder, reopen(folder), change(same))  # type: ignore[operator]


def test_what_is_no_file_of_predictions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.parquet").write_bytes(b"hello")
    with pytest.raises(ValueError, match="is neither a Parquet file nor, by its name, CSV"):
        read_submission(tmp_path / "no.parquet")
    (tmp_path / "half.csv").write_text("diagnoser,config_id\na,b\n")
    with pytest.raises(ValueError, match=r"lacks the columns \['task', 'split_id', 'predicted'\]"):
        read_submission(tmp_path / "half.csv")
    with pytest.raises(FileNotFoundError, match=r"holds no benchmark \(benchmark.json is missing\)"):
        reopen(Folder(tmp_path))
