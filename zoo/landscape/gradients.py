"""The gradient of the loss over some images: its norm, its variance between images, its noise scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from zoo.datasets import Split
from zoo.engines.lane_copies import CURVATURE_IMAGES, GRADIENT_CHANNELS, LaneCopies, described
from zoo.engines.lane_library import Passes
from zoo.landscape.estimate import NOT_FINITE, Estimate
from zoo.landscape.evaluation import device_of, evaluation_mode, outputs
from zoo.landscape.hessian import GRADIENT_PASSES
from zoo.landscape.weights import FlatModel, flat_weights

NO_SIGNAL = "no_signal"
"""Reason of a noise scale without a value: the mean gradient cannot be told from zero."""

IMAGES_AT_ONCE = 128
ENTRIES_AT_ONCE = 2**22
"""Images, and entries of all their gradients, that one vectorised call holds, at most."""

ENTRIES_KEPT = 2**25
"""Entries of all gradients up to which they are kept, 128 MiB; beyond, they are computed twice."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Mean loss of outputs and labels."""


class Moments(NamedTuple):
    """What is known of a gradient from a sample: one number, or one for each image left out.

    Attributes:
        norm: Length of the sample's mean gradient.
        variance: Trace of the covariance of the gradients of single images.
        signal: Squared length of the mean gradient of the population, without bias.
    """

    norm: Tensor
    variance: Tensor
    signal: Tensor


@torch.enable_grad()
def mean_gradient(
    model: FlatModel, images: Tensor, labels: Tensor, loss: Loss = F.cross_entropy, batch_size: int = 1000
) -> tuple[float, Tensor]:
    """Loss over the images and its gradient, in eval mode.

    Args:
        model: The copy whose `gradient` is used; left in eval mode.
        images: [N, C, H, W], on any device.
        labels: [N], or whatever `loss` takes.
        loss: Mean loss of outputs and labels.
        batch_size: Images a pass.

    Returns:
        The loss, and the gradient [P], which the next call overwrites.

    Raises:
        ValueError: If there are no images.
    """
    if not len(images):
        raise ValueError("the gradient of the loss over 0 images is undefined; give at least 1")
    device, total = model.weights.device, 0.0
    model.module.eval()
    made = described(model.module, images, labels, GRADIENT_CHANNELS) if loss is F.cross_entropy else None
    if made is not None:
        copies = LaneCopies(made, model.module, min(CURVATURE_IMAGES, len(images)), Passes.BACKWARD)
        model.gradient.copy_(copies.mean_gradient(model.weights, Split(images, labels)))
        return loss(outputs(model.module, images, batch_size).double(), labels).item(), model.gradient
    model.gradient.zero_()
    for batch, answers in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        value = loss(model.module(batch.to(device)).double(), answers.to(device)) * (len(batch) / len(images))
        value.backward()
        total += value.item()
    return total, model.gradient


def gradient_statistics(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    group_size: int = 1,
    population: int | None = None,
    loss: Loss = F.cross_entropy,
) -> list[Estimate]:
    r"""Norm, variance and noise scale of the gradient, from the gradients of single images.

    With mean gradient $G$ and covariance $\Sigma$ of the gradients of single images, the simple noise scale
    is $B = \mathrm{tr}\Sigma / |G|^2$, the batch size at which noise and signal are level (McCandlish et al.,
    An Empirical Model of Large-Batch Training, 2018, eq. 2.9). From $K$ groups of $m$ images with gradients
    $g_k$ and mean $\bar g$, the estimates without bias are $\mathrm{tr}\Sigma = m S$ with
    $S = \sum_k |g_k - \bar g|^2 / (K - 1)$, and $|G|^2 = |\bar g|^2 - (1 - n/N) S / K$ for $n = Km$ images drawn
    without replacement from $N$. For $N = \infty$ they are that paper's (appendix A.1) for batches of $m$ and $n$
    images, averaged over all batches of $m$. The model is in eval mode, so an image's gradient does not
    depend on the others.

    Standard errors are over the images, by the delete-one jackknife (Efron and Stein, The Jackknife Estimate
    of Variance, 1981). Leaving out group $k$ takes only $|g_k|^2$ and $g_k^\top \bar g$.

    Args:
        model: A model, left as it was.
        images: [n, C, H, W], on any device.
        labels: [n].
        generator: Draws the groups, on the CPU; groups of 1 give the same numbers whatever it draws.
        group_size: Images a group; 1 is the most exact, larger ones are faster. Images left over are not used.
        population: Images that these were drawn from, as the whole training set; None: infinitely many. If
            these are all, the mean gradient is known and groups of 1 have a standard error of 0.
        loss: Mean loss of outputs and labels.

    Returns:
        Gradient norm $|\bar g|$, gradient variance $\mathrm{tr}\Sigma$, and noise scale $B$ in images. The
        noise scale has no value, for the reason `NO_SIGNAL`, where the estimate of $|G|^2$ is not above 0.

    Raises:
        ValueError: If there are fewer than 3 groups, the population is smaller than the sample, or no
            parameter is trainable.
    """
    groups = len(images) // max(group_size, 1)
    if group_size < 1 or groups < 3:
        raise ValueError(
            f"{len(images)} images make {groups} groups of {group_size}; a variance and its error take groups of "
            "at least 1 image and 3 of them"
        )
    used = groups * group_size
    if population is not None and population < used:
        raise ValueError(
            f"the population is {population}, below its sample of {used} images; give all there are"
        )
    chosen = torch.randperm(len(images), generator=generator)[:used].view(groups, group_size)
    chosen = chosen.to(images.device)
    squares, alignments, total, passes = _projections(
        model, images[chosen], labels[chosen.to(labels.device)], loss
    )
    unseen = 1.0 if population is None else 1.0 - used / population
    measured = _moments(squares.sum(), total, groups, group_size, unseen)
    without = _moments(
        squares.sum() - squares, total - 2 * groups * alignments + squares, groups - 1, group_size, unseen
    )
    error_factor = unseen if group_size == 1 else 1.0
    return _estimates(measured, without, groups, used, error_factor, passes)


def _estimates(
    measured: Moments, without: Moments, groups: int, samples: int, error_factor: float, passes: float
) -> list[Estimate]:
    """Norm, variance and noise scale, with the jackknife's errors from the moments without each group."""

    def estimate(value: Tensor, left_out: Tensor) -> Estimate:
        variance = (groups - 1) * left_out.var(correction=0) * error_factor
        return Estimate(
            value=value.item(),
            standard_error=variance.sqrt().item(),
            samples=samples,
            iterations=groups,
            sample_passes=passes,
        ).finite()

    if measured.signal > 0:
        scale = estimate(measured.variance / measured.signal, without.variance / without.signal)
    else:
        reason = NO_SIGNAL if measured.signal.isfinite() else NOT_FINITE
        scale = Estimate(value=None, reason=reason, samples=samples, iterations=groups, sample_passes=passes)
    return [estimate(measured.norm, without.norm), estimate(measured.variance, without.variance), scale]


def _moments(squares: Tensor, total: Tensor, groups: int, group_size: int, unseen: float) -> Moments:
    """Moments from the sum of the groups' squared norms and the squared norm of their sum."""
    mean = total.clamp(min=0) / groups**2
    spread = (squares - groups * mean).clamp(min=0) / (groups - 1)
    return Moments(mean.sqrt(), group_size * spread, mean - unseen * spread / groups)


def _projections(
    model: nn.Module, images: Tensor, labels: Tensor, loss: Loss
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Of the gradients of groups of images.

    Args:
        model: A model.
        images: [K, m, C, H, W].
        labels: [K, m].
        loss: Mean loss of outputs and labels.

    Returns:
        Their squared norms [K], their products with their mean [K], the squared norm of their sum, and the cost
        in sample passes.
    """
    size, count = len(flat_weights(model)), images.shape[0] * images.shape[1]
    kept = list(_gradients(model, images, labels, loss)) if len(images) * size <= ENTRIES_KEPT else None
    squares = torch.empty(len(images), dtype=torch.float64)
    alignments = torch.empty_like(squares)
    total, first = torch.zeros(size, dtype=torch.float64, device=device_of(model)), 0
    for gradients in kept or _gradients(model, images, labels, loss):
        squares[first : first + len(gradients)] = gradients.square().sum(1, dtype=torch.float64)
        total += gradients.sum(0, dtype=torch.float64)
        first += len(gradients)
    mean, first = (total / len(images)).to(flat_weights(model)), 0
    for gradients in kept or _gradients(model, images, labels, loss):
        alignments[first : first + len(gradients)] = gradients @ mean
        first += len(gradients)
    passes = GRADIENT_PASSES if kept else 2 * GRADIENT_PASSES
    return squares, alignments, total.square().sum().cpu(), float(passes * count)


def _gradients(model: nn.Module, images: Tensor, labels: Tensor, loss: Loss) -> Iterator[Tensor]:
    """The gradients of groups of images, [k, P] at a time, in eval mode; in lanes where these know the model."""
    made = described(model, images.flatten(0, 1), labels.flatten()) if loss is F.cross_entropy else None
    if made is None:
        yield from _gradients_by_autograd(model, images, labels, loss)
        return
    groups, size = images.shape[:2]
    copies = LaneCopies(made, model, size, Passes.BACKWARD)
    rows = torch.arange(groups * size).view(groups, size)
    yield from copies.gradients(flat_weights(model), Split(images.flatten(0, 1), labels.flatten(0, 1)), rows)


def functional(model: nn.Module) -> tuple[dict[str, Tensor], Callable[[dict[str, Tensor], Tensor], Tensor]]:
    """The trainable parameters of a model by name, and its outputs as a function of them and of images."""
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    fixed.update(model.named_buffers())
    return parameters, lambda own, images: functional_call(model, {**fixed, **own}, (images,))


def images_at_once(parameters: dict[str, Tensor], group_size: int = 1) -> int:
    """Groups of images whose gradients one vectorised call holds."""
    entries = sum(parameter.numel() for parameter in parameters.values())
    return max(1, min(IMAGES_AT_ONCE // group_size, ENTRIES_AT_ONCE // entries))


@torch.no_grad()
def _gradients_by_autograd(model: nn.Module, images: Tensor, labels: Tensor, loss: Loss) -> Iterator[Tensor]:
    """The same by vectorised autograd, for whatever model and loss."""
    parameters, outputs = functional(model)

    def group_loss(parameters: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return loss(outputs(parameters, images), labels)

    device, count = device_of(model), images_at_once(parameters, images.shape[1])
    with evaluation_mode(model):
        for batch, answers in zip(images.split(count), labels.split(count), strict=True):
            found = vmap(grad(group_loss), (None, 0, 0))(parameters, batch.to(device), answers.to(device))
            yield torch.cat([gradient.flatten(1) for gradient in found.values()], dim=1)
