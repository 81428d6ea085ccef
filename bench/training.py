"""The training loop of the built-in models: seeded, repeatable to the last bit, and watched."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from ..baselines.base import TrainableModel
from ..datasets.base import Batch, Dataset
from .generators import seeded


def build(model_class: type[TrainableModel], dataset: Dataset, seed: int) -> nn.Module:
    """Build an untrained model for a dataset; `seed` decides its weights, the global random state stays as it is.

    Example:
        >>> from interpeval.baselines.site import Site
        >>> from interpeval.datasets.digits import Digits
        >>> first, second = build(Site, Digits(), 0), build(Site, Digits(), 0)
        >>> all(a.equal(b) for a, b in zip(first.parameters(), second.parameters()))
        True
    """
    with seeded(seed, torch.device("cpu")):
        return cast("nn.Module", model_class(dataset.image_shape, len(dataset.classes)))


def train(
    model: nn.Module,
    dataset: Dataset,
    *,
    seed: int,
    recipe: Mapping[str, Any],
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> nn.Module:
    """Train a model in place by its own `training_loss`, with AdamW under a one-cycle learning rate.

    The order of the samples, and what the model draws from torch's global generators, depend on `seed` alone;
    the caller's random state is given back. On a CPU, the same start, seed and number of threads give the same
    weights to the last bit. On CUDA they do not: some gradients are added up there in no fixed order.

    Args:
        model: the network, with `training_loss` (`interpeval.baselines.base.TrainableModel`). Parameters that
            require no gradient stay as they are.
        dataset: the samples to train on.
        seed: decides the order of the samples and the model's draws; the initial weights are the caller's (`build`).
        recipe: `epochs`, `batch_size`, `learning_rate` (the highest one), `weight_decay` (default 0), and whatever
            `training_loss` reads. Every epoch is cut into batches of nearly equal size, none above `batch_size`.
        device: where to train; the model stays there.
        progress: show a bar with loss and accuracy over the epoch so far on the standard error stream.

    Returns:
        `model`, in evaluation mode, without gradients.

    Raises:
        TypeError: the model has no `training_loss`.
        ValueError: the recipe lacks a number or has an impossible one, or the dataset is empty.
        FloatingPointError: the loss was infinite or NaN.
    """
    if not hasattr(model, "training_loss"):
        raise TypeError(f"`model` must have a method `training_loss` to be trained, `{_name(model)}` has none")
    epochs, batch_size = _count(recipe, "epochs"), _count(recipe, "batch_size")
    device = torch.device(device)
    steps = math.ceil(_size(dataset) / batch_size)
    model.to(device).train()
    optimizer, schedule = _optimizer(model, recipe, epochs * steps)
    tally = _Tally()
    try:
        with seeded(seed, device), _bar(f"{_name(model)} on {dataset.name}", epochs * steps, progress) as bar:
            for epoch, step, batch in _shuffled(dataset, seed, epochs, steps, device):
                tally = _Tally() if step == 1 else tally
                loss, logits = cast("TrainableModel", model).training_loss(batch.images, batch.labels, recipe)
                _check_finite(loss, f"`{_name(model)}` at epoch {epoch}, step {step} of {steps}", recipe)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                tally.add(loss, logits, batch.labels)
                bar.set_postfix_str(f"epoch {epoch}/{epochs}, {tally}", refresh=False)
                bar.update()
    finally:
        model.zero_grad()
        model.eval()
    return model


def accuracy(model: nn.Module, dataset: Dataset, *, device: torch.device | str = "cpu", batch_size: int = 256) -> float:
    """Return the share of samples, in [0, 1], whose label is the class of the highest logit.

    The model is moved to `device` and put in evaluation mode.

    Raises:
        ValueError: the dataset is empty or has several labels per sample.
    """
    size = _size(dataset)
    if dataset.labels.ndim != 1:
        raise ValueError(f"`dataset` must have one label per sample to count accuracy, `{dataset.name}` has several")
    model.to(device).eval()
    with torch.no_grad():
        moved = (batch.to(device) for batch in dataset.batches(batch_size))
        return sum(_hits(model(batch.images), batch.labels) for batch in moved) / size


class _Tally:
    """Mean loss and accuracy over the samples seen."""

    def __init__(self) -> None:
        self._loss, self._hits, self._count = 0.0, 0, 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self._loss += loss.item() * len(labels)
        self._hits += _hits(logits, labels)
        self._count += len(labels)

    def __str__(self) -> str:
        return f"loss {self._loss / self._count:.3f}, accuracy {self._hits / self._count:.3f}"


def _shuffled(
    dataset: Dataset, seed: int, epochs: int, steps: int, device: torch.device
) -> Iterator[tuple[int, int, Batch]]:
    """Yield (epoch, step, batch), both counted from 1, every epoch in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(dataset), generator=generator)
        # Batches of nearly equal size: a last batch of one sample would break batch normalisation.
        for step, rows in enumerate(torch.tensor_split(order, steps), start=1):
            yield epoch, step, dataset.take(rows.tolist()).to(device)


def _optimizer(model: nn.Module, recipe: Mapping[str, Any], total: int) -> tuple[AdamW, OneCycleLR]:
    rate = recipe.get("learning_rate")
    if not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise ValueError(f"`learning_rate` of the recipe must be a positive number, was {rate!r}")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = AdamW(trained, lr=rate, weight_decay=recipe.get("weight_decay", 0.0))
    return optimizer, OneCycleLR(optimizer, max_lr=rate, total_steps=total)


def _bar(title: str, total: int, progress: bool) -> tqdm[Any]:
    # In a log file every redraw is a line to scroll past: there one in ten seconds is enough.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total, desc=f"training {title}", unit="step", disable=not progress, mininterval=interval, file=sys.stderr
    )


def _check_finite(loss: Tensor, where: str, recipe: Mapping[str, Any]) -> None:
    if not bool(loss.isfinite()):
        raise FloatingPointError(
            f"the training loss of {where} must be finite, was {loss.item()}; "
            f"lower `learning_rate` ({recipe['learning_rate']}) or look for NaN in the images"
        )


def _count(recipe: Mapping[str, Any], key: str) -> int:
    value = recipe.get(key)
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"`{key}` of the recipe must be a whole number of at least 1, was {value!r}")
    return value


def _size(dataset: Dataset) -> int:
    if len(dataset) == 0:
        raise ValueError(f"`dataset` must hold at least one sample, `{dataset.name}` ({dataset.split}) is empty")
    return len(dataset)


def _hits(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(dim=1) == labels).sum())


def _name(model: nn.Module) -> str:
    return str(getattr(model, "name", type(model).__name__))
