"""RISE: randomised input sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from .bare_passes import Precision, in_precision, without_gradients
from .base import Reduction
from .class_score import Score, class_score
from .grid_masks import draw_masks, scored_masks
from .option_checks import check_counts, check_word, given_keys

Variant = Literal["original", "torchray"]


@dataclass(frozen=True)
class Rise:
    """Attribute by the mean of random masks, weighted by the score of the class under each.

    `a = 1 / (N p) Σ_i s(x ⊙ m_i) m_i`, with `s` the softmax probability of the target and masks as in `draw_masks`.
    Masks multiply the normalised image: what is dropped takes the mean colour of the training data.

    The masks of a sample are drawn by its key; RISE's code draws one set for all images. The expectation is
    the same. `variant="torchray"` is the rule of TorchRay: masks enlarged its way, sigmoid in place of softmax, and
    division by `N` alone.

    Attributes:
        reduction: how channels become a heatmap; there is one already.
        n_masks: `N`; RISE's paper takes 8000 for a ResNet-50 and 4000 for a VGG-16.
        n_cells: cells of the grid along each side; 7 in the paper, 8 and 10 in the released notebooks.
        p: probability that a cell is kept; 0.5 in the paper, 0.1 in the released notebooks.
        variant: `"original"` or `"torchray"`.
        score: `"softmax"`, `"sigmoid"` or `"logit"`; by default what the variant says.
        batch_size: masked images that go through the model at once.
        precision: of the passes of the model: `"full"`, `"bfloat16"` or `"float16"`.

    Raises:
        ValueError: from `attribute`, without `keys`, for an option out of its range, or for the softmax of a model
            with a single output.

    Example:
        >>> image, target, keys = torch.tensor([[[[3.0, -4.0]]]]), torch.tensor([0]), torch.tensor([7])
        >>> explainer = Rise(n_masks=2, n_cells=1, p=1.0, score="logit")
        >>> explainer.attribute(nn.Flatten(), image, target, keys=keys)  # every mask keeps everything
        tensor([[[[3., 3.]]]])
    """

    name: ClassVar[str] = "rise"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"keys"})
    control: ClassVar[bool] = False
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Petsiuk, Das, Saenko 2018, arXiv:1806.07421"

    reduction: Reduction = "none"
    n_masks: int = 8000
    n_cells: int = 7
    p: float = 0.5
    variant: Variant = "original"
    score: Score | None = None
    batch_size: int = 32
    precision: Precision = "full"

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor, *, keys: Tensor | None = None) -> Tensor:
        """Return the maps, `(B, 1, H, W)`.

        Args:
            model: as in `Explainer.attribute`.
            inputs: as in `Explainer.attribute`.
            targets: as in `Explainer.attribute`.
            keys: `(B,)` int64 sample keys.
        """
        keys = given_keys(keys, "rise")
        check_counts(n_masks=self.n_masks, n_cells=self.n_cells, batch_size=self.batch_size)
        check_word("variant", self.variant, ("original", "torchray"))
        with without_gradients():
            rows = zip(inputs, targets, keys.to(inputs.device), strict=True)
            return torch.stack([self._explain(model, *row) for row in rows])

    def _explain(self, model: nn.Module, image: Tensor, target: Tensor, key: Tensor) -> Tensor:
        """The `(1, H, W)` map of one sample."""
        torchray = self.variant == "torchray"
        kind = self.score or ("sigmoid" if torchray else "softmax")

        def score(masked: Tensor) -> Tensor:
            with in_precision(self.precision, image.device):
                logits: Tensor = model(masked)
            return class_score(logits.to(image.dtype), target, kind)

        size = (image.shape[-2], image.shape[-1])
        masks = draw_masks(
            key, self.n_masks, size, stream="explainer/rise", enlargement="torchray" if torchray else "rise",
            n_cells=self.n_cells, p=self.p, dtype=image.dtype,
        )  # fmt: skip
        total = torch.zeros(size[0] * size[1], dtype=torch.float64, device=image.device)
        for scores, flat in scored_masks(masks, image, score, batch_size=self.batch_size):
            total += scores @ flat
        mean = total / (self.n_masks * (1 if torchray else self.p))
        return mean.view(1, *size).to(image.dtype)
