"""Trace of the Hessian without probes, for networks that are piecewise linear in each single parameter."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vjp, vmap

from zoo.engines.lane_copies import LaneCopies, described
from zoo.engines.lane_library import Passes
from zoo.engines.lane_network import UnsupportedModelError, describe
from zoo.landscape.estimate import Estimate
from zoo.landscape.evaluation import device_of, evaluation_mode
from zoo.landscape.gradients import functional, images_at_once
from zoo.landscape.hessian import Forms
from zoo.landscape.sampling import sampling_error
from zoo.landscape.weights import flat_weights

MOST_CLASSES = 100
"""Classes up to which the exact trace is computed: at 100 it costs about what the most probes of `default` do."""

BACKWARD_PASSES = 2
"""Cost an image of a backward pass, in forward passes."""


def exact_trace(model: nn.Module, images: Tensor, population: int | None = None) -> Estimate | None:
    r"""Trace of the Hessian of the mean cross-entropy, exact for these images.

    With logits f, softmax outputs p and $C = \mathrm{diag}(p) - p p^\top$, an image's Hessian is
    $J^\top C J + \sum_k (p - y)_k \nabla^2 f_k$. Where layers are linear, BatchNorm has fixed statistics and what
    lies between is ReLU, pooling and addition, a path from image to logit passes each parameter at most once, so
    that f is piecewise linear in any single one: the second term has a diagonal of zeros (Dangel, Kunstner and
    Hennig, BackPACK, ICLR 2020, where the diagonals of Hessian and Gauss-Newton matrix are the same for ReLU
    networks). What is left,

        tr H = sum_k p_k |g_k|^2,    g_k = J' (e_k - p),

    takes a backward pass for each class, and no labels.

    Args:
        model: A model, left as it was.
        images: [N, C, H, W], on any device.
        population: Images that these were drawn from, as for `sampling_error`; None for an unlimited supply.

    Returns:
        The trace, which has no error but that of the choice of images; None for a model that lanes do not know
        (`zoo.engines.lane_network.describe`), or of more than `MOST_CLASSES`.

    Raises:
        ValueError: If there are no images, or no parameter is trainable.
    """
    if not len(images):
        raise ValueError("the Hessian of the loss over 0 images is undefined; give at least 1")
    flat_weights(model)  # refuses a model without trainable parameters
    try:
        classes = describe(model, tuple(images.shape[1:])).classes  # type: ignore[arg-type]
    except UnsupportedModelError:
        return None
    if classes > MOST_CLASSES:
        return None
    traces = image_traces(model, images).double().cpu()
    return Estimate(
        value=traces.mean().item(),
        sampling_error=sampling_error(Forms(traces.unsqueeze(0), torch.ones_like(traces)), population),
        samples=len(images),
        sample_passes=float(len(images) * (1 + BACKWARD_PASSES * classes)),
    ).finite()


def image_traces(model: nn.Module, images: Tensor) -> Tensor:
    r"""Trace of the Gauss-Newton matrix $J^\top C J$ of the cross-entropy of each image, [N], in eval mode.

    Args:
        model: Any model.
        images: [N, C, H, W], on any device.
    """
    made = described(model, images)
    if made is not None:
        return LaneCopies(made, model, 1, Passes.BACKWARD).traces(flat_weights(model), images)
    parameters, outputs = functional(model)

    def trace(image: Tensor) -> Tensor:
        found: Any = vjp(lambda own: outputs(own, image.unsqueeze(0))[0], parameters)
        logits, pull = found
        shares, total = F.softmax(logits, 0), logits.new_zeros(())
        for k in range(len(logits)):
            seed = shares[k].sqrt() * (F.one_hot(torch.tensor(k), len(logits)).to(logits) - shares)
            total = total + sum(own.square().sum() for own in pull(seed)[0].values())
        return total

    device = device_of(model)
    with torch.no_grad(), evaluation_mode(model):
        return torch.cat([vmap(trace)(part.to(device)) for part in images.split(images_at_once(parameters))])
