"""The lane engine against the plain loop: training, second derivatives and paths, in one run, on one thread.

    python benchmarks/bench_engine.py [--rounds 5] [--only training]     # ten minutes; nothing else should run beside

Training: time of a step of one model, all lanes at work; how many times that of the plain loop (fused SGD, the
faster memory format); and the share of the core's peak, which independent multiply-adds measure in the same rounds.
Medians of rounds in which all take turns, ratios with the least and the largest.
"""

from __future__ import annotations

import argparse
import ctypes
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from zoo.config import TrainConfig
from zoo.datasets import Split
from zoo.engines.lane_library import builds, library
from zoo.engines.lanes import LaneEngine
from zoo.engines.loop import LoopEngine
from zoo.landscape import connectivity
from zoo.landscape.connectivity import CurveRecipe, Pair, errors_of_curves
from zoo.landscape.hessian import HessianOperator
from zoo.models import ImageShape, initial_model, work_of

IMAGES = 512

TRAINING = [
    *(("cnn", width, 1, 14, 32) for width in (1, 2, 4, 8, 16, 32)),
    *(("cnn", 8, 1, 14, batch) for batch in (8, 128)),
    ("cnn", 8, 1, 28, 32),
    ("mlp", 32, 1, 14, 32),
    *(("resnet18", width, 3, 32, 32) for width in (2, 4, 8)),
]
LANDSCAPE = [
    ("cnn", 2, 1, 14, 384),
    ("cnn", 8, 1, 14, 384),
    ("cnn", 16, 1, 14, 384),
    ("resnet18", 4, 3, 16, 128),
]
"""Architecture, width, channels, pixels; batch size, or images that the loss is taken over."""

PEAK = """
#include <utility>
typedef float V __attribute__((vector_size(BYTES)));
template <std::size_t... I>
float run(long rounds, std::index_sequence<I...>) {
    V sums[sizeof...(I)] = {(V{} + float(I))...};
    const V factor = V{} + 0.999f, term = V{} + 0.001f;
    for (long r = 0; r < rounds; r++) ((sums[I] = sums[I] * factor + term), ...);
    float total = 0;
    for (V& own : sums) total += own[0];
    return total;
}
extern "C" float peak(long rounds) { return run(rounds, std::make_index_sequence<10>()); }
"""
"""Ten independent chains of multiply-adds, which hide each other's latency in registers."""

PEAK_ROUNDS = 10_000_000


def peak_of_core(folder: str) -> tuple[Callable[[], object], float]:
    """Some work of multiply-adds alone, and how many operations it is; a multiply-add counts as two."""
    kinds = {"avx512": (64, "-march=skylake-avx512"), "avx2": (32, "-mavx2", "-mfma")}
    width, *flags = kinds.get(builds()[0], (16,))
    source, made = Path(folder) / "peak.cpp", Path(folder) / "peak.so"
    source.write_text(PEAK)
    command = [
        "g++",
        "-O3",
        "-std=c++17",
        "-ffp-contract=fast",
        *flags,
        f"-DBYTES={width}",
        "-fPIC",
        "-shared",
    ]
    subprocess.run([*command, str(source), "-o", str(made)], check=True)
    function = ctypes.CDLL(str(made)).peak
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_long]
    return partial(function, PEAK_ROUNDS), 2.0 * 10 * width / 4 * PEAK_ROUNDS


def noise(shape: ImageShape, images: int = IMAGES) -> Split:
    """Random images and labels."""
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randn(images, shape.channels, shape.image_size, shape.image_size, generator=stream)
    return Split(pixels, torch.randint(0, shape.classes, (images,), generator=stream))


def operations(architecture: str, width: int, shape: ImageShape, batch: int) -> float:
    """Additions and multiplications of a step of one model.

    Each layer has three products, but that which reads the image has two, as no gradient of the image is wanted.
    """
    work = work_of(architecture, width, shape)
    assert work is not None
    reads = shape.pixels if architecture == "mlp" else 9 * shape.channels * shape.image_size**2
    return 2.0 * batch * (3 * work.multiply_adds - width * reads)


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turns(rounds: int, *works: Callable[[], object]) -> list[list[float]]:
    """Seconds of each work in each round; each is done once before, unmeasured."""
    for work in works:
        work()
    return [list(column) for column in zip(*([timed(w) for w in works] for _ in range(rounds)), strict=True)]


def said(ratios: Iterable[float]) -> str:
    """A median with the least and the largest."""
    ordered = sorted(ratios)
    return f"{statistics.median(ordered):.1f} ({ordered[0]:.1f} to {ordered[-1]:.1f})"


def course(lanes: int, count: int, batch: int) -> tuple[Tensor, Tensor]:
    """Batches and rates of so many steps."""
    rows = torch.randint(0, IMAGES, (lanes, count, batch), generator=torch.Generator().manual_seed(1))
    return rows, torch.full((lanes, count), 0.01, dtype=torch.float64)


def advancing(
    engine: type[LoopEngine | LaneEngine], lanes: int, config: TrainConfig, split: Split, shape: ImageShape
) -> tuple[Callable[[], object], int]:
    """A third of a second of training, and how many steps of one model it is."""
    models = [initial_model(config.architecture, config.width, shape, seed) for seed in range(lanes)]
    made = engine(models, [split] * lanes, [config] * lanes, "cpu")
    made.advance(*course(lanes, 1, config.batch_size))
    once = timed(partial(made.advance, *course(lanes, 1, config.batch_size)))
    count = max(1, int(0.3 / once))
    return partial(made.advance, *course(lanes, count, config.batch_size)), lanes * count


def training(rounds: int, peak: Callable[[], object], operations_of_peak: float) -> None:
    """A line a network."""
    print("| network | width | pixels | batch | loop, ms | lanes, ms | times as fast | share of the peak |")
    print("|---|---|---|---|---|---|---|---|")
    lanes = library().lanes_count(4)  # type: ignore[union-attr]
    for architecture, width, channels, pixels, batch in TRAINING:
        shape = ImageShape(channels, pixels, 10)
        own = TrainConfig("noise", "", architecture, width, batch, IMAGES, IMAGES)
        plain, few = advancing(LoopEngine, 1, own, noise(shape), shape)
        fast, many = advancing(LaneEngine, lanes, own, noise(shape), shape)
        slow_times, fast_times, peaks = in_turns(rounds, plain, fast, peak)
        loop, lane = statistics.median(slow_times) / few, statistics.median(fast_times) / many
        ratio = said(a / few / (b / many) for a, b in zip(slow_times, fast_times, strict=True))
        share = (
            operations(architecture, width, shape, batch)
            / lane
            / (operations_of_peak / statistics.median(peaks))
        )
        facts = f"| {architecture} | {width} | {pixels} | {batch} | {1e3 * loop:.3f} | {1e3 * lane:.4f} "
        print(f"{facts}| {ratio} | {share:.0%} |", flush=True)


@contextmanager
def plainly() -> Iterator[None]:
    """Train and evaluate paths without lanes."""
    before = connectivity.described
    connectivity.described = lambda *_: None
    try:
        yield
    finally:
        connectivity.described = before


def landscape(rounds: int) -> None:
    """Probes of the Hessian's trace, products with it, and paths between models."""
    columns = "a probe, against double backward | against Taylor series | a product | a path of 16"
    print(f"| network | width | {columns} |")
    print("|---|---|---|---|---|---|")
    for architecture, width, channels, pixels, images in LANDSCAPE:
        shape = ImageShape(channels, pixels, 10)
        split, model = noise(shape, images), initial_model(architecture, width, shape, 0)
        model.train()(split.images)
        model.eval()
        fast = HessianOperator(model, *split)
        probes = torch.randint(0, 2, (16, fast.size)).float() * 2 - 1
        slow = HessianOperator(model, *split, in_lanes=False)
        works = (
            partial(slow.__matmul__, probes[0]),
            partial(slow.forms, probes),
            partial(fast.forms, probes),
            partial(fast.__matmul__, probes[0]),
        )
        one, taylor, forms, product = in_turns(rounds, *works)
        cells = [
            said(16 * a / b for a, b in zip(one, forms, strict=True)),
            said(a / b for a, b in zip(taylor, forms, strict=True)),
            said(a / b for a, b in zip(one, product, strict=True)),
            said(paths(rounds, architecture, width, shape, split)),
        ]
        print(f"| {architecture} | {width} | {' | '.join(cells)} |", flush=True)


def paths(rounds: int, architecture: str, width: int, shape: ImageShape, split: Split) -> list[float]:
    """Ratios of the time of sixteen Bezier curves, plainly and in lanes."""
    models = [initial_model(architecture, width, shape, seed) for seed in range(17)]
    pairs = [Pair(models[k], models[k + 1]) for k in range(16)]
    recipe = CurveRecipe(sample_passes=2_000, recalibration_batch=256, evaluation_images=256)

    def measured() -> None:
        streams = [torch.Generator().manual_seed(k) for k in range(16)]
        errors_of_curves(pairs, split, split, recipe, streams)

    def measured_plainly() -> None:
        with plainly():
            measured()

    slow, fast = in_turns(rounds, measured_plainly, measured)
    return [a / b for a, b in zip(slow, fast, strict=True)]


def main(rounds: int, only: str | None) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    print(
        f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, one thread"
    )
    if only in (None, "training"):
        with tempfile.TemporaryDirectory() as folder:
            training(rounds, *peak_of_core(folder))
    if only in (None, "landscape"):
        landscape(min(rounds, 3))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["training", "landscape"])
    options = parser.parse_args()
    main(options.rounds, options.only)
