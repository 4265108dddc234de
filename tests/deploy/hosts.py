"""Hosts with a network of their own on one machine, and links between them that can be cut.

A host is a network namespace without a name, on a bridge in one more such namespace: nothing of
it is seen from outside, and the kernel removes it with the last process that is in it or holds it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Way = Literal["silence", "refusal"]

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_LIBC = ctypes.CDLL(None, use_errno=True)
_NOBODY = "02:00:00:00:00:ff"
_WALL = 254  # the number of the host that refuses what was meant for others


@dataclass(frozen=True, slots=True)
class Host:
    """One host; `number` is the last part of its addresses."""

    name: str
    number: int
    namespace: int  # a descriptor, open while the network is there

    @property
    def address(self) -> str:
        return f"10.0.0.{self.number}"

    @property
    def mac(self) -> str:
        return f"02:00:00:00:00:{self.number:02x}"

    @contextmanager
    def inside(self) -> Generator[None]:
        """The calling thread and the processes that it starts are there while the block lasts."""
        before = _here()
        _enter(self.namespace)
        try:
            yield
        finally:
            _enter(before)
            os.close(before)

    def connections(self, port: int) -> int:
        """How many TCP connections to this port of other hosts are open there."""
        with self.inside():
            table = Path("/proc/thread-self/net/tcp").read_text()
        rows = [line.split() for line in table.splitlines()[1:]]
        return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)

    def ip(self, *commands: str) -> None:
        """Commands of iproute2, there."""
        with self.inside():
            _ip(*commands)


@dataclass(frozen=True, slots=True)
class Network:
    """Hosts that reach one another, as long as no link is cut."""

    hosts: dict[str, Host]
    wall: Host

    @contextmanager
    def cut(self, hosts: Iterable[str], other: str, way: Way) -> Generator[None]:
        """Nothing passes between these hosts and the other one while the block lasts.

        In silence nobody is told. Refused, these hosts are: what they send is answered by resets.
        """
        far = self.hosts[other]
        with ExitStack() as mend:
            if way == "refusal":
                self.wall.ip(f"address add {far.address}/32 dev lo")
                mend.callback(self.wall.ip, f"address del {far.address}/32 dev lo")
            astray = _NOBODY if way == "silence" else self.wall.mac
            for near in map(self.hosts.__getitem__, hosts):
                for host, peer, mac in ((near, far, astray), (far, near, _NOBODY)):
                    host.ip(f"neighbor replace {peer.address} lladdr {mac} nud permanent dev eth0")
                    mend.callback(host.ip, f"neighbor del {peer.address} dev eth0")
            yield


def lacking() -> str | None:
    """What is missing for such hosts, in words; None where nothing is."""
    if shutil.which("ip") is None:
        return "needs Debian's package iproute2"
    try:
        os.close(_namespace())
    except OSError as error:
        return f"needs root that may make network namespaces: {error.strerror}"
    return None


@contextmanager
def network(*names: str) -> Generator[Network]:
    """Hosts of these names; gone at the end, when their processes have been ended."""
    with ExitStack() as held:

        def host(name: str, number: int) -> Host:
            made = Host(name, number, _namespace())
            held.callback(os.close, made.namespace)
            return made

        switch, wall = host("switch", 0), host("wall", _WALL)
        hosts = [host(name, number) for number, name in enumerate(names, start=1)]
        switch.ip("link add name switch type bridge", "link set dev switch up")
        for each in (*hosts, wall):
            there = f"eth0 address {each.mac} netns /proc/{os.getpid()}/fd/{each.namespace}"
            switch.ip(
                f"link add name {each.name} type veth peer name {there}",
                f"link set dev {each.name} master switch up",
            )
            each.ip(
                f"address add {each.address}/24 dev eth0",
                "link set dev lo up",
                "link set dev eth0 up",
            )
        with wall.inside():  # it has addresses of others, and must not claim to be them
            for name, value in (("arp_ignore", "1"), ("arp_announce", "2")):
                Path(f"/proc/sys/net/ipv4/conf/all/{name}").write_text(value)
        yield Network({each.name: each for each in hosts}, wall)


def _ip(*commands: str) -> None:
    lines = "".join(f"{command}\n" for command in commands)
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)


def _here() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _namespace() -> int:
    """A descriptor of a new network namespace. Raises OSError where that is not allowed."""
    before = _here()
    try:
        _checked(lambda: _LIBC.unshare(_NEW_NETWORK))
        made = _here()
        _enter(before)
        return made
    finally:
        os.close(before)


def _enter(namespace: int) -> None:
    _checked(lambda: _LIBC.setns(namespace, _NEW_NETWORK))


def _checked(call: Callable[[], int]) -> None:
    if call() != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
