"""How sure a model is of its answers, and whether rightly: confidence, entropy, calibration."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zoo.landscape.estimate import NOT_FINITE, Estimate
from zoo.landscape.evaluation import outputs

ONE_CLASS = "one_class"
"""Reason of a metric without a value: there is one class only, in the images or in the outputs."""

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Quantiles over the images that `values` hold, ascending."""


def answers_and_reason(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, str | None]:
    """Outputs [N, classes] in double precision, labels [N] beside them, and why no metric can be had of them.

    Raises:
        ValueError: If there are no images, or not as many labels.
    """
    if not len(images) or len(images) != len(labels):
        raise ValueError(
            f"answers to {len(images)} images cannot be held against {len(labels)} labels; "
            "give at least 1 image, and a label for each"
        )
    answers = outputs(model, images).double()
    labels = labels.to(answers.device)
    if not bool(answers.isfinite().all()):
        return answers, labels, NOT_FINITE
    if answers.shape[1] < 2 or bool((labels == labels[0]).all()):
        return answers, labels, ONE_CLASS
    return answers, labels, None


def confidence_statistics(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    bins: int = 10,
    equal_mass: bool = True,
    resamples: int = 100,
) -> list[Estimate]:
    r"""Confidence, entropy, overconfidence and calibration error of a model's answers.

    With softmax outputs $p$: the mean over the images of the confidence $\max_k p_k$; of the entropy
    $-\sum_k p_k \ln p_k$ (`neg-entropy` of Jiang et al., Fantastic Generalization Measures and Where to Find Them,
    ICLR 2020, appendix C); of the confidence less the share of right answers; and the calibration error, see
    `calibration_error`. The model is in eval mode.

    Args:
        model: A classifier, left as it was.
        images: [N, C, H, W], on any device.
        labels: [N].
        generator: Draws the bootstrap, on the CPU.
        bins: Bins of the calibration error.
        equal_mass: Whether they hold equally many images; else they are equally wide.
        resamples: Bootstrap samples.

    Returns:
        The four, in this order. `values` are `QUANTILES` of the first two, and the bins' gaps of the last.
        Confidence and entropy need no labels; where all labels are equal, the other two have no value, for the
        reason `ONE_CLASS`.

    Raises:
        ValueError: If there are no images, not as many labels, no bins, or fewer than 2 resamples.
    """
    answers, labels, reason = answers_and_reason(model, images, labels)
    count = len(labels)
    if reason == NOT_FINITE or answers.shape[1] < 2:
        missing = Estimate(value=None, reason=reason, samples=count, sample_passes=float(count))
        return [missing] * 4
    logs = answers.log_softmax(1)
    confidence = logs.max(1).values.exp()
    spread = [_mean(confidence, QUANTILES), _mean(-(logs.exp() * logs).sum(1), QUANTILES)]
    if reason is not None:
        missing = Estimate(value=None, reason=reason, samples=count, sample_passes=float(count))
        return [*spread, missing, missing]
    right = answers.argmax(1) == labels
    error = calibration_error(confidence, right, generator, bins, equal_mass, resamples)
    return [*spread, _mean(confidence - right.double()), error]


def calibration_error(
    confidence: Tensor,
    right: Tensor,
    generator: torch.Generator,
    bins: int = 10,
    equal_mass: bool = True,
    resamples: int = 100,
) -> Estimate:
    r"""Expected calibration error, the mean gap between confidence and accuracy.

    $\sum_b \frac{n_b}{N} |\mathrm{acc}_b - \mathrm{conf}_b|$ over bins of confidence, equally wide (Guo et al., On
    Calibration of Modern Neural Networks, ICML 2017, eq. 3) or holding equally many images, which has less
    bias (Nixon et al., Measuring Calibration in Deep Learning, 2019; Roelofs et al., Mitigating Bias in
    Calibration Error Estimation, AISTATS 2022); images as confident share a bin. A perfectly calibrated model
    does not get 0 but about $\sqrt{2/\pi}$ times the standard error of a bin's accuracy. The standard error of
    the estimate is the bootstrap's over the images, which are put in bins anew.

    Args:
        confidence: [N], in [0, 1].
        right: [N], whether the answer was right.
        generator: Draws the bootstrap, on the CPU.
        bins: Number of bins.
        equal_mass: Whether they hold equally many images; else they are equally wide.
        resamples: Bootstrap samples.

    Returns:
        The error, in [0, 1]; `values` are each bin's share of it with its sign, positive where confidence is too
        high, from the least confident bin up.

    Raises:
        ValueError: If there are no bins, or fewer than 2 resamples.
    """
    if bins < 1 or resamples < 2:
        raise ValueError(
            f"bins is {bins} and resamples is {resamples}; give at least 1 bin and 2 resamples of the bootstrap"
        )
    confidence, gaps = confidence.double().cpu(), confidence.double().cpu() - right.double().cpu()
    count = len(gaps)
    shares = _bin_gaps(confidence, gaps, gaps.new_ones(1, count), bins, equal_mass)
    drawn = bootstrap_counts(count, resamples, generator)
    redone = _bin_gaps(confidence, gaps, drawn, bins, equal_mass).abs().sum(1)
    return Estimate(
        value=shares.abs().sum().item(),
        values=tuple(shares[0].tolist()),
        standard_error=redone.std().item(),
        samples=count,
        iterations=resamples,
        sample_passes=float(count),
    ).finite()


def bootstrap_counts(count: int, resamples: int, generator: torch.Generator) -> Tensor:
    """How often each of N images is drawn in each of R bootstrap samples of N, [R, N], float64."""
    drawn = torch.randint(0, count, (resamples, count), generator=generator)
    return torch.zeros(resamples, count, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones((), dtype=torch.float64).expand_as(drawn)
    )


def _mean(numbers: Tensor, quantiles: tuple[float, ...] | None = None) -> Estimate:
    count = len(numbers)
    values = None if quantiles is None else torch.quantile(numbers, numbers.new_tensor(quantiles)).tolist()
    return Estimate(
        value=numbers.mean().item(),
        values=None if values is None else tuple(values),
        standard_error=(numbers.std() / math.sqrt(count)).item() if count > 1 else None,
        samples=count,
        sample_passes=float(count),
    ).finite()


def _bin_gaps(confidence: Tensor, gaps: Tensor, drawn: Tensor, bins: int, equal_mass: bool) -> Tensor:
    """Sum of the gaps in each bin over the number of images, [R, bins].

    Args:
        confidence: [N].
        gaps: [N].
        drawn: How often each of R samples has each image, [R, N].
        bins: As in `calibration_error`.
        equal_mass: As in `calibration_error`.
    """
    count = len(gaps)
    if not equal_mass:
        places = confidence.mul(bins).ceil().long().sub(1).clamp(0, bins - 1)
        return gaps.new_zeros(len(drawn), bins).index_add_(1, places, drawn * gaps) / count
    # A sample is put in order without being sorted: images as confident come together, and after all less confident.
    levels, level = confidence.unique(return_inverse=True)
    images, sums = (
        gaps.new_zeros(len(drawn), len(levels)).index_add_(1, level, own) for own in (drawn, drawn * gaps)
    )
    before = images.cumsum(1) - images
    places = before.mul(bins).div(count, rounding_mode="floor").long()
    return gaps.new_zeros(len(drawn), bins).scatter_add_(1, places.clamp(max=bins - 1), sums) / count
