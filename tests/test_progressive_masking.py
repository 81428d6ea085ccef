"""Masked and warped images are those of masking first and warping afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interpeval.datasets.philox import sample_keys
from interpeval.metrics.mask_k_pixels import pixel_order, pixel_rank
from interpeval.metrics.monte_carlo import repeat_draws
from interpeval.metrics.progressive_masking import MovedMasks, mask_pixels
from interpeval.metrics.warps import WarpFamily, Warps, affine_matrices

COUNTS = torch.tensor([0, 3, 4, 30, 62, 63])
SIZE = (7, 9)
AROUND = torch.tensor([-2.0, 0.3, 1.7]).view(3, 1, 1)
FILLS = {
    "around": AROUND.expand(4, 3, 1, 1),
    "other": torch.full((4, 3, 1, 1), 0.5),
    "noise": torch.randn(4, 3, *SIZE, generator=torch.Generator().manual_seed(5)),
}


def subjects() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    images, maps = torch.randn(4, 3, *SIZE, generator=generator), torch.randn(4, *SIZE, generator=generator)
    return images, pixel_rank(pixel_order(maps))


def drawn(**options: float) -> Warps:
    keys, draws = repeat_draws(sample_keys(["a", "b", "c", "d"]), 3)
    return WarpFamily(**options).draw(0, "test", keys, draws, size=SIZE)  # type: ignore[arg-type]


def one_after_the_other(warps: Warps, fill: Tensor, rows: Tensor) -> Tensor:
    images, rank = subjects()
    pair, step = rows // len(COUNTS), rows % len(COUNTS)
    sample = pair // 3
    masked = mask_pixels(images[sample], rank[sample], COUNTS[step], fill=fill[sample])
    return warps[pair].apply(masked, fill=AROUND)


def together(warps: Warps, fill: Tensor) -> MovedMasks:
    images, rank = subjects()
    return MovedMasks(images, rank, COUNTS, fill, warps=warps, around=AROUND)


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
@pytest.mark.parametrize("options", [{}, {"elastic": 0.1}], ids=["affine", "elastic"])
def test_they_are_the_masked_images_under_their_warps(fill: Tensor, options: dict[str, float]) -> None:
    warps, rows = drawn(**options), torch.arange(12 * len(COUNTS))
    expected = one_after_the_other(warps, fill, rows)
    torch.testing.assert_close(together(warps, fill)(rows), expected, atol=3e-6, rtol=0)
    assert (expected - one_after_the_other(warps, fill, rows.flip(0))).abs().max() > 1  # another warp or step shows


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
def test_warps_that_permute_pixels_keep_values_to_the_bit(fill: Tensor) -> None:
    angles = torch.tensor([0.0, 180.0, 17.0]).repeat(4)
    matrices = affine_matrices(angles, torch.tensor([0.25, -0.5]).expand(12, 2), size=SIZE)
    warps, rows = Warps(matrices, SIZE), torch.arange(12 * len(COUNTS))
    exact = warps.permutes[rows // len(COUNTS)]
    assert exact.float().mean() == pytest.approx(2 / 3)
    difference = together(warps, fill)(rows) - one_after_the_other(warps, fill, rows)
    assert not difference[exact].any()
    assert difference[~exact].any()


def test_an_image_without_a_pixel_left_is_its_surroundings_to_the_bit() -> None:
    rows = torch.arange(12) * len(COUNTS) + len(COUNTS) - 1
    assert torch.equal(together(drawn(), FILLS["around"])(rows), AROUND.expand(12, 3, *SIZE))


@pytest.mark.parametrize("portion", [1, 5, 6, 13])
@pytest.mark.parametrize("block", [1, 2**14])
def test_how_many_rows_are_asked_for_changes_no_bit(portion: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, warps = torch.arange(12 * len(COUNTS)), drawn()
    whole = together(warps, FILLS["noise"])(rows)
    monkeypatch.setattr("interpeval.metrics.progressive_masking._BLOCK", block)
    monkeypatch.setattr("interpeval.metrics.progressive_masking._CACHED", block)
    build = together(warps, FILLS["noise"])
    assert torch.equal(torch.cat([build(part).clone() for part in rows.split(portion)]), whole)
    assert torch.equal(build(rows[7:9]), whole[7:9])  # asked for again, as after a lack of memory


def test_what_was_made_does_not_change_when_more_is_made() -> None:
    build = together(drawn(), FILLS["around"])
    first = build(torch.arange(3))
    copy = first.clone()
    build(torch.arange(40, 50))
    first_again = build(torch.arange(3))
    first.zero_()  # what a network that works in place does
    assert torch.equal(first_again, copy)
    assert torch.equal(build(torch.arange(3)), copy)
