"""How many units of a model ever fire: dead units, and zeros among the activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.engines.lane_copies import LaneAnswers
from zoo.landscape.estimate import NOT_FINITE, Estimate
from zoo.landscape.evaluation import answers_in_lanes, device_of, evaluation_mode
from zoo.landscape.weights import is_finite

NO_RELU = "no_relu"
"""Reason of a metric without a value: no ReLU was applied."""

RELU: frozenset[Callable[..., Any]] = frozenset((torch.relu, torch.relu_, F.relu, Tensor.relu, Tensor.relu_))
"""What counts as ReLU; `nn.ReLU` calls one of them."""


@dataclass(slots=True)
class _Layer:
    """What was seen of one ReLU: for each unit whether it fired [C], zeros, activations."""

    fired: Tensor
    zeros: int = 0
    entries: int = 0


class ReluWatch(TorchFunctionMode):
    """Sees every ReLU that is applied while it is active, module or function, in the order of the calls.

    Nothing is attached to the model, so nothing is left behind; and a ReLU that is a function call, as after the
    shortcut of a residual block, is seen like one that is a module.

    Attributes:
        layers: One entry for each call in a forward pass.
    """

    def __init__(self) -> None:
        """See nothing yet."""
        super().__init__()
        self.layers: list[_Layer] = []
        self._next = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function; look at its result if it is a ReLU."""
        result = func(*args, **(kwargs or {}))
        if func in RELU:
            self._look(result)
        return result

    def next_batch(self) -> None:
        """The next ReLU is the first of a forward pass again."""
        self._next = 0

    def _look(self, result: Tensor) -> None:
        active = result > 0
        fired = active.transpose(0, 1).flatten(1).any(1)
        if self._next == len(self.layers):
            self.layers.append(_Layer(torch.zeros_like(fired)))
        layer = self.layers[self._next]
        layer.fired |= fired
        layer.zeros += active.numel() - int(active.sum())
        layer.entries += active.numel()
        self._next += 1


@torch.no_grad()
def relu_activity(model: nn.Module, images: Tensor, batch_size: int = 1000) -> list[Estimate]:
    """Share of dead units, and share of zeros among the activations, of all ReLUs of a model.

    A unit is a feature of a linear layer, or a channel of a convolution; it is dead if its ReLU is zero at every
    place for every image, so that no gradient reaches its weights (Lu et al., Dying ReLU and Initialization:
    Theory and Numerical Examples, 2020; zeros: Glorot, Bordes and Bengio, Deep Sparse Rectifier Neural
    Networks, AISTATS 2011). The model is in eval mode.

    Args:
        model: A model that applies the same ReLUs to every batch, left as it was; dimension 1 of what they
            are applied to is that of the units.
        images: [N, C, H, W], on any device.
        batch_size: Images a pass.

    Returns:
        Share of dead units, and share of zeros, in [0, 1]; `values` are those of each ReLU, in the order of the
        calls. Without a value for the reason `NO_RELU` if none was applied.

    Raises:
        ValueError: If there are no images.
    """
    if not len(images):
        raise ValueError("the activity over 0 images is undefined; give at least 1")
    in_lanes = answers_in_lanes(model, images)
    if in_lanes is not None:
        finite, layers = bool(in_lanes.outputs.isfinite().all()), _layers_of(in_lanes)
    else:
        finite, layers = _watch(model, images, batch_size)
    dead = [(int((~layer.fired).sum()), layer.fired.numel()) for layer in layers]
    zeros = [(layer.zeros, layer.entries) for layer in layers]
    reason = NOT_FINITE if not (finite and is_finite(model)) else None if layers else NO_RELU
    return [_share(counts, len(images), reason) for counts in (dead, zeros)]


def _watch(model: nn.Module, images: Tensor, batch_size: int) -> tuple[bool, list[_Layer]]:
    """Whether all answers are finite, and what was seen of each ReLU."""
    device, finite = device_of(model), True
    with evaluation_mode(model), ReluWatch() as watch:
        for batch in images.split(batch_size):
            watch.next_batch()
            finite = bool(model(batch.to(device)).isfinite().all()) and finite
    return finite, watch.layers


def _layers_of(answers: LaneAnswers) -> list[_Layer]:
    """What lanes counted of each ReLU."""
    layers = []
    for counts, places in zip(answers.fired, answers.places, strict=True):
        entries = len(answers.outputs) * places * len(counts)
        layers.append(_Layer(counts > 0, entries - int(counts.sum()), entries))
    return layers


def _share(counts: list[tuple[int, int]], samples: int, reason: str | None) -> Estimate:
    """Part of the whole, over all layers and in each of them."""
    if reason is not None:
        return Estimate(value=None, reason=reason, samples=samples, sample_passes=float(samples))
    return Estimate(
        value=sum(part for part, _ in counts) / sum(whole for _, whole in counts),
        values=tuple(part / whole for part, whole in counts),
        samples=samples,
        sample_passes=float(samples),
    )
