"""The training loop: repeatable, watched, and leaving nothing behind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpeval.baselines.site import Site
from interpeval.bench.training import accuracy, build, train
from interpeval.bench.weights import digest
from interpeval.datasets.base import ArrayDataset, Arrays, Normalization

RECIPE = {"epochs": 3, "batch_size": 4, "learning_rate": 0.01}


@dataclass(frozen=True)
class Noise(ArrayDataset):
    """A few random images; the label is the index modulo 3."""

    name: ClassVar[str] = "noise"
    classes: ClassVar[tuple[str, ...]] = ("a", "b", "c")
    normalization: ClassVar[Normalization] = Normalization((0.0,), (1.0,))
    image_shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    has_masks: ClassVar[bool] = False

    size: int = 13
    split: str = "train"

    def load(self) -> Arrays:
        pixels = np.random.default_rng(0).integers(0, 256, (self.size, 1, 8, 8), dtype=np.uint8)
        return Arrays(tuple(f"n{i}" for i in range(self.size)), pixels, np.arange(self.size) % 3, None)


class Tiny(nn.Module):
    """One layer behind dropout, so that training draws random numbers; it remembers what it was shown."""

    name: ClassVar[str] = "tiny"

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(math.prod(image_shape), n_classes)
        self.shown: list[Tensor] = []

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        return RECIPE

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs.flatten(1))

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        self.shown.append(images)
        logits = self(F.dropout(images, training=self.training))
        return F.cross_entropy(logits, labels), logits


def trained_digest(model_class: type = Tiny, seed: int = 0) -> str:
    model = build(model_class, Noise(), 0)
    return digest(train(model, Noise(), seed=seed, recipe={**RECIPE, "prototype_weight": 10.0}, progress=False))


@pytest.mark.parametrize("model_class", [Tiny, Site])
def test_the_same_seed_gives_the_same_weights_to_the_last_bit_in_any_random_state(model_class: type) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = trained_digest(model_class)
        torch.manual_seed(2)
        assert trained_digest(model_class) == first
    assert trained_digest(model_class, seed=1) != first


def test_construction_follows_its_seed() -> None:
    same, other = build(Tiny, Noise(), 5), build(Tiny, Noise(), 6)
    assert digest(build(Tiny, Noise(), 5)) == digest(same) != digest(other)


def test_the_global_random_state_is_given_back() -> None:
    before = torch.get_rng_state()
    train(build(Tiny, Noise(), 0), Noise(), seed=0, recipe=RECIPE, progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_sample_is_shown_once_an_epoch_in_ever_new_orders() -> None:
    """13 samples in batches of at most 4: four batches of 4, 3, 3 and 3, never a rest of one."""
    model, images = build(Tiny, Noise(), 0), Noise().take(range(13)).images
    train(model, Noise(), seed=0, recipe=RECIPE, progress=False)
    assert [len(batch) for batch in model.shown] == [4, 3, 3, 3] * 3
    orders = []
    for epoch in range(3):
        shown = torch.cat(model.shown[4 * epoch : 4 * epoch + 4])
        orders.append([int((images == one).flatten(1).all(1).nonzero()) for one in shown])
    assert [sorted(order) for order in orders] == [list(range(13))] * 3
    assert len({tuple(order) for order in [*orders, list(range(13))]}) == 4


class Decaying(Tiny):
    """Its loss has no gradient, so that weight decay alone moves the weights."""

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        logits = self(images)
        return logits.sum() * 0, logits


def test_the_rate_follows_one_cycle_and_decay_is_decoupled() -> None:
    """AdamW without a gradient multiplies by 1 - rate * decay.

    One cycle over N steps: from peak/25 to the peak at step 0.3 N - 1, then down to peak/25/10^4 at N - 1, both along
    half a cosine.
    """
    peak, decay, total = 0.2, 0.5, 12
    model = build(Decaying, Noise(), 0)
    before = model.layer.weight.detach().clone()
    recipe = {"epochs": 3, "batch_size": 4, "learning_rate": peak, "weight_decay": decay}
    train(model, Noise(), seed=0, recipe=recipe, progress=False)
    top, factor = 0.3 * total - 1, 1.0
    for step in range(total):
        start, end, share = (
            (peak / 25, peak, step / top) if step <= top else (peak, peak / 25e4, (step - top) / (total - 1 - top))
        )
        factor *= 1 - decay * (end + (start - end) * (1 + math.cos(math.pi * share)) / 2)
    torch.testing.assert_close(model.layer.weight.detach(), before * factor)


def test_without_weight_decay_weights_without_gradient_stay() -> None:
    model = build(Decaying, Noise(), 0)
    before = digest(model)
    assert digest(train(model, Noise(), seed=0, recipe=RECIPE, progress=False)) == before


def test_the_model_is_left_in_evaluation_mode_without_gradients_and_frozen_parameters_stay() -> None:
    model = build(Tiny, Noise(), 0)
    model.layer.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert train(model, Noise(), seed=0, recipe=RECIPE, progress=False) is model
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (model.layer.weight.requires_grad, model.layer.bias.requires_grad) == (True, False)
    assert torch.equal(model.layer.bias, before["layer.bias"])
    assert not torch.equal(model.layer.weight, before["layer.weight"])


class Exploding(Tiny):
    """Its loss is NaN from the second batch of the second epoch on."""

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        loss, logits = super().training_loss(images, labels, recipe)
        return (loss * math.nan if len(self.shown) >= 6 else loss), logits


def test_a_loss_that_is_not_finite_stops_at_once_and_names_the_place() -> None:
    model, state = build(Exploding, Noise(), 0), torch.get_rng_state()
    with pytest.raises(FloatingPointError, match="`tiny` at epoch 2, step 2 of 4 must be finite, was nan"):
        train(model, Noise(), seed=0, recipe=RECIPE, progress=False)
    assert len(model.shown) == 6
    assert model.layer.weight.isfinite().all()
    assert not model.training
    assert model.layer.weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch_size", None),
        ("learning_rate", 0),
        ("learning_rate", "fast"),
        ("learning_rate", math.nan),
    ],
)
def test_an_impossible_recipe_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"`{key}` of the recipe must be a .* was {value!r}"):
        train(build(Tiny, Noise(), 0), Noise(), seed=0, recipe={**RECIPE, key: value}, progress=False)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(
        TypeError, match="`model` must have a method `training_loss` to be trained, or `fit`, `Linear` has"
    ):
        train(nn.Linear(1, 1), Noise(), seed=0, recipe=RECIPE)
    with pytest.raises(ValueError, match=r"`dataset` must hold at least one sample, `noise` \(train\) is empty"):
        train(build(Tiny, Noise(), 0), Noise(size=0), seed=0, recipe=RECIPE)


def test_progress_goes_to_the_error_stream_or_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    train(build(Tiny, Noise(), 0), Noise(), seed=0, recipe=RECIPE, progress=False)
    assert capsys.readouterr() == ("", "")
    train(build(Tiny, Noise(), 0), Noise(), seed=0, recipe=RECIPE, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "training tiny on noise: 100%" in err
    assert "12/12" in err
    assert "epoch 3/3, loss" in err
    assert err.count("\r") < 5, "a log file needs no animation"


class Constant(nn.Module):
    """Answers class 1 in evaluation mode, class 0 in training mode."""

    def forward(self, inputs: Tensor) -> Tensor:
        return F.one_hot(torch.full((len(inputs),), 0 if self.training else 1), 3).float()


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_accuracy_is_the_share_of_hits_in_evaluation_mode_for_any_batch_size(batch_size: int) -> None:
    """Of the labels 0, 1, 2, 0, 1, … of 13 samples, four are 1."""
    assert accuracy(Constant().train(), Noise(), batch_size=batch_size) == pytest.approx(4 / 13)


def test_accuracy_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="is empty"):
        accuracy(Constant(), Noise(size=0))
