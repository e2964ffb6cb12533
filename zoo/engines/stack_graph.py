"""Steps as CUDA graphs: recorded once, then launched as a whole, without Python and with one launch a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

WARM_UPS = 3
"""Runs before a recording, in which libraries choose their kernels and take the memory that they keep."""


class GraphRecorder:
    """Records what one engine does; its graphs share memory, as they never run at the same time.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None], changed: Sequence[Tensor]) -> Callable[[], None]:
        """A function that does the work on the device without waiting for it.

        Args:
            work: What is to be recorded: it neither waits for the device nor looks at values, and reads and writes
                tensors that stay where they are.
            changed: Tensors that go on from what they were, which the recording leaves as they are.
        """
        with torch.cuda.device(self._device), unchanged(changed):
            # The warm-up takes the stream of the recording, since cuBLAS keeps its memory by stream.
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    work()
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                work()
        return graph.replay


@contextmanager
def unchanged(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Put tensors back, in place, to what they were before."""
    before = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)


def exact_arithmetic() -> AbstractContextManager[None]:
    """Convolutions and products on CUDA in full float32, not in TF32, and the same to the bit in each run."""
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False, fp32_precision="ieee"
    )
