"""A page is one file, safe whatever ids hold, and tells the score without a script."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from augment.canvas import encode
from augment.grid import Grid
from augment.task import Pair, Task
from eval.report.gallery import describe_votes, gallery_data
from eval.report.page import Report, make_page
from eval.report.summary import votes_section
from eval.results import Attempt, Draft, TaskResult, TestResult
from tests.eval.report.examples import FATES, HOSTILE, Reader, example_report

PARTS = ("score", "training", "votes", "about", "gallery")


@pytest.fixture(scope="module")
def page() -> str:
    return make_page(example_report())


def data_of(page: str) -> list[dict[str, Any]]:
    (text,) = re.findall(r'<script type="application/json" id="tasks">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_markup_in_names_is_shown_as_text_and_ids_come_back_from_the_data_as_they_were(page: str) -> None:
    assert [task["id"] for task in data_of(page)] == list(FATES)
    reader = Reader(page)
    assert "img" not in reader.tags
    assert not any(name.startswith("on") for name in reader.attributes)
    assert reader.tags.count("script") == 2
    assert f"run {HOSTILE}" in "".join(reader.texts["h1"])
    assert page.count("onerror") == page.count("onerror=&quot;") + page.count('onerror=\\"')


def test_an_id_that_is_no_text_is_written_all_the_same() -> None:
    task = replace(FATES["first"].task, id="\ud800 \u2028 ü")
    page = make_page(replace(example_report(), results=[replace(FATES["first"], task=task)]))
    assert data_of(page)[0]["id"] == task.id
    page.encode("utf-8", "xmlcharrefreplace")


def test_nothing_is_loaded_and_only_the_own_script_may_run(page: str) -> None:
    addresses = [attributes.get(name) for _, attributes in Reader(page).elements for name in ("src", "href", "action")]
    assert {address for address in addresses if address} == {"data:,", "#filter=near", *(f"#{part}" for part in PARTS)}
    assert "http" not in page.replace("http-equiv", "").replace("https://www.w3.org", "")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert policy[1].startswith("default-src 'none'; ")
    for name in ("script", "style"):
        (text,) = re.findall(rf"<{name}>(.*?)</{name}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy[1]


def test_without_a_script_the_page_has_the_score_under_three_rules_and_every_verdict(page: str) -> None:
    text = " ".join(Reader(page).texts["dt"])
    for rule in ("mean over tasks of the fraction solved", "per test output", "all-or-nothing per task"):
        assert rule in text
    spoken = " ".join(Reader(page).texts["p"])
    assert "3 of 10 test outputs solved: 2 only by attempt 1, 1 only by attempt 2, 0 by both." in spoken
    assert "1 output has no attempt of the right size." in spoken
    assert "The outputs of 1 task more are not known; they do not count." in spoken
    assert "<td>missed by 1 of 6 cells</td>" in page.split("<noscript>")[1].split("</noscript>", maxsplit=1)[0]


def test_without_solutions_the_page_says_so_and_judges_nothing() -> None:
    results = [FATES["secret"]]
    page = make_page(Report("run", "kaggle:x:test", results, None, "Kaggle keeps them."))
    assert "Solutions unknown." in page
    assert "Kaggle keeps them." in page
    assert "pass@2" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    (task,) = data_of(page)
    assert (task["known"], task["missed"], task["tests"][0]["truth"]) == (False, None, None)
    assert [attempt["verdict"] for attempt in task["tests"][0]["attempts"]] == [None, None]


def test_tests_whose_outputs_are_not_known_are_neither_right_nor_wrong() -> None:
    page = votes_section([FATES["first"], FATES["secret"]])
    assert "1 of 1 right ones and 0 of 0 wrong ones have half or more" in page


def test_puzzles_have_a_score_and_no_gallery() -> None:
    page = make_page(Report("run", "sudoku", rows=[("Puzzles with every cell right", "97.1% (<1)")]))
    assert "97.1% (&lt;1)" in page
    assert 'id="gallery"' not in page


def test_ids_of_a_page_are_unique_and_labels_point_to_them(page: str) -> None:
    elements = Reader(page).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [attributes["aria-labelledby"] for _, attributes in elements if "aria-labelledby" in attributes]
    assert len(named) == 5
    assert set(named) <= set(ids)


def test_drafts_are_judged_and_equal_neighbors_told_once() -> None:
    (task,) = json.loads(gallery_data([FATES["near"]]))
    drafts = task["tests"][0]["drafts"]
    assert task["tests"][0]["input"] == "012|340"
    assert [draft["grid"] is None for draft in drafts] == [False, False, True, False]
    assert drafts[1]["grid"] == "120#|035#|###."
    assert [draft["p"] for draft in drafts] == [0.1, 0.2, 0.3, None]
    assert drafts[0]["verdict"] == {"right": False, "text": "6 of 6 cells wrong"}
    assert drafts[3]["verdict"] == {"right": True, "text": "right"}


@pytest.mark.parametrize(
    ("fate", "words"),
    [
        ("near", "10 views voted for 4 different grids. The test output was number 3 in the votes."),
        ("far", "10 views voted for 4 different grids. No view predicted the test output."),
        ("second", "10 views voted for 4 different grids."),
        ("lone", "No view was predicted: both attempts are fallbacks."),
    ],
)
def test_votes_are_told_in_words(fate: str, words: str) -> None:
    assert describe_votes(FATES[fate].tests[0]) == words


def test_400_tasks_of_full_size_with_16_drafts_each_stay_under_20_megabytes() -> None:
    generator = np.random.default_rng(0)

    def noise() -> Grid:
        return generator.integers(0, 10, (30, 30), dtype=np.uint8)

    results = []
    for number in range(10):
        drafts = tuple(Draft(encode(noise(), 30, 30), 0.5) for _ in range(16))
        test = TestResult((Attempt(noise(), 3, 0.5), Attempt(noise(), 2, 0.5)), 1000, 900, noise(), 0, drafts)
        task = Task(f"{number:08x}", tuple(Pair(noise(), noise()) for _ in range(4)), (noise(),))
        results.append(TaskResult(task, (test,)))
    empty, full = (len(make_page(replace(example_report(), results=each))) for each in ([], results))
    assert 100_000 < 40 * (full - empty) + empty < 20_000_000
