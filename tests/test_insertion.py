"""Insertion: deletion the other way round."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from interpeval.metrics.base import Scores
from interpeval.metrics.deletion import Deletion
from interpeval.metrics.insertion import Insertion
from interpeval.metrics.mask_k_pixels import fill_images
from invariance import assert_a_nan_stays_in_its_row, assert_blind_to_the_batch, draws_decide, pictures
from known_maps import known_maps
from linear_subject import Contributions, Linear
from reference import deletion as slow
from reference.mask_k_pixels import area
from small_subject import Grad, SmallNet, see


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def score(metric: Insertion, explainer: object, **options: object) -> dict[str, Scores]:
    return metric.score(see(explainer, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("fill", ["blur", "mean", "noise", 0.7])
def test_the_curve_is_its_definition(fill: str) -> None:
    fractions, model = (0.0, 0.07, 0.5, 0.93, 1.0), SmallNet()
    evidence = see(Grad(), model=model, seed=3)
    scores = Insertion(fractions=fractions, fill=fill).score(evidence)  # type: ignore[arg-type]
    batch = evidence.batch
    fills = fill_images(fill, evidence.normalization, batch, seed=3).expand_as(batch.images)  # type: ignore[arg-type]
    maps, targets = evidence.heatmaps("predicted"), evidence.targets("predicted")

    def logits(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(image).float()[None])[0].double().numpy()

    for row in range(len(batch)):
        start, end = (part[row].double().numpy() for part in (fills, batch.images))
        curve = slow.curve(start, end, maps[row].double().numpy(), int(targets[row]), logits, list(fractions))
        np.testing.assert_allclose(scores["probability"].values[row], curve, atol=1e-5)
        assert float(scores["area"].values[row]) == pytest.approx(area(curve, fractions), abs=1e-5)


def test_showing_the_most_relevant_pixels_first_is_deleting_the_least_relevant_read_backwards() -> None:
    batch, fractions = pictures(), tuple(step / 9 for step in range(10))  # ninths of 81 pixels are whole
    maps = noise(5, 9, 9)
    shown = score(Insertion(fractions=fractions, fill="mean"), known_maps(batch, maps), batch=batch)["probability"]
    gone = Deletion(fractions=fractions).score(see(known_maps(batch, -maps), batch=batch))["probability"]
    torch.testing.assert_close(shown.values, gone.values.flip(1), atol=1e-6, rtol=0)
    same = Deletion(fractions=fractions).score(see(known_maps(batch, maps), batch=batch))["probability"]
    assert not torch.allclose(shown.values, same.values.flip(1), atol=0.01)


def test_what_contributes_most_is_best_and_its_inverse_worst_of_all_orders_of_a_linear_model() -> None:
    batch, model, metric = pictures(), Linear(), Insertion(fill="mean")
    best, worst = (score(metric, Contributions(f), batch=batch, model=model) for f in (1.0, -1.0))
    for seed in range(3):
        random = score(metric, known_maps(batch, noise(5, 9, 9, seed=seed)), batch=batch, model=model)
        assert bool((best["probability"].values >= random["probability"].values - 1e-6).all())
        assert bool((random["probability"].values >= worst["probability"].values - 1e-6).all())
        assert bool((best["area"].values > random["area"].values + 0.01).all())
        assert bool((random["area"].values > worst["area"].values + 0.01).all())


def test_values_do_not_depend_on_the_batch() -> None:
    assert_blind_to_the_batch(Insertion())


def test_noise_belongs_to_the_sample_and_the_seed() -> None:
    assert draws_decide(Insertion(fill="noise"), "area") == (True, True)
    assert draws_decide(Insertion(), "area") == (False, False)


def test_a_nan_stays_in_its_row() -> None:
    assert_a_nan_stays_in_its_row(Insertion())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": (0.0,)}, "`fractions` must be"),
        ({"fill": "red"}, "`fill` must be"),
        ({"target": "none"}, "`target` must be"),
    ],
)
def test_a_wrong_configuration_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Insertion(**options)  # type: ignore[arg-type]
