"""`segments`: what LIME and the Shapley values weigh."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from interpeval.baselines.segments import paint, segment, share


def smooth(batch, channels):
    """Images without sharp edges."""
    noise = torch.randn(batch, channels, 3, 3, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, size=(20, 16), mode="bilinear", align_corners=True)


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 13), width=st.integers(1, 13), n_segments=st.integers(1, 80))
def test_a_grid_is_made_of_rectangles_whose_sides_differ_by_a_pixel(height, width, n_segments):
    labels = segment(torch.zeros(2, 3, height, width), "grid", n_segments=n_segments)
    side = round(n_segments**0.5)
    rows, columns = min(side, height), min(side, width)
    assert torch.equal(labels[0], labels[1])
    assert labels.unique().tolist() == list(range(rows * columns))
    for line in (labels[0, :, 0], labels[0, 0]):
        sizes = line.unique(return_counts=True)[1]
        assert sizes.max() - sizes.min() <= 1
    first_of_row, first_of_column = labels[0, :, :1], labels[0, :1]
    assert torch.equal(labels[0], first_of_row + first_of_column)  # a sum of a row's and a column's number: rectangles


def test_superpixels_follow_the_edges_of_two_flat_regions():
    pytest.importorskip("skimage")
    image = torch.zeros(1, 3, 24, 24)
    image[:, 0, :, 11:] = 2.0  # not where a grid of squares has its border
    labels = segment(image, "superpixels", n_segments=4)[0]
    assert not set(labels[:, :11].flatten().tolist()) & set(labels[:, 11:].flatten().tolist())
    grid = segment(image, "grid", n_segments=4)[0]  # the negative control
    assert set(grid[:, :11].flatten().tolist()) & set(grid[:, 11:].flatten().tolist())


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_superpixels_are_numbered_without_a_gap_and_do_not_depend_on_the_batch(channels):
    pytest.importorskip("skimage")
    images = smooth(3, channels)
    labels = segment(images, "superpixels", n_segments=9)
    assert labels.dtype == torch.int64
    assert labels.shape == (3, 20, 16)
    assert len(labels[0].unique()) > 4
    assert not torch.equal(labels[0], labels[1])
    for i in range(3):
        assert labels[i].unique().tolist() == list(range(int(labels[i].max()) + 1))
        assert torch.equal(segment(images[i : i + 1], "superpixels", n_segments=9)[0], labels[i])


def test_superpixels_do_not_depend_on_the_scale_of_normalised_images():
    pytest.importorskip("skimage")
    image = smooth(1, 3).double()
    labels = segment(image, "superpixels", n_segments=9)
    assert len(labels.unique()) > 4
    assert torch.equal(segment(4 * image - 8, "superpixels", n_segments=9), labels)


def test_a_missing_scikit_image_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match=r"needs scikit-image: install `interpeval\[superpixels\]`, or use \"grid\""):
        segment(torch.zeros(1, 3, 4, 4), "superpixels", n_segments=4)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`n_segments` must be at least 1, was 0"):
        segment(torch.zeros(1, 1, 2, 2), "grid", n_segments=0)
    with pytest.raises(ValueError, match="`segments` must be one of grid, superpixels; was 'quickshift'"):
        segment(torch.zeros(1, 1, 2, 2), "quickshift", n_segments=4)


def test_painting_repeats_values_and_sharing_keeps_their_sum():
    labels, values = torch.tensor([[0, 0, 0], [1, 2, 2]]), torch.tensor([6.0, -1.0, 5.0])
    assert paint(values, labels).tolist() == [[6, 6, 6], [-1, 5, 5]]
    assert share(values, labels).tolist() == [[2, 2, 2], [-1, 2.5, 2.5]]
