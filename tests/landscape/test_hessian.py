"""Trace and top eigenvalue against closed forms and a dense Hessian."""

import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.landscape.eigenvalues import hessian_top_eigenvalue
from zoo.landscape.estimate import Estimate, mean_and_standard_error
from zoo.landscape.hessian import HessianOperator
from zoo.landscape.trace import hessian_trace


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def least_squares(inputs: Tensor, sign: float = 1.0) -> HessianOperator:
    """The operator of half the squared error of a linear model: X'X / N."""
    model = nn.Linear(inputs.shape[1], 1, bias=False, dtype=inputs.dtype)
    targets = torch.zeros(len(inputs), 1, dtype=inputs.dtype)
    return HessianOperator(model, inputs, targets, lambda out, y: sign * F.mse_loss(out, y) / 2)


@pytest.fixture(scope="module")
def network_and_dense_hessian(small_network) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A small network, its images and labels, and the dense Hessian [P, P] of its loss, by autograd."""
    model, images, labels = small_network
    named = dict(model.named_parameters())
    sizes = [p.numel() for p in named.values()]

    def loss(flat: Tensor) -> Tensor:
        parts = zip(named.items(), flat.split(sizes), strict=True)
        weights = {name: part.view(p.shape) for (name, p), part in parts}
        return F.cross_entropy(torch.func.functional_call(model, weights, (images,)), labels)

    flat = torch.cat([p.detach().flatten() for p in named.values()])
    return model, images, labels, torch.autograd.functional.hessian(loss, flat)


def test_products_equal_those_with_a_dense_hessian(network_and_dense_hessian) -> None:
    model, images, labels, dense = network_and_dense_hessian
    model.train()
    operator = HessianOperator(model, images, labels)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    for vector in torch.randn(5, operator.size, generator=stream()):
        expected = dense @ vector
        torch.testing.assert_close(
            operator @ vector, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item()
        )
    model.eval()


def test_trace_of_a_network_lies_within_its_error_bar(network_and_dense_hessian) -> None:
    *inputs, dense = network_and_dense_hessian
    estimate = hessian_trace(HessianOperator(*inputs), stream(), probes=400)
    assert abs(estimate.value - dense.trace().item()) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.1 * estimate.value


def test_top_eigenvalue_of_a_network_equals_the_dense_one(network_and_dense_hessian) -> None:
    *inputs, dense = network_and_dense_hessian
    eigenvalues = torch.linalg.eigvalsh((dense + dense.T).double() / 2)
    top = eigenvalues[eigenvalues.abs().argmax()].item()
    estimate = hessian_top_eigenvalue(HessianOperator(*inputs), stream(), iterations=500, tolerance=1e-6)
    assert estimate.value == pytest.approx(top, rel=1e-3)
    assert estimate.converged


def test_least_squares_has_the_hessian_of_its_inputs() -> None:
    inputs = torch.randn(40, 6, generator=stream(), dtype=torch.float64)
    dense, operator = inputs.T @ inputs / 40, least_squares(inputs)
    vector = torch.randn(6, generator=stream(1), dtype=torch.float64)
    torch.testing.assert_close(operator @ vector, dense @ vector)
    top = hessian_top_eigenvalue(operator, stream(), iterations=1000, tolerance=1e-10)
    assert top.value == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-6)
    trace = hessian_trace(operator, stream(), probes=4000)
    assert trace.value == pytest.approx(dense.trace().item(), rel=0.02)


def test_trace_of_softmax_regression_is_the_closed_form(digits) -> None:
    """With inputs x and a bias, the trace is the mean of (|x|^2 + 1) sum_k p_k (1 - p_k)."""
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits.train.images[:200]
    chances = model(images).softmax(1)
    sizes = images.flatten(1).square().sum(1) + 1
    exact = (sizes * (chances * (1 - chances)).sum(1)).mean().item()
    estimate = hessian_trace(HessianOperator(model, images, digits.train.labels[:200]), stream(), probes=500)
    assert abs(estimate.value - exact) < 4 * estimate.standard_error < 0.2 * exact


def test_a_diagonal_hessian_needs_no_luck() -> None:
    estimate = hessian_trace(least_squares(torch.diag(torch.tensor([1.0, 2.0, 3.0]))), stream(), probes=8)
    assert estimate.value == pytest.approx(14 / 3)
    assert estimate.standard_error == pytest.approx(0, abs=1e-6)
    assert estimate.converged is None


def test_standard_error_is_the_spread_of_repeats() -> None:
    """The variance of one draw is twice the squared off-diagonal part of the Hessian."""
    inputs = torch.randn(30, 8, generator=stream(), dtype=torch.float64)
    dense, operator, generator = inputs.T @ inputs / 30, least_squares(inputs), stream(1)
    repeats = [hessian_trace(operator, generator, probes=16) for _ in range(400)]
    exact = math.sqrt(2 * (dense.square().sum() - dense.diagonal().square().sum()).item() / 16)
    assert statistics.stdev(r.value for r in repeats) == pytest.approx(exact, rel=0.1)
    squares = [r.standard_error**2 for r in repeats]
    assert math.sqrt(statistics.mean(squares)) == pytest.approx(exact, rel=0.05)
    covered = sum(abs(r.value - dense.trace().item()) < 2.131 * r.standard_error for r in repeats)
    assert 0.92 < covered / 400 < 0.98


def test_standard_error_of_known_draws() -> None:
    assert mean_and_standard_error([1.0, 2.0, 3.0, 4.0]) == pytest.approx((2.5, math.sqrt(5 / 12)))


def test_one_probe_has_no_standard_error() -> None:
    assert hessian_trace(least_squares(torch.eye(3)), stream(), probes=1).standard_error is None


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_stop_needs_the_mean_to_settle_whatever_its_sign(sign: float) -> None:
    inputs = torch.randn(30, 8, generator=stream())
    estimate = hessian_trace(least_squares(inputs, sign), stream(3), probes=100, tolerance=1e-3)
    settled = hessian_trace(least_squares(inputs, 1.0), stream(3), probes=100, tolerance=1e-3)
    assert estimate.converged
    assert 2 < estimate.iterations == settled.iterations < 100
    assert estimate.value == pytest.approx(sign * settled.value)


def test_a_trace_that_does_not_settle_says_so() -> None:
    inputs = torch.randn(30, 8, generator=stream())
    estimate = hessian_trace(least_squares(inputs), stream(), probes=20, tolerance=0.0)
    assert (estimate.iterations, estimate.converged) == (20, False)


def test_the_top_eigenvalue_keeps_its_sign() -> None:
    operator = least_squares(torch.diag(torch.tensor([1.0, 2.0, 6.0])), sign=-1.0)
    assert hessian_top_eigenvalue(operator, stream()).value == pytest.approx(-12, rel=1e-2)


def test_an_eigenvalue_cut_short_says_so() -> None:
    inputs = torch.randn(30, 8, generator=stream())
    estimate = hessian_top_eigenvalue(least_squares(inputs), stream(), iterations=3, tolerance=1e-9)
    assert (estimate.iterations, estimate.converged) == (3, False)


def test_a_flat_loss_has_eigenvalue_and_trace_zero() -> None:
    operator = least_squares(torch.zeros(4, 3))
    assert hessian_top_eigenvalue(operator, stream()).value == 0
    assert hessian_top_eigenvalue(operator, stream()).converged
    assert hessian_trace(operator, stream()).value == 0


def test_weights_that_are_not_numbers_give_a_reason() -> None:
    operator = least_squares(torch.full((4, 3), math.nan))
    for estimate in (hessian_trace(operator, stream()), hessian_top_eigenvalue(operator, stream())):
        assert (estimate.value, estimate.standard_error, estimate.reason) == (None, None, "not_finite")
    assert hessian_top_eigenvalue(operator, stream()).iterations == 1


def test_cost_is_a_gradient_and_a_double_backward_pass_a_product_or_four_passes_a_form() -> None:
    operator = least_squares(torch.eye(5))
    assert hessian_trace(operator, stream(), probes=7).sample_passes == 5 * (1 + 4 * 7)
    operator.taylor = False
    assert hessian_trace(operator, stream(), probes=7).sample_passes == 5 * (3 + 6 * 7)
    top = hessian_top_eigenvalue(operator, stream())
    assert top.sample_passes == 5 * (3 + 6 * top.iterations)
    assert top.samples == 5


def test_the_same_stream_gives_the_same_estimate(network_and_dense_hessian) -> None:
    operator = HessianOperator(*network_and_dense_hessian[:3])
    assert hessian_trace(operator, stream(1)) == hessian_trace(operator, stream(1))
    assert hessian_trace(operator, stream(1)) != hessian_trace(operator, stream(2))
    assert hessian_top_eigenvalue(operator, stream(1)) == hessian_top_eigenvalue(operator, stream(1))


def test_impossible_requests_are_refused() -> None:
    operator = least_squares(torch.eye(2))
    with pytest.raises(ValueError, match="probes is 0; the trace takes at least 1"):
        hessian_trace(operator, stream(), probes=0)
    with pytest.raises(ValueError, match="iterations is 0; power iteration takes at least 1"):
        hessian_top_eigenvalue(operator, stream(), iterations=0)
    with pytest.raises(ValueError, match="over 0 images is undefined"):
        least_squares(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="no trainable parameters; set requires_grad"):
        HessianOperator(nn.Linear(2, 2).requires_grad_(False), torch.eye(2), torch.arange(2))
    with pytest.raises(ValueError, match="without a value needs a reason"):
        Estimate(value=None)
