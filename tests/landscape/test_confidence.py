"""Confidence and calibration against closed forms and synthetic answers of known calibration."""

import math
import statistics

import pytest
import torch
from torch import Tensor, nn

from zoo.landscape.confidence import calibration_error, confidence_statistics


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Given(nn.Module):
    """A model whose outputs are its inputs times a parameter."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def calibrated(count: int, seed: int, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Confidences between a half and 0.9, and whether answers were right: as often as they say, plus a shift."""
    confidence, luck = torch.rand(2, count, generator=stream(seed), dtype=torch.float64)
    confidence = 0.5 + 0.4 * confidence
    return confidence, luck < confidence + shift


def test_statistics_of_known_outputs() -> None:
    chances = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0])
    confidence, entropy, over, _ = confidence_statistics(Given(), chances.log() + 7, labels, stream())
    assert confidence.value == pytest.approx(0.6)
    assert confidence.standard_error == pytest.approx(statistics.stdev([0.5, 0.8, 0.5]) / math.sqrt(3))
    assert confidence.values == pytest.approx((0.5, 0.5, 0.5, 0.65, 0.74))
    assert entropy.value == pytest.approx(-(chances * chances.log()).sum().item() / 3)
    assert over.value == pytest.approx(0.6 - 2 / 3)
    assert over.standard_error == pytest.approx(statistics.stdev([-0.5, -0.2, 0.5]) / math.sqrt(3))
    assert {e.sample_passes for e in (confidence, entropy, over)} == {3}


def test_bins_of_known_answers() -> None:
    confidence = torch.tensor([0.15, 0.2, 0.9, 0.95, 1.0], dtype=torch.float64)
    right = torch.tensor([False, True, True, False, True])
    wide = calibration_error(confidence, right, stream(), bins=5, equal_mass=False)
    assert wide.values == pytest.approx((-0.65 / 5, 0, 0, 0, 0.85 / 5))
    assert wide.value == pytest.approx(0.3)
    mass = calibration_error(confidence, right, stream(), bins=5, equal_mass=True)
    assert mass.value == pytest.approx((0.15 + 0.8 + 0.1 + 0.95 + 0) / 5)
    assert mass.values == pytest.approx((0.03, -0.16, -0.02, 0.19, 0), abs=1e-7)


@pytest.mark.parametrize("equal_mass", [True, False])
def test_a_calibrated_model_has_an_error_of_sampling_only(equal_mass: bool) -> None:
    errors = [
        calibration_error(*calibrated(count, 0), stream(), equal_mass=equal_mass, resamples=2).value
        for count in (1_000, 100_000)
    ]
    assert errors[1] < 0.005
    assert 0.005 < errors[0] < 0.06


@pytest.mark.parametrize("equal_mass", [True, False])
def test_a_known_miscalibration_is_found_with_its_error_bar(equal_mass: bool) -> None:
    found = [
        calibration_error(*calibrated(1_000, seed, -0.2), stream(seed), equal_mass=equal_mass)
        for seed in range(60)
    ]
    values = [estimate.value for estimate in found]
    assert statistics.mean(values) == pytest.approx(0.2, abs=0.01)
    assert statistics.mean(e.standard_error for e in found) == pytest.approx(
        statistics.stdev(values), rel=0.3
    )
    assert sum(found[0].values) == pytest.approx(found[0].value)


def test_images_as_confident_share_a_bin_in_any_order() -> None:
    """A model that answers all alike is right as often as it says, though its images come class by class."""
    labels = torch.arange(10).repeat_interleave(100)
    *_, over, error = confidence_statistics(
        Given(), torch.zeros(1000, 10, dtype=torch.float64), labels, stream()
    )
    assert over.value == pytest.approx(0, abs=1e-9)
    assert error.value == pytest.approx(0, abs=1e-9)
    confidence, right = calibrated(500, 3)
    order = torch.randperm(500, generator=stream(1))
    again = calibration_error(confidence[order], right[order], stream())
    assert again.value == pytest.approx(calibration_error(confidence, right, stream()).value)


def test_sharper_outputs_are_surer_and_no_more_right(trained_pair, digits) -> None:
    scaled = nn.Sequential(trained_pair[0], Given(5.0)).float()
    plain, sharp = (confidence_statistics(m, *digits.validation, stream()) for m in (trained_pair[0], scaled))
    assert sharp[0].value > plain[0].value
    assert sharp[1].value < plain[1].value
    gain = sharp[0].value - plain[0].value
    assert sharp[2].value - plain[2].value == pytest.approx(gain, abs=1e-6)


def test_the_model_is_left_as_it_was_and_the_stream_decides(make_cnn, digits) -> None:
    model = make_cnn(2, 0).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    first = confidence_statistics(model, *digits.validation, stream(1))
    assert first == confidence_statistics(model, *digits.validation, stream(1))
    assert first != confidence_statistics(model, *digits.validation, stream(2))
    assert model.training
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_what_cannot_be_had_has_a_reason() -> None:
    outputs, labels = torch.randn(20, 3, generator=stream(), dtype=torch.float64), torch.arange(20) % 3
    spoilt = confidence_statistics(Given(math.nan), outputs, labels, stream())
    assert [(e.value, e.reason) for e in spoilt] == [(None, "not_finite")] * 4
    alike = confidence_statistics(Given(), outputs, torch.ones(20, dtype=torch.int64), stream())
    assert [e.reason for e in alike] == [None, None, "one_class", "one_class"]
    single = confidence_statistics(Given(), outputs[:, :1], 0 * labels, stream())
    assert [e.reason for e in single] == ["one_class"] * 4


def test_impossible_requests_are_refused() -> None:
    outputs, labels = torch.zeros(4, 3, dtype=torch.float64), torch.arange(4) % 3
    with pytest.raises(ValueError, match="0 images cannot be held against 0 labels"):
        confidence_statistics(Given(), outputs[:0], labels[:0], stream())
    with pytest.raises(ValueError, match="4 images cannot be held against 3 labels"):
        confidence_statistics(Given(), outputs, labels[:3], stream())
    with pytest.raises(ValueError, match="bins is 0 and resamples is 100"):
        confidence_statistics(Given(), outputs, labels, stream(), bins=0)
    with pytest.raises(ValueError, match="resamples is 1; give at least 1 bin and 2 resamples"):
        confidence_statistics(Given(), outputs, labels, stream(), resamples=1)


@pytest.mark.parametrize("equal_mass", [True, False])
def test_the_bootstrap_is_over_samples_each_measured_as_a_whole(equal_mass) -> None:
    """Many images are as confident as others, of which some are right and some wrong."""
    confidence = torch.rand(60, generator=stream(), dtype=torch.float64).round(decimals=1)
    right = torch.rand(60, generator=stream(1)) < 0.6
    found = calibration_error(confidence, right, stream(2), 7, equal_mass, resamples=12)
    drawn = torch.randint(0, 60, (12, 60), generator=stream(2))
    samples = [
        calibration_error(confidence[own], right[own], stream(), 7, equal_mass, resamples=2).value
        for own in drawn
    ]
    assert found.standard_error == pytest.approx(statistics.stdev(samples), rel=1e-12)
