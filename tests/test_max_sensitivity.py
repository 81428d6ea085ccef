"""Max-sensitivity: Captum's formula on perturbations that belong to the sample."""

from __future__ import annotations

import captum.metrics
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from interpeval.datasets.philox import derived_keys
from interpeval.metrics.base import Scores, Status
from interpeval.metrics.infidelity import in_input_space
from interpeval.metrics.max_sensitivity import MaxSensitivity, uniform_noise
from invariance import assert_a_nan_stays_in_its_row, assert_blind_to_the_batch, draws_decide, pictures
from reference import infidelity as slow
from small_subject import FromImage, Grad, Pictures, SmallNet, see


def score(metric: MaxSensitivity, explainer: object, **options: object) -> Scores:
    return metric.score(see(explainer, **options))[""]  # type: ignore[arg-type]


def copies(images: Tensor, keys: Tensor, metric: MaxSensitivity, *, seed: int = 0) -> Tensor:
    """`(D, B, C, H, W)` perturbed images."""
    noise = [uniform_noise(images, keys, draw, radius=metric.radius, seed=seed) for draw in range(metric.n_draws)]
    return torch.stack([images + in_input_space(each, Pictures.normalization) for each in noise])


# --- the noise ----------------------------------------------------------------------------------------------------


def test_noise_is_uniform_in_the_ball() -> None:
    drawn = uniform_noise(torch.zeros(50, 3, 20, 20), torch.arange(50), 0, radius=0.2)
    assert stats.kstest(drawn.flatten().numpy(), stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-3


def test_noise_belongs_to_seed_sample_and_draw() -> None:
    images, keys = torch.zeros(3, 3, 4, 4), torch.tensor([5, 6, 7])
    drawn = uniform_noise(images, keys, 0, radius=1.0)
    torch.testing.assert_close(uniform_noise(images[:2], keys[[2, 0]], 0, radius=1.0), drawn[[2, 0]])
    for other in (uniform_noise(images, keys, 1, radius=1.0), uniform_noise(images, keys, 0, radius=1.0, seed=1)):
        assert float((other - drawn).abs().mean()) > 0.3
    assert float((drawn[0] - drawn[1]).abs().mean()) > 0.3


# --- exact answers ------------------------------------------------------------------------------------------------


def test_an_explanation_that_is_the_image_changes_by_the_noise() -> None:
    batch, metric = pictures(), MaxSensitivity(n_draws=4)
    change = copies(batch.images, batch.keys, metric) - batch.images
    expected = change.double().flatten(2).norm(dim=2).amax(dim=0) / batch.images.double().flatten(1).norm(dim=1)
    scores = score(metric, FromImage(lambda inputs: inputs), batch=batch)
    np.testing.assert_allclose(scores.values, expected, rtol=1e-5)
    assert scores.variance is None


def test_an_explanation_that_does_not_look_at_the_image_is_not_sensitive() -> None:
    scores = score(MaxSensitivity(), FromImage(torch.ones_like))
    assert scores.values.tolist() == [0.0] * 5
    assert scores.status.tolist() == [Status.OK] * 5


def test_a_silent_explanation_is_degenerate() -> None:
    scores = score(MaxSensitivity(), FromImage(torch.zeros_like))
    assert scores.values.tolist() == [0.0] * 5
    assert scores.status.tolist() == [Status.DEGENERATE] * 5


def test_a_smooth_explanation_is_less_sensitive_than_its_high_powers() -> None:
    smooth, steep = (
        score(MaxSensitivity(), FromImage(lambda inputs, p=power: inputs.abs() ** p)).values for power in (1, 6)
    )
    assert bool((smooth < steep).all())


def test_more_draws_and_a_larger_radius_can_only_raise_it() -> None:
    few, many = (score(MaxSensitivity(n_draws=n), Grad()).values for n in (2, 8))
    assert bool((few <= many).all())
    assert not torch.equal(few, many)
    linear = FromImage(lambda inputs: inputs)
    near, far = (score(MaxSensitivity(radius=r), linear).values for r in (0.01, 0.02))
    torch.testing.assert_close(far, 2 * near, rtol=1e-4, atol=0)


# --- the definition, slowly, and Captum ---------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["predicted", "label"])
def test_the_score_is_its_definition(target: str) -> None:
    metric = MaxSensitivity(radius=0.1, n_draws=3, target=target)  # type: ignore[arg-type]
    evidence, model = see(Grad(), seed=4), SmallNet().double()
    scores, batch = metric.score(evidence)[""], evidence.batch
    targets, made = evidence.targets(target), copies(batch.images, batch.keys, metric, seed=4)  # type: ignore[arg-type]
    for row in range(len(batch)):

        def explain(image: np.ndarray, row: int = row) -> np.ndarray:
            inputs = torch.from_numpy(image)[None]
            return Grad().attribute(model, inputs, targets[row : row + 1])[0].numpy()

        expected = slow.max_sensitivity(
            explain, batch.images[row].double().numpy(), [copy.double().numpy() for copy in made[:, row]]
        )
        assert float(scores.values[row]) == pytest.approx(expected, rel=1e-4)


def test_captum_gives_the_same_for_the_same_perturbations_all_at_once() -> None:
    metric, model = MaxSensitivity(n_draws=4), SmallNet()
    evidence = see(Grad(), model=model)
    batch, targets = evidence.batch, evidence.targets("predicted")
    made = copies(batch.images, batch.keys, metric).transpose(0, 1).flatten(0, 1)

    def explain(inputs: Tensor | tuple[Tensor, ...], target: Tensor) -> tuple[Tensor]:
        images = inputs[0] if isinstance(inputs, tuple) else inputs
        with torch.enable_grad():
            return (Grad().attribute(model, images.clone(), target),)

    theirs = captum.metrics.sensitivity_max(
        explain, batch.images, lambda inputs: made, n_perturb_samples=4, target=targets
    )
    np.testing.assert_allclose(metric.score(evidence)[""].values, theirs, rtol=1e-4)


# --- how the explainer is asked -----------------------------------------------------------------------------------


class Noted:
    """Records what it is asked; draws nothing."""

    needs = frozenset({"keys", "masks"})

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], list[int], bool]] = []

    def attribute(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, keys: Tensor, masks: Tensor | None
    ) -> Tensor:
        del model
        self.calls.append((targets.tolist(), keys.tolist(), masks is not None))
        return inputs


def test_the_class_of_the_unperturbed_image_is_explained_under_keys_of_each_draw() -> None:
    explainer, batch = Noted(), pictures()
    score(MaxSensitivity(n_draws=2), explainer, batch=batch)
    assert [targets[:5] for targets, _, _ in explainer.calls] == [batch.labels.tolist()] * 3
    assert all(masked for _, _, masked in explainer.calls)
    expected = [batch.keys, *(derived_keys(batch.keys, "max_sensitivity", draw) for draw in range(2))]
    assert [keys[:5] for _, keys, _ in explainer.calls] == [
        derived_keys(keys, "explainer/0", 0).tolist() for keys in expected
    ]


class FailsWhenPerturbed:
    """Raises for everything but the images it knows."""

    def __init__(self, known: Tensor) -> None:
        self.known = known

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        del model, targets
        if not (inputs[:, None] == self.known).flatten(2).all(dim=2).any(dim=1).all():
            raise RuntimeError("never seen")
        return inputs


def test_an_explainer_that_fails_on_the_copies_is_invalid() -> None:
    batch = pictures()
    scores = score(MaxSensitivity(n_draws=2), FailsWhenPerturbed(batch.images), batch=batch)
    assert scores.status.tolist() == [Status.INVALID] * 5


# --- what does not matter, and what does --------------------------------------------------------------------------


def test_values_do_not_depend_on_the_batch() -> None:
    assert_blind_to_the_batch(MaxSensitivity(n_draws=3))


def test_perturbations_belong_to_the_sample_and_the_seed() -> None:
    assert draws_decide(MaxSensitivity(n_draws=3)) == (True, True)


def test_a_nan_stays_in_its_row() -> None:
    assert_a_nan_stays_in_its_row(MaxSensitivity(n_draws=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, "`radius` must be above 0"),
        ({"n_draws": 0}, "`n_draws` must be at least 1"),
        ({"target": "none"}, "`target` must be"),
    ],
)
def test_a_wrong_configuration_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaxSensitivity(**options)  # type: ignore[arg-type]
