"""By how much the right answer wins: margins of the outputs, as they are and normalised."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zoo.landscape.confidence import QUANTILES, answers_and_reason, bootstrap_counts
from zoo.landscape.estimate import COLLAPSED, Estimate
from zoo.landscape.norms import log_norm_products
from zoo.landscape.similarity import CONSTANT


def margins(answers: Tensor, labels: Tensor) -> Tensor:
    r"""Margin of each image, [N]: $f_y(x) - \max_{k \ne y} f_k(x)$, above 0 where the answer is right.

    Args:
        answers: Outputs [N, classes], of two classes or more.
        labels: [N].
    """
    own = answers.gather(1, labels[:, None])
    others = answers.scatter(1, labels[:, None], -math.inf)
    return own.squeeze(1) - others.max(1).values


def output_scale(answers: Tensor) -> float | None:
    r"""Root of the total variance of the outputs, $\sqrt{\mathrm{tr} \, \mathrm{Cov} f(x)}$.

    Source: the normalisation of Jiang et al., Predicting the Generalization Gap in Deep Networks with Margin
    Distributions, ICLR 2019, eq. 5, at the output layer.

    Args:
        answers: Outputs [N, classes].

    Returns:
        The scale; None if all images are answered alike.
    """
    centred = answers - answers.mean(0)
    if centred.norm() <= CONSTANT * answers.norm():
        return None
    return (centred.norm() / math.sqrt(len(answers))).item()


def margin_statistics(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    quantile: float = 0.1,
    resamples: int = 100,
) -> list[Estimate]:
    r"""Margin of the outputs, relative to their spread, and relative to the product of spectral norms.

    - `margin`: $\gamma = f_y(x) - \max_{k \ne y} f_k(x)$. The 10% quantile stands for the least margin (Jiang et
      al., Fantastic Generalization Measures and Where to Find Them, ICLR 2020, appendix C).
    - over `output_scale` (Jiang et al. 2019): unchanged where outputs are scaled or shifted.
    - over $\prod_l \|W_l\|_2$ (Bartlett, Foster and Telgarsky, Spectrally-normalized margin bounds for neural
      networks, NeurIPS 2017), with BatchNorm folded in, see `zoo.landscape.norms.log_norm_products`.

    Args:
        model: A classifier, left as it was.
        images: [N, C, H, W], on any device.
        labels: [N].
        generator: Draws the bootstrap, on the CPU.
        quantile: Quantile over the images that is the value.
        resamples: Bootstrap samples.

    Returns:
        The three, in this order; `values` are `QUANTILES` over the images. Standard errors are the bootstrap's
        over the images, the scale taken as given. Without a value for the reasons `ONE_CLASS`, or `COLLAPSED`
        where all images are answered alike or a layer is zero.

    Raises:
        ValueError: If there are no images, not as many labels, or fewer than 2 resamples; or the quantile is
            not in [0, 1].
    """
    if not 0 <= quantile <= 1 or resamples < 2:
        raise ValueError(
            f"quantile is {quantile} and resamples is {resamples}; give one in [0, 1] and at least 2 resamples"
        )
    answers, labels, reason = answers_and_reason(model, images, labels)
    count = len(labels)
    if reason is not None:
        missing = Estimate(value=None, reason=reason, samples=count, sample_passes=float(count))
        return [missing] * 3
    own = margins(answers, labels).cpu()
    error = _resampled_quantiles(own, bootstrap_counts(count, resamples, generator), quantile).std().item()
    value, *values = torch.quantile(own, own.new_tensor([quantile, *QUANTILES])).tolist()

    def over(scale: float | None, reason: str | None) -> Estimate:
        if scale is None:
            return Estimate(value=None, reason=reason, samples=count, sample_passes=float(count))
        return Estimate(
            value=value / scale,
            values=tuple(v / scale for v in values),
            standard_error=error / scale,
            samples=count,
            iterations=resamples,
            sample_passes=float(count),
        ).finite()

    product, _ = log_norm_products(model)
    norm = None if product.value is None else math.exp(product.value / 2)
    return [over(1.0, None), over(output_scale(answers), COLLAPSED), over(norm, product.reason)]


def _resampled_quantiles(numbers: Tensor, drawn: Tensor, quantile: float) -> Tensor:
    """The quantile of samples [R] that draw each of some numbers [N] so often [R, N], between its two neighbours."""
    ordered, order = numbers.sort()
    upto = drawn[:, order].cumsum(1)
    place = quantile * (len(numbers) - 1)
    # The k-th smallest of a sample, from 0, is the first number that has more than k draws up to itself.
    below, above = (
        ordered[torch.searchsorted(upto, upto.new_full((len(upto), 1), k), right=True).squeeze(1)]
        for k in (math.floor(place), math.ceil(place))
    )
    return torch.lerp(below, above, place - math.floor(place))
