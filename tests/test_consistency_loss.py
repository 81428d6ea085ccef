"""The consistency loss: what it compares, when it is zero, and where its gradient goes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpeval.baselines import consistency_loss as subject
from interpeval.baselines.cifar_cnn import CifarCnn
from interpeval.baselines.consistency_loss import (
    Consistency,
    class_activation,
    classification_loss,
    consistency_loss,
    consistent_training_loss,
    drawn_distractors,
    drawn_targets,
    pasted,
)
from interpeval.baselines.elementwise_gradcam import ElementwiseGradCam
from interpeval.baselines.gradcam import GradCam
from interpeval.baselines.resnet18_gap import Resnet18Gap
from interpeval.baselines.resnet18_gmp import Resnet18Gmp
from interpeval.bench import weights
from reference import consistency_loss as slow

SHAPE = (2, 16, 16)
OPTIONS = [(head, kind, reduction) for head in ("gap", "gmp") for kind in ("elementwise", "gradcam")
           for reduction in ("mean", "norm")]  # fmt: skip


class Dots(nn.Module):
    """Features are the pixels themselves, so that explanations can be made by hand."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.linear.weight = nn.Parameter(weight)

    def feature_map(self, inputs: Tensor) -> Tensor:
        return inputs.clone().requires_grad_() if not inputs.requires_grad else inputs

    def classify(self, features: Tensor) -> Tensor:
        return self.linear(features.mean(dim=(2, 3)))


def images_of(count: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("head", "kind", "reduction"), OPTIONS)
def test_the_loss_is_the_published_one_restated(
    head: str, kind: str, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CifarCnn(SHAPE, 3, head=head, consistency=7.0, consistency_map=kind, consistency_reduction=reduction)
    model.double().train()
    images, labels = images_of(4).double(), torch.tensor([0, 2, 1, 0])
    others, cells = torch.tensor([[1, 2, 1], [0, 0, 3], [3, 0, 1], [2, 2, 1]]), torch.tensor([2, 0, 3, 1])
    monkeypatch.setattr(subject, "drawn_distractors", lambda _, rows, targets: (rows, targets, others))
    monkeypatch.setattr(torch, "randint", lambda *_: cells)
    loss, logits = model.training_loss(images, labels, {})
    monkeypatch.undo()

    def features_of(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model.features(torch.from_numpy(batch)).numpy()

    expected = slow.loss(
        images.numpy(), labels.tolist(), others.tolist(), cells.tolist(), features_of,
        model.classifier.weight.detach().numpy(), head=head, kind=kind, reduction=reduction,
    )  # fmt: skip
    assert expected > 1e-3
    assert loss.item() == pytest.approx(F.cross_entropy(logits, labels).item() + 7 * expected, rel=1e-9)


def test_it_is_zero_where_the_composite_is_explained_like_the_pasted_image() -> None:
    """Distractors that say nothing about the class: pixels are the features, and theirs are in the other channel."""
    images = torch.zeros(4, 2, 3, 3)
    images[0, 0] = images_of(1, (1, 3, 3))
    images[1:, 1] = images_of(3, (1, 3, 3))[:, 0]
    labels = torch.tensor([0, 1, 1, 1])
    model = Dots(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))

    def consistency_of(model: Dots) -> float:
        loss, logits = consistent_training_loss(model, images, labels, Consistency(1.0))
        return (loss - F.cross_entropy(logits, labels)).item()

    assert consistency_of(model) == pytest.approx(0, abs=1e-7)
    assert consistency_of(Dots(torch.tensor([[2.0, 0.5], [0.0, 3.0]]))) > 1e-3  # now they do say something


@pytest.mark.parametrize("cell", range(4))
def test_by_hand_in_every_cell(cell: int) -> None:
    """Equal maps differ nowhere; maps without a common part by 1 + 1; half of the mass elsewhere by 1/2 + 1/2."""
    alone = torch.tensor([[[3.0, 1.0], [0.0, 4.0]]])
    place = torch.tensor([cell])
    same, elsewhere = 5 * pasted(alone, place), pasted(alone, (place + 1) % 4)
    assert consistency_loss(alone, same, place).item() == 0
    assert consistency_loss(alone, elsewhere, place, reduction="norm").item() == pytest.approx(2)
    half = pasted(alone, place) + elsewhere
    assert consistency_loss(alone, half, place, reduction="norm").item() == pytest.approx(1)
    assert consistency_loss(alone, half, place).item() == pytest.approx(1 / 16)
    row, column = 2 * (cell // 2), 2 * (cell % 2)
    assert torch.equal(pasted(alone, place)[0, row : row + 2, column : column + 2], alone[0])
    assert pasted(alone, place).sum() == alone.sum()


def test_a_silent_map_is_worth_the_mass_of_the_other() -> None:
    alone, nothing = torch.ones(1, 2, 2), torch.zeros(1, 4, 4)
    cell = torch.tensor([0])
    assert consistency_loss(alone, nothing, cell, reduction="norm").item() == pytest.approx(1)
    assert consistency_loss(alone * 0, nothing, cell).item() == 0


def test_maps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"`together` must be \(1, 4, 4\), twice the sides of `alone`, was \(1, 5, 4\)"
    ):
        consistency_loss(torch.ones(1, 2, 2), torch.ones(1, 5, 4), torch.tensor([0]))


def test_the_gradient_flows_through_both_explanations() -> None:
    """The explanation of the single image is not taken as given, as a target usually is."""
    model = CifarCnn(SHAPE, 3).double().train()
    images, cell = images_of(4).double(), torch.tensor([0, 1, 2, 3])
    labels, rows = torch.tensor([0, 1, 2, 0]), torch.arange(4)
    features = model.feature_map(images)
    alone = class_activation(features, model.classify(features), rows, labels)
    together = pasted(alone, (cell + 1) % 4).detach() + 0.1
    consistency_loss(alone, together, cell).backward()
    assert model.features[0][0].weight.grad.abs().sum() > 0
    assert model.classifier.weight.grad.abs().sum() > 0  # by way of ∂f/∂A, the graph of which is kept


def test_the_gradient_is_that_of_finite_differences() -> None:
    """Through both maps, their normalisation and ∂f/∂A; the logits do not enter otherwise."""
    weight = torch.tensor([[1.0, -0.4], [0.3, 0.8]], dtype=torch.float64)
    alone_features, combined = images_of(3, (2, 2, 2)).double(), images_of(3, (2, 4, 4)).double()
    rows, targets, cell = torch.arange(3), torch.tensor([0, 1, 1]), torch.tensor([3, 0, 2])

    def value(weight: Tensor, features: Tensor, others: Tensor) -> Tensor:
        def explain(maps: Tensor) -> Tensor:
            logits = (maps.square().mean(dim=(2, 3)) @ weight.T).sin()
            return class_activation(maps, logits, rows, targets)

        return consistency_loss(explain(features), explain(others), cell, reduction="norm")

    arguments = [tensor.requires_grad_() for tensor in (weight, alone_features, combined)]
    assert torch.autograd.gradcheck(value, arguments)


def test_both_passes_are_made_in_training_mode_and_only_single_images_are_classified() -> None:
    model, images, labels = CifarCnn(SHAPE, 3, consistency=2.0), images_of(6), torch.arange(6) % 3
    _, logits = model.train().training_loss(images, labels, {})
    norm = model.features[0][1]
    assert int(norm.num_batches_tracked) == 2
    with torch.no_grad():
        torch.testing.assert_close(logits, model(images))
    plain = CifarCnn(SHAPE, 3)
    plain.train().training_loss(images, labels, {})
    assert int(plain.features[0][1].num_batches_tracked) == 1


def test_without_weight_the_loss_is_the_cross_entropy_and_draws_nothing() -> None:
    model, images, labels = CifarCnn(SHAPE, 3).train(), images_of(6), torch.arange(6) % 3
    before = torch.get_rng_state()
    loss, logits = model.training_loss(images, labels, {})
    assert torch.equal(loss, F.cross_entropy(logits, labels))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_share_of_a_batch_that_is_put_into_composites(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    model = CifarCnn(SHAPE, 3, consistency=1.0).train()
    model.features.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    for share in (1.0, 0.25, 0.01):
        model.training_loss(images_of(6), torch.arange(6) % 3, {"consistency_share": share})
    assert [size[0] for size in sizes] == [6, 6, 6, 2, 6, 1]
    assert {size[1:] for size in sizes[1::2]} == {(2, 32, 32)}


def test_a_batch_of_one_class_has_no_composites() -> None:
    model, labels = CifarCnn(SHAPE, 3, consistency=5.0).train(), torch.full((4,), 2)
    loss, logits = model.training_loss(images_of(4), labels, {})
    assert torch.equal(loss, F.cross_entropy(logits, labels))


def test_distractors_are_of_other_classes_each_class_alike() -> None:
    """Class 2 has eight images, class 1 two: the images of class 1 are drawn four times as often, for class 0."""
    labels = torch.tensor([0] + [1] * 2 + [2] * 8)
    rows = torch.zeros(3000, dtype=torch.int64)
    kept, targets, others = drawn_distractors(labels, rows, labels[rows])
    assert len(kept) == len(targets) == 3000
    assert others.shape == (3000, 3)
    counts = others.flatten().bincount(minlength=11).double() / 9000
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:3], 1 / 4, atol=0.02)
    np.testing.assert_allclose(counts[3:], 1 / 16, atol=0.012)
    repeats = (others[:, 0] == others[:, 1]).double().mean()
    assert repeats == pytest.approx(2 / 16 + 8 / 256, abs=0.02)  # with replacement


def test_with_several_labels_a_present_class_is_explained_among_images_without_it() -> None:
    labels = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    seen: set[tuple[int, int]] = set()
    for _ in range(60):
        rows, targets = drawn_targets(labels)
        assert rows.tolist() == [0, 1, 2, 4]
        assert labels[rows, targets].all()
        kept, chosen, others = drawn_distractors(labels, rows, targets)
        assert not labels[others, chosen[:, None]].any()
        seen |= set(zip(kept.tolist(), chosen.tolist(), strict=True))
    assert seen == {(row, target) for row, target in labels.nonzero().tolist()}


def test_several_labels_are_classified_by_the_sum_over_classes_of_binary_cross_entropies() -> None:
    logits, labels = torch.randn(5, 80), torch.rand(5, 80) > 0.9
    by_hand = -torch.where(labels, logits.sigmoid().log(), (-logits).sigmoid().log()).sum(dim=1).mean()
    torch.testing.assert_close(classification_loss(logits, labels), by_hand)
    model = CifarCnn(SHAPE, 4, consistency=1.0).train()
    several = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]).bool()
    loss, logits = model.training_loss(images_of(3), several, {})
    assert loss > classification_loss(logits, several)
    nothing = torch.zeros(3, 4, dtype=torch.bool)
    loss, logits = model.training_loss(images_of(3), nothing, {})
    assert torch.equal(loss, classification_loss(logits, nothing))


@pytest.mark.parametrize("build", [CifarCnn, Resnet18Gap], ids=["cifar_cnn", "resnet18_gap"])
def test_under_the_mean_both_kinds_of_grad_cam_agree_up_to_scale(build: type) -> None:
    maps, others = _grad_cams(build((2, 32, 32), 3))
    torch.testing.assert_close(maps, others, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("build", [lambda *a: CifarCnn(*a, head="gmp"), Resnet18Gmp], ids=["cifar_cnn", "resnet18_gmp"])
def test_under_the_maximum_they_do_not(build: type) -> None:
    maps, others = _grad_cams(build((2, 32, 32), 3))
    assert (maps - others).abs().sum(dim=(1, 2, 3)).min() > 0.1


def _grad_cams(model: nn.Module) -> tuple[Tensor, Tensor]:
    images, targets = images_of(9, (2, 32, 32)), torch.arange(9) % 3
    model.eval()
    layer = "features" if isinstance(model, CifarCnn) else None
    maps = [kind.attribute(model, images, targets) for kind in (GradCam(layer=layer), ElementwiseGradCam(layer=layer))]
    shown = maps[0].sum(dim=(1, 2, 3)) > 0
    assert shown.sum() >= 2
    first, second = (found[shown] / found[shown].sum(dim=(1, 2, 3), keepdim=True) for found in maps)
    return first, second


def test_what_is_trained_is_the_explanation_that_the_explainers_give() -> None:
    for head in ("gap", "gmp"):
        model = CifarCnn(SHAPE, 3, head=head).eval()
        images, targets = images_of(3), torch.tensor([2, 0, 1])
        features = model.feature_map(images)
        logits = model.classify(features)
        for kind, explainer in (
            ("gradcam", GradCam("none", "features")),
            ("elementwise", ElementwiseGradCam("none", "features")),
        ):
            found = class_activation(features, logits, torch.arange(3), targets, kind=kind)
            torch.testing.assert_close(found.detach(), explainer.attribute(model, images, targets)[:, 0])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"head": "max"}, "`head`"),
        ({"consistency": -1.0}, "`consistency`"),
        ({"consistency": float("nan")}, "`consistency`"),
        ({"consistency_map": "cam"}, "`consistency_map`"),
        ({"consistency_reduction": "sum"}, "`consistency_reduction`"),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named} must be"):
        CifarCnn(SHAPE, 3, **options)


def test_a_handful_of_samples_is_learnt_and_explained_consistently() -> None:
    images, labels = images_of(6), torch.arange(6) % 3
    model = CifarCnn(SHAPE, 3, head="gap", consistency=25.0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    history: list[tuple[float, float]] = []
    for _ in range(60):
        loss, logits = model.training_loss(images, labels, {})
        classified = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append((classified.item(), (loss - classified).item()))
    (_, before), (learnt, after) = history[0], history[-1]
    assert learnt < 0.1
    assert after < 0.5 * before


def test_weights_survive_saving_and_loading(tmp_path: Path) -> None:
    models = [CifarCnn(SHAPE, 3, head="gmp", consistency=1.0) for _ in range(2)]
    weights.save(models[0], tmp_path / "w.safetensors", {})
    weights.load(models[1], tmp_path / "w.safetensors")
    first, second = (model.eval()(images_of(3)) for model in models)
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in pairwise(model.state_dict()["classifier.weight"] for model in models))
