"""`lime`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import nn

from interpeval.baselines.lime import Lime
from interpeval.baselines.segments import segment
from interpeval.datasets.philox import random_words
from reference.shapley import logit
from small_subject import SmallNet

TARGETS, KEYS = torch.tensor([0, 2]), torch.tensor([11, 12])


def images():
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_a_linear_model_gives_each_segment_its_part_of_the_logit_up_to_the_penalty():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Flatten(), nn.Linear(108, 3)), images()
    parts = (model[1].weight[TARGETS].view_as(inputs) * inputs).sum(dim=1, keepdim=True).detach()
    expected = 4 * nn.functional.avg_pool2d(parts, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    maps = Lime(n_segments=9, n_samples=100, alpha=1e-5).attribute(model, inputs, TARGETS, keys=KEYS)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-3)
    strong = Lime(n_segments=9, n_samples=100, alpha=100.0).attribute(model, inputs, TARGETS, keys=KEYS)
    assert not strong.any()


@pytest.mark.parametrize(("kernel_width", "reference_input"), [(1.0, 0.0), (0.25, -0.5)])
def test_coefficients_are_those_of_a_weighted_lasso_on_the_drawn_images(kernel_width, reference_input):
    model, inputs, n_samples = SmallNet(), images(), 60
    labels = segment(inputs[:1], "grid", n_segments=9)[0]
    words = random_words(0, "explainer/lime", KEYS[:1].expand(n_samples), torch.arange(n_samples), 9)
    shown = (words >= 2**31).numpy()
    values, weights = [], []
    for row in shown:
        parts = {part for part in range(9) if row[part]}
        values.append(logit(model, inputs[0], 0, labels, reference_input, parts))
        kept = torch.tensor(row)[labels]
        image = torch.where(kept, inputs[0], reference_input).flatten().double()
        cosine = float(image @ inputs[0].flatten().double() / image.norm().clamp(min=1e-9) / inputs[0].norm())
        weights.append(np.exp(-((1 - cosine) ** 2) / (2 * kernel_width**2)))
    expected = Lasso(alpha=0.02).fit(shown.astype(float), values, sample_weight=weights).coef_
    explainer = Lime(
        n_segments=9, n_samples=n_samples, alpha=0.02, kernel_width=kernel_width, reference_input=reference_input
    )
    maps = explainer.attribute(model, inputs[:1], TARGETS[:1], keys=KEYS[:1])
    torch.testing.assert_close(maps[0, 0].double(), torch.from_numpy(expected)[labels], rtol=0, atol=2e-4)
    assert np.count_nonzero(expected) > 2


def test_superpixels_of_different_images_are_painted_with_their_own_coefficients():
    pytest.importorskip("skimage")
    model, inputs = SmallNet(), torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    inputs = inputs.repeat_interleave(6, 2).repeat_interleave(6, 3)
    maps = Lime(segments="superpixels", n_segments=9, n_samples=50).attribute(model, inputs, TARGETS, keys=KEYS)
    labels = segment(inputs, "superpixels", n_segments=9)
    for values, parts in zip(maps[:, 0], labels, strict=True):
        assert all(len(values[parts == part].unique()) == 1 for part in parts.unique())
        assert len(values.unique()) > 3


def test_evaluations_are_as_many_as_said_in_small_batches_and_record_no_graph():
    model, rows, graphs = SmallNet(), [], []

    def look(_, args, output):
        rows.append(len(args[0]))
        graphs.append(output.requires_grad)

    model.register_forward_hook(look)
    Lime(n_segments=9, n_samples=22, batch_size=4).attribute(model, images()[:1], TARGETS[:1], keys=KEYS[:1])
    assert rows == [4, 4, 4, 4, 4, 2]
    assert not any(graphs)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_samples": 0}, "`n_samples` must be at least 1, was 0"), ({"batch_size": 0}, "`batch_size` must be")],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Lime(**options).attribute(SmallNet(), images(), TARGETS, keys=KEYS)
