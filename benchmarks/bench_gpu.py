"""Landscape metrics on a GPU: the Hessian trace by size of its blocks, and curves by pairs that train together.

    PYTHONPATH=. python benchmarks/bench_gpu.py    # a minute; needs torch alone, no Ray

Printed, a line each: milliseconds a probe of the trace on 512 images, with the blocks that suit a CPU's caches, with
those for a GPU, and by double backward with the graph kept (PyHessian's algorithm); then seconds a pair for curves of
1, 4 and 16 pairs, 1,600 sample passes each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from zoo.datasets import Split
from zoo.landscape import hessian
from zoo.landscape.connectivity import CurveRecipe, Pair, errors_of_curves
from zoo.landscape.hessian import HessianOperator
from zoo.landscape.trace import probe_forms, rademacher
from zoo.models import ImageShape, initial_model

DEVICE, PROBES = "cuda", 64
NETWORKS = (
    ("cnn", 8, ImageShape(1, 14, 10)),
    ("resnet18", 2, ImageShape(3, 32, 10)),
    ("resnet18", 32, ImageShape(3, 32, 10)),
)


def median_seconds(work: Callable[[], object], times: int = 3) -> float:
    """Median time of some runs after one that warms up."""
    taken = []
    for _ in range(times + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def traces(name: str, operator: HessianOperator) -> None:
    """Print the time of a probe."""
    blocks = {"CPU": (2**18, 16), "GPU": (hessian.CHUNK[DEVICE], hessian.DIRECTIONS[DEVICE])}
    for kind, (chunk, directions) in blocks.items():
        hessian.CHUNK[DEVICE], hessian.DIRECTIONS[DEVICE] = chunk, directions
        seconds = median_seconds(lambda: probe_forms(operator, PROBES, torch.Generator().manual_seed(0)))
        print(f"{name}: trace, blocks of a {kind} {1e3 * seconds / PROBES:8.2f} ms a probe", flush=True)
    probes = rademacher(operator, 8, torch.Generator().manual_seed(0))
    seconds = median_seconds(lambda: [z.dot(operator @ z).item() for z in probes], 1)
    print(f"{name}: trace, double backward {1e3 * seconds / len(probes):8.2f} ms a probe", flush=True)


def curves(name: str, models: list[nn.Module], train: Split) -> None:
    """Print the time of a pair's curve, alone and with others."""
    recipe = CurveRecipe(sample_passes=1_600)
    pairs = [Pair(*ends) for ends in zip(models[::2], models[1::2], strict=True)]
    streams = [torch.Generator().manual_seed(seed) for seed in range(len(pairs))]
    for count in (1, 4, len(pairs)):
        work = partial(errors_of_curves, pairs[:count], train, train, recipe, streams[:count])
        print(
            f"{name}: {count:2} curves together {median_seconds(work, 1) / count:8.3f} s a pair", flush=True
        )


def main() -> None:
    """Print the table."""
    torch.backends.cudnn.allow_tf32 = False
    print(torch.__version__, torch.cuda.get_device_name())
    for architecture, width, shape in NETWORKS:
        name, stream = f"{architecture}, width {width}", torch.Generator().manual_seed(0)
        images = torch.randn(512, shape.channels, shape.image_size, shape.image_size, generator=stream)
        labels = torch.randint(0, shape.classes, (512,), generator=stream)
        models = [initial_model(architecture, width, shape, seed).to(DEVICE).eval() for seed in range(32)]
        traces(name, HessianOperator(models[0], images, labels))
        curves(name, models, Split(images.repeat(4, 1, 1, 1).to(DEVICE), labels.repeat(4).to(DEVICE)))


if __name__ == "__main__":
    main()
