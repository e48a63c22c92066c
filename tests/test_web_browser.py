"""The page of conversations in a real browser: by mouse, by keys, back and forward, reload, two at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from shop_agent import GROUPS, N_ITEMS, attributes, item, shop, title

pytest.importorskip("uvicorn", reason="uvicorn is not installed; pip install 'graphrec[serve]'")
pytest.importorskip("fastapi", reason="fastapi is not installed; pip install 'graphrec[serve]'")
pytest.importorskip("playwright", reason="playwright is not installed; pip install 'graphrec[dev]'")
from browsing import CHROMIUM, FLAGS, PATIENCE, Served, at, begin, look, state, until
from playwright.sync_api import sync_playwright

from graphrec.conversation.session import Session

if CHROMIUM is None:
    pytest.skip("no Chromium; apt-get install chromium", allow_module_level=True)
HOSTILE = """<script>window.ran=1</script> "><img src=x onerror="window.ran=1"> '--></style>"""


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield made
        made.close()


@pytest.fixture(scope="module")
def binary(tmp_path_factory) -> Iterator[Served]:
    served = Served(shop(tmp_path_factory.mktemp("binary"), pictures=N_ITEMS))
    yield served
    served.stop()


@pytest.fixture(scope="module")
def enumerated(tmp_path_factory) -> Iterator[Served]:
    served = Served(
        shop(tmp_path_factory.mktemp("several"), "ask-then-recommend:2", questions="enumerated", k=6)
    )
    yield served
    served.stop()


@pytest.fixture
def opened(browser) -> Iterator[object]:
    """Opens pages; at the end none may have reported an error."""
    contexts, complaints = [], []

    def make(served: Served, **options: object):
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE * 1000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
        page.goto(served.address)
        page.complaints = complaints
        return page

    yield make
    for context in contexts:
        context.close()
    assert complaints == []


def fits(page, target: int) -> bool:
    """Whether what is asked about is an item's."""
    return page.evaluate("history.state.reply.question") in attributes(target)


def test_a_whole_conversation_by_mouse_leads_to_the_item(opened, binary) -> None:
    page, target = opened(binary), 77
    page.get_by_role("button", name=attributes(target)[0], exact=True).click()
    assert page.locator("#chosen").inner_text() == f"{attributes(target)[0]} ×"
    begin(page)
    assert page.locator("#count").inner_text().endswith(f"of {N_ITEMS} items left")
    assert page.locator("#path li").first.inner_text() == "you"
    for events in range(1, 60):
        if page.locator("#cards").is_visible():
            ids = [shown["id"] for shown in page.evaluate("history.state.reply.items")]
            if item(target) in ids:
                image = page.locator("#cards img").first.element_handle()
                until(page, "image => image.complete && image.naturalWidth === 128", image)
                page.locator("#cards button").nth(ids.index(item(target))).click()
                at(page, events)
                break
            page.get_by_role("button", name="None of these").click()
        else:
            page.get_by_role("button", name="Yes" if fits(page, target) else "No", exact=True).click()
        at(page, events)
    page.get_by_role("heading", name="You have found it").wait_for()
    assert page.locator("#found b").inner_text() == title(target)
    assert state(page)["events"][-1]["chosen"] == item(target)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download transcript").click()
    assert download.value.suggested_filename == "conversation.json"
    saved = json.loads(Path(download.value.path()).read_text())
    assert saved == state(page)
    assert Session.resume(binary.agent, saved).chosen_item == item(target)
    page.get_by_role("button", name="Start anew").click()
    assert page.locator("#start").is_visible()
    assert page.locator("#chosen").is_hidden()
    page.go_back()
    assert page.get_by_role("heading", name="You have found it").is_visible()


def test_a_whole_conversation_by_keys_alone(opened, binary) -> None:
    page, target = opened(binary), 41
    press, kind = page.keyboard.press, attributes(target)[0]
    press("Tab")
    assert page.evaluate("document.activeElement.id") == "search"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "where the focus is can be seen"
    page.keyboard.type(kind)
    press("Enter")
    until(page, "history.state.likes.length === 1")
    press("Enter")
    at(page, 0)
    assert state(page)["likes"] == [kind]
    for events in range(1, 60):
        ids = page.evaluate("history.state.reply.items.map(i => i.id)")
        if item(target) in ids:
            press("1234567890"[ids.index(item(target))])
            at(page, events)
            break
        press("n" if ids or not fits(page, target) else "y")
        at(page, events)
    assert page.locator("#found b").inner_text() == title(target)
    press("b")
    at(page, events - 1)
    press("Backspace")
    at(page, events - 2)


def test_values_are_toggled_by_keys_and_by_mouse(opened, enumerated) -> None:
    page = opened(enumerated)
    begin(page)
    press = page.keyboard.press
    assert page.locator("#ask").inner_text() == page.evaluate("history.state.reply.topic").capitalize()
    assert page.locator("#heading").inner_text() == "Which of these are you looking for?"
    press("Enter")
    assert "Choose what fits" in page.get_by_role("alert").inner_text()
    press("2")
    press("3")
    press("2")
    values = page.evaluate("history.state.reply.values")
    pressed = page.locator('#values [aria-pressed="true"]')
    assert pressed.count() == 1
    assert pressed.get_attribute("data-name") == values[2]
    page.locator("#values button").nth(0).click()
    page.reload()
    assert pressed.count() == 2, "what was chosen is there again"
    page.locator("#values button").nth(1).focus()
    press("Space")
    assert pressed.count() == 3
    assert page.evaluate("document.activeElement.dataset.name") == values[1], "the focus stays"
    press("Enter")
    at(page, 1)
    assert state(page)["events"][0]["answer"] == sorted(values[:3])
    page.get_by_role("button", name="Don’t know").last.focus()
    press("Enter")
    at(page, 2)
    assert state(page)["events"][1]["answer"] == "unknown", "Enter presses the button it is on"
    press("b")
    at(page, 1)
    press("n")
    at(page, 2)
    assert state(page)["events"][1]["answer"] == []
    assert page.locator("#cards button").count() == 6


def test_back_and_forward_are_taking_back_and_giving_again(opened, binary) -> None:
    page = opened(binary)
    begin(page)
    seen = [look(page)]
    for events, answer in enumerate(("yes", "unknown", "no"), 1):
        page.locator(f"#{answer}").click()
        at(page, events)
        seen.append(look(page))
    assert len(set(seen)) == 4
    page.go_back()
    at(page, 2)
    assert look(page) == seen[2]
    page.locator("#back").click()
    at(page, 1)
    page.go_back()
    at(page, 0)
    assert look(page) == seen[0]
    assert page.locator("#back").inner_text().startswith("Back to the start")
    page.go_forward()
    at(page, 1)
    assert look(page) == seen[1]
    page.locator("#no").click()
    at(page, 2)
    assert [e["answer"] for e in state(page)["events"]] == ["yes", "no"]
    session = Session.resume(binary.agent, state(page))
    assert page.locator("#count").inner_text().startswith(f"Turn 3 · {session.next().remaining} of")
    page.go_forward()  # there is nothing in front any more
    at(page, 2)
    for events in (1, 0):
        page.keyboard.press("b")
        at(page, events)
    page.keyboard.press("b")
    page.locator("#start").wait_for()


def test_reload_keeps_the_conversation_and_what_stands_at_its_beginning(opened, binary) -> None:
    page = opened(binary)
    page.get_by_label("Your id").fill("U1")
    page.get_by_role("button", name="medium", exact=True).click()
    page.reload()
    assert page.get_by_label("Your id").input_value() == "U1"
    assert page.locator("#chosen").inner_text() == "medium ×"
    begin(page)
    page.keyboard.press("y")
    at(page, 1)
    before, was = look(page), state(page)
    page.reload()
    assert look(page) == before
    assert state(page) == was
    page.keyboard.press("n")
    at(page, 2)
    page.go_back()
    at(page, 1)
    assert look(page) == before
    page.go_back()
    page.go_back()
    page.locator("#start").wait_for()
    assert page.get_by_label("Your id").input_value() == "U1"


def test_two_pages_at_once_do_not_disturb_each_other(opened, binary) -> None:
    one = opened(binary)
    two = one.context.new_page()
    two.goto(binary.address)
    for page in (one, two):
        begin(page)
    for events, (first, second) in enumerate((("y", "n"), ("n", "?"), ("?", "y")), 1):
        one.keyboard.press(first)
        two.keyboard.press(second)
        at(one, events)
        at(two, events)
    two.keyboard.press("b")
    at(two, 2)
    two.reload()
    one.reload()
    said = {"y": "yes", "n": "no", "?": "unknown"}
    assert [e["answer"] for e in state(one)["events"]] == [said[k] for k in "yn?"]
    assert [e["answer"] for e in state(two)["events"]] == [said[k] for k in "n?"]
    for page in (one, two):
        session = Session.resume(binary.agent, state(page))
        assert page.locator("#count").inner_text().startswith(f"Turn {len(session.events) + 1} · ")
        assert look(page)[1] in (session.next().sentence, "How about one of these?")


def test_titles_and_names_run_nothing(opened, tmp_path) -> None:
    renamed = {
        name: f"{name} {HOSTILE}" for name in ("mug", "vase", "small", "medium", "large", "clay", "glass")
    }
    titles = {item(i): f"{HOSTILE} {i}" for i in range(N_ITEMS)}
    served = Served(shop(tmp_path, "ask-then-recommend:2", titles, renamed))
    page = opened(served)
    page.locator("#offered button", has_text="mug").click()
    begin(page)
    assert HOSTILE in page.locator("#heading").inner_text() + page.locator("#path").inner_text()
    for events, key in enumerate("yy1", 1):
        page.keyboard.press(key)
        at(page, events)
    assert HOSTILE in page.locator("#found b").inner_text()
    assert HOSTILE in page.title()
    assert page.evaluate("window.ran") is None
    assert page.evaluate("document.scripts.length") == 1
    assert page.locator("img[onerror]").count() == 0
    # Were markup made from text by mistake, the browser would not have it.
    refused = page.evaluate("() => { try { document.body.innerHTML = 'x'; } catch (e) { return e.name; } }")
    assert refused == "TypeError"
    page.complaints[:] = [c for c in page.complaints if "TrustedHTML" not in c]
    served.stop()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_at_360_pixels_nothing_is_cut_off_or_scrolls_sideways(opened, tmp_path, scheme) -> None:
    renamed = {name: name + "-" + "x" * 90 for name in ("small", "medium", "large")}
    served = Served(shop(tmp_path, "ask-then-recommend:1", {item(i): "y" * 70 for i in range(60)}, renamed))
    page = opened(served, viewport={"width": 360, "height": 640}, color_scheme=scheme)

    def fits() -> None:
        wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1] == 360

    page.locator("#offered button").first.wait_for()
    fits()
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(18, 20, 24)") == (scheme == "dark")
    begin(page)
    fits()
    for events, key in ((1, "y"), (2, "n")):
        page.keyboard.press(key)
        at(page, events)
        assert page.locator("#cards button").count() == 10
        fits()
    page.keyboard.press("0")
    at(page, 3)
    fits()
    served.stop()


def test_what_goes_wrong_is_said_with_a_way_on(opened, tmp_path) -> None:
    served = Served(shop(tmp_path, pictures=3))
    page = opened(served)
    page.get_by_label("Your id").fill("nobody")
    page.get_by_role("button", name="Start", exact=True).click()
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "nobody" in alert.inner_text()
    assert page.locator("#again").is_hidden(), "the same again would not help"
    page.get_by_label("Your id").fill("U0")
    begin(page)
    assert alert.is_hidden()
    served.stop()
    page.keyboard.press("y")
    alert.wait_for()
    assert "does not answer" in alert.inner_text()
    again = Served(served.agent, served.port)  # a restart costs nothing
    page.get_by_role("button", name="Try again").click()
    at(page, 1)
    assert alert.is_hidden()
    again.stop()
    other = Served(shop(tmp_path, "ask-then-recommend:5"), served.port)
    page.keyboard.press("n")
    alert.wait_for()
    assert "was led by agent" in alert.inner_text()
    alert.get_by_role("button", name="Start anew").click()
    begin(page)
    other.stop()
    page.complaints[:] = [c for c in page.complaints if "Failed to load resource" not in c]


def test_an_answer_counts_once_and_a_reply_that_comes_too_late_does_not(opened, binary) -> None:
    page, held = opened(binary), []
    begin(page)
    page.keyboard.press("y")
    at(page, 1)
    page.route("**/api/answer", lambda route: held.append(route))
    page.keyboard.press("y")
    page.locator("#no").click()
    page.keyboard.press("b")
    page.go_back()
    at(page, 0)
    assert len(held) == 1, "nothing is sent, or taken back, while an answer is on its way"
    with page.expect_response("**/api/answer"):
        held[0].continue_()
    page.wait_for_timeout(100)
    at(page, 0)
    page.go_forward()
    at(page, 1)
    assert page.locator("#heading").inner_text() == page.evaluate("history.state.reply.sentence")


def test_long_conversations_can_be_taken_back_to_their_first_turn(opened, tmp_path) -> None:
    """Browsers keep 50 entries of history."""
    served = Served(shop(policy="abs-greedy", k=2))
    page = opened(served)
    begin(page)
    for events in range(1, N_ITEMS // 2 + 1):
        page.keyboard.press("n")
        at(page, events)
    assert page.get_by_role("heading", name="Nothing is left to recommend").is_visible()
    assert page.locator("#trail li").first.inner_text() == "48 earlier"
    for events in range(N_ITEMS // 2 - 1, -1, -1):
        page.keyboard.press("b")
        at(page, events)
    assert look(page)[0] == "Turn 1 · 120 of 120 items left"
    page.keyboard.press("b")
    page.locator("#start").wait_for()
    served.stop()


def test_single_keys_can_be_turned_off_and_chords_are_the_browsers(opened, binary) -> None:
    page = opened(binary)
    begin(page)
    page.keyboard.press("Control+y")
    page.keyboard.press("Alt+n")
    page.get_by_label("Single keys answer").uncheck()
    page.keyboard.press("y")
    page.reload()
    page.keyboard.press("y")
    page.wait_for_timeout(100)
    at(page, 0)
    page.get_by_label("Single keys answer").check()
    page.keyboard.press("Y")
    at(page, 1)


def test_what_is_asked_is_told_to_those_who_listen(opened, binary) -> None:
    page = opened(binary)
    begin(page)
    question = page.locator("#heading").inner_text()
    assert re.fullmatch("Are you looking for “.+”\\?", question)
    topic = page.locator("#ask").inner_text()
    assert topic.lower() in GROUPS
    assert page.get_by_role("status").inner_text().endswith(f"items left. {topic}. {question}")
    assert page.evaluate("document.activeElement.id") == "talk"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "yes", "the next Tab leads to the answers"
    for role, names in (("button", ["Yes", "No", "Don’t know", "Take back", "Back to the start"]),):
        found = [n for n in names if page.get_by_role(role, name=n, exact=True).count()]
        assert found == ["Yes", "No", "Don’t know", "Back to the start"]
