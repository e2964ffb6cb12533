"""Checksums of a release: of every file, and of each block of it, so that the first bad byte can be named."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from zoo.storage import Store

SUMS, BLOCKS = "SHA256SUMS", "blocks.parquet"
BLOCK = 4096
"""Bytes a block: few enough that each bit of one can be tried in a tenth of a second."""

_SCHEMA = pa.schema(
    [("file", pa.string()), ("offset", pa.int64()), ("length", pa.int64()), ("sha256", pa.binary(32))]
)


class Block(NamedTuple):
    """A part of a file: where it begins, its length in bytes, and its SHA-256."""

    offset: int
    length: int
    sha256: bytes


class SummedStore:
    """Writes the files of a release and keeps their sums; `close` writes these, which makes the release whole.

    Args:
        store: Where the release is to be.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.sums: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self._blocks: list[tuple[str, int, int, bytes]] = []

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        self.store.write(name, data)
        self._keep(name, data)

    def write_named_by_content(self, folder: str, data: bytes, suffix: str, stem: str) -> str:
        """See `Store.write_named_by_content`."""
        name = self.store.write_named_by_content(folder, data, suffix, stem)
        self._keep(name, data)
        return name

    def _keep(self, name: str, data: bytes) -> None:
        self.sums[name], self.sizes[name] = hashlib.sha256(data).hexdigest(), len(data)
        self._blocks += [(name, *block) for block in blocks_of(data)]

    def close(self) -> None:
        """Write the sums of all files written."""
        columns = zip(*self._blocks, strict=True)
        table = pa.Table.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)],
            schema=_SCHEMA,
        )
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        self.store.write(BLOCKS, sink.getvalue())
        sums = self.sums | {BLOCKS: hashlib.sha256(sink.getvalue()).hexdigest()}
        text = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
        self.store.write(SUMS, text.encode())


def blocks_of(data: bytes) -> Iterator[Block]:
    """The blocks of a file; one that is empty has one that is empty."""
    view = memoryview(data)
    for offset in range(0, max(len(data), 1), BLOCK):
        part = view[offset : offset + BLOCK]
        yield Block(offset, len(part), hashlib.sha256(part).digest())


def is_within(name: str) -> bool:
    """Whether a name leads to a file below the release, and nowhere else."""
    return bool(name) and all(part not in ("", ".", "..") for part in name.split("/"))


def read_sums(data: bytes) -> dict[str, str]:
    """SHA-256 by file.

    Raises:
        ValueError: If a line is not one of `sha256sum`, with the place of its first byte.
    """
    found: dict[str, str] = {}
    offset = 0
    for line in data.split(b"\n"):
        if line:
            digest, separator, name = line.partition(b"  ")
            is_hash = len(digest) == 64 and not digest.strip(b"0123456789abcdef")
            is_name = name.isascii() and name.decode().isprintable() and is_within(name.decode())
            if not (is_hash and separator and is_name):
                raise ValueError(f"byte {offset}: no line of a SHA-256 and a file of the release")
            found[name.decode()] = digest.decode()
        offset += len(line) + 1
    if not data.endswith(b"\n"):
        raise ValueError(f"byte {len(data)}: the last line has no end; the file is cut")
    return found


def read_blocks(data: bytes) -> dict[str, list[Block]]:
    """The blocks of each file.

    Raises:
        ValueError: If these are not the bytes of such a table.
    """
    try:
        table = pq.read_table(pa.BufferReader(data), use_threads=False)
        columns = [table[name].to_pylist() for name in _SCHEMA.names]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(f"not a readable table of blocks: {error}") from error
    found: dict[str, list[Block]] = {}
    for name, *block in zip(*columns, strict=True):
        found.setdefault(name, []).append(Block(*block))
    return found


class BadByte(NamedTuple):
    """The first byte of a file that is not as it was published: its place, and what is wrong there."""

    offset: int
    what: str


def first_bad_byte(data: bytes, blocks: Sequence[Block]) -> BadByte | None:
    """The first difference between a file and its blocks; None if there is none.

    Within a block that differs each single bit is tried, as storage and memory flip single bits.
    """
    size = sum(block.length for block in blocks)
    view = memoryview(data)
    for block in blocks:
        part = view[block.offset : block.offset + block.length]
        if hashlib.sha256(part).digest() == block.sha256:
            continue
        if len(part) < block.length:
            return BadByte(len(data), f"the file ends here, {size - len(data)} bytes too early")
        flipped = _flipped_bit(bytes(part), block.sha256)
        if flipped is not None:
            place, bit = flipped
            return BadByte(block.offset + place, f"bit {bit} of this byte is flipped")
        return BadByte(
            block.offset, f"one of the {block.length} bytes from here on is the first that differs"
        )
    if len(data) > size:
        return BadByte(size, f"the file goes on here, {len(data) - size} bytes too long")
    return None


def _flipped_bit(part: bytes, sha256: bytes) -> tuple[int, int] | None:
    """The byte and the bit that, flipped back, give a block its SHA-256."""
    begun = hashlib.sha256()
    for place, byte in enumerate(part):
        rest = part[place + 1 :]
        for bit in range(8):
            trial = begun.copy()
            trial.update(bytes((byte ^ (1 << bit),)))
            trial.update(rest)
            if trial.digest() == sha256:
                return place, bit
        begun.update(part[place : place + 1])
    return None


def places(names: Mapping[str, str]) -> set[str]:
    """The folders of a release, "" for its root."""
    return {name.rpartition("/")[0] for name in names} | {""}
