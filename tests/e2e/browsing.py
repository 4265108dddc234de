"""A visitor of the page: a tab of a real browser, with everything it said and did."""

from __future__ import annotations

import re
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright import sync_api as playwright

from tests.e2e.serving import SAMPLES

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
JOB_MS = 120_000
"""Longest wait for a whole restoration on two busy cores."""
NEWS_MS = 40_000
"""Longest wait for what needs no model."""


@dataclass
class Socket:
    """One progress websocket that the page opened, and how many frames came over it."""

    url: str
    texts: int = 0
    pictures: int = 0

    def count(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            self.pictures += 1
        else:
            self.texts += 1


@dataclass
class Visit:
    """A tab on the page, with everything it said and every websocket it opened."""

    page: playwright.Page
    sockets: list[Socket] = field(default_factory=list[Socket])
    faults: list[str] = field(default_factory=list[str])

    def watch(self) -> None:
        self.page.on("websocket", self._opened)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._said)

    def _opened(self, websocket: playwright.WebSocket) -> None:
        socket = Socket(websocket.url)
        websocket.on("framereceived", socket.count)
        self.sockets.append(socket)

    def _said(self, message: playwright.ConsoleMessage) -> None:
        # The browser itself reports every 4xx answer and every refused connection as an error;
        # those are part of the tests.
        expected = ("Failed to load resource", "WebSocket connection to")
        if message.type == "error" and not message.text.startswith(expected):
            self.faults.append(message.text)

    def at(self, selector: str) -> playwright.Locator:
        return self.page.locator(selector)

    def job(self, text: str) -> playwright.Locator:
        """The button of this browser's picture whose name or state says so."""
        return self.at("#jobs .job").filter(has_text=text)

    def sees(self, selector: str, text: str | re.Pattern[str]) -> None:
        playwright.expect(self.at(selector)).to_have_text(text, timeout=NEWS_MS)

    def has(self, selector: str, name: str, value: str | re.Pattern[str]) -> None:
        where = self.at(selector)
        playwright.expect(where).to_have_attribute(name, value, timeout=NEWS_MS)

    def choose(self, *names: str) -> None:
        """Samples of the page as files of one's own; nothing is sent yet."""
        self.page.set_input_files("#file", [SAMPLES / name for name in names])
        self.has("#main", "data-view", "draft")
        playwright.expect(self.at("#sources li")).to_have_count(len(names))

    def restore(self, steps: int | None = None, prompt: str | None = None) -> None:
        """Send what was chosen."""
        if steps is not None:
            if not self.at("#settings").evaluate("node => node.open"):
                self.at("#settings summary").click()
            self.page.get_by_role("spinbutton", name="Steps").fill(str(steps))
        if prompt is not None:
            self.page.get_by_label("Prompt").fill(prompt)
        self.at("#restore").click()

    def restore_sample(self, name: str, steps: int) -> None:
        self.at(f"[data-sample='{name}']").click()
        self.restore(steps)

    def reaches(self, view: str, timeout_ms: float = JOB_MS) -> None:
        """Wait until the page shows this phase; a failed job shows its reason in the message."""
        main = self.at("#main")
        one_of = re.compile(f"^({view}|failed)$")
        playwright.expect(main).to_have_attribute("data-view", one_of, timeout=timeout_ms)
        detail = self.at("#detail").text_content()
        assert main.get_attribute("data-view") == view, f"the page shows a failure: {detail}"

    def sees_previews(self, at_least: int) -> None:
        # The page's policy forbids the evaluation of text, so the number is met by a pattern.
        enough = re.compile(f"^([{at_least}-9]|[1-9][0-9]+)$")
        stage = self.at("#stage")
        playwright.expect(stage).to_have_attribute("data-previews", enough, timeout=JOB_MS)

    def shelf(self) -> list[str]:
        """The names of this browser's pictures, newest first."""
        return self.at("#jobs .job-words b").all_text_contents()

    def job_id(self) -> str:
        """That of the job in the address."""
        self.page.wait_for_url(re.compile("#[0-9a-f-]{36}$"), timeout=JOB_MS)
        return self.page.url.partition("#")[2]


@contextmanager
def browsing() -> Generator[playwright.Browser]:
    """A headless Chromium of the system with an empty profile of its own."""
    executable = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if executable is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)} on the path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=executable, headless=True, args=list(FLAGS), timeout=60_000
        )
        yield browser
        browser.close()


@contextmanager
def visiting(
    browser: playwright.Browser, url: str, size: Sequence[int] = (1280, 900), dark: bool = False
) -> Generator[Visit]:
    """The page, freshly opened; afterwards no script may have failed or met the policy."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        accept_downloads=True,
    )
    visit = Visit(context.new_page())
    visit.watch()
    visit.page.goto(url)
    yield visit
    context.close()
    assert visit.faults == []


@dataclass(frozen=True, slots=True)
class Slow:
    """A live service whose engine waits at the gates of `model`."""

    url: str
    model: Path
