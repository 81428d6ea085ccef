"""Projection depth: exact cases, what the search finds, what it must not depend on, and degenerate samples."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from interpeval.bench.evidence import ModelEvidence
from interpeval.datasets.base import Batch
from interpeval.metrics import projection_depth as module
from interpeval.metrics.base import Scores, Status
from interpeval.metrics.projection_depth import DepthInClass, ProjectionDepth, projection_depth
from interpreted import Interpreted
from reference import projection_depth as slow
from small_subject import Pictures


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions(count: int, d: int) -> np.ndarray:
    u = normal(count, d, seed=9)
    return (u / u.norm(dim=1, keepdim=True)).numpy()


def verified(query: Tensor, reference: Tensor, found: ProjectionDepth) -> np.ndarray:
    """The depths that the directions show, by NumPy alone."""
    x, sample, u = query.double().numpy(), reference.double().numpy(), found.direction.numpy()
    along = sample @ u.T
    center = np.median(along, axis=0)
    return 1 / (1 + np.abs((x * u).sum(axis=1) - center) / np.median(np.abs(along - center), axis=0))


# Exact cases


@pytest.mark.parametrize(
    ("sample", "query", "rule", "depth"),
    [
        ([0, 1, 2, 3, 10], [2, 5, 0, 102], "average", [1, 1 / 4, 1 / 3, 1 / 101]),  # median 2, MAD 1
        ([1, 2, 4, 9], [3, 6, 0], "average", [1, 1 / 3, 1 / 3]),  # median 3, MAD 1.5
        ([1, 2, 4, 9], [3, 7, 1], "datadepth", [1, 1 / 3, 1 / 2]),  # median 3, MAD 2
        ([0, 4], [2, 4, 5], "average", [1, 1 / 2, 2 / 5]),  # median 2, MAD 2
    ],
)
def test_one_dimension_by_hand(sample, query, rule, depth):
    found = projection_depth(torch.tensor(query)[:, None].double(), torch.tensor(sample)[:, None].double(), median=rule)
    assert found.exact
    assert found.depth.tolist() == pytest.approx(depth, rel=1e-15)
    assert found.direction.abs().tolist() == [[1.0]] * len(query)


def test_one_dimension_within_three():
    line = torch.tensor([[3.0, 4.0, 12.0]]).double() / 13
    sample = torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0]).double()[:, None] * line + 1
    found = projection_depth(5 * line + 1, sample)
    assert found.exact
    assert found.depth.item() == pytest.approx(1 / 4, rel=1e-12)


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(4, 13), seed=st.integers(0, 99), rule=st.sampled_from(["average", "datadepth"]), lattice=st.booleans()
)
def test_the_plane_against_all_angles(n, seed, rule, lattice):
    points = normal(n + 2, 2, seed=seed) * torch.tensor([1.0, 30.0])
    points = (points * 2).round() if lattice else points  # many ties
    query, sample = points[:2], points[2:]
    found = projection_depth(query, sample, median=rule)
    if found.off_span.any() or torch.linalg.matrix_rank(sample - sample[0]) < 2:
        return
    assert found.exact
    expected = [slow.planar_depth(x, sample.numpy(), rule=rule) for x in query.numpy()]
    np.testing.assert_allclose(found.depth.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_the_plane_within_three_dimensions():
    sample, query = normal(41, 2), normal(3, 2, seed=1)
    plane = torch.linalg.qr(normal(3, 3)).Q[:, :2] * torch.tensor([1.0, 50.0])
    found = projection_depth(query @ plane.T + 5, sample @ plane.T + 5)
    assert found.exact
    torch.testing.assert_close(found.depth, projection_depth(query, sample).depth, rtol=1e-9, atol=0)


def test_a_large_planar_sample_is_within_a_thousandth_of_the_sweep(monkeypatch):
    sample, query = normal(2001, 2) @ normal(2, 2, seed=3), normal(12, 2, seed=1)
    found = projection_depth(query, sample)
    monkeypatch.setattr(module, "_MOST_SWEPT", 2001)
    exact = projection_depth(query, sample)
    assert (found.exact, exact.exact) == (False, True)
    assert (found.depth >= exact.depth * (1 - 1e-12)).all()
    assert (found.depth <= exact.depth * 1.001).all()


# What the search finds


@pytest.mark.parametrize("rule", ["average", "datadepth"])
@pytest.mark.parametrize(("d", "allowance"), [(3, 1.005), (4, 1.0), (6, 1.0)])
def test_few_dimensions_against_many_directions(d, allowance, rule):
    """In three dimensions that many directions lie half a degree apart, and a search need not find every spike."""
    sample, query = normal(60, d).numpy(), (normal(4, d, seed=1) * 2).numpy()
    found = projection_depth(torch.from_numpy(query), torch.from_numpy(sample), median=rule)
    along = (u := directions(50_000, d)) @ sample.T
    center = np.median(along, axis=1)[:, None]
    deviations = np.sort(np.abs(along - center), axis=1)
    spread = deviations[:, [30 if rule == "datadepth" else 29, 30]].mean(axis=1, keepdims=True)
    assert (found.depth.numpy() <= allowance / (1 + (np.abs(u @ query.T - center) / spread).max(axis=0))).all()
    for x, depth, best in zip(query, found.depth.tolist(), found.direction.numpy(), strict=True):
        assert depth == pytest.approx(1 / (1 + slow.outlyingness(x, sample, best, rule=rule)), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("budget", ["fast", "default"])
def test_one_line_of_numpy_verifies_the_depth(dtype, budget):
    sample = ((normal(500, 12) @ normal(12, 12, seed=1)).exp() * 10).to(dtype)
    query = sample[:6] + 1
    found = projection_depth(query, sample, budget=budget)
    assert found.depth.dtype == found.direction.dtype == torch.float64
    np.testing.assert_allclose(verified(query, sample, found), found.depth.numpy(), rtol=1e-9)
    np.testing.assert_allclose(found.direction.norm(dim=1).numpy(), 1, rtol=1e-12)


def test_every_axis_is_tried():
    sample = normal(300, 4)
    sample[:145, 2] *= 1e-6
    sample[145:155, 2] *= 1e-5
    found = projection_depth(torch.full((1, 4), 0.5).double(), sample, budget="fast")
    assert found.depth.item() <= 1 / (1 + slow.outlyingness(np.full(4, 0.5), sample.numpy(), np.eye(4)[2]))


@pytest.mark.parametrize(("d", "tail"), [(2, None), (5, 3.0), (10, None)])
def test_elliptical_populations(d, tail):
    """Where X = A Z is elliptical the depth is 1 / (1 + r / q): Mahalanobis radius r, MAD q of a projection of Z."""
    sample, matrix = normal(100_000, d), normal(d, d, seed=1)
    spread = stats.norm.ppf(0.75)
    if tail is not None:
        chi = np.random.default_rng(0).chisquare(tail, len(sample)) / tail
        sample, spread = sample / torch.from_numpy(np.sqrt(chi))[:, None], stats.t.ppf(0.75, tail)
    u = normal(3, d, seed=2)
    radius = torch.tensor([0.5, 2.0, 6.0]).double()
    found = projection_depth(
        (u / u.norm(dim=1, keepdim=True) * radius[:, None]) @ matrix.T, sample @ matrix.T, budget="fast"
    )
    np.testing.assert_allclose(found.depth.numpy(), 1 / (1 + radius.numpy() / spread), rtol=0.02)


def test_a_minority_of_outliers_does_not_make_itself_central():
    sample = normal(1000, 6)
    clean = projection_depth(sample[:5], sample).depth
    sample[600:] = sample[600:] * 0.01 + 50
    found = projection_depth(sample[[0, 1, 2, 3, 4, 700]], sample).depth
    assert (found[5] < 0.5 * found[:5]).all()
    assert (found[:5] > 0.2 * clean).all()


# What depths must not depend on


@pytest.fixture(scope="module")
def many() -> tuple[Tensor, Tensor]:
    mix = normal(33, 33, seed=2)
    return normal(12, 33, seed=1) @ mix * 1.5, normal(401, 33) @ mix


@pytest.mark.parametrize("budget", ["fast", "default"])
def test_neither_other_queries_nor_blocks_change_a_depth(many, budget):
    query, sample = many
    whole = projection_depth(query, sample, budget=budget)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for rows, memory in ((order, 2**28), (torch.arange(5), 2**28), (torch.arange(7, 8), 2**28), (order, 401 * 48 * 40)):
        part = projection_depth(query[rows], sample, budget=budget, memory=memory)
        assert torch.equal(part.depth, whole.depth[rows])
        assert torch.equal(part.direction, whole.direction[rows])
    assert torch.equal(projection_depth(query, sample, budget=budget).depth, whole.depth)
    if budget == "default":
        other = projection_depth(query, sample, budget=budget, seed=1)
        assert not torch.equal(other.direction, whole.direction)  # so the search could have differed


def test_neither_other_queries_nor_their_order_change_an_exact_depth():
    query, sample = normal(9, 2), normal(60, 2, seed=1)
    whole = projection_depth(query, sample)
    part = projection_depth(query.flip(0)[2:], sample)
    assert torch.equal(part.depth, whole.depth.flip(0)[2:])
    assert torch.equal(part.direction, whole.direction.flip(0)[2:])


@pytest.mark.parametrize(("budget", "most", "largest"), [("fast", 1e-6, 0.01), ("default", 1e-6, 0.003)])
def test_affine_maps_hardly_change_a_depth(budget, most, largest):
    sample, query = normal(5999, 10), normal(20, 10, seed=1) * 1.5
    left, _, right = torch.linalg.svd(normal(10, 10, seed=2))
    matrix = left * torch.logspace(0, -5, 10, dtype=torch.float64) @ right
    here = projection_depth(query, sample, budget=budget).depth
    there = projection_depth(query @ matrix.T + 3, sample @ matrix.T + 3, budget=budget).depth
    change = ((there - here).abs() / here).sort().values
    assert change[-3] < most  # of 20 queries, all but two
    assert change[-1] < largest
    bent = projection_depth(query**3, sample**3, budget=budget).depth
    assert ((bent - here).abs() > 5 * largest * here).all()


def test_a_planar_depth_is_affine_invariant():
    sample, query = normal(150, 2) ** 3, normal(5, 2, seed=1) * 3
    matrix = torch.tensor([[1.0, 1.0], [1.0, 1.00001]]).double()
    here, there = projection_depth(query, sample), projection_depth(query @ matrix.T - 4, sample @ matrix.T - 4)
    np.testing.assert_allclose(there.depth.numpy(), here.depth.numpy(), rtol=1e-7)


def test_float32_is_taken_for_the_numbers_it_holds():
    sample, query = normal(300, 5).float(), normal(4, 5, seed=1).float()
    assert torch.equal(projection_depth(query, sample).depth, projection_depth(query.double(), sample.double()).depth)


def test_neither_global_random_state_nor_arguments_change():
    sample, query = normal(300, 5).requires_grad_(), normal(4, 5, seed=1)
    before = (sample.detach().clone(), query.clone(), torch.random.get_rng_state(), np.random.get_state()[1].copy())
    found = projection_depth(query, sample, budget="fast")
    assert not found.depth.requires_grad
    after = (sample.detach(), query, torch.random.get_rng_state(), np.random.get_state()[1])
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_devices_agree():
    sample, query = normal(3000, 20), normal(40, 20, seed=1)
    here, there = projection_depth(query, sample), projection_depth(query.cuda(), sample.cuda())
    assert there.depth.is_cuda
    np.testing.assert_allclose(there.depth.cpu().numpy(), here.depth.numpy(), rtol=1e-4)


# Degenerate samples


def check_zero(query: Tensor, sample: Tensor, found: ProjectionDepth, zero: list[bool]) -> None:
    """Depth 0 where expected, by directions along which half of the sample coincides and the query does not."""
    assert found.degenerate.tolist() == zero
    assert (found.depth == 0).tolist() == zero
    assert not found.depth.isnan().any()
    along = sample @ found.direction.T
    center = along.median(dim=0).values
    spread = (along - center).abs().median(dim=0).values
    away = ((query * found.direction).sum(dim=1) - center).abs()
    assert (spread[found.degenerate] < 1e-9 * away[found.degenerate]).all()


def test_a_feature_that_is_constant_in_half_of_the_sample():
    sample = normal(401, 4)
    sample[:250, 1] = 3
    sample[100:350, 2] = -1
    query = torch.tensor([[0.0, 3.0, -1.0, 0.0], [0.0, 3.0 + 1e-13, -1.0, 0.0], [0.0, 3.0, 0.0, 0.0]]).double()
    query[1, 1] = 3.0000001
    found = projection_depth(query, sample, budget="fast")
    check_zero(query, sample, found, [False, True, True])
    assert found.n_zero_mad_features == 2
    assert found.direction[1:].tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]
    assert not found.off_span.any()
    assert found.depth[0] <= 1 / (1 + slow.outlyingness(query[0].numpy(), sample.numpy(), np.eye(4)[3]))


def test_a_constant_feature_is_outside_the_span():
    sample = torch.cat((normal(100, 2), torch.full((100, 1), 7.0)), dim=1).double()
    query = torch.tensor([[0.0, 0.0, 7.0], [0.0, 0.0, 7.5]]).double()
    found = projection_depth(query, sample)
    check_zero(query, sample, found, [False, True])
    assert found.off_span.tolist() == [False, True]
    assert found.exact  # the rest is a plane
    torch.testing.assert_close(
        found.depth[0], projection_depth(query[:1, :2], sample[:, :2]).depth[0], rtol=1e-9, atol=0
    )


@pytest.mark.parametrize(("dtype", "step"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_a_query_outside_the_affine_span(dtype, step):
    sample = normal(300, 4)
    sample[:, 3] = sample[:, 0] + 2 * sample[:, 1] - 1
    query = sample[:2].clone()
    query[1, 3] += step
    found = projection_depth(query.to(dtype), sample.to(dtype), budget="fast")
    assert found.off_span.tolist() == found.degenerate.tolist() == [False, True]
    assert found.depth[0] > 0.05
    if dtype == torch.float64:
        check_zero(query, sample, found, [False, True])


@pytest.mark.parametrize(("d", "budget"), [(2, "fast"), (3, "fast"), (6, "fast"), (6, "default"), (15, "default")])
def test_more_than_half_of_the_sample_on_a_hyperplane(d, budget):
    sample, normal_vector = normal(1000, d), normal(d, seed=1)
    normal_vector /= normal_vector.norm()
    query = normal(8, d, seed=2)
    for points in (sample[:540], query[4:]):
        points -= (points @ normal_vector - 0.3)[:, None] * normal_vector
    found = projection_depth(query, sample, budget=budget)
    check_zero(query, sample, found, [True] * 4 + [False] * 4)
    assert (found.depth[4:] > 0.05).all()
    assert not found.off_span.any()


@pytest.mark.parametrize(("n", "d"), [(10, 8), (9, 5), (8, 5), (9, 20)])
def test_too_few_points_for_the_dimension(n, d):
    sample, query = normal(n, d), normal(2, d, seed=1)
    query = torch.cat((query, sample[:2]))
    with pytest.warns(UserWarning, match="Reduce the dimension"):
        found = projection_depth(query, sample)
    assert found.too_few_samples
    check_zero(query, sample, found, [True] * 4)
    assert found.off_span.tolist() == ([True, True] if d >= n else [False, False]) + [False, False]


@pytest.mark.parametrize(("n", "d"), [(10, 5), (11, 5)])
def test_just_enough_points_for_the_dimension(n, d):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = projection_depth(normal(2, d, seed=1), normal(n, d))
    assert not found.too_few_samples
    assert (found.depth > 0).all()


def test_identical_points():
    sample = torch.full((10, 3), 0.1).double()
    query = torch.stack((sample[0], sample[0] + torch.tensor([0, 0.1, 0]).double()))
    found = projection_depth(query, sample)
    check_zero(query, sample, found, [False, True])
    assert found.depth.tolist() == [1.0, 0.0]
    assert found.n_zero_mad_features == 3


def test_half_of_the_sample_at_one_point():
    sample = normal(401, 3)
    sample[:250] = sample[0]
    query = torch.stack((sample[0], sample[0] + 1e-3))
    found = projection_depth(query, sample)
    check_zero(query, sample, found, [False, True])
    assert found.depth[0] == 1


def test_features_of_very_different_scales_are_no_degenerate_case():
    sample, query = normal(300, 4), normal(4, 4, seed=1)
    scale = torch.tensor([1e-9, 1.0, 1e9, 1e3]).double()
    here, there = projection_depth(query, sample), projection_depth(query * scale, sample * scale)
    assert not there.degenerate.any()
    np.testing.assert_allclose(there.depth.numpy(), here.depth.numpy(), rtol=0.02)


def test_no_query():
    found = projection_depth(torch.empty(0, 3), normal(20, 3))
    assert (found.depth.shape, found.direction.shape, found.off_span.shape) == ((0,), (0, 3), (0,))


# Errors and progress


@pytest.mark.parametrize(
    ("query", "reference", "options", "message"),
    [
        (torch.ones(2, 3), torch.ones(5, 4), {}, r"`query` was \(2, 3\), `reference` \(5, 4\)"),
        (torch.ones(3), torch.ones(5, 3), {}, r"`query` was \(3,\)"),
        (torch.ones(2, 0), torch.ones(5, 0), {}, r"d >= 1"),
        (torch.ones(2, 3), torch.ones(1, 3), {}, r"`reference` must hold two points.*\(1, 3\)"),
        (torch.full((2, 3), torch.nan), torch.ones(5, 3), {}, r"`query` must be finite.*\(2, 3\)"),
        (torch.ones(2, 3), torch.full((5, 3), torch.inf), {}, r"`reference` must be finite.*\(5, 3\)"),
        (torch.ones(2, 3), torch.ones(5, 3), {"budget": "slow"}, "`budget` must be .*'slow'"),
        (torch.ones(2, 3), torch.ones(5, 3), {"median": "lower"}, "`median` must be .*'lower'"),
        (torch.ones(2, 3), torch.ones(5, 3), {"memory": 0}, "`memory` must be .*0"),
    ],
)
def test_bad_values_are_named(query, reference, options, message):
    with pytest.raises(ValueError, match=message):
        projection_depth(query, reference, **options)


@pytest.mark.parametrize(
    ("query", "kind"), [(torch.ones(2, 3, dtype=torch.int64), "int64"), (np.ones((2, 3)), "ndarray")]
)
def test_wrong_kinds_are_named(query, kind):
    with pytest.raises(TypeError, match=rf"`query` must be a float32 or float64 tensor, was .*{kind}"):
        projection_depth(query, torch.ones(5, 3))


@pytest.mark.parametrize("d", [2, 4])
def test_progress_is_shown_on_request_only(capsys, d):
    sample, query = normal(50, d), normal(2, d, seed=1)
    projection_depth(query, sample, budget="fast")
    assert capsys.readouterr() == ("", "")
    projection_depth(query, sample, budget="fast", progress=True)
    assert "projection depth: 100%" in capsys.readouterr().err


# Real data


def reduced(images: np.ndarray, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` images, and twenty more, in the leading 50 principal components of the former."""
    pixels = torch.from_numpy(images.reshape(len(images), -1) / 255.0)
    sample = pixels[:count]
    axes = torch.linalg.svd(sample - sample.mean(dim=0), full_matrices=False).Vh[:50]
    return (pixels[count : count + 20] - sample.mean(dim=0)) @ axes.T, (sample - sample.mean(dim=0)) @ axes.T


def apples(folder: Path) -> tuple[Tensor, Tensor]:
    with np.load(folder / "quickdraw" / "bitmaps_28x28_official.npz") as file:
        return reduced(file["x"][file["y"] == [str(c) for c in file["classes"]].index("apple")], 2899)


def sevens(folder: Path) -> tuple[Tensor, Tensor]:
    raw = folder / "mnist" / "MNIST" / "raw"
    images = np.frombuffer(gzip.decompress((raw / "train-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((raw / "train-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return reduced(images.reshape(-1, 784)[labels == 7], 5999)


@pytest.mark.parametrize("data", [apples, sevens])
def test_real_images(real_data: Path, data: Callable[[Path], tuple[Tensor, Tensor]]):
    query, sample = data(real_data)
    found = projection_depth(query, sample, budget="fast")
    np.testing.assert_allclose(verified(query, sample, found), found.depth.numpy(), rtol=1e-9)
    inverse = torch.linalg.inv(sample.T.cov())
    mahalanobis = query @ inverse
    for x, u, depth in zip(query.numpy(), mahalanobis.numpy(), found.depth.tolist(), strict=True):
        assert depth < 0.9 / (1 + slow.outlyingness(x, sample.numpy(), u))


# --- the metric ---------------------------------------------------------------------------------------------------


def test_a_sample_is_as_deep_as_its_attributes_lie_in_those_of_its_class() -> None:
    model, dataset = Interpreted(), Pictures(count=300, size=(5, 6))
    with ModelEvidence(model=model, explainer=None, dataset=dataset, batch=dataset.take(range(7))) as evidence:
        found = DepthInClass(n_reference=200).score(evidence)[""]
        drawn = [evidence.members(label, 200).interpretation.activations.double() for label in range(3)]
    images, labels = dataset.take(range(300)).images, dataset.labels
    with torch.no_grad():
        said = model.interpret(images)
        agree = model(images).argmax(dim=1) == said.logits.argmax(dim=1)
    assert 0 < int((~agree).sum()) < 300  # some samples are left out of the reference, and not all
    differences: list[float] = []
    for row in range(7):
        sample = said.activations[(labels == labels[row]) & agree].double()
        members = drawn[int(labels[row])]  # all of the class, in the order in which they were drawn
        members = members[(members[:, None] == sample).all(dim=2).any(dim=1)]
        assert len(members) == len(sample)
        expected = projection_depth(said.activations[row : row + 1].double(), members, budget="fast").depth
        torch.testing.assert_close(found.values[row], expected[0], rtol=5e-3, atol=0)  # activations are rounded
        other = said.activations[(labels == (labels[row] + 1) % 3) & agree].double()
        elsewhere = projection_depth(said.activations[row : row + 1].double(), other, budget="fast").depth
        differences.append(abs(float(elsewhere / expected - 1)))
    assert max(differences) > 0.1  # the class matters


def test_a_class_of_too_few_agreeing_samples_has_no_truth_and_an_invalid_sample_harms_no_other() -> None:
    dataset = Pictures(count=300, size=(5, 6))
    metric, batch = DepthInClass(n_reference=200), dataset.take(range(4))
    broken = replace(batch, images=torch.where(torch.arange(4).view(-1, 1, 1, 1) == 2, torch.nan, batch.images))

    def score(metric: DepthInClass, batch: Batch) -> Scores:
        with ModelEvidence(model=Interpreted(), explainer=None, dataset=dataset, batch=batch) as evidence:
            return metric.score(evidence)[""]

    whole, some = score(metric, batch), score(metric, broken)
    assert some.status.tolist() == [Status.OK, Status.OK, Status.INVALID, Status.OK]
    assert torch.equal(some.values[[0, 1, 3]], whole.values[[0, 1, 3]])
    assert score(DepthInClass(n_reference=8), batch).status.tolist() == [Status.NO_TRUTH] * 4  # four attributes
