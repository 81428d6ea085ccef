"""U-RELAX: RELAX where it is certain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from .bare_passes import Precision
from .base import Reduction
from .option_checks import given_keys
from .relax_statistics import relax_statistics


@dataclass(frozen=True)
class URelax:
    """Attribute by the importance of RELAX, and by 0 where its uncertainty is above the image's median.

    `a = R · [U ≤ median(U)]` with `R` and `U` of `relax_statistics`. The median of an even number of pixels is the mean
    of the middle two, so half of them become exactly 0. Masks are those of `relax` for the same sample.

    Attributes:
        reduction: how channels become a heatmap; there is one already.
        n_masks: how many masks are drawn for each sample.
        n_cells: cells of the grid along each side.
        p: probability that a cell is kept.
        layer: name of the layer whose flattened output is the representation; by default the model's output, which
            for a classifier are its logits.
        normalised: compare `U / (W − 1)` instead, a variance that is no larger where masks keep more, as the notebook
            released in 2021 did; the released package compares `U`.
        batch_size: masked images that go through the model at once.
        precision: of the passes of the model: `"full"`, `"bfloat16"` or `"float16"`.

    Raises:
        ValueError: from `attribute`, without `keys`, for an option out of its range or an unknown layer.

    Example:
        >>> import torch
        >>> images, target, keys = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([0]), torch.tensor([7])
        >>> URelax(n_masks=2, n_cells=1, p=1.0).attribute(nn.Flatten(), images, target, keys=keys)
        tensor([[[[1., 1.]]]])
    """

    name: ClassVar[str] = "u_relax"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"keys"})
    control: ClassVar[bool] = False
    sums_to: ClassVar[str | None] = None
    target_free: ClassVar[bool] = True
    reference: ClassVar[str] = "Wickstrøm et al. 2021, arXiv:2112.10161"

    reduction: Reduction = "none"
    n_masks: int = 3000
    n_cells: int = 7
    p: float = 0.5
    layer: str | None = None
    normalised: bool = False
    batch_size: int = 32
    precision: Precision = "full"

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor, *, keys: Tensor | None = None) -> Tensor:
        """Return the maps, `(B, 1, H, W)`.

        Args:
            model: maps `(B, C, H, W)` to `(B, D)`.
            inputs: `(B, C, H, W)` floating point, normalised.
            targets: ignored.
            keys: `(B,)` int64 sample keys.
        """
        del targets
        keys = given_keys(keys, "u_relax")
        importance, uncertainty, weight = relax_statistics(
            model, inputs, keys, n_masks=self.n_masks, n_cells=self.n_cells, p=self.p, layer=self.layer,
            batch_size=self.batch_size, precision=self.precision,
        )  # fmt: skip
        if self.normalised:
            uncertainty = uncertainty / (weight - 1)
        middle = uncertainty.flatten(1).quantile(0.5, dim=1).view(-1, 1, 1, 1)
        return importance.where(uncertainty <= middle, 0).to(inputs.dtype)
