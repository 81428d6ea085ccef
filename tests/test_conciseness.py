"""Relevance of attributes, and how many matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interpeval.baselines.relevance import global_relevance, relevance
from interpeval.metrics.base import Status
from interpeval.metrics.conciseness import Conciseness, conciseness
from interpreted import Interpreted, Says
from reference import conciseness as slow
from small_subject import Pictures, see

TAUS = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
NUMBERS = st.lists(st.lists(st.integers(-6, 6), min_size=5, max_size=5), min_size=1, max_size=4)


def drawn(rows: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Activations `(B, 5)`, weights `(5, 3)` with values of both signs and zeros, and targets."""
    weights = torch.tensor([[1, -1, 0], [2, 1, 1], [-1, 2, 3], [0, 1, -2], [3, -2, 1]]).float() / 3
    return torch.tensor(rows).float() / 2, weights, torch.arange(len(rows)) % 3


@settings(deadline=None, max_examples=60)
@given(NUMBERS)
def test_relevance_is_what_its_definition_says(rows: list[list[int]]) -> None:
    activations, weights, target = drawn(rows)
    expected = [
        slow.relevance(a, weights.double().numpy(), c)
        for a, c in zip(activations.double().numpy(), target.tolist(), strict=True)
    ]
    np.testing.assert_allclose(relevance(activations, weights, target).numpy(), expected, atol=1e-15)


@settings(deadline=None, max_examples=60)
@given(NUMBERS, st.sampled_from(TAUS), st.booleans())
def test_counts_are_those_of_the_definition_and_of_the_published_code(
    rows: list[list[int]], tau: float, absolute: bool
) -> None:
    activations, weights, target = drawn(rows)
    weights = (weights * 3).round()  # whole numbers, so that nothing is decided by rounding
    columns = [weights.double().numpy(), target.tolist(), activations.double().numpy()]
    alpha = [slow.alphas(a, columns[0], c) for a, c in zip(columns[2], columns[1], strict=True)]
    plain = [slow.relevance(a, columns[0], c) for a, c in zip(columns[2], columns[1], strict=True)]
    found = conciseness(relevance(activations, weights, target), tau, absolute=absolute)
    assert found.tolist() == [slow.conciseness(r, tau, absolute=absolute) for r in plain]
    scale = "max_abs" if absolute else "signed_max"
    found = conciseness(relevance(activations, weights, target, scale=scale), tau, absolute=absolute)
    assert found.tolist() == [slow.published_count(a, tau, absolute=absolute) for a in alpha]


def test_the_two_scales_differ_exactly_where_the_weightiest_attribute_speaks_against() -> None:
    weights, target = torch.ones(3, 1), torch.zeros(2, dtype=torch.int64)
    activations = torch.tensor([[-4.0, 1.0, 0.6], [4.0, 1.0, -0.6]])
    assert conciseness(relevance(activations, weights, target), 2.0).tolist() == [0, 1]
    assert conciseness(relevance(activations, weights, target, scale="signed_max"), 2.0).tolist() == [2, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_relevance_of_exactly_one_over_tau_does_not_count(dtype: torch.dtype) -> None:
    for tau in TAUS:
        shares = torch.tensor([[1 / tau, 1.0]], dtype=dtype)
        assert conciseness(shares, tau).item() == 1
        assert conciseness(shares, tau * 1.01).item() == 2


def test_positive_scaling_of_activations_changes_nothing_and_a_change_of_sign_does() -> None:
    generator = torch.Generator().manual_seed(1)
    activations, weights = torch.randn(50, 8, generator=generator), torch.randn(8, 3, generator=generator)
    target = torch.arange(50) % 3
    counts = [conciseness(relevance(a, weights, target), 3.0) for a in (activations, 1024 * activations, -activations)]
    assert torch.equal(counts[0], counts[1])
    assert not torch.equal(counts[0], counts[2])
    magnitudes = [conciseness(relevance(a, weights, target), 3.0, absolute=True) for a in (activations, -activations)]
    assert torch.equal(magnitudes[0], magnitudes[1])


def test_a_nan_or_infinite_share_spoils_its_own_sample_only() -> None:
    activations = torch.tensor([[1.0, 2.0], [torch.nan, 1.0], [torch.inf, 1.0], [2.0, 2.0]])
    shares = relevance(activations, torch.ones(2, 1), torch.zeros(4, dtype=torch.int64))
    np.testing.assert_equal(shares.numpy(), [[0.5, 1], [np.nan, np.nan], [np.nan, np.nan], [1, 1]])
    np.testing.assert_equal(conciseness(shares, 3.0).numpy(), [2, np.nan, np.nan, 2])


@settings(deadline=None, max_examples=30)
@given(NUMBERS, st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_global_relevance_is_the_mean_over_the_samples_of_a_class(rows: list[list[int]], classes: list[int]) -> None:
    shares = torch.tensor(rows).double() / 6
    classes = classes[: len(rows)]
    expected = [slow.global_relevance(shares.tolist(), classes, c) for c in range(4)]
    np.testing.assert_allclose(global_relevance(shares, torch.tensor(classes), 4).numpy(), expected, atol=1e-15)


def test_global_relevance_leaves_out_a_sample_with_a_nan() -> None:
    shares = torch.tensor([[1.0, 0.0], [torch.nan, 1.0], [0.0, 0.5]])
    assert global_relevance(shares, torch.tensor([0, 0, 0]), 1).tolist() == [[0.5, 0.25]]


# ---------------------------------------------------------------------- the metric

IMAGES = Pictures().take(range(5)).images
ALPHA = torch.tensor([[6.0, 3.0, 2.0, -6.0], [0.0, 0, 0, 0], [-4, -2, -1, 0], [5, 5, 5, 5], [1, torch.nan, 0, 0]])


def says(**changes: Tensor) -> Says:
    """A model with these α for class 1, which its interpreter predicts; f predicts class 0."""
    f, g = torch.tensor([[9.0, 0, 0]] * 5), torch.tensor([[0.0, 9, 0]] * 5)
    weights = torch.tensor([[7.0, 1, -3]] * 4)
    return Says(IMAGES, **{"predictor": f, "interpreter": g, "activations": ALPHA, "weights": weights, **changes})


def test_the_curve_and_its_mean_on_a_case_worked_by_hand() -> None:
    """Relevances 1, 1/2, 1/3 and -1 for the class that g predicts, whatever f says."""
    scores = Conciseness().score(see(None, model=says()))
    assert scores["curve"].steps == TAUS
    assert scores["curve"].values[0].tolist() == [1, 1, 2, 2, 3, 3]
    # trapezoids: 1·0.5 + 1.5·0.5 + 2·0.5 + 2.5·1 + 3·1 = 7.75 over a range of 3.5
    assert scores["area"].values[0].item() == pytest.approx(7.75 / 3.5, abs=1e-12)
    absolute = Conciseness(absolute=True).score(see(None, model=says()))["curve"]
    assert absolute.values[0].tolist() == [2, 2, 3, 3, 4, 4]


def test_a_silent_interpreter_does_not_gain_and_one_that_speaks_against_is_counted_as_defined() -> None:
    scores = Conciseness().score(see(None, model=says()))
    for score in scores.values():
        assert score.status.tolist() == [Status.OK, Status.DEGENERATE, Status.OK, Status.OK, Status.INVALID]
        values = score.values.reshape(5, -1)
        assert bool((values[1] == 4).all())  # all four attributes, the worst value
        assert bool((values[2] == 0).all())
        assert bool((values[3] == 4).all())


def test_logits_that_are_not_finite_make_a_sample_invalid() -> None:
    g = torch.tensor([[0.0, 9, 0]] * 4 + [[torch.inf, 0, 0]])
    model = says(interpreter=g, activations=ALPHA.nan_to_num(nan=1.0))
    assert Conciseness().score(see(None, model=model))["area"].status.tolist() == [0, 1, 0, 0, Status.INVALID]


def test_nothing_depends_on_the_batch() -> None:
    pictures, model = Pictures(count=20), Interpreted(n_attributes=8)
    whole = Conciseness().score(see(None, model=model, dataset=pictures))
    small = Conciseness().score(see(None, model=model, dataset=pictures, micro_batch=3))
    for variant in whole:
        assert torch.equal(whole[variant].values, small[variant].values)
    assert len(whole["area"].values.unique()) > 3


def test_what_has_no_meaning_is_refused() -> None:
    for taus in ((2.0,), (2.0, 2.0), (3.0, 2.0), (0.0, 1.0)):
        with pytest.raises(ValueError, match="`taus` must be two or more positive numbers, ascending"):
            Conciseness(taus=taus)
    with pytest.raises(ValueError, match='`scale` must be "max_abs" or "signed_max", was \'max\''):
        Conciseness(scale="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`tau` must be positive, was 0"):
        conciseness(torch.zeros(1, 2), 0)
    with pytest.raises(ValueError, match=r"`relevance` must be \(B, J\), was \(2,\)"):
        conciseness(torch.zeros(2), 2)
    with pytest.raises(ValueError, match=r"`activations` must be \(B, J\) and `weights` \(J, K\), were \(1, 2\) and"):
        relevance(torch.zeros(1, 2), torch.zeros(3, 2), torch.tensor([0]))
    with pytest.raises(ValueError, match="`classes` must be between 0 and 1"):
        global_relevance(torch.zeros(1, 2), torch.tensor([2]), 2)
    with pytest.raises(ValueError, match=r"and `classes` \(B,\), were \(1, 2\) and \(2,\)"):
        global_relevance(torch.zeros(1, 2), torch.tensor([0, 1]), 2)
