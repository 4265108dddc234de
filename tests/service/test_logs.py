"""Log lines carry the job they are about, in both forms."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from service import logs

log = logging.getLogger("service.something")


def test_a_json_line_has_the_job_and_the_extra_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("INFO", json_lines=True)
    with logs.job_context("job-1"):
        log.info("stepped %d", 3, extra={"batch": 2})
    log.debug("not from INFO up")
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    at = entry.pop("at")
    assert at.endswith("Z")
    assert entry == {
        "level": "info",
        "logger": "service.something",
        "message": "stepped 3",
        "job_id": "job-1",
        "batch": 2,
    }


def test_what_uvicorn_says_again_in_color_is_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("INFO", json_lines=True)
    log.info("started", extra={"color_message": "\x1b[36mstarted\x1b[0m"})
    assert "color_message" not in json.loads(capsys.readouterr().err)


def test_an_exception_stays_on_its_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", json_lines=True)
    try:
        raise ArithmeticError("not finite")
    except ArithmeticError:
        log.exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert entry["exception"].endswith("ArithmeticError: not finite")
    assert "job_id" not in entry


def test_a_plain_line_names_the_job_only_when_there_is_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("INFO", json_lines=False)
    log.info("without")
    with logs.job_context("job-1"):
        log.info("within")
    without, within = capsys.readouterr().err.splitlines()
    assert without.endswith("INFO    service.something: without")
    assert within.endswith("INFO    service.something [job-1]: within")


def test_configuring_again_does_not_double_the_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("INFO", json_lines=True)
    logs.configure("WARNING", json_lines=True)
    log.warning("once")
    log.info("never")
    assert len(capsys.readouterr().err.splitlines()) == 1


async def test_tasks_do_not_see_each_others_jobs() -> None:
    met = asyncio.Barrier(2)

    async def work(job_id: str) -> str | None:
        with logs.job_context(job_id):
            await met.wait()
            return logs.current_job_id()

    assert await asyncio.gather(work("a"), work("b")) == ["a", "b"]
    assert logs.current_job_id() is None
