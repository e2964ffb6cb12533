"""Permutation alignment: the hidden units of one network in the order of another's, by weight matching."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.landscape.weights import flat_pair
from zoo.models import BasicBlock, GlobalAverage

NO_PERMUTATIONS = "no_permutations"
"""Reason of a metric without a value: it is not known how units of this architecture can be permuted."""

SWEEPS = 100
"""Sweeps over the permutations, at most; a few suffice."""


UNIT_BY_UNIT = (
    *(nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, nn.Dropout),
    GlobalAverage,
)
"""Modules that do to each unit what they do to any."""


class UnknownArchitectureError(ValueError):
    """It is not known how units of a module can be permuted."""


class Axis(NamedTuple):
    """An axis of a parameter or buffer that a permutation acts on."""

    name: str
    dimension: int


class Permutations:
    """Which axes of a network go by which permutation of units, found by walking through its modules.

    Attributes:
        axes: Axes by the number of their permutation; the network's outputs keep their order.
    """

    def __init__(self, model: nn.Module) -> None:
        """Walk through a network of the kinds of modules that `zoo.models` uses.

        Raises:
            UnknownArchitectureError: If there is another kind.
        """
        self._parents: list[int] = []
        self._sizes: list[int] = []
        self._found: list[tuple[int, Axis]] = []
        fixed = self._walk("", model, None)
        self.axes: dict[int, list[Axis]] = defaultdict(list)
        last = None if fixed is None else self._root(fixed)
        for number, axis in self._found:
            if (root := self._root(number)) != last:
                self.axes[root].append(axis)

    def _walk(self, name: str, module: nn.Module, given: int | None) -> int | None:
        """The permutation of a module's output channels from that of its input's; None: cannot be permuted."""
        if isinstance(module, nn.Sequential):
            for child_name, child in module.named_children():
                given = self._walk(f"{name}{child_name}.", child, given)
            return given
        if isinstance(module, nn.Linear | nn.Conv2d):
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                raise UnknownArchitectureError(f"{name} is a grouped convolution")
            if given is not None:
                if module.weight.shape[1] != self._sizes[given]:
                    raise UnknownArchitectureError(f"{name}weight takes several features of each channel")
                self._add(given, f"{name}weight", 1)
            made = self._new(len(module.weight))
            self._add(made, f"{name}weight", 0)
            if module.bias is not None:
                self._add(made, f"{name}bias", 0)
            return made
        if isinstance(module, _BatchNorm):
            for part in ("weight", "bias", "running_mean", "running_var"):
                if given is not None and getattr(module, part) is not None:
                    self._add(given, f"{name}{part}", 0)
            return given
        if isinstance(module, BasicBlock):
            body = self._walk(f"{name}body.", module.body, given)
            shortcut = self._walk(f"{name}shortcut.", module.shortcut, given)
            if body is None or shortcut is None:
                raise UnknownArchitectureError(f"{name} adds what cannot be permuted")
            self._parents[self._root(body)] = self._root(shortcut)
            return shortcut
        if isinstance(module, UNIT_BY_UNIT):
            return given
        raise UnknownArchitectureError(f"{name}{type(module).__name__} is not known to weight matching")

    def _new(self, size: int) -> int:
        self._parents.append(len(self._parents))
        self._sizes.append(size)
        return len(self._parents) - 1

    def _add(self, number: int, name: str, dimension: int) -> None:
        self._found.append((number, Axis(name, dimension)))

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            number = self._parents[number]
        return number

    def permuted(self, model: nn.Module, orders: dict[int, Tensor]) -> nn.Module:
        """A copy of a network with its units in other orders; it computes the same.

        Args:
            model: The network, left as it was.
            orders: For each permutation, which unit comes at each place.
        """
        made = copy.deepcopy(model)
        state = made.state_dict()
        for number, order in orders.items():
            for name, dimension in self.axes[number]:
                state[name] = state[name].index_select(dimension, order.to(state[name].device))
        made.load_state_dict(state)
        return made


def aligned(first: nn.Module, second: nn.Module, generator: torch.Generator) -> nn.Module:
    r"""The second network with its hidden units in the order of the first's, by weight matching.

    Coordinate descent on $\|\theta_1 - \pi(\theta_2)\|^2$ over the permutations of all layers, one linear
    assignment at a time in random order until none moves (Ainsworth, Hayase and Srinivasa, Git Re-Basin: Merging
    Models modulo Permutation Symmetries, ICLR 2023, section 3.2, algorithm 1). BatchNorm's scales and shifts
    count as weights; its running statistics go with their units and do not. It finds a local optimum, and to align
    the first with the second may find another.

    Args:
        first: Left as it was.
        second: Of the same architecture, left as it was.
        generator: Draws the order of the permutations, on the CPU.

    Returns:
        A copy of the second; it computes the same function.

    Raises:
        ValueError: If the architectures differ, or it is not known how their units can be permuted.
    """
    flat_pair(first, second)  # of one architecture
    spec = Permutations(first)
    target, moving = (
        {name: p.detach().double().cpu() for name, p in model.named_parameters()} for model in (first, second)
    )
    orders: dict[int, Tensor] = {}
    for number, axes in spec.axes.items():
        name, dimension = axes[0]
        orders[number] = torch.arange(target[name].shape[dimension])
    if not all(bool(p.isfinite().all()) for p in (*target.values(), *moving.values())):
        raise ValueError("weights that are not finite cannot be matched; give finite ones")
    numbers = list(orders)
    for _ in range(SWEEPS):
        moved = False
        for place in torch.randperm(len(numbers), generator=generator).tolist():
            moved = _match(spec, numbers[place], target, moving, orders) or moved
        if not moved:
            break
    return spec.permuted(second, orders)


def _match(
    spec: Permutations,
    number: int,
    target: dict[str, Tensor],
    moving: dict[str, Tensor],
    orders: dict[int, Tensor],
) -> bool:
    """Bring the units of one permutation in the best order, `moving` with it; whether any moved."""
    from scipy.optimize import linear_sum_assignment  # slow to import, and few tasks match weights

    axes = [axis for axis in spec.axes[number] if axis.name in moving]
    size = len(orders[number])
    gain = torch.zeros(size, size, dtype=torch.float64)
    for name, dimension in axes:
        wanted, given = (w[name].transpose(0, dimension).reshape(size, -1) for w in (target, moving))
        gain += wanted @ given.T
    order = torch.from_numpy(linear_sum_assignment(gain.numpy(), maximize=True)[1])
    before, after = gain.diagonal().sum(), gain[torch.arange(size), order].sum()
    if after <= before + 1e-9 * (1 + before.abs()):
        return False
    for name, dimension in axes:
        moving[name] = moving[name].index_select(dimension, order)
    orders[number] = orders[number][order]
    return True
