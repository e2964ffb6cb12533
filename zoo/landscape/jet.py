"""An activation with its first two derivatives along directions in weight space, and the table of rules for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class UnsupportedFunctionError(NotImplementedError):
    """A model uses a function that has no Taylor rule."""


class Jet(Tensor):
    """An activation with its derivatives along m directions.

    It stands for its value: shape and device are the value's.

    Attributes:
        value: [N, ...].
        first: First derivatives [N, m, ...]; None if zero.
        second: Second derivatives [N, m, ...]; None if zero.
    """

    value: Tensor
    first: Tensor | None
    second: Tensor | None

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment] # the mode sees all

    @staticmethod
    def __new__(cls, value: Tensor, first: Tensor | None, second: Tensor | None) -> Jet:
        """Wrap the three parts; no storage of its own."""
        jet: Jet = Tensor._make_wrapper_subclass(cls, value.shape, dtype=value.dtype, device=value.device)
        jet.value, jet.first, jet.second = value, first, second
        return jet

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Refuse what no rule has taken up."""
        raise UnsupportedFunctionError(f"{func} has no Taylor rule; add one to zoo/landscape/taylor_rules.py")

    def become(self, other: Jet) -> Jet:
        """Itself with the parts of another: what an operation in place leaves."""
        self.value, self.first, self.second = other.value, other.first, other.second
        return self


Directions = dict[int, Tensor]
"""Directions [m, *shape] of the parameters that move, by the parameter's id."""

Rule = Callable[..., Jet]
"""Takes the directions, then what the function takes."""

RULES: dict[Any, Rule] = {}
"""The rule of each function of PyTorch that has one."""


def rule(*functions: Any) -> Callable[[Rule], Rule]:
    """Make a function the rule of some functions of PyTorch; use it as a decorator."""

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(functions, function))
        return function

    return add
