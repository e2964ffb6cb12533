"""Checkpoints: the weights of a stack in one file, and one run of it back as a module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import safetensors.torch
import torch
from torch import Tensor, nn

from zoo.config import Run, TrainConfig
from zoo.models import ImageShape, build_model
from zoo.shards import Header, check_weights, unreadable, weights_sha256
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
    header = Header(tuple(run.run_id for run in runs), config.architecture, config.width, shape._asdict())
    return safetensors.torch.save(stacked, metadata=header.metadata())


def sha256_of(weights: Mapping[str, Tensor]) -> str:
    """`shards.weights_sha256` of a state dict."""
    return weights_sha256({name: value.cpu().numpy() for name, value in weights.items()})


def load_run(store: Store, name: str, index: int, run: Run, sha256: str) -> nn.Module:
    """One run of a file as a plain module in eval mode; only its own slice is read.

    Args:
        store: The zoo's store.
        name: The file's name below its root.
        index: Position of the run along the leading axis.
        run: The run that is expected there.
        sha256: `shards.weights_sha256` of its weights.

    Raises:
        ValueError: If the file is damaged, holds another run at this position, or weights of other shapes than
            those of its architecture.
    """
    try:
        with store.local(name) as path, safetensors.safe_open(path, framework="pt") as file:
            header = Header.of(file, name)
            header.place(run.run_id, index, name)
            weights = {key: file.get_slice(key)[index] for key in file.keys()}  # noqa: SIM118 (no mapping)
    except safetensors.SafetensorError as error:
        raise unreadable(name, error) from error
    header.check(run.config, name)
    check_weights({key: value.numpy() for key, value in weights.items()}, sha256, run.run_id, name)
    return module(run.config, ImageShape(**header.shape), weights, name)


def module(config: TrainConfig, shape: ImageShape, weights: Mapping[str, Tensor], name: str) -> nn.Module:
    """A configuration's model in eval mode with these weights.

    Raises:
        ValueError: If they are not those of its architecture.
    """
    model = build_model(config.architecture, config.width, shape)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).split("\n")[1].strip()
        raise ValueError(
            f"{name} says that it holds {config.architecture} of width {config.width}, which its weights are "
            f"not: {first}; register the architecture it was trained with, or delete it and build again"
        ) from error
    return model.eval()
