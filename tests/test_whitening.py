"""The coordinates in which a sample is round."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interpeval.metrics.whitening import robust_whitening


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def squares(points: Tensor) -> Tensor:
    return points.square().sum(dim=1)


def test_a_gaussian_sample_becomes_round():
    mixed = normal(5000, 4) @ normal(4, 4, seed=1) + 7
    whitened = robust_whitening(mixed, 1e-8).points(mixed)
    covariance = whitened.T @ whitened / len(whitened)
    assert (covariance / covariance.diagonal().mean() - torch.eye(4)).abs().max() < 0.08
    assert squares(whitened).sqrt().median().item() == pytest.approx(2.0)  # √4
    raw = mixed.T.cov()
    assert (raw / raw.diagonal().mean() - torch.eye(4)).abs().max() > 0.5


def angles(points: Tensor) -> Tensor:
    """Inner products of all pairs, as shares of the lengths."""
    longer = points / (1 + squares(points)).sqrt()[:, None]
    return longer @ longer.T


@pytest.mark.parametrize("condition", [1, 1e5])
def test_coordinates_depend_on_an_affine_map_by_a_rotation_only(condition):
    sample = normal(400, 3) ** 3
    left, _, right = torch.linalg.svd(normal(3, 3, seed=1))
    matrix = left * torch.tensor([1.0, condition**-0.5, 1 / condition], dtype=torch.float64) @ right
    moved = sample @ matrix.T + 3
    here, there, cubed = (angles(robust_whitening(x, 1e-8).points(x)) for x in (sample, moved, sample**3))
    assert (here - there).abs().max() < 1e-3
    assert (here - cubed).abs().max() > 0.1


def test_outliers_of_any_distance_count_the_same():
    sample = normal(500, 3)
    near, far = sample.clone(), sample.clone()
    near[:50], far[:50] = sample[:50] * 1e3, sample[:50] * 1e9
    here, there = robust_whitening(near, 1e-8).points(sample), robust_whitening(far, 1e-8).points(sample)
    torch.testing.assert_close(squares(here), squares(there), rtol=0.02, atol=0.02)
    covariance = torch.linalg.inv(near.T.cov())
    assert ((sample @ covariance) * sample).sum(dim=1).max() < 0.1  # what the covariance makes of the bulk


def test_the_span_of_a_sample():
    sample = torch.cat((normal(200, 3), torch.full((200, 1), 2.0)), dim=1).double()
    sample[:, 2] = sample[:, 0] - 3 * sample[:, 1]
    whitening = robust_whitening(sample, 1e-8)
    assert whitening.rank == 2
    assert all(whitening.normal(point) is None for point in sample)
    for step, normal_expected in (([0, 0, 1, 0], [-1, 3, 1, 0]), ([0, 0, 0, 1], [0, 0, 0, 1])):
        found = whitening.normal(sample[0] + torch.tensor(step, dtype=torch.float64))
        expected = torch.tensor(normal_expected, dtype=torch.float64)
        assert found is not None
        assert abs(found @ expected).item() == pytest.approx(expected.norm().item(), rel=1e-9)
        assert ((sample @ found) - sample[0] @ found).abs().max() < 1e-12


def test_coordinates_do_not_depend_on_those_of_the_sample() -> None:
    sample = normal(300, 6) ** 3
    matrix = normal(6, 6, seed=1)
    here, there = robust_whitening(sample, 1e-8), robust_whitening(sample @ matrix.T - 5, 1e-8)
    torch.testing.assert_close(there.points(sample @ matrix.T - 5), here.points(sample), rtol=0, atol=1e-9)
    other = robust_whitening(sample.flip(0), 1e-8).points(sample)
    assert (other - here.points(sample)).abs().max() > 0.1  # the frame is that of the rows in their order


def test_a_sample_with_most_points_on_one_line_keeps_its_extent():
    sample = normal(400, 2)
    sample[:300, 1] = 0
    whitened = robust_whitening(sample, 1e-8).points(sample)
    assert torch.linalg.cond(whitened[300:] - whitened[300:].mean(dim=0)) < 10
