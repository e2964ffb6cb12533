"""One-step change: offers by hand and against the rooms for improvement, and the thirty published figures."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diagnose import ZooTables
from diagnose.one_step import (
    ACTIONS,
    IDENTITY,
    STEPS,
    changes_after,
    effect,
    mean_effects,
    offered,
    published_one_step,
    remedies,
)
from diagnose.published import read_published

PUBLISHED = {
    ("Q1", "oracle"): [1.48, 2.92, 5.83],
    ("Q1", "md_tree"): [1.34, 2.74, 5.52],
    ("Q1", "validation_tree"): [1.25, 2.31, 4.63],
    ("Q1", "hyperparameter_tree"): [0.92, 1.84, 3.52],
    ("Q1", "random"): [0.92, 1.79, 3.50],
    ("Q2 width", "oracle"): [1.92, 5.47, 8.83],
    ("Q2 width", "md_tree"): [1.73, 4.79, 8.10],
    ("Q2 width", "validation_tree"): [1.43, 4.09, 6.33],
    ("Q2 width", "hyperparameter_tree"): [1.48, 4.36, 6.60],
    ("Q2 width", "random"): [1.19, 3.09, 5.03],
}


@pytest.fixture(scope="module")
def line() -> pd.DataFrame:
    """Four batch sizes of one width and amount, out of order; accuracies 50, 60, 40, 55 as the batch grows."""
    rows = {"batch_size": [64, 16, 128, 32], "test_accuracy": [40.0, 50.0, 55.0, 60.0]}
    return pd.DataFrame(rows, index=["b64", "b16", "b128", "b32"]).assign(width=2, data_amount=100)


@pytest.fixture(scope="module")
def effects(shared_data: Path) -> pd.DataFrame:
    return published_one_step(read_published(shared_data / "mdtree"))


def test_offers_of_a_line_by_hand(line: pd.DataFrame) -> None:
    hotter, colder = offered(line, "inc_temperature"), offered(line, "dec_temperature")
    assert hotter.index.equals(line.index)
    assert {name: list(changes) for name, changes in hotter.items()} == {
        "b16": [],
        "b32": [-10],
        "b64": [10, 20],
        "b128": [-5, 5, -15],
    }
    assert {name: list(changes) for name, changes in colder.items()} == {
        "b16": [10, -10, 5],
        "b32": [-20, -5],
        "b64": [15],
        "b128": [],
    }
    assert all(len(changes) == 0 for changes in offered(line, "width"))


def test_offers_hold_all_other_columns_of_the_identity_fixed(line: pd.DataFrame) -> None:
    both = pd.concat(
        [line.assign(noise=0.0), line.assign(noise=np.nan, test_accuracy=1.0)], ignore_index=True
    )
    changes = offered(both, "dec_temperature", (*IDENTITY, "noise"))
    assert list(changes[1]) == [10, -10, 5]
    assert list(changes[5]) == [0, 0, 0]
    with pytest.raises(
        ValueError, match=r"two rows of the grid agree in \['batch_size', 'width', 'data_amount'\]"
    ):
        offered(both, "dec_temperature")


def test_an_unknown_action_is_named(line: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"action is 'depth'; it must be one of \['inc_temperature'"):
        offered(line, "depth")


def test_the_best_offer_is_the_authors_room_for_improvement(shared_data: Path) -> None:
    columns = ("rfi_inc_temp", "rfi_dec_temp", "rfi_width", "rfi_data")
    for _, zoo in read_published(shared_data / "mdtree").groupby("label_noise"):
        for action, column in zip(ACTIONS, columns, strict=True):
            best = [changes.max(initial=0.0) for changes in offered(zoo, action)]
            np.testing.assert_allclose(best, zoo[column], atol=1e-9)


def test_the_best_offer_is_our_room_for_improvement(noisy_zoo: ZooTables) -> None:
    """On a built zoo's tables, with the label noise in the identity."""
    accuracy = 100 - noisy_zoo.runs.groupby("config_id")["test_error"].mean()
    grid = noisy_zoo.configs.set_index("config_id").assign(test_accuracy=accuracy)
    labels = noisy_zoo.labels[noisy_zoo.labels["task"] == "width"].set_index("config_id").loc[grid.index]
    columns = ("rfi_inc_temperature", "rfi_dec_temperature", "rfi_width", "rfi_data")
    for action, column in zip(ACTIONS, columns, strict=True):
        best = [changes.max(initial=0.0) for changes in offered(grid, action, (*IDENTITY, "label_noise"))]
        np.testing.assert_allclose(best, labels[column], atol=1e-8)


def test_an_answer_asks_for_its_action() -> None:
    answers = ["small", "large", "width", "data", "batch", "batch"]
    temperatures = ["large", "small", "small", "small", "small", "large"]
    actions = ["inc_temperature", "dec_temperature", "width", "data", "inc_temperature", "dec_temperature"]
    assert remedies(answers, temperatures) == actions
    with pytest.raises(ValueError, match=r"the answers \['optimal'\] ask for no action; they must be among"):
        remedies(["optimal"], ["small"])


def test_steps_of_a_line_by_hand(line: pd.DataFrame) -> None:
    offers = {action: offered(line, action) for action in ACTIONS}
    actions = ["dec_temperature", "dec_temperature", "inc_temperature", "width"]  # b64, b16, b128, b32
    changes = changes_after(offers, actions, np.random.RandomState(0))
    assert changes.index.equals(line.index)
    assert changes["one"].tolist() == [15, 10, -15, 0]
    assert changes["best"].tolist() == [15, 10, 5, 0]
    with pytest.raises(ValueError, match="shorter"):
        changes_after(offers, actions[:3], np.random.RandomState(0))


def test_random_steps_are_those_of_the_legacy_stream_even_between_drawn_actions() -> None:
    """As in the authors' loop: the action of a row, then its step, from one global stream."""
    grid = pd.DataFrame(product(range(8), [1], [1], range(30)), columns=[*IDENTITY, "draw"])
    grid["test_accuracy"] = np.random.RandomState(5).rand(len(grid))
    offers = {
        name: offered(grid, name, (*IDENTITY, "draw")) for name in ("inc_temperature", "dec_temperature")
    }

    def guesses(stream: np.random.RandomState) -> Iterator[str]:
        for _ in range(len(grid)):
            yield list(offers)[stream.randint(2)]

    stream = np.random.RandomState(3)
    changes = changes_after(offers, guesses(stream), stream)
    np.random.seed(3)
    for row in range(len(grid)):
        action = np.random.choice(["inc_temperature", "dec_temperature"])
        steps = offers[action][row].tolist()
        assert changes["random"][row] == (np.random.choice(steps) if steps else 0.0)


def test_clipping_hides_exactly_the_harm() -> None:
    changes = pd.DataFrame({"one": [1.0, -3.0, 0.0, -1.0], "best": [1.0, 0.0, 0.0, 2.0]})
    assert effect(changes).to_dict("index") == {
        "one": {"clipped": 0.25, "gain": -0.75, "harmed": 50.0, "harm": 2.0},
        "best": {"clipped": 0.75, "gain": 0.75, "harmed": 0.0, "harm": 0.0},
    }
    many = effect(pd.DataFrame(np.random.RandomState(0).randn(500, 3), columns=STEPS))
    np.testing.assert_allclose(many["gain"], many["clipped"] - many["harmed"] / 100 * many["harm"])


@pytest.mark.parametrize(("question", "method"), PUBLISHED)
def test_published_gains(effects: pd.DataFrame, question: str, method: str) -> None:
    rows = effects[(effects["question"] == question) & (effects["method"] == method)]
    assert len(rows) == 15
    means = rows.groupby("step", sort=False)["clipped"].mean()
    assert means.index.tolist() == ["one", "random", "best"]
    assert means.tolist() == pytest.approx(PUBLISHED[question, method], abs=0.01)


def test_the_direction_of_a_batch_step_is_learned_from_the_columns_of_the_question(shared_data: Path) -> None:
    """Of one data level a tree on the data amount alone can learn the majority only: one action for all rows."""
    tables = read_published(shared_data / "mdtree")
    tables["width_vs_batch"] = tables["width_vs_batch"].replace({"width": "batch", "batch": "width"})
    effects = published_one_step(tables, draws=[42])
    asked = effects[(effects["question"] == "Q2 width") & (effects["method"] == "hyperparameter_tree")]
    gains = asked.set_index("step")["gain"]
    noisy = tables[tables["label_noise"] > 0]
    kept = (noisy[["bs_failure", "width_vs_batch"]] != "optimal").all(axis=1)
    turned = []
    for action in ("inc_temperature", "dec_temperature"):
        offers = {action: offered(noisy, action)[kept]}
        changes = changes_after(offers, [action] * kept.sum(), np.random.RandomState(0))
        turned.append(changes[["one", "best"]].mean().tolist())
    assert gains[["one", "best"]].tolist() in [pytest.approx(means) for means in turned]


def test_means_stand_beside_the_published_gains(effects: pd.DataFrame) -> None:
    means = mean_effects(effects)
    published = [number for triple in PUBLISHED.values() for number in triple]
    assert len(means) == 30
    assert means["published"].tolist() == published
    np.testing.assert_allclose(means["clipped"] - means["difference"], published)
    assert means["difference"].abs().max() < 0.01


def test_no_method_gains_more_than_the_oracle(effects: pd.DataFrame) -> None:
    best = effects[effects["step"] == "best"].pivot(
        index=["question", "draw"], columns="method", values="gain"
    )
    assert (best.le(best["oracle"], axis=0)).all(axis=None)
    assert (effects[(effects["method"] == "oracle") & (effects["step"] == "best")]["harmed"] == 0).all()
    means = mean_effects(effects).pivot(index=["question", "step"], columns="method", values="clipped")
    assert (means.le(means["oracle"], axis=0)).all(axis=None)


def test_clipped_is_never_less_than_the_gain_and_best_never_less_than_another_step(
    effects: pd.DataFrame,
) -> None:
    assert (effects["clipped"] >= effects["gain"]).all()
    for column in ("clipped", "gain"):
        steps = effects.pivot(index=["question", "method", "draw"], columns="step", values=column)
        assert (steps.le(steps["best"], axis=0)).all(axis=None)
