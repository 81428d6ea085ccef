"""A model as data: how it is made, and its weights. Where it is built again, nothing is read or trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..baselines.base import TrainableModel
from ..datasets.base import Dataset
from . import training, weights
from .catalog import Spec, load, parse
from .resolve import Model, as_model, made, made_of, split_model, stated_options, trainable_class


@dataclass(frozen=True)
class Blueprint:
    """How a network is built before it has its weights.

    Attributes:
        spec: its name.
        options: of its constructor, those that stand in the header of its weights file included.
        of: the network that it is made of, if it is made of one.
    """

    spec: Spec
    options: Mapping[str, Any]
    of: Blueprint | None = None


@dataclass(frozen=True, eq=False)
class PackedModel:
    """A model under test as data.

    Attributes:
        name: what tables call it.
        blueprint: how it is built.
        state: its state dict, on the CPU.
        digest: of its weights.
    """

    name: str
    blueprint: Blueprint
    state: Mapping[str, Tensor]
    digest: str


def pack(text: str, model: Model) -> PackedModel:
    """Return as data the model that `interpeval.bench.resolve.resolve_model` gave for a name."""
    state = {name: tensor.detach().cpu() for name, tensor in model.module.state_dict().items()}
    return PackedModel(model.name, _blueprint(text), state, model.digest)


def unpack(packed: PackedModel, dataset: Dataset, *, seed: int, device: torch.device) -> Model:
    """Build a packed model.

    Raises:
        ValueError: its weights are not what they were, or the code here builds another network.
    """
    module = _built(packed.blueprint, dataset, seed)
    try:
        training.adapt(module, packed.state)
        module.load_state_dict(packed.state)
    except (ValueError, LookupError, RuntimeError) as error:
        raise ValueError(f"the weights of model `{packed.name}` do not fit the network built here: {error}") from error
    found = weights.digest(module)
    if found != packed.digest:
        raise ValueError(f"the weights of model `{packed.name}` must have digest {packed.digest}, here it is {found}")
    return as_model(module, dataset, name=packed.name, device=device)


def _blueprint(text: str) -> Blueprint:
    parts = made_of(text)
    if parts is not None:
        spec, network = parts
        return Blueprint(spec, spec.params, _blueprint(network))
    name, weight_file = split_model(text)
    spec = parse(name)
    model_class = trainable_class(spec)
    if model_class is None or weight_file is None:
        return Blueprint(spec, spec.params)
    return Blueprint(spec, stated_options(model_class, spec.params, weight_file))


def _built(blueprint: Blueprint, dataset: Dataset, seed: int) -> nn.Module:
    options = dict(blueprint.options)
    if blueprint.of is not None:
        model_class = cast("type[TrainableModel]", load("models", blueprint.spec))
        return training.build(
            model_class, dataset, seed, {**options, "network": _built(blueprint.of, dataset, seed).eval()}
        )
    trainable = trainable_class(blueprint.spec)
    return made(blueprint.spec) if trainable is None else training.build(trainable, dataset, seed, options)
