"""Which configurations are learned from and which are diagnosed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from diagnose import (
    PROTOCOLS,
    PROTOCOLS_FROM_NOISY,
    Split,
    ZooTables,
    cases_of,
    leave_one_data_set_out,
    limited,
    random_cells,
    seeds_of,
    transfer,
)

AMOUNTS, WIDTHS, BATCHES = (100, 200, 400), (1, 2), (8, 16)


def _rows(*noises: float) -> pd.DataFrame:
    """A full grid, large amounts and widths first, so that no order is right by chance."""
    grid = product(reversed(AMOUNTS), reversed(WIDTHS), BATCHES, noises)
    rows = pd.DataFrame(grid, columns=["data_amount", "width", "batch_size", "label_noise"])
    rows["dataset"] = "digits"
    rows["label"] = np.where(rows["batch_size"] == 8, "small", "large")
    rows.index = pd.Index([f"c{i:02}" for i in range(len(rows))], name="config_id")
    return rows


def _all_splits(rows: pd.DataFrame, draws: tuple[int, ...] = (1, 2)) -> Iterator[Split]:
    for protocol in (PROTOCOLS | PROTOCOLS_FROM_NOISY).values():
        yield from protocol(rows, draws)


@pytest.mark.parametrize("noises", [(0.0,), (0.0, 0.1), (0.0, 0.1, 0.2)])
def test_no_configuration_is_on_both_sides(noises: tuple[float, ...]) -> None:
    splits = list(_all_splits(_rows(*noises)))
    forth = {"random_cells", "data_amount_limited", "width_limited"}
    back = {f"{name}_from_noisy" for name in forth} if len(noises) > 1 else set()
    assert {split.protocol for split in splits} == forth | back
    for split in splits:
        assert not set(split.training) & set(split.test)
        assert len(split.training)
        assert len(split.test)


def test_clean_labels_are_learned_from_and_all_noisy_ones_diagnosed() -> None:
    rows = _rows(0.0, 0.1, 0.2)
    clean = rows.index[rows["label_noise"] == 0]
    for split in _all_splits(rows):
        assert set(split.training) <= set(clean) or split.protocol.endswith("_from_noisy")
        if not split.protocol.endswith("_from_noisy"):
            assert set(split.test) == set(rows.index) - set(clean)


def test_the_other_direction_learns_from_noisy_labels_and_diagnoses_all_clean_ones() -> None:
    rows = _rows(0.0, 0.1, 0.2)
    clean = set(rows.index[rows["label_noise"] == 0])
    splits = [split for split in _all_splits(rows) if split.protocol.endswith("_from_noisy")]
    assert len(splits) == len(list(_all_splits(rows))) / 2
    for split in splits:
        assert not set(split.training) & clean
        assert set(split.test) == clean
    assert not any(split.protocol.endswith("_from_noisy") for split in _all_splits(_rows(0.1, 0.2)))


def test_both_directions_learn_from_the_same_cells() -> None:
    rows = _rows(0.0, 0.1)
    there = random_cells(rows, draws=(42,), levels=[2])
    back = random_cells(rows, draws=(42,), levels=[2], learn_from="noisy")
    cells = [
        set(zip(*(rows.loc[s.training, c] for c in ("data_amount", "width")), strict=True))
        for s in (*there, *back)
    ]
    assert cells[0] == cells[1]
    with pytest.raises(ValueError, match="learn_from is 'both'; it must be one of"):
        list(random_cells(rows, learn_from="both"))


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


def test_a_selection_that_is_empty_is_refused() -> None:
    with pytest.raises(ValueError, match="level 0 selects no cell to learn from; ask for at least 1"):
        list(random_cells(_rows(0.0), levels=[0]))
    with pytest.raises(
        ValueError, match="no clean configuration has a width of at most 0; the smallest is 1"
    ):
        list(limited(_rows(0.0), "width", levels=[0]))
    with pytest.raises(
        ValueError, match="no noisy configuration has a width of at most 2; there is none at all"
    ):
        list(limited(_rows(0.0), "width", levels=[2], learn_from="noisy"))


def test_draws_are_the_published_ones_and_then_counted_on() -> None:
    assert seeds_of(2) == (42, 90)
    assert seeds_of(7) == (42, 90, 38, 18, 72, 100, 101)
    assert len(set(seeds_of(50))) == 50
    assert seeds_of([3, 1]) == (3, 1)
    for wrong in (0, [], [1, 1]):
        with pytest.raises(ValueError, match=r"draws is .*; it must be a number of at least 1, or seeds"):
            seeds_of(wrong)


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
    rows = cases_of(replace(noisy_zoo, labels=labels)).rows("width")
    kept = labels[(labels["task"] == "width") & (labels["label"] != "optimal")]
    assert set(rows.index) == set(kept["config_id"])
    assert rows["label"].to_dict() == dict(zip(kept["config_id"], kept["label"], strict=True))
    assert {split.level for split in limited(rows, "data_amount")} == {200, 400}


def _zoos(**datasets: str) -> dict[str, pd.DataFrame]:
    """Zoos by name on the data sets given, each with configurations of its own."""
    return {
        name: _rows(0.0, 0.1).assign(dataset=dataset).rename(index=f"{name}-{{}}".format)
        for name, dataset in datasets.items()
    }


def test_one_data_set_is_left_out_of_any_number_of_zoos() -> None:
    zoos = _zoos(a="digits", b="fashion", c="cifar", d="svhn")
    found = {diagnosed: (learned, split) for learned, diagnosed, split in leave_one_data_set_out(zoos, (7,))}
    assert set(found) == set(zoos)
    for name, (learned, split) in found.items():
        assert set(learned) == set(zoos) - {name}
        assert set(split.test) == set(zoos[name].index)
        clean = {row for other in learned for row in zoos[other].index[zoos[other]["label_noise"] == 0]}
        assert set(split.training) == clean
        assert (split.protocol, split.level, split.draw) == ("leave_one_data_set_out", 3, 7)


def test_zoos_on_the_data_set_diagnosed_are_not_learned_from() -> None:
    zoos = _zoos(a="digits", b="digits", c="cifar", d="svhn")
    found = {diagnosed: learned for learned, diagnosed, _ in leave_one_data_set_out(zoos, (7,))}
    assert found == {"a": ("c", "d"), "b": ("c", "d"), "c": ("a", "b", "d"), "d": ("a", "b", "c")}


def test_leaving_out_one_of_two_data_sets_is_transfer_and_not_repeated() -> None:
    assert not list(leave_one_data_set_out(_zoos(a="digits", b="cifar")))


def test_a_configuration_of_two_zoos_is_learned_from_once() -> None:
    zoos = _zoos(a="digits", c="cifar")
    zoos["b"] = zoos["a"]
    _, _, split = next(item for item in leave_one_data_set_out(zoos, (7,)) if item[1] == "c")
    assert split.training.is_unique
    assert set(split.training) == set(zoos["a"].index[zoos["a"]["label_noise"] == 0])
