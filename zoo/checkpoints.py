"""Checkpoints: one safetensors file a stack, each tensor with the run as its leading axis."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import safetensors.torch
import torch
from torch import Tensor, nn

from zoo.config import Run
from zoo.models import ImageShape, build_model
from zoo.storage import Store


def pack(runs: Sequence[Run], weights: Sequence[Mapping[str, Tensor]], shape: ImageShape) -> bytes:
    """The weights of the runs as one safetensors file.

    Args:
        runs: K runs of one stack.
        weights: Their K state dicts, equal in names and shapes.
        shape: Shape of the data they were trained on.

    Returns:
        The bytes of the file: each tensor [K, ...], and in the header the run ids, the architecture, the
        width and the data's shape, so that the file can be read without its tables.
    """
    stacked = {name: torch.stack([w[name] for w in weights]).contiguous() for name in weights[0]}
    config = runs[0].config
    header = {
        "run_ids": json.dumps([run.run_id for run in runs]),
        "architecture": config.architecture,
        "width": str(config.width),
        "shape": json.dumps(shape._asdict()),
    }
    return safetensors.torch.save(stacked, metadata=header)


def verify(store: Store, name: str, sha256: str) -> None:
    """Check a file against the SHA-256 that its table holds.

    Raises:
        ValueError: If they differ.
    """
    if (found := hashlib.sha256(store.read(name)).hexdigest()) != sha256:
        raise ValueError(
            f"{name} is damaged: its SHA-256 is {found}, its table says {sha256}; delete it and build again"
        )


def load_run(store: Store, name: str, index: int, run_id: str) -> nn.Module:
    """One run of a stack's file as a plain module in eval mode; only its own slice is read.

    Args:
        store: The zoo's store.
        name: The file's name below its root.
        index: Position of the run along the leading axis.
        run_id: The run that is expected there.

    Raises:
        ValueError: If the file is damaged, holds another run at this position, or weights of other shapes than
            those of its architecture.
    """
    try:
        with store.local(name) as path, safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata()
            run_ids = json.loads(header["run_ids"])
            if index >= len(run_ids) or run_ids[index] != run_id:
                raise ValueError(
                    f"{name} does not hold run {run_id} at position {index}; its runs are {run_ids}"
                )
            weights = {key: file.get_slice(key)[index] for key in file.keys()}  # noqa: SIM118 (no mapping)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{name} is not a readable safetensors file: {error}; delete it and build again"
        ) from error
    shape = ImageShape(**json.loads(header["shape"]))
    model = build_model(header["architecture"], int(header["width"]), shape)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).split("\n")[1].strip()
        raise ValueError(
            f"{name} says that it holds {header['architecture']} of width {header['width']}, which its weights are "
            f"not: {first}; register the architecture it was trained with, or delete it and build again"
        ) from error
    return model.eval()
