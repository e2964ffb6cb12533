r"""Second derivatives of each image's loss along directions in weight space, by one pass forward.

Along the line $\theta + t z$ every activation is a curve $x(t)$; its value, first and second derivative at
$t = 0$ are carried from layer to layer (truncated Taylor series: Griewank and Walther, Evaluating
Derivatives, 2008, chapter 13; in modes of PyTorch: Bettencourt, Johnson and Duvenaud, Taylor-Mode Automatic
Differentiation for Higher-Order Derivatives, 2019). A convolution or linear layer with weight $W + tZ$ gives

    y = W x,    y' = W x' + Z x,    y'' = W x'' + 2 Z x',

four products for each direction and one for all, without a graph, against about six for a product $Hz$ by
double backward; and the second derivative of each image's loss, not of the mean only. Values are shared by
the directions, which fill the width that small networks leave empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.landscape import taylor_rules as _rules  # noqa: F401 - fills the table
from zoo.landscape.evaluation import evaluation_mode
from zoo.landscape.jet import RULES, Directions, Jet, UnsupportedFunctionError

_QUESTIONS = {
    Tensor.size,
    Tensor.dim,
    *(getattr(Tensor, n).__get__ for n in ("shape", "dtype", "device", "ndim")),
}
"""What may be asked of a jet or a parameter without moving along with it."""


class _Propagation(TorchFunctionMode):
    """While it is on, functions of jets follow their rules."""

    def __init__(self, directions: Directions) -> None:
        super().__init__()
        self._directions = directions

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = options or {}
        inputs = list(_leaves([arguments, options]))
        if any(isinstance(leaf, Jet) for leaf in inputs) and function in RULES:
            try:
                return RULES[function](self._directions, *arguments, **options)
            except TypeError as error:
                raise UnsupportedFunctionError(f"a Taylor rule does not know this call: {error}") from error
        moving = any(isinstance(leaf, Jet) or id(leaf) in self._directions for leaf in inputs)
        if moving and function not in _QUESTIONS:
            name = getattr(function, "__name__", str(function))
            raise UnsupportedFunctionError(
                f"{name} has no Taylor rule; add one to zoo/landscape/taylor_rules.py"
            )
        return function(*arguments, **options)


def second_derivatives(
    model: nn.Module,
    parameters: list[nn.Parameter],
    images: Tensor,
    labels: Tensor,
    directions: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    r"""$z^\top H_i z$ for each direction $z$ and the Hessian $H_i$ of each image's loss.

    With logits $f(t)$ along the line, $d^2\ell/dt^2 = \nabla\ell^\top f'' + f'^\top \nabla^2\ell\, f'$.

    Args:
        model: A model, left as it was; run in eval mode.
        parameters: Those that move.
        images: [N, ...], on the model's device.
        labels: [N], or whatever `loss` takes.
        directions: [m, P] over the flat parameters.
        loss: Mean over the images of a loss of each.

    Returns:
        [m, N].

    Raises:
        UnsupportedFunctionError: If the model uses a function without a rule.
    """
    parts = directions.split([parameter.numel() for parameter in parameters], dim=1)
    moving = {id(p): part.reshape(-1, *p.shape) for p, part in zip(parameters, parts, strict=True)}
    with evaluation_mode(model), torch.no_grad(), _Propagation(moving):
        outputs = model(Jet(images, None, None))
    if not isinstance(outputs, Jet):
        raise UnsupportedFunctionError(
            f"the model answers a {type(outputs).__name__}, no logits; its Hessian is 0"
        )
    return _along_outputs(outputs, labels, loss, len(directions))


def _along_outputs(
    outputs: Jet, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor], count: int
) -> Tensor:
    """Second derivatives [m, N] of each image's loss from those of its outputs."""
    images = len(outputs.value)
    result = outputs.value.new_zeros(count, images)
    with torch.enable_grad():
        logits = outputs.value.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(logits, labels) * images, logits, create_graph=True)
    if outputs.second is not None:
        result += (slope.detach().unsqueeze(1) * outputs.second).flatten(2).sum(2).T
    if outputs.first is not None and slope.requires_grad:
        first = outputs.first.transpose(0, 1)
        (bent,) = torch.autograd.grad(slope, logits, first, is_grads_batched=True)
        result += (bent * first).flatten(2).sum(2)
    return result


def _leaves(tree: Iterable[Any]) -> Iterable[Any]:
    """What lists, tuples and dicts hold, at any depth."""
    for item in tree:
        if isinstance(item, (list, tuple)):
            yield from _leaves(item)
        elif isinstance(item, dict):
            yield from _leaves(item.values())
        else:
            yield item
