"""Pictures of a board."""

import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest

from interpeval.leaderboards.board import Source, merge
from interpeval.leaderboards.charts import cost_charts, curve_charts, rank_charts, svg_of
from interpeval.leaderboards.curves import draw_curves
from interpeval.leaderboards.record import records
from leaderboard_cases import series


def board(*items):
    return merge([Source("run", records(items, seed=0), items)])


def scores(name, shift, **changes):
    return series(np.linspace(0, 1, 40) + shift, explainer=name, **changes)


def cost(name, passes, variant="forward"):
    return series(np.full(40, float(passes)), explainer=name, metric="cost", variant=variant, higher_is_better=False)


def curve(name, **changes):
    values = np.random.default_rng(0).normal(size=(40, 3))
    return series(values, explainer=name, metric="deletion", variant="probability", steps=(0.0, 0.5, 1.0), **changes)


NAMES = ("a", "$x_{$", "<b>&\x1b")
ALL = board(
    *(scores(name, 0.5 * i) for i, name in enumerate(NAMES)),
    *(cost(name, 10**i) for i, name in enumerate(NAMES)),
    *(cost(name, 1, "backward") for name in NAMES),
    *(curve(name) for name in NAMES),
    scores("random", -1),
)


@pytest.mark.parametrize("make", [curve_charts, rank_charts, cost_charts])
def test_charts_are_svg_that_stands_alone_and_shows_names_as_they_are(make):
    [chart] = make(ALL)
    root = ET.fromstring(chart.svg)  # noqa: S314  # our own
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = {"".join(text.itertext()).strip() for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert words >= {"a", "$x_{$", "<b>&\\x1b"}
    links = [value for node in root.iter() for name, value in node.attrib.items() if name.endswith(("href", "src"))]
    assert all(link.startswith("#") for link in links)
    assert not re.search(rb"\d{4}-\d\d-\d\d|style=|matplotlib|@import|url\((?!#)", chart.svg)


@pytest.mark.parametrize("make", [curve_charts, rank_charts, cost_charts])
def test_the_same_board_gives_the_same_bytes_whatever_the_users_settings(make):
    first = [chart.svg for chart in make(ALL)]
    with mpl.rc_context({"svg.hashsalt": "other", "svg.fonttype": "path", "axes.facecolor": "black", "font.size": 20}):
        assert [chart.svg for chart in make(ALL)] == first


def test_words_for_those_who_do_not_see_say_what_is_drawn():
    [ranks], [costs] = rank_charts(ALL), cost_charts(ALL)
    assert "First: pointing_game: <b>&\\x1b." in ranks.alt
    # Forward and backward passes, of explainers that compete.
    assert "Passes of the model for one explanation: $x_{$ 11, <b>&\\x1b 101, a 2." in costs.alt


def test_shortening_moves_no_point_by_more_than_a_tenth(monkeypatch):
    items = [curve("a")]
    short = svg_of(lambda: draw_curves(items)).decode()
    monkeypatch.setattr("interpeval.leaderboards.charts._compact", lambda text: text)
    full = svg_of(lambda: draw_curves(items)).decode()
    numbers = [
        np.array(
            [float(number) for path in re.findall(r' d="([^"]*)"', text) for number in re.findall(r"-?[\d.]+", path)]
        )
        for text in (short, full)
    ]
    assert len(numbers[0]) == len(numbers[1]) > 50
    assert np.abs(numbers[0] - numbers[1]).max() <= 0.051
    assert len(short) < 0.6 * len(full)


def test_nothing_is_drawn_of_what_is_not_there():
    alone = board(scores("a", 0))
    assert [make(alone) for make in (curve_charts, rank_charts, cost_charts)] == [[], [], []]
