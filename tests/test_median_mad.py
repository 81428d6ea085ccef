"""Medians and median absolute deviations of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interpeval.metrics.median_mad import median_mad
from reference.projection_depth import middle


@pytest.mark.parametrize(
    ("row", "rule", "median", "mad"),
    [
        ([5.0], "average", 5.0, 0.0),
        ([1.0, 9.0, 2.0], "average", 2.0, 1.0),
        ([1.0, 2.0, 4.0, 9.0], "average", 3.0, 1.5),  # deviations 2, 1, 1, 6
        ([1.0, 2.0, 4.0, 9.0], "datadepth", 3.0, 2.0),
        ([1.0, 9.0, 2.0], "datadepth", 2.0, 1.0),
        ([4.0, 4.0, 4.0, 0.0], "average", 4.0, 0.0),
    ],
)
def test_rows_worked_by_hand(row, rule, median, mad):
    assert [v.item() for v in median_mad(torch.tensor([row]), rule=rule)] == [median, mad]


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 30).flatmap(
        lambda n: st.lists(st.lists(st.integers(-9, 9), min_size=n, max_size=n), min_size=1, max_size=4)
    ),
    rule=st.sampled_from(["average", "datadepth"]),
)
def test_rows_against_sorting(rows, rule):
    values = torch.tensor(rows, dtype=torch.float64)
    before = values.clone()
    median, mad = median_mad(values, rule=rule)
    for row, center, spread in zip(rows, median.tolist(), mad.tolist(), strict=True):
        assert center == middle([float(v) for v in row]) == np.median(row)
        assert spread == middle([abs(v - center) for v in row], upper=rule == "datadepth")
    assert torch.equal(values, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rule", ["average", "datadepth"])
@pytest.mark.parametrize("n", [7, 8])
def test_devices_agree(n, rule):
    rows = torch.randn(5, n, generator=torch.Generator().manual_seed(0))
    for here, there in zip(median_mad(rows, rule=rule), median_mad(rows.cuda(), rule=rule), strict=True):
        assert torch.equal(here, there.cpu())
