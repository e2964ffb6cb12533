"""Findings about a network in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diagnose.consult import QUESTION, Answer, Distance, Path

if TYPE_CHECKING:
    from diagnose.examine import Examination

SOURCES = {
    "inc_temperature": "it was trained too cold",
    "dec_temperature": "it was trained too hot",
    "width": "it is too small",
    "data": "it has too little data",
    "labels": "its labels are noisy",
    "nothing": "nothing is wrong that this zoo knows of",
    "small": "its temperature is too low",
    "large": "its temperature is too high",
    "batch": "its temperature is wrong",
    "optimal": "its temperature is right",
}
"""Labels as sources of failure."""

ACTIONS = {
    "inc_temperature": "train hotter: a smaller batch, or a larger learning rate",
    "dec_temperature": "train colder: a larger batch, or a smaller learning rate",
    "width": "take a wider model",
    "data": "get more training data",
    "labels": "clean the labels",
    "nothing": "leave it as it is",
}
"""Remedies as advice."""

NAMES = {
    "train_error": "training error",
    "test_error": "error on unseen images",
    "validation_error": "error on unseen images",
    "hessian_t": "log Hessian trace",
    "hessian_e": "log top eigenvalue of the Hessian",
    "mode_connectivity_peak": "connectivity, at the worst point",
    "mode_connectivity": "connectivity",
    "CKA": "CKA of the twins",
    "log_data_amount": "log number of training images",
    "log_para_amount": "log number of parameters",
}
"""Features by what they are called in words; others by their name, with spaces."""


def named(feature: str) -> str:
    """What a feature is called."""
    return NAMES.get(feature, feature.replace("_", " "))


def text_of(found: Examination) -> str:
    """All findings, the most important first."""
    parts = [
        _verdict(found.remedy, found.distance),
        _likelihoods(found.remedy),
        _more(found.answers),
        _path(found.path),
        _distance(found.distance),
        f"Compared with the zoo {found.reference.name} on the track {found.track}; measuring took "
        f"{found.seconds:.0f} s.",
    ]
    return "\n\n".join(part for part in parts if part)


def _verdict(remedy: Answer, distance: Distance) -> str:
    sure = remedy.probabilities[remedy.answer]
    said = f"Most likely {SOURCES[remedy.answer]} ({100 * sure:.0f}%)."
    if remedy.answer != "nothing":
        gain = remedy.gains[remedy.answer]
        said += f"\nChange first: {ACTIONS[remedy.answer]}; expected gain {gain:.1f} points of accuracy."
    if distance.is_too_far:
        return f"Do not trust this: the model is like nothing in the zoo.\n{said}"
    return f"Doubt this: the model is far from most of the zoo.\n{said}" if distance.is_far else said


def _likelihoods(remedy: Answer) -> str:
    rows = sorted(remedy.probabilities.items(), key=lambda item: -item[1])
    lines = [
        f"  {100 * share:3.0f}%  {SOURCES[name]:<42}"
        + (f"{remedy.gains[name]:5.1f} points to gain" if name != "nothing" else "")
        for name, share in rows
    ]
    lines = [line.rstrip() for line in lines]
    right = (
        f"The {remedy.diagnoser} says so, which is right on {remedy.held_out:.0f}% of settings of the zoo that were "
        f"held out; the most frequent answer on {remedy.majority:.0f}%."
    )
    return "\n".join([*lines, right])


def _more(answers: dict[str, Answer]) -> str:
    questions = {
        "temperature": "Temperature",
        "width": "Width or temperature",
        "data": "Data or temperature",
    }
    lines = []
    for task, answer in answers.items():
        if task != QUESTION:
            share = 100 * answer.probabilities[answer.answer]
            lines.append(
                f"  {questions[task]}: {SOURCES[answer.answer]} ({share:.0f}%; {answer.diagnoser}, right on "
                f"{answer.held_out:.0f}%)"
            )
    return "\n".join(["The published questions:", *lines]) if lines else ""


def _path(path: Path | None) -> str:
    if path is None:
        return ""
    which = "MD tree" if path.task == "temperature" else "tree"
    lines = [
        f"  {named(s.feature)} is {s.value:.4g}, {'above' if s.is_above else 'at most'} {s.threshold:.4g}"
        for s in path.steps
    ]
    told = [f"The way through the {which}:", *lines, f"  so {SOURCES[path.answer]}."]
    if path.missing:
        unseen = ", ".join(map(named, path.missing))
        told.append(f"  Not seen of this model: {unseen}; the zoo's median stood in.")
    return "\n".join(told)


def _distance(distance: Distance) -> str:
    told = [
        f"It is farther from its neighbours in the zoo than {distance.percentile:.0f}% of the zoo's own networks; "
        f"the configuration most like it is {distance.nearest}."
    ]
    if distance.outside:
        told.append("Outside of what the zoo has:")
        told += [
            f"  {named(name)} is {value:.4g}, the zoo's are {low:.4g} to {high:.4g}"
            for name, (value, low, high) in distance.outside.items()
        ]
    if distance.missing:
        unseen = ", ".join(map(named, distance.missing))
        told.append(f"Not seen of this model, so that the zoo's median stood in: {unseen}.")
    return "\n".join(told)
