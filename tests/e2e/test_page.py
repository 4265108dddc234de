"""The page in a real browser against a live service, as a visitor would use it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from playwright import sync_api as playwright

from tests.e2e.browsing import Visit
from tests.e2e.serving import SAMPLES

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(240)]


def test_a_sample_is_previewed_compared_and_saved_at_its_own_size(
    visit: Visit, tmp_path: Path
) -> None:
    visit.restore_sample("otter.jpg", steps=6)
    visit.sees_previews(3)
    visit.reaches("succeeded")
    assert sum(socket.pictures for socket in visit.sockets) >= 3
    assert visit.at("#strip button").count() >= 5
    for name in ("variance", "factor"):
        visit.has(f".curve.{name} svg", "data-points", re.compile("^[2-6]$"))

    with visit.page.expect_download() as download:
        visit.page.get_by_role("link", name="Save picture").click()
    assert download.value.suggested_filename == "otter-restored.png"
    saved = tmp_path / "saved"
    download.value.save_as(saved)
    with Image.open(saved) as picture, Image.open(SAMPLES / "otter.jpg") as sample:
        picture.load()
        assert picture.format == "PNG"
        assert picture.size == sample.size


def test_the_slider_moves_by_keys_and_by_pointer(visit: Visit) -> None:
    visit.restore_sample("city.jpg", steps=3)
    visit.reaches("succeeded")
    handle = visit.page.get_by_role("slider")
    playwright.expect(handle).to_have_attribute("aria-valuenow", "50")
    handle.press("ArrowLeft")
    playwright.expect(handle).to_have_attribute("aria-valuenow", "48")
    handle.press("End")
    playwright.expect(handle).to_have_attribute("aria-valuenow", "100")
    box = visit.page.locator("#frame").bounding_box()
    assert box is not None
    visit.page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 20)
    visit.page.mouse.down()
    visit.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 20)
    visit.page.mouse.up()
    playwright.expect(handle).to_have_attribute("aria-valuenow", "25")


def test_a_reload_in_mid_job_attaches_to_the_same_job(visit: Visit) -> None:
    visit.restore_sample("lake.jpg", steps=8)
    visit.sees_previews(1)
    visit.reaches("running")
    job = visit.page.url.partition("#")[2]
    assert job
    playwright.expect(visit.at("#jobs .job[aria-current=true]")).to_contain_text("lake.jpg")
    before = len(visit.sockets)

    visit.page.reload()
    visit.reaches("running")
    assert visit.page.url.endswith(f"#{job}")
    assert [f"/restore/{job}/progress" in socket.url for socket in visit.sockets[before:]] == [True]

    visit.reaches("succeeded")
    # The original is only in the browser: the comparison shows that it outlived the reload.
    playwright.expect(visit.page.locator("#frame img.before")).to_be_visible()


def test_a_dropped_connection_resumes_after_the_last_event_it_saw(visit: Visit) -> None:
    opened: list[str] = []

    def cut_the_first(route: playwright.WebSocketRoute) -> None:
        opened.append(route.url)
        server = route.connect_to_server()
        if len(opened) > 1:
            return
        passed = 0

        def forward(message: str | bytes) -> None:
            nonlocal passed
            route.send(message)
            passed += isinstance(message, bytes) or '"seq"' in message  # an eta has none
            if passed == 6:
                route.close(code=1011, reason="cut by the test")

        server.on_message(forward)

    visit.page.route_web_socket(re.compile("/progress"), cut_the_first)
    visit.page.reload()
    visit.restore_sample("otter.jpg", steps=8)
    visit.reaches("succeeded")
    positions = [int(url.rpartition("starting_after=")[2]) for url in opened]
    assert positions[0] == 0
    assert len(positions) == 2
    assert positions[1] >= 5


def test_cancel_stops_a_running_job(visit: Visit, service_url: str) -> None:
    visit.restore_sample("city.jpg", steps=100)
    visit.sees_previews(1)
    job = visit.job_id()
    visit.page.get_by_role("button", name="Cancel", exact=True).click()
    visit.reaches("canceled")
    answer = visit.page.request.get(f"{service_url.rstrip('/')}/restore/{job}")
    assert answer.json()["status"] == "canceled"
    playwright.expect(visit.page.get_by_role("button", name="Run again")).to_be_visible()


def test_a_file_that_is_no_picture_shows_what_the_service_says(visit: Visit) -> None:
    notes = playwright.FilePayload(name="notes.txt", mimeType="text/plain", buffer=b"not a picture")
    with visit.page.expect_response(re.compile("/restore$")) as refused:
        visit.page.set_input_files("#file", notes)
        visit.restore()
    playwright.expect(visit.page.locator("#main")).to_have_attribute("data-view", "failed")
    problem = refused.value.json()
    assert refused.value.headers["content-type"].startswith("application/problem+json")
    assert problem["detail"]
    playwright.expect(visit.page.locator("#detail")).to_have_text(problem["detail"])
    playwright.expect(visit.page.locator("#status-title")).to_have_text(problem["title"])


def test_an_unknown_job_in_the_address_is_said_to_be_gone(visit: Visit) -> None:
    visit.page.evaluate("location.hash = '00000000-0000-0000-0000-000000000000'")
    visit.page.reload()
    visit.reaches("gone")
    visit.page.get_by_role("button", name="Restore another").click()
    playwright.expect(visit.page.locator("#drop")).to_be_visible()


def test_the_documentation_works_without_the_internet(visit: Visit, service_url: str) -> None:
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    visit.page.goto(f"{service_url}/docs")
    submission = visit.page.locator("#operations-restore-submit_restore_post")
    playwright.expect(submission).to_contain_text("/restore")
    assert len(asked) >= 4
    assert [url for url in asked if not url.startswith((service_url, "data:"))] == []
