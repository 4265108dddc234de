"""How far the predicted times are off, as the service reports it itself.

`python -m loadtests.eta`: a private server, one API process and two workers with the embedded
model, one CPU thread each. Jobs of mixed sizes and presets arrive at random; the first ones teach
the service what jobs cost and are not judged.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from PIL import Image

from loadtests.limits import verdict
from loadtests.processes import Api, api, process, until_ready
from service import keys
from service.client import AsyncClient
from service.connection import connect
from service.embedded import EmbeddedServer
from service.settings import Settings

LIMITS: Final = {"median_error": (0, 0.1)}
_SIDES: Final = (64, 96, 128, 192, 256)
_PRESETS: Final = ("fast", "balanced")
_LESSONS: Final = 2  # of each size and preset


@dataclass(frozen=True, slots=True)
class Kind:
    """What a job asks for."""

    side: int
    preset: str


def picture(side: int, seed: int) -> bytes:
    """A PNG of this side: smooth noise."""
    out = io.BytesIO()
    rng = random.Random(seed)
    noise = Image.frombytes("RGB", (side // 8, side // 8), rng.randbytes(3 * (side // 8) ** 2))
    noise.resize((side, side), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


async def _restore(client: AsyncClient, kind: Kind, seed: int) -> None:
    await client.restore(picture(kind.side, seed), preset=kind.preset, seed=seed, cache=False)


async def measure(service: Api, address: str, jobs: int, every_s: float) -> dict[str, Any]:
    """Lessons, then so many jobs at random; what the service says of its predictions."""
    rng = random.Random(0)
    kinds = [Kind(side, preset) for side in _SIDES for preset in _PRESETS]
    redis = connect(Settings(redis_url=address))
    async with AsyncClient(service.url, timeout_s=600.0) as client:
        for seed in range(_LESSONS):
            for kind in kinds:
                await _restore(client, kind, seed)
        await redis.delete(keys.ACCURACY)
        async with asyncio.TaskGroup() as group:
            for number in range(jobs):
                group.create_task(_restore(client, rng.choice(kinds), 100 + number))
                await asyncio.sleep(rng.expovariate(1 / every_s))
    await redis.aclose()
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"{service.url}/metrics")).text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if "instantir_eta" in line)
    return {
        "jobs": int(float(lines["instantir_eta_judged_jobs"])),
        "median_error": float(lines["instantir_eta_error_ratio"]),
    }


def main() -> int:
    """Measure and print one JSON object; 1 where a limit is broken."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.eta", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--every-s", type=float, default=1.5, help="mean time between arrivals")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(EmbeddedServer(folder))
        service = stack.enter_context(api(address))
        for _ in range(options.workers):
            flags = ("--redis-url", address, "--threads", "1", "--slots", "2")
            stack.enter_context(process("worker", *flags))
        until_ready(service, options.workers)
        found = asyncio.run(measure(service, address, options.jobs, options.every_s))
    sys.stdout.write(json.dumps(found) + "\n")
    return verdict(found, LIMITS)


if __name__ == "__main__":
    sys.exit(main())
