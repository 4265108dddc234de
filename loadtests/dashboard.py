"""The Grafana dashboard as a picture, of a service under load: `python -m loadtests.dashboard`.

A private server, two API processes, two workers and a real Prometheus; visitors come at random, and
ten times as many for a while. The panels, their places, queries and units are those of
deploy/grafana/instantir.json; they are drawn by matplotlib, for Grafana itself need not be here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import matplotlib as mpl

from loadtests.eta import picture
from loadtests.processes import Api, api, process, prometheus, until_ready
from service.embedded import EmbeddedServer

mpl.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter, MinuteLocator, date2num
from matplotlib.ticker import FuncFormatter

DASHBOARD: Final = Path(__file__).resolve().parents[1] / "deploy" / "grafana" / "instantir.json"
_RATE_INTERVAL: Final = "30s"
_STEP_S: Final = 2
_COLUMNS: Final = 24  # of Grafana's grid
_SIDES: Final = (64, 128, 192)
_PER_S: Final = 0.8
_BURST: Final = 10.0  # times as many in the fourth of six parts
_UNITS: Final = {
    "percentunit": lambda value: f"{100 * value:g} %",
    "s": lambda value: f"{value:g} s",
    "bytes": lambda value: f"{value / 2**20:.0f} MiB",
}


class _Receiver(BaseHTTPRequestHandler):
    """Takes every webhook."""

    def do_POST(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def _receiver() -> Generator[str]:
    """The address of somebody who takes webhooks."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def _visit(service: Api, number: int, hook: str) -> None:
    """A job that is followed to its end and told of by a webhook."""
    data = {"preset": "fast", "seed": str(number), "webhook": json.dumps({"url": hook})}
    data["priority"] = random.Random(number).choice(("low", "normal", "high"))
    image = picture(random.Random(number).choice(_SIDES), number)
    async with httpx.AsyncClient(base_url=service.url, timeout=600) as client:
        answer = await client.post("/restore", files={"image": image}, data=data)
        if answer.is_success:
            await client.get(f"{answer.headers['location']}/events")


async def visited(services: Sequence[Api], seconds: float, hook: str) -> None:
    """Visits for so long, some of them at once."""
    began, number = time.monotonic(), 0
    async with asyncio.TaskGroup() as group:
        while (part := 6 * (time.monotonic() - began) / seconds) < 6:
            per_s = _PER_S * (_BURST if 3 <= part < 3.2 else 1)
            await asyncio.sleep(random.Random(number).expovariate(per_s))
            group.create_task(_visit(services[number % len(services)], number, hook))
            number += 1


def draw(source: httpx.Client, began_s: float, ended_s: float, path: Path) -> None:
    """All panels where the dashboard has them."""
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = pyplot.figure(figsize=(16, 0.42 * rows))
    for panel in panels:
        at = panel["gridPos"]
        left, bottom = at["x"] / _COLUMNS, 1 - (at["y"] + at["h"]) / rows
        width, height = at["w"] / _COLUMNS, at["h"] / rows
        if panel["type"] == "row":
            figure.text(0.01, bottom + 0.3 * height, panel["title"], weight="bold", size=12)
            continue
        inside = (left + 0.035, bottom + 0.28 * height, width - 0.045, 0.55 * height)
        axes = figure.add_axes(inside)
        axes.set_title(panel["title"], loc="left", size=9)
        found = [
            (target["legendFormat"], series)
            for target in panel["targets"]
            for series in _series(source, target["expr"], began_s, ended_s)
        ]
        {"stat": _stat, "timeseries": _lines}[panel["type"]](axes, panel, found)
    figure.savefig(path, dpi=80)


def _series(source: httpx.Client, query: str, began_s: float, ended_s: float) -> list[Any]:
    expression = query.replace("$__rate_interval", _RATE_INTERVAL)
    asked = {"query": expression, "start": began_s, "end": ended_s, "step": _STEP_S}
    answer = source.get("/api/v1/query_range", params=asked)
    return answer.raise_for_status().json()["data"]["result"]


def _stat(axes: Axes, _: dict[str, Any], found: list[tuple[str, Any]]) -> None:
    axes.axis("off")
    value = f"{float(found[0][1]['values'][-1][1]):g}" if found else "no data"
    axes.text(0.5, 0.4, value, ha="center", va="center", size=24, color="tab:green")


def _lines(axes: Axes, panel: dict[str, Any], found: list[tuple[str, Any]]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    for legend, series in found:
        at = date2num([datetime.fromtimestamp(moment, UTC) for moment, _ in series["values"]])
        values = [float(value) for _, value in series["values"]]
        label = _label(legend, series["metric"])
        axes.plot(at, values, label=label, linewidth=1, clip_on=False, zorder=3)  # over the frame
    if not found:
        axes.text(0.5, 0.5, "no data", ha="center", transform=axes.transAxes)
    axes.xaxis.set_major_locator(MinuteLocator())
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    if show := _UNITS.get(defaults["unit"]):
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))
    axes.set_ylim(bottom=defaults.get("min"), top=defaults.get("max"))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if found:
        below = {"loc": "upper left", "bbox_to_anchor": (0, -0.16), "ncols": 4}
        axes.legend(fontsize=6, frameon=False, **below)


def _label(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda name: labels.get(name[1], ""), legend)


def main() -> None:
    """Serve, be visited, and draw what Prometheus has seen."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.dashboard", description=__doc__)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--out", type=Path, default=Path("reports/dashboard.png"))
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(EmbeddedServer(folder / "redis"))
        hook = stack.enter_context(_receiver())
        hooks = ("--webhook-secret", "whsec_" + "A" * 32, "--fetch-private-networks", "true")
        services = [stack.enter_context(api(address, *hooks)) for _ in range(2)]
        watching = stack.enter_context(prometheus(folder, *services))
        for _ in range(2):
            stack.enter_context(process("worker", "--redis-url", address, "--threads", "1"))
        until_ready(services[0], 2)
        began_s = time.time()
        asyncio.run(visited(services, 60 * options.minutes, hook))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with httpx.Client(base_url=watching, timeout=30) as source:
            draw(source, began_s, time.time(), options.out)
    sys.stdout.write(f"{options.out}\n")


if __name__ == "__main__":
    main()
