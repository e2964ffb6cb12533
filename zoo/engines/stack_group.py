"""Models that take their steps in one pass, and what these go on from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.config import TrainConfig
from zoo.engines.stack_network import Network

AUTOCAST: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
"""The number format of products and convolutions by a configuration's precision; None leaves that of the weights."""


class ModelGroup:
    """K models in training.

    A model whose loss is not finite takes no step from then on, nor does one that is stopped. Models do not meet:
    each has entries of its own in every tensor, and no sum runs over models.

    Attributes:
        weights: Their trainable parameters, [K, P].
        momentum: The momentum of each, [K, P].
        others: Running statistics and frozen parameters, [K x Q] as in `Network`.
        live: Which still take steps, [K].
    """

    def __init__(self, network: Network, models: Sequence[nn.Module], configs: Sequence[TrainConfig]) -> None:
        device = network.owner.device
        trained, others = zip(*(network.vectors(model) for model in models), strict=True)
        self.weights = torch.stack(trained).to(device)
        self.momentum = torch.zeros_like(self.weights)
        self.others = network.join(others).to(device)
        self.live = torch.ones(len(models), dtype=torch.bool, device=device)
        self._network, self._autocast = network, AUTOCAST[configs[0].precision]
        self._inertia = self.weights.new_tensor([[config.momentum] for config in configs])
        self._decay = self.weights.new_tensor([[config.weight_decay] for config in configs])

    @property
    def changed(self) -> tuple[Tensor, ...]:
        """All that a step goes on from."""
        return self.weights, self.momentum, self.others, self.live

    def step(self, images: Tensor, labels: Tensor, rows: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step of SGD as `torch.optim.SGD` does, without a look at any value.

        Args:
            images: [N, C, H, W], of all models.
            labels: [K, B] of each model's batch.
            rows: [K, B], which images are each model's batch.
            rates: [K] learning rates.

        Returns:
            Losses [K], NaN of models that take no steps, and misclassified images [K].
        """
        before = self.others.clone()
        weights = self.weights.detach().requires_grad_()
        with torch.enable_grad(), self._precision():
            logits = self._network(weights, self.others, images, rows)
            each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            losses = each.view(labels.shape).mean(1)
        (gradient,) = torch.autograd.grad(losses, weights, torch.ones_like(losses))
        losses, wrong = losses.detach(), (logits.argmax(2) != labels).sum(1)
        self.live.logical_and_(losses.isfinite())
        self._descend(gradient, rates.unsqueeze(1))
        self.others.copy_(torch.where(self.live[self._network.owner], self.others, before))
        still = self.live.logical_not()
        return losses.masked_fill(still, math.nan), wrong.masked_fill(still, 0)

    def read(self, lane: int, model: nn.Module) -> dict[str, Tensor]:
        """Let an ordinary module be as one of the models, but for counts of batches; returns its momentum by name."""
        own = self.weights[lane], self.others[self._network.owner == lane]
        self._network.put(model, *(tensor.cpu() for tensor in own))
        return self._network.named(self.momentum[lane].clone().cpu())

    def write(self, lane: int, model: nn.Module, momentum: Mapping[str, Tensor]) -> None:
        """Let one of the models be as an ordinary module, with this momentum by name."""
        trained, others = self._network.vectors(model)
        self.weights[lane] = trained.to(self.weights.device)
        self.others[self._network.owner == lane] = others.to(self.others.device)
        for name, own in self._network.named(self.momentum[lane]).items():
            own.copy_(momentum[name])

    def _descend(self, gradient: Tensor, rates: Tensor) -> None:
        """Change weights and momentum of the live models."""
        # For the others gradient and rate are 0 and inertia is 1; `where` with numbers would copy them to the device,
        # which a recorded step may not.
        still = self.live.logical_not().unsqueeze(1)
        gradient = gradient.addcmul(self.weights, self._decay).masked_fill_(still, 0)
        self.momentum.mul_(self._inertia.masked_fill(still, 1)).add_(gradient)
        self.weights.addcmul_(self.momentum, rates.masked_fill(still, 0), value=-1)

    def _precision(self) -> torch.autocast:
        kind, wanted = self.weights.device.type, self._autocast
        # A cast that is kept from one pass to the next would be no part of a recorded step.
        return torch.autocast(kind, wanted, enabled=wanted is not None, cache_enabled=False)
