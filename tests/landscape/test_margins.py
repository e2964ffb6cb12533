"""Margins of known outputs, and the rescalings that normalised ones must not see."""

import math
import statistics

import pytest
import torch
from torch import nn

from zoo.landscape.confidence import bootstrap_counts
from zoo.landscape.margins import _resampled_quantiles, margin_statistics, margins, output_scale


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_margins_of_known_outputs() -> None:
    answers = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, 5.0], [1.0, 1.0, 0.0]])
    assert margins(answers, torch.tensor([0, 1, 1])).tolist() == [1.0, -5.0, 0.0]


def test_the_value_is_the_lowest_tenth_and_wrong_answers_are_below_zero(trained_pair, digits) -> None:
    model, (images, labels) = trained_pair[0], digits.validation
    with torch.no_grad():
        answers = model(images)
    own = sorted(
        (row[label] - max(x for k, x in enumerate(row) if k != label))
        for row, label in zip(answers.tolist(), labels.tolist(), strict=True)
    )
    plain, *_ = margin_statistics(model, images, labels, stream())
    deciles = statistics.quantiles(own, n=20, method="inclusive")
    assert plain.value == pytest.approx(deciles[1], rel=1e-5)
    assert plain.values == pytest.approx([deciles[i] for i in (1, 4, 9, 14, 17)], rel=1e-5)
    wrong = (answers.argmax(1) != labels).double().mean().item()
    assert sum(m < 0 for m in own) / len(own) == pytest.approx(wrong)
    assert (plain.samples, plain.sample_passes) == (len(labels), len(labels))


def test_normalised_margins_do_not_see_the_scale_of_the_outputs(trained_pair, digits, make_cnn) -> None:
    scaled = make_cnn(6, 0)
    scaled.load_state_dict(trained_pair[0].state_dict())
    with torch.no_grad():
        scaled[-1].weight *= 10
        scaled[-1].bias *= 10
    plain, ten = (
        margin_statistics(m, *digits.validation, stream()) for m in (trained_pair[0].eval(), scaled.eval())
    )
    assert ten[0].value == pytest.approx(10 * plain[0].value, rel=1e-4)
    for index in (1, 2):
        assert ten[index].values == pytest.approx(plain[index].values, rel=1e-4)
        assert ten[index].standard_error == pytest.approx(plain[index].standard_error, rel=1e-4)


def test_the_scale_of_the_outputs_is_their_total_deviation() -> None:
    answers = torch.randn(50, 4, generator=stream(), dtype=torch.float64) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = math.sqrt(answers.var(0, correction=0).sum().item())
    assert output_scale(answers) == pytest.approx(expected)
    assert output_scale(answers + 100) == pytest.approx(expected)
    assert output_scale(torch.ones(50, 1) * torch.tensor([1.0, 2.0, 3.0])) is None


def test_the_spectral_norm_of_a_linear_classifier_bounds_the_distance() -> None:
    """Outputs x and -x: margin 2x, spectral norm of [[1], [-1]] the root of 2."""
    model, images = nn.Linear(1, 2, bias=False), torch.linspace(-1, 1, 21)[:, None]
    model.weight.data = torch.tensor([[1.0], [-1.0]])
    labels = (torch.arange(21) % 3 == 0).long()
    plain, _, spectral = margin_statistics(model, images, labels, stream(), quantile=0.5)
    signed = images.squeeze(1) * (1 - 2 * labels) * 2
    assert plain.value == pytest.approx(signed.median().item())
    assert spectral.values == pytest.approx([v / math.sqrt(2) for v in plain.values])


def test_the_error_bar_is_the_spread_of_other_images() -> None:
    """Margins are normal, so the median of 400 has the standard error 1.2533 sigma / 20."""
    model, generator = nn.Linear(1, 2, bias=False).double(), stream(2)
    model.weight.data = torch.tensor([[0.5], [-0.5]], dtype=torch.float64)
    labels, errors, values = torch.zeros(400, dtype=torch.int64), [], []
    labels[0] = 1
    for _ in range(100):
        images = torch.randn(400, 1, generator=generator, dtype=torch.float64)
        estimate = margin_statistics(model, images, labels, generator, quantile=0.5)[0]
        errors.append(estimate.standard_error)
        values.append(estimate.value)
    assert statistics.mean(errors) == pytest.approx(1.2533 / 20, rel=0.1)
    assert statistics.stdev(values) == pytest.approx(1.2533 / 20, rel=0.2)


def test_what_cannot_be_had_has_a_reason(make_cnn, digits) -> None:
    images, labels = digits.validation
    alike, spoilt, flat, tied = make_cnn(1, 0), make_cnn(1, 0), make_cnn(1, 0), make_cnn(1, 0)
    assert {e.reason for e in margin_statistics(alike, images, torch.zeros_like(labels), stream())} == {
        "one_class"
    }
    spoilt[0].weight.data.fill_(math.nan)
    assert {e.reason for e in margin_statistics(spoilt, images, labels, stream())} == {"not_finite"}
    flat[-1].weight.data.zero_()
    assert [e.reason for e in margin_statistics(flat, images, labels, stream())] == [
        None,
        "collapsed",
        "collapsed",
    ]
    tied[1].weight.data.zero_()
    assert [e.reason for e in margin_statistics(tied, images, labels, stream())] == [
        None,
        "collapsed",
        "collapsed",
    ]


def test_the_stream_decides_and_the_model_is_left_as_it_was(make_cnn, digits) -> None:
    model = make_cnn(2, 0).train()
    first = margin_statistics(model, *digits.validation, stream(1))
    assert first == margin_statistics(model, *digits.validation, stream(1))
    assert first != margin_statistics(model, *digits.validation, stream(2))
    assert model.training


def test_impossible_requests_are_refused(make_cnn, digits) -> None:
    with pytest.raises(ValueError, match=r"quantile is 1\.5 and resamples is 100"):
        margin_statistics(make_cnn(1, 0), *digits.validation, stream(), quantile=1.5)
    with pytest.raises(ValueError, match="resamples is 1; give one in"):
        margin_statistics(make_cnn(1, 0), *digits.validation, stream(), resamples=1)
    with pytest.raises(ValueError, match="cannot be held against 0 labels"):
        margin_statistics(
            make_cnn(1, 0), digits.validation.images[:0], digits.validation.labels[:0], stream()
        )


@pytest.mark.parametrize("quantile", [0.0, 0.1, 0.37, 1.0])
@pytest.mark.parametrize("count", [1, 5, 64])
def test_quantiles_of_bootstrap_samples_are_those_of_the_sorted_ones(count, quantile):
    numbers = torch.randn(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64).round(
        decimals=1
    )
    drawn = torch.randint(0, count, (20, count), generator=torch.Generator().manual_seed(2))
    counts = bootstrap_counts(count, 20, torch.Generator().manual_seed(2))
    assert torch.equal(counts.sum(1), torch.full((20,), float(count), dtype=torch.float64))
    expected = torch.quantile(numbers[drawn], quantile, dim=1)
    torch.testing.assert_close(_resampled_quantiles(numbers, counts, quantile), expected, rtol=1e-12, atol=0)
