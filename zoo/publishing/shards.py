"""Weights of a zoo packed into shards: few files, each of one architecture and width, as large as is handy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import safetensors
import safetensors.numpy

from zoo.shards import Header, check_weights, unreadable
from zoo.storage import Store

SHARD_BYTES = 256 * 2**20
"""Bytes of weights a shard, at most, unless one run has more: what a reader of one model downloads."""

MOST_FILES, MOST_BYTES = 10_000, 5 * 10**9
"""Files a folder, and bytes a file, as hubs allow."""


class Kind(NamedTuple):
    """What runs of one shard have in common: their header, the runs apart, and their tensors."""

    architecture: str
    width: int
    shape: tuple[tuple[str, int], ...]
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]
    """Name, type and shape of each."""

    @property
    def bytes_a_run(self) -> int:
        """Bytes of the weights of one run."""
        return sum(np.dtype(kind).itemsize * int(np.prod(shape)) for _, kind, shape in self.tensors)


class Shard(NamedTuple):
    """A file of a release: the beginning of its name, its bytes, and its runs in their order."""

    stem: str
    data: bytes
    run_ids: tuple[str, ...]


def kinds_of(store: Store, files: Sequence[str]) -> dict[str, Kind]:
    """What the runs of each file of weights are.

    Raises:
        ValueError: If a file cannot be read.
    """
    found = {}
    for name in files:
        try:
            with store.local(name) as path, safetensors.safe_open(path, framework="numpy") as file:
                header = Header.of(file, name)
                tensors = tuple(_described(file, key) for key in sorted(file.keys()))
        except safetensors.SafetensorError as error:
            raise unreadable(name, error) from error
        found[name] = Kind(header.architecture, header.width, tuple(sorted(header.shape.items())), tensors)
    return found


def _described(file: Any, key: str) -> tuple[str, str, tuple[int, ...]]:
    tensor = file.get_slice(key)
    none = tensor[:0]
    return key, str(none.dtype), tuple(none.shape[1:])


def chosen(runs: pd.DataFrame, kinds: Mapping[str, Kind], most_bytes: float | None) -> pd.DataFrame:
    """The runs whose weights a release holds: all, or as many as fit, all seeds of a configuration or none.

    Args:
        runs: Rows of the table `runs` with a checkpoint.
        kinds: From `kinds_of`.
        most_bytes: Bytes of weights at most; None takes all. Configurations are drawn by the hash of their id.
    """
    if most_bytes is None:
        return runs
    sizes = runs["checkpoint"].map(lambda name: kinds[name].bytes_a_run).groupby(runs["config_id"]).sum()
    order = sorted(sizes.index, key=lambda config_id: hashlib.sha256(config_id.encode()).digest())
    within = sizes.loc[order].cumsum() <= most_bytes
    return runs[runs["config_id"].isin(within[within].index)]


def shards(
    store: Store, runs: pd.DataFrame, kinds: Mapping[str, Kind], shard_bytes: int = SHARD_BYTES
) -> Iterator[Shard]:
    """The weights of the runs, packed; each run's weights are checked against its SHA-256 on the way.

    Args:
        store: The zoo's store.
        runs: Rows of the table `runs` with a checkpoint.
        kinds: From `kinds_of`.
        shard_bytes: Bytes a shard at most, one run at least.

    Raises:
        ValueError: If weights are damaged, a run has more than `MOST_BYTES`, or there would be `MOST_FILES` shards.
    """
    if large := [kind for kind in kinds.values() if kind.bytes_a_run > MOST_BYTES]:
        raise ValueError(
            f"a run of {large[0].architecture} of width {large[0].width} has {large[0].bytes_a_run:,} bytes of "
            f"weights; a file of a release may have {MOST_BYTES:,}"
        )
    parts = []
    for kind, group in sorted(runs.groupby(runs["checkpoint"].map(kinds)), key=lambda item: item[0]):
        at_once = max(1, shard_bytes // max(kind.bytes_a_run, 1))
        starts = range(0, len(group), at_once)
        parts += [(kind, group.iloc[start : start + at_once]) for start in starts]
    if len(parts) >= MOST_FILES:
        raise ValueError(
            f"there would be {len(parts)} shards, a folder may hold fewer than {MOST_FILES}; raise the bytes a shard "
            f"from {shard_bytes}"
        )
    for kind, group in parts:
        run_ids = tuple(group["run_id"])
        header = Header(run_ids, kind.architecture, kind.width, dict(kind.shape))
        data = safetensors.numpy.save(_gathered(store, group, kind), metadata=header.metadata())
        yield Shard(f"{kind.architecture}-w{kind.width}-", data, run_ids)


def _gathered(store: Store, runs: pd.DataFrame, kind: Kind) -> dict[str, np.ndarray]:
    """Each tensor of the runs as one array, the run as its leading axis."""
    together = {key: np.empty((len(runs), *shape), dtype) for key, dtype, shape in kind.tensors}
    numbered = runs.assign(place=range(len(runs)))
    for name, own in numbered.groupby("checkpoint"):
        rows = own.to_dict("records")
        with store.local(str(name)) as path, safetensors.safe_open(path, framework="numpy") as file:
            header = Header.of(file, str(name))
            places = [header.place(row["run_id"], int(row["checkpoint_index"]), str(name)) for row in rows]
            for key, into in together.items():
                into[own["place"].to_numpy()] = file.get_tensor(key)[places]
        for row in rows:
            weights = {key: tensor[row["place"]] for key, tensor in together.items()}
            check_weights(weights, row["weights_sha256"], row["run_id"], str(name))
    return together
