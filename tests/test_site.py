"""The self-explaining model SITE."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interpeval.baselines import prototype_loss, rigid_motion, site
from interpeval.baselines.base import SelfExplaining
from interpeval.baselines.site import Site
from reference import site as slow

RECIPE = {"prototype_weight": 10.0}
SMALL = (1, 8, 8)


def small_site(n_classes: int = 3, seed: int = 0, shape: tuple[int, int, int] = SMALL) -> Site:
    """Random weights, larger than at the start of training: those give all prototypes the same grey."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = Site(shape, n_classes, width=4)
        for parameter in model.generators.parameters():
            parameter.mul_(4)
        return model


def random_images(count: int, shape: tuple[int, int, int] = SMALL) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_network_has_the_published_number_of_parameters() -> None:
    model = Site((1, 28, 28), 10, width=32)
    assert parameters_of(model.extractor) == 234_272
    assert parameters_of(Site((1, 28, 28), 1, width=32).generators) == 113_120
    assert parameters_of(model.generators) == 10 * 113_120
    assert parameters_of(model) == 1_365_472


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 12, 8)])
def test_attributions_add_up_to_the_logit_of_their_target_and_of_no_other(shape: tuple[int, int, int]) -> None:
    model = small_site(4, shape=shape).eval()
    images, targets = random_images(5, shape), torch.tensor([3, 0, 1, 1, 2])
    with torch.no_grad():
        logits, sums = model(images), model.attribute(images, targets).sum((1, 2, 3))
    rows = torch.arange(5)
    torch.testing.assert_close(sums, logits[rows, targets], rtol=1e-5, atol=0)
    assert not torch.isclose(sums, logits[rows, (targets + 1) % 4], rtol=1e-4, atol=0).any()


def test_attributions_have_the_shape_of_the_input_and_vanish_exactly_where_it_is_black() -> None:
    model, images = small_site().eval(), random_images(2)
    images[:, :, :4] = 0
    assert isinstance(model, SelfExplaining)
    with torch.no_grad():
        attributions = model.attribute(images, torch.tensor([0, 2]))
    assert attributions.shape == images.shape
    assert torch.equal(attributions > 0, images > 0)
    assert not (attributions < 0).any()


def test_the_explanation_of_a_class_depends_on_its_own_generator_only() -> None:
    model, images = small_site().eval(), random_images(2)

    def explain(target: int) -> Tensor:
        with torch.no_grad():
            return model.attribute(images, torch.full((2,), target))

    before = [explain(target) for target in range(3)]
    with torch.no_grad():
        for parameter in model.generators.parameters():
            parameter.view(3, -1)[1] += 0.3
    assert torch.equal(explain(0), before[0])
    assert torch.equal(explain(2), before[2])
    assert not torch.allclose(explain(1), before[1])


def test_an_explanation_does_not_depend_on_the_rest_of_the_batch() -> None:
    """True in evaluation mode only: batch normalisation mixes the samples while training, which is the control."""
    model, images, targets = small_site(), random_images(4), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        mixed = model.attribute(images, targets)[:2]
        assert not torch.allclose(mixed, model.attribute(images[:2], targets[:2]), atol=1e-4)
        model.eval()
        alone = torch.cat([model.attribute(images[i : i + 1], targets[i : i + 1]) for i in range(4)])
        torch.testing.assert_close(model.attribute(images, targets), alone)


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (1, 1, 8, 12), (1, 3, 8, 8), (1, 8, 8)])
def test_inputs_of_any_other_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`inputs` must be \(B, 1, 8, 8\), was"):
        small_site().eval()(torch.zeros(shape))


@pytest.mark.parametrize(("shape", "width", "named"), [((1, 30, 28), 4, "image_shape"), ((1, 8, 8), 5, "width")])
def test_impossible_sizes_are_refused(shape: tuple[int, int, int], width: int, named: str) -> None:
    with pytest.raises(ValueError, match=f"`{named}` must be"):
        Site(shape, 2, width=width)


def test_every_relu_is_a_module_used_once_and_leaves_its_input_alone() -> None:
    """Guided backpropagation and DeconvNet replace ReLU modules one by one."""
    model = small_site().eval()
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    calls: list[int] = []
    for index, relu in enumerate(relus):
        relu.register_forward_hook(lambda *_, index=index: calls.append(index))
    model(random_images(2))
    assert sorted(calls) == list(range(6))
    assert not any(relu.inplace for relu in relus)


def test_the_layer_for_grad_cam_is_a_map_of_a_quarter_of_the_side_after_its_relu() -> None:
    model, shapes = Site((1, 28, 28), 2, width=32).eval(), []
    layer = model.get_submodule(model.cam_layer)
    assert isinstance(layer, nn.ReLU)
    layer.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape)))
    model(torch.zeros(3, 1, 28, 28))
    assert shapes == [(3, 64, 7, 7)]


def test_a_quarter_turn_is_exact() -> None:
    """Output (x, y) reads input R(90°)(x, y) = (-y, x): the top right corner reads the bottom right one."""
    images = random_images(1)
    turned = rigid_motion.warp(images, rigid_motion.rigid(torch.tensor([math.pi / 2]), torch.zeros(1, 2)))
    torch.testing.assert_close(turned, torch.rot90(images, 1, (2, 3)), atol=1e-5, rtol=0)
    assert not torch.allclose(turned, torch.rot90(images, -1, (2, 3)), atol=1e-2)


def test_a_shift_by_whole_pixels_is_exact_and_leaves_zeros() -> None:
    """Half a side of seven pixel steps is 1: two pixels are 4/7."""
    images = random_images(1)
    moved = rigid_motion.warp(images, rigid_motion.rigid(torch.zeros(1), torch.tensor([[4 / 7, 0.0]])))
    torch.testing.assert_close(moved[..., :-2], images[..., 2:], atol=1e-5, rtol=0)
    assert (moved[..., -2:].abs() < 1e-5).all()


def test_transformations_are_drawn_from_the_published_family() -> None:
    """Moments and limits of U(-90°, 90°) and U(-0.5, 0.5), and proper rotations: no scaling, no shear."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        matrices = rigid_motion.random_rigid(4000)
    angles, shifts = torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]), matrices[:, :, 2]
    turns = matrices[:, :, :2]
    torch.testing.assert_close(turns @ turns.mT, torch.eye(2).expand(4000, 2, 2))
    assert (torch.linalg.det(turns) > 0).all()
    for values, limit in ((angles, math.pi / 2), (shifts[:, 0], 0.5), (shifts[:, 1], 0.5)):
        assert 0.99 * limit < values.max() <= limit
        assert -limit <= values.min() < -0.99 * limit
        assert abs(values.mean()) < 4 * limit / math.sqrt(3 * 4000)
        assert values.std() == pytest.approx(limit / math.sqrt(3), rel=0.03)
    assert torch.corrcoef(torch.stack((angles, *shifts.T))).triu(1).abs().max() < 0.06


def test_moving_back_restores_the_interior() -> None:
    """A smooth image, since resampling twice blurs; moving forth twice instead is the control."""
    place = torch.linspace(-2, 2, 28)
    images = (torch.sin(place)[:, None] * torch.cos(place)[None, :])[None, None].repeat(3, 1, 1, 1)
    matrices = rigid_motion.rigid(torch.tensor([0.4, -1.2, 1.5]), torch.tensor([[0.2, -0.1], [0.0, 0.3], [-0.4, 0.4]]))
    back = rigid_motion.inverse(matrices)
    seen = rigid_motion.warp(rigid_motion.warp(torch.ones_like(images), matrices), back) > 0.999
    moved = rigid_motion.warp(images, matrices)
    assert seen.flatten(1).sum(1).min() > 200
    assert (rigid_motion.warp(moved, back) - images)[seen].abs().max() < 0.01
    assert (rigid_motion.warp(moved, matrices) - images)[seen].abs().max() > 0.3


def test_examples_are_of_their_class_and_every_member_gets_drawn() -> None:
    labels = torch.tensor([2, 0, 2, 3, 2, 0] * 20)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rows = prototype_loss.draw_examples(labels, 5)
    assert rows.shape == (120, 5)
    for label in (0, 2, 3):
        assert (labels[rows[:, label]] == label).all()
        assert rows[:, label].unique().numel() > 10
    assert (rows[:, [1, 4]] == -1).all()


def test_the_loss_is_the_published_one_restated(monkeypatch: pytest.MonkeyPatch) -> None:
    angles, shifts = (
        torch.tensor([0.3, -1.1, 1.4, 0.0]),
        torch.tensor([[0.3, -0.2], [0.0, 0.45], [-0.5, 0.1], [0.0, 0.0]]),
    )
    examples = torch.tensor([[1, 0, -1], [3, 2, -1], [1, 2, -1], [3, 0, -1]])
    images, labels = random_images(4).double(), torch.tensor([1, 0, 1, 0])
    model = small_site().double()
    monkeypatch.setattr(
        site, "random_rigid", lambda count: rigid_motion.rigid(angles.double(), shifts.double())[:count]
    )
    monkeypatch.setattr(site, "draw_examples", lambda *_: examples)

    def prototypes_of(moved: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model.prototypes(torch.from_numpy(moved)).numpy()

    with torch.no_grad():
        loss, logits = model.training_loss(images, labels, RECIPE)
    expected_loss, expected_logits = slow.loss(
        images.numpy(),
        labels.tolist(),
        angles.double().tolist(),
        [(x, y) for x, y in shifts.double().tolist()],
        examples.tolist(),
        prototypes_of,
        RECIPE["prototype_weight"],
    )
    assert loss.item() == pytest.approx(expected_loss, rel=1e-10)
    np.testing.assert_allclose(logits.numpy(), expected_logits, rtol=1e-10)


@pytest.mark.parametrize(("columns", "share"), [(0, 1.0), (2, 6 / 8), (3, 5 / 8)])
def test_an_undecided_prototype_costs_ln_2_for_every_pixel_that_is_its_own(columns: int, share: float) -> None:
    prototypes, images = torch.full((2, 3, *SMALL), 0.5), random_images(2)
    # Not quite whole pixels: rounding must not decide on which side of the rim a column falls.
    matrices = rigid_motion.rigid(
        torch.zeros(2), torch.tensor([[(columns - 1e-4 * bool(columns)) * 2 / 7, 0.0]]).expand(2, 2)
    )
    loss = prototype_loss.prototype_loss(prototypes, matrices, images, torch.zeros(2, 3, dtype=torch.int64))
    assert loss.item() == pytest.approx(math.log(2) * share, rel=1e-4)


def test_a_class_without_an_example_adds_nothing_but_is_counted() -> None:
    images, examples = random_images(2), torch.tensor([[0, -1], [1, -1]])
    prototypes = torch.full((2, 2, *SMALL), 0.5, requires_grad=True)
    still = rigid_motion.rigid(torch.zeros(2), torch.zeros(2, 2))
    loss = prototype_loss.prototype_loss(prototypes, still, images, examples)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2) / 2)
    assert prototypes.grad is not None
    assert (prototypes.grad[:, 1] == 0).all()
    assert (prototypes.grad[:, 0] != 0).any()


def test_training_reaches_the_extractor_and_all_generators() -> None:
    model = small_site()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss, _ = model.training_loss(random_images(12), torch.arange(12) % 3, RECIPE)
    loss.backward()
    for name, parameter in model.named_parameters():
        if name.endswith("weight"):  # a bias before batch normalisation has no effect
            parts = 3 if name.startswith("generators") else 1
            assert (parameter.grad.view(parts, -1).abs().amax(1) > 0).all(), name


@pytest.mark.parametrize(("low", "high"), [(-0.5, 1.0), (0.0, 255.0), (math.nan, 1.0)])
def test_training_on_pixels_outside_of_0_to_1_is_refused(low: float, high: float) -> None:
    images = random_images(2)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = low, high
    with pytest.raises(ValueError, match=r"must have pixels in \[0, 1\]"):
        small_site().training_loss(images, torch.tensor([0, 1]), RECIPE)


def test_a_handful_of_samples_is_learnt_with_prototypes_of_their_classes() -> None:
    """Three bars: the network tells them apart, and its prototypes are nearer to their own bar than to others."""
    bars = torch.zeros(3, *SMALL)
    bars[0, 0, 1, 1:7], bars[1, 0, 2:6, 2:6], bars[2, 0, 1:7, 3] = 1, 1, 1
    images, labels = bars.repeat(8, 1, 1, 1), torch.arange(3).repeat(8)
    model = small_site(seed=3)
    still = rigid_motion.rigid(torch.zeros(24), torch.zeros(24, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(site, "random_rigid", lambda _count: still)
        for _ in range(60):
            loss, _ = model.training_loss(images, labels, RECIPE)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(bars).argmax(1), torch.arange(3))
        prototypes = model.prototypes(bars)[:, :, None]
    distances = (prototypes - bars).abs().mean((3, 4, 5))
    assert torch.equal(distances.argmin(2), torch.arange(3).expand(3, 3))
