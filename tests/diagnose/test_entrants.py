"""Entrants of one's own: by name, by entry point, and what is said of those that do not fit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from diagnose import DIAGNOSERS, Diagnoser, installed_entrants, load_entrant
from diagnose.features import TASKS

SOURCE = """
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from diagnose import Diagnoser


class First:
    features = "landscape"

    def fit(self, X, y):
        self.answer_ = y[0]
        self.columns_ = list(X)
        return self

    def predict(self, X):
        return [self.answer_] * len(X)


class Seeded(First):
    features = 3

    def __init__(self, random_state=None):
        self.random_state = random_state


class Unready(First):
    def __init__(self, depth):
        pass


class Fragile(LogisticRegression):
    def __init__(self, depth=0):
        raise RuntimeError("not today")


class Shy:
    def fit(self, X, y):
        return self


class Named(LogisticRegression):
    def fit(self, X, y):
        self.columns_ = list(X)
        return super().fit(X, y)


def build(task, seed):
    return DummyClassifier(strategy="constant", constant=f"{task} {seed}")


build.features = "validation"


def empty(task, seed):
    return None


def short(task):
    return DummyClassifier()


ready = DummyClassifier()
whole = Diagnoser("whole", "parameters", build, ("width",), nulls="none there")
strange = Diagnoser("strange", "parameters", build, ("depth",))
"""

X = pd.DataFrame({"train_error": [1.0, 2, np.nan, 8], "hessian_t": [np.nan] * 4})
Y = np.array(["small", "small", "large", "large"])


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """(name, source) -> the file of a module that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)

    def write(name: str, source: str = SOURCE) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        return path

    yield write
    for name in set(sys.modules) - known:
        if getattr(sys.modules[name], "__file__", None) == str(tmp_path / f"{name}.py"):
            del sys.modules[name]


@pytest.fixture
def own(module: Callable[..., Path]) -> None:
    """A module `own_entrants` that holds all kinds."""
    module("own_entrants", SOURCE)


@pytest.mark.usefixtures("own")
def test_a_class_enters_under_its_name_with_the_features_it_asks_for() -> None:
    diagnoser = load_entrant("own_entrants:First")
    assert (diagnoser.name, diagnoser.features, diagnoser.tasks) == (
        "own_entrants:First",
        "landscape",
        TASKS,
    )
    assert (diagnoser.nulls, diagnoser.seeded) == ("its own affair", False)
    fitted = diagnoser.build("width", 7).fit(X, Y)
    assert fitted.predict(X) == ["small"] * 4
    assert fitted.columns_ == ["train_error", "hessian_t"]


@pytest.mark.usefixtures("own")
def test_the_set_after_the_at_sign_goes_before_the_attribute_and_all_is_the_default() -> None:
    assert load_entrant("own_entrants:First@validation").features == "validation"
    assert load_entrant("own_entrants:build@none").features == "none"
    assert load_entrant("own_entrants:build").features == "validation"
    assert load_entrant("own_entrants:empty").features == "all"
    assert load_entrant("own_entrants:whole@hyperparameter").features == "hyperparameter"


@pytest.mark.usefixtures("own")
def test_a_class_with_a_random_state_gets_the_seed_of_the_draw() -> None:
    diagnoser = load_entrant("own_entrants:Seeded@none")
    assert diagnoser.seeded
    assert [diagnoser.build("data", seed).random_state for seed in (42, 90)] == [42, 90]


@pytest.mark.usefixtures("own")
def test_a_function_is_told_the_task_and_the_seed() -> None:
    diagnoser = load_entrant("own_entrants:build")
    assert diagnoser.seeded
    assert diagnoser.build("remedy", 18).constant == "remedy 18"


@pytest.mark.usefixtures("own")
def test_a_diagnoser_enters_as_it_is() -> None:
    diagnoser = load_entrant("own_entrants:whole")
    assert (diagnoser.name, diagnoser.features, diagnoser.tasks) == ("whole", "parameters", ("width",))
    assert diagnoser.nulls == "none there"


def test_a_class_that_cannot_take_missing_values_gets_medians_and_the_names_of_the_columns(
    own: None,
) -> None:
    diagnoser = load_entrant("own_entrants:Named@landscape")
    assert diagnoser.nulls == DIAGNOSERS["md_tree"].nulls
    fitted = diagnoser.build("temperature", 0).fit(X, Y)
    filled = X.fillna({"train_error": 2.0, "hessian_t": 0.0})
    assert fitted.predict(X).tolist() == LogisticRegression().fit(filled, Y).predict(filled).tolist()
    assert fitted[-1].columns_ == ["train_error", "hessian_t"]


def test_a_class_that_takes_missing_values_gets_them() -> None:
    diagnoser = load_entrant("sklearn.tree:DecisionTreeClassifier@validation")
    assert diagnoser.nulls == "its own affair"
    tree = diagnoser.build("temperature", 38)
    assert isinstance(tree, DecisionTreeClassifier)
    assert tree.random_state == 38


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("own_entrants", r"entrant 'own_entrants' has the wrong form; write package\.module:Class, or"),
        ("own_entrants:", "has the wrong form"),
        (":First", "has the wrong form"),
        ("own_entrants:First@", "has the wrong form"),
        ("no_such:First", r"module 'no_such' cannot be imported \(ModuleNotFoundError: .*on PYTHONPATH"),
        ("own_entrants:Last", r"module 'own_entrants' has no 'Last'; it defines \['First', 'Seeded'"),
        ("own_entrants:Shy", "the class Shy has no predict; add them"),
        (
            "own_entrants:Unready",
            r"takes \(depth\) \(missing a required argument: 'depth'\); it must be a class",
        ),
        (
            "own_entrants:Fragile",
            r"Fragile cannot be built \(RuntimeError: not today\); its constructor must",
        ),
        ("own_entrants:short", r"takes \(task\) \(too many positional arguments\); it must be a function of"),
        ("own_entrants:ready", "is a DummyClassifier; it must be a classifier class, a function"),
        ("own_entrants:SOURCE", "has no 'SOURCE'"),
        ("own_entrants:First@depth", r"reads the feature set 'depth'; it must be one of \['none'"),
        ("own_entrants:Seeded", "its attribute features is 3; it must be a name"),
        ("own_entrants:strange", r"strange answers the tasks \['depth'\]; they must be among"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_entrant(text)


def test_a_module_that_ends_the_program_is_refused(module: Callable[..., Path]) -> None:
    module("quitter", "raise SystemExit(3)")
    with pytest.raises(ValueError, match=r"'quitter' cannot be imported \(SystemExit: 3\)"):
        load_entrant("quitter:First")


@pytest.mark.usefixtures("own")
def test_a_function_that_builds_no_classifier_says_so_when_it_is_asked() -> None:
    with pytest.raises(
        TypeError, match=r"built a NoneType for data, which has no fit and no predict; it must"
    ):
        load_entrant("own_entrants:empty").build("data", 1)


def _install(folder: Path, points: str, name: str = "mine") -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mdzoo.diagnosers]\n{points}")


@pytest.mark.usefixtures("own")
def test_installed_packages_enter_by_their_entry_points(tmp_path: Path) -> None:
    _install(
        tmp_path,
        "b_class = own_entrants:First\na_function = own_entrants:build\nobject = own_entrants:whole\n",
    )
    entrants = installed_entrants()
    assert [(d.name, d.features) for d in entrants] == [
        ("a_function", "validation"),
        ("b_class", "landscape"),
        ("whole", "parameters"),
    ]
    assert entrants[1].build("width", 1).fit(X, Y).predict(X) == ["small"] * 4


@pytest.mark.usefixtures("own")
def test_a_broken_entry_point_stops_no_other_and_says_why_when_it_is_asked(
    tmp_path: Path, module: Callable[..., Path]
) -> None:
    module("quitter", "raise SystemExit(3)")
    lines = [
        "gone = no_such:First",
        "good = own_entrants:First",
        "quits = quitter:x",
        "shy = own_entrants:Shy",
    ]
    _install(tmp_path, "\n".join(lines))
    gone, good, quits, shy = installed_entrants()
    assert good.build("width", 1).fit(X, Y).predict(X) == ["small"] * 4
    for broken, message in (
        (
            gone,
            r"gone = 'no_such:First' of the group mdzoo.diagnosers cannot be loaded \(ModuleNotFoundError: No",
        ),
        (quits, r"cannot be loaded \(SystemExit: 3\); mend or uninstall its package"),
        (shy, r"cannot be loaded \(ValueError: entrant 'shy': the class Shy has no predict"),
    ):
        assert broken.tasks == TASKS
        with pytest.raises(RuntimeError, match=message):
            broken.build("width", 1)


@pytest.mark.usefixtures("own")
def test_a_name_that_is_taken_says_so_in_rows_of_its_own(tmp_path: Path) -> None:
    _install(tmp_path, "md_tree = own_entrants:First\nmajority = no_such:First\n")
    _install(tmp_path, "a = own_entrants:whole\nb = own_entrants:whole\n", "theirs")
    names = [diagnoser.name for diagnoser in installed_entrants()]
    assert names == [
        "whole",
        "b = own_entrants:whole",
        "majority = no_such:First",
        "md_tree = own_entrants:First",
    ]
    with pytest.raises(RuntimeError, match="has the name 'md_tree', which is taken; change it there"):
        installed_entrants()[3].build("width", 1)


def test_without_installed_packages_there_are_none() -> None:
    assert installed_entrants() == []


def test_what_is_loaded_is_registered_by_no_one() -> None:
    before = list(DIAGNOSERS)
    assert isinstance(load_entrant("sklearn.dummy:DummyClassifier"), Diagnoser)
    assert list(DIAGNOSERS) == before
