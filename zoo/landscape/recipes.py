"""The named recipes by which metrics are measured."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from zoo.landscape.connectivity import CurveRecipe
from zoo.landscape.sharpness import Relative


@dataclass(frozen=True, slots=True)
class TraceRecipe:
    """How the trace of the Hessian is measured.

    Attributes:
        images: Training images of the Hessian, at most.
        drawn: Whether they are drawn for each run; else they are the same for all runs on one training set.
        exact: Whether it is computed without probes where the model allows it, see `zoo.landscape.exact_trace`.
        pilot: Probes whose spread sets how many are taken; None stops by the published rule.
        tolerance: With a pilot the relative standard error wanted; else the relative change of the running mean
            at which to stop.
        probes: Most probes.
    """

    images: int = 384
    drawn: bool = False
    exact: bool = True
    pilot: int | None = 16
    tolerance: float = 0.05
    probes: int = 96


@dataclass(frozen=True, slots=True)
class EigenvalueRecipe:
    """How the outermost eigenvalues of the Hessian are measured.

    Attributes:
        images: As in `TraceRecipe`.
        drawn: As in `TraceRecipe`.
        count: How many eigenvalues, those of largest absolute value; above 1 by Lanczos.
        lanczos: Whether by Lanczos, to a residual; else by power iteration, to a change.
        tolerance: That residual or change, relative to the eigenvalue.
        products: Most products with the Hessian.
    """

    images: int = 512
    drawn: bool = False
    count: int = 5
    lanczos: bool = True
    tolerance: float = 3e-2
    products: int = 100


@dataclass(frozen=True, slots=True)
class DensityRecipe:
    """How the density of the Hessian's eigenvalues is measured.

    Attributes:
        images: As in `TraceRecipe`.
        drawn: As in `TraceRecipe`.
        probes: Start vectors.
        steps: Lanczos steps of each.
    """

    images: int = 256
    drawn: bool = False
    probes: int = 3
    steps: int = 15


@dataclass(frozen=True, slots=True)
class WorstCaseRecipe:
    """How the sharpness under a worst-case step is measured, see `zoo.landscape.sharpness`.

    Attributes:
        images: As in `TraceRecipe`.
        radius: Length of the step.
        relative: To what.
    """

    images: int = 1_024
    radius: float = 0.01
    relative: Relative = "norm"


@dataclass(frozen=True, slots=True)
class RandomStepRecipe:
    """How the sharpness under random perturbation is measured, see `zoo.landscape.sharpness`.

    Attributes:
        images: As in `TraceRecipe`.
        deviation: Standard deviation of the noise.
        relative: To what.
        draws: Draws of the noise.
    """

    images: int = 512
    deviation: float = 0.1
    relative: Relative = "filter"
    draws: int = 16


@dataclass(frozen=True, slots=True)
class GradientRecipe:
    """How the gradient and its noise are measured, see `zoo.landscape.gradients`.

    Attributes:
        images: As in `TraceRecipe`.
        group_size: Images a gradient.
    """

    images: int = 1_024
    group_size: int = 1


@dataclass(frozen=True, slots=True)
class AnswersRecipe:
    """How confidence, calibration and margins are measured, on training and on validation images.

    Attributes:
        images: Images of each, at most.
        bins: Bins of the calibration error.
        equal_mass: Whether they hold equally many images.
        quantile: Quantile over the images that is the margin.
        resamples: Bootstrap samples of the standard errors.
    """

    images: int = 1_024
    bins: int = 10
    equal_mass: bool = True
    quantile: float = 0.1
    resamples: int = 100


@dataclass(frozen=True, slots=True)
class WeightsRecipe:
    """How spectra and norms of the weights are measured.

    Attributes:
        minimum_eigenvalues: Eigenvalues that the tail of a layer has at least.
        fold_batch_norm: Whether layers have BatchNorm folded in for their norms.
    """

    minimum_eigenvalues: int = 8
    fold_batch_norm: bool = True


@dataclass(frozen=True, slots=True)
class ActivityRecipe:
    """How the activity of ReLUs is measured.

    Attributes:
        images: As in `TraceRecipe`.
    """

    images: int = 1_024


@dataclass(frozen=True, slots=True)
class SimilarityRecipe:
    """On which images the answers of two models are compared.

    Attributes:
        images: At most.
        mixup_alpha: Concentration of mixup; the images are then mixed training images drawn for the pair.
            None compares on clean validation images.
        mixup_batch: Images a batch of mixup.
    """

    images: int = 1_024
    mixup_alpha: float | None = None
    mixup_batch: int = 128


POLYGON = CurveRecipe(sample_passes=2_000, evaluation_images=512, form="polygon")
LINE = CurveRecipe(evaluation_images=256, form="line")


@dataclass(frozen=True, slots=True)
class MetricRecipe:
    """Every number that the metrics of a zoo depend on, by the section that a metric is registered with.

    Attributes:
        name: Name in the table `metrics`.
    """

    name: str
    trace: TraceRecipe = field(default_factory=TraceRecipe)
    eigenvalues: EigenvalueRecipe = field(default_factory=EigenvalueRecipe)
    density: DensityRecipe = field(default_factory=DensityRecipe)
    worst_case: WorstCaseRecipe = field(default_factory=WorstCaseRecipe)
    random_step: RandomStepRecipe = field(default_factory=RandomStepRecipe)
    gradient: GradientRecipe = field(default_factory=GradientRecipe)
    answers: AnswersRecipe = field(default_factory=AnswersRecipe)
    weights: WeightsRecipe = field(default_factory=WeightsRecipe)
    activity: ActivityRecipe = field(default_factory=ActivityRecipe)
    curve: CurveRecipe = field(default_factory=CurveRecipe)
    polygon: CurveRecipe = field(default_factory=lambda: POLYGON)
    line: CurveRecipe = field(default_factory=lambda: LINE)
    similarity: SimilarityRecipe = field(default_factory=SimilarityRecipe)

    def parameters(self, section: str) -> str:
        """The numbers of a section as JSON, for the table `metrics`."""
        return json.dumps(dataclasses.asdict(getattr(self, section)), sort_keys=True)

    def for_data_fraction(self, fraction: float) -> MetricRecipe:
        """The recipe for runs on a fraction of the training set: epochs of the curve divided by it.

        Raises:
            ValueError: If the fraction is not in (0, 1].
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"the data fraction is {fraction}; it is in (0, 1]")

        def longer(curve: CurveRecipe) -> CurveRecipe:
            if curve.epochs is None:
                return curve
            return dataclasses.replace(curve, epochs=max(1, round(curve.epochs / fraction)))

        return dataclasses.replace(self, curve=longer(self.curve), polygon=longer(self.polygon))


SECTIONS = tuple(part.name for part in dataclasses.fields(MetricRecipe) if part.name != "name")
"""The parts of a recipe."""

PAPER_CURVE = CurveRecipe(
    batch_size=128,
    learning_rate=0.01,
    weight_decay=5e-4,
    epochs=50,
    random_bend=True,
    evaluation_images=None,
    recalibration_batch=128,
)

PAPER_HESSIAN: dict[str, Any] = {"images": 200, "drawn": True}

RECIPES: dict[str, MetricRecipe] = {
    "default": MetricRecipe("default"),
    "paper": MetricRecipe(
        "paper",
        trace=TraceRecipe(**PAPER_HESSIAN, exact=False, pilot=None, tolerance=1e-3, probes=100),
        eigenvalues=EigenvalueRecipe(**PAPER_HESSIAN, count=1, lanczos=False, tolerance=1e-3, products=100),
        density=DensityRecipe(**PAPER_HESSIAN, probes=1, steps=100),
        worst_case=WorstCaseRecipe(radius=0.05, relative="absolute"),
        answers=AnswersRecipe(bins=15, equal_mass=False),
        curve=PAPER_CURVE,
        polygon=dataclasses.replace(PAPER_CURVE, form="polygon"),
        similarity=SimilarityRecipe(images=768, mixup_alpha=16.0),
    ),
}
"""`default` is what this project stands for; `paper` is the published definition without its faults: for the metrics
of the MD tree that of Zhou et al. (ICML 2024), for the density that of PyHessian, for the worst-case step SAM's
radius (Foret et al. 2021), for the calibration error 15 equal bins (Guo et al. 2017). What nobody fixed the numbers
of is measured by `paper` as by `default`. The published curve takes 50 epochs divided by the data fraction: see
`MetricRecipe.for_data_fraction`."""
