"""The page in a headless Chromium: its script does what it says, and nothing leaves the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from interpeval.bench.boards import write_board
from interpeval.bench.engine import Options
from interpeval.bench.run import run
from interpeval.bench.suite import Experiment, Suite
from interpeval.leaderboards.csv_table import write_csv
from leaderboard_cases import record

TOYS = Path(__file__).parent / "toys.py"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium of the system, without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        # Containers run tests as root, where Chromium starts without its sandbox only.
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a small run."""
    folder = tmp_path_factory.mktemp("run")
    experiment = Experiment(
        dataset=f"{TOYS}:Squares",
        model=f"{TOYS}:network",
        explainers=("gradient", "gradcam"),
        metrics=("pointing_game", "content_heatmap", "mask_k_pixels", "accuracy", "cost"),
        limit=12,
    )
    run(Suite(name="toys", experiments=(experiment,)), folder, Options(device=torch.device("cpu")))
    return folder / "report.html"


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Any]:
    """The page, which must have no error and ask for nothing by the end of the test."""
    yield from _opened(browser, report)


def _opened(browser: Any, path: Path, **context: Any) -> Iterator[Any]:
    with browser.new_context(**context) as context_:
        page = context_.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        yield page
        assert said == []
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [path.as_uri()]


def names(page: Any) -> list[str]:
    """Rows that are shown, from top to bottom."""
    return page.eval_on_selector_all(
        "table.board tbody tr", "rows => rows.filter(r => r.offsetParent).map(r => r.cells[0].dataset.sort)"
    )


def column(page: Any, name: str) -> list[float | None]:
    """Values of a column from top to bottom; `None` where there is none."""
    return page.evaluate(
        """name => { const table = document.querySelector("table.board");
        const place = [...table.tHead.rows[0].cells].findIndex(cell => cell.dataset.name === name);
        return [...table.tBodies[0].rows].map(row => row.cells[place].dataset.sort ?? null)
            .map(text => text === null ? null : Number(text)); }""",
        name,
    )


def heading(page: Any, name: str) -> Any:
    return page.locator(f'table.board th[data-name="{name}"]')


@pytest.mark.parametrize(("name", "higher"), [("pointing_game", True), ("cost forward", False)])
def test_a_click_on_a_heading_sorts_the_better_first_and_another_one_the_worse(
    opened: Any, name: str, *, higher: bool
) -> None:
    values = column(opened, name)
    assert len(set(values)) > 1
    heading(opened, name).get_by_role("button").click()
    assert column(opened, name) == sorted(values, reverse=higher)
    assert heading(opened, name).get_attribute("aria-sort") == ("descending" if higher else "ascending")
    heading(opened, name).get_by_role("button").press("Enter")
    assert column(opened, name) == sorted(values, reverse=not higher)
    heading(opened, "explainer").get_by_role("button").click()
    assert names(opened) == sorted(names(opened))
    assert heading(opened, name).get_attribute("aria-sort") == "none"


def test_filters_leave_what_matches(opened: Any) -> None:
    every = names(opened)
    opened.get_by_role("searchbox", name="Explainers").fill("GRAD")
    assert names(opened) == ["gradcam", "gradient"]
    assert opened.locator("#count").inner_text() == f"2 of {len(every)} rows"
    opened.get_by_role("searchbox", name="Explainers").fill("")
    opened.get_by_label("controls").uncheck()
    assert names(opened) == ["gradcam", "gradient"]
    opened.get_by_label("controls").check()
    opened.get_by_role("searchbox", name="Metrics").fill("heatmap")
    shown = [cell.get_attribute("data-name") for cell in opened.locator("table.board thead th:visible").all()]
    assert shown == ["explainer", "content_heatmap"]
    assert opened.locator("table.board tbody tr").first.locator("td:visible").count() == 1
    assert names(opened) == every


def test_intervals_can_be_hidden(opened: Any) -> None:
    assert opened.locator("svg.bar").first.is_visible()
    opened.get_by_label("intervals").uncheck()
    assert not opened.locator("svg.bar").first.is_visible()


def test_a_number_says_where_it_comes_from(opened: Any) -> None:
    opened.locator("table.board tbody tr", has_text="gradcam").locator("button.number").first.click()
    dialog = opened.get_by_role("dialog")
    facts = dict(zip(dialog.locator("dt").all_inner_texts(), dialog.locator("dd").all_inner_texts(), strict=True))
    assert (facts["explainer"], facts["metric"], facts["n"], facts["kind"]) == (
        "gradcam",
        "content_heatmap",
        "12",
        "measured",
    )
    assert facts["rank"].endswith("of 2 explainers; from 1 to 2 is possible") or "is possible" in facts["rank"]
    opened.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_numbers_are_reached_by_keys(opened: Any) -> None:
    buttons = opened.locator("table.board button.number")
    assert opened.locator('table.board button.number[tabindex="0"]').count() == 1
    buttons.first.focus()
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("ArrowRight")
    label = "document.activeElement.closest('tr').cells[0].dataset.sort"
    assert opened.evaluate(label) == names(opened)[1]
    assert opened.evaluate("document.activeElement.closest('td').cellIndex") == 2
    opened.keyboard.press("Enter")
    assert opened.get_by_role("dialog").is_visible()


def test_the_download_is_the_table_of_the_run(opened: Any, report: Path) -> None:
    with opened.expect_download() as started:
        opened.get_by_role("button", name="Download as CSV").click()
    assert Path(started.value.path()).read_bytes() == report.with_name("leaderboard.csv").read_bytes()


def test_the_gallery_shows_pictures_scores_and_orders_them(opened: Any) -> None:
    pictures = opened.locator("#gallery table.gallery img")
    assert pictures.count() == 6 * (2 + 2 + 5)
    assert opened.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    opened.locator(".gallery-controls .metric").select_option(label="content_heatmap")
    opened.locator(".gallery-controls .explainer").select_option(label="gradient")
    place = opened.locator("#gallery table.gallery thead th").all_inner_texts().index("gradient")
    read = f"rows => rows.map(row => Number(row.cells[{place}].querySelector('.score').textContent))"

    def scores() -> list[float]:
        return opened.eval_on_selector_all("#gallery table.gallery tbody tr", read)

    measured = scores()
    data = json.loads(opened.locator("#data").text_content())
    [metric] = [one for one in data["galleries"][0]["metrics"] if one["name"] == "content_heatmap"]
    labels = opened.locator(".gallery-controls .explainer option").all_inner_texts()
    wanted = [row[labels.index("gradient")] for row in metric["scores"]]
    assert measured == [pytest.approx(value, rel=5e-3) for value in wanted]
    opened.locator(".gallery-controls .order").select_option("best")
    assert scores() == sorted(measured, reverse=True)
    opened.locator(".gallery-controls .order").select_option("worst")
    assert scores() == sorted(measured)
    opened.locator(".gallery-controls .order").select_option("")
    assert scores() == measured


def test_best_and_worst_cases_are_opened_by_keys_and_printed_whole(opened: Any) -> None:
    cases = opened.locator("details.case")
    assert cases.count() == 4  # content_heatmap, two numbers of mask_k_pixels, pointing_game
    assert cases.evaluate_all("all => all.map(one => one.open)") == [True, False, False, False]
    assert not cases.nth(3).locator("img").first.is_visible()
    cases.nth(3).locator("summary").focus()
    opened.keyboard.press("Enter")
    assert cases.nth(3).locator("img:visible").count() == 2 * (2 + 2 + 5)  # image, mask, explainers, controls
    assert opened.evaluate("[...document.images].every(image => image.complete && image.naturalWidth && image.alt)")
    [best, worst] = cases.nth(3).locator("tbody tr").all()
    means = [float(row.locator("th small").inner_text().split()[1]) for row in (best, worst)]
    for row, mean in zip((best, worst), means, strict=True):
        scores = [float(text) for text in row.locator(".score").all_inner_texts()]
        assert mean == pytest.approx(sum(scores[:2]) / 2, abs=2e-3)  # gradcam and gradient come before the controls
    assert means[0] > means[1]
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert cases.evaluate_all("all => all.every(one => one.open)")


def test_the_page_is_no_wider_than_a_phone_and_dark_at_night(browser: Any, report: Path) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}
    for page in _opened(browser, report, **phone):
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 20, 26)"
    for page in _opened(browser, report, color_scheme="light"):
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        page.emulate_media(media="print")
        assert not page.locator("nav").is_visible()
        assert not page.locator("#controls").is_visible()


def test_without_script_the_tables_are_there(browser: Any, report: Path) -> None:
    for page in _opened(browser, report, java_script_enabled=False):
        assert page.locator("table.board tbody tr").count() == 7
        assert not page.locator("#controls").is_visible()


def test_hostile_names_do_nothing(browser: Any, tmp_path: Path) -> None:
    changes = {"dataset": EVIL, "model": "</script><script>alert(1)</script>", "variant": "=cmd()"}
    write_csv(
        [record(0.5, explainer=EVIL, **changes), record(0.7, explainer="-b", **changes)], tmp_path / "hostile.csv"
    )
    write_board([tmp_path / "hostile.csv"], tmp_path / "out")
    for page in _opened(browser, tmp_path / "out" / "index.html"):
        assert names(page) == ["-b", EVIL]
        page.locator("button.number").first.click()
        assert page.locator("img[src=x], dialog img").count() == 0
        page.keyboard.press("Escape")
        with page.expect_download() as started:
            page.get_by_role("button", name="Download as CSV").click()
        table = Path(started.value.path()).read_bytes()
        assert table == (tmp_path / "out" / "leaderboard.csv").read_bytes()
        assert b",'-b," in table
        assert b",'=cmd()," in table


def test_a_script_that_is_not_ours_is_refused(browser: Any, report: Path, tmp_path: Path) -> None:
    """The policy is what refuses it: without the policy the same page runs it."""
    planted = report.read_text().replace(
        "</main>", "<script>document.title = 'taken'</script><p style='color:red'>x</p></main>"
    )
    policy = planted[planted.index('<meta http-equiv="Content') : planted.index('<meta name="viewport"')]
    for text, title in ((planted, "interpeval: toys"), (planted.replace(policy, ""), "taken")):
        path = tmp_path / "planted.html"
        path.write_text(text)
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(path.as_uri())
            assert page.title() == title
