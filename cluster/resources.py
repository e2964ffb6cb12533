"""What a task needs of a node: a core, memory, and a share of a GPU where one is used.

Memory is estimated from the size of what the task holds: a base, which is the process with its libraries, and so many
times the size. Both are corrected by what tasks really took at their peak, and kept with the zoo, so that the next
build knows them from the start. An estimate decides only how many tasks share a node; it never changes a result.
"""

from __future__ import annotations

import json
import math
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field

from cluster.executors import Need
from cluster.tasks import Usage
from zoo.engines.lane_library import memory
from zoo.measurements import MeasureJob
from zoo.models import ImageShape, count_parameters, work_of
from zoo.planner import lane_network
from zoo.stacks import Stack
from zoo.storage import Store

NAME = "resources.json"
MIB = 2**20

BASE, BASE_ON_GPU = 400 * MIB, 600 * MIB
"""What a process takes for itself before its task does anything: Python with torch; the context of CUDA."""

SMALL = 32 * MIB
"""Sizes below tell of the base; what little they add is lost in its ups and downs."""

TIMES = 4.0
"""Memory a task is first expected to take, in sizes."""

MARGIN, STEP = 1.1, 1.25
"""By how much more is asked for than is expected, and the ratio of one request to the next larger."""

WEIGHT_COPIES = 4
"""Weights, gradient, momentum, and the copy that is kept."""


def size_of(job: Stack | MeasureJob, shape: ImageShape, engine: str = "loop") -> int:
    """Bytes that the models of a job and what they compute for one batch take.

    Args:
        job: What a task is to do.
        shape: Shape of its images.
        engine: What trains a stack.
    """
    runs = [job.runs] if isinstance(job, Stack) else [part.runs for part in job.parts]
    models = sum(map(len, runs))
    config = job.example
    weights = count_parameters(config.architecture, config.width, shape)
    made = lane_network(config.architecture, config.width, shape) if engine == "lanes" else None
    if isinstance(job, Stack) and made is not None:
        return 4 * WEIGHT_COPIES * models * weights + memory(made, config.batch_size)
    work = work_of(config.architecture, config.width, shape)
    outputs = work.values if work else 0  # its tasks will tell what they take
    return 4 * (WEIGHT_COPIES * models * weights + config.batch_size * outputs)


@dataclass
class Line:
    """Memory as a base and so many sizes, as all that was seen fits below.

    Attributes:
        base: Bytes that are expected before anything was seen.
        seen: Of each power of two of sizes the largest peak: [size, peak] in bytes.
    """

    base: int
    seen: dict[str, list[int]] = field(default_factory=dict)

    def at(self, size: int) -> int:
        """Bytes to ask for, in steps of a quarter, so that there are few kinds of requests."""
        small = [peak for own, peak in self.seen.values() if own < SMALL]
        large = [(own, peak) for own, peak in self.seen.values() if own >= SMALL]
        base = max(small) if small else min([self.base, *(peak for _, peak in large)])
        times = max(((peak - base) / own for own, peak in large), default=TIMES)
        expected = MARGIN * (base + max(0.0, times) * size)
        return round(MIB * STEP ** math.ceil(math.log(expected / MIB, STEP)))

    def see(self, size: int, peak: int) -> None:
        """Take in what a task of a size took."""
        key = str(size.bit_length())
        if key not in self.seen or self.seen[key][1] < peak:
            self.seen[key] = [size, peak]


class Estimates(AbstractContextManager["Estimates"]):
    """What tasks of each kind need, from what those before them took.

    Args:
        store: The zoo's store, where the estimates are kept.
        device: Torch device of the tasks.
    """

    def __init__(self, store: Store, device: str) -> None:
        self._store, self._on_gpu = store, device.startswith("cuda")
        self._lines: dict[str, Line] = {}
        with suppress(FileNotFoundError, ValueError, TypeError):  # an estimate that is gone is made anew
            kept = json.loads(store.read(NAME))
            self._lines = {name: Line(**facts) for name, facts in kept.items()}

    def need(self, stage: str, size: int) -> Need:
        """What a task of a stage needs."""
        if not self._on_gpu:
            return Need(self._line(stage, "memory", BASE).at(size))
        return Need(self._line(stage, "host", BASE).at(0), self._line(stage, "gpu", BASE_ON_GPU).at(size))

    def see(self, stage: str, size: int, usage: Usage | None) -> None:
        """Take in what a task took."""
        if usage is None or size <= 0:
            return
        if self._on_gpu:
            self._line(stage, "host", BASE).see(1, usage.memory)  # of the size nothing is there
            self._line(stage, "gpu", BASE_ON_GPU).see(size, usage.gpu_memory + BASE_ON_GPU)
        else:
            self._line(stage, "memory", BASE).see(size, usage.memory)

    def __exit__(self, *_: object) -> None:
        """Write them to the store, however the build ends."""
        kept = {name: asdict(line) for name, line in sorted(self._lines.items())}
        with suppress(OSError):  # what ended the build, if anything did, is what matters
            self._store.write(NAME, json.dumps(kept, indent=1).encode())

    def _line(self, stage: str, kind: str, base: int) -> Line:
        return self._lines.setdefault(f"{stage}.{kind}", Line(base))
