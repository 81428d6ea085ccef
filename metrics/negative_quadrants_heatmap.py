"""Negative quadrants heatmap: does the explanation of a class stay on its image in a composite of four?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
from torch import Tensor

from ..datasets.composites import composite, composite_cells, composite_masks, quadrants, tiles
from ..datasets.philox import derived_keys
from .base import Evidence, Inputs, Metric, Scores, Status, invalid_maps, nan_where, status_of
from .content_heatmap import positive_share, silent_maps
from .localisation import Degenerate, check_choice, check_heatmap, silence


def negative_quadrants_heatmap(heatmap: Tensor, cell: Tensor) -> Tensor:
    """Measure the share of a composite's positive heatmap mass that lies outside one of its four cells.

    `Σ p` over the three other cells, `p = max(h, 0) / Σ max(h, 0)`. The cells meet at row `H // 2` and column
    `W // 2`.

    Args:
        heatmap: `(B, H, W)` floating point, H and W at least 2.
        cell: `(B,)` integers: 0 top left, 1 top right, 2 bottom left, 3 bottom right.

    Returns:
        `(B,)` float64 in [0, 1], lower is better, chance 0.75. 1 where a map has no positive part; NaN where it
        holds NaN or an infinite value.

    Raises:
        TypeError: `heatmap` is not floating point, or `cell` not of integers.
        ValueError: shapes do not fit, or a cell is not in 0 … 3.

    Example:
        >>> heatmap = torch.tensor([[[6.0, 1.0], [1.0, -3.0]]])
        >>> negative_quadrants_heatmap(heatmap, torch.tensor([0]))
        tensor([0.2500], dtype=torch.float64)
    """
    check_heatmap(heatmap)
    _check_cell(cell, heatmap)
    outside = torch.ones_like(heatmap, dtype=torch.bool)
    for index, (rows, columns) in enumerate(quadrants(heatmap.shape[1], heatmap.shape[2])):
        outside[:, rows, columns] = (cell != index).view(-1, 1, 1)
    return positive_share(heatmap, outside).masked_fill(silent_maps(heatmap) & ~invalid_maps(heatmap), 1.0)


@dataclass(frozen=True)
class NegativeQuadrantsHeatmap(Metric):
    """Negative quadrants heatmap: share of the label's heatmap that strays from its image to three distractors.

    Each image is put into a random cell of a 2×2 composite, three images of other classes into the rest, and the
    image's label is explained on the composite. Lower is better, in [0, 1], chance 0.75. A map without a positive
    part scores 1 and is degenerate.

    Variant `""`: every cell at its own resolution, so the input has twice the sides. Variant `"resized"`, for models
    that refuse such inputs: the composite has the size of one image, and each cell is reduced to its half by
    antialiased bilinear interpolation (of odd sides the first half is the shorter one). Masks for the control `truth`
    are reduced so that every object keeps at least a pixel.

    Departs from the publication, whose code for this metric was never released, in the choices named here.

    Attributes:
        degenerate: what a map without a positive part does: `"worst"`, score 1; `"skip"`, leave the sample out. It
            is counted either way.

    Example:
        >>> NegativeQuadrantsHeatmap().chance
        0.75
    """

    name: ClassVar[str] = "negative_quadrants_heatmap"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = 0.75
    needs: ClassVar[frozenset[str]] = frozenset({"explainer", "distractors"})
    reference: ClassVar[str] = "Pillai & Pirsiavash, Explainable Models with Consistent Interpretations, AAAI 2021"

    degenerate: Degenerate = "worst"

    def __post_init__(self) -> None:
        """Check the configuration."""
        check_choice("degenerate", self.degenerate, get_args(Degenerate))

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch: variant `""`, or `"resized"` for a model of fixed input size."""
        batch = evidence.batch
        height, width = batch.images.shape[-2:]
        size = (height, width) if evidence.fixed_size else (2 * height, 2 * width)
        cell = composite_cells(batch.keys, evidence.seed)
        keys = derived_keys(batch.keys, self.name, 0)
        targets, distractors = evidence.targets("label"), evidence.distractors(3)

        def build(rows: Tensor) -> Inputs:
            return Inputs(
                images=composite(tiles(batch.images[rows], distractors[rows], cell[rows]), size),
                targets=targets[rows],
                keys=keys[rows],
                masks=None if batch.masks is None else _in_cell(batch.masks[rows], cell[rows], size),
            )

        values = torch.full((len(batch),), torch.nan, dtype=torch.float64, device=batch.images.device)
        silent, invalid = values.isfinite(), values.isnan()
        for rows, heatmaps in evidence.explain(len(batch), build):
            values[rows] = negative_quadrants_heatmap(heatmaps, cell[rows])
            silent[rows], invalid[rows] = silent_maps(heatmaps), invalid_maps(heatmaps)
        status = status_of(len(batch), values.device, **silence(silent, self.degenerate), invalid=invalid)
        variant = "resized" if evidence.fixed_size else ""
        return {variant: Scores(nan_where(values, status >= Status.NO_TRUTH), status)}


def _check_cell(cell: Tensor, heatmap: Tensor) -> None:
    if not torch.is_tensor(cell) or cell.is_floating_point() or cell.is_complex() or cell.dtype == torch.bool:
        raise TypeError("`cell` must be a tensor of integers: 0 top left, 1 top right, 2 bottom left, 3 bottom right")
    if tuple(cell.shape) != (len(heatmap),):
        raise ValueError(f"`cell` must be ({len(heatmap)},), one for each map, was {tuple(cell.shape)}")
    if bool(((cell < 0) | (cell > 3)).any()):
        raise ValueError(f"`cell` must be in 0 … 3, was {cell.tolist()}")
    if min(heatmap.shape[1:]) < 2:
        raise ValueError(f"`heatmap` must have at least 2 rows and columns, was {tuple(heatmap.shape)}")


def _in_cell(masks: Tensor, cell: Tensor, size: tuple[int, int]) -> Tensor:
    """`(n, *size)` bool: each mask in its cell, nothing in the others."""
    nothing = torch.zeros_like(masks)[:, None].expand(-1, 3, -1, -1)
    return composite_masks(tiles(masks, nothing, cell), size)
