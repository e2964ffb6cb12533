"""Data sets by name: what is found where, what a download leaves behind, and what is said when it fails."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import socket
import struct
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io
import torchvision

from zoo import sources
from zoo.sources import PUBLISHED, DatasetShape, balanced_order, read_shape, read_source

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
TINY = DatasetShape(6, 4, 1, 5, 10)
IDX_FILES = PUBLISHED["mnist"].files


@pytest.fixture
def tiny_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST and Fashion-MNIST of 6 + 4 images of 5 pixels, and no files of the system."""
    for name in ("mnist", "fashion-mnist"):
        monkeypatch.setitem(PUBLISHED, name, PUBLISHED[name]._replace(shape=TINY))
    monkeypatch.setattr(sources, "SYSTEM_FOLDERS", {})


@pytest.fixture
def closed_port() -> str:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def tiny_arrays() -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [
        random.integers(0, high, shape).astype(np.uint8)
        for high, shape in ((256, (6, 5, 5)), (10, 6), (256, (4, 5, 5)), (10, 4))
    ]


def write_idx(folder: Path, arrays: list[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(IDX_FILES, arrays, strict=True):
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))


def test_digits_are_those_of_scikit_learn() -> None:
    """Every image is there once; training is class-balanced; the draw is fixed."""
    from sklearn.datasets import load_digits

    raw = read_source("digits")
    shape = PUBLISHED["digits"].shape
    images = np.concatenate([s.images(np.arange(len(s.labels))) for s in (raw.train, raw.test)])
    labels = np.concatenate([raw.train.labels, raw.test.labels])
    data, target = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 64) / 255 * 16).round()
    assert sorted(np.column_stack([pixels, labels]).tolist()) == sorted(
        np.column_stack([data, target]).tolist()
    )
    assert images.max() == 255
    assert np.bincount(raw.train.labels).tolist() == [100] * 10
    assert (len(raw.train.labels), len(raw.test.labels), *images.shape[1:3], raw.classes) == shape
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "2068b5d885172bd9"


def test_balanced_order_is_balanced_at_any_length() -> None:
    labels = np.random.default_rng(0).choice(4, 200, p=[0.4, 0.3, 0.2, 0.1])
    order = balanced_order(labels, "a")
    total = np.bincount(labels)
    assert sorted(order) == list(range(200))
    for amount in range(201):
        counts = np.bincount(labels[order[:amount]], minlength=4)
        assert all(counts.max() - c <= 1 or c == t for c, t in zip(counts, total, strict=True))
    assert order.tolist() == balanced_order(labels, "a").tolist()
    assert order.tolist() != balanced_order(labels, "b").tolist()


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    message = "unknown data set 'cifar'; known are digits, mnist, .*, svhn and parquet:DIR"
    with pytest.raises(ValueError, match=message):
        read_shape("cifar")
    with pytest.raises(ValueError, match=message):
        read_source("cifar", tmp_path)


@pytest.mark.usefixtures("tiny_mnist")
@pytest.mark.parametrize("below", ["", "mnist", "MNIST/raw", "mnist/MNIST/raw"])
def test_idx_files_are_found_below_the_data_folder(tmp_path: Path, below: str) -> None:
    arrays = tiny_arrays()
    write_idx(tmp_path / below, arrays)
    raw = read_source("mnist", tmp_path)
    np.testing.assert_array_equal(raw.train.images(np.array([0, 5])), arrays[0][[0, 5], None])
    np.testing.assert_array_equal(raw.train.labels, arrays[1])
    np.testing.assert_array_equal(raw.test.images(np.arange(4)), arrays[2][:, None])
    np.testing.assert_array_equal(raw.test.labels, arrays[3])


@pytest.mark.usefixtures("tiny_mnist")
def test_the_cache_folder_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, folder in (("XDG_CACHE_HOME", tmp_path / "a"), ("HOME", tmp_path / "b")):
        monkeypatch.setenv(variable, str(folder))
        cache = folder / ("mdzoo" if variable == "XDG_CACHE_HOME" else ".cache/mdzoo")
        write_idx(cache, tiny_arrays())
        assert len(read_source("mnist").train.labels) == 6
        monkeypatch.delenv(variable)


@pytest.mark.usefixtures("tiny_mnist")
def test_the_systems_files_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = tiny_arrays()
    write_idx(tmp_path / "system", arrays)
    monkeypatch.setattr(sources, "SYSTEM_FOLDERS", {"fashion-mnist": tmp_path / "system"})
    mine = tmp_path / "mine"
    np.testing.assert_array_equal(read_source("fashion-mnist", mine).train.labels, arrays[1])
    other = [*arrays[:1], (arrays[1] + 1) % 10, *arrays[2:]]
    write_idx(mine, other)
    np.testing.assert_array_equal(read_source("fashion-mnist", mine).train.labels, other[1])


def test_fashion_mnist_of_the_system(tmp_path: Path) -> None:
    """Per-channel mean and deviation of the training pixels as the field quotes them: 0.2860, 0.3530."""
    if not sources.SYSTEM_FOLDERS["fashion-mnist"].is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    raw = read_source("fashion-mnist", tmp_path)
    pixels = raw.train.images(np.arange(60_000))
    assert pixels.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert pixels.std() / 255 == pytest.approx(0.3530, abs=5e-5)
    assert np.bincount(raw.test.labels).tolist() == [1_000] * 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("tiny_mnist")
def test_a_set_of_another_shape_is_not_the_named_one(tmp_path: Path) -> None:
    arrays = tiny_arrays()
    write_idx(tmp_path, [arrays[0][:5], arrays[1][:5], *arrays[2:]])
    with pytest.raises(
        ValueError, match=r"has \(5, 4, 1, 5, 10\) under the name of mnist, which is \(6, 4, 1,"
    ):
        read_source("mnist", tmp_path)


@pytest.mark.usefixtures("tiny_mnist")
def test_labels_outside_the_classes_are_refused(tmp_path: Path) -> None:
    arrays = tiny_arrays()
    arrays[3][2] = 10
    write_idx(tmp_path, arrays)
    with pytest.raises(
        ValueError, match=r"t10k-labels-idx1-ubyte.gz has the label 10 in row 2, outside 0..9"
    ):
        read_source("mnist", tmp_path)


@pytest.mark.usefixtures("tiny_mnist")
def test_no_network_is_said_at_once_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: str
) -> None:
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [closed_port])
    start = time.monotonic()
    with pytest.raises(
        ConnectionError, match=r"(?s)mnist is not on this machine.* put train-images-idx3-ubyte"
    ) as e:
        read_source("mnist", tmp_path / "data")
    assert time.monotonic() - start < 15
    assert f"(or train.parquet, test.parquet) into {tmp_path / 'data' / 'mnist'}, or use" in str(e.value)
    assert "needs no network: digits or parquet:DIR" in str(e.value)
    assert list((tmp_path / "data").iterdir()) == []
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_no_network_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: str, name: str
) -> None:
    published = getattr(torchvision.datasets, PUBLISHED[name].torchvision)
    monkeypatch.setattr(published, "url", closed_port, raising=False)
    if name == "svhn":
        monkeypatch.setattr(published, "split_list", {"train": [closed_port, "train_32x32.mat", ""]})
    with pytest.raises(
        ConnectionError, match=f"{name} is not on this machine .* put {PUBLISHED[name].files[0]}"
    ):
        read_source(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def serve_files(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], damaged: str = "") -> None:
    """Makes torchvision's MNIST download these files from a folder that stands for the network."""

    def retrieve(url: str, filename: str, **_: object) -> None:
        name = url.rsplit("/", 1)[1]
        Path(filename).write_bytes(files[name][: -1 if name == damaged else None])

    resources = [(name, hashlib.md5(data).hexdigest()) for name, data in files.items()]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1/"])
    monkeypatch.setattr(torchvision.datasets.utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", retrieve)


@pytest.mark.usefixtures("tiny_mnist")
def test_a_download_is_complete_and_read_from_the_cache_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = tiny_arrays()
    files = {f"{n}.gz": gzip.compress(idx(a)) for n, a in zip(IDX_FILES, arrays, strict=True)}
    serve_files(monkeypatch, files)
    assert read_source("mnist", tmp_path).train.labels.tolist() == arrays[1].tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["mnist"]
    monkeypatch.setattr(sources, "_torchvision_set", None)  # a second download would fail
    assert read_source("mnist", tmp_path).test.labels.tolist() == arrays[3].tolist()


@pytest.mark.usefixtures("tiny_mnist")
def test_a_download_with_a_wrong_checksum_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{n}.gz": gzip.compress(idx(a)) for n, a in zip(IDX_FILES, tiny_arrays(), strict=True)}
    serve_files(monkeypatch, files, damaged="t10k-labels-idx1-ubyte.gz")
    with pytest.raises(ValueError, match=r"(?s)the download of mnist has a wrong checksum .*; run again"):
        read_source("mnist", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("tiny_mnist")
def test_a_process_that_comes_second_takes_the_first_ones_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = tiny_arrays()

    def download(name: str, folder: Path, train: bool, download: bool) -> None:
        write_idx(folder, arrays)
        write_idx(tmp_path / name, arrays)

    monkeypatch.setattr(sources, "_torchvision_set", download)
    assert read_source("mnist", tmp_path).train.labels.tolist() == arrays[1].tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["mnist"]


@pytest.mark.usefixtures("tiny_mnist")
def test_half_a_set_of_the_users_is_never_overwritten(tmp_path: Path) -> None:
    write_idx(tmp_path / "mnist", tiny_arrays())
    (tmp_path / "mnist" / f"{IDX_FILES[1]}.gz").unlink()
    with pytest.raises(
        ValueError, match=r"mnist has some files but not train-images.*; complete or delete it"
    ):
        read_source("mnist", tmp_path)
    assert len(list((tmp_path / "mnist").iterdir())) == 3


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_a_wrong_checksum_names_the_files_to_delete(tmp_path: Path, name: str) -> None:
    for file in PUBLISHED[name].files:
        (tmp_path / file).write_bytes(b"damaged") if name == "svhn" else (tmp_path / file).mkdir()
    with pytest.raises(
        ValueError, match=rf"files of {name} that .* wrong checksum .*; delete {PUBLISHED[name].files[0]}"
    ):
        read_source(name, tmp_path)


def test_svhn_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files store images as [H, W, C, N] and the digit 0 as class 10."""
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4)).astype(np.uint8)
    lists = {}
    for split in ("train", "test"):
        path = tmp_path / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": images, "y": np.array([[1], [10], [9], [2]], np.uint8)})
        lists[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", lists)
    monkeypatch.setitem(PUBLISHED, "svhn", PUBLISHED["svhn"]._replace(shape=DatasetShape(4, 4, 3, 32, 10)))
    raw = read_source("svhn", tmp_path)
    np.testing.assert_array_equal(raw.train.images(np.arange(4)), images.transpose(3, 2, 0, 1))
    assert raw.test.labels.tolist() == [1, 0, 9, 2]


def test_cifar_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision gives images as [N, H, W, C] and labels as a list."""
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    parts = {True: images[:3], False: images[3:]}

    def cifar(root: Path, train: bool, download: bool) -> SimpleNamespace:
        return SimpleNamespace(data=parts[train], targets=[7] * len(parts[train]))

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", cifar)
    monkeypatch.setitem(
        PUBLISHED, "cifar10", PUBLISHED["cifar10"]._replace(shape=DatasetShape(3, 2, 3, 32, 10))
    )
    (tmp_path / "cifar10" / "cifar-10-batches-py").mkdir(parents=True)
    raw = read_source("cifar10", tmp_path)
    np.testing.assert_array_equal(raw.train.images(np.arange(3)), images[:3].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(raw.test.images(np.arange(2)), images[3:].transpose(0, 3, 1, 2))
    assert raw.test.labels.tolist() == [7, 7]


def test_without_torchvision_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchvision", None)
    with pytest.raises(ValueError, match=r"kmnist is read through torchvision .*; install mdzoo\[train\]"):
        read_source("kmnist", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not (SHARED / "mnist10k").is_dir(), reason="no shared data beside the repository")
def test_a_set_of_ones_own() -> None:
    raw = read_source(f"parquet:{SHARED / 'mnist10k'}")
    assert read_shape(f"parquet:{SHARED / 'mnist10k'}") == (8_000, 2_000, 1, 28, 10)
    assert raw.test.images(np.arange(3)).shape == (3, 1, 28, 28)
    with pytest.raises(ValueError, match=r"has \(8000, 2000, 1, 28, 10\) under the name of mnist"):
        read_source("mnist", SHARED / "mnist10k")


@pytest.mark.skipif(not (SHARED / "cifar10").is_dir(), reason="no shared data beside the repository")
def test_a_named_set_in_the_hugging_face_layout(tmp_path: Path) -> None:
    raw = read_source("cifar10", SHARED)
    assert np.bincount(raw.train.labels).tolist() == [5_000] * 10
    assert raw.train.images(np.array([0, 49_999])).shape == (2, 3, 32, 32)
    (tmp_path / "cifar10").mkdir()
    shutil.copy(SHARED / "cifar10" / "test.parquet", tmp_path / "cifar10")
    with pytest.raises(
        ValueError, match=r"cifar10 has some files but not cifar-10-batches-py \(or train.parquet"
    ):
        read_source("cifar10", tmp_path)
