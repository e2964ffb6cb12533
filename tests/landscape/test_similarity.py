"""CKA, agreement, distance and mixup against direct computation and their invariances."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor, nn

from zoo.landscape.evaluation import outputs
from zoo.landscape.similarity import agreement, answers, jensen_shannon, l2_distance, linear_cka, mixup


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gram_cka(x: Tensor, y: Tensor) -> float:
    """The definition: centred Gram matrices HKH and HLH, their normalised inner product."""
    centring = torch.eye(len(x), dtype=torch.float64) - 1 / len(x)
    k, m = (centring @ (f.double() @ f.double().T) @ centring for f in (x, y))
    return (torch.trace(k @ m) / torch.sqrt(torch.trace(k @ k) * torch.trace(m @ m))).item()


@pytest.mark.parametrize(
    ("images", "features", "others"), [(50, 4, 7), (20, 60, 5), (20, 5, 60), (9, 30, 40)]
)
def test_cka_equals_its_definition_in_either_form(images: int, features: int, others: int) -> None:
    x = torch.randn(images, features, generator=stream()) + 3
    y = torch.randn(images, others, generator=stream(1)) + x[:, :1]
    assert linear_cka(x, y) == pytest.approx(gram_cka(x, y), rel=1e-9)


@pytest.mark.parametrize("images", [10, 200])
def test_cka_ignores_rotation_scale_and_shift_but_not_stretch(images: int) -> None:
    x = torch.randn(images, 20, generator=stream())
    rotation = torch.linalg.qr(torch.randn(20, 20, generator=stream(1)))[0]
    assert linear_cka(x, 5 * x @ rotation - 2) == pytest.approx(1, abs=1e-6)
    assert linear_cka(x, x * torch.linspace(0.1, 5, 20)) < 0.99


def test_cka_is_symmetric_and_small_for_unrelated_features() -> None:
    x, y = torch.randn(5000, 5, generator=stream()), torch.randn(5000, 5, generator=stream(1))
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), rel=1e-12)
    assert linear_cka(x, y) < 0.01


@pytest.mark.parametrize("constant", [torch.zeros(30, 3), torch.full((30, 3), 0.1), torch.ones(30, 50)])
def test_constant_features_have_no_cka(constant: Tensor) -> None:
    varied = torch.randn(30, 3, generator=stream())
    assert linear_cka(constant, varied) is None
    assert linear_cka(varied, constant) is None
    assert linear_cka(varied, varied * 1e-3 + 1) == pytest.approx(1, abs=1e-4)


def test_agreement_is_the_share_of_equal_classes() -> None:
    first = torch.eye(4)
    second = torch.eye(4)[[0, 1, 3, 3]]
    assert agreement(first, second) == 0.75


def test_features_of_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match="features of 3 and 4 images"):
        linear_cka(torch.eye(3), torch.eye(4))
    with pytest.raises(ValueError, match="outputs for 3 and 4 images"):
        agreement(torch.eye(3), torch.eye(4))


def test_distance_counts_batch_norm_scale_but_not_its_statistics(trained_pair) -> None:
    first, second = trained_pair[0], copy.deepcopy(trained_pair[0])
    second[1].running_mean.add_(5)
    assert l2_distance(first, second) == 0
    with torch.no_grad():
        second[1].weight[0] += 3
        second[-1].bias[1] -= 4
    assert l2_distance(first, second) == pytest.approx(5, rel=1e-6)


def test_mixup_mixes_pairs_of_a_batch_by_one_share() -> None:
    """Of images that are unit vectors, each mixed one shows its two parents and their shares."""
    images = torch.eye(40).view(40, 1, 8, 5)
    mixed = mixup(images, 8, 3, 16.0, stream()).flatten(1)
    assert mixed.shape == (24, 40)
    assert mixed.sum(1) == pytest.approx(1)
    batches = mixed.split(8)
    for batch in batches:
        shares = {round(v, 5) for row in batch for v in row[row > 0].tolist() if v < 0.999}
        assert 1 <= len(shares) <= 2
        assert batch.sum(0).count_nonzero() == 8
    assert mixed.sum(0).count_nonzero() == 24
    assert len({round(batch.max().item(), 5) for batch in batches}) > 1


def test_mixup_shares_follow_the_beta_distribution() -> None:
    """Beta(16, 16) has the standard deviation 1 / (2 sqrt(33)) about one half."""
    images = torch.tensor([[0.0], [1.0]])
    larger = [mixup(images, 2, 1, 16.0, stream(seed)).max().item() for seed in range(1500)]
    deviations = [share - 0.5 for share in larger if share < 1]  # 1: each image was mixed with itself
    spread = math.sqrt(sum(d * d for d in deviations) / len(deviations))
    assert spread == pytest.approx(1 / (2 * math.sqrt(33)), rel=0.1)


def test_mixup_draws_no_image_twice_and_repeats_with_its_stream() -> None:
    images = torch.randn(10, 1, 2, 2, generator=stream())
    assert len(mixup(images, 4, 6, 16.0, stream())) == 10
    draws = [mixup(images, 4, 6, 16.0, stream(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_the_divergence_is_symmetric_and_between_nothing_and_all() -> None:
    first, second = torch.randn(50, 4, generator=stream()), torch.randn(50, 4, generator=stream(1))
    assert jensen_shannon(first, first) == pytest.approx(0, abs=1e-15)
    assert jensen_shannon(first, second) == jensen_shannon(second, first) > 0
    sure, other = 1e3 * torch.eye(4), 1e3 * torch.eye(4).flip(0)
    assert jensen_shannon(sure, other) == pytest.approx(math.log(2))
    p, q = first.softmax(1).numpy(), second.softmax(1).numpy()
    distances = [jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)]
    assert jensen_shannon(first, second) == pytest.approx(np.mean(distances), rel=1e-5)
    with pytest.raises(ValueError, match="outputs for 50 and 4 images"):
        jensen_shannon(first, sure)


def test_features_are_what_goes_into_the_last_linear_layer(trained_pair, digits) -> None:
    model, images = trained_pair[0], digits.validation.images
    seen = answers(model, images, batch_size=150)
    torch.testing.assert_close(model[-1](seen.features), seen.outputs)
    assert torch.equal(seen.outputs, outputs(model, images, 150))
    assert not model[-1]._forward_pre_hooks
    bare = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    assert answers(bare, images).features is None
