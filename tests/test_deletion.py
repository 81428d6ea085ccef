"""Deletion: the probability of a class, the curve, and the area under it."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interpeval.metrics.base import Scores
from interpeval.metrics.deletion import Deletion, class_probability
from interpeval.metrics.mask_k_pixels import MaskKPixels, fill_images
from invariance import assert_a_nan_stays_in_its_row, assert_blind_to_the_batch, draws_decide, pictures
from known_maps import known_maps
from linear_subject import Contributions, Linear
from reference import deletion as slow
from reference.mask_k_pixels import area
from small_subject import FromImage, Grad, Pictures, SmallNet, see

CONSTANT = FromImage(lambda inputs: torch.full_like(inputs[:, :1], 0.3))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def score(metric: Deletion, explainer: object, **options: object) -> dict[str, Scores]:
    return metric.score(see(explainer, **options))  # type: ignore[arg-type]


def test_probabilities_of_known_logits() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [1000.0, 999.0, -torch.inf], [torch.nan, 0.0, 0.0]])
    expected = [1 / 3, 1 / (1 + exp(1)), np.nan]
    np.testing.assert_allclose(class_probability(logits, torch.tensor([2, 1, 1])), expected, rtol=1e-12)


def test_the_curve_of_a_linear_model_by_hand() -> None:
    """Two pixels add 2 and -1 to the log-odds: 1 before, -1 without the first, 0 without both."""
    batch = replace(
        Pictures(size=(1, 2), count=1).take([0]),
        images=torch.ones(1, 3, 1, 2),
        labels=torch.tensor([0]),
    )
    model = Linear((3, 1, 2))
    model.weight.data = torch.tensor([[[2.0, -1.0]], [[0.0, 0.0]], [[0.0, 0.0]]])
    scores = score(Deletion(fractions=(0.0, 0.5, 1.0), fill="mean"), Contributions(), batch=batch, model=model)
    sigmoid = [1 / (1 + exp(-odds)) for odds in (1.0, -1.0, 0.0)]
    assert scores["probability"].steps == (0.0, 0.5, 1.0)
    assert scores["probability"].values[0].tolist() == pytest.approx(sigmoid)
    assert scores["area"].values.tolist() == pytest.approx([(sigmoid[0] + sigmoid[2]) / 4 + sigmoid[1] / 2])


@pytest.mark.parametrize("fill", ["mean", "black", "blur", "noise", 0.7])
@pytest.mark.parametrize("target", ["predicted", "label"])
def test_the_curve_is_its_definition(fill: str, target: str) -> None:
    fractions, model = (0.0, 0.07, 0.5, 0.93, 1.0), SmallNet()
    metric = Deletion(fractions=fractions, fill=fill, target=target)  # type: ignore[arg-type]
    evidence = see(Grad(), model=model, seed=3)
    scores, batch = metric.score(evidence), evidence.batch
    fills = fill_images(fill, evidence.normalization, batch, seed=3).expand_as(batch.images)  # type: ignore[arg-type]
    maps, targets = evidence.heatmaps(target), evidence.targets(target)  # type: ignore[arg-type]

    def logits(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(image).float()[None])[0].double().numpy()

    for row in range(len(batch)):
        start, end = (part[row].double().numpy() for part in (batch.images, fills))
        curve = slow.curve(start, end, maps[row].double().numpy(), int(targets[row]), logits, list(fractions))
        np.testing.assert_allclose(scores["probability"].values[row], curve, atol=1e-5)
        assert float(scores["area"].values[row]) == pytest.approx(area(curve, fractions), abs=1e-5)


def test_it_masks_what_mask_k_masks_from_the_most_relevant_pixel_on() -> None:
    """The log-odds of a class are the logit of its probability."""
    batch = pictures()  # labels are the classes predicted
    metric = MaskKPixels(order="most", transform=None, fill="mean")
    odds = metric.score(see(Grad(), batch=batch))["lor"]
    found = score(Deletion(), Grad(), batch=batch)["probability"]
    assert found.steps == odds.steps
    torch.testing.assert_close(found.values, odds.values.sigmoid())
    other = replace(metric, order="least").score(see(Grad(), batch=batch))["lor"].values.sigmoid()
    assert not torch.allclose(found.values, other, atol=0.01)


def test_what_contributes_most_is_best_and_its_inverse_worst_of_all_orders_of_a_linear_model() -> None:
    """At every fraction no other set of pixels takes more from the log-odds than the largest contributions do."""
    batch, model = pictures(), Linear()
    best, worst = (score(Deletion(), Contributions(f), batch=batch, model=model) for f in (1.0, -1.0))
    for seed in range(3):
        random = score(Deletion(), known_maps(batch, noise(5, 9, 9, seed=seed)), batch=batch, model=model)
        assert bool((best["probability"].values <= random["probability"].values + 1e-6).all())
        assert bool((random["probability"].values <= worst["probability"].values + 1e-6).all())
        assert bool((best["area"].values < random["area"].values - 0.01).all())
        assert bool((random["area"].values < worst["area"].values - 0.01).all())


def test_the_first_step_is_the_image_itself_and_the_last_is_the_fill() -> None:
    model, batch = SmallNet(), pictures()
    curve = score(Deletion(fill=0.2), Grad(), batch=batch, model=model)["probability"].values
    flat = Pictures().normalization.normalize(torch.full((1, 3, 9, 9), 0.2))
    with torch.no_grad():
        logits = torch.cat((model(batch.images), model(flat)))
    torch.testing.assert_close(curve[:, 0], class_probability(logits[:5], batch.labels), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        curve[:, -1], class_probability(logits[5:].expand(5, -1), batch.labels), atol=1e-6, rtol=0
    )


class Cubed(Grad):
    """Gradient times input, summed over the channels and raised to the third power."""

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return `(B, 1, H, W)`."""
        return super().attribute(model, inputs, targets).sum(dim=1, keepdim=True) ** 3


def test_only_the_order_of_the_pixels_counts() -> None:
    values = score(Deletion(), Grad())["area"].values
    torch.testing.assert_close(score(Deletion(), Cubed())["area"].values, values)


def test_values_do_not_depend_on_the_batch() -> None:
    assert_blind_to_the_batch(Deletion())
    assert_blind_to_the_batch(Deletion(fill="noise"), explainer=CONSTANT)


def test_noise_belongs_to_the_sample_and_the_seed() -> None:
    assert draws_decide(Deletion(fill="noise"), "area") == (True, True)
    assert draws_decide(Deletion(fill="mean"), "area") == (False, False)


def test_ties_belong_to_the_sample_and_are_not_marked() -> None:
    batch = pictures()
    silent = FromImage(lambda inputs: torch.zeros_like(inputs[:, :1]))
    zero, constant = (score(Deletion(), explainer, batch=batch)["area"] for explainer in (silent, CONSTANT))
    assert zero.values.tolist() == constant.values.tolist()
    assert zero.status.tolist() == [0] * 5
    renamed = replace(batch, ids=tuple(reversed(batch.ids)))
    assert score(Deletion(), silent, batch=renamed)["area"].values.tolist() != zero.values.tolist()


def test_a_nan_stays_in_its_row() -> None:
    assert_a_nan_stays_in_its_row(Deletion())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": (0.1, 1.0)}, "`fractions` must be two or more numbers ascending from 0"),
        ({"fractions": (0.0, 0.5, 0.5)}, "`fractions` must be"),
        ({"fractions": (0.0, 1.5)}, "at most 1"),
        ({"fill": "red"}, "`fill` must be"),
        ({"target": "none"}, "`target` must be"),
    ],
)
def test_a_wrong_configuration_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Deletion(**options)  # type: ignore[arg-type]
