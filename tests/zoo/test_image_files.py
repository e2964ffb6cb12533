"""Reading IDX and Parquet files, and every way in which they can be wrong."""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from zoo.image_files import ROWS_AT_ONCE, read_idx, read_parquet, split_of

GREY = np.random.default_rng(0).integers(0, 256, (6, 4, 4)).astype(np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 4, 4, 3)).astype(np.uint8)
LABELS = [0, 1, 2, 0, 1, 2]


def encoded(image: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    (picture.convert(str(options["mode"])) if options else picture).save(buffer, "PNG")
    return buffer.getvalue()


def write_split(
    path: Path,
    cells: list[bytes | None],
    labels: list[int | None] | pa.Array,
    image: str = "image",
    label: str = "label",
) -> None:
    images = pa.array([{"bytes": cell, "path": None} for cell in cells], _IMAGE)
    pq.write_table(pa.table({image: images, label: labels}), path)


_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_set(folder: Path, images: np.ndarray = GREY, **columns: str) -> Path:
    for split in ("train", "test"):
        write_split(folder / f"{split}.parquet", [encoded(image) for image in images], LABELS, **columns)
    return folder


def all_images(folder: Path) -> np.ndarray:
    return read_parquet(folder).train.images(np.arange(len(LABELS)))


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_round_trip(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(idx_bytes(GREY)) if suffix else idx_bytes(GREY))
    np.testing.assert_array_equal(read_idx(path, 3), GREY)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            idx_bytes(GREY)[:-1],
            r"has 111 bytes where its header announces 112; delete images and fetch it again",
        ),
        (idx_bytes(GREY) + b"x", r"has 113 bytes where its header announces 112"),
        (idx_bytes(GREY[0]), r"begins with 00000802 where 00000803 is due; delete"),
        (idx_bytes(GREY)[:9], r"begins with 00000803 where"),
        (b"", r"begins with  where 00000803 is due"),
    ],
    ids=["short", "long", "labels for images", "half a header", "empty"],
)
def test_a_wrong_idx_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_idx(path, 3)


def test_a_truncated_or_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    whole = gzip.compress(idx_bytes(GREY))
    flipped = bytearray(whole)
    flipped[-8] ^= 1  # the checksum
    for data in (whole[:-20], bytes(flipped), b"no gzip at all"):
        path.write_bytes(data)
        with pytest.raises(
            ValueError, match=r"is truncated or corrupt .*; delete images.gz and fetch it again"
        ):
            read_idx(path, 3)


def test_images_and_labels_must_pair() -> None:
    with pytest.raises(ValueError, match="set has 6 images but 5 labels; fetch its files again"):
        split_of(GREY[:, None], np.zeros(5, np.int64), 10, "set")


@pytest.mark.parametrize("columns", [{}, {"image": "img", "label": "fine_label"}])
@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_parquet_round_trip(tmp_path: Path, images: np.ndarray, columns: dict[str, str]) -> None:
    raw = read_parquet(write_set(tmp_path, images, **columns))
    expected = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    assert raw.classes == 3
    for split in (raw.train, raw.test):
        np.testing.assert_array_equal(split.images(np.arange(6)), expected)
        np.testing.assert_array_equal(split.labels, LABELS)
        np.testing.assert_array_equal(split.images(np.array([1, 4])), expected[[1, 4]])


def test_only_the_rows_asked_for_are_decoded(tmp_path: Path) -> None:
    """The other rows hold no image at all; rows are asked for on both sides of a batch's border."""
    count = 2 * ROWS_AT_ONCE + 1
    rows = np.array([1, ROWS_AT_ONCE - 1, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE])
    cells: list[bytes | None] = [b"no image"] * count
    for image, row in zip(GREY, rows, strict=False):
        cells[row] = encoded(image)
    for split in ("train", "test"):
        write_split(tmp_path / f"{split}.parquet", cells, pa.array(np.arange(count) % 3))
    np.testing.assert_array_equal(read_parquet(tmp_path).train.images(rows), GREY[:4, None])
    with pytest.raises(ValueError, match=r"train.parquet, row 2: the image cannot be decoded"):
        read_parquet(tmp_path).train.images(np.array([1, 2]))


def test_class_names_in_the_file_fix_the_number_of_classes(tmp_path: Path) -> None:
    write_set(tmp_path)
    features = {"info": {"features": {"label": {"names": list("abcde"), "_type": "ClassLabel"}}}}
    table = pq.read_table(tmp_path / "train.parquet")
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "train.parquet"
    )
    assert read_parquet(tmp_path).classes == 5


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0, 1, 2, 3, 1, 3],
            r"test.parquet has the label 3 in row 3, outside 0..2 \(2 such rows\); remove them",
        ),
        ([0, 1, 2, 0, -1, 2], r"test.parquet has the label -1 in row 4, outside 0..2 \(1 such rows\)"),
        ([0, 1, None, 0, 1, 2], r"test.parquet has 1 rows without a label; remove them"),
    ],
    ids=["above", "negative", "null"],
)
def test_labels_outside_the_classes_are_refused(
    tmp_path: Path, labels: list[int | None], message: str
) -> None:
    write_set(tmp_path)
    write_split(tmp_path / "test.parquet", [encoded(image) for image in GREY], labels)
    with pytest.raises(ValueError, match=message):
        read_parquet(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"image": "picture"},
            r"no column image or img of \{bytes, path\}; its columns are picture \(struct",
        ),
        (
            {"label": "class"},
            r"no integer column label or fine_label; its columns are image .*class \(int64\)",
        ),
    ],
)
def test_a_missing_column_is_named(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_parquet(write_set(tmp_path, GREY, **columns))


def test_columns_of_another_type_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path)
    cells = [encoded(image) for image in GREY]
    pq.write_table(pa.table({"image": cells, "label": LABELS}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"no column image or img .* image \(binary\), label \(int64\)"):
        read_parquet(tmp_path)
    write_split(tmp_path / "train.parquet", list(cells), pa.array([str(label) for label in LABELS]))
    with pytest.raises(ValueError, match=r"no integer column label or fine_label; .* label \(string\)"):
        read_parquet(tmp_path)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            encoded(GREY[0, :3, :3]),
            r"row 2: the image is 3 x 3 pixels of 1 channels, the first one 4 x 4 pixels",
        ),
        (
            encoded(COLOUR[0]),
            r"row 2: the image is 4 x 4 pixels of 3 channels, .*; convert all images to one size",
        ),
        (encoded(GREY[0, :3]), r"row 2: the image has 3 x 4 pixels; make the images square"),
        (encoded(COLOUR[0], mode="RGBA"), r"row 2: the image has mode RGBA; convert the images to L or RGB"),
        (encoded(COLOUR[0])[:60], r"row 2: the image cannot be decoded .*; copy the file again"),
        (None, r"row 2: the image has no bytes; store the images in the file"),
    ],
    ids=["size", "channels", "oblong", "mode", "truncated", "path only"],
)
def test_an_image_unlike_the_others_is_refused(tmp_path: Path, cell: bytes | None, message: str) -> None:
    write_set(tmp_path)
    cells: list[bytes | None] = [encoded(image) for image in GREY]
    cells[2] = cell
    write_split(tmp_path / "train.parquet", cells, LABELS)
    with pytest.raises(ValueError, match=message):
        all_images(tmp_path)


def test_missing_empty_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"train.parquet is missing; the folder must hold train.parquet and test"
    ):
        read_parquet(tmp_path)
    write_set(tmp_path)
    path = tmp_path / "train.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"train.parquet is not a readable Parquet file .*; copy it again"):
        read_parquet(tmp_path)
    path.write_bytes(b"PAR1" + bytes(byte ^ 255 for byte in whole[4:40]) + whole[40:])
    with pytest.raises(ValueError, match=r"train.parquet is truncated or corrupt .*; copy it again"):
        all_images(tmp_path)
    write_split(path, [], pa.array([], pa.int64()))
    with pytest.raises(ValueError, match=r"train.parquet has no rows; it must hold the training images"):
        read_parquet(tmp_path)
