"""From the submission to the first event: `python -m loadtests.latency`.

A private server and one API process. Each submission asks for its events in the same request; the
picture is as small as is taken, so that hardly any time goes into decoding it.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import httpx
from PIL import Image

from loadtests.limits import verdict
from loadtests.processes import Api, api
from service.embedded import EmbeddedServer

LIMITS: Final = {"p50_ms": (0, 50), "p99_ms": (0, 250)}


def _picture() -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((16, 16)).save(out, "PNG")
    return out.getvalue()


async def measure(service: Api, count: int) -> dict[str, float]:
    """Milliseconds to the first event of `count` submissions, one after the other."""
    photo, found = _picture(), list[float]()
    headers = {"accept": "text/event-stream"}
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
        for number in range(count + 10):
            began = time.perf_counter()
            data, files = {"seed": str(number)}, {"image": photo}
            request = client.build_request(
                "POST", "/restore", data=data, files=files, headers=headers
            )
            answer = await client.send(request, stream=True)
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    break
            found.append(1000 * (time.perf_counter() - began))
            await answer.aclose()
            await client.post(answer.headers["location"] + "/cancel")
    cuts = statistics.quantiles(found[10:], n=100)
    return {"jobs": count, "p50_ms": round(cuts[49], 1), "p99_ms": round(cuts[98], 1)}


def main() -> int:
    """Measure and print one JSON object; 1 where a limit is broken."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.latency", description=__doc__)
    parser.add_argument("--jobs", type=int, default=300)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder)) as address,
        api(address) as service,
    ):
        found = asyncio.run(measure(service, options.jobs))
    sys.stdout.write(json.dumps(found) + "\n")
    return verdict(found, LIMITS)


if __name__ == "__main__":
    sys.exit(main())
