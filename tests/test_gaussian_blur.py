"""`gaussian_blur`: an impulse, the inside of scipy's filter, and constants."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from interpeval.baselines.gaussian_blur import gaussian_blur


def test_away_from_the_border_it_is_scipys_filter():
    image = np.zeros((41, 41))
    image[14:27, 14:27] = np.random.default_rng(0).normal(size=(13, 13))
    found = gaussian_blur(torch.tensor(image), 1.7).numpy()
    np.testing.assert_allclose(
        found[10:-10, 10:-10], gaussian_filter(image, 1.7, truncate=8)[10:-10, 10:-10], atol=1e-9
    )


def test_constants_stay_and_a_sigma_of_0_changes_nothing():
    image = torch.full((2, 3, 7, 5), 2.5, dtype=torch.float64)
    torch.testing.assert_close(gaussian_blur(image, 4.0), image)
    noise = torch.randn(2, 3, 7, 5)
    assert torch.equal(gaussian_blur(noise, 0), noise)
    assert not torch.equal(gaussian_blur(noise, 0.5), noise)
