"""The whole service, started once for all tests that follow its use, and a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright import sync_api as playwright

from tests.e2e.browsing import Slow, Visit, browsing, visiting
from tests.e2e.serving import served


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a live service with the embedded model and server."""
    with served(tmp_path_factory.mktemp("serve")) as service:
        yield service.url


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slow]:
    """A live service that restores one picture at a time, as fast or slowly as a test wants."""
    folder = tmp_path_factory.mktemp("slow")
    model = folder / "model"
    model.mkdir()
    engine = ("--engine", "tests.faults.raises_in_step:load", "--model", str(model))
    with served(folder, *engine, "--slots", "1", "--result-cache", "false") as service:
        yield Slow(service.url, model)


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    """A headless Chromium of the system with an empty profile of its own."""
    with browsing() as found:
        yield found


@pytest.fixture
def visit(browser: playwright.Browser, service_url: str) -> Iterator[Visit]:
    """The page of the service with the embedded model."""
    with visiting(browser, service_url) as opened:
        yield opened


@pytest.fixture
def guest(browser: playwright.Browser, slow: Slow) -> Iterator[Visit]:
    """The page of the service with gates."""
    with visiting(browser, slow.url) as opened:
        yield opened
