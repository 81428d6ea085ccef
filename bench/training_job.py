"""Training a model by name into a file of its own, with a checkpoint beside it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..baselines.base import DEFAULT_THREADS, TrainableModel
from ..datasets.base import Dataset
from ..datasets.part import Part
from . import training, weights
from .catalog import parse
from .checkpoint import Checkpoint, differences
from .evaluation import choose_device
from .optimisation import RECIPE_KEYS, whole
from .resolve import check_model_name, made_of, resolve_dataset, split_model, stated_options, trainable_class


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How to train, beside what to train.

    Attributes:
        seed: decides the initial weights, the order of the samples, and the model's draws.
        changes: values that take the place of those in the model's recipe.
        limit: train on so many samples, evenly spread over the training part.
        device: `"auto"`, `"cpu"`, `"cuda"`, …
        precision: `"fp32"`, or `"bf16"` for autocast.
        resume: go on from the checkpoint, if there is one.
        trust: unpickle the weights to start from whole, which runs whatever code the file holds.
        progress: show a bar.
        dataset_options: arguments for datasets that take them.
    """

    seed: int = 0
    changes: Mapping[str, Any]
    limit: int | None = None
    device: str = "auto"
    precision: training.Precision = "fp32"
    resume: bool = False
    trust: bool = False
    progress: bool = True
    dataset_options: Mapping[str, object]


@dataclass(frozen=True)
class Trained:
    """A weights file that is complete.

    Attributes:
        path: the file.
        digest: of the weights.
        accuracy: on the held-out part, in [0, 1]; `None` where it cannot be counted.
        held_out: in words, on what, or why not.
    """

    path: Path
    digest: str
    accuracy: float | None
    held_out: str


class TrainingJob:
    """The training of a model into a file.

    The header of the file records `model`, its `options`, `source` (a digest of the code), `dataset`, `revision` and
    `limit`, `recipe`, `seed`, `start` (the digest of the weights it began with, if those of a file), `threads`,
    `precision`, `device`, `torch`, `accuracy`, and `digest`.

    Args:
        model: `name?option=value`, or with `@FILE` to start from these weights.
        dataset: the name of a dataset; its training part is trained on.
        out: the file to write, ending in `.safetensors`. The checkpoint is `<out>.checkpoint` until it is there.
        options: how to train.

    Raises:
        ValueError, TypeError, LookupError, OSError: something is not what it must be; nothing was written.
    """

    def __init__(self, model: str, dataset: str, out: Path, options: TrainingOptions) -> None:
        """Resolve every name and check what can be checked before time is spent."""
        self.out, self.options = out, options
        self.checkpoint_path = out.with_name(f"{out.name}.checkpoint")
        self._check_paths()
        check_model_name(model)
        parts = made_of(model)
        if parts is not None:
            raise ValueError(
                f"model `{model}` must be trained as what it is made of: train `{parts[1]}`, and name "
                f"`{parts[0].name}?of={parts[1].partition('@')[0]}@FILE` in `interpeval run`"
            )
        name, self.start = split_model(model)
        spec = parse(name)
        model_class = trainable_class(spec)
        if model_class is None:
            raise TypeError(f"model `{name}` must have a `recipe` to be trained: see the models of `interpeval list`")
        self.model_class = model_class
        self.model_options = spec.params if self.start is None else stated_options(model_class, spec.params, self.start)
        self.device = choose_device(options.device)
        part = self.dataset = resolve_dataset(dataset, **options.dataset_options).with_split("train")
        self.part: Dataset = part if options.limit is None else Part.spread(part, options.limit)
        self.recipe = changed_recipe(model_class, model_class.recipe(part.name), options.changes)

    def run(self) -> Trained:
        """Train and write the file; what an earlier call with the same arguments finished is not done again.

        Raises:
            ValueError: the recipe has an impossible number, or a file is there that belongs to another training.
            FloatingPointError: the loss was infinite or NaN; the checkpoint of the last epoch before is kept.
            KeyboardInterrupt: it was interrupted; the checkpoint of the last complete epoch is kept.
        """
        model = training.build(self.model_class, self.part, self.options.seed, self.model_options)
        if self.start is not None:
            weights.load(model, self.start, trust=self.options.trust)
        facts = self._facts(model)
        if self.out.exists():
            return self._finished(facts)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        training.train(
            model,
            self.part,
            seed=self.options.seed,
            recipe=self.recipe,
            device=self.device,
            precision=self.options.precision,
            checkpoint=Checkpoint(self.checkpoint_path, facts),
            progress=self.options.progress,
        )
        accuracy, held_out = self._accuracy(model)
        weights.save(model, self.out, weights.header_of({**facts, "accuracy": accuracy}))
        self.checkpoint_path.unlink(missing_ok=True)
        return Trained(self.out, weights.digest(model), accuracy, held_out)

    def _check_paths(self) -> None:
        if self.out.suffix != ".safetensors":
            raise ValueError(f"`--out` must end in .safetensors, was `{self.out}`")
        if self.out.exists() and not self.options.resume:
            raise FileExistsError(f"`{self.out}` is there already: choose another `--out`, or remove it")
        if self.checkpoint_path.exists() and not self.options.resume:
            raise FileExistsError(
                f"`{self.checkpoint_path}` is left from a training that was interrupted: give `--resume` to go on from "
                "it, or remove it"
            )

    def _facts(self, model: nn.Module) -> dict[str, Any]:
        """Return all that decides the weights."""
        cpu = self.device.type == "cpu"
        return {
            **weights.facts_about(self.model_class, self.part, self.model_options),
            "limit": self.options.limit,
            "recipe": dict(self.recipe),
            "seed": self.options.seed,
            "start": None if self.start is None else weights.digest(model),
            "threads": whole(self.recipe, "threads", DEFAULT_THREADS) if cpu else None,
            "precision": self.options.precision,
            "device": self.device.type,
            "torch": torch.__version__,
        }

    def _finished(self, facts: Mapping[str, Any]) -> Trained:
        """Return the file that an earlier call wrote, if it is what this one would write."""
        earlier = weights.facts_of(self.out)
        found = differences({key: earlier.get(key) for key in facts}, facts)
        if found:
            raise ValueError(
                f"`{self.out}` is there already, of another training: {'; '.join(found)}; choose another `--out`"
            )
        return Trained(self.out, earlier["digest"], earlier["accuracy"], "the held-out part, as the file says")

    def _accuracy(self, model: nn.Module) -> tuple[float | None, str]:
        """Count the accuracy on the test part; where that cannot be, say why: the training is not to be lost."""
        try:
            test = self.dataset.with_split("test")
            found = training.accuracy(model, test, device=self.device)
        except (ValueError, OSError, RuntimeError) as error:
            return None, str(error)
        return found, f"the {len(test)} samples of {test.name} ({test.split})"


def changed_recipe(
    model_class: type[TrainableModel], recipe: Mapping[str, Any], changes: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return a model's recipe with some values changed.

    Raises:
        ValueError: neither the recipe nor the training loop knows a key, or a value is not of the kind that the recipe
            has.

    Example:
        >>> from interpeval.baselines.site import Site
        >>> changed_recipe(Site, Site.recipe("digits"), {"epochs": 3})["epochs"]
        3
    """
    known = recipe.keys() | (RECIPE_KEYS if hasattr(model_class, "training_loss") else {"threads"})
    for key, value in changes.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"it has: {', '.join(sorted(known))}"
            raise ValueError(f"the recipe of `{model_class.name}` has no `{key}`: {hint}")
        # A recipe's `None` stands for a number that is not set, such as the depth of a tree.
        if recipe.get(key) is not None and _kind(value) != _kind(recipe[key]):
            raise ValueError(
                f"`{key}` of the recipe of `{model_class.name}` must be {_kind(recipe[key])} such as {recipe[key]!r}, "
                f"was {value!r}"
            )
    return {**recipe, **changes}


def _kind(value: Any) -> str:
    """Say in words what kind of value it is."""
    if isinstance(value, bool):
        return "true or false,"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list | tuple):
        return "a list"
    return "a word" if isinstance(value, str) else type(value).__name__
