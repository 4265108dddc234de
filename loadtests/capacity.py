"""The capacity model against the service: the same arrivals played and simulated.

`python -m loadtests.capacity`: a private server, one API process and one or two workers with the
embedded model, one CPU thread and two slots each. Jobs of mixed sizes are first restored one at a
time, which gives the profile; then come as many at random as make each of three loads. Exit
status 1 where throughput or p95 are further apart than the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from loadtests.eta import picture
from loadtests.processes import Api, api, process, until_ready
from service.capacity.fleet import Arrival, Kind, mean_seconds, poisson, quantile, simulate
from service.capacity.profiles import Profile
from service.client import AsyncClient
from service.connection import connect
from service.embedded import EmbeddedServer
from service.queue import JobQueue
from service.results import blob_store
from service.settings import Settings

_SIDES: Final = (64, 128, 192, 256)
_LESSONS: Final = 6  # of each size for each worker alone, and as many with all of them busy
_LOADS: Final = (0.3, 0.5, 0.7)  # of what the workers can do
_SLOTS: Final = 2
_LIMIT: Final = 0.15


async def _restore(client: AsyncClient, side: int, seed: int) -> float:
    began = time.monotonic()
    await client.restore(picture(side, seed), preset="fast", seed=seed, cache=False)
    return time.monotonic() - began


async def _parts(client: AsyncClient, side: int, seed: int) -> Kind:
    """What a job costs in its parts, by the times of its events."""
    job = await client.submit(picture(side, seed), preset="fast", seed=seed, cache=False)
    told = [event async for event in client.follow(job["id"])]
    at = {
        event.data.get("stage", event.type): float(event.data["at"])
        for event in reversed(told)  # the first of each stage
        if event.type in ("progress", "output")
    }
    steps = [float(e.data["at"]) for e in told if e.data.get("stage") == "restoring"]
    preview_s = at["decoding"] - steps[-1]
    step_s = (steps[-1] - steps[0]) / (len(steps) - 1)  # with the preview of the one before
    return Kind(
        share=1 / len(_SIDES),
        steps=len(steps),
        step_s=step_s,
        begin_s=max(0.0, steps[0] - at["encoding"] - step_s + preview_s),
        finish_s=at["output"] - at["decoding"],
    )


def _seconds(kind: Kind) -> float:
    return kind.seconds


async def learned(service: Api, address: str, workers: int) -> Profile:
    """What jobs of each size cost, alone and in a crowd, as the service has learned it."""
    alone: dict[int, list[Kind]] = {side: [] for side in _SIDES}
    async with AsyncClient(service.url, timeout_s=600.0) as client:
        for seed in range(_LESSONS * workers):  # every worker meets every size
            for side in _SIDES:
                alone[side].append(await _parts(client, side, seed))
        for seed in range(_LESSONS):
            for side in _SIDES if workers > 1 else ():
                pair = (_restore(client, side, 1000 + workers * seed + i) for i in range(workers))
                await asyncio.gather(*pair)
    settings = Settings(redis_url=address)
    redis = connect(settings)
    load = await JobQueue(redis, settings, blob_store(redis, settings)).load(0)
    await redis.aclose()
    # The one in the middle: the first of a size at each worker takes longer.
    kinds = tuple(sorted(own, key=_seconds)[(len(own) - 1) // 2] for own in alone.values())
    return Profile(
        title=f"nano, preset fast, pictures of {', '.join(map(str, _SIDES))} px, one CPU thread",
        source="measured by loadtests.capacity",
        kinds=kinds,
        slots=_SLOTS,
        together=0.0,
        crowding=load.crowding,
        start_s=5.0,
        price_per_h=0.05,
    )


async def played(service: Api, arrivals: Sequence[Arrival], sides: Sequence[int]) -> list[float]:
    """The arrivals as real jobs; the seconds that each took, and those until the last ended."""
    async with AsyncClient(service.url, timeout_s=600.0) as client, asyncio.TaskGroup() as group:
        began, tasks = time.monotonic(), list[asyncio.Task[float]]()
        for number, (arrival, side) in enumerate(zip(arrivals, sides, strict=True)):
            await asyncio.sleep(max(0.0, began + arrival.at_s - time.monotonic()))
            tasks.append(group.create_task(_restore(client, side, 2000 + number)))
        took = [await task for task in tasks]
        return [*took, time.monotonic() - began]


def compare(
    workers: int, jobs: int, loads: Sequence[float]
) -> tuple[Profile, list[dict[str, Any]]]:
    """Every load with so many workers: measured, predicted, and how far they are apart."""
    found: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(EmbeddedServer(folder))
        service = stack.enter_context(api(address))
        for _ in range(workers):
            flags = ("--redis-url", address, "--threads", "1", "--slots", str(_SLOTS))
            stack.enter_context(process("worker", *flags))
        until_ready(service, workers)
        profile = asyncio.run(learned(service, address, workers))
        able = workers / (1 + profile.crowding * (workers - 1)) / mean_seconds(profile.kinds)
        side_of = dict(zip(profile.kinds, _SIDES, strict=True))
        for load in loads:
            arrivals = poisson(profile.kinds, load * able, jobs, seed=round(100 * load))
            predicted = simulate(profile.pace, arrivals, workers)
            *took, whole = asyncio.run(
                played(service, arrivals, [side_of[one.kind] for one in arrivals])
            )
            measured = {"per_s": jobs / whole, "p95_s": quantile(took, 0.95)}
            expected = {"per_s": predicted.per_s, "p95_s": predicted.quantile(0.95)}
            off = {key: expected[key] / measured[key] - 1 for key in measured}
            found.append(
                {"workers": workers, "load": load, "measured": measured, "predicted": expected}
                | {"off": off, "ok": all(abs(value) <= _LIMIT for value in off.values())}
            )
            sys.stdout.write(json.dumps(found[-1]) + "\n")
            sys.stdout.flush()
    return profile, found


def main() -> int:
    """Compare, print a JSON object for each run, write them and the last profile to files."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.capacity", description=__doc__)
    parser.add_argument("--jobs", type=int, default=240, help="of one run")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--loads", type=float, nargs="+", default=_LOADS)
    parser.add_argument("--report", type=Path, default=Path("reports/capacity.json"))
    parser.add_argument("--profile", type=Path, default=Path("reports/capacity-profile.json"))
    options = parser.parse_args()
    profiles, runs = zip(
        *(compare(w, options.jobs, options.loads) for w in options.workers), strict=True
    )
    found = [one for own in runs for one in own]
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    options.profile.write_text(profiles[-1].model_dump_json(indent=1) + "\n", encoding="utf-8")
    return 0 if all(one["ok"] for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
