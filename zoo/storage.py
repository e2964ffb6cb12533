"""Where a zoo lives, and the one way a file gets there: whole or not at all.

    zoo.json                       what the zoo is: schema version, name, spec
    checkpoints/*.safetensors      one file a stack, named by the beginning of its SHA-256
    fragments/runs/*.parquet       a training task's commit; it names the checkpoint
    fragments/metrics/*.parquet    a measuring task's commit
    <table>.parquet                merged tables

The fragment is the commit: it is written last, so that what it lists is complete. A file that no fragment
names is garbage and never read.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from zoo.config import content_id


@dataclass(frozen=True)
class Store:
    """A folder that holds a zoo.

    Attributes:
        root: The folder; it is made when the first file is written.
    """

    root: Path

    def write(self, name: str, data: bytes) -> None:
        """Write a file such that it is there whole or, whatever happens, not at all.

        Args:
            name: Path below the root, with forward slashes.
            data: All bytes of the file.
        """
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

    def write_named_by_content(self, folder: str, data: bytes, suffix: str) -> str:
        """Write a file named by the hash of its content, and return its name."""
        name = f"{folder}/{content_id(data, 32)}{suffix}"
        if not self.exists(name):
            self.write(name, data)
        return name

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: If it is not there.
        """
        return (self.root / name).read_bytes()

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens if it is not there."""
        (self.root / name).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other builds off this folder; the lock ends with the process, however that ends.

        Raises:
            BlockingIOError: If another process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(
                    f"another build is at work in {self.root}; wait for it or stop it"
                ) from error
            yield

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        return (self.root / name).is_file()

    def names(self, folder: str, suffix: str) -> list[str]:
        """The committed files of a folder in lexical order, as names below the root."""
        path = self.root / folder
        if not path.is_dir():
            return []
        with os.scandir(path) as entries:
            found = [e.name for e in entries if e.name.endswith(suffix) and not e.name.startswith(".")]
        return [f"{folder}/{name}" for name in sorted(found)]
