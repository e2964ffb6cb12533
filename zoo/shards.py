"""Files of weights: safetensors, each tensor with the run as its leading axis. Read as arrays, without torch.

A stack's checkpoint and a shard of a release are the same kind of file. What a run's weights are is said by their
SHA-256, which the table `runs` holds from the training on, whatever file they are moved to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import safetensors

from zoo.config import TrainConfig

METADATA = "mdzoo"
"""Name under which a file's metadata hold its header."""


class Header(NamedTuple):
    """What a file of weights says of itself.

    Attributes:
        run_ids: Its runs, in the order of the leading axis.
        architecture: Their architecture.
        width: Their width.
        shape: `channels`, `image_size` and `classes` of their data.
    """

    run_ids: tuple[str, ...]
    architecture: str
    width: int
    shape: Mapping[str, int]

    def metadata(self) -> dict[str, str]:
        """The header as safetensors keeps it: under one name, as it writes several in any order."""
        said = self._asdict() | {"shape": dict(self.shape)}
        return {METADATA: json.dumps(said, sort_keys=True)}

    @classmethod
    def of(cls, file: Any, name: str) -> Self:
        """The header of an open file.

        Raises:
            ValueError: If it has none, or another kind.
        """
        try:
            said = json.loads((file.metadata() or {})[METADATA])
            shape = {key: int(said["shape"][key]) for key in ("channels", "image_size", "classes")}
            return cls(tuple(map(str, said["run_ids"])), str(said["architecture"]), int(said["width"]), shape)
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{name} has no header of runs and their architecture ({error!r})") from error

    def place(self, run_id: str, index: int, name: str) -> int:
        """The position of a run, which its table says too.

        Raises:
            ValueError: If another run is there, or none.
        """
        if not 0 <= index < len(self.run_ids) or self.run_ids[index] != run_id:
            other = self.run_ids[index] if 0 <= index < len(self.run_ids) else "none"
            raise ValueError(
                f"{name} does not hold run {run_id} at position {index} of its {len(self.run_ids)}, but {other}"
            )
        return index

    def check(self, config: TrainConfig, name: str) -> None:
        """Refuse a header that says another architecture or width than the configuration.

        Raises:
            ValueError: If it does.
        """
        said, planned = (self.architecture, self.width), (config.architecture, config.width)
        if said != planned:
            raise ValueError(
                f"{name} says that it holds {said[0]} of width {said[1]}, its configuration is {planned[0]} of "
                f"width {planned[1]}"
            )


def weights_sha256(weights: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a run's weights: of the names, types, shapes and bytes of its tensors, sorted by name."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        array = np.ascontiguousarray(weights[key])
        digest.update(f"{key} {array.dtype} {list(array.shape)}\n".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def check_weights(weights: Mapping[str, np.ndarray], sha256: str, run_id: str, name: str) -> None:
    """Refuse weights that are not those the run was stored with.

    Raises:
        ValueError: If they are not.
    """
    if (found := weights_sha256(weights)) != sha256:
        raise ValueError(
            f"{name} is damaged: the weights of run {run_id} have SHA-256 {found}, its table says {sha256}; get the "
            "file again, or delete it and build again"
        )


DIGITS = 32
"""Hexadecimal digits of a file's SHA-256 with which its name ends."""


def check_file(path: Path, name: str) -> None:
    """Refuse a file whose content is not what its name says.

    Args:
        path: Where it is on this machine.
        name: Its name on storage, which ends with the beginning of its SHA-256.

    Raises:
        ValueError: If it is another.
    """
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]
    if not name.endswith(f"{found}.safetensors"):
        raise ValueError(
            f"{name} is damaged: its SHA-256 begins with {found}; get it again, or delete it and build again"
        )


def unreadable(name: str, error: safetensors.SafetensorError) -> ValueError:
    """The error of a file that is no safetensors file, or only a part of one."""
    return ValueError(
        f"{name} is not a readable safetensors file: {error}; get it again, or delete it and build again"
    )
