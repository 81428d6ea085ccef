"""Pictures of heatmaps for the page."""

import io

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from interpeval.bench.gallery import case_galleries, galleries, scale_colours
from interpeval.bench.store import Unit
from interpeval.leaderboards.board import Source, merge
from interpeval.leaderboards.cases import cases_of
from interpeval.leaderboards.record import records
from leaderboard_cases import series


def unit(heatmaps, ids=("x", "y"), *, images=None, masks=None, **about):
    facts = {
        "dataset": "digits", "dataset_revision": "5a", "model": "lenet", "model_digest": "7c", "explainer": "gradient",
        "explainer_params": "{}", "seed": 0,
    }  # fmt: skip
    heatmaps = torch.as_tensor(heatmaps, dtype=torch.float32)
    previews = {"heatmaps": heatmaps, "images": torch.zeros(len(heatmaps), 1, 2, 2) if images is None else images}
    if masks is not None:
        previews["masks"] = masks
    return Unit("key", {**facts, **about}, ids, torch.zeros(len(ids)), {}, previews=previews)


def pixels(picture):
    image = Image.open(io.BytesIO(picture.png))
    return np.asarray(image.convert("RGB"))


def colour(place):
    """The colour of the diverging scale at a place from 0 to 1, in 256 steps."""
    return (colormaps["RdBu_r"](round(255 * place))[:3] * np.array(255)).round().astype(int).tolist()


def test_a_map_is_drawn_on_the_stated_scale():
    [gallery] = galleries([unit([[[4.0, 0.0], [-4.0, 2.0]]], ("x",))])
    [sample] = gallery.samples
    picture = sample.heatmaps["gradient", "{}"]
    assert gallery.subject == ("digits", "5a", "lenet", "7c", 0)
    assert picture.scale == "± 4"
    assert pixels(picture).tolist() == [[colour(1), colour(0.5)], [colour(0), colour(0.75)]]
    assert picture.alt == "gradient on x: from -4 to 4, largest at row 1 of 2, column 1 of 2"


def test_one_bright_pixel_does_not_darken_all_others():
    values = torch.full((1, 100, 100), 1.0)
    values[0, 3, 5] = 1000.0
    [gallery] = galleries([unit(values, ("x",))])
    picture = gallery.samples[0].heatmaps["gradient", "{}"]
    assert picture.scale == "± 1"
    assert set(map(tuple, pixels(picture).reshape(-1, 3).tolist())) == {tuple(colour(1))}
    assert "largest at row 4 of 100, column 6 of 100" in picture.alt


def test_a_silent_map_is_white_and_says_so():
    [gallery] = galleries([unit(torch.zeros(1, 2, 2), ("x",))])
    picture = gallery.samples[0].heatmaps["gradient", "{}"]
    assert picture.scale == "all 0"
    assert pixels(picture).tolist() == [[colour(0.5)] * 2] * 2


def test_samples_are_found_by_name_under_every_explainer():
    first = unit([[[1.0, 0.0]], [[0.0, 1.0]]], images=torch.zeros(2, 3, 1, 2), masks=torch.ones(2, 1, 2).bool())
    swapped = unit([[[0.0, 3.0]], [[3.0, 0.0]]], ("y", "x"), explainer="lime")
    other = unit([[[1.0, 1.0]]], ("z",), explainer="lrp")
    [gallery] = galleries([first, swapped, other])
    assert [sample.id for sample in gallery.samples] == ["x", "y"]
    for sample in gallery.samples:
        maps = {name: pixels(picture).tolist() for (name, _), picture in sample.heatmaps.items()}
        assert set(maps) == {"gradient", "lime"}
        assert maps["gradient"] == maps["lime"]
    assert pixels(gallery.samples[0].mask).tolist() == [[[255] * 3] * 2]


def test_subjects_of_other_weights_have_galleries_of_their_own():
    found = galleries([unit([[[1.0]]], ("x",)), unit([[[1.0]]], ("x",), model_digest="8d")])
    assert [gallery.subject[3] for gallery in found] == ["7c", "8d"]


def test_large_pictures_are_averaged_down():
    image = torch.zeros(1, 3, 256, 512)
    image[:, 0, :, ::4] = 1.0
    values = torch.zeros(1, 256, 512)
    values[:, :, 256:] = 1.0
    [gallery] = galleries([unit(values, ("x",), images=image)])
    [sample] = gallery.samples
    assert pixels(sample.image).shape == (64, 128, 3)
    assert pixels(sample.image)[..., 0] == pytest.approx(np.full((64, 128), 255 / 4), abs=1)
    assert pixels(sample.heatmaps["gradient", "{}"])[0, [0, 127]].tolist() == [colour(0.5), colour(1)]


def test_the_scale_is_that_of_the_maps():
    colours = dict(scale_colours())
    assert {0.0, 0.5, 1.0} <= set(colours)
    for place in (0.0, 1.0):
        assert colours[place] == "#{:02x}{:02x}{:02x}".format(*colour(place))


def test_pictures_of_cases_are_put_together_from_units_of_any_run():
    scored = series([0.0, 0.5, 1.0], ids=("x", "y", "z"), target="label")
    cases = cases_of(merge([Source("run", records([scored], seed=0), [scored])]))
    images = torch.tensor([0, 100, 200], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 1, 2)
    newer = unit([[[0.0, 3.0]]], ("z",), images=images[2:], target="label")
    older = unit([[[1.0, 0.0]], [[2.0, 0.0]]], ("x", "z"), images=images[::2], target="label")
    lime = unit([[[0.0, 1.0]], [[1.0, 0.0]]], ("y", "x"), images=images[:2], target="label", explainer="lime")
    others = unit([[[9.0, 0.0]]], ("z",), images=images[2:], target="predicted")
    [gallery] = case_galleries([newer, older, lime, others], cases)
    assert (gallery.subject, gallery.target) == (cases[0].subject, "label")
    assert [sample.id for sample in gallery.samples] == ["z", "x"]  # `y` is neither best nor worst
    best, worst = gallery.samples
    assert {name: picture.scale for (name, _), picture in best.heatmaps.items()} == {"gradient": "± 3"}
    assert {name for name, _ in worst.heatmaps} == {"gradient", "lime"}
    assert pixels(best.image).tolist() == [[[200] * 3] * 2]
    assert pixels(worst.image).tolist() == [[[0] * 3] * 2]
