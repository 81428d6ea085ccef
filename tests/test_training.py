"""The training loop: repeatable, watched, and leaving nothing behind."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpeval.baselines.site import Site
from interpeval.bench.checkpoint import Checkpoint
from interpeval.bench.training import accuracy, build, train
from interpeval.bench.weights import digest
from interpeval.datasets.base import ArrayDataset, Arrays, Batch, Normalization
from trained_toys import Dropped, Hooked, Means

HERE = Path(__file__).parent
RECIPE = {"epochs": 3, "batch_size": 4, "learning_rate": 0.01, "threads": 1}


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
    recipe = {**RECIPE, "learning_rate": peak, "weight_decay": decay}
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


# ---------------------------------------------------------------- interrupted and resumed


@pytest.fixture
def _no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dropped, "steps", 0)
    monkeypatch.setattr(Dropped, "stop_at", 0)


DROPPED = {"epochs": 4, "batch_size": 4, "learning_rate": 0.05, "dropout": 0.3, "threads": 1}
RECIPES = {
    "one cycle": (Dropped, DROPPED),
    "sgd": (Dropped, {**DROPPED, "optimizer": "sgd", "momentum": 0.9}),
    "adam in steps": (Dropped, {**DROPPED, "optimizer": "adam", "schedule": "steps", "milestones": [3], "factor": 0.1}),
    "cosine": (Dropped, {**DROPPED, "schedule": "cosine"}),
    "hooks": (Hooked, {**DROPPED, "weight_decay": 0.1}),
    "hooks, sgd": (Hooked, {**DROPPED, "optimizer": "sgd", "momentum": 0.9, "schedule": "constant"}),
}


@pytest.mark.usefixtures("_no_stop")
@pytest.mark.parametrize("stop_at", [6, 9, 16])  # steps of the epochs 2, 3 and 4, of four steps each
@pytest.mark.parametrize("case", RECIPES)
def test_an_interrupted_training_that_is_resumed_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, stop_at: int
) -> None:
    model_class, recipe = RECIPES[case]
    checkpoint = Checkpoint(tmp_path / "a.checkpoint", {"recipe": recipe})

    def trained(kept: Checkpoint | None) -> str:
        model = build(model_class, Noise(), 0)
        return digest(train(model, Noise(), seed=0, recipe=recipe, checkpoint=kept, progress=False))

    expected = trained(None)
    monkeypatch.setattr(Dropped, "steps", 0)
    monkeypatch.setattr(Dropped, "stop_at", stop_at)
    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint)
    torch.rand(3)
    assert trained(checkpoint) == expected
    assert Dropped.steps == stop_at + 16 - 4 * ((stop_at - 1) // 4), "complete epochs were done again"
    assert trained(checkpoint) == expected, "a checkpoint of the last epoch leads to the end"


@pytest.mark.usefixtures("_no_stop")
def test_the_checkpoint_changes_nothing(tmp_path: Path) -> None:
    digests = [
        digest(train(build(Hooked, Noise(), 0), Noise(), seed=0, recipe=DROPPED, checkpoint=kept, progress=False))
        for kept in (None, Checkpoint(tmp_path / "a.checkpoint", {}))
    ]
    assert digests[0] == digests[1]


class Overstepping(Dropped):
    """A finite loss whose last gradient of the second epoch is not finite."""

    name: ClassVar[str] = "overstepping"

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        loss, logits = super().training_loss(images, labels, recipe)
        if Dropped.steps == 8:
            self.last.bias.register_hook(lambda gradient: gradient * math.inf)
        return loss, logits


@pytest.mark.usefixtures("_no_stop")
def test_weights_that_are_not_finite_never_reach_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "a.checkpoint", {})
    with pytest.raises(FloatingPointError, match=r"parameter `last\.bias` of `overstepping` must be finite.* epoch 2"):
        train(build(Overstepping, Noise(), 0), Noise(), seed=0, recipe=DROPPED, checkpoint=checkpoint, progress=False)
    kept = checkpoint.read()
    assert kept is not None
    assert kept["epoch"] == 1
    assert all(value.isfinite().all() for value in kept["model"].values())


# ---------------------------------------------------------------- threads


class Summing(nn.Module):
    """Its gradient is a sum over 65,536 pixels, which torch cuts into a part for each thread."""

    name: ClassVar[str] = "summing"

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.threads: set[int] = set()

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        self.threads.add(torch.get_num_threads())
        pixels = images.repeat(1, 1, 32, 32)[:1]
        return (pixels * self.weight).sum().sin(), torch.zeros(len(labels), 3)


def summed(threads: dict[str, int]) -> tuple[str, set[int]]:
    model = build(Summing, Noise(), 0)
    recipe = {"epochs": 3, "batch_size": 4, "learning_rate": 0.01, "optimizer": "sgd", **threads}
    train(model, Noise(), seed=0, recipe=recipe, progress=False)
    return digest(model), model.threads


@pytest.fixture
def _threads_given_back() -> Generator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads_given_back")
def test_weights_do_not_depend_on_the_callers_number_of_threads_which_is_given_back() -> None:
    digests = []
    for count in (1, 2):
        torch.set_num_threads(count)
        digests.append(summed({}))
        assert torch.get_num_threads() == count
    assert digests[0] == digests[1]
    assert digests[0][1] == {2}
    assert summed({"threads": 1})[0] != digests[0][0], "the example shows nothing: one thread gives the same bits"


def test_two_threads_are_used_whatever_the_environment_says() -> None:
    code = (
        "from test_training import summed\nimport torch\n"
        "before = torch.get_num_threads()\nprint(summed({}), before == torch.get_num_threads())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=HERE, check=True
    )
    assert done.stdout == f"{summed({})} True\n"


@pytest.mark.parametrize("threads", [0, "two"])
def test_an_impossible_number_of_threads_is_refused(threads: object) -> None:
    with pytest.raises(ValueError, match="`threads` of the recipe must be a whole number of at least 1"):
        train(build(Tiny, Noise(), 0), Noise(), seed=0, recipe={**RECIPE, "threads": threads}, progress=False)


# ---------------------------------------------------------------- hooks, options, precision


@pytest.mark.usefixtures("_no_stop")
def test_hooks_are_called_in_order_in_the_right_mode_with_the_training_part() -> None:
    model = train(build(Hooked, Noise(), 0), Noise(), seed=0, recipe=DROPPED | {"epochs": 2}, progress=False)
    epochs = [(f"{when} {epoch}", True, 13) for epoch in (1, 2) for when in ("begin", "end")]
    assert model.called == [*epochs, ("finish", False, 13)]


@pytest.mark.usefixtures("_no_stop")
def test_parameters_freed_by_a_hook_are_trained_from_then_on() -> None:
    start = build(Hooked, Noise(), 0).hidden.weight
    one, two = (
        train(build(Hooked, Noise(), 0), Noise(), seed=0, recipe=DROPPED | {"epochs": epochs}, progress=False)
        for epochs in (1, 2)
    )
    assert torch.equal(one.hidden.weight, start)
    assert not torch.equal(two.hidden.weight, start)


@pytest.mark.usefixtures("_no_stop")
def test_a_model_that_is_fitted_or_finished_from_data_has_an_accuracy() -> None:
    """Means of 13 samples in three classes: the nearest mean, by hand."""
    fitted = train(build(Means, Noise(), 0), Noise(), seed=7, recipe={}, progress=False)
    images, labels = Noise().take(range(13)).images.flatten(1), Noise().labels
    means = torch.stack([images[label::3].mean(0) for label in range(3)])
    nearest = ((images[:, None] - means) ** 2).sum(2).argmin(1)
    assert accuracy(fitted, Noise()) == pytest.approx((nearest == labels).double().mean().item())
    assert 7 <= fitted.draw.item() < 8
    assert not fitted.training
    finished = train(build(Hooked, Noise(), 0), Noise(), seed=0, recipe=DROPPED, progress=False)
    assert accuracy(finished, Noise()) == pytest.approx(len(finished.kept) / 13)


def test_a_fitted_model_draws_from_its_seed_alone() -> None:
    state = torch.get_rng_state()
    draws = [train(build(Means, Noise(), 0), Noise(), seed=1, recipe={}, progress=False).draw for _ in range(2)]
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), state)


def test_options_reach_the_constructor() -> None:
    assert build(Dropped, Noise(), 0, {"width": 7}).hidden.out_features == 7


class Typed(Tiny):
    """Remembers in which type its layer computes."""

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        loss, logits = super().training_loss(images, labels, recipe)
        self.type = logits.dtype
        return loss, logits


@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_half_precision_is_for_the_passes_not_for_the_weights(precision: Any, expected: torch.dtype) -> None:
    model = train(build(Typed, Noise(), 0), Noise(), seed=0, recipe=RECIPE, precision=precision, progress=False)
    assert model.type == expected
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r'`precision` must be "fp32" or "bf16", was \'fp16\''):
        train(build(Tiny, Noise(), 0), Noise(), seed=0, recipe=RECIPE, precision="fp16", progress=False)


@dataclass(frozen=True)
class Several(Noise):
    """The same images, each with its label and the class before it."""

    def take(self, indices: Any) -> Batch:
        batch = super().take(indices)
        hot = F.one_hot(batch.labels, 3).bool()
        return replace(batch, labels=hot | hot.roll(-1, dims=1))


class Zeroth(Tiny):
    """Always for class 0, whatever the labels."""

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        return self.layer.bias.sum() * 0, F.one_hot(torch.zeros(len(labels), dtype=torch.int64), 3).float()


@pytest.mark.parametrize(("dataset", "hits"), [(Noise(), 5), (Several(), 9)])
def test_the_bar_counts_samples_whose_top_class_is_among_their_labels(
    capsys: pytest.CaptureFixture[str], dataset: Noise, hits: int
) -> None:
    """Of the labels 0, 1, 2, 0, … of 13 samples, five are 0 and four are 1, which come with 0."""
    train(build(Zeroth, dataset, 0), dataset, seed=0, recipe={**RECIPE, "epochs": 1}, progress=True)
    assert f"accuracy {hits / 13:.3f}" in capsys.readouterr().err
