"""Our classifiers under scikit-learn's own checks; each that is expected to fail says why."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.base import BaseEstimator
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from diagnose import MDTreeClassifier, Tree
from diagnose.advice import RemedyAdvisor
from diagnose.md_tree import SEARCHES
from diagnose.tuned import BoostedTrees, Tuned

NUMBERS = Tree(
    "x0",
    Tree("x0", "-1", "0", start=-1, bounds=(-2, 0)),
    Tree("x0", "1", Tree("x0", "2", "3", start=1.5, bounds=(1, 2)), start=1, bounds=(0, 2)),
    start=0,
    bounds=(-1, 1),
)
"""A structure of the first column alone, whose leaves are the whole numbers that the checks use as labels."""

OF_THE_STRUCTURE = {
    "check_classifiers_train": "classes_ are the labels of the leaves, of which this check shows some",
    "check_classifiers_classes": "its labels are words, and the leaves of one structure are of one kind",
}
CHECKED = [
    *(MDTreeClassifier(structure=NUMBERS, search=search) for search in SEARCHES),
    MDTreeClassifier(structure=NUMBERS, search="exact", bounds="data"),
    BoostedTrees(n_estimators=5),
    RemedyAdvisor(DecisionTreeClassifier(random_state=0), regressor=DecisionTreeRegressor(random_state=0)),
    Tuned([DecisionTreeClassifier(max_depth=2, random_state=0), DecisionTreeClassifier(random_state=0)]),
]


def _expected_to_fail(estimator: BaseEstimator) -> dict[str, str]:
    return OF_THE_STRUCTURE if isinstance(estimator, MDTreeClassifier) else {}


@parametrize_with_checks(CHECKED, expected_failed_checks=_expected_to_fail)
@pytest.mark.filterwarnings("ignore")  # the checks ask for what warns, as a column of labels
def test_scikit_learn_finds_no_fault(estimator: BaseEstimator, check: Any) -> None:
    check(estimator)
