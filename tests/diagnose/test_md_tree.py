"""MDTreeClassifier: planted thresholds, the estimator's contract, and its refusals."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

from diagnose import STRUCTURES, MDTreeClassifier, Tree
from diagnose.structures import decide

TRUE_THRESHOLDS = {
    "temperature": [0.4, -15.0, 6.0],
    "temperature-similarity": [0.4, -15.0, 0.6],
    "width": [0.4, -15.0, -8.0],
    "data": [0.4, -15.0, 6.0, 7.5, -8.0, 5.0],
}


def _features(rows: int, seed: int = 0) -> pd.DataFrame:
    draw = np.random.RandomState(seed)
    ranges = {
        "hessian_t": (4, 9),
        "CKA": (0.2, 0.8),
        "train_error": (0, 1),
        "mode_connectivity_peak": (-30, 0),
    }
    return pd.DataFrame({name: draw.uniform(*ends, size=rows) for name, ends in ranges.items()})


def _columns(X: pd.DataFrame) -> dict[str, np.ndarray]:
    return dict(zip(X.columns.tolist(), X.to_numpy().T, strict=True))


def _planted(structure: str, rows: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    X = _features(rows, seed)
    return X, decide(STRUCTURES[structure], _columns(X), TRUE_THRESHOLDS[structure])


def _by_hand(structure: str, row: dict[Any, float]) -> str:
    """The published conditions, top down, at their starts."""
    poor, sharp = row["mode_connectivity_peak"] <= -10, row["hessian_t"] > 7
    match structure, row["train_error"] <= 0.5:
        case "temperature", True:
            return "small"
        case "temperature", False:
            return "small" if poor and sharp else "large"
        case "temperature-similarity", True:
            return "small"
        case "temperature-similarity", False:
            return "small" if poor and row["CKA"] <= 0.5 else "large"
        case "width", _:
            return "width" if poor else "batch"
        case "data", True:
            return "batch" if sharp else "data"
        case _:
            return "batch" if poor or sharp else "data"


@pytest.mark.parametrize("structure", STRUCTURES)
def test_published_structures_answer_by_the_published_conditions(structure: str) -> None:
    tree, X = STRUCTURES[structure], _features(200)
    answers = decide(tree, _columns(X), [split.start for split in tree.splits()])
    assert answers.tolist() == [_by_hand(structure, row) for row in X.to_dict("records")]


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("bounds", ["published", "data"])
def test_exact_search_recovers_planted_thresholds(structure: str, bounds: str) -> None:
    X, y = _planted(structure, rows=1500)
    tree = MDTreeClassifier(structure=structure, search="exact", bounds=bounds).fit(X, y)
    assert (tree.predict(X) == y).all()
    spans = [high - low for low, high in (split.bounds for split in STRUCTURES[structure].splits())]
    assert (np.abs(tree.thresholds_ - TRUE_THRESHOLDS[structure]) < 0.03 * np.array(spans)).all()


@pytest.mark.parametrize("structure", STRUCTURES)
def test_published_search_finds_each_planted_threshold_while_the_others_are_held_there(
    structure: str,
) -> None:
    X, y = _planted(structure, rows=1500)
    tree = MDTreeClassifier(structure=structure, start=TRUE_THRESHOLDS[structure]).fit(X, y)
    spans = [high - low for low, high in (split.bounds for split in STRUCTURES[structure].splits())]
    assert (np.abs(tree.thresholds_ - TRUE_THRESHOLDS[structure]) < 0.03 * np.array(spans)).all()


@pytest.mark.parametrize("search", ["published", "exact", "posterior"])
def test_thresholds_stay_inside_their_bounds(search: str) -> None:
    X, y = _planted("temperature", rows=300)
    bounds = [(0.6, 0.7), (-9.0, -5.0), (7.0, 8.0)]
    tree = MDTreeClassifier(search=search, bounds=bounds).fit(X, y)
    low, high = np.array(bounds).T
    assert (low <= tree.thresholds_).all()
    assert (tree.thresholds_ <= high).all()


def test_data_bounds_are_quantiles_and_a_start_outside_moves_to_the_median() -> None:
    X = _features(101) * 1000
    X["train_error"] = np.linspace(0, 100, 101)
    tree = MDTreeClassifier(bounds="data").fit(X, ["small", *["large"] * 100])
    first, *_, last = tree.tree_.splits()
    assert first.bounds == (2, 98)
    assert first.start == 50  # the published 0.5 lies below the bounds
    assert last.start == X["hessian_t"].median()


def test_a_start_outside_given_bounds_moves_to_the_nearer_end() -> None:
    X, y = _planted("width", rows=50)
    tree = MDTreeClassifier(
        structure="width", bounds=[(0, 1), (-30, -20), (-30, 0)], start=(0.3, -10, -7)
    ).fit(X, y)
    assert [split.start for split in tree.tree_.splits()] == [0.3, -20, -7]


def test_frames_are_read_by_name_and_arrays_in_order_of_first_use() -> None:
    X, y = _planted("data", rows=200)
    by_name = MDTreeClassifier(structure="data").fit(X, y)
    array = X[["train_error", "mode_connectivity_peak", "hessian_t"]].to_numpy()
    by_place = MDTreeClassifier(structure="data").fit(array, y)
    assert by_name.thresholds_.tolist() == by_place.thresholds_.tolist()
    assert by_name.predict(X[X.columns[::-1]]).tolist() == by_place.predict(array).tolist()
    assert by_name.feature_names_in_.tolist() == list(X)
    assert (by_name.n_features_in_, by_place.n_features_in_) == (4, 3)
    assert not hasattr(by_place, "feature_names_in_")


def test_features_called_as_scikit_learn_calls_them_are_columns_by_number() -> None:
    stump = Tree("x2", "width", "batch", start=10, bounds=(0, 20))
    X = np.array([[9.0, 9, 1, 9], [9, 9, 3, 9], [9, 9, 7, 9]])
    y = ["width", "width", "batch"]
    tree = MDTreeClassifier(structure=stump, search="exact").fit(X, y)
    assert tree.thresholds_.tolist() == [5]
    assert tree.n_features_in_ == 4
    unnamed = MDTreeClassifier(structure=stump, search="exact").fit(pd.DataFrame(X), y)
    assert unnamed.predict(pd.DataFrame(X)).tolist() == y
    named = pd.DataFrame(X[:, [2, 0]], columns=["x2", "x0"])
    assert MDTreeClassifier(structure=stump, search="exact").fit(named, y).thresholds_.tolist() == [5]
    with pytest.raises(
        ValueError, match="X has 3 features, but MDTreeClassifier is expecting 4 features as input"
    ):
        tree.predict(X[:, :3])
    with pytest.raises(ValueError, match=r"X has 2 columns; the tree reads \['x2'\], counted from x0"):
        MDTreeClassifier(structure=stump).fit(X[:, :2], y)


@pytest.mark.parametrize("search", ["published", "exact", "posterior"])
@pytest.mark.parametrize("kind", [int, float, np.int8])
def test_labels_that_are_numbers_are_answered_by_numbers_in_their_order(search: str, kind: type) -> None:
    """In the order of their text 10 would come before 9."""
    stump = Tree("x0", "9", Tree("x0", "10", "-1", start=6, bounds=(5, 9)), start=3, bounds=(1, 4))
    X, y = np.arange(9.0)[:, None], np.array([9, 9, 9, 10, 10, 10, 10, -1, -1], dtype=kind)
    tree = MDTreeClassifier(structure=stump, search=search).fit(X, y)
    assert tree.classes_.tolist() == [-1, 9, 10]
    assert tree.predict(X).dtype.kind == np.dtype(kind).kind
    assert tree.score(X, y) > 0.7
    assert (tree.classes_[tree.predict_proba(X).argmax(axis=1)] == tree.predict(X)).all()
    assert tree.leaf_counts_.sum(axis=0).tolist() == [2, 3, 4]


def test_numbers_beside_words_are_words() -> None:
    stump = Tree("x0", "1", "other", start=3, bounds=(1, 4))
    tree = MDTreeClassifier(structure=stump, search="exact").fit([[1.0], [2.0]], [1, 1])
    assert tree.classes_.tolist() == ["1", "other"]
    assert tree.predict([[0.0]]).tolist() == ["1"]


def test_labels_that_are_no_labels_are_refused() -> None:
    stump = Tree("x0", "1", "2", start=3, bounds=(1, 4))
    for y, message in (
        ([1.5, 2.0], "Unknown label type: continuous"),
        ([1.0, np.nan], "Input y contains NaN"),
        (None, "MDTreeClassifier requires y to be passed, but the target y is None"),
    ):
        with pytest.raises(ValueError, match=message):
            MDTreeClassifier(structure=stump).fit([[1.0], [2.0]], y)


def test_a_column_that_is_there_twice_is_refused() -> None:
    X, y = _planted("temperature", rows=10)
    with pytest.raises(
        ValueError, match=r"X has 4 columns of the names \['train_error', .*it must have each once"
    ):
        MDTreeClassifier().fit(pd.concat([X, X[["hessian_t"]]], axis=1), y)


def test_missing_values_are_medians_of_the_training_side() -> None:
    X, y = _planted("temperature", rows=201)
    tree = MDTreeClassifier(search="exact").fit(X, y)
    holes, filled = X.copy(), X.copy()
    holes.loc[:100, "hessian_t"] = np.nan
    filled.loc[:100, "hessian_t"] = X["hessian_t"].median()
    assert tree.predict(holes).tolist() == tree.predict(filled).tolist()
    filled.loc[:100, "hessian_t"] = holes["hessian_t"].median()
    refitted, expected = clone(tree).fit(holes, y), clone(tree).fit(filled, y)
    assert refitted.thresholds_.tolist() == expected.thresholds_.tolist()
    assert refitted.medians_.tolist() == holes[refitted.tree_.features()].median().tolist()


@pytest.mark.parametrize("bounds", ["published", "data"])
@pytest.mark.parametrize("search", ["published", "exact", "posterior"])
def test_a_feature_that_is_missing_everywhere_leaves_the_others_to_decide(search: str, bounds: str) -> None:
    X, _ = _planted("width", rows=100)
    y = np.where(X["mode_connectivity_peak"] <= -15, "width", "batch")
    tree = MDTreeClassifier(structure="width", search=search, bounds=bounds).fit(
        X.assign(train_error=np.nan), y
    )
    assert tree.score(X.assign(train_error=np.nan), y) > 0.95


@pytest.mark.parametrize("search", ["published", "exact", "posterior"])
@pytest.mark.parametrize("only", ["small", "large"])
def test_one_class_is_enough_to_learn_from(search: str, only: str) -> None:
    X = _features(40)
    tree = MDTreeClassifier(search=search).fit(X, [only] * 40)
    assert tree.classes_.tolist() == ["large", "small"]
    assert tree.score(X, [only] * 40) > (0.99 if search == "exact" else 0.5)


def test_it_is_a_scikit_learn_estimator() -> None:
    tree = MDTreeClassifier(structure="width", search="exact", bounds="data", start=(1, 2, 3))
    assert clone(tree).get_params() == tree.get_params()
    X, y = _planted("width", rows=120)
    assert cross_val_score(MDTreeClassifier(structure="width", search="exact"), X, y, cv=3).min() > 0.9
    with pytest.raises(NotFittedError):
        MDTreeClassifier().predict(X)


def test_a_structure_of_ones_own() -> None:
    stump = Tree("log_para_amount", "width", "batch", start=10, bounds=(0, 20))
    X = pd.DataFrame({"log_para_amount": [1.0, 2.0, 6.0, 7.0]})
    y = ["width", "width", "batch", "batch"]
    tree = MDTreeClassifier(structure=stump, search="exact").fit(X, y)
    assert tree.thresholds_.tolist() == [4]
    assert tree.export_text() == (
        "|--- log_para_amount <= 4.00\n|   |--- class: width\n|--- log_para_amount >  4.00\n|   |--- class: batch\n"
    )


def test_text_indents_a_nested_structure_by_depth() -> None:
    X, y = _planted("temperature", rows=100)
    tree = MDTreeClassifier(bounds=[(0.4, 0.4), (-15, -15), (6, 6)], search="exact").fit(X, y)
    lines = tree.export_text(decimals=1).splitlines()
    assert lines[1:5] == [
        "|   |--- class: small",
        "|--- train_error >  0.4",
        "|   |--- mode_connectivity_peak <= -15.0",
        "|   |   |--- hessian_t <= 6.0",
    ]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"structure": "depth"}, r"structure is 'depth'; it must be a Tree or one of \['temperature'"),
        ({"search": "grid"}, r"search is 'grid'; it must be one of \['published', 'exact', 'posterior'\]"),
        ({"bounds": "wide"}, "bounds is 'wide'; it must be 'published', 'data' or a pair a threshold"),
        ({"bounds": [(0, 1)]}, "bounds has 1 entries; the structure has 3 thresholds"),
        (
            {"bounds": [(0, 1), (0, -30), (4, 9)]},
            r"bounds of mode_connectivity_peak are \(0.0, -30.0\); the lower",
        ),
        ({"start": (0.5, -10)}, "start has 2 entries; the structure has 3 thresholds"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(parameters: dict[str, Any], message: str) -> None:
    X, y = _planted("temperature", rows=10)
    with pytest.raises(ValueError, match=message):
        MDTreeClassifier(**parameters).fit(X, y)


def test_columns_and_labels_that_do_not_fit_are_refused() -> None:
    X, y = _planted("temperature", rows=10)
    with pytest.raises(
        ValueError, match=r"X lacks the columns \['hessian_t'\]; the tree reads \['train_error'"
    ):
        MDTreeClassifier().fit(X.drop(columns="hessian_t"), y)
    with pytest.raises(ValueError, match="X has 4 columns; an array must hold"):
        MDTreeClassifier().fit(X.to_numpy(), y)
    with pytest.raises(
        ValueError, match=r"y has the labels \['optimal'\], but the leaves are \['large', 'small'\]"
    ):
        MDTreeClassifier().fit(X, [*y[:9], "optimal"])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        MDTreeClassifier().fit(X, y[:9])


@pytest.mark.parametrize("search", ["published", "exact"])
def test_a_committed_search_is_sure_of_its_answer(search: str) -> None:
    X, y = _planted("data", rows=100)
    tree = MDTreeClassifier(structure="data", search=search).fit(X, y)
    shares = tree.predict_proba(X)
    assert tree.classes_[shares.argmax(axis=1)].tolist() == tree.predict(X).tolist()
    assert np.sort(shares, axis=1).tolist() == [[0, 1]] * 100


def test_leaves_count_the_training_rows_that_reach_them() -> None:
    X = pd.DataFrame({"log_para_amount": [1.0, 2.0, 3.0, 6.0, 7.0, 8.0]})
    stump = Tree("log_para_amount", "width", "batch", start=10, bounds=(4, 4))
    tree = MDTreeClassifier(structure=stump).fit(X, ["width", "width", "batch", "batch", "batch", "batch"])
    assert tree.classes_.tolist() == ["batch", "width"]
    assert tree.leaf_counts_.tolist() == [[1, 2], [3, 0]]
    assert tree.export_text(show_counts=True).splitlines() == [
        "|--- log_para_amount <= 4.00",
        "|   |--- class: width (1 batch, 2 width)",
        "|--- log_para_amount >  4.00",
        "|   |--- class: batch (3 batch)",
    ]


def test_a_leaf_that_no_row_reaches_says_so() -> None:
    tree = MDTreeClassifier(search="exact").fit(_features(30).assign(train_error=0.0), ["small"] * 30)
    assert tree.leaf_counts_.sum() == 30
    assert tree.export_text(show_counts=True).count("(no rows)") == 3


def test_the_drawing_shows_every_split_and_leaf() -> None:
    X, y = _planted("data", rows=200)
    tree = MDTreeClassifier(structure="data", search="exact").fit(X, y)
    ax = Figure().subplots()
    assert tree.plot(ax, decimals=1) is ax
    words = [text.get_text() for text in ax.texts]
    for split, threshold in zip(tree.tree_.splits(), tree.thresholds_, strict=True):
        low, high = split.bounds
        assert f"{split.feature} ≤ {threshold:.1f}\nbetween {low:.1f} and {high:.1f}" in words
    assert sum(word.startswith(("batch\n", "data\n")) for word in words) == 7
    assert len(ax.lines) == 12
    places = [text.get_position() for text in ax.texts]
    assert len(set(places)) == len(places)


def test_a_drawing_of_its_own_is_a_new_figure() -> None:
    X, y = _planted("width", rows=50)
    before = plt.get_fignums()
    figure = MDTreeClassifier(structure="width").fit(X, y).plot().figure
    assert len(plt.get_fignums()) == len(before) + 1
    assert isinstance(figure, Figure)
    assert plt.gcf() is figure
    plt.close(figure)


def test_numbers_in_text_and_infinite_ones_are_refused() -> None:
    X, y = _planted("temperature", rows=10)
    with pytest.raises(ValueError, match="could not convert string to float"):
        MDTreeClassifier().fit(X.assign(hessian_t="sharp"), y)
    with pytest.raises(ValueError, match="Input contains infinity"):
        MDTreeClassifier().fit(X.assign(hessian_t=np.inf), y)


def test_a_row_to_diagnose_must_have_the_columns_too() -> None:
    X, y = _planted("temperature", rows=10)
    tree = MDTreeClassifier().fit(X, y)
    for ask in (tree.predict, tree.predict_proba):
        with pytest.raises(ValueError, match=r"X lacks the columns \['train_error'\]"):
            ask(X.drop(columns="train_error"))
