"""Projection depth against data-depth's solvers on the same data, in one run.

`make bench` prints, for each of data-depth's solvers with its defaults and for each of our budgets, the time, how many
times faster than the best of the solvers (lowest mean depth) that is, the mean depth, and on how many of the queries
the depth is above that solver's, and above the lowest of all solvers. Lower is better, as each is an upper bound.
"""

from __future__ import annotations

import gzip
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from interpeval.metrics.projection_depth import projection_depth

Floats = NDArray[np.float64]

QUERIES = 103
POINTS = 5999
SOLVERS = ("neldermead", "refinedrandom", "coordinatedescent")
BUDGETS = ("fast", "default", "thorough")


def gaussian(_: Path) -> tuple[Floats, Floats]:
    """Ten independent normal features."""
    points = np.random.default_rng(0).standard_normal((POINTS + QUERIES, 10))
    return points[:QUERIES], points[QUERIES:]


def digits(folder: Path) -> tuple[Floats, Floats]:
    """MNIST's sevens in the leading 50 principal components of the reference sample."""
    raw = folder / "mnist" / "MNIST" / "raw"
    images = np.frombuffer(gzip.decompress((raw / "train-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((raw / "train-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    pixels = images.reshape(-1, 784)[labels == 7][: POINTS + QUERIES] / 255
    pixels = pixels - pixels[QUERIES:].mean(axis=0)
    axes = np.linalg.svd(pixels[QUERIES:], full_matrices=False)[2][:50]
    return pixels[:QUERIES] @ axes.T, pixels[QUERIES:] @ axes.T


@pytest.mark.parametrize("data", [gaussian, digits])
def test_against_the_solvers_of_data_depth(
    benchmark, real_data: Path, data: Callable[[Path], tuple[Floats, Floats]]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        depth = pytest.importorskip("depth", reason='data-depth is not installed: pip install -e ".[dev]"')
    query, sample = data(real_data)
    model = depth.DepthEucl().load_dataset(sample)
    theirs = {solver: timed(lambda solver=solver: model.projection(query, solver=solver)) for solver in SOLVERS}
    x, points = torch.from_numpy(query), torch.from_numpy(sample)
    projection_depth(x[:8], points, budget="fast")  # a first call pays for what is done once; theirs was `load_dataset`
    ours = {budget: timed(lambda budget=budget: projection_depth(x, points, budget=budget).depth) for budget in BUDGETS}
    benchmark.pedantic(lambda: projection_depth(x, points, budget="fast"), rounds=1, iterations=1)

    best, lowest = (
        min(theirs.values(), key=lambda value: value[1].mean()),
        np.min([d for _, d in theirs.values()], axis=0),
    )
    print(f"\n{data.__name__}: {sample.shape[0]} points, {sample.shape[1]} dimensions, {len(query)} queries")
    for name, (seconds, depths) in {**theirs, **ours}.items():
        faster = f"{best[0] / seconds:5.1f} × as fast as the best solver"
        above = f"above it on {np.sum(depths > best[1])} queries, above the lowest of all on {np.sum(depths > lowest)}"
        print(f"{name:>18}: {seconds:6.2f} s, {faster}, mean depth {depths.mean():.5f}, {above}")
    benchmark.extra_info["ratio"] = best[0] / ours["fast"][0]


def timed(call: Callable[[], object]) -> tuple[float, Floats]:
    """Seconds and depths."""
    start = time.perf_counter()
    depths = np.asarray(call(), dtype=np.float64).ravel()
    return time.perf_counter() - start, depths
