"""Examine a network that is in no zoo: measure what can be seen of it, and compare it with a zoo.

The only module here that uses the side of `zoo` that needs torch, and only within the call.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from diagnose.cases import ZooTables
from diagnose.consult import ASKED, QUESTION, Answer, Distance, Path, Reference
from diagnose.features import FEATURE_SETS, feature_table
from diagnose.words import text_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from zoo import Zoo

IMAGES = 10_000
"""Images of each loader that are looked at, at most."""

ID = "examined"


@dataclass(frozen=True, eq=False)
class Examination:
    """What was found.

    Attributes:
        reference: The zoo that it was compared with.
        track: `single`, or `twin` if there was a second model.
        features: What was seen of the model, by name; NaN where something could not be had.
        answers: What the zoo's best diagnosers say, by question; the first is the one that matters most.
        path: The way through a tree; None if the zoo has only one answer.
        distance: How far the model is from the zoo.
        seconds: What measuring took.
    """

    reference: Reference
    track: str
    features: pd.Series
    answers: dict[str, Answer]
    path: Path | None
    distance: Distance
    seconds: float

    @property
    def remedy(self) -> Answer:
        """The answer to the first question: what, changed, would help most."""
        return self.answers[QUESTION]

    @cached_property
    def text(self) -> str:
        """The findings in words."""
        return text_of(self)

    def plot(self) -> Figure:
        """The findings as a picture: the answer, the model among those of the zoo, the way through the tree."""
        from diagnose.examine_plots import draw

        return draw(self)


def examine(
    module: nn.Module,
    twin: nn.Module | None = None,
    *,
    train_loader: Iterable[Any],
    test_loader: Iterable[Any],
    against: Reference | Zoo | str = "demo",
    data_amount: int | None = None,
) -> Examination:
    """Diagnose a classifier of images.

    Args:
        module: Maps images [B, C, H, W] to logits [B, classes]; left as it was.
        twin: Another model, trained alike from another seed: more can be seen of two.
        train_loader: Batches of images and labels that it was trained on, as it saw them, without augmentation; of
            the first `IMAGES` at most.
        test_loader: Batches that it was not trained on, likewise.
        against: A zoo, its place, or the name of a shipped release; or `reference_of` one, for many models. The more
            alike its networks and data are to the model's, the more its word is worth.
        data_amount: Images that it was trained on; those of the loader if None.

    Raises:
        ValueError: If weights are not finite, the loaders hold no images or other classes than the model answers, the
            twin is of another shape, or there is too little in the zoo to learn from.
        FileNotFoundError: If there is no zoo, or it is not measured and labelled.
    """
    reference = against if isinstance(against, Reference) else reference_of(against)
    track, began = "single" if twin is None else "twin", time.monotonic()
    models = [module] if twin is None else [module, twin]
    measured = _measure(models, train_loader, test_loader, reference, data_amount)
    seconds = time.monotonic() - began
    rows = {name: feature_table(*measured, reference.recipe, name) for name in ("single", track)}
    answers = {task: reference.answer(task, rows, track) for task in ASKED}
    return Examination(
        reference=reference,
        track=track,
        features=rows[track].iloc[0],
        answers={task: answer for task, answer in answers.items() if answer is not None},
        path=reference.path(rows, track),
        distance=reference.distance(rows, track),
        seconds=seconds,
    )


def reference_of(against: Zoo | str) -> Reference:
    """What models are compared with, of a zoo, its place, or the name of a shipped release.

    Raises:
        FileNotFoundError: If there is no zoo, or it is not measured and labelled.
        ValueError: If there is too little in it to learn from.
    """
    from zoo import open_zoo

    zoo = open_zoo(against) if isinstance(against, str) else against
    tables = ZooTables(*(zoo.table(name) for name in ("configs", "runs", "metrics", "labels")))
    return Reference(zoo.name, tables, zoo.metric_recipe)


def _measure(
    models: list[nn.Module],
    train_loader: Iterable[Any],
    test_loader: Iterable[Any],
    reference: Reference,
    data_amount: int | None,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Tables `configs`, `runs` and `metrics` of the models, as if they were a configuration of a zoo."""
    from zoo.datasets import RunData, Split
    from zoo.landscape.evaluation import device_of, evaluate
    from zoo.landscape.measure import RECIPES, Pair, functions_of, measure_pair, measure_run

    for model in models:
        _check_weights(model)
    _check_twins(models)
    classes, splits, device = 0, {}, device_of(models[0])
    for name, loader in (("train_loader", train_loader), ("test_loader", test_loader)):
        images, labels = _collected(loader, name)
        classes = _check_answers(models, images, labels, name)
        splits[name] = Split(images.to(device), labels.to(device))
    data = RunData(splits["train_loader"], splits["test_loader"], splits["test_loader"], classes)
    rows, runs = [], []
    sources = set().union(*(own.sources for own in FEATURE_SETS.values()))
    only = functions_of(sorted(reference.metrics & sources))
    recipe = RECIPES[reference.recipe]
    ids = [f"{ID}-{seed}" for seed in range(len(models))]
    for seed, (model, run_id) in enumerate(zip(models, ids, strict=True)):
        (train_loss, train_error), (loss, error) = (
            evaluate(model, data.train),
            evaluate(model, data.validation),
        )
        scores = {"train_loss": train_loss, "train_error": train_error, "validation_loss": loss}
        runs.append(scores | {"validation_error": error, "run_id": run_id, "seed": seed, "status": "done"})
        measured = measure_run(model, data, recipe, (run_id,), only)
        rows += [row | {"run_id": run_id, "other_run_id": None} for row in measured]
    if len(models) == 2:
        pair = Pair(models[0], models[1], _fresh(models[0]))
        measured = measure_pair(*pair[:2], data, recipe, (ids[0], ids[1]), pair.initial_model, only)
        rows += [row | {"run_id": ids[0], "other_run_id": ids[1]} for row in measured]
    parameters = sum(p.numel() for p in models[0].parameters() if p.requires_grad)
    amount = data_amount or _length(train_loader) or len(data.train.labels)
    settings = {"data_amount": amount, "parameters": parameters, "batch_size": None, "learning_rate": None}
    configs = pd.DataFrame([{"config_id": ID} | settings])
    own = {"config_id": ID, "step": 0}
    return (
        configs,
        pd.DataFrame([row | {"config_id": ID} for row in runs]),
        pd.DataFrame([row | own for row in rows]),
    )


def _check_weights(model: nn.Module) -> None:
    import torch

    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            count = int((~torch.isfinite(value)).sum())
            raise ValueError(
                f"{count} of the {value.numel()} numbers in {name} are not finite: the training diverged; lower its "
                "learning rate, or examine an earlier checkpoint"
            )


def _check_twins(models: list[nn.Module]) -> None:
    shapes = [{name: tuple(value.shape) for name, value in m.state_dict().items()} for m in models]
    if len(shapes) < 2:
        return
    first, second = shapes
    for name in first.keys() | second.keys():
        if first.get(name) != second.get(name):
            raise ValueError(
                f"the twin is of another shape: {name} is {second.get(name, 'not there')} in it, and "
                f"{first.get(name, 'not there')} in the model; a twin is the same network from another seed"
            )
    if all((a == b).all() for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True)):
        raise ValueError(
            "the twin has the weights of the model; a twin is the same network from another seed"
        )


def _collected(loader: Iterable[Any], name: str) -> tuple[Any, Any]:
    """The first images and labels of a loader."""
    import torch

    images, labels, count = [], [], 0
    for batch in loader:
        if not isinstance(batch, list | tuple) or len(batch) < 2:
            raise ValueError(f"a batch of {name} is {type(batch).__name__}; it has to be images and labels")
        images.append(torch.as_tensor(batch[0]))
        labels.append(torch.as_tensor(batch[1]).long().flatten())
        count += len(labels[-1])
        if count >= IMAGES:
            break
    if not count:
        raise ValueError(f"{name} holds no images; give at least one batch")
    found = torch.cat(images)[:IMAGES], torch.cat(labels)[:IMAGES]
    if not found[0].is_floating_point():
        raise ValueError(
            f"{name} gives images of {found[0].dtype}; give them as the model takes them, as floats"
        )
    return found


def _check_answers(models: list[nn.Module], images: Any, labels: Any, name: str) -> int:
    """The number of classes that the models answer, which has to be that of the loader."""
    from zoo.landscape.evaluation import outputs

    for model in models:
        try:
            answers = outputs(model, images[:2])
        except RuntimeError as error:
            first = str(error).partition("\n")[0]
            raise ValueError(
                f"the model cannot take the images of {name}, of shape {list(images.shape[1:])}: {first}"
            ) from error
        if answers.dim() != 2:
            raise ValueError(
                f"the model answers with the shape {list(answers.shape)}; it has to be [images, classes]"
            )
        classes = answers.shape[1]
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(
                f"{name} has labels from {int(labels.min())} to {int(labels.max())}, and the model answers "
                f"{classes} classes, 0 to {classes - 1}; give the data that it was trained on"
            )
    return int(classes)


def _length(loader: Iterable[Any]) -> int | None:
    """Images behind a loader, if it says so."""
    data: Any = getattr(loader, "dataset", None)
    return len(data) if hasattr(data, "__len__") else None


def _fresh(model: nn.Module) -> nn.Module:
    """The model with new weights, where its modules know how to make them."""
    import copy

    import torch

    fresh = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in fresh.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return fresh
