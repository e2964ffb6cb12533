"""Data sets in memory, and the images and labels that a configuration trains on.

`load_dataset` reads a set once, as plain uint8 arrays that processes share; `select` takes from it what one
configuration asks for: its subset, its label noise, its image size. Subsets are nested and class-balanced,
noise belongs to the data set, and the official test set is split into a half that features may read
(validation) and one that labels read (test). Reading needs no torch; `select` does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.config import TrainConfig, content_id, seed_of
from zoo.image_files import RawSplit
from zoo.sources import PREFIX, DatasetShape, balanced_order, read_shape, read_source

if TYPE_CHECKING:
    from torch import Tensor

PUBLISHED_SCALE = {"cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))}
"""Mean and deviation of each channel where the field has settled on figures; elsewhere they are computed."""

PAPER_NOISE_SEED = 12345
ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class DataSource:
    """What a spec says about its data.

    Attributes:
        name: `digits`, `fashion-mnist`, ... or `parquet:DIR`, see `zoo.sources`.
        image_size: Height and width in pixels after average pooling; None keeps the images as they are.
        train_limit: Training images to keep, class-balanced; None keeps all.
        test_limit: Test images to keep, class-balanced; None keeps all.
    """

    name: str
    image_size: int | None = None
    train_limit: int | None = None
    test_limit: int | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory, after limits, as plain arrays that may be read-only.

    Attributes:
        name: Name of the set; `parquet` for any `parquet:DIR`, as a path is no identity.
        fingerprint: 16 hexadecimal digits: hash of the shapes, the number of classes and all bytes below, and
            of mean and deviation where they are not computed from the images.
        train_images: uint8 [N, C, H, W].
        train_labels: int64 [N].
        test_images: uint8 [M, C, H, W].
        test_labels: int64 [M].
        classes: Number of classes.
        mean: Mean of each channel of the training images, whose pixels are taken as 0..1.
        deviation: Standard deviation of each channel, likewise; 1 where it is zero.
    """

    name: str
    fingerprint: str
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    classes: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class Split(NamedTuple):
    """Normalised images, float32 [N, C, H, W], and labels, int64 [N]."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class RunData:
    """The images and labels of one configuration, the same for all its seeds."""

    train: Split
    validation: Split
    test: Split
    classes: int


def load_dataset(source: DataSource, data_dir: Path | None = None) -> Dataset:
    """Reads a data set into memory.

    Args:
        source: Which set, and how much of it; `image_size` is left to `select`.
        data_dir: Where to look for its files, and where to download them to; the user's cache by default.

    Raises:
        ValueError: If the name is unknown, a file is damaged, or a limit is not between 1 and the images
            there are.
        ConnectionError: If the set has to be downloaded and cannot be.
    """
    raw = read_source(source.name, data_dir)
    name = "parquet" if source.name.startswith(PREFIX) else source.name
    train_images, train_labels = _limited(raw.train, source.train_limit, "train_limit", name)
    test_images, test_labels = _limited(raw.test, source.test_limit, "test_limit", name)
    if train_images.shape[1:] != test_images.shape[1:]:
        raise ValueError(
            f"the training images of {source.name} are {train_images.shape[1:]}, its test images "
            f"{test_images.shape[1:]} (channels, height, width); convert them to one size and mode"
        )
    arrays = (train_images, train_labels, test_images, test_labels)
    published = PUBLISHED_SCALE.get(name)
    mean, deviation = published or _scale(train_images)
    fingerprint = _fingerprint(arrays, raw.classes, published)
    return Dataset(name, fingerprint, *arrays, raw.classes, mean, deviation)


def dataset_shape(source: DataSource, data_dir: Path | None = None) -> DatasetShape:
    """The shape that `load_dataset` and `select` will give, without reading the images.

    Args:
        source: Which set, and how much of it.
        data_dir: Not looked at, as the shapes of named sets are known; here to be called like `load_dataset`.

    Raises:
        ValueError: If the name is unknown, or a limit or the image size exceeds what the set has.
    """
    shape = read_shape(source.name)
    train = _checked_limit(source.train_limit, shape.train_images, "train_limit", source.name)
    test = _checked_limit(source.test_limit, shape.test_images, "test_limit", source.name)
    size = _checked_size(source.image_size, shape.image_size, source.name)
    return shape._replace(train_images=train, test_images=test, image_size=size)


def select(dataset: Dataset, config: TrainConfig) -> RunData:
    """The data of one configuration: subset, label noise, test halves, pooling, normalisation.

    The recipe `paper` does as Zhou et al. (MD tree, ICML 2024) did: the subset is the first rows, redrawn
    labels may fall on the true class, and the whole test set serves as validation and as test.

    Args:
        dataset: The data set that the configuration names.
        config: The configuration; its seed has no say here.

    Raises:
        ValueError: If the configuration names other data, or more images or pixels than there are.
    """
    if config.data_fingerprint != dataset.fingerprint:
        raise ValueError(
            f"the configuration was planned on data {config.data_fingerprint}, this {dataset.name} is "
            f"{dataset.fingerprint}: its files have changed; restore them or plan a new zoo"
        )
    available = len(dataset.train_labels)
    if not 1 <= config.data_amount <= available:
        raise ValueError(f"data_amount {config.data_amount} must be between 1 and {available}, all there are")
    size = _checked_size(config.image_size, dataset.train_images.shape[-1], dataset.name)
    paper = config.recipe == "paper"
    halves = [np.arange(len(dataset.test_labels))] * 2 if paper else halve_test_set(dataset)
    validation, test = (
        _split(dataset, dataset.test_images, dataset.test_labels, half, size) for half in halves
    )
    labels, rows = _train_labels(dataset, config), _train_rows(dataset, config)
    train = _split(dataset, dataset.train_images, labels, rows, size)
    return RunData(train, validation, test, dataset.classes)


def select_alike(dataset: Dataset, configs: Sequence[TrainConfig]) -> list[RunData]:
    """`select` for configurations that differ in the noise of their labels only; images are held once.

    Args:
        dataset: The data set that they name.
        configs: At least one.
    """
    import torch

    shared = select(dataset, configs[0])
    rows = _train_rows(dataset, configs[0])
    labels = {
        noise: torch.from_numpy(_train_labels(dataset, config)[rows])
        for noise, config in {(c.label_noise, c.noise_seed): c for c in configs}.items()
    }
    own = {noise: replace(shared, train=Split(shared.train.images, noisy)) for noise, noisy in labels.items()}
    return [own[c.label_noise, c.noise_seed] for c in configs]


def _train_rows(dataset: Dataset, config: TrainConfig) -> NDArray[np.int64]:
    if config.recipe == "paper":
        return np.arange(config.data_amount)
    return subset_rows(dataset, config.data_amount)


def _train_labels(dataset: Dataset, config: TrainConfig) -> NDArray[np.int64]:
    noise = paper_noisy_labels if config.recipe == "paper" else noisy_labels
    return noise(dataset, config.label_noise, config.noise_seed)


def subset_rows(dataset: Dataset, amount: int) -> NDArray[np.int64]:
    """Ascending rows of a class-balanced training subset, which every larger subset contains."""
    return np.sort(balanced_order(dataset.train_labels, "subset", dataset.fingerprint)[:amount])


def noisy_labels(dataset: Dataset, label_noise: float, noise_seed: int) -> NDArray[np.int64]:
    """All training labels, each redrawn with probability `label_noise`, uniformly over the other classes.

    A larger noise keeps every label that a smaller one redrew.

    Args:
        dataset: The data set, to which the noise belongs.
        label_noise: Share of labels to redraw, in [0, 1).
        noise_seed: Which draw.

    Returns:
        int64 [N].
    """
    generator = np.random.Generator(np.random.Philox(seed_of("noise", dataset.fingerprint, noise_seed)))
    when, which = generator.random((2, len(dataset.train_labels)))
    steps = 1 + np.floor(which * (dataset.classes - 1)).astype(np.int64)
    redrawn = (dataset.train_labels + steps) % dataset.classes
    return np.where(when < label_noise, redrawn, dataset.train_labels)


def paper_noisy_labels(dataset: Dataset, label_noise: float, noise_seed: int) -> NDArray[np.int64]:
    """All training labels with noise as published: one legacy stream, the true class among the draws.

    Args:
        dataset: The data set.
        label_noise: Share of labels to redraw, in [0, 1).
        noise_seed: Which draw; 0 is the published one.

    Returns:
        int64 [N].
    """
    labels = dataset.train_labels.copy()
    if label_noise:
        stream = np.random.RandomState(PAPER_NOISE_SEED + noise_seed)
        drawn = stream.rand(len(labels)) <= label_noise
        labels[drawn] = stream.choice(dataset.classes, drawn.sum())
    return labels


def halve_test_set(dataset: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ascending rows of the test set for validation and for test: disjoint, stratified by class.

    Raises:
        ValueError: If there are fewer than two test images.
    """
    labels = dataset.test_labels
    if len(labels) < 2:
        raise ValueError(
            f"{dataset.name} has {len(labels)} test images; 2 are needed for validation and test"
        )
    draw = np.random.Generator(np.random.Philox(seed_of("halves", dataset.fingerprint))).random(len(labels))
    by_class = np.lexsort((draw, labels))
    return np.sort(by_class[::2]), np.sort(by_class[1::2])


def _limited(
    raw: RawSplit, limit: int | None, key: str, name: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    count = len(raw.labels)
    kept = _checked_limit(limit, count, key, name)
    rows = np.arange(count) if kept == count else np.sort(balanced_order(raw.labels, "limit", key)[:kept])
    return raw.images(rows), raw.labels[rows]


def _checked_limit(limit: int | None, count: int, key: str, name: str) -> int:
    if limit is not None and not 1 <= limit <= count:
        raise ValueError(f"{key} {limit} must be between 1 and {count}, the images that {name} has")
    return count if limit is None else limit


def _checked_size(image_size: int | None, pixels: int, name: str) -> int:
    if image_size is not None and not 1 <= image_size <= pixels:
        raise ValueError(
            f"image_size {image_size} must be between 1 and {pixels}, the pixels that {name} has"
        )
    return pixels if image_size is None else image_size


def _fingerprint(
    arrays: tuple[NDArray[np.uint8] | NDArray[np.int64], ...], classes: int, published: object
) -> str:
    """Hash of what models will see; a normalisation that is not computed from the images is a part of it."""
    parts = [(array.shape, content_id(array.tobytes(), digits=64)) for array in arrays]
    return content_id(json.dumps((classes, parts, published) if published else (classes, parts)))


def _scale(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, exact from the counts of the 256 grey levels."""
    levels = np.arange(256) / 255
    counts = np.zeros((images.shape[1], 256), np.int64)
    for start in range(0, len(images), ROWS_AT_ONCE):
        for channel, count in enumerate(counts):
            count += np.bincount(images[start : start + ROWS_AT_ONCE, channel].ravel(), minlength=256)
    shares = counts / counts.sum(1, keepdims=True)
    mean = shares @ levels
    deviation = np.sqrt((shares * (levels - mean[:, None]) ** 2).sum(1))
    return tuple(mean.tolist()), tuple(np.where(deviation > 0, deviation, 1.0).tolist())


def _split(
    dataset: Dataset, images: NDArray[np.uint8], labels: NDArray[np.int64], rows: NDArray[np.int64], size: int
) -> Split:
    """Rows as tensors: pixels to 0..1, average pooling to `size`, normalisation."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    pixels = torch.from_numpy(images[rows]).float().div_(255)
    if size != pixels.shape[-1]:
        pixels = adaptive_avg_pool2d(pixels, size)
    mean, deviation = (torch.tensor(v).view(-1, 1, 1) for v in (dataset.mean, dataset.deviation))
    return Split(pixels.sub_(mean).div_(deviation), torch.from_numpy(labels[rows]))
