"""Training: runs a second of the train stage against a plain DataLoader loop, in the same run.

    python benchmarks/bench_training.py [--rounds 3]

Both sides train the same runs of `cnn` at width 8 on Fashion-MNIST at 14 pixels (digits where that is absent),
float32, and score them on the training, validation and test images. The plain side is what a researcher would
write: TensorDataset, DataLoader, SGD, one process. It is timed with one thread and with torch's default; the
ratio is to the faster. Rounds alternate between the sides; the median and the range of the ratios are printed.
At the end a whole build says where its time goes.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from cluster import driver
from cluster.executors import each
from cluster.ray_executor import RayExecutor
from zoo import stages
from zoo.config import Run, TrainConfig
from zoo.datasets import Dataset, DataSource, RunData, load_dataset, select
from zoo.models import image_shape, initial_model
from zoo.spec import parse_spec
from zoo.stacks import Stack
from zoo.storage import Folder

RUNS = 8
SPEC = """
name = "bench"
[settings]
dataset = "{dataset}"
architecture = "cnn"
sample_passes = 8_000
{size}
[[grids]]
width = [2, 8]
batch_size = [8, 32, 128]
data_amount = 512
seeds = 4
"""


def plain_loop(config: TrainConfig, data: RunData, dataset: Dataset) -> None:
    """Train and score one run as anyone would."""
    model = initial_model(config.architecture, config.width, image_shape(dataset, config), 0)
    optimiser = torch.optim.SGD(model.parameters(), lr=config.learning_rate, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(TensorDataset(*data.train), config.batch_size, shuffle=True, drop_last=True)
    step = 0
    while step < config.steps:
        for images, labels in loader:
            optimiser.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimiser.step()
            step += 1
            if step == config.steps:
                break
    model.eval()
    for split in (data.train, data.validation, data.test):
        wrong = 0
        with torch.no_grad():
            for images, labels in DataLoader(TensorDataset(*split), 1000):
                wrong += int((model(images).argmax(1) != labels).sum())


def seconds(function: object, *arguments: object) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    function(*arguments)  # type: ignore[operator]
    return time.perf_counter() - began


def train_all(executor: RayExecutor, stacks: list[Stack], handle: object, store: Folder) -> None:
    """Our training stage."""
    for outcome in executor.run(each(stages.train, stacks, handle, store)):
        assert outcome.error is None, outcome.error


def compare(executor: RayExecutor, dataset: Dataset, size: int | None, batch_size: int, rounds: int) -> str:
    """Runs a second of both sides at one batch size."""
    config = TrainConfig(
        *(dataset.name, dataset.fingerprint, "cnn"),
        width=8,
        batch_size=batch_size,
        data_amount=min(4_096, len(dataset.train_labels)),
        sample_passes=20_000,
        image_size=size,
    )
    data, handle, cores = select(dataset, config), executor.share(dataset), os.cpu_count() or 1
    runs, size_of_stack = [Run(config, seed) for seed in range(RUNS)], RUNS // (2 * cores) or 1
    stacks = [Stack(tuple(runs[i : i + size_of_stack])) for i in range(0, RUNS, size_of_stack)]
    ours, plain = [], {1: [], cores: []}
    for number in range(rounds + 1):  # the first warms workers and caches
        for threads, times in plain.items():
            torch.set_num_threads(threads)
            times.append(seconds(plain_loop, config, data, dataset))
        with tempfile.TemporaryDirectory() as folder:
            store = Folder(Path(folder))
            ours.append(seconds(train_all, executor, stacks, handle, store) / RUNS)
        if number == 0:
            ours.clear()
            [times.clear() for times in plain.values()]
    best = min(plain.values(), key=statistics.median)
    ratios = [p / o for p, o in zip(best, ours, strict=True)]
    return (
        f"batch {batch_size:>3}: plain loop {1 / statistics.median(plain[1]):5.2f} runs/s with one thread, "
        f"{1 / statistics.median(plain[cores]):5.2f} with {cores}; train stage {1 / statistics.median(ours):5.2f} "
        f"runs/s: {statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def shares(executor: RayExecutor, dataset: str, size: int | None) -> str:
    """Where the time of a whole build goes."""
    spec = parse_spec(SPEC.format(dataset=dataset, size=f"image_size = {size}" if size else ""))
    with tempfile.TemporaryDirectory() as folder:
        summary = driver.build(spec, Path(folder), executor)
    total = sum(summary.seconds.values())
    parts = ", ".join(f"{stage} {100 * part / total:.0f}%" for stage, part in summary.seconds.items())
    return f"a build of {summary.trained} runs: {total:.1f} s, {summary.trained / total:.2f} runs/s; {parts}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    name, size = "fashion-mnist", 14
    try:
        loaded = load_dataset(DataSource(name))
    except (ConnectionError, ValueError):
        name, size = "digits", None
        loaded = load_dataset(DataSource(name))
    print(f"cnn, width 8, {name}, {size or 8} pixels, 20,000 sample passes a run, {os.cpu_count()} cores")
    with RayExecutor() as executor:
        for batch_size in (32, 128):
            print(compare(executor, loaded, size, batch_size, rounds), flush=True)
        print(shares(executor, name, size))
    peaks = [
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(f"peak memory: driver {peaks[0]:,.0f} MiB, largest other process {peaks[1]:,.0f} MiB")
