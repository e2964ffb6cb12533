"""What a configuration trains on: subsets, label noise, the halves of the test set, pooling, limits."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from zoo import datasets
from zoo.config import TrainConfig
from zoo.datasets import (
    Dataset,
    DataSource,
    dataset_shape,
    halve_test_set,
    load_dataset,
    noisy_labels,
    paper_noisy_labels,
    select,
    subset_rows,
)

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside the repository")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset(DataSource("digits"))


@pytest.fixture(scope="module")
def uneven() -> Dataset:
    """5,000 training images of 2 channels and 3 classes of unequal sizes, each image named by its pixels."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (5_000, 2, 4, 4)).astype(np.uint8)
    labels = random.choice(3, 5_000, p=[0.6, 0.3, 0.1])
    arrays = (images, labels, images[:101], labels[:101])
    for array in arrays:
        array.setflags(write=False)  # as Ray's object store hands them out
    return Dataset("uneven", "f00d", *arrays, 3, (0.5, 0.25), (0.25, 0.5))


def config(dataset: Dataset, amount: int, **settings: Any) -> TrainConfig:
    return TrainConfig(dataset.name, dataset.fingerprint, "mlp", 4, 16, amount, 1_000, **settings)


def test_digits_are_the_same_on_every_machine(digits: Dataset) -> None:
    assert digits.fingerprint == "8810356be6e25504"
    assert digits.train_images.shape == (1_000, 1, 8, 8)
    assert digits.test_labels.shape == (797,)
    assert [a.dtype.name for a in (digits.train_images, digits.train_labels)] == ["uint8", "int64"]


def test_mean_and_deviation_are_those_of_the_training_pixels(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "ROWS_AT_ONCE", 300)
    images = np.stack([digits.train_images[:, 0], np.full((1_000, 8, 8), 51, np.uint8)], axis=1)
    mean, deviation = datasets._scale(images)
    assert mean == pytest.approx((digits.train_images.mean() / 255, 0.2))
    assert deviation == pytest.approx((digits.train_images.std() / 255, 1))
    assert (*digits.mean, *digits.deviation) == pytest.approx((mean[0], deviation[0]))


@pytest.mark.parametrize("amount", [1, 7, 64, 299, 1_000])
def test_subsets_are_balanced_and_nested(digits: Dataset, amount: int) -> None:
    rows = subset_rows(digits, amount)
    counts = np.bincount(digits.train_labels[rows], minlength=10)
    assert len(rows) == amount
    assert np.ptp(counts) <= 1
    assert (np.diff(rows) > 0).all()
    assert (
        set(rows) < set(subset_rows(digits, amount + 1)) if amount < 1_000 else set(rows) == set(range(1_000))
    )


def test_noise_is_nested_and_of_the_rate_asked_for(uneven: Dataset) -> None:
    labels = uneven.train_labels
    changed = {level: noisy_labels(uneven, level, 0) != labels for level in (0.0, 0.1, 0.4)}
    assert not changed[0.0].any()
    assert changed[0.1].mean() == pytest.approx(0.1, abs=0.015)
    assert changed[0.4].mean() == pytest.approx(0.4, abs=0.025)
    assert changed[0.4][changed[0.1]].all()
    few, many = (noisy_labels(uneven, level, 0) for level in (0.1, 0.4))
    np.testing.assert_array_equal(few[changed[0.1]], many[changed[0.1]])


@pytest.mark.parametrize("level", [0.3, 1 - 1e-12])
def test_noise_is_uniform_over_the_other_classes(uneven: Dataset, level: float) -> None:
    """Noise of nearly 1 redraws every label; each of the two others comes half the time, at any noise."""
    noisy = noisy_labels(uneven, level, 0)
    for label in range(3):
        drawn = noisy[uneven.train_labels == label]
        counts = np.bincount(drawn, minlength=3) / len(drawn)
        assert counts[label] == pytest.approx(1 - level, abs=0.06)
        assert np.delete(counts, label) / level == pytest.approx(0.5, abs=0.12)


def test_noise_belongs_to_the_data_set_and_the_noise_seed(uneven: Dataset) -> None:
    noise = noisy_labels(uneven, 0.3, 0)
    assert (noise != noisy_labels(uneven, 0.3, 1)).mean() > 0.3
    assert (noise != noisy_labels(replace(uneven, fingerprint="beef"), 0.3, 0)).mean() > 0.3


def test_noise_is_shared_by_all_configurations(uneven: Dataset) -> None:
    """An image has one noisy label, whichever subset it is in and whoever trains on it."""
    large, small = (
        select(uneven, config(uneven, amount, label_noise=0.3, learning_rate=rate)).train
        for amount, rate in ((4_000, 0.1), (500, 0.2))
    )
    labels_of = {image.numpy().tobytes(): int(label) for image, label in zip(*large, strict=True)}
    assert [labels_of[image.numpy().tobytes()] for image in small.images] == small.labels.tolist()
    assert large.labels.tolist() == noisy_labels(uneven, 0.3, 0)[subset_rows(uneven, 4_000)].tolist()


def test_test_labels_stay_clean(uneven: Dataset) -> None:
    data = select(uneven, config(uneven, 100, label_noise=0.9))
    validation, test = halve_test_set(uneven)
    assert data.validation.labels.tolist() == uneven.test_labels[validation].tolist()
    assert data.test.labels.tolist() == uneven.test_labels[test].tolist()
    assert data.classes == 3


def test_the_paper_recipe_draws_noise_as_published(uneven: Dataset) -> None:
    """Seed 12345, `rand(N) <= noise`, then `choice` over all classes, before the first rows are taken."""
    expected = uneven.train_labels.copy()
    np.random.seed(12345)
    mask = np.random.rand(5_000) <= 0.1
    expected[mask] = np.random.choice(3, mask.sum())
    data = select(uneven, config(uneven, 500, label_noise=0.1, recipe="paper"))
    assert data.train.labels.tolist() == expected[:500].tolist()
    assert (expected[:500] != uneven.train_labels[:500]).any()
    assert (paper_noisy_labels(uneven, 0.1, 1) != expected).any()
    assert paper_noisy_labels(uneven, 0.0, 0).tolist() == uneven.train_labels.tolist()


def test_the_paper_recipe_takes_the_first_rows_and_the_whole_test_set(uneven: Dataset) -> None:
    data = select(uneven, config(uneven, 50, recipe="paper"))
    assert data.train.labels.tolist() == uneven.train_labels[:50].tolist()
    for split in (data.validation, data.test):
        np.testing.assert_allclose(split.images[:, 0], uneven.test_images[:, 0] / 255 * 4 - 2, atol=1e-6)
        assert split.labels.tolist() == uneven.test_labels.tolist()


def test_the_halves_of_the_test_set_are_disjoint_and_stratified(uneven: Dataset, digits: Dataset) -> None:
    for dataset in (uneven, digits):
        halves = halve_test_set(dataset)
        assert sorted(np.concatenate(halves)) == list(range(len(dataset.test_labels)))
        counts = [np.bincount(dataset.test_labels[half], minlength=dataset.classes) for half in halves]
        assert np.abs(counts[0] - counts[1]).max() <= 1
        assert len(halves[0]) - len(halves[1]) == len(dataset.test_labels) % 2
        assert all((np.diff(half) > 0).all() for half in halves)
    other = halve_test_set(replace(uneven, fingerprint="beef"))
    assert set(other[0]) != set(halve_test_set(uneven)[0])


def test_images_are_normalised_by_channel(uneven: Dataset) -> None:
    train = select(uneven, config(uneven, 10)).train
    pixels = uneven.train_images[subset_rows(uneven, 10)] / 255
    np.testing.assert_allclose(train.images[:, 0], (pixels[:, 0] - 0.5) / 0.25, atol=1e-6)
    np.testing.assert_allclose(train.images[:, 1], (pixels[:, 1] - 0.25) / 0.5, atol=1e-6)
    assert (train.images.dtype, train.labels.dtype) == (torch.float32, torch.int64)


def test_pooling_takes_the_mean_of_blocks(uneven: Dataset) -> None:
    full, pooled = (select(uneven, config(uneven, 20, image_size=size)) for size in (4, 2))
    for before, after in (
        (full.train, pooled.train),
        (full.validation, pooled.validation),
        (full.test, pooled.test),
    ):
        blocks = before.images.reshape(-1, 2, 2, 2, 2, 2).mean((3, 5))
        torch.testing.assert_close(after.images, blocks)
        assert after.labels.tolist() == before.labels.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"amount": 5_001}, "data_amount 5001 must be between 1 and 5000, all there are"),
        ({"amount": 0}, "data_amount 0 must be between 1 and 5000"),
        ({"amount": 5, "image_size": 5}, "image_size 5 must be between 1 and 4, the pixels that uneven has"),
    ],
)
def test_what_the_set_does_not_have_is_refused(
    uneven: Dataset, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        select(uneven, config(uneven, **settings))


def test_changed_data_are_refused(uneven: Dataset) -> None:
    with pytest.raises(ValueError, match="planned on data f00d, this uneven is beef: its files have changed"):
        select(replace(uneven, fingerprint="beef"), config(uneven, 10))


def test_one_test_image_cannot_be_halved(uneven: Dataset) -> None:
    one = replace(uneven, test_images=uneven.test_images[:1], test_labels=uneven.test_labels[:1])
    with pytest.raises(ValueError, match="uneven has 1 test images; 2 are needed for validation and test"):
        select(one, config(uneven, 10))


def test_limits_are_balanced_and_nested(digits: Dataset) -> None:
    small, large = (load_dataset(DataSource("digits", None, n, n)) for n in (50, 90))
    for images, labels in (("train_images", "train_labels"), ("test_images", "test_labels")):
        few, many, whole = ([row.tobytes() for row in getattr(d, images)] for d in (small, large, digits))
        assert len(few) == 50
        assert set(few) < set(many) < set(whole)
        assert np.bincount(getattr(small, labels)).tolist() == [5] * 10
        assert [whole.index(row) for row in few] == sorted(whole.index(row) for row in few)
        assert [getattr(digits, labels)[whole.index(row)] for row in few] == getattr(small, labels).tolist()
    assert small.fingerprint != large.fingerprint


@pytest.mark.parametrize("load", [load_dataset, dataset_shape])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            DataSource("digits", None, 1_001),
            "train_limit 1001 must be between 1 and 1000, the images that digits",
        ),
        (
            DataSource("digits", None, None, 0),
            "test_limit 0 must be between 1 and 797, the images that digits has",
        ),
        (DataSource("digit"), "unknown data set 'digit'; known are digits, mnist"),
    ],
)
def test_impossible_sources_are_refused(load: Any, source: DataSource, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(source)


def test_the_shape_is_known_without_the_images() -> None:
    assert dataset_shape(DataSource("cifar100")) == (50_000, 10_000, 3, 32, 100)
    assert dataset_shape(DataSource("fashion-mnist", 14, 2_000, 1_000)) == (2_000, 1_000, 1, 14, 10)
    with pytest.raises(ValueError, match="image_size 29 must be between 1 and 28, the pixels that mnist has"):
        dataset_shape(DataSource("mnist", 29))


def write_copy(dataset: Dataset, folder: Path) -> None:
    """The data set as PNG images in the Hugging Face layout."""
    from io import BytesIO

    from PIL import Image

    folder.mkdir()
    for split in ("train", "test"):
        cells = []
        for image in getattr(dataset, f"{split}_images"):
            buffer = BytesIO()
            Image.fromarray(image[0]).save(buffer, "PNG")
            cells.append({"bytes": buffer.getvalue(), "path": "somewhere.png"})
        pq.write_table(
            pa.table({"image": cells, "label": getattr(dataset, f"{split}_labels")}),
            folder / f"{split}.parquet",
        )


def test_the_fingerprint_is_of_the_content_alone(tmp_path: Path) -> None:
    """Neither path nor file format counts; one pixel or one label does."""
    small = load_dataset(DataSource("digits", None, 30, 20))
    pixel = small.test_images.copy()
    pixel[3, 0, 1, 1] ^= 1
    label = small.train_labels.copy()
    label[0] = (label[0] + 1) % 10
    copies = {
        "a": small,
        "b": small,
        "pixel": replace(small, test_images=pixel),
        "label": replace(small, train_labels=label),
    }
    found = {}
    for name, dataset in copies.items():
        write_copy(dataset, tmp_path / name)
        found[name] = load_dataset(DataSource(f"parquet:{tmp_path / name}"))
    np.testing.assert_array_equal(found["a"].train_images, small.train_images)
    assert found["a"].name == found["b"].name == "parquet"
    assert found["a"].fingerprint == found["b"].fingerprint == small.fingerprint
    assert len({d.fingerprint for d in found.values()}) == 3
    assert dataset_shape(DataSource(f"parquet:{tmp_path / 'a'}", 4, 10)) == (10, 20, 1, 4, 10)


def test_training_and_test_images_must_agree(tmp_path: Path) -> None:
    small = load_dataset(DataSource("digits", None, 30, 20))
    write_copy(replace(small, test_images=small.test_images[..., :7, :7]), tmp_path / "a")
    with pytest.raises(ValueError, match=r"are \(1, 8, 8\), its test images \(1, 7, 7\) .*; convert them to"):
        load_dataset(DataSource(f"parquet:{tmp_path / 'a'}"))


@shared
def test_cifar10_is_normalised_by_the_published_figures() -> None:
    cifar = load_dataset(DataSource("cifar10", None, 40, 20), SHARED)
    assert cifar.mean == (0.4914, 0.4822, 0.4465)
    assert cifar.deviation == (0.2023, 0.1994, 0.2010)
    assert np.bincount(cifar.train_labels).tolist() == [4] * 10
    own = load_dataset(DataSource(f"parquet:{SHARED / 'cifar10'}", None, 40, 20))
    assert np.array_equal(own.train_images, cifar.train_images)
    assert own.fingerprint != cifar.fingerprint, "the same images under another normalisation are other data"
    assert own.mean == pytest.approx(own.train_images.mean((0, 2, 3)) / 255)


def test_reading_a_set_needs_no_torch() -> None:
    program = (
        "import sys\n"
        "from zoo.datasets import DataSource, load_dataset\n"
        "print(load_dataset(DataSource('digits')).fingerprint, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["8810356be6e25504", "False"]
