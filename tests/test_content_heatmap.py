"""Content heatmap: distribution form, share of the positive mass, and the metric."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interpeval.metrics.base import Status
from interpeval.metrics.content_heatmap import ContentHeatmap, content_heatmap, distribution, positive_share
from known_maps import known_maps
from reference import pointing_game as slow
from small_subject import Pictures, see


def test_known_shares() -> None:
    heatmap = torch.tensor([[[1.0, 2.0], [3.0, -4.0]], [[0.0, -1.0], [-5.0, 8.0]], [[1.0, 1.0], [1.0, 1.0]]])
    mask = torch.tensor([[[True, False], [True, True]], [[True, True], [True, False]], [[False, True], [False, False]]])
    assert content_heatmap(heatmap, mask).tolist() == pytest.approx([4 / 6, 0.0, 0.25], abs=1e-15)


@given(seed=st.integers(0, 1000), share=st.floats(0.0, 1.0), shift=st.floats(-2.0, 2.0))
@settings(deadline=None, max_examples=30)
def test_share_is_its_definition(seed: int, share: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    heatmap = torch.randn(9, 5, 7, generator=generator, dtype=torch.float64) + shift
    region = torch.rand(9, 5, 7, generator=generator) < share
    expected = [slow.share_in(*each) for each in zip(heatmap.numpy(), region.numpy(), strict=True)]
    np.testing.assert_allclose(positive_share(heatmap, region).numpy(), expected, atol=1e-14)


def test_a_map_without_positive_part_has_share_0_and_an_empty_mask_none() -> None:
    heatmap = torch.tensor([[[0.0, 0.0]], [[-1.0, -2.0]], [[1.0, 2.0]]])
    mask = torch.tensor([[[True, True]], [[True, False]], [[False, False]]])
    assert content_heatmap(heatmap, mask).tolist() == pytest.approx([0.0, 0.0, float("nan")], nan_ok=True)
    assert positive_share(heatmap, mask).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float64, 1e308), (torch.float64, 5e-324), (torch.float32, 1e-45),
                                              (torch.float32, 3e38), (torch.float16, 6e4)])  # fmt: skip
def test_the_distribution_survives_the_ends_of_the_number_range(dtype: torch.dtype, scale: float) -> None:
    """Naively, a sum of 16 such numbers overflows, or their quotient by it is lost."""
    heatmap = torch.zeros(1, 8, 8, dtype=dtype)
    heatmap[0, 2:6, 2:6] = scale
    heatmap[0, 0, 0] = -scale
    p = distribution(heatmap)
    assert p.dtype == torch.float64
    assert p[0, 2:6, 2:6].tolist() == [[1 / 16] * 4] * 4
    assert p.sum() == 1
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, :, :3] = True
    assert content_heatmap(heatmap, mask).item() == 0.25


def test_the_distribution_of_known_and_faulty_maps() -> None:
    heatmap = torch.tensor([[[3.0, -7.0, 1.0]], [[0.0, -1.0, 0.0]], [[1.0, torch.nan, 2.0]], [[1.0, -torch.inf, 2.0]]])
    p = distribution(heatmap)
    assert p[:2].tolist() == [[[0.75, 0.0, 0.25]], [[0.0, 0.0, 0.0]]]
    assert p[2:].isnan().all()


def test_a_share_never_leaves_its_range_by_rounding() -> None:
    """All mass inside is exactly 1, whatever the numbers: the part and the whole are summed in one order."""
    generator = torch.Generator().manual_seed(0)
    heatmap = torch.rand(200, 13, 17, generator=generator) ** 9
    region = torch.rand(200, 13, 17, generator=generator) < 0.4
    assert (content_heatmap(heatmap * region, region) == 1).all()
    assert (content_heatmap(heatmap * ~region, region) == 0).all()


def test_the_metric_marks_silent_and_faulty_maps_and_empty_masks() -> None:
    pictures = Pictures(count=5)
    batch = pictures.take(range(5))
    assert batch.masks is not None
    maps = batch.masks.float() + 1
    maps[0] = 0.0
    maps[1] = -1.0
    maps[2, 5, 5] = torch.nan
    batch.masks[3] = False
    evidence = see(known_maps(batch, maps), dataset=pictures, batch=batch)
    scores = ContentHeatmap().score(evidence)[""]
    assert scores.status.tolist() == [
        Status.DEGENERATE, Status.DEGENERATE, Status.INVALID, Status.NO_TRUTH, Status.OK,
    ]  # fmt: skip
    assert scores.values[[0, 1]].tolist() == [0.0, 0.0]
    assert scores.values[4].item() == pytest.approx(24 / (81 + 12), abs=1e-15)  # 12 object pixels of 2, 69 of 1


def test_the_metric_explains_the_label() -> None:
    class ForClass1:
        def attribute(self, model: object, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            columns = torch.arange(9).expand(len(inputs), 1, 9, 9)
            return ((columns >= 3) & (columns <= 5) == (targets == 1).view(-1, 1, 1, 1)).float()

    values = ContentHeatmap().score(see(ForClass1()))[""].values.tolist()
    assert values == pytest.approx([0, 12 / 27, 0, 0, 12 / 27], abs=1e-15)  # labels 0, 1, 2, 0, 1
