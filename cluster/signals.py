"""Ctrl-C and SIGTERM: both end a command cleanly, and neither gets lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a destructor it is printed and forgotten;
so it is remembered here too, and raised again by who looks.
"""

from __future__ import annotations

import signal
import threading
from typing import NoReturn

_ASKED = threading.Event()


def install() -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt, now and at the next `check`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def check() -> None:
    """Raise KeyboardInterrupt if a signal came."""
    if _ASKED.is_set():
        raise KeyboardInterrupt


def _interrupt(*_: object) -> NoReturn:
    _ASKED.set()
    raise KeyboardInterrupt
