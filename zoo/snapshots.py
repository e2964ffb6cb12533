"""Snapshots: where a stack stands in its training, kept now and then, so that a preempted task can go on from there.

A resumed stack ends as one that was never interrupted, to the bit: kept are weights and optimiser of every model,
what was logged, and the position in the order of batches, which is drawn anew from its key. A snapshot is no result:
it goes when its stack is committed, and one that cannot be read is as good as none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from zoo.config import content_id
from zoo.stacks import SNAPSHOT_SECONDS, Stack
from zoo.storage import Store

FOLDER, SUFFIX = "snapshots", ".safetensors"


class Snapshot(NamedTuple):
    """Where a stack stands.

    Attributes:
        facts: Numbers and texts that JSON can hold.
        tensors: Tensors by name, on the CPU.
    """

    facts: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass
class Keeper:
    """Keeps the snapshots of one stack.

    Args:
        store: The zoo's store.
        stack: The stack.
        engine: The engine that trains it, whose state another could not take up.
        seconds: Time between snapshots.
    """

    store: Store
    stack: Stack
    engine: str
    seconds: float = SNAPSHOT_SECONDS
    _last: float = field(default_factory=time.monotonic)
    _is_there: bool = False

    @property
    def name(self) -> str:
        """The file below the store's place."""
        key = json.dumps([self.engine, *self.stack.run_ids])
        return f"{FOLDER}/{content_id(key, 32)}{SUFFIX}"

    def read(self) -> Snapshot | None:
        """The last snapshot; None if there is none that can be read."""
        self._is_there = self.store.exists(self.name)
        if not self._is_there:
            return None
        try:
            with self.store.local(self.name) as path, safetensors.safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
                return Snapshot(json.loads(file.metadata()["facts"]), tensors)
        except (SafetensorError, FileNotFoundError, KeyError, ValueError):
            return None

    def keep_if_due(self, snapshot: Callable[[], Snapshot]) -> None:
        """Write a snapshot if the last is long ago."""
        if time.monotonic() - self._last < self.seconds:
            return
        facts, tensors = snapshot()
        data = safetensors.torch.save(tensors, metadata={"facts": json.dumps(facts)})
        self.store.write(self.name, data)
        self._is_there, self._last = True, time.monotonic()

    def drop(self) -> None:
        """Remove the snapshot, if there is one: the stack is committed."""
        if self._is_there:
            self.store.delete(self.name)


def drop_all(store: Store) -> None:
    """Remove what stacks left behind that were cut in another way since."""
    for name in store.names(FOLDER, SUFFIX):
        store.delete(name)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under longer names."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
