"""The Lanczos process with full reorthogonalisation."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.landscape.hessian import HessianOperator


class Ritz(NamedTuple):
    r"""Eigenvalues of the Hessian as seen from a Krylov space of k dimensions.

    Attributes:
        values: Ritz values $\theta_i$ [k], ascending, float64.
        vectors: Eigenvectors of the tridiagonal matrix, in columns [k, k], float64.
        residuals: $\|H y_i - \theta_i y_i\|$ of the Ritz vectors [k]: an eigenvalue lies as near as that.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor


class Lanczos:
    r"""An orthonormal basis of the Krylov space of a start vector, and the Hessian in it.

    $H q_k = \beta_{k-1} q_{k-1} + \alpha_k q_k + \beta_k q_{k+1}$ (Lanczos, 1950; Golub and Van Loan, Matrix
    Computations, algorithm 10.1.1). Each new vector is made orthogonal to all before it, twice: in float32
    the plain recursion loses orthogonality within some ten steps and finds eigenvalues again and again.
    The basis takes k vectors of P numbers.

    Attributes:
        exhausted: Whether the space is invariant, so that the start vector leads no further.
    """

    def __init__(self, operator: HessianOperator, start: Tensor, most: int) -> None:
        """Begin with a vector [P], not zero, and room for so many steps."""
        self._operator, self._most = operator, min(most, operator.size)
        self._basis = start.new_empty(self._most, operator.size)
        self._basis[0] = start / torch.linalg.vector_norm(start)
        self._diagonal: list[float] = []
        self._beside: list[float] = []
        self.exhausted = False

    @property
    def steps(self) -> int:
        """Products taken."""
        return len(self._diagonal)

    def step(self) -> bool:
        """Take one product and extend the basis; false where it is full or exhausted, or a number is not finite."""
        vector = self._basis[self.steps]
        product = self._operator @ vector
        self._diagonal.append(torch.dot(product, vector).item())
        rest = self._outside(product)
        length = torch.linalg.vector_norm(rest).item()
        self._beside.append(length)
        if not math.isfinite(self._diagonal[-1] + length):
            return False
        scale = max(abs(number) for number in (*self._diagonal, *self._beside))
        if length <= 10 * torch.finfo(vector.dtype).eps * scale or self.steps == self._operator.size:
            self._beside[-1], self.exhausted = 0.0, True
            return False
        if self.steps == self._most:
            return False
        self._basis[self.steps] = rest / length
        return True

    def restart(self, vector: Tensor) -> bool:
        """Go on from the part of a vector [P] outside an exhausted space; false if there is none."""
        if self.steps == self._most:
            return False
        rest = self._outside(vector)
        self._basis[self.steps] = rest / torch.linalg.vector_norm(rest)
        self.exhausted = False
        return True

    def ritz(self) -> Ritz:
        """The eigenvalues as they stand."""
        diagonal, beside = (
            torch.tensor(part, dtype=torch.float64) for part in (self._diagonal, self._beside)
        )
        matrix = torch.diag(diagonal) + torch.diag(beside[:-1], 1) + torch.diag(beside[:-1], -1)
        if not bool(matrix.isfinite().all()):
            nothing = torch.full_like(matrix, math.nan)
            return Ritz(nothing[0], nothing, nothing[0])
        values, vectors = torch.linalg.eigh(matrix)
        return Ritz(values, vectors, beside[-1] * vectors[-1].abs())

    def vectors(self, coefficients: Tensor) -> Tensor:
        """Unit vectors [n, P] from coefficients [k, n] in the basis."""
        basis = self._basis[: self.steps]
        made = coefficients.T.to(basis) @ basis
        return made / torch.linalg.vector_norm(made, dim=1, keepdim=True)

    def _outside(self, vector: Tensor) -> Tensor:
        """What is left of a vector outside the basis, by two sweeps of classical Gram and Schmidt."""
        basis = self._basis[: max(self.steps, 1)]
        for _ in range(2):
            vector = vector - basis.T @ (basis @ vector)
        return vector
