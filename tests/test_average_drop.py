"""Average drop and increase."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import numpy as np
import pytest
import torch
from torch import Tensor

from interpeval.metrics.average_drop import AverageDrop, drop, increase
from interpeval.metrics.base import Scores
from interpeval.metrics.deletion import Deletion
from interpeval.metrics.mask_k_pixels import fill_images
from invariance import assert_a_nan_stays_in_its_row, assert_blind_to_the_batch, draws_decide, pictures
from known_maps import known_maps
from linear_subject import Contributions, Linear
from reference import deletion as slow
from small_subject import Grad, Pictures, SmallNet, see


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def score(metric: AverageDrop, explainer: object, **options: object) -> dict[str, Scores]:
    return metric.score(see(explainer, **options))  # type: ignore[arg-type]


def test_drop_and_increase_of_known_probabilities() -> None:
    before = torch.tensor([0.8, 0.8, 0.5, 0.0, 1e-300, torch.nan, 0.5], dtype=torch.float64)
    after = torch.tensor([0.2, 1.0, 0.5, 0.5, 0.0, 0.5, torch.nan], dtype=torch.float64)
    np.testing.assert_allclose(drop(before, after), [0.75, 0, 0, 0, 1, np.nan, np.nan], rtol=1e-12)
    np.testing.assert_equal(increase(before, after).numpy(), [0, 1, 0, 1, 0, np.nan, np.nan])


def test_a_linear_model_by_hand() -> None:
    """Pixels add 2 and -1 to the log-odds: 1 before, -1 without the first, 2 without the second."""
    batch = replace(Pictures(size=(1, 2), count=1).take([0]), images=torch.ones(1, 3, 1, 2), labels=torch.tensor([0]))
    model = Linear((3, 1, 2))
    model.weight.data = torch.tensor([[[2.0, -1.0]], [[0.0, 0.0]], [[0.0, 0.0]]])
    p = {odds: 1 / (1 + exp(-odds)) for odds in (1, -1, 2)}
    most = score(AverageDrop(fill="mean"), Contributions(), batch=batch, model=model)
    least = score(AverageDrop(fill="mean", remove="least"), Contributions(), batch=batch, model=model)
    assert most["drop"].values.tolist() == pytest.approx([1 - p[-1] / p[1]])
    assert most["increase"].values.tolist() == [0]
    assert least["drop"].values.tolist() == [0]
    assert least["increase"].values.tolist() == [1]


@pytest.mark.parametrize("fill", ["noise", "mean", "blur"])
@pytest.mark.parametrize("absolute", [False, True])
def test_the_values_are_their_definition(fill: str, absolute: bool) -> None:
    model = SmallNet()
    metric = AverageDrop(share=0.3, fill=fill, absolute=absolute)  # type: ignore[arg-type]
    evidence = see(Grad(), model=model, seed=5)
    scores, batch = metric.score(evidence), evidence.batch
    fills = fill_images(fill, evidence.normalization, batch, seed=5).expand_as(batch.images)  # type: ignore[arg-type]
    maps, targets = evidence.heatmaps("predicted").double().numpy(), evidence.targets("predicted")

    def logits(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(image).float()[None])[0].double().numpy()

    for row in range(len(batch)):
        start, end = (part[row].double().numpy() for part in (batch.images, fills))
        relevance = np.abs(maps[row]) if absolute else maps[row]
        before, after = slow.curve(start, end, relevance, int(targets[row]), logits, [0.0, 0.3])
        assert float(scores["drop"].values[row]) == pytest.approx(max(0.0, before - after) / before, abs=1e-5)
        assert float(scores["increase"].values[row]) == float(after > before)


def test_it_is_deletion_at_one_fraction() -> None:
    curve = Deletion(fractions=(0.0, 0.5)).score(see(Grad()))["probability"].values
    scores = score(AverageDrop(fill="mean"), Grad())
    torch.testing.assert_close(scores["drop"].values, drop(curve[:, 0], curve[:, 1]))
    assert not torch.allclose(score(AverageDrop(fill="mean", remove="least"), Grad())["drop"].values,
                              scores["drop"].values, atol=0.01)  # fmt: skip


def test_what_contributes_most_drops_most_of_all_orders_of_a_linear_model() -> None:
    batch, model, metric = pictures(), Linear(), AverageDrop(fill="mean")
    best, worst = (score(metric, Contributions(f), batch=batch, model=model) for f in (1.0, -1.0))
    for seed in range(3):
        random = score(metric, known_maps(batch, noise(5, 9, 9, seed=seed)), batch=batch, model=model)
        assert bool((best["drop"].values > random["drop"].values + 0.01).all())
        assert bool((worst["drop"].values <= random["drop"].values).all())
    assert best["increase"].values.tolist() == [0] * 5
    assert worst["increase"].values.tolist() == [1] * 5


def test_direction_follows_what_is_removed() -> None:
    found = {
        (remove, variant): AverageDrop(remove=remove).facts(variant).higher_is_better  # type: ignore[arg-type]
        for remove in ("most", "least")
        for variant in ("drop", "increase")
    }
    assert [key for key, higher in found.items() if higher] == [("most", "drop"), ("least", "increase")]


def test_values_do_not_depend_on_the_batch() -> None:
    assert_blind_to_the_batch(AverageDrop())


def test_noise_belongs_to_the_sample_and_the_seed() -> None:
    assert draws_decide(AverageDrop(), "drop") == (True, True)
    assert draws_decide(AverageDrop(fill="mean"), "drop") == (False, False)


def test_a_nan_stays_in_its_row() -> None:
    assert_a_nan_stays_in_its_row(AverageDrop(fill="mean"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "`share` must be above 0"),
        ({"share": 1.5}, "at most 1, was 1.5"),
        ({"remove": "half"}, "`remove` must be"),
        ({"fill": "red"}, "`fill` must be"),
        ({"target": "none"}, "`target` must be"),
    ],
)
def test_a_wrong_configuration_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AverageDrop(**options)  # type: ignore[arg-type]
