"""Norms of the weights: of all of them, and of each layer."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.landscape.estimate import COLLAPSED, NOT_FINITE, Estimate
from zoo.landscape.weights import flat_weights, is_finite

NO_LAYERS = "no_layers"
"""Reason of a metric without a value: the model has no linear or convolutional layer."""


class Layer(NamedTuple):
    """A linear or convolutional layer.

    Attributes:
        name: Of the module.
        weight: [out, in] or [out, in, ...], detached, in double precision.
    """

    name: str
    weight: Tensor


def layers(model: nn.Module, fold_batch_norm: bool = True) -> list[Layer]:
    r"""The linear and convolutional layers, in the order in which they were registered.

    With BatchNorm folded in, output channel $j$ of the layer before it is multiplied by
    $\gamma_j / \sqrt{v_j + \epsilon}$ with BatchNorm's scale and running variance. That is the linear map which the
    network applies in eval mode; without, the size of such a weight means nothing (Dziugaite et al., In Search
    of Robust Measures of Generalization, NeurIPS 2020; `_reparam` of their code folds likewise). A BatchNorm
    belongs to the layer registered right before it, if that has as many channels.

    Args:
        model: Any model.
        fold_batch_norm: Whether to.
    """
    found: list[Layer] = []
    open_layer = False
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            found.append(Layer(name, module.weight.detach().double()))
            open_layer = True
        elif isinstance(module, _BatchNorm):
            if fold_batch_norm and open_layer and module.num_features == len(found[-1].weight):
                found[-1] = _folded(found[-1], module)
            open_layer = False
    return found


def parameter_norm(model: nn.Module) -> Estimate:
    """Euclidean norm of the trainable parameters, BatchNorm's scale and shift included.

    Source: `param-norm` of Jiang et al., Fantastic Generalization Measures and Where to Find Them, ICLR 2020,
    appendix C, here of all parameters and without the square.
    """
    return Estimate(value=torch.linalg.vector_norm(flat_weights(model).double()).item()).finite()


def log_norm_products(model: nn.Module, fold_batch_norm: bool = True) -> list[Estimate]:
    r"""Logarithm of the product over the layers of squared spectral norms, and of squared Frobenius norms.

    $\ln \prod_l \|W_l\|_2^2$ and $\ln \prod_l \|W_l\|_F^2$ (`prod-of-spec` and `prod-of-fro` of Jiang et al. 2020,
    appendix C). The matrix of a convolution is [out, in x height x width]: what it does to one patch, which
    needs no image size; its spectral norm is that of the convolution within a factor of
    $\sqrt{height \times width}$ (Yoshida and Miyato, Spectral Norm Regularization, 2017, section 3.2).

    Args:
        model: Any model.
        fold_batch_norm: See `layers`.

    Returns:
        The two; `values` are the terms of the layers, in order. Without a value for the reasons `NO_LAYERS`, or
        `COLLAPSED` if a layer is zero.
    """
    if not is_finite(model):
        return [Estimate(value=None, reason=NOT_FINITE)] * 2
    matrices = [layer.weight.flatten(1) for layer in layers(model, fold_batch_norm)]
    if not matrices:
        return [Estimate(value=None, reason=NO_LAYERS)] * 2
    return [
        _log_product([torch.linalg.matrix_norm(matrix, 2).item() for matrix in matrices]),
        _log_product([torch.linalg.matrix_norm(matrix).item() for matrix in matrices]),
    ]


def _log_product(norms: list[float]) -> Estimate:
    if not all(norms):
        return Estimate(value=None, reason=COLLAPSED)
    terms = tuple(2 * math.log(norm) for norm in norms)
    return Estimate(value=sum(terms), values=terms)


def _folded(layer: Layer, norm: _BatchNorm) -> Layer:
    if norm.running_var is None:
        return layer
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    return Layer(layer.name, layer.weight * scale.view(-1, *[1] * (layer.weight.dim() - 1)))
