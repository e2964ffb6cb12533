"""How the K models of a stack are advanced.

An engine owns the arithmetic of the steps and nothing else: which batches, which learning rates, when to
stop and what to keep are `zoo.training`'s. `loop` is the plain way and the oracle of every faster one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from zoo.config import TrainConfig
from zoo.datasets import Split


class Progress(NamedTuple):
    """What a segment of S steps did to K models.

    Attributes:
        losses: [K, S] mean loss of each batch in nats, NaN from the step at which a model diverged.
        wrong: [K, S] misclassified images of each batch.
    """

    losses: Tensor
    wrong: Tensor


class Engine(Protocol):
    """K models in training, equal in shapes and steps; each with its own data, rates and weight decay."""

    name: str

    def __init__(
        self, models: Sequence[nn.Module], data: Sequence[Split], configs: Sequence[TrainConfig], device: str
    ) -> None: ...

    def advance(self, batches: Tensor, rates: Tensor) -> Progress:
        """Take S steps with every live model.

        Args:
            batches: [K, S, B] indices into each model's training images.
            rates: [K, S] learning rates.
        """
        ...

    def stop(self, lane: int) -> None:
        """Leave model `lane` as it is from now on."""
        ...

    def state(self, lane: int) -> dict[str, Tensor]:
        """All that model `lane` goes on from, its weights and its optimiser's, copied to the CPU."""
        ...

    def restore(self, lane: int, state: Mapping[str, Tensor]) -> None:
        """Put model `lane` where `state` was taken, of the same engine."""
        ...

    def weights(self, lane: int) -> dict[str, Tensor]:
        """A copy of the state dict of model `lane`, on the CPU."""
        ...

    def scores(self, weights: Sequence[Mapping[str, Tensor]], split: Split) -> list[tuple[float, float]]:
        """Loss in nats and error in percent of models of this architecture in eval mode.

        Args:
            weights: State dicts.
            split: Images [N, C, H, W], which all see, and labels [N], or [K, N] of each.
        """
        ...
