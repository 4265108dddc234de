"""From a submission to a job in the queue."""

import httpx

from service.api.app import create_app
from service.settings import Settings
from tests.service.api.expect import assert_problem


async def test_a_full_queue_says_when_to_come_back(settings: Settings, photo: bytes) -> None:
    app = create_app(settings.model_copy(update={"queue_limit": 1}))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            await client.post("/restore", files={"image": photo})
            refused = await client.post("/restore", files={"image": photo})

    problem = assert_problem(refused, 429, "queue_full")
    assert problem["retryable"] is True
    assert "limit is 1" in problem["detail"]
    assert int(refused.headers["retry-after"]) >= 1
