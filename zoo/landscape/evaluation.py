"""Loss, error and outputs of a model on images in memory, and BatchNorm statistics made anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.config import seed_of
from zoo.engines.lane_copies import LaneAnswers, LaneCopies, described
from zoo.landscape.weights import flat_weights

if TYPE_CHECKING:
    from zoo.datasets import Split

LEAST_IMAGES = 32
"""Images from which on a model answers in lanes."""


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode for a while, then each one back in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's parameters.

    Raises:
        ValueError: If the model has no parameters.
    """
    for parameter in model.parameters():
        return parameter.device
    raise ValueError(f"{type(model).__name__} has no parameters; give a model that can be trained")


def answers_in_lanes(model: nn.Module, images: Tensor) -> LaneAnswers | None:
    """What a model in eval mode makes of images, with an image in each lane; None where another way is faster.

    That is where lanes do not know the model, for a few images, and for linear layers alone, each a single product.

    Args:
        model: Any, left as it was.
        images: [N, C, H, W].
    """
    made = described(model, images) if len(images) >= LEAST_IMAGES else None
    if made is None or all(layer.pixels == 1 for layer in made.layers):
        return None
    return LaneCopies(made, model).answers(flat_weights(model), images)


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor, batch_size: int = 1000) -> Tensor:
    """Outputs of the model in eval mode.

    Args:
        model: A classifier, left as it was.
        images: [N, C, H, W], on any device.
        batch_size: Images a forward pass.

    Returns:
        [N, classes], on the model's device.
    """
    device, in_lanes = device_of(model), answers_in_lanes(model, images)
    if in_lanes is not None:
        return in_lanes.outputs
    with evaluation_mode(model):
        return torch.cat([model(batch.to(device)) for batch in images.split(batch_size)])


def evaluate(model: nn.Module, split: Split, batch_size: int = 1000) -> tuple[float, float]:
    """Cross-entropy and error of the model in eval mode.

    Args:
        model: A classifier, left as it was.
        split: Images [N, C, H, W] and labels [N], on any device.
        batch_size: Images a forward pass.

    Returns:
        Mean loss in nats, and error in percent.

    Raises:
        ValueError: If the split holds no image.
    """
    if not len(split.labels):
        raise ValueError("cannot evaluate on 0 images; give at least 1")
    answers = outputs(model, split.images, batch_size)
    labels = split.labels.to(answers.device)
    wrong = (answers.argmax(1) != labels).sum().item()
    return F.cross_entropy(answers, labels).item(), 100.0 * wrong / len(labels)


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, images: Tensor, batch_size: int = 1000, copies: int = 1) -> None:
    """Recompute the running statistics of BatchNorm on the images, as a cumulative average over batches.

    Each batch weighs as much as it has images. The model is left in eval mode, its statistics changed;
    a model without BatchNorm keeps everything but the mode. Source: `update_bn` of Garipov et al., Loss
    Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, NeurIPS 2018.

    Args:
        model: Any model; modules other than BatchNorm run in eval mode.
        images: [N, C, H, W], on any device.
        batch_size: Images a forward pass at most; batches are of equal size as nearly as can be.
        copies: How often the channels of an image are repeated, for models side by side.
    """
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    device, momenta, seen = device_of(model), [norm.momentum for norm in norms], 0
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    for batch in images.tensor_split(-(-len(images) // batch_size)):
        seen += len(batch)
        for norm in norms:
            norm.momentum = len(batch) / seen
        model(batch.to(device).repeat(1, copies, 1, 1) if copies > 1 else batch.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def subset(split: Split, size: int, generator: torch.Generator | None = None) -> Split:
    """At most `size` images of a split, in the split's order.

    Args:
        split: Images [N, C, H, W] and labels [N], or several sets of labels [K, N].
        size: Images wanted.
        generator: Draws which ones, on the CPU. None draws them from a stream of its own, so that the choice
            depends on the two sizes only. The first ones, or every k-th, would be of a few classes where the
            split is ordered by class, or by turns.

    Returns:
        A split of the same type; the split itself if it has no more than `size` images.
    """
    count = len(split.images)
    if count <= size:
        return split
    if generator is None:
        generator = torch.Generator().manual_seed(seed_of("subset", count, size))
    chosen = torch.randperm(count, generator=generator)[:size].sort().values
    chosen = chosen.to(split.labels.device)
    return type(split)(split.images[chosen], split.labels[..., chosen])
