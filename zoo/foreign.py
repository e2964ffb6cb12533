"""Models that are in no zoo: weights from a file, and the images that they were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from zoo.models import ImageShape, build_model
from zoo.shards import METADATA, unreadable

WITHIN = ("state_dict", "model_state_dict", "model", "net")
"""Names under which training scripts keep a state dict within a checkpoint."""

BEFORE = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before each name."""


def load_model(path: Path, architecture: str, width: int, shape: ImageShape) -> nn.Module:
    """A registered architecture with the weights of a file, in eval mode.

    Args:
        path: A safetensors file, or what `torch.save` made of a state dict, alone or within a checkpoint. Nothing in
            it is run.
        architecture: Its name in the registry of `zoo.models`.
        width: Its width.
        shape: Shape of its images, and number of its classes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no state dict, or that of another model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    weights = _plain(_read(path))
    model = build_model(architecture, width, shape)
    expected = model.state_dict()
    what = f"{architecture} of width {width} for {shape.channels} x {shape.image_size} x {shape.image_size} images"
    if missing := [name for name in expected if name not in weights]:
        more = [name for name in weights if name not in expected]
        raise ValueError(
            f"{path} is not a {what}: it lacks {_some(missing)}" + (f" and has {_some(more)}" if more else "")
        )
    for name, value in expected.items():
        if weights[name].shape != value.shape:
            raise ValueError(
                f"{path} is not a {what}: {name} has shape {list(weights[name].shape)}, that of the architecture "
                f"is {list(value.shape)}; give its --width and --architecture"
            )
    if more := [name for name in weights if name not in expected]:
        raise ValueError(f"{path} is not a {what}: it has {_some(more)} more")
    model.load_state_dict(weights)
    return model.eval()


def _read(path: Path) -> Mapping[str, Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            if METADATA in (file.metadata() or {}):
                raise ValueError(
                    f"{path} holds many runs of a zoo; load one by zoo.open(...).model(config_id, seed)"
                )
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        if path.suffix == ".safetensors":
            raise unreadable(str(path), error) from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises whatever it likes
        raise ValueError(
            f"{path} is neither safetensors nor a state dict that can be loaded without running code: "
            f"{str(error).partition(chr(10))[0]}; save model.state_dict() by safetensors.torch.save_file"
        ) from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds a {type(found).__name__}, no state dict; save model.state_dict()")
    return found


def _plain(found: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict itself, its names without what wrappers put before them."""
    for name in WITHIN:
        if isinstance(found.get(name), Mapping):
            found = found[name]
            break
    weights = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    for prefix in BEFORE:
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _some(names: list[str]) -> str:
    """The first names of a list."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
