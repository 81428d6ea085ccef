"""Top-1 accuracy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from interpeval.metrics.accuracy import Accuracy
from interpeval.metrics.base import Status
from interpreted import Interpreted
from small_subject import see


class Fixed(nn.Module):
    """Gives known logits, whatever it sees."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, 3)`."""
        logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 2.0], [-1.0, -3.0, -0.5], [1.0, torch.nan, 0.0], [0, 9, 1]])
        return logits.repeat(len(inputs), 1)[: len(inputs)]


def test_accuracy_is_the_share_of_right_answers_and_needs_no_explainer() -> None:
    scores = Accuracy().score(see(None, model=Fixed()))[""]  # labels 0, 1, 2, 0, 1
    np.testing.assert_equal(scores.values.numpy(), [1.0, 0.0, 1.0, np.nan, 1.0])
    assert scores.status.tolist() == [0, 0, 0, Status.INVALID, 0]


def test_the_accuracy_of_an_interpreter_stands_beside_that_of_the_predictor() -> None:
    evidence = see(None, model=Interpreted())
    scores = Accuracy().score(evidence)
    expected = evidence.interpretation.logits.argmax(dim=1) == evidence.batch.labels
    np.testing.assert_equal(scores["interpreter"].values.numpy(), expected.double().numpy())
    assert not scores["interpreter"].values.equal(scores[""].values)
    assert Accuracy().score(see(None, model=Fixed())).keys() == {""}
