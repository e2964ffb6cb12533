"""What acting on a diagnosis gains: the change in test accuracy after a step along the diagnosed axis.

A step goes to another configuration of the same zoo: the next one along the axis, a random one, or the best
one. At the end of an axis there is no step and nothing changes. Published results clip losses at zero, which
hides harm (Zhou et al., "MD tree", ICML 2024, Appendix A); here both are given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.random import RandomState
from sklearn.tree import DecisionTreeClassifier

from diagnose.features import FEATURE_SETS
from diagnose.md_tree import MDTreeClassifier
from diagnose.protocols import CELL, PUBLISHED_DRAWS, random_cells


class Action(NamedTuple):
    """A direction along an axis of the grid."""

    axis: str
    up: bool


ACTIONS: Mapping[str, Action] = {
    "inc_temperature": Action("batch_size", up=False),
    "dec_temperature": Action("batch_size", up=True),
    "width": Action("width", up=True),
    "data": Action("data_amount", up=True),
}
"""What can be done about a failure. The temperature falls as the batch grows."""

STEPS = ("one", "random", "best")
"""How far to go: to the next configuration, to a random one, to the best one."""

IDENTITY = ("batch_size", "width", "data_amount")
"""Columns that name a configuration of the published grid."""


def offered(grid: pd.DataFrame, action: str, identity: Sequence[str] = IDENTITY) -> pd.Series:
    """The change in test accuracy at each configuration that an action can reach.

    Args:
        grid: A row a configuration; `test_accuracy` in percent, and the columns of `identity`.
        action: A key of `ACTIONS`.
        identity: Columns that name a configuration; all but the axis of the action are held fixed.

    Returns:
        An array for each row, in points, in ascending order of the axis; empty at the end of the axis.

    Raises:
        ValueError: If the action is unknown, or two rows have the same identity.
    """
    if action not in ACTIONS:
        raise ValueError(f"action is {action!r}; it must be one of {list(ACTIONS)}")
    if grid.duplicated(list(identity)).any():
        raise ValueError(
            f"two rows of the grid agree in {list(identity)}; name the columns that tell them apart"
        )
    axis, up = ACTIONS[action]
    changes: dict[object, np.ndarray] = {}
    for _, line in grid.sort_values(axis).groupby([c for c in identity if c != axis], dropna=False):
        accuracies = line["test_accuracy"].to_numpy()
        for place, row in enumerate(line.index):
            beyond = accuracies[place + 1 :] if up else accuracies[:place]
            changes[row] = beyond - accuracies[place]
    return pd.Series(changes, dtype=object).reindex(grid.index)


def remedies(answers: Iterable[str], temperatures: Iterable[str]) -> list[str]:
    """The action that each answer asks for.

    Args:
        answers: Diagnoses of any task.
        temperatures: Diagnoses of the task `temperature` for the same rows: which way to turn the temperature
            where the answer is `batch`.

    Raises:
        ValueError: If an answer asks for no action.
    """
    asked = {"small": "inc_temperature", "large": "dec_temperature", "width": "width", "data": "data"}
    turned = [t if a == "batch" else a for a, t in zip(answers, temperatures, strict=True)]
    if strange := sorted(set(turned) - set(asked)):
        raise ValueError(f"the answers {strange} ask for no action; they must be among {[*asked, 'batch']}")
    return [asked[answer] for answer in turned]


def changes_after(
    offers: Mapping[str, pd.Series], actions: Iterable[str], stream: RandomState
) -> pd.DataFrame:
    """The change in test accuracy of each row after its action, for each of `STEPS`; in points.

    Args:
        offers: For each action, from `offered`: the same rows in the same order.
        actions: A key of `offers` a row; read row by row, so it may draw from the same stream.
        stream: Where random steps are drawn from, a number for each row that has a step, as published.

    Raises:
        ValueError: If there are not as many actions as rows.
    """
    reach = {action: changes.to_list() for action, changes in offers.items()}
    index = next(iter(offers.values())).index
    outcomes = []
    for row, action in zip(range(len(index)), actions, strict=True):
        beyond = reach[action][row]
        if len(beyond):
            nearest = beyond[0] if ACTIONS[action].up else beyond[-1]
            outcomes.append((nearest, beyond[stream.randint(len(beyond))], beyond.max()))
        else:
            outcomes.append((0.0, 0.0, 0.0))
    return pd.DataFrame(outcomes, index=index, columns=list(STEPS), dtype=float)


def effect(changes: pd.DataFrame) -> pd.DataFrame:
    """What steps do on average.

    Args:
        changes: From `changes_after`.

    Returns:
        A row a step: `clipped`, the mean with losses counted as zero, as published; `gain`, the mean; `harmed`,
        the percentage of rows that lose; `harm`, their mean loss. So gain = clipped - harmed / 100 * harm.
    """
    losses = changes.where(changes < 0)
    return pd.DataFrame(
        {
            "clipped": changes.clip(lower=0).mean(),
            "gain": changes.mean(),
            "harmed": 100 * losses.notna().mean(),
            "harm": (-losses.mean()).fillna(0.0),
        }
    ).rename_axis("step")


class Question(NamedTuple):
    """A published one-step experiment.

    Attributes:
        task: What is asked.
        labels: The authors' columns of labels: of the task, and of which way to turn the temperature. Rows
            that are `optimal` in either are dropped.
        level: Number of random cells learned from.
        axes: What makes a cell.
    """

    task: str
    labels: tuple[str, str]
    level: int
    axes: tuple[str, ...]


QUESTIONS: Mapping[str, Question] = {
    "Q1": Question("temperature", ("bs_failure", "bs_failure"), 8, CELL),
    "Q2 width": Question("width", ("width_vs_batch", "bs_failure"), 1, ("data_amount",)),
}
"""The published questions by name."""

METHODS = ("oracle", "md_tree", "validation_tree", "hyperparameter_tree", "random")
"""What is compared: the oracle takes the action whose best step gains most, `random` any action."""

TREE_SEED = 42
"""The published experiment keeps this seed in the trees of all draws."""

_VALIDATION = ("train_loss", "train_error", "test_error", "test_loss")
"""In another order than in the published table: it decides ties inside a tree."""


def published_one_step(tables: pd.DataFrame, draws: Sequence[int] = PUBLISHED_DRAWS) -> pd.DataFrame:
    """The published one-step experiment: learn from the clean zoo, act on the noisy one.

    Args:
        tables: Both zoos, from `diagnose.published.read_published`.
        draws: Seeds.

    Returns:
        A row a question, method, draw and step, with the columns of `effect`.
    """
    noisy = tables[tables["label_noise"] > 0]
    offers = {action: offered(noisy, action) for action in ACTIONS}
    parts = []
    for name, question in QUESTIONS.items():
        answered = tables[(tables[[*question.labels]] != "optimal").all(axis=1)]
        cells = len(answered.loc[answered["label_noise"] == 0, [*question.axes]].drop_duplicates())
        for split in random_cells(answered, draws, [question.level], question.axes):
            training, test = answered.loc[split.training], answered.loc[split.test]
            reach = {action: changes.loc[test.index] for action, changes in offers.items()}
            for method in METHODS:
                stream = RandomState(split.draw)
                if method not in ("oracle", "random"):
                    stream.choice(cells, size=question.level, replace=False)  # the draw of the training side
                actions = _actions(method, question, training, test, reach, stream)
                acted = effect(changes_after(reach, actions, stream)).reset_index()
                parts.append(acted.assign(question=name, method=method, draw=split.draw))
    return pd.concat(parts, ignore_index=True)[
        ["question", "method", "draw", "step", "clipped", "gain", "harmed", "harm"]
    ]


def _actions(
    method: str,
    question: Question,
    training: pd.DataFrame,
    test: pd.DataFrame,
    reach: Mapping[str, pd.Series],
    stream: RandomState,
) -> Iterable[str]:
    """What a method does about each test row."""
    if method == "random":
        return _guesses(question.task, len(test), stream)
    if method == "oracle":
        known = [a for a in ACTIONS if a.endswith("temperature") or a == question.task]
        rooms = [[beyond.max(initial=0.0) for beyond in reach[action]] for action in known]
        return [known[place] for place in np.argmax(rooms, axis=0)]
    answers = (
        _learned(method, question.task, task, training, test, column)
        for task, column in zip((question.task, "temperature"), question.labels, strict=True)
    )
    return remedies(*answers)


def _guesses(task: str, rows: int, stream: RandomState) -> Iterator[str]:
    """An action a row, each drawn when it is asked for: as published, between the steps."""
    for _ in range(rows):
        if task != "temperature" and stream.randint(2) == 0:
            yield task
        else:
            yield ("inc_temperature", "dec_temperature")[stream.randint(2)]


def _learned(
    method: str, asked: str, task: str, training: pd.DataFrame, test: pd.DataFrame, column: str
) -> list[str]:
    """The answers of a method to a task; a baseline reads the columns of the question that was asked."""
    if method == "md_tree":
        return MDTreeClassifier(structure=task).fit(training, training[column]).predict(test).tolist()
    hyperparameters = FEATURE_SETS["hyperparameter"].columns[asked]
    columns = list(_VALIDATION if method == "validation_tree" else hyperparameters)
    tree = DecisionTreeClassifier(criterion="gini", max_depth=4, random_state=TREE_SEED)
    answers: list[str] = tree.fit(training[columns], training[column]).predict(test[columns]).tolist()
    return answers


PUBLISHED_GAINS: Mapping[tuple[str, str], tuple[float, float, float]] = {
    ("Q1", "oracle"): (1.48, 2.92, 5.83),
    ("Q1", "md_tree"): (1.34, 2.74, 5.52),
    ("Q1", "validation_tree"): (1.25, 2.31, 4.63),
    ("Q1", "hyperparameter_tree"): (0.92, 1.84, 3.52),
    ("Q1", "random"): (0.92, 1.79, 3.50),
    ("Q2 width", "oracle"): (1.92, 5.47, 8.83),
    ("Q2 width", "md_tree"): (1.73, 4.79, 8.10),
    ("Q2 width", "validation_tree"): (1.43, 4.09, 6.33),
    ("Q2 width", "hyperparameter_tree"): (1.48, 4.36, 6.60),
    ("Q2 width", "random"): (1.19, 3.09, 5.03),
}
"""The published mean gains by question and method, in the order of `STEPS`; losses clipped at zero."""


def mean_effects(effects: pd.DataFrame) -> pd.DataFrame:
    """Means over the draws, beside the published gains.

    Args:
        effects: From `published_one_step`.

    Returns:
        A row a question, method and step, with the columns of `effect`, `published`, and `difference`: clipped
        less published.
    """
    keys = ["question", "method", "step"]
    means = effects.groupby(keys, sort=False, as_index=False)[["clipped", "gain", "harmed", "harm"]].mean()
    published = [
        PUBLISHED_GAINS[question, method][STEPS.index(step)]
        for question, method, step in means[keys].itertuples(index=False)
    ]
    return means.assign(published=published, difference=means["clipped"] - published)
