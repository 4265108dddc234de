"""The whole service, started once for all tests that follow its use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.serving import served


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a live service with the embedded model and server."""
    with served(tmp_path_factory.mktemp("serve")) as service:
        yield service.url
