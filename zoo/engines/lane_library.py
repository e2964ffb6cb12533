"""The compiled kernels: found, chosen by what the processor can do, and called.

The package's build compiles `kernels/lanes.cpp` once for each instruction set. Where that was not possible, or the
processor has none of them, there is no library, and stacks train on the plain engine.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Sequence
from ctypes import POINTER, c_double, c_int, c_int32, c_int64, c_void_p
from enum import IntEnum
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from zoo.engines.lane_network import Activation, Description


class Passes(IntEnum):
    """What a network is for; each takes more memory than the one before."""

    FORWARD = 0
    BACKWARD = 1
    CURVATURE = 2


BUILDS = {"AVX512": ("avx512", "avx2"), "AVX2": ("avx2",)}
"""Builds that run where torch says that the processor has an instruction set, the best first."""


NO_KERNELS = (
    "the lane kernels are not there: the package was installed without a C++ compiler, or the processor has neither "
    "AVX2 nor NEON"
)


class State(ctypes.Structure):
    """What a network goes on from; each a tensor [., lanes], or null."""

    _fields_ = (("parameters", c_void_p), ("momentum", c_void_p), ("running", c_void_p))

    @classmethod
    def of(cls, parameters: Tensor, momentum: Tensor | None = None, running: Tensor | None = None) -> State:
        """Of tensors that are contiguous and aligned, as torch makes them; they live as long as this does."""
        held = (parameters, momentum, running)
        made = cls(*(None if tensor is None else tensor.data_ptr() for tensor in held))
        made._held = held
        return made


class Data(ctypes.Structure):
    """Images and labels of each lane, and which of them a call reads: rows[lane * stride + image]."""

    _fields_ = (
        ("images", POINTER(c_void_p)),
        ("labels", POINTER(c_void_p)),
        ("rows", c_void_p),
        ("stride", c_int64),
    )

    @classmethod
    def of(cls, images: Sequence[Tensor], labels: Sequence[Tensor], rows: Tensor, classes: int) -> Data:
        """Check and point to what lanes read; it lives as long as this does.

        Args:
            images: Of each lane, [N, C, H, W].
            labels: Of each lane, [N].
            rows: [lanes, ...] which of them a call reads.
            classes: Number of classes.

        Raises:
            ValueError: If a tensor is not contiguous, or a row or label is none of those that there are.
        """
        _check_range(
            "row", rows, min(map(len, (*images, *labels))), "give indices of the images that there are"
        )
        for own in {id(tensor): tensor for tensor in labels}.values():
            if own.dtype != torch.int64 or own.dim() != 1:
                raise ValueError(
                    f"labels are {own.dtype} {list(own.shape)}; give one of int64 for each image"
                )
            _check_range("label", own, classes, "give labels of the classes that the model tells apart")
        made = cls(_pointers(images), _pointers(labels), rows.data_ptr(), rows[0].numel())
        made._held = (images, labels, rows)
        return made


def _check_range(what: str, values: Tensor, bound: int, remedy: str) -> None:
    """Refuse what would be read beyond the end of memory."""
    least, largest = (int(value) for value in values.aminmax())
    if least < 0 or largest >= bound:
        worst = least if least < 0 else largest
        raise ValueError(f"a {what} is {worst}; it has to be at least 0 and below {bound}: {remedy}")


def _pointers(tensors: Sequence[Tensor]) -> Any:
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise ValueError("the images or labels of a lane are not contiguous; call contiguous() on them")
    return (c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


_NETWORK = [c_int, c_void_p, c_void_p, c_int, c_void_p, c_int, c_int, c_int]

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "lanes_count": (c_int, [c_int]),
    "lanes_create": (c_void_p, _NETWORK),
    "lanes_bytes": (c_int64, _NETWORK),
    "lanes_destroy": (None, [c_void_p]),
    "lanes_size": (c_int64, [c_void_p, c_int]),
    "lanes_order": (None, [c_void_p, c_void_p]),
    "lanes_train": (None, [c_void_p, State, Data, c_int, c_int, *[c_void_p] * 6]),
    "lanes_evaluate": (None, [c_void_p, State, Data, c_int64, c_void_p, c_void_p]),
    "lanes_answers": (None, [c_void_p, State, Data, c_int64, *[c_void_p] * 3]),
    "lanes_bend": (
        None,
        [c_void_p, c_void_p, State, Data, c_int, c_int, c_void_p, c_void_p, c_double, c_double],
    ),
    "lanes_gradient": (None, [c_void_p, State, Data, c_int, c_void_p]),
    "lanes_traces": (None, [c_void_p, State, Data, c_int64, c_void_p]),
    "lanes_forms": (None, [c_void_p, State, Data, c_int64, c_void_p, c_int, c_void_p]),
    "lanes_hold": (c_int64, [c_void_p, State, Data, c_int64, c_int64]),
    "lanes_product": (None, [c_void_p, State, Data, c_int64, c_int64, c_void_p, c_void_p]),
    "lanes_recalibrate": (None, [c_void_p, State, Data, c_int64, c_int64]),
}


def builds() -> tuple[str, ...]:
    """Names of the builds that this processor can run, the best first, whether they are there or not."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return ("neon",)
    return BUILDS.get(torch.backends.cpu.get_cpu_capability(), ())


@cache
def library(build: str | None = None) -> ctypes.CDLL | None:
    """The kernels.

    Args:
        build: Which build; None: the best that is there and runs.

    Returns:
        The library; None if there is none.
    """
    for name in builds() if build is None else (build,):
        spec = find_spec(f"zoo.engines._lanes_{name}")
        if spec is not None and spec.origin is not None:
            return declared(ctypes.CDLL(spec.origin))
    return None


def declared(loaded: ctypes.CDLL) -> ctypes.CDLL:
    """The library with the types of its functions."""
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


class Network:
    """A network of lanes in the kernels.

    Attributes:
        lanes: Number of lanes: models side by side.
        capacity: Images of a pass, at most.
        classes: Number of logits.
        places: For each number among a lane's parameters, its place in the order of `Description.parameters`.
        statistics: How many running statistics a lane has.
    """

    def __init__(
        self,
        made: Description,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        passes: Passes = Passes.BACKWARD,
    ) -> None:
        """Lay out the network and its memory.

        Raises:
            RuntimeError: If there are no kernels.
            MemoryError: If there is no memory for it.
        """
        loaded = library()
        if loaded is None:
            raise RuntimeError(f"{NO_KERNELS}; use the engine 'loop'")
        self._kernels, size = loaded, dtype.itemsize
        self.lanes, self.capacity, self.classes = loaded.lanes_count(size), capacity, made.classes
        self._made: int | None = loaded.lanes_create(*_given(made, capacity, size, passes))
        if self._made is None:
            raise MemoryError(f"there is no memory for {self.lanes} models and a batch of {capacity} images")
        self.places = torch.empty(loaded.lanes_size(self._made, 0), dtype=torch.int64)
        loaded.lanes_order(self._made, self.places.data_ptr())
        self.statistics: int = loaded.lanes_size(self._made, 1)

    def __del__(self) -> None:
        """Give its memory back."""
        if getattr(self, "_made", None) is not None:
            self._kernels.lanes_destroy(self._made)

    def check_batch(self, size: int) -> None:
        """Refuse a batch that the network has no memory for.

        Raises:
            ValueError: If it has more images than a pass.
        """
        if size > self.capacity:
            raise ValueError(
                f"a batch of {size} images is more than the {self.capacity} that were planned for"
            )

    def of_all_lanes(self, values: Tensor) -> Tensor:
        """Values [K, ...] for all lanes [lanes, ...]: those without a model are as the first."""
        idle = self.lanes - len(values)
        return torch.cat([values, values[:1].expand(idle, *values.shape[1:])]).contiguous()

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a kernel: `lanes_<function>`; tensors go as pointers."""
        given = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
        return getattr(self._kernels, f"lanes_{function}")(self._made, *given)


def memory(made: Description, capacity: int, dtype: torch.dtype = torch.float32) -> int:
    """Bytes that a network of lanes takes to train and to be evaluated; 0 where there are no kernels."""
    loaded, size = library(), dtype.itemsize
    if loaded is None:
        return 0
    needs = (capacity, Passes.BACKWARD), (0, Passes.FORWARD)
    return sum(loaded.lanes_bytes(*_given(made, images, size, passes)) for images, passes in needs)


def _given(made: Description, capacity: int, size: int, passes: Passes) -> tuple[Any, ...]:
    """A network as the kernels are told of it."""
    layers = [(*layer[:5], int(layer.norm is not None)) for layer in made.layers]
    activations = [(0, 0, 0, 0, -1), *map(_record, made.activations)]
    image, records = _integers(made.image), (_integers(sum(layers, ())), _integers(sum(activations, ())))
    return size, image, records[0], len(layers), records[1], len(activations), capacity, passes


def _record(activation: Activation) -> tuple[int, ...]:
    terms = (*activation.terms, 0)[:2]
    identity = -1 if activation.identity is None else activation.identity
    return (activation.pool, len(activation.terms), *terms, identity)


def _integers(values: Sequence[int]) -> Any:
    return (c_int32 * len(values))(*values)
