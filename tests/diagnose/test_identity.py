"""The fingerprint of a diagnoser: what changes it, and what does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import diagnose
from diagnose import DIAGNOSERS, FEATURE_SETS, Diagnoser, fingerprint, full_board, load_entrant

MODEL = """
from sklearn.base import BaseEstimator, ClassifierMixin
from .parts import Part

class Model(ClassifierMixin, BaseEstimator):
    def __init__(self, depth=1):
        self.depth = depth
    def fit(self, X, y):
        import xgboost
        return self
    def predict(self, X):
        return []
"""
FILES = {
    "own_models/__init__.py": "",
    "own_models/model.py": MODEL,
    "own_models/parts.py": "from own_models import deep\nclass Part: pass\n",
    "own_models/deep.py": "SIZE = 3\n",
    "own_models/unused.py": "SIZE = 3\n",
    "own_builds.py": (
        "from sklearn.pipeline import make_pipeline\nfrom own_models.model import Model\nimport own_sizes\n"
        "def build(task, seed):\n    return make_pipeline(Model(own_sizes.DEPTH))\n"
        "def plain(task, seed):\n    from sklearn.dummy import DummyClassifier\n    return DummyClassifier()\n"
    ),
    "own_sizes.py": "DEPTH = 1\n",
    "own_other.py": "DEPTH = 1\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a package of models, a module that builds them, and others lie."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("own_builds.py", True),  # the build function
        ("own_models/model.py", True),  # the class of a step of the pipeline
        ("own_models/parts.py", True),  # what that imports of its package
        ("own_models/deep.py", True),  # and what this imports in turn
        ("own_models/__init__.py", True),  # what runs before
        ("own_sizes.py", True),  # what the build function imports from beside it
        ("own_models/unused.py", False),
        ("own_other.py", False),
    ],
)
def test_the_source_that_decides_counts_and_no_other(folder: Path, file: str, counts: bool) -> None:
    diagnoser = load_entrant("own_builds:build@landscape")
    before = fingerprint(diagnoser)
    assert fingerprint(diagnoser) == before
    (folder / file).write_text(FILES[file] + "# changed\n")
    assert (fingerprint(diagnoser) != before) == counts


def test_a_class_of_ones_own_counts_by_its_source(folder: Path) -> None:
    diagnoser = load_entrant("own_models.model:Model@landscape")
    before = fingerprint(diagnoser)
    (folder / "own_models/model.py").write_text(MODEL + "# changed\n")
    assert fingerprint(diagnoser) != before


def test_two_processes_agree(folder: Path) -> None:
    code = (
        "from diagnose import fingerprint, full_board, load_entrant\n"
        "for d in [*full_board(), load_entrant('own_builds:build@none')]: print(fingerprint(d))"
    )
    paths = os.pathsep.join([str(folder), str(Path(diagnose.__file__).parents[1])])
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": seed},
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    here = [fingerprint(d) for d in [*full_board(), load_entrant("own_builds:build@none")]]
    assert said[0] == said[1] == here
    assert len(set(here)) == len(here)
    assert {len(digest) for digest in here} == {64}


def _build(depth: Any, task: str, seed: int) -> Any:
    return make_pipeline(StandardScaler(), DecisionTreeClassifier(max_depth=depth))


def _random(state: Any, task: str, seed: int) -> Any:
    return DecisionTreeClassifier(random_state=state)


BASE = Diagnoser("own", "landscape", partial(_build, 2), ("temperature", "width"), "medians")


@pytest.mark.parametrize(
    "other",
    [
        replace(BASE, name="other"),
        replace(BASE, features="validation"),
        replace(BASE, nulls="none"),
        replace(BASE, tasks=("temperature",)),
        replace(BASE, seeded=False),
        replace(BASE, build=partial(_build, 3)),
        replace(BASE, build=partial(_random, 2)),
        replace(BASE, build=lambda task, seed: _build(2 + (task == "width"), task, seed)),
    ],
)
def test_each_part_counts(other: Diagnoser) -> None:
    assert fingerprint(other) != fingerprint(BASE)


def test_a_parameter_counts_though_the_build_function_is_the_same() -> None:
    """What the function reads from elsewhere shows in what it builds."""
    depths = [2]
    diagnoser = replace(BASE, build=_Reading(depths))
    before = fingerprint(diagnoser)
    depths[0] = 3
    assert fingerprint(diagnoser) != before


class _Reading:
    """A build that pickle says nothing of."""

    def __init__(self, depths: list[int]) -> None:
        self.depths = depths

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("no pickle")

    def __repr__(self) -> str:
        return f"a reader at {id(self):#x}"

    def __call__(self, task: str, seed: int) -> Any:
        return _build(self.depths[0], task, seed)


def test_feature_columns_count(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = replace(BASE, tasks=("temperature",))
    before, narrow_before, old = fingerprint(BASE), fingerprint(narrow), FEATURE_SETS["landscape"]
    fewer = replace(old, columns=dict(old.columns) | {"width": ("train_error",)})
    monkeypatch.setitem(FEATURE_SETS, "landscape", fewer)
    assert fingerprint(BASE) != before
    assert fingerprint(narrow) == narrow_before  # it is never asked about the width


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        (np.random.RandomState(1), np.random.RandomState(1), True),
        (np.random.RandomState(1), np.random.RandomState(2), False),
        (np.arange(3.0), np.arange(3.0), True),
        (np.arange(3.0), np.arange(3), False),
        (np.array(["a", None], dtype=object), np.array(["a", None], dtype=object), True),
        (np.array(["a", None], dtype=object), np.array(["b", None], dtype=object), False),
        ({"b": 1, "a": {2, 3}}, {"a": {3, 2}, "b": 1}, True),
        ({"a": 1}, {"a": 1.0}, False),
        ([1, 2], (1, 2), False),
        (True, 1, False),
        (DummyClassifier(), DummyClassifier(), True),
        (DummyClassifier(), DummyClassifier(strategy="uniform"), False),
        (_Reading([1]), _Reading([1]), True),
        (np.float64, np.float32, False),
        (np.random, np.linalg, False),
        ("abc".upper, "abd".upper, False),
        (BASE.build, BASE.build, True),
    ],
)
def test_parameters_of_any_kind_count_by_value(first: Any, second: Any, alike: bool) -> None:
    hashes = [fingerprint(replace(BASE, build=partial(_random, value))) for value in (first, second)]
    assert (hashes[0] == hashes[1]) == alike


def test_a_value_that_holds_itself_is_no_trap() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert fingerprint(replace(BASE, build=partial(_random, loop))) != fingerprint(BASE)


def test_a_closure_counts_by_what_it_holds() -> None:
    def closed(depth: int) -> Diagnoser:
        return replace(BASE, build=lambda task, seed: DummyClassifier() if depth else None)

    assert fingerprint(closed(1)) == fingerprint(closed(1))
    assert fingerprint(closed(1)) != fingerprint(closed(2))


def test_of_diagnose_every_file_counts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = Diagnoser("own", "all", load_entrant("own_builds:plain").build.args[1])  # type: ignore[attr-defined]
    before = [fingerprint(DIAGNOSERS["majority"]), fingerprint(foreign)]
    copied = tmp_path / "copy" / "diagnose"
    shutil.copytree(Path(diagnose.__file__).parent, copied)
    monkeypatch.setattr("diagnose.identity._OWN", copied)
    assert [fingerprint(DIAGNOSERS["majority"]), fingerprint(foreign)] == before
    with (copied / "posterior.py").open("a") as file:
        file.write("# changed\n")
    assert fingerprint(DIAGNOSERS["majority"]) != before[0]
    assert fingerprint(foreign) == before[1]


@pytest.mark.parametrize(
    ("library", "name", "counts"),
    [
        ("numpy", "majority", True),
        ("scikit-learn", "majority", True),
        ("scipy", "md_tree", True),
        ("mdzoo", "majority", True),
        ("xgboost", "validation_xgboost", True),
        ("xgboost", "validation_logistic", False),
        ("pandas", "md_tree", False),
    ],
)
def test_versions_count(library: str, name: str, counts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    before, version = fingerprint(DIAGNOSERS[name]), diagnose.identity.metadata.version
    monkeypatch.setattr(
        diagnose.identity.metadata, "version", lambda wanted: "0" if wanted == library else version(wanted)
    )
    assert (fingerprint(DIAGNOSERS[name]) != before) == counts


def test_xgboost_counts_where_ones_own_class_imports_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diagnoser, version = load_entrant("own_builds:build@none"), diagnose.identity.metadata.version
    before = fingerprint(diagnoser)
    monkeypatch.setattr(
        diagnose.identity.metadata, "version", lambda wanted: "0" if wanted == "xgboost" else version(wanted)
    )
    assert fingerprint(diagnoser) != before


def _raises(what: str, task: str, seed: int) -> Any:
    raise RuntimeError(f"{what} {task} {object() if what == 'address' else ''}")


def test_a_build_that_raises_is_known_by_its_error() -> None:
    first, second, address = (
        replace(BASE, build=partial(_raises, what)) for what in ("one", "two", "address")
    )
    assert fingerprint(first) == fingerprint(first) != fingerprint(second)
    kept = [object() for _ in range(3)]  # so that the next has another address
    assert fingerprint(address) == fingerprint(address)
    assert len(kept) == 3
    assert len(fingerprint(replace(BASE, features="no such set"))) == 64


def test_what_is_in_no_file_is_never_the_same_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its source cannot be read, so that nothing may be kept of it."""
    typed = ModuleType("typed")
    exec("def build(task, seed):\n    raise ValueError", typed.__dict__)
    monkeypatch.setitem(sys.modules, "typed", typed)
    build: FunctionType = typed.build
    assert build.__module__ == "typed"
    diagnoser = replace(BASE, build=build)
    assert fingerprint(diagnoser) != fingerprint(diagnoser)
