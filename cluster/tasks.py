"""What runs inside a Ray worker: a stage function, in the surroundings it needs. No science here."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from typing import Any


def call(folder: str, modules: Iterable[str], function: Callable[..., Any], job: Any, *shared: Any) -> Any:
    """Run a stage function on one thread: a process a core is faster than a process with two threads.

    Args:
        folder: Where the user's modules are, beside those that are installed.
        modules: Modules to import first, such as those that register architectures.
        function: The stage function.
        job: Its part of the plan.
        shared: What all jobs share.
    """
    if modules and folder not in sys.path:
        sys.path.append(folder)
    for module in modules:
        importlib.import_module(module)
    if (torch := sys.modules.get("torch")) is not None:  # else the function has no use for it
        torch.set_num_threads(1)
    return function(job, *shared)
