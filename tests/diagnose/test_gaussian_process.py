"""MDGaussianProcess: inference against brute force, where trees and data decide, the contract, the refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.optimize import approx_fprime, minimize
from scipy.special import expit, log_expit
from scipy.stats import norm
from sklearn.utils.estimator_checks import check_estimator

from diagnose import MDGaussianProcess, MDTreeClassifier, Tree
from diagnose.coordinates import AMOUNTS, FEATURES, Coordinates, covariance
from diagnose.laplace import laplace, probabilities
from diagnose.tree_prior import tree_prior

RANGES = {
    "train_error": (0.0, 60.0),
    "train_loss": (0.01, 2.0),
    "test_error": (5.0, 80.0),
    "test_loss": (0.3, 3.0),
    "mode_connectivity_peak": (-60.0, -0.1),
    "mode_connectivity": (-20.0, 10.0),
    "CKA": (0.2, 0.9),
    "hessian_t": (4.0, 9.0),
    "hessian_e": (2.0, 7.0),
    "log_para_amount": (9.0, 17.0),
    "log_data_amount": (8.0, 11.0),
}
ANSWERS = {"temperature": ("small", "large"), "width": ("width", "batch"), "data": ("data", "batch")}


def _features(rows: int, seed: int = 0) -> pd.DataFrame:
    draw = np.random.RandomState(seed)
    return pd.DataFrame({name: draw.uniform(*ends, size=rows) for name, ends in RANGES.items()})


def _problem(structure: str, rows: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Labels that the sharpness and the error tell together, which no tree of thresholds here says well."""
    X = _features(rows, seed)
    return X, np.where(X["hessian_t"] - X["train_error"] / 20 > 5, *ANSWERS[structure])


def _gaussian(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A covariance, a mean and labels."""
    draw = np.random.RandomState(seed)
    spread = draw.normal(size=(rows, rows))
    return spread @ spread.T + 0.1 * np.eye(rows), 2 * draw.normal(size=rows), draw.rand(rows) > 0.5


@pytest.mark.parametrize("seed", range(5))
def test_mode_and_evidence_are_those_of_a_general_optimiser(seed: int) -> None:
    kernel, mean, is_positive = _gaussian(7, seed)
    signs, inverse = np.where(is_positive, 1.0, -1.0), np.linalg.inv(kernel)

    def loss(f: np.ndarray) -> float:
        return float((f - mean) @ inverse @ (f - mean) / 2 - log_expit(signs * f).sum())

    def slope(f: np.ndarray) -> np.ndarray:
        return np.asarray(inverse @ (f - mean) - signs * expit(-signs * f))

    found = minimize(loss, mean, jac=slope, method="BFGS", options={"gtol": 1e-9})
    mode = laplace(kernel, mean, is_positive)
    assert mean + kernel @ mode.weights == pytest.approx(found.x, abs=1e-4)
    hessian = approx_fprime(found.x, slope, 1e-6)
    evidence = -found.fun - np.linalg.slogdet(kernel @ hessian)[1] / 2
    assert mode.log_evidence == pytest.approx(evidence, abs=1e-4)
    cross = np.random.RandomState(seed).normal(size=(3, 7))
    variance = np.diag(cross @ inverse @ cross.T) + 1
    left = variance - np.diag(cross @ (inverse - inverse @ np.linalg.inv(hessian) @ inverse) @ cross.T)
    odds = 0.5 + cross @ inverse @ (found.x - mean)
    asked = probabilities(mode, cross, variance, np.full(3, 0.5))
    assert asked == pytest.approx(expit(odds / np.sqrt(1 + np.pi * left / 8)), abs=1e-4)


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (1.5, 0.5), (-1.0, 2.0)])
def test_one_row_is_close_to_numerical_integration(mean: float, variance: float) -> None:
    def joint(f: float) -> float:
        return float(expit(f) * norm.pdf(f, mean, np.sqrt(variance)))

    evidence, predicted = quad(joint, -20, 20)[0], quad(lambda f: expit(f) * joint(f), -20, 20)[0]
    mode = laplace(np.array([[variance]]), np.array([mean]), np.array([True]))
    assert np.exp(mode.log_evidence) == pytest.approx(evidence, abs=0.02)
    asked = probabilities(mode, np.array([[variance]]), variance, np.array([mean]))
    assert asked[0] == pytest.approx(predicted / evidence, abs=0.02)


def test_newton_converges_from_a_mean_that_is_sure_and_wrong() -> None:
    draw = np.random.RandomState(0)
    points = draw.normal(size=(40, 1))
    kernel = 400 * np.exp(-((points - points.T) ** 2))  # nearly singular
    is_positive = points[:, 0] > 0
    mean = np.where(is_positive, -60.0, 60.0)
    mode = laplace(kernel, mean, is_positive)
    latent = mean + kernel @ mode.weights
    assert mode.weights == pytest.approx(is_positive - expit(latent), abs=1e-4)


def test_covariance_is_one_a_space_at_no_distance_and_falls_as_matern_does() -> None:
    names = ["hessian_t", "log_data_amount"]
    matrix = np.array([[6.0, 10.0], [10.0, 10.0], [6.0, 12.0]])
    rows = Coordinates.of(names, matrix).place(matrix)
    near = {d: (1 + np.sqrt(5) * d + 5 * d * d / 3) * np.exp(-np.sqrt(5) * d) for d in (1, 2)}
    expected = [[2, 1 + near[1], 1 + near[2]], [1 + near[1], 2, near[1] + near[2]]]
    assert covariance(rows[:], rows)[:2] == pytest.approx(np.array(expected))
    assert (FEATURES["hessian_t"].unit, AMOUNTS["log_data_amount"].unit) == (4, 1)


@pytest.mark.parametrize("structure", ANSWERS)
def test_far_from_all_data_the_trees_decide(structure: str) -> None:
    X, y = _problem(structure, rows=60)
    asked = _features(40, seed=1) + 1e6 * (np.arange(len(RANGES)) >= list(RANGES).index("hessian_e"))
    process = MDGaussianProcess(structure=structure, tree_weight=1).fit(X, y)
    votes = process.prior_.votes(asked)[:, 1]
    parts = 1 if structure == "temperature" else 2
    expected = expit(votes / np.sqrt(1 + np.pi * parts * 9 / 8))
    assert process.predict_proba(asked)[:, 1] == pytest.approx(expected, abs=1e-6)


def test_near_many_rows_the_data_overrule_the_trees() -> None:
    X = _features(300)
    tree = MDTreeClassifier(structure="width", search="posterior").fit(X, _problem("width", 300)[1])
    against = np.where(tree.predict(X) == "width", "batch", "width")
    nearby = X + 1e-3
    process = MDGaussianProcess(structure="width").fit(X, against)
    assert (process.predict(nearby) == against).mean() > 0.95


def test_a_tree_is_as_sure_as_it_proved_right_on_rows_it_had_not_seen() -> None:
    stump = Tree("a", "x", "y", start=0.5, bounds=(0, 1))
    X = pd.DataFrame({"a": np.linspace(0, 1, 90)})
    y = np.where(X["a"] > 0.5, "y", "x")
    known = tree_prior([stump], X, y)
    guessed = tree_prior([stump], X, np.random.RandomState(0).permutation(y))
    assert max(voter.misses for voter in known.voters) < 0.05
    assert min(voter.misses for voter in guessed.voters) > 0.35
    assert known.voters[1].misses == pytest.approx(1 / 100)
    assert known.voters[1].log_odds(X.iloc[[0]])[0] == pytest.approx([np.log(99), -np.log(99)])
    assert np.abs(guessed.training).max() < np.abs(known.training).max() / 2


def test_bounds_of_the_data_find_a_threshold_that_lies_beyond_the_published_ones() -> None:
    stump = Tree("a", "x", "y", start=0.5, bounds=(0, 1))
    X = pd.DataFrame({"a": np.linspace(0, 10, 90)})
    y = np.where(X["a"] > 6, "y", "x")
    published, own = (tree_prior([stump], X, y, bounds).voters[0] for bounds in ("published", "data"))
    assert published.misses > 0.3
    assert own.misses < 0.1
    asked = _features(90).assign(a=X["a"])
    weights = [
        MDGaussianProcess(structure=stump, bounds=bounds).fit(asked, y).prior_.voters[0].misses  # type: ignore[union-attr]
        for bounds in ("published", "data")
    ]
    assert weights == [published.misses, own.misses]


def test_the_order_of_columns_and_rows_and_further_columns_change_nothing() -> None:
    X, y = _problem("data", rows=50)
    asked, order = _features(30, seed=1), np.random.RandomState(0).permutation(50)
    first = MDGaussianProcess(structure="data").fit(X, y)
    turned = X.iloc[order, ::-1].assign(log_bs=np.arange(50.0))
    again = MDGaussianProcess(structure="data").fit(turned, y[order])
    assert again.predict_proba(asked) == pytest.approx(first.predict_proba(asked), abs=1e-7)
    array = MDGaussianProcess(structure="data").fit(X[first.columns_].to_numpy(), y)
    assert first.columns_ == [*FEATURES, "log_data_amount"]
    said = array.predict_proba(asked[first.columns_].to_numpy())
    assert said == pytest.approx(first.predict_proba(asked), abs=1e-12)


def test_an_amount_matters_to_the_question_about_it_alone() -> None:
    X, asked = _features(40), _features(20, seed=1)
    for structure, matters in (
        ("temperature", []),
        ("width", ["log_para_amount"]),
        ("data", ["log_data_amount"]),
    ):
        process = MDGaussianProcess(structure=structure).fit(X, _problem(structure, 40)[1])
        said = process.predict_proba(asked)
        moved = [n for n in AMOUNTS if not np.allclose(process.predict_proba(asked.assign(**{n: 9.5})), said)]
        assert moved == matters


def test_missing_values_are_medians_of_the_training_side() -> None:
    X, y = _problem("temperature", rows=61)
    holes, filled = X.copy(), X.copy()
    holes.loc[:20, ["CKA", "hessian_t"]] = np.nan
    holes["test_loss"] = np.nan
    medians = holes.median().fillna(0)
    for name in ("CKA", "hessian_t", "test_loss"):
        filled[name] = holes[name].fillna(medians[name])
    by_holes, by_filled = (MDGaussianProcess().fit(side, y) for side in (holes, filled))
    assert by_holes.predict_proba(holes) == pytest.approx(by_filled.predict_proba(filled), abs=1e-12)


@pytest.mark.parametrize("rows", [1, 30])
def test_of_one_label_a_structure_may_answer_the_other_and_no_structure_does_not(rows: int) -> None:
    X = _features(30).assign(train_error=0.0).iloc[:rows]
    other = X.assign(
        train_error=60.0, train_loss=3.0, mode_connectivity_peak=-0.01, mode_connectivity=40.0, CKA=1.0
    )
    process = MDGaussianProcess().fit(X, ["small"] * rows)
    assert process.predict(X).tolist() == ["small"] * rows
    chance = process.predict_proba(other)[:, process.classes_.tolist().index("large")]
    assert (chance > 1.2 * process.predict_proba(X)[:, 0]).all()
    alone = MDGaussianProcess(structure=None).fit(X, ["small"] * rows)
    assert alone.predict_proba(other).tolist() == [[1.0]] * rows


def test_a_structure_of_one_label_gives_it() -> None:
    X = _features(10)
    process = MDGaussianProcess(structure=Tree("CKA", "x", "x", 0.5, (0.2, 0.8))).fit(X, ["x"] * 10)
    assert process.predict_proba(X).tolist() == [[1.0]] * 10


def test_six_labels_have_probabilities_that_add_up_and_point_to_the_right_one() -> None:
    X = _features(240)
    y = np.digitize(X["hessian_t"], [5, 6, 7, 8]).astype(str)
    y[X["log_data_amount"] > 10.5] = "data"
    process = MDGaussianProcess(structure=None).fit(X, y)
    shares = process.predict_proba(X)
    assert shares.shape == (240, 6)
    assert shares.sum(axis=1) == pytest.approx(np.ones(240))
    assert (shares >= 0).all()
    assert process.log_evidence_.shape == (6,)
    assert process.score(X, y) > 0.9


def test_trees_of_three_labels_vote_for_each() -> None:
    three = Tree("CKA", "x", Tree("CKA", "y", "z", 0.7, (0.6, 0.8)), 0.4, (0.3, 0.5))
    X = _features(60)
    y = np.array(["x", "y", "z"])[np.digitize(X["CKA"], [0.4, 0.7])]
    process = MDGaussianProcess(structure=three).fit(X, y)
    asked = _features(200, seed=1)
    right = np.array(["x", "y", "z"])[np.digitize(asked["CKA"], [0.4, 0.7])]
    assert process.score(asked, right) > 0.9
    assert process.predict_proba(asked).sum(axis=1) == pytest.approx(np.ones(200))
    assert MDGaussianProcess(structure=three, tree_weight=0).fit(X, y).score(asked, right) < 0.9


@pytest.mark.filterwarnings(
    "ignore:invalid value encountered in cast:RuntimeWarning"
)  # scikit-learn's, of NaN in y
def test_without_a_structure_it_passes_all_checks_of_scikit_learn() -> None:
    results = check_estimator(MDGaussianProcess(structure=None), on_skip=None)
    assert {result["status"] for result in results} <= {"passed", "skipped"}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"structure": "depth"}, r"structure is 'depth'; it must be None, a Tree or one of \['temperature'"),
        ({"amplitude": -1}, "amplitude is -1; it must be a finite number of at least 0"),
        ({"tree_weight": np.inf}, "tree_weight is inf; it must be a finite number of at least 0"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MDGaussianProcess(**parameters).fit(*_problem("temperature", 10))


def test_columns_and_labels_that_do_not_fit_are_refused() -> None:
    X, y = _problem("width", rows=10)
    process = MDGaussianProcess(structure="width")
    with pytest.raises(ValueError, match=r"X lacks the columns \['hessian_e'\]; \['train_error'"):
        process.fit(X.drop(columns="hessian_e"), y)
    with pytest.raises(ValueError, match=r"X has 11 features, but .* expecting 10 .*'CKA'.* in that order"):
        process.fit(X.to_numpy(), y)
    with pytest.raises(
        ValueError, match=r"y has the labels \['optimal'\], but the leaves are \['batch', 'width'\]"
    ):
        process.fit(X, [*y[:9], "optimal"])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        process.fit(X, y[:9])
    process.fit(X, y)
    with pytest.raises(ValueError, match=r"X lacks the columns \['train_error'\]"):
        process.predict(X.drop(columns="train_error"))
