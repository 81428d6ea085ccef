"""Projection depth against data-depth: never above the best of its solvers, and the same value along its directions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

from interpeval.metrics.projection_depth import projection_depth
from reference import projection_depth as slow

SOLVERS = ("neldermead", "refinedrandom", "coordinatedescent", "simplerandom")


@pytest.fixture(scope="module")
def depth() -> Iterator[ModuleType]:
    """data-depth, whose own warnings are no concern of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("depth", reason='data-depth is not installed: pip install -e ".[dev]"')


def ask(depth: ModuleType, query: np.ndarray, sample: np.ndarray, solver: str) -> tuple[np.ndarray, np.ndarray]:
    """Depths and directions of one of its solvers, with its defaults."""
    model = depth.DepthEucl().load_dataset(sample)
    model.set_seed(0)
    values, directions = model.projection(query, solver=solver, output_option="final_depth_dir")
    return np.asarray(values).ravel(), np.asarray(directions)


@pytest.mark.parametrize(("n", "d"), [(100, 2), (101, 3), (200, 5), (301, 10)])
def test_never_above_the_best_solver(depth: ModuleType, n: int, d: int) -> None:
    random = np.random.default_rng(n)
    sample, query = random.standard_normal((n, d)), 2 * random.standard_normal((6, d))
    theirs = np.min([ask(depth, query, sample, solver)[0] for solver in SOLVERS], axis=0)
    for budget in ("fast", "default"):
        ours = projection_depth(*map(torch.from_numpy, (query, sample)), budget=budget, median="datadepth")
        assert (ours.depth.numpy() <= theirs + 1e-3).all()


@pytest.mark.parametrize("n", [50, 51])
def test_along_its_directions_both_have_the_same_definition(depth: ModuleType, n: int) -> None:
    random = np.random.default_rng(n)
    sample, query = random.standard_normal((n, 4)), 2 * random.standard_normal((5, 4))
    values, directions = ask(depth, query, sample, "neldermead")
    by_rule = {
        rule: [1 / (1 + slow.outlyingness(x, sample, u, rule=rule)) for x, u in zip(query, directions, strict=True)]
        for rule in ("datadepth", "average")
    }
    np.testing.assert_allclose(values, by_rule["datadepth"], rtol=1e-4)
    assert np.allclose(values, by_rule["average"], rtol=1e-4) == (n % 2 == 1)  # the rules differ where n is even
