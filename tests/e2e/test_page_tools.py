"""What a visitor can do on the page: compose, compare, look back, switch, remember."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from playwright import sync_api as playwright

from tests.e2e.browsing import Slow, Visit, visiting
from tests.e2e.serving import SAMPLES
from tests.faults.fake import closed_gate

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

PRESETS = ("faithful", "balanced", "fast")
_PASTE = """(base64) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([bytes], "image.jpg", { type: "image/jpeg" }));
  document.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
}"""
_WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


def _done(guest: Visit, name: str = "otter.jpg", steps: int = 3) -> None:
    guest.choose(name)
    guest.restore(steps=steps)
    guest.reaches("succeeded")


def _zoom(guest: Visit) -> float:
    return float(guest.at("#frame").get_attribute("data-zoom") or 0)


def test_a_preset_tells_the_time_that_the_service_foretells(guest: Visit) -> None:
    _done(guest)
    asked: list[dict[str, Any]] = []

    def listen(request: playwright.Request) -> None:
        if request.url.endswith("/estimate"):
            asked.append(request.post_data_json or {})

    guest.page.on("request", listen)
    guest.page.get_by_role("button", name="New").click()
    guest.choose("lake.jpg")
    for preset in PRESETS:
        guest.sees(f"#time-{preset}", re.compile(r"^about \d+ s$"))
    assert {(body["width"], body["height"]) for body in asked} == {(384, 256)}
    assert {body["preset"] for body in asked} == set(PRESETS)

    guest.page.get_by_role("radio", name="Fast").check()
    guest.restore()
    guest.reaches("succeeded")
    playwright.expect(guest.at("#facts")).to_contain_text("Presetfast")


def test_a_time_that_nobody_knows_is_not_made_up(guest: Visit) -> None:
    unknown = {"position": 0, "eta": None, "pixels": 98304}
    guest.page.route("**/restore/estimate", lambda route: route.fulfill(json=unknown))
    guest.choose("city.jpg")
    for preset in PRESETS:
        guest.sees(f"#time-{preset}", "time not known yet")


def test_a_click_puts_a_word_into_the_prompt_and_out_again(guest: Visit, slow: Slow) -> None:
    guest.choose("otter.jpg")
    for word in ("warm", "dark", "high contrast"):
        guest.page.get_by_role("button", name=word, exact=True).click()
    playwright.expect(guest.page.get_by_label("Prompt")).to_have_value("warm, dark, high contrast")
    dark = guest.page.get_by_role("button", name="dark", exact=True)
    playwright.expect(dark).to_have_attribute("aria-pressed", "true")
    dark.click()
    guest.restore(steps=2)
    guest.reaches("succeeded")
    job = guest.page.request.get(f"{slow.url}/restore/{guest.job_id()}").json()
    assert job["options"]["prompt"] == "warm, high contrast"
    assert job["options"]["preset"] == "balanced"


def test_a_value_out_of_range_is_marked_and_not_sent(guest: Visit) -> None:
    guest.choose("otter.jpg")
    guest.restore(steps=1000)
    field = guest.page.get_by_role("spinbutton", name="Steps")
    playwright.expect(field).to_be_focused()
    playwright.expect(field).to_have_attribute("aria-invalid", "true")
    guest.has("#main", "data-view", "draft")


def test_several_pictures_become_jobs_to_switch_between(guest: Visit) -> None:
    guest.choose("otter.jpg", "city.jpg", "lake.jpg")
    guest.page.get_by_role("button", name="Leave out city.jpg").click()
    guest.sees("#restore", "Restore all 2")
    guest.restore(steps=2)
    assert guest.shelf() == ["lake.jpg", "otter.jpg"]
    playwright.expect(guest.at("#jobs [data-phase=succeeded]")).to_have_count(2, timeout=60_000)
    shown = [guest.job_id()]
    guest.job("otter.jpg").press("ArrowLeft")
    playwright.expect(guest.job("lake.jpg")).to_be_focused()
    guest.page.keyboard.press("Enter")
    guest.page.wait_for_url(lambda url: shown[0] not in url)
    guest.reaches("succeeded")
    guest.page.go_back()
    guest.page.wait_for_url(re.compile(shown[0]))
    current = guest.at("#jobs .job[aria-current=true]")
    playwright.expect(current).to_contain_text("otter.jpg")


def test_a_picture_is_pasted(guest: Visit) -> None:
    photo = base64.b64encode((SAMPLES / "city.jpg").read_bytes()).decode()
    guest.page.evaluate(_PASTE, photo)
    guest.has("#main", "data-view", "draft")
    guest.restore(steps=2)
    guest.reaches("succeeded")
    assert guest.shelf() == ["pasted.png"]


def test_the_history_outlives_a_reload_until_it_is_removed(guest: Visit, slow: Slow) -> None:
    _done(guest)
    thumb = guest.at("#jobs .mat img")
    playwright.expect(thumb).to_have_attribute("src", re.compile("^data:image/jpeg"))
    guest.page.goto(slow.url)
    assert guest.shelf() == ["otter.jpg"]
    playwright.expect(thumb).to_have_attribute("src", re.compile("^data:image/jpeg"))
    guest.job("otter.jpg").click()
    guest.reaches("succeeded")
    playwright.expect(guest.page.get_by_role("slider")).to_be_visible()

    guest.page.get_by_role("button", name="Remove otter.jpg").click()
    playwright.expect(guest.at("#shelf")).to_be_hidden()
    guest.page.reload()
    guest.has("#main", "data-view", "empty")
    playwright.expect(guest.at("#shelf")).to_be_hidden()


def test_a_running_job_of_the_history_is_taken_up_again(guest: Visit, slow: Slow) -> None:
    with closed_gate(slow.model, "step"):
        guest.choose("lake.jpg")
        guest.restore(steps=2)
        guest.reaches("running")
        guest.page.goto(slow.url)
        guest.page.reload()
        guest.has("#jobs li:last-child", "data-phase", "running")
        guest.has("#main", "data-view", "empty")
    guest.has("#jobs li:last-child", "data-phase", "succeeded")


def test_escape_keeps_a_running_job_that_was_about_to_be_removed(guest: Visit, slow: Slow) -> None:
    with closed_gate(slow.model, "step"):
        guest.choose("city.jpg")
        guest.restore(steps=2)
        guest.reaches("running")
        guest.page.get_by_role("button", name="Remove city.jpg").click()
        playwright.expect(guest.at("#confirm-dialog")).to_be_visible()
        guest.page.keyboard.press("Escape")
        playwright.expect(guest.at("#confirm-dialog")).to_be_hidden()
        assert guest.shelf() == ["city.jpg"]
        job = guest.job_id()
        guest.page.get_by_role("button", name="Remove city.jpg").click()
        with guest.page.expect_response(f"**/restore/{job}/cancel"):
            guest.page.get_by_role("button", name="Stop and remove").click()
        playwright.expect(guest.at("#shelf")).to_be_hidden()
    answer = guest.page.request.get(f"{slow.url}/restore/{job}")
    assert answer.json()["status"] in {"canceling", "canceled"}


def test_the_film_strip_shows_every_picture_again(guest: Visit) -> None:
    _done(guest, steps=8)
    stills = guest.at("#strip button")
    playwright.expect(stills.first).to_have_text("Original")
    playwright.expect(stills.last).to_have_text("Result")
    assert stills.count() >= 3
    guest.has("#stage", "data-look", "result")
    # Of previews that come all at once only the newest is sent.
    step = stills.nth(1).get_attribute("data-still") or ""
    stills.nth(1).click()
    guest.has("#stage", "data-look", step)
    guest.sees("#chip", f"Step {step}")
    playwright.expect(guest.page.get_by_role("slider")).to_have_count(0)
    guest.page.keyboard.press("ArrowLeft")
    guest.page.keyboard.press("Enter")
    guest.has("#stage", "data-look", "original")
    stills.last.click()
    playwright.expect(guest.page.get_by_role("slider")).to_be_visible()


def test_the_comparison_comes_nearer_and_moves(guest: Visit) -> None:
    _done(guest)
    box = guest.at("#frame").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.4
    guest.page.mouse.move(x, y)
    guest.page.mouse.wheel(0, -400)
    guest.has("#frame", "data-zoom", re.compile("^[2-9]"))
    before = guest.at("#frame").get_attribute("style")
    guest.page.mouse.down()
    guest.page.mouse.move(x - 60, y - 40)
    guest.page.mouse.up()
    assert guest.at("#frame").get_attribute("style") != before
    slider = guest.page.get_by_role("slider")
    playwright.expect(slider).to_have_attribute("aria-valuenow", "50")
    guest.page.get_by_role("button", name="Show the whole picture").click()
    assert _zoom(guest) == 1
    guest.page.get_by_role("button", name="Zoom in").click()
    assert _zoom(guest) == 1.5
    slider.press("+")
    assert _zoom(guest) == 2.25
    slider.press("ArrowRight")
    playwright.expect(slider).to_have_attribute("aria-valuenow", "52")
    slider.press("0")
    assert _zoom(guest) == 1


def test_two_fingers_come_nearer(guest: Visit) -> None:
    _done(guest)
    box = guest.at("#frame").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    fingers = guest.page.context.new_cdp_session(guest.page)

    def touch(kind: str, apart: float) -> None:
        points = [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}]
        fingers.send(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points if apart else []}
        )

    touch("touchStart", 20)
    for apart in (40.0, 60.0):
        touch("touchMove", apart)
    touch("touchEnd", 0)
    guest.has("#frame", "data-zoom", re.compile("^(2.[5-9]|3)"))


def test_a_theme_is_chosen_and_remembered(guest: Visit, slow: Slow) -> None:
    def ground() -> str:
        return guest.at("body").evaluate("node => getComputedStyle(node).backgroundColor")

    light = ground()
    for theme in ("light", "dark"):
        guest.at("#theme").click()
        guest.has("html", "data-theme", theme)
    dark = ground()
    assert light != dark
    guest.page.reload()
    guest.has("html", "data-theme", "dark")
    guest.has("#theme", "aria-label", "Theme: dark")
    assert ground() == dark
    browser = guest.page.context.browser
    assert browser is not None
    with visiting(browser, slow.url, dark=True) as other:
        paper = other.at("body").evaluate("node => getComputedStyle(node).backgroundColor")
    assert paper == dark


def test_a_service_with_keys_is_asked_with_one(guest: Visit) -> None:
    sent: list[str | None] = []

    def guard(route: playwright.Route) -> None:
        given = route.request.headers.get("authorization")
        sent.append(given)
        if given == "Bearer open sesame":
            route.continue_()
            return
        problem = {"title": "Unauthorized", "code": "unauthorized", "detail": "a key is needed"}
        kind = "application/problem+json"
        route.fulfill(status=401, json={**problem, "status": 401}, content_type=kind)

    guest.page.route(re.compile("/restore"), guard)
    guest.choose("otter.jpg")
    guest.sees("#key-why", "This service needs an API key.")
    guest.page.keyboard.press("Escape")
    playwright.expect(guest.at("#key-dialog")).to_be_hidden()
    guest.sees("#time-fast", "time not known yet")

    guest.restore(steps=2)
    guest.page.get_by_label("Key", exact=True).fill("sesame")
    guest.page.get_by_role("button", name="Use this key").click()
    guest.sees("#key-why", "The service does not know this key.")
    guest.page.get_by_label("Key", exact=True).fill("open sesame")
    guest.page.keyboard.press("Enter")
    guest.reaches("succeeded")
    assert sent[-1] == "Bearer open sesame"
    assert "key=open+sesame" in guest.sockets[-1].url
    guest.page.reload()
    guest.reaches("succeeded")
    playwright.expect(guest.at("#key-change")).to_be_visible()


def test_the_whole_way_can_be_gone_by_keyboard(guest: Visit) -> None:
    guest.page.keyboard.press("Tab")
    playwright.expect(guest.page.get_by_role("link", name="Skip to the picture")).to_be_focused()
    guest.at("[data-sample='lake.jpg']").focus()
    guest.page.keyboard.press("Enter")
    playwright.expect(guest.at("#compose-title")).to_be_focused()
    guest.page.keyboard.press("Tab")
    guest.page.keyboard.press("Tab")
    playwright.expect(guest.page.get_by_role("radio", name="Balanced")).to_be_focused()
    guest.page.keyboard.press("ArrowDown")
    playwright.expect(guest.page.get_by_role("radio", name="Fast")).to_be_checked()
    ring = guest.at(".preset:has(:checked)").evaluate("node => getComputedStyle(node).outlineStyle")
    assert ring == "solid"
    guest.at("#restore").focus()
    guest.page.keyboard.press("Enter")
    guest.reaches("succeeded")
    playwright.expect(guest.at("#status-title")).to_be_focused()


def test_nothing_is_wider_than_a_small_phone(browser: playwright.Browser, slow: Slow) -> None:
    with visiting(browser, slow.url, size=(360, 740)) as phone:
        widths = [phone.page.evaluate(_WIDTHS)]
        phone.choose("otter.jpg", "city.jpg")
        phone.at("#settings summary").click()
        widths.append(phone.page.evaluate(_WIDTHS))
        phone.restore(steps=8)
        phone.reaches("succeeded")
        widths.append(phone.page.evaluate(_WIDTHS))
    assert widths == [[360, 360]] * 3
