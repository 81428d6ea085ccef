"""The disagreement report: ranks, depths of disagreeing samples beside a reference group, table and picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, kstest
from torch import Tensor

from interpeval.bench.disagreement import COLUMNS, disagreement_report
from interpeval.datasets.base import Arrays
from interpeval.datasets.philox import sample_keys
from interpeval.metrics.disagreement import combined_p_value, compare_depths, principal_components, rank_of_class
from interpeval.metrics.projection_depth import projection_depth
from interpreted import Says
from reference import top_k_fidelity as slow
from small_subject import Pictures, SmallNet


def cloud(count: int, dimension: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def keys(count: int) -> Tensor:
    return sample_keys([f"sample {row}" for row in range(count)])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-2, 2), min_size=4, max_size=4), st.integers(0, 3))
def test_the_rank_is_the_mean_position_over_all_orders_of_tied_classes(logits: list[int], wanted: int) -> None:
    found = rank_of_class(torch.tensor([logits]).float(), torch.tensor([wanted]))
    assert found.item() == pytest.approx(slow.rank(np.array(logits, dtype=float), wanted), abs=1e-12)


# ---------------------------------------------------------------------- principal components


def test_principal_components_are_the_directions_of_largest_variance() -> None:
    """Axis-parallel points of known deviations in rotated coordinates."""
    rotation = torch.linalg.qr(cloud(3, 3, seed=4)).Q
    base = torch.linalg.qr(cloud(200, 3) - cloud(200, 3).mean(dim=0)).Q  # uncorrelated columns of mean 0
    points = base * torch.tensor([10.0, 4.0, 0.1]) @ rotation.T + 7
    found = principal_components(points)
    assert found.axes.shape == (3, 2)  # one carries 100 / 116.01, too little
    assert found.share == pytest.approx(116 / 116.01)
    projected = found.project(points)
    assert projected.square().sum(dim=0).tolist() == pytest.approx([100, 16], rel=1e-9)
    assert projected.mean(dim=0).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("count", "dimension", "components"), [(20, 30, 1), (79, 30, 3), (400, 30, 20), (2400, 80, 50)]
)
def test_there_are_at_most_fifty_components_and_one_for_twenty_points(
    count: int, dimension: int, components: int
) -> None:
    points = cloud(count, dimension)
    assert principal_components(points).axes.shape == (dimension, components)


def test_as_many_components_as_carry_nine_tenths_of_the_variance() -> None:
    base = torch.linalg.qr(cloud(400, 6) - cloud(400, 6).mean(dim=0)).Q
    points = base * torch.tensor([7.0, 1.0, 1.0, 1.0, 1.0, 1.0]).sqrt()  # shares 7/12, 8/12, 9/12, 10/12, 11/12
    found = principal_components(points)
    assert (found.axes.shape[1], found.share) == (5, pytest.approx(11 / 12))


# ---------------------------------------------------------------------- depths


def test_depths_are_projection_depths_among_the_other_agreeing_samples() -> None:
    apart, together = 3 * cloud(5, seed=1), cloud(200)
    found = compare_depths(apart, together, keys=keys(200), space="attributes")
    assert (len(found.reference), found.n_points, found.space) == (50, 150, "attributes (2)")
    others = torch.ones(200, dtype=torch.bool)
    others[found.rows] = False
    points = together[others]
    for depths, query in ((found.depths, apart), (found.reference, together[found.rows])):
        assert depths.tolist() == pytest.approx(projection_depth(query, points).depth.tolist(), rel=1e-9)


def test_u_and_p_are_those_of_counting_pairs_in_a_case_worked_by_hand() -> None:
    """Three far samples lie below all 25 of the group: U is 0, p is 1 / (28 choose 3)."""
    found = compare_depths(cloud(3) + 50, cloud(100), keys=keys(100), space="attributes")
    assert (found.statistic, found.p_value) == (0, pytest.approx(1 / 3276))
    middle = compare_depths(torch.zeros(3, 2) + 1e-3 * cloud(3), cloud(100), keys=keys(100), space="attributes")
    assert middle.p_value > 0.95  # deeper than others, which is not what is looked for


def test_p_values_of_samples_that_are_like_the_others_are_uniform_and_of_others_are_not() -> None:
    def p_values(scale: float) -> list[float]:
        return [
            compare_depths(
                scale * cloud(20, 1, seed=1000 + seed), cloud(100, 1, seed=seed), keys=keys(100), space="attributes"
            ).p_value
            for seed in range(60)
        ]

    assert kstest(p_values(1.0), "uniform").pvalue > 0.01
    assert kstest(p_values(1.5), "uniform").pvalue < 1e-6


def test_the_reference_group_is_at_most_a_hundred_and_depends_on_keys_not_on_order() -> None:
    together, apart = cloud(600), cloud(4, seed=1)
    found = compare_depths(apart, together, keys=keys(600), space="attributes")
    assert (len(found.reference), found.n_points) == (100, 500)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    other = compare_depths(apart, together[order], keys=keys(600)[order], space="attributes")
    assert torch.equal(order[other.rows], found.rows)
    assert other.depths.tolist() == pytest.approx(found.depths.tolist(), rel=1e-9)
    seeded = compare_depths(apart, together, keys=keys(600), space="attributes", seed=1)
    assert set(seeded.rows.tolist()) != set(found.rows.tolist())


def test_in_principal_components_a_direction_without_variance_says_nothing() -> None:
    together = torch.cat([cloud(200), torch.zeros(200, 1)], dim=1)  # in a plane of three dimensions
    apart = torch.tensor([[0.0, 0.0, 5.0]])
    assert compare_depths(apart, together, keys=keys(200), space="attributes").depths.item() == 0
    found = compare_depths(apart, together, keys=keys(200), space="pca")
    assert found.depths.item() > 0.5
    assert found.space == "PCA (2 components, 100% of the variance)"


@pytest.mark.parametrize("space", ["pca", "attributes"])
@pytest.mark.parametrize("count", [0, 1, 3, 25])
def test_too_few_agreeing_samples_are_reported(space: str, count: int) -> None:
    found = compare_depths(cloud(2, seed=1), cloud(count), keys=keys(count), space=space)  # type: ignore[arg-type]
    others = count - count // 4
    assert found.note == f"{others} other agreeing samples, 20 needed"
    assert bool(found.depths.isnan().all())
    assert np.isnan(found.p_value)
    assert len(found.depths) == 2


def test_many_attributes_need_many_samples_and_equal_samples_have_no_components() -> None:
    found = compare_depths(cloud(2, 30), cloud(60, 30), keys=keys(60), space="attributes")
    assert found.note == "45 other agreeing samples, 60 needed"
    same = compare_depths(cloud(2), torch.ones(40, 2), keys=keys(40), space="pca")
    assert same.note == "all other agreeing samples are equal"


def test_p_values_are_combined_by_fishers_method() -> None:
    values = [0.2, 0.01, 0.7]
    expected = chi2.sf(-2 * np.log(values).sum(), 6)
    assert combined_p_value([*values, float("nan")]) == pytest.approx(expected)
    assert np.isnan(combined_p_value([float("nan")]))


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match='`space` must be "pca" or "attributes", was \'pixels\''):
        compare_depths(cloud(1), cloud(9), keys=keys(9), space="pixels")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`agreeing` \(N, D\), were \(1, 2\) and \(9, 3\)"):
        compare_depths(cloud(1), cloud(9, 3), keys=keys(9))
    with pytest.raises(ValueError, match=r"`keys` must be \(9,\), one for each agreeing sample, was \(8,\)"):
        compare_depths(cloud(1), cloud(9), keys=keys(8))
    with pytest.raises(ValueError, match="`disagreeing` must be finite"):
        compare_depths(cloud(1) / 0, cloud(9), keys=keys(9))
    with pytest.raises(ValueError, match=r"`points` must be \(N, D\) with N of at least 20, was \(19, 2\)"):
        principal_components(cloud(19))
    with pytest.raises(ValueError, match="`points` must differ, but all are equal"):
        principal_components(torch.ones(20, 2))


# ---------------------------------------------------------------------- the report


class Blobs(Pictures):
    """Class a: 60 like pictures and four unlike ones; class b: 40 like ones and one unlike; class c: three pictures."""

    def load(self) -> Arrays:
        """Grey pictures under a little noise; what is unlike its class is inverted."""
        labels = np.array([0] * 64 + [1] * 41 + [2] * 3, dtype=np.int64)
        generator = np.random.default_rng(0)
        pixels = generator.normal(0, 8, (108, 3, *self.size)) + np.array([60, 120, 180])[labels, None, None, None]
        pixels[[3, 20, 40, 63, 100]] += 60 * generator.choice([-1, 1], (5, 1, *self.size))
        ids = tuple(f"blob {row}" for row in range(108))
        return Arrays(ids, pixels.clip(0, 255).astype(np.uint8), labels, np.ones((108, *self.size), dtype=bool))


DATA = Blobs(count=108)
APART = {3: (1, 0), 20: (0, 1), 40: (0, 2), 63: (1, 2), 100: (1, 0), 106: (2, 1)}  # row: what f and g predict


def blobs() -> Says:
    """A model and an interpreter that are right about everything but the samples `APART`."""
    labels = DATA.labels
    f, g = (9 * torch.nn.functional.one_hot(labels, 3).float() for _ in range(2))
    for row, (said, heard) in APART.items():
        f[row], g[row] = 0, 0
        f[row, said], g[row, heard], g[row, 3 - said - heard] = 9, 9, 4
    activations = DATA.take(range(108)).images.mean(dim=(2, 3))
    return Says(DATA.take(range(108)).images, predictor=f, interpreter=g, activations=activations)


@pytest.mark.parametrize("space", ["pca", "attributes"])
def test_the_report_lists_every_disagreeing_sample_with_its_facts(space: str) -> None:
    report = disagreement_report(blobs(), DATA, space=space, device="cpu")  # type: ignore[arg-type]
    frame = report.frame
    assert tuple(frame.columns) == COLUMNS
    assert frame.sample_id.tolist() == [f"blob {row}" for row in APART]
    assert frame.label.tolist() == ["a"] * 4 + ["b", "c"]
    assert frame.predicted.tolist() == ["abc"[said] for said, _ in APART.values()]
    assert frame.interpreted.tolist() == ["abc"[heard] for _, heard in APART.values()]
    assert frame.predictor_right.tolist() == [False, True, True, False, True, True]
    assert frame.interpreter_right.tolist() == [True, False, False, False, False, False]
    assert frame["rank"].tolist() == [3] * 6  # its logit is 0, those of the other two classes 9 and 4
    assert (report.n, report.n_invalid) == (108, 0)
    assert frame.n_reference.tolist() == [15] * 4 + [10, 0]
    assert frame.n_points.tolist() == [45] * 4 + [30, 2]
    assert frame.note.tolist() == [""] * 5 + ["2 other agreeing samples, 20 needed"]
    assert frame.depth.isna().tolist() == [False] * 5 + [True]
    assert frame.p_value.isna().tolist() == [False] * 5 + [True]


def test_samples_unlike_their_class_lie_less_deep() -> None:
    report = disagreement_report(blobs(), DATA, device="cpu")
    frame = report.frame[:5]
    assert (frame.reference_below < 0.5).all()
    assert (frame.depth < frame.reference_median).all()
    assert report.p_value < 0.05
    found = report.comparisons["a"]
    assert frame.depth.tolist()[:4] == found.depths.tolist()
    assert frame.reference_median[0] == np.median(found.reference)
    below = [(found.reference < depth).double().mean().item() for depth in found.depths]
    assert frame.reference_below.tolist()[:4] == pytest.approx(below)


def test_the_report_does_not_depend_on_the_batch_and_leaves_the_model_as_it_was() -> None:
    model = blobs()
    model.train()
    whole = disagreement_report(model, DATA, device="cpu").frame
    assert model.training
    pd.testing.assert_frame_equal(disagreement_report(model, DATA, device="cpu", batch_size=7).frame, whole)


def test_samples_without_a_prediction_are_counted_and_left_out() -> None:
    model = blobs()
    model.interpreter[20] = torch.nan
    model.activations[5] = torch.inf
    report = disagreement_report(model, DATA, device="cpu")
    assert report.n_invalid == 2
    assert "blob 20" not in report.frame.sample_id.tolist()
    assert report.frame.n_points[0] == 45  # 59 agree: 14 and 45


@pytest.mark.parametrize("space", ["pca", "attributes"])
def test_a_class_without_any_agreement_is_reported(space: str) -> None:
    model = blobs()
    model.interpreter[DATA.labels == 2] = torch.tensor([9.0, 0.0, 0.0])
    frame = disagreement_report(model, DATA, space=space, device="cpu").frame  # type: ignore[arg-type]
    assert frame.label.tolist() == ["a"] * 4 + ["b"] + ["c"] * 3
    assert frame.note.tolist()[5:] == ["0 other agreeing samples, 20 needed"] * 3


def test_a_limit_takes_the_first_samples_and_full_agreement_makes_an_empty_report(tmp_path: Path) -> None:
    report = disagreement_report(blobs(), DATA, limit=3, device="cpu")
    assert (report.n, len(report.frame), report.comparisons) == (3, 0, {})
    assert np.isnan(report.p_value)
    assert report.save(tmp_path) == [tmp_path / "disagreement.csv"]
    assert pd.read_csv(tmp_path / "disagreement.csv").columns.tolist() == list(COLUMNS)


def test_what_is_saved_is_the_table_and_a_picture_and_the_same_every_time(tmp_path: Path) -> None:
    report = disagreement_report(blobs(), DATA, device="cpu")
    files = report.save(tmp_path / "one" / "deeper")
    assert [file.name for file in files] == ["disagreement.csv", "disagreement.png"]
    again = report.save(tmp_path / "two")
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    table = pd.read_csv(files[0], keep_default_na=False, na_values={"depth": [""]})
    assert table.depth.tolist() == pytest.approx(report.frame.depth.tolist(), rel=1e-8, nan_ok=True)
    assert table.sample_id.tolist() == report.frame.sample_id.tolist()


def test_a_model_without_an_interpreter_and_data_without_one_label_are_refused() -> None:
    with pytest.raises(TypeError, match=r"`model` must have an interpreter, `interpret.*; SmallNet has none"):
        disagreement_report(SmallNet(), DATA)
    with pytest.raises(ValueError, match="`dataset` must have one label for each of one or more samples"):
        disagreement_report(blobs(), DATA, limit=0)
