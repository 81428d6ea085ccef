"""What holds for every metric of explanations: no value depends on the batch, and a NaN stays in its row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from interpeval.datasets.base import Batch
from interpeval.metrics.base import Metric, Scores, Status
from small_subject import Grad, Pictures, SmallNet, see

BRIGHT = 5.0


class GradOfTheDim(Grad):
    """Gradient times input; NaN for images in which something is brighter than any pixel."""

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return `(B, C, H, W)`."""
        bright = inputs.detach().abs().amax(dim=(1, 2, 3), keepdim=True) > BRIGHT
        return super().attribute(model, inputs, targets).masked_fill(bright, torch.nan)


def pictures(count: int = 5) -> Batch:
    """Some pictures under the classes that `SmallNet` predicts, with their objects taken from other pictures."""
    dataset = Pictures(count=count)
    batch = dataset.take(range(count))
    assert batch.masks is not None
    others = batch.images.roll(1, dims=0)
    backgrounds = torch.where(batch.masks[:, None], others, batch.images)
    with torch.no_grad():
        labels = SmallNet()(batch.images).argmax(dim=1)
    return replace(batch, labels=labels, backgrounds=backgrounds)


def rows_of(batch: Batch, rows: list[int]) -> Batch:
    """Some samples of a batch in any order."""
    assert batch.masks is not None
    assert batch.backgrounds is not None
    return Batch(
        ids=tuple(batch.ids[row] for row in rows),
        images=batch.images[rows],
        labels=batch.labels[rows],
        masks=batch.masks[rows],
        backgrounds=batch.backgrounds[rows],
    )


def assert_same(found: dict[str, Scores], expected: dict[str, Scores], rows: list[int], *, atol: float = 1e-6) -> None:
    """Compare values, statuses and variances of all variants with some rows of others."""
    assert found.keys() == expected.keys()
    for name, scores in found.items():
        other = expected[name]
        assert scores.status.tolist() == other.status[rows].tolist(), name
        np.testing.assert_allclose(scores.values.numpy(), other.values[rows].numpy(), atol=atol, rtol=1e-5)
        assert (scores.variance is None) == (other.variance is None)
        if scores.variance is not None and other.variance is not None:
            np.testing.assert_allclose(scores.variance.numpy(), other.variance[rows].numpy(), atol=atol, rtol=1e-4)


def assert_blind_to_the_batch(metric: Metric, *, explainer: object | None = None, atol: float = 1e-6) -> None:
    """The values are the same for any micro-batch, for part of the samples, and in another order."""
    explainer, batch = Grad() if explainer is None else explainer, pictures()
    whole = metric.score(see(explainer, batch=batch))
    for size in (1, 3):
        assert_same(metric.score(see(explainer, batch=batch, micro_batch=size)), whole, [0, 1, 2, 3, 4], atol=atol)
    for order in ([4, 0, 2], [3]):
        assert_same(metric.score(see(explainer, batch=rows_of(batch, order))), whole, order, atol=atol)


def draws_decide(metric: Metric, variant: str = "") -> tuple[bool, bool]:
    """Whether values change with the names of the samples, and with the seed of the run."""
    batch = pictures()
    whole = metric.score(see(Grad(), batch=batch))[variant].values
    renamed = replace(batch, ids=tuple(reversed(batch.ids)))
    others = (metric.score(see(Grad(), batch=renamed)), metric.score(see(Grad(), batch=batch, seed=1)))
    by_name, by_seed = (not np.allclose(other[variant].values, whole, rtol=1e-3, equal_nan=True) for other in others)
    return by_name, by_seed


def assert_a_nan_stays_in_its_row(metric: Metric) -> None:
    """The sample whose attribution is NaN is invalid, and the others score as they do without it."""
    batch = pictures()
    assert batch.backgrounds is not None
    images, backgrounds = batch.images.clone(), batch.backgrounds.clone()
    for part in (images, backgrounds):
        part[2] *= 3 * BRIGHT / part[2].abs().max()
    with torch.no_grad():
        batch = replace(batch, images=images, backgrounds=backgrounds, labels=SmallNet()(images).argmax(dim=1))
    sound, broken = (metric.score(see(explainer, batch=batch)) for explainer in (Grad(), GradOfTheDim()))
    for name, scores in broken.items():
        if int(sound[name].status[2]) in (Status.OK, Status.DEGENERATE):
            assert int(scores.status[2]) == Status.INVALID, name
            assert bool(scores.values[2].isnan().all()), name
        others = [0, 1, 3, 4]
        assert scores.status[others].tolist() == sound[name].status[others].tolist(), name
        np.testing.assert_allclose(scores.values[others], sound[name].values[others], atol=1e-6, rtol=1e-5)
    assert any(int(scores.status[2]) == Status.INVALID for scores in broken.values())
