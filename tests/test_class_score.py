"""`class_score`: the three scores and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch

from interpeval.baselines.class_score import class_score

LOGITS = torch.tensor([[1.0, 3.0, -2.0], [0.0, 0.0, math.log(2)]], dtype=torch.float64)


def test_scores_by_hand():
    assert class_score(LOGITS, 2, "logit").tolist() == [-2.0, math.log(2)]
    assert class_score(LOGITS, torch.tensor(2), "sigmoid").tolist() == pytest.approx([1 / (1 + math.e**2), 2 / 3])
    total = math.e + math.e**3 + math.e**-2
    assert class_score(LOGITS, torch.tensor(2), "softmax").tolist() == pytest.approx([math.e**-2 / total, 0.5])


def test_a_softmax_that_is_always_1_is_refused():
    with pytest.raises(ValueError, match='use "logit"'):
        class_score(LOGITS[:, :1], 0, "softmax")
    assert class_score(LOGITS[:, :1], 0, "sigmoid").tolist() == pytest.approx([math.e / (1 + math.e), 0.5])
    with pytest.raises(ValueError, match="`score` must be one of"):
        class_score(LOGITS, 0, "probability")
