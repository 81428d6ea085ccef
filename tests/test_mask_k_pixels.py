"""Mask-k-pixels: log-odds, the order of pixels, masking, and the metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from interpeval.metrics.base import Scores, Status
from interpeval.metrics.mask_k_pixels import (
    MaskKPixels,
    fill_images,
    log_odds,
    mask_pixels,
    pixel_order,
    pixel_rank,
)
from interpeval.metrics.warps import WarpFamily, warp
from reference import mask_k_pixels as slow
from small_subject import FromImage, Grad, Pictures, SmallNet, see

CURVES = ("accuracy", "lor", "delta_lor")
GREY = FromImage(lambda inputs: inputs.sum(dim=1, keepdim=True))
CONSTANT = FromImage(lambda inputs: torch.full_like(inputs[:, :1], 0.3))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def score(metric: MaskKPixels, explainer: object, **options: object) -> dict[str, Scores]:
    return metric.score(see(explainer, **options))  # type: ignore[arg-type]


# --- log_odds -----------------------------------------------------------------------------------------------------


def test_log_odds_of_known_logits() -> None:
    logits = torch.tensor([[2.0, 2.0, 2.0], [5.0, 1.0, -torch.inf], [0.0, -1e30, 1e30]], dtype=torch.float64)
    expected = [-log(2), 4.0, -2e30]
    assert log_odds(logits, torch.tensor([1, 0, 1])).tolist() == pytest.approx(expected)


def test_log_odds_are_the_logarithm_of_the_odds() -> None:
    logits, target = noise(6, 4).double(), torch.tensor([0, 1, 2, 3, 0, 1])
    p = logits.softmax(dim=1).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(log_odds(logits, target), torch.log(p / (1 - p)))


@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=6), st.integers(0, 5), st.floats(-1e4, 1e4))
@settings(deadline=None, max_examples=60)
def test_log_odds_are_their_definition_and_blind_to_a_common_shift(row: list[float], y: int, shift: float) -> None:
    target = torch.tensor([y % len(row)])
    odds = log_odds(torch.tensor([row], dtype=torch.float64), target)
    assert float(odds) == pytest.approx(slow.log_odds(np.array(row), int(target)), rel=1e-9, abs=1e-9)
    moved = log_odds(torch.tensor([row], dtype=torch.float64) + shift, target)
    assert float(moved) == pytest.approx(float(odds), rel=1e-6, abs=1e-6)


def test_log_odds_of_a_sure_model_are_exact_where_probabilities_round_to_1() -> None:
    assert log_odds(torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([0])).item() == pytest.approx(200 - log(2))


def test_log_odds_of_infinite_logits_are_limits_and_nan_stays_in_its_row() -> None:
    inf, nan = torch.inf, torch.nan
    logits = torch.tensor(
        [[inf, 0, 0], [-inf, 0, 0], [0, inf, 0], [0, -inf, -inf], [inf, inf, 0], [-inf, -inf, -inf], [0, 0, nan]]
    )
    expected = [inf, -inf, -inf, inf, nan, nan, nan]
    np.testing.assert_equal(log_odds(logits, torch.zeros(7, dtype=torch.int64)).numpy(), expected)


def test_one_class_has_no_odds() -> None:
    with pytest.raises(ValueError, match=r"K of at least 2, was \(3, 1\)"):
        log_odds(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))


# --- pixel_order --------------------------------------------------------------------------------------------------


def test_pixels_are_ordered_by_signed_value() -> None:
    heatmap = torch.tensor([[[0.5, -3.0, 2.0], [0.0, 1.0, -0.5]]])
    assert pixel_order(heatmap).tolist() == [[1, 5, 3, 0, 4, 2]]
    assert pixel_order(heatmap, order="most").tolist() == [[2, 4, 0, 3, 5, 1]]


def test_without_ties_most_is_least_reversed() -> None:
    heatmap = noise(3, 7, 5)
    assert torch.equal(pixel_order(heatmap, order="most"), pixel_order(heatmap).flip(1))


@pytest.mark.parametrize("order", ["least", "most"])
def test_ties_are_permuted_among_themselves_only(order: str) -> None:
    heatmap = torch.randint(-2, 3, (6, 6, 6), generator=torch.Generator().manual_seed(0)).float()
    ordered = heatmap.flatten(1).gather(1, pixel_order(heatmap, order=order))  # type: ignore[arg-type]
    assert torch.equal(ordered, heatmap.flatten(1).sort(dim=1, descending=order == "most").values)


def test_ties_are_broken_by_seed_and_sample_and_not_by_batch() -> None:
    heatmap, ids = torch.zeros(4, 5, 5), ["a", "b", "c", "d"]
    whole = pixel_order(heatmap, ids=ids)
    assert torch.equal(pixel_order(heatmap[:2], ids=["d", "b"]), whole[[3, 1]])
    assert len({tuple(row) for row in whole.tolist()}) == 4
    assert not torch.equal(pixel_order(heatmap, ids=ids, seed=1), whole)
    # A row's order does not depend on whether another row of its batch has ties.
    mixed = torch.cat((noise(1, 5, 5), heatmap[1:]))
    assert torch.equal(pixel_order(mixed, ids=ids)[1:], whole[1:])


def test_every_pixel_of_a_constant_map_is_equally_likely_to_go_first() -> None:
    first = pixel_order(torch.zeros(3600, 3, 3), ids=torch.arange(3600))[:, 0]
    assert stats.chisquare(torch.bincount(first, minlength=9).numpy()).pvalue > 1e-3


def test_breaking_ties_only_where_there_are_any_changes_nothing() -> None:
    """The quick way must order a map without ties as a permuted stable sort does."""
    heatmap = noise(2, 4, 4)
    nudged = heatmap.clone()
    nudged[:, 0, 0] = nudged[:, 3, 3] = 100.0  # ties at the end: everything before them keeps its place
    assert torch.equal(pixel_order(nudged)[:, :-2], _without(pixel_order(heatmap), {0, 15}))


def _without(order: Tensor, gone: set[int]) -> Tensor:
    return torch.tensor([[pixel for pixel in row if pixel not in gone] for row in order.tolist()])


def test_minus_zero_ties_with_zero() -> None:
    signed = torch.zeros(1, 6, 6)
    signed[:, ::2] = -0.0
    for order in ("least", "most"):
        assert torch.equal(pixel_order(signed, order=order), pixel_order(torch.zeros(1, 6, 6), order=order))  # type: ignore[arg-type]


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match='`order` must be "least" or "most"'):
        pixel_order(torch.zeros(1, 2, 2), order="random")  # type: ignore[arg-type]


# --- masking ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [False, True])
def test_masking_is_filling_pixel_after_pixel(most: bool) -> None:
    images, maps, fill = noise(3, 3, 4, 6), noise(3, 4, 6, seed=1), torch.tensor([-1.0, 5.0, 9.0])
    rank = pixel_rank(pixel_order(maps, order="most" if most else "least"))
    for count in (0, 1, 7, 24):
        masked = mask_pixels(images, rank, torch.tensor([count] * 3), fill=fill.view(3, 1, 1))
        expected = [
            slow.mask(image.numpy(), heatmap.numpy(), count, fill.numpy(), most=most)
            for image, heatmap in zip(images, maps, strict=True)
        ]
        assert np.array_equal(masked.numpy(), np.stack(expected))


def test_the_fills_are_what_they_say() -> None:
    batch, normalization = Pictures(size=(40, 30)).take(range(3)), Pictures.normalization
    black = fill_images("black", normalization, batch, seed=0)
    torch.testing.assert_close(normalization.to_pixels(black), torch.zeros(3, 3, 1, 1))
    assert torch.equal(fill_images("mean", normalization, batch, seed=0), torch.zeros(3, 3, 1, 1))
    constant = replace(batch, images=torch.full_like(batch.images, 0.7))
    torch.testing.assert_close(fill_images("blur", normalization, constant, seed=0), constant.images)
    spread = normalization.to_pixels(fill_images("noise", normalization, batch, seed=0))
    assert stats.kstest(spread.flatten().numpy(), stats.uniform.cdf).pvalue > 1e-3
    assert torch.equal(
        fill_images("noise", normalization, Pictures(size=(40, 30)).take([2]), seed=0),
        fill_images("noise", normalization, batch, seed=0)[2:],
    )


def test_a_blurred_point_is_the_gaussian() -> None:
    batch = Pictures(size=(67, 67)).take([0])  # standard deviation 10/224 of the side: 2.99 pixels
    images = torch.zeros_like(batch.images)
    images[..., 33, 33] = 1
    row = fill_images("blur", Pictures.normalization, replace(batch, images=images), seed=0)[0, 0, 33]
    expected = np.exp(-0.5 * ((np.arange(67) - 33) / (10 / 224 * 67)) ** 2)
    np.testing.assert_allclose(row[24:43] / row[33], expected[24:43], rtol=1e-4)


# --- the metric: its definition, slowly ---------------------------------------------------------------------------


def _in_float64(model: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: model(torch.from_numpy(image)[None])[0].detach().numpy()


@pytest.mark.parametrize("size", [(9, 9), (6, 11)])
@pytest.mark.parametrize("order", ["least", "most"])
@pytest.mark.parametrize("moves", [True, False])
def test_the_curves_are_their_definition(size: tuple[int, int], order: str, moves: bool) -> None:
    fractions = (0.0, 0.1, 0.35, 0.5, 1.0)
    transform = WarpFamily() if moves else None
    metric = MaskKPixels(fractions=fractions, order=order, transform=transform)  # type: ignore[arg-type]
    evidence = see(Grad(), dataset=Pictures(size=size), seed=3)
    scores, maps, batch = metric.score(evidence), evidence.heatmaps("predicted"), evidence.batch
    fill = Pictures.normalization.normalize(torch.zeros(3, 1, 1)).double().flatten().numpy()
    for row in range(len(batch)):
        key = batch.keys[row : row + 1]
        matrix = transform.matrices(3, metric.name, key, 0, size=size)[0].numpy() if transform else None
        accuracy, odds = slow.curves(
            batch.images[row].double().numpy(),
            maps[row].double().numpy(),
            int(batch.labels[row]),
            _in_float64(SmallNet().double()),
            fractions=fractions,
            matrix=matrix,
            fill=fill,
            most=order == "most",
        )
        expected = {"accuracy": accuracy, "lor": odds, "delta_lor": [value - odds[0] for value in odds]}
        for name, curve in expected.items():
            np.testing.assert_allclose(scores[name].values[row], curve, atol=1e-4)
            np.testing.assert_allclose(scores[f"{name}_area"].values[row], slow.area(curve, fractions), atol=1e-4)


def test_several_draws_average_the_single_ones() -> None:
    """Draw d of three is the only draw of a family that always gives draw d."""

    class Only(WarpFamily):
        number = 0

        def matrices(
            self, seed: int, stream: str, keys: Tensor, draws: Tensor | int, *, size: tuple[int, int]
        ) -> Tensor:
            del draws
            return super().matrices(seed, stream, keys, self.number, size=size)

    singles = []
    for number in range(3):
        family = type("Only", (Only,), {"number": number})()
        singles.append(score(MaskKPixels(transform=family), Grad())["lor_area"].values)
    three = score(MaskKPixels(n_draws=3), Grad())["lor_area"]
    stacked = torch.stack(singles)
    torch.testing.assert_close(three.values, stacked.mean(dim=0), atol=1e-5, rtol=0)
    assert three.variance is not None
    torch.testing.assert_close(three.variance, stacked.var(dim=0) / 3, atol=1e-5, rtol=0)
    assert not torch.allclose(stacked[0], stacked[1], atol=1e-3)


# --- the metric: checks of METRICS -------------------------------------------------------------------------------


def test_at_fraction_0_the_model_sees_the_warped_images_and_at_1_nothing() -> None:
    metric, evidence = MaskKPixels(), see(Grad(), dataset=Pictures(count=9))
    scores, batch, model = metric.score(evidence), evidence.batch, SmallNet()
    assert metric.transform is not None
    matrices = metric.transform.matrices(0, metric.name, batch.keys, 0, size=(9, 9))
    black = Pictures.normalization.normalize(torch.zeros(3, 1, 1))
    predicted = model(warp(batch.images, matrices, fill=black)).argmax(dim=1)
    assert scores["accuracy"].values[:, 0].tolist() == (predicted == batch.labels).double().tolist()
    blank = int(model(black.expand(1, 3, 9, 9)).argmax())
    assert scores["accuracy"].values[:, -1].tolist() == (batch.labels == blank).double().tolist()
    of_label = [scores["lor"].values[batch.labels == label, -1] for label in range(3)]
    for odds in of_label:  # the same image for all: log-odds differ by the label alone
        torch.testing.assert_close(odds, odds[:1].expand_as(odds), atol=1e-5, rtol=0)
    assert abs(float(of_label[0][0] - of_label[1][0])) > 1e-2


def test_no_mask_no_warp_is_the_bare_model() -> None:
    evidence = see(Grad())
    scores = MaskKPixels(transform=None, fill="mean").score(evidence)
    torch.testing.assert_close(scores["lor"].values[:, 0], log_odds(evidence.logits, evidence.batch.labels))
    assert scores["delta_lor"].values[:, 0].tolist() == [0.0] * 5


def test_most_and_least_meet_at_the_ends_and_mask_complements_between() -> None:
    least, most = (score(MaskKPixels(order=order), Grad())["lor"].values for order in ("least", "most"))
    torch.testing.assert_close(least[:, [0, -1]], most[:, [0, -1]], atol=1e-6, rtol=0)
    assert not torch.allclose(least[:, 10], most[:, 10], atol=1e-3)


def test_most_relevant_of_a_map_is_least_relevant_of_its_negative() -> None:
    negative = FromImage(lambda inputs: -inputs.sum(dim=1, keepdim=True))
    least, most = score(MaskKPixels(order="least"), negative), score(MaskKPixels(order="most"), GREY)
    for name in CURVES:
        assert torch.equal(least[name].values, most[name].values)


def test_a_constant_map_scores_what_random_maps_score() -> None:
    """Two-sample Kolmogorov-Smirnov over 60 copies of one picture under different names; a real map differs."""
    one = Pictures(count=1).take([0] * 60)
    batch = replace(one, ids=tuple(f"copy {i}" for i in range(60)))
    independent = noise(60, 1, 9, 9)
    metric = MaskKPixels(transform=None, fractions=(0.0, 0.3, 0.6, 1.0))

    def areas(function: Callable[[Tensor], Tensor]) -> np.ndarray:
        return score(metric, FromImage(function), batch=batch)["lor_area"].values.numpy()

    constant = areas(lambda inputs: torch.full_like(inputs[:, :1], 0.3))
    random = areas(lambda inputs: independent[: len(inputs)])
    ordered = areas(lambda inputs: inputs.sum(dim=1, keepdim=True))
    assert len(np.unique(constant)) > 50
    assert stats.ks_2samp(constant, random).pvalue > 1e-2
    assert stats.ks_2samp(ordered, random).pvalue < 1e-6


def test_turning_image_and_map_leaves_the_curve_of_a_model_blind_to_place() -> None:
    blind = SmallNet(kernel=1)
    plain, turned = Pictures().take(range(5)), Pictures().take(range(5))
    turned = replace(turned, images=turned.images.flip(2, 3))
    metric = MaskKPixels(transform=None)
    for order in ("least", "most"):
        ordered = replace(metric, order=order)
        before, after = (score(ordered, Grad(), batch=batch, model=blind)["lor"].values for batch in (plain, turned))
        torch.testing.assert_close(before, after, atol=1e-5, rtol=0)
    seeing = [score(metric, Grad(), batch=batch)["lor"].values for batch in (plain, turned)]
    assert not torch.allclose(*seeing, atol=1e-3)


def test_all_channels_of_a_pixel_go_together_and_into_their_own_fill() -> None:
    """A model that reads single values: its logits are the three channels of one pixel."""

    class Pixel(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs[:, :, 4, 4]

    only = torch.zeros(1, 1, 9, 9)
    only[..., 4, 4] = -1  # the least relevant pixel: it goes first
    explainer = FromImage(lambda inputs: only.expand(len(inputs), -1, -1, -1))
    metric = MaskKPixels(transform=None, fractions=(0.0, 1 / 81), fill=0.2)
    evidence = see(explainer, model=Pixel())
    scores = metric.score(evidence)
    filled = Pictures.normalization.normalize(torch.full((3, 1, 1), 0.2)).flatten().expand(5, 3)
    torch.testing.assert_close(scores["lor"].values[:, 1], log_odds(filled, evidence.batch.labels))
    torch.testing.assert_close(
        scores["lor"].values[:, 0], log_odds(evidence.batch.images[:, :, 4, 4], evidence.batch.labels)
    )


def test_the_number_of_masked_pixels_is_rounded_half_to_even() -> None:
    """A model that counts what is left: 81 pixels at 0.5 are 40.5, hence 40."""

    class Left(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            left = (inputs != 0).any(dim=1).flatten(1).sum(dim=1).float()
            return torch.stack((left, torch.zeros_like(left), torch.full_like(left, -torch.inf)), dim=1)

    batch = replace(Pictures().take(range(5)), labels=torch.zeros(5, dtype=torch.int64))
    metric = MaskKPixels(transform=None, fill="mean", fractions=(0.0, 0.1, 0.5, 1.0))
    scores = score(metric, GREY, batch=batch, model=Left())
    assert scores["lor"].values.tolist() == [[81, 73, 41, 0]] * 5


# --- what does not matter, and what does --------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["black", "blur", "noise"])
def test_batch_size_order_and_micro_batch_do_not_change_a_curve(fill: str) -> None:
    metric = MaskKPixels(fill=fill, n_draws=2, fractions=(0.0, 0.3, 0.7, 1.0))  # type: ignore[arg-type]
    dataset = Pictures(count=6)

    def lor(explainer: object = CONSTANT, **options: object) -> Tensor:
        return score(metric, explainer, **options)["lor"].values

    whole = lor(dataset=dataset)
    for size in (1, 7):
        torch.testing.assert_close(lor(dataset=dataset, micro_batch=size), whole, atol=1e-5, rtol=0)
    order = [4, 0, 5]
    torch.testing.assert_close(lor(batch=dataset.take(order)), whole[order], atol=1e-5, rtol=0)
    # The same test notices a change: the draws belong to the id, not to the position.
    stolen = replace(dataset.take(order), ids=dataset.take([0, 1, 2]).ids)
    assert not torch.allclose(lor(batch=stolen), whole[order], atol=1e-3)
    assert not torch.allclose(lor(dataset=dataset, seed=1), whole, atol=1e-3)


def test_no_more_images_are_built_at_once_than_the_engine_asks_for() -> None:
    class Largest(nn.Module):
        rows = 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.rows = max(self.rows, len(inputs))
            return inputs.mean(dim=(2, 3))

    model = Largest()
    score(MaskKPixels(n_draws=2), GREY, model=model, micro_batch=8)
    assert model.rows == 8


# --- samples that go wrong, and configuration ---------------------------------------------------------------------


def test_an_invalid_map_makes_only_its_sample_invalid() -> None:
    third = Pictures().take([3]).images

    def broken(inputs: Tensor) -> Tensor:
        spoilt = (inputs == third).flatten(1).all(dim=1).view(-1, 1, 1, 1)
        return inputs.sum(dim=1, keepdim=True).masked_fill(spoilt, torch.nan)

    sound, scores = score(MaskKPixels(), GREY), score(MaskKPixels(), FromImage(broken))
    for name, each in scores.items():
        assert each.status.tolist() == [0, 0, 0, Status.INVALID, 0]
        assert torch.equal(each.values[[0, 1, 2, 4]], sound[name].values[[0, 1, 2, 4]])


def test_a_model_without_finite_odds_makes_its_sample_invalid() -> None:
    """This one gives up on an image of which nothing is left."""

    class Gives(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            logits = inputs.mean(dim=(2, 3))
            return torch.where((inputs == 0).all(dim=1).flatten(1).all(dim=1)[:, None], torch.nan, logits)

    scores = score(MaskKPixels(transform=None, fill="mean"), GREY, model=Gives())
    assert scores["accuracy"].status.tolist() == [Status.INVALID] * 5
    kept = score(MaskKPixels(transform=None, fill="mean", fractions=(0.0, 0.9)), GREY, model=Gives())
    assert kept["accuracy"].status.tolist() == [Status.OK] * 5


def test_a_silent_map_is_ordered_at_random_and_not_marked() -> None:
    silent = FromImage(lambda inputs: torch.zeros_like(inputs[:, :1]))
    assert torch.equal(score(MaskKPixels(), silent)["lor"].values, score(MaskKPixels(), CONSTANT)["lor"].values)
    assert score(MaskKPixels(), silent)["lor"].status.tolist() == [Status.OK] * 5


def test_a_metric_takes_what_the_command_line_gives() -> None:
    given = MaskKPixels(fractions=[0, 0.5], transform={"rotation": 30.0})  # type: ignore[arg-type]
    assert given == MaskKPixels(fractions=(0.0, 0.5), transform=WarpFamily(rotation=30.0))
    assert score(given, GREY)["accuracy"].steps == (0.0, 0.5)


def test_the_direction_follows_the_order_and_the_range_the_variant() -> None:
    inf = float("inf")
    assert MaskKPixels().facts("accuracy_area")[:2] == (True, (0.0, 1.0))
    assert MaskKPixels(order="most").facts("lor")[:2] == (False, (-inf, inf))


def test_the_explanation_may_be_that_of_the_label() -> None:
    class Signed:
        def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            del model
            return inputs.sum(dim=1, keepdim=True) * torch.where(targets == 0, 1.0, -1.0).view(-1, 1, 1, 1)

    evidence = see(Signed())
    predicted, label = (MaskKPixels(target=rule).score(evidence)["lor"].values for rule in ("predicted", "label"))
    differ = (evidence.targets("predicted") == 0) != (evidence.batch.labels == 0)
    assert 0 < int(differ.sum()) < 5
    assert ((predicted != label).any(dim=1) == differ).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": (0.1, 1.0)}, "`fractions` must"),
        ({"fractions": (0.0, 0.5, 0.5)}, "`fractions` must"),
        ({"fractions": (0.0, 1.1)}, "`fractions` must"),
        ({"order": "random"}, "`order` must"),
        ({"fill": "bright"}, "`fill` must be .*blur"),
        ({"n_draws": 0}, "`n_draws` must"),
        ({"target": "best"}, "`target` must"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskKPixels(**options)  # type: ignore[arg-type]
