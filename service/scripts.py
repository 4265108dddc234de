"""The Lua scripts of `service/lua`, completed with the facts that Python owns.

Every script runs behind what it needs of a prelude and of `job.lua`: the table of moves, the key
names and the lifetimes are generated from `jobs.MOVES`, `keys` and the settings, so each fact is
written down once. What it does not need is left out: the server would make it anew at every call.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from service import keys
from service.jobs import MOVES, TERMINAL_EVENTS
from service.settings import Settings

NAMES: Final = (
    "submit",
    "claim",
    "renew",
    "start",
    "emit",
    "finish",
    "release",
    "cancel",
    "delete",
    "watch",
    "reuse",
    "load",
    "predict",
    "hooks",
    "sweep",
    "depth",
    "beat",
)

# Parts of the shared code have blank lines around them, and none inside.
_DEFINES: Final = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)
_SAID: Final = re.compile(r"--.*|'[^']*'")  # comments and strings name nothing
_WORD: Final = re.compile(r"\w+")
_LINGER_S: Final = 10  # the log of a deleted job, for those who follow it

# What Redis returns and takes; nested lists for claim.
Reply = bytes | int | None | list["Reply"]
Argument = bytes | str | int | float


def _table(rows: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{name} = {value}" for name, value in rows.items()) + "}"


def _list(words: Sequence[str]) -> str:
    return "{" + ", ".join(f"'{word}'" for word in words) + "}"


def prelude(settings: Settings) -> str:
    """The generated constants, in Lua."""
    moves = {
        status.value: _table({target.value: "true" for target in sorted(targets)})
        for status, targets in MOVES.items()
    }
    kinds = (*keys.PER_JOB, "queue", "shares", "jobs", "live", "cache", "hook")
    shared = {key.rpartition(":")[2].upper(): f"'{key}'" for key in keys.SHARED}
    constants = {
        "MOVES": _table(moves),
        "KEY": _table({kind: f"'{keys.prefix(kind)}'" for kind in kinds}),
        "PER_JOB": _list(keys.PER_JOB),
        "PRIORITIES": _list(keys.PRIORITIES),
        **shared,
        "TIMES_S": "{" + ", ".join(map(str, keys.TIMES_S)) + "}",
        "EVENTS_MAXLEN": str(keys.EVENTS_MAXLEN),
        "IDEMPOTENCY_S": str(keys.IDEMPOTENCY_S),
        "HOOK_EVENTS": _list(TERMINAL_EVENTS),
        "HOOK_S": str(keys.HOOK_S),
        "LINGER_S": str(_LINGER_S),
        "ALIVE_S": str(keys.alive_ttl_s(settings)),
        "RETENTION_S": str(settings.retention_s),
        "LEASE_MS": str(round(settings.lease_s * 1000)),
    }
    return "\n".join(f"local {name} = {value}" for name, value in constants.items())


def source(name: str, settings: Settings) -> str:
    """The full text of one script: its shebang, the constants and functions it needs, its body."""
    folder = files("service") / "lua"
    shebang, body = (folder / f"{name}.lua").read_text().split("\n", 1)
    shared = (folder / "job.lua").read_text().strip()
    parts, needed = [body], _words(body)
    for part in reversed([*prelude(settings).splitlines(), *shared.split("\n\n")]):
        defined = _DEFINES.search(part)
        if defined and defined[1] in needed:
            parts.append(part)
            needed |= _words(part)
    return "\n\n".join((shebang, *reversed(parts)))


def _words(text: str) -> set[str]:
    return set(_WORD.findall(_SAID.sub("", text)))


class Scripts:
    """The scripts of one client, run by name; sent in full to a server that lacks them."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._texts = {name: source(name, settings) for name in NAMES}
        self._hashes = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            for name, text in self._texts.items()
        }

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Argument] = ()) -> Reply:
        """Runs one script atomically; `keys` are all the keys it may touch."""
        given: list[Any] = [len(keys), *keys, *args]
        try:
            reply = self._redis.evalsha(self._hashes[name], *given)
            return await cast("Awaitable[Reply]", reply)
        except NoScriptError:
            # Not SCRIPT LOAD and once more: a server may be replaced between any two commands.
            reply = self._redis.eval(self._texts[name], *given)
            return await cast("Awaitable[Reply]", reply)
