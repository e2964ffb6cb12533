"""A network that is in no zoo is examined: what is said follows from what is seen, and foul input is refused."""

import copy
import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import zoo
from diagnose import examine, reference_of
from diagnose.cases import ZooTables
from diagnose.consult import ASKED, Reference, _way
from diagnose.structures import STRUCTURES, decide
from diagnose.words import ACTIONS, SOURCES
from zoo.config import Run, TrainConfig
from zoo.datasets import DataSource, load_dataset, select
from zoo.models import build_model, image_shape
from zoo.stacks import Stack
from zoo.tables import REMEDIES
from zoo.training import train_stack

DIGITS = load_dataset(DataSource("digits"))


def loader(split, batch=256):
    return DataLoader(TensorDataset(split.images, split.labels), batch)


def trained(**changes):
    """Two fresh networks that are in no zoo, and loaders of their data."""
    settings = {
        "width": 6,
        "batch_size": 16,
        "data_amount": 1_000,
        "sample_passes": 4_000,
        "learning_rate": 0.2,
    }
    config = TrainConfig("digits", DIGITS.fingerprint, "cnn", **(settings | changes))
    models = []
    for result in train_stack(Stack((Run(config, 100), Run(config, 101))), DIGITS):
        model = build_model("cnn", config.width, image_shape(DIGITS, config))
        model.load_state_dict(result.weights)
        models.append(model.eval())
    data = select(DIGITS, config)
    return models, {"train_loader": loader(data.train), "test_loader": loader(data.validation)}


@pytest.fixture(scope="module")
def reference():
    return reference_of("demo")


@pytest.fixture(scope="module")
def small():
    return trained(width=1)


@pytest.fixture(scope="module")
def found(reference, small):
    models, loaders = small
    return {
        "single": examine(models[0], **loaders, against=reference),
        "twin": examine(*models, **loaders, against=reference),
    }


@pytest.mark.parametrize("track", ["single", "twin"])
def test_a_model_that_is_too_small(found, track):
    said = found[track]
    assert said.track == track
    assert said.remedy.answer == "width"
    assert said.remedy.probabilities["width"] > 0.8
    assert sum(said.remedy.probabilities.values()) == pytest.approx(1)
    assert said.remedy.gains["width"] > 10
    assert said.remedy.held_out > said.remedy.majority
    assert list(said.answers) == list(ASKED)
    assert not said.distance.is_far
    nearest = zoo.open("demo").table("configs").set_index("config_id").loc[said.distance.nearest]
    assert nearest["width"] == 1


def test_too_little_data_and_too_high_a_temperature(reference):
    models, loaders = trained(width=8, data_amount=128)
    assert examine(models[0], **loaders, against=reference).remedy.answer == "data"
    models, loaders = trained(width=4, batch_size=4)
    said = examine(models[0], **loaders, against=reference)
    assert said.answers["temperature"].answer == "large"


def test_the_words_are_of_the_numbers(found):
    for track, said in found.items():
        text = said.text
        first = text.splitlines()[0]
        assert first == f"Most likely it is too small ({100 * said.remedy.probabilities['width']:.0f}%)."
        assert f"expected gain {said.remedy.gains['width']:.1f} points" in text
        assert f"on the track {track}" in text
        for step in said.path.steps:
            assert f"{step.value:.4g}" in text
            assert f"{step.threshold:.4g}" in text
        assert f"so {SOURCES[said.path.answer]}." in text


def test_twins_go_through_the_md_tree(found):
    path = found["twin"].path
    assert path.task == "temperature"
    assert {step.feature for step in path.steps} <= {"train_error", "mode_connectivity_peak", "hessian_t"}
    assert path.steps[0].feature == "train_error"
    assert path.steps[0].value == pytest.approx(found["twin"].features["train_error"])
    assert np.isnan(found["single"].features["mode_connectivity_peak"])


def test_the_picture_is_drawn(found, tmp_path):
    for track, said in found.items():
        figure = said.plot()
        figure.savefig(tmp_path / f"{track}.png")
        assert (tmp_path / f"{track}.png").stat().st_size > 20_000
        assert figure.get_suptitle().startswith("It is too small")


def test_it_is_the_same_each_time_and_leaves_the_model_alone(found, small, reference):
    models, loaders = small
    before = copy.deepcopy(models[0].state_dict())
    models[0].train()
    again = examine(models[0], **loaders, against=reference)
    assert models[0].training
    models[0].eval()
    assert again.remedy == found["single"].remedy
    pd.testing.assert_series_equal(again.features, found["single"].features)
    assert all(torch.equal(value, before[name]) for name, value in models[0].state_dict().items())


def test_what_is_like_nothing_in_the_zoo_is_not_trusted(reference, small):
    """An untrained network of another kind with weights a hundred times too large."""
    _, loaders = small
    torch.manual_seed(0)
    strange = nn.Sequential(nn.Flatten(), nn.Linear(64, 500), nn.Tanh(), nn.Linear(500, 10))
    with torch.no_grad():
        for parameter in strange.parameters():
            parameter.mul_(100)
    said = examine(strange, **loaders, against=reference)
    assert said.distance.is_too_far
    assert said.text.startswith("Do not trust this: the model is like nothing in the zoo.")
    assert "Outside of what the zoo has:" in said.text
    assert "do not trust this" in said.plot().get_suptitle()


def test_every_answer_has_words():
    assert set(ACTIONS) == set(REMEDIES)
    assert set(REMEDIES) | {"small", "large", "batch", "width", "data"} <= set(SOURCES)


def test_the_way_through_a_structure_is_that_of_its_predictor():
    chance = np.random.default_rng(0)
    for tree in STRUCTURES.values():
        thresholds = [chance.uniform(*split.bounds) for split in tree.splits()]
        for _ in range(50):
            values = {name: chance.uniform(-30, 30) for name in tree.features()}
            steps, answer = _way(tree, thresholds, values)
            columns = {name: np.array([value]) for name, value in values.items()}
            assert decide(tree, columns, thresholds).tolist() == [answer]
            assert 1 <= len(steps) <= tree.depth()


def test_weights_that_are_not_finite(small, reference):
    models, loaders = small
    broken = copy.deepcopy(models[0])
    with torch.no_grad():
        broken[0].weight[0, 0, 0, :2] = float("nan")
    with pytest.raises(
        ValueError, match=r"2 of the 9 numbers in 0\.weight are not finite: the training diverged"
    ):
        examine(broken, **loaders, against=reference)


def test_loaders_that_do_not_fit(small, reference):
    models, loaders = small
    images, labels = loaders["train_loader"].dataset.tensors
    bad = {
        "labels from 1 to 10, and the model answers 10 classes": DataLoader(
            TensorDataset(images, labels + 1), 64
        ),
        "holds no images": [],
        "it has to be images and labels": [images[:4]],
        "gives images of torch.uint8": [(images[:4].byte(), labels[:4])],
        r"cannot take the images of train_loader, of shape \[64\]": [(images[:4].flatten(1), labels[:4])],
    }
    for says, wrong in bad.items():
        with pytest.raises(ValueError, match=says):
            examine(models[0], **(loaders | {"train_loader": wrong}), against=reference)
    with pytest.raises(
        ValueError, match=re.escape("the model answers with the shape [2, 64]") + "|cannot|labels"
    ):
        examine(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), **loaders, against=reference)


def test_twins_that_are_none(small, reference):
    models, loaders = small
    with pytest.raises(ValueError, match="the twin has the weights of the model"):
        examine(models[0], copy.deepcopy(models[0]), **loaders, against=reference)
    wider = build_model("cnn", 2, image_shape(DIGITS, TrainConfig("digits", "", "cnn", 2, 1, 1, 1)))
    with pytest.raises(ValueError, match="the twin is of another shape"):
        examine(models[0], wider, **loaders, against=reference)


def test_a_zoo_that_says_too_little():
    demo = zoo.open("demo")
    tables = {name: demo.table(name) for name in ("configs", "runs", "metrics", "labels")}
    few = tables["labels"][tables["labels"]["config_id"].isin(tables["configs"]["config_id"][:5])]
    with pytest.raises(ValueError, match="zoo few has 5 labelled configurations"):
        Reference("few", ZooTables(**(tables | {"labels": few})))
    one_cell = tables["configs"].assign(width=1, data_amount=100)
    with pytest.raises(ValueError, match="of 1 widths and data amounts; 10 with 2 of each are needed"):
        Reference("flat", ZooTables(**(tables | {"configs": one_cell})))


def test_what_could_not_be_seen_is_said(found, reference):
    """As when a metric fails: the median of the zoo stands in, and looks like nothing out of the way."""
    rows = {"single": found["single"].features.drop(labels=["entropy"]).to_frame().T.assign(entropy=np.nan)}
    distance = reference.distance(rows, "single")
    assert distance.missing == ("entropy",)
    assert found["single"].distance.missing == ()
    blind = dataclasses.replace(found["single"], distance=distance)
    assert "Not seen of this model, so that the zoo's median stood in: entropy." in blind.text
