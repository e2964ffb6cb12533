"""Where a zoo lives, a folder or an object store, and the one way a file gets there: whole or not at all.

    zoo.json                       what the zoo is: schema version, name, spec
    checkpoints/*.safetensors      one file a stack, named by the beginning of its SHA-256
    fragments/runs/*.parquet       a training task's commit; it names the checkpoint
    fragments/metrics/*.parquet    a measuring task's commit
    <table>.parquet                merged tables
    resources.json                 what its tasks took, for the next build
    snapshots/*.safetensors        where stacks in training stand that take long
    status.json                    how far the build is that is at work

The fragment is the commit: it is written last, so that what it lists is complete. A file that no fragment
names is garbage and never read.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from zoo.config import content_id


class Store(ABC):
    """Files by name below one place. It can be sent to another process, which opens it anew."""

    @abstractmethod
    def __str__(self) -> str:
        """The place, as `open_store` takes it."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a file such that it is there whole or, whatever happens, not at all.

        Args:
            name: Path below the place, with forward slashes.
            data: All bytes of the file.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: If it is not there.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file; nothing happens if it is not there."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether the file is there."""

    @abstractmethod
    def names(self, folder: str, suffix: str) -> list[str]:
        """The committed files of a folder in lexical order, as names below the place; "" is the place itself."""

    @abstractmethod
    def open(self, name: str) -> pa.NativeFile:
        """A file of which any part can be read without the others.

        Raises:
            FileNotFoundError: If it is not there.
        """

    @abstractmethod
    def local(self, name: str) -> AbstractContextManager[Path]:
        """A file on this machine with the same bytes, for as long as the context lasts.

        Raises:
            FileNotFoundError: If it is not there.
        """

    @abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """Keep other builds off this place; the lock ends with the process, however that ends.

        Raises:
            BlockingIOError: If another process holds it.
        """

    @abstractmethod
    def sweep(self) -> None:
        """Remove what writers left unfinished that were killed; whoever holds the lock may."""

    def read_each(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Names and bytes of many files, in their order."""
        for name in names:
            yield name, self.read(name)

    def write_named_by_content(self, folder: str, data: bytes, suffix: str, stem: str = "") -> str:
        """Write a file whose name ends with the hash of its content, and return its name."""
        name = f"{folder}/{stem}{content_id(data, 32)}{suffix}"
        if not self.exists(name):
            self.write(name, data)
        return name


def is_committed(name: str, suffix: str) -> bool:
    """Whether a file's name is not that of one that is being written, and ends so."""
    return name.endswith(suffix) and not name.startswith(".")


def below(folder: str, name: str) -> str:
    """The name of a file in a folder of a store."""
    return f"{folder}/{name}" if folder else name


def open_store(place: str | Path) -> Store:
    """The store at a place: a folder, or a URI of an object store, as `s3://bucket/zoos/demo`.

    Raises:
        ValueError: If it is a URI of no kind that is known, or holds a password.
    """
    scheme, separator, rest = str(place).partition("://")
    if not separator:
        return Folder(Path(place).absolute())
    if scheme == "file":
        return Folder(Path(rest))
    from zoo.object_store import Bucket

    return Bucket.at(str(place))


@dataclass(frozen=True)
class Folder(Store):
    """A folder; several machines may share it over a network.

    Attributes:
        root: The folder; it is made when the first file is written.
    """

    root: Path

    def __str__(self) -> str:
        """The folder."""
        return str(self.root)

    def write(self, name: str, data: bytes) -> None:
        """See `Store.write`."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # The name is unique, so that a retried task and its original never write into one another.
        beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            with open(beside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def read(self, name: str) -> bytes:
        """See `Store.read`."""
        return (self.root / name).read_bytes()

    def delete(self, name: str) -> None:
        """See `Store.delete`."""
        (self.root / name).unlink(missing_ok=True)

    def exists(self, name: str) -> bool:
        """See `Store.exists`."""
        return (self.root / name).is_file()

    def names(self, folder: str, suffix: str) -> list[str]:
        """See `Store.names`."""
        path = self.root / folder
        if not path.is_dir():
            return []
        with os.scandir(path) as entries:
            found = [e.name for e in entries if e.is_file() and is_committed(e.name, suffix)]
        return [below(folder, name) for name in sorted(found)]

    def sweep(self) -> None:
        """See `Store.sweep`."""
        for left in self.root.rglob(".*.tmp"):
            left.unlink(missing_ok=True)

    def open(self, name: str) -> pa.NativeFile:
        """See `Store.open`."""
        return pa.OSFile(str(self.root / name))

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """See `Store.local`: the file itself."""
        yield self.root / name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See `Store.locked`: the operating system's lock on a file."""
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(
                    f"another build is at work in {self.root}; wait for it or stop it"
                ) from error
            yield
