"""The stack engine on a GPU: training samples a second of K models at once, against one plain model at a time.

    PYTHONPATH=. python benchmarks/bench_gpu_engine.py            # 10 minutes on a GPU; torch alone, no Ray
    PYTHONPATH=. python benchmarks/bench_gpu_engine.py --cpu      # a dry run: does the script work?

First the engine is checked on the device: the losses of five recorded steps against the plain engine's in float64,
and that a model which diverges leaves the others as they are, to the bit. Then `resnet18` trains on random images of
CIFAR-10's shape, each number of models in each way of computing them, in rounds that alternate with the plain engine;
both in full float32 with deterministic kernels. Single models are timed up to 16, as their time grows with their
number.

Printed is a Markdown table of medians, the ratio with its range over the rounds, and a table of ways for
`zoo.engines.stack_network.WAYS`. The share of the matmul peak counts 6 operations for each multiply-add of the
forward pass; that of the copy bandwidth counts each module's output once written and twice read and its gradient
once written and once read, as if modules ran one after the other and kept nothing. Both peaks are measured here.
With $OUT set, `bench_gpu_engine.json` is written there.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from zoo.config import TrainConfig
from zoo.datasets import Split
from zoo.engines import Engine
from zoo.engines.loop import LoopEngine
from zoo.engines.stack import StackEngine
from zoo.engines.stack_graph import exact_arithmetic
from zoo.engines.stack_network import SINGLE, Way
from zoo.models import ImageShape, initial_model, work_of

WAYS = (Way("lanes"), Way("grouped"), Way("grouped", True), Way("bmm"), SINGLE, Way("single", True))
SINGLE_MODELS = 16
CHECKED_WIDTHS, CHECKED_STEPS, CHECKED_RATE = (2, 8), 5, 0.01
BOUNDS = {torch.float64: 1e-6, torch.float32: 0.03}
"""How far losses may lie from the plain engine's in float64, relative to them. In float32 a ReLU that is open in one
and shut in the other is seen: the plain engine itself is up to 0.02 off."""
ROUNDS = 3
CIFAR = ImageShape(3, 32, 10)


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        device: Torch device.
        widths: Widths of the models.
        counts: Numbers of models.
        batch_size: Images a step.
        shape: Shape of the images.
        seconds: Length of a round.
        product: Rows of the matrices whose product is the peak.
        copied: Bytes of the copy that is the bandwidth.
    """

    device: str = "cuda"
    widths: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    counts: tuple[int, ...] = (1, 16, 64, 128)
    batch_size: int = 128
    shape: ImageShape = CIFAR
    seconds: float = 0.3
    product: int = 8192
    copied: int = 2**30


DRY_RUN = Plan("cpu", (1, 2), (1, 3), 32, ImageShape(3, 16, 10), 0.01, 256, 2**20)


@dataclass(frozen=True)
class Row:
    """What one way did: models x samples a second, ratios to the plain engine, and shares of the chip's peaks."""

    width: int
    models: int
    way: str
    samples_a_second: float
    ratio: float
    least_ratio: float
    largest_ratio: float
    of_matmul: float
    of_copy: float


class Bench:
    """The runs of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        stream, shape = torch.Generator().manual_seed(0), plan.shape
        count = 16 * plan.batch_size
        images = torch.randn(count, shape.channels, shape.image_size, shape.image_size, generator=stream)
        self.data = Split(images, torch.randint(0, shape.classes, (count,), generator=stream))
        self.stream = stream
        rows = plan.product
        square = torch.randn(rows, rows, device=plan.device)
        self.matmul = 2 * rows**3 / self.seconds_of(lambda: square @ square)
        whole = torch.randn(plan.copied // 4, device=plan.device)
        target = torch.empty_like(whole)
        self.bandwidth = 2 * plan.copied / self.seconds_of(lambda: target.copy_(whole))

    def seconds_of(self, work: Callable[[], object]) -> float:
        """Median time of some runs after one that warms up."""
        taken = []
        for _ in range(6):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken[1:])

    def wait(self) -> None:
        """Until the device is done."""
        if self.plan.device == "cuda":
            torch.cuda.synchronize()

    def engine(
        self, width: int, count: int, way: Way | None, dtype: torch.dtype = torch.float32
    ) -> LoopEngine | StackEngine:
        """Some models in an engine, the plain one if no way is given; they start alike."""
        plan, size = self.plan, len(self.data.labels)
        config = TrainConfig("random", "0", "resnet18", width, plan.batch_size, size, size)
        model = initial_model("resnet18", width, plan.shape, seed=0).to(dtype)
        data = [self.data._replace(images=self.data.images.to(dtype))] * count
        if way is None:
            models = [copy.deepcopy(model) for _ in range(count)]
            return LoopEngine(models, data, [config] * count, plan.device)
        engine = StackEngine([model] * count, data, [config] * count, plan.device, way)
        assert engine.way == way, f"{way} was wanted, {engine.way} is used"
        return engine

    def batches(self, count: int, steps: int) -> torch.Tensor:
        """Random batches [K, S, B]."""
        shape = count, steps, self.plan.batch_size
        return torch.randint(0, len(self.data.labels), shape, generator=self.stream)

    def check(self, width: int, way: Way) -> dict[torch.dtype, float]:
        """The largest relative error of the first losses, by number format.

        Raises:
            SystemExit: If one is too large, or a model that diverges changes another.
        """
        batches, rates = self.batches(3, CHECKED_STEPS), torch.full((3, CHECKED_STEPS), CHECKED_RATE)
        wanted = self.engine(width, 3, None, torch.float64).advance(batches, rates).losses
        errors = {}
        for dtype, bound in BOUNDS.items():
            found = self.engine(width, 3, way, dtype).advance(batches, rates).losses
            errors[dtype] = ((found - wanted) / wanted).abs().max().item()
            if not errors[dtype] < bound:
                raise SystemExit(
                    f"width {width}, {way}, {dtype}: losses are {errors[dtype]:.1e} off, above {bound}"
                )
        rates[1, 1] = torch.inf
        beside = self.engine(width, 3, way).advance(batches, rates).losses
        if not torch.equal(beside[[0, 2]], found[[0, 2]]) or not beside[1, 2:].isnan().all():
            raise SystemExit(f"width {width}, {way}: a model that diverges changes another")
        return errors

    def fits(self, width: int, count: int, way: Way) -> bool:
        """Whether the device has the memory, by a generous estimate."""
        work = work_of("resnet18", width, self.plan.shape)
        if self.plan.device == "cpu" or work is None:
            return True
        at_once = 1 if way.kind == "single" else count
        needed = 4 * (8 * count * work.parameters + 2 * at_once * self.plan.batch_size * work.values)
        return needed < torch.cuda.mem_get_info()[0]

    def measure(self, width: int, count: int, way: Way) -> Row:
        """Time a way in turns with the plain engine."""
        sides = [(self.engine(width, 1, None), 1), (self.engine(width, count, way), count)]
        steps = [self._steps(*side) for side in sides]
        rates = [
            [self._rate(engine, models, taken) for (engine, models), taken in zip(sides, steps, strict=True)]
            for _ in range(ROUNDS)
        ]
        ratios = [own / plain for plain, own in rates]
        samples = statistics.median(own for _, own in rates)
        work = work_of("resnet18", width, self.plan.shape)
        assert work is not None
        return Row(
            *(width, count, name_of(way), samples, statistics.median(ratios), min(ratios), max(ratios)),
            of_matmul=samples * 6 * work.multiply_adds / self.matmul,
            of_copy=samples * 5 * 4 * work.values / self.bandwidth,
        )

    def _steps(self, engine: Engine, models: int) -> int:
        """Steps of a round, after some that warm up and record."""
        self._rate(engine, models, 2)
        seconds = 2 * models * self.plan.batch_size / self._rate(engine, models, 2)
        return max(2, min(256, int(2 * self.plan.seconds / seconds)))

    def _rate(self, engine: Engine, models: int, steps: int) -> float:
        """Models x samples a second."""
        batches, rates = self.batches(models, steps), torch.full((models, steps), 1e-3)
        self.wait()
        began = time.perf_counter()
        engine.advance(batches, rates)
        self.wait()
        return models * steps * self.plan.batch_size / (time.perf_counter() - began)


def name_of(way: Way) -> str:
    """A way in words."""
    return f"{way.kind}, channels_last" if way.channels_last else way.kind


def rows_of(bench: Bench, minutes: float) -> Iterator[Row]:
    """Measure all that fits memory and time; what does not is named."""
    end = time.monotonic() + 60 * minutes
    for width in bench.plan.widths:
        for count in bench.plan.counts:
            for way in WAYS:
                if (count == 1 and way.kind != "single") or (count > SINGLE_MODELS and way.kind == "single"):
                    continue
                case = f"width {width}, {count} models, {name_of(way)}"
                if time.monotonic() > end:
                    print(f"{case}: no time", flush=True)
                elif not bench.fits(width, count, way):
                    print(f"{case}: no memory", flush=True)
                else:
                    try:
                        yield bench.measure(width, count, way)
                    except RuntimeError as error:  # of memory, or a kernel that the library does not have
                        print(f"{case}: {str(error).splitlines()[0]}", flush=True)
                gc.collect()
                if bench.plan.device == "cuda":
                    torch.cuda.empty_cache()


def table_of_ways(rows: list[Row]) -> str:
    """The fastest way of each width, as `WAYS` lists them: single models above the last."""
    best = {row.width: row for row in sorted(rows, key=lambda row: row.samples_a_second)}
    named = {name_of(way): way for way in WAYS}
    found: list[tuple[int, Way]] = []
    for width in sorted(best):
        way = named[best[width].way]
        if found and found[-1][1] == way:
            found.pop()
        found.append((width, way))
    return f"WAYS = {tuple(found)!r}"


def main() -> None:
    """Check, measure and print."""
    parser = argparse.ArgumentParser(description="The stack engine on a GPU.")
    parser.add_argument("--cpu", action="store_true", help="a tiny dry run on the CPU")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which no more cases are begun")
    given = parser.parse_args()
    bench = Bench(DRY_RUN if given.cpu else Plan())
    name = torch.cuda.get_device_name() if bench.plan.device == "cuda" else "CPU, a dry run"
    facts = {"torch": torch.__version__, "device": name, "matmul": bench.matmul, "copy": bench.bandwidth}
    print(f"torch {torch.__version__}, {name}")
    print(
        f"float32 matmul {bench.matmul / 1e12:.2f} TFLOP/s, copy {bench.bandwidth / 1e9:.0f} GB/s", flush=True
    )
    for width in CHECKED_WIDTHS:
        for way in WAYS:
            found = ", ".join(f"{error:.0e} in {dtype}" for dtype, error in bench.check(width, way).items())
            print(f"width {width}, {name_of(way)}: losses off by {found}", flush=True)
    print("\n| width | models | way | models x samples/s | against one plain model (range) | matmul | copy |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for row in rows_of(bench, given.minutes):
        rows.append(row)
        print(
            f"| {row.width} | {row.models} | {row.way} | {row.samples_a_second:,.0f} | "
            f"{row.ratio:.2f}x ({row.least_ratio:.2f}-{row.largest_ratio:.2f}) | "
            f"{row.of_matmul:.1%} | {row.of_copy:.1%} |",
            flush=True,
        )
    print(f"\n{table_of_ways(rows)}")
    if out := os.environ.get("OUT"):
        whole = facts | {"rows": [asdict(row) for row in rows]}
        (Path(out) / "bench_gpu_engine.json").write_text(json.dumps(whole, indent=1))


if __name__ == "__main__":
    with exact_arithmetic():
        main()
