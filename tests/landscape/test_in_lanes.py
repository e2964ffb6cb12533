"""What is measured in lanes against what is measured the plain way, in double precision."""

import math

import pytest
import torch
from torch import Tensor, nn

from zoo.datasets import Split
from zoo.engines import lane_copies
from zoo.engines.lane_copies import MOST_CHANNELS, LaneCopies, described
from zoo.engines.lane_library import Passes, library
from zoo.landscape import connectivity, evaluation, gradients, hessian, sharpness
from zoo.landscape.activity import relu_activity
from zoo.landscape.connectivity import CurveRecipe, Pair, errors_of_curves
from zoo.landscape.evaluation import answers_in_lanes, evaluate, outputs, recalibrate_batch_norm
from zoo.landscape.gradients import gradient_statistics
from zoo.landscape.hessian import HessianOperator
from zoo.landscape.sharpness import random_sharpness, worst_case_sharpness
from zoo.landscape.similarity import answers
from zoo.landscape.weights import flat_weights
from zoo.models import ImageShape, initial_model

pytestmark = pytest.mark.skipif(
    library() is None, reason="the lane kernels were not compiled, or cannot run here"
)

NETWORKS = [("mlp", 5, 1, 5), ("cnn", 3, 2, 13), ("cnn", 4, 1, 8), ("resnet18", 2, 3, 9)]


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(
    architecture: str, width: int, channels: int, pixels: int, seed: int = 0
) -> tuple[nn.Module, Split]:
    """A network with BatchNorm weights and statistics of its own, and 37 images: fewer than fill the lanes evenly."""
    model = initial_model(architecture, width, ImageShape(channels, pixels, 4), seed).double()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight, 1.0, 0.3, generator=stream(seed))
        nn.init.normal_(norm.bias, 0.0, 0.3, generator=stream(seed + 1))
        nn.init.zeros_(norm.weight[:1])
    images = torch.randn(37, channels, pixels, pixels, generator=stream(seed), dtype=torch.float64)
    model.train()
    model(images)
    return model.eval(), Split(images, torch.randint(0, 4, (37,), generator=stream(1)))


@pytest.fixture
def plainly(monkeypatch):
    """Makes lanes unknown."""

    def without_lanes() -> None:
        for module in (connectivity, evaluation, gradients, hessian, sharpness):
            monkeypatch.setattr(module, "described", lambda *_: None)

    return without_lanes


@pytest.mark.parametrize("facts", NETWORKS)
def test_products_and_forms_are_those_of_double_backward_and_taylor_series(facts, plainly):
    model, split = network(*facts)
    fast = HessianOperator(model, *split)
    vectors = torch.randn(11, fast.size, generator=stream(2), dtype=torch.float64)
    products, forms = torch.stack([fast @ vector for vector in vectors]), fast.forms(vectors)
    assert fast._lanes is not None
    plainly()
    slow = HessianOperator(model, *split)
    expected = torch.stack([slow @ vector for vector in vectors])
    assert slow._lanes is None
    torch.testing.assert_close(products, expected, rtol=1e-10, atol=1e-12 * expected.abs().max().item())
    torch.testing.assert_close(forms.values, slow.forms(vectors).values, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(forms.whole, (products * vectors).sum(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("facts", NETWORKS)
def test_products_are_the_same_however_much_is_held_for_them(facts, monkeypatch):
    """Nothing, some of the images, all; a second operator on the same model has its own."""
    model, split = network(*facts)
    vectors = torch.randn(
        2, sum(p.numel() for p in model.parameters()), generator=stream(2), dtype=torch.float64
    )
    found = []
    for power in (0, 13, 15, 17, 19, 21, 27):
        monkeypatch.setattr(lane_copies, "HELD_BYTES", 2**power)
        operator, few = HessianOperator(model, *split), HessianOperator(model, *(part[:9] for part in split))
        found.append(torch.stack([own @ vector for vector in vectors for own in (operator, few)]))
    for others in found[1:]:
        assert torch.equal(others, found[0])


def test_products_of_the_same_copies_do_not_disturb_each_other():
    model, split = network(*NETWORKS[1])
    copies = LaneCopies(described(model, *split), model, 8, Passes.CURVATURE)
    weights = flat_weights(model)
    vector, elsewhere = torch.randn(2, len(weights), generator=stream(2), dtype=torch.float64)
    first = copies.products(weights, split)
    wanted = first(vector)
    second = copies.products(weights + 0.1 * elsewhere, split)
    assert not torch.allclose(second(vector), wanted)
    assert torch.equal(first(vector), wanted)


@pytest.mark.parametrize("facts", NETWORKS)
@pytest.mark.parametrize("group_size", [1, 3])
def test_gradients_of_single_images_are_those_of_autograd(facts, group_size, plainly):
    model, split = network(*facts)
    fast = gradient_statistics(model, *split, stream(), group_size)
    plainly()
    for ours, theirs in zip(fast, gradient_statistics(model, *split, stream(), group_size), strict=True):
        assert (ours.reason, ours.sample_passes) == (theirs.reason, theirs.sample_passes)
        for own, expected in (ours.value, theirs.value), (ours.standard_error, theirs.standard_error):
            assert own == (expected if expected is None else pytest.approx(expected, rel=1e-9))


@pytest.mark.parametrize("facts", NETWORKS[1:])
@pytest.mark.parametrize("images", [32, 37])
def test_answers_are_those_of_the_module(facts, images, plainly):
    """Outputs, features, and what is counted of each ReLU, where some units are dead."""
    model, split = network(*facts)
    seen = split.images[:images]
    assert answers_in_lanes(model, seen) is not None
    fast, features, activity = outputs(model, seen), answers(model, seen).features, relu_activity(model, seen)
    plainly()
    assert answers_in_lanes(model, seen) is None
    torch.testing.assert_close(fast, outputs(model, seen), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(features, answers(model, seen).features, rtol=1e-10, atol=1e-12)
    expected = relu_activity(model, seen)
    assert activity == expected
    assert 0 < expected[0].value < 1


def test_few_images_and_linear_layers_alone_are_answered_the_plain_way():
    model, split = network(*NETWORKS[1])
    assert answers_in_lanes(model, split.images[:31]) is None
    model, split = network(*NETWORKS[0])
    assert answers_in_lanes(model, split.images) is None


@pytest.mark.parametrize(
    "labels",
    [
        torch.full((37,), -100).where(
            torch.arange(37) % 5 == 0, torch.arange(37) % 4
        ),  # some count for nothing
        torch.eye(4, dtype=torch.float64)[torch.arange(37) % 4] / 2 + 0.125,  # soft
    ],
    ids=["ignored", "soft"],
)
def test_labels_that_are_no_classes_are_left_to_the_plain_way(labels):
    model, split = network(*NETWORKS[1])
    given = Split(split.images, labels)
    assert described(model, *given) is None
    assert described(model, *split) is not None
    outputs = model(split.images)
    expected = nn.functional.cross_entropy(outputs, labels).item()
    assert worst_case_sharpness(model, *given).values[0] == pytest.approx(expected, rel=1e-10)
    operator = HessianOperator(model, *given)
    assert operator._lanes is None
    assert (operator @ flat_weights(model)).isfinite().all()


@pytest.mark.parametrize("labels", [torch.zeros(37, dtype=torch.uint8), torch.zeros(36, dtype=torch.int64)])
def test_other_labels_never_reach_the_kernels(labels):
    model, split = network(*NETWORKS[1])
    assert described(model, split.images, labels) is None


@pytest.mark.parametrize("facts", NETWORKS)
@pytest.mark.parametrize("images", [3, 37])
def test_the_worst_step_is_that_of_autograd(facts, images, plainly):
    model, split = network(*facts)
    few = Split(split.images[:images], split.labels[:images])
    fast = worst_case_sharpness(model, *few, relative="filter")
    plainly()
    slow = worst_case_sharpness(model, *few, relative="filter")
    assert fast.values == pytest.approx(slow.values, rel=1e-11)
    assert fast.value == pytest.approx(slow.value, rel=1e-8)


def test_a_product_is_that_of_a_dense_hessian():
    """By automatic differentiation of the whole network, nothing of ours in it."""
    model, split = network("cnn", 1, 1, 6)
    named = dict(model.named_parameters())
    sizes = [p.numel() for p in named.values()]

    def loss(flat: Tensor) -> Tensor:
        parts = zip(named.items(), flat.split(sizes), strict=True)
        weights = {name: part.view(p.shape) for (name, p), part in parts}
        answers = torch.func.functional_call(model, weights, (split.images,))
        return nn.functional.cross_entropy(answers, split.labels)

    dense = torch.autograd.functional.hessian(loss, flat_weights(model))
    operator = HessianOperator(model, *split)
    found = torch.stack([operator @ row for row in torch.eye(operator.size, dtype=torch.float64)])
    torch.testing.assert_close(found, dense, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("facts", NETWORKS)
@pytest.mark.parametrize("copies", [1, 9, 17])
def test_copies_are_evaluated_as_models(facts, copies):
    model, split = network(*facts)
    size = sum(p.numel() for p in model.parameters())
    noise = torch.randn(copies, size, generator=stream(3), dtype=torch.float64)
    weights = flat_weights(model) + 0.1 * noise
    own = Split(split.images, torch.randint(0, 4, (copies, 37), generator=stream(4)))
    scores = LaneCopies(described(model, split.images), model).evaluate(weights, own)
    for copy in range(copies):
        nn.utils.vector_to_parameters(weights[copy].clone(), model.parameters())
        expected = evaluate(model, Split(split.images, own.labels[copy]))
        assert (scores.loss[copy].item(), scores.error[copy].item()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("batch", [37, 12, 5])
def test_statistics_are_made_anew_as_by_the_plain_way(batch):
    model, split = network("cnn", 3, 1, 13)
    copies = LaneCopies(described(model, split.images), model, batch)
    weights = torch.stack([flat_weights(model), 0.5 * flat_weights(model)])
    (scores,) = copies.evaluate_calibrated(weights, split.images, batch, [split])
    for copy in range(2):
        nn.utils.vector_to_parameters(weights[copy].clone(), model.parameters())
        recalibrate_batch_norm(model, split.images, batch)
        loss, error = evaluate(model, split)
        assert (scores.loss[copy].item(), scores.error[copy].item()) == pytest.approx((loss, error), rel=1e-9)


@pytest.mark.parametrize("facts", NETWORKS)
@pytest.mark.parametrize("form", ["bezier", "polygon", "line"])
@pytest.mark.parametrize("decay", [0.0, 1e-2])
def test_paths_are_those_of_the_plain_way(facts, form, decay, plainly):
    """Bends trained for some steps, the last batch of an epoch smaller, then evaluated along the path."""
    first, split = network(*facts)
    second, third = network(*facts, seed=1)[0], network(*facts, seed=2)[0]
    recipe = CurveRecipe(
        form=form,
        batch_size=8,
        sample_passes=90,
        learning_rate=0.05,
        weight_decay=decay,
        recalibration_batch=20,
    )
    pairs, labels = (
        [Pair(first, second), Pair(second, third)],
        torch.stack([split.labels, split.labels.flip(0)]),
    )
    sides = Split(split.images, labels), split

    def measured():
        return errors_of_curves(pairs, *sides, recipe, [stream(5), stream(6)])

    fast = measured()
    plainly()
    for ours, theirs in zip(fast, measured(), strict=True):
        assert (ours.steps, ours.sample_passes) == (theirs.steps, theirs.sample_passes)
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-7)
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, rel=1e-7)
        assert ours.train == pytest.approx(theirs.train)
        assert ours.validation == pytest.approx(theirs.validation)


def test_a_pair_has_the_same_path_alone_and_with_others_to_the_bit():
    models = [network("cnn", 2, 1, 8, seed)[0].float() for seed in range(10)]
    split = network("cnn", 2, 1, 8)[1]
    split = Split(split.images.float(), split.labels)
    pairs = [Pair(models[k], models[k + 1]) for k in range(9)]
    recipe = CurveRecipe(batch_size=8, sample_passes=200)
    together = errors_of_curves(pairs, split, split, recipe, [stream(k) for k in range(9)])
    for k in (0, 8):
        assert errors_of_curves([pairs[k]], split, split, recipe, [stream(k)]) == [together[k]]


def test_a_path_that_diverges_has_no_errors():
    first, split = network("cnn", 2, 1, 8)
    second = network("cnn", 2, 1, 8, seed=1)[0]
    recipe = CurveRecipe(batch_size=8, sample_passes=400, learning_rate=1e200)
    (found,) = errors_of_curves([Pair(first, second)], split, split, recipe, [stream()])
    assert math.isnan(found.train[2])
    assert math.isnan(found.validation_loss[2])


def test_random_steps_are_those_of_the_plain_way(plainly):
    model, split = network("cnn", 3, 2, 13)
    fast = random_sharpness(model, *split, stream(), draws=11)
    plainly()
    slow = random_sharpness(model, *split, stream(), draws=11)
    assert fast.values == pytest.approx(slow.values, rel=1e-8)
    assert fast.value == pytest.approx(slow.value, rel=1e-8)


def test_what_is_not_for_lanes(monkeypatch):
    """Other devices and number formats, frozen parameters, wide layers; and machines without kernels."""
    model, split = network("cnn", 2, 1, 8)
    assert described(model, split.images) is not None
    assert described(model, split.images[0]) is None
    assert described(model.half(), split.images) is None
    model.double()[0].weight.requires_grad_(False)
    assert described(model, split.images) is None
    assert described(nn.Sequential(nn.Flatten(), nn.GELU(), nn.Linear(64, 4)), split.images) is None
    wide = nn.Sequential(
        nn.Flatten(), nn.Linear(64, MOST_CHANNELS + 1), nn.ReLU(), nn.Linear(MOST_CHANNELS + 1, 4)
    )
    assert described(wide, split.images) is None
    monkeypatch.setattr(lane_copies, "library", lambda: None)
    assert described(network("cnn", 2, 1, 8)[0], split.images) is None
