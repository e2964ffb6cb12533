"""How much a curvature would differ had other images been drawn."""

from __future__ import annotations

import math

from zoo.landscape.hessian import Forms


def sampling_error(forms: Forms, population: int | None = None) -> float | None:
    r"""Standard error of a trace that comes from the choice of images, apart from that of the probes.

    The images are N independent draws of a population, in G disjoint groups of $n_g$ (each image its own
    group, or batches), and the same probes $z_1, ..., z_m$ are applied to all. The table
    $x_{jg} = z_j^\top H_g z_j$ has a mean $T = \sum_g n_g x_{\cdot g} / N$ and, because the expectation over
    the probes is $\mathrm{tr} H_g$ and over the images $z_j^\top H z_j$ with the population's $H$, the
    uncorrelated parts

        x_jg = tr H + a_j + b_g + c_jg,    Var b_g = sigma^2 / n_g,    Var c_jg = tau^2 / n_g

    (Hoeffding, A class of statistics with asymptotically normal distribution, 1948; Efron and Stein, The
    jackknife estimate of variance, 1981). The group is what images share, hence

        Var T = Var(a) / m + sigma^2 / N + tau^2 / (m N).

    The spread of the probes' own means, the squared standard error, has the expectation of the first and the
    last term. What is missing is $\sigma^2 / N$: the spread of the traces of single images over N. It follows
    from the two mean squares of a two-way layout,

        B = sum_g n_g (x_.g - T)^2 / (G - 1),                               E B = sigma^2 + tau^2 / m,
        C = sum_jg n_g (x_jg - x_j. - x_.g + T)^2 / ((m - 1)(G - 1)),       E C = tau^2,

    as $(B - C / m) / N$, cut at zero. For groups of single images this is the jackknife over images, for
    batches the grouped jackknife, both freed of the probes' noise. It takes no product beyond those of the
    trace. The relative error of the result is about $(2 (G - 1))^{-1/2}$ for normal traces, and more for heavy
    tails. Where the population is the finite set of n training images and the draw without replacement, the
    variance shrinks by $1 - N / n$.

    Args:
        forms: $z^\top H_g z$ of independent probes; of one fixed vector, for which C is left out.
        population: Images that those measured were drawn from; None for an unlimited one.

    Returns:
        The standard error; None for fewer than two groups.

    Raises:
        ValueError: If the population is smaller than the sample.
    """
    values, images = forms
    count, total = values.shape[1], int(images.sum())
    if population is not None and population < total:
        raise ValueError(
            f"a population of {population} images has no sample of {total}; give at least {total}"
        )
    if count < 2:
        return None
    by_group, by_probe = values.mean(0), forms.whole
    mean = by_probe.mean()
    variance = float(((by_group - mean).square() * images).sum()) / (count - 1)
    if (probes := len(values)) > 1:
        rest = values - by_probe.unsqueeze(1) - by_group + mean
        variance -= float((rest.square() * images).sum()) / ((probes - 1) * (count - 1)) / probes
    share = 1.0 if population is None else 1.0 - total / population
    return math.sqrt(max(variance, 0.0) * share / total) if math.isfinite(variance) else math.nan
