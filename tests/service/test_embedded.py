"""The private server: a real one, in the test's own folder."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from redis import Redis

from service.embedded import EmbeddedServer, EmbeddedServerError
from tests.conftest import WaitUntil
from tests.faults.fleet import alive, script


def socket_of(url: str) -> Path:
    return Path(unquote(urlparse(url).path))


def test_a_server_starts_private_durable_and_without_a_port(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "data") as url, Redis.from_url(url) as redis:
        assert redis.ping()
        assert redis.config_get("appendonly") == {"appendonly": "yes"}
        assert redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert redis.config_get("stream-node-max-bytes") == {"stream-node-max-bytes": "1024"}
        assert redis.config_get("port") == {"port": "0"}
        assert stat.S_IMODE(socket_of(url).stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert not socket_of(url).exists()


def test_data_survives_a_restart(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    for expected in (None, b"kept"):
        with server as url, Redis.from_url(url) as redis:
            assert redis.get("key") == expected
            redis.set("key", b"kept")


def test_data_and_a_stale_socket_of_a_killed_server_are_no_obstacle(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    with Redis.from_url(server.start()) as redis:
        redis.set("key", b"kept")
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not server.alive()
    assert socket_of(server.url).exists()
    with Redis.from_url(server.start()) as redis:
        assert redis.get("key") == b"kept"
    server.stop()


def test_a_second_server_on_the_same_folder_is_refused_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.embedded._LOCK_TIMEOUT_S", 0.1)
    with EmbeddedServer(tmp_path), pytest.raises(EmbeddedServerError, match="--data-dir"):
        EmbeddedServer(tmp_path).start()


def test_a_path_too_long_for_a_socket_gets_a_short_private_folder(tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 60) / ("b" * 60)
    with EmbeddedServer(deep) as url, Redis.from_url(url) as redis:
        assert redis.ping()
        folder = socket_of(url).parent
        assert len(os.fsencode(socket_of(url))) < 100
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        redis.set("key", b"kept")
    assert not folder.exists()
    with EmbeddedServer(deep) as url, Redis.from_url(url) as redis:
        assert redis.get("key") == b"kept"


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as url, Redis.from_url(url) as redis:
        redis.set("key", "value")
    (manifest,) = (tmp_path / "appendonlydir").glob("*.manifest")
    manifest.write_text("this is no manifest\n")
    server = EmbeddedServer(tmp_path)
    with pytest.raises(EmbeddedServerError, match=r"left with status 1.*manifest"):
        server.start()
    server.stop()


PARENT = """
import sys
from pathlib import Path
from service.embedded import EmbeddedServer

server = EmbeddedServer(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
input()
"""


async def test_a_server_dies_with_its_killed_parent_and_its_folder_is_free_again(
    tmp_path: Path, wait_until: WaitUntil
) -> None:
    with script(PARENT, str(tmp_path)) as (parent, pid):
        parent.kill()
    await wait_until(lambda: not alive(pid))
    with EmbeddedServer(tmp_path) as url, Redis.from_url(url) as redis:
        assert redis.ping()
