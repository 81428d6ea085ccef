"""Importance and uncertainty of RELAX, by sums that run along with the masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bare_passes import Precision, in_precision, without_gradients
from .cam_layer import named_layer
from .grid_masks import draw_masks, scored_masks
from .layer_outputs import outputs_of
from .option_checks import check_counts


class RunningStatistics(NamedTuple):
    """Weighted mean and weighted sum of squared deviations per pixel, of the masks seen so far.

    Attributes:
        importance: `R = Σ s m / Σ m`, 0 where no mask has kept anything.
        uncertainty: `U = Σ m (s − R)²`.
        weight: `W = Σ m`.
    """

    importance: Tensor
    uncertainty: Tensor
    weight: Tensor

    def add(self, scores: Tensor, masks: Tensor) -> RunningStatistics:
        """Return the statistics with some more masks.

        For a single mask this is RELAX's update, `W += m; R' = R + m (s − R) / W; U += m (s − R') (s − R)`; a batch is
        condensed to its own three sums by one matrix product and then merged, which comes to the same.

        Args:
            scores: `(n,)`.
            masks: `(n, P)` weights of 0 and above.

        Example:
            >>> empty = RunningStatistics(*torch.zeros(3, 2, dtype=torch.float64))
            >>> one = empty.add(torch.tensor([3.0, 1.0]), torch.tensor([[1.0, 0.0], [1.0, 0.5]]))
            >>> one.importance.tolist(), one.uncertainty.tolist(), one.weight.tolist()
            ([2.0, 1.0], [2.0, 0.0], [2.0, 0.5])
        """
        centre = scores.mean()  # deviations from it are small, so that no digits cancel below
        deviations = scores - centre
        weight, first, second = (torch.stack((torch.ones_like(scores), deviations, deviations**2)) @ masks).double()
        held = weight.where(weight > 0, 1)
        mean, squares = centre.double() + first / held, (second - first**2 / held).clamp(min=0)
        total = self.weight + weight
        share = weight / total.where(total > 0, 1)
        step = mean - self.importance
        return RunningStatistics(
            self.importance + share * step, self.uncertainty + squares + self.weight * share * step**2, total
        )


def relax_statistics(
    model: nn.Module, inputs: Tensor, keys: Tensor, *, n_masks: int = 3000, n_cells: int = 7, p: float = 0.5,
    layer: str | None = None, batch_size: int = 32, precision: Precision = "full",
) -> RunningStatistics:  # fmt: skip
    """Measure how much each pixel matters to a representation, and how uncertain that is (RELAX).

    `s_i = cos(h(x), h(x ⊙ m_i))`; importance `R = Σ s_i m_i / Σ m_i`, uncertainty `U = Σ m_i (s_i − R)²`. Masks are
    those of `draw_masks` with `enlargement="relax"` and multiply the normalised image. `h` is the model's output: the
    representation of an encoder, the logits of a classifier. Where `layer` is given, it is that layer's output,
    flattened, such as `"avgpool"` of a torchvision ResNet.

    The published formula of the importance divides by `N` alone; this is the released code's, whose maps are not
    darker towards the border. `U` is not normalised, as in the released package; its notebook of 2021 divides by
    `W − 1`.

    Args:
        model: maps `(B, C, H, W)` to `(B, D)`.
        inputs: `(B, C, H, W)` floating point, normalised.
        keys: `(B,)` int64 sample keys.
        n_masks: how many masks; 3000 hold the error of the mean below 0.025 with a probability of 0.95 (Hoeffding).
        n_cells: cells of the grid along each side.
        p: probability that a cell is kept.
        layer: name of the layer, as in `model.named_modules()`.
        batch_size: masked images that go through the model at once.
        precision: of the passes of the model: `"full"`, `"bfloat16"` or `"float16"`.

    Returns:
        Three `(B, 1, H, W)` float64 tensors; importance in [−1, 1], uncertainty from 0.

    Raises:
        ValueError: an option is out of its range, or there is no such layer.

    Reference:
        Wickstrøm et al. 2021, arXiv:2112.10161.

    Example:
        >>> images, keys = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([7])
        >>> found = relax_statistics(nn.Flatten(), images, keys, n_masks=2, n_cells=1, p=1.0)
        >>> found.importance, found.weight
        (tensor([[[[1., 1.]]]], dtype=torch.float64), tensor([[[[2., 2.]]]], dtype=torch.float64))
    """
    check_counts(n_masks=n_masks, n_cells=n_cells, batch_size=batch_size)
    represent = _representation(model, layer, precision)
    size = (inputs.shape[-2], inputs.shape[-1])
    found: list[Tensor] = []
    with without_gradients():
        for image, key in zip(inputs, keys.to(inputs.device), strict=True):
            masks = draw_masks(
                key, n_masks, size, stream="explainer/relax", enlargement="relax", n_cells=n_cells, p=p,
                dtype=image.dtype,
            )  # fmt: skip
            similarity = _similarity(represent, image)
            running = RunningStatistics(*image.new_zeros((3, size[0] * size[1]), dtype=torch.float64))
            for scores, flat in scored_masks(masks, image, similarity, batch_size=batch_size):
                running = running.add(scores, flat)
            found.append(torch.stack(running).view(3, 1, *size))
        return RunningStatistics(*torch.stack(found, dim=1))


def _representation(model: nn.Module, layer: str | None, precision: Precision) -> Callable[[Tensor], Tensor]:
    """What maps images to `(n, D)` representations in their own type."""
    layers = [] if layer is None else [named_layer(model, layer)]

    def represent(images: Tensor) -> Tensor:
        with outputs_of(layers) as outputs, in_precision(precision, images.device):
            final: Tensor = model(images)
        return (outputs[0] if outputs else final).flatten(1).to(images.dtype)

    return represent


def _similarity(represent: Callable[[Tensor], Tensor], image: Tensor) -> Callable[[Tensor], Tensor]:
    """What maps masked images to the cosines between their representations and that of the image."""
    whole = represent(image[None])

    def similarity(masked: Tensor) -> Tensor:
        return F.cosine_similarity(represent(masked), whole, dim=1)

    return similarity
