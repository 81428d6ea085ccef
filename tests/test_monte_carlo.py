"""Fills, and the average over draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interpeval.datasets.base import Normalization
from interpeval.metrics.monte_carlo import check_fill, fill_value, mean_over_draws, repeat_draws


def test_fills_are_pixel_values_in_the_space_of_the_model() -> None:
    normalization, images = Normalization((0.5, 0.4, 0.2), (0.25, 0.2, 0.1)), torch.zeros(1, 3, 2, 2)
    assert fill_value("black", normalization, images).flatten().tolist() == pytest.approx([-2, -2, -2])
    assert fill_value("mean", normalization, images).flatten().tolist() == [0, 0, 0]
    assert fill_value(1, normalization, images).flatten().tolist() == pytest.approx([2, 3, 8])
    assert fill_value(0.0, normalization, images).equal(fill_value("black", normalization, images))


@pytest.mark.parametrize("fill", ["blue", float("nan"), None])
def test_an_unknown_fill_is_refused(fill: object) -> None:
    with pytest.raises(ValueError, match='`fill` must be "black", "mean"'):
        check_fill(fill)


def test_rows_are_sample_major() -> None:
    many, draws = repeat_draws(torch.tensor([5, 7]), 3)
    assert many.tolist() == [5, 5, 5, 7, 7, 7]
    assert draws.tolist() == [0, 1, 2, 0, 1, 2]


def test_the_variance_of_a_mean_is_the_sample_variance_by_the_number_of_draws() -> None:
    values = torch.randn(4, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values[2, 3] = torch.nan
    mean, variance = mean_over_draws(values)
    assert variance is not None
    for row in range(4):
        left = values[row][~values[row].isnan().any(dim=1)].numpy()
        np.testing.assert_allclose(mean[row], left.mean(axis=0))
        np.testing.assert_allclose(variance[row], left.var(axis=0, ddof=1) / len(left))


def test_one_draw_has_no_variance_and_one_left_has_none_either() -> None:
    assert mean_over_draws(torch.zeros(3, 1))[1] is None
    mean, variance = mean_over_draws(torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]]))
    assert variance is not None
    assert mean[0] == 1
    assert torch.isnan(torch.stack((mean[1], variance[0], variance[1]))).all()
