"""What recorded steps read and write: images, labels, batches and rates on the device, and what came of each step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from zoo.datasets import Split


class TrainingData:
    """The training data of K models on the device; images that are one tensor lie there once.

    Attributes:
        images: [N, C, H, W], those of all models.
    """

    def __init__(self, splits: Sequence[Split], device: str) -> None:
        distinct = {id(split.images): split.images for split in splits}
        sizes = [len(images) for images in distinct.values()]
        starts = {key: sum(sizes[:place]) for place, key in enumerate(distinct)}
        self.images = torch.cat([images.to(device) for images in distinct.values()])
        self._starts = torch.tensor([[starts[id(split.images)]] for split in splits], device=device)
        self._labels = pad_sequence([split.labels for split in splits], batch_first=True).to(device)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Which of all images, and which labels, belong to rows [K, B] of the models' own images; [K, B] each."""
        return rows + self._starts, self._labels.gather(1, rows)


class Segment:
    """Steps with batches of one size; a counter on the device says which is next.

    Args:
        steps: Steps at most.
        models: Number of models, K.
        size: Images a batch, B.
        like: A tensor of the device and number format of the models.
    """

    def __init__(self, steps: int, models: int, size: int, like: Tensor) -> None:
        self._next = torch.zeros(1, dtype=torch.int64, device=like.device)
        self._rows = self._next.new_zeros(steps, models, size)
        self._rates = like.new_zeros(steps, models)
        self._losses = like.new_zeros(steps, models)
        self._wrong = self._next.new_zeros(steps, models)

    def begin(self, rows: Tensor, rates: Tensor) -> None:
        """Lay out S steps: batches [S, K, B] and rates [S, K]."""
        self._rows[: len(rows)] = rows
        self._rates[: len(rates)] = rates
        self._next.zero_()

    def read(self) -> tuple[Tensor, Tensor]:
        """Batches [K, B] and rates [K] of the next step."""
        return self._rows.index_select(0, self._next)[0], self._rates.index_select(0, self._next)[0]

    def write(self, losses: Tensor, wrong: Tensor) -> None:
        """Take in what came of that step, [K] each, and go on to the one after."""
        self._losses.index_copy_(0, self._next, losses.to(self._losses.dtype).unsqueeze(0))
        self._wrong.index_copy_(0, self._next, wrong.unsqueeze(0))
        self._next.add_(1)

    def end(self, steps: int) -> tuple[Tensor, Tensor]:
        """Losses and misclassified images of the first steps, [S, K] each, copied on the device."""
        return self._losses[:steps].clone(), self._wrong[:steps].clone()
