"""The leaderboard, counted by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from diagnose import aggregate, markdown
from zoo.tables import SCHEMAS, check


def _rows(
    diagnoser: str, level: int, draw: int, right: int, wrong: int, failed: int = 0
) -> list[dict[str, Any]]:
    shared = {
        "zoo": "demo",
        "training_zoo": "demo",
        "diagnoser": diagnoser,
        "features": "validation",
        "track": "single",
        "task": "width",
        "protocol": "random_cells",
        "level": level,
        "draw": draw,
        "training_rows": 10 * level + draw,
        "label": "width",
        "package_version": "1",
    }
    answers = ["width"] * right + ["batch"] * wrong + [None] * failed
    return [
        shared | {"config_id": f"c{i}", "predicted": answer, "reason": None}
        for i, answer in enumerate(answers)
    ]


@pytest.fixture
def predictions() -> pd.DataFrame:
    """Tree: 50 and 100 percent, then 75. Other: 50 of 2 and 25 of 4, then nothing but failures."""
    parts = [
        *_rows("tree", 1, 0, right=1, wrong=1),
        *_rows("tree", 1, 2, right=4, wrong=0),
        *_rows("tree", 2, 0, right=3, wrong=1),
        *_rows("other", 1, 0, right=1, wrong=0, failed=1),
        *_rows("other", 1, 2, right=1, wrong=2, failed=1),
        *_rows("other", 2, 0, right=0, wrong=0, failed=4),
    ]
    return pd.DataFrame(parts)


def test_accuracy_is_the_mean_of_the_draws_and_a_failure_is_wrong(predictions: pd.DataFrame) -> None:
    board = aggregate(predictions).set_index(["diagnoser", "level"])
    assert board["accuracy"].to_dict() == {
        ("tree", 1): 75,
        ("tree", 2): 75,
        ("other", 1): 37.5,
        ("other", 2): 0,
    }


def test_spread_is_the_sample_deviation_over_draws_and_null_for_one(predictions: pd.DataFrame) -> None:
    board = aggregate(predictions).set_index(["diagnoser", "level"])
    assert board.at[("tree", 1), "spread"] == pytest.approx(50 / 2**0.5)
    assert board["draws"].tolist() == [2, 1, 2, 1]
    assert board["spread"].isna().tolist() == [False, True, False, True]


def test_sizes_are_means_over_the_draws(predictions: pd.DataFrame) -> None:
    board = aggregate(predictions).set_index(["diagnoser", "level"])
    assert board.at[("tree", 1), "training_rows"] == 11
    assert board.at[("tree", 1), "test_rows"] == 3


def test_the_board_fits_its_schema(predictions: pd.DataFrame) -> None:
    table = pa.Table.from_pandas(aggregate(predictions), schema=SCHEMAS["leaderboard"], preserve_index=False)
    assert check("leaderboard", table, "the board").num_rows == 4


def test_all_failures_and_no_rows_are_boards_too(predictions: pd.DataFrame) -> None:
    failed = predictions[predictions["predicted"].isna()]
    assert aggregate(failed)["accuracy"].tolist() == [0, 0]
    assert aggregate(predictions[:0]).empty
    assert markdown(aggregate(predictions[:0])).startswith("# Leaderboard")


def test_markdown_ranks_the_diagnosers_and_marks_the_best(predictions: pd.DataFrame) -> None:
    lines = markdown(aggregate(predictions[::-1])).splitlines()
    assert lines[lines.index("## demo, width") :] == [
        "## demo, width",
        "",
        "### random_cells",
        "",
        "| diagnoser | features | track | 1 (11 → 3) | 2 (20 → 4) |",
        "| --- | --- | --- | ---: | ---: |",
        "| tree | validation | single | **75.0** ± 35.4 | **75.0** |",
        "| other | validation | single | 37.5 ± 17.7 | 0.0 |",
    ]


def test_markdown_names_the_zoo_learned_from_where_it_is_another(predictions: pd.DataFrame) -> None:
    board = aggregate(predictions.assign(training_zoo="fashion", protocol="transfer"))
    assert "## demo, width (learned from fashion)" in markdown(board)


def test_a_diagnoser_that_was_not_run_at_a_level_has_an_empty_cell(predictions: pd.DataFrame) -> None:
    board = aggregate(predictions)
    text = markdown(board[~((board["diagnoser"] == "other") & (board["level"] == 2))])
    assert "| other | validation | single | 37.5 ± 17.7 |  |" in text


def _hidden(predictions: pd.DataFrame) -> pd.DataFrame:
    """One more entrant, all of whose answers are right, that sees the hidden hyperparameters."""
    rows = predictions[predictions["diagnoser"] == "tree"].assign(
        diagnoser="copied_label", features="grid_point"
    )
    return pd.concat([predictions, rows.assign(track="hidden", predicted="width")])


def test_what_sees_hidden_hyperparameters_is_never_the_best(predictions: pd.DataFrame) -> None:
    text = markdown(aggregate(_hidden(predictions)))
    assert "| copied_label | grid_point | hidden | 100.0 ± 0.0 | 100.0 |" in text
    assert "| tree | validation | single | **75.0** ± 35.4 | **75.0** |" in text


def test_the_cost_of_each_feature_set_on_the_board_is_shown(predictions: pd.DataFrame) -> None:
    board = aggregate(_hidden(predictions))
    lines = markdown(board).splitlines()
    head = lines.index("| features | track | trained models | sample passes |")
    assert lines[head + 2 : head + 5] == [
        "| validation | single | at least 1 |  |",
        "| grid_point | hidden | at least 0 |  |",
        "",
    ]
    costs = pd.DataFrame(
        {"track": "single", "models": 1.0, "sample_passes": 12_345.6}, index=pd.Index(["validation"])
    )
    assert "| validation | single | 1 | 12,346 |" in markdown(board, costs).splitlines()
