"""API keys: who may call, and whose jobs are whose."""

from collections.abc import AsyncIterator

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from service.settings import Settings
from tests.service.api.conftest import serve
from tests.service.api.expect import assert_problem

KEYS = {"key-of-ann": "ann", "key-of-ben": "ben"}
OPERATOR = "the-operator"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


ANN, BEN = bearer("key-of-ann"), bearer("key-of-ben")


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that knows two callers and an operator."""
    update = {"api_keys": KEYS, "operator_key": OPERATOR}
    async with (
        serve(settings.model_copy(update=update)) as live,
        httpx.AsyncClient(base_url=f"http://{live.address}") as made,
    ):
        yield made


@pytest.fixture
async def of_ann(client: httpx.AsyncClient, photo: bytes) -> str:
    """A job of Ann's."""
    answer = await client.post("/restore", files={"image": photo}, headers=ANN)
    return str(answer.json()["id"])


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), {"authorization": "Basic key-of-ann"}])
async def test_without_a_known_key_nothing_is_served(client, of_ann: str, headers: dict) -> None:
    for path in ("/restore", f"/restore/{of_ann}", f"/restore/{of_ann}/events"):
        answer = await client.get(path, headers=headers)
        assert_problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_probes_need_no_key(client: httpx.AsyncClient) -> None:
    assert (await client.get("/livez")).status_code == 200


async def test_a_key_in_the_address_serves_browsers(client, of_ann: str) -> None:
    params = {"key": "key-of-ann"}
    assert (await client.get(f"/restore/{of_ann}", params=params)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/events"),
        ("GET", "/result"),
        ("POST", "/cancel"),
        ("DELETE", ""),
    ],
)
async def test_a_job_of_another_caller_is_not_found(
    client, of_ann: str, method: str, path: str
) -> None:
    answer = await client.request(method, f"/restore/{of_ann}{path}", headers=BEN)
    assert_problem(answer, 404, "not_found")
    assert (await client.get(f"/restore/{of_ann}", headers=ANN)).json()["status"] == "queued"


async def test_a_list_holds_the_callers_own_jobs(client, of_ann: str) -> None:
    mine = (await client.get("/restore", headers=ANN)).json()["jobs"]
    assert [job["id"] for job in mine] == [of_ann]
    assert (await client.get("/restore", headers=BEN)).json() == {"jobs": [], "next_cursor": None}
    assert "caller" not in mine[0]


async def test_a_socket_needs_the_key_as_well(client, of_ann: str) -> None:
    address = str(client.base_url).replace("http", "ws") + f"/restore/{of_ann}/progress"
    async with connect(address) as socket:
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 4401
    async with connect(f"{address}?key=key-of-ann") as socket:
        assert '"queued"' in str(await socket.recv())


async def test_one_key_of_idempotency_serves_each_caller_apart(client, photo: bytes) -> None:
    jobs = [
        await client.post(
            "/restore", files={"image": photo}, headers={**who, "idempotency-key": "same"}
        )
        for who in (ANN, BEN, ANN)
    ]
    first, second, third = (answer.json()["id"] for answer in jobs)
    assert first == third != second


async def test_only_the_operator_sees_the_dead(client) -> None:
    assert_problem(await client.get("/ops/dead", headers=ANN), 401, "unauthorized")
    assert (await client.get("/ops/dead", headers=bearer(OPERATOR))).json() == {"jobs": []}


async def test_without_an_operators_key_there_is_nothing_to_see(api) -> None:
    assert_problem(await api.get("/ops/dead"), 404, "not_found")
