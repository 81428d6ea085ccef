"""The masks of `rise` are those of RISE's notebooks: scikit-image's `resize`, cut at a random place."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from interpeval.baselines.grid_masks import draw_masks

transform = pytest.importorskip("skimage.transform")


@pytest.mark.parametrize(("side", "cells"), [(224, 8), (32, 7), (30, 4)])
def test_masks_are_those_of_scikit_image(side, cells):
    masks = draw_masks(
        torch.tensor(3), 4, (side, side), stream="test", enlargement="rise", n_cells=cells, p=0.5, dtype=torch.float64
    )
    length = (cells + 1) * math.ceil(side / cells)
    for index, mask in enumerate(masks.enlarged(slice(0, 4)).numpy()):
        grid = masks.grids[index].numpy().astype(np.float64)
        whole = transform.resize(grid, (length, length), order=1, mode="reflect", anti_aliasing=False)
        top, left = int(masks.top[index]), int(masks.left[index])
        np.testing.assert_allclose(mask, whole[top : top + side, left : left + side], atol=1e-9)
