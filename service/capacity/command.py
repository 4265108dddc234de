"""`instantir capacity`: the plan of a load, as text or JSON."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from service.capacity.plan import BURST, BURST_S, Plan, plan
from service.capacity.profiles import Profile, profile, shipped

TEXT: Final = "how many workers a load needs, and what they cost; by simulation"
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min)?")
_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, None: 1.0}


def run(argv: Sequence[str]) -> int:
    """Print the plan; returns the exit status. Raises ValueError for what cannot be planned."""
    args = _parser().parse_args(argv)
    chosen = profile(args.gpu)
    if args.price is not None:
        chosen = chosen.model_copy(update={"price_per_h": args.price})
    made = plan(chosen, args.rps, args.p95)
    if args.json:
        said = {"profile": chosen.model_dump(), **asdict(made)}
        sys.stdout.write(json.dumps(said, indent=1) + "\n")
    else:
        sys.stdout.write(text(chosen, made))
    return 0


def duration(written: str) -> float:
    """Seconds of "8s", "500ms", "2min" or a plain number."""
    found = _DURATION.fullmatch(written.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"it is {written!r}, write it as 8s, 500ms or 2min")
    return float(found[1]) * _SECONDS[found[2]]


def text(chosen: Profile, made: Plan) -> str:
    """The plan for a reader."""
    burst, lost = made.burst, made.region_lost_p95_s
    rows = [
        ("workers", f"{made.workers}, busy {made.use:.0%} of the time, {chosen.slots} slots each"),
        ("time", f"p50 {made.p50_s:.2f} s, p95 {made.p95_s:.2f} s, p99 {made.p99_s:.2f} s"),
        ("of it in the queue", f"p95 {made.waited_p95_s:.2f} s"),
        ("cost", f"{made.cost_per_1000:.2f} for 1,000 pictures, at {chosen.price_per_h:g} an hour"),
        (
            f"{BURST} times the load",
            f"for {BURST_S:g} s: p95 {burst.p95_s:.1f} s, the queue is empty {burst.over_s:.0f} s "
            "after it",
        ),
        (
            "half of them lost",
            ("nobody is left" if lost is None else f"p95 {lost:.1f} s, rising with time")
            + f"; {made.region_lost_workers} in two regions keep the promise",
        ),
        (
            "scaled to zero",
            f"the first picture takes {made.first_after_idle_s:.0f} s; one ready worker costs "
            f"{made.hour_kept_ready:g} an hour",
        ),
    ]
    head = (
        f"{made.per_s:g} pictures a second, 95 % of them within {made.wanted_p95_s:g} s\n"
        f"{chosen.title}\nstep times: {chosen.source}\n\n"
    )
    body = "".join(f"{name:20} {said}\n" for name, said in rows)
    return f"{head}{body}\nSimulated with {made.jobs} jobs; prices are assumptions (--price).\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="instantir capacity", description=TEXT)
    parser.add_argument("--rps", type=float, required=True, metavar="N", help="pictures a second")
    parser.add_argument(
        "--p95", type=duration, required=True, metavar="TIME", help="as 8s: 95 %% come back in it"
    )
    parser.add_argument(
        "--gpu",
        required=True,
        metavar="NAME",
        help=f"{', '.join(shipped())}, or a file that `python -m loadtests.capacity` wrote",
    )
    parser.add_argument("--price", type=float, metavar="N", help="of a worker, an hour")
    parser.add_argument("--json", action="store_true")
    return parser
