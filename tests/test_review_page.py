"""The page of `augment review` in a real browser: everything by keyboard, and nothing lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import HOSTILE, HOSTILE_FILE, Reviewer, browser, settings_of, small_run
from msgspec.structs import replace

from flows import augment_dataset
from lib.review.serve import served
from lib.review.session import Session
from lib.screening.decisions import DecisionLog
from lib.screening.review import sampled

Open = Callable[..., Reviewer]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 30 pictures, painted once; tests review copies of it."""
    return small_run(tmp_path_factory.mktemp("review"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as one:
        yield one


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def review(chromium: Any) -> Iterator[Open]:
    """Opens the page at a link, as a new person in a browser of their own; all is closed at the end."""
    contexts, pages = [], []

    def opened(link: str, width: int = 1280, height: int = 800) -> Reviewer:
        context = chromium.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        pages.append(Reviewer(context.new_page(), link))
        return pages[-1]

    yield opened
    errors = [error for page in pages for error in page.errors]
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def page(run: Path, review: Open) -> Iterator[Reviewer]:
    with served(Session([run], "ann"), run) as link:
        yield review(link)


def marks(run: Path) -> dict[str, Any]:
    """Picture's name → its status, as the log has it."""
    session = Session([run], "test")
    (only,) = session.runs
    states = {item.name: only.log.of(key, item.sha256).status for key, item in only.items.items()}
    return {name: status for name, status in states.items() if status}


def final_names(run: Path) -> set[str]:
    found = json.loads((run / "final" / "annotations.json").read_bytes())
    return {one["file_name"] for one in found["images"] if "source_image_id" in one}


def finalise(prepared: Path, run: Path, **more: Any) -> dict[str, Any]:
    result = augment_dataset(**settings_of(prepared.parent, run), variants=3, **more)
    assert result.account["painted"] == 0
    return result.account


def test_a_run_is_reviewed_by_keyboard_alone_and_the_final_set_follows(prepared, run, page):
    names = []
    for key in "pxu" * 10:
        names.append(page.name())
        page.press(key)
        page.until(f"document.querySelector('#said').textContent.includes({json.dumps(names[-1])})")
    page.saved()
    assert len(set(names)) == 30
    assert page.progress().startswith("10 kept, 10 rejected, 10 without a decision")
    words = {"p": "keep", "x": "reject", "u": "undecided"}
    assert marks(run) == {name: words[key] for name, key in zip(names, "pxu" * 10, strict=True)}
    account = finalise(prepared, run)
    assert final_names(run) == {name for name, key in zip(names, "pxu" * 10, strict=True) if key != "x"}
    assert account["stages"]["review"]["rejected"] == {"rejected_by_person": 10}
    account = finalise(prepared, run, review={"undecided": "reject"})
    assert final_names(run) == {name for name, key in zip(names, "pxu" * 10, strict=True) if key == "p"}
    assert account["stages"]["review"]["rejected"] == {"rejected_by_person": 10, "undecided": 10}


def test_arrows_go_through_the_grid_by_pictures_and_rows(page):
    first = page.name()
    page.press("ArrowRight")
    second = page.name()
    page.press("ArrowDown", "ArrowUp", "ArrowLeft")
    page.page.wait_for_timeout(50)
    assert page.name() == first != second


def test_undo_takes_back_decision_after_decision_also_after_a_reload(run, page):
    first = page.name()
    page.press("p", "x")
    page.saved()
    page.press("Control+z")
    page.until("document.querySelector('#said').textContent.startsWith('Undone')")
    assert marks(run) == {first: "keep"}
    page.open()
    page.press("Control+z")
    page.until("document.querySelector('#said').textContent.startsWith('Undone')")
    assert marks(run) == {} and page.name() == first
    page.press("Control+z")
    page.until("document.querySelector('#said').textContent.startsWith('There is nothing')")


def test_a_reload_keeps_everything(page):
    page.press("p", "p", "x", "n")
    page.page.keyboard.type("too dark")
    page.press("Enter")
    page.saved()
    before = page.progress()
    name = page.name()
    page.open()
    assert page.progress() == before
    page.press("/")
    page.page.select_option("select[name=status]", "noted")
    page.until("document.querySelector('#facts').textContent.includes('Note: too dark')")
    assert page.name() == name


def test_no_key_is_lost_from_the_moment_that_pictures_are_seen(page):
    page.page.route("**/api/keys*", lambda route: (page.page.wait_for_timeout(300), route.continue_()))
    page.open()
    page.press("p", "x")
    page.saved()
    assert page.progress().startswith("1 kept, 1 rejected, 28 ")


def test_the_filter_shows_what_it_says(page):
    page.press("p", "x", "x")
    page.saved()
    for status, count in (("keep", 1), ("reject", 2), ("open", 27), ("undecided", 0), ("", 30)):
        page.page.select_option("select[name=status]", status)
        page.until(f"document.querySelector('#progress').textContent.includes('; {count} of 30')")
    page.page.select_option("select[name=category]", "forklift")
    page.until("/; \\d+ of 30/.test(document.querySelector('#progress').textContent)")
    assert page.said() == "30 pictures of 30".replace("pictures of 30", "of 30 pictures")


def test_a_rejected_box_is_not_in_the_final_set_and_a_moved_one_is_where_it_was_put(prepared, run, page):
    page.press("Enter", "1", "r")
    name = page.name()
    page.page.wait_for_selector("ol.boxes .out")
    page.press("2", "m", "Shift+ArrowLeft", "ArrowUp", "Alt+ArrowRight", "Enter")
    page.until("document.querySelector('ol.boxes').textContent.includes('moved by a person')")
    page.saved()
    before = json.loads((run / "final" / "annotations.json").read_bytes())
    finalise(prepared, run)
    after = json.loads((run / "final" / "annotations.json").read_bytes())

    def boxes(coco: dict[str, Any]) -> list[list[float]]:
        (image,) = [one["id"] for one in coco["images"] if one["file_name"] == name]
        return [one["bbox"] for one in coco["annotations"] if one["image_id"] == image]

    (_, (x, y, w, h)), (moved,) = boxes(before), boxes(after)
    assert moved == [max(0, x - 10), max(0, y - 1), w + 1, h]


def test_of_a_run_with_more_pictures_than_a_page_holds_it_shows_random_ones_and_says_so(run, review, monkeypatch):
    everything = Session([run], "ann").runs[0]
    monkeypatch.setattr("lib.review.session.MOST", 7)
    session = Session([run], "ann")
    (few,) = session.runs
    assert few.items == {key: everything.items[key] for key in few.items} and len(few.items) == 7
    assert few.total == len(everything.items) and few.items.keys() == sampled(everything.items, 7)
    assert (few.categories, few.real, few.set_aside) == (everything.categories, everything.real, everything.set_aside)
    assert {item.source for item in few.items.values()} <= few.sources.keys()
    with served(session, run) as link:
        page = review(link)
        page.until("!document.querySelector('#banner').hidden")
        assert f"a random 7 of {few.total} pictures" in page.page.locator("#banner").inner_text()


def test_a_box_is_moved_and_resized_with_the_mouse(run, page):
    page.press("Enter", "1")
    handle = page.page.locator("rect.handle[data-corner=se]").bounding_box()
    page.page.mouse.move(handle["x"] + 3, handle["y"] + 3)
    page.page.mouse.down()
    page.page.mouse.move(handle["x"] - 20, handle["y"] - 30, steps=3)
    page.page.mouse.up()
    page.until("document.querySelector('ol.boxes').textContent.includes('moved by a person')")
    page.saved()
    (only,) = Session([run], "test").runs
    (state,) = only.log.pictures().values()
    (shape,) = state.shapes.values()
    item = next(item for item in only.items.values() if only.log.of(item.key, item.sha256).shapes)
    (before,) = [box.xywh for box in item.boxes if box.id in state.shapes]
    assert shape.xywh[:2] == before[:2] and shape.xywh[2] < before[2] and shape.xywh[3] < before[3]


def test_of_what_was_made_of_a_source_the_best_is_picked_and_one_undo_takes_it_back(run, page):
    page.press("c")
    assert page.page.locator("#compare .stage").count() == 3
    page.press("2", "p")
    page.saved()
    assert sorted(marks(run).values()) == ["keep", "reject", "reject"]
    assert page.page.locator("#compare .stage").count() == 3  # the next source
    page.press("Control+z")
    page.until("document.querySelector('#said').textContent.startsWith('Undone')")
    assert marks(run) == {}


def test_of_more_pictures_of_a_source_than_are_shown_at_once_the_current_one_is_kept(run, review):
    session = Session([run], "ann")
    (only,) = session.runs
    source = next(iter(only.items.values())).source
    only.items.update({key: replace(item, source=source) for key, item in only.items.items()})
    with served(session, run) as link:
        page = review(link)
        page.page.select_option("select[name=order]", "run")
        page.page.focus("#grid")
        page.press("End")
        last, current = page.name(), page.page.locator("#compare .stage.current img")
        page.press("c")
        assert page.page.locator("#compare .stage").count() == 12 and page.name() == last
        assert current.get_attribute("alt") == last and page.said().startswith("30 pictures of")
        page.press("ArrowRight", "ArrowRight", "ArrowLeft")  # after the last comes the first
        names = [item.name for item in only.items.values()]
        assert page.name() == names[0] == current.get_attribute("alt")
        page.press("5", *["ArrowRight"] * 9)
        assert page.name() == names[13] == current.get_attribute("alt")
        page.press("1", "p")
        page.saved()
    assert marks(run) == {name: "keep" if name == names[2] else "reject" for name in names}


def test_runs_of_several_presets_are_compared_and_each_keeps_its_own_decisions(prepared, run, review, tmp_path):
    shutil.copytree(prepared, tmp_path / "other")
    other = tmp_path / "other"
    settings = json.loads((other / "settings.json").read_bytes())
    (other / "settings.json").write_text(json.dumps({**settings, "preset": "insert", "sha256": None}))
    with served(Session([run, other], "ann"), run) as link:
        page = review(link)
        assert page.progress().endswith("60 of 60 shown")
        page.press("c")
        titles = page.page.locator("#compare .title").all_inner_texts()
        assert len(titles) == 6
        page.press("4", "p")
        page.saved()
    assert sorted(marks(run).values()) == ["reject"] * 3
    assert sorted(marks(other).values()) == ["keep", "reject", "reject"]


def test_a_server_that_was_killed_loses_nothing_and_an_open_page_goes_on_with_its_next(run, review):
    def start() -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "flows.cli", "review", str(run), "--no-open", "--reviewer", "ann"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("http://127.0.0.1:"):
                return process, line.strip()
        raise AssertionError("no link")

    process, link = start()
    try:
        page = review(link)
        page.press("p", "x", "p")
        page.saved()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert sorted(marks(run).values()) == ["keep", "keep", "reject"]
        page.press("x", "x")
        page.until("document.querySelector('#unsaved').textContent.startsWith('2 not saved yet')")
        process, again = start()
        assert again == link
        page.saved()
        assert sorted(marks(run).values()) == ["keep", "keep", "reject", "reject", "reject"]
        page.open()
        assert page.progress().startswith("2 kept, 3 rejected")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        process.stdout.close()


def test_two_reviewers_see_each_others_decisions_and_how_far_they_agree(run, review):
    with served(Session([run], "ann"), run) as link:
        ann, ben = review(link), review(link)
        ben.page.fill("#reviewer", "ben <b>")
        ben.page.press("#reviewer", "Enter")
        ann.press("p", "p", "x", "x")
        ann.saved()
        ben.until("document.querySelector('#progress').textContent.startsWith('2 kept, 2 rejected')")
        ben.page.select_option("select[name=whose]", "mine")
        ben.page.focus("#grid")
        ben.press("p", "x", "x", "x")
        ben.saved()
        ben.until("document.querySelector('#agreement').textContent.includes('3 of 4')")
        assert "kappa 0.50" in ben.page.inner_text("#agreement")
        ben.page.click("#agreement button")
        ben.until("document.querySelector('#progress').textContent.includes('; 1 of 30')")
    summary = Session([run], "test").summary()
    assert summary["lines"][:3] == [
        "1 kept, 3 rejected, 26 without a decision",  # the last decision counts
        "ann: 2 kept, 2 rejected, 0 undecided",
        "ben <b>: 1 kept, 3 rejected, 0 undecided",
    ]
    assert summary["lines"][3] == "ann and ben <b>: 3 of 4 pictures alike, Cohen's kappa 0.50"


def test_a_page_that_decides_itself_learns_what_another_decided_before(run, review):
    with served(Session([run], "ann"), run) as link:
        ann, ben = review(link), review(link)
        ben.page.route("**/api/changes*", lambda route: route.abort())  # it asks too late
        ann.press("p", "p")
        ann.saved()
        ben.press("End", "x")
        ben.saved()
        ben.until("document.querySelector('#progress').textContent.startsWith('2 kept, 1 rejected')")


def test_a_decision_that_waits_stays_seen_while_the_one_before_it_is_answered(page):
    held: list[Any] = []
    page.page.route("**/api/decide", lambda route: held.append(route))
    page.press("Enter", "1", "r", "a")  # the second waits for the first
    page.until("document.querySelector('ol.boxes').textContent.includes('accepted by a person')")
    while not held:
        page.page.wait_for_timeout(20)
    held[0].continue_()
    page.until("JSON.parse(localStorage.getItem(`review ${location.pathname}`)).length === 1")
    page.drawn()
    assert "accepted by a person" in page.page.inner_text("ol.boxes")
    while len(held) < 2:
        page.page.wait_for_timeout(20)
    held[1].continue_()
    page.saved()


def test_a_start_that_names_the_reviewer_wins_over_a_name_that_was_typed_before(run, review):
    def name_after(page: Reviewer, typed: str = "") -> str:
        page.open()
        if typed:
            page.page.fill("#reviewer", typed)
            page.page.press("#reviewer", "Enter")
            page.open()
        return page.page.input_value("#reviewer")

    with served(Session([run], "account"), run) as link:
        page = review(link)
        assert page.page.evaluate("localStorage.getItem('reviewer')") is None  # nobody typed it
        assert name_after(page) == "account" and name_after(page, "ben") == "ben"
    with served(Session([run], "cleo", named=True), run) as again:
        assert again == link and name_after(page) == "cleo"
        page.press("p")
        page.saved()
        assert name_after(page, "dan") == "dan"
    with served(Session([run], "cleo", named=True), run):
        assert name_after(page) == "cleo"
    with served(Session([run], "account"), run):
        assert name_after(page) == "dan"
    assert DecisionLog(run / "decisions.jsonl").refresh().reviewers() == ["cleo"]


def test_the_bar_shows_what_would_be_finalised_and_how_many_more_a_target_takes(page):
    row = 'tr[data-category="forklift"]'
    total = int(page.page.inner_text(f"{row} .total"))
    page.press("t", "Tab")  # the second category
    page.page.keyboard.type(str(total + 2))
    page.press("Enter", "x")
    page.until(f"document.querySelector('{row} .more').textContent === '3'")
    assert int(page.page.inner_text(f"{row} .total")) == total - 1
    assert "Needs 3 more forklift." in page.page.inner_text("#balance")
    page.saved()
    page.open()
    assert page.page.input_value(f"{row} input") == str(total + 2)


def test_keys_are_changed_kept_and_never_given_twice(page):
    page.press("?")
    keep = page.page.locator("#dialog").get_by_role("button", name=re.compile("^Keep"))
    keep.focus()
    page.press("Enter", "x")
    page.until("document.querySelector('#dialog').textContent.includes('X is the key of: Reject')")
    page.press("Enter", "k")
    page.press("Escape", "k")
    page.saved()
    page.open()
    page.press("k")
    page.until("document.querySelector('#progress').textContent.startsWith('2 kept')")


def test_submitting_says_what_comes_next_and_what_becomes_of_the_rest(prepared, run, page):
    page.press("p", "x", "Control+Enter")
    page.page.wait_for_selector("#dialog[open]")
    assert "1 kept, 1 rejected, 28 without a decision" in page.page.inner_text("#dialog")
    page.press("Shift+Tab", "ArrowRight", "Tab", "Enter")
    page.until("document.querySelector('#dialog').textContent.includes('Submitted')")
    finalise(prepared, run)
    assert len(final_names(run)) == 1


def test_names_with_quotes_and_html_are_text(page):
    assert HOSTILE in page.page.inner_text("#balance")
    page.page.select_option("select[name=order]", "run")
    page.page.focus("#grid")
    page.press("Home", "Enter")
    page.until("document.querySelector('#facts').textContent.includes('window.hacked')")
    assert f"from {HOSTILE_FILE}" in page.page.inner_text("#facts")
    page.press("c", "?", "Escape", "n")
    page.page.keyboard.type(HOSTILE)
    page.press("Enter")
    page.saved()
    assert page.page.evaluate("window.hacked") is None
    assert page.page.evaluate("document.querySelectorAll('img[src=x], script:not([src])').length") == 0


def test_names_that_every_object_of_javascript_has_are_names_as_others(run, review):
    session = Session([run], "toString")
    (only,) = session.runs
    for key, item in only.items.items():
        boxes = tuple(replace(box, category="constructor") for box in item.boxes)
        only.items[key] = replace(item, boxes=boxes)
    only.categories, only.real = ("__proto__", "constructor"), {"__proto__": 3}
    count = sum(len(item.boxes) for item in only.items.values())
    with served(session, run) as link:
        page = review(link)
        page.drawn()
        totals = page.page.locator("#balance .total").all_inner_texts()
        assert totals == ["3", str(count)]
        page.page.select_option("select[name=whose]", "mine")
        assert "not decided" in page.page.inner_text("#facts")
        label = page.page.get_attribute(".cell.current", "aria-label")
        assert label.endswith(("painted: constructor", "× constructor"))
        for name in ("toString", "__proto__"):
            page.page.fill("#reviewer", name)
            page.page.press("#reviewer", "Enter")
            page.page.focus("#grid")
            page.press("Home", "p")
            page.saved()
            page.press("Home")
            page.drawn()
            assert f"{name}: kept" in page.page.inner_text("#facts")
        page.open()
        assert page.progress().startswith("1 kept, 0 rejected, 29 without")


def test_no_script_but_the_servers_own_runs_in_the_page(page):
    page.page.evaluate(
        "() => { const one = document.createElement('script'); one.textContent = 'window.hacked = 1';"
        "document.body.append(one);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\">'); }"
    )
    page.page.wait_for_timeout(100)
    assert page.page.evaluate("window.hacked") is None


def test_a_missing_picture_is_said_in_its_place_and_the_others_go_on(run, page):
    (only,) = Session([run], "test").runs
    first = next(iter(only.items.values()))
    only.store.path("picture", first.key).unlink()
    page.page.select_option("select[name=order]", "run")
    page.open()
    page.page.select_option("select[name=order]", "run")
    page.page.focus("#grid")
    page.press("Home", "Enter")
    page.page.wait_for_selector("#single .missing")
    page.press("ArrowRight")
    page.page.wait_for_selector("#single .missing", state="detached")


def test_a_run_that_is_painted_anew_while_it_is_reviewed_says_so_and_decisions_stay(prepared, run, page):
    page.press("p", "x")
    page.saved()
    former = marks(run)
    account = augment_dataset(**settings_of(prepared.parent, run), variants=2, seed=1).account
    assert account["painted"] > 0
    page.press("p")  # on a picture that the run no longer has
    page.saved()
    page.until("document.querySelector('#banner').textContent.includes('other pictures')")
    page.page.click("#banner button")
    page.until("document.querySelector('#progress').textContent.endsWith('20 of 20 shown')")
    assert page.progress().startswith("0 kept, 0 rejected") and marks(run) == {}
    finalise(prepared, run)
    assert marks(run).items() > former.items() and len(marks(run)) == 3


def test_a_decision_on_what_was_painted_anew_since_it_was_seen_is_refused_in_words(run, review):
    session = Session([run], "ann")
    with served(session, run) as link:
        page = review(link)
        session.runs[0].known.update(dict.fromkeys(session.runs[0].known, "f" * 64))  # under the same keys
        page.press("p")
        page.until("document.querySelector('#said').textContent.startsWith('Not taken')")
        assert "reload the page" in page.said()
        page.until("document.querySelector('#progress').textContent.startsWith('0 kept')")
    assert not (run / "decisions.jsonl").exists()


def test_a_phone_shows_everything_without_scrolling_sideways(run, review):
    with served(Session([run], "ann"), run) as link:
        page = review(link, 390, 800)
        page.page.click("button.keep")
        page.until("document.querySelector('#progress').textContent.startsWith('1 kept')")
        wide = "document.documentElement.scrollWidth <= window.innerWidth"
        assert page.page.evaluate(wide)
        page.press("Enter")
        assert page.page.evaluate(wide) and page.page.is_visible("#single")


def test_a_screen_reader_finds_names_roles_and_what_happened(page):
    snapshot = page.page.locator("body").aria_snapshot()
    assert re.search(r'listbox "Pictures"', snapshot) and re.search(r'option ".*not decided.*painted', snapshot)
    unnamed = page.page.evaluate(
        "[...document.querySelectorAll('button, select, input, textarea')].filter(one => !one.labels?.length"
        " && !one.getAttribute('aria-label') && !one.textContent.trim()).length"
    )
    assert unnamed == 0
    page.press("p")
    assert page.page.get_attribute("#said", "aria-live") == "polite" and page.said().startswith("kept: ")
    active = page.page.get_attribute("#grid", "aria-activedescendant")
    assert page.page.get_attribute(f"#{active}", "aria-selected") == "true"
    assert page.page.get_attribute(f"#{active}", "aria-posinset") == "2"


def test_the_log_of_a_review_is_lines_with_who_and_when(run, page):
    page.press("p")
    page.saved()
    (line,) = (run / "decisions.jsonl").read_text().splitlines()
    decision = json.loads(line)
    assert decision["by"] == "ann" and re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", decision["at"])
    assert DecisionLog(run / "decisions.jsonl").refresh().reviewers() == ["ann"]
