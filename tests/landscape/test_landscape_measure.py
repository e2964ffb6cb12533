"""Rows of the metrics table: complete, repeatable, and never without a reason."""

import copy
import dataclasses
import json
import math
import re
from itertools import product
from pathlib import Path
from unittest import mock

import pytest
import torch

from zoo.landscape import registry
from zoo.landscape.estimate import Estimate
from zoo.landscape.measure import (
    RECIPES,
    measure_pair,
    measure_run,
    register_pair_metric,
    register_run_metric,
)
from zoo.landscape.recipes import (
    SECTIONS,
    AnswersRecipe,
    DensityRecipe,
    EigenvalueRecipe,
    GradientRecipe,
    TraceRecipe,
)
from zoo.landscape.registry import PAIR_METRICS, RUN_METRICS, functions_of
from zoo.tables import to_table

QUICK = dataclasses.replace(
    RECIPES["default"],
    trace=TraceRecipe(images=64, exact=False, probes=16),
    eigenvalues=EigenvalueRecipe(images=64, count=2),
    density=DensityRecipe(images=64, probes=2, steps=5),
    gradient=GradientRecipe(images=64),
    answers=AnswersRecipe(images=200, resamples=10),
    curve=dataclasses.replace(RECIPES["default"].curve, sample_passes=320),
    polygon=dataclasses.replace(RECIPES["default"].polygon, sample_passes=64),
)
PAPER = dataclasses.replace(
    RECIPES["paper"],
    curve=dataclasses.replace(RECIPES["paper"].curve, epochs=1),
    polygon=dataclasses.replace(RECIPES["paper"].polygon, epochs=1),
)
SIDES = ("train", "validation")
RUN_ROWS = [
    *product(("hessian_trace", "hessian_top_eigenvalue"), ("train",)),
    *product(("hessian_density", "hessian_negative_share", "hessian_effective_rank"), ("train",)),
    *product(("hessian_smallest_eigenvalue", "worst_case_sharpness", "random_sharpness"), ("train",)),
    *product(("gradient_norm", "gradient_variance", "gradient_noise_scale"), ("train",)),
    *product(("parameter_norm", "log_spectral_norms", "log_frobenius_norms"), (None,)),
    *product(("spectral_alpha", "spectral_alpha_weighted"), (None,)),
    *product(("confidence", "entropy", "overconfidence", "calibration_error"), SIDES),
    *product(("margin", "margin_scaled", "margin_normalised"), SIDES),
    *product(("dead_units", "activation_zeros"), ("train",)),
]
OF_WEIGHTS = {name for name, split in RUN_ROWS if split is None} | {"l2_distance"}
PAIR_ROWS = [
    *product(("mode_connectivity", "mode_connectivity_peak", "curve_loss_barrier"), SIDES),
    *product(("polygon_connectivity", "polygon_connectivity_peak", "polygon_loss_barrier"), SIDES),
    *product(("linear_barrier", "linear_loss_barrier", "aligned_barrier", "aligned_loss_barrier"), SIDES),
    *product(("cka", "cka_penultimate", "agreement", "jensen_shannon", "l2_distance"), (None,)),
]


def without_seconds(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture
def registries():
    """The registries, put back as they were after the test."""
    with mock.patch.dict(RUN_METRICS), mock.patch.dict(PAIR_METRICS):
        yield


def test_every_metric_has_its_row_and_fits_the_table(trained_pair, digits) -> None:
    run_rows = measure_run(trained_pair[0], digits, QUICK, ("a",))
    pair_rows = measure_pair(*trained_pair, digits, QUICK, ("a", "b"))
    assert [(row["metric"], row["split"]) for row in run_rows] == RUN_ROWS
    assert [(row["metric"], row["split"]) for row in pair_rows] == PAIR_ROWS
    assert all(row["value"] is not None and row["reason"] is None for row in run_rows + pair_rows)
    table = to_table("metrics", run_rows + pair_rows)
    assert table.column("value").to_pylist() == [row["value"] for row in run_rows + pair_rows]


def test_rows_say_how_they_were_measured(trained_pair, digits) -> None:
    rows = {row["metric"]: row for row in measure_run(trained_pair[0], digits, QUICK, ("a",))}
    trace, top = rows["hessian_trace"], rows["hessian_top_eigenvalue"]
    assert (trace["samples"], trace["iterations"], trace["recipe"]) == (64, 16, "default")
    assert json.loads(trace["recipe_parameters"]) == dataclasses.asdict(QUICK.trace)
    assert trace["standard_error"] > 0
    assert trace["sampling_error"] > 0
    assert trace["low"] < trace["value"] < trace["high"]
    assert top["converged"] is True
    assert (top["value"], len(top["values"])) == (top["values"][0], 2)
    assert trace["value"] > top["value"] > 0
    rows = {(r["metric"], r["split"]): r for r in measure_pair(*trained_pair, digits, QUICK, ("a",))}
    for split, samples in (("train", 1000), ("validation", 400)):
        curve, peak = rows["mode_connectivity", split], rows["mode_connectivity_peak", split]
        assert curve["values"] == peak["values"]
        assert peak["value"] == -max(curve["values"][1:4])
        assert (curve["samples"], curve["iterations"]) == (samples, 10)
    assert rows["cka", None]["samples"] == 400
    assert 0.8 < rows["agreement", None]["value"] <= 1


def test_the_same_inputs_give_the_same_rows_and_another_key_other_draws(trained_pair, digits) -> None:
    model = trained_pair[0]
    first, again, other = (measure_run(model, digits, QUICK, (key,)) for key in ("a", "a", "b"))
    assert without_seconds(first) == without_seconds(again)
    assert first[0]["value"] != other[0]["value"]
    first, again, other = (measure_pair(*trained_pair, digits, QUICK, (key,)) for key in ("a", "a", "b"))
    assert without_seconds(first) == without_seconds(again)
    assert first[0]["values"] != other[0]["values"]
    assert without_seconds(first[-5:]) == without_seconds(other[-5:])


def test_models_are_left_as_they_were(trained_pair, digits) -> None:
    models = [copy.deepcopy(model).train() for model in trained_pair]
    before = [copy.deepcopy(model.state_dict()) for model in models]
    state = torch.get_rng_state()
    measure_run(models[0], digits, QUICK, ("a",))
    measure_pair(*models, digits, QUICK, ("a",))
    for model, tensors in zip(models, before, strict=True):
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
        assert all(module.training for module in model.modules())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_measuring_works_where_gradients_are_off(trained_pair, digits) -> None:
    with torch.no_grad():
        off = (
            measure_run(trained_pair[0], digits, QUICK, ("a",)),
            measure_pair(*trained_pair, digits, QUICK, ("a",)),
        )
    assert without_seconds(off[0]) == without_seconds(measure_run(trained_pair[0], digits, QUICK, ("a",)))
    assert without_seconds(off[1]) == without_seconds(measure_pair(*trained_pair, digits, QUICK, ("a",)))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["1.weight", "1.running_var"])
def test_weights_that_are_not_finite_give_reasons(trained_pair, digits, poison: float, where: str) -> None:
    broken = copy.deepcopy(trained_pair[0])
    broken.state_dict()[where].fill_(poison)
    rows = measure_run(broken, digits, QUICK, ("a",)) + measure_pair(
        trained_pair[1], broken, digits, QUICK, ("a",)
    )
    assert [(row["metric"], row["split"]) for row in rows] == RUN_ROWS + PAIR_ROWS
    assert {(row["value"], row["standard_error"], row["reason"]) for row in rows} == {
        (None, None, "not_finite")
    }


def test_finite_weights_with_infinite_outputs_give_reasons(trained_pair, digits) -> None:
    huge = copy.deepcopy(trained_pair[0])
    with torch.no_grad():
        huge[-1].weight.fill_(3e38)
    rows = measure_run(huge, digits, QUICK, ("a",)) + measure_pair(
        huge, trained_pair[1], digits, QUICK, ("a",)
    )
    of_outputs = [r for r in rows if r["metric"] not in OF_WEIGHTS]
    assert {(r["value"], r["reason"]) for r in of_outputs} == {(None, "not_finite")}
    assert rows[-1]["value"] > 1e38


def test_a_collapsed_model_has_no_cka_and_all_else(trained_pair, digits) -> None:
    collapsed = copy.deepcopy(trained_pair[0])
    with torch.no_grad():
        collapsed[-1].weight.zero_()
    for pair in ((collapsed, trained_pair[1]), (collapsed, collapsed)):
        rows = {row["metric"]: row for row in measure_pair(*pair, digits, QUICK, ("a",))}
        assert (rows["cka"]["value"], rows["cka"]["reason"]) == (None, "collapsed")
        assert all(row["value"] is not None for name, row in rows.items() if name != "cka")
    assert rows["agreement"]["value"] == 1


def test_models_of_two_architectures_are_a_failure_that_says_so(trained_pair, make_cnn, digits) -> None:
    rows = measure_pair(trained_pair[0], make_cnn(2, 0).eval(), digits, QUICK, ("a",))
    failed = {row["metric"] for row in rows if row["value"] is None}
    alike = {"cka", "cka_penultimate", "agreement", "jensen_shannon"}
    assert failed == {name for name, _ in PAIR_ROWS} - alike
    assert rows[0]["reason"].startswith("failed: ValueError: the two models have different architectures")


def test_a_model_of_another_data_set_is_refused(trained_pair, digits) -> None:
    other = dataclasses.replace(digits, classes=7)
    with pytest.raises(
        ValueError, match=r"outputs for one image have shape \[1, 10\], and the data set has 7"
    ):
        measure_run(trained_pair[0], other, QUICK, ("a",))
    colours = digits.train._replace(images=digits.train.images.expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match=r"the model cannot take images of shape \[3, 8, 8\]"):
        measure_pair(*trained_pair, dataclasses.replace(digits, train=colours), QUICK, ("a",))


def test_the_docs_name_every_metric_reason_and_number() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    documented = page[: page.index("## Two recipes")]
    for name, metric in [*RUN_METRICS.items(), *PAIR_METRICS.items()]:
        for row in metric.names:
            line = next(line for line in documented.splitlines() if f"`{row}`" in line.partition(" | ")[0])
            assert f"`{metric.section}`" in line or metric.section is None, name
    reasons = {
        value
        for module in Path(registry.__file__).parent.glob("*.py")
        for value in re.findall(r'(?m)^[A-Z_]+ = "([a-z_]+)"\n"""Reason of', module.read_text())
    }
    assert len(reasons) > 6
    assert all(f"| `{reason}` |" in documented for reason in reasons)
    for section in SECTIONS:
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{section}` | "))
        for number, recipe in enumerate(("default", "paper")):
            said = dict(text.rsplit(" ", 1) for text in line.split(" | ")[1 + number].strip(" |").split(", "))
            real = dataclasses.asdict(getattr(RECIPES[recipe], section))
            assert {key: str(value) for key, value in real.items()}.items() >= (
                said.items() if said != {"the": "same"} else set()
            )


def test_the_paper_recipe_measures_as_published(trained_pair, make_cnn, digits) -> None:
    only = functions_of(["hessian_trace", "hessian_top_eigenvalue"])
    rows = measure_run(trained_pair[0], digits, PAPER, ("a",), only)
    assert [row["samples"] for row in rows] == [200, 200]
    assert rows[0]["iterations"] <= 100
    assert rows[0]["converged"] is (rows[0]["iterations"] < 100)
    rows = measure_pair(*trained_pair, digits, PAPER, ("a", "b"), initial_model=make_cnn(6, 9))
    assert {row["recipe"] for row in rows} == {"paper"}
    assert [row["samples"] for row in rows[:12]] == 6 * [1000, 400]
    assert [row["samples"] for row in rows[-5:]] == 4 * [768] + [0]
    assert rows[0]["iterations"] == 8
    assert all(row["value"] is not None for row in rows)


@pytest.mark.parametrize(("recipe", "drawn"), [(QUICK, False), (PAPER, True)])
def test_hessian_images_are_one_set_by_default_and_drawn_in_the_paper(
    trained_pair, digits, recipe, drawn
) -> None:
    exact = dataclasses.replace(recipe.eigenvalues, images=64, tolerance=1e-6, products=500)
    recipe, only = dataclasses.replace(recipe, eigenvalues=exact), ["hessian_top_eigenvalue"]
    a, b = (measure_run(trained_pair[0], digits, recipe, (key,), only)[0]["value"] for key in "ab")
    assert (abs(a - b) > 0.01 * a) is drawn


def test_the_paper_curve_needs_an_untrained_model(trained_pair, digits) -> None:
    rows = measure_pair(*trained_pair, digits, PAPER, ("a",))
    assert all("pass initial_model" in row["reason"] for row in rows[:12])
    assert all(row["value"] is not None for row in rows[12:])


def test_the_paper_curve_takes_more_epochs_on_less_data() -> None:
    assert RECIPES["paper"].for_data_fraction(0.1).curve.epochs == 500
    assert RECIPES["paper"].for_data_fraction(1.0) == RECIPES["paper"]
    assert RECIPES["default"].for_data_fraction(0.1) == RECIPES["default"]
    with pytest.raises(ValueError, match=r"fraction is 1.5; it is in \(0, 1\]"):
        RECIPES["paper"].for_data_fraction(1.5)


@pytest.mark.usefixtures("registries")
def test_a_user_adds_metrics_by_one_function_each(trained_pair, digits) -> None:
    @register_run_metric("weight_norm", "draw", splits=("train", "test"))
    def measure_norm(model, data, recipe, generator):
        norm = sum(p.square().sum().item() for p in model.parameters()) ** 0.5
        draws = torch.rand(2, generator=generator).tolist()
        return [Estimate(value=norm), Estimate(value=2 * norm), *(Estimate(value=draw) for draw in draws)]

    @register_pair_metric("same")
    def measure_same(pair, data, recipe, generator):
        return [Estimate(value=float(pair.first is pair.second))]

    rows = measure_run(trained_pair[0], digits, QUICK, ("a",))[len(RUN_ROWS) :]
    assert [(row["metric"], row["split"]) for row in rows] == [
        ("weight_norm", "train"),
        ("weight_norm", "test"),
        ("draw", "train"),
        ("draw", "test"),
    ]
    assert rows[1]["value"] == 2 * rows[0]["value"]
    assert rows == [{**row, "seconds": rows[0]["seconds"]} for row in rows]
    assert measure_pair(*trained_pair, digits, QUICK, ("a",))[-1]["value"] == 0


@pytest.mark.usefixtures("registries")
def test_a_metric_that_fails_is_a_row_with_the_error(trained_pair, digits) -> None:
    @register_run_metric("broken", "broken_too")
    def raises(model, data, recipe, generator):
        raise RuntimeError("no such layer")

    @register_run_metric("short", "missing")
    def gives_one(model, data, recipe, generator):
        return [Estimate(value=1.0)]

    @register_run_metric("undefined")
    def not_a_number(model, data, recipe, generator):
        return [Estimate(value=1.0, values=(1.0, math.nan), standard_error=0.1)]

    rows = measure_run(trained_pair[0], digits, QUICK, ("a",))
    assert rows[0]["value"] is not None
    rows = rows[len(RUN_ROWS) :]
    reasons = {row["metric"]: row["reason"] for row in rows}
    assert reasons["broken"] == reasons["broken_too"] == "failed: RuntimeError: no such layer"
    assert reasons["short"] == reasons["missing"] == "failed: the metric gave 1 estimates for its 2 rows"
    assert reasons["undefined"] == "not_finite"
    assert all(row["value"] is None and row["values"] is None for row in rows)


@pytest.mark.usefixtures("registries")
def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match=r"\['mode_connectivity_peak'\] are registered already"):
        register_pair_metric("mine", "mode_connectivity_peak")
    with pytest.raises(ValueError, match="a metric needs a name"):
        register_run_metric()
