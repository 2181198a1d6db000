"""The report in a real Chromium: it opens from disk without a network, and everything on it can be seen, heard and reached.

Needs Chromium or Chrome on the machine (tests/conftest.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from augment.task import Pair, Task
from eval.draw import PALETTE
from eval.report.page import Report, make_page
from eval.report.screenshot import FLAGS, draw_page, find_browser, need_browser
from eval.results import Attempt, TaskResult, TestResult
from tests.eval.report.examples import CLOSE, FAR, FATES, HOSTILE, entry, example_report

LARGE = np.arange(900, dtype=np.uint8).reshape(30, 30) % 10
LONG_ID = "a-very-long-id-" * 12
ORDER = ["near", "part", HOSTILE, "apart", "far", "lone", "size", "first", "second", "secret"]
"""Tasks as they are shown at first: nearest misses on top, then those of the wrong size, solved, not known."""
NAMES = """elements => elements.map(each => (each.getAttribute("aria-label") || (each.labels && each.labels.length
    ? each.labels[0].textContent : each.textContent)).trim())"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_browser()
    assert program, "these tests need Chromium or Chrome: apt install chromium"
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=program, args=[flag for flag in FLAGS if flag != "--headless"])
        yield started
        started.close()


@dataclass
class Opened:
    """A report in a browser that has no network, and what went wrong so far."""

    page: Page
    path: Path
    problems: list[str]

    def ids(self) -> list[str]:
        return self.page.locator(".open").all_inner_texts()

    def card(self, task_id: str) -> str:
        return f".card:has(.open:text-is({task_id!r}))"


def open_report(browser: Browser, folder: Path, report: Report, address: str = "", **options: object) -> Opened:
    """Write the page and open it; every request but the one for the file itself is a problem, as is a line of the console."""
    path = folder / "report.html"
    path.write_bytes(make_page(report).encode("utf-8", "xmlcharrefreplace"))
    page = browser.new_context(**({"viewport": {"width": 1280, "height": 900}, "offline": True} | options)).new_page()  # type: ignore[arg-type]
    problems: list[str] = []
    page.on("console", lambda message: problems.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("request", lambda request: None if request.url.split("?")[0] == path.as_uri() else problems.append(request.url))
    page.goto(path.as_uri() + address)
    return Opened(page, path, problems)


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Opened]:
    """The report of one task of each fate; what is wrong at the end fails the test."""
    found = open_report(browser, tmp_path, example_report())
    yield found
    assert not found.problems
    assert found.page.locator("img").count() == 0, "the markup of an id became an element"
    assert found.page.title().startswith("run </script>")
    found.page.context.close()


def large_report() -> Report:
    """A task of three tests of full size under a long id."""
    task = Task(LONG_ID, (Pair(LARGE, LARGE), Pair(LARGE, LARGE[:1])), (LARGE, LARGE, LARGE))
    wrong = LARGE.copy()
    wrong[29, 29] = 0
    tests = [TestResult((Attempt(wrong, 3, 0.5), Attempt(None, None, None)), 9, 4, LARGE) for _ in range(3)]
    return replace(example_report(), results=[TaskResult(task, tuple(tests)), *FATES.values()])


@pytest.mark.browser
def test_it_opens_with_its_parts_each_of_which_has_a_name_and_a_task_with_all_there_is_about_it(opened: Opened) -> None:
    page = opened.page
    for name in ("Score", "Training and time", "Votes", "What this is", "Tasks"):
        expect(page.get_by_role("region", name=name, exact=True)).to_be_visible()
    expect(page.get_by_role("navigation", name="Sections").get_by_role("link")).to_have_count(5)
    expect(page.get_by_role("status")).to_have_text("10 of 10 tasks")
    assert opened.ids() == ORDER
    card = page.locator(opened.card("near"))
    head = card.get_by_role("button", name="near")
    expect(head).to_have_attribute("aria-expanded", "false")
    head.click()
    expect(head).to_have_attribute("aria-expanded", "true")
    panel = card.locator(".panel")
    expect(panel.get_by_role("figure")).to_have_count(4 + 4 + 3)  # demonstrations; input, attempts, output; drafts
    for words in (
        "6 of 10 views, halting 0.25",
        "✗ 1 of 6 cells wrong",
        "Attempt 2: 1 of 6 cells is wrong: row 2, column 3 is gray (5), should be yellow (4)",
        "The test output was number 3 in the votes.",
    ):
        expect(panel).to_contain_text(words)
    expect(panel.get_by_role("img", name="Attempt 2: 2 rows, 3 columns")).to_have_attribute(
        "aria-label", "Attempt 2: 2 rows, 3 columns. 1 2 0 / 0 3 5. Wrong: row 2 column 3"
    )
    assert panel.locator(".drafts .title").all_inner_texts() == ["Segment 1", "Segments 2 to 3", "Segment 4"]
    expect(panel.locator(".drafts")).to_contain_text("✓ right")
    for kind in ("button", "input", "select", "canvas", "svg[role=img]", "a"):
        names = page.locator(kind).evaluate_all(NAMES)
        assert names and all(names), f"{kind}: {names}"
    head.click()
    expect(panel).to_be_hidden()


@pytest.mark.browser
def test_addresses_filters_and_search_choose_tasks_and_say_so(opened: Opened) -> None:
    page, status = opened.page, opened.page.get_by_role("status")
    page.get_by_role("link", name="missed by 5 cells or fewer").click()
    expect(page.locator('[aria-pressed="true"]')).to_have_text("Near miss 2")
    page.evaluate("location.hash = '#task=far'")
    expect(page.get_by_role("button", name="far")).to_have_attribute("aria-expanded", "true")
    expect(page.get_by_role("button", name="far")).to_be_in_viewport()
    assert opened.ids() == ORDER
    search = page.get_by_role("searchbox")
    for text, wanted in {"EA": ["near"], "nothing": [], "": ORDER}.items():
        search.fill(text)
        assert opened.ids() == wanted
        expect(status).to_contain_text(f"{len(wanted)} of 10 tasks" if wanted else "No task of 10 fits")
    for name, wanted in {
        "Solved": ["first", "second"],
        "Attempt 1 alone right": ["part", "first"],
        "Attempt 2 alone right": ["second"],
        "Near miss": ["near", "part"],
        "Wrong size": ["size"],
        "No agreement": ["apart"],
        "No prediction": ["lone"],
    }.items():
        page.get_by_role("group", name="Show").get_by_role("button", name=f"{name} {len(wanted)}").click()
        assert opened.ids() == wanted, name
        expect(page.locator('[aria-pressed="true"]')).to_have_text(f"{name} {len(wanted)}")
        expect(status).to_contain_text(f"{len(wanted)} of 10 tasks: {name.lower()}")
    page.get_by_label("Near miss: up to").fill("6")
    assert opened.ids() == ["near", "part", HOSTILE, "apart", "far", "lone"]


@pytest.mark.browser
def test_all_of_it_can_be_done_with_the_keyboard(opened: Opened) -> None:
    page = opened.page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the tasks")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="All 10")).to_be_focused()
    first, second = (page.locator(opened.card(name)).get_by_role("button", name=name) for name in ("near", "part"))
    for _ in range(20):
        if first.evaluate("button => button === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(second).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(first).to_be_focused()
    page.keyboard.press("Enter")
    expect(first).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    expect(first).to_have_attribute("aria-expanded", "false")
    expect(first).to_be_focused()


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("dark", 1280)])
def test_large_tasks_fit_narrow_and_wide_screens(browser: Browser, tmp_path: Path, scheme: str, width: int) -> None:
    size = {"width": width, "height": 800}
    opened = open_report(browser, tmp_path, large_report(), f"#task={LONG_ID}", viewport=size, color_scheme=scheme)
    expect(opened.page.locator(".expanded .panel")).to_be_visible()
    expect(opened.page.locator(".panel canvas")).to_have_count(4 + 3 * 3)
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert opened.page.evaluate(fits), "the page is wider than the screen"
    ground = opened.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(ground) < 200) == (scheme == "dark")
    assert not opened.problems
    opened.page.context.close()


@pytest.mark.browser
def test_parts_of_a_page_are_drawn_into_files(tmp_path: Path) -> None:
    page = tmp_path / "a report.html"
    page.write_bytes(make_page(example_report()).encode())
    for part in ("filter=near", f"task={HOSTILE}"):
        drawn = tmp_path / "new" / "part.png"
        draw_page(page, part, drawn, 700, dark=part == "filter=near")
        with Image.open(drawn) as picture:
            assert picture.width == 700 and 300 < picture.height < 2000
            assert (sum(picture.getpixel((3, 3))) < 200) == (part == "filter=near")  # type: ignore[arg-type]
            colors = {"#" + bytes(color).hex().upper() for count, color in picture.getcolors(1 << 24) or () if count > 200}
        assert colors >= set(PALETTE[1:5])


@pytest.mark.browser
def test_a_picture_says_how_many_tasks_a_filter_has(browser: Browser, tmp_path: Path) -> None:
    tasks = [entry(f"task{number}", (FAR, 6), (CLOSE, 2)) for number in range(30)]
    page = open_report(browser, tmp_path, replace(example_report(), results=tasks), "?picture#filter=all").page
    expect(page.locator("#count")).to_have_text("30 of 30 tasks, the first 24 shown")
    page.context.close()


@pytest.mark.browser
def test_a_page_has_no_height_where_there_is_nothing_to_draw(browser: Browser, tmp_path: Path) -> None:
    opened = open_report(browser, tmp_path, example_report(), "?picture#task=nope")
    assert opened.page.evaluate("document.documentElement.dataset.height") is None


def test_a_machine_without_a_browser_is_told_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ARC_BROWSER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_browser() is None
    with pytest.raises(ValueError, match="apt install chromium"):
        need_browser()
    (tmp_path / "mine").touch(0o755)
    monkeypatch.setenv("ARC_BROWSER", "mine")
    assert find_browser() == tmp_path / "mine"
    fails, draws_nothing = "echo of no use >&2; exit 3", "echo"
    for script, kind, says in (
        (fails, OSError, "mine: ended with 3: of no use"),
        (draws_nothing, ValueError, "has no task nope"),
    ):
        (tmp_path / "mine").write_text(f"#!/bin/sh\n{script}\n")
        with pytest.raises(kind, match=says):
            draw_page(tmp_path / "page.html", "task=nope", tmp_path / "page.png", 700, dark=False)
    assert not (tmp_path / "page.png").exists()
    monkeypatch.setenv("ARC_BROWSER", "yours")
    with pytest.raises(ValueError, match="ARC_BROWSER names yours"):
        find_browser()
