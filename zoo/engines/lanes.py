"""The lane engine: as many models side by side as a vector register has lanes, in compiled kernels.

Each model is one lane of every vector, so that what a small network cannot give a processor, several give it
together (`kernels/`). A lane's arithmetic does not know of the others: a model's result is the same in any lane.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from zoo.config import TrainConfig
from zoo.datasets import Split
from zoo.engines import Progress
from zoo.engines.lane_copies import LaneCopies
from zoo.engines.lane_library import Data, Network, State
from zoo.engines.lane_network import Description, describe, flat
from zoo.snapshots import below, prefixed


class LaneEngine:
    """Trains the models of a stack as many at a time as there are lanes."""

    name = "lanes"

    def __init__(
        self, models: Sequence[nn.Module], data: Sequence[Split], configs: Sequence[TrainConfig], device: str
    ) -> None:
        """Take in the models.

        Raises:
            UnsupportedModelError: If lanes do not know what the models are made of.
            ValueError: If the device is not the CPU.
            RuntimeError: If there are no kernels.
        """
        if device != "cpu":
            raise ValueError(f"device is {device!r}; lanes are the CPU's, use the engine 'loop'")
        channels, height, width = data[0].images.shape[1:]
        made, capacity = describe(models[0], (channels, height, width)), configs[0].batch_size
        dtype = next(models[0].parameters()).dtype
        network = Network(made, capacity, dtype)
        own = {id(split): _contiguous(split, dtype) for split in data}  # lanes that share data share a copy
        lanes = [_Lane(*lane) for lane in zip(models, (own[id(s)] for s in data), configs, strict=True)]
        parts = range(0, len(lanes), network.lanes)
        self._groups = [_Group(made, network, lanes[first : first + network.lanes]) for first in parts]
        self._lanes = network.lanes
        self._scored = partial(LaneCopies, made, models[0])

    def advance(self, batches: Tensor, rates: Tensor) -> Progress:
        """Take S steps with every live model; see `Engine.advance`."""
        own = (part.split(self._lanes) for part in (batches, rates))
        losses, wrong = zip(
            *(group.advance(*part) for group, *part in zip(self._groups, *own, strict=True)), strict=True
        )
        return Progress(torch.cat(losses), torch.cat(wrong))

    def stop(self, lane: int) -> None:
        """Leave model `lane` as it is from now on."""
        group, lane = self._of(lane)
        group.live[lane] = 0

    def state(self, lane: int) -> dict[str, Tensor]:
        """All that model `lane` goes on from; see `Engine.state`."""
        group, lane = self._of(lane)
        return prefixed("weights", group.weights(lane)) | prefixed("momentum", group.momentum(lane))

    def restore(self, lane: int, state: Mapping[str, Tensor]) -> None:
        """Put model `lane` where `state` was taken."""
        group, lane = self._of(lane)
        group.put(lane, below("weights", state), below("momentum", state))

    def weights(self, lane: int) -> dict[str, Tensor]:
        """A copy of the state dict of model `lane`."""
        group, lane = self._of(lane)
        return group.weights(lane)

    def scores(self, weights: Sequence[Mapping[str, Tensor]], split: Split) -> list[tuple[float, float]]:
        """Loss and error of models in eval mode; see `Engine.scores`."""
        copies = self._scored()
        own, statistics = copies.of_states(weights)
        found = copies.evaluate(own, split, statistics)
        return list(zip(found.loss.tolist(), found.error.tolist(), strict=True))

    def _of(self, lane: int) -> tuple[_Group, int]:
        return self._groups[lane // self._lanes], lane % self._lanes


class _Lane:
    """One model as it came, with its data and configuration."""

    def __init__(self, model: nn.Module, data: Split, config: TrainConfig) -> None:
        self.start = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.data, self.config = data, config


def _contiguous(split: Split, dtype: torch.dtype) -> Split:
    return Split(split.images.to(dtype).contiguous(), split.labels.contiguous())


class _Group:
    """As many models as there are lanes; idle lanes do what the first does, and nobody looks at them."""

    def __init__(self, made: Description, network: Network, models: Sequence[_Lane]) -> None:
        idle = network.lanes - len(models)
        lanes = [*models, *models[:1] * idle]
        self._made, self._network, self._models, self._lanes = made, network, models, lanes
        self._shapes = {name: value.shape for name, value in models[0].start.items()}
        dtype = models[0].start[next(made.parameters())].dtype
        self._parameters = torch.zeros(len(network.places), network.lanes, dtype=dtype)
        self._momentum = torch.zeros_like(self._parameters)
        self._running = torch.zeros(network.statistics, network.lanes, dtype=dtype)
        self._batches = torch.zeros(network.lanes, dtype=torch.int64)
        for lane, own in enumerate(lanes):
            self.put(lane, own.start, {})
        self.live = torch.tensor([1.0] * len(models) + [0.0] * idle, dtype=torch.float64)
        self._images = [lane.data.images for lane in lanes]
        self._labels = [lane.data.labels for lane in lanes]
        self._inertia = torch.tensor([lane.config.momentum for lane in lanes], dtype=torch.float64)
        self._decays = torch.tensor([lane.config.weight_decay for lane in lanes], dtype=torch.float64)

    def advance(self, batches: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
        """Take S steps.

        Args:
            batches: [K, S, B] indices into each model's images.
            rates: [K, S] learning rates.

        Returns:
            Losses and misclassified images, [K, S] each.

        Raises:
            ValueError: If BatchNorm would see a single value a channel, which has no variance; if a batch is
                larger than the configurations', or a row or label is none of the data's.
        """
        _, steps, size = batches.shape
        self._network.check_batch(size)
        if size * self._made.least_normed == 1:
            raise ValueError(
                "BatchNorm sees 1 value a channel and has no variance; use a larger batch or image"
            )
        losses = torch.full((self._network.lanes, steps), torch.nan, dtype=torch.float64)
        wrong = torch.zeros(self._network.lanes, steps, dtype=torch.int64)
        if self.live.any():
            rows, own_rates = self._network.of_all_lanes(batches), self._network.of_all_lanes(rates.double())
            self._network.call(
                "train",
                State.of(self._parameters, self._momentum, self._running),
                Data.of(self._images, self._labels, rows, self._network.classes),
                *(steps, size, own_rates, self._inertia, self._decays, self.live, losses, wrong),
            )
            self._batches += losses.isfinite().sum(1)
        models = len(self._models)
        return losses[:models].to(self._parameters.dtype), wrong[:models]

    def weights(self, lane: int) -> dict[str, Tensor]:
        """The state dict of a model, its entries in their order."""
        found = self._split(self._parameters, lane)
        sizes = [self._shapes[name].numel() for name in self._made.statistics()]
        values = self._running[:, lane].split(sizes)
        found |= {name: own.clone() for name, own in zip(self._made.statistics(), values, strict=True)}
        found |= {name: self._batches[lane].clone() for name in self._made.counters()}
        return {name: found[name] for name in self._shapes}

    def momentum(self, lane: int) -> dict[str, Tensor]:
        """The momentum of each parameter of a model."""
        return self._split(self._momentum, lane)

    def put(self, lane: int, weights: Mapping[str, Tensor], momentum: Mapping[str, Tensor]) -> None:
        """Put a model's weights and statistics, and its momentum where there is some."""
        places = self._network.places
        self._parameters[:, lane] = flat(weights, self._made.parameters())[places]
        if momentum:
            self._momentum[:, lane] = flat(momentum, self._made.parameters())[places]
        if self._network.statistics:
            self._running[:, lane] = flat(weights, self._made.statistics())
        for name in self._made.counters():
            self._batches[lane] = weights[name]

    def _split(self, numbers: Tensor, lane: int) -> dict[str, Tensor]:
        """A lane of [P, lanes] in the usual order, cut into the parameters."""
        own = torch.empty_like(numbers[:, lane]).index_copy_(0, self._network.places, numbers[:, lane])
        names = list(self._made.parameters())
        parts = own.split([self._shapes[name].numel() for name in names])
        return {name: part.view(self._shapes[name]).clone() for name, part in zip(names, parts, strict=True)}
