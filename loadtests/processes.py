"""The service's processes, for measurements: one API, some workers, on a private server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from service.lifeline import tied_to_me

RULES = Path(__file__).resolve().parents[1] / "deploy" / "prometheus" / "rules.yml"
_START_S = 120.0


@dataclass(frozen=True, slots=True)
class Api:
    """An API process that listens."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def process(name: str, *flags: str) -> Generator[subprocess.Popen[bytes]]:
    """`instantir NAME FLAGS` for as long as the block lasts."""
    command = [sys.executable, "-m", "service.cli", name, *flags, "--log-level", "WARNING"]
    made = subprocess.Popen(command, preexec_fn=tied_to_me())
    try:
        yield made
    finally:
        made.terminate()
        made.wait()


@contextmanager
def api(address: str, *flags: str) -> Generator[Api]:
    """An API process that answers."""
    port = _free_port()
    with process("api", "--port", str(port), "--redis-url", address, *flags) as made:
        found = Api(made.pid, port)
        until_ok(f"{found.url}/livez")
        yield found


@contextmanager
def prometheus(folder: Path, *services: Api) -> Generator[str]:
    """The address of a real Prometheus that scrapes API processes each second, with our rules."""
    targets = [f"127.0.0.1:{service.port}" for service in services]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "api", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{_free_port()}"
    command = [
        *("prometheus", f"--config.file={folder / 'prometheus.yml'}", "--log.level=error"),
        *(f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address={address}"),
    ]
    with subprocess.Popen(command, preexec_fn=tied_to_me()) as made:
        try:
            until_ok(f"http://{address}/-/ready")
            yield f"http://{address}"
        finally:
            made.terminate()


def until_ready(service: Api, workers: int) -> None:
    """Until so many workers have loaded their model. Raises TimeoutError."""
    until_ok(f"{service.url}/readyz", lambda answer: json.loads(answer)["workers"] >= workers)


def until_ok(url: str, good: Callable[[bytes], bool] = lambda _: True) -> None:
    """Until an address answers well, and what it says is good. Raises TimeoutError."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                if good(answer.read()):
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"{url} did not answer so within {_START_S:g} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
