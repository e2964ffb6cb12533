"""Curves between models: their ends, their gradient, their summary."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.landscape.connectivity import (
    CurveRecipe,
    Pair,
    PathErrors,
    batch_schedule,
    coefficients,
    curve_errors,
    errors_of_curves,
    learning_rate_factor,
    stacks,
    train_bends,
)
from zoo.landscape.evaluation import evaluate, recalibrate_batch_norm
from zoo.landscape.path_summaries import barrier, mode_connectivity, mode_connectivity_peak
from zoo.landscape.stacked import StackedModel, can_be_stacked
from zoo.landscape.weights import FlatModel, flat_pair, flat_weights
from zoo.models import ImageShape, initial_model

HALVES = torch.tensor([0.0, 0.5, 1.0])
STILL = CurveRecipe(learning_rate=0.0, sample_passes=100)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_curve_starts_and_ends_at_the_models_and_bends_between() -> None:
    assert coefficients("bezier", HALVES).tolist() == [[1, 0, 0], [0.25, 0.5, 0.25], [0, 0, 1]]
    assert coefficients("polygon", HALVES).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert coefficients("line", HALVES).tolist() == [[1, 0, 0], [0.5, 0, 0.5], [0, 0, 1]]
    for form in ("bezier", "polygon", "line"):
        assert coefficients(form, torch.rand(50, generator=stream())).sum(1) == pytest.approx(1)


def test_errors_at_the_ends_are_those_of_the_models(trained_pair, digits) -> None:
    """The models' own errors, their BatchNorm statistics recomputed."""
    errors = curve_errors(*trained_pair, digits.train, digits.validation, CurveRecipe(), stream())
    for index, model in ((0, trained_pair[0]), (-1, trained_pair[1])):
        end = copy.deepcopy(model)
        recalibrate_batch_norm(end, digits.train.images, 512)
        assert errors.train[index] == evaluate(end, digits.train)[1]
        assert errors.validation[index] == evaluate(end, digits.validation)[1]


def test_without_batch_norm_the_ends_are_the_models_as_they_are(digits) -> None:
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10)) for _ in range(2)]
    errors = curve_errors(*models, digits.train, digits.validation, STILL, stream())
    assert [errors.train[0], errors.train[-1]] == [evaluate(model, digits.train)[1] for model in models]
    assert errors.train[0] != errors.train[-1]


def test_between_identical_models_there_is_no_barrier(trained_pair, digits) -> None:
    model = trained_pair[0]
    errors = curve_errors(model, model, digits.train, digits.validation, STILL, stream())
    assert set(errors.train) == {errors.train[0]}
    assert mode_connectivity(errors.train) == mode_connectivity(errors.validation) == 0


def test_training_the_bend_lowers_the_barrier(trained_pair, digits) -> None:
    line = curve_errors(*trained_pair, digits.train, digits.validation, STILL, stream())
    curve = curve_errors(*trained_pair, digits.train, digits.validation, CurveRecipe(), stream())
    assert mode_connectivity_peak(line.train) < -25
    assert mode_connectivity_peak(curve.train) > -5
    assert curve.train[0] == line.train[0]


def test_the_bend_steps_as_momentum_sgd_through_the_interpolation(trained_pair, digits) -> None:
    """The oracle: autograd from the bend through the interpolated weights, with torch's own optimiser."""
    recipe = CurveRecipe(batch_size=64, learning_rate=0.2, weight_decay=0.05, sample_passes=3 * 64)
    train = type(digits.train)(digits.train.images[:64], digits.train.labels[:64])
    start, end = flat_pair(*trained_pair)
    model, points = StackedModel(trained_pair[0], 1), torch.stack([start, (start + end) / 2, end])
    bend = points[1].clone().requires_grad_()
    own = type(train)(train.images, train.labels[None])
    assert train_bends(model, points, own, recipe, [stream(5)]) == (3, 192)

    replay, module = stream(5), copy.deepcopy(trained_pair[0]).train()
    orders = [torch.randperm(64, generator=replay) for _ in range(3)]
    optimizer = torch.optim.SGD([bend], lr=0.2, momentum=0.9)
    named = dict(module.named_parameters())
    for step, (order, t) in enumerate(zip(orders, torch.rand(3, generator=replay), strict=True)):
        flat = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        parts = zip(named.items(), flat.split([p.numel() for p in named.values()]), strict=True)
        weights = {name: part.view(p.shape) for (name, p), part in parts}
        answers = torch.func.functional_call(module, weights, (train.images[order],))
        loss = F.cross_entropy(answers, train.labels[order]) + 0.5 * 0.05 * flat.square().sum()
        optimizer.param_groups[0]["lr"] = 0.2 * learning_rate_factor(step / 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(points[1], bend.detach(), rtol=1e-4, atol=1e-5)
    assert (points[1] - (start + end) / 2).norm() > 0.1
    assert torch.equal(points[0], start)


@pytest.mark.parametrize("random_bend", [False, True])
def test_the_bend_starts_midway_or_at_the_untrained_model(
    trained_pair, make_cnn, digits, random_bend: bool
) -> None:
    recipe, initial = dataclasses.replace(STILL, random_bend=random_bend), make_cnn(6, 9)
    errors = curve_errors(*trained_pair, digits.train, digits.validation, recipe, stream(), initial)
    start, end = flat_pair(*trained_pair)
    bend = flat_weights(initial) if random_bend else (start + end) / 2
    middle = FlatModel(trained_pair[0])
    middle.weights.copy_(0.25 * start + 0.5 * bend + 0.25 * end)
    recalibrate_batch_norm(middle.module, digits.train.images, 512)
    assert errors.train[2] == pytest.approx(evaluate(middle.module, digits.train)[1], abs=0.11)
    assert errors.validation[2] == pytest.approx(evaluate(middle.module, digits.validation)[1], abs=0.26)


def test_a_random_bend_needs_the_untrained_model(trained_pair, digits) -> None:
    recipe = dataclasses.replace(STILL, random_bend=True)
    with pytest.raises(ValueError, match="starts the bend at an untrained model; pass initial_model"):
        curve_errors(*trained_pair, digits.train, digits.validation, recipe, stream())


def test_models_of_two_architectures_have_no_curve(trained_pair, make_cnn, digits) -> None:
    with pytest.raises(
        ValueError, match=r"different architectures: parameter 0.weight is \(6, 1, 3, 3\) and \(2,"
    ):
        curve_errors(trained_pair[0], make_cnn(2, 0), digits.train, digits.validation, STILL, stream())


def test_a_bend_that_diverges_gives_nan_and_not_an_error_rate(trained_pair, digits) -> None:
    recipe = CurveRecipe(learning_rate=1e38, sample_passes=200)
    errors = curve_errors(*trained_pair, digits.train, digits.validation, recipe, stream())
    assert math.isnan(errors.train[2])
    assert math.isnan(errors.validation[2])


def test_curves_repeat_and_leave_the_models_alone(trained_pair, digits) -> None:
    before = [copy.deepcopy(model.state_dict()) for model in trained_pair]
    recipe = CurveRecipe(sample_passes=500)
    first, again, other = (
        curve_errors(*trained_pair, digits.train, digits.validation, recipe, stream(seed))
        for seed in (1, 1, 2)
    )
    assert first == again != other
    for model, state in zip(trained_pair, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        assert not model.training


def test_images_are_limited_and_costs_counted(trained_pair, digits) -> None:
    recipe = CurveRecipe(batch_size=50, sample_passes=210, evaluation_images=300)
    errors = curve_errors(*trained_pair, digits.train, digits.validation, recipe, stream())
    assert (errors.train_images, errors.validation_images, errors.steps) == (300, 300, 5)
    assert errors.sample_passes == 3 * 210 + 5 * (300 + 300 + 300)
    limitless = dataclasses.replace(recipe, evaluation_images=None)
    errors = curve_errors(*trained_pair, digits.train, digits.validation, limitless, stream())
    assert (errors.train_images, errors.validation_images) == (1000, 400)


def test_every_epoch_shows_every_image_and_the_last_is_cut() -> None:
    batches = [indices for indices, _ in batch_schedule(10, CurveRecipe(4, sample_passes=25), stream())]
    assert [len(indices) for indices in batches] == [4, 4, 2, 4, 4, 2, 4]
    assert (
        sorted(torch.cat(batches[:3]).tolist()) == sorted(torch.cat(batches[3:6]).tolist()) == list(range(10))
    )
    assert batches[0].tolist() != batches[3].tolist()


def test_a_batch_of_one_is_left_out_unless_there_is_no_other() -> None:
    recipe = CurveRecipe(4, sample_passes=9)
    assert [len(indices) for indices, _ in batch_schedule(9, recipe, stream())] == [4, 4]
    assert [len(indices) for indices, _ in batch_schedule(1, CurveRecipe(4, sample_passes=2), stream())] == [
        1,
        1,
    ]


def test_the_learning_rate_falls_by_step_or_by_epoch() -> None:
    assert [learning_rate_factor(p) for p in (0, 0.5, 0.7, 0.9, 1)] == pytest.approx(
        [1, 1, 0.505, 0.01, 0.01]
    )
    by_step = [rate for _, rate in batch_schedule(10, CurveRecipe(5, 2.0, sample_passes=100), stream())]
    assert by_step == pytest.approx([2 * learning_rate_factor(step / 20) for step in range(20)])
    by_epoch = [rate for _, rate in batch_schedule(10, CurveRecipe(5, 2.0, epochs=10), stream())]
    assert by_epoch == pytest.approx([2 * learning_rate_factor((step // 2 + 1) / 10) for step in range(20)])


@pytest.mark.parametrize(
    ("errors", "connectivity", "peak"),
    [
        ((0.0, 10.0, 20.0, 5.0, 2.0), -19.0, -20.0),
        ((12.0, 2.0, 1.0, 3.0, 8.0), 9.0, -3.0),
        ((4.0, 4.0, 4.0, 4.0, 4.0), 0.0, -4.0),
        ((0.0, 4.0, 4.0, 4.0, 10.0), 5.0, -4.0),
    ],
)
def test_summaries_of_known_curves(errors: tuple[float, ...], connectivity: float, peak: float) -> None:
    assert mode_connectivity(errors) == connectivity
    assert mode_connectivity_peak(errors) == peak


@pytest.mark.parametrize("form", ["bezier", "polygon", "line"])
def test_a_pair_has_the_same_path_alone_and_with_others(make_cnn, trained_pair, digits, form) -> None:
    """To the bit: a zoo that grows keeps the pairs that it has, and adds others."""
    pairs = [
        Pair(*trained_pair),
        Pair(trained_pair[1], make_cnn(6, 3)),
        Pair(make_cnn(6, 3), trained_pair[0]),
    ]
    recipe = CurveRecipe(form=form, sample_passes=640)

    def paths(*chosen: int) -> list[PathErrors]:
        streams = [stream(number) for number in chosen]
        return errors_of_curves([pairs[n] for n in chosen], digits.train, digits.validation, recipe, streams)

    together = paths(0, 1, 2)
    assert together == [*paths(0), *paths(1), *paths(2)]
    assert together[1:] == paths(1, 2)
    assert len(set(together)) == 3


def test_pairs_with_labels_of_their_own_have_the_paths_that_they_have_alone(trained_pair, digits) -> None:
    recipe, noisy = CurveRecipe(sample_passes=640), digits.train.labels.roll(1)
    labels = torch.stack([digits.train.labels, noisy])
    both = errors_of_curves(
        [Pair(*trained_pair)] * 2,
        type(digits.train)(digits.train.images, labels),
        digits.validation,
        recipe,
        [stream(1), stream(2)],
    )
    for own, seed, errors in zip(labels, (1, 2), both, strict=True):
        train = type(digits.train)(digits.train.images, own)
        assert errors == curve_errors(*trained_pair, train, digits.validation, recipe, stream(seed))


def test_a_pair_that_diverges_disturbs_no_other(trained_pair, digits) -> None:
    broken = copy.deepcopy(trained_pair[1])
    with torch.no_grad():
        broken[-1].weight.fill_(3e38)
    recipe, streams = CurveRecipe(sample_passes=320), [stream(2), stream(1)]
    for spoilt in (Pair(trained_pair[0], broken), Pair(broken, trained_pair[0])):
        pairs = [spoilt, Pair(*trained_pair)]
        none, whole = errors_of_curves(pairs, digits.train, digits.validation, recipe, streams)
        assert whole == curve_errors(*trained_pair, digits.train, digits.validation, recipe, stream(1))
        assert math.isnan(none.train[2])


def test_many_or_large_models_take_several_stacks(trained_pair, digits, monkeypatch) -> None:
    model, images = trained_pair[0], digits.train.images[:4]
    size = len(flat_weights(model))
    for most, found in (
        (9, [[0, 1, 2, 3, 4]]),
        (2, [[0, 1], [2, 3], [4, 4]]),
        (1, [[0], [1], [2], [3], [4]]),
    ):
        monkeypatch.setattr("zoo.landscape.connectivity.STACK_ENTRIES", most * size)
        assert list(stacks(model, 5, images)) == found
    pairs, recipe = [Pair(*trained_pair)] * 3, CurveRecipe(sample_passes=320)

    def paths(most: int) -> list[PathErrors]:
        monkeypatch.setattr("zoo.landscape.connectivity.STACK_ENTRIES", most * size)
        return errors_of_curves(pairs, digits.train, digits.validation, recipe, [stream(n) for n in range(3)])

    assert paths(2) == paths(3)


class Crossed(nn.Module):
    """Mixes its channels, so that copies cannot stand side by side."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inner = nn.Linear(64, 10)

    def forward(self, images):
        flat = images.flatten(1)
        return self.inner(flat - flat.mean(1, keepdim=True))


def test_what_cannot_stand_side_by_side_trains_alone(digits) -> None:
    models = [Crossed(seed) for seed in range(3)]
    assert not can_be_stacked(models[0], digits.train.images[:4])
    pairs, recipe = [Pair(*models[:2]), Pair(*models[1:])], CurveRecipe(sample_passes=320)
    both = errors_of_curves(pairs, digits.train, digits.validation, recipe, [stream(1), stream(2)])
    for pair, seed, errors in zip(pairs, (1, 2), both, strict=True):
        assert errors == curve_errors(*pair[:2], digits.train, digits.validation, recipe, stream(seed))
    assert both[0].train[0] == pytest.approx(evaluate(models[0], digits.train)[1])


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18"])
def test_models_side_by_side_answer_and_learn_as_each_does(name: str) -> None:
    shape = ImageShape(2, 16, 5)
    models = [initial_model(name, 3, shape, seed).double() for seed in range(3)]
    images = torch.randn(3, 8, 2, 16, 16, dtype=torch.float64, generator=stream())
    labels = torch.arange(8) % 5
    stack = StackedModel(models[0], 3)
    stack.weights.copy_(stack.pack(torch.stack([flat_weights(model) for model in models])))
    stack.module.train()
    answers = stack(images)
    sum(F.cross_entropy(own, labels) for own in answers).backward()
    for lane, model in enumerate(models):
        own = model.train()(images[lane])
        F.cross_entropy(own, labels).backward()
        torch.testing.assert_close(answers[lane], own)
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        packed = stack.pack(gradient.expand(3, -1))
        torch.testing.assert_close(stack.gradient[stack.lane == lane], packed[stack.lane == lane])


def test_a_barrier_is_what_rises_above_the_chord() -> None:
    assert barrier((1, 2, 3, 4, 5)) == barrier((5, 3, 2, 1, 4)) == 0
    assert barrier((0, 2, 7, 2, 4)) == 5
