"""SITE's forms for CIFAR-10, and its black box in all forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpeval.baselines import rigid_motion, site, site_backbone
from interpeval.baselines.own import Own
from interpeval.baselines.site import Site
from interpeval.baselines.site_backbone import SiteBackbone
from interpeval.baselines.site_networks import latent_encoder, latent_generators, resized
from interpeval.bench import evaluate, weights
from interpeval.bench.conformance import check_explainer
from reference import site as slow
from toys import Squares

SHAPE = (3, 16, 16)
RECIPE = {"prototype_weight": 5.0}
FORMS = ["resnet", "cnn"]


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def small(form: str = "cnn", side: int = 16, seed: int = 0, **options: Any) -> Site:
    torch.manual_seed(seed)
    return Site(SHAPE, 3, form=form, side=side, **options)


def images_of(count: int, side: int = 16) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_the_networks_have_the_published_numbers_of_parameters() -> None:
    """The published whole of 7,819,592 counts the linear layer of the black box, 110, which SITE does not use."""
    whole, backbone = Site((3, 32, 32), 10, form="resnet"), SiteBackbone((3, 32, 32), 10, form="resnet")
    assert parameters_of(backbone) == 2_813_724
    assert parameters_of(whole.extractor) == parameters_of(backbone.extractor) == 2_813_614
    trunk = [child for name, child in whole.extractor.named_children() if name not in {"to_latent", "norm_latent"}]
    assert sum(map(parameters_of, trunk)) == 2_790_544
    assert parameters_of(latent_encoder(4)) == 455_168
    assert parameters_of(latent_generators(1, 4)) == 455_070
    assert parameters_of(whole) + parameters_of(backbone.classifier) == 7_819_592
    assert parameters_of(SiteBackbone((3, 32, 32), 10, form="cnn")) == 1_169_484
    assert parameters_of(SiteBackbone((1, 28, 28), 10)) == 234_922


@pytest.mark.parametrize(("form", "side", "grid"), [("resnet", 32, 4), ("cnn", 64, 8), ("cnn", 16, 2)])
def test_the_latent_map_is_an_eighth_of_the_side_and_prototypes_are_like_it(form: str, side: int, grid: int) -> None:
    model, images = small(form, side).eval(), images_of(2)
    with torch.no_grad():
        latent, prototypes = model.latent(images), model.prototypes(images)
    assert latent.shape == (2, 10, grid, grid)
    assert prototypes.shape == (2, 3, 10, grid, grid)
    for values in (latent, prototypes):
        assert values.abs().max() < 1
        assert (values < 0).any()
        assert (values > 0).any()


@pytest.mark.parametrize("form", FORMS)
def test_attributions_add_up_to_the_logit_of_their_target_and_of_no_other(form: str) -> None:
    model, images, targets = small(form, 32).eval(), images_of(3, 32), torch.tensor([2, 0, 1])
    with torch.no_grad():
        logits, explanation = model(images), Own().attribute(model, images, targets)
    rows = torch.arange(3)
    assert explanation.shape == (3, 1, 4, 4)
    torch.testing.assert_close(explanation.sum((1, 2, 3)), logits[rows, targets], rtol=1e-4, atol=1e-6)
    assert not torch.isclose(explanation.sum((1, 2, 3)), logits[rows, (targets + 1) % 3], rtol=1e-3).any()


def test_the_explanation_is_ten_times_the_published_mean_over_channels() -> None:
    model, images, targets = small("cnn", 32).eval(), images_of(2), torch.tensor([2, 0])
    with torch.no_grad():
        latent, prototypes = model.latent(images), model.prototypes(images)
        published = torch.stack([(latent[n] * prototypes[n, c]).mean(dim=0) for n, c in enumerate(targets.tolist())])
        torch.testing.assert_close(model.attribute(images, targets)[:, 0], 10 * published)


@pytest.mark.parametrize("comparison", ["moved_back", "moved_along"])
def test_the_losses_are_the_published_ones_restated(comparison: str, monkeypatch: pytest.MonkeyPatch) -> None:
    angles, shifts = (
        torch.tensor([0.3, -1.1, 1.4, 0.05]),
        torch.tensor([[0.3, -0.2], [0.0, 0.1], [-0.5, 0.1], [0, 0.1]]),
    )
    examples = torch.tensor([[1, 0, -1], [3, 2, -1], [1, 2, -1], [3, 0, -1]])
    model = small(side=32, comparison=comparison).double().train()
    images, labels = images_of(4, 32).double(), torch.tensor([1, 0, 0, 1])
    monkeypatch.setattr(site, "random_rigid", lambda _: rigid_motion.rigid(angles.double(), shifts.double()))
    monkeypatch.setattr(site, "draw_examples", lambda *_: examples)

    def latents_of(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model.extractor(torch.from_numpy(batch)).numpy()

    def prototypes_of(latents: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model._prototypes_at(torch.from_numpy(latents)).numpy()

    with torch.no_grad():
        loss, logits = model.training_loss(images, labels, RECIPE)
    expected_loss, expected_logits = slow.latent_loss(
        images.numpy(), labels.tolist(), angles.double().tolist(), [(x, y) for x, y in shifts.double().tolist()],
        examples.tolist(), latents_of, prototypes_of, RECIPE["prototype_weight"],
        along=None if comparison == "moved_back" else [0, 1],
    )  # fmt: skip
    assert loss.item() == pytest.approx(expected_loss, rel=1e-9)
    np.testing.assert_allclose(logits.numpy(), expected_logits, rtol=1e-9)


def test_features_near_zero_cost_the_weight_times_ln_2() -> None:
    """What the published logs settle at, 5 ln 2 = 3.466, under the loss that leaves nothing out."""
    prototypes, targets = torch.zeros(2, 3, 10, 2, 2), torch.zeros(2, 10, 2, 2)
    model = small(comparison="moved_along")
    model._target = lambda images: ((targets + 1) / 2).repeat_interleave(len(images) // 2, dim=0)  # type: ignore[method-assign]
    still = rigid_motion.rigid(torch.zeros(2), torch.zeros(2, 2))
    examples = torch.zeros(2, 3, dtype=torch.int64)
    distance = model._distance_moved_along(prototypes, still, images_of(2), examples)
    assert 5 * distance.item() == pytest.approx(3.4657, abs=1e-4)


@pytest.mark.parametrize("comparison", ["moved_back", "moved_along"])
def test_the_gradient_flows_through_latent_and_prototypes_but_not_through_what_they_are_compared_with(
    comparison: str,
) -> None:
    model, images, labels = small(comparison=comparison).train(), images_of(6), torch.arange(6) % 3
    seen: list[Tensor] = []
    model.extractor.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    loss, _ = model.training_loss(images, labels, RECIPE)
    loss.backward()
    inputs, targets = seen
    assert inputs.requires_grad
    assert not targets.requires_grad
    for name, parameter in model.named_parameters():
        if name.endswith("weight"):
            assert (parameter.grad != 0).any(), name


def test_the_logit_reaches_the_extractor_by_the_latent_and_by_the_prototypes() -> None:
    """Holding either still leaves a gradient, and both parts add up to the whole."""
    model, images = small(side=32).eval(), images_of(2)

    def gradient(*, hold_latent: bool, hold_prototypes: bool) -> Tensor:
        latent = model.latent(images)
        prototypes = model._prototypes_at(latent)
        latent = latent.detach() if hold_latent else latent
        prototypes = prototypes.detach() if hold_prototypes else prototypes
        logits = (prototypes * latent[:, None]).sum((2, 3, 4))
        return torch.autograd.grad(logits[:, 1].sum(), model.extractor.conv1.weight)[0]

    by_prototypes = gradient(hold_latent=True, hold_prototypes=False)
    by_latent = gradient(hold_latent=False, hold_prototypes=True)
    assert by_prototypes.abs().max() > 0
    assert by_latent.abs().max() > 0
    whole = torch.autograd.grad(model(images)[:, 1].sum(), model.extractor.conv1.weight)[0]
    torch.testing.assert_close(by_prototypes + by_latent, whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("classes_per_step", "passed"), [(None, 12), (2, 8), (9, 12)])
def test_every_class_to_compare_costs_a_pass_of_the_batch(classes_per_step: int | None, passed: int) -> None:
    model, sizes = small(comparison="moved_along", classes_per_step=classes_per_step).train(), []
    model.extractor.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    model.training_loss(images_of(4), torch.tensor([0, 1, 2, 0]), RECIPE)
    assert sizes == [4, passed]


def test_the_border_of_a_moved_image_has_the_smallest_value_and_its_inside_is_left_alone() -> None:
    images = torch.zeros(2, 1, 5, 5)
    images[0, 0, 2, 2], images[1] = -3.0, 4.0
    matrices = rigid_motion.rigid(torch.zeros(2), torch.tensor([[0.5, 0.0], [0.0, -0.5]]))
    moved = rigid_motion.warp_filled(images, matrices)
    plain = rigid_motion.warp(images, matrices)
    assert (moved[0, 0, :, 4] == -3).all()
    assert (moved[1, 0, 0] == -3).all()
    assert torch.equal(moved[0, 0, :, :4], plain[0, 0, :, :4])  # among them zeros that are the image's own
    assert torch.equal(moved[1, 0, 1:], plain[1, 0, 1:])


def test_images_of_any_size_are_resized_and_one_of_the_right_size_is_left_alone() -> None:
    model, images = small().eval(), images_of(2, 40)
    with torch.no_grad():
        assert torch.equal(model(images), model(resized(images, 16)))
    image = images_of(1, 16)
    assert resized(image, 16) is image
    torch.testing.assert_close(resized(torch.full((1, 1, 7, 9), 2.0), 32), torch.full((1, 1, 32, 32), 2.0))


def test_mirroring_turns_whole_images_and_about_half_of_them() -> None:
    images = images_of(200)
    mirrored = rigid_motion.randomly_mirrored(images)
    same, flipped = ((mirrored == other).flatten(1).all(dim=1) for other in (images, images.flip(3)))
    assert torch.equal(same, ~flipped)
    assert 70 < same.sum() < 130


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"form": "vgg"}, "`form`"),
        ({"form": "cnn", "side": 40}, "`side`"),
        ({"form": "cnn", "side": 8}, "`side`"),
        ({"form": "cnn", "width": 8}, "`width`"),
        ({"side": 32}, "`side` and `comparison`"),
        ({"comparison": "moved_along"}, "`side` and `comparison`"),
        ({"form": "cnn", "comparison": "back"}, "`comparison`"),
        ({"form": "cnn", "classes_per_step": 2}, "`classes_per_step`"),
        ({"form": "cnn", "comparison": "moved_along", "classes_per_step": 0}, "`classes_per_step`"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named} must"):
        Site(SHAPE, 3, **options)


@pytest.mark.parametrize("form", FORMS)
def test_own_conforms_on_the_latent_forms(form: str) -> None:
    """Nothing fails, but that ReLUs of torchvision's blocks work in place is the model's affair."""
    results = check_explainer(Own(), small(form).eval(), images_of(3))
    assert {result.outcome for result in results} <= {"passed", "skipped"}, [
        r for r in results if r.outcome == "failed"
    ]
    assert sum(result.outcome == "passed" for result in results) >= 12


def test_the_engine_finds_its_own_explanation_complete() -> None:
    dataset = Squares(size=6)
    torch.manual_seed(0)
    model = Site(dataset.image_shape, 4, form="cnn", side=32)
    found = evaluate(model, "own", dataset, ["completeness"], controls=False).summary()
    errors = found.loc[found["variant"] == found["variant"].iloc[0], "value"]
    assert (found["n"] == 6).all()
    assert errors.max() < 1e-4


def test_weights_survive_saving_and_loading(tmp_path: Path) -> None:
    first, second = small("resnet", seed=0).eval(), small("resnet", seed=1).eval()
    weights.save(first, tmp_path / "site.safetensors", {})
    with torch.no_grad():
        assert not torch.equal(first(images_of(2)), second(images_of(2)))
        weights.load(second, tmp_path / "site.safetensors")
        assert torch.equal(first(images_of(2)), second(images_of(2)))


@pytest.mark.parametrize("options", [{"form": "cnn", "side": 16}, {}], ids=["cnn", "mnist"])
def test_the_black_box_is_the_extractor_and_a_linear_layer_of_its_mean(options: dict[str, Any]) -> None:
    model, images = SiteBackbone(SHAPE, 3, **options).eval(), images_of(2)
    with torch.no_grad():
        pooled = model.extractor(images).flatten(2).mean(2)
        torch.testing.assert_close(model(images), F.linear(pooled, model.classifier.weight, model.classifier.bias))
    twin = Site(SHAPE, 3, **options)
    twin.extractor.load_state_dict(model.extractor.state_dict())  # they are the same network


@pytest.mark.parametrize("options", [{"form": "cnn", "side": 16}, {}], ids=["cnn", "mnist"])
def test_the_black_box_is_trained_on_transformed_images(options: dict[str, Any]) -> None:
    model, images, labels = SiteBackbone(SHAPE, 3, **options).eval(), images_of(5), torch.arange(5) % 3
    torch.manual_seed(4)
    loss, logits = model.training_loss(images, labels, {})
    torch.manual_seed(4)
    matrices = rigid_motion.random_rigid(5)
    move = rigid_motion.warp_filled if options else rigid_motion.warp
    with torch.no_grad():
        expected = model(move(images, matrices))
    torch.testing.assert_close(logits.detach(), expected)
    torch.testing.assert_close(loss.detach(), F.cross_entropy(expected, labels))


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "cifar10", "digits", "coco"])
def test_the_black_box_is_trained_as_site_but_for_the_prototypes(dataset: str) -> None:
    own = dict(Site.recipe(dataset))
    assert own.pop("prototype_weight") > 0
    assert SiteBackbone.recipe(dataset) == own


def test_the_black_box_mirrors_where_its_recipe_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_backbone, "random_rigid", lambda count: torch.eye(2, 3).repeat(count, 1, 1))
    monkeypatch.setattr(site_backbone, "randomly_mirrored", lambda images: images.flip(3))
    model, images, labels = small_box(), images_of(4), torch.arange(4) % 3
    with torch.no_grad():
        plain, flipped = model(images), model(images.flip(3))
    assert not torch.allclose(plain, flipped)
    torch.testing.assert_close(model.training_loss(images, labels, {})[1].detach(), plain)
    torch.testing.assert_close(model.training_loss(images, labels, {"mirror": True})[1].detach(), flipped)


def small_box() -> SiteBackbone:
    torch.manual_seed(0)
    return SiteBackbone(SHAPE, 3, form="cnn", side=16).eval()
