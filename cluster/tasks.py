"""What runs inside a Ray worker: a stage function, in the surroundings it needs. No science here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any


def call(modules: Iterable[str], function: Callable[..., Any], job: Any, *shared: Any) -> Any:
    """Run a stage function on one thread: a process a core is faster than a process with two threads."""
    import torch

    torch.set_num_threads(1)
    for module in modules:
        importlib.import_module(module)
    return function(job, *shared)
