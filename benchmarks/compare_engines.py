"""Whether networks of the lane engine are those of the plain loop: their errors over many seeds, by distribution.

    python benchmarks/compare_engines.py [--spec fashion] [--seeds 64] [--passes 4000]          # half an hour

After some steps two engines differ, as training is chaotic: what has to agree are the distributions. At each corner
of a spec's grid both engines train the same seeds; the two-sample Kolmogorov-Smirnov test compares their final
training and test errors, and Holm's correction keeps the chance of a single false alarm among all tests at 1%.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy.stats import ks_2samp

from zoo.config import Run, TrainConfig
from zoo.datasets import Dataset
from zoo.plan import make_plan
from zoo.spec import read_spec
from zoo.stacks import Stack
from zoo.training import train_stack

LEVEL = 0.01
AXES = ("width", "batch_size", "data_amount", "label_noise")
SIDES = ("train", "test")


def corners(configs: Sequence[TrainConfig]) -> Iterator[TrainConfig]:
    """The configurations at the least and largest value of every axis."""
    ends = {axis: {f(getattr(c, axis) for c in configs) for f in (min, max)} for axis in AXES}
    for config in configs:
        if all(getattr(config, axis) in ends[axis] for axis in AXES):
            yield config


def errors(config: TrainConfig, dataset: Dataset, seeds: int, engine: str) -> dict[str, list[float]]:
    """Final errors in percent of so many seeds; of one that diverged, above all others."""
    results = train_stack(Stack(tuple(Run(config, seed) for seed in range(seeds))), dataset, engine)
    return {side: [r.scores.get(f"{side}_error", 200.0) for r in results] for side in SIDES}


def p_values(config: TrainConfig, dataset: Dataset, seeds: int) -> dict[str, float]:
    """Of the Kolmogorov-Smirnov test, by side."""
    plain, lanes = (errors(config, dataset, seeds, engine) for engine in ("loop", "lanes"))
    return {side: float(ks_2samp(plain[side], lanes[side]).pvalue) for side in SIDES}


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm, A simple sequentially rejective multiple test procedure, 1979)."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(np.asarray(p)[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.tolist()


def main(spec: str, seeds: int, passes: int | None) -> None:
    """Train, compare and print; exits with 1 if the engines differ."""
    torch.set_num_threads(1)
    plan = make_plan(read_spec(spec))
    found = []
    for config in corners([config for config, _ in plan.configurations()]):
        shorter = dataclasses.replace(
            config, sample_passes=min(passes or config.sample_passes, config.sample_passes)
        )
        for side, p in p_values(shorter, plan.datasets[config.data_fingerprint], seeds).items():
            found.append((config, side, p))
            print(*(f"{axis} {getattr(config, axis)}" for axis in AXES), side, f"p {p:.3f}", flush=True)
    least = min(holm([p for *_, p in found]))
    print(f"{len(found)} tests, {seeds} seeds each; the least p after Holm's correction is {least:.3f}")
    if least < LEVEL:
        raise SystemExit(f"the engines differ: {least:.4f} is below {LEVEL}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", default="fashion")
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--passes", type=int, help="Images that a network sees; as in the spec if not given.")
    options = parser.parse_args()
    main(options.spec, options.seeds, options.passes)
