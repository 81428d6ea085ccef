"""Checks that anyone can run on an explainer: does it behave as the engine and its readers expect?"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from unittest import SkipTest

import torch
from torch import Tensor, nn

from ..baselines.base import Explainer
from ..baselines.ensure import ExplainerFacts, ensure_explainer, explainer_facts
from ..datasets.philox import sample_keys, uniform
from .generators import GeneratorState, seeded
from .guard import ModelGuard, listed
from .resolve import resolve_explainer

if TYPE_CHECKING:
    import pytest

Outcome = Literal["passed", "failed", "skipped", "expected failure", "unexpected pass"]

TOLERANCE = 1e-4
_SIZE = (3, 16, 16)
_CLASSES = 3
_BATCH = 4


class CheckResult(NamedTuple):
    """What one check found.

    Attributes:
        name: of the check.
        outcome: `"passed"`, `"failed"`, `"skipped"`, or, where the explainer states the failure in
            `expected_failures`, `"expected failure"` or `"unexpected pass"`.
        message: what went wrong, why the check was skipped or the failure is expected; empty where it passed.
    """

    name: str
    outcome: Outcome
    message: str


class NonConformance(AssertionError):  # noqa: N818  # an assertion, as pytest shows them
    """A check failed."""


def check_explainer(
    explainer: Any, model: nn.Module | None = None, inputs: Tensor | None = None, *,
    masks: Tensor | None = None, tolerance: float = TOLERANCE, device: torch.device | str = "cpu",
) -> list[CheckResult]:  # fmt: skip
    """Run all checks on an explainer.

    Two attributions of a sample count as the same if no element differs by more than `tolerance` times the largest
    magnitude of the sample's attribution. An explainer may state what it does not do in
    `expected_failures: ClassVar[Mapping[str, str]]`, the reason by the name of the check.

    Args:
        explainer: a name, an object with `attribute(model, inputs, targets)`, a Captum class, or a function.
        model: the model to explain, in evaluation mode; by default a small convolutional network of fixed weights, or,
            where the explainer refuses it, a small linear model that explains itself.
        inputs: `(B, C, H, W)` with `B ≥ 2`, on the device of the model; by default coloured patches.
        masks: `(B, H, W)` bool object masks, for controls that want them; by default a box in every sample.
        tolerance: see above.
        device: where the default model is put.

    Returns:
        The results, in the order of the checks; all are skipped if the explainer refuses the model.

    Raises:
        TypeError, ValueError, LookupError: `explainer`, `inputs` or `expected_failures` is not what it must be.

    Example:
        >>> for result in check_explainer(lambda model, inputs, targets: inputs.abs()):
        ...     if result.outcome == "failed":
        ...         print(result.name, "-", result.message)
        target_sensitivity - the attribution is the same for every target
    """
    subject = _subject(explainer, model, inputs, masks=masks, tolerance=tolerance, device=device)
    return [_result(check, subject) for check in _CHECKS]


def check_names() -> list[str]:
    """Return the names of all checks, in their order.

    Example:
        >>> check_names()[:3]
        ['answers', 'shape', 'dtype']
    """
    return [_name(check) for check in _CHECKS]


def parametrize_with_checks(
    explainers: Sequence[Any], model: nn.Module | None = None, inputs: Tensor | None = None, *,
    masks: Tensor | None = None, tolerance: float = TOLERANCE, device: torch.device | str = "cpu",
) -> pytest.MarkDecorator:  # fmt: skip
    """Give a pytest test the parameter `check`, one for each explainer and check; arguments as `check_explainer`.

    Calling `check()` raises where the check fails and skips where it does not apply. Stated failures are marked
    `xfail`. Needs pytest.

    Example:
        >>> from interpeval.baselines.gradient import Gradient
        >>> @parametrize_with_checks([Gradient()])
        ... def test_explainer_conforms(check):
        ...     check()
    """
    import pytest

    params: list[Any] = []
    for thing in explainers:
        explainer = _explainer(thing)
        subject = cache(partial(_subject, explainer, model, inputs, masks=masks, tolerance=tolerance, device=device))
        expected = _expected_failures(explainer)
        for check in _CHECKS:
            name = _name(check)
            marks = [pytest.mark.xfail(reason=expected[name])] if name in expected else []
            called = f"{explainer_facts(explainer).name}-{name}"
            params.append(pytest.param(_Bound(check, subject), id=called, marks=marks))
    return pytest.mark.parametrize("check", params)


@dataclass(frozen=True)
class Subject:
    """An explainer, and what it is asked about in the checks.

    Attributes:
        explainer: the explainer.
        model: a model that it does not refuse.
        inputs: `(B, C, H, W)`.
        targets: `(B,)`, for sample `i` the `i`-th class after the one that is predicted, so that targets differ.
        extras: keys and masks, as far as the explainer wants them.
        n_classes: number of logits of the model.
        tolerance: as for `check_explainer`.
    """

    explainer: Explainer
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    extras: Mapping[str, Tensor]
    n_classes: int
    tolerance: float

    @property
    def facts(self) -> ExplainerFacts:
        """What the explainer says of itself."""
        return explainer_facts(self.explainer, self.model)

    @cached_property
    def answer(self) -> Tensor:
        """The attribution of the whole batch, asked for in the ordinary way."""
        with self.undone():
            return self.ask()

    @cached_property
    def reason(self) -> str | None:
        """Why there is no such attribution, or `None`."""
        try:
            answer: object = self.answer
        except Exception as error:  # noqa: BLE001  # anything may come out of a stranger's explainer
            return f"{type(error).__name__}: {error}"
        return None if isinstance(answer, Tensor) else f"`attribute` returned {type(answer).__name__}, not a tensor"

    def ask(self, rows: Sequence[int] | None = None, *, targets: Tensor | None = None) -> Tensor:
        """Ask about copies of some rows, with gradients recorded as the engine does, under one seed."""
        chosen = list(range(len(self.inputs)) if rows is None else rows)
        targets = self.targets if targets is None else targets
        extras = {name: value[chosen].clone() for name, value in self.extras.items()}
        with seeded(0, self.inputs.device), torch.enable_grad():
            return self._attribute(self.inputs[chosen].clone(), targets[chosen].clone(), extras)

    def ask_in(self, mode: AbstractContextManager[object]) -> Tensor:
        """Ask about copies made by a caller in this mode."""
        with seeded(0, self.inputs.device), mode:
            extras = {name: value.clone() for name, value in self.extras.items()}
            return self._attribute(self.inputs.clone(), self.targets.clone(), extras).detach()

    def ask_about(self, inputs: Tensor, targets: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        """Ask about these very tensors."""
        with torch.enable_grad():
            return self._attribute(inputs, targets, extras)

    @contextmanager
    def undone(self) -> Generator[None, None, None]:
        """Put the model and the global generators back afterwards, so that no check suffers from another."""
        guard, generators = ModelGuard(self.model), GeneratorState(self.inputs.device)
        try:
            yield
        finally:
            guard.restore()
            generators.restore()

    def require_same(self, found: Tensor, expected: Tensor, when: str) -> None:
        """Fail where two attributions of the same samples differ."""
        if found.shape != expected.shape:
            raise NonConformance(f"{when} the attribution is {tuple(found.shape)}, not {tuple(expected.shape)}")
        apart = _apart(found, expected)
        if not apart <= self.tolerance:
            raise NonConformance(
                f"{when} an attribution differs by {apart:.2g} times its largest magnitude (at most {self.tolerance:g})"
            )

    def _attribute(self, inputs: Tensor, targets: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        attribute: Callable[..., Tensor] = self.explainer.attribute
        return attribute(self.model, inputs, targets, **extras)


Check = Callable[[Subject], None]


def _check_answers(subject: Subject) -> None:
    """It returns a tensor for a batch."""
    if subject.reason:
        raise NonConformance(subject.reason)


def _check_shape(subject: Subject) -> None:
    """The attribution is `(B, C, h, w)` or `(B, 1, h, w)`, not larger than the input."""
    count, channels, height, width = subject.inputs.shape
    shape = tuple(subject.answer.shape)
    if len(shape) != 4 or shape[0] != count or shape[1] not in {1, channels} or 0 in shape:
        raise NonConformance(f"must be ({count}, 1, h, w) or ({count}, {channels}, h, w), was {shape}")
    if shape[2] > height or shape[3] > width:
        raise NonConformance(f"must not be larger than the input ({height}, {width}), was {shape}")


def _check_dtype(subject: Subject) -> None:
    """The attribution has the type of the input."""
    if subject.answer.dtype != subject.inputs.dtype:
        raise NonConformance(f"must be {subject.inputs.dtype}, as the input, was {subject.answer.dtype}")


def _check_device(subject: Subject) -> None:
    """The attribution lies on the device of the input."""
    if subject.answer.device != subject.inputs.device:
        raise NonConformance(f"must be on {subject.inputs.device}, as the input, was on {subject.answer.device}")


def _check_finite(subject: Subject) -> None:
    """No element is NaN or infinite."""
    count = int((~subject.answer.isfinite()).sum())
    if count:
        raise NonConformance(f"{count} of {subject.answer.numel()} elements are NaN or infinite")


def _check_batch_invariance(subject: Subject) -> None:
    """A sample's attribution is the same alone, beside other samples, and in another order."""
    whole = subject.answer
    backwards = list(range(len(whole)))[::-1]
    subject.require_same(subject.ask(backwards), whole[backwards], "in another order")
    subject.require_same(subject.ask([1, 0]), whole[[1, 0]], "beside fewer samples")
    for row in range(len(whole)):
        subject.require_same(subject.ask([row]), whole[[row]], "alone")


def _check_batch_of_one(subject: Subject) -> None:
    """One sample yields one finite attribution."""
    alone = subject.ask([0])
    if alone.shape != (1, *subject.answer.shape[1:]) or not bool(alone.isfinite().all()):
        raise NonConformance(f"one sample must yield a finite (1, …), yielded {tuple(alone.shape)}")


def _check_target_sensitivity(subject: Subject) -> None:
    """Other targets have other attributions."""
    if subject.facts.control:
        raise SkipTest("it is a control, and may know nothing of the target")
    if subject.facts.target_free:
        raise SkipTest("it explains the whole output, not a target")
    if subject.n_classes < 2:
        raise SkipTest("the model has one output only")
    others = [(subject.targets + step) % subject.n_classes for step in range(1, subject.n_classes)]
    if all(_apart(subject.ask(targets=other), subject.answer) <= subject.tolerance for other in others[:2]):
        raise NonConformance("the attribution is the same for every target")


def _check_determinism(subject: Subject) -> None:
    """Asked again with the same keys, and the same seed of the global generators, it says the same."""
    subject.require_same(subject.ask(), subject.answer, "asked again")


def _check_global_generators(subject: Subject) -> None:
    """It draws by the keys it is given, if at all, and not from the generators of Python, NumPy or torch."""
    state = GeneratorState(subject.inputs.device)
    subject.ask_about(subject.inputs.clone(), subject.targets.clone(), subject.extras)
    if state.restore():
        raise NonConformance(
            'draws from global generators, so the engine asks it sample by sample; state `needs = frozenset({"keys"})` '
            "and draw by the keys"
        )


def _check_no_grad(subject: Subject) -> None:
    """It says the same to a caller under `torch.no_grad`."""
    subject.require_same(subject.ask_in(torch.no_grad()), subject.answer, "under `torch.no_grad`")


def _check_inference_mode(subject: Subject) -> None:
    """It says the same to a caller under `torch.inference_mode`."""
    subject.require_same(subject.ask_in(torch.inference_mode()), subject.answer, "under `torch.inference_mode`")


def _check_channels_last(subject: Subject) -> None:
    """It says the same of inputs in the memory format `torch.channels_last`."""
    given = subject.inputs.clone(memory_format=torch.channels_last)
    with seeded(0, given.device):
        found = subject.ask_about(given, subject.targets.clone(), subject.extras)
    subject.require_same(found, subject.answer, "for channels_last inputs")


def _check_arguments_unchanged(subject: Subject) -> None:
    """Inputs, targets, keys and masks are not changed, nor do inputs require gradients afterwards."""
    given: dict[str, Tensor] = {"inputs": subject.inputs.clone(), "targets": subject.targets.clone()}
    given |= {name: value.clone() for name, value in subject.extras.items()}
    kept = {name: value.clone() for name, value in given.items()}
    extras = {name: given[name] for name in subject.extras}
    subject.ask_about(given["inputs"], given["targets"], extras)
    changed = [f"`{name}`" for name, value in given.items() if not torch.equal(value, kept[name])]
    if given["inputs"].requires_grad:
        changed.append("`inputs.requires_grad`")
    if changed:
        raise NonConformance(f"changed {', '.join(changed)}: work on a copy")


def _check_gradients_left_behind(subject: Subject) -> None:
    """Parameters and inputs have the gradients they had, and the attribution is cut off from the graph."""
    with _lived_in(subject.model):
        guard = ModelGuard(subject.model)
        inputs = subject.inputs.clone()
        found = subject.ask_about(inputs, subject.targets.clone(), subject.extras)
        left = [change for change in guard.restore() if change.startswith("gradient")]
    if inputs.is_leaf and inputs.grad is not None:
        left.append("gradient of `inputs`")
    if found.requires_grad:
        left.append("the gradient graph of the attribution (`detach` it)")
    if left:
        raise NonConformance(f"left behind: {listed(left)}")


def _check_model_unchanged(subject: Subject) -> None:
    """Weights, buffers, modules, hooks, training flags and `requires_grad` of the model are as they were."""
    with _lived_in(subject.model):
        guard = ModelGuard(subject.model)
        subject.ask_about(subject.inputs.clone(), subject.targets.clone(), subject.extras)
        changes = [change for change in guard.restore() if not change.startswith("gradient")]
    if changes:
        raise NonConformance(f"left changed: {listed(changes)}")


def _check_model_unchanged_after_error(subject: Subject) -> None:
    """The model is as it was also where it raised an exception, at its first, second or third call."""
    for calls in range(3):
        with _breaking(subject.model, calls) as has_raised:
            guard = ModelGuard(subject.model)
            with suppress(Exception):  # whatever the explainer makes of it
                subject.ask()
            changes = guard.restore()
        if changes and has_raised():
            raise NonConformance(f"left changed when call {calls + 1} of the model raised: {listed(changes)}")


_CHECKS: tuple[Check, ...] = (
    _check_answers,
    _check_shape,
    _check_dtype,
    _check_device,
    _check_finite,
    _check_batch_of_one,
    _check_batch_invariance,
    _check_target_sensitivity,
    _check_determinism,
    _check_global_generators,
    _check_no_grad,
    _check_inference_mode,
    _check_channels_last,
    _check_arguments_unchanged,
    _check_gradients_left_behind,
    _check_model_unchanged,
    _check_model_unchanged_after_error,
)


@dataclass(frozen=True)
class _Bound:
    """A check of one explainer, as pytest gets it."""

    check: Check
    subject: Callable[[], Subject | str]

    def __call__(self) -> None:
        """Run the check."""
        _run(self.check, self.subject())


class _Plain(nn.Module):
    """A small network as people have them: convolutions, ReLU modules, pooling, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(_SIZE[0], 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, _CLASSES)
        _draw_weights(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits."""
        return self.head(self.pool(self.features(inputs)).flatten(1))


class _ExplainsItself(nn.Module):
    """A linear model that says what each element adds to the logit."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(_CLASSES, *_SIZE))
        _draw_weights(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits."""
        return inputs.flatten(1) @ self.weight.flatten(1).T

    def attribute(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return `(B, C, H, W)` contributions."""
        return self.weight[targets] * inputs


def _draw_weights(module: nn.Module) -> None:
    """Fix the weights, of a size at which activations keep theirs."""
    names = [name for name, _ in module.named_parameters()]
    for name, key in zip(names, sample_keys(names), strict=True):
        weight = module.get_parameter(name)
        drawn = uniform(0, "conformance/weights", key[None], 0, weight.numel()).view_as(weight)
        width = (6 / weight[0].numel()) ** 0.5 if weight.ndim > 1 else 0.1
        weight.data = ((2 * drawn - 1) * width).float()


def _explainer(thing: Any) -> Explainer:
    return resolve_explainer(thing) if isinstance(thing, str) else ensure_explainer(thing)


def _subject(
    thing: Any, model: nn.Module | None, inputs: Tensor | None, *, masks: Tensor | None, tolerance: float,
    device: torch.device | str,
) -> Subject | str:  # fmt: skip
    """What to check, or why the explainer refuses the model."""
    explainer = _explainer(thing)
    _expected_failures(explainer)
    models = [_Plain().eval().to(device), _ExplainsItself().eval().to(device)] if model is None else [model]
    reasons = [_refusal(explainer, one) for one in models]
    if all(reasons):
        return f"the explainer refuses the model: {reasons[0]}"
    chosen = models[reasons.index(None)]
    inputs = _patches(device) if inputs is None else inputs
    _check_inputs(inputs)
    with torch.no_grad():
        logits = chosen(inputs)
    predicted = logits.argmax(dim=1)
    extras = {
        "keys": sample_keys(range(len(inputs)), inputs.device),
        "masks": _boxes(inputs) if masks is None else masks,
    }
    return Subject(
        explainer=explainer,
        model=chosen,
        inputs=inputs,
        targets=(predicted + torch.arange(len(predicted), device=inputs.device)) % logits.shape[1],
        extras={name: value for name, value in extras.items() if name in explainer_facts(explainer).needs},
        n_classes=logits.shape[1],
        tolerance=tolerance,
    )


def _check_inputs(inputs: Tensor) -> None:
    if inputs.ndim != 4 or len(inputs) < 2 or not inputs.is_floating_point():
        raise ValueError(
            f"`inputs` must be floating point (B, C, H, W) with two samples or more, was {inputs.dtype} "
            f"{tuple(inputs.shape)}"
        )


def _refusal(explainer: Explainer, model: nn.Module) -> str | None:
    refuses: Callable[[nn.Module], str | None] = getattr(explainer, "refuses", lambda _: None)
    return refuses(model) or None


def _expected_failures(explainer: Explainer) -> Mapping[str, str]:
    """The failures that an explainer states; unknown checks are refused."""
    stated: Mapping[str, str] = getattr(explainer, "expected_failures", {})
    unknown = [name for name in stated if name not in check_names()]
    if unknown:
        raise ValueError(f"`expected_failures` names no check `{unknown[0]}`; there are {', '.join(check_names())}")
    return stated


def _patches(device: torch.device | str) -> Tensor:
    """Patches of colours under a little noise: samples that a network tells apart."""
    channels, height, width = _SIZE
    keys = sample_keys(range(_BATCH))
    patches = uniform(0, "conformance/patches", keys, 0, channels * height * width // 16)
    patches = patches.view(_BATCH, channels, height // 4, width // 4)
    noise = uniform(0, "conformance/noise", keys, 0, channels * height * width).view(_BATCH, *_SIZE)
    enlarged = patches.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    return (4 * enlarged - 2 + noise - 0.5).float().to(device)


def _boxes(inputs: Tensor) -> Tensor:
    """A box in every sample, each a little elsewhere."""
    count, _, height, width = inputs.shape
    masks = torch.zeros(count, height, width, dtype=torch.bool, device=inputs.device)
    for row in range(count):
        start = row % max(width // 2, 1)
        masks[row, height // 4 : max(height // 2, 1), start : start + max(width // 4, 1)] = True
    return masks


def _result(check: Check, subject: Subject | str) -> CheckResult:
    """Run a check and compare what it finds with what the explainer states."""
    name = _name(check)
    stated = _expected_failures(subject.explainer) if isinstance(subject, Subject) else {}
    try:
        _run(check, subject)
    except SkipTest as reason:
        return CheckResult(name, "skipped", str(reason))
    except Exception as error:  # noqa: BLE001  # anything may come out of a stranger's explainer
        if name in stated:
            return CheckResult(name, "expected failure", stated[name])
        message = str(error) if isinstance(error, NonConformance) else f"{type(error).__name__}: {error}"
        return CheckResult(name, "failed", message)
    if name in stated:
        return CheckResult(name, "unexpected pass", f"passed, though the explainer expects: {stated[name]}")
    return CheckResult(name, "passed", "")


def _run(check: Check, subject: Subject | str) -> None:
    """Run a check so that no other one suffers from what the explainer left behind."""
    if isinstance(subject, str):
        raise SkipTest(subject)
    if check is not _check_answers and subject.reason:
        raise SkipTest("there is no attribution to check")
    with subject.undone():
        check(subject)


def _name(check: Check) -> str:
    return check.__name__.removeprefix("_check_")


def _apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference of finite elements within a sample, in units of its largest magnitude."""
    found, expected = (
        part.detach().to(expected.device).double().nan_to_num(nan=0, posinf=0, neginf=0) for part in (found, expected)
    )
    difference = (found - expected).abs().flatten(1).amax(dim=1)
    scale = expected.abs().flatten(1).amax(dim=1)
    return float(torch.where(difference == 0, 0, difference / scale).max())


@contextmanager
def _lived_in(model: nn.Module) -> Generator[None, None, None]:
    """A model in use: it has a frozen parameter, gradients, a hook, and a module in training mode."""
    guard = ModelGuard(model)
    try:
        for number, parameter in enumerate(model.parameters()):
            if number == 0:
                parameter.requires_grad_(False)
            elif parameter.is_floating_point():
                parameter.grad = torch.ones_like(parameter)
        for module in model.modules():
            if isinstance(module, nn.ReLU | nn.Linear | nn.Conv2d):  # whose training mode means nothing
                module.train()
        model.register_forward_hook(_does_nothing)
        yield
    finally:
        guard.restore()


def _does_nothing(*_: object) -> None:
    """Be a hook."""


@contextmanager
def _breaking(model: nn.Module, calls: int) -> Generator[Callable[[], bool], None, None]:
    """Let a model answer so many calls, and raise after that; gives a function that says whether it has raised."""
    made: list[None] = []

    def count(*_: object) -> None:
        made.append(None)
        if len(made) > calls:
            raise _BrokenError

    handle = model.register_forward_hook(count)
    try:
        yield lambda: len(made) > calls
    finally:
        handle.remove()


class _BrokenError(RuntimeError):
    """What a breaking model raises."""
