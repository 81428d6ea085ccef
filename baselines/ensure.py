"""Taking anything sensible as an explainer, and reading what it says of itself."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from captum.attr import Attribution, Deconvolution, GuidedBackprop, GuidedGradCam, PerturbationAttribution, Saliency
from torch import Tensor, nn

from .base import Explainer, Reduction
from .cam_layer import cam_layer
from .from_pytorch_grad_cam import FromPytorchGradCam, is_of_pytorch_grad_cam, options_of
from .from_quantus import FromQuantus, is_of_quantus
from .from_zennit import FromZennit, from_zennit, is_of_zennit
from .option_checks import check_word
from .relu_rule import every_relu_is_a_module, lacks_relu
from .through_captum import attribute_through, gradients_enabled

_ACCEPTED = (
    "an explainer is an object or a class with `attribute(model, inputs, targets)`, a Captum attribution class, a "
    "class of pytorch_grad_cam, a composite or attributor class of zennit, or a function "
    "`(model, inputs, targets) -> attributions`"
)
_KNOWN_NEEDS = frozenset({"keys", "masks"})
_RELU_RULES = (GuidedBackprop, Deconvolution, GuidedGradCam)
# What the adapter itself hands to a Captum class, and what would change the kind of its result.
_TAKEN = frozenset({"self", "inputs", "target", "return_convergence_delta"})
_OF_OTHER_PACKAGES = (FromPytorchGradCam, FromQuantus, FromZennit)


@dataclass(frozen=True)
class FromCaptum:
    """A Captum attribution class as an explainer: bound to the model for every call.

    Attributes:
        method: the class; called as `method(model)`, or `method(model, layer)` where it wants a layer.
        options: further arguments of the class's `attribute`.
        reduction: how channels become a heatmap.
        layer: name of the layer, as in `model.named_modules()`; by default the rule of `cam_layer`.

    Example:
        >>> import torch
        >>> explainer = FromCaptum(Saliency, {"abs": False})
        >>> explainer.attribute(nn.Flatten(), torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([1]))
        tensor([[[[0., 1.]]]])
    """

    method: type[Attribution]
    options: Mapping[str, object] = field(default_factory=dict[str, object], hash=False)
    reduction: Reduction = "sum"
    layer: str | None = None

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.method.__name__

    @property
    def needs_gradient(self) -> bool:
        """Whether it differentiates the model: every class of Captum that is not one of its perturbation methods."""
        return not issubclass(self.method, PerturbationAttribution)

    def refuses(self, model: nn.Module) -> str | None:
        """Return why this model cannot be explained so, or `None`."""
        return lacks_relu(model) if issubclass(self.method, _RELU_RULES) else None

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return what the Captum class returns; arguments as `Explainer.attribute`."""
        layer = (cam_layer(model, inputs, self.layer),) if _wants_layer(self.method) else ()
        bind: Callable[..., Attribution] = self.method
        with every_relu_is_a_module(model) if issubclass(self.method, _RELU_RULES) else nullcontext():
            return attribute_through(bind(model, *layer), inputs, targets, **self.options)


@dataclass(frozen=True)
class FromFunction:
    """A function `(model, inputs, targets, **options) -> attributions` as an explainer.

    Attributes:
        function: the function; it is called with gradients enabled, on a copy of the inputs.
        options: further arguments of the function.
        reduction: how channels become a heatmap.

    Example:
        >>> import torch
        >>> explainer = FromFunction(lambda model, inputs, targets: inputs.abs())
        >>> explainer.attribute(nn.Identity(), torch.tensor([[[[-3.0]]]]), torch.tensor([0]))
        tensor([[[[3.]]]])
    """

    function: Callable[..., Tensor]
    options: Mapping[str, object] = field(default_factory=dict[str, object], hash=False)
    reduction: Reduction = "sum"

    @property
    def name(self) -> str:
        """The name of the function."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return what the function returns; arguments as `Explainer.attribute`."""
        with gradients_enabled():
            return self.function(model, inputs.detach().clone(), targets.clone(), **self.options).detach()


class ExplainerFacts(NamedTuple):
    """What the engine reads of an explainer.

    Attributes:
        name: what tables call it.
        params: its configuration, in values that JSON can hold.
        reduction: how channels become one heatmap.
        rectified: whether the negative part is cut off.
        needs: further arguments that `attribute` wants.
        control: whether it only marks a floor or a ceiling.
        sums_to: what the attributions add up to, `"logit"`, `"difference"` or `None`.
        target_free: whether it explains the whole output vector of a model.
        needs_gradient: whether it differentiates the model.
        source_digest: 16 hexadecimal digits that change with the file that defines it (and, where that file speaks
            of Captum, with Captum's version); empty where there is no source to read.
    """

    name: str
    params: dict[str, object]
    reduction: Reduction
    rectified: bool
    needs: frozenset[str]
    control: bool
    sums_to: str | None
    target_free: bool
    needs_gradient: bool
    source_digest: str


def ensure_explainer(thing: object, /, **params: object) -> Explainer:
    """Make an explainer of anything that can be one.

    Args:
        thing: an object with `attribute(model, inputs, targets)`, taken as it is; a class of such objects; a Captum
            attribution class; a class of `pytorch_grad_cam`; a composite of zennit, its class, or an attributor class;
            `quantus.explain`; or a function `(model, inputs, targets) -> attributions`.
        params: arguments of the class's constructor; of the Captum class's `attribute`, besides `layer` and
            `reduction`; or of the function, besides `reduction`. Objects take none. The reduction of Captum classes
            is `"max_abs"` for `Saliency`, `GuidedBackprop` and `Deconvolution`, else `"sum"`; of functions `"sum"`.
            Those of the other packages are described in `FromPytorchGradCam`, `FromZennit` and `FromQuantus`.

    Raises:
        TypeError: `thing` is none of these, or has no such parameter.
        ValueError: `reduction` or what the explainer `needs` is unknown.

    Example:
        >>> from .gradient import Gradient
        >>> ensure_explainer(Gradient, reduction="sum")
        Gradient(reduction='sum')
        >>> ensure_explainer(Gradient, reducton="sum")
        Traceback (most recent call last):
        TypeError: `Gradient` has no parameter `reducton`; did you mean `reduction`? It takes: reduction
    """
    explainer = _build(thing, params)
    reduction = getattr(explainer, "reduction", None)
    if reduction is not None:
        check_word("reduction", reduction, get_args(Reduction))
    _check_needs(explainer)
    return explainer


def explainer_facts(explainer: Explainer, model: nn.Module | None = None) -> ExplainerFacts:
    """Read the optional members of an explainer, with their defaults.

    Args:
        explainer: the explainer.
        model: what it will explain; a `reduction` of `None` is then the model's `own_reduction`.

    Example:
        >>> from .gradcam import GradCam
        >>> facts = explainer_facts(GradCam(layer="layer4"))
        >>> facts.name, facts.params, facts.rectified
        ('gradcam', {'reduction': 'none', 'layer': 'layer4'}, True)
    """
    return ExplainerFacts(
        name=getattr(explainer, "name", type(explainer).__name__),
        params={name: _plain(value) for name, value in _configuration(explainer).items()},
        reduction=getattr(explainer, "reduction", None) or getattr(model, "own_reduction", "sum"),
        rectified=getattr(explainer, "rectified", False),
        needs=_needs(explainer),
        control=getattr(explainer, "control", False),
        sums_to=_sums_to(explainer, model),
        target_free=getattr(explainer, "target_free", False),
        needs_gradient=getattr(explainer, "needs_gradient", False),
        source_digest=_source_digest(explainer),
    )


def _build(thing: object, params: dict[str, object]) -> Explainer:
    """Choose what kind of thing it is."""
    adapted = _from_another_package(thing, params)
    if adapted is not None:
        return adapted
    if inspect.isclass(thing):
        if issubclass(thing, Attribution):
            return _from_captum(thing, params)
        if callable(getattr(thing, "attribute", None)) and not issubclass(thing, nn.Module):
            _check_names(thing.__name__, params, _keywords(thing))
            return _checked(cast(Explainer, thing(**params)))
    elif isinstance(thing, (Attribution, nn.Module)):
        bound = "a Captum object is bound to one model: give its class"
        reason = bound if isinstance(thing, Attribution) else "it is a model: explain it with the explainer `own`"
        raise TypeError(f"`{type(thing).__name__}` is no explainer; {reason}")
    elif isinstance(thing, Explainer):
        if params:
            raise TypeError(f"`{type(thing).__name__}` is built already and takes no parameters: give its class")
        return _checked(thing)
    elif callable(thing):
        return _from_function(cast(Callable[..., Tensor], thing), params)
    raise TypeError(f"{thing!r} is no explainer; {_ACCEPTED}")


def _checked(explainer: Explainer) -> Explainer:
    """The explainer, if its `attribute` can be called as the engine will call it."""
    further: Mapping[str, object] = dict.fromkeys(_needs(explainer))
    _check_call(explainer.attribute, (None, None, None), further, _ACCEPTED)
    return explainer


def _from_function(function: Callable[..., Tensor], params: dict[str, object]) -> FromFunction:
    """The function as an explainer, with its options checked."""
    options = {name: value for name, value in params.items() if name != "reduction"}
    explainer = FromFunction(function, options, cast(Reduction, params.get("reduction", "sum")))
    _check_names(explainer.name, params, _keywords(function) - {*list(_parameters(function))[:3]} | {"reduction"})
    _check_call(function, (None, None, None), options, _ACCEPTED)
    return explainer


def _from_captum(method: type[Attribution], params: dict[str, object]) -> FromCaptum:
    """The Captum class as an explainer, with its options checked."""
    if not _fits(method):
        raise TypeError(
            f"Captum's `{method.__name__}` cannot be built from a model (and a layer) and asked about a target; "
            "write a function `(model, inputs, targets) -> attributions` that calls it"
        )
    arguments = _keywords(method.attribute)
    own = {"reduction", "layer"} if _wants_layer(method) else {"reduction"}
    _check_names(method.__name__, params, (arguments - _TAKEN) | own)
    options = {name: value for name, value in params.items() if name not in own}
    _check_call(method.attribute, (None, None), {"target": None, **options}, "give it as a parameter")
    by_magnitude = issubclass(method, (Saliency, GuidedBackprop, Deconvolution))
    return FromCaptum(
        method,
        options,
        reduction=cast(Reduction, params.get("reduction", "max_abs" if by_magnitude else "sum")),
        layer=cast(str | None, params.get("layer")),
    )


def _from_another_package(thing: object, params: dict[str, object]) -> Explainer | None:
    """The thing as an explainer, if it comes from a package that an adapter is for (Captum's is below)."""
    if is_of_zennit(thing):
        return from_zennit(thing, **cast(dict[str, Any], params))
    if inspect.isclass(thing) and is_of_pytorch_grad_cam(thing):
        return _from_pytorch_grad_cam(thing, params)
    if callable(thing) and is_of_quantus(thing):
        options = {name: value for name, value in params.items() if name != "reduction"}
        return FromQuantus(thing, options, cast(Reduction, params.get("reduction", "sum")))
    return None


def _from_pytorch_grad_cam(method: type, params: dict[str, object]) -> FromPytorchGradCam:
    """The class of pytorch_grad_cam as an explainer, with its options checked."""
    own = {"layer", "reduction"}
    _check_names(method.__name__, params, options_of(method) | own)
    options = {name: value for name, value in params.items() if name not in own}
    return FromPytorchGradCam(
        method,
        options,
        layer=cast(str | None, params.get("layer")),
        reduction=cast(Reduction, params.get("reduction", "none")),
    )


def _fits(method: type[Attribution]) -> bool:
    """Whether a Captum class is built from a model, or a model and a layer, and attributes a target."""
    required = [name for name, parameter in _parameters(method).items() if parameter.default is parameter.empty]
    attribute = getattr(method, "attribute", None)
    return (
        required[:1] in (["model"], ["forward_func"])
        and required[1:] in ([], ["layer"])
        and callable(attribute)
        and "target" in _keywords(attribute)
    )


def _wants_layer(method: type[Attribution]) -> bool:
    """Whether a Captum class is built for a layer of the model."""
    return "layer" in _parameters(method)


def _parameters(function: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function or of a class's constructor."""
    return inspect.signature(function).parameters


def _keywords(function: Callable[..., object]) -> set[str]:
    """The names that a function or constructor takes; `"**"` among them if it takes any."""
    kinds = {name: parameter.kind for name, parameter in _parameters(function).items()}
    named = {name for name, kind in kinds.items() if kind in {kind.POSITIONAL_OR_KEYWORD, kind.KEYWORD_ONLY}}
    return named | {"**" for kind in kinds.values() if kind is kind.VAR_KEYWORD}


def _check_names(owner: str, given: Mapping[str, object], allowed: Collection[str]) -> None:
    """Refuse parameters that nothing would read, naming the nearest that there are."""
    unknown = [] if "**" in allowed else [name for name in given if name not in allowed]
    for name in unknown:
        near = get_close_matches(name, allowed, n=1)
        hint = f"did you mean `{near[0]}`? It takes: " if near else "it takes: "
        raise TypeError(f"`{owner}` has no parameter `{name}`; {hint}{', '.join(sorted(allowed)) or 'none'}")


def _check_call(
    function: Callable[..., object], args: tuple[object, ...], more: Mapping[str, object], hint: str
) -> None:
    """Refuse a function that cannot be called so."""
    try:
        inspect.signature(function).bind(*args, **more)
    except TypeError as error:
        name = getattr(function, "__qualname__", type(function).__name__)
        raise TypeError(f"`{name}` cannot be called with model, inputs and targets: {error}; {hint}") from None


def _sums_to(explainer: Explainer, model: nn.Module | None) -> str | None:
    """What the attributions add up to; `"own"` leaves the answer to the model."""
    stated = getattr(explainer, "sums_to", None)
    return getattr(model, "own_sums_to", None) if stated == "own" else stated


def _needs(explainer: Explainer) -> frozenset[str]:
    """The further arguments that `attribute` wants."""
    return frozenset(getattr(explainer, "needs", frozenset[str]()))


def _check_needs(explainer: Explainer) -> None:
    """Refuse unknown needs, and explainers that want to see the answer."""
    needs = _needs(explainer)
    if needs - _KNOWN_NEEDS:
        raise ValueError(f"`needs` may hold `keys` and `masks`, was {', '.join(sorted(needs))}")
    if "masks" in needs and not getattr(explainer, "control", False):
        raise ValueError("`needs` may hold `masks` for controls only: an explainer must not see the annotation")


def _configuration(explainer: Explainer) -> dict[str, object]:
    """The fields of an explainer; of an adapter, those of what it adapts."""
    if isinstance(explainer, _OF_OTHER_PACKAGES):
        return explainer.configuration
    if isinstance(explainer, FromFunction):
        return {"reduction": explainer.reduction, **explainer.options}
    if isinstance(explainer, FromCaptum):
        layer = {"layer": explainer.layer} if _wants_layer(explainer.method) else {}
        return {"reduction": explainer.reduction, **layer, **explainer.options}
    if is_dataclass(explainer):
        return {part.name: getattr(explainer, part.name) for part in fields(explainer)}
    return {name: value for name, value in getattr(explainer, "__dict__", {}).items() if not name.startswith("_")}


def _plain(value: object) -> object:
    """A value that JSON can hold: tensors by a digest, other objects by the name of their type."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in cast(Mapping[object, object], value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in cast(Sequence[object], value)]
    if isinstance(value, Tensor):
        array = value.detach().cpu().contiguous().numpy()
        return f"{array.dtype}{array.shape} {_short(array.tobytes())}"
    return f"<{type(value).__qualname__}>"


def _source_digest(explainer: Explainer) -> str:
    """Digest of the source that defines an explainer."""
    origin: object = type(explainer)
    if isinstance(explainer, FromCaptum):
        origin = explainer.method
    elif isinstance(explainer, FromFunction):
        origin = explainer.function
    elif isinstance(explainer, _OF_OTHER_PACKAGES):
        origin = explainer.adapted
    source = _source(origin) or _source(getattr(origin, "attribute", None))
    if b"captum" in source:
        source += version("captum").encode()
    if isinstance(explainer, _OF_OTHER_PACKAGES):
        source += _version(explainer.package)
    return _short(source) if source else ""


def _version(package: str) -> bytes:
    """The version of a package that may be absent: functions as Quantus takes them do not need Quantus."""
    try:
        return version(package).encode()
    except PackageNotFoundError:
        return b""


def _source(thing: object) -> bytes:
    """The file that defines a class or a function; its own lines where that is no file, as in a notebook."""
    try:
        file = Path(inspect.getsourcefile(thing) or "")  # type: ignore[arg-type]  # a TypeError is expected
        return file.read_bytes() if file.is_file() else inspect.getsource(thing).encode()  # type: ignore[arg-type]
    except (TypeError, OSError):
        return b""


def _short(content: bytes) -> str:
    """16 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:16]
