"""The piloted trace: its accuracy, its interval, and what the choice of images adds."""

import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.landscape.estimate import Estimate, student_interval
from zoo.landscape.hessian import Forms, HessianOperator
from zoo.landscape.sampling import sampling_error
from zoo.landscape.trace import hessian_trace, piloted_trace, probe_forms, rademacher


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear_regression(inputs: Tensor) -> HessianOperator:
    """Half the squared error of a linear model: image i has the Hessian x_i x_i' and the trace |x_i|^2."""
    model = nn.Linear(inputs.shape[1], 1, bias=False, dtype=inputs.dtype)
    targets = torch.zeros(len(inputs), 1, dtype=inputs.dtype)
    return HessianOperator(model, inputs, targets, lambda outputs, y: F.mse_loss(outputs, y) / 2)


@pytest.fixture(scope="module")
def repeats(dense, dense_operator) -> list[Estimate]:
    """2,000 traces of that Hessian, from one stream."""
    operator, generator = dense_operator(dense), stream(1)
    return [piloted_trace(operator, generator, most=512) for _ in range(2_000)]


def test_the_interval_covers_as_it_says(dense, repeats) -> None:
    trace = dense.trace().item()
    covered = sum(estimate.low < trace < estimate.high for estimate in repeats) / len(repeats)
    assert 0.93 < covered < 0.97


def test_the_interval_of_few_probes_covers_as_it_says(dense_operator) -> None:
    inputs = torch.randn(30, 8, generator=stream(), dtype=torch.float64)
    operator, generator = dense_operator(inputs.T @ inputs / 30), stream(1)
    trace = operator.dense.trace().item()
    estimates = [piloted_trace(operator, generator, least=6, most=6) for _ in range(2_000)]
    assert 0.93 < sum(e.low < trace < e.high for e in estimates) / 2_000 < 0.97


def test_the_pilot_buys_the_accuracy_that_was_asked_for(dense, repeats) -> None:
    values = [estimate.value for estimate in repeats]
    assert statistics.mean(values) == pytest.approx(dense.trace().item(), rel=5e-3)
    assert 0.045 < statistics.stdev(values) / dense.trace().item() < 0.06
    assert statistics.mean(e.standard_error for e in repeats) == pytest.approx(
        statistics.stdev(values), rel=0.1
    )


def test_the_count_is_that_of_the_pilot_alone(dense, dense_operator) -> None:
    """With 16 pilot probes, 15/13 of the squared ratio of their spread to the error wanted."""
    operator = dense_operator(dense)
    pilot = operator.forms(rademacher(operator, 16, stream(5))).whole
    wanted = math.ceil(15 / 13 * (pilot.std() / (0.05 * pilot.mean())).item() ** 2)
    estimate = piloted_trace(operator, stream(5), most=1_000)
    assert 16 < wanted == estimate.iterations < 1_000
    fresh = operator.forms(rademacher(operator, 16 + wanted, stream(5))[16:]).whole
    assert estimate.value == pytest.approx(fresh.mean().item())
    assert estimate.standard_error == pytest.approx(fresh.std().item() / math.sqrt(wanted))


def test_to_stop_on_the_running_error_covers_less(dense, dense_operator) -> None:
    """Why the probes of the estimate are fresh: the same accuracy, sought as the draws come in."""
    draws = dense_operator(dense).forms(rademacher(dense_operator(dense), 2_000 * 300, stream(2))).whole
    draws = draws.view(2_000, 300)
    counts = torch.arange(1, 301)
    means = draws.cumsum(1) / counts
    variances = (draws.square().cumsum(1) / counts - means.square()) * counts / (counts - 1).clamp(min=1)
    errors = (variances / counts).sqrt()
    enough = (errors <= 0.05 * means.abs()) & (counts >= 4)
    stop = enough.int().argmax(1)
    rows = torch.arange(2_000)
    misses = (means[rows, stop] - dense.trace().item()).abs() / errors[rows, stop]
    assert (misses < 1.98).double().mean() < 0.93


def test_a_network_is_measured_as_its_dense_hessian(network, dense, dense_operator) -> None:
    estimate = piloted_trace(network, stream(3))
    assert estimate.low < dense.trace().item() < estimate.high
    assert estimate.converged
    assert 16 < estimate.iterations < 512
    assert estimate.sample_passes == 64 * (
        16 * 4 + 1 + estimate.iterations * 4 + math.ceil(estimate.iterations / 16)
    )
    known = piloted_trace(dense_operator(dense), stream(3))
    assert estimate.value == pytest.approx(known.value, rel=1e-4)
    assert estimate.iterations == known.iterations


def test_a_cap_on_the_probes_is_owned_up_to(dense, dense_operator) -> None:
    estimate = piloted_trace(dense_operator(dense), stream(), most=20)
    assert (estimate.iterations, estimate.converged) == (20, False)
    assert estimate.standard_error > 0.05 * estimate.value


def test_a_negative_trace_is_a_value(dense_operator) -> None:
    operator = dense_operator(-torch.eye(4) - torch.ones(4, 4) / 10)
    estimate = piloted_trace(operator, stream())
    assert estimate.low < -4.4 < estimate.high < 0
    assert estimate.converged


def test_traces_at_the_edges_of_sense(dense_operator) -> None:
    zero = piloted_trace(linear_regression(torch.zeros(4, 3)), stream())
    assert (zero.value, zero.low, zero.high, zero.iterations, zero.converged) == (0, 0, 0, 16, True)
    swapped = dense_operator(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    about_zero = piloted_trace(swapped, stream(), relative_error=1e-3, most=64)
    assert (about_zero.iterations, about_zero.converged) == (64, False)
    broken = piloted_trace(linear_regression(torch.full((4, 3), math.nan)), stream())
    assert (broken.value, broken.low, broken.sampling_error, broken.reason) == (
        None,
        None,
        None,
        "not_finite",
    )


def test_probes_do_not_depend_on_how_many_are_taken_at_once() -> None:
    operator = linear_regression(torch.randn(10, 5, generator=stream()))
    whole, generator = rademacher(operator, 40, stream(1)), stream(1)
    parts = [rademacher(operator, size, generator) for size in (16, 16, 8)]
    assert torch.equal(whole, torch.cat(parts))
    assert set(whole.flatten().tolist()) == {-1.0, 1.0}
    forms = probe_forms(operator, 40, stream(1))
    torch.testing.assert_close(forms.values, operator.forms(whole).values, rtol=1e-5, atol=1e-6)


def test_the_paper_stop_counts_the_probes_that_it_read() -> None:
    operator = linear_regression(torch.randn(30, 8, generator=stream()))
    one_by_one = hessian_trace(operator, stream(3), probes=100, tolerance=1e-3)
    draws = operator.forms(rademacher(operator, 100, stream(3))).whole
    means = draws.cumsum(0) / torch.arange(1, 101)
    moved = means.diff().abs() / (means[:-1].abs() + 1e-6)
    assert one_by_one.iterations == int((moved < 1e-3).int().argmax()) + 2
    assert one_by_one.value == pytest.approx(means[one_by_one.iterations - 1].item())


def test_the_error_of_sampling_is_that_of_fresh_images() -> None:
    """Many data sets are drawn; the variance of the exact trace |x|^2 over them is known."""
    generator = stream()
    scales = torch.tensor([3.0, 2.0, 1.0, 1.0, 0.5], dtype=torch.float64)
    squares, exact = [], math.sqrt(2 * (scales**4).sum().item() / 50)
    for _ in range(300):
        inputs = torch.randn(50, 5, generator=generator, dtype=torch.float64) * scales
        forms = probe_forms(linear_regression(inputs), 6, generator)
        squares.append(sampling_error(forms) ** 2)
    assert math.sqrt(statistics.mean(squares)) == pytest.approx(exact, rel=0.05)


def test_the_two_errors_make_up_the_whole() -> None:
    """Over fresh images and fresh probes, the squares of both errors add to the estimate's variance."""
    generator, values, squares = stream(1), [], []
    for _ in range(600):
        inputs = torch.randn(40, 6, generator=generator, dtype=torch.float64)
        inputs[:, 1] += inputs[:, 0]
        estimate = piloted_trace(linear_regression(inputs), generator, pilot=4, least=8, most=8)
        values.append(estimate.value)
        squares.append(estimate.standard_error**2 + estimate.sampling_error**2)
    assert statistics.mean(squares) == pytest.approx(statistics.variance(values), rel=0.15)


def test_the_error_of_sampling_of_a_network_is_the_spread_of_its_images_traces(network) -> None:
    images, labels = network._data
    traces = []
    for place in range(64):
        one = HessianOperator(network._model, images[[place]], labels[[place]])
        traces.append(one.forms(torch.eye(one.size)).whole.sum().item())
    exact = statistics.stdev(traces) / math.sqrt(64)
    many = sampling_error(probe_forms(network, 2_000, stream(4)))
    assert many == pytest.approx(exact, rel=0.05)
    few = [sampling_error(probe_forms(network, 8, stream(seed))) ** 2 for seed in range(100)]
    assert math.sqrt(statistics.mean(few)) == pytest.approx(exact, rel=0.1)
    plain = [probe_forms(network, 8, stream(seed)).values.mean(0).var().item() / 64 for seed in range(100)]
    assert math.sqrt(statistics.mean(plain)) > 1.15 * exact  # what the probes' noise would add


def test_groups_of_images_give_the_same_error_of_sampling() -> None:
    inputs = torch.randn(4_000, 4, generator=stream(), dtype=torch.float64)
    operator = linear_regression(inputs)
    by_image = sampling_error(probe_forms(operator, 8, stream(1)))
    squares = [
        sampling_error(probe_forms(linear_regression_in_groups(inputs, seed), 8, stream(1))) ** 2
        for seed in range(60)
    ]
    assert math.sqrt(statistics.mean(squares)) == pytest.approx(by_image, rel=0.1)


def linear_regression_in_groups(inputs: Tensor, seed: int) -> HessianOperator:
    """The images in another order, so that the groups are others."""
    operator = linear_regression(inputs[torch.randperm(len(inputs), generator=stream(seed))])
    operator.taylor = False
    return operator


def test_a_finite_population_leaves_less_to_chance() -> None:
    forms = probe_forms(linear_regression(torch.randn(50, 3, generator=stream())), 8, stream())
    unlimited = sampling_error(forms)
    assert sampling_error(forms, population=200) == pytest.approx(unlimited * math.sqrt(0.75))
    assert sampling_error(forms, population=50) == 0
    with pytest.raises(ValueError, match="population of 49 images has no sample of 50; give at least 50"):
        sampling_error(forms, population=49)
    assert sampling_error(Forms(torch.ones(3, 1), torch.ones(1))) is None


def test_the_interval_is_students() -> None:
    """From the table: 2.776 for 4 degrees of freedom."""
    low, high = student_interval(10.0, 2.0, 4)
    assert (low, high) == pytest.approx((10 - 2 * 2.776, 10 + 2 * 2.776), abs=1e-3)
    assert student_interval(10.0, None, 0) == (None, None)


def test_impossible_requests_are_refused(dense_operator) -> None:
    operator = dense_operator(torch.eye(2))
    with pytest.raises(ValueError, match="pilot, least and most are 3, 16 and 256; give pilot >= 4"):
        piloted_trace(operator, stream(), pilot=3)
    with pytest.raises(ValueError, match=r"are 16, 9 and 8; give .* 2 <= least <= most"):
        piloted_trace(operator, stream(), least=9, most=8)
    with pytest.raises(ValueError, match=r"relative_error is 0; it has to be above 0, as 0\.05"):
        piloted_trace(operator, stream(), relative_error=0)
