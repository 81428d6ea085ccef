"""`perceptual_ball`: the exact answer of linear models, and what the perceptual part changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from asked_alike import assert_blind_to_the_batch, assert_gives_the_model_back, assert_modes_do_not_matter, pictures
from interpeval.baselines.perceptual_ball import PerceptualBall

SHORT = PerceptualBall(n_steps=30)


def linear(n_classes, *, seed=0):
    """A linear model over 1×3×4 images."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, n_classes)).double()


def image(seed=0):
    """An image, and no other."""
    return torch.randn(1, 1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n_classes", [2, 5])
def test_of_a_linear_model_it_is_the_step_to_a_boundary_along_the_weight_difference(n_classes):
    model = linear(n_classes)
    logits = model(image())[0].detach()
    target = int(logits.argmax())
    found = PerceptualBall(layers=()).attribute(model, image(), torch.tensor([target])).flatten()
    errors = []
    for other in set(range(n_classes)) - {target}:
        along = (model[1].weight[target] - model[1].weight[other]).detach()
        step = (logits[target] - logits[other]) / along.norm() ** 2 * along
        errors.append(float((found - step.abs()).abs().max() / step.abs().max()))
    assert min(errors) < 5e-3


@pytest.mark.parametrize("weight", [0.0, 0.5, 4.0])
def test_with_a_linear_layer_it_is_the_step_that_moves_the_layer_least(weight):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Linear(7, 2)).double()
    target = int(model(image()).argmax())
    layer, head = model[1].weight.detach(), model[2].weight.detach()
    along = (head[target] - head[1 - target]) @ layer
    gap = float((model(image())[0, target] - model(image())[0, 1 - target]).detach())
    # Minimise δᵀ(1 + w LᵀL)δ such that along · δ = −gap.
    direction = torch.linalg.solve(torch.eye(12).double() + weight * layer.T @ layer, along)
    expected = (gap / (along @ direction) * direction).abs().view(1, 1, 3, 4)
    explainer = PerceptualBall(layers=("1",), perceptual_weight=weight)
    found = explainer.attribute(model, image(), torch.tensor([target]))
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3 * float(expected.max()))
    if weight:
        plain = PerceptualBall(layers=()).attribute(model, image(), torch.tensor([target]))
        assert float((plain - expected).abs().max()) > 0.03 * float(expected.max())


def rectified():
    """A small network of two resolutions."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    ).double()  # fmt: skip


def last_seen(model, explainer, inputs, targets):
    """The change and the logits at which the optimisation ended."""
    seen = []
    handle = model.register_forward_hook(lambda _, args, output: seen.append((args[0].detach(), output.detach())))
    explainer.attribute(model, inputs, targets)
    handle.remove()
    return seen[-1][0] - inputs, seen[-1][1]


def test_the_class_just_loses_and_the_layers_move_less_than_in_the_plain_perturbation():
    model, inputs = rectified(), pictures()
    logits = model(inputs).detach()
    targets = logits.argmax(dim=1)
    whole = PerceptualBall(batch_size=4, perceptual_weight=10.0)
    gaps, moved = {}, {}
    for explainer in (whole, replace(whole, layers=())):
        change, final = last_seen(model, explainer, inputs, targets)
        others = final.scatter(1, targets[:, None], -torch.inf).amax(dim=1)
        gaps[explainer] = final.gather(1, targets[:, None])[:, 0] - others
        parts = [model[:cut](inputs + change) - model[:cut](inputs) for cut in (2, 5)]
        pixels = change.square().flatten(1).sum(dim=1)
        moved[explainer] = pixels + 10 * sum(part.detach().square().flatten(1).sum(dim=1) for part in parts)
    before = logits.amax(dim=1) - logits.scatter(1, targets[:, None], -torch.inf).amax(dim=1)
    for explainer in (whole, replace(whole, layers=())):
        assert float((gaps[explainer] / before).abs().max()) < 0.05
    assert bool((moved[whole] < moved[replace(whole, layers=())]).all())


def test_a_class_that_has_lost_already_needs_no_change():
    model = linear(3)
    order = model(image()).argsort(dim=1)[0]
    found = PerceptualBall(layers=()).attribute(model, image().expand(2, 1, 3, 4), order[[0, 2]])
    assert not found[0].count_nonzero()
    assert found[1].count_nonzero() == 12


@dataclass(frozen=True)
class OfThePredicted(PerceptualBall):
    """Explains the class with the highest logit, whatever is asked for."""

    def attribute(self, model, inputs, targets):
        with torch.no_grad():
            return super().attribute(model, inputs, model(inputs).argmax(dim=1))


def test_batch_order_micro_batch_and_modes_do_not_matter():
    assert_blind_to_the_batch(OfThePredicted(n_steps=30))
    assert_modes_do_not_matter(OfThePredicted(n_steps=30))
    assert_gives_the_model_back(SHORT)


def test_a_map_that_depends_on_the_batch_would_be_noticed():
    @dataclass(frozen=True)
    class Mixed(OfThePredicted):
        def attribute(self, model, inputs, targets):
            maps = super().attribute(model, inputs, targets)
            return maps - 0.1 * maps.mean(dim=0)

    with pytest.raises(AssertionError):
        assert_blind_to_the_batch(Mixed(n_steps=30))


def test_errors_name_what_is_wrong():
    target = torch.tensor([0])
    for change, model, kind, message in [
        ({}, linear(2), ValueError, "`layers` must be given: no module"),
        ({"layers": "1"}, linear(2), TypeError, r"`layers` must be a tuple of names, such as \('1',\)"),
        ({"layers": ("one",)}, linear(2), ValueError, "must name a module of the model, was 'one'"),
        ({"layers": ()}, linear(1), ValueError, "needs two classes or more, the model has one output"),
        ({"n_steps": 0}, linear(2), ValueError, "`n_steps` must be at least 1, was 0"),
        ({"perceptual_weight": -1.0}, linear(2), ValueError, "`perceptual_weight` must be 0 or more"),
    ]:
        with pytest.raises(kind, match=message):
            replace(SHORT, **change).attribute(model, image(), target)
