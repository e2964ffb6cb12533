"""Gradient statistics against autograd one image at a time, closed forms, and repeated sampling."""

import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.landscape import gradients
from zoo.landscape.gradients import gradient_statistics, mean_gradient
from zoo.landscape.weights import FlatModel


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def location() -> nn.Module:
    """A model of no inputs but a constant: with `half_square`, the gradient of a target y is w - y."""
    model = nn.Linear(1, 5, bias=False).double()
    model.weight.data.fill_(0.0)
    return model


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(-1).mean() / 2


def targets(count: int, seed: int, mean: float = 0.5) -> tuple[Tensor, Tensor]:
    """Inputs, and targets of mean 0.5 and standard deviations 1 to 5."""
    noise = torch.randn(count, 5, generator=stream(seed), dtype=torch.float64)
    return torch.ones(count, 1, dtype=torch.float64), mean + noise * torch.arange(1.0, 6.0)


@pytest.fixture(scope="module")
def one_by_one(trained_pair, digits) -> Tensor:
    """The gradients [200, P] of single images, by autograd."""
    model, rows = trained_pair[0], []
    for image, label in zip(digits.train.images[:200], digits.train.labels[:200], strict=True):
        loss = F.cross_entropy(model(image[None]), label[None])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    return torch.stack(rows).double()


def direct(rows: Tensor) -> tuple[float, float, float]:
    """Norm, variance and noise scale of gradients [K, P], written down as they are defined."""
    mean = rows.mean(0)
    variance = rows.var(0).sum()
    return mean.norm().item(), variance.item(), (variance / (mean @ mean - variance / len(rows))).item()


def first(digits, count: int) -> tuple[Tensor, Tensor]:
    return digits.train.images[:count], digits.train.labels[:count]


@pytest.mark.parametrize("kept", [0, 2**25])
def test_statistics_are_those_of_single_gradients(
    trained_pair, digits, one_by_one, kept, monkeypatch
) -> None:
    monkeypatch.setattr(gradients, "ENTRIES_KEPT", kept)
    found = gradient_statistics(trained_pair[0], *first(digits, 200), stream())
    assert [e.value for e in found] == pytest.approx(direct(one_by_one), rel=1e-4)
    assert {e.sample_passes for e in found} == {200 * (3 if kept else 6)}
    assert {(e.samples, e.iterations) for e in found} == {(200, 200)}


def test_standard_errors_are_the_delete_one_jackknife(trained_pair, digits, one_by_one) -> None:
    found = gradient_statistics(trained_pair[0], *first(digits, 200), stream())
    left_out = [direct(torch.cat([one_by_one[:k], one_by_one[k + 1 :]])) for k in range(200)]
    for estimate, numbers in zip(found, zip(*left_out, strict=True), strict=True):
        expected = math.sqrt(199 * statistics.pvariance(numbers))
        assert estimate.standard_error == pytest.approx(expected, rel=1e-3)


def test_the_noise_scale_is_that_of_two_batch_sizes(trained_pair, digits, one_by_one) -> None:
    """McCandlish et al., appendix A.1, with batches of 1 and of all."""
    small, big = one_by_one.square().sum(1).mean().item(), one_by_one.mean(0).square().sum().item()
    signal = (200 * big - 1 * small) / (200 - 1)
    noise = (small - big) / (1 / 1 - 1 / 200)
    _, variance, scale = gradient_statistics(trained_pair[0], *first(digits, 200), stream())
    assert variance.value == pytest.approx(noise, rel=1e-4)
    assert scale.value == pytest.approx(noise / signal, rel=1e-4)


def test_the_closed_form_lies_within_the_error_bars() -> None:
    """The covariance has trace 1 + 4 + 9 + 16 + 25 = 55, the squared mean gradient is 5 / 4."""
    found = gradient_statistics(location(), *targets(20_000, 0), stream(), loss=half_square)
    for estimate, exact in zip(found, (math.sqrt(5) / 2, 55.0, 44.0), strict=True):
        assert abs(estimate.value - exact) < 3 * estimate.standard_error < 0.3 * exact


@pytest.mark.parametrize("group_size", [1, 4])
def test_estimates_have_no_bias_and_errors_are_the_spread_of_repeats(group_size: int) -> None:
    repeats = [
        gradient_statistics(location(), *targets(400, seed, 2.0), stream(seed), group_size, loss=half_square)
        for seed in range(200)
    ]
    for index, exact in enumerate((math.sqrt(20), 55.0, 55 / 20)):
        values = [found[index].value for found in repeats]
        spread = statistics.stdev(values)
        assert statistics.mean(values) == pytest.approx(exact, abs=0.01 * exact + 3 * spread / math.sqrt(200))
        errors = [found[index].standard_error ** 2 for found in repeats]
        assert math.sqrt(statistics.mean(errors)) == pytest.approx(spread, rel=0.15)


def test_a_known_population_leaves_no_error_in_the_mean_gradient() -> None:
    everything = targets(300, 0)
    norm, variance, scale = gradient_statistics(
        location(), *everything, stream(), population=300, loss=half_square
    )
    assert scale.value == pytest.approx(variance.value / norm.value**2)
    assert [e.standard_error for e in (norm, variance, scale)] == [0, 0, 0]
    samples, signals = torch.Generator().manual_seed(1), []
    for _ in range(300):
        chosen = torch.randperm(300, generator=samples)[:100]
        part = gradient_statistics(
            location(), *(t[chosen] for t in everything), stream(), population=300, loss=half_square
        )
        signals.append(part[1].value / part[2].value if part[2].value else 0.0)
    exact = norm.value**2
    assert statistics.mean(signals) == pytest.approx(
        exact, abs=4 * statistics.stdev(signals) / math.sqrt(300)
    )


def test_groups_are_drawn_so_that_the_order_of_the_images_does_not_matter() -> None:
    """Neighbours of an ordered set are alike; groups of them would make the noise seem as large as its variance."""
    inputs, noise = targets(2_000, 0)
    data = inputs, noise[noise[:, 4].argsort()]
    (_, single, _), (_, grouped, _) = (
        gradient_statistics(location(), *data, stream(), size, population=2_000, loss=half_square)
        for size in (1, 8)
    )
    assert single.standard_error == 0 < grouped.standard_error
    assert abs(grouped.value - single.value) < 4 * grouped.standard_error < 0.4 * single.value


def test_scale_and_model_mode_do_not_matter_to_the_noise_scale(make_cnn, digits) -> None:
    model, data = make_cnn(6, 0).train(), first(digits, 600)
    model.zero_grad()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    plain = gradient_statistics(model, *data, stream())
    scaled = gradient_statistics(model, *data, stream(), loss=lambda out, y: 3 * F.cross_entropy(out, y))
    assert scaled[2].value == pytest.approx(plain[2].value, rel=1e-4)
    assert [s.value / p.value for s, p in zip(scaled[:2], plain[:2], strict=True)] == pytest.approx([3, 9])
    assert plain == gradient_statistics(model, *data, stream())
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_frozen_parameters_have_no_gradient(trained_pair, digits, one_by_one, make_cnn) -> None:
    model = make_cnn(6, 0)
    model.load_state_dict(trained_pair[0].state_dict())
    model[0].weight.requires_grad_(False)
    found = gradient_statistics(model, *first(digits, 200), stream())
    assert found[0].value == pytest.approx(direct(one_by_one[:, 54:])[0], rel=1e-4)


def test_the_mean_gradient_is_autograds_in_any_batches(trained_pair, digits, one_by_one) -> None:
    flat = FlatModel(trained_pair[0])
    for batch_size in (1000, 64):
        loss, gradient = mean_gradient(flat, *first(digits, 200), batch_size=batch_size)
        torch.testing.assert_close(gradient.double(), one_by_one.mean(0), rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        outputs = trained_pair[0](digits.train.images[:200])
    assert loss == pytest.approx(F.cross_entropy(outputs, digits.train.labels[:200]).item(), rel=1e-5)


def test_noise_without_a_signal_has_a_reason() -> None:
    inputs, noise = targets(50, 0)
    centred = noise - noise.mean(0)
    norm, variance, scale = gradient_statistics(location(), inputs, centred, stream(), loss=half_square)
    assert (scale.value, scale.reason) == (None, "no_signal")
    assert norm.value == pytest.approx(0, abs=1e-9)
    assert variance.value == pytest.approx(centred.var(0).sum().item())
    flat = gradient_statistics(
        location(), inputs, torch.zeros(50, 5, dtype=torch.float64), stream(), loss=half_square
    )
    assert [e.value for e in flat] == [0, 0, None]


def test_weights_that_are_not_numbers_give_a_reason(make_cnn, digits) -> None:
    model = make_cnn(1, 0)
    model[0].weight.data.fill_(math.nan)
    found = gradient_statistics(model, *first(digits, 20), stream())
    assert [(e.value, e.standard_error, e.reason) for e in found] == [(None, None, "not_finite")] * 3


def test_impossible_requests_are_refused(digits, make_cnn) -> None:
    model, data = make_cnn(1, 0), first(digits, 10)
    with pytest.raises(ValueError, match="10 images make 2 groups of 5"):
        gradient_statistics(model, *data, stream(), group_size=5)
    with pytest.raises(ValueError, match="groups of 0; a variance and its error take groups of at least 1"):
        gradient_statistics(model, *data, stream(), group_size=0)
    with pytest.raises(ValueError, match="population is 9, below its sample of 10 images"):
        gradient_statistics(model, *data, stream(), population=9)
    with pytest.raises(ValueError, match="no trainable parameters; set requires_grad"):
        gradient_statistics(make_cnn(1, 0).requires_grad_(False), *data, stream())
    with pytest.raises(ValueError, match="over 0 images is undefined"):
        mean_gradient(FlatModel(model), data[0][:0], data[1][:0])
