"""Ctrl-C, SIGTERM and a hang-up: each ends a command cleanly, and none gets lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a destructor it is printed and forgotten;
so it is remembered here too, and raised again by who looks.
"""

from __future__ import annotations

import signal
import threading
from typing import NoReturn

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A hang-up comes when the terminal closes, or when the client of `ray submit` dies."""

_ASKED = threading.Event()


def install() -> None:
    """Let the signals raise KeyboardInterrupt, now and at the next `check`; one ignored on purpose stays so."""
    for number in HEARD:
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue  # nohup
        signal.signal(number, _interrupt)


def check() -> None:
    """Raise KeyboardInterrupt if a signal came."""
    if _ASKED.is_set():
        raise KeyboardInterrupt


def _interrupt(*_: object) -> NoReturn:
    _ASKED.set()
    raise KeyboardInterrupt
