"""Directions of the plane at which the median or the MAD passes from one point to another."""

from __future__ import annotations

import numpy as np
import pytest

from interpeval.metrics.projection_plane import critical_directions
from reference import projection_depth as slow


@pytest.mark.parametrize("rule", ["average", "datadepth"])
@pytest.mark.parametrize("n", [7, 8, 30])
def test_medians_and_mads_are_those_of_the_definition(n, rule):
    points = np.random.default_rng(n).standard_normal((n, 2))
    done = []
    found = critical_directions(points, rule, done.append)
    assert sum(done) == n
    assert len(found.mad) > n
    for u, median, mad in zip(*found, strict=True):
        along = [float(v) for v in points @ u]
        center = slow.middle(along)
        assert median == pytest.approx(center, abs=1e-12)
        assert mad == pytest.approx(slow.middle([abs(v - center) for v in along], upper=rule == "datadepth"), abs=1e-12)


def test_both_are_linear_between_neighbours():
    """Of linear functions of the direction, the value at a middle angle follows from those at both ends."""
    points = np.random.default_rng(0).standard_normal((21, 2))
    found = critical_directions(points, "average", lambda _: None)
    for u, v, *ends in zip(found.directions[:-1], found.directions[1:], found.median, found.median[1:], strict=False):
        along = points @ (u + v)
        assert np.median(along) == pytest.approx(sum(ends), abs=1e-9)
    for u, v, *ends in zip(found.directions[:-1], found.directions[1:], found.mad, found.mad[1:], strict=False):
        along = points @ (u + v)
        assert np.median(np.abs(along - np.median(along))) == pytest.approx(sum(ends), abs=1e-9)
    u, v = found.directions[0], found.directions[-40]  # not so across many of them
    assert abs(np.median(points @ (u + v)) - found.median[0] - found.median[-40]) > 1e-3


def test_many_points_on_one_line_meet_in_few_angles():
    points = np.random.default_rng(0).standard_normal((200, 2))
    points[:150, 1] = 0
    found = critical_directions(points, "average", lambda _: None)
    assert len(found.mad) < 50 * len(points)
    assert found.mad.min() < 1e-12
