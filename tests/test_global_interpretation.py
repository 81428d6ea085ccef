"""Local and global interpretation, and maximum activating samples."""

from __future__ import annotations

import pytest
import torch

from interpeval.baselines.base import Interpretation
from interpeval.baselines.flint import Flint
from interpeval.baselines.global_interpretation import (
    global_interpretation,
    local_interpretation,
    random_rows,
    strongest_samples,
)
from interpeval.datasets.digits import Digits
from reference import conciseness as slow

DIGITS = Digits(split="train")


def model(seed: int = 0) -> Flint:
    """Untrained, but with attributes that are centred on 0, so that the interpreter predicts several classes."""
    torch.manual_seed(seed)
    flint = Flint((1, 28, 28), 10).eval()
    flint.interpreter.bias.data.zero_()
    with torch.no_grad():
        activations = flint.interpret(DIGITS.take(range(64)).images).activations
        codes = torch.where(activations < 0, activations / 0.01, activations)  # before the leaky ReLU
        flint.attributes.combine.bias -= codes.mean(dim=0)
    return flint


def test_local_relevance_is_that_of_the_class_that_the_interpreter_predicts() -> None:
    weights = torch.tensor([[1.0, -1.0], [0.0, 2.0], [3.0, 1.0]])
    activations = torch.tensor([[1.0, 2.0, 0.5], [0.0, 1.0, 4.0]])
    found = local_interpretation(Interpretation(activations @ weights, activations, weights))
    assert found.classes.tolist() == [1, 0]  # logits (2.5, 3.5) and (12, 6)
    assert found.relevance.tolist() == [[-0.25, 1.0, 0.125], [0.0, 0.0, 1.0]]
    assert found.order.tolist() == [[1, 2, 0], [2, 0, 1]]


def test_global_relevance_is_the_mean_over_samples_of_a_predicted_class_restated() -> None:
    flint = model().eval()
    found = global_interpretation(flint, DIGITS, n_samples=200, batch_size=64)
    rows = [DIGITS.ids.index(name) for name in found.ids]
    with torch.no_grad():
        logits, activations, weights = flint.interpret(DIGITS.take(rows).images)
    classes = logits.argmax(dim=1).tolist()
    shares = [
        slow.relevance(row.numpy().astype(float), weights.numpy().astype(float), c)
        for row, c in zip(activations, classes, strict=True)
    ]
    assert len(set(classes)) > 1
    for c in range(10):
        expected = slow.global_relevance(shares, classes, c)
        torch.testing.assert_close(
            found.relevance[c], torch.tensor(expected, dtype=torch.float64), equal_nan=True, rtol=1e-4, atol=1e-6
        )


def test_pairs_are_those_above_the_threshold_and_their_samples_the_strongest_of_the_class() -> None:
    flint = model().eval()
    found = global_interpretation(flint, DIGITS, n_samples=200, threshold=0.15)
    expected = {
        (c, j)
        for c in range(10)
        for j in range(25)
        if not found.relevance[c, j].isnan() and found.relevance[c, j] > 0.15
    }
    assert set(found.pairs) == expected == set(found.strongest)
    assert found.pairs
    values = [[found.relevance[c, j].item() for own, j in found.pairs if own == c] for c in range(10)]
    assert all(row == sorted(row, reverse=True) for row in values)
    rows = [DIGITS.ids.index(name) for name in found.ids]
    batch = DIGITS.take(rows)
    with torch.no_grad():
        activations = flint.interpret(batch.images).activations
    for (c, j), names in found.strongest.items():
        members = [row for row in range(200) if batch.labels[row] == c]
        best = sorted(members, key=lambda row: -activations[row, j].item())[:3]
        chosen = [batch.ids.index(name) for name in names]
        torch.testing.assert_close(activations[chosen, j], activations[best, j])
        assert all(batch.labels[row] == c for row in chosen)


def test_the_global_pass_of_the_released_code_divides_by_the_largest_alpha() -> None:
    flint = model()
    found = global_interpretation(flint, DIGITS, n_samples=64, scale="signed_max")
    rows = [DIGITS.ids.index(name) for name in found.ids]
    with torch.no_grad():
        logits, activations, weights = flint.interpret(DIGITS.take(rows).images)
    shares: dict[int, list[torch.Tensor]] = {}
    for row, label in zip(activations.double(), logits.argmax(dim=1).tolist(), strict=True):
        alpha = row * weights.double()[:, label]
        shares.setdefault(label, []).append(alpha / abs(max(alpha.tolist())))
    assert len(shares) > 1
    for label, parts in shares.items():
        torch.testing.assert_close(found.relevance[label], torch.stack(parts).mean(dim=0), rtol=1e-4, atol=1e-6)


def test_the_samples_depend_on_the_seed_and_their_names_alone() -> None:
    names = [f"sample-{number}" for number in range(100)]
    chosen = random_rows(names, 30, 0)
    assert chosen == sorted(set(chosen))
    backwards = random_rows(names[::-1], 30, 0)
    assert {names[row] for row in chosen} == {names[::-1][row] for row in backwards}
    assert chosen != random_rows(names, 30, 1)


def test_a_class_with_few_samples_names_them_all_and_ties_keep_their_order() -> None:
    activations = torch.tensor([1.0, 2.0, 2.0, 0.0])
    assert strongest_samples(activations, torch.tensor([True, True, True, True]), 3) == [1, 2, 0]
    assert strongest_samples(activations, torch.tensor([True, False, False, False]), 3) == [0]
    assert strongest_samples(activations, torch.zeros(4, dtype=torch.bool), 3) == []


def test_the_model_is_asked_in_evaluation_mode_and_given_back() -> None:
    flint = model().train()
    first = global_interpretation(flint, DIGITS, n_samples=32)
    assert flint.training
    again = global_interpretation(flint.eval(), DIGITS, n_samples=32)
    torch.testing.assert_close(again.relevance, first.relevance, rtol=0, atol=0, equal_nan=True)


def test_what_cannot_be_interpreted_is_refused() -> None:
    with pytest.raises(TypeError, match="`model` must have an interpreter"):
        global_interpretation(torch.nn.Flatten(), DIGITS)
    with pytest.raises(ValueError, match="`n_samples` must be at least 1"):
        global_interpretation(model(), DIGITS, n_samples=0)
