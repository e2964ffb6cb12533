"""Check a release: every byte first; then that its tables, its weights and its descriptions agree."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import pandas as pd
import safetensors

from zoo.config import Run
from zoo.fragments import CHECKPOINTS
from zoo.publishing.checksums import BLOCKS, SUMS, Block, first_bad_byte, places, read_blocks, read_sums
from zoo.reader import MANIFEST, Zoo, open_zoo, store_at
from zoo.shards import Header, check_weights, unreadable
from zoo.storage import Store

CROISSANT = "croissant.json"
TABLES = ("configs", "runs", "history", "metrics", "labels")
"""Tables of a release; those of a zoo that is not measured or labelled are not there."""


class Fault(NamedTuple):
    """Something wrong with a release: the file, the first bad byte if it is known, and what is wrong."""

    file: str
    offset: int | None
    what: str

    def __str__(self) -> str:
        """All of it in a line."""
        place = "" if self.offset is None else f", byte {self.offset:,}"
        return f"{self.file}{place}: {self.what}"


class Report(NamedTuple):
    """What was checked, and what was found.

    Attributes:
        files: Files checked.
        size: Their bytes.
        runs: Runs whose weights were checked.
        seconds: Time it took.
        faults: What is wrong; none if all is well.
    """

    files: int
    size: int
    runs: int
    seconds: float
    faults: tuple[Fault, ...]


def verify(place: str) -> Report:
    """Check a release in a folder or at a URI.

    First each file against its SHA-256; of one that differs the first bad byte is looked for. Where all bytes are as
    published, it is checked that schemas are those of this version, that rows of tables belong together, that
    configurations are what their ids stand for, that each run's weights have their SHA-256 and, where torch is
    installed, the shapes of their architecture, and that `croissant.json` has the same sums.

    Raises:
        FileNotFoundError: If there is nothing like a release.
    """
    began, store = time.monotonic(), store_at(place)
    if not store.exists(SUMS) and not store.names(CHECKPOINTS, ""):
        raise FileNotFoundError(
            f"{place} holds no release: {SUMS} is missing, and there are no {CHECKPOINTS}/"
        )
    zoo = cache(lambda: open_zoo(place))
    sizes: dict[str, int] = {}
    faults = list(_byte_faults(store, sizes))
    runs = 0
    if not faults:
        checks: tuple[Callable[[], int | None], ...] = (
            lambda: _check_tables(zoo()),
            lambda: _check_configurations(zoo()),
            lambda: _check_weights(zoo()),
            lambda: _check_description(store),
        )
        for check in checks:
            try:
                runs += check() or 0
            except Exception as error:  # whatever a damaged file leads to is a fault of the release
                known = isinstance(error, ValueError | FileNotFoundError)
                what = str(error).removeprefix(f"{store}/") if known else repr(error)
                faults.append(Fault(_file_in(what), None, what))
    return Report(len(sizes), sum(sizes.values()), runs, time.monotonic() - began, tuple(faults))


def _file_in(message: str) -> str:
    """The file that an error is about, if it begins with one."""
    first = message.split(" ", 1)[0].rstrip(":")
    return first.rpartition("/")[2] if first.endswith((".parquet", ".json")) else first


def _byte_faults(store: Store, sizes: dict[str, int]) -> Iterator[Fault]:
    """What differs from the sums, file by file; `sizes` gets the bytes of each file that was read."""
    if not store.exists(SUMS):
        yield Fault(
            SUMS, None, "is missing: this is no release, or not all of one; `mdzoo publish` writes it last"
        )
        return
    try:
        sums = read_sums(store.read(SUMS))
    except ValueError as error:
        place, _, what = str(error).removeprefix("byte ").partition(": ")
        yield Fault(SUMS, int(place), what)
        return
    there = {
        name for folder in places(sums) | {CHECKPOINTS} for name in store.names(folder, "") if name != SUMS
    }
    for name in sorted(set(sums) - there):
        yield Fault(name, None, "is missing")
    for name in sorted(there - set(sums)):
        yield Fault(name, None, f"is not part of the release: {SUMS} does not list it")
    blocks = _blocks(store, sums, there)
    names = sorted(set(sums) & there)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets other threads run
        found = pool.map(lambda name: _fault_of(store, name, sums, blocks), names)
        for name, (size, fault) in zip(names, found, strict=True):
            sizes[name] = size
            if fault is not None:
                yield fault


def _blocks(store: Store, sums: Mapping[str, str], there: set[str]) -> dict[str, list[Block]]:
    """The blocks of all files; none if their table is damaged."""
    if BLOCKS not in there or BLOCKS not in sums:
        return {}
    data = store.read(BLOCKS)
    return read_blocks(data) if hashlib.sha256(data).hexdigest() == sums[BLOCKS] else {}


def _fault_of(
    store: Store, name: str, sums: Mapping[str, str], blocks: Mapping[str, list[Block]]
) -> tuple[int, Fault | None]:
    data = store.read(name)
    if hashlib.sha256(data).hexdigest() == sums[name]:
        return len(data), None
    if name not in blocks:
        return len(data), Fault(name, None, "does not have its SHA-256; where it differs is not known")
    bad = first_bad_byte(data, blocks[name])
    if bad is None:
        return len(data), Fault(SUMS, None, f"has a wrong SHA-256 of {name}, whose blocks are right")
    return len(data), Fault(name, bad.offset, bad.what)


def _check_tables(zoo: Zoo) -> None:
    """Each table has its schema, and refers to rows that are there."""
    found = {name: zoo.arrow(name) for name in TABLES if zoo.store.exists(f"{name}.parquet")}
    if missing := sorted({"configs", "runs", "history"} - set(found)):
        raise FileNotFoundError(f"{missing[0]}.parquet is missing")
    for name, key in (("configs", "config_id"), ("runs", "run_id")):
        ids = found[name][key].to_pandas()
        if ids.duplicated().any():
            raise ValueError(f"{name}.parquet has {key} {ids[ids.duplicated()].iloc[0]} twice")
    runs = found["runs"].select(["run_id", "config_id", "seed"]).to_pandas()
    wrong = runs["run_id"] != runs["config_id"] + "-" + runs["seed"].astype(str)
    if wrong.any():
        raise ValueError(
            f"runs.parquet: run {runs['run_id'][wrong].iloc[0]} has another configuration or seed"
        )
    ids = {"config_id": set(found["configs"]["config_id"].to_pylist()), "run_id": set(runs["run_id"])}
    for name, table in found.items():
        for column in ("config_id", "run_id", "other_run_id"):
            if column in table.column_names:
                known = ids["config_id" if column == "config_id" else "run_id"]
                if unknown := set(table[column].to_pylist()) - known - {None}:
                    where = "configs" if column == "config_id" else "runs"
                    raise ValueError(f"{name}.parquet has {column} {min(unknown)}, which {where} has not")


def _check_configurations(zoo: Zoo) -> None:
    """Each configuration is what its id stands for, in all its columns."""
    configs = zoo.table("configs")
    for row in configs.to_dict("records"):
        config = zoo.config(row["config_id"])
        for field in config.__slots__:
            said, is_so = row[field], getattr(config, field)
            if said != is_so and not (is_so is None and pd.isna(said)):
                raise ValueError(
                    f"configs.parquet: {row['config_id']} has {field} {said!r}, its identity says {is_so!r}"
                )


def _check_weights(zoo: Zoo) -> int:
    """The weights that the table `runs` names are in the shards, all of them, and as they were trained."""
    runs = zoo.table("runs")
    stored = runs[runs["checkpoint"].notna()]
    if lost := sorted(set(stored["checkpoint"]) - set(zoo.store.names(CHECKPOINTS, ".safetensors"))):
        raise FileNotFoundError(f"{lost[0]} is missing, runs.parquet names it")
    for name, own in stored.groupby("checkpoint"):
        try:
            with zoo.store.local(str(name)) as path, safetensors.safe_open(path, framework="numpy") as file:
                _check_shard(zoo, str(name), file, own)
        except safetensors.SafetensorError as error:
            raise unreadable(str(name), error) from error
    return len(stored)


def _check_shard(zoo: Zoo, name: str, file: Any, runs: pd.DataFrame) -> None:
    header = Header.of(file, name)
    together = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    lengths = {key: tensor.shape[0] for key, tensor in together.items()}
    if set(lengths.values()) != {len(header.run_ids)}:
        raise ValueError(f"{name} lists {len(header.run_ids)} runs, its tensors hold {lengths}")
    for row in runs.to_dict("records"):
        run = Run(zoo.config(row["config_id"]), row["seed"])
        index = header.place(run.run_id, int(row["checkpoint_index"]), name)
        header.check(run.config, name)
        weights = {key: tensor[index] for key, tensor in together.items()}
        check_weights(weights, row["weights_sha256"], run.run_id, name)
    _check_shapes(header, {key: tensor.shape[1:] for key, tensor in together.items()}, name)


def _check_shapes(header: Header, shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    """The tensors are those of the architecture, where torch can say so and knows it."""
    if find_spec("torch") is None:
        return
    import torch

    from zoo.models import ARCHITECTURES, ImageShape, build_model

    if header.architecture not in ARCHITECTURES:
        return
    with torch.device("meta"):
        model = build_model(header.architecture, header.width, ImageShape(**header.shape))
    for key, value in model.state_dict().items():
        if key not in shapes:
            raise ValueError(f"{name} has no tensor {key}, which {header.architecture} has")
        if tuple(value.shape) != tuple(shapes[key]):
            raise ValueError(
                f"{name}: {key} has shape {list(shapes[key])}; that of {header.architecture} of width {header.width} "
                f"is {list(value.shape)}"
            )
    if more := sorted(set(shapes) - set(model.state_dict())):
        raise ValueError(f"{name} has the tensor {more[0]}, which {header.architecture} has not")


def _check_description(store: Store) -> None:
    """The Croissant description has the same sums, and the manifest can be read."""
    sums = read_sums(store.read(SUMS))
    if CROISSANT not in sums:
        raise FileNotFoundError(f"{CROISSANT} is missing")
    try:
        said = {
            item["contentUrl"]: item["sha256"]
            for item in json.loads(store.read(CROISSANT))["distribution"]
            if "sha256" in item
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{CROISSANT} cannot be read: {error!r}") from error
    for name, digest in said.items():
        if sums.get(name) != digest:
            raise ValueError(f"{CROISSANT} has another SHA-256 of {name} than {SUMS}")
    json.loads(store.read(MANIFEST))
