"""The named recipes by which metrics are measured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from zoo.landscape.connectivity import CurveRecipe


@dataclass(frozen=True, slots=True)
class MetricRecipe:
    """Every number that the metrics of a zoo depend on.

    Attributes:
        name: Name in the table `metrics`.
        curve: How the curve between two runs is trained and evaluated.
        hessian_images: Training images of the Hessian, at most.
        hessian_images_drawn: Whether they are drawn for each run; else they are the same for all runs on one
            training set.
        trace_probes: Probes of the Hessian trace; with a tolerance, the largest number.
        trace_tolerance: Relative change of the running mean at which to stop; None takes all probes.
        eigenvalue_iterations: Power iterations at most.
        eigenvalue_tolerance: Relative change of the top eigenvalue at which to stop.
        similarity_images: Images that outputs are compared on, at most.
        mixup_alpha: Concentration of mixup; the images are then mixed training images drawn for the pair.
            None compares on clean validation images.
        mixup_batch: Images a batch of mixup.
    """

    name: str
    curve: CurveRecipe = field(default_factory=CurveRecipe)
    hessian_images: int = 512
    hessian_images_drawn: bool = False
    trace_probes: int = 32
    trace_tolerance: float | None = None
    eigenvalue_iterations: int = 100
    eigenvalue_tolerance: float = 1e-3
    similarity_images: int = 1_024
    mixup_alpha: float | None = None
    mixup_batch: int = 128

    def for_data_fraction(self, fraction: float) -> MetricRecipe:
        """The recipe for runs on a fraction of the training set: epochs of the curve divided by it.

        Raises:
            ValueError: If the fraction is not in (0, 1].
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"the data fraction is {fraction}; it is in (0, 1]")
        if self.curve.epochs is None:
            return self
        curve = dataclasses.replace(self.curve, epochs=max(1, round(self.curve.epochs / fraction)))
        return dataclasses.replace(self, curve=curve)


PAPER_CURVE = CurveRecipe(
    batch_size=128,
    learning_rate=0.01,
    weight_decay=5e-4,
    epochs=50,
    random_bend=True,
    evaluation_images=None,
    recalibration_batch=128,
)

RECIPES: dict[str, MetricRecipe] = {
    "default": MetricRecipe("default"),
    "paper": MetricRecipe(
        "paper",
        curve=PAPER_CURVE,
        hessian_images=200,
        hessian_images_drawn=True,
        trace_probes=100,
        trace_tolerance=1e-3,
        similarity_images=768,
        mixup_alpha=16.0,
    ),
}
"""`default` is what this project stands for; `paper` is the published definition (Zhou et al., MD tree, ICML
2024) without its faults. The published curve takes 50 epochs divided by the data fraction: see
`MetricRecipe.for_data_fraction`."""
