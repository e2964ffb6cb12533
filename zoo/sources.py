"""Where images come from, by name: scikit-learn, files on this machine, torchvision's downloads.

Nothing here shuffles, scales or drops, except that `digits`, which has no official test set, is split by a
fixed draw.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.config import seed_of
from zoo.image_files import RawDataset, RawSplit, read_idx, read_parquet, split_of

SYSTEM_FOLDERS = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
"""Where Debian's packages `dataset-<name>` keep their files."""

NETWORK_TIMEOUT_SECONDS = 20.0
PREFIX = "parquet:"


class DatasetShape(NamedTuple):
    """Sizes of a data set; `image_size` is height and width in pixels."""

    train_images: int
    test_images: int
    channels: int
    image_size: int
    classes: int


class Published(NamedTuple):
    """A data set known by name: its shape, torchvision's class, and the files or folders that hold it."""

    shape: DatasetShape
    torchvision: str = ""
    files: tuple[str, ...] = ()


_IDX = tuple(
    f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
_LIKE_MNIST = DatasetShape(60_000, 10_000, 1, 28, 10)

PUBLISHED = {
    "digits": Published(DatasetShape(1_000, 797, 1, 8, 10)),
    "mnist": Published(_LIKE_MNIST, "MNIST", _IDX),
    "fashion-mnist": Published(_LIKE_MNIST, "FashionMNIST", _IDX),
    "kmnist": Published(_LIKE_MNIST, "KMNIST", _IDX),
    "cifar10": Published(DatasetShape(50_000, 10_000, 3, 32, 10), "CIFAR10", ("cifar-10-batches-py",)),
    "cifar100": Published(DatasetShape(50_000, 10_000, 3, 32, 100), "CIFAR100", ("cifar-100-python",)),
    "svhn": Published(DatasetShape(73_257, 26_032, 3, 32, 10), "SVHN", ("train_32x32.mat", "test_32x32.mat")),
}
"""The data sets known by name."""


def read_shape(name: str) -> DatasetShape:
    """The shape of a data set; of `parquet:DIR`, from the labels and one image.

    Raises:
        ValueError: If the name is unknown, or the Parquet files are not as `zoo.image_files` wants them.
    """
    if name.startswith(PREFIX):
        return _shape_of(_read_own(name))
    return _published(name).shape


def read_source(name: str, data_dir: Path | None = None) -> RawDataset:
    """A data set as published.

    Args:
        name: A key of `PUBLISHED`, or `parquet:DIR` for a folder in the Hugging Face layout, see
            `zoo.image_files.read_parquet`.
        data_dir: Where to look for the files of a named set (there and in its subfolder `name`, in
            torchvision's or the Hugging Face layout), and where to download them to; by default the folder
            mdzoo in the user's cache.

    Raises:
        ValueError: If the name is unknown, or a file is damaged or holds what it should not.
        ConnectionError: If the files are not there and cannot be downloaded.
    """
    if name.startswith(PREFIX):
        return _read_own(name)
    published = _published(name)
    if name == "digits":
        return _read_digits()
    root = data_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mdzoo"
    raw = _find(name, root)
    if raw is None:
        _download(name, root)
        raw = _find(name, root)
    if raw is None or (shape := _shape_of(raw)) != published.shape:
        found = "nothing" if raw is None else tuple(shape)
        raise ValueError(
            f"{root} has {found} under the name of {name}, which is {tuple(published.shape)} (training and "
            f"test images, channels, pixels, classes); name a set of your own {PREFIX}DIR"
        )
    return raw


def balanced_order(labels: NDArray[np.integer[Any]], *key: object) -> NDArray[np.int64]:
    """A random order of the rows of which every beginning is class-balanced.

    Class counts of the first n rows differ by at most one, until a class is used up.

    Args:
        labels: Labels [N].
        key: What the draw concerns, see `zoo.config.seed_of`.

    Returns:
        Row numbers, int64 [N].
    """
    draw = np.random.Generator(np.random.Philox(seed_of(*key))).random(len(labels))
    by_class = np.lexsort((draw, labels))
    grouped = labels[by_class]
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - np.searchsorted(grouped, grouped)
    return np.lexsort((draw, rank))


def _published(name: str) -> Published:
    if name not in PUBLISHED:
        raise ValueError(f"unknown data set {name!r}; known are {', '.join(PUBLISHED)} and {PREFIX}DIR")
    return PUBLISHED[name]


def _read_own(name: str) -> RawDataset:
    return read_parquet(Path(name.removeprefix(PREFIX)).expanduser())


def _shape_of(raw: RawDataset) -> DatasetShape:
    _, channels, size, _ = raw.train.images(np.arange(1)).shape
    return DatasetShape(len(raw.train.labels), len(raw.test.labels), channels, size, raw.classes)


def _read_digits() -> RawDataset:
    from sklearn.datasets import load_digits

    data, labels = load_digits(return_X_y=True)
    images = np.rint(data.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    order = balanced_order(labels, "split", "digits")
    train, test = (np.sort(rows) for rows in np.split(order, [PUBLISHED["digits"].shape.train_images]))
    return RawDataset(
        split_of(images[train], labels[train], 10, "digits"),
        split_of(images[test], labels[test], 10, "digits"),
        10,
    )


def _find(name: str, root: Path) -> RawDataset | None:
    """The set in the first folder that has all of it: its own, the root, the system's; None if none has."""
    for folder in (root / name, root):
        if all((folder / file).is_file() for file in ("train.parquet", "test.parquet")):
            return read_parquet(folder, PUBLISHED[name].shape.classes)
    return _find_idx(name, root) if PUBLISHED[name].files is _IDX else _find_torchvision(name, root)


def _find_idx(name: str, root: Path) -> RawDataset | None:
    classes, below = PUBLISHED[name].shape.classes, Path(PUBLISHED[name].torchvision, "raw")
    folders = [root / name, root / name / below, root / below, root]
    folders += [SYSTEM_FOLDERS[name]] if name in SYSTEM_FOLDERS else []
    for folder in folders:
        paths = [_plain_or_gzipped(folder / file) for file in _IDX]
        if all(path.is_file() for path in paths):
            train, test = (
                split_of(read_idx(images, 3)[:, None], read_idx(labels, 1), classes, str(labels))
                for images, labels in (paths[:2], paths[2:])
            )
            return RawDataset(train, test, classes)
    return None


def _plain_or_gzipped(path: Path) -> Path:
    return path if path.is_file() else path.with_name(f"{path.name}.gz")


def _find_torchvision(name: str, root: Path) -> RawDataset | None:
    for folder in (root / name, root):
        if all((folder / file).exists() for file in PUBLISHED[name].files):
            train, test = (_read_torchvision(name, folder, train) for train in (True, False))
            return RawDataset(train, test, PUBLISHED[name].shape.classes)
    return None


def _read_torchvision(name: str, folder: Path, train: bool) -> RawSplit:
    try:
        found = _torchvision_set(name, folder, train)
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"{folder} has files of {name} that are incomplete or have a wrong checksum ({error}); "
            f"delete {', '.join(PUBLISHED[name].files)} there and run again"
        ) from error
    images = found.data if name == "svhn" else found.data.transpose(0, 3, 1, 2)
    labels = np.asarray(found.labels if name == "svhn" else found.targets)
    return split_of(images, labels, PUBLISHED[name].shape.classes, f"{name} in {folder}")


def _torchvision_set(name: str, folder: Path, train: bool, download: bool = False) -> Any:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ValueError(f"{name} is read through torchvision ({error}); install mdzoo[train]") from error
    part: dict[str, Any] = {"split": "train" if train else "test"} if name == "svhn" else {"train": train}
    return getattr(datasets, PUBLISHED[name].torchvision)(folder, **part, download=download)


def _download(name: str, root: Path) -> None:
    """Downloads into a folder beside and renames it when complete: nobody ever finds half a set."""
    target = root / name
    if target.is_dir() and any(target.iterdir()):
        raise ValueError(f"{target} has some files but not {_wanted(name)}; complete or delete it")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as beside, _network_timeout():
        complete = Path(beside, name)
        try:
            for train in (True, False):
                _torchvision_set(name, complete, train, download=True)
        except (RuntimeError, OSError) as error:
            raise _download_error(name, target, error) from error
        try:
            complete.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first, with the same files
                raise


def _download_error(name: str, target: Path, error: Exception) -> Exception:
    if "corrupted" in str(error):
        return ValueError(f"the download of {name} has a wrong checksum ({error}); run again")
    return ConnectionError(
        f"{name} is not on this machine and cannot be downloaded ({error}); put {_wanted(name)} into {target}, "
        f"or use a data set that needs no network: digits or {PREFIX}DIR"
    )


def _wanted(name: str) -> str:
    return f"{', '.join(PUBLISHED[name].files)} (or train.parquet, test.parquet)"


@contextmanager
def _network_timeout() -> Iterator[None]:
    """Bounds torchvision's downloads, which set no timeout of their own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
