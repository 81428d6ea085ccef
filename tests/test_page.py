"""The page of a board, read as a file: nothing leaves it, nothing in it is markup that should not be."""

import base64
import hashlib
import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from interpeval.leaderboards.board import Source, merge
from interpeval.leaderboards.csv_table import csv_text
from interpeval.leaderboards.page import Notes, page
from interpeval.leaderboards.page_gallery import Gallery, GallerySample, Picture
from interpeval.leaderboards.page_notes import MetricNote
from interpeval.leaderboards.record import COLUMNS, records
from leaderboard_cases import not_applicable, record, series

HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</script><!--", "{{ 7 * 7 }}", "&lt;b&gt;",
    "javascript:alert(1)", "=cmd()", "a\x1b[2Jb",
)  # fmt: skip
VOID = {"meta", "link", "img", "input", "br", "wbr"}


class Page(HTMLParser):
    """Elements of a page with what they hold; complains about what does not nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self._open = [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", **dict(attrs)})

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, tag, **attributes):
        return [
            element
            for element in self.elements
            if element["tag"] == tag
            and all(element.get(name.rstrip("_")) == value for name, value in attributes.items())
        ]


def board_of(*rows):
    return merge([Source("a", rows)])


def row(name, value, half=0.01, **changes):
    return record(value, explainer=name, ci_low=value - half, ci_high=value + half, **changes)


def run_board():
    """A board with samples, curves, costs and a gap."""
    items = [
        series(np.linspace(0, 1, 40) + shift, explainer=name) for name, shift in (("a", 0), ("b", 0.5), ("random", -1))
    ]
    items += [
        series(np.full(40, 2.0), explainer=name, metric="cost", variant="forward", higher_is_better=False)
        for name in "ab"
    ]
    items += [series(np.ones((40, 2)), explainer="a", metric="deletion", variant="probability", steps=(0.0, 1.0))]
    items += [not_applicable("it has no masks", explainer="b", metric="top_k")]
    return merge([Source("run", records(items, seed=0), items)])


def gallery(*ids, target=""):
    picture = Picture(b"png", "what it shows", "± 1")
    samples = [GallerySample(name, picture, picture, {("a", "{}"): picture, ("b", "{}"): picture}) for name in ids]
    return Gallery(("digits", "5a", "lenet", "7c", 0), samples, target)


NOTES = Notes(
    title="a run",
    commands=["interpeval run quickstart"],
    suite='name = "quickstart"',
    facts=[("commit", "0123abc")],
    left_out=["coco: 3 × no outline"],
    faults=["digits · a: nan on 2 samples: its map has NaN"],
    metrics={"pointing_game": MetricNote("Share of hits.", (0.0, None), "Zhang 2018")},
    galleries=[gallery("sample/0", "sample/7")],
    percentile=99.5,
    colours=[(0.0, "#0000ff"), (1.0, "#ff0000")],
)


@pytest.fixture(scope="module")
def full():
    return page(run_board(), NOTES)


def test_the_policy_allows_this_style_and_script_and_nothing_else(full):
    found = Page(full)
    [policy] = [meta["content"] for meta in found.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    [style], [script] = found.all("style"), [one for one in found.all("script") if "type" not in one]
    digests = [base64.b64encode(hashlib.sha256(one["text"].encode()).digest()).decode() for one in (style, script)]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def test_nothing_in_the_page_leads_out_of_it(full):
    found = Page(full)
    links = [
        element[name] for element in found.elements for name in ("src", "href", "action", "srcset") if name in element
    ]
    assert links
    assert [link for link in links if not link.startswith(("data:", "#"))] == []
    assert not [element for element in found.elements if "style" in element]
    assert not [name for element in found.elements for name in element if name.startswith("on")]
    assert "url(" not in found.all("style")[0]["text"]
    ids = {element["id"] for element in found.elements if "id" in element}
    assert {link[1:] for link in links if link.startswith("#")} <= ids


def test_ids_are_used_once(full):
    ids = [element["id"] for element in Page(full).elements if "id" in element]
    assert len(ids) == len(set(ids))


def test_all_sections_are_there_and_can_be_reached(full):
    found = Page(full)
    nav = [link["text"] for link in found.all("a") if link.get("href", "").startswith("#")][1:]
    assert nav == [
        "Tables", "Curves", "Ranks", "Quality against cost", "Heatmaps", "Best and worst samples", "Metrics",
        "Left out", "Provenance", "How to reproduce this",
    ]  # fmt: skip
    text = " ".join(found.all("body")[0]["text"].split())
    for words in (
        "interpeval run quickstart", 'name = "quickstart"', "0123abc", "coco: 3 × no outline", "its map has NaN",
        "for all: it has no masks (top_k)", "Share of hits.", "from 0 to ∞; Zhang 2018", "99.5th percentile",
    ):  # fmt: skip
        assert words in text


def test_pictures_have_words(full):
    pictures = Page(full).all("img")
    assert len(pictures) == 3 + 2 * 4  # charts, and the samples of the gallery
    assert all(picture["alt"] for picture in pictures)
    assert all(svg.get("aria-hidden") == "true" or svg.get("aria-label") for svg in Page(full).all("svg"))


def test_headings_and_inputs_are_named_for_those_who_do_not_see(full):
    found = Page(full)
    assert {heading.get("scope") for heading in found.all("th")} <= {"row", "col"}
    assert found.all("html")[0]["lang"] == "en"
    levels = [int(element["tag"][1]) for element in found.elements if re.fullmatch("h[1-6]", element["tag"])]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all("aria-label" in button for button in found.all("button", class_="number"))


def test_data_are_the_rows_of_the_board(full):
    [element] = Page(full).all("script", type="application/json")
    data = json.loads(element["text"])
    board = run_board()
    assert tuple(data["columns"]) == COLUMNS
    rows = [data["rows"][0]]
    for cells in data["rows"][1:]:
        rows.append([before if cell == 0 else cell for cell, before in zip(cells, rows[-1], strict=True)])
    assert [cells[COLUMNS.index("explainer")] for cells in rows] == [row.explainer for row in board.records]
    value = COLUMNS.index("value")
    assert [float(cells[value] or "nan") for cells in rows] == pytest.approx(
        [float("nan") if row.value is None else row.value for row in board.records], rel=1e-8, nan_ok=True
    )
    [scores] = data["galleries"]
    [metric] = [metric for metric in scores["metrics"] if metric["name"] == "pointing_game"]
    assert metric["scores"] == [[0.0, 0.5], [pytest.approx(7 / 39, rel=1e-5), pytest.approx(7 / 39 + 0.5, rel=1e-5)]]


def test_best_and_worst_samples_are_those_of_all(full):
    cells = [cell["text"] for cell in Page(full).all("td")]
    place = cells.index("sample/39")
    assert cells[place - 2 : place + 4] == ["pointing_game", "a", "sample/39", "1", "sample/0", "0"]


def cases_shown(found):
    """Of every row of best and worst cases: what is said of the sample, and the scores below the pictures."""
    text = found[found.index('<section id="extremes"') : found.index('<section id="metrics"')]
    rows = re.findall(r"(?s)<tr><th scope=\"row\">(.*?)</tr>", text)
    said = [" ".join(re.sub("<[^>]*>", " ", row.split("</th>")[0]).split()) for row in rows]
    return [
        (words, re.findall(r'class="score">([^<]*)<', row), row.count("<img "))
        for words, row in zip(said, rows, strict=True)
    ]


def test_the_best_and_the_worst_case_of_a_metric_are_shown_with_every_score():
    text = page(run_board(), replace(NOTES, cases=[gallery("sample/0", "sample/39")]))
    assert cases_shown(text) == [
        ("best sample/39 mean 1.25", ["1", "1.5"], 4),
        ("worst sample/0 mean 0.25", ["0", "0.5"], 4),
    ]
    summaries = [summary["text"] for summary in Page(text).all("summary")]
    assert "pointing_game ↑ best sample/39, mean 1.25; worst sample/0, mean 0.25" in summaries
    assert "Means over 2 explainers." in text


def test_a_case_without_pictures_is_left_out():
    text = page(run_board(), replace(NOTES, cases=[gallery("sample/0", "sample/7")]))
    assert [words for words, *_ in cases_shown(text)] == ["worst sample/0 mean 0.25"]
    for others in ((), [gallery("sample/7")], [gallery("sample/0", target="label")]):
        assert cases_shown(page(run_board(), replace(NOTES, cases=others))) == []


def test_one_case_is_shown_where_all_samples_are_equal():
    items = [series(np.full(4, 0.5), explainer=name, target="predicted") for name in "ab"]
    board = merge([Source("run", records(items, seed=0), items)])
    text = page(board, replace(NOTES, cases=[gallery("sample/0", "sample/1", target="predicted")]))
    assert cases_shown(text) == [("best and worst sample/0 mean 0.5", ["0.5", "0.5"], 4)]
    assert "the predicted class is explained" in text


def test_bars_reach_over_the_column_and_show_chance():
    rows = [row("a", 0.5, 0.1), row("b", 0.9, 0.1), row("random", 0.0, 0.0)]
    found = Page(page(board_of(*rows), Notes(title="t")))
    bars = found.all("rect")
    assert [(bar["x"], bar["width"]) for bar in bars] == [("40.0", "20.0"), ("80.0", "20.0"), ("0.0", "0.0")]
    assert [path["d"] for path in found.all("path", class_="chance")] == ["M0.0 0v10"] * 3
    assert "chance 0" in found.all("thead")[0]["text"]
    stated = Page(page(board_of(row("a", 0.5, 0.1, chance=0.75)), Notes(title="t")))
    assert "chance 0.75" in stated.all("thead")[0]["text"]


def test_reported_numbers_stand_in_columns_of_their_own():
    measured = record(
        0.8, dataset="cifar10", model="site", explainer="own", metric="self_consistency", variant="masked"
    )
    other = measured.model_copy(update={"explainer": "lime", "value": 0.1})
    found = Page(page(board_of(measured, other), Notes(title="t")))
    cells = [cell["text"].split() for cell in found.all("td", class_="reported")]
    assert cells == [[], ["0.886"]]  # of lime nothing is reported
    assert [th["text"].split()[-1] for th in found.all("th", class_="reported")] == ["reported"]
    assert "Reported by publications" in [h["text"] for h in found.all("h2")]
    assert not Page(page(board_of(row("a", 0.5)), Notes(title="t"))).all("td", class_="reported")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text(name):
    changes = {"dataset": name, "model": name, "metric": name, "variant": name}
    rows = [row(name, 0.9, **changes), row("b", 0.5, **changes)]
    rows += [record(None, kind="not_applicable", explainer="b", source=name, **{**changes, "metric": "other"})]
    rows += [record(0.5, kind="reported", explainer=name, source=name, **changes)]
    sample = GallerySample(name, Picture(b"", name, name), None, {(name, "{}"): Picture(b"", name, name)})
    items = [series([0.1, 0.2], ids=(name, "z"), explainer=one, **changes) for one in (name, "b")]
    notes = Notes(
        title=name, commands=[name], suite=name, facts=[(name, name)], left_out=[name], faults=[name],
        metrics={name: MetricNote(name, (0, 1), name)}, galleries=[Gallery((name, "5a", name, "7c", 0), [sample])],
        cases=[Gallery((name, "5a", name, "7c", 0), [sample])],
    )  # fmt: skip
    safe = dict.fromkeys(changes, "n")
    plain_rows = [row("n", 0.9, **safe), row("b", 0.5, **safe)]
    plain_rows += [record(None, kind="not_applicable", explainer="b", source="n", **{**safe, "metric": "other"})]
    plain_rows += [record(0.5, kind="reported", explainer="n", source="n", **safe)]
    plain_sample = GallerySample("n", Picture(b"", "n", "n"), None, {("n", "{}"): Picture(b"", "n", "n")})
    plain_items = [series([0.1, 0.2], ids=("n", "z"), explainer=one, **safe) for one in "nb"]
    plain_notes = Notes(
        title="n", commands=["n"], suite="n", facts=[("n", "n")], left_out=["n"], faults=["n"],
        metrics={"n": MetricNote("n", (0, 1), "n")}, galleries=[Gallery(("n", "5a", "n", "7c", 0), [plain_sample])],
        cases=[Gallery(("n", "5a", "n", "7c", 0), [plain_sample])],
    )  # fmt: skip
    hostile, plain = (
        Page(page(merge([Source("a", some, scored)]), said))
        for some, scored, said in ((rows, items, notes), (plain_rows, plain_items, plain_notes))
    )
    assert hostile.all("details", class_="case")
    # The same elements with the same attributes, whatever the names are; but where a line of a heading may break.
    shape, expected = (
        Counter((element["tag"], *sorted(element)) for element in found.elements if element["tag"] != "wbr")
        for found in (hostile, plain)
    )
    assert shape == expected
    assert hostile.all("title")[0]["text"] == name
    [data] = hostile.all("script", type="application/json")
    assert json.loads(data["text"])["rows"]
    assert "<" not in data["text"]


def test_the_same_board_gives_the_same_bytes_in_any_order(full):
    board = run_board()
    shuffled = merge([Source("run", list(board.records)[::-1], list(board.series)[::-1])])
    assert page(board, NOTES) == full
    assert page(shuffled, NOTES) == full


def test_without_script_every_number_is_there(full):
    shown = re.sub(r"(?s)<script.*?</script>", "", full)
    for record_ in run_board().records:
        if record_.value is not None and record_.metric == "pointing_game":
            assert f"{record_.value:.3f}" in shown
    assert 'id="controls" hidden' in full


def test_formulas_are_guarded_in_the_table_of_the_same_board():
    text = csv_text(board_of(row("=cmd()", 0.5)).records)
    assert ",'=cmd()," in text
