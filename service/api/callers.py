"""Who calls: API keys to names of callers, and jobs that belong to them."""

from __future__ import annotations

from hmac import compare_digest
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from service.api.state import Services, Wired
from service.errors import NotFound, Unauthorized
from service.jobs import Job

_SCHEME = "bearer "


def key_of(connection: HTTPConnection) -> str:
    """The API key that came with a request: `Authorization: Bearer KEY`, else `?key=KEY`.

    The second is for browsers, which can set no header on a websocket or a picture.
    """
    header = connection.headers.get("authorization", "")
    if header[: len(_SCHEME)].lower() == _SCHEME:
        return header[len(_SCHEME) :].strip()
    return connection.query_params.get("key", "")


def caller_of(connection: HTTPConnection, services: Services) -> str:
    """The name of who calls; "" for everyone while no keys are set. Raises Unauthorized."""
    keys = services.settings.api_keys
    if not keys:
        return ""
    given = key_of(connection).encode()
    names = [name for key, name in keys.items() if compare_digest(key.encode(), given)]
    if not names:
        raise Unauthorized("an API key is needed" if not given else "the API key is not known")
    return names[0]


async def own_job(services: Services, caller: str, job_id: str) -> Job:
    """The caller's job. Raises NotFound, also for a job of somebody else."""
    job = await services.queue.get(job_id)
    if job.caller != caller:
        raise NotFound(f"no job {job_id!r}")
    return job


def _caller(connection: HTTPConnection, services: Wired) -> str:
    return caller_of(connection, services)


def _operator(connection: HTTPConnection, services: Wired) -> None:
    key = services.settings.operator_key
    if key is None:
        raise NotFound("no operator key is set, so nothing is here")
    if not compare_digest(key.encode(), key_of(connection).encode()):
        raise Unauthorized("the operator's key is needed")


Caller = Annotated[str, Depends(_caller)]
OPERATOR = Depends(_operator)
