from __future__ import annotations

import re
from importlib.resources import files

import pytest
from redis.asyncio import Redis

from service import keys
from service.jobs import MOVES
from service.scripts import NAMES, Scripts, prelude, source
from service.settings import Settings

PORTABLE = (
    "TIME EXISTS EXPIRE PEXPIRE DEL SET GET HSET HGET HMGET HDEL HINCRBY INFO XADD "
    "PUBLISH HEXISTS HSETNX ZADD ZREM ZCARD ZSCORE ZRANGE ZRANGEBYSCORE ZREMRANGEBYSCORE "
    "ZPOPMIN LPUSH LTRIM HLEN"
)


def test_every_lua_file_is_a_script_or_the_shared_part() -> None:
    folder = files("service") / "lua"
    names = {entry.name.removesuffix(".lua") for entry in folder.iterdir()}
    assert names == {*NAMES, "job"}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_starts_with_its_shebang_and_says_what_it_takes(name: str) -> None:
    body = (files("service") / "lua" / f"{name}.lua").read_text()
    # Submit alone is refused at maxmemory; what ends a job must work even then.
    assert body.startswith("#!lua\n" if name in {"submit", "reuse"} else "#!lua flags=allow-oom\n")
    header = body.split("\n\n")[0]
    assert {"KEYS", "ARGV"} <= set(re.findall(r"KEYS|ARGV", header))
    assert source(name, Settings()).startswith("#!lua")


@pytest.mark.parametrize("name", NAMES)
def test_a_script_has_of_the_shared_part_what_it_needs_and_nothing_else(name: str) -> None:
    job = (files("service") / "lua" / "job.lua").read_text()
    define = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)
    shared = set(define.findall(prelude(Settings()) + "\n" + job))
    code = re.sub(r"--.*|'[^']*'", "", source(name, Settings()))
    words = re.findall(r"\w+", code)
    assert shared.intersection(define.findall(code)) == shared.intersection(words)
    assert [word for word in shared if words.count(word) == 1] == []


def test_the_scripts_know_exactly_the_moves_of_the_table() -> None:
    [line] = [line for line in prelude(Settings()).splitlines() if line.startswith("local MOVES")]
    rows = re.findall(r"(\w+) = \{([^{}]*)\}", line.split("=", 1)[1])
    moves = {status: set(re.findall(r"(\w+) = true", row)) for status, row in rows}
    assert moves == {
        status.value: {to.value for to in targets} for status, targets in MOVES.items()
    }


def test_lifetimes_come_from_the_settings() -> None:
    settings = Settings(lease_s=0.25, retention_s=77)
    lines = prelude(settings).splitlines()
    assert "local LEASE_MS = 250" in lines
    assert "local RETENTION_S = 77" in lines
    assert f"local ALIVE_S = {keys.alive_ttl_s(settings)}" in lines


def test_no_script_asks_for_more_than_the_portable_commands() -> None:
    portable = set(PORTABLE.split())
    used: set[str] = set()
    for entry in (files("service") / "lua").iterdir():
        used |= set(re.findall(r"redis\.p?call\('(\w+)'", entry.read_text()))
    assert used <= portable


async def test_a_server_that_lost_the_scripts_gets_one_in_full_and_keeps_it(
    redis: Redis, settings: Settings
) -> None:
    scripts = Scripts(redis, settings)
    await scripts.run("depth", keys.queues())
    await redis.script_flush()
    await redis.config_resetstat()
    for _ in range(3):
        assert await scripts.run("depth", keys.queues()) == [0, 0, 0, 0]
    calls = {name: stats["calls"] for name, stats in (await redis.info("commandstats")).items()}
    assert (calls["cmdstat_eval"], calls["cmdstat_evalsha"]) == (1, 3)
    assert "cmdstat_script|load" not in calls
