"""BAM: are objects attributed more where they matter, and not more where they do not?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets.philox import derived_keys
from .base import Evidence, Facts, Inputs, Metric, Scores, Status, nan_where, predictions, status_of
from .localisation import true_masks

_CLIPPED = 0.99  # quantile of a map above which all is 1


def object_attribution(attribution: Tensor, mask: Tensor) -> Tensor:
    """Compute how much is attributed to an object, on the scale of its own map.

    The positive part of the attribution is summed over the channels, upsampled as heatmaps are, shifted to a minimum
    of 0, divided by its 99th percentile (linear between values), cut off at 1 and averaged over the mask. Where that
    percentile is the minimum, all that is above it counts 1; a constant map is 0.

    Args:
        attribution: `(B, C, h, w)`.
        mask: `(B, H, W)` bool, true on the object.

    Returns:
        `(B,)` float64 in [0, 1]; NaN where the mask is empty or the attribution holds NaN or an infinite value.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> attribution = torch.tensor([[[[0.0, 4.0, -3.0, 2.0]]]])
        >>> mask = torch.tensor([[[False, True, True, True]]])
        >>> object_attribution(attribution, mask)  # the 99th percentile is 3.94
        tensor([0.5025], dtype=torch.float64)
    """
    if attribution.ndim != 4 or mask.ndim != 3 or len(attribution) != len(mask):
        raise ValueError(
            f"`attribution` must be (B, C, h, w) and `mask` (B, H, W), were {tuple(attribution.shape)} and "
            f"{tuple(mask.shape)}"
        )
    relevance = _positive_part(attribution, (mask.shape[-2], mask.shape[-1]))
    low = relevance.amin(dim=1, keepdim=True)
    # Row by row, because `quantile` refuses tensors of more than 2**24 elements.
    span = torch.stack([row.quantile(_CLIPPED) for row in relevance])[:, None] - low
    above = relevance - low
    scaled = torch.where(span == 0, (above > 0).double(), above / span).clamp(max=1)
    inside = mask.flatten(1)
    mean = torch.where(inside, scaled, 0).sum(dim=1) / inside.sum(dim=1)
    return nan_where(mean, ~attribution.flatten(1).isfinite().all(dim=1))


def model_contrast(object_model: Tensor, scene_model: Tensor) -> Tensor:
    """Compute how much more is attributed to the object by the model that needs it: `a_object − a_scene`.

    Args:
        object_model: `(B,)` attributions of the objects under a model that names the objects (`object_attribution`).
        scene_model: `(B,)` the same under a model that names the scenes of the same images.

    Returns:
        `(B,)` float64 in [-1, 1], higher is better; NaN where an attribution is.

    Example:
        >>> model_contrast(torch.tensor([0.75]), torch.tensor([0.5]))
        tensor([0.2500], dtype=torch.float64)
    """
    return object_model.double() - scene_model.double()


def input_dependence(with_object: Tensor, without_object: Tensor) -> Tensor:
    """Tell whether an object that does not matter is attributed less than what it covers: `[a_without > a_with]`.

    Args:
        with_object: `(B,)` attributions of the object's region in images with the object (`object_attribution`).
        without_object: `(B,)` attributions of the same region in the images without it.

    Returns:
        `(B,)` float64, 0 or 1, higher is better; NaN where an attribution is.

    Example:
        >>> input_dependence(torch.tensor([0.2, 0.5, 0.5]), torch.tensor([0.6, 0.5, 0.1]))
        tensor([1., 0., 0.], dtype=torch.float64)
    """
    return nan_where((without_object > with_object).double(), with_object.isnan() | without_object.isnan())


def input_independence(attribution: Tensor, patched: Tensor, *, tolerance: float = 0.1) -> Tensor:
    """Tell whether a patch that changes nothing leaves the attribution: `[|a − a_patched| < tolerance · a]`.

    Args:
        attribution: `(B,)` attributions of a region in images (`object_attribution`).
        patched: `(B,)` attributions of the same region once a functionally insignificant patch covers it.
        tolerance: share of the attribution by which it may change.

    Returns:
        `(B,)` float64, 0 or 1, higher is better; 0 where the attribution is 0; NaN where an attribution is.

    Example:
        >>> input_independence(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.54, 0.3, 0.0]))
        tensor([1., 0., 0.], dtype=torch.float64)
    """
    near = (attribution.double() - patched.double()).abs() < tolerance * attribution.double()
    return nan_where(near.double(), attribution.isnan() | patched.isnan())


def insignificant_patch(evidence: Evidence, masks: Tensor, *, n_steps: int) -> tuple[Tensor, Tensor]:
    """Change the objects until the model answers as it does without them.

    From the image with its object, the pixels in the mask take `n_steps` steps down the distance `‖f(x + δ) − f(x)‖`
    between the logits and those of the image without the object, each to where the distance would be 0 if it were
    linear (Polyak's step), and stay within the range of pixel values. Nothing is drawn.

    Args:
        evidence: the samples, with their backgrounds, and the model.
        masks: `(B, H, W)` bool.
        n_steps: how many steps.

    Returns:
        the patched images, `(B, C, H, W)`, and what is left of the distance as a share of the spread of the logits
        (of their norm about their mean), `(B,)` float64.
    """
    start, backgrounds, inside = evidence.batch.images, _backgrounds(evidence), masks[:, None]
    black, white = (evidence.normalization.normalize(torch.full_like(start[:1], value)) for value in (0.0, 1.0))
    wanted = predictions(evidence, backgrounds)
    squared = torch.zeros_like(wanted[:, 0])

    def objective(logits: Tensor, rows: Tensor) -> Tensor:
        values = (logits - wanted[rows]).square().sum(dim=1)
        squared[rows] = values.detach()
        return values

    patched = torch.where(inside, start, backgrounds)
    for _ in range(n_steps):
        gradient = evidence.differentiate(objective, at=patched) * inside
        slope = gradient.square().sum(dim=(1, 2, 3))
        # The distance r has the slope ∇(r²) / 2r, so that a step of r / ‖∇r‖² along it is 2r² / ‖∇r²‖² along ∇r².
        length = 2 * squared / torch.where(slope == 0, 1, slope)
        moved = patched - length.view(-1, 1, 1, 1) * gradient
        patched = torch.where(inside, torch.maximum(torch.minimum(moved, white), black), patched)
    left = (predictions(evidence, patched) - wanted).double().norm(dim=1)
    return patched, left / (wanted - wanted.mean(dim=1, keepdim=True)).double().norm(dim=1)


class SceneModel:
    """A model as part of a metric's configuration: it prints as its class and a digest of its weights."""

    def __init__(self, module: nn.Module) -> None:
        """Store the model."""
        self.module = module

    def __repr__(self) -> str:
        """Return the class and the first digits of SHA-256 over the names and values of all weights and buffers."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode() + values.numpy().tobytes())
        return f"{type(self.module).__name__}@{digest.hexdigest()[:16]}"


@dataclass(frozen=True)
class Bam(Metric):
    """BAM: relative importance of objects pasted into scenes, of which is known whether they matter (Yang & Kim).

    All variants compare attributions of the object's region (`object_attribution`) and count only samples that are
    classified correctly in every image they look at; the others have no truth, nor has an empty mask.

    * `"object_attribution"`: of the label, in the image with the object; ↑ for a model that names objects, ↓ for one
      that names scenes. The model contrast of two runs, one of each, is their paired difference.
    * `"input_dependence"` ↑ for a model that names scenes: whether the region is attributed less with the object than
      without it.
    * `"input_independence"` ↑: whether a patch on the background, made from the object so that the logits stay as they
      are (`insignificant_patch`), leaves the attribution of the region within `tolerance`. No truth where the logits
      still differ by that share of their spread.
    * `"model_contrast"` ↑, only with a `scene_model` and for a model that names objects: how much more the object is
      attributed by the model under test, for the label, than by the other one, for the class it predicts.

    The mean over samples of the second and of the third is the paper's rate. A map without positive values, or constant
    ones, in any image compared scores the worst value and is degenerate.

    Departs from the released code in the patch, which there is found in 300 steps of a fixed size with a
    reward for its size and accepted wherever the class stays; in not asking whether the scene model of
    `"model_contrast"` is right, of which a sample does not tell; and in a map whose 99th percentile is its minimum,
    which there divides by 0.

    Attributes:
        tolerance: share by which logits may differ, and by which attributions may, under the patch.
        n_steps: steps towards an insignificant patch.
        scene_model: a network in evaluation mode that names the scenes of the same images; only from Python.

    Example:
        >>> Bam(tolerance=0.05).facts("model_contrast").range
        (-1.0, 1.0)
    """

    name: ClassVar[str] = "bam"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer", "masks", "backgrounds", "gradient"})
    reference: ClassVar[str] = (
        "Yang & Kim, Benchmarking Attribution Methods with Relative Feature Importance, arXiv:1907.09701, 2019"
    )

    tolerance: float = 0.1
    n_steps: int = 50
    scene_model: SceneModel | nn.Module | None = None

    def __post_init__(self) -> None:
        """Check the configuration."""
        if not self.tolerance > 0:
            raise ValueError(f"`tolerance` must be above 0, was {self.tolerance}")
        if self.n_steps < 1:
            raise ValueError(f"`n_steps` must be at least 1, was {self.n_steps}")
        if isinstance(self.scene_model, nn.Module):
            object.__setattr__(self, "scene_model", SceneModel(self.scene_model))
        if self.scene_model is not None and not isinstance(self.scene_model, SceneModel):
            raise TypeError(
                f"`scene_model` must be a torch.nn.Module, handed over in Python, was {type(self.scene_model).__name__}"
            )

    def facts(self, variant: str) -> Facts:
        """A contrast may be negative."""
        return Facts(self.higher_is_better, (-1.0, 1.0) if variant == "model_contrast" else self.range, self.chance)

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch."""
        masks = true_masks(evidence)
        labels = evidence.targets("label")
        known = evidence.logits.argmax(dim=1) == labels
        image = _region(evidence.attributions("label"), masks, known)
        background = _look(evidence, _backgrounds(evidence), masks, "background")
        images, left = insignificant_patch(evidence, masks, n_steps=self.n_steps)
        patched = _look(evidence, images, masks, "patched")
        patched = patched._replace(known=patched.known & (left <= self.tolerance))
        kept = input_independence(background.value, patched.value, tolerance=self.tolerance)
        scores = {
            "object_attribution": _scores(image.value, masks, image),
            "input_dependence": _scores(input_dependence(image.value, background.value), masks, image, background),
            "input_independence": _scores(kept, masks, background, patched),
        }
        if isinstance(self.scene_model, SceneModel):
            with evidence.through(self.scene_model.module.to(labels.device)) as other:
                scene = _region(other.attributions("predicted"), masks, torch.ones_like(known))
            scores["model_contrast"] = _scores(model_contrast(image.value, scene.value), masks, image, scene, worst=-1)
        return scores


class _Region(NamedTuple):
    """What is attributed to a region: `(B,)` value, whether the map is silent, whether the class was recognised."""

    value: Tensor
    silent: Tensor
    known: Tensor


def _region(attributions: Tensor, masks: Tensor, known: Tensor) -> _Region:
    relevance = _positive_part(attributions, (masks.shape[-2], masks.shape[-1]))
    return _Region(object_attribution(attributions, masks), (relevance == relevance[:, :1]).all(dim=1), known)


def _look(evidence: Evidence, images: Tensor, masks: Tensor, stream: str) -> _Region:
    """Explain the labels in other images, and see whether they are recognised."""
    labels, keys = evidence.targets("label"), derived_keys(evidence.batch.keys, f"bam/{stream}", 0)
    known = predictions(evidence, images).argmax(dim=1) == labels

    def build(rows: Tensor) -> Inputs:
        return Inputs(images[rows], labels[rows], keys[rows], masks[rows])

    parts = [_region(found, masks[rows], known[rows]) for rows, found in evidence.attribute(len(images), build)]
    return _Region(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _scores(values: Tensor, masks: Tensor, *regions: _Region, worst: float = 0.0) -> Scores:
    """Values of a comparison of regions, each of which must be known and should not be silent."""
    empty = ~masks.flatten(1).any(dim=1)
    silent, known = (torch.stack(part) for part in ([r.silent for r in regions], [r.known for r in regions]))
    degenerate = silent.any(dim=0)
    status = status_of(
        len(values),
        values.device,
        degenerate=degenerate,
        no_truth=empty | ~known.all(dim=0),
        invalid=values.isnan() & ~empty,
    )
    return Scores(nan_where(torch.where(degenerate, worst, values), status >= Status.NO_TRUTH), status)


def _positive_part(attribution: Tensor, size: tuple[int, int]) -> Tensor:
    """`(B, H*W)` float64 sum of the positive parts of all channels, upsampled to `size`."""
    positive = attribution.double().clamp(min=0).sum(dim=1, keepdim=True)
    if positive.shape[-2:] != size:
        positive = F.interpolate(positive, size, mode="bilinear", align_corners=False)
    return positive.flatten(1)


def _backgrounds(evidence: Evidence) -> Tensor:
    """The samples' images without their objects."""
    if evidence.batch.backgrounds is None:
        raise ValueError("`batch.backgrounds` must be given for `bam`, was None; use a dataset that has them")
    return evidence.batch.backgrounds
