"""The plain engine: one model after the other, by autograd and fused SGD. The oracle of every other."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.config import TrainConfig
from zoo.datasets import Split
from zoo.engines import Progress
from zoo.landscape.evaluation import device_of, evaluate
from zoo.snapshots import below, prefixed

CHANNELS_LAST_WIDTH = 8
"""Width from which a step is faster in channels_last than in the ordinary layout, on the CPUs measured."""


class LoopEngine:
    """Trains the models of a stack one by one; results do not depend on who shares the stack."""

    name = "loop"

    def __init__(
        self, models: Sequence[nn.Module], data: Sequence[Split], configs: Sequence[TrainConfig], device: str
    ) -> None:
        wide = configs[0].width >= CHANNELS_LAST_WIDTH
        own = {
            id(split): _Images.of(split, wide, device) for split in data
        }  # lanes that share data share a copy
        lanes = zip(models, (own[id(split)] for split in data), configs, strict=True)
        self._lanes = [_Lane(*lane, device) for lane in lanes]

    def advance(self, batches: Tensor, rates: Tensor) -> Progress:
        """Take S steps with every live model; see `Engine.advance`."""
        steps = [lane.advance(batches[k], rates[k].tolist()) for k, lane in enumerate(self._lanes)]
        losses, wrong = zip(*steps, strict=True)
        return Progress(torch.stack(losses), torch.stack(wrong))

    def stop(self, lane: int) -> None:
        """Leave model `lane` as it is from now on."""
        self._lanes[lane].live = False

    def state(self, lane: int) -> dict[str, Tensor]:
        """All that model `lane` goes on from; see `Engine.state`."""
        own = self._lanes[lane]
        return prefixed("weights", self.weights(lane)) | prefixed("momentum", _copies(own.momentum))

    def restore(self, lane: int, state: Mapping[str, Tensor]) -> None:
        """Put model `lane` where `state` was taken."""
        own = self._lanes[lane]
        own.model.load_state_dict(below("weights", state))
        own.momentum = below("momentum", state)

    def weights(self, lane: int) -> dict[str, Tensor]:
        """A copy of the state dict of model `lane`, on the CPU in the ordinary layout."""
        return _copies(self._lanes[lane].model.state_dict())

    def scores(self, weights: Sequence[Mapping[str, Tensor]], split: Split) -> list[tuple[float, float]]:
        """Loss and error of models in eval mode; see `Engine.scores`."""
        model, found = copy.deepcopy(self._lanes[0].model), []
        images = split.images.to(device_of(model))
        for lane, state in enumerate(weights):
            model.load_state_dict(state)
            labels = split.labels[lane] if split.labels.dim() == 2 else split.labels
            found.append(evaluate(model, Split(images, labels)))
        return found


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = torch.contiguous_format
    return {name: value.detach().cpu().clone(memory_format=plain) for name, value in tensors.items()}


class _Images(NamedTuple):
    """Training data laid out for a step: images [N, H, W, C] if wide, else [N, C, H, W]; labels [N]."""

    images: Tensor
    labels: Tensor
    wide: bool

    @classmethod
    def of(cls, split: Split, wide: bool, device: str) -> Self:
        images = split.images.to(device)
        return cls(images.permute(0, 2, 3, 1).contiguous() if wide else images, split.labels.to(device), wide)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        images = self.images.index_select(0, rows)
        # Rows of [N, H, W, C] are a channels_last batch without another copy.
        return images.permute(0, 3, 1, 2) if self.wide else images, self.labels.index_select(0, rows)


class _Lane:
    """One model with its data and optimiser."""

    def __init__(self, model: nn.Module, data: _Images, config: TrainConfig, device: str) -> None:
        layout = torch.channels_last if data.wide else torch.contiguous_format
        self.model = model.to(device=device).to(memory_format=layout).train()
        self._data = data
        self._optimiser = torch.optim.SGD(
            self.model.parameters(),
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.live = True

    @property
    def momentum(self) -> dict[str, Tensor]:
        """The momentum of each parameter by name; none before the first step."""
        state = self._optimiser.state
        return {
            name: state[parameter]["momentum_buffer"]
            for name, parameter in self.model.named_parameters()
            if state.get(parameter, {}).get("momentum_buffer") is not None
        }

    @momentum.setter
    def momentum(self, values: Mapping[str, Tensor]) -> None:
        parameters = dict(self.model.named_parameters())
        for name, value in values.items():
            parameter = parameters[name]
            self._optimiser.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(value)

    def advance(self, batches: Tensor, rates: Sequence[float]) -> tuple[Tensor, Tensor]:
        losses = torch.full((len(rates),), math.nan, dtype=next(self.model.parameters()).dtype)
        wrong = torch.zeros(len(rates), dtype=torch.int64)
        if self.live:
            for step, (batch, rate) in enumerate(
                zip(batches.to(self._data.labels.device), rates, strict=True)
            ):
                loss, logits, labels = self._step(batch, rate)
                value = loss.item()
                if not math.isfinite(value):
                    self.live = False
                    break
                losses[step] = value
                wrong[step] = (logits.argmax(1) != labels).sum()
        return losses, wrong

    def _step(self, batch: Tensor, rate: float) -> tuple[Tensor, Tensor, Tensor]:
        images, labels = self._data.batch(batch)
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels)
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.param_groups[0]["lr"] = rate
        self._optimiser.step()
        return loss.detach(), logits.detach(), labels
