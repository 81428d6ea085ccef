"""Deletion against Quantus' PixelFlipping: the same curve without its first point, on images of one channel."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interpeval.datasets.base import Batch
from interpeval.metrics.deletion import Deletion
from interpeval.metrics.insertion import Insertion
from known_maps import known_maps
from small_subject import see


@pytest.fixture(scope="module")
def quantus() -> Iterator[ModuleType]:
    """Quantus, whose own warnings (invalid escapes, deprecations) are no concern of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("quantus", reason='quantus is not installed: pip install -e ".[dev]"')


class Net(nn.Module):
    """A small network for images of one channel."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.conv, self.head = nn.Conv2d(1, 5, 3, padding=1), nn.Linear(5 * 24, 3)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator) * 0.5
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, 3)` logits."""
        logits: Tensor = self.head(self.conv(inputs).tanh().flatten(1))
        return logits


@pytest.mark.parametrize("pixels_a_step", [1, 4])
def test_pixel_flipping_is_deletion_after_its_first_point(quantus: ModuleType, pixels_a_step: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 1, 4, 6, generator=generator)
    maps = torch.stack([torch.randperm(24, generator=generator).view(4, 6) for _ in range(6)]).float() - 12
    batch = Batch(tuple("abcdef"), images, torch.arange(6) % 3)
    steps = tuple(count / 24 for count in range(0, 25, pixels_a_step))
    options = {"fractions": steps, "fill": "mean", "target": "label"}  # the mean is 0 in the model's space
    explainer, model = known_maps(batch, maps), Net()
    ours = Deletion(**options).score(see(explainer, batch=batch, model=model))["probability"].values  # type: ignore[arg-type]
    metric = quantus.PixelFlipping(
        features_in_step=pixels_a_step, perturb_baseline=0.0, abs=False, normalise=False, disable_warnings=True
    )
    theirs = metric(
        model=model, x_batch=images.numpy(), y_batch=batch.labels.numpy(), a_batch=maps[:, None].numpy(), softmax=True
    )
    np.testing.assert_allclose(ours[:, 1:], np.array(theirs), atol=1e-6)
    shown = Insertion(**options).score(see(explainer, batch=batch, model=model))["probability"].values  # type: ignore[arg-type]
    assert not np.allclose(shown[:, 1:], np.array(theirs), atol=0.01)
