"""Stochastic pointing game: closed form, draws, identities with its relatives, and the metric."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interpeval.datasets.philox import sample_keys, uniform
from interpeval.metrics.base import Status
from interpeval.metrics.content_heatmap import content_heatmap
from interpeval.metrics.localisation import near_mask
from interpeval.metrics.pointing_game import pointing_game
from interpeval.metrics.stochastic_pointing_game import StochasticPointingGame, stochastic_pointing_game
from known_maps import known_maps
from reference import pointing_game as slow
from small_subject import FromImage, Pictures, see


def case(seed: int = 0, count: int = 12, size: tuple[int, int] = (20, 26)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    heatmap = torch.randn(count, *size, generator=generator)
    mask = torch.rand(count, *size, generator=generator) < 0.02
    mask[:, 5, 5] = True
    return heatmap, mask


def test_known_values() -> None:
    heatmap = torch.tensor([[[1.0, 2.0, 3.0, -9.0, 4.0]]])
    mask = torch.tensor([[[True, False, False, False, False]]])
    for tolerance, share in ((1.0, 0.1), (2.0, 0.3), (2.5, 0.6), (4.0, 0.6), (4.5, 1.0)):
        assert stochastic_pointing_game(heatmap, mask, tolerance=tolerance).item() == pytest.approx(share, abs=1e-15)


@given(seed=st.integers(0, 1000), tolerance=st.sampled_from([1.0, 1.5, 2.0, 3.75, 5.0, 60.0]))
@settings(deadline=None, max_examples=25)
def test_the_closed_form_is_its_definition(seed: int, tolerance: float) -> None:
    heatmap, mask = case(seed, 3, (9, 12))
    result = stochastic_pointing_game(heatmap, mask, tolerance=tolerance)
    expected = [
        slow.stochastic_pointing_game(h, m, tolerance)
        for h, m in zip(heatmap.double().numpy(), mask.numpy(), strict=True)
    ]
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-14)


def test_it_lies_above_the_content_and_equals_it_on_the_mask() -> None:
    heatmap, mask = case()
    content = content_heatmap(heatmap, mask)
    assert torch.equal(stochastic_pointing_game(heatmap, mask, tolerance=1.0), content)
    assert (stochastic_pointing_game(heatmap, mask, tolerance=2.0) > content).all()


def test_for_a_map_of_one_pixel_it_is_the_pointing_game() -> None:
    _, mask = case(count=60)
    heatmap = torch.zeros(60, 20, 26)
    heatmap.flatten(1)[torch.arange(60), torch.arange(60) * 8] = 0.7
    hits = pointing_game(heatmap, mask, tolerance=3.0)
    assert 0 < hits.sum() < 60
    assert torch.equal(stochastic_pointing_game(heatmap, mask, tolerance=3.0), hits)
    assert torch.equal(stochastic_pointing_game(heatmap, mask, tolerance=3.0, n_draws=7), hits)


def test_draws_agree_with_the_closed_form_within_their_standard_error() -> None:
    heatmap, mask = case()
    expected = stochastic_pointing_game(heatmap, mask, tolerance=4.0)
    drawn = stochastic_pointing_game(heatmap, mask, tolerance=4.0, n_draws=4000)
    z = (drawn - expected) / (expected * (1 - expected) / 4000).sqrt()
    assert z.abs().max() < 4
    assert 0.4 < z.std() < 1.8  # and they do vary: a closed form in disguise would have z = 0
    other = stochastic_pointing_game(heatmap, mask, tolerance=2.0)
    assert ((drawn - other) / (other * (1 - other) / 4000).sqrt()).abs().min() > 4


def test_draws_pick_the_pixels_that_walking_through_the_map_picks() -> None:
    heatmap, mask = case(count=3)
    ids = ["a", "b", "c"]
    drawn = stochastic_pointing_game(heatmap, mask, tolerance=4.0, n_draws=40, seed=9, ids=ids)
    numbers = uniform(9, "stochastic_pointing_game", sample_keys(ids), 0, 40)
    near = near_mask(mask, 4.0)
    for row in range(3):
        pixels = [slow.drawn_pixel(heatmap[row].double().numpy(), float(number)) for number in numbers[row]]
        assert drawn[row].item() == pytest.approx(sum(bool(near[row, y, x]) for y, x in pixels) / 40, abs=1e-15)


def test_pixels_without_positive_mass_are_never_drawn() -> None:
    """First and last pixels too, where a cumulative sum is flat and the search could fall off its end."""
    heatmap = torch.tensor([[[0.0, -3.0, 1.0, 0.0, 1.0, -1.0, 0.0]]])
    assert stochastic_pointing_game(heatmap, heatmap <= 0, tolerance=1.0, n_draws=10_000).item() == 0
    assert stochastic_pointing_game(heatmap, heatmap > 0, tolerance=1.0, n_draws=10_000).item() == 1


def test_draws_depend_on_sample_and_seed_alone() -> None:
    heatmap, mask = case()
    ids = [f"sample {i}" for i in range(12)]

    def draw(rows: list[int], seed: int = 0) -> Tensor:
        return stochastic_pointing_game(
            heatmap[rows], mask[rows], tolerance=4.0, n_draws=50, seed=seed, ids=[ids[row] for row in rows]
        )

    whole = draw(list(range(12)))
    order = [7, 3, 11, 0, 5]
    assert torch.equal(draw(order), whole[order])
    assert torch.equal(torch.cat([draw([i]) for i in range(12)]), whole)
    assert not torch.equal(draw(list(range(12)), seed=1), whole)
    same = stochastic_pointing_game(
        heatmap[:1].expand(12, -1, -1), mask[:1].expand(12, -1, -1), n_draws=50, tolerance=4.0
    )
    assert len(set(same.tolist())) > 3  # without ids, positions: copies of one map are drawn from independently


def test_drawn_values_of_silent_and_faulty_rows() -> None:
    heatmap, mask = case(count=4)
    heatmap[0], heatmap[1, 2, 2] = -1.0, torch.nan
    mask[2] = False
    drawn = stochastic_pointing_game(heatmap, mask, n_draws=5, tolerance=60.0)
    assert drawn.tolist() == pytest.approx([0.0, float("nan"), float("nan"), 1.0], nan_ok=True)


@pytest.mark.parametrize("n_draws", [0, -1])
def test_impossible_draws_are_refused(n_draws: int) -> None:
    heatmap, mask = case()
    with pytest.raises(ValueError, match="`n_draws` must be at least 1"):
        stochastic_pointing_game(heatmap, mask, n_draws=n_draws)
    with pytest.raises(ValueError, match="`n_draws` must be at least 1"):
        StochasticPointingGame(n_draws=n_draws)


def test_ids_must_name_every_sample() -> None:
    heatmap, mask = case()
    with pytest.raises(ValueError, match="`ids` must name each of the 12 samples, had 2"):
        stochastic_pointing_game(heatmap, mask, n_draws=5, ids=["a", "b"])


# --- the metric ----------------------------------------------------------------------------------------------------

PICTURES = Pictures(size=(28, 36), count=5)
SIGNED = FromImage(lambda inputs: inputs[:, :1])


def test_the_metric_is_the_function_of_scaled_tolerance() -> None:
    batch = PICTURES.take(range(5))
    assert batch.masks is not None
    expected = stochastic_pointing_game(batch.images[:, 0], batch.masks, tolerance=1.875)
    scores = StochasticPointingGame().score(see(SIGNED, dataset=PICTURES))[""]
    assert torch.equal(scores.values, expected)
    assert scores.variance is None
    assert not torch.equal(
        StochasticPointingGame(tolerance=15.0).score(see(SIGNED, dataset=PICTURES))[""].values, expected
    )


def test_drawn_scores_are_the_function_s_for_seed_and_sample_names() -> None:
    batch = PICTURES.take(range(5))
    assert batch.masks is not None
    for seed in (0, 4):
        scores = StochasticPointingGame(n_draws=20).score(see(SIGNED, dataset=PICTURES, seed=seed))[""]
        expected = stochastic_pointing_game(
            batch.images[:, 0], batch.masks, tolerance=1.875, n_draws=20, seed=seed, ids=batch.ids
        )
        assert torch.equal(scores.values, expected)


def test_the_variance_is_what_drawing_again_shows() -> None:
    """400 drawings tell a variance to 7 %: a forgotten `1 / n_draws`, or a standard deviation, would show."""
    batch = PICTURES.take(range(5))
    assert batch.masks is not None
    variance = StochasticPointingGame(n_draws=20).score(see(SIGNED, dataset=PICTURES))[""].variance
    assert variance is not None
    values = stochastic_pointing_game(
        batch.images[:, 0].repeat(400, 1, 1), batch.masks.repeat(400, 1, 1), tolerance=1.875, n_draws=20
    )
    torch.testing.assert_close(values.view(400, 5).var(dim=0), variance, rtol=4.5 * sqrt(2 / 400), atol=0)


def test_the_metric_marks_silent_and_faulty_maps_and_empty_masks() -> None:
    batch = PICTURES.take(range(5))
    assert batch.masks is not None
    maps = batch.masks.float()
    maps[0] = 0.0
    maps[1] = -1.0
    maps[2, 5, 5] = torch.nan
    batch.masks[3] = False
    explainer = known_maps(batch, maps)
    for metric in (StochasticPointingGame(), StochasticPointingGame(n_draws=10)):
        scores = metric.score(see(explainer, dataset=PICTURES, batch=batch))[""]
        assert scores.status.tolist() == [
            Status.DEGENERATE, Status.DEGENERATE, Status.INVALID, Status.NO_TRUTH, Status.OK,
        ]  # fmt: skip
        assert scores.values[[0, 1, 4]].tolist() == [0.0, 0.0, 1.0]
        if scores.variance is not None:
            assert scores.variance[[0, 1, 4]].tolist() == [0.0, 0.0, 0.0]
