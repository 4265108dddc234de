"""How a job is shown."""

import httpx

from service.api.app import create_app
from service.settings import Settings


async def test_urls_carry_the_prefix_of_a_proxy(settings: Settings, photo: bytes) -> None:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, root_path="/images")
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            answer = await client.post("/images/restore", files={"image": photo})

    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/images/restore/{answer.json()['id']}"
