"""Rules, alerts and the dashboard: well formed, and about what the service really exports."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from fastapi import FastAPI
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import AggregateExpr, BinaryExpr, Expr, MatrixSelector, VectorSelector
from redis.asyncio import Redis

from loadtests.processes import RULES, api, process, prometheus, until_ready
from service import keys
from service.api.app import create_app
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
RULE_TESTS = RULES.with_name("rules.test.yml")
DASHBOARD = ROOT / "deploy" / "grafana" / "instantir.json"
RUNBOOKS = ROOT / "docs" / "operations.md"
TARGET = {"job", "instance"}  # what Prometheus adds to every series
_MOST_JOBS = 20  # of a second or more, and Prometheus looks each second
BUILT_IN = {"row", "stat", "timeseries"}

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")),
    reason="needs Debian's package prometheus",
)

Labels = dict[str, set[str]]


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in _rules() if "alert" in rule}
CASES = yaml.safe_load(RULE_TESTS.read_text(encoding="utf-8"))["tests"]
PANELS: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
GRAPHS = [panel for panel in PANELS if panel["type"] != "row"]


def _query(expression: str) -> str:
    return expression.replace("$__rate_interval", "2m")


QUERIES = [_query(target["expr"]) for panel in GRAPHS for target in panel["targets"]]
SERIES = [given["series"] for case in CASES for given in case["input_series"]]
EXPRESSIONS = [*QUERIES, *(rule["expr"] for rule in _rules()), *SERIES]


def _parts(expression: str) -> list[Expr]:
    found: list[Expr] = []

    def visit(part: Expr) -> None:
        found.append(part)
        if isinstance(part, MatrixSelector):
            found.append(part.vector_selector)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def _selectors(expression: str) -> list[VectorSelector]:
    found = [part for part in _parts(expression) if isinstance(part, VectorSelector)]
    return list({str(part): part for part in found}.values())


def _grouping(part: Expr) -> list[str]:
    if isinstance(part, AggregateExpr) and part.modifier:
        return part.modifier.labels
    if isinstance(part, BinaryExpr) and part.modifier and part.modifier.matching:
        return part.modifier.matching.labels
    return []


def _recorded() -> Labels:
    return {rule["record"]: set(rule["labels"]) for rule in _rules() if "record" in rule}


@pytest.fixture
async def app(settings: Settings, redis: Redis) -> Any:
    """The app, started, when something of each kind has happened in it."""
    made = create_app(settings)
    async with made.router.lifespan_context(made):
        metrics = made.state.services.metrics
        metrics.jobs_submitted.labels("normal")
        metrics.streams_open.labels("sse")
        metrics.hooks.labels("delivered")
        await redis.lpush(keys.ACCURACY, "0.1")
        await redis.expire(keys.ACCURACY, 60)
        yield made


async def _scrape(app: FastAPI, *requests: tuple[str, str]) -> list[Any]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        for method, path in requests:
            await client.request(method, path)
        await client.get("/livez")
        text = (await client.get("/metrics")).text
    return [s for family in text_string_to_metric_families(text) for s in family.samples]


@pytest.fixture
async def known(app: FastAPI) -> Labels:
    """The labels of every series there is, by name."""
    exported: Labels = {}
    for sample in await _scrape(app):
        exported.setdefault(sample.name, set()).update(sample.labels)
    return {**exported, **_recorded()}


def _promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_promtool_accepts_the_rules() -> None:
    _promtool("check", "rules", RULES)


@needs_prometheus
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_alerts_are_heard_when_they_must_be_and_only_then() -> None:
    _promtool("test", "rules", RULE_TESTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_tested_with_and_without_its_cause(name: str) -> None:
    checks = [check for case in CASES for check in case["alert_rule_test"]]
    fires = {bool(check.get("exp_alerts")) for check in checks if check["alertname"] == name}
    assert fires == {True, False}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert all(alert["annotations"][key] for key in ("summary", "description"))
    path, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert (ROOT / path, anchor) == (RUNBOOKS, name.lower())
    assert f"\n### {name}\n" in RUNBOOKS.read_text(encoding="utf-8")


def test_every_metric_and_every_label_is_exported_or_recorded(known: Labels) -> None:
    unknown: list[str] = []
    for expression in EXPRESSIONS:
        there = set(TARGET)
        for selector in _selectors(expression):
            labels = known.get(selector.name or "")
            if labels is None:
                unknown.append(f"{selector.name} in {expression}")
                continue
            there |= labels
            asked = {matcher.name for matcher in selector.matchers.matchers}
            unknown += [f"{label} in {expression}" for label in asked - labels - TARGET]
        grouping = {label for part in _parts(expression) for label in _grouping(part)}
        unknown += [f"{label} in {expression}" for label in grouping - there]
    assert unknown == []


def test_a_legend_names_only_labels_of_its_query(known: Labels) -> None:
    for target in (target for panel in GRAPHS for target in panel["targets"]):
        there = [known[s.name or ""] for s in _selectors(_query(target["expr"]))]
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert named <= TARGET.union(*there), target


def test_every_recorded_series_is_used() -> None:
    used = {selector.name for expression in EXPRESSIONS for selector in _selectors(expression)}
    assert _recorded().keys() - used == set()


async def test_the_objective_counts_exactly_the_routes_that_make_jobs(app: FastAPI) -> None:
    rule = next(r for r in _rules() if "instantir_requests_total" in r["expr"])
    (pattern,) = {
        matcher.value
        for selector in _selectors(rule["expr"])
        for matcher in selector.matchers.matchers
        if matcher.name == "route"
    }
    job = "/restore/0b6c1c0e-3f0e-4a51-9d0b-0f6f0c9d2a11"
    making = [("POST", "/restore"), ("PUT", job), ("POST", "/v1/images/edits")]
    making.append(("POST", "/sdapi/v1/extra-single-image"))
    other = [("POST", "/restore/estimate"), ("POST", "/webhooks/test"), ("POST", f"{job}/cancel")]

    samples = await _scrape(app, *making, *other)

    asked = [s.labels for s in samples if s.name == "instantir_requests_total"]
    routes = {labels["route"] for labels in asked if labels["method"] in {"POST", "PUT"}}
    assert len(routes) == len(making) + len(other)
    assert len([route for route in routes if re.fullmatch(pattern, route)]) == len(making)


def test_panels_have_ids_of_their_own() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)


def test_no_panel_covers_another_or_leaves_the_grid() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in PANELS)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert {x for x, _ in cells} == set(range(24))


def test_panels_need_no_plugin_and_take_their_source_from_the_variable() -> None:
    assert {panel["type"] for panel in PANELS} <= BUILT_IN
    sources = [panel["datasource"]["uid"] for panel in GRAPHS]
    sources += [target["datasource"]["uid"] for panel in GRAPHS for target in panel["targets"]]
    assert set(sources) == {"${datasource}"}


async def _restore(client: httpx.AsyncClient, seed: int) -> None:
    """One small restoration, followed to its end, with a webhook that nobody takes."""
    options = {"seed": seed, "steps": 2, "cache": "false"}
    hook = json.dumps({"url": str(client.base_url.join("/livez"))})
    answer = await client.post(
        "/restore", files={"image": _picture()}, data={**options, "webhook": hook}
    )
    assert answer.status_code == 202, answer.text
    events = await client.get(f"{answer.headers['location']}/events")
    assert '"succeeded"' in events.text


def _picture() -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(out, "PNG")
    return out.getvalue()


def _has_data(source: httpx.Client, query: str) -> bool:
    found = source.get("/api/v1/query", params={"query": query}).json()["data"]["result"]
    return any(math.isfinite(float(series["value"][1])) for series in found)


@needs_prometheus
@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_every_panel_shows_data_of_a_real_service(server: str, tmp_path: Path) -> None:
    hooks = ["--webhook-secret", "whsec_" + "A" * 32, "--fetch-private-networks", "true"]
    with ExitStack() as stack:
        service = stack.enter_context(api(server, *hooks))
        address = stack.enter_context(prometheus(tmp_path, service))
        stack.enter_context(process("worker", "--redis-url", server, "--threads", "1"))
        until_ready(service, 1)
        source = stack.enter_context(httpx.Client(base_url=address, timeout=10))
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            empty = QUERIES
            for seed in range(_MOST_JOBS):
                await _restore(client, seed)
                empty = [query for query in empty if not _has_data(source, query)]
                if not empty:
                    break
    assert empty == []
