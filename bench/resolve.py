"""From names to objects: datasets, models with their weights, explainers and metrics, ready to run."""

from __future__ import annotations

import difflib
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..baselines.base import Explainer, TrainableModel, is_encoder
from ..baselines.ensure import ensure_explainer
from ..datasets.base import Dataset
from ..metrics.base import Metric
from . import training, weights
from .catalog import Spec, UnknownNameError, check_name, entries, expanded, load, parse


@dataclass(frozen=True, eq=False)
class Model:
    """A network under test.

    Attributes:
        name: what tables call it.
        module: the network, in evaluation mode, on its device.
        digest: of its weights.
        code: of the source file that defines it.
    """

    name: str
    module: nn.Module
    digest: str
    code: str


def resolve_dataset(text: str, **options: object) -> Dataset:
    """Return the dataset called `name?argument=value`; `options` are further arguments, for datasets that take them."""
    spec = parse(text)
    factory = load("datasets", spec)
    if not hasattr(factory, "take"):  # asked before it is called: a name in a suite must not call any function there is
        raise TypeError(
            f"`{spec.name}` must be a dataset, a class with `take` (see `interpeval.datasets.base.Dataset`)"
        )
    taken = inspect.signature(factory).parameters if callable(factory) else {}
    params: dict[str, Any] = {name: value for name, value in options.items() if name in taken} | dict(spec.params)
    if "labels" in params and "label_map" in taken:  # a field cannot be called so: `labels` are those of the samples
        params["label_map"] = params.pop("labels")
    if isinstance(params.get("of"), str):  # a dataset made from another one
        params["of"] = resolve_dataset(params["of"], **options)
    return _construct(factory, replace(spec, params=params), "dataset")


def resolve_explainer(text: str) -> Explainer:
    """Return the explainer called `name?argument=value`, whatever kind of thing the name stands for."""
    spec = parse(text)
    return ensure_explainer(load("explainers", spec), **spec.params)


def resolve_metric(text: str) -> Metric:
    """Return the metric called `name?argument=value`."""
    spec = parse(text)
    found = load("metrics", spec)
    # Asked before it is called: a name in a suite must not call any function there is.
    if not (issubclass(found, Metric) if isinstance(found, type) else isinstance(found, Metric)):
        raise TypeError(f"`{spec.name}` must be a metric (a subclass of `interpeval.metrics.base.Metric`)")
    return _construct(found, spec, "metric")


def check_model_name(text: str) -> None:
    """Raise for a model that cannot be found, before the time for loading or training one is spent."""
    parts = made_of(text)
    if parts is not None:
        spec, network = parts
        check_arguments(load("models", spec), spec, "model", not_options=("image_shape", "n_classes", "network"))
        return check_model_name(network)
    name, weight_file = split_model(text)
    spec = parse(name)
    if spec.name in entries("models"):
        check_arguments(load("models", spec), spec, "model", not_options=("image_shape", "n_classes"))
    elif not name.startswith("torchvision:"):
        check_name("models", spec)
    elif weight_file is None:
        raise ValueError(
            f"model `{text}` needs weights: write `{text}@FILE` (a state dictionary; nothing is downloaded)"
        )
    if weight_file is not None and not weight_file.is_file():
        raise FileNotFoundError(f"weights file `{weight_file}` of model `{name}` does not exist")
    return None


def check_interpreter(text: str) -> None:
    """Raise for a model of the catalog without an interpreter, before the time for training one is spent."""
    check_model_name(text)
    spec = parse(split_model(text)[0])
    if spec.name in entries("models") and not hasattr(load("models", spec), "interpret"):
        raise TypeError(f"model `{spec.name}` must have an interpreter, as `flint` has: it has none")


def made_of(text: str) -> tuple[Spec, str] | None:
    """Split a model made of another one, `kmex?of=NETWORK`, into itself and the network; `None` for other models.

    A weights file after `@` is that of the network.

    Example:
        >>> spec, network = made_of("kmex?prototypes_per_class=3&of=lenet@lenet.safetensors")
        >>> spec.params, network
        ({'prototypes_per_class': 3}, 'lenet@lenet.safetensors')
    """
    name, at, file = text.partition("@")
    spec = parse(name)
    if "of" not in spec.params or spec.name not in entries("models"):
        return None
    if "network" not in inspect.signature(load("models", spec)).parameters:
        return None
    params = dict(spec.params)
    network = f"{params.pop('of')}{at}{file}"
    return replace(spec, params=params), network


def resolve_model(
    text: str, dataset: Dataset, *, seed: int, device: torch.device, progress: bool, trust: bool = False
) -> Model:
    """Return the model called `name`, `name@weights`, `torchvision:NAME@weights` or `place:factory@weights`.

    A model of the catalog without weights is trained on the dataset's training split, once, and cached, and so is a
    class elsewhere that can be built and trained like one (`trainable_class`). `name?option=value` sets options of its
    constructor; those in the header of a weights file need not be said again. `trust` lets a pickled weights file run
    its code (`interpeval.bench.weights.load`).

    `kmex?of=NETWORK` or `kmex?of=NETWORK@weights` is made of the network of that name, which is had as by itself; what
    is learnt on top of it is cached as well. `&` and `?` in the network's own options are written `%26` and `%3F`, or
    not at all if they are in the header of its file.
    """
    check_model_name(text)
    parts = made_of(text)
    if parts is not None:
        spec, name = parts
        network = resolve_model(name, dataset, seed=seed, device=device, progress=progress, trust=trust)
        return _completed(spec, network, dataset, seed=seed, device=device)
    name, weight_file = split_model(text)
    spec = parse(name)
    model_class = trainable_class(spec)
    if model_class is None:
        module = made(spec)
        if weight_file is not None:
            weights.load(module, weight_file, trust=trust)
    elif weight_file is None:
        module = weights.trained(model_class, dataset, seed=seed, options=spec.params, device=device, progress=progress)
    else:
        module = training.build(model_class, dataset, seed, stated_options(model_class, spec.params, weight_file))
        weights.load(module, weight_file, trust=trust)
    return as_model(module, dataset, name=_label(spec), device=device)


def _completed(spec: Spec, network: Model, dataset: Dataset, *, seed: int, device: torch.device) -> Model:
    """Make a model of a trained network."""
    module = weights.completed(
        cast("type[TrainableModel]", load("models", spec)),
        network.module,
        dataset,
        of=f"{network.name} {network.code}",
        seed=seed,
        options=spec.params,
        device=device,
    )
    label = _label(replace(spec, params={**spec.params, "of": network.name}))
    return as_model(module, dataset, name=label, device=device)


def trainable_class(spec: Spec) -> type[TrainableModel] | None:
    """Return the class that a name stands for if it can be built for a dataset and trained, otherwise `None`.

    Raises:
        UnknownNameError: nothing has this name.
        ValueError: the name has an argument that the constructor does not take.
    """
    if spec.name.startswith("torchvision:"):
        return None
    found = load("models", spec)
    if not isinstance(found, type) or not issubclass(found, nn.Module) or not hasattr(found, "recipe"):
        return None
    check_arguments(found, spec, "model", not_options=("image_shape", "n_classes"))
    return cast("type[TrainableModel]", found)


def stated_options(model_class: type[TrainableModel], given: Mapping[str, Any], weight_file: Path) -> Mapping[str, Any]:
    """Return the options of the constructor that a weights file was made with; `given` ones must agree with them.

    Raises:
        ValueError: the file is of another model or was made with other options, or by a version with options that
            this one does not have.
    """
    facts = weights.facts_of(weight_file)
    made_by, options = facts.get("model", model_class.name), facts.get("options")
    if made_by != model_class.name:
        raise ValueError(f"`{weight_file}` holds weights of model `{made_by}`, not of `{model_class.name}`")
    if not isinstance(options, dict):
        return given
    known = weights.all_options(model_class, {})
    for name in options.keys() - known.keys():
        raise ValueError(f"`{weight_file}` was made with option `{name}`, which `{model_class.name}` does not have")
    for name, value in given.items():
        if name in options and options[name] != value:
            raise ValueError(
                f"`{weight_file}` was made with `{name}={options[name]}`, `{name}={value}` was asked for: leave it out"
            )
    return {**given, **options}


def as_model(module: nn.Module, dataset: Dataset, *, name: str | None = None, device: torch.device) -> Model:
    """Take a network as a model under test, and check that it classifies the images of `dataset`."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, was {type(module).__name__}")
    module = module.to(device).eval()
    _check_classes(module, dataset, device)
    return Model(name or type(module).__name__, module, weights.digest(module), source_digest(type(module)))


def split_model(text: str) -> tuple[str, Path | None]:
    """Split `name@weights`."""
    name, at, file = text.partition("@")
    if at and not file:
        raise ValueError(f"model `{text}` must name a weights file after `@`")
    return name, Path(expanded(file)).expanduser() if at else None


def source_digest(thing: Any) -> str:
    """Return a digest of the source file that defines a class or function; empty where there is none."""
    try:
        path = inspect.getsourcefile(thing)
    except TypeError:
        return ""
    if path is None or not Path(path).is_file():
        return ""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def configuration(thing: Any) -> Mapping[str, Any]:
    """Return the fields of a dataclass that differ from their defaults."""
    if not is_dataclass(thing):
        return {}
    return {f.name: getattr(thing, f.name) for f in fields(thing) if getattr(thing, f.name) != _default(f)}


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def made(spec: Spec) -> nn.Module:
    """Return the network that a place names, made by its factory."""
    if spec.name.startswith("torchvision:"):
        return _torchvision(spec.name.removeprefix("torchvision:"), spec.params)
    factory = load("models", spec)
    if isinstance(factory, nn.Module):
        return factory
    return cast("nn.Module", _construct(factory, spec, "model"))


def _torchvision(name: str, params: Mapping[str, Any]) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise UnknownNameError(f"torchvision has no classifier `{name}`: did you mean {', '.join(near) or known[0]}?")
    return models.get_model(name, weights=None, **params)


def _label(spec: Spec) -> str:
    """Return a name for tables: a file is named without its folder."""
    place, colon, attribute = spec.name.rpartition(":")
    name = f"{Path(place).name}:{attribute}" if colon and place.endswith(".py") else spec.name
    query = "&".join(f"{key}={value}" for key, value in spec.params.items())
    return f"{name}?{query}" if query else name


def _construct(factory: Any, spec: Spec, what: str) -> Any:
    if not callable(factory):
        if spec.params:
            raise ValueError(f"{what} `{spec.name}` takes no arguments, got {', '.join(spec.params)}")
        return factory
    check_arguments(factory, spec, what)
    return factory(**spec.params)


def check_arguments(factory: Any, spec: Spec, what: str, *, not_options: Sequence[str] = ()) -> None:
    """Raise `ValueError` for an argument that a factory does not take, that is not to be set, or that is missing."""
    hidden = {"args", "kwargs", *not_options}
    signature = inspect.signature(factory).parameters
    allowed = [name for name in signature if name not in hidden]
    for name in spec.params:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"it takes: {', '.join(allowed) or 'none'}"
            raise ValueError(f"{what} `{spec.name}` has no argument `{name}`: {hint}")
    missing = [name for name in allowed if _needed(signature[name]) and name not in spec.params]
    if missing:
        example = "&".join(f"{name}=…" for name in missing)
        raise ValueError(
            f"{what} `{spec.name}` must be given {', '.join(f'`{name}`' for name in missing)}: "
            f"write `{spec.name}?{example}`"
        )


def _needed(parameter: inspect.Parameter) -> bool:
    """Whether a call must give this argument."""
    several = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    return parameter.default is inspect.Parameter.empty and parameter.kind not in several


def _check_classes(module: nn.Module, dataset: Dataset, device: torch.device) -> None:
    image = dataset.take([0]).images.to(device)
    try:
        with torch.no_grad():
            logits = module(image)
    except Exception as error:
        message = f"`model` cannot take an image {tuple(image.shape)} of dataset `{dataset.name}`: {error}"
        raise ValueError(" ".join(message.split())) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"`model` must return logits (B, K), returned {found} for an image {tuple(image.shape)}")
    if is_encoder(module):
        return
    known: torch.Tensor | None = getattr(dataset, "network_classes", None)
    expected = len(dataset.classes) if known is None else known.shape[1]
    # A map in a file does not say how many classes the network has: those beyond its largest one count as none.
    if logits.shape[1] != expected and (known is None or logits.shape[1] < expected):
        raise ValueError(
            f"`model` gives {logits.shape[1]} classes, dataset `{dataset.name}` has {expected}: take a model of "
            "these, or a dataset that says which classes of a network count as its own (argument `labels`); a model "
            "that gives a representation says so by `encoder = True`"
        )
