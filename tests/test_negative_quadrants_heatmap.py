"""Negative quadrants heatmap: the share outside a cell, the composites that are explained, and the metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from interpeval.baselines.truth import Truth
from interpeval.datasets.base import ArrayDataset, Batch
from interpeval.datasets.philox import derived_keys, random_words
from interpeval.metrics.base import Inputs, Scores, Status
from interpeval.metrics.negative_quadrants_heatmap import NegativeQuadrantsHeatmap, negative_quadrants_heatmap
from reference import pointing_game as slow
from small_subject import FromImage, Pictures, SmallNet, see

ONES = FromImage(lambda inputs: torch.ones_like(inputs[:, :1]))


class FixedNet(SmallNet):
    """Refuses any input but of the size it was made for."""

    def __init__(self, size: tuple[int, int]) -> None:
        """Store the size."""
        super().__init__()
        self.size = size

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits."""
        if tuple(inputs.shape[-2:]) != self.size:
            raise RuntimeError("wrong size")
        return super().forward(inputs)


def record(
    dataset: Pictures, model: nn.Module, *, batch: Batch | None = None
) -> list[tuple[Tensor, int, Tensor | None]]:
    """Image, target and mask that the metric asks to be explained for every sample, in order."""
    evidence = see(ONES, dataset=dataset, model=model, batch=batch)
    asked: list[Inputs] = []

    def explain(count: int, build: Callable[[Tensor], Inputs]) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.arange(count).split(4):
            asked.append(build(rows))
            yield rows, asked[-1].images[:, 0]

    evidence.explain = explain  # type: ignore[method-assign]
    NegativeQuadrantsHeatmap().score(evidence)
    keys = derived_keys(evidence.batch.keys, "negative_quadrants_heatmap", 0)
    assert torch.equal(torch.cat([inputs.keys for inputs in asked]), keys)
    return [
        (inputs.images[row], int(inputs.targets[row]), None if inputs.masks is None else inputs.masks[row])
        for inputs in asked
        if inputs.targets is not None
        for row in range(len(inputs.images))
    ]


def cells(dataset: ArrayDataset, seed: int = 0) -> list[int]:
    keys = dataset.take(range(len(dataset))).keys
    return (random_words(seed, "negative_quadrants_heatmap", keys, 0, 1)[:, 0] % 4).tolist()


# --- the function -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "value"), [(0, 0.9), (1, 0.8), (2, 0.7), (3, 0.6)])
def test_cells_are_counted_in_reading_order(cell: int, value: float) -> None:
    heatmap = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]).repeat_interleave(3, dim=1).repeat_interleave(2, dim=2)
    assert negative_quadrants_heatmap(heatmap, torch.tensor([cell])).item() == pytest.approx(value, abs=1e-15)


@given(seed=st.integers(0, 1000), height=st.integers(2, 9), width=st.integers(2, 9))
@settings(deadline=None, max_examples=40)
def test_it_is_its_definition(seed: int, height: int, width: int) -> None:
    """Odd sides included, where the first half is the shorter one."""
    generator = torch.Generator().manual_seed(seed)
    heatmap = torch.randn(9, height, width, generator=generator, dtype=torch.float64)
    heatmap[4] = -heatmap[4].abs()
    cell = torch.randint(0, 4, (9,), generator=generator)
    expected = [slow.negative_quadrants_heatmap(h, int(c)) for h, c in zip(heatmap.numpy(), cell, strict=True)]
    np.testing.assert_allclose(negative_quadrants_heatmap(heatmap, cell).numpy(), expected, atol=1e-14)


def test_the_four_cells_of_a_map_share_its_mass() -> None:
    heatmap = torch.randn(1, 11, 8, generator=torch.Generator().manual_seed(0)).expand(4, -1, -1)
    assert negative_quadrants_heatmap(heatmap, torch.arange(4)).sum().item() == pytest.approx(3.0, abs=1e-12)


def test_silent_maps_score_the_worst_and_faulty_ones_nothing() -> None:
    heatmap = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    cell = torch.tensor([0, 1, 2, 3, 0])
    clean = negative_quadrants_heatmap(heatmap, cell)
    heatmap[0], heatmap[1] = 0.0, -1.0
    heatmap[2], heatmap[3, 0, 0] = -1.0, torch.inf
    heatmap[2, 3, 3] = torch.nan
    result = negative_quadrants_heatmap(heatmap, cell)
    assert result[:4].tolist() == pytest.approx([1.0, 1.0, float("nan"), float("nan")], nan_ok=True)
    assert torch.equal(result[4], clean[4])


def test_turning_by_180_degrees_swaps_opposite_cells() -> None:
    heatmap = torch.randn(4, 6, 10, generator=torch.Generator().manual_seed(1))
    cell = torch.arange(4)
    turned = negative_quadrants_heatmap(heatmap.flip(1, 2), 3 - cell)
    torch.testing.assert_close(turned, negative_quadrants_heatmap(heatmap, cell), atol=1e-12, rtol=0)
    assert not torch.allclose(negative_quadrants_heatmap(heatmap.flip(1, 2), cell), turned)


@pytest.mark.parametrize(
    ("heatmap", "cell", "error", "message"),
    [
        (torch.zeros(2, 4, 4), torch.zeros(2), TypeError, "`cell` must be a tensor of integers"),
        (torch.zeros(2, 4, 4), torch.zeros(2).bool(), TypeError, "`cell` must be a tensor of integers"),
        (torch.zeros(2, 4, 4), [0, 1], TypeError, "`cell` must be a tensor of integers"),
        (torch.zeros(2, 4, 4), torch.tensor([0]), ValueError, r"`cell` must be \(2,\)"),
        (torch.zeros(2, 4, 4), torch.tensor([0, 4]), ValueError, "`cell` must be in 0 … 3"),
        (torch.zeros(2, 4, 4), torch.tensor([-1, 0]), ValueError, "`cell` must be in 0 … 3"),
        (torch.zeros(1, 1, 4), torch.tensor([0]), ValueError, "`heatmap` must have at least 2 rows"),
        (torch.zeros(1, 4, 4).int(), torch.tensor([0]), TypeError, "`heatmap`.*torch.int32"),
    ],
)
def test_wrong_inputs_are_named(heatmap: Tensor, cell: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        negative_quadrants_heatmap(heatmap, cell)


# --- the composites ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_a_composite_holds_the_image_in_its_cell_and_three_others_untouched(size: tuple[int, int]) -> None:
    dataset = Pictures(size=size, count=9)
    batch = dataset.take(range(9))
    assert batch.masks is not None
    height, width = size
    seen = set()
    for row, ((image, target, mask), cell) in enumerate(zip(record(dataset, SmallNet()), cells(dataset), strict=True)):
        assert image.shape == (3, 2 * height, 2 * width)
        tiles = [image[:, y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
        holders = [next(i for i in range(9) if torch.equal(tile, batch.images[i])) for tile in tiles]
        assert holders[cell] == row
        others = [holder for place, holder in enumerate(holders) if place != cell]
        assert len({*others}) == 3
        assert all(batch.labels[other] != batch.labels[row] for other in others)
        assert target == batch.labels[row]
        assert mask is not None
        parts = [mask[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
        assert torch.equal(parts[cell], batch.masks[row])
        assert mask.sum() == batch.masks[row].sum()
        seen.add(cell)
    assert len(seen) > 2


@pytest.mark.parametrize("size", [(12, 12), (9, 13)])
def test_a_model_of_fixed_size_gets_every_cell_at_half_its_sides(size: tuple[int, int]) -> None:
    """A cell is the antialiased bilinear reduction of its image; of odd sides the first cell is the shorter one."""
    dataset = Pictures(size=size, count=9)
    batch = dataset.take(range(9))
    assert batch.masks is not None
    top, left = size[0] // 2, size[1] // 2
    parts = [(slice(0, top), slice(0, left)), (slice(0, top), slice(left, None)), (slice(top, None), slice(0, left)),
             (slice(top, None), slice(left, None))]  # fmt: skip
    for row, ((image, _, mask), cell) in enumerate(zip(record(dataset, FixedNet(size)), cells(dataset), strict=True)):
        assert image.shape == (3, *size)
        tile = image[(slice(None), *parts[cell])]
        assert tile.shape[1] in {size[0] // 2, size[0] - size[0] // 2}
        expected = F.interpolate(
            batch.images[row : row + 1], size=tile.shape[1:], mode="bilinear", antialias=True, align_corners=False
        )[0]
        torch.testing.assert_close(tile, expected)
        assert mask is not None
        assert mask[parts[cell]].any()
        assert mask.sum() == mask[parts[cell]].sum()


def test_a_reduced_mask_keeps_an_object_of_one_pixel() -> None:
    dataset = Pictures(size=(9, 13), count=6)
    batch = dataset.take(range(6))
    assert batch.masks is not None
    for row, (y, x) in enumerate([(0, 0), (8, 12), (4, 6), (3, 12), (8, 0), (5, 7)]):
        batch.masks[row] = False
        batch.masks[row, y, x] = True
    counts = [int(mask.sum()) for _, _, mask in record(dataset, FixedNet((9, 13)), batch=batch) if mask is not None]
    assert len(counts) == 6
    assert min(counts) >= 1
    assert max(counts) <= 4  # where the reduced pixels of an odd side overlap


def test_without_masks_none_are_handed_on() -> None:
    dataset = Pictures(count=5)
    batch = dataset.take(range(5))
    batch = Batch(batch.ids, batch.images, batch.labels)
    assert [mask for _, _, mask in record(dataset, SmallNet(), batch=batch)] == [None] * 5


# --- the metric ----------------------------------------------------------------------------------------------------


def score(explainer: object, **options: object) -> Scores:
    (scores,) = NegativeQuadrantsHeatmap().score(see(explainer, **options)).values()  # type: ignore[arg-type]
    return scores


def test_variants_say_whether_cells_were_resized() -> None:
    assert list(NegativeQuadrantsHeatmap().score(see(ONES))) == [""]
    assert list(NegativeQuadrantsHeatmap().score(see(ONES, model=FixedNet((9, 9))))) == ["resized"]


def test_a_constant_map_scores_chance() -> None:
    even = Pictures(size=(8, 10), count=7)
    assert score(ONES, dataset=even).values.tolist() == [0.75] * 7
    assert score(ONES, dataset=even, model=FixedNet((8, 10))).values.tolist() == [0.75] * 7
    assert score(ONES, dataset=Pictures(size=(7, 9), count=7)).values.tolist() == [0.75] * 7
    assert NegativeQuadrantsHeatmap().chance == 0.75


@pytest.mark.parametrize("model", [SmallNet(), FixedNet((9, 9))])
def test_the_truth_scores_0_and_its_complement_does_not(model: nn.Module) -> None:
    class Lies(Truth):
        def attribute(
            self, model: nn.Module, inputs: Tensor, targets: Tensor, *, masks: Tensor | None = None
        ) -> Tensor:
            return 1 - super().attribute(model, inputs, targets, masks=masks)

    assert score(Truth(), model=model).values.tolist() == [0.0] * 5
    assert (score(Lies(), model=model).values > 0.75).all()


def test_silent_and_faulty_maps_are_marked() -> None:
    """The composite of one sample is recognised by its target: label 1 gets a silent map, label 2 a faulty one."""

    class ByLabel:
        def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            value = torch.tensor([1.0, -1.0, torch.nan])[targets]
            return value.view(-1, 1, 1, 1).expand(-1, 1, *inputs.shape[-2:]).clone()

    scores = score(ByLabel())  # labels 0, 1, 2, 0, 1
    assert scores.status.tolist() == [Status.OK, Status.DEGENERATE, Status.INVALID, Status.OK, Status.DEGENERATE]
    assert scores.values.tolist() == pytest.approx([0.75, 1.0, float("nan"), 0.75, 1.0], nan_ok=True)
    (skip,) = NegativeQuadrantsHeatmap(degenerate="skip").score(see(ByLabel())).values()
    assert skip.status.tolist() == [Status.OK, Status.SKIPPED, Status.INVALID, Status.OK, Status.SKIPPED]
    assert skip.values.tolist() == pytest.approx([0.75, *[float("nan")] * 2, 0.75, float("nan")], nan_ok=True)


def test_an_unknown_rule_for_silent_maps_is_refused() -> None:
    with pytest.raises(ValueError, match='`degenerate` must be "worst" or "skip", was \'best\''):
        NegativeQuadrantsHeatmap(degenerate="best")  # type: ignore[arg-type]


def test_scores_do_not_depend_on_batch_or_micro_batch_but_on_the_seed() -> None:
    dataset = Pictures(count=9)
    explainer = FromImage(lambda inputs: inputs.sum(dim=1, keepdim=True))
    whole = score(explainer, dataset=dataset).values
    for micro_batch in (1, 2, 5):
        assert torch.equal(score(explainer, dataset=dataset, micro_batch=micro_batch).values, whole)
    order = [5, 0, 8, 3]
    assert torch.equal(score(explainer, dataset=dataset, batch=dataset.take(order)).values, whole[order])
    assert not torch.equal(score(explainer, dataset=dataset, seed=1).values, whole)


def test_all_cells_are_equally_likely() -> None:
    """Chi-squared with 3 degrees of freedom: below 16.3 in 999 of 1000 fair draws; the draw is fixed by its seed."""
    counts = np.bincount(cells(Pictures(count=2000, size=(2, 2))), minlength=4)
    assert (((counts - 500) ** 2) / 500).sum() < 16.3
