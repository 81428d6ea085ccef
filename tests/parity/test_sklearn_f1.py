"""F1 against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from interpeval.metrics.f1 import f1_overall, f1_per_class


@pytest.mark.parametrize("rate", [0.02, 0.4])
def test_several_labels(rate: float) -> None:
    predicted, labels = torch.rand(2, 60, 9, generator=torch.Generator().manual_seed(0)) < rate
    predicted[:, 4] = labels[:, 4] = False  # a class that is neither there nor predicted
    found = f1_per_class(predicted, labels)
    theirs = f1_score(labels.numpy(), predicted.numpy(), average=None, zero_division=0)
    np.testing.assert_allclose(found.nan_to_num(nan=0.0).numpy(), theirs, atol=1e-12)
    assert found.isnan().nonzero().flatten().tolist() == [4]
    macro = f1_score(labels.numpy(), predicted.numpy(), average="macro", zero_division=np.nan)
    assert found.nanmean().item() == pytest.approx(macro, abs=1e-12)
    micro = f1_score(labels.numpy(), predicted.numpy(), average="micro", zero_division=0)
    assert f1_overall(predicted, labels).item() == pytest.approx(micro, abs=1e-12)


def test_one_label() -> None:
    generator = torch.Generator().manual_seed(1)
    predicted, labels = torch.randint(0, 5, (2, 80), generator=generator)
    one_hot = [torch.nn.functional.one_hot(part, 7).bool() for part in (predicted, labels)]  # classes 5, 6: unseen
    macro = f1_score(labels.numpy(), predicted.numpy(), average="macro", zero_division=0)
    assert f1_per_class(*one_hot).nanmean().item() == pytest.approx(macro, abs=1e-12)
    assert f1_overall(*one_hot).item() == pytest.approx((predicted == labels).double().mean().item(), abs=1e-12)
