"""What runs inside a Ray worker: a stage function, in the surroundings it needs. No science here."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple


class Usage(NamedTuple):
    """What a task took at its peak.

    Attributes:
        memory: Bytes of main memory that are the process's own.
        gpu_memory: Bytes of the GPU's memory that torch had reserved.
        gpu_total: Bytes that the GPU has; 0 without one.
    """

    memory: int
    gpu_memory: int = 0
    gpu_total: int = 0


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


class Gauge:
    """Measures what this process takes at its peak, from now on; pages that it shares with others are not counted."""

    def __init__(self) -> None:
        with suppress(OSError):  # elsewhere than on Linux nothing is measured
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._before = _memory()
        if cuda := _cuda():
            cuda.empty_cache()  # what the task before has left would count for this one
            cuda.reset_peak_memory_stats()

    def read(self) -> Usage | None:
        """The peak; None where the system does not say."""
        if not (before := self._before):
            return None
        memory = before["RssAnon"] + max(0, _memory()["VmHWM"] - before["VmRSS"])
        if not (cuda := _cuda()):
            return Usage(memory)
        return Usage(memory, cuda.max_memory_reserved(), cuda.get_device_properties(0).total_memory)


def _memory() -> dict[str, int]:
    """What this process has of memory, in bytes, by the kernel's names; nothing elsewhere than on Linux."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return {}
    return {name: 1024 * int(size) for name, size in re.findall(r"(\w+):\s+(\d+) kB", text)}


def _cuda() -> Any:
    """The module torch.cuda, if this process uses it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
