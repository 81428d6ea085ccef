"""Infidelity: perturbations that belong to the sample, Captum's formula, and what is known of it."""

from __future__ import annotations

from dataclasses import replace

import captum.metrics
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from interpeval.datasets.base import Normalization
from interpeval.metrics.base import Scores, Status
from interpeval.metrics.infidelity import (
    Infidelity,
    gaussian_noise,
    in_input_space,
    random_square,
    spread_over_inputs,
)
from interpeval.metrics.monte_carlo import fill_value
from invariance import assert_a_nan_stays_in_its_row, assert_blind_to_the_batch, draws_decide, pictures
from known_maps import known_maps
from linear_subject import Linear
from reference import infidelity as slow
from small_subject import FromImage, Grad, Pictures, SmallNet, see

KINDS = ("gaussian", "square")


def score(metric: Infidelity, explainer: object, **options: object) -> Scores:
    return metric.score(see(explainer, **options))[""]  # type: ignore[arg-type]


class Exact:
    """What infidelity asks for of a linear model, by its two perturbations, and something else added to it."""

    def __init__(self, kind: str, *, extra: float = 0.0) -> None:
        self.kind = kind
        self.extra = extra

    def attribute(self, model: Linear, inputs: Tensor, targets: Tensor) -> Tensor:
        gradient = ((0.5 - targets).view(-1, 1, 1, 1) * model.weight).detach()
        return gradient * (inputs if self.kind == "square" else torch.ones_like(inputs)) + self.extra


# --- perturbations ------------------------------------------------------------------------------------------------


def test_noise_is_gaussian_of_the_standard_deviation_asked_for() -> None:
    drawn = gaussian_noise(torch.zeros(50, 3, 20, 20), torch.arange(50), 0, std=0.3)
    assert stats.kstest(drawn.flatten().numpy() / 0.3, "norm").pvalue > 1e-3


def test_noise_belongs_to_seed_sample_and_draw() -> None:
    images, keys = torch.zeros(3, 3, 4, 4), torch.tensor([5, 6, 7])
    drawn = gaussian_noise(images, keys, 0, std=1.0)
    torch.testing.assert_close(gaussian_noise(images[:2], keys[[2, 0]], 0, std=1.0), drawn[[2, 0]])
    for other in (gaussian_noise(images, keys, 1, std=1.0), gaussian_noise(images, keys, 0, std=1.0, seed=1)):
        assert float((other - drawn).abs().mean()) > 0.3
    assert float((drawn[0] - drawn[1]).abs().mean()) > 0.3


def test_a_square_lies_at_every_place_within_the_image_equally_often() -> None:
    squares = random_square(torch.arange(6000), 0, side=3, size=(4, 5))
    assert squares.flatten(1).sum(dim=1).unique().tolist() == [9]
    corner = squares.flatten(1).int().argmax(dim=1)
    counts = torch.bincount(corner, minlength=20).view(4, 5)
    assert stats.chisquare(counts[:2, :3].flatten().numpy()).pvalue > 1e-3
    assert int(counts[:2, :3].sum()) == 6000
    box = squares[0].nonzero()
    assert (box.amax(dim=0) - box.amin(dim=0)).tolist() == [2, 2]


def test_a_square_as_large_as_the_image_is_the_image() -> None:
    assert bool(random_square(torch.arange(9), 0, side=4, size=(4, 4)).all())


def test_a_change_of_pixels_is_the_difference_of_normalised_images() -> None:
    normalization = Normalization((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    pixels, change = torch.rand(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    difference = normalization.normalize(pixels + change) - normalization.normalize(pixels)
    torch.testing.assert_close(in_input_space(change, normalization), difference)


def test_one_channel_is_shared_out_and_three_stay() -> None:
    three = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(spread_over_inputs(three, (3, 4, 4)), three.double())
    one = three[:, :1]
    spread = spread_over_inputs(one, (3, 4, 4))
    torch.testing.assert_close(spread.sum(dim=1, keepdim=True), one.double())
    assert torch.equal(spread[:, 0], spread[:, 2])
    coarse = spread_over_inputs(torch.tensor([[[[0.0, 4.0]]]]), (1, 1, 4))
    assert coarse.flatten().tolist() == [0.0, 1.0, 3.0, 4.0]  # bilinear, centres of pixels at halves


# --- exact answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_attribution_of_a_linear_model_has_none(kind: str) -> None:
    metric = Infidelity(perturbation=kind, std=0.3)  # type: ignore[arg-type]
    batch, model = pictures(), Linear()
    exact = score(metric, Exact(kind), batch=batch, model=model).values
    wrong = score(metric, Exact(kind, extra=0.1), batch=batch, model=model).values
    assert float(exact.max()) < 1e-10
    assert float(wrong.min()) > 1e-4


def test_an_attribution_that_is_off_by_a_constant_is_off_by_the_sum_of_the_square() -> None:
    """0.1 too much for each of 3·4·4 elements, with every square of the same size: 4.8² whatever the place."""
    metric = Infidelity(perturbation="square", side=0.45)  # 4.05 of 9 pixels
    values = score(metric, Exact("square", extra=0.1), batch=pictures(), model=Linear()).values
    assert values.tolist() == pytest.approx([4.8**2] * 5, rel=1e-4)


@pytest.mark.parametrize("factor", [1.0, -3.0])
def test_normalised_only_the_pattern_counts(factor: float) -> None:
    batch, model = pictures(), Linear()
    scaled = FromImage(lambda inputs: factor * model.weight.detach().expand_as(inputs))
    normalised, plain = (
        score(Infidelity(std=0.3, normalize=n), scaled, batch=batch, model=model).values for n in (True, False)
    )
    assert float(normalised.max()) < 1e-9
    assert float(plain.min()) > 1e-3


def test_a_silent_map_scores_the_change_of_the_output_and_is_degenerate() -> None:
    batch, model = pictures(), Linear()
    metric = Infidelity(std=0.3, n_draws=4)
    scores = score(metric, FromImage(torch.zeros_like), batch=batch, model=model)
    noise = torch.stack([gaussian_noise(batch.images, batch.keys, draw, std=0.3) for draw in range(4)])
    change = in_input_space(noise.flatten(0, 1), Pictures.normalization).view_as(noise)
    expected = (change * model.weight.detach() / 2).sum(dim=(2, 3, 4)).square().mean(dim=0)
    np.testing.assert_allclose(scores.values, expected, rtol=1e-4)
    assert scores.status.tolist() == [Status.DEGENERATE] * 5


def test_the_gradient_beats_a_random_map_and_that_its_inverse() -> None:
    batch, model, metric = pictures(), Linear(), Infidelity(std=0.3)
    random = torch.randn(5, 9, 9, generator=torch.Generator().manual_seed(0)) * 0.1
    right, chance, wrong = (
        float(score(metric, explainer, batch=batch, model=model).values.mean())
        for explainer in (Exact("gaussian"), known_maps(batch, random), Opposite("gaussian"))
    )
    assert right < 0.01 * chance < 0.01 * wrong


class Opposite(Exact):
    def attribute(self, model: Linear, inputs: Tensor, targets: Tensor) -> Tensor:
        return -super().attribute(model, inputs, targets)


# --- the definition, slowly, and Captum ---------------------------------------------------------------------------


def drawn(kind: str, batch: object, row: int, draw: int, *, seed: int, metric: Infidelity) -> tuple[Tensor, Tensor]:
    """Perturbation and perturbed image `(C, H, W)` of one draw, made alone."""
    image, key = batch.images[row : row + 1], batch.keys[row : row + 1]  # type: ignore[attr-defined]
    if kind == "gaussian":
        noise = gaussian_noise(image, key, draw, std=metric.std, seed=seed)
        change = in_input_space(noise, Pictures.normalization)
        return change[0], (image - change)[0]
    inside = random_square(key, draw, side=2, size=(9, 9), seed=seed)[:, None]
    black = fill_value("black", Pictures.normalization, image)
    return inside[0].expand_as(image[0]).float(), torch.where(inside, black, image)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("target", ["predicted", "label"])
def test_the_score_is_its_definition(kind: str, normalize: bool, target: str) -> None:
    model = SmallNet().double()
    metric = Infidelity(
        perturbation=kind, std=0.2, fill="black", n_draws=3, normalize=normalize, target=target,  # type: ignore[arg-type]
    )  # fmt: skip
    evidence = see(Grad(), seed=2)
    scores, batch = metric.score(evidence)[""], evidence.batch
    attributions, targets = evidence.attributions(target), evidence.targets(target)  # type: ignore[arg-type]
    for row in range(len(batch)):
        pairs = [drawn(kind, batch, row, draw, seed=2, metric=metric) for draw in range(3)]
        wide = [(change.double().numpy(), perturbed.double().numpy()) for change, perturbed in pairs]

        def logit(image: np.ndarray, row: int = row) -> float:
            with torch.no_grad():
                return float(model(torch.from_numpy(image)[None])[0, targets[row]])

        image, attribution = batch.images[row].double().numpy(), attributions[row].double().numpy()
        expected = slow.infidelity(logit, image, attribution, wide, normalize=normalize)
        assert float(scores.values[row]) == pytest.approx(expected, rel=1e-4, abs=1e-7)
        if not normalize:
            errors = [slow.infidelity(logit, image, attribution, [pair]) for pair in wide]
            assert scores.variance is not None
            assert float(scores.variance[row]) == pytest.approx(np.var(errors, ddof=1) / 3, rel=1e-3, abs=1e-9)
        else:
            assert scores.variance is None


@pytest.mark.parametrize("normalize", [False, True])
def test_captum_gives_the_same_for_the_same_perturbations_all_at_once(normalize: bool) -> None:
    metric, model = Infidelity(std=0.2, n_draws=4, normalize=normalize), SmallNet()
    evidence = see(Grad(), model=model, seed=2)
    batch = evidence.batch
    pairs = [drawn("gaussian", batch, row, draw, seed=2, metric=metric) for row in range(5) for draw in range(4)]
    changes, perturbed = (torch.stack(part) for part in zip(*pairs, strict=True))
    theirs = captum.metrics.infidelity(
        model,
        lambda inputs: (changes, perturbed),
        batch.images,
        evidence.attributions("predicted"),
        target=evidence.targets("predicted"),
        n_perturb_samples=4,
        normalize=normalize,
    )
    np.testing.assert_allclose(metric.score(evidence)[""].values, theirs, rtol=1e-3, atol=1e-6)


# --- what does not matter, and what does --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", [False, True])
def test_values_do_not_depend_on_the_batch(kind: str, normalize: bool) -> None:
    assert_blind_to_the_batch(
        Infidelity(perturbation=kind, std=0.1, n_draws=3, normalize=normalize)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_perturbations_belong_to_the_sample_and_the_seed(kind: str) -> None:
    assert draws_decide(Infidelity(perturbation=kind, std=0.1, n_draws=3)) == (True, True)  # type: ignore[arg-type]


def test_captum_alone_depends_on_the_batch() -> None:
    """The control of the test above: noise from the global generator belongs to the position."""
    batch, model = pictures(), SmallNet()

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(inputs.shape, generator=generator) * 0.1
        return noise, inputs - noise

    values = []
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0]):
        generator = torch.Generator().manual_seed(0)
        images, targets = batch.images[order], batch.labels[order]
        attributions = Grad().attribute(model, images.clone(), targets)
        found = captum.metrics.infidelity(model, perturb, images, attributions, target=targets)
        values.append(found[torch.tensor(order).argsort()])
    assert not torch.allclose(values[0], values[1], rtol=0.01)


def test_a_nan_stays_in_its_row() -> None:
    for normalize in (False, True):
        assert_a_nan_stays_in_its_row(Infidelity(std=0.1, normalize=normalize))


def test_an_output_that_is_not_finite_makes_its_sample_invalid() -> None:
    batch = pictures()
    images = batch.images.clone()
    images[1] = 1e30
    scores = score(Infidelity(), FromImage(torch.ones_like), batch=replace(batch, images=images), model=Squared())
    assert scores.status.tolist() == [0, Status.INVALID, 0, 0, 0]


class Squared(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.square().sum(dim=(2, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perturbation": "blur"}, "`perturbation` must be"),
        ({"std": 0.0}, "`std` must be above 0"),
        ({"side": 1.5}, "`side` must be above 0 and at most 1"),
        ({"fill": "blur"}, "`fill` must be"),
        ({"n_draws": 0}, "`n_draws` must be at least 1"),
        ({"target": "none"}, "`target` must be"),
    ],
)
def test_a_wrong_configuration_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Infidelity(**options)  # type: ignore[arg-type]
