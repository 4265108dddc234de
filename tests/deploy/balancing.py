"""A fleet on loopback behind a real balancer: API processes, workers, one Redis."""

from __future__ import annotations

import asyncio
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from grp import getgrgid
from pathlib import Path
from pwd import getpwuid
from typing import Any

import httpx
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from loadtests.processes import until_ok
from service import keys
from service.embedded import EmbeddedServer
from service.lifeline import tied_to_me
from service.settings import Settings
from tests.faults.fleet import worker_process

ROOT = Path(__file__).resolve().parents[2]
ENGINE = "tests.deploy.paced:load"
WORKERS = 2
OPEN = "instantir_streams_open"
_APIS = 3
_STOP_S = 20

CONFIGURATIONS = {
    "nginx": ROOT / "deploy" / "nginx" / "nginx.conf",
    "haproxy": ROOT / "deploy" / "haproxy" / "haproxy.cfg",
}


def _picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 24), "olive").save(out, "PNG")
    return out.getvalue()


PICTURE = _picture()


def program(name: str) -> str | None:
    """Where a balancer's program is; packages put it where not every PATH looks."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


class Api:
    """One API process with an address of its own, whose ports nothing else on loopback takes."""

    def __init__(self, number: int, redis_url: str) -> None:
        self._host = f"127.0.0.{10 + number}"
        self._port = _free_port(self._host)
        self._redis_url = redis_url
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{self._host}:{self._port}"

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        flags = ("--host", self._host, "--port", str(self._port), "--redis-url", self._redis_url)
        more = ("--result-cache", "false", "--log-level", "WARNING")
        command = [sys.executable, "-m", "service.cli", "api", *flags, *more]
        self._process = subprocess.Popen(command, cwd=ROOT, preexec_fn=tied_to_me())

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal that ends it, and see it gone."""
        if self.runs and self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_STOP_S)

    async def restart(self, number: signal.Signals) -> None:
        """End it by a signal without holding up the loop, and start it again until it answers."""
        assert self._process is not None
        self._process.send_signal(number)
        await asyncio.to_thread(self._process.wait, _STOP_S)
        self.start()
        await self.back()

    async def back(self) -> None:
        """Until it answers."""
        await asyncio.to_thread(until_ok, f"http://{self.address}/livez")

    async def metric(self, name: str, **labels: str) -> float:
        """The value of one of its metrics; 0 for one that is not there yet."""
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"http://{self.address}/metrics")).text
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        found = (s.value for s in samples if s.name == name and labels.items() <= s.labels.items())
        return next(found, 0.0)


@dataclass(slots=True)
class Fleet:
    """API processes and workers on one Redis; `model` is the folder of the workers' engine."""

    model: Path
    redis_url: str
    apis: list[Api] = field(default_factory=list[Api])

    async def serving(self, kind: str) -> Api | None:
        """A running API process with open streams of a kind; for `wait_until`."""
        for api in self.apis:
            if api.runs and await api.metric(OPEN, kind=kind):
                return api
        return None

    def log(self, job_id: str) -> list[tuple[int, str]]:
        """Number and type of every event of a job, as the log has them."""
        with Redis.from_url(self.redis_url) as client:
            entries: Any = client.xrange(keys.events(job_id))
        return [(int(at.split(b"-")[0]), fields[b"type"].decode()) for at, fields in entries]

    def jobs(self) -> set[str]:
        """The ids of all jobs."""
        with Redis.from_url(self.redis_url) as client:
            found: Any = client.zrange(keys.jobs(""), 0, -1)
        return {job_id.decode() for job_id in found}

    def logged(self, job_ids: Sequence[str]) -> int:
        """How many events the logs of these jobs hold in all."""
        with Redis.from_url(self.redis_url) as client, client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.xlen(keys.events(job_id))
            return sum(pipe.execute())

    def mend(self) -> None:
        """All API processes run and answer."""
        for api in self.apis:
            if not api.runs:
                api.start()
            api.send(signal.SIGCONT)
        for api in self.apis:
            until_ok(f"http://{api.address}/livez")


@contextmanager
def fleet_in(folder: Path, apis: int = _APIS) -> Generator[Fleet]:
    """A fleet that is ready for work, for as long as the block lasts."""
    model = folder / "model"
    model.mkdir()
    with ExitStack() as stack:
        address = stack.enter_context(EmbeddedServer(folder / "redis"))
        settings = Settings(redis_url=address, engine=ENGINE, model=str(model), lease_s=10.0)
        fleet = Fleet(model, address, [Api(number, address) for number in range(apis)])
        for api in fleet.apis:
            stack.callback(api.end)
        for _ in range(WORKERS):
            stack.enter_context(worker_process(settings))
        fleet.mend()
        until_ok(f"http://{fleet.apis[0].address}/readyz", _has_workers)
        yield fleet


def _has_workers(answer: bytes) -> bool:
    return f'"workers":{WORKERS}'.encode() in answer


def configuration(
    name: str, folder: Path, port: int, addresses: Sequence[str], hurry: int = 1
) -> Path:
    """The configuration that we ship, with these addresses and nginx's own files in `folder`.

    What it waits for answers is divided by `hurry`.
    """
    text = CONFIGURATIONS[name].read_text()
    shipped = re.findall(r"server (?:api\d )?(10\.0\.0\.\d+:8000)", text)
    changes = dict(zip(shipped, addresses, strict=True))
    if name == "nginx":
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        changes["listen 80;"] = f"listen 127.0.0.1:{port};"
        # Its processes are ours: those of another user could not enter our folder.
        us = f"{getpwuid(os.geteuid()).pw_name} {getgrgid(os.getegid()).gr_name}"
        changes["events {"] = f"user {us}; pid {folder}/pid; daemon off;\nevents {{"
        changes["http {"] = f"http {{ {paths}"
    else:
        changes["bind :80\n"] = f"bind 127.0.0.1:{port}\n"
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    waits = r"(proxy_read_timeout|timeout (?:client|server|tunnel)) +(\d+)s"
    text = re.sub(waits, lambda found: f"{found[1]} {int(found[2]) * 1000 // hurry}ms", text)
    path = folder / CONFIGURATIONS[name].name
    path.write_text(text)
    return path


def checking(name: str, path: Path) -> list[str]:
    """The command by which a balancer checks a configuration."""
    words = {"nginx": ["-t", "-e", "stderr"], "haproxy": ["-c"]}[name]
    return [str(program(name)), *words, {"nginx": "-c", "haproxy": "-f"}[name], str(path)]


@contextmanager
def balancer(name: str, folder: Path, addresses: Sequence[str], hurry: int = 1) -> Generator[str]:
    """A balancer before these API processes; its address."""
    port = _free_port("127.0.0.1")
    path = configuration(name, folder, port, addresses, hurry)
    words = {"nginx": ["-e", "stderr", "-c"], "haproxy": ["-db", "-f"]}[name]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(program(name)), *words, str(path)],
            stdout=log,
            stderr=log,
            preexec_fn=tied_to_me(),
        )
    try:
        until_ok(f"http://127.0.0.1:{port}/livez")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(_STOP_S)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
