"""The picture of depths."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from interpeval.leaderboards.depths import LINES, PANELS, DepthGroup, depths_figure, draw_depths


def group(name: str = "apple", count: int = 2, seed: int = 0) -> DepthGroup:
    generator = np.random.default_rng(seed)
    right = np.arange(count) % 2 == 0
    return DepthGroup(name, "PCA (5 components)", generator.random(40), generator.random(count) / 4, right, 0.0123)


def panels(figure: Figure) -> list[Axes]:
    return [panel for panel in figure.axes if panel.get_visible()]


def test_bars_hold_the_reference_group_and_lines_stand_at_the_disagreeing_samples() -> None:
    shown = group(count=3)
    [panel] = panels(draw_depths([shown]))
    assert sum(bar.get_height() for bar in panel.patches) == 40
    for bar in panel.patches:
        inside = (shown.reference >= bar.get_x()) & (shown.reference < bar.get_x() + bar.get_width())
        assert inside.sum() == bar.get_height()
    assert [line.get_xdata()[0] for line in panel.lines] == shown.depths.tolist()
    colours = [to_hex(line.get_color()) for line in panel.lines]
    assert colours[0] == colours[2] != colours[1]  # right, wrong, right


@pytest.mark.parametrize("all_right", [False, True])
def test_too_many_lines_become_shares_of_right_and_wrong(all_right: bool) -> None:
    shown = group(count=LINES + 1)
    if all_right:
        shown = shown._replace(right=np.ones_like(shown.right))
    [panel] = panels(draw_depths([shown]))
    assert not panel.lines
    bars = [patch for patch in panel.patches if isinstance(patch, Rectangle)]
    edges = [*(bar.get_x() for bar in bars), bars[-1].get_x() + bars[-1].get_width()]
    np.testing.assert_allclose([bar.get_height() for bar in bars], np.histogram(shown.reference, edges)[0] / 40)
    outlines = [patch.get_xy()[1:-1:2, 1] for patch in panel.patches if isinstance(patch, Polygon)]
    parts = [shown.depths[shown.right], shown.depths[~shown.right]][: 2 - all_right]
    assert len(outlines) == len(parts)
    for outline, part in zip(outlines, parts, strict=True):
        np.testing.assert_allclose(outline, np.histogram(part, edges)[0] / len(part))
    assert panel.get_ylabel() == "share of its samples"


def test_panels_say_what_they_show() -> None:
    figure = draw_depths([group("$x_$", seed=1), group("a\x1bb", seed=2)])
    assert [panel.get_title() for panel in panels(figure)] == ["$x_$, p = 0.012", "a\\x1bb, p = 0.012"]
    assert {panel.get_xlabel() for panel in panels(figure)} == {"depth in PCA (5 components)"}
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["agreeing (reference group)", "disagreeing, model right", "disagreeing, model wrong"]


def test_of_many_classes_those_with_the_most_disagreement_are_drawn_in_their_order() -> None:
    groups = [group(str(place), count=1 + place % 2) for place in range(2 * PANELS + 4)]
    shown = [panel.get_title().split(",")[0] for panel in panels(draw_depths(groups))]
    assert shown == [str(place) for place in range(2 * PANELS) if place % 2]


def test_equal_depths_and_a_single_one_can_be_drawn() -> None:
    flat = DepthGroup("flat", "attributes (3)", np.zeros(10), np.zeros(1), np.array([True]), 1.0)
    [panel] = panels(draw_depths([flat]))
    assert sum(bar.get_height() for bar in panel.patches) == 10


def test_the_same_groups_give_the_same_bytes_whatever_the_users_settings(tmp_path: Path) -> None:
    groups = [group("a"), group("b", seed=3)]
    depths_figure(groups, tmp_path / "one.png")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        depths_figure(groups, tmp_path / "two.png")
    depths_figure(groups[:1], tmp_path / "other.png")
    one, two, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "two", "other"))
    assert one == two
    assert one != other


def test_no_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="`groups` must hold at least one class, but is empty"):
        draw_depths([])
