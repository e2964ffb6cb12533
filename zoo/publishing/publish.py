"""Publish a zoo: make a release of it, and send a release to a hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import yaml

from zoo import tables
from zoo.fragments import CHECKPOINTS
from zoo.publishing.card import Contents, write_card
from zoo.publishing.checksums import SUMS, SummedStore
from zoo.publishing.croissant import describe
from zoo.publishing.shards import SHARD_BYTES, chosen, kinds_of, shards
from zoo.publishing.terms import Terms
from zoo.publishing.verify import CROISSANT, TABLES
from zoo.reader import MANIFEST, Zoo
from zoo.storage import open_store

PACKAGES = ("mdzoo", "numpy", "pandas", "pyarrow", "safetensors", "scikit-learn", "torch", "torchvision")
"""Packages whose versions a release names."""

ROWS_A_GROUP = 50_000
"""Rows of a table that are read together: fewer need not be read where a filter leaves them out."""


def publish(
    zoo: Zoo,
    out: str | Path,
    terms: Terms,
    *,
    title: str | None = None,
    weights_mib: float | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Make a release of a zoo. Equal zoos and terms give equal bytes.

    Args:
        zoo: A zoo that is built, or another release.
        out: An empty folder, or a URI below which there is nothing.
        terms: Licence, authors, version, date.
        title: Title of the release; from the zoo's name if None.
        weights_mib: MiB of weights that it holds at most; 0 holds none, None all.
        shard_bytes: Bytes of weights a file, at most.

    Returns:
        What it holds: files, bytes, runs, checkpoints.

    Raises:
        FileExistsError: If there is something at `out`.
        FileNotFoundError: If the zoo is not built to its end.
        ValueError: If the terms cannot be, or the zoo's weights are damaged.
    """
    terms.check()
    store, title = open_store(out), title or f"mdzoo: {zoo.name}"
    if there := [*store.names("", ""), *store.names(CHECKPOINTS, "")]:
        raise FileExistsError(f"{out} holds {there[0]} already; publish into an empty place")
    found = {name: zoo.arrow(name) for name in TABLES if _needed(zoo, name)}
    runs = found["runs"].to_pandas()
    with_weights = runs[runs["checkpoint"].notna()]
    kinds = kinds_of(zoo.store, sorted(set(with_weights["checkpoint"])))
    most = None if weights_mib is None else weights_mib * 2**20
    released = SummedStore(store)
    places: dict[str, tuple[str, int]] = {}
    for shard in shards(zoo.store, chosen(with_weights, kinds, most), kinds, shard_bytes):
        name = released.write_named_by_content(CHECKPOINTS, shard.data, ".safetensors", shard.stem)
        places |= {run_id: (name, index) for index, run_id in enumerate(shard.run_ids)}
    found["runs"] = _placed(found["runs"], places)
    for name, table in found.items():
        found[name] = _without_hosts(table)
        released.write(f"{name}.parquet", tables.to_bytes(found[name], ROWS_A_GROUP))
    _describe(released, zoo, title, terms, found)
    released.close()
    return {
        "release": str(store),
        "files": len(released.sizes) + 2,
        "bytes": sum(released.sizes.values()),
        "runs": len(runs),
        "checkpoints": len(places),
    }


def _describe(
    released: SummedStore, zoo: Zoo, title: str, terms: Terms, found: Mapping[str, pa.Table]
) -> None:
    """Write what says what the release is: to `zoo.open`, to who cites it, to machines, and to readers."""
    versions = _versions()
    manifest = {
        "schema_version": tables.SCHEMA_VERSION,
        "package_version": version("mdzoo"),
        "name": zoo.name,
        "configurations": len(found["configs"]),
        "runs": len(found["runs"]),
        "metric_recipe": zoo.metric_recipe,
        "release": {"title": title, **terms._asdict(), "versions": versions},
        "spec": zoo.spec,
    }
    released.write(MANIFEST, json.dumps(manifest, indent=1).encode())
    released.write("spec.toml", zoo.spec.encode())
    citation = yaml.safe_dump(terms.citation(title), sort_keys=False, allow_unicode=True)
    released.write("CITATION.cff", citation.encode())
    labels = found["labels"].to_pandas() if "labels" in found else pd.DataFrame()
    metrics = found["metrics"]["metric"].to_pandas() if "metrics" in found else pd.Series(dtype=str)
    own = found["configs"].to_pandas(), found["runs"].to_pandas(), metrics, labels
    contents = Contents(zoo.name, title, *own, released.sizes, versions)
    described = describe(title, contents.description, terms, released.sums, released.sizes)
    released.write(CROISSANT, json.dumps(described, indent=1).encode())
    released.write("README.md", write_card(contents, terms).encode())


def push(release: Path, repository: str, token: str | None = None) -> str:
    """Send a release to a data-set repository of a hub, which is made, private, if it is not there.

    Args:
        release: Folder of the release.
        repository: OWNER/NAME.
        token: Of the hub; None takes the one that `hf auth login` stored, or that of the environment.

    Returns:
        The address of the repository.

    Raises:
        FileNotFoundError: If the folder holds no whole release.
        ConnectionError: If the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi  # only who publishes needs it

    if not (release / SUMS).is_file():
        raise FileNotFoundError(f"{release} holds no whole release: {SUMS} is missing")
    api = HfApi(token=token)
    try:
        address = api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=release,
            commit_message="Release made by mdzoo",
        )
    except Exception as error:  # of the network or of the hub
        raise ConnectionError(
            f"the release is made, at {release}, but could not be sent: {error}; send it by "
            f"`hf upload {repository} {release} --repo-type dataset`"
        ) from error
    return str(address)


def _needed(zoo: Zoo, name: str) -> bool:
    """Whether a table is to be read: each that is there; a release without runs or configurations is none."""
    return name in ("configs", "runs", "history") or zoo.store.exists(f"{name}.parquet")


def _placed(runs: pa.Table, places: dict[str, tuple[str, int]]) -> pa.Table:
    """The runs with the places of their weights in the release; null where it does not hold them.

    Of an error only the last line stays: the rest tells of the machine it was on.
    """
    ids = runs["run_id"].to_pylist()
    reasons = [text and text.strip().rpartition("\n")[2] for text in runs["reason"].to_pylist()]
    columns = {
        "checkpoint": [places[i][0] if i in places else None for i in ids],
        "checkpoint_index": [places[i][1] if i in places else None for i in ids],
        "reason": reasons,
    }
    for name, values in columns.items():
        field = runs.schema.field(name)
        runs = runs.set_column(runs.schema.get_field_index(name), field, pa.array(values, field.type))
    return runs


def _without_hosts(table: pa.Table) -> pa.Table:
    """The table without the names of the machines that made it."""
    if "host" not in table.column_names:
        return table
    field = table.schema.field("host")
    place = table.schema.get_field_index("host")
    return table.set_column(place, field, pa.nulls(len(table), field.type))


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
