"""The largest values of a heatmap: which pixels they are, how ties are broken, and both ways of finding them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interpeval.datasets.philox import permutation, sample_keys
from interpeval.metrics import largest_values
from interpeval.metrics.largest_values import largest_inside
from interpeval.metrics.mask_k_pixels import pixel_order
from reference import top_k as slow


def smooth(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Coarse noise made larger: at the border, where there is nothing to interpolate, neighbours are equal."""
    coarse = torch.randn(count, 1, 7, 7, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)[:, 0]


def noise_mask(count: int, size: tuple[int, int], share: float = 0.3, seed: int = 1) -> Tensor:
    return torch.rand(count, *size, generator=torch.Generator().manual_seed(seed)) < share


def by_order(heatmap: Tensor, mask: Tensor, count: Tensor, *, seed: int, ids: list[str]) -> list[int]:
    """The definition: the first pixels of `pixel_order`."""
    order = pixel_order(heatmap, order="most", seed=seed, ids=ids)
    return [int(m.flatten()[o[:k]].sum()) for m, o, k in zip(mask, order, count.tolist(), strict=True)]


@given(
    seed=st.integers(0, 1000), height=st.integers(1, 6), width=st.integers(1, 6), levels=st.sampled_from([1, 2, 4, 99]),
    data=st.data(),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_it_is_its_definition(seed: int, height: int, width: int, levels: int, data: st.DataObject) -> None:
    """From constant maps to maps without ties, and every number of pixels."""
    generator = torch.Generator().manual_seed(seed)
    heatmap = torch.randint(0, levels, (3, height, width), generator=generator).double() - levels // 2
    mask = torch.rand(3, height, width, generator=generator) < 0.5
    count = [data.draw(st.integers(0, height * width)) for _ in range(3)]
    ids = ["a", "b", "c"]
    shuffled = permutation(seed, "pixel_order", sample_keys(ids), 0, height * width).tolist()
    expected = [
        slow.largest_inside(h, m, k, order)
        for h, m, k, order in zip(heatmap.numpy(), mask.numpy(), count, shuffled, strict=True)
    ]
    assert largest_inside(heatmap, mask, torch.tensor(count), seed=seed, ids=ids).tolist() == expected


@pytest.mark.parametrize("kind", ["smooth", "noise", "rectified", "few levels", "constant"])
@pytest.mark.parametrize("size", [(97, 122), (64, 61)])
def test_large_maps_give_the_first_pixels_of_the_order(kind: str, size: tuple[int, int]) -> None:
    """Sides of 61 and 122 are the worst for the sample of every 61st pixel: it then is one or two columns."""
    heatmap = smooth(6, size)
    if kind == "noise":
        heatmap = torch.randn(heatmap.shape, generator=torch.Generator().manual_seed(2))
    elif kind == "rectified":
        heatmap = heatmap.clamp(min=0)
    elif kind == "few levels":
        heatmap = heatmap.round()
    elif kind == "constant":
        heatmap = torch.full_like(heatmap, -0.5)
    mask, pixels, ids = noise_mask(6, size), size[0] * size[1], list("abcdef")
    for k in (1, 2, 61, pixels // 5, pixels // 2, pixels * 9 // 10, pixels - 1, pixels):
        count = torch.full((6,), k)
        assert largest_inside(heatmap, mask, count, seed=3, ids=ids).tolist() == by_order(
            heatmap, mask, count, seed=3, ids=ids
        )


@pytest.mark.parametrize("values", ["ascending", "descending", "one high column"])
def test_a_sample_that_misleads_only_costs_time(values: str) -> None:
    heatmap = torch.arange(61.0 * 61).view(1, 61, 61)
    if values == "descending":
        heatmap = -heatmap
    elif values == "one high column":  # the very column that is sampled
        heatmap[0, :, 0] += 1e6
    mask = noise_mask(1, (61, 61))
    for k in (1, 30, 61, 62, 100, 3000, 3721):
        expected = int(mask.flatten()[heatmap.flatten().argsort(descending=True)[:k]].sum())
        assert largest_inside(heatmap, mask, torch.tensor([k])).item() == expected


def test_both_ways_of_cutting_agree() -> None:
    """The one of the CPU and the one of every other device."""
    maps = torch.cat((smooth(5, (40, 50)), smooth(5, (40, 50)).clamp(min=0), torch.ones(2, 40, 50))).flatten(1)
    masks = noise_mask(12, (40, 50)).flatten(1)
    count = torch.tensor([1, 40, 900, 1999, 2000, 3, 700, 1500, 1998, 2000, 1000, 2000])
    maps[1, 7], maps[2, 7], maps[3, 7], count[0] = torch.nan, torch.inf, -torch.inf, 0
    by_numpy = largest_values._cut_by_numpy(maps, masks, count)
    by_sorting = largest_values._cut_by_sorting(maps, masks, count)
    assert len(by_sorting.row.unique()) > 2  # some cuts do go through ties
    torch.testing.assert_close(by_numpy.inside, by_sorting.inside, rtol=0, atol=0, equal_nan=True)
    assert by_numpy.inside.isnan().sum() == 3
    for name in ("row", "pixel", "on"):
        assert torch.equal(getattr(by_numpy, name), getattr(by_sorting, name))
    assert torch.equal(by_numpy.room[by_numpy.row], by_sorting.room[by_sorting.row])


def test_the_choice_among_ties_is_that_of_seed_and_sample_alone() -> None:
    heatmap, mask, ids = smooth(8, (30, 40)).round(), noise_mask(8, (30, 40)), list("abcdefgh")
    count = torch.full((8,), 333)
    whole = largest_inside(heatmap, mask, count, seed=5, ids=ids)
    order = [6, 1, 3]
    part = largest_inside(heatmap[order], mask[order], count[order], seed=5, ids=[ids[i] for i in order])
    assert torch.equal(part, whole[order])
    assert torch.equal(largest_inside(heatmap, mask, count, seed=5, ids=sample_keys(ids)), whole)
    assert not torch.equal(largest_inside(heatmap, mask, count, seed=6, ids=ids), whole)
    assert not torch.equal(largest_inside(heatmap, mask, count, seed=5), whole)  # without ids, positions


def test_many_tied_maps_are_drawn_as_few_are() -> None:
    """More tied pixels than are drawn at once, in more maps than are cut at once."""
    heatmap, mask = torch.zeros(130, 40, 40), noise_mask(130, (40, 40))
    count = torch.arange(130) * 12 + 1
    whole = largest_inside(heatmap, mask, count)
    assert whole.tolist() == by_order(heatmap, mask, count, seed=0, ids=range(130))  # type: ignore[arg-type]


def test_maps_that_are_no_numbers_count_nothing_and_leave_the_others_alone() -> None:
    heatmap, mask = smooth(5, (30, 40)), noise_mask(5, (30, 40))
    count = torch.full((5,), 100)
    clean = largest_inside(heatmap, mask, count)
    heatmap[1, 3, 3], heatmap[2, 0, 0], heatmap[3, 9, 9] = torch.nan, torch.inf, -torch.inf
    result = largest_inside(heatmap, mask, count)
    assert result.isnan().tolist() == [False, True, True, True, False]
    assert torch.equal(result[[0, 4]], clean[[0, 4]])
    assert clean.min() > 0


def test_minus_zero_ties_with_zero() -> None:
    heatmap = torch.tensor([[[0.0, -0.0, 0.0, -0.0, -1.0]]]).expand(200, -1, -1)
    mask = torch.tensor([[[False, True, False, True, False]]]).expand(200, -1, -1)
    inside = largest_inside(heatmap, mask, torch.full((200,), 2))
    assert set(inside.tolist()) == {0, 1, 2}
    assert torch.equal(inside, largest_inside(heatmap + 0.0, mask, torch.full((200,), 2)))  # -0.0 + 0.0 is 0.0
    assert inside.double().mean().item() == pytest.approx(1.0, abs=4 * (1 / 3 / 200) ** 0.5)  # hypergeometric


def test_views_that_are_not_contiguous_score_as_their_copies() -> None:
    heatmap, mask = smooth(3, (30, 40)).transpose(1, 2), noise_mask(3, (30, 40)).transpose(1, 2)
    count = torch.tensor([5, 100, 900])
    assert torch.equal(
        largest_inside(heatmap, mask, count), largest_inside(heatmap.contiguous(), mask.contiguous(), count)
    )


def test_a_heatmap_may_require_gradients() -> None:
    heatmap, mask = smooth(2, (30, 40)), noise_mask(2, (30, 40))
    count = torch.tensor([5, 100])
    assert torch.equal(
        largest_inside(heatmap.clone().requires_grad_(), mask, count), largest_inside(heatmap, mask, count)
    )


def test_ids_must_name_every_sample() -> None:
    with pytest.raises(ValueError, match="`ids` must name each of the 3 samples, had 1"):
        largest_inside(torch.zeros(3, 2, 2), torch.ones(3, 2, 2).bool(), torch.ones(3, dtype=torch.int64), ids=["a"])


def test_a_random_choice_among_ties_is_fair() -> None:
    """A constant map: the count is hypergeometric, with mean 12 · 20 / 80 = 3 and its known variance."""
    mask = torch.zeros(4000, 8, 10, dtype=torch.bool)
    mask[:, :2] = True
    inside = largest_inside(torch.ones(4000, 8, 10), mask, torch.full((4000,), 12)).numpy()
    variance = 12 * 0.25 * 0.75 * (80 - 12) / (80 - 1)
    assert abs(inside.mean() - 3) < 4 * np.sqrt(variance / 4000)
    assert inside.var(ddof=1) == pytest.approx(variance, rel=4 * np.sqrt(2 / 4000))
