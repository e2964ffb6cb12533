"""Copies of one model side by side in lanes, each with its own weights: evaluated, calibrated, and differentiated.

What measures a model's landscape asks for many models of one architecture at once: the model at several points of a
path, under several draws of noise, along several directions; or for one model on many images, which the lanes share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.datasets import Split
from zoo.engines.lane_library import Data, Network, Passes, State, library
from zoo.engines.lane_network import Description, UnsupportedModelError, describe, flat

MOST_CHANNELS = 128
"""Channels of a layer up to which lanes are faster than one model after another, in second derivatives and paths, and
to answer."""

GRADIENT_CHANNELS = 64
"""The same for the gradient of one model over many images."""

CURVATURE_IMAGES = 8
"""Images of a pass that takes second derivatives: as many as stay in the cache with all that is kept of them."""


HELD_BYTES = 2**27
"""Memory for what Hessian products of a network with many vectors share, at most."""


class Scores(NamedTuple):
    """Of each copy [K] the mean loss in nats and the share of misclassified images in percent, float64."""

    loss: Tensor
    error: Tensor


class LaneAnswers(NamedTuple):
    """What one model makes of N images.

    Attributes:
        outputs: [N, classes].
        features: What the last layer reads, [N, inputs].
        fired: For each ReLU, how often each unit was above zero, [units], int64.
        places: For each ReLU, places of a unit in an image.
    """

    outputs: Tensor
    features: Tensor
    fired: tuple[Tensor, ...]
    places: tuple[int, ...]


class Steps(NamedTuple):
    """Steps of SGD on batches of one size.

    Attributes:
        rows: Images of each copy's batches, [K, S, B].
        shares: Coefficients of start, bend and end at each copy's point of its path, [K, S, 3].
        rates: Learning rates [S].
    """

    rows: Tensor
    shares: Tensor
    rates: Tensor


class LaneCopies:
    """Copies of a model, known by their parameters: vectors [P] in the order of the model's parameters.

    What a copy gets does not depend on the others, to the bit.

    Attributes:
        lanes: Copies that are computed at once.
        size: Number of parameters of a copy, P.
    """

    def __init__(
        self, made: Description, model: nn.Module, capacity: int = 0, passes: Passes = Passes.FORWARD
    ) -> None:
        """Lay out the copies.

        Args:
            made: What lanes are to compute: `describe` of the model.
            model: The model; it has to stay as it is.
            capacity: Images of a pass that trains or calibrates, at most; 0 where copies are evaluated only.
            passes: What is to be done with the copies.
        """
        named = dict(model.named_parameters())
        self._dtype = next(iter(named.values())).dtype
        self._made, self._capacity = made, capacity
        self._held_for: object = None  # the products that the network holds something for
        self._network = Network(made, capacity, self._dtype, passes)
        self.lanes, self.size = self._network.lanes, len(self._network.places)
        ends = torch.tensor([parameter.numel() for parameter in named.values()]).cumsum(0).tolist()
        places = {
            name: torch.arange(end - parameter.numel(), end)
            for (name, parameter), end in zip(named.items(), ends, strict=True)
        }
        self._order = torch.cat([places[name] for name in made.parameters()])[self._network.places]
        self._names, self._statistics = list(named), list(made.statistics())
        self._running = self._flat(dict(model.named_buffers()), self._statistics)

    def of_states(self, states: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor]:
        """Of state dicts of the model's architecture the weights [K, P] and running statistics [K, R]."""
        weights = [self._flat(state, self._names) for state in states]
        return torch.stack(weights), torch.stack([self._flat(state, self._statistics) for state in states])

    def _flat(self, tensors: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
        return flat(tensors, names) if names else torch.empty(0, dtype=self._dtype)

    def evaluate(self, weights: Tensor, split: Split, statistics: Tensor | None = None) -> Scores:
        """Losses and errors of copies in eval mode.

        Args:
            weights: [K, P].
            split: Images [N, C, H, W], which all see, and labels [N], or [K, N] of each.
            statistics: Running statistics [K, R]; None: those of the model for all.
        """
        scores, running = [], self._running.expand(len(weights), -1) if statistics is None else statistics
        for own, count in self._groups(len(weights)):
            state = State.of(
                self._columns(weights[own]), None, self._network.of_all_lanes(running[own]).T.contiguous()
            )
            scores.append(self._scores(state, self._data(split, own), len(split.images), count))
        return Scores(*torch.cat(scores, dim=1))

    def evaluate_calibrated(
        self, weights: Tensor, calibration: Tensor, batch_size: int, splits: Iterable[Split]
    ) -> list[Scores]:
        """The same with statistics that are made anew for each copy, as `recalibrate_batch_norm` makes them.

        Args:
            weights: [K, P].
            calibration: Images [N, C, H, W] to take the statistics from.
            batch_size: Images a batch of those, at most.
            splits: What to evaluate on.

        Returns:
            The scores on each split.
        """
        self._network.check_batch(min(batch_size, len(calibration)))
        sides = list(splits)
        found: list[list[Tensor]] = [[] for _ in sides]
        count, labels = len(calibration), torch.zeros(len(calibration), dtype=torch.int64)
        for own, copies in self._groups(len(weights)):
            running = torch.zeros(self._network.statistics, self.lanes, dtype=self._dtype)
            state = State.of(self._columns(weights[own]), None, running)
            if self._network.statistics:
                data = self._data(type(sides[0])(calibration, labels), own)
                self._network.call("recalibrate", state, data, count, -(-count // batch_size))
            for side, scores in zip(sides, found, strict=True):
                scores.append(self._scores(state, self._data(side, own), len(side.images), copies))
        return [Scores(*torch.cat(scores, dim=1)) for scores in found]

    def train_bends(
        self, points: Tensor, split: Split, course: Iterable[Steps], momentum: float, weight_decay: float
    ) -> Tensor:
        """Train the bends of paths by SGD at given points of them.

        Args:
            points: Start, bend and end of each path, [3, K, P].
            split: Images [N, C, H, W], and labels [K, N] of each path.
            course: The steps, in their order.
            momentum: Heavy-ball momentum.
            weight_decay: L2 coefficient, on the path's weights.

        Returns:
            The bends [K, P].
        """
        steps, bends = list(course), []
        for own, copies in self._groups(points.shape[1]):
            start, bend, end = (self._columns(part[own]) for part in points)
            ends, state = torch.stack([start, end]), State.of(bend, torch.zeros_like(bend))
            for part in steps:
                data = self._data(split, own, part.rows[own])
                shares, rates = (
                    self._network.of_all_lanes(part.shares[own].double()),
                    part.rates.double().contiguous(),
                )
                _, count, size = part.rows.shape
                self._network.check_batch(size)
                self._network.call(
                    "bend", ends, state, data, count, size, shares, rates, momentum, weight_decay
                )
            bends.append(self._vectors(bend)[:copies])
        return torch.cat(bends)

    def answers(self, weights: Tensor, images: Tensor) -> LaneAnswers:
        """What a model in eval mode makes of images; the lanes divide them.

        Args:
            weights: [P].
            images: [N, C, H, W].
        """
        state = State.of(self._columns(weights.unsqueeze(0)), None, self._columns_of_statistics())
        split = Split(images, torch.zeros(len(images), dtype=torch.int64))
        inputs, terms = (
            self._made.layers[-1].inputs,
            [self._made.layers[own.terms[0]] for own in self._made.activations],
        )
        found: list[tuple[Tensor, Tensor]] = []
        fired = torch.zeros(sum(layer.outputs for layer in terms), dtype=torch.int64)
        for rows in self._divided(len(images)):
            data, count = self._data(split, slice(0, self.lanes), rows), rows.shape[1]
            logits, features = (
                torch.empty(count, size, self.lanes, dtype=self._dtype)
                for size in (self._network.classes, inputs)
            )
            counts = torch.empty(len(fired), self.lanes, dtype=torch.int64)
            self._network.call("answers", state, data, count, logits, features, counts)
            own, read = (part.permute(2, 0, 1)[: len(rows)].flatten(0, 1) for part in (logits, features))
            found.append((own, read))
            fired += counts[:, : len(rows)].sum(1)
        outputs, features = (torch.cat(parts) for parts in zip(*found, strict=True))
        places = tuple(layer.pixels for layer in terms)
        return LaneAnswers(outputs, features, fired.split([layer.outputs for layer in terms]), places)

    def mean_gradient(self, weights: Tensor, split: Split) -> Tensor:
        """Gradient [P] of the mean loss of a model in eval mode, over N images and their labels.

        Args:
            weights: [P].
            split: Images and labels.
        """
        images, total = len(split.images), torch.zeros(self.size, dtype=torch.float64)
        order, even = torch.arange(images), images // self._capacity * self._capacity
        for groups in (order[:even].view(-1, self._capacity), order[even:].view(-1, 1)):
            for found in self.gradients(weights, split, groups) if groups.numel() else ():
                total += groups.shape[1] * found.sum(0, dtype=torch.float64)
        return torch.empty_like(total).index_copy_(0, self._order, total).to(self._dtype) / images

    def gradients(self, weights: Tensor, split: Split, groups: Tensor) -> Iterator[Tensor]:
        """Gradients of the mean loss of a model in eval mode over groups of images, as many at a time as lanes.

        Args:
            weights: [P].
            split: Images and their labels.
            groups: Which of them, [K, m]; m is at most the capacity.

        Yields:
            [k, P] of the next k groups, the parameters in the kernels' order.
        """
        self._network.check_batch(groups.shape[1])
        at = self._columns(weights.unsqueeze(0))
        state = State.of(at, None, self._columns_of_statistics())
        for own, count in self._groups(len(groups)):
            data, found = self._data(split, slice(0, self.lanes), groups[own]), torch.empty_like(at)
            self._network.call("gradient", state, data, groups.shape[1], found)
            yield found.T[:count]

    def traces(self, weights: Tensor, images: Tensor) -> Tensor:
        """Trace of the Gauss-Newton matrix of the cross-entropy of each image, [N]; the lanes divide the images.

        Args:
            weights: [P].
            images: [N, C, H, W].
        """
        state = State.of(self._columns(weights.unsqueeze(0)), None, self._columns_of_statistics())
        split, found = Split(images, torch.zeros(len(images), dtype=torch.int64)), []
        for rows in self._divided(len(images)):
            own = torch.empty(rows.shape[1], self.lanes, dtype=self._dtype)
            self._network.call("traces", state, self._data(split, slice(0, self.lanes), rows), len(own), own)
            found.append(own.T[: len(rows)].flatten())
        return torch.cat(found)

    def forms(self, weights: Tensor, directions: Tensor, split: Split) -> Tensor:
        r"""$v^\top H_i v$ of each image's loss at a model's weights.

        Args:
            weights: [P].
            directions: v, [m, P].
            split: N images and their labels.

        Returns:
            [m, N].
        """
        along = [self._columns(directions[own]) for own, _ in self._groups(len(directions))]
        state = State.of(self._columns(weights.unsqueeze(0)), None, self._columns_of_statistics())
        data, images = self._data(split, slice(0, self.lanes)), len(split.images)
        found = torch.empty(len(along), images, self.lanes, dtype=self._dtype)
        self._network.call("forms", state, data, images, torch.stack(along), len(along), found)
        return found.transpose(1, 2).flatten(0, 1)[: len(directions)]

    def products(self, weights: Tensor, split: Split) -> Callable[[Tensor], Tensor]:
        r"""Maps vectors [P] to $Hv$ of the mean loss at a model's weights; the lanes divide the images.

        What does not depend on the vector is computed here, as far as there is memory to hold it. The copies hold it
        for the products that were asked for last; earlier ones compute it anew.

        Args:
            weights: [P].
            split: Images and their labels.
        """
        state = State.of(self._columns(weights.unsqueeze(0)), None, self._columns_of_statistics())
        images = len(split.images)
        parts = [(self._data(split, slice(0, self.lanes), rows), len(rows)) for rows in self._divided(images)]
        first = parts[0][0]
        held = max(0, self._network.call("hold", state, first, first.stride, HELD_BYTES))
        self._held_for = parts

        def product(vector: Tensor) -> Tensor:
            total, along = torch.zeros(self.size, dtype=self._dtype), self._columns(vector.unsqueeze(0))
            for data, lanes in parts:
                found = torch.empty_like(along)
                known = held if data is first and self._held_for is parts else 0
                self._network.call("product", state, data, data.stride, known, along, found)
                total += found[:, :lanes].sum(1)
            return torch.empty_like(total).index_copy_(0, self._order, total) / images

        return product

    def _divided(self, images: int) -> Iterator[Tensor]:
        """Images in order, so many to each lane, [lanes, m]; then what is left, one to each of the first, [k, 1]."""
        order, even = torch.arange(images), images // self.lanes * self.lanes
        for rows in (order[:even].view(self.lanes, -1), order[even:].view(-1, 1)):
            if rows.numel():
                yield rows

    def _groups(self, copies: int) -> Iterator[tuple[slice, int]]:
        """As many copies at a time as there are lanes."""
        for first in range(0, copies, self.lanes):
            count = min(self.lanes, copies - first)
            yield slice(first, first + count), count

    def _scores(self, state: State, data: Data, images: int, copies: int) -> Tensor:
        losses = torch.empty(self.lanes, dtype=torch.float64)
        wrong = torch.empty(self.lanes, dtype=torch.int64)
        self._network.call("evaluate", state, data, images, losses, wrong)
        return torch.stack([losses, 100.0 * wrong])[:, :copies] / images

    def _columns(self, vectors: Tensor) -> Tensor:
        """Vectors [K, P] as parameters [P, lanes]; idle lanes are as the first."""
        return self._network.of_all_lanes(vectors.to(self._dtype)).T[self._order].contiguous()

    def _columns_of_statistics(self) -> Tensor:
        return self._running.unsqueeze(1).expand(-1, self.lanes).contiguous()

    def _vectors(self, columns: Tensor) -> Tensor:
        """Parameters [P, lanes] as vectors [lanes, P]."""
        return torch.empty_like(columns).index_copy_(0, self._order, columns).T.contiguous()

    def _of_lanes(self, split: Split, own: slice) -> tuple[list[Tensor], list[Tensor]]:
        """Images and labels of each lane."""
        images, labels = split.images.to(self._dtype).contiguous(), split.labels.contiguous()
        rows = [labels] * self.lanes if labels.dim() == 1 else list(labels[own])
        return [images] * self.lanes, rows + rows[:1] * (self.lanes - len(rows))

    def _data(self, split: Split, own: slice, rows: Tensor | None = None) -> Data:
        """What the copies see: of a split all images, or the rows [K, ...] of each."""
        if rows is None:
            rows = torch.arange(len(split.images)).unsqueeze(0)
        return Data.of(*self._of_lanes(split, own), self._network.of_all_lanes(rows), self._network.classes)


def described(
    model: nn.Module, images: Tensor, labels: Tensor | None = None, most_channels: int = MOST_CHANNELS
) -> Description | None:
    """What lanes are to compute for a model: None where they do not know it, are not there, or are not faster.

    Args:
        model: Any module.
        images: Some images of its, [N, C, H, W].
        labels: What belongs to them; lanes take classes [N] or [K, N], int64.
        most_channels: Channels of a layer up to which they are faster.
    """
    parameters = list(model.parameters())
    plain = all(p.requires_grad and p.dtype in (torch.float32, torch.float64) for p in parameters)
    one = len({(p.device.type, p.dtype) for p in parameters}) == 1 and parameters[0].device.type == "cpu"
    here = all(tensor.device.type == "cpu" for tensor in (images, labels) if tensor is not None)
    if not (plain and one and here) or images.dim() != 4 or library() is None:
        return None
    try:
        made = describe(model, (images.shape[1], images.shape[2], images.shape[3]))
    except UnsupportedModelError:
        return None
    if labels is not None and not _are_classes(labels, len(images), made.classes):
        return None
    return made if max(layer.outputs for layer in made.layers[:-1] or made.layers) <= most_channels else None


def _are_classes(labels: Tensor, images: int, classes: int) -> bool:
    """Whether labels [N] or [K, N] are numbers of classes."""
    if labels.dtype != torch.int64 or labels.dim() not in (1, 2) or labels.shape[-1] != images or not images:
        return False
    least, largest = labels.aminmax()
    return int(least) >= 0 and int(largest) < classes
