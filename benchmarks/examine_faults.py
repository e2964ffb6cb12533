"""How often an examination names a known fault, on fresh networks that are in no zoo.

    python benchmarks/examine_faults.py --against ZOO [--data-dir DIR]

Trains twenty networks on Fashion-MNIST at 14 pixels, four of each fault: a batch far too large, one far too small,
too narrow a model, 5% of the data, 20% noisy labels; of seeds that no zoo has, and a twin of each. Examines each
alone, and with its twin, and prints a Markdown table of the true fault against the answer.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, TensorDataset

from diagnose import examine, reference_of
from zoo.config import Run, TrainConfig
from zoo.datasets import Dataset, DataSource, Split, load_dataset, select
from zoo.models import build_model, image_shape
from zoo.stacks import Stack
from zoo.training import train_stack

SOUND: dict[str, Any] = {
    "image_size": 14,
    "batch_size": 32,
    "data_amount": 4_096,
    "sample_passes": 40_000,
    "learning_rate": 0.3,
}


class Fault(NamedTuple):
    """What is wrong, the remedy, and what it changes of a sound training."""

    name: str
    remedy: str
    changes: dict[str, Any]


FAULTS = (
    Fault("batch far too large", "inc_temperature", {"batch_size": 512}),
    Fault("batch far too small", "dec_temperature", {"batch_size": 4}),
    Fault("too narrow", "width", {}),
    Fault("5% of the data", "data", {"data_amount": 205}),
    Fault("20% noisy labels", "labels", {"label_noise": 0.2}),
)
WIDTHS = (6, 12)
NARROW = (1, 3)
SEEDS = (1_000, 2_000)


def cases() -> Iterator[tuple[Fault, int, int]]:
    """Each fault with its widths and seeds."""
    for fault in FAULTS:
        for width in NARROW if fault.remedy == "width" else WIDTHS:
            for seed in SEEDS:
                yield fault, width, seed


def loader(split: Split) -> DataLoader[tuple[torch.Tensor, ...]]:
    """The images of a split."""
    return DataLoader(TensorDataset(split.images, split.labels), 512)


def trained(dataset: Dataset, fault: Fault, width: int, seed: int) -> tuple[list[torch.nn.Module], Any]:
    """A network with a fault, its twin, and their data."""
    config = TrainConfig("fashion-mnist", dataset.fingerprint, "cnn", width, **(SOUND | fault.changes))
    shape, models = image_shape(dataset, config), []
    for result in train_stack(Stack((Run(config, seed), Run(config, seed + 1))), dataset):
        assert result.weights is not None, result.reason
        model = build_model("cnn", width, shape)
        model.load_state_dict(result.weights)
        models.append(model.eval())
    return models, select(dataset, config)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", required=True)
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset, reference = (
        load_dataset(DataSource("fashion-mnist"), options.data_dir),
        reference_of(options.against),
    )
    print("| fault | remedy | width | training error % | error % | alone | with a twin | farther than |")
    print("| --- | --- | ---: | ---: | ---: | --- | --- | ---: |")
    right: Counter[str] = Counter()
    for fault, width, seed in cases():
        models, data = trained(dataset, fault, width, seed)
        loaders = {"train_loader": loader(data.train), "test_loader": loader(data.validation)}
        alone = examine(models[0], **loaders, against=reference)
        both = examine(*models, **loaders, against=reference)
        cells = []
        for name, found in (("alone", alone), ("twin", both)):
            ranked = sorted(found.remedy.probabilities.items(), key=lambda item: -item[1])
            right[name] += ranked[0][0] == fault.remedy
            right[f"{name}, second"] += fault.remedy in (ranked[0][0], ranked[1][0])
            mark = "**" if ranked[0][0] == fault.remedy else ""
            second = f", {ranked[1][0]} {100 * ranked[1][1]:.0f}%"
            cells.append(f"{mark}{ranked[0][0]}{mark} {100 * ranked[0][1]:.0f}%{second}")
        errors = f"{both.features['train_error']:.1f} | {both.features['validation_error']:.1f}"
        far = f"{both.distance.percentile:.0f}%"
        print(
            f"| {fault.name} | {fault.remedy} | {width} | {errors} | {' | '.join(cells)} | {far} |",
            flush=True,
        )
    print({name: f"{count} of 20" for name, count in right.items()})


if __name__ == "__main__":
    main()
