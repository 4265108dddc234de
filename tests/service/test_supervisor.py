"""Children that are kept running, a port that is known to be free, and `serve` as a whole."""

from __future__ import annotations

import http.server
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from service.lifeline import tied_to_me
from service.supervisor import PortInUseError, Process, is_ready, listen
from tests.conftest import WaitUntil
from tests.faults.fake import closed_gate, diary
from tests.faults.fleet import alive
from tests.service.test_executor import png

ROOT = Path(__file__).resolve().parents[2]
PAUSE = [sys.executable, "-S", "-c", "import signal; print('up', flush=True); signal.pause()"]
STUBBORN = [
    *(sys.executable, "-S", "-c"),
    "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\n"
    "while True: signal.pause()",
]
NEVER = threading.Event()


def test_a_port_in_use_is_named_with_advice() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=rf"port {port} on 127.0.0.1 .*--port"):
            listen("127.0.0.1", port)


@pytest.mark.skipif(sys.platform != "linux", reason="needs TCP_USER_TIMEOUT")
def test_a_client_that_takes_nothing_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.supervisor._CLIENT_SILENCE_MS", 500)
    with listen("127.0.0.1", 0) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server, pytest.raises(TimeoutError):
            server.sendall(bytes(2**26))


def test_an_ipv6_address_can_be_listened_on() -> None:
    try:
        with listen("::1", 0) as listener:
            assert listener.family == socket.AF_INET6
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")


async def test_a_process_that_ends_is_started_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil
) -> None:
    monkeypatch.setattr("service.supervisor._FIRST_PAUSE_S", 0.05)
    process = Process("part", PAUSE)
    process.tend()
    first = process.pid
    assert first is not None
    psutil.Process(first).kill()

    def replaced() -> bool:
        process.tend()
        return process.pid not in (first, None)

    await wait_until(replaced)
    process.stop(5.0, NEVER)
    assert process.pid is None


def test_a_process_that_ignores_sigterm_is_killed_when_patience_ends(
    capfd: pytest.CaptureFixture[str],
) -> None:
    process = Process("part", STUBBORN)
    process.tend()
    pid = process.pid
    assert pid is not None
    while "up" not in capfd.readouterr().out:
        assert psutil.pid_exists(pid)
    process.stop(0.05, NEVER)
    assert not psutil.pid_exists(pid)


def test_a_hurried_stop_does_not_wait(capfd: pytest.CaptureFixture[str]) -> None:
    process = Process("part", STUBBORN)
    process.tend()
    while "up" not in capfd.readouterr().out:
        assert process.pid is not None
    hurry = threading.Event()
    hurry.set()
    process.stop(3600.0, hurry)
    assert process.pid is None


@pytest.mark.parametrize(("status", "expected"), [(200, True), (503, False)])
def test_readiness_is_a_200_from_readyz(status: int, expected: bool) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert is_ready("127.0.0.1", server.server_port) is expected
        thread.join()
    assert not is_ready("127.0.0.1", server.server_port)


@contextmanager
def serving(folder: Path) -> Generator[tuple[subprocess.Popen[str], str]]:
    """`instantir serve` with the fake engine, and its address from the line it prints."""
    flags = {"engine": "tests.faults.fake:load", "model": folder, "data-dir": folder / "data"}
    parts = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    with subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve", "--port", "0", *parts],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=tied_to_me(),
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("InstantIR is ready: http://127.0.0.1:")
            yield process, line.split()[-1]
        finally:
            process.kill()


def part(process: subprocess.Popen[str], name: str) -> psutil.Process | None:
    """The child of `serve` that runs one of its parts."""
    for child in psutil.Process(process.pid).children():
        if alive(child.pid) and name in (child.name(), *child.cmdline()[:4]):
            return child
    return None


@pytest.mark.slow
async def test_serve_restores_a_picture_and_ctrl_c_stops_everything(
    tmp_path: Path, wait_until: WaitUntil
) -> None:
    with serving(tmp_path) as (process, address):
        family = psutil.Process(process.pid).children(recursive=True)
        async with httpx.AsyncClient(base_url=address) as client:
            with closed_gate(tmp_path, at="step"):
                posted = await client.post("/restore", files={"image": ("in.png", png())})
                assert posted.status_code == 202
                where = posted.headers["location"]
                await wait_until(lambda: diary(tmp_path, "step"))
                process.send_signal(signal.SIGINT)
            # The job in hand is finished, and only then the API leaves.
            await wait_until(lambda: diary(tmp_path, "finish"))
        assert where.startswith("/restore/")
        assert await wait_until(lambda: process.poll() is not None)
        assert process.returncode == 0
    assert [child for child in family if alive(child.pid)] == []
    assert not (tmp_path / "data" / "valkey.sock").exists()


@pytest.mark.slow
async def test_serve_replaces_its_parts_and_nothing_outlives_it(
    tmp_path: Path, wait_until: WaitUntil
) -> None:
    with serving(tmp_path) as (process, address):
        for name in ("api", "worker", "valkey-server"):
            victim = part(process, name)
            assert victim is not None
            victim.kill()

            def replaced(name: str = name, victim: psutil.Process = victim) -> bool:
                now = part(process, name)
                return now is not None and now.pid != victim.pid

            await wait_until(replaced)
        await wait_until(lambda: len(diary(tmp_path, "load")) == 2)
        async with httpx.AsyncClient(base_url=address, timeout=20) as client:
            assert (await client.get("/livez")).status_code == 200
            # The server is back with its data, and the others have found it again.
            await wait_until(lambda: is_ready("127.0.0.1", client.base_url.port or 0), 20)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 4
        process.kill()
        process.wait()
        await wait_until(lambda: not any(alive(child.pid) for child in family))
