"""Top eigenvalues by Lanczos against dense Hessians and closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.landscape.eigenvalues import hessian_top_eigenvalue, top_eigenvalues
from zoo.landscape.hessian import HessianOperator
from zoo.landscape.lanczos import Lanczos


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def spectrum(dense) -> Tensor:
    """The eigenvalues of a network's Hessian, falling."""
    return torch.linalg.eigvalsh(dense).flip(0)


def test_the_largest_eigenvalues_of_a_network_equal_the_dense_ones(network, spectrum) -> None:
    estimates = top_eigenvalues(network, stream(), count=5, order="algebraic")
    assert all(estimate.converged for estimate in estimates)
    assert [e.value for e in estimates] == pytest.approx(spectrum[:5].tolist(), rel=1e-3)
    assert estimates[0].iterations < network.size / 2


def test_largest_by_value_and_by_magnitude_differ_where_the_spectrum_reaches_below(with_eigenvalues) -> None:
    operator = with_eigenvalues([-5.0, -1.0, 0.0, 0.1, 0.2, 2.0, 4.0])
    by_value = top_eigenvalues(operator, stream(), count=3, order="algebraic")
    by_size = top_eigenvalues(operator, stream(), count=3, order="magnitude")
    assert [e.value for e in by_value] == pytest.approx([4, 2, 0.2], rel=1e-3)
    assert [e.value for e in by_size] == pytest.approx([-5, 4, 2], rel=1e-3)
    assert top_eigenvalues(operator, stream())[0].value == pytest.approx(-5, rel=1e-3)


def test_lanczos_and_power_iteration_agree_and_lanczos_is_done_first(network, spectrum) -> None:
    power = hessian_top_eigenvalue(network, stream(), iterations=500, tolerance=1e-5)
    (lanczos,) = top_eigenvalues(network, stream(), tolerance=1e-4)
    assert lanczos.value == pytest.approx(power.value, rel=1e-3)
    assert lanczos.value == pytest.approx(spectrum[0].item(), rel=1e-4)
    assert lanczos.iterations < power.iterations


def test_close_eigenvalues_are_told_apart_and_not_found_twice(with_eigenvalues) -> None:
    """In float32 over many steps, where plain Lanczos loses orthogonality and sees ghosts."""
    values = [10.0, 9.99, *torch.linspace(-1, 1, 298).tolist()]
    estimates = top_eigenvalues(
        with_eigenvalues(values, torch.float32), stream(), count=3, steps=200, tolerance=1e-4
    )
    assert [e.value for e in estimates] == pytest.approx([10, 9.99, 1], rel=2e-3)
    assert all(e.converged for e in estimates)


def test_the_basis_stays_orthonormal_in_float32(with_eigenvalues) -> None:
    operator = with_eigenvalues([100.0, *torch.linspace(-1, 1, 199).tolist()], torch.float32)
    lanczos = Lanczos(operator, torch.randn(200, generator=stream()), 120)
    while lanczos.step():
        pass
    basis = lanczos._basis[: lanczos.steps]
    torch.testing.assert_close(basis @ basis.T, torch.eye(120), rtol=0, atol=1e-5)


def test_residuals_bound_the_distance_to_an_eigenvalue(with_eigenvalues) -> None:
    operator = with_eigenvalues(torch.linspace(-3, 5, 60).square().tolist())
    exact = torch.linalg.eigvalsh(operator.dense)
    lanczos = Lanczos(operator, torch.randn(60, generator=stream(), dtype=torch.float64), 12)
    while lanczos.step():
        pass
    ritz = lanczos.ritz()
    distances = (ritz.values.unsqueeze(1) - exact).abs().min(1).values
    assert bool((distances <= ritz.residuals + 1e-12).all())
    vectors = lanczos.vectors(ritz.vectors)
    residuals = torch.linalg.vector_norm(vectors @ operator.dense - ritz.values[:, None] * vectors, dim=1)
    torch.testing.assert_close(residuals, ritz.residuals)


def test_an_exhausted_space_is_left_and_finds_multiple_eigenvalues(dense_operator, with_eigenvalues) -> None:
    estimates = top_eigenvalues(with_eigenvalues([3.0, 3.0, 3.0, 1.0]), stream(), count=4)
    assert [e.value for e in estimates] == pytest.approx([3, 3, 3, 1])
    assert all(e.converged for e in estimates)
    zero = top_eigenvalues(dense_operator(torch.zeros(6, 6)), stream(), count=2)
    assert [(e.value, e.converged) for e in zero] == [(0, True)] * 2


def test_no_more_eigenvalues_than_parameters(with_eigenvalues) -> None:
    estimates = top_eigenvalues(with_eigenvalues([2.0, 1.0]), stream(), count=5)
    assert [e.value for e in estimates] == pytest.approx([2, 1])


def test_each_eigenvalue_says_whether_it_has_converged(with_eigenvalues) -> None:
    operator = with_eigenvalues([50.0, *torch.linspace(-1, 1, 99).tolist()])
    estimates = top_eigenvalues(operator, stream(), count=4, steps=6)
    assert [e.converged for e in estimates] == [True, False, False, False]
    assert estimates[0].iterations == 6
    assert estimates[0].sample_passes == 3 + 6 * 6 + 4 * 4


def test_the_error_of_sampling_is_that_of_the_eigenvalue_over_data_sets() -> None:
    """For X of normal rows with one dominant variance s^2, the top eigenvalue varies by s^2 sqrt(2 / N)."""
    generator, found, errors = stream(2), [], []
    for _ in range(200):
        inputs = torch.randn(100, 3, generator=generator, dtype=torch.float64) * torch.tensor([4.0, 1.0, 0.5])
        model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
        targets = torch.zeros(100, 1, dtype=torch.float64)
        operator = HessianOperator(model, inputs, targets, lambda out, y: F.mse_loss(out, y) / 2)
        (estimate,) = top_eigenvalues(operator, generator)
        found.append(estimate.value)
        errors.append(estimate.sampling_error**2)
    spread = torch.tensor(found).std().item()
    assert spread == pytest.approx(16 * math.sqrt(2 / 100), rel=0.15)
    assert math.sqrt(sum(errors) / 200) == pytest.approx(spread, rel=0.15)


def test_weights_that_are_not_numbers_give_a_reason(dense_operator) -> None:
    estimates = top_eigenvalues(dense_operator(torch.full((3, 3), math.nan)), stream(), count=2)
    assert [(e.value, e.sampling_error, e.reason) for e in estimates] == [(None, None, "not_finite")] * 2
    assert estimates[0].iterations == 1


def test_impossible_requests_are_refused(with_eigenvalues) -> None:
    operator = with_eigenvalues([2.0, 1.0])
    with pytest.raises(ValueError, match="count is 0 and steps 100; give 1 <= count <= steps"):
        top_eigenvalues(operator, stream(), count=0)
    with pytest.raises(ValueError, match="count is 5 and steps 4"):
        top_eigenvalues(operator, stream(), count=5, steps=4)
    with pytest.raises(ValueError, match="order is 'size'; it is 'algebraic' or 'magnitude'"):
        top_eigenvalues(operator, stream(), order="size")
