"""Top-k fidelity of an interpreter to its predictor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interpeval.metrics.base import Status
from interpeval.metrics.fidelity import fidelity
from interpeval.metrics.top_k_fidelity import TopKFidelity, top_k_fidelity
from interpreted import Interpreted, Says
from reference import top_k_fidelity as slow
from small_subject import Pictures, see


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(-2, 2), min_size=8, max_size=8), min_size=1, max_size=5), st.integers(1, 4))
def test_it_is_the_mean_over_all_orders_of_tied_classes(rows: list[list[int]], k: int) -> None:
    logits = torch.tensor(rows, dtype=torch.float32)
    f, g = logits[:, :4], logits[:, 4:]
    pairs = zip(f.double().numpy(), g.double().numpy(), strict=True)
    expected = [slow.top_k_fidelity(a, b, k) for a, b in pairs]
    assert top_k_fidelity(f, g, k).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_constant_interpreter_scores_chance_whatever_is_predicted() -> None:
    f = torch.eye(10)
    for k in range(1, 11):
        assert top_k_fidelity(f, torch.full((10, 10), 0.3), k).tolist() == [k / 10] * 10


def test_without_ties_it_grows_from_the_fidelity_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    f, g = torch.randn(200, 6, generator=generator), torch.randn(200, 6, generator=generator)
    values = torch.stack([top_k_fidelity(f, g, k) for k in range(1, 7)])
    assert torch.equal(values[0], fidelity(f, g))
    assert bool((values.diff(dim=0) >= 0).all())
    assert values[-1].tolist() == [1.0] * 200
    assert values.mean(dim=1).tolist() == pytest.approx([k / 6 for k in range(1, 7)], abs=0.12)  # unrelated: chance


def test_the_metric_reports_every_k_that_there_are_classes_for() -> None:
    images = Pictures().take(range(5)).images
    f = torch.tensor([[9.0, 0, 0], [9, 0, 0], [9, 0, 0], [9, 0, 0], [9, 0, torch.nan]])
    g = torch.tensor([[3.0, 2, 1], [2, 3, 1], [1, 2, 3], [1, 2, 1], [3, 2, 1]])
    scores = TopKFidelity(ks=(1, 2, 3, 4)).score(see(None, model=Says(images, predictor=f, interpreter=g)))
    found = {name: score.values[:4].tolist() for name, score in scores.items()}
    assert found == {"k=1": [1, 0, 0, 0], "k=2": [1, 1, 0, 0.5], "k=3": [1, 1, 1, 1]}
    assert all(score.status.tolist() == [0, 0, 0, 0, Status.INVALID] for score in scores.values())


def test_nothing_depends_on_the_batch() -> None:
    pictures, model = Pictures(count=20), Interpreted()
    whole = TopKFidelity(ks=(1, 2)).score(see(None, model=model, dataset=pictures))
    small = TopKFidelity(ks=(1, 2)).score(see(None, model=model, dataset=pictures, micro_batch=3))
    for variant in whole:
        assert torch.equal(whole[variant].values, small[variant].values)
        assert 0 < whole[variant].values.sum() < 20


def test_a_k_without_meaning_is_refused() -> None:
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"`k` must be between 1 and the 3 classes, was {k}"):
            top_k_fidelity(torch.zeros(1, 3), torch.zeros(1, 3), k)
    for ks in ((), (0, 2)):
        with pytest.raises(ValueError, match="`ks` must be one or more numbers of at least 1"):
            TopKFidelity(ks=ks)
    with pytest.raises(ValueError, match=r"`ks` must hold a k of at most the 3 classes, was \(4,\)"):
        TopKFidelity(ks=(4,)).score(see(None, model=Interpreted()))
