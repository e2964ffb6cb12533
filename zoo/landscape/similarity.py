"""How alike two models answer: linear CKA, agreement, divergence; and how far apart their weights are."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from zoo.landscape.evaluation import answers_in_lanes, outputs
from zoo.landscape.weights import flat_pair

CONSTANT = 1e-6
"""Spread of the features, relative to their size, below which they count as constant."""


def linear_cka(first: Tensor, second: Tensor) -> float | None:
    r"""Linear centred kernel alignment of two sets of features of the same images.

    $\|Y^\top X\|_F^2 / (\|X^\top X\|_F \|Y^\top Y\|_F)$ for centred $X, Y$, the biased estimator (Kornblith et
    al., Similarity of Neural Network Representations Revisited, ICML 2019, eq. 4). The same number follows
    from the Gram matrices $XX^\top$ and $YY^\top$; they are used where images are fewer than features.

    Args:
        first: Features [N, p].
        second: Features [N, q] of the same images.

    Returns:
        A number in [0, 1]; None if either set is constant over the images.

    Raises:
        ValueError: If the numbers of images differ.
    """
    if len(first) != len(second):
        raise ValueError(f"features of {len(first)} and {len(second)} images; give those of the same images")
    x, y = first.flatten(1).double(), second.flatten(1).double()
    centred = [features - features.mean(0) for features in (x, y)]
    if any(c.norm() <= CONSTANT * f.norm() for c, f in zip(centred, (x, y), strict=True)):
        return None
    x, y = (features / features.norm() for features in centred)
    return (
        _alignment_of_features(x, y) if max(x.shape[1], y.shape[1]) <= len(x) else _alignment_of_grams(x, y)
    )


def agreement(first: Tensor, second: Tensor) -> float:
    """Share of images that two models put in the same class.

    Args:
        first: Outputs [N, classes].
        second: Outputs [N, classes] for the same images.

    Raises:
        ValueError: If the numbers of images differ.
    """
    if len(first) != len(second):
        raise ValueError(f"outputs for {len(first)} and {len(second)} images; give those for the same images")
    return (first.argmax(1) == second.argmax(1)).double().mean().item()


def jensen_shannon(first: Tensor, second: Tensor) -> float:
    r"""Mean over the images of the Jensen-Shannon divergence of two models' predicted distributions, in nats.

    $\frac12 D(p \| m) + \frac12 D(q \| m)$ with $m = (p + q) / 2$ (Lin, Divergence Measures Based on the Shannon
    Entropy, 1991): symmetric, 0 for models that answer alike, at most $\ln 2$.

    Args:
        first: Outputs [N, classes] before softmax.
        second: Outputs [N, classes] for the same images.

    Raises:
        ValueError: If the numbers of images differ.
    """
    if len(first) != len(second):
        raise ValueError(f"outputs for {len(first)} and {len(second)} images; give those for the same images")
    logs = torch.stack([first, second]).double().log_softmax(2)
    mixture = logs.logsumexp(0) - math.log(2)
    both = (logs.exp() * (logs - mixture)).sum(
        0
    )  # first of the two models: sums of two do not depend on order
    return max(0.0, both.sum(1).mean().item() / 2)


class Answers(NamedTuple):
    """What a model makes of some images.

    Attributes:
        outputs: [N, classes], before softmax.
        features: [N, ...] what goes into the last linear layer; None if the model has none.
    """

    outputs: Tensor
    features: Tensor | None


def answers(model: nn.Module, images: Tensor, batch_size: int = 1000) -> Answers:
    """Outputs and penultimate features of a model in eval mode, from one pass.

    Args:
        model: A classifier, left as it was.
        images: [N, C, H, W], on any device.
        batch_size: Images a forward pass.
    """
    in_lanes = answers_in_lanes(model, images)
    if in_lanes is not None:
        return Answers(in_lanes.outputs, in_lanes.features)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    seen: list[Tensor] = []
    hooks = [m.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach())) for m in last]
    try:
        given = outputs(model, images, batch_size)
    finally:
        for hook in hooks:
            hook.remove()
    return Answers(given, torch.cat(seen) if seen else None)


def l2_distance(first: nn.Module, second: nn.Module) -> float:
    """Euclidean distance of the trainable parameters: BatchNorm's scale and shift in, statistics out.

    Raises:
        ValueError: If the two models have different architectures.
    """
    start, end = flat_pair(first, second)
    return torch.linalg.vector_norm(start.double() - end.double()).item()


def mixup(images: Tensor, batch_size: int, batches: int, alpha: float, generator: torch.Generator) -> Tensor:
    r"""Random training images, each mixed with another of its batch.

    A batch $x$ becomes $\lambda x + (1 - \lambda) x_\pi$ with one $\lambda \sim \mathrm{Beta}(\alpha, \alpha)$ and a
    random order $\pi$ (Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018).

    Args:
        images: [N, C, H, W].
        batch_size: Images a batch.
        batches: Number of batches; fewer where the images run out, for none is drawn twice.
        alpha: Concentration of the mixing share about one half.
        generator: Draws the images, orders and shares, on the CPU.

    Returns:
        [at most batches * batch_size, C, H, W].
    """
    drawn = torch.randperm(len(images), generator=generator)[: batches * batch_size]
    # torch's Beta distribution takes no generator
    beta = np.random.default_rng(int(torch.randint(2**62, (), generator=generator))).beta
    mixed = []
    for indices in drawn.split(batch_size):
        share = float(beta(alpha, alpha))
        others = indices[torch.randperm(len(indices), generator=generator)]
        mixed.append(torch.lerp(images[others.to(images.device)], images[indices.to(images.device)], share))
    return torch.cat(mixed)


def _alignment_of_features(x: Tensor, y: Tensor) -> float:
    return ((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())).item()


def _alignment_of_grams(x: Tensor, y: Tensor) -> float:
    gram_x, gram_y = x @ x.T, y @ y.T
    return ((gram_x * gram_y).sum() / (gram_x.norm() * gram_y.norm())).item()
