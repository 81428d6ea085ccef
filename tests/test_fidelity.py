"""Fidelity of an interpreter to its predictor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interpeval.bench import evaluate
from interpeval.metrics.accuracy import Accuracy
from interpeval.metrics.base import Status
from interpeval.metrics.fidelity import Fidelity, fidelity
from interpreted import Interpreted, Says
from reference import top_k_fidelity as slow
from small_subject import Pictures, SmallNet, see

IMAGES = Pictures().take(range(5)).images  # labels 0, 1, 2, 0, 1
F = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0]])  # right: yes, yes, no, no, no
G = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]])  # right: yes, no, no, yes, yes


def test_fidelity_and_both_accuracies_on_a_case_worked_by_hand() -> None:
    scores = Fidelity().score(see(None, model=Says(IMAGES, predictor=F, interpreter=G)))
    assert {name: score.values.tolist() for name, score in scores.items()} == {
        "": [1, 0, 1, 0, 0],
        "predictor_accuracy": [1, 1, 0, 0, 0],
        "interpreter_accuracy": [1, 0, 0, 1, 1],
    }


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(-2, 2), min_size=8, max_size=8), min_size=1, max_size=5))
def test_fidelity_is_what_its_definition_says(rows: list[list[int]]) -> None:
    logits = torch.tensor(rows, dtype=torch.float32)
    f, g = logits[:, :4], logits[:, 4:]
    expected = [slow.fidelity(a, b) for a, b in zip(f.double().numpy(), g.double().numpy(), strict=True)]
    assert fidelity(f, g).tolist() == expected
    assert fidelity(f, f).tolist() == [1.0] * len(f)


@pytest.mark.parametrize("who", ["predictor", "interpreter"])
def test_a_nan_makes_only_its_sample_invalid(who: str) -> None:
    logits = {"predictor": F.clone(), "interpreter": G.clone()}
    logits[who][1, 2] = torch.nan
    scores = Fidelity().score(see(None, model=Says(IMAGES, **logits)))
    clean = Fidelity().score(see(None, model=Says(IMAGES, predictor=F, interpreter=G)))
    for variant, score in scores.items():
        assert score.status.tolist() == [0, Status.INVALID, 0, 0, 0]
        np.testing.assert_equal(score.values.numpy()[[0, 2, 3, 4]], clean[variant].values.numpy()[[0, 2, 3, 4]])


def test_the_accuracy_of_f_is_the_accuracy_and_nothing_depends_on_the_batch() -> None:
    pictures = Pictures(count=30)
    model = Interpreted()
    whole = Fidelity().score(see(None, model=model, dataset=pictures))
    accuracy = Accuracy().score(see(None, model=model, dataset=pictures))[""]
    assert torch.equal(whole["predictor_accuracy"].values, accuracy.values)
    small = Fidelity().score(see(None, model=model, dataset=pictures, micro_batch=3))
    one = Fidelity().score(see(None, model=model, dataset=pictures, batch=pictures.take([17])))
    for variant in whole:
        assert torch.equal(whole[variant].values, small[variant].values)
        assert torch.equal(whole[variant].values[17:18], one[variant].values)
    assert 0 < whole[""].values.sum() < 30


def test_a_model_without_an_interpreter_is_not_applicable() -> None:
    metrics = ["fidelity", "top_k_fidelity", "conciseness"]
    rows = evaluate(SmallNet(), "gradient", Pictures(), metrics, controls=False).summary()
    assert set(rows.metric) == set(metrics)
    assert set(rows.kind) == {"not_applicable"}
    assert set(rows.source) == {"model SmallNet has no interpreter"}
    assert "n/a" not in evaluate(SmallNet(), "gradient", Pictures(), [*metrics, "accuracy"], controls=False).table()
    interpreted = evaluate(Interpreted(), "gradient", Pictures(), metrics, controls=False).summary()
    assert set(interpreted.kind) == {"measured"}
    assert set(interpreted.explainer) == {""}
    assert set(interpreted.variant) == {
        "", "predictor_accuracy", "interpreter_accuracy", "k=2", "k=3", "area",
    }  # fmt: skip


def test_logits_of_other_samples_or_classes_are_refused() -> None:
    for f, g in ((torch.zeros(2, 3), torch.zeros(2, 4)), (torch.zeros(2, 3), torch.zeros(1, 3)), (torch.zeros(2),) * 2):
        with pytest.raises(ValueError, match=r"must both be \(B, K\), were"):
            fidelity(f, g)
