"""Landscape metrics: seconds a model against what a researcher would write, and against PyHessian's algorithm.

    python benchmarks/bench_landscape.py [--rounds 3] [--only trace]    # all rows: about ten minutes

Random images, networks after one pass that sets BatchNorm's statistics, one thread. A row is one quantity on one
network, measured by several contenders; every round times each of them once, in turn. Printed: the median time
of each, and the median and range, over the rounds, of its ratio to ours. `ROWS` is the list: a metric is added by
a function that takes a `Case` and gives the row's contenders, ours first. Ratios are of equal work: seconds a
probe for the trace (the estimator and so its error are the same for all), seconds to an answer for the others.

PyHessian's algorithms are written out from its paper (Yao et al. 2020) where the package is absent; where it can
be imported, its own code runs beside. Its density needs `torch.eig`, which PyTorch no longer has.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from zoo.datasets import Split
from zoo.landscape.connectivity import CurveRecipe, Pair, batch_schedule, errors_of_curves
from zoo.landscape.density import spectral_density
from zoo.landscape.eigenvalues import hessian_top_eigenvalue, top_eigenvalues
from zoo.landscape.exact_trace import exact_trace
from zoo.landscape.gradients import gradient_statistics
from zoo.landscape.hessian import HessianOperator
from zoo.landscape.path_summaries import TIMES
from zoo.landscape.sharpness import random_sharpness
from zoo.landscape.similarity import answers, linear_cka
from zoo.landscape.trace import piloted_trace, probe_forms, rademacher
from zoo.landscape.weights import flatten
from zoo.models import ImageShape, count_parameters, initial_model

with contextlib.suppress(ImportError):
    import pyhessian

PROBES = 16
"""Of a round of the trace."""

PAIRS, PASSES = 4, 640
"""Curves of a round, and training images that each sees."""


class Case(NamedTuple):
    """A network and what it is measured on."""

    name: str
    model: nn.Module
    images: Tensor
    labels: Tensor
    twins: list[nn.Module]

    @property
    def operator(self) -> HessianOperator:
        """A new one, with nothing computed."""
        return HessianOperator(self.model, self.images, self.labels)

    @property
    def peer(self) -> HessianOperator:
        """The same without lanes: products by double backward on one graph, as PyHessian makes them."""
        return HessianOperator(self.model, self.images, self.labels, in_lanes=False)


class Contender(NamedTuple):
    """One way to get a row's quantity.

    Attributes:
        name: What it is.
        run: Takes a round's number, computes, and gives the quantity.
        units: What the time is divided by, as probes.
    """

    name: str
    run: Callable[[int], float]
    units: int = 1


def cases() -> Iterator[Case]:
    """The networks: narrow and small, and the published architecture."""
    for architecture, width, shape, images in (
        ("cnn", 8, ImageShape(1, 14, 10), 512),
        ("resnet18", 4, ImageShape(3, 32, 10), 200),
    ):
        model, *twins = (initial_model(architecture, width, shape, seed).eval() for seed in range(PAIRS + 1))
        generator = torch.Generator().manual_seed(0)
        size = images, shape.channels, shape.image_size, shape.image_size
        pixels = torch.randn(size, generator=generator)
        labels = torch.randint(0, shape.classes, (images,), generator=generator)
        with torch.no_grad():
            model.train()(pixels)
        name = f"{architecture}, width {width}, {shape.image_size} pixels, {images} images, "
        name += f"{count_parameters(architecture, width, shape):,} parameters"
        yield Case(name, model.eval(), pixels, labels, twins)


def trace(case: Case) -> list[Contender]:
    """Seconds a probe of Hutchinson's estimator; the same probes for all in a round."""

    def draw(round_: int) -> Tensor:
        return rademacher(case.operator, PROBES, torch.Generator().manual_seed(round_))

    def ours(round_: int) -> float:
        return probe_forms(case.operator, PROBES, torch.Generator().manual_seed(round_)).whole.mean().item()

    def plain(round_: int) -> float:
        return statistics.mean(z.dot(product(case, z)).item() for z in draw(round_))

    def kept(round_: int) -> float:
        operator = case.peer
        return statistics.mean(z.dot(operator @ z).item() for z in draw(round_))

    contenders = [
        Contender("ours: in lanes where there are kernels, else Taylor series", ours, PROBES),
        Contender("gradient anew for each probe", plain, PROBES),
        Contender("PyHessian's algorithm: graph kept", kept, PROBES),
    ]
    if "pyhessian" in globals():

        def package(round_: int) -> float:
            torch.manual_seed(round_)
            return statistics.mean(of_package(case).trace(maxIter=PROBES, tol=-1e9))

        contenders.append(Contender("pyhessian, the package", package, PROBES))
    return contenders


def whole_trace(case: Case) -> list[Contender]:
    """Seconds to a trace: exact, by probes to 5%, and PyHessian's until its mean moves by less than 1e-3."""

    def ours(_: int) -> float:
        found = exact_trace(case.model, case.images)
        assert found is not None
        assert found.value is not None
        return found.value

    def probed(round_: int) -> float:
        return piloted_trace(case.operator, torch.Generator().manual_seed(round_), 0.05).value or 0.0

    def settled(round_: int) -> float:
        operator, generator = case.peer, torch.Generator().manual_seed(round_)
        draws: list[float] = []
        while len(draws) < 100:
            z = rademacher(operator, 1, generator)[0]
            draws.append(z.dot(operator @ z).item())
            if len(draws) > 1:
                before, after = statistics.mean(draws[:-1]), statistics.mean(draws)
                if abs(after - before) < 1e-3 * abs(before):
                    break
        return statistics.mean(draws)

    return [
        Contender("ours: exact", ours),
        Contender("as many of our probes as a standard error of 5% takes", probed),
        Contender("PyHessian's algorithm and stop", settled),
    ]


def top_eigenvalue(case: Case) -> list[Contender]:
    """Seconds to the eigenvalue of largest absolute value."""

    def ours(round_: int) -> float:
        return top_eigenvalues(case.operator, torch.Generator().manual_seed(round_))[0].value or 0.0

    def power(round_: int) -> float:
        return hessian_top_eigenvalue(case.peer, torch.Generator().manual_seed(round_)).value or 0.0

    def plain(round_: int) -> float:
        generator, before = torch.Generator().manual_seed(round_), 0.0
        vector = torch.randn(case.operator.size, generator=generator)
        for _ in range(100):
            vector = vector / vector.norm()
            made = product(case, vector)
            after = vector.dot(made).item()
            if abs(after - before) < 1e-3 * (abs(before) + 1e-6):
                break
            vector, before = made, after
        return after

    return [
        Contender("ours: Lanczos to a residual of 1e-2", ours),
        Contender("power iteration, gradient anew each time", plain),
        Contender("PyHessian's algorithm: power iteration", power),
    ]


def density(case: Case) -> list[Contender]:
    """Seconds to the spectral density of 1 probe and 20 steps; the quantity is the trace."""
    probes, steps = 1, 20

    def ours(round_: int) -> float:
        generator = torch.Generator().manual_seed(round_)
        return spectral_density(case.operator, generator, probes, steps).sums(lambda x: x).mean().item()

    class Plain(HessianOperator):
        def __matmul__(self, vector: Tensor) -> Tensor:
            return product(case, vector)

    def plain(round_: int) -> float:
        operator, generator = Plain(*case[1:4]), torch.Generator().manual_seed(round_)
        return spectral_density(operator, generator, probes, steps).sums(lambda x: x).mean().item()

    def listed(round_: int) -> float:
        """PyHessian's: the graph kept, vectors as lists of tensors, orthogonalised one by one."""
        operator, generator = case.peer, torch.Generator().manual_seed(round_)
        sizes = [p.numel() for p in case.model.parameters()]

        def dot(a: list[Tensor], b: list[Tensor]) -> float:
            return sum((x * y).sum() for x, y in zip(a, b, strict=True)).item()

        def less(a: list[Tensor], b: list[Tensor], by: float) -> list[Tensor]:
            return [x - by * y for x, y in zip(a, b, strict=True)]

        firsts = []
        for _ in range(probes):
            start = rademacher(operator, 1, generator)[0]
            basis = [list((start / start.norm()).split(sizes))]
            for _ in range(steps):
                made = list((operator @ torch.cat(basis[-1])).split(sizes))
                if len(basis) == 1:
                    firsts.append(dot(made, basis[0]) * operator.size)
                for member in basis:
                    made = less(made, member, dot(made, member))
                length = dot(made, made) ** 0.5
                basis.append([x / length for x in made])
        return statistics.mean(firsts)

    return [
        Contender("ours: Lanczos quadrature", ours),
        Contender("gradient anew for each product", plain),
        Contender("PyHessian's algorithm: graph kept", listed),
    ]


def gradient(case: Case) -> list[Contender]:
    """Seconds to the gradient's variance between images; the quantity is that variance."""

    def ours(round_: int) -> float:
        generator = torch.Generator().manual_seed(round_)
        return gradient_statistics(case.model, case.images, case.labels, generator)[1].value or 0.0

    def plain(round_: int) -> float:
        parameters = list(case.model.parameters())
        gradients = []
        for image, label in zip(case.images.split(1), case.labels.split(1), strict=True):
            gradients.append(
                flatten(torch.autograd.grad(F.cross_entropy(case.model(image), label), parameters))
            )
        return torch.stack(gradients).double().var(0).sum().item()

    return [Contender("ours: vectorised over images", ours), Contender("image by image", plain)]


def random_step(case: Case) -> list[Contender]:
    """Seconds to the mean rise of the loss under 16 random perturbations relative to the filters."""

    def ours(round_: int) -> float:
        generator = torch.Generator().manual_seed(round_)
        return random_sharpness(case.model, case.images, case.labels, generator).value or 0.0

    @torch.no_grad()
    def plain(round_: int) -> float:
        generator = torch.Generator().manual_seed(round_)
        before, rises = F.cross_entropy(case.model(case.images), case.labels).item(), []
        for _ in range(16):
            moved = copy.deepcopy(case.model)
            for parameter in moved.parameters():
                shape = (-1,) + (1,) * (parameter.dim() - 1)
                filters = parameter.flatten(1) if parameter.dim() > 1 else parameter[:, None]
                size = filters.square().mean(1).sqrt().view(shape)
                parameter += 0.1 * size * torch.randn(parameter.shape, generator=generator)
            rises.append(F.cross_entropy(moved(case.images), case.labels).item() - before)
        return statistics.mean(rises)

    return [Contender("ours: weights in one vector", ours), Contender("a copy for each draw", plain)]


def curve(case: Case) -> list[Contender]:
    """Seconds a pair to a trained Bezier curve and its errors, of four pairs; the quantity is the error midway."""
    split = Split(case.images, case.labels)
    recipe = CurveRecipe(sample_passes=PASSES)
    pairs = [Pair(case.model, twin) for twin in case.twins]

    def together(round_: int) -> float:
        streams = [torch.Generator().manual_seed(round_ + 100 * lane) for lane in range(PAIRS)]
        return statistics.mean(p.train[2] for p in errors_of_curves(pairs, split, split, recipe, streams))

    def alone(round_: int) -> float:
        return statistics.mean(
            errors_of_curves([p], split, split, recipe, [torch.Generator().manual_seed(round_)])[0].train[2]
            for p in pairs
        )

    def plain(round_: int) -> float:
        return statistics.mean(plain_curve(*pair[:2], split, recipe, round_) for pair in pairs)

    return [
        Contender("ours: four together", together, PAIRS),
        Contender("ours: one after the other", alone, PAIRS),
        Contender("autograd through the interpolation", plain, PAIRS),
    ]


def plain_curve(first: nn.Module, second: nn.Module, split: Split, recipe: CurveRecipe, seed: int) -> float:
    """A curve as Garipov et al. write it: the bend's gradient by autograd, torch's own optimiser; error midway."""
    generator, module = torch.Generator().manual_seed(seed), copy.deepcopy(first).train()
    names = [name for name, _ in module.named_parameters()]
    starts, ends = ([p.detach() for p in model.parameters()] for model in (first, second))
    bends = [torch.lerp(a, c, 0.5).requires_grad_() for a, c in zip(starts, ends, strict=True)]
    optimizer = torch.optim.SGD(bends, lr=recipe.learning_rate, momentum=recipe.momentum)

    def answers(t: float, images: Tensor) -> Tensor:
        control = zip(names, starts, bends, ends, strict=True)
        weights = {
            name: (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
            for name, start, bend, end in control
        }
        return functional_call(module, weights, (images,))

    for rows, rate in batch_schedule(len(split.labels), recipe, generator):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        t = torch.rand((), generator=generator).item()
        F.cross_entropy(answers(t, split.images[rows]), split.labels[rows]).backward()
        optimizer.step()
    said = []
    with torch.no_grad():
        for t in TIMES:
            for layer in module.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.reset_running_stats()
                    layer.momentum = None
            module.train()
            for images in split.images.split(recipe.recalibration_batch):
                answers(t, images)
            module.eval()
            wrong = [(answers(t, split.images).argmax(1) != split.labels) for _ in ("train", "validation")]
            said.append(100 * wrong[0].double().mean().item())
    return said[2]


def similarity(case: Case) -> list[Contender]:
    """Seconds to the linear CKA of penultimate features, outputs included."""
    pair = case.model, case.twins[0]

    def ours(round_: int) -> float:
        first, second = (answers(model, case.images).features for model in pair)
        return linear_cka(first, second) or 0.0

    @torch.no_grad()
    def plain(round_: int) -> float:
        grams = []
        for model in pair:
            body = nn.Sequential(*list(model.children())[:-1])
            features = body(case.images).flatten(1).double()
            gram = features @ features.T
            centre = torch.eye(len(gram), dtype=gram.dtype) - 1 / len(gram)
            grams.append(centre @ gram @ centre)
        first, second = grams
        return ((first * second).sum() / (first.norm() * second.norm())).item()

    return [Contender("ours", ours), Contender("centred Gram matrices", plain)]


ROWS = {
    "trace, a probe": trace,
    "trace, whole": whole_trace,
    "top eigenvalue": top_eigenvalue,
    "density": density,
    "gradient variance and noise scale": gradient,
    "sharpness under random steps": random_step,
    "Bezier curve, a pair": curve,
    "CKA of penultimate features": similarity,
}


def product(case: Case, vector: Tensor) -> Tensor:
    """A Hessian-vector product from nothing: loss, gradient, and its derivative."""
    parameters = list(case.model.parameters())
    value = F.cross_entropy(case.model(case.images), case.labels)
    gradient = flatten(torch.autograd.grad(value, parameters, create_graph=True))
    return flatten(torch.autograd.grad(gradient, parameters, vector))


def of_package(case: Case) -> pyhessian.hessian:
    """PyHessian on one batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pyhessian.hessian(case.model, F.cross_entropy, (case.images, case.labels), cuda=False)


def compare(contenders: list[Contender], rounds: int) -> Iterator[str]:
    """Time all contenders in turn, round by round; a line each."""
    times: list[list[float]] = [[] for _ in contenders]
    answers: list[list[float]] = [[] for _ in contenders]
    for round_ in range(rounds + 1):  # the first warms caches
        for contender, taken, given in zip(contenders, times, answers, strict=True):
            began = time.perf_counter()
            answer = contender.run(round_)
            if round_:
                taken.append((time.perf_counter() - began) / contender.units)
                given.append(answer)
    for contender, taken, given in zip(contenders, times, answers, strict=True):
        ratios = [theirs / ours for theirs, ours in zip(taken, times[0], strict=True)]
        yield (
            f"  {contender.name:<42} {1e3 * statistics.median(taken):9.2f} ms  "
            f"{statistics.median(ratios):5.2f}x ({min(ratios):.2f} to {max(ratios):.2f})  "
            f"answer {statistics.mean(given):.5g} +- {statistics.pstdev(given):.1g}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for case in cases():
        print(case.name)
        for row, contenders in ROWS.items():
            if options.only in row:
                print(f" {row}")
                for line in compare(contenders(case), options.rounds):
                    print(line, flush=True)
