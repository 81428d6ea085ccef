"""F1 per class and overall: counts, ratios, and how they become rows of a leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interpeval.bench import evaluate
from interpeval.datasets.base import Batch
from interpeval.metrics.base import Scores, Status
from interpeval.metrics.f1 import F1, f1_counts, f1_overall, f1_per_class
from interpreted import Says
from reference import f1 as slow
from small_subject import Pictures, SmallNet, see

DECISIONS = st.integers(1, 6).flatmap(
    lambda rows: st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=rows, max_size=rows)
)
IMAGES = Pictures().take(range(5)).images  # labels 0, 1, 2, 0, 1
CLASSES = torch.tensor([0, 2, 2, 0, 0])  # what is predicted: right, wrong, right, right, wrong


def one_hot(classes: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(classes, 3).float()


@settings(deadline=None, max_examples=60)
@given(DECISIONS)
def test_it_is_the_harmonic_mean_of_precision_and_recall(rows: list[list[bool]]) -> None:
    table = torch.tensor(rows)
    predicted, labels = table[:, :3], table[:, 3:]
    per_class = slow.f1_per_class(predicted.numpy(), labels.numpy())
    np.testing.assert_allclose(f1_per_class(predicted, labels).numpy(), per_class, atol=1e-12)
    np.testing.assert_allclose(f1_overall(predicted, labels).item(), slow.f1(predicted.numpy(), labels.numpy()))


def sums(score: Scores) -> tuple[Tensor, Tensor]:
    above, below = score.values.sum(dim=0).chunk(2)
    return above, below


def test_one_label_for_each_sample_on_a_case_worked_by_hand() -> None:
    """Class 0: 2 right, 1 false; class 1: 2 missed; class 2: 1 right, 1 false."""
    scores = F1().score(see(None, model=Says(IMAGES, predictor=one_hot(CLASSES))))
    above, below = sums(scores["per_class"])
    assert (above / below).tolist() == pytest.approx([4 / 5, 0, 2 / 3], abs=1e-15)
    above, below = sums(scores["overall"])
    assert (above / below).item() == pytest.approx(3 / 5, abs=1e-15)
    assert scores["overall"].values[:, 0].tolist() == [2, 0, 2, 2, 0]


def test_several_labels_for_each_sample_and_a_threshold_of_zero() -> None:
    batch = Batch(
        ids=tuple("abcde"),
        images=IMAGES,
        labels=torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]).bool(),
    )
    logits = torch.tensor([[2.0, 1, -1], [0, 3, 0], [-1, 1e-6, -2], [-1, -2, -3], [torch.nan, 1, 1]])
    scores = F1().score(see(None, model=Says(IMAGES, predictor=logits), batch=batch))
    assert scores["per_class"].values[:4].tolist() == [
        [2, 2, 0, 2, 2, 0], [0, 2, 0, 0, 2, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0],
    ]  # fmt: skip
    assert scores["overall"].values[:4].tolist() == [[4, 4], [2, 2], [0, 1], [0, 1]]
    assert all(score.status.tolist() == [0, 0, 0, 0, Status.INVALID] for score in scores.values())


class SeveralLabels(Pictures):
    """Every class is there or not, by chance."""

    @property
    def labels(self) -> Tensor:
        """`(N, 3)` bool."""
        return torch.rand(self.count, 3, generator=torch.Generator().manual_seed(0)) < 0.5

    def take(self, indices: Sequence[int]) -> Batch:
        """Read some samples."""
        return replace(super().take(indices), labels=self.labels[list(indices)])


def test_data_with_several_labels_are_scored_by_f1_and_not_by_accuracy() -> None:
    pictures, model = SeveralLabels(count=70), SmallNet()  # more than one unit
    metrics = ["f1", "accuracy", "fgsm_accuracy", "self_consistency", "pointing_game"]
    found = evaluate(model, "gradient", pictures, metrics, controls=False)
    rows = found.summary().set_index(["metric", "variant"])
    with torch.no_grad():
        predicted = model(pictures.take(range(70)).images) > 0
    expected = {
        "per_class": f1_per_class(predicted, pictures.labels).mean().item(),
        "overall": f1_overall(predicted, pictures.labels).item(),
    }
    assert rows.loc["f1"].value.to_dict() == pytest.approx(expected, abs=1e-12)
    for metric in ("accuracy", "fgsm_accuracy"):
        assert rows.kind[metric, ""] == "not_applicable"
        assert rows.source[metric, ""] == "dataset pictures has several labels per sample"
    assert rows.n["self_consistency", "masked"] == 70  # what needs no label is scored
    (fault,) = found.faults
    assert fault["message"].startswith('metric `pointing_game` failed: ValueError: `target` must not be "label"')


def test_overall_f1_of_single_labels_is_the_accuracy_and_macro_f1_is_not() -> None:
    pictures, model = Pictures(count=60), SmallNet()
    with torch.no_grad():
        model.head.bias += torch.tensor([0.3, 0.0, -0.2])
    found = evaluate(model, "gradient", pictures, ["f1", "accuracy"], controls=False).summary()
    rows = found.set_index(["metric", "variant"])
    overall, accuracy = rows.loc["f1", "overall"], rows.loc["accuracy", ""]
    assert overall.value == pytest.approx(accuracy.value, abs=1e-12)
    assert (overall.ci_low, overall.ci_high) == pytest.approx((accuracy.ci_low, accuracy.ci_high), abs=1e-12)
    assert overall.n == 60
    labels = one_hot(torch.arange(60) % 3).bool()
    logits = model(pictures.take(range(60)).images)
    expected = slow.f1_per_class(one_hot(logits.argmax(dim=1)).bool().numpy(), labels.numpy())
    per_class = rows.loc["f1", "per_class"]
    assert per_class.value == pytest.approx(np.mean(expected), abs=1e-12)
    assert per_class.source == "classes seen: 3"
    assert per_class.value != pytest.approx(accuracy.value, abs=1e-3)
    assert per_class.ci_low < per_class.value < per_class.ci_high


def test_counts_are_no_curve_and_are_kept_for_every_sample(tmp_path) -> None:
    found = evaluate(SmallNet(), "gradient", Pictures(), ["f1"], controls=False)
    assert found.plot(tmp_path / "plots") == []
    scores = found.scores
    assert len(scores[scores.variant == "per_class"]) == 5 * 6
    again = type(found)(found.units, found.inapplicable, 0)
    assert again.summary().value.tolist() == found.summary().value.tolist()


def test_a_metric_that_failed_leaves_a_row_that_says_so() -> None:
    class Failing(F1):
        def score(self, evidence):
            raise RuntimeError("no")

    rows = evaluate(SmallNet(), "gradient", Pictures(), [Failing()], controls=False).summary()
    assert rows.n.tolist() == [0]
    assert rows.n_invalid.tolist() == [5]
    assert rows.value.isna().all()


def test_nothing_depends_on_the_batch() -> None:
    pictures = Pictures(count=20)
    whole, small = (F1().score(see(None, dataset=pictures, micro_batch=size)) for size in (64, 3))
    assert all(torch.equal(whole[variant].values, small[variant].values) for variant in whole)


def test_what_is_no_decision_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`predicted` and `labels` must be bool, were torch.int64 and torch.bool"):
        f1_counts(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"must both be \(B, K\), were \(1, 2\) and \(1, 3\)"):
        f1_counts(torch.zeros(1, 2, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.bool))
