"""Entrants of one's own: a classifier by its name, or by the entry point of an installed package.

    package.module:Class            a scikit-learn classifier class
    package.module:function         (task, seed of the draw) -> an unfitted classifier
    package.module:object           a `Diagnoser`
    package.module:Class@landscape  any of them on a named feature set

A package enters what it installs by entry points of the group `mdzoo.diagnosers`, in its pyproject.toml:

    [project.entry-points."mdzoo.diagnosers"]
    my_tree = "package.module:Class"

The feature set is that after the `@`, else that of the attribute `features`, else `DEFAULT_FEATURES`. A class
with a parameter `random_state` gets the draw's seed. A scikit-learn class that says it cannot take missing values
gets the median of the training side for them; what a function builds looks after itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from operator import attrgetter
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags

from diagnose.baselines import DIAGNOSERS, MEDIANS, Diagnoser, checked
from diagnose.identity import fingerprint

__all__ = ["DEFAULT_FEATURES", "GROUP", "fingerprint", "installed_entrants", "load_entrant"]

GROUP = "mdzoo.diagnosers"
"""The group of entry points by which installed packages enter."""

DEFAULT_FEATURES = "all"
"""The set of an entrant that names none: all that may be seen on the twin track, so that a method that chooses
among features is held back by nothing but itself."""

_FORM = "package.module:Class, or package.module:Class@feature_set"


def load_entrant(text: str) -> Diagnoser:
    """The diagnoser that a text names, see the module; its name on the leaderboard is the text.

    Args:
        text: `package.module:Class[@feature_set]`; for the class also a function or a `Diagnoser`.

    Raises:
        ValueError: If the text has another form, the module cannot be imported or lacks the attribute, that is
            none of the three, or the feature set is unknown.
    """
    path, _, features = text.partition("@")
    module, _, attribute = path.partition(":")
    if not module or not attribute or (features == "" and "@" in text):
        raise ValueError(f"entrant {text!r} has the wrong form; write {_FORM}")
    try:
        holder = import_module(module)
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything
        raise ValueError(
            f"entrant {text!r}: the module {module!r} cannot be imported ({_said(error)}); install its package, "
            "or put the folder that holds it on PYTHONPATH"
        ) from error
    try:
        found = attrgetter(attribute)(holder)
    except AttributeError as error:
        own = [n for n, v in vars(holder).items() if getattr(v, "__module__", None) == module and n[0] != "_"]
        raise ValueError(
            f"entrant {text!r}: the module {module!r} has no {attribute!r}; it defines {own}"
        ) from error
    return _diagnoser(text, found, features or None)


def installed_entrants() -> list[Diagnoser]:
    """The diagnosers of the entry points of the group `mdzoo.diagnosers`, by their names.

    An entry point that resolves to a `Diagnoser` keeps that one's name. One that cannot be loaded, or whose
    name is taken, stops no other: it becomes a diagnoser whose build raises, so that its rows carry the reason.
    """
    entrants: list[Diagnoser] = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        entrants.append(_installed(point, {*DIAGNOSERS, *(diagnoser.name for diagnoser in entrants)}))
    return entrants


def _installed(point: EntryPoint, taken: Iterable[str]) -> Diagnoser:
    where = f"the entry point {point.name} = {point.value!r} of the group {GROUP}"
    spare = f"{point.name} = {point.value}"
    try:
        diagnoser = _diagnoser(point.name, point.load(), None)
    except (Exception, SystemExit) as error:  # a stranger's package may raise anything
        name = spare if point.name in taken else point.name
        return _broken(name, f"{where} cannot be loaded ({_said(error)}); mend or uninstall its package")
    if diagnoser.name in taken:
        return _broken(spare, f"{where} has the name {diagnoser.name!r}, which is taken; change it there")
    return diagnoser


def _broken(name: str, reason: str) -> Diagnoser:
    return Diagnoser(name, "none", partial(_refuse, reason))


def _refuse(reason: str, task: str, seed: int) -> Any:
    raise RuntimeError(reason)


def _diagnoser(name: str, found: Any, features: str | None) -> Diagnoser:
    """The diagnoser that an object is, or that is made of a class or function."""
    if isinstance(found, Diagnoser):
        return checked(replace(found, features=features) if features else found)
    features = features or getattr(found, "features", DEFAULT_FEATURES)
    if not isinstance(features, str):
        raise ValueError(f"entrant {name!r}: its attribute features is {features!r}; it must be a name")
    if inspect.isclass(found):
        return checked(_of_class(name, found, features))
    if inspect.isroutine(found) or (callable(found) and not _lacks(found)):
        _must_take(name, found, ("temperature", 0), "function of (task, seed)")
        return checked(Diagnoser(name, features, partial(_call, name, found)))
    raise ValueError(
        f"entrant {name!r} is a {type(found).__name__}; it must be a classifier class, a function "
        "(task, seed) -> classifier, or a diagnose.Diagnoser"
    )


def _of_class(name: str, cls: type, features: str) -> Diagnoser:
    if lacking := _lacks(cls):
        raise ValueError(
            f"entrant {name!r}: the class {cls.__name__} has no {' and no '.join(lacking)}; add them"
        )
    seeded = "random_state" in inspect.signature(cls).parameters
    given = {"random_state": 0} if seeded else {}
    _must_take(
        name, cls, (), "class whose parameters have defaults, or else a function that sets them", **given
    )
    imputed = issubclass(cls, BaseEstimator) and not _takes_nulls(name, cls, given)
    diagnoser = Diagnoser(name, features, partial(_instance, cls, seeded, imputed), seeded=seeded)
    return replace(diagnoser, nulls=MEDIANS) if imputed else diagnoser


def _takes_nulls(name: str, cls: type, given: Mapping[str, int]) -> bool:
    try:
        return bool(get_tags(cls(**given)).input_tags.allow_nan)
    except Exception as error:
        raise ValueError(
            f"entrant {name!r}: {cls.__name__} cannot be built ({_said(error)}); its constructor must only store"
        ) from error


def _lacks(found: Any) -> list[str]:
    return [method for method in ("fit", "predict") if not callable(getattr(found, method, None))]


def _must_take(name: str, found: Any, given: tuple[Any, ...], what: str, **named: Any) -> None:
    try:
        inspect.signature(found).bind(*given, **named)
    except TypeError as error:
        raise ValueError(
            f"entrant {name!r} takes {inspect.signature(found)} ({error}); it must be a {what}"
        ) from error


def _instance(cls: type, seeded: bool, imputed: bool, task: str, seed: int) -> Any:
    """An object of the class, behind an imputer that keeps the names of the columns if it needs one."""
    own = cls(random_state=seed) if seeded else cls()
    if not imputed:
        return own
    medians = SimpleImputer(strategy="median", keep_empty_features=True).set_output(transform="pandas")
    return make_pipeline(medians, own)


def _call(name: str, function: Callable[[str, int], Any], task: str, seed: int) -> Any:
    built = function(task, seed)
    if lacking := _lacks(built):
        raise TypeError(
            f"entrant {name!r} built a {type(built).__name__} for {task}, which has no {' and no '.join(lacking)}; "
            "it must return an unfitted classifier"
        )
    return built


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
