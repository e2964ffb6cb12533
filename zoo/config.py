"""What identifies a run: a configuration and a seed.

Identity is not execution. `TrainConfig` holds everything that changes the weights except the seed, and
nothing else: no path, no worker, no device. `config_id` is a hash of its canonical JSON, in which fields at
their default are left out, so that a field added later changes no old id.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

RECIPES = {"default": 1, "paper": 1}
"""Training recipes and the version of each that this package trains; a version enters the identity."""

SCHEDULES = ("constant", "cosine", "linear")
PRECISIONS = ("float32",)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that changes the weights of a run except its seed.

    Attributes:
        dataset: Name of the data set; `data_fingerprint` says which pixels and labels that was.
        data_fingerprint: Hash of the images and labels, wherever they were read from.
        architecture: Name in the registry of `zoo.models`.
        width: Channels (or units) of the first layer; the others are multiples of it.
        batch_size: Images a step.
        data_amount: Training images.
        sample_passes: Length of training: images seen, repetitions counted.
        image_size: Height and width in pixels after average pooling; None keeps the images as they are.
        learning_rate: Peak learning rate.
        weight_decay: L2 coefficient, applied to every trainable parameter.
        momentum: Heavy-ball momentum of SGD.
        schedule: Course of the learning rate after the warm-up, one of `SCHEDULES`.
        warm_up: Share of the steps over which the learning rate rises linearly from zero.
        label_noise: Share of the training labels that are redrawn, in [0, 1).
        noise_seed: Which draw of the noise; the noise belongs to the data set, not to the run.
        recipe: Name of the training recipe, a key of `RECIPES`.
        recipe_version: Version of that recipe.
        precision: Number format of the training arithmetic.
    """

    dataset: str
    data_fingerprint: str
    architecture: str
    width: int
    batch_size: int
    data_amount: int
    sample_passes: int
    image_size: int | None = None
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    momentum: float = 0.9
    schedule: str = "cosine"
    warm_up: float = 0.05
    label_noise: float = 0.0
    noise_seed: int = 0
    recipe: str = "default"
    recipe_version: int = 1
    precision: str = "float32"

    def canonical_json(self) -> str:
        """The configuration as JSON: keys sorted, fields at their default left out."""
        given = {name: value for name, default in _DEFAULTS if (value := getattr(self, name)) != default}
        return _CANONICAL.encode(given)

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """The configuration whose `canonical_json` is `text`.

        Raises:
            ValueError: If the text names a field that this version does not know.
        """
        given: dict[str, Any] = json.loads(text)
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(given) - known):
            raise ValueError(
                f"configuration has the unknown fields {unknown}: it was written by a newer mdzoo; update mdzoo"
            )
        return cls(**given)

    @property
    def config_id(self) -> str:
        """16 hexadecimal digits that identify the configuration."""
        return content_id(self.canonical_json())

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in which every training image is seen once, the last batch possibly smaller."""
        return -(-self.data_amount // self.batch_size)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        if self.recipe == "paper":
            return self.sample_passes // self.data_amount * self.steps_per_epoch
        return max(1, self.sample_passes // self.batch_size)


_DEFAULTS = tuple((field.name, field.default) for field in dataclasses.fields(TrainConfig))
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Run:
    """One configuration with one seed."""

    config: TrainConfig
    seed: int

    @property
    def run_id(self) -> str:
        """`<config_id>-<seed>`."""
        return f"{self.config.config_id}-{self.seed}"


def content_id(text: str | bytes, digits: int = 16) -> str:
    """The first hexadecimal digits of the SHA-256 of a text."""
    data = text.encode() if isinstance(text, str) else text
    return hashlib.sha256(data).hexdigest()[:digits]


def seed_of(*key: object) -> int:
    """A 63-bit seed for the random stream that concerns `key`.

    Streams are keyed by what they concern, so that a draw is the same on any worker, in any order.
    """
    digest = hashlib.sha256(json.dumps(key, separators=(",", ":")).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
