"""The checks of `interpeval conform`: each finds the fault it is for, and all explainers of the library pass them."""

from __future__ import annotations

import json
import random
import unittest
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from interpeval.bench.catalog import entries
from interpeval.bench.cli import main
from interpeval.bench.conformance import check_explainer, check_names, parametrize_with_checks
from small_subject import SmallNet

# Fewer draws and steps than by default: what is checked does not depend on them.
CHEAP = {
    "extremal_perturbation": "n_steps=10",
    "integrated_gradients": "n_steps=8",
    "kernel_shap": "n_samples=60&n_segments=4",
    "lime": "n_samples=30&n_segments=4",
    "occlusion": "window=4&stride=4",
    "perceptual_ball": "n_steps=5",
    "relax": "n_masks=50",
    "rise": "n_masks=50",
    "shapley_sampling": "n_samples=4&n_segments=4",
    "smoothgrad": "n_samples=4",
    "u_relax": "n_masks=50",
}
# Adam's first steps divide small gradients by their own size, and the last bits of a sum over another batch with them.
TOLERANCE = {"perceptual_ball": 1e-2}


def gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Gradient times input, which has no fault."""
    with torch.inference_mode(False), torch.enable_grad():
        inputs = inputs.detach().clone().requires_grad_()
        logits = model(inputs).gather(1, targets.clone()[:, None])
        (found,) = torch.autograd.grad(logits.sum(), inputs)
        return found * inputs.detach()


class Sound:
    """The base of all that follows: a class is not called on copies, as a function is."""

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return gradient(model, inputs, targets)


class Raises(Sound):
    def attribute(self, model, inputs, targets):
        raise ZeroDivisionError("three")


class ReturnsNothing(Sound):
    def attribute(self, model, inputs, targets):
        return None


class NoChannels(Sound):
    def attribute(self, model, inputs, targets):
        return gradient(model, inputs, targets)[:, 0]


class TooLarge(Sound):
    def attribute(self, model, inputs, targets):
        return nn.functional.interpolate(gradient(model, inputs, targets), scale_factor=2)


class Doubled(Sound):
    def attribute(self, model, inputs, targets):
        return gradient(model, inputs, targets).double()


class Far(Tensor):
    """A tensor that says it is on a GPU, also where there is none."""

    device = torch.device("cuda")  # type: ignore[assignment]


class Elsewhere(Sound):
    def attribute(self, model, inputs, targets):
        return gradient(model, inputs, targets).as_subclass(Far)


class NotFinite(Sound):
    def attribute(self, model, inputs, targets):
        found = gradient(model, inputs, targets)
        return found.index_fill(3, torch.tensor([0]), torch.inf)


class DropsTheBatch(Sound):
    def attribute(self, model, inputs, targets):
        found = gradient(model, inputs, targets)
        return found.squeeze(0) if len(found) == 1 else found


class MeanOfTheBatch(Sound):
    def attribute(self, model, inputs, targets):
        found = gradient(model, inputs, targets)
        return found - found.mean(dim=0, keepdim=True)


class FirstTarget(Sound):
    def attribute(self, model, inputs, targets):
        return gradient(model, inputs, targets[:1].expand_as(targets))


class OneClass(Sound):
    def attribute(self, model, inputs, targets):
        return gradient(model, inputs, torch.zeros_like(targets))


class Forgets(Sound):
    def __init__(self) -> None:
        self._asked = 0

    def attribute(self, model, inputs, targets):
        self._asked += 1
        return gradient(model, inputs, targets) * (1 + self._asked)


class DrawsWithTorch(Sound):
    def attribute(self, model, inputs, targets):
        torch.rand(1)
        return gradient(model, inputs, targets)


class DrawsWithNumpy(Sound):
    def attribute(self, model, inputs, targets):
        np.random.rand()
        return gradient(model, inputs, targets)


class DrawsWithPython(Sound):
    def attribute(self, model, inputs, targets):
        random.random()
        return gradient(model, inputs, targets)


class NeedsAutogradOn(Sound):
    def attribute(self, model, inputs, targets):
        inputs = inputs.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(model(inputs).gather(1, targets[:, None]).sum(), inputs)
        return found


class InferenceTensors(Sound):
    def attribute(self, model, inputs, targets):
        with torch.enable_grad():
            inputs = inputs.detach().requires_grad_()
            (found,) = torch.autograd.grad(model(inputs).gather(1, targets[:, None]).sum(), inputs)
        return found


class ReadsMemory(Sound):
    def attribute(self, model, inputs, targets):
        found = gradient(model, inputs, targets)
        return found * inputs.as_strided((inputs.numel(),), (1,)).view(inputs.shape)


class ChangesInputs(Sound):
    def attribute(self, model, inputs, targets):
        found = gradient(model, inputs, targets)
        inputs.mul_(2)
        return found


class ChangesTargets(Sound):
    def attribute(self, model, inputs, targets):
        found = gradient(model, inputs, targets)
        targets.zero_()
        return found


class InputsRequireGradients(Sound):
    def attribute(self, model, inputs, targets):
        with torch.inference_mode(False), torch.enable_grad():
            if not inputs.is_inference():
                inputs.requires_grad_()
        return gradient(model, inputs, targets)


class Backward(Sound):
    def attribute(self, model, inputs, targets):
        found = gradient(model, inputs, targets)
        with torch.inference_mode(False), torch.enable_grad():
            model(inputs.clone()).sum().backward()
        return found


class ZeroGrad(Sound):
    def attribute(self, model, inputs, targets):
        model.zero_grad()
        return gradient(model, inputs, targets)


class LeavesGraph(Sound):
    def attribute(self, model, inputs, targets):
        *_, weight = model.parameters()
        return gradient(model, inputs, targets) + 0 * weight.sum()


class LeavesHook(Sound):
    def attribute(self, model, inputs, targets):
        next(model.children()).register_forward_hook(lambda *_: None)
        return gradient(model, inputs, targets)


class SetsEvaluation(Sound):
    def attribute(self, model, inputs, targets):
        return gradient(model.eval(), inputs, targets)


class Thaws(Sound):
    def attribute(self, model, inputs, targets):
        return gradient(model.requires_grad_(True), inputs, targets)


class LeavesHookAfterError(Sound):
    def attribute(self, model, inputs, targets):
        handle = next(model.children()).register_forward_hook(lambda *_: None)
        found = gradient(model, inputs, targets)
        handle.remove()
        return found


class LeavesHookAfterSecondError(Sound):
    def attribute(self, model, inputs, targets):
        found = gradient(model, inputs, targets)
        handle = next(model.children()).register_forward_hook(lambda *_: None)
        gradient(model, inputs, targets)
        handle.remove()
        return found


FAULTS = {
    Sound: set(),
    Raises: {"answers"},
    ReturnsNothing: {"answers"},
    NoChannels: {"shape"},
    TooLarge: {"shape"},
    Doubled: {"dtype"},
    NotFinite: {"finite", "batch_of_one"},
    DropsTheBatch: {"batch_of_one", "batch_invariance"},
    MeanOfTheBatch: {"batch_invariance"},
    FirstTarget: {"batch_invariance"},
    OneClass: {"target_sensitivity"},
    DrawsWithTorch: {"global_generators"},
    DrawsWithNumpy: {"global_generators"},
    DrawsWithPython: {"global_generators"},
    NeedsAutogradOn: {"no_grad", "inference_mode"},
    InferenceTensors: {"inference_mode"},
    ReadsMemory: {"channels_last"},
    ChangesInputs: {"arguments_unchanged"},
    ChangesTargets: {"arguments_unchanged"},
    InputsRequireGradients: {"arguments_unchanged"},
    Backward: {"gradients_left_behind"},
    ZeroGrad: {"gradients_left_behind"},
    LeavesGraph: {"gradients_left_behind"},
    SetsEvaluation: {"model_unchanged"},
    Thaws: {"model_unchanged"},
    LeavesHook: {"model_unchanged", "model_unchanged_after_error"},
    LeavesHookAfterError: {"model_unchanged_after_error"},
    LeavesHookAfterSecondError: {"model_unchanged_after_error"},
}


def failed(explainer: Any, **options: Any) -> set[str]:
    return {result.name for result in check_explainer(explainer, **options) if result.outcome == "failed"}


@pytest.mark.parametrize("explainer", FAULTS, ids=lambda one: one.__name__)
def test_each_fault_is_found_by_its_check_and_by_no_other(explainer):
    assert failed(explainer()) == FAULTS[explainer]


def test_every_check_finds_some_fault():
    # An explainer that never repeats itself, or answers elsewhere, fails whatever is compared, too.
    forgets, elsewhere = failed(Forgets()), failed(Elsewhere())
    assert "determinism" in forgets
    assert "device" in elsewhere
    assert set.union(*FAULTS.values(), {"determinism", "device"}) == set(check_names())


def test_without_an_answer_the_other_checks_are_skipped_and_the_exception_is_told():
    first, *others = check_explainer(Raises())
    assert first.message == "ZeroDivisionError: three"
    assert {result.outcome for result in others} == {"skipped"}


def test_the_tolerance_is_relative_to_the_largest_magnitude_of_a_sample():
    class Nearly(Sound):
        def attribute(self, model, inputs, targets):
            found = gradient(model, inputs, targets)
            largest = found.abs().amax(dim=(1, 2, 3), keepdim=True)
            return found + (0.01 * largest if len(found) == 1 else 0)

    assert failed(Nearly(), tolerance=0.009) == {"batch_invariance"}
    assert failed(Nearly(), tolerance=0.011) == set()


def test_a_faulty_explainer_leaves_the_model_and_the_generators_as_they_were():
    model = SmallNet()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    kept, drawn = inputs.clone(), torch.get_rng_state()
    for explainer in (Backward(), LeavesHook(), Thaws(), ChangesInputs(), DrawsWithTorch()):
        assert failed(explainer, model=model, inputs=inputs)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module.training for module in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(inputs, kept)
    assert torch.equal(torch.get_rng_state(), drawn)


class Stated(OneClass):
    expected_failures: ClassVar[Mapping[str, str]] = {"target_sensitivity": "explains class 0", "finite": "overflows"}


def test_stated_failures_are_expected_and_a_pass_is_told():
    outcomes = {result.name: result for result in check_explainer(Stated())}
    assert outcomes["target_sensitivity"][1:] == ("expected failure", "explains class 0")
    assert outcomes["finite"][1:] == ("unexpected pass", "passed, though the explainer expects: overflows")
    others = {result.outcome for name, result in outcomes.items() if name not in Stated.expected_failures}
    assert others == {"passed"}


def test_a_stated_failure_of_no_check_is_refused():
    class Misspelt(Sound):
        expected_failures: ClassVar[Mapping[str, str]] = {"target_sensitive": ""}

    with pytest.raises(ValueError, match="names no check `target_sensitive`"):
        check_explainer(Misspelt())


class Refusing(Sound):
    def refuses(self, model: nn.Module) -> str:
        return "no model is good enough"


def test_a_refusal_skips_every_check_by_its_reason():
    results = check_explainer(Refusing())
    assert [result.name for result in results] == check_names()
    assert {result[1:] for result in results} == {
        ("skipped", "the explainer refuses the model: no model is good enough")
    }


@pytest.mark.parametrize("inputs", [torch.zeros(1, 3, 8, 8), torch.zeros(2, 3, 8), torch.zeros(2, 3, 8, 8).long()])
def test_inputs_that_cannot_be_checked_are_refused(inputs):
    with pytest.raises(ValueError, match=r"`inputs` must be floating point \(B, C, H, W\) with two samples or more"):
        check_explainer(Sound(), SmallNet(), inputs)


@parametrize_with_checks([Sound(), Stated()])
def test_checks_become_parameters_of_pytest(check, request):
    if request.node.callspec.id == "Stated-finite":
        raise AssertionError("passes, though it is marked: with `xfail_strict` pytest would tell")
    check()


def test_parameters_of_pytest_fail_skip_and_are_marked():
    params = {one.id: one for one in parametrize_with_checks([OneClass(), Refusing(), Stated()]).args[1]}
    assert len(params) == 3 * len(check_names())
    with pytest.raises(AssertionError, match="the same for every target"):
        params["OneClass-target_sensitivity"].values[0]()
    with pytest.raises(unittest.SkipTest, match="no model is good enough"):
        params["Refusing-shape"].values[0]()
    assert [mark.kwargs["reason"] for mark in params["Stated-target_sensitivity"].marks] == ["explains class 0"]
    assert not params["Stated-shape"].marks


@pytest.mark.parametrize("name", entries("explainers"))
def test_every_explainer_of_the_library_conforms(name):
    text = f"{name}?{CHEAP[name]}" if name in CHEAP else name
    results = check_explainer(text, tolerance=TOLERANCE.get(name, 1e-4))
    wrong = {result.name: result.message for result in results if result.outcome in {"failed", "unexpected pass"}}
    assert wrong == {}
    skipped = {result.name for result in results if result.outcome == "skipped"}
    facts = entries("explainers")[name].facts
    assert skipped == ({"target_sensitivity"} if facts.get("control") or facts.get("target_free") else set())


def call(*arguments: str):
    return CliRunner().invoke(main, ["conform", *arguments], catch_exceptions=False)


def test_the_command_prints_a_table_and_ends_with_0_where_all_pass():
    done = call("gradient")
    assert done.exit_code == 0
    assert done.output.splitlines()[-1] == f"{len(check_names())} passed"


def test_the_command_ends_with_3_where_a_check_fails_and_prints_json():
    done = call(f"{__file__}:OneClass", "--json")
    assert done.exit_code == 3
    found = {one["name"]: one["outcome"] for one in json.loads(done.output)}
    assert list(found) == check_names()
    assert [name for name, outcome in found.items() if outcome != "passed"] == ["target_sensitivity"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gradien"], "did you mean `gradient`"),
        (["gradient", "--model", "site"], "`--model` and `--dataset` must be given together"),
        (["gradient", "--device", "abacus"], "`device` must be"),
        ([f"{__file__}:Refusing"], "no model is good enough"),
    ],
)
def test_the_command_ends_with_2_where_nothing_can_be_checked(arguments, message):
    done = call(*arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_the_command_takes_a_model_and_a_dataset():
    toys = f"{__file__.rpartition('test_conformance')[0]}toys.py"
    done = call("truth", "--model", f"{toys}:network", "--dataset", f"{toys}:Squares", "--json")
    assert done.exit_code == 0
    assert {one["outcome"] for one in json.loads(done.output)} == {"passed", "skipped"}
