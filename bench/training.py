"""The training loop of the built-in models: seeded, repeatable to the last bit, resumable, and watched."""

from __future__ import annotations

import math
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from ..baselines.base import DEFAULT_THREADS, TrainableModel, model_name
from ..datasets.base import Batch, Dataset
from ..leaderboards.names import printable
from .checkpoint import Checkpoint
from .generators import read_generators, seeded, write_generators
from .optimisation import make_optimizer, make_schedule, whole

Precision = Literal["fp32", "bf16"]


def build(
    model_class: type[TrainableModel], dataset: Dataset, seed: int, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build an untrained model for a dataset; `seed` decides its weights, the global random state stays as it is.

    `options` are keyword arguments of the constructor.

    Example:
        >>> from interpeval.baselines.site import Site
        >>> from interpeval.datasets.digits import Digits
        >>> first, second = build(Site, Digits(), 0), build(Site, Digits(), 0)
        >>> all(a.equal(b) for a, b in zip(first.parameters(), second.parameters()))
        True
        >>> build(Site, Digits(), 0, {"width": 2}).generators.norm2.num_features
        20
    """
    cpu = torch.device("cpu")
    with seeded(seed, cpu), _threads({}, cpu):
        return cast("nn.Module", model_class(dataset.image_shape, len(dataset.classes), **(options or {})))


def train(
    model: nn.Module,
    dataset: Dataset,
    *,
    seed: int,
    recipe: Mapping[str, Any],
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    checkpoint: Checkpoint | None = None,
    progress: bool = True,
) -> nn.Module:
    """Train a model in place by its own `training_loss`, or by its `fit` if it has none.

    The order of the samples, and what the model draws from the global generators, depend on `seed` alone; the
    caller's random state is given back. On a CPU, sums over several threads are cut into as many parts, so that the
    last bits of the weights depend on the number of threads: training uses `threads` of the recipe (default 2),
    whatever torch is set to, and gives the caller's number back. The same start and seed then give the same weights
    to the last bit on the same machine. On CUDA they do not: some gradients are added up there in no fixed order.

    The hooks of the model (`interpeval.baselines.base.TrainableModel`) are called with the same random state and
    threads: `begin_epoch` and `end_epoch` in training mode, `finish` in evaluation mode.

    Args:
        model: the network. Parameters that require no gradient stay as they are.
        dataset: the samples to train on.
        seed: decides the order of the samples and the model's draws; the initial weights are the caller's (`build`).
        recipe: `epochs`, `batch_size`, `learning_rate`, what `make_optimizer` and `make_schedule` read, `threads`, and
            whatever the model reads. Every epoch is cut into batches of nearly equal size, none above `batch_size`.
        device: where to train; the model stays there.
        precision: `"bf16"` runs `training_loss` under autocast to bfloat16; weights and optimiser stay in float32.
        checkpoint: written after every epoch. Where its file exists, training goes on from there and ends with the
            same weights as without the interruption.
        progress: show a bar with loss and accuracy over the epoch so far on the standard error stream. With several
            labels per sample, accuracy is the share of samples whose highest logit is one of them.

    Returns:
        `model`, in evaluation mode, without gradients.

    Raises:
        TypeError: the model has neither `training_loss` nor `fit`.
        ValueError: the recipe lacks a number or has an impossible one, the dataset is empty, or the checkpoint is
            damaged or belongs to another training.
        FloatingPointError: the loss or a parameter was infinite or NaN; the checkpoint is that of the last epoch
            before.
    """
    if not hasattr(model, "training_loss") and not hasattr(model, "fit"):
        raise TypeError(
            f"`model` must have a method `training_loss` to be trained, or `fit`, `{model_name(model)}` has neither"
        )
    if precision not in {"fp32", "bf16"}:
        raise ValueError(f'`precision` must be "fp32" or "bf16", was {precision!r}')
    _size(dataset)
    device = torch.device(device)
    try:
        with _threads(recipe, device), seeded(seed, device):
            if hasattr(model, "training_loss"):
                course = _Course(model, dataset, recipe, seed=seed, device=device, precision=precision)
                course.run(checkpoint, progress)
                _hook(model.eval(), "finish", recipe, dataset)
            else:
                _hook(model.to(device), "fit", dataset, recipe, seed)
    finally:
        model.zero_grad()
        model.eval()
    return model


def finish(
    model: nn.Module,
    dataset: Dataset,
    *,
    seed: int,
    recipe: Mapping[str, Any],
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Do what is left to do for a model made of a trained network: its hook `finish` alone, as `train` ends with.

    Returns:
        `model`, in evaluation mode, on `device`.
    """
    device = torch.device(device)
    with _threads(recipe, device), seeded(seed, device):
        _hook(model.to(device).eval(), "finish", recipe, dataset)
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


class _Course:
    """A training under way: the model and everything else that decides how it goes on."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        recipe: Mapping[str, Any],
        *,
        seed: int,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.model, self.dataset, self.recipe, self.device = model, dataset, recipe, device
        self.epochs, batch_size = whole(recipe, "epochs"), whole(recipe, "batch_size")
        self.steps = math.ceil(_size(dataset) / batch_size)
        self.order = torch.Generator().manual_seed(seed)
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def run(self, checkpoint: Checkpoint | None, progress: bool) -> None:
        """Train all epochs that the checkpoint does not have."""
        saved = None if checkpoint is None else checkpoint.read()
        done = 0 if saved is None else saved["epoch"]
        if saved is not None:
            adapt(self.model, saved["model"])
            self.model.load_state_dict(saved["model"])
        self.model.to(self.device).train()
        optimizer = make_optimizer(self.model, self.recipe)
        schedule = make_schedule(optimizer, self.recipe, self.epochs, self.steps)
        state = _State(self.model, optimizer, schedule, self.order, self.device)
        if saved is not None:
            state.restore(saved)
        title = f"{model_name(self.model)} on {self.dataset.name}"
        with _bar(title, self.epochs * self.steps, done * self.steps, progress) as bar:
            for epoch in range(done + 1, self.epochs + 1):
                _hook(self.model, "begin_epoch", epoch, self.recipe, self.dataset)
                self._epoch(epoch, optimizer, schedule, bar)
                _hook(self.model, "end_epoch", epoch, self.recipe, self.dataset)
                _check_parameters(self.model, epoch)
                if checkpoint is not None:
                    checkpoint.write({"epoch": epoch, **state.now()})

    def _epoch(self, epoch: int, optimizer: Optimizer, schedule: LRScheduler, bar: tqdm[Any]) -> None:
        tally = _Tally()
        for step, batch in self._shuffled():
            with self.autocast:
                loss, logits = cast("TrainableModel", self.model).training_loss(batch.images, batch.labels, self.recipe)
            where = f"`{model_name(self.model)}` at epoch {epoch}, step {step} of {self.steps}"
            _check_finite(loss, where, self.recipe)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            tally.add(loss, logits, batch.labels)
            bar.set_postfix_str(f"epoch {epoch}/{self.epochs}, {tally}", refresh=False)
            bar.update()

    def _shuffled(self) -> Iterator[tuple[int, Batch]]:
        """Yield (step, batch) of one epoch, steps counted from 1, every epoch in an order of its own."""
        order = torch.randperm(len(self.dataset), generator=self.order)
        # Batches of nearly equal size: a last batch of one sample would break batch normalisation.
        for step, rows in enumerate(torch.tensor_split(order, self.steps), start=1):
            yield step, self.dataset.take(rows.tolist()).to(self.device)


@dataclass(frozen=True)
class _State:
    """What a checkpoint keeps, where it is while training."""

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    order: torch.Generator
    device: torch.device

    def now(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "frozen": [name for name, parameter in self.model.named_parameters() if not parameter.requires_grad],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "order": self.order.get_state(),
            "generators": read_generators(self.device),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over all but the model's tensors, which must be there before the optimiser is made."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name not in saved["frozen"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.order.set_state(saved["order"])
        write_generators(saved["generators"], self.device)


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


def adapt(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Let a model whose shapes depend on what it learnt (`adapt_to`) take those of a state dict."""
    _hook(model, "adapt_to", state)


@contextmanager
def _threads(recipe: Mapping[str, Any], device: torch.device) -> Generator[None]:
    """Use the recipe's number of threads on a CPU, and give the caller's back."""
    before = torch.get_num_threads()
    count = whole(recipe, "threads", DEFAULT_THREADS)
    if device.type == "cpu":
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _hook(model: nn.Module, name: str, *arguments: Any) -> None:
    """Call an optional method of a model."""
    if hasattr(model, name):
        getattr(model, name)(*arguments)


def _bar(title: str, total: int, done: int, progress: bool) -> tqdm[Any]:
    # In a log file every redraw is a line to scroll past: there one in ten seconds is enough.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total,
        initial=done,
        desc=printable(f"training {title}"),
        unit="step",
        disable=not progress,
        mininterval=interval,
        file=sys.stderr,
    )


def _check_finite(loss: Tensor, where: str, recipe: Mapping[str, Any]) -> None:
    if not bool(loss.isfinite()):
        raise FloatingPointError(
            f"the training loss of {where} must be finite, was {loss.item()}; "
            f"lower `learning_rate` ({recipe['learning_rate']}) or look for NaN in the images"
        )


def _check_parameters(model: nn.Module, epoch: int) -> None:
    """Raise before parameters that a last step made infinite are kept: a checkpoint must be worth going on from."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise FloatingPointError(
                f"parameter `{name}` of `{model_name(model)}` must be finite, was not after epoch {epoch}; lower "
                "`learning_rate`"
            )


def _size(dataset: Dataset) -> int:
    if len(dataset) == 0:
        raise ValueError(f"`dataset` must hold at least one sample, `{dataset.name}` ({dataset.split}) is empty")
    return len(dataset)


def _hits(logits: Tensor, labels: Tensor) -> int:
    top = logits.argmax(dim=1)
    return int((labels.gather(1, top[:, None])[:, 0] if labels.ndim == 2 else top == labels).sum())
