"""The fingerprint of a diagnoser: what decides its answers, as one hash, so that they can be kept and reused.

Source files count by their bytes, parameters by their values, libraries by their versions. Where a diagnoser
lies, and on which machine or in which process it runs, does not.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from diagnose.baselines import Diagnoser
from diagnose.features import FEATURE_SETS

LIBRARIES = {"numpy": "numpy", "sklearn": "scikit-learn", "scipy": "scipy", "xgboost": "xgboost"}
"""Packages that count by the version of their distribution, not by their source."""

_OWN = Path(__file__).resolve().parent
_SIMPLE = (type(None), bool, int, float, complex, str, bytes)


def fingerprint(diagnoser: Diagnoser) -> str:
    """SHA-256 of what decides a diagnoser's answers, the same in every process.

    It is made of its name, feature columns, nulls, tasks and whether it is seeded; of the estimator that it
    builds for each task, nested ones included, by class and parameters; of the source of the modules that
    define those classes and the build function, with what these import of their own package, or beside them
    if they are in none (for anything in `diagnose` of all of its files); and of the versions of mdzoo, numpy,
    scikit-learn, scipy, and of every other package that it uses, as xgboost. A diagnoser whose build raises
    is known by its error. What is defined in no file, as in an interpreter, is never the same twice.

    Args:
        diagnoser: The diagnoser; its build is called for each of its tasks, with seed 0.

    Returns:
        64 hexadecimal digits.
    """
    seen = _Seen()
    columns = FEATURE_SETS[diagnoser.features].columns if diagnoser.features in FEATURE_SETS else {}
    facts = {
        "name": diagnoser.name,
        "features": diagnoser.features,
        "columns": {task: list(columns.get(task, ())) for task in diagnoser.tasks},
        "nulls": diagnoser.nulls,
        "seeded": diagnoser.seeded,
        "build": seen.described(diagnoser.build),
        "built": {task: _built(diagnoser, task, seen) for task in diagnoser.tasks},
    }
    facts["sources"] = sources = _sources(seen.modules)
    facts["versions"] = _versions(seen, sources)
    hashes = facts | {"sources": {name: hashlib.sha256(text).hexdigest() for name, text in sources.items()}}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _built(diagnoser: Diagnoser, task: str, seen: _Seen) -> Any:
    try:
        return seen.described(diagnoser.build(task, 0))
    except Exception as error:  # a stranger's build may raise anything
        return f"{type(error).__name__}: {_without_addresses(str(error))}"


class _Seen:
    """A walk over objects, and the modules of the classes and functions met on it."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.classes: set[str] = set()
        self._open: set[int] = set()

    def described(self, value: Any) -> Any:
        """The value as JSON, alike in every process."""
        if isinstance(value, _SIMPLE):
            return [type(value).__name__, repr(value)]
        if id(value) in self._open:
            return "itself"
        self._open.add(id(value))
        try:
            return self._parts(value)
        finally:
            self._open.remove(id(value))

    def _parts(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return ["mapping", self._sorted((k, v) for k, v in value.items())]
        if isinstance(value, (set, frozenset)):
            return ["set", self._sorted(value)]
        if isinstance(value, (list, tuple)):
            return [type(value).__name__, [self.described(part) for part in value]]
        if isinstance(value, np.ndarray) and value.dtype != object:
            return ["array", value.dtype.str, list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
        if isinstance(value, types.ModuleType):
            self.modules.add(value.__name__)
            return ["module", value.__name__]
        if isinstance(value, type):
            return ["class", *self._class(value)]
        if isinstance(value, partial):
            return ["partial", *map(self.described, (value.func, value.args, value.keywords))]
        if isinstance(value, types.MethodType):
            return ["method", self.described(value.__func__), self.described(value.__self__)]
        if isinstance(value, types.FunctionType):
            return ["function", *self._function(value)]
        return ["object", *self._class(type(value)), self._state(value)]

    def _sorted(self, values: Iterable[Any]) -> list[Any]:
        return sorted((self.described(value) for value in values), key=json.dumps)

    def _class(self, cls: type) -> list[str]:
        """Its name and those of its bases, the place of each noted."""
        names = [f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__]
        self.modules |= {base.__module__ for base in cls.__mro__}
        self.classes |= set(names)
        return names

    def _function(self, function: types.FunctionType) -> list[Any]:
        """Its name, and the values that it carries."""
        self.modules.add(function.__module__)
        wrapped = getattr(function, "__wrapped__", None)
        cells = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
        carried = (function.__defaults__, function.__kwdefaults__, cells, wrapped)
        return [f"{function.__module__}.{function.__qualname__}", *map(self.described, carried)]

    def _state(self, value: Any) -> Any:
        """The parameters of an estimator and whatever else it holds; else the fields, or what pickle keeps."""
        if is_dataclass(value):
            return self.described({field.name: getattr(value, field.name) for field in fields(value)})
        if hasattr(value, "get_params"):
            return self.described(dict(vars(value)) | value.get_params(deep=False))
        try:
            return [self.described(part) for part in value.__reduce_ex__(4)[1:3]]
        except Exception:  # what cannot be pickled, as a lock
            return _without_addresses(repr(value))


def _without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-fA-F]+", "0x", text)


def _sources(modules: Iterable[str]) -> dict[str, bytes]:
    """The bytes of the files of those modules, and of what they import of their own package."""
    found: dict[str, bytes] = {}
    waiting = sorted(modules)
    while waiting:
        name = waiting.pop()
        if name in found or _top(name) in LIBRARIES or _top(name) in sys.stdlib_module_names - {"__main__"}:
            continue
        if _top(name) == _OWN.name:
            found |= {f"{_OWN.name}.{path.name}": path.read_bytes() for path in sorted(_OWN.glob("*.py"))}
            continue
        path = _file(name)
        found[name] = path.read_bytes() if path else uuid4().bytes
        waiting += sorted(other for other in _imported(name, found[name]) if _is_beside(name, other))
    return found


def _top(name: str) -> str:
    return name.partition(".")[0]


def _file(name: str) -> Path | None:
    """The file of a module; None if it has none, or is no module."""
    try:
        file = sys.modules[name].__file__ if name in sys.modules else find_spec(name).origin  # type: ignore[union-attr]
    except (AttributeError, ImportError, ValueError):
        return None
    return Path(file) if file and Path(file).is_file() else None


def _imported(name: str, source: bytes) -> set[str]:
    """What a module imports anywhere in its source, by full name; not all of it need be modules."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # compiled, or in no file
        return set()
    path = _file(name)
    package = name if path and path.name == "__init__.py" else name.rpartition(".")[0]
    found = {package} - {""}
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (package or not node.level):
            base = resolve_name("." * node.level + (node.module or ""), package)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def _is_beside(name: str, other: str) -> bool:
    """Whether the other is a module of the same package or, of two that are in none, of the same folder."""
    path, other_path = _file(name), _file(other)
    if path is None or other_path is None:
        return False
    alone = "." not in name + other and "__init__.py" not in (path.name, other_path.name)
    return _top(name) == _top(other) or (alone and path.parent == other_path.parent)


def _versions(seen: _Seen, sources: Mapping[str, bytes]) -> dict[str, str]:
    """Versions of mdzoo, numpy, scikit-learn and scipy, and of every other package that is used."""
    used = {"numpy", "sklearn", "scipy", *map(_top, seen.modules)}
    if "diagnose.tuned.BoostedTrees" in seen.classes:
        used.add("xgboost")  # which it imports when it is fitted
    for name, text in sources.items():
        if _top(name) != _OWN.name:
            used |= {_top(other) for other in _imported(name, text)}
    foreign = used - sys.stdlib_module_names - {_OWN.name, "zoo", "cluster"}
    return {name: _version(LIBRARIES.get(name, name)) for name in sorted({*foreign, "mdzoo"})}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
