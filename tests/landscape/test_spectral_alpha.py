"""The power-law fit against planted exponents, brute force, and figures of two other implementations."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from zoo.landscape.spectral_alpha import fit_power_law, spectral_alpha, spectrum


def pareto(alpha: float, count: int, seed: int = 0) -> np.ndarray:
    """Draws of a density proportional to x^-alpha above 1."""
    return np.random.default_rng(seed).random(count) ** (-1 / (alpha - 1))


def diagonal(eigenvalues: np.ndarray) -> nn.Linear:
    """A layer with these eigenvalues of W'W."""
    layer = nn.Linear(len(eigenvalues), len(eigenvalues), bias=False, dtype=torch.float64)
    layer.weight.data = torch.diag(torch.from_numpy(eigenvalues).sqrt())
    return layer


@pytest.mark.parametrize("alpha", [1.5, 2.5, 4.0])
def test_a_planted_exponent_is_recovered(alpha: float) -> None:
    fits = [fit_power_law(pareto(alpha, 2000, seed), 500) for seed in range(20)]
    errors = [(fit.alpha - alpha) / fit.standard_error for fit in fits]
    assert abs(np.mean(errors)) < 1
    assert np.mean(np.abs(errors)) < 2
    assert np.mean([fit.alpha for fit in fits]) == pytest.approx(alpha, rel=0.03)


def test_the_tail_begins_where_the_law_does() -> None:
    """Below 1 the density is flat."""
    values = np.concatenate([np.random.default_rng(1).random(1000), pareto(2.5, 1000)])
    fit = fit_power_law(values)
    assert fit.minimum == pytest.approx(1, rel=0.15)
    assert fit.alpha == pytest.approx(2.5, rel=0.1)


@pytest.mark.parametrize(("decimals", "seed"), [(12, 3), (1, 0), (1, 4)])
@pytest.mark.parametrize("minimum_tail", [2, 8, 20])
def test_the_fit_is_the_best_of_all_tails(minimum_tail: int, decimals: int, seed: int) -> None:
    """The distance written as the definition has it, tail by tail; of equal numbers, a tail has all or none."""
    values = np.sort(np.random.default_rng(seed).gamma(2.0, size=40)).round(decimals)
    values = values[values > 0]
    candidates = []
    for start in np.unique(values):
        tail = values[values >= start]
        if len(tail) < minimum_tail or tail[-1] == start:
            continue
        alpha = 1 + len(tail) / np.log(tail / tail[0]).sum()
        distance = max(abs(1 - (x / start) ** (1 - alpha) - i / len(tail)) for i, x in enumerate(tail))
        candidates.append((distance, alpha, tail[0], len(tail)))
    distance, alpha, minimum, tail = min(candidates)
    assert fit_power_law(values, minimum_tail) == pytest.approx((alpha, minimum, tail, distance))


RANDOM = np.random.default_rng


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (RANDOM(3).lognormal(size=144), (2.494124837, 1.519070822, 0.07312336, 0.203324637)),
        (RANDOM(2).gamma(2.0, size=300), (3.592976913, 2.388348906, 0.08340818, 0.274855003)),
        (RANDOM(0).random(200) ** (-1 / 1.5), (2.455303177, 1.151100884, 0.03585743, 0.120031383)),
    ],
)
def test_the_fit_is_that_of_two_other_programs(
    values: np.ndarray, expected: tuple[float, float, float, float]
) -> None:
    """Of powerlaw 2.0.0 (`parameter_ranges={"alpha": [1, 50]}`) and of `WWFit` of weightwatcher 0.7.7."""
    fit = fit_power_law(values)
    assert (fit.alpha, fit.minimum, fit.distance, fit.standard_error) == pytest.approx(expected, rel=1e-6)


def test_the_layers_are_those_of_weightwatcher() -> None:
    """Figures of weightwatcher 0.7.7, whose eigenvalues of a convolution are half of ours."""
    model = nn.Sequential(nn.Conv2d(12, 16, 3, bias=False), nn.Flatten(), nn.Linear(40, 30, bias=False))
    for module, seed in ((model[0], 5), (model[2], 6)):
        draws = RANDOM(seed).standard_t(3, size=tuple(module.weight.shape))
        module.weight.data = torch.from_numpy(draws).float()
    plain, weighted = spectral_alpha(model, minimum_eigenvalues=2)
    assert plain.values == pytest.approx((2.79480, 3.05376), rel=1e-5)
    assert plain.standard_error == pytest.approx(math.hypot(0.391658, 0.649456) / 2, rel=1e-5)
    halved = 2.79480 * (2.292303 + math.log10(2))
    assert weighted.values == pytest.approx((halved, 7.999184), rel=1e-5)


def test_the_fit_does_not_depend_on_unit_or_order() -> None:
    values = pareto(3.0, 100)
    fit, scaled = fit_power_law(values, 8), fit_power_law(1000 * values[::-1], 8)
    assert scaled == pytest.approx((fit.alpha, 1000 * fit.minimum, fit.tail, fit.distance))


def test_equal_numbers_and_short_tails_have_no_fit() -> None:
    assert fit_power_law(np.ones(20)) is None
    assert fit_power_law(np.arange(1.0, 8.0), 8) is None
    assert fit_power_law(np.array([])) is None
    assert fit_power_law(np.arange(1.0, 9.0), 8).tail == 8


def test_the_spectrum_of_a_convolution_is_that_of_its_places() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 4, 3, 3)
    expected = [
        np.linalg.eigvalsh(weight[:, :, y, x].double().T @ weight[:, :, y, x].double())
        for y in range(3)
        for x in range(3)
    ]
    np.testing.assert_allclose(np.sort(spectrum(weight)), np.sort(np.concatenate(expected)), rtol=1e-8)
    assert len(spectrum(torch.ones(6, 4))) == 1


def test_layers_are_averaged_with_and_without_weights() -> None:
    spectra = [pareto(2.0, 50, 1), 100 * pareto(3.0, 80, 2), pareto(2.0, 7, 3)]
    fits = [fit_power_law(values, 8) for values in spectra[:2]]
    plain, weighted = spectral_alpha(nn.Sequential(*map(diagonal, spectra)))
    assert plain.values == pytest.approx([fit.alpha for fit in fits])
    assert plain.value == pytest.approx(sum(fit.alpha for fit in fits) / 2)
    errors = [(fit.alpha - 1) / math.sqrt(fit.tail) for fit in fits]
    assert plain.standard_error == pytest.approx(math.hypot(*errors) / 2)
    logs = [math.log10(values.max()) for values in spectra[:2]]
    assert weighted.value == pytest.approx(
        sum(fit.alpha * log for fit, log in zip(fits, logs, strict=True)) / 2
    )


def test_the_scale_of_a_layer_does_not_change_alpha(make_cnn) -> None:
    models = [make_cnn(4, 0), make_cnn(4, 0)]
    models[1][0].weight.data *= 10
    nn.init.uniform_(models[1][1].weight)
    (plain, weighted), (scaled, scaled_weighted) = (spectral_alpha(model) for model in models)
    assert scaled.values == pytest.approx(plain.values, rel=1e-4)
    assert scaled_weighted.values[0] == pytest.approx(weighted.values[0] + 2 * plain.values[0], rel=1e-4)


def test_what_cannot_be_had_has_a_reason(make_cnn) -> None:
    assert {e.reason for e in spectral_alpha(nn.Linear(7, 7))} == {"too_few_eigenvalues"}
    assert {e.reason for e in spectral_alpha(nn.ReLU())} == {"too_few_eigenvalues"}
    zero, spoilt = nn.Linear(20, 20), make_cnn(4, 0)
    zero.weight.data.zero_()
    spoilt[0].weight.data.fill_(math.inf)
    assert {e.reason for e in spectral_alpha(zero)} == {"too_few_eigenvalues"}
    assert {e.reason for e in spectral_alpha(spoilt)} == {"not_finite"}
    with pytest.raises(ValueError, match="minimum_eigenvalues is 1; a fit takes at least 2"):
        spectral_alpha(zero, 1)
