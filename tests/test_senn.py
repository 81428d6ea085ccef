"""The model SENN: concepts, relevances, and the penalty that holds them together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interpeval.baselines.base import SelfExplaining
from interpeval.baselines.gradcam import GradCam
from interpeval.baselines.own import Own
from interpeval.baselines.senn import Senn, robustness_loss
from interpeval.bench.conformance import parametrize_with_checks
from reference import flint, senn

SMALL = (1, 16, 16)
RECIPE = {"robustness": 0.3, "sparsity": 0.01, "released_sparsity": 0.02}


def small_senn(seed: int = 0, **options: Any) -> Senn:
    """One cell only; larger weights than at the start, so that concepts and relevances depend on the image."""
    torch.manual_seed(seed)
    model = Senn(SMALL, 3, n_concepts=options.pop("n_concepts", 4), **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def random_images(count: int, shape: tuple[int, int, int] = SMALL) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_networks_have_the_published_layers() -> None:
    """Counted by hand from the published sizes of convolutions, and 320 inputs of the last layer."""
    for options, n in (({}, 20), ({"form": "reimplementation"}, 5), ({"n_concepts": 7}, 7)):
        model = Senn((1, 28, 28), 10, **options)  # pyright: ignore[reportArgumentType]
        assert parameters_of(model.conceptizer) == (25 * 10 + 10) + (25 * 10 * n + n) + (16 + 1)
        assert parameters_of(model.parametrizer) == (25 * 10 + 10) + (25 * 10 * 20 + 20) + 321 * 10 * n
        restoring = (16 + 16) + (n * 16 * 25 + 16) + (16 * 8 * 25 + 8) + (8 * 4 + 1)
        assert parameters_of(model.decoder) == restoring


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 20, 32), (1, 16, 16)])
def test_contributions_and_cells_add_up_to_the_logit_of_their_target_and_of_no_other(
    shape: tuple[int, int, int],
) -> None:
    torch.manual_seed(0)
    model, images, targets = Senn(shape, 4).eval(), random_images(5, shape), torch.tensor([3, 0, 1, 1, 2])
    rows = torch.arange(5)
    assert isinstance(model, SelfExplaining)
    with torch.no_grad():
        logits, parts, cells = model(images), model.contributions(images), model.attribute(images, targets)
    torch.testing.assert_close(parts.sum(dim=1), logits)
    torch.testing.assert_close(cells.sum((1, 2, 3)), logits[rows, targets], rtol=1e-4, atol=1e-6)
    assert not torch.isclose(cells.sum((1, 2, 3)), logits[rows, (targets + 1) % 4], rtol=1e-3, atol=0).any()
    assert cells.shape == (5, 1, shape[1] // 4 - 3, shape[2] // 4 - 3)
    assert model.decoder(model.conceptizer(images)).shape == images.shape


def test_a_cell_knows_only_of_its_own_place() -> None:
    """A change in one corner leaves the cell of the opposite one as it was, for given relevances."""
    torch.manual_seed(0)
    model, images = Senn((1, 28, 28), 3).eval(), random_images(1, (1, 28, 28))
    moved = images.clone()
    moved[:, :, :4, :4] = 1 - moved[:, :, :4, :4]
    with torch.no_grad():
        before, after = model.conceptizer.cells(images), model.conceptizer.cells(moved)
    assert torch.equal(before[:, :, 2:, 2:], after[:, :, 2:, 2:])
    assert not torch.allclose(before[:, :, 0, 0], after[:, :, 0, 0])


def test_relevances_are_between_minus_1_and_1_and_depend_on_the_image() -> None:
    weights = small_senn().parametrizer(random_images(6))
    assert weights.shape == (6, 4, 3)
    assert weights.abs().max() < 1
    assert weights.std(dim=0).max() > 1e-3


@pytest.mark.parametrize("penalty", ["paper", "released"])
@pytest.mark.parametrize("form", ["original", "reimplementation"])
def test_the_loss_is_the_published_one_restated(penalty: Any, form: Any) -> None:
    model = small_senn(penalty=penalty, form=form, n_concepts=2).double()
    images, labels = random_images(2).double(), torch.tensor([2, 0])

    def outputs(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            logits = model(torch.from_numpy(image)[None])[0]
            return (logits.log_softmax(dim=0) if penalty == "released" else logits).numpy()

    def concepts(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model.conceptizer(torch.from_numpy(image)[None])[0].numpy()

    with torch.no_grad():
        weights, h, logits = model.parametrizer(images).numpy(), model.conceptizer(images), model(images)
        restored = model.decoder(h).numpy()
    parts = [senn.differences(outputs, concepts, weights[b], images[b].numpy()) for b in range(2)]
    norms = [senn.norm(part) for part in parts]
    robustness = senn.norm(parts[0] + parts[1]) if penalty == "released" else sum(norms) / 2
    assert robustness > 1e-3
    magnitude = sum(abs(value) for row in h.tolist() for value in row) / 2
    expected = flint.cross_entropy(logits.tolist(), labels.tolist()) + 0.3 * robustness
    expected += flint.mean_square(restored, images.numpy()) + (0.01 if form == "original" else 0.02) * magnitude
    loss, found = model.training_loss(images, labels, RECIPE)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(found, logits)


def test_the_published_penalty_does_not_depend_on_the_batch_size_and_the_released_one_grows_with_its_root() -> None:
    model, image = small_senn(), random_images(1)

    def penalty(count: int, *, by_batch: bool) -> float:
        leaf = image.repeat(count, 1, 1, 1).requires_grad_()
        h, theta = model.conceptizer(leaf), model.parametrizer(leaf)
        return robustness_loss(torch.einsum("bn,bnk->bk", h, theta), h, theta, leaf, by_batch=by_batch).item()

    assert penalty(9, by_batch=False) == pytest.approx(penalty(1, by_batch=False), rel=1e-4)
    assert penalty(9, by_batch=True) == pytest.approx(3 * penalty(1, by_batch=True), rel=1e-4)


def test_relevances_that_do_not_depend_on_the_image_are_not_penalised() -> None:
    leaf = random_images(3).requires_grad_()
    h, theta = small_senn().conceptizer(leaf), torch.randn(3, 4, 3)
    loss = robustness_loss(torch.einsum("bn,bnk->bk", h, theta), h, theta, leaf)
    assert loss.item() == pytest.approx(0, abs=1e-5)


def test_the_penalty_is_differentiated_through_both_networks() -> None:
    """Beside numerical derivatives by one weight of each network."""
    model, images, labels = small_senn(n_concepts=2).double(), random_images(2).double(), torch.tensor([2, 0])
    model.training_loss(images, labels, RECIPE)[0].backward()
    for weight in (model.conceptizer.maps[0].weight, model.parametrizer[0].weight, model.decoder[1].weight):
        place = weight.grad.abs().flatten().argmax()
        values = weight.data.view(-1)
        kept, ends = values[place].item(), []
        for moved in (kept + 1e-6, kept - 1e-6):
            values[place] = moved
            ends.append(model.training_loss(images, labels, RECIPE)[0].item())
        values[place] = kept
        assert weight.grad.flatten()[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4)


def test_concepts_learn_to_restore_the_image_whatever_the_penalty() -> None:
    """In the trainer released first the reconstruction was overwritten, and the decoder got no gradient."""
    for penalty in ("paper", "released"):
        model = small_senn(penalty=penalty)
        model.training_loss(random_images(4), torch.tensor([0, 1, 2, 0]), RECIPE)[0].backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in model.decoder.parameters())


def test_training_leaves_the_images_without_gradients() -> None:
    images = random_images(2)
    small_senn().training_loss(images, torch.tensor([0, 1]), RECIPE)[0].backward()
    assert images.grad is None
    assert not images.requires_grad


def test_a_handful_of_samples_is_learnt_and_restored() -> None:
    bars = torch.zeros(3, *SMALL)
    bars[0, 0, 2:4, 2:14], bars[1, 0, 4:12, 4:12], bars[2, 0, 2:14, 6:8] = 1, 1, 1
    torch.manual_seed(0)
    model, labels = Senn(SMALL, 3, n_concepts=6), torch.arange(3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        loss, _ = model.training_loss(bars, labels, Senn.recipe("mnist"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(bars).argmax(1), labels)
        distances = (model.decoder(model.conceptizer(bars))[:, None] - bars[None]).square().mean((2, 3, 4))
    assert torch.equal(distances.argmin(1), labels)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 12, 16), {}, "`image_shape` must be"),
        ((1, 18, 16), {}, "`image_shape` must be"),
        ((1, 16, 16), {"form": "vgg"}, "`form` must be one of"),
        ((1, 16, 16), {"penalty": "none"}, "`penalty` must be one of"),
        ((1, 16, 16), {"n_concepts": 0}, "`n_concepts` must be at least 1"),
    ],
)
def test_impossible_options_are_refused(shape: tuple[int, int, int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Senn(shape, 3, **options)


def test_inputs_of_another_size_are_refused() -> None:
    model = small_senn()
    for call in (model, model.contributions, lambda x: model.attribute(x, torch.zeros(2, dtype=torch.int64))):
        with pytest.raises(ValueError, match=r"`inputs` must be \(B, 1, 16, 16\), was \(2, 1, 16, 20\)"):
            call(torch.zeros(2, 1, 16, 20))


@parametrize_with_checks([Own(), GradCam()], small_senn(), random_images(4))
def test_its_explanations_conform(check: Any) -> None:
    check()


def test_a_state_dict_restores_it() -> None:
    first, second, images = small_senn(0), small_senn(1), random_images(3)
    assert not torch.equal(first(images), second(images))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.contributions(images), second.contributions(images))
