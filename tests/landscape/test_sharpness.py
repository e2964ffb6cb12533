"""Sharpness against quadratic bowls, finite steps by hand, and the rescalings that it must not see."""

import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.landscape.sharpness import perturbation_scale, random_sharpness, worst_case_sharpness

RELATIVE = ("absolute", "norm", "filter", "element")


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bowl(curvature: Tensor, at: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model, inputs and targets whose `half_square` is w' diag(curvature) w / 2, at the weights."""
    size = len(curvature)
    model = nn.Linear(size, 1, bias=False).double()
    model.weight.data = at.double()[None]
    return model, torch.diag((curvature * size).sqrt()).double(), torch.zeros(size, 1, dtype=torch.float64)


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean() / 2


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def loss_of(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return F.cross_entropy(model(images).double(), labels).item()


def test_noise_in_a_bowl_raises_the_loss_by_half_the_trace() -> None:
    """And the variance of one draw is that of its slope, and of its curvature: sigma^2 |g|^2 + sigma^4 |h|^2 / 2."""
    curvature, at = torch.tensor([1.0, 2.0, 3.0, 10.0]), torch.tensor([0.3, -0.1, 0.0, 0.02])
    estimate = random_sharpness(*bowl(curvature, at), stream(), 0.1, "absolute", draws=6000, loss=half_square)
    variance = 0.1**2 * (curvature * at).square().sum() + 0.1**4 / 2 * curvature.square().sum()
    assert abs(estimate.value - 0.1**2 / 2 * 16) < 4 * estimate.standard_error < 0.01
    assert estimate.standard_error == pytest.approx(math.sqrt(variance.item() / 6000), rel=0.05)


@pytest.mark.parametrize("relative", RELATIVE)
def test_each_draw_in_a_bowl_is_the_closed_form(relative: str) -> None:
    curvature, at = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, -1.0, 2.0])
    inputs = bowl(curvature, at)
    estimate = random_sharpness(*inputs, stream(5), 0.1, relative, draws=4, loss=half_square)
    size = {"absolute": torch.ones(3), "element": at.abs()}.get(relative, torch.full((3,), math.sqrt(14 / 3)))
    steps = 0.1 * size * torch.stack([torch.randn(3, generator=g) for g in [stream(5)] for _ in range(4)])
    expected = (curvature * at * steps + curvature * steps.square() / 2).sum(1)
    assert estimate.values == pytest.approx(expected.tolist(), rel=1e-5)
    assert estimate.value == pytest.approx(statistics.mean(estimate.values))
    assert estimate.standard_error == pytest.approx(statistics.stdev(estimate.values) / 2)


@pytest.mark.parametrize("relative", RELATIVE)
def test_the_worst_case_step_in_a_bowl_is_the_closed_form(relative: str) -> None:
    curvature, at = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([3.0, -1.0, 2.0]).double()
    gradient = curvature * at
    size = {"absolute": torch.ones(3), "element": at.abs()}.get(relative, torch.full((3,), math.sqrt(14 / 3)))
    step = (
        size**2 * gradient / (size * gradient).norm() * (1 if relative == "absolute" else math.sqrt(3)) * 0.1
    )
    before, after = (0.5 * (curvature * w.square()).sum().item() for w in (at, at + step))
    estimate = worst_case_sharpness(*bowl(curvature, at), 0.1, relative, half_square)
    assert estimate.values == pytest.approx((before, after), rel=1e-6)
    assert estimate.value == pytest.approx(after - before, rel=1e-6)


def test_no_random_step_of_that_length_raises_the_loss_as_much(trained_pair, digits) -> None:
    model, (images, labels) = trained_pair[0], digits.validation
    worst = worst_case_sharpness(model, images, labels, 0.05, "absolute").value
    weights = nn.utils.parameters_to_vector(model.parameters()).detach()
    before, rises = loss_of(model, images, labels), []
    for direction in torch.randn(20, len(weights), generator=stream()):
        nn.utils.vector_to_parameters(weights + 0.05 * direction / direction.norm(), model.parameters())
        rises.append(loss_of(model, images, labels) - before)
    nn.utils.vector_to_parameters(weights, model.parameters())
    assert worst > 2 * max(rises)


def test_the_step_has_the_direction_of_autograds_gradient(trained_pair, digits) -> None:
    model, (images, labels) = trained_pair[0], digits.validation
    gradients = torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))
    length = math.sqrt(sum(g.square().sum().item() for g in gradients))
    before = loss_of(model, images, labels)
    with torch.no_grad():
        originals = [p.clone() for p in model.parameters()]
        for p, g in zip(model.parameters(), gradients, strict=True):
            p.add_(g, alpha=0.02 / length)
        after = loss_of(model, images, labels)
        for p, original in zip(model.parameters(), originals, strict=True):
            p.copy_(original)
    estimate = worst_case_sharpness(model, images, labels, 0.02, "absolute", batch_size=97)
    assert estimate.values == pytest.approx((before, after), rel=1e-5)
    assert estimate.value == pytest.approx(0.02 * length, rel=0.3)


@pytest.mark.parametrize("relative", RELATIVE)
def test_rescaling_filters_before_batch_norm(make_cnn, digits, relative: str) -> None:
    """Filter- and element-wise noise does not see it; noise of one size everywhere does."""
    rises = []
    for factor in (1.0, 8.0):
        model = make_cnn(2, 0)
        with torch.no_grad():
            model[0].weight[1] *= factor
            model[1].running_var[1], model[1].eps = factor**2, 0.0
        estimate = random_sharpness(model, *digits.validation, stream(), 0.1, relative, draws=2)
        rises.append(estimate.value)
    assert (rises[0] == pytest.approx(rises[1], rel=1e-3)) == (relative in ("filter", "element"))


@pytest.mark.parametrize("relative", RELATIVE)
def test_moving_scale_from_the_inputs_of_a_unit_to_its_output(digits, relative: str) -> None:
    """The function of a ReLU network stays as it is; only element-wise sharpness does too, in both forms."""
    rises = []
    for factor in (1.0, 8.0):
        model = mlp()
        with torch.no_grad():
            model[1].weight[:6] *= factor
            model[1].bias[:6] *= factor
            model[3].weight[:, :6] /= factor
        worst = worst_case_sharpness(model, *digits.validation, 0.01, relative)
        random = random_sharpness(model, *digits.validation, stream(), 0.1, relative, draws=2)
        rises.append((worst.value, random.value))
    for before, after in zip(*rises, strict=True):
        assert (before == pytest.approx(after, rel=1e-3)) == (relative == "element")


@pytest.mark.parametrize("relative", RELATIVE[1:])
def test_relative_scales_have_the_norm_of_the_weights(make_cnn, relative: str) -> None:
    model = make_cnn(3, 0)
    weights = nn.utils.parameters_to_vector(model.parameters())
    scale = perturbation_scale(model, relative)
    assert scale.norm().item() == pytest.approx(weights.norm().item())
    assert scale.shape == weights.shape


def test_the_scale_of_a_filter_is_its_root_mean_square(make_cnn) -> None:
    model = make_cnn(2, 0)
    filters = model[4].weight.flatten(1)
    first = 2 * 9 + 2 + 2
    scale = perturbation_scale(model, "filter")[first : first + filters.numel()].view_as(filters)
    torch.testing.assert_close(scale, filters.square().mean(1, keepdim=True).sqrt().expand_as(filters))


def test_the_model_is_left_as_it_was(make_cnn, digits) -> None:
    model = make_cnn(2, 0).train()
    model[0].eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    results = [
        (
            worst_case_sharpness(model, *digits.train),
            random_sharpness(model, *digits.train, stream(1), draws=2),
        )
        for _ in range(2)
    ]
    assert results[0] == results[1]
    assert results[0][1] != random_sharpness(model, *digits.train, stream(2), draws=2)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert [m.training for m in model] == [False] + [True] * (len(model) - 1)


def test_cost_is_counted_in_passes(digits) -> None:
    images, labels = digits.train.images[:50], digits.train.labels[:50]
    worst = worst_case_sharpness(mlp(), images, labels)
    rise = random_sharpness(mlp(), images, labels, stream(), draws=3)
    assert (worst.samples, worst.sample_passes) == (50, 50 * 4)
    assert (rise.samples, rise.sample_passes, rise.iterations) == (50, 50 * 4, 3)
    assert random_sharpness(mlp(), images, labels, stream(), draws=1).standard_error is None


def test_what_cannot_be_had_has_a_reason(digits) -> None:
    model = mlp()
    model[1].weight.data[0, 0] = math.nan
    for estimate in (
        worst_case_sharpness(model, *digits.train),
        random_sharpness(model, *digits.train, stream()),
    ):
        assert (estimate.value, estimate.values, estimate.reason) == (None, None, "not_finite")
    flat = bowl(torch.zeros(3), torch.ones(3))
    assert worst_case_sharpness(*flat, loss=half_square).reason == "no_step"
    assert random_sharpness(*flat, stream(), loss=half_square).value == 0


def test_impossible_requests_are_refused(digits) -> None:
    data = digits.train
    with pytest.raises(ValueError, match="relative to 'weights'; choose one of"):
        perturbation_scale(mlp(), "weights")
    with pytest.raises(ValueError, match=r"radius is 0\.0; a step has a size above 0"):
        worst_case_sharpness(mlp(), *data, radius=0.0)
    with pytest.raises(ValueError, match="deviation is -1; a step has a size above 0"):
        random_sharpness(mlp(), *data, stream(), deviation=-1)
    with pytest.raises(ValueError, match="draws is 0; the mean rise takes at least 1"):
        random_sharpness(mlp(), *data, stream(), draws=0)
    empty = (data.images[:0], data.labels[:0])
    with pytest.raises(ValueError, match="gradient of the loss over 0 images is undefined"):
        worst_case_sharpness(mlp(), *empty)
    with pytest.raises(ValueError, match="sharpness of the loss over 0 images is undefined"):
        random_sharpness(mlp(), *empty, stream())
