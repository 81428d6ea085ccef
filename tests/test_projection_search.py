"""What makes the search independent of how queries are worked on together: exact products."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from interpeval.metrics.projection_search import BUDGETS, prepare, search


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(u: Tensor, z: Tensor) -> Fraction:
    return sum((Fraction(a) * Fraction(b) for a, b in zip(u.tolist(), z.tolist(), strict=True)), Fraction(0))


@pytest.mark.parametrize("farthest", [1.0, 1e9])
def test_projections_are_exact(farthest):
    points = normal(40, 30)
    points[0] *= farthest
    sample = prepare(points, "average", 2**28)
    u = search(sample, normal(3, 30, seed=1), seed=0, budget=BUDGETS["fast"], tick=lambda _: None)
    products = u @ sample.points.T
    assert all(Fraction(products[i, j].item()) == exact(u[i], sample.points[j]) for i in range(3) for j in range(40))
    plain = normal(3, 30, seed=2) @ points.T
    assert any(Fraction(plain[i, 5].item()) != exact(normal(3, 30, seed=2)[i], points[5]) for i in range(3))
    typical = points[1:].norm(dim=1).median()
    assert (sample.points[1:] - points[1:]).abs().max() < 1e-5 * typical


def test_sums_of_gradients_are_exact():
    sample = prepare(normal(8192, 3) * 30, "average", 2**28)
    assert torch.equal(sample.rounded.sum(dim=0).double(), sample.rounded.double().sum(dim=0))
    assert torch.equal(sample.rounded.abs().sum(dim=0).double(), sample.rounded.double().abs().sum(dim=0))
    assert (sample.rounded - sample.points.clamp(-16, 16)).abs().max() <= 2.0**-7


@pytest.mark.parametrize("memory", [1, 10**5, 10**9])
def test_blocks_keep_to_the_memory(memory):
    block = prepare(normal(1000, 3), "average", memory).block
    assert block >= 1
    assert block == 1 or block * 1000 * 48 <= memory


def test_directions_are_found_that_random_ones_do_not_come_near():
    points, x = normal(500, 20), normal(5, 20, seed=1)
    sample = prepare(points, "average", 2**28)
    found = search(sample, x, seed=0, budget=BUDGETS["fast"], tick=lambda _: None)
    random = normal(5000, 20, seed=2)

    def best(u: Tensor) -> Tensor:
        along = u @ points.T
        center = along.quantile(0.5, dim=1, keepdim=True)
        return ((u @ x.T - center).abs() / (along - center).abs().quantile(0.5, dim=1, keepdim=True)).diagonal()

    start = best(x)
    assert (best(found) > 1.05 * start).all()
    along = random @ points.T
    center = along.quantile(0.5, dim=1, keepdim=True)
    spread = (along - center).abs().quantile(0.5, dim=1, keepdim=True)
    assert (best(found) > 1.3 * ((random @ x.T - center).abs() / spread).amax(dim=0)).all()
