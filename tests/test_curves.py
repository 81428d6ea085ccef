"""The picture of curves."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex

from interpeval.leaderboards.curves import curves_figure, draw_curves
from interpeval.leaderboards.statistics import estimate
from leaderboard_cases import not_applicable, series

STEPS = (0.0, 0.25, 1.0)


def curve(seed=0, size=40, **changes):
    values = np.random.default_rng(seed).normal(size=(size, len(STEPS)))
    return series(values, **{"metric": "mask_k_pixels", "variant": "accuracy", "steps": STEPS, **changes})


def panels(figure):
    return [panel for panel in figure.axes if panel.get_visible()]


def lines_of(panel):
    return {line.get_label(): line for line in panel.lines}


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_lines_are_means_and_bands_their_intervals():
    scores = {"gradient": curve(0), "edges": curve(1, explainer="edges")}
    [panel] = panels(draw_curves(list(scores.values()), seed=5))
    assert set(lines_of(panel)) == set(scores)
    bands = {to_hex(band.get_facecolor()[0]): band for band in panel.collections}
    for name, item in scores.items():
        expected = estimate(item.ids, item.values, seed=5)
        line = lines_of(panel)[name]
        assert line.get_xdata().tolist() == list(STEPS)
        assert line.get_ydata() == pytest.approx(expected.value, rel=1e-12)
        corners = bands[to_hex(line.get_color())].get_paths()[0].vertices
        for step, low, high in zip(STEPS, expected.low, expected.high, strict=True):
            at_step = corners[corners[:, 0] == step, 1]
            assert (at_step.min(), at_step.max()) == (pytest.approx(low), pytest.approx(high))


def test_curves_over_other_samples_are_not_mixed_up():
    scores = {"gradient": curve(0), "own": curve(1, size=50, explainer="own"), "lime": curve(2, explainer="lime")}
    [panel] = panels(draw_curves(list(scores.values())))
    for name, item in scores.items():
        assert lines_of(panel)[name].get_ydata() == pytest.approx(item.values.mean(axis=0), rel=1e-12)


def test_every_subject_is_a_row_and_every_variant_a_column():
    variants = ("delta_lor", "accuracy", "lor")
    scores = [curve(variant=name, dataset=dataset) for name in variants for dataset in ("voc", "coco")]
    shown = [(panel.get_title(), panel.get_ylabel()) for panel in panels(draw_curves(scores))]
    labels = ("accuracy ↑", "log-odds of the label ↑", "change of the log-odds ↑")
    assert shown == [(f"{dataset}, lenet", label) for dataset in ("coco", "voc") for label in labels]


def test_a_panel_without_curves_is_left_blank():
    scores = [curve(dataset="coco"), curve(dataset="voc"), curve(dataset="voc", variant="lor")]
    figure = draw_curves(scores)
    assert len(figure.axes) == 4
    assert [(panel.get_title(), panel.get_ylabel().split()[0]) for panel in panels(figure)] == [
        ("coco, lenet", "accuracy"),
        ("voc, lenet", "accuracy"),
        ("voc, lenet", "log-odds"),
    ]


def test_axes_say_what_they_show():
    [known] = panels(draw_curves([curve()]))
    [other] = panels(draw_curves([curve(metric="another", variant="", higher_is_better=False)]))
    assert (known.get_xlabel(), known.get_ylabel()) == ("share of pixels masked", "accuracy ↑")
    assert (other.get_xlabel(), other.get_ylabel()) == ("step of another", "another ↓")


def test_controls_are_grey_and_dashed_and_explainers_are_neither():
    controls = ("random", "uniform", "center", "edges", "truth")
    real = tuple("abcdefghi")
    figure = draw_curves([curve(explainer=name) for name in controls + real])
    [panel] = panels(figure)
    assert legend_of(figure) == [*real, *controls]
    lines = lines_of(panel)
    looks = {name: (to_hex(line.get_color()), line._dash_pattern) for name, line in lines.items()}
    assert len({str(look) for look in looks.values()}) == len(looks)
    for name, (colour, (_, dashes)) in looks.items():
        grey = colour[1:3] == colour[3:5] == colour[5:7]
        assert (grey and bool(dashes)) == (name in controls)
        assert lines[name].get_zorder() == (2 if name in controls else 3)


def test_every_explainer_looks_alike_in_all_panels():
    scores = [curve(explainer=name) for name in "abc"] + [curve(explainer=name, variant="lor") for name in "bc"]
    first, second = (lines_of(panel) for panel in panels(draw_curves(scores)))
    assert {name: first[name].get_color() for name in "bc"} == {name: second[name].get_color() for name in "bc"}
    assert first["b"].get_color() != first["c"].get_color()


def test_names_are_drawn_as_they_are(tmp_path):
    names = ["$x_$", "_hidden", "a\x1bb"]
    scores = [curve(explainer=name, dataset="$_{$", variant="$\\y$") for name in names]
    assert legend_of(draw_curves(scores)) == ["$x_$", "_hidden", "a\\x1bb"]
    curves_figure(scores, tmp_path / "curves.png")  # not as mathematics, which `$_{$` would fail as
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_one_sample_and_none_are_drawn_without_a_band():
    missing = np.full((2, 3), np.nan)
    none = series(missing, metric="mask_k_pixels", steps=STEPS, status=np.array([3, 3], np.uint8), explainer="own")
    [panel] = panels(draw_curves([curve(size=1, variant=""), none]))
    assert np.isfinite(lines_of(panel)["gradient"].get_ydata()).all()
    assert np.isnan(lines_of(panel)["own"].get_ydata()).all()
    assert not any(len(path.vertices) for band in panel.collections for path in band.get_paths())


def test_the_same_curves_give_the_same_bytes_whatever_the_users_settings(tmp_path):
    scores = [curve(0), curve(1, explainer="edges"), curve(2, explainer="edges", variant="lor")]
    curves_figure(scores, tmp_path / "first.png")
    with mpl.rc_context({"axes.facecolor": "black", "savefig.dpi": 30, "font.size": 20}):
        curves_figure(scores[::-1], tmp_path / "second.png")
    first = (tmp_path / "first.png").read_bytes()
    assert first == (tmp_path / "second.png").read_bytes()
    curves_figure([curve(3), *scores[1:]], tmp_path / "other.png")
    assert first != (tmp_path / "other.png").read_bytes()


@pytest.mark.parametrize("scores", [[], [series([0.5, 1.0])], [not_applicable("no pixels")]])
def test_nothing_to_draw_is_an_error(tmp_path, scores):
    with pytest.raises(ValueError, match="`series` must hold at least one curve"):
        curves_figure(scores, tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


def test_a_curve_of_the_model_alone_says_so_and_counts_are_no_curve():
    alone = curve(metric="conciseness", variant="curve", explainer="", explainer_params="")
    counts = series(np.ones((40, 2)), metric="f1", steps=(0.0, 1.0), aggregations=("ratios",))
    figure = draw_curves([alone, counts])
    assert legend_of(figure) == ["the model alone"]
    assert [panel.get_xlabel() for panel in panels(figure)] == ["threshold parameter τ"]
