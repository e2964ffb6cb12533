"""A zoo in an object store: `s3://` and what speaks its protocol, and `gs://`, by pyarrow's file systems."""

from __future__ import annotations

import json
import platform
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
from pyarrow import fs

from zoo.storage import Store, below, is_committed

OPTIONS = ("region", "scheme", "endpoint_override")
"""What the query of a URI may say; credentials come from the environment, or from the machine's role."""

ATTEMPTS = 8
"""Tries of one request, with growing pauses: about half a minute of errors is waited out."""

CONNECT_SECONDS, REQUEST_SECONDS = 10, 60
"""How long the store may take to answer."""

READERS = 16
"""Files that are read at once."""

LOCK = ".lock"
LEASE_SECONDS, RENEW_SECONDS = 120.0, 30.0
"""How long a lock lasts that nobody renews, by the store's clock against ours; and how often it is renewed."""


@dataclass(frozen=True)
class Bucket(Store):
    """Objects below a prefix. One object is put whole, or not at all; that is the store's own guarantee.

    Attributes:
        uri: The place, as `s3://bucket/prefix?region=eu-central-1`.
        prefix: Bucket and prefix, without a slash at the end.
    """

    uri: str
    prefix: str

    @classmethod
    def at(cls, uri: str) -> Bucket:
        """The bucket at a URI.

        Raises:
            ValueError: If its scheme or an option is unknown, or it holds a password.
        """
        parts = urlsplit(uri)
        options = dict(parse_qsl(parts.query))
        if parts.username or parts.password:
            raise ValueError(
                f"the URI of bucket {parts.hostname} holds a password, which would end up in logs; put it into the "
                "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or the machine's role"
            )
        prefix = f"{parts.netloc}{parts.path}".rstrip("/")
        if parts.scheme not in ("s3", "gs"):
            raise ValueError(
                f"a zoo lives in a folder, or at s3:// or gs://, not at {parts.scheme}://{prefix}"
            )
        if unknown := sorted(set(options) - set(OPTIONS)):  # their values may be secret
            raise ValueError(
                f"{parts.scheme}://{prefix}: options {unknown} are not known; there are {', '.join(OPTIONS)}"
            )
        if not parts.netloc:
            raise ValueError(f"{uri} names no bucket; write {parts.scheme}://BUCKET/PREFIX")
        return cls(uri, prefix)

    def __str__(self) -> str:
        """The URI."""
        return self.uri

    @property
    def _files(self) -> fs.FileSystem:
        return _file_system(self.uri)

    def _path(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """See `Store.write`: all bytes are there before the upload begins."""
        # Not as a context manager: that one would finish the object even if its body had raised.
        stream = self._files.open_output_stream(self._path(name))
        stream.write(data)
        stream.close()

    def read(self, name: str) -> bytes:
        """See `Store.read`."""
        with self._files.open_input_stream(self._path(name)) as stream:
            return bytes(stream.read())

    def read_each(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """See `Store.read_each`: several at once, as each takes a while to come."""
        with ThreadPoolExecutor(READERS) as pool:
            left = iter(names)
            while some := list(islice(left, 4 * READERS)):
                yield from zip(some, pool.map(self.read, some), strict=True)

    def delete(self, name: str) -> None:
        """See `Store.delete`."""
        with suppress(FileNotFoundError):
            self._files.delete_file(self._path(name))

    def exists(self, name: str) -> bool:
        """See `Store.exists`."""
        return self._files.get_file_info(self._path(name)).type == fs.FileType.File

    def names(self, folder: str, suffix: str) -> list[str]:
        """See `Store.names`."""
        path = self._path(folder).rstrip("/")
        found = self._files.get_file_info(fs.FileSelector(path, allow_not_found=True))
        kept = (info.base_name for info in found if info.type == fs.FileType.File)
        return [below(folder, name) for name in sorted(kept) if is_committed(name, suffix)]

    def sweep(self) -> None:
        """See `Store.sweep`: objects are whole or not there; parts of uploads are left to the rules of the bucket."""

    def open(self, name: str) -> pa.NativeFile:
        """See `Store.open`: by requests of ranges."""
        return self._files.open_input_file(self._path(name))

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """See `Store.local`: a copy."""
        with tempfile.TemporaryDirectory(prefix="mdzoo-") as folder:
            path = Path(folder) / "copy"
            path.write_bytes(self.read(name))
            yield path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See `Store.locked`: an object with a lease, renewed for as long as this process lives.

        Two builds that begin within the same second may both get it. That costs work done twice, and nothing else:
        what tasks commit is named by its content.
        """
        info = self._files.get_file_info(self._path(LOCK))
        if info.type == fs.FileType.File and time.time() - info.mtime.timestamp() < LEASE_SECONDS:
            holder = json.loads(self.read(LOCK))
            raise BlockingIOError(
                f"another build is at work in {self.uri}, on {holder['host']}; wait for it or stop it; if it was "
                f"killed, its lock ends within {LEASE_SECONDS:.0f} s"
            )
        mine = json.dumps({"host": platform.node(), "owner": uuid.uuid4().hex}).encode()
        self.write(LOCK, mine)
        done = threading.Event()

        def renew() -> None:
            while not done.wait(RENEW_SECONDS):
                with suppress(OSError):  # the next one may come through
                    self.write(LOCK, mine)

        renewing = threading.Thread(target=renew, daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join(timeout=1)
            with suppress(OSError):
                if self.read(LOCK) == mine:
                    self.delete(LOCK)


@cache
def _file_system(uri: str) -> fs.FileSystem:
    """The file system of a URI; one a process, as each has connections of its own."""
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    if parts.scheme == "gs":
        options.pop("region", None)
        return fs.GcsFileSystem(**options)
    return fs.S3FileSystem(
        **options,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )
