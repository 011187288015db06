"""The page in a real browser, from a file: drawn, moved by keyboard, read on a phone, in the dark, without scripts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spherood.benchmark.result import ScoreResult
from spherood.report import Content, write_page
from spherood.report.curves import curves
from spherood.report.table import percent

for library in ("altair", "jinja2", "vl_convert"):
    pytest.importorskip(library, reason="the extra report is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on this machine"),
]
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(content: Content, hostile: Content, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    write_page(folder / "page.html", content)
    write_page(folder / "hostile.html", hostile)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, folder: Path) -> Iterator[Open]:
    """Open a page; when the test ends, nothing may have been logged, thrown or asked of any network."""
    trouble: list[str] = []
    contexts = []

    def open_(name: str = "page.html", width: int = 1280, drawn: bool = True, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else trouble.append(request.url),
        )
        page.goto((folder / name).as_uri())
        if drawn:
            page.wait_for_selector("html[data-drawn]", timeout=20_000)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert trouble == []


def shown(hits: np.ndarray[Any, Any]) -> str:
    return percent(float(hits.mean())) + "\N{NO-BREAK SPACE}%"


def assert_numbers(page: Any, result: ScoreResult, threshold: float) -> None:
    """What the page says is what the raw scores say."""
    assert page.text_content("#id-kept") == shown(result.id_score <= threshold)
    assert page.text_content("#id-alarms") == shown(result.id_score > threshold)
    for card, name in enumerate(("svhn", "tin")):
        assert page.text_content(f"#card-{card} .caught") == shown(result.ood_score[name] > threshold)
        assert page.text_content(f"#card-{card} .missed") == shown(result.ood_score[name] <= threshold)


def test_all_charts_are_drawn(open_page: Open) -> None:
    page = open_page()
    assert page.locator(".histogram svg").count() == 2
    assert page.locator(".roc svg").count() == 2
    assert page.locator("#training svg").count() == 1  # a history without rows has no curve
    assert page.locator("#card-0 .histogram svg .mark-rect path").count() > 40


def test_the_slider_starts_at_the_calibrated_threshold_and_moves_by_keyboard(open_page: Open, content: Content) -> None:
    page, result = open_page(), content.evaluations[1].scores["knn"]
    drawn = curves("CIDER", result)
    assert page.input_value("#threshold") == str(drawn.calibrated)
    assert page.text_content("#is-calibrated") == "calibrated"
    assert page.text_content("#promise") == "promised: at most 5 %, with 95 % confidence"
    assert_numbers(page, result, result.threshold)
    line = page.locator("#card-0 .histogram svg").inner_html()
    page.focus("#threshold")
    for _ in range(7):
        page.keyboard.press("ArrowLeft")
    assert_numbers(page, result, drawn.grid[drawn.calibrated - 7])
    assert page.text_content("#is-calibrated") == "lower: more alarms"
    bound = 100 * drawn.bound[drawn.calibrated - 7]
    assert bound > 100 * (1 - drawn.id_group.kept[drawn.calibrated - 7] / drawn.id_group.size)
    assert (
        page.text_content("#promise")
        == f"at most {bound:.1f}\N{NO-BREAK SPACE}%, 95\N{NO-BREAK SPACE}% confidence over the whole curve"
    )
    page.wait_for_function("old => document.querySelector('#card-0 .histogram svg').innerHTML !== old", arg=line)
    page.wait_for_function("document.querySelector('#status').textContent.startsWith('CIDER · knn, threshold ')")
    page.keyboard.press("Home")
    assert_numbers(page, result, drawn.grid[0])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "reset"
    page.keyboard.press("Enter")
    assert_numbers(page, result, result.threshold)
    assert page.evaluate("document.activeElement.id") == "threshold"


def test_the_selector_switches_the_score(open_page: Open, content: Content) -> None:
    page, result = open_page(), content.evaluations[0].scores["msp"]
    assert page.locator("#row option").all_text_contents() == ["CIDER · knn", "plain · knn", "plain · msp"]
    page.select_option("#row", label="plain · msp")
    assert_numbers(page, result, result.threshold)
    assert page.text_content("#card-0 .auroc") == "70.0\N{NO-BREAK SPACE}%"


def test_the_tabs_show_one_table_each_and_obey_the_arrow_keys(open_page: Open) -> None:
    page = open_page()
    assert [page.locator(f"#panel-{i}").is_visible() for i in (1, 2, 3, 4)] == [True, False, False, False]
    page.focus("#measure-1")
    page.keyboard.press("ArrowRight")
    assert [page.locator(f"#panel-{i}").is_visible() for i in (1, 2, 3, 4)] == [False, True, False, False]


def test_a_phone_scrolls_tables_not_the_page(open_page: Open) -> None:
    page = open_page(width=360)
    page.click("summary")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("(e => e.scrollWidth > e.clientWidth)(document.querySelector('.scroll'))")


def test_the_dark_page_is_dark_and_its_charts_follow(open_page: Open) -> None:
    page = open_page(color_scheme="light")

    def luminances(selector: str, what: str) -> list[float]:
        script = "([s, w]) => [...document.querySelectorAll(s)].map(e => getComputedStyle(e)[w])"
        return [sum(map(float, colour[4:-1].split(","))) / 765 for colour in page.evaluate(script, [selector, what])]

    assert luminances("body", "backgroundColor")[0] > 0.9
    assert max(luminances("svg text", "fill")) < 0.5
    page.emulate_media(color_scheme="dark")
    assert luminances("body", "backgroundColor")[0] < 0.15
    assert min(luminances("svg text", "fill")) > 0.5


def test_without_scripts_tables_and_images_remain(open_page: Open) -> None:
    page = open_page(drawn=False, java_script_enabled=False)
    assert page.locator("#tables table").first.is_visible()
    assert page.locator("#images img").first.is_visible()
    assert not page.locator(".controls").is_visible()
    assert page.get_by_text("The charts need JavaScript").is_visible()


def test_hostile_names_run_nothing(open_page: Open) -> None:
    page = open_page("hostile.html")
    page.select_option("#row", index=1)
    assert page.evaluate("window.hacked") is None
    assert "window.hacked" in page.text_content("#card-0 h3")
