"""Each state that the page can be in, with a service that waits where a test wants it to."""

from __future__ import annotations

import re
from contextlib import ExitStack

import pytest
from playwright import sync_api as playwright

from tests.e2e.browsing import Slow, Visit
from tests.faults.fake import FAULT, closed_gate

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


def test_a_first_visit_offers_ways_in_and_nothing_else(guest: Visit) -> None:
    guest.has("#main", "data-view", "empty")
    playwright.expect(guest.at("#drop")).to_be_visible()
    for hidden in ("#shelf", "#workspace", "#health", "#key-change"):
        playwright.expect(guest.at(hidden)).to_be_hidden()


def test_waiting_shows_the_place_in_the_queue_and_the_time(guest: Visit, slow: Slow) -> None:
    guest.choose("city.jpg")
    guest.restore(steps=2)
    guest.reaches("succeeded")
    guest.page.get_by_role("button", name="New").click()
    with closed_gate(slow.model, "step"):
        guest.choose("otter.jpg", "city.jpg", "lake.jpg")
        guest.restore(steps=2)
        guest.reaches("running")
        guest.job("lake.jpg").click()
        guest.reaches("queued")
        guest.sees("#position", "1 picture before it")
        guest.sees("#eta", re.compile("about|any moment"))
        guest.sees("#announcer", "In the queue, 1 picture before it.")
        guest.job("Next in line").click()
        guest.sees("#position", "Next in line")
    guest.reaches("succeeded")
    playwright.expect(guest.at("#waiting")).to_be_hidden()
    guest.sees("#announcer", re.compile("Restored"))


def test_a_place_in_the_queue_moves_up(guest: Visit, slow: Slow) -> None:
    with closed_gate(slow.model, "step"):
        guest.choose("otter.jpg", "city.jpg", "lake.jpg")
        guest.restore(steps=3)
        guest.job("lake.jpg").click()
        guest.sees("#position", "1 picture before it")
        guest.job("city.jpg").click()
        guest.reaches("queued")
        guest.at("#cancel").click()
        guest.reaches("canceled")
        guest.job("lake.jpg").click()
        guest.sees("#position", "Next in line")
    guest.reaches("succeeded")


def test_running_shows_steps_and_curves(guest: Visit, slow: Slow) -> None:
    gate = ExitStack()
    gate.enter_context(closed_gate(slow.model, "step"))
    guest.choose("lake.jpg")
    guest.restore(steps=5)
    guest.reaches("running")
    playwright.expect(guest.at("#cancel")).to_be_visible()
    gate.close()
    guest.reaches("succeeded")
    # Any event of progress may be missed but for the last.
    guest.has(".curve.variance svg", "data-points", re.compile("^[1-5]$"))
    guest.has(
        ".curve.variance svg", "aria-label", re.compile("^Reference var.* to 0.25 at step 5$")
    )
    guest.has(
        ".curve.factor svg", "aria-label", re.compile("^Adaptive factor .* to 1.00 at step 5$")
    )


def test_a_failed_job_says_why_and_can_be_sent_again(guest: Visit) -> None:
    guest.choose("city.jpg")
    guest.restore(steps=3, prompt=FAULT)
    guest.has("#main", "data-view", "failed")
    guest.sees("#status-title", "The restoration failed")
    assert guest.at("#detail").text_content()
    playwright.expect(guest.at("#jobs li[data-key]")).to_have_attribute("data-phase", "failed")
    first = guest.job_id()
    guest.page.get_by_role("button", name="Try again").click()
    guest.page.wait_for_url(lambda url: "#" in url and first not in url)
    guest.has("#main", "data-view", "failed")
    assert guest.shelf() == ["city.jpg", "city.jpg"]


def test_a_job_that_waits_is_canceled_at_once(guest: Visit, slow: Slow) -> None:
    with closed_gate(slow.model, "step"):
        guest.choose("otter.jpg", "lake.jpg")
        guest.restore(steps=2)
        guest.job("lake.jpg").click()
        guest.reaches("queued")
        guest.at("#cancel").click()
        guest.reaches("canceled")
        playwright.expect(guest.job("lake.jpg")).to_contain_text("Canceled")
    guest.job("otter.jpg").click()
    guest.reaches("succeeded")


def test_a_press_on_a_picture_counts_though_it_is_accepted_meanwhile(
    guest: Visit, slow: Slow
) -> None:
    uploads: list[playwright.Route] = []

    def hold(route: playwright.Route) -> None:
        uploads.append(route)
        if len(uploads) == 1:
            route.continue_()

    guest.page.route("**/restore", hold)

    def second(request: playwright.Request) -> bool:
        return request.url.endswith("/restore") and len(uploads) == 1

    with closed_gate(slow.model, "step"):
        guest.choose("otter.jpg", "lake.jpg")
        with guest.page.expect_request(second):
            guest.restore(steps=2)
        guest.job("otter.jpg").filter(has_text="Restoring").wait_for()
        guest.job("lake.jpg").hover()
        guest.page.mouse.down()
        uploads[1].continue_()
        guest.job("lake.jpg").filter(has_text="next").wait_for()
        guest.page.mouse.up()
        guest.reaches("queued")
    guest.reaches("succeeded")


def test_run_again_offers_the_same_picture_with_other_settings(guest: Visit) -> None:
    guest.choose("lake.jpg")
    guest.restore(steps=2)
    guest.reaches("succeeded")
    guest.page.get_by_role("button", name="Run again").click()
    guest.has("#main", "data-view", "draft")
    guest.restore(steps=3)
    guest.reaches("succeeded")
    playwright.expect(guest.at("#facts")).to_contain_text("Steps3")


def test_a_lost_connection_is_told_and_tried_again_ever_later(guest: Visit, slow: Slow) -> None:
    opened: list[str] = []
    down = True

    def lose(route: playwright.WebSocketRoute) -> None:
        opened.append(route.url)
        server = route.connect_to_server()
        if down and len(opened) > 1:
            route.close(code=1011, reason="cut by the test")
        elif down:
            server.on_message(lambda message: cut(route, message))

    def cut(route: playwright.WebSocketRoute, message: str | bytes) -> None:
        route.send(message)
        if '"running"' in str(message):
            route.close(code=1011, reason="cut by the test")

    guest.page.route_web_socket(re.compile("/progress"), lose)
    guest.page.reload()
    with closed_gate(slow.model, "step"):
        guest.choose("otter.jpg")
        guest.restore(steps=3)
        guest.has("#main", "data-offline", "")
        guest.sees("#connection", re.compile(r"lost.* Trying again in \d s"))
        guest.sees("#announcer", "Offline. Connection lost, trying again.")
        guest.sees("#jobs .job-state", "Offline")
        # Half a second, one, two: so many tries mean that the wait has grown.
        guest.sees("#connection", re.compile("again in [3-9] s"))
        down = False
        guest.page.get_by_role("button", name="Try now").click()
        playwright.expect(guest.at("#offline")).to_be_hidden()
    guest.reaches("succeeded")
    after = [int(url.rpartition("starting_after=")[2]) for url in opened]
    assert after[0] == 0
    assert len(after) >= 4
    assert min(after[1:]) >= 1


def test_an_empty_page_says_that_the_service_is_out_of_reach(guest: Visit) -> None:
    guest.page.context.set_offline(True)
    guest.sees("#health", "Offline: the server cannot be reached. Trying again.")
    guest.page.context.set_offline(False)
    playwright.expect(guest.at("#health")).to_be_hidden(timeout=15_000)
