"""What all verbs of the program `mdzoo` share: options, the user's modules, what is printed."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Annotated, Any, NoReturn

import typer

WRONG_USE, FAILED_RUNS, INTERRUPTED = 2, 3, 130
"""Exit codes beside 0 and 1."""

ZooFolder = Annotated[
    str, typer.Argument(help="Folder or URI of a zoo, or the name of a shipped release.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]


def look_here() -> None:
    """Find modules in the current folder too, as python itself would."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def import_modules(modules: list[str]) -> None:
    """Import the user's modules, from the current folder too.

    Raises:
        typer.BadParameter: If one cannot be imported.
    """
    if modules:
        look_here()
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise typer.BadParameter(
                f"{module} cannot be imported: {error}", param_hint="--import"
            ) from error


def show(facts: dict[str, Any], as_json: bool) -> None:
    """Print facts, a line each, or as one JSON object."""
    if as_json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        print(f"{name.replace('_', ' ')}: {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if value == []:
        return "none"
    if isinstance(value, list):
        return "".join(f"\n  {item}" for item in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def stop(message: str, code: int) -> NoReturn:
    """End the program with a message."""
    print(f"mdzoo: {message}", file=sys.stderr)
    raise typer.Exit(code)


def interrupted(message: str) -> NoReturn:
    """End the program at once: what lasts is on storage, and the interpreter's own tidying would take seconds."""
    print(f"mdzoo: {message}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)
