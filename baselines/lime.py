"""LIME: a sparse linear model of the logit over segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from captum._utils.models.linear_model import SkLearnLasso
from captum.attr import Lime as CaptumLime
from captum.attr._core.lime import get_exp_kernel_similarity_function
from torch import Tensor, nn

from ..datasets.philox import random_words
from .base import Reduction
from .option_checks import check_counts, given_keys
from .segments import Segments, paint, segment
from .through_captum import attribute_through


@dataclass(frozen=True)
class Lime:
    """Attribute by the coefficients of a lasso that predicts the logit from which segments are shown.

    Every segment is shown with probability 1/2 and else replaced by the reference input. On these images `x'`, with
    the weights `exp(−d² / 2w²)` of their cosine distance `d = 1 − cos(x, x')`, a linear model with the penalty
    `alpha · ‖coefficients‖₁` is fitted to the target's logit, and each pixel gets the coefficient of its segment.

    This is Captum's LIME. The paper's image version measures the distance between the binary vectors, has the kernel
    `√exp(−d² / 0.25²)`, and fits ridge regression to probabilities on the most relevant superpixels. The draws are made
    by the sample's key and handed to Captum, one sample after the other, so no value depends on the batch.

    Attributes:
        reduction: how channels become a heatmap; there is one already.
        segments: `"grid"` or `"superpixels"`, see `segment`.
        n_segments: about how many there are.
        n_samples: number of images that the linear model is fitted to.
        alpha: weight of the lasso's penalty, on the scale of the logits.
        kernel_width: `w` above.
        reference_input: value that replaces what is not shown, in the model's normalised input space.
        batch_size: how many images are evaluated at once; memory only.

    Raises:
        ValueError: from `attribute`, without `keys` or with an argument that has no such value.
        ImportError: from `attribute`, see `segment`.

    Example:
        >>> explainer = Lime(n_segments=4, alpha=0.0001)
        >>> image, keys = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([7])
        >>> explainer.attribute(nn.Flatten(), image, torch.tensor([3]), keys=keys).abs().round(decimals=2)
        tensor([[[[0., 0.],
                  [0., 4.]]]])
    """

    name: ClassVar[str] = "lime"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"keys"})
    control: ClassVar[bool] = False
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Ribeiro, Singh, Guestrin 2016, arXiv:1602.04938"

    reduction: Reduction = "none"
    segments: Segments = "grid"
    n_segments: int = 49
    n_samples: int = 256
    alpha: float = 0.01
    kernel_width: float = 1.0
    reference_input: float = 0.0
    batch_size: int = 32

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor, *, keys: Tensor | None = None) -> Tensor:
        """Return the maps, `(B, 1, H, W)`; arguments as `Explainer.attribute`.

        Args:
            model: the model.
            inputs: `(B, C, H, W)`.
            targets: `(B,)` int64.
            keys: `(B,)` int64 sample keys.
        """
        keys = given_keys(keys, "lime")
        check_counts(n_samples=self.n_samples, batch_size=self.batch_size)
        labels = segment(inputs, self.segments, n_segments=self.n_segments)
        rows = zip(inputs.split(1), targets.split(1), labels, keys.to(inputs.device).split(1), strict=True)
        return torch.stack([self._map(model, *row) for row in rows])

    def _map(self, model: nn.Module, image: Tensor, target: Tensor, labels: Tensor, key: Tensor) -> Tensor:
        """`(1, H, W)` of one image."""
        draws = torch.arange(self.n_samples, device=key.device)
        words = random_words(0, "explainer/lime", key.expand(self.n_samples), draws, int(labels.max()) + 1)
        shown = iter((words >> 31).split(1))

        def draw(*_: object, **__: object) -> Tensor:
            return next(shown)

        method = CaptumLime(
            model,
            interpretable_model=SkLearnLasso(alpha=self.alpha, random_state=0),
            similarity_func=get_exp_kernel_similarity_function("cosine", self.kernel_width),
            perturb_func=draw,
        )
        with torch.random.fork_rng(devices=[]):  # the loader of the fit takes a seed that nothing uses
            coefficients = attribute_through(
                method,
                image,
                target,
                baselines=self.reference_input,
                feature_mask=labels[None, None],
                n_samples=self.n_samples,
                perturbations_per_eval=self.batch_size,
                return_input_shape=False,
            )
        return paint(coefficients.flatten().to(image), labels)[None]
