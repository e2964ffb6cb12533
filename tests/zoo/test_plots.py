"""Phase plots: which files, which cells, which colours, which words."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from PIL import Image

from zoo import plots
from zoo.config import TrainConfig
from zoo.plots import QUANTITIES, draw, phase_plots
from zoo.tables import to_table

FIXED: dict[str, Any] = {
    **{"dataset": "digits", "data_fingerprint": "f", "architecture": "mlp", "sample_passes": 6_000},
    **{"width": 2, "batch_size": 8, "data_amount": 100},
}
BY_NAME = {quantity.name: quantity for quantity in QUANTITIES}


def tables(settings: list[dict[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Tables of a zoo with two runs a configuration, whose figures follow from its place in the list."""
    configs, runs, metrics = [], [], []
    for place, given in enumerate(settings):
        config = TrainConfig(**(FIXED | given))
        derived = {"config_id": config.config_id, "canonical_json": config.canonical_json()}
        configs.append(dataclasses.asdict(config) | derived)
        for seed in (0, 1):
            error = 10.0 * place + seed
            run = {"config_id": config.config_id, "run_id": f"{config.config_id}-{seed}"}
            runs.append(run | {"status": "done", "test_error": error, "train_error": error / 2})
            row = run | {"recipe": "default"}
            metrics += [
                row | {"metric": "hessian_trace", "split": "train", "value": 10.0**place},
                row | {"metric": "mode_connectivity", "split": "train", "value": -float(place)},
                row | {"metric": "mode_connectivity", "split": "validation", "value": 50.0},
                row | {"metric": "cka", "value": 0.5 + seed / 10 + place / 100},
            ]
    frames = zip(("configs", "runs", "metrics"), (configs, runs, metrics), strict=True)
    first, second, third = (to_table(name, rows).to_pandas() for name, rows in frames)
    return first, second, third


def product(**axes: list[Any]) -> list[dict[str, Any]]:
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that phase_plots draws, in order."""
    figures: list[Figure] = []

    def record(*arguments: Any) -> Figure:
        figures.append(draw(*arguments))
        return figures[-1]

    monkeypatch.setattr(plots, "draw", record)
    return figures


@pytest.fixture
def errors_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "QUANTITIES", QUANTITIES[:1])


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_title()]


def shown(panel: Axes) -> list[list[float | None]]:
    """The rows of a panel from the bottom up; None where a cell is hatched."""
    values = panel.collections[0].get_array()
    assert values is not None
    return values.tolist()


def words(panel: Axes) -> list[str]:
    return [text.get_text() for text in panel.texts]


def ticks(panel: Axes) -> tuple[list[str], list[str]]:
    return [t.get_text() for t in panel.get_xticklabels()], [t.get_text() for t in panel.get_yticklabels()]


def test_one_picture_a_quantity(tmp_path: Path) -> None:
    paths = phase_plots(*tables(product(width=[1, 2], batch_size=[4, 8])), tmp_path / "new")
    names = ["test_error", "train_error", "hessian_trace", "mode_connectivity", "cka"]
    assert paths == [tmp_path / "new" / f"{name}.png" for name in names]
    for path in paths:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 300
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_a_cell_is_the_mean_over_finished_runs_or_pairs(tmp_path: Path, drawn: list[Figure]) -> None:
    """Widths run along x and batch sizes along y, by size whatever the order of the rows."""
    configs, runs, metrics = tables(product(width=[16, 2], batch_size=[32, 8]))
    last = configs["config_id"].iloc[3]
    runs.loc[runs["run_id"] == f"{configs['config_id'].iloc[0]}-0", "status"] = "diverged"
    runs.loc[runs["config_id"] == last, "status"] = "failed"
    metrics.loc[metrics["config_id"] == last, "value"] = None
    phase_plots(configs.iloc[::-1], runs, metrics, tmp_path)
    found = {figure.get_suptitle().split("\n")[0]: panels(figure)[0] for figure in drawn}
    assert shown(found["Test error"]) == [[None, 10.5], [20.5, 1.0]]
    assert words(found["Test error"]) == ["10.5", "20.5", "1.0"]
    assert shown(found["Training error"]) == [[None, 5.25], [10.25, 0.5]]
    assert shown(found["Hessian trace"]) == [[None, 10.0], [100.0, 1.0]]
    assert shown(found["Mode connectivity"]) == [[None, -1.0], [-2.0, 0.0]]
    assert words(found["Mode connectivity"]) == ["-1.0", "-2.0", "0.0"]
    assert words(found["Similarity of runs"]) == ["0.56", "0.57", "0.55"]
    assert ticks(found["Test error"]) == (["2", "16"], ["8", "32"])
    assert [legend.get_texts()[0].get_text() for legend in drawn[0].legends] == ["no value"]


def test_only_the_asked_recipe_is_shown(tmp_path: Path, drawn: list[Figure]) -> None:
    configs, runs, metrics = tables(product(width=[1, 2]))
    other = metrics.assign(recipe="paper", value=metrics["value"] * 3)
    phase_plots(configs, runs, pd.concat([metrics, other]), tmp_path, recipe="paper")
    assert shown(panels(drawn[2])[0]) == [[3.0, 30.0]]
    with pytest.raises(ValueError, match=r"with recipe 'papr'; measured recipes are \['default', 'paper'\]"):
        phase_plots(configs, runs, pd.concat([metrics, other]), tmp_path, recipe="papr")


def test_a_quantity_without_values_has_no_file(tmp_path: Path) -> None:
    configs, runs, metrics = tables(product(width=[1, 2]))
    paths = phase_plots(configs, runs, metrics.iloc[:0], tmp_path)
    assert [path.name for path in paths] == ["test_error.png", "train_error.png"]
    metrics.loc[metrics["metric"] != "cka", "value"] = None
    paths = phase_plots(configs, runs.assign(status="failed"), metrics, tmp_path)
    assert [path.name for path in paths] == ["cka.png"]


def test_an_empty_zoo_is_refused(tmp_path: Path) -> None:
    configs, runs, metrics = tables(product(width=[1]))
    with pytest.raises(
        ValueError, match="configs has 0 rows, a phase plot needs 1 or more; build the zoo first"
    ):
        phase_plots(configs.iloc[:0], runs, metrics, tmp_path)


def test_panels_are_data_amounts_and_label_noises(tmp_path: Path, drawn: list[Figure]) -> None:
    settings = product(label_noise=[0.0, 0.125], data_amount=[100, 2_000], width=[1, 2])
    phase_plots(*tables(settings), tmp_path)
    assert [panel.get_title() for panel in panels(drawn[0])] == [
        "100 images, 0% label noise",
        "2,000 images, 0% label noise",
        "100 images, 12.5% label noise",
        "2,000 images, 12.5% label noise",
    ]
    assert [shown(panel) for panel in panels(drawn[0])] == [
        [[20.0 * i + 0.5, 20.0 * i + 10.5]] for i in range(4)
    ]
    limits = {panel.collections[0].get_clim() for panel in panels(drawn[0])}
    assert limits == {(0.5, 70.5)}
    assert len(drawn) == 5


def test_many_amounts_wrap_and_the_lowest_panels_carry_the_widths(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    phase_plots(*tables(product(data_amount=list(range(100, 800, 100)), width=[1, 2])), tmp_path)
    spots = [panel.get_subplotspec() for panel in panels(drawn[0])]
    places = [(spot.rowspan.start, spot.colspan.start) for spot in spots if spot is not None]
    assert places == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2)]
    assert [panel.get_xlabel() for panel in panels(drawn[0])] == ["", "", "", *["width"] * 4]
    assert [panel.get_ylabel() == "batch size" for panel in panels(drawn[0])] == [
        i in (0, 4) for i in range(7)
    ]


@pytest.mark.usefixtures("errors_only")
@pytest.mark.parametrize(
    ("axes", "names", "contexts"),
    [
        ({"momentum": [0.0, 0.5]}, ["momentum=0", "momentum=0.5"], ["momentum 0", "momentum 0.5"]),
        ({"learning_rate": [0.1]}, [""], ["digits, mlp"]),
        (
            {"architecture": ["cnn", "mlp"]},
            ["architecture=cnn", "architecture=mlp"],
            ["digits, cnn", "digits, mlp"],
        ),
        ({"image_size": [4, None]}, ["image_size=4", "image_size=original"], ["pixels 4", "pixels original"]),
        (
            {"data_fingerprint": ["a", "b"]},
            ["data_fingerprint=a", "data_fingerprint=b"],
            ["data a", "data b"],
        ),
        (
            {"sample_passes": [500, 900]},
            ["sample_passes=500", "sample_passes=900"],
            ["passes 500", "passes 900"],
        ),
        (
            {"weight_decay": [0.0, 0.5], "noise_seed": [0, 1]},
            [f"weight_decay={d}-noise_seed={s}" for d in ("0", "0.5") for s in (0, 1)],
            [f"weight decay {d}, noise seed {s}" for d in ("0", "0.5") for s in (0, 1)],
        ),
    ],
)
def test_other_axes_have_files_of_their_own(
    tmp_path: Path, drawn: list[Figure], axes: dict[str, list[Any]], names: list[str], contexts: list[str]
) -> None:
    paths = phase_plots(*tables(product(**axes, width=[1, 2])), tmp_path)
    assert [path.name for path in paths] == [f"test_error{name and f'-{name}'}.png" for name in names]
    titles = [figure.get_suptitle() for figure in drawn]
    assert all(title.endswith(end) for title, end in zip(titles, contexts, strict=True))
    cells = [shown(panels(figure)[0]) for figure in drawn]
    assert cells == [[[20.0 * i + 0.5, 20.0 * i + 10.5]] for i in range(len(names))]


def test_two_data_sets_are_told_apart_by_name_alone(tmp_path: Path) -> None:
    sets = [{"dataset": "mnist", "data_fingerprint": "a"}, {"dataset": "svhn", "data_fingerprint": "b"}]
    settings = [given | {"width": width} for given in sets for width in (1, 2)]
    paths = phase_plots(*tables(settings), tmp_path)
    assert [path.name for path in paths[:2]] == [
        "test_error-dataset=mnist.png",
        "test_error-dataset=svhn.png",
    ]


@pytest.mark.usefixtures("errors_only")
@pytest.mark.parametrize(("unit", "per"), [("epochs", "data_amount"), ("steps", "batch_size")])
def test_length_is_an_axis_in_the_unit_that_was_varied(tmp_path: Path, unit: str, per: str) -> None:
    """Passes follow from the amount or batch size; on their own they would make a file for each of those."""
    grid = product(length=[3, 7], data_amount=[100, 200], batch_size=[4, 20])
    settings = []
    for given in grid:
        length = given.pop("length")
        settings.append(given | {"sample_passes": length * given[per]})
    paths = phase_plots(*tables(settings), tmp_path)
    assert [path.name for path in paths] == [f"test_error-{unit}=3.png", f"test_error-{unit}=7.png"]
    once = phase_plots(*tables(settings[:4]), tmp_path)
    assert once[0].name == "test_error.png"


def cells_of(values: list[float]) -> pd.DataFrame:
    fixed = {"batch_size": 8, "data_amount": 100, "label_noise": 0.0}
    return pd.DataFrame([fixed | {"width": width, "value": value} for width, value in enumerate(values)])


def test_connectivity_is_coloured_around_zero() -> None:
    norm = panels(draw(BY_NAME["mode_connectivity"], cells_of([-8.0, 2.0])))[0].collections[0].norm
    assert (norm.vmin, norm.vmax) == (-8, 8)
    still = panels(draw(BY_NAME["mode_connectivity"], cells_of([0.0, 0.0])))[0].collections[0].norm
    assert (still.vmin, still.vmax) == (-1, 1)


def test_the_trace_is_coloured_by_its_logarithm() -> None:
    """A trace that is not positive takes the lowest colour and keeps its number."""
    panel = panels(draw(BY_NAME["hessian_trace"], cells_of([1.0, 1_234.5, 100.0, -0.01, 10_000.0, 2e6])))[0]
    norm = panel.collections[0].norm
    assert isinstance(norm, LogNorm)
    assert (norm.vmin, norm.vmax) == (1, 2e6)
    assert shown(panel) == [[1.0, 1_234.5, 100.0, 1.0, 10_000.0, 2e6]]
    assert words(panel) == ["1.0", "1.2k", "100", "-1e-02", "10.0k", "2e+06"]
    negative = panels(draw(BY_NAME["hessian_trace"], cells_of([-4.0, -2.0])))[0].collections[0].norm
    assert not isinstance(negative, LogNorm)
    assert (negative.vmin, negative.vmax) == (-4, -2)


@pytest.mark.parametrize("name", BY_NAME)
def test_one_value_alone_can_be_drawn(name: str, tmp_path: Path) -> None:
    figure = draw(BY_NAME[name], cells_of([3.0]), "digits, mlp")
    figure.savefig(tmp_path / "one.png")
    norm = panels(figure)[0].collections[0].norm
    assert isinstance(norm, Normalize)
    assert norm.vmin is not None
    assert norm.vmax is not None
    assert norm.vmin < norm.vmax
    assert figure.get_suptitle() == f"{BY_NAME[name].title}\ndigits, mlp"
    assert BY_NAME[name].unit in [axes.get_ylabel() for axes in figure.axes]
    assert figure.legends == []


def test_numbers_are_readable_or_left_out() -> None:
    """Dark ink on light cells, white on dark ones; none in the small cells of a large grid."""
    inks = [text.get_color() for text in panels(draw(BY_NAME["test_error"], cells_of([1.0, 90.0])))[0].texts]
    assert inks == [plots.INK, "white"]
    assert words(panels(draw(BY_NAME["test_error"], cells_of(list(range(13)))))[0]) == []


def test_plots_touch_no_global_state_and_no_torch() -> None:
    program = (
        "import sys, matplotlib\n"
        "settings = lambda: {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != 'backend'}\n"
        "before = settings()\n"
        "import zoo.plots; print([m in sys.modules for m in ('torch', 'matplotlib.pyplot')])\n"
        "print(before == settings())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[False, False]", "True"]
