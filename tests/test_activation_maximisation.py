"""Pictures of what an attribute responds to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from interpeval.baselines.activation_maximisation import maximise, maximise_attributes, outside, variation
from interpeval.baselines.flint import Flint
from reference import flint as slow


def random_images(count: int, side: int = 6) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(1))


def test_a_signed_sum_is_greatest_at_the_bounds() -> None:
    """Each pixel gains 2/n per unit inside of [0, 1] and loses 10/n outside of it, so it ends at a bound."""
    signs = torch.where(random_images(2) > 0.5, 1.0, -1.0)
    found = maximise(lambda x: (signs * x).mean(dim=(1, 2, 3)), random_images(2), variation_weight=0.0)
    torch.testing.assert_close(found, (signs + 1) / 2, rtol=0, atol=0.02)


def test_without_bounds_it_would_go_on() -> None:
    found = maximise(lambda x: x.mean(dim=(1, 2, 3)), random_images(1), bound_weight=0.0, variation_weight=0.0)
    assert found.min() > 2


def test_a_hill_is_climbed_to_its_top_from_anywhere() -> None:
    top = 0.2 + 0.6 * random_images(3)
    for factor in (0.0, 0.1, 1.0):
        found = maximise(
            lambda x: -(x - top).square().sum(dim=(1, 2, 3)),
            1 - random_images(3),
            factor=factor,
            variation_weight=0.0,
        )
        torch.testing.assert_close(found, top, rtol=0, atol=1e-3)


def test_variation_is_paid_where_it_costs_more_than_it_gains() -> None:
    """A pixel in a 4×4 image gains 2·c per unit above the others and costs 6·(2/12 + 2/12) = 2: c = 1 is the limit."""
    pixel = torch.zeros(1, 1, 4, 4)
    pixel[0, 0, 1, 1] = 1

    def contrast(c: float) -> float:
        found = maximise(lambda x: c * (x * (pixel - (1 - pixel) / 15)).sum(dim=(1, 2, 3)), 5 + 0 * pixel)
        return (found[0, 0, 1, 1] - found[0, 0, 3, 3]).item()

    assert abs(contrast(0.7)) < 0.1
    assert contrast(1.5) > 0.4


def test_it_is_the_published_procedure_restated() -> None:
    """Few iterations: signs of differences are chaotic once values meet."""
    images = random_images(2).double()
    weights = torch.randn(6, 6, generator=torch.Generator().manual_seed(4)).double() / 6

    def activation(x: Tensor) -> Tensor:
        return (weights * x[:, 0].square()).sum(dim=(1, 2))

    def gradient(x: np.ndarray) -> np.ndarray:
        return 2 * weights.numpy() * x

    found = maximise(activation, images, factor=0.3, n_stages=3, n_iterations=5)
    for sample in range(2):
        expected = slow.maximise(gradient, images[sample, 0].numpy(), 0.3, 3, 5, 0.05)
        np.testing.assert_allclose(found[sample, 0].numpy(), expected, rtol=1e-9)


def test_penalties_are_means_not_sums() -> None:
    image = torch.tensor([[[[-2.0, 0.5], [1.0, 3.0]]]])
    assert outside(image, (0.0, 1.0)).item() == pytest.approx((2 + 3) / 4)
    assert variation(image).item() == pytest.approx((3 + 2.5) / 2 + (2.5 + 2) / 2)
    assert variation(image.repeat(1, 1, 3, 3)[:, :, :2, :2]).item() == variation(image).item()


def test_an_attribute_becomes_stronger_and_the_model_is_left_alone() -> None:
    torch.manual_seed(0)
    model, images, attributes = Flint((1, 8, 8), 3).train(), random_images(3, 8), torch.tensor([0, 7, 7])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = maximise_attributes(model, images, attributes, n_stages=2, n_iterations=20, variation_weight=0.0)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()

    def strength(x: Tensor) -> Tensor:
        return model.interpret(x).activations.gather(1, attributes[:, None])

    assert (strength(found) > strength(0.1 * images)).all()


def test_samples_do_not_influence_each_other_and_callers_need_no_gradients() -> None:
    torch.manual_seed(0)
    model, images, attributes = Flint((1, 8, 8), 3).double(), random_images(3, 8).double(), torch.tensor([0, 7, 2])
    options = {"n_stages": 2, "n_iterations": 5}
    whole = maximise_attributes(model, images, attributes, **options)
    with torch.no_grad():
        alone = maximise_attributes(model, images[1:2], attributes[1:2], **options)
    torch.testing.assert_close(alone, whole[1:2], rtol=1e-6, atol=1e-9)
    assert not whole.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_stages": 0}, "`n_stages` must be at least 1"),
        ({"n_iterations": 0}, "`n_iterations` must be at least 1"),
        ({"bounds": (1.0, 0.0)}, "`bounds` must be two numbers, ascending"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maximise(lambda x: x.sum(dim=(1, 2, 3)), random_images(1), **options)
    with pytest.raises(ValueError, match="`inputs` must be"):
        maximise(lambda x: x.sum(dim=(1, 2, 3)), torch.zeros(1, 1, 1, 4))


def test_a_model_without_an_interpreter_is_refused() -> None:
    with pytest.raises(TypeError, match="`model` must have an interpreter"):
        maximise_attributes(torch.nn.Flatten(), random_images(1), torch.tensor([0]))
