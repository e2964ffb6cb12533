"""Loss and error, BatchNorm statistics and subsets, against direct computation."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.landscape.evaluation import evaluate, evaluation_mode, outputs, recalibrate_batch_norm, subset


def test_evaluate_equals_a_direct_computation_whatever_the_batch(trained_pair, digits) -> None:
    model, split = copy.deepcopy(trained_pair[0]).train(), digits.validation
    with torch.no_grad():
        answers = trained_pair[0](split.images)
    wrong = sum(int(a.argmax()) != int(y) for a, y in zip(answers, split.labels, strict=True))
    for batch_size in (7, 400, 1000):
        loss, error = evaluate(model, split, batch_size)
        assert loss == pytest.approx(F.cross_entropy(answers, split.labels).item(), rel=1e-5)
        assert error == 100 * wrong / 400
    assert 0 < error < 20
    assert model.training
    assert torch.equal(model[1].running_mean, trained_pair[0][1].running_mean)


def test_evaluation_mode_gives_each_module_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    model[1].eval()
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False]


def test_evaluating_nothing_is_refused(make_cnn, make_split) -> None:
    nothing = make_split(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="0 images; give at least 1"):
        evaluate(make_cnn(1, 0), nothing)


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="Flatten has no parameters"):
        outputs(nn.Flatten(), torch.zeros(1, 2))


def test_statistics_of_one_batch_are_those_of_the_images(make_cnn, digits) -> None:
    model, images = make_cnn(2, 0), digits.train.images[:300]
    model[1].running_mean.fill_(torch.nan)
    recalibrate_batch_norm(model, images, 300)
    with torch.no_grad():
        seen = model[0](images)
        later = model[4](nn.Sequential(model[0], copy.deepcopy(model[1]).train(), *model[2:4])(images))
    for norm, features in ((model[1], seen), (model[5], later)):
        torch.testing.assert_close(norm.running_mean, features.mean((0, 2, 3)))
        torch.testing.assert_close(norm.running_var, features.var((0, 2, 3)))
    assert not any(module.training for module in model.modules())
    assert model[1].momentum == 0.1


def test_statistics_of_several_batches_weigh_each_by_its_images() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    images = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1
    recalibrate_batch_norm(model, images, 4)
    variance = sum(len(batch) * batch.var(0) for batch in images.split([4, 3, 3])) / 10
    torch.testing.assert_close(model[0].running_mean, images.mean(0))
    torch.testing.assert_close(model[0].running_var, variance)


def test_recalibration_does_nothing_without_batch_norm() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    before = copy.deepcopy(model.state_dict())
    recalibrate_batch_norm(model, torch.randn(4, 3))
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_subset_is_fixed_and_of_all_classes_even_where_labels_take_turns(make_split) -> None:
    split = make_split(torch.arange(5000.0).view(-1, 1, 1, 1), torch.arange(5000) % 10)
    part = subset(split, 500)
    assert torch.equal(part.labels, part.images.flatten().long() % 10)
    assert torch.equal(part.images, subset(split, 500).images)
    assert torch.equal(part.images.flatten(), part.images.unique())
    assert len(part.images) == 500
    assert part.labels.bincount().min() > 30
    assert subset(split, 5000) is split


def test_a_drawn_subset_follows_its_generator(make_split) -> None:
    split = make_split(torch.arange(100.0), torch.zeros(100))
    draws = [subset(split, 10, torch.Generator().manual_seed(seed)).images for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
