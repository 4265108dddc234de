"""Log lines for people (a terminal) or for machines (JSON), each with the job it is about."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_job_id: ContextVar[str | None] = ContextVar("job_id", default=None)
_given_up: ContextVar[bool] = ContextVar("given_up", default=False)

_PLAIN = "%(asctime)s %(levelname)-7s %(name)s%(job)s: %(message)s"
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {
    *("message", "asctime", "job", "job_id"),
    "color_message",  # the same again, from uvicorn
}


def current_job_id() -> str | None:
    """The job that the running code works for, if any."""
    return _job_id.get()


@contextmanager
def job_context(job_id: str) -> Generator[None]:
    """Name the job in every log line written inside."""
    token = _job_id.set(job_id)
    try:
        yield
    finally:
        _job_id.reset(token)


def answer_was_given_up() -> None:
    """The answer that the running task sends stays unfinished: the server need not complain."""
    _given_up.set(True)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: at (UTC), level, logger, message, job_id, and `extra` fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "at": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        job_id = getattr(record, "job_id", None)
        if job_id is not None:
            line["job_id"] = job_id
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _is_news(record: logging.LogRecord) -> bool:
    complaint = record.name == "uvicorn.error" and "without completing response" in str(record.msg)
    return not (complaint and _given_up.get())


def _name_job(record: logging.LogRecord) -> bool:
    job_id: str | None = getattr(record, "job_id", None) or _job_id.get()
    record.job_id = job_id
    record.job = f" [{job_id}]" if job_id else ""
    return True


def configure(level: str, *, json_lines: bool | None = None) -> None:
    """Send all logs to stderr from `level` up, as JSON unless stderr is a terminal.

    Replaces the root handlers, so calling it again changes the format instead of doubling lines.
    """
    as_json = not sys.stderr.isatty() if json_lines is None else json_lines
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter(_PLAIN))
    handler.addFilter(_is_news)
    handler.addFilter(_name_job)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
