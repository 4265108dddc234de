"""Webhooks (standardwebhooks.com): signed messages about jobs, from an outbox, until they arrive.

The scripts that move a job's status put a message into the outbox in the same step, so that none is
lost and no target can hold a job up. Dispatchers in the API processes lease messages and deliver
them; a message whose dispatcher dies is delivered by another one.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httpx
from redis.asyncio import Redis

from service import keys, tasks
from service.connection import unavailable_when_away
from service.errors import FetchFailed, FetchRefused, NotFound, ServerUnavailable
from service.scripts import Scripts
from service.settings import SECRET_PREFIX, Settings

_log = logging.getLogger(__name__)

DELAYS_S: Final = (5.0, 30.0, 120.0, 600.0, 3600.0, 10_800.0)  # after the first try, the second ...
TIMEOUT_S: Final = 10.0
_LEASE_S: Final = 3 * TIMEOUT_S
_AT_ONCE: Final = 32
_AT_ONE_HOST: Final = 4  # a slow target does not take the place of others
_BUSY_S: Final = 5.0
_LOOK_S: Final = 0.25
_LOG_LENGTH: Final = 100

Describe = Callable[[str], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Message:
    """One message on its way; `body` is made at the first try and never changes."""

    id: str
    job_id: str
    event: str
    at: float
    url: str
    tries: int
    body: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a target said: its status, or the error that kept it from saying anything."""

    status: int | None
    error: str | None
    took_s: float

    @property
    def arrived(self) -> bool:
        """The target took the message."""
        return self.status is not None and self.status // 100 == 2

    @property
    def gone(self) -> bool:
        """The target wants no more of this job."""
        return self.status == HTTPStatus.GONE


def signature(secret: str, message_id: str, at: int, body: str) -> str:
    """`webhook-signature` of a body sent at a time (whole seconds)."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    digest = hmac.new(key, f"{message_id}.{at}.{body}".encode(), sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


async def send(
    client: httpx.AsyncClient, secret: str, message_id: str, url: str, body: str
) -> Outcome:
    """Post one signed message. Redirects are not followed."""
    at = int(time.time())
    headers = {
        "content-type": "application/json",
        "connection": "close",  # two names at one address do not share what was checked for one
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": signature(secret, message_id, at, body),
    }
    began = time.monotonic()
    status: int | None = None
    error: str | None = None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            async with client.stream("POST", url, content=body, headers=headers) as answer:
                status = answer.status_code  # what it says beside that is not read
    except TimeoutError:
        error = f"no answer within {TIMEOUT_S:g} s"
    except (FetchRefused, FetchFailed) as refusal:
        error = refusal.message
    except (httpx.HTTPError, httpx.InvalidURL) as failure:
        error = type(failure).__name__
    return Outcome(status, error, round(time.monotonic() - began, 3))


class Outbox:
    """The messages that wait, and the log of deliveries of each job. Raises ServerUnavailable."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._scripts = Scripts(redis, settings)

    async def claim(self, n: int) -> list[Message]:
        """Leases at most `n` messages that are due."""
        with unavailable_when_away():
            reply: Any = await self._scripts.run("hooks", keys.queues(), [n, _LEASE_S])
        rows = [[text.decode() for text in row] for row in cast("list[list[bytes]]", reply)]
        return [
            Message(message, job, event, float(at), url, int(tries), body)
            for message, job, event, at, url, tries, body in rows
        ]

    async def keep(self, message: Message, body: str) -> None:
        """Keeps the body for all further tries."""
        with unavailable_when_away():
            await self._redis.hset(keys.hook(message.id), "body", body)

    async def later(self, message: Message, delay_s: float, *, counted: bool) -> None:
        """Tries again after `delay_s`."""
        with unavailable_when_away():
            pipe = self._redis.pipeline(transaction=True)
            if counted:
                pipe.hincrby(keys.hook(message.id), "tries", 1)
            pipe.zadd(keys.HOOKS, {message.id: time.time() + delay_s}, xx=True)
            pipe.expire(keys.HOOKS, keys.HOOK_S)
            await pipe.execute()

    async def done(self, message: Message, *, disable: bool = False) -> None:
        """Takes the message out; `disable` keeps the job from sending any more."""
        with unavailable_when_away():
            pipe = self._redis.pipeline(transaction=True)
            pipe.zrem(keys.HOOKS, message.id)
            if disable:
                pipe.hdel(keys.job(message.job_id), "hook")
            await pipe.execute()

    async def note(self, message: Message, outcome: Outcome) -> None:
        """Adds a try to the job's log."""
        entry = {
            "id": message.id,
            "event": message.event,
            "attempt": message.tries + 1,
            "at": time.time(),
            "status": outcome.status,
            "error": outcome.error,
            "took_s": outcome.took_s,
        }
        key = keys.deliveries(message.job_id)
        with unavailable_when_away():
            pipe = self._redis.pipeline(transaction=True)
            pipe.rpush(key, json.dumps(entry))
            pipe.ltrim(key, -_LOG_LENGTH, -1)
            pipe.expire(key, keys.HOOK_S)
            await pipe.execute()

    async def log(self, job_id: str) -> list[dict[str, Any]]:
        """The tries for a job, oldest first."""
        with unavailable_when_away():
            found: Any = await self._redis.lrange(keys.deliveries(job_id), 0, -1)
        return [json.loads(entry) for entry in found]

    async def again(self, job_id: str) -> str:
        """Sends the job's last message once more, as new; its id. Raises NotFound."""
        with unavailable_when_away():
            last: Any = await self._redis.hget(keys.job(job_id), "hook_last")
            message_id = (last or b"").decode()
            if not last or not await self._redis.exists(keys.hook(message_id)):
                raise NotFound(f"job {job_id!r} has sent no message that could be sent again")
            pipe = self._redis.pipeline(transaction=True)
            pipe.hset(keys.hook(message_id), "tries", "0")
            pipe.expire(keys.hook(message_id), keys.HOOK_S)
            pipe.zadd(keys.HOOKS, {message_id: time.time()})
            pipe.expire(keys.HOOKS, keys.HOOK_S)
            await pipe.execute()
        return message_id


class Dispatcher:
    """Delivers what is in the outbox; `describe` gives a job's view, for the body."""

    def __init__(
        self,
        outbox: Outbox,
        client: httpx.AsyncClient,
        secret: str,
        describe: Describe,
        count: Callable[[str], None],
        delays_s: Sequence[float] = DELAYS_S,
    ) -> None:
        self._outbox = outbox
        self._client = client
        self._secret = secret
        self._describe = describe
        self._count = count
        self._delays_s = delays_s
        self._hosts: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Deliver for ever."""
        try:
            while True:
                try:
                    claimed = await self._outbox.claim(_AT_ONCE - len(self._tasks))
                except ServerUnavailable as error:
                    _log.info("no webhooks now: %s", error)
                    claimed = []
                for message in claimed:
                    task = asyncio.create_task(self._deliver(message))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                await asyncio.sleep(0 if claimed and len(self._tasks) < _AT_ONCE else _LOOK_S)
        finally:
            await tasks.end(*self._tasks)  # before Redis is left

    async def _deliver(self, message: Message) -> None:
        host = urlsplit(message.url).netloc
        try:
            if self._hosts[host] >= _AT_ONE_HOST:
                await self._outbox.later(message, _BUSY_S, counted=False)
                return
            self._hosts[host] += 1
            try:
                await self._try(message)
            finally:
                self._hosts[host] -= 1
        except ServerUnavailable as error:
            _log.warning("webhook %s is tried again: %s", message.id, error)  # its lease runs out

    async def _try(self, message: Message) -> None:
        body = message.body
        if not body:
            body = await self._body(message)
            await self._outbox.keep(message, body)
        outcome = await send(self._client, self._secret, message.id, message.url, body)
        await self._outbox.note(message, outcome)
        if outcome.arrived or outcome.gone:
            await self._outbox.done(message, disable=outcome.gone)
            self._count("delivered" if outcome.arrived else "gone")
        elif message.tries < len(self._delays_s):
            delay_s = self._delays_s[message.tries] * random.uniform(0.8, 1.2)
            await self._outbox.later(message, delay_s, counted=True)
            self._count("failed")
        else:
            await self._outbox.done(message)
            self._count("given_up")
            _log.warning("webhook %s is given up: %s", message.id, outcome.error or outcome.status)

    async def _body(self, message: Message) -> str:
        try:
            job = await self._describe(message.job_id)
        except NotFound:  # deleted meanwhile
            job = {"id": message.job_id, "status": message.event.removeprefix("job.")}
        at = datetime.fromtimestamp(message.at, UTC).isoformat()
        return json.dumps({"type": message.event, "timestamp": at, "data": job})
