"""Spectral density and its summaries against eigenvalues that are known."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from zoo.landscape.density import EDGES, SpectralDensity, spectral_density
from zoo.landscape.spectrum import density_estimates
from zoo.landscape.trace import rademacher


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SPECTRUM = torch.cat([torch.linspace(-0.5, 0.5, 80), torch.tensor([20.0, 7.0, -3.0])]).double()


@pytest.fixture(scope="module")
def operator(with_eigenvalues):
    """A bulk about zero and three outliers, as of a network."""
    return with_eigenvalues(SPECTRUM)


def test_moments_of_a_probe_are_its_own_to_twice_its_steps(operator) -> None:
    """Gauss quadrature of k nodes is exact for z'H^p z, p < 2k."""
    density = spectral_density(operator, stream(1), probes=1, steps=3)
    probe = rademacher(operator, 1, stream(1))[0]
    power = probe
    for exponent in range(6):
        exact = torch.dot(probe, power).item()
        assert density.sums(lambda nodes, p=exponent: nodes**p).item() == pytest.approx(exact, rel=1e-8)
        power = operator.dense @ power
    exact = torch.dot(probe, power).item()
    assert density.sums(lambda nodes: nodes**6).item() != pytest.approx(exact, rel=1e-6)


def test_moments_of_a_network_are_those_of_its_dense_hessian(network, dense, dense_operator) -> None:
    spectrum = torch.linalg.eigvalsh(dense)
    short = spectral_density(network, stream(), probes=60, steps=4)
    long = spectral_density(dense_operator(dense), stream(), probes=60, steps=80)
    for density, functions in (
        (short, (lambda x: x, torch.square, lambda x: x**3)),  # exact for each probe
        (long, (torch.abs, lambda x: (-x).clamp(min=0))),  # once the nodes tell the signs apart
    ):
        for function in functions:
            sums, exact = density.sums(function), function(spectrum).sum().item()
            assert abs(sums.mean().item() - exact) < 4 * sums.std().item() / math.sqrt(60)
    estimates = density_estimates(network, stream(), probes=8, steps=20)
    assert estimates.largest.value == pytest.approx(spectrum[-1].item(), rel=1e-4)
    assert estimates.largest.converged
    assert estimates.smallest.value == pytest.approx(spectrum[0].item(), rel=1e-2)
    sizes = spectrum.abs()
    rank = (sizes.sum().square() / sizes.square().sum()).item()
    assert estimates.effective_rank.value == pytest.approx(rank, rel=0.25)
    negative = (-spectrum).clamp(min=0).sum().item() / sizes.sum().item()
    assert estimates.negative_share.value == pytest.approx(negative, abs=0.03)


def known(eigenvalues: Tensor) -> SpectralDensity:
    """The density of eigenvalues that are all seen."""
    nodes = eigenvalues.double().unsqueeze(0)
    return SpectralDensity(
        nodes, torch.full_like(nodes, 1 / nodes.numel()), torch.zeros_like(nodes), nodes.numel()
    )


def test_a_bin_holds_the_eigenvalues_between_its_edges() -> None:
    """Those in the middle of a bin, on the grid's scale, stay there; one on an edge is shared by two bins."""
    edges = torch.tensor(EDGES, dtype=torch.float64)
    middles = -(edges[:13] * edges[1:14]).sqrt(), (edges[14:-1] * edges[15:]).sqrt()
    for place, middle in (*enumerate(middles[0], 1), *enumerate(middles[1], 15), (14, torch.tensor(0.0))):
        shares = known(middle.unsqueeze(0)).shares()[0]
        assert shares[place] > 0.9
        assert shares.sum() == pytest.approx(1)
    on_edge = known(torch.tensor([EDGES[20]])).shares()[0]
    assert on_edge[20:22].tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
    assert known(torch.tensor([1e6, -1e6])).shares()[0][[0, -1]].tolist() == pytest.approx([0.5, 0.5])


def test_shares_estimate_those_of_all_eigenvalues(operator) -> None:
    estimates = density_estimates(operator, stream(), probes=200, steps=40)
    values, exact = torch.tensor(estimates.density.values), known(SPECTRUM).shares()[0].float()
    assert len(values) == len(EDGES) + 1 == 29
    outside = [*range(8), *range(22, 29)]  # beyond the bulk, where eigenvalues come out one by one
    torch.testing.assert_close(values[outside], exact[outside], rtol=0.3, atol=1e-3)
    torch.testing.assert_close(values, exact, rtol=0, atol=0.05)


def test_the_density_integrates_to_one_and_peaks_at_the_outliers(with_eigenvalues) -> None:
    density = spectral_density(with_eigenvalues([0.0] * 8 + [5.0, 5.0]), stream(), 1_000, 5)
    points = torch.linspace(-3, 8, 2_001)
    values = density.smoothed(points, 0.1)
    assert torch.trapezoid(values, points.double()).item() == pytest.approx(1, abs=1e-6)
    near = (points > 4) & (points < 6)
    assert torch.trapezoid(values[near], points[near].double()).item() == pytest.approx(0.2, abs=0.02)
    assert points[near][values[near].argmax()].item() == pytest.approx(5, abs=0.01)


def test_standard_errors_are_the_spread_of_repeats(operator) -> None:
    runs = [density_estimates(operator, stream(seed), probes=8, steps=12) for seed in range(150)]
    for name in ("density", "trace", "negative_share", "effective_rank"):
        estimates = [getattr(run, name) for run in runs]
        spread = statistics.stdev(e.value for e in estimates)
        error = math.sqrt(statistics.mean(e.standard_error**2 for e in estimates))
        assert 0.8 * spread < error < 1.5 * spread, name  # the jackknife of a ratio errs upwards
        middle = statistics.mean(e.value for e in estimates)
        assert sum(e.low < middle < e.high for e in estimates) / 150 > 0.85, name


def test_the_trace_is_that_of_the_probes(operator) -> None:
    estimates = density_estimates(operator, stream(3), probes=5, steps=2)
    probes = rademacher(operator, 5, stream(3))
    draws = ((probes @ operator.dense) * probes).sum(1)
    assert estimates.trace.value == pytest.approx(draws.mean().item())
    assert estimates.trace.standard_error == pytest.approx(draws.std().item() / math.sqrt(5))
    assert (estimates.trace.iterations, estimates.trace.sample_passes) == (10, 3 + 6 * 10)


def test_a_definite_hessian_has_no_negative_share(with_eigenvalues) -> None:
    estimates = density_estimates(with_eigenvalues([2.0] * 20), stream(), probes=4)
    assert estimates.negative_share.value == 0
    assert estimates.effective_rank.value == pytest.approx(20)
    assert estimates.density.value == pytest.approx(2)
    assert (estimates.largest.value, estimates.smallest.value) == pytest.approx((2, 2))
    assert estimates.trace.iterations == 4  # one step exhausts each probe's space


def test_one_probe_has_no_standard_error(operator) -> None:
    estimates = density_estimates(operator, stream(), probes=1, steps=4)
    assert (estimates.effective_rank.standard_error, estimates.effective_rank.low) == (None, None)
    assert estimates.effective_rank.value > 1


def test_a_flat_loss_has_no_ratios_of_curvatures(dense_operator) -> None:
    estimates = density_estimates(dense_operator(torch.zeros(5, 5)), stream(), probes=3)
    assert (estimates.trace.value, estimates.density.value, estimates.largest.value) == (0, 0, 0)
    for ratio in (estimates.negative_share, estimates.effective_rank):
        assert (ratio.value, ratio.reason) == (None, "flat")


def test_weights_that_are_not_numbers_give_a_reason(dense_operator) -> None:
    estimates = density_estimates(dense_operator(torch.full((5, 5), math.nan)), stream(), probes=3)
    for estimate in estimates:
        assert (estimate.value, estimate.standard_error, estimate.reason) == (None, None, "not_finite")
    assert estimates.density.values is None
    assert estimates.trace.iterations == 1


def test_a_padded_probe_weighs_as_much_as_a_full_one() -> None:
    nodes, weights = torch.tensor([[1.0, 3.0], [2.0, 0.0]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    density = SpectralDensity(
        nodes.double(), weights.double(), torch.tensor([[0.0, 0.0], [0.0, math.inf]]), 10
    )
    assert density.sums(lambda x: x).tolist() == [20, 20]
    assert density.shares().sum(1).tolist() == pytest.approx([1, 1])


def test_impossible_requests_are_refused(operator) -> None:
    with pytest.raises(ValueError, match="probes and steps are 0 and 20; give at least 1 of each"):
        spectral_density(operator, stream(), probes=0)
