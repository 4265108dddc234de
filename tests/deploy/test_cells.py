"""Two cells, each with a Redis of its own, behind a real nginx and a real HAProxy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import connect

from service.client import AsyncClient
from tests.conftest import WaitUntil
from tests.deploy.balancing import CONFIGURATIONS, PICTURE, Fleet, balancer, fleet_in, program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

KEYS = tuple(f"key-{number}" for number in range(12))


def _with_cells(name: str) -> str:
    """The configuration that we ship, with the cells that we ship in their place."""
    path = CONFIGURATIONS[name]
    whole = path.read_text(encoding="utf-8")
    cells = (path.parent / f"cells{path.suffix}").read_text(encoding="utf-8")
    if name == "haproxy":
        return whole.split("    default_backend")[0] + cells
    text = re.sub(r"upstream api \{.*?\n    \}\n", lambda _: cells, whole, flags=re.DOTALL)
    return text.replace("proxy_pass http://api;", "proxy_pass http://$cell;")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Fleet]]:
    """Two fleets that know nothing of each other."""
    with ExitStack() as stack:
        folders = [tmp_path_factory.mktemp("cell") for _ in range(2)]
        yield [stack.enter_context(fleet_in(folder, apis=2)) for folder in folders]


@pytest.fixture(scope="module", params=sorted(CONFIGURATIONS))
def address(
    request: pytest.FixtureRequest,
    cells: list[Fleet],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Address of a balancer before both cells."""
    name: str = request.param
    if program(name) is None:
        pytest.skip(f"needs {name}")
    folder = tmp_path_factory.mktemp(name)
    shipped = folder / f"shipped{CONFIGURATIONS[name].suffix}"
    shipped.write_text(_with_cells(name), encoding="utf-8")
    apis = [api.address for cell in cells for api in cell.apis]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGURATIONS, name, shipped)
        with balancer(name, folder, apis) as url:
            yield url


async def _submitted(address: str, **options: Any) -> dict[str, str]:
    """The id of a job of each caller, by the caller's key."""
    made: dict[str, str] = {}
    for key in KEYS:
        async with AsyncClient(address, api_key=key) as client:
            made[key] = (await client.submit(PICTURE, **options))["id"]
    return made


def _cell_of(job_id: str, cells: list[Fleet]) -> int:
    (found,) = (number for number, cell in enumerate(cells) if cell.log(job_id))
    return found


async def test_callers_are_spread_and_each_has_all_jobs_in_one_cell(
    address: str, cells: list[Fleet]
) -> None:
    once, again = [await _submitted(address, steps=2) for _ in range(2)]
    homes = [[_cell_of(made[key], cells) for key in KEYS] for made in (once, again)]
    assert homes[0] == homes[1]
    assert set(homes[0]) == {0, 1}


async def test_a_caller_follows_every_job_to_its_cell(address: str, cells: list[Fleet]) -> None:
    for key, job_id in (await _submitted(address, steps=8)).items():
        async with AsyncClient(address, api_key=key) as client:
            # An `eta`, which comes when it likes, has no number.
            seen = {event.data.get("seq") async for event in client.follow(job_id)}
        log = cells[_cell_of(job_id, cells)].log(job_id)
        assert {seq for seq, kind in log if kind != "preview"} <= seen


async def test_a_key_in_the_address_leads_to_the_same_cell(address: str) -> None:
    made = await _submitted(address, steps=2)
    for key, job_id in made.items():
        url = f"{address.replace('http', 'ws')}/restore/{job_id}/progress?key={key}"
        async with connect(url) as socket:
            assert [message async for message in socket]


async def test_an_idempotency_key_finds_the_job_of_its_caller(address: str) -> None:
    files = {"image": PICTURE}
    async with httpx.AsyncClient(base_url=address) as client:
        for key in KEYS:
            headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": str(uuid4())}
            first = await client.post("/restore", files=files, headers=headers)
            again = await client.post("/restore", files=files, headers=headers)
            assert first.json()["id"] == again.json()["id"]


async def test_a_cell_that_is_lost_takes_nothing_from_the_other_and_comes_back(
    address: str, cells: list[Fleet], wait_until: WaitUntil
) -> None:
    made = await _submitted(address, steps=2)

    async def found() -> list[int]:
        async with httpx.AsyncClient(base_url=address) as client:
            headers = [{"Authorization": f"Bearer {key}"} for key in made]
            answers = [
                await client.get(f"/restore/{job_id}", headers=header)
                for job_id, header in zip(made.values(), headers, strict=True)
            ]
            return [answer.status_code for answer in answers]

    async def all_found() -> bool:
        return set(await found()) == {200}

    for api in cells[1].apis:
        api.end()
    lost = await found()
    cells[1].mend()
    await wait_until(all_found)
    assert lost == [(200, 503)[_cell_of(job_id, cells)] for job_id in made.values()]
