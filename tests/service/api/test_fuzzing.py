"""Schemathesis over the whole API: no request that the document allows finds a fault."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.api.app import create_app
from service.connection import connect
from service.queue import JobQueue
from service.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LIMITS = settings(
    max_examples=40,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much),
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


async def beat(settings: Settings) -> None:
    """A worker says that it is ready, for as long as the test takes."""
    redis = connect(settings)
    info = {"ready": True, "slots": 1, "model": "nano", "fingerprint": "f"}
    await JobQueue(redis, settings).beat("worker", info)
    await redis.aclose()


@pytest.fixture
def api(settings: Settings) -> Iterator[str]:
    """The address of a service whose worker does nothing: waiting requests are answered soon."""
    quick = settings.model_copy(update={"max_wait_s": 0.2, "queue_limit": 5, "lease_s": 900.0})
    asyncio.run(beat(quick))
    server = uvicorn.Server(uvicorn.Config(create_app(quick), port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    pause = threading.Event()
    while not server.started:
        pause.wait(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_no_allowed_request_finds_a_fault(api: str) -> None:
    schema = schemathesis.openapi.from_url(f"{api}/openapi.json")
    found: list[str] = []
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()

        @LIMITS
        @given(case=operation.as_strategy())
        def probe(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS, timeout=20)

        try:
            probe()
        except (AssertionError, FailureGroup) as error:
            found.append(f"{operation.label}: {error}")
    assert not found, "\n\n".join(found)
