"""The file formats of image sets: IDX (MNIST and its kin) and Parquet in the Hugging Face layout.

A split hands out all its labels and, on demand, the images of chosen rows as uint8: a limit of 200 images
decodes 200.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

ROWS_AT_ONCE = 1_000


class RawSplit(NamedTuple):
    """The labels of a split, int64 [N], and its images, uint8 [n, C, H, W], by ascending row numbers."""

    labels: NDArray[np.int64]
    images: Callable[[NDArray[np.int64]], NDArray[np.uint8]]


class RawDataset(NamedTuple):
    """Both splits as published, and the number of classes."""

    train: RawSplit
    test: RawSplit
    classes: int


def split_of(
    images: NDArray[np.uint8], labels: NDArray[np.integer[Any]], classes: int, source: str
) -> RawSplit:
    """Arrays in memory as a split.

    Args:
        images: uint8 [N, C, H, W].
        labels: Integers [N].
        classes: Number of classes.
        source: What to call the split in an error.

    Raises:
        ValueError: If the lengths differ or a label is none of the classes.
    """
    if len(images) != len(labels):
        raise ValueError(f"{source} has {len(images)} images but {len(labels)} labels; fetch its files again")
    return RawSplit(_checked_labels(labels, classes, source), lambda rows: images[rows])


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array in an IDX file, plain or gzipped (LeCun, Cortes and Burges, The MNIST database).

    Args:
        path: The file.
        dimensions: 3 for images, 1 for labels.

    Raises:
        ValueError: If the checksum, the magic number or the length is not that of such a file.
    """
    remedy = f"delete {path.name} and fetch it again"
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is truncated or corrupt ({error}); {remedy}") from error
    header, magic = 4 + 4 * dimensions, bytes((0, 0, 8, dimensions))
    if data[:4] != magic or len(data) < header:
        raise ValueError(f"{path} begins with {data[:4].hex()} where {magic.hex()} is due; {remedy}")
    sizes = np.frombuffer(data[4:header], ">u4").astype(np.int64)
    if len(data) != (expected := header + int(sizes.prod())):
        raise ValueError(f"{path} has {len(data)} bytes where its header announces {expected}; {remedy}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(sizes)


def read_parquet(folder: Path, classes: int | None = None) -> RawDataset:
    """The set in a folder in the Hugging Face layout: `train.parquet` and `test.parquet`.

    Args:
        folder: The folder. Each file has a column `image` or `img` of {bytes, path} and an integer column
            `label` or `fine_label`.
        classes: Number of classes; by default the number that the file names, or else the largest training
            label plus one.

    Raises:
        ValueError: If a file or column is missing, unreadable or of another type, or a label is null or none
            of the classes; and, when images are asked for, if one cannot be decoded or differs in size.
    """
    train, test = (_Parquet.open(folder / f"{split}.parquet") for split in ("train", "test"))
    labels = train.labels()
    if not len(labels):
        raise ValueError(f"{train.path} has no rows; it must hold the training images")
    classes = classes or train.named_classes() or int(labels.max()) + 1
    return RawDataset(train.split(labels, classes), test.split(test.labels(), classes), classes)


def _checked_labels(labels: NDArray[np.integer[Any]], classes: int, source: str) -> NDArray[np.int64]:
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise ValueError(
            f"{source} has the label {labels[wrong[0]]} in row {wrong[0]}, outside 0..{classes - 1} "
            f"({len(wrong)} such rows); remove them or number the classes from 0"
        )
    return labels.astype(np.int64)


class _Parquet(NamedTuple):
    """One Parquet file and its two columns by name."""

    path: Path
    file: pq.ParquetFile
    image: str
    label: str

    @classmethod
    def open(cls, path: Path) -> _Parquet:
        if not path.is_file():
            raise ValueError(f"{path} is missing; the folder must hold train.parquet and test.parquet")
        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(
                f"{path} is not a readable Parquet file ({_line(error)}); copy it again"
            ) from error
        schema = file.schema_arrow
        image = next((name for name in ("image", "img") if name in schema.names), None)
        label = next((name for name in ("label", "fine_label") if name in schema.names), None)
        if image is None or not _holds_images(schema.field(image).type):
            raise ValueError(
                f"{path} has no column image or img of {{bytes, path}}; its columns are {_named(schema)}"
            )
        if label is None or not pa.types.is_integer(schema.field(label).type):
            raise ValueError(
                f"{path} has no integer column label or fine_label; its columns are {_named(schema)}"
            )
        return cls(path, file, image, label)

    def labels(self) -> NDArray[np.integer[Any]]:
        column = self._batch(lambda: self.file.read([self.label]))[self.label]
        if column.null_count:
            raise ValueError(f"{self.path} has {column.null_count} rows without a label; remove them")
        return column.to_numpy()

    def named_classes(self) -> int | None:
        """The number of class names that Hugging Face's `datasets` writes beside the schema."""
        text = (self.file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
        feature = json.loads(text).get("info", {}).get("features", {}).get(self.label, {})
        return len(feature.get("names", ())) or None

    def split(self, labels: NDArray[np.integer[Any]], classes: int) -> RawSplit:
        return RawSplit(_checked_labels(labels, classes, str(self.path)), partial(_decode_rows, self))

    def cells(self, rows: NDArray[np.int64]) -> list[bytes | None]:
        """The encoded images of ascending rows."""
        found: list[bytes | None] = []
        start = 0
        batches = self.file.iter_batches(ROWS_AT_ONCE, columns=[self.image])
        while len(found) < len(rows):
            batch = self._batch(lambda: next(batches))
            inside = rows[(rows >= start) & (rows < start + len(batch))] - start
            found += batch.column(0).field("bytes").take(pa.array(inside)).to_pylist()
            start += len(batch)
        return found

    def _batch(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{self.path} is truncated or corrupt ({_line(error)}); copy it again"
            ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _holds_images(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _named(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _decode_rows(source: _Parquet, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Decodes the images of ascending rows to uint8 [n, C, H, W]."""
    images: NDArray[np.uint8] | None = None
    for i, (row, cell) in enumerate(zip(rows, source.cells(rows), strict=True)):
        image = _decode(cell, f"{source.path}, row {row}")
        if images is None:
            images = np.empty((len(rows), *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            raise ValueError(
                f"{source.path}, row {row}: the image is {_size(image)}, the first one {_size(images[0])}; "
                "convert all images to one size and mode"
            )
        images[i] = image
    return np.empty((0, 1, 1, 1), np.uint8) if images is None else images


def _decode(cell: bytes | None, where: str) -> NDArray[np.uint8]:
    """One encoded image as uint8 [C, H, W]."""
    from PIL import Image

    if cell is None:
        raise ValueError(
            f"{where}: the image has no bytes; store the images in the file, not only their paths"
        )
    try:
        with Image.open(io.BytesIO(cell)) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{where}: the image cannot be decoded ({error}); copy the file again") from error
    if mode not in ("L", "RGB"):
        raise ValueError(f"{where}: the image has mode {mode}; convert the images to L or RGB")
    if image.height != image.width:
        raise ValueError(
            f"{where}: the image has {image.height} x {image.width} pixels; make the images square"
        )
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def _size(image: NDArray[np.uint8]) -> str:
    channels, height, width = image.shape
    return f"{height} x {width} pixels of {channels} channels"
