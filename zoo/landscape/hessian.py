"""The Hessian of a loss: exact products with vectors, and forms z'Hz of each image."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.datasets import Split
from zoo.engines.lane_copies import CURVATURE_IMAGES, LaneCopies, described
from zoo.engines.lane_library import Passes
from zoo.landscape.evaluation import device_of, evaluation_mode
from zoo.landscape.jet import UnsupportedFunctionError
from zoo.landscape.taylor import second_derivatives
from zoo.landscape.weights import flat_weights, flatten, trainable

GRADIENT_PASSES = 3
"""Cost an image of a gradient, in forward passes: one forward and a backward pass."""

PRODUCT_PASSES = 6
"""Cost an image of a Hessian-vector product: a backward pass through the gradient's forward and backward."""


FORM_PASSES = 4
"""Cost an image of a form $z^\\top H z$ by Taylor series, in forward passes: $W x'$, $Z x$, $W x''$ and $Z x'$."""

CHUNK = {"cpu": 2**18, "cuda": 2**24}
"""Image values times directions of one Taylor pass: what the caches of a core hold of a small network; on a GPU as
many as keep it busy."""

SMALLEST_CHUNK = 8
"""Images of one Taylor pass, at least."""

GROUPS = 16
"""Groups of images that forms are given for where those of each image cannot be had."""

DIRECTIONS = {"cpu": 16, "cuda": 64}
"""Directions at once, at most; fewer where they would not fit in `DIRECTION_ENTRIES`."""

DIRECTION_ENTRIES = 2**26
"""Numbers in all directions at once, at most: a quarter of a gibibyte."""


class Forms(NamedTuple):
    r"""$z^\top H_g z$ for directions z and the Hessians $H_g$ of the mean loss over disjoint groups of images.

    Attributes:
        values: [m, G], float64, on the CPU.
        images: Images a group [G], float64.
    """

    values: Tensor
    images: Tensor

    @property
    def whole(self) -> Tensor:
        r"""$z^\top H z$ of the mean loss over all images, [m]."""
        return self.values @ self.images / self.images.sum()


class HessianOperator:
    r"""The Hessian $H = \nabla^2 L(\theta)$ of the mean loss over some images, known by what it does to vectors.

    Products $Hv = \nabla (\nabla L^\top v)$ by Pearlmutter's R-operator (Fast Exact Multiplication by the Hessian,
    1994): in lanes of images where these know the model (`zoo.engines.lane_copies`), else by double backward, on a
    graph of the gradient that is built with the first product and kept. Forms $z^\top H z$, exact as well,
    several at once and for each image: in lanes of directions, else by Taylor series (`zoo.landscape.taylor`), or by
    double backward on groups of images where the model uses a function without a Taylor rule.

    The model is in eval mode, so BatchNorm is an affine map with fixed statistics; $\theta$ are the trainable
    parameters. It must not change while the operator is in use.

    Attributes:
        size: Number of trainable parameters, P.
        images: Number of images, N.
        device: Where vectors are expected.
        dtype: Their number format.
        taylor: Whether forms come from Taylor series; turns false where the model does not allow it.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        in_lanes: bool = True,
    ) -> None:
        """Look at the model; nothing is computed yet.

        Args:
            model: A model, left as it was; its `.grad` fields are not touched.
            images: [N, C, H, W], on any device.
            labels: [N], or whatever `loss` takes.
            loss: Mean over the images of a loss of outputs and labels.
            in_lanes: Whether lanes may compute, where they know the model and the loss is the cross-entropy.

        Raises:
            ValueError: If no parameter is trainable, or there are no images.
        """
        self._parameters = trainable(model)
        if not self._parameters:
            raise ValueError(f"{type(model).__name__} has no trainable parameters; set requires_grad on some")
        if not len(images):
            raise ValueError("the Hessian of the loss over 0 images is undefined; give at least 1")
        self.device = device_of(model)
        self._model, self._loss, self._in_lanes = model, loss, in_lanes
        self._data = Split(images.to(self.device), labels.to(self.device))
        self.size, self.images = sum(p.numel() for p in self._parameters), len(images)
        self.dtype = self._parameters[0].dtype
        self.taylor = True

    @cached_property
    def _lanes(self) -> LaneCopies | None:
        """The model in lanes; None where they do not know it."""
        wanted = self._in_lanes and self._loss is F.cross_entropy
        made = described(self._model, *self._data) if wanted else None
        if made is None:
            return None
        return LaneCopies(made, self._model, min(CURVATURE_IMAGES, self.images), Passes.CURVATURE)

    @cached_property
    def _products(self) -> Callable[[Tensor], Tensor]:
        assert self._lanes is not None
        return self._lanes.products(flat_weights(self._model), self._data)

    @cached_property
    def _gradient(self) -> Tensor:
        return self._gradient_on(*self._data)

    def _gradient_on(self, images: Tensor, labels: Tensor) -> Tensor:
        """The gradient [P] of the mean loss, with its graph."""
        with evaluation_mode(self._model), torch.enable_grad():
            value = self._loss(self._model(images), labels)
            # the gradient of an unused parameter is made zero
            return flatten(
                torch.autograd.grad(value, self._parameters, create_graph=True, materialize_grads=True)
            )

    def _product(self, gradient: Tensor, vector: Tensor) -> Tensor:
        return flatten(
            torch.autograd.grad(gradient, self._parameters, vector, retain_graph=True, materialize_grads=True)
        )

    def __matmul__(self, vector: Tensor) -> Tensor:
        """The product with a vector [P], as a vector [P]."""
        if self._lanes is not None:
            return self._products(vector)
        return self._product(self._gradient, vector)

    def forms(self, directions: Tensor) -> Forms:
        r"""$z^\top H z$ for each row z of `directions` [m, P], for each image or group of images."""
        if self.taylor:
            try:
                values = self._taylor_forms(directions)
                return Forms(values, torch.ones(self.images, dtype=torch.float64))
            except UnsupportedFunctionError:
                self.taylor = False
        return self._double_backward_forms(directions)

    @property
    def at_once(self) -> int:
        """Directions that `forms` is best given at once."""
        return max(
            1, min(DIRECTIONS.get(self.device.type, DIRECTIONS["cpu"]), DIRECTION_ENTRIES // self.size)
        )

    def _taylor_forms(self, directions: Tensor) -> Tensor:
        if self._lanes is not None:
            return self._lanes.forms(flat_weights(self._model), directions, self._data).double()
        values = self._data[0][0].numel() * len(directions)
        images = max(SMALLEST_CHUNK, CHUNK.get(self.device.type, CHUNK["cpu"]) // values)
        parts = zip(*(part.split(images) for part in self._data), strict=True)
        forms = [
            second_derivatives(self._model, self._parameters, images, labels, directions, self._loss)
            for images, labels in parts
        ]
        return torch.cat(forms, dim=1).double().cpu()

    def _double_backward_forms(self, directions: Tensor) -> Forms:
        values, groups = [], min(GROUPS, self.images)
        for images, labels in zip(*(part.tensor_split(groups) for part in self._data), strict=True):
            gradient = self._gradient_on(images, labels)
            values.append(torch.stack([z.dot(self._product(gradient, z)) for z in directions]))
        sizes = [len(group) for group in self._data[0].tensor_split(groups)]
        return Forms(torch.stack(values, dim=1).double().cpu(), torch.tensor(sizes, dtype=torch.float64))

    def cost(self, products: int) -> float:
        """Sample passes of the graph and so many products."""
        return float(self.images * (GRADIENT_PASSES + PRODUCT_PASSES * products))

    def forms_cost(self, forms: int) -> float:
        """Sample passes of so many forms, `at_once` at a time."""
        each, once = (FORM_PASSES, 1) if self.taylor else (PRODUCT_PASSES, GRADIENT_PASSES)
        return float(self.images * (each * forms + once * math.ceil(forms / self.at_once)))
