"""Which configurations are learned from and which are diagnosed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd
import pytest

from diagnose import PROTOCOLS, Split, ZooTables, answered, limited, random_cells, transfer

AMOUNTS, WIDTHS, BATCHES = (100, 200, 400), (1, 2), (8, 16)


def _rows(*noises: float) -> pd.DataFrame:
    """A full grid, large amounts and widths first, so that no order is right by chance."""
    grid = product(reversed(AMOUNTS), reversed(WIDTHS), BATCHES, noises)
    rows = pd.DataFrame(grid, columns=["data_amount", "width", "batch_size", "label_noise"])
    rows["label"] = np.where(rows["batch_size"] == 8, "small", "large")
    rows.index = pd.Index([f"c{i:02}" for i in range(len(rows))], name="config_id")
    return rows


def _all_splits(rows: pd.DataFrame, draws: tuple[int, ...] = (1, 2)) -> Iterator[Split]:
    for protocol in PROTOCOLS.values():
        yield from protocol(rows, draws)


@pytest.mark.parametrize("noises", [(0.0,), (0.0, 0.1), (0.0, 0.1, 0.2)])
def test_no_configuration_is_on_both_sides(noises: tuple[float, ...]) -> None:
    splits = list(_all_splits(_rows(*noises)))
    assert {split.protocol for split in splits} == {"random_cells", "data_amount_limited", "width_limited"}
    for split in splits:
        assert not set(split.training) & set(split.test)
        assert len(split.training)
        assert len(split.test)


def test_clean_labels_are_learned_from_and_all_noisy_ones_diagnosed() -> None:
    rows = _rows(0.0, 0.1, 0.2)
    for split in _all_splits(rows):
        assert (rows.loc[split.training, "label_noise"] == 0).all()
        assert set(split.test) == set(rows.index[rows["label_noise"] > 0])


def test_without_noise_the_clean_ones_left_out_are_diagnosed() -> None:
    rows = _rows(0.0)
    for split in _all_splits(rows):
        assert set(split.training) | set(split.test) == set(rows.index)


def test_random_cells_are_drawn_as_published() -> None:
    """The list of pairs has the amount in its outer loop; numpy's legacy stream draws from it."""
    rows = _rows(0.0, 0.1)
    pairs = list(product(AMOUNTS, WIDTHS))
    for split in random_cells(rows, draws=(42, 90), levels=[2, 5]):
        np.random.seed(split.draw)
        drawn = [pairs[i] for i in np.random.choice(range(len(pairs)), size=split.level, replace=False)]
        learned = rows.loc[split.training]
        assert set(zip(learned["data_amount"], learned["width"], strict=True)) == set(drawn)
        assert len(learned) == len(BATCHES) * split.level


def test_levels_double_up_to_the_number_of_cells_and_leave_something_to_diagnose() -> None:
    noisy = [split.level for split in random_cells(_rows(0.0, 0.1), draws=(1,))]
    assert noisy == [1, 2, 4]
    rows = _rows(0.0)
    assert [split.level for split in random_cells(rows[rows["width"] == 1], draws=(1,))] == [1, 2]
    four = rows[(rows["data_amount"] < 400)]
    assert [split.level for split in random_cells(four, draws=(1,))] == [1, 2]  # all 4 leave nothing


def test_cells_may_be_amounts_or_widths_alone() -> None:
    rows = _rows(0.0, 0.1)
    split = next(random_cells(rows, draws=(42,), levels=[1], axes=["data_amount"]))
    assert split.protocol == "random_data_amount"
    drawn = np.random.RandomState(42).choice(AMOUNTS, size=1, replace=False)
    assert set(rows.loc[split.training, "data_amount"]) == set(drawn)
    assert set(rows.loc[split.training, "width"]) == set(WIDTHS)


def test_too_many_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="level 7 exceeds the 6 cells"):
        list(random_cells(_rows(0.0), levels=[7]))


@pytest.mark.parametrize(("axis", "values"), [("data_amount", AMOUNTS), ("width", WIDTHS)])
def test_a_limit_keeps_what_is_at_or_below_it(axis: str, values: tuple[int, ...]) -> None:
    rows = _rows(0.0, 0.1)
    splits = list(limited(rows, axis, draws=(1,)))
    assert [split.level for split in splits] == list(values)
    for split in splits:
        assert set(rows.loc[split.training, axis]) == {value for value in values if value <= split.level}
    clean = limited(_rows(0.0), axis, draws=(1,))
    assert [split.level for split in clean] == list(values[:-1])  # the whole axis leaves nothing to diagnose


def test_transfer_goes_from_the_clean_half_of_one_zoo_to_all_of_another() -> None:
    ours, theirs = _rows(0.0, 0.1), _rows(0.0, 0.1).rename(index=lambda name: f"t{name}")
    (split,) = transfer(ours, theirs, draws=(7,))
    assert set(split.training) == set(ours.index[ours["label_noise"] == 0])
    assert set(split.test) == set(theirs.index)
    assert (split.protocol, split.level, split.draw) == ("transfer", 6, 7)


def test_transfer_does_not_diagnose_what_it_learned_from() -> None:
    """Two zoos may share a grid: a configuration is the same by its id."""
    rows = _rows(0.0, 0.1)
    (split,) = transfer(rows, rows, draws=(1,))
    assert set(split.test) == set(rows.index[rows["label_noise"] > 0])
    assert not list(transfer(_rows(0.0), _rows(0.0)))


def test_rows_without_an_answer_are_dropped_before_anything_is_drawn(noisy_zoo: ZooTables) -> None:
    labels = noisy_zoo.labels.copy()
    gone = noisy_zoo.configs.loc[noisy_zoo.configs["data_amount"] == 100, "config_id"]
    labels.loc[labels["config_id"].isin(gone) & (labels["task"] == "width"), "label"] = "optimal"
    rows = answered(noisy_zoo.configs, labels, "width")
    kept = labels[(labels["task"] == "width") & (labels["label"] != "optimal")]
    assert set(rows.index) == set(kept["config_id"])
    assert rows["label"].to_dict() == dict(zip(kept["config_id"], kept["label"], strict=True))
    assert {split.level for split in limited(rows, "data_amount")} == {200, 400}
