"""The whole default set of metrics against training: seconds a run of a shipped spec.

    python benchmarks/bench_measure.py [--spec fashion] [--width 8] [--recipe default]  # 31 s at width 2, 6 min at 16

Trains eight runs of each configuration of that width without label noise, measures the first and the ring of pairs,
on one thread, both in lanes where there are kernels. A line a metric: seconds a run, as a share of training, and
sample passes likewise; then the sum. A pair counts once a run, as a ring has as many pairs as runs. Training counts
three passes an image and step.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from typing import NamedTuple

import torch
from torch import nn

from zoo.config import Run, TrainConfig
from zoo.datasets import Dataset, select
from zoo.engines.lane_library import library
from zoo.landscape.connectivity import Pair
from zoo.landscape.hessian import GRADIENT_PASSES
from zoo.landscape.measure import RECIPES, measure_pairs, measure_run
from zoo.models import image_shape, initial_model
from zoo.plan import make_plan
from zoo.spec import read_spec
from zoo.stacks import Stack
from zoo.training import train_stack

RUNS = 8
"""Of a configuration."""


class Cost(NamedTuple):
    """Seconds, and forward passes of one image."""

    seconds: float = 0.0
    passes: float = 0.0

    def plus(self, seconds: float, passes: float) -> Cost:
        """The sum."""
        return Cost(self.seconds + seconds, self.passes + passes)


def trained(config: TrainConfig, dataset: Dataset) -> tuple[list[nn.Module], float]:
    """Some models, and the seconds that one took."""
    began = time.perf_counter()
    engine = "lanes" if library() is not None else "loop"
    results = train_stack(Stack(tuple(Run(config, seed) for seed in range(RUNS))), dataset, engine)
    seconds = (time.perf_counter() - began) / RUNS
    models = []
    for result in results:
        if result.weights is None:
            return [], seconds
        model = initial_model(config.architecture, config.width, image_shape(dataset, config), 0)
        model.load_state_dict(result.weights)
        models.append(model.eval())
    return models, seconds


def main(spec: str, width: int, recipe_name: str) -> None:
    """Train, measure and print."""
    plan = make_plan(read_spec(spec))
    training, metrics = Cost(), defaultdict[str, Cost](Cost)
    count = 0
    for config, _ in plan.configurations():
        if config.width != width or config.label_noise:
            continue
        dataset = plan.datasets[config.data_fingerprint]
        models, seconds = trained(config, dataset)
        if not models:
            continue
        count += 1
        training = training.plus(seconds, float(GRADIENT_PASSES * config.sample_passes))
        recipe = RECIPES[recipe_name].for_data_fraction(config.data_amount / len(dataset.train_labels))
        data = select(dataset, config)
        untrained = initial_model(config.architecture, width, image_shape(dataset, config), 7)
        rows = measure_run(models[0], data, recipe, ("bench",))
        ring = [Pair(models[k - 1], models[k], untrained) for k in range(RUNS)]
        rows += measure_pairs(ring, [data] * RUNS, recipe, [("bench", str(k)) for k in range(RUNS)])[0]
        seen = set()
        for row in rows:
            if row["seconds"] not in seen:  # rows of one computation carry its whole time each
                seen.add(row["seconds"])
                metrics[row["metric"]] = metrics[row["metric"]].plus(row["seconds"], row["sample_passes"])
    print(f"{count} configurations of {spec}, width {width}; training {training.seconds / count:.2f} s a run")
    total = Cost()
    for name, cost in [*metrics.items(), ("all", total)]:
        total = total.plus(*cost)
        cost = cost if name != "all" else total
        print(
            f"{name:<26} {1e3 * cost.seconds / count:9.1f} ms  {cost.seconds / training.seconds:6.1%} of training  "
            f"{cost.passes / count:9,.0f} passes  {cost.passes / training.passes:6.1%}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", default="fashion")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--recipe", default="default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    main(options.spec, options.width, options.recipe)
