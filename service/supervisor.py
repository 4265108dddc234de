"""Keeps the processes of `instantir serve` alive: embedded server, API and worker.

It owns the listening socket, so an API that is started again loses no connection, and a port in
use is known before anything starts. Every child dies with this process, even after a SIGKILL.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from service.embedded import EmbeddedServer, EmbeddedServerError
from service.lifeline import tied_to_me
from service.settings import Settings
from service.worker import DRAIN_S

_log = logging.getLogger(__name__)

_POLL_S = 0.1
_FIRST_PAUSE_S = 0.5
_LAST_PAUSE_S = 30.0
_STEADY_S = 60.0  # a process that lived this long starts its back-off anew
_API_STOP_S = 10.0
_CLIENT_SILENCE_MS = 30_000  # takes nothing, or is gone: the kernel ends the connection
_BACKLOG = 2048


class PortInUseError(OSError):
    """Another program listens on the address; the message says which address and what to do."""


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 takes a free one. Raises PortInUseError, OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise PortInUseError(
            f"port {port} on {host} is in use; choose another with --port"
        ) from None
    if sys.platform == "linux":  # connections have it from here
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _CLIENT_SILENCE_MS)
    return listener


class Process:
    """One child that should always run; started again with growing pauses when it ends."""

    def __init__(self, name: str, command: Sequence[str], pass_fds: Sequence[int] = ()) -> None:
        self.name = name
        self._command = list(command)
        self._pass_fds = list(pass_fds)
        self._child: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_at = 0.0
        self._pause_s = _FIRST_PAUSE_S

    @property
    def pid(self) -> int | None:
        """Process id of the current child."""
        return self._child.pid if self._child else None

    def tend(self) -> None:
        """Start the child if it should run and does not; call it often."""
        now = time.monotonic()
        if self._child is not None and (status := self._child.poll()) is not None:
            if now - self._started_at > _STEADY_S:
                self._pause_s = _FIRST_PAUSE_S
            _log.error("%s ended (%s); next start in %.1f s", self.name, status, self._pause_s)
            self._child = None
            self._start_at = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LAST_PAUSE_S)
        if self._child is None and now >= self._start_at:
            self._started_at = now
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                pass_fds=self._pass_fds,
                start_new_session=True,  # Ctrl-C reaches us alone; we stop the parts in order
                preexec_fn=tied_to_me(),
            )

    def stop(self, patience_s: float, hurry: threading.Event) -> None:
        """SIGTERM, then SIGKILL after `patience_s` or as soon as `hurry` is set."""
        if self._child is None:
            return
        self._child.terminate()
        deadline = time.monotonic() + patience_s
        while self._child.poll() is None:
            if time.monotonic() > deadline or hurry.is_set():
                self._child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_POLL_S)
        self._child = None


class Supervisor:
    """Runs everything on one machine until `stop`; `announce` gets the address once it is ready."""

    def __init__(
        self, settings: Settings, flags: Mapping[str, str], announce: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._flags = dict(flags)
        self._announce = announce
        self._stop = threading.Event()
        self._hurry = threading.Event()

    def stop(self) -> None:
        """Let running jobs end, then stop everything; asked a second time, stop at once."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def run(self) -> None:
        """Serve until stopped. Raises PortInUseError, EmbeddedServerError at the start."""
        settings = self._settings
        with contextlib.ExitStack() as owned:
            listener = owned.enter_context(listen(settings.host, settings.port))
            server: EmbeddedServer | None = None
            if settings.redis_url is None:
                server = EmbeddedServer(settings.data_dir)
                owned.callback(server.stop)
                self._flags["redis_url"] = server.start()
            api_flags = ("--fd", str(listener.fileno()))
            api = Process("api", self._command("api", *api_flags), [listener.fileno()])
            worker = Process("worker", self._command("worker"))
            owned.callback(api.stop, _API_STOP_S, self._hurry)
            owned.callback(worker.stop, DRAIN_S + _API_STOP_S, self._hurry)
            self._tend(server, (api, worker), listener)
            _log.info("stopping")

    def _tend(
        self,
        server: EmbeddedServer | None,
        processes: Sequence[Process],
        listener: socket.socket,
    ) -> None:
        host, port = listener.getsockname()[:2]
        announced = False
        while not self._stop.is_set():
            if server is not None and not server.alive():
                _revive(server)
            for process in processes:
                process.tend()
            if not announced and is_ready(_reachable(host), port):
                announced = True
                self._announce(f"http://{_in_url(self._settings.host)}:{port}/")
            self._stop.wait(_POLL_S)

    def _command(self, part: str, *more: str) -> list[str]:
        flags = [
            text
            for name, value in self._flags.items()
            for text in ("--" + name.replace("_", "-"), value)
        ]
        return [sys.executable, "-m", "service.cli", part, *flags, *more]


def _revive(server: EmbeddedServer) -> None:
    _log.error("the embedded Valkey has ended; starting it again")
    try:
        server.start()
    except EmbeddedServerError:
        _log.exception("the embedded Valkey does not start")


def is_ready(host: str, port: int) -> bool:
    """Whether GET /readyz answers 200 within a second."""
    connection = http.client.HTTPConnection(host, port, timeout=1.0)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _reachable(host: str) -> str:
    """Where to knock from this machine when the server listens on every address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _in_url(host: str) -> str:
    reachable = _reachable(host)
    return f"[{reachable}]" if ":" in reachable else reachable
