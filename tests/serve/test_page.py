"""The page in headless Chromium: answers stream, the slider steers, a sweep fills its chart, nobody else is asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Running, Serving

from steerchat.serve.classroom import Classroom

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Opens a server's page; at the end, nothing may have gone wrong in it, and nobody else may have been asked."""
    pages: list[tuple[Any, list[str], str]] = []

    def opening(server: Running, width: int = 1280, scheme: str = "light", enter: bool = True) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request", lambda request: wrong.append(request.url) if not request.url.startswith(server.url) else None
        )
        pages.append((page, wrong, server.url))
        page.goto(server.url)
        if enter:
            until(page, "document.querySelector('#concept').options.length > 0")
        return page

    yield opening
    for page, wrong, _ in pages:
        page.close()
        assert wrong == []


def until(page: Any, holds: str) -> None:
    """Until this holds in the page, whose policy lets nothing be evaluated later."""
    for _ in range(400):
        if page.evaluate(holds):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never: {holds}")


def compared(page: Any) -> None:
    until(page, "!document.querySelector('#compare').disabled && document.querySelector('#steered').textContent")


def test_a_pair_streams_and_is_measured_and_listed(serving: Serving, visit: Any):
    server = serving(max_tokens=20)
    page = visit(server)
    page.fill("#prompt", "How are you?")
    page.select_option("#layer", "2")
    page.fill("#tokens", "20")
    page.press("#prompt", "Control+Enter")
    compared(page)
    [stored] = server.service.store.pairs()
    assert stored.pair.steered is not None
    assert page.text_content("#normal") == stored.pair.normal.text
    assert page.text_content("#steered") == stored.pair.steered.text
    assert str(stored.pair.recipe) == "happy 2 x 2.0" and stored.sampling["client"] == "page"
    assert "effect" in page.text_content("#figures") and page.locator("#meter circle").count() == 1
    until(page, "document.querySelectorAll('#pairs details').length === 1")
    assert "How are you?" in page.text_content("#pairs summary")


def test_the_slider_steers(serving: Serving, visit: Any):
    server = serving()
    page = visit(server)
    page.focus("#strength")
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    assert page.text_content("#strength-value") == "4.00"
    page.click("#compare")
    compared(page)
    [stored] = server.service.store.pairs()
    assert stored.pair.recipe.terms[0].strength == 4.0


def test_the_chart_of_a_sweep_fills_and_a_bar_chooses_its_layer(serving: Serving, visit: Any):
    server = serving()
    page = visit(server)
    page.click("#sweep")
    until(page, "document.querySelectorAll('#chart .bar').length === 4")
    until(page, "!document.querySelector('#compare').disabled")
    assert page.text_content("#chosen") == "No chance band was measured for this model."
    assert "effect" in (page.locator("#chart button").nth(1).get_attribute("aria-label") or "")
    page.locator("#chart button").nth(1).press("Enter")
    assert page.input_value("#layer") == "1" and "layer 1" in page.text_content("#chosen")


def test_markup_of_prompts_stays_text_on_the_page(serving: Serving, visit: Any):
    server = serving()
    page = visit(server)
    page.fill("#prompt", "<img src=x onerror=alert(1)><script>alert(2)</script>")
    page.click("#compare")
    compared(page)
    until(page, "document.querySelectorAll('#pairs details').length === 1")
    assert page.locator("main img, main script").count() == 0
    assert "<img src=x" in page.text_content("#pairs summary")


def test_stop_frees_the_rows_and_a_mistake_is_said(serving: Serving, visit: Any):
    server = serving(max_tokens=400)
    page = visit(server)
    page.fill("#tokens", "400")
    page.click("#compare")
    until(page, "document.querySelector('#normal').textContent.length > 3")
    page.click("#stop")
    server.wait(server.is_idle)
    assert page.text_content("#status") == "stopped"
    page.fill("#prompt", "  ")
    page.click("#compare")
    until(page, "document.querySelector('#status').className === 'error'")
    assert "empty" in page.text_content("#status")


def test_a_token_is_asked_for_until_it_is_right(serving: Serving, browser: Any):
    server = serving(guard={"token": "sesame"})
    page = browser.new_page()
    page.goto(server.url)
    for token in ("simsala", "sesame"):
        page.wait_for_selector("#key-dialog[open]")
        page.press("#token", "Escape")  # is no way in
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#token", token)
        page.press("#token", "Enter")
    until(page, "document.querySelector('#concept').options.length > 0")
    page.close()


def test_students_in_several_browsers_work_each_for_themselves_and_the_teacher_sees_them(serving: Serving, visit: Any):
    room = Classroom()
    server = serving(guard={"token": "sesame"}, classroom=room)
    markup = "<img src=x onerror=alert(1)>"
    anna, ben, teacher = (visit(server, enter=False) for _ in range(3))
    for page, name in ((anna, "Anna"), (ben, markup)):
        page.fill("#code", room.code)
        page.fill("#name", name)
        page.press("#name", "Enter")
    teacher.click("#to-token")
    teacher.fill("#token", "sesame")
    teacher.press("#token", "Enter")
    for page in (anna, ben, teacher):
        until(page, "document.querySelector('#concept').options.length > 0")
    assert anna.text_content("#who") == "Anna" and anna.is_hidden("#class")
    anna.fill("#prompt", "Annas secret")
    anna.click("#compare")
    compared(anna)
    until(anna, "document.querySelectorAll('#pairs details').length === 1")
    look(ben)
    look(teacher)
    until(teacher, "document.querySelector('#pairs').textContent.includes('Anna: Annas secret')")
    assert ben.locator("#pairs details").count() == 0
    assert teacher.text_content("#class-code") == room.code
    students = teacher.locator("#students li").all_text_contents()
    assert students == ["Anna: 1 asked Remove", "img srcx onerroralert1: 0 asked Remove"]
    assert teacher.locator("main img").count() == 0
    # What the teacher has open stays open when something new comes.
    teacher.click("#pairs summary")
    ben.click("#compare")
    compared(ben)
    look(teacher)
    until(teacher, "document.querySelectorAll('#pairs details').length === 2")
    assert teacher.locator("#pairs details[open]").count() == 1
    teacher.click("#pause")
    until(teacher, "document.querySelector('#pause').textContent === 'Let the class go on'")
    look(anna)
    until(anna, "!document.querySelector('#waiting').hidden")
    teacher.click("#students button >> nth=1")
    until(teacher, "document.querySelectorAll('#students li').length === 1")


def look(page: Any) -> None:
    """The page looks at the class, as it does every few seconds."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_a_wrong_code_is_told_and_can_be_mended(serving: Serving, browser: Any):
    room = Classroom()
    server = serving(guard={"token": "sesame"}, classroom=room)
    page = browser.new_page()
    page.goto(server.url)
    page.fill("#code", "AAAAAA")
    page.fill("#name", "Anna")
    page.press("#name", "Enter")
    until(page, "document.querySelector('#key-mistake').textContent.includes('not the class')")
    page.fill("#code", room.code.lower())
    page.press("#code", "Enter")
    until(page, "document.querySelector('#who').textContent === 'Anna'")
    page.close()


def test_a_lesson_is_read_beside_the_chat(serving: Serving, visit: Any):
    server = serving()
    page = visit(server)
    page.focus("#lessons-button")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('#lesson option').length === 15")
    until(page, "document.querySelectorAll('#lesson-text h3').length > 3")
    page.select_option("#lesson", "strength")
    until(page, "document.querySelector('#lesson-text code').textContent === '/lesson strength'")
    text = page.text_content("#lesson-text")
    assert "12.5% of that length" in text and "{unit}" not in text
    assert page.text_content("#lesson-text pre >> nth=0").startswith("    0 ---")
    assert page.text_content("#lesson-text pre >> nth=1") == "/steer happy 2.0"
    choice = page.locator("#lesson-text details", has_text="It stays about the same")
    choice.locator("summary").press("Enter")
    assert "measures" in choice.locator("p").inner_text()
    beside, chat = (page.locator(part).bounding_box() for part in ("#lessons", "main"))
    assert beside["x"] >= chat["x"] + chat["width"] and page.is_visible("#compare")
    page.click("#lessons-button")
    assert page.is_hidden("#lessons")


# Each width and each scheme once is what can differ; for pictures, all of them.
LOOKS = [(1280, "light"), (390, "dark")] + [(1280, "dark"), (390, "light")] * ("STEERCHAT_SCREENSHOTS" in os.environ)


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_no_serious_fault_for_those_who_do_not_see_it_and_nothing_is_cut_off(
    serving: Serving, visit: Any, width: int, scheme: str
):
    room = Classroom()
    server = serving(guard={"token": "sesame"}, classroom=room)
    for name in ("Anna", "Ben the second with a long name"):
        room.join(room.code, name, "here")
    page = visit(server, width, scheme, enter=False)
    page.wait_for_selector("#key-dialog[open]")
    without_fault(page, f"{width}-{scheme}-join")
    page.click("#to-token")
    page.fill("#token", "sesame")
    page.press("#token", "Enter")
    until(page, "document.querySelector('#concept').options.length > 0")
    page.click("#compare")
    compared(page)
    page.click("#sweep")
    until(page, "document.querySelectorAll('#chart .bar').length === 4")
    until(page, "!document.querySelector('#compare').disabled")
    picture(page, f"{width}-{scheme}")
    page.click("#lessons-button")
    until(page, "document.querySelectorAll('#lesson-text h3').length > 3")
    without_fault(page, f"{width}-{scheme}-lesson")


def picture(page: Any, name: str) -> None:
    if folder := os.environ.get("STEERCHAT_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def without_fault(page: Any, name: str) -> None:
    """Nothing is cut off, and axe-core finds no serious fault."""
    axe = pytest.importorskip("axe_core_python.sync_playwright")
    picture(page, name)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    found = page.evaluate(source + "\naxe.run()")  # through the debugger: no policy of the page is in its way
    faults = [
        (rule["id"], rule["nodes"][0]["html"])
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
    ]
    assert faults == []
