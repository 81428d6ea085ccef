"""Explain functions as Quantus takes them: its own gives Captum's saliency, and others are called by its rules."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from torch import nn

from interpeval.baselines.ensure import ensure_explainer, explainer_facts
from interpeval.baselines.from_quantus import FromQuantus
from interpeval.bench.conformance import check_explainer
from small_subject import SmallNet

INPUTS = torch.randn(4, 3, 7, 9, generator=torch.Generator().manual_seed(2))
TARGETS = torch.tensor([2, 0, 1, 1])


@pytest.fixture(scope="module")
def quantus():
    with warnings.catch_warnings(action="ignore"):
        return pytest.importorskip("quantus")


def test_the_saliency_of_quantus_is_that_of_captum_summed_over_channels(quantus):
    model = SmallNet()
    expected = Saliency(model).attribute(INPUTS.clone().requires_grad_(), target=TARGETS)
    found = ensure_explainer(quantus.explain, method="Saliency").attribute(model, INPUTS, TARGETS)
    torch.testing.assert_close(found, expected.sum(dim=1, keepdim=True), rtol=0, atol=0)
    whole = ensure_explainer(quantus.explain, method="Saliency", reduce_axes=()).attribute(model, INPUTS, TARGETS)
    torch.testing.assert_close(whole, expected, rtol=0, atol=0)
    assert whole.dtype == torch.float32


def test_it_is_found_by_its_dotted_name_and_conforms(quantus):
    with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
        results = check_explainer("quantus.explain?method=Saliency")
    assert {result.outcome for result in results} == {"passed"}


def test_facts_say_what_was_chosen_and_change_with_the_function(quantus):
    facts = explainer_facts(ensure_explainer(quantus.explain, method="Saliency", reduction="max_abs"))
    assert (facts.name, facts.params) == ("quantus_Saliency", {"method": "Saliency", "reduction": "max_abs"})
    other = explainer_facts(FromQuantus(magnitude))
    assert (other.name, other.params) == ("magnitude", {"reduction": "sum"})
    assert len({facts.source_digest, other.source_digest, ""}) == 3


def magnitude(model, inputs, targets, scale=1.0):
    """An explain function of one's own."""
    assert isinstance(inputs, np.ndarray)
    assert isinstance(targets, np.ndarray)
    model.train()
    inputs *= scale
    return np.abs(inputs) * (1 + targets)[:, None, None, None]


def test_a_function_of_ones_own_gets_arrays_of_its_own():
    model, inputs = SmallNet(), INPUTS.clone()
    found = FromQuantus(magnitude, {"scale": -2.0}).attribute(model, inputs, TARGETS)
    expected = 2 * INPUTS.abs() * (1 + TARGETS).view(-1, 1, 1, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert torch.equal(inputs, INPUTS)
    assert not model.training


def test_the_device_is_told_to_functions_that_ask_for_it():
    told = []
    FromQuantus(lambda model, inputs, targets, device: told.append(device) or inputs).attribute(
        nn.Identity(), INPUTS, TARGETS
    )
    FromQuantus(lambda model, inputs, targets, **more: told.append(more) or inputs).attribute(
        nn.Identity(), INPUTS, TARGETS
    )
    FromQuantus(lambda model, inputs, targets: inputs).attribute(nn.Identity(), INPUTS, TARGETS)
    assert told == ["cpu", {"device": "cpu"}]


def test_what_is_no_array_of_numbers_is_refused():
    explainer = FromQuantus(lambda model, inputs, targets: "a map")
    with pytest.raises(TypeError, match=r"must return an array of numbers, returned str"):
        explainer.attribute(SmallNet(), INPUTS, TARGETS)
