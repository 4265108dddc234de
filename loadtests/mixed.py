"""Everything at once: an open-loop load of all kinds of visitors on a small fleet, judged.

`python -m loadtests.mixed`: a private server, two API processes and two workers with the embedded
model, one CPU thread and two slots each. `loadtests.visitors` plays the visits (who comes and how
they behave: `loadtests.visits`) while this process notes the queue's length and the memory of the
API. Writes a report and a chart; exit status 1 where a figure is beyond its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import psutil
from redis import Redis

from loadtests.eta import picture
from loadtests.limits import broken
from loadtests.processes import Api, api, process, until_ready
from loadtests.visits import ENDS, Load, Outcome, Seen, doubled, missed, p_ms
from service import keys
from service.capacity.fleet import quantile
from service.client import AsyncClient
from service.embedded import EmbeddedServer
from service.lifeline import tied_to_me

mpl.use("Agg")
from matplotlib import pyplot

# Each figure's least and most; `--limit NAME=MOST` sets another most.
LIMITS: Final[dict[str, tuple[float, float]]] = {
    "errors": (0, 0),  # answers that break a promise, jobs that fail, visits without an end
    "lost_jobs": (0, 0),  # accepted, and in no final state after all
    "missed_events": (0, 0),  # in the log of a job, and not seen by its follower
    "doubled_events": (0, 0),  # seen again, or out of order
    "answer_p99_ms": (0, 400),  # from the planned moment to the answer to a submission
    "first_event_p99_ms": (0, 400),
    "late_p99_ms": (0, 100),  # visits that began late: then the measurement is in doubt
    "api_growth_mib": (0, 10),  # of one process, at its peak
    "refused": (1, inf),  # the burst goes beyond the queue's limit
    "resumed": (1, inf),  # streams that were taken up again
    "canceled": (1, inf),  # in mid-run
}
_SIDES: Final = (64, 128, 192, 256)
_SAMPLE_S: Final = 0.5
_WINDOW_S: Final = 5.0  # of which a percentile is drawn


async def _warm_up(services: Sequence[Api], workers: int) -> None:
    """Every worker has met every size, and every API process some jobs."""
    for number, side in enumerate(_SIDES):
        async with AsyncClient(services[number % len(services)].url, timeout_s=600.0) as client:
            photos = [picture(side, seed) for seed in range(2 * workers)]
            jobs = [client.restore(photo, preset="fast", cache=False) for photo in photos]
            await asyncio.gather(*jobs)


def watch(
    player: subprocess.Popen[bytes], redis: Redis, services: Sequence[Api]
) -> list[tuple[float, int, list[float]]]:
    """Until the visits are over: moment, waiting jobs, and MiB of each API process."""
    processes = [psutil.Process(service.pid) for service in services]
    samples: list[tuple[float, int, list[float]]] = []
    while player.poll() is None:
        waiting: Any = [redis.zcard(name) for name in keys.queues()]
        memory = [process.memory_info().rss / 2**20 for process in processes]
        samples.append((time.time(), sum(waiting), memory))
        time.sleep(_SAMPLE_S)
    if player.returncode:
        raise RuntimeError(f"loadtests.visitors left with status {player.returncode}")
    return samples


def _log(redis: Redis, job_id: str) -> list[Seen]:
    entries: Any = redis.xrange(keys.events(job_id))
    return [(int(at.split(b"-")[0]), fields[b"type"].decode()) for at, fields in entries]


def _lost(redis: Redis, outcome: Outcome) -> bool:
    """Whether an accepted job has no final state; of a deleted one nothing may be left."""
    status: Any = redis.hget(keys.job(outcome.job_id), "status")
    return (status or b"").decode() not in (*ENDS, *([""] if outcome.kind == "delete" else []))


def figures_of(
    outcomes: Sequence[Outcome], samples: Sequence[tuple[float, int, list[float]]], redis: Redis
) -> dict[str, float]:
    """The whole run in numbers."""
    accepted = [outcome for outcome in outcomes if outcome.job_id]
    followed = [outcome for outcome in accepted if outcome.seen]
    series = list(zip(*(memory for _, _, memory in samples), strict=True))
    return {
        "visits": len(outcomes),
        "accepted": len(accepted),
        "refused": sum("refusal" in outcome.took_s for outcome in outcomes),
        "errors": sum(bool(outcome.error) for outcome in outcomes),
        "lost_jobs": sum(_lost(redis, outcome) for outcome in accepted),
        "missed_events": sum(missed(_log(redis, o.job_id), o.seen) for o in followed),
        "doubled_events": sum(doubled(outcome.seen) for outcome in followed),
        "events": sum(len(outcome.seen) for outcome in followed),
        "resumed": sum(outcome.resumed for outcome in outcomes),
        "dropped": sum(outcome.dropped for outcome in outcomes),
        "canceled": sum(outcome.status == "canceled" for outcome in outcomes),
        "answer_p99_ms": p_ms(outcomes, "answer", 0.99),
        "first_event_p99_ms": p_ms(outcomes, "first event", 0.99),
        "late_p99_ms": 1000 * quantile([outcome.late_s for outcome in outcomes], 0.99),
        "longest_queue": max(waiting for _, waiting, _ in samples),
        "api_mib": max(own[0] for own in series),
        "api_growth_mib": max(max(own) - own[0] for own in series),
    }


def measure(load: Load, apis: int, workers: int, queue_limit: int) -> dict[str, Any]:
    """One run."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(EmbeddedServer(folder))
        limit = ("--queue-limit", str(queue_limit))
        services = [stack.enter_context(api(address, *limit)) for _ in range(apis)]
        for _ in range(workers):
            flags = ("--redis-url", address, "--threads", "1", "--slots", "2")
            stack.enter_context(process("worker", *flags, "--previews-per-s", "10"))
        until_ready(services[0], workers)
        asyncio.run(_warm_up(services, workers))
        redis = stack.enter_context(Redis.from_url(address))
        out = folder / "visits.json"
        command = [sys.executable, "-m", "loadtests.visitors", "--out", str(out)]
        command += ["--load", json.dumps(asdict(load)), "--url", *(one.url for one in services)]
        samples = watch(subprocess.Popen(command, preexec_fn=tied_to_me()), redis, services)
        told: dict[str, Any] = json.loads(out.read_text())
        outcomes = [Outcome(**row) for row in told["outcomes"]]
        for outcome in outcomes:
            outcome.seen = [(seq, kind) for seq, kind in outcome.seen]
        return {
            "load": asdict(load) | {"apis": apis, "workers": workers, "queue_limit": queue_limit},
            "figures": figures_of(outcomes, samples, redis),
            "kinds": told["kinds"],
            "errors": [f"{o.kind} at {o.at_s:.1f} s: {o.error}" for o in outcomes if o.error],
            "queue": [[round(at - told["began"], 1), waiting] for at, waiting, _ in samples],
            "p95_ms": {phase: _windows(outcomes, phase) for phase in ("answer", "first event")},
        }


def _windows(outcomes: Sequence[Outcome], phase: str) -> list[list[float]]:
    """The 95th percentile of the visits planned in each few seconds."""
    rows: list[list[float]] = []
    for number in range(int(max(outcome.at_s for outcome in outcomes) / _WINDOW_S) + 1):
        own = [o for o in outcomes if o.at_s // _WINDOW_S == number and phase in o.took_s]
        if own:
            rows.append([(number + 0.5) * _WINDOW_S, round(p_ms(own, phase, 0.95), 1)])
    return rows


def chart(found: dict[str, Any], path: Path) -> None:
    """The length of the queue, and below it how long answers took, over time."""
    figure, (queue, times) = pyplot.subplots(2, figsize=(7, 4.8), sharex=True, layout="constrained")
    queue.fill_between(*zip(*found["queue"], strict=True), step="post", alpha=0.4)
    queue.axhline(found["load"]["queue_limit"], color="gray", linestyle=":", label="limit")
    queue.set(ylabel="jobs that wait", ylim=(0, None))
    for phase, rows in found["p95_ms"].items():
        times.plot(*zip(*rows, strict=True), marker="o", markersize=3, label=f"{phase}, p95")
    times.set(xlabel="seconds (planned arrival)", ylabel="ms", ylim=(0, None))
    for axes in (queue, times):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _limit(text: str) -> tuple[str, float]:
    name, _, most = text.partition("=")
    if name not in LIMITS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(LIMITS)}")
    return name, float(most)


def main() -> int:
    """Measure, print the figures, write report and chart; 1 where a limit is broken."""
    default = Load()
    parser = argparse.ArgumentParser(prog="python -m loadtests.mixed", description=__doc__)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--seconds", type=float, default=default.seconds)
    parser.add_argument("--per-s", type=float, default=default.per_s, help="mean arrivals")
    parser.add_argument("--apis", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--queue-limit", type=int, default=12)
    parser.add_argument("--limit", type=_limit, action="append", default=[], metavar="NAME=MOST")
    parser.add_argument("--report", type=Path, default=Path("reports/mixed.json"))
    options = parser.parse_args()
    load = Load(options.seed, options.seconds, options.per_s)
    found = measure(load, options.apis, options.workers, options.queue_limit)
    limits = LIMITS | {name: (LIMITS[name][0], most) for name, most in options.limit}
    found["broken"] = broken(found["figures"], limits)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    chart(found, options.report.with_suffix(".png"))
    sys.stdout.write(json.dumps(found["figures"], indent=1) + "\n")
    sys.stdout.writelines(f"{line}\n" for line in found["broken"] + found["errors"])
    return 1 if found["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
