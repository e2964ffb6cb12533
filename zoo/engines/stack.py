"""The stack engine: K models that train at once on one device, a step of all of them recorded as a CUDA graph.

What a small network cannot give a GPU, many give it together (`stack_network`), and a step that is launched as a
whole does not wait for Python. Images, labels, batches and rates lie on the device; nothing is asked of it within a
segment. On a CPU the same steps run without a recording.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.config import TrainConfig
from zoo.datasets import Split
from zoo.engines import Progress
from zoo.engines.stack_data import Segment, TrainingData
from zoo.engines.stack_graph import GraphRecorder, exact_arithmetic
from zoo.engines.stack_group import ModelGroup
from zoo.engines.stack_network import Network, Way, possible_way, way_for
from zoo.snapshots import below, prefixed

STEPS_AT_ONCE = 256
"""Steps whose batches lie where a recorded step reads them; longer segments are taken in parts."""

EVALUATED_BATCHES = 4
"""Training batches that an evaluation takes in one pass: it keeps no activations for a backward pass."""


class StackEngine:
    """Trains the models of a stack at once.

    Args:
        models: Of one architecture; the engine takes them over.
        data: Training images and labels of each; images that are one tensor lie on the device once.
        configs: Of each, equal in width, batch size and precision.
        device: Torch device.
        way: How the models are computed; None chooses by width. Where these models cannot be computed so it is
            another, at last one model after the other within a step.

    Attributes:
        way: How they are computed.
    """

    name = "stack"

    def __init__(
        self,
        models: Sequence[nn.Module],
        data: Sequence[Split],
        configs: Sequence[TrainConfig],
        device: str,
        way: Way | None = None,
    ) -> None:
        self._models, self._device = [model.cpu() for model in models], device
        self._batch_size = configs[0].batch_size
        wanted = way or way_for(models[0], configs[0].width)
        self.way = possible_way(wanted, self._models, data[0].images[:4], device)
        self._pass = 1 if self.way.kind == "single" else len(models)
        network = Network(models[0], self._pass, self.way, device)
        self._parts = [slice(first, first + self._pass) for first in range(0, len(models), self._pass)]
        self._groups = [ModelGroup(network, models[part], configs[part]) for part in self._parts]
        self._data = TrainingData(data, device)
        self._segments: dict[int, tuple[Segment, Callable[[], None]]] = {}
        self._recorder = GraphRecorder(device) if torch.device(device).type == "cuda" else None
        self._uncounted = [0] * len(models)  # steps that the BatchNorm in `_models` has yet to count

    def advance(self, batches: Tensor, rates: Tensor) -> Progress:
        """Take S steps with every live model; see `Engine.advance`."""
        segment, step = self._segment(batches.shape[2])
        parts = (own.transpose(0, 1).to(self._device).split(STEPS_AT_ONCE) for own in (batches, rates))
        found = []
        for own in zip(*parts, strict=True):
            segment.begin(*own)
            for _ in own[0]:
                step()
            found.append(segment.end(len(own[0])))
        losses, wrong = (torch.cat(own).cpu().t().contiguous() for own in zip(*found, strict=True))
        for lane, taken in enumerate(losses.isfinite().sum(1).tolist()):
            self._uncounted[lane] += taken
        return Progress(losses, wrong)

    def stop(self, lane: int) -> None:
        """Leave model `lane` as it is from now on."""
        group, own = self._of(lane)
        group.live[own] = False

    def state(self, lane: int) -> dict[str, Tensor]:
        """All that model `lane` goes on from; see `Engine.state`."""
        momentum = self._read(lane)
        return prefixed("weights", self.weights(lane)) | prefixed("momentum", momentum)

    def restore(self, lane: int, state: Mapping[str, Tensor]) -> None:
        """Put model `lane` where `state` was taken."""
        group, own = self._of(lane)
        self._models[lane].load_state_dict(below("weights", state))
        self._uncounted[lane] = 0
        group.write(own, self._models[lane], below("momentum", state))

    def weights(self, lane: int) -> dict[str, Tensor]:
        """A copy of the state dict of model `lane`, on the CPU in the ordinary layout."""
        self._read(lane)
        plain, state = torch.contiguous_format, self._models[lane].state_dict()
        return {name: value.detach().clone(memory_format=plain) for name, value in state.items()}

    @torch.no_grad()
    def scores(self, weights: Sequence[Mapping[str, Tensor]], split: Split) -> list[tuple[float, float]]:
        """Loss and error of models in eval mode; see `Engine.scores`.

        Raises:
            ValueError: If the split holds no image.
        """
        if not len(split.images):
            raise ValueError("cannot evaluate on 0 images; give at least 1")
        if not weights:
            return []
        images = split.images.to(self._device)
        labels = split.labels.to(self._device).expand(len(weights), len(images))
        size = 1 if self.way.kind == "single" else len(weights)
        network = Network(self._models[0], size, self.way, self._device)
        network.module.eval()
        found: list[tuple[float, float]] = []
        for first in range(0, len(weights), size):
            part = slice(first, first + size)
            found += self._evaluate(network, weights[part], images, labels[part])
        return found

    def _evaluate(
        self, network: Network, states: Sequence[Mapping[str, Tensor]], images: Tensor, labels: Tensor
    ) -> list[tuple[float, float]]:
        """Loss and error of as many models as the network has, with labels [K, N]."""
        model, vectors = copy.deepcopy(self._models[0]), []
        for state in states:
            model.load_state_dict(state)
            vectors.append(network.vectors(model))
        trained, others = zip(*vectors, strict=True)
        tensors = torch.stack(trained).to(self._device), network.join(others).to(self._device)
        rows = torch.arange(len(images), device=self._device).expand(len(states), -1)
        loss, wrong = torch.zeros(2, len(states), dtype=torch.float64, device=self._device)
        size = EVALUATED_BATCHES * self._batch_size
        with exact_arithmetic():
            for part, truth in zip(rows.split(size, 1), labels.split(size, 1), strict=True):
                logits = network(*tensors, images, part)
                each = F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="none")
                loss += each.view(truth.shape).sum(1)
                wrong += (logits.argmax(2) != truth).sum(1)
        return list(zip((loss / len(images)).tolist(), (100 * wrong / len(images)).tolist(), strict=True))

    def _segment(self, size: int) -> tuple[Segment, Callable[[], None]]:
        """Where steps with batches of a size are laid out, and what takes the next of them."""
        if size not in self._segments:
            segment = Segment(STEPS_AT_ONCE, len(self._models), size, self._groups[0].weights)
            self._segments[size] = segment, self._recorded(partial(self._step, segment))
        return self._segments[size]

    def _step(self, segment: Segment) -> None:
        """Take the next step with all models."""
        own, rates = segment.read()
        rows, labels = self._data.batch(own)
        with exact_arithmetic():
            found = [
                group.step(self._data.images, labels[part], rows[part], rates[part])
                for group, part in zip(self._groups, self._parts, strict=True)
            ]
        losses, wrong = (torch.cat(part) for part in zip(*found, strict=True))
        segment.write(losses, wrong)

    def _recorded(self, step: Callable[[], None]) -> Callable[[], None]:
        """The step as a graph, where there is a GPU.

        Raises:
            RuntimeError: If a step of these models cannot be recorded.
        """
        if self._recorder is None:
            return step
        try:
            return self._recorder.record(step, [own for group in self._groups for own in group.changed])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RuntimeError(
                f"a step of {type(self._models[0]).__name__} cannot be recorded as a CUDA graph "
                f"({str(error).partition(chr(10))[0]}); train it with the engine 'loop'"
            ) from error

    def _read(self, lane: int) -> dict[str, Tensor]:
        """Bring the module of a model up to date; returns its momentum by name."""
        group, own = self._of(lane)
        momentum = group.read(own, self._models[lane])
        for module in self._models[lane].modules():
            if isinstance(module, _BatchNorm) and module.num_batches_tracked is not None:
                module.num_batches_tracked += self._uncounted[lane]
        self._uncounted[lane] = 0
        return momentum

    def _of(self, lane: int) -> tuple[ModelGroup, int]:
        return self._groups[lane // self._pass], lane % self._pass
