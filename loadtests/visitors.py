"""Plays the visits of a mixed load: each one is a Locust user that comes at its planned moment.

`python -m loadtests.visitors --url http://127.0.0.1:8000 --out FILE` plays them against any
service that runs. Importing Locust patches the whole process (gevent), so this is a process of its
own. Arrivals wait for nobody, and times count from the planned moment: a service that stands still
has to answer for all who came meanwhile.
"""

from __future__ import annotations

import locust  # before all that it patches

# isort: split
import argparse
import json
import socket
import struct
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from http.client import HTTPConnection, HTTPException
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final, cast

import gevent
import httpx
import websockets
from locust.env import Environment
from locust.exception import StopUser
from websockets.sync.client import connect

from loadtests.eta import picture
from loadtests.visits import ENDS, Load, Outcome, Visit, arrivals

_PIECE: Final = 4  # events, after which a returning follower leaves
_STALL_S: Final = 35.0  # the service waits 10 to 20 s for a client that takes nothing
# What a stalled reader asks of its connection: on loopback, whose segments have 64 kB, the kernel
# would take in a whole job's events for it.
_NARROW: Final = (
    (socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),
    (socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536),
)
_TIMEOUT_S: Final = 90.0
_PHOTO: Final = picture(64, 0)
# What must be refused, and the code of the refusal.
_INVALID: Final[Sequence[tuple[dict[str, Any], str]]] = (
    ({"files": {"image": b"I am no picture"}}, "unsupported_image"),
    ({"files": {"image": _PHOTO[:300]}}, "invalid_image"),
    ({"files": {"image": _PHOTO}, "data": {"steps": "1000"}}, "invalid_request"),
    ({"files": {"other": _PHOTO}}, "invalid_request"),
    ({"content": b"image", "headers": {"content-type": "image/png"}}, "unsupported_media_type"),
)

Event = dict[str, Any]


class Unexpected(Exception):
    """The service did something else than it promises."""


class Visitor(locust.User):
    """One visit; the class knows the service and its visits, an instance its own visit alone."""

    urls: Sequence[str] = ()
    began = 0.0  # unix seconds: moment 0 of the plan
    http: httpx.Client
    pictures: dict[int, bytes]
    visit: Visit
    outcome: Outcome

    @locust.task
    def come(self) -> None:
        """The whole visit."""
        self.outcome.late_s = self._since()
        # The next process each time.
        self._url = islice(cycle(self.urls), self.visit.number % len(self.urls), None)
        try:
            _BEHAVIORS[self.visit.kind](self)
        except (Unexpected, httpx.HTTPError, websockets.WebSocketException, OSError) as error:
            self._note("error", error)
        self.outcome.over = True
        raise StopUser

    def _since(self) -> float:
        return time.time() - self.began - self.visit.at_s

    def _note(self, phase: str, error: Exception | None = None) -> None:
        """A phase is over, or came to nothing; the first time counts."""
        if phase in self.outcome.took_s:
            return
        self.outcome.took_s[phase] = self._since()
        self.outcome.error = f"{type(error).__name__}: {error}" if error else self.outcome.error
        self.environment.events.request.fire(
            request_type=self.visit.kind,
            name=phase,
            response_time=1000 * self.outcome.took_s[phase],
            response_length=0,
            exception=error,
            context={},
        )

    # Submitting

    @property
    def _form(self) -> dict[str, Any]:
        options = {**self.visit.options, "seed": str(self.visit.number), "cache": "false"}
        return {"files": {"image": self.pictures[self.visit.number]}, "data": options}

    def _submit(self, **headers: str) -> httpx.Response | None:
        """The answer to a submission; None where the queue is full, and says so as it should."""
        url = f"{next(self._url)}/restore"
        answer = self.http.post(url, headers=headers, **self._form)
        return answer if self._admitted(answer) else None

    def _admitted(self, answer: httpx.Response) -> bool:
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            answer.read()
            _check_problem(answer, "queue_full")
            if int(answer.headers["retry-after"]) < 1:
                raise Unexpected(f"Retry-After is {answer.headers['retry-after']}")
            self._note("refusal")
            return False
        _expect(answer, httpx.codes.ACCEPTED, httpx.codes.OK)
        self.outcome.job_id = answer.headers["location"].rpartition("/")[2]
        return True

    def _submitted(self) -> bool:
        """Whether a plain submission was admitted."""
        admitted = self._submit() is not None
        if admitted:
            self._note("answer")
        return admitted

    # Following

    def _see(self, event: Event) -> None:
        outcome = self.outcome
        if "seq" in event:
            outcome.seen.append((event["seq"], event["type"]))
        self._note("first event")
        if event["type"] == "preview":
            self._note("first preview")
        if event["type"] == "status":
            self._ended(event["status"])

    def _ended(self, status: str) -> None:
        self.outcome.status = status
        if status in ENDS:
            expected = ("succeeded", "canceled") if self.visit.kind in _ENDING else ("succeeded",)
            said = f"the job {self.outcome.job_id} is {status}"
            self._note("whole", None if status in expected else Unexpected(said))

    def _read(self, events: Iterable[Event], until: Callable[[Event], bool] | None = None) -> None:
        for event in events:
            self._see(event)
            if until is not None and until(event):
                return

    @contextmanager
    def _events(self) -> Generator[Iterable[Event]]:
        """The job's events after those that were seen."""
        url = f"{next(self._url)}/restore/{self.outcome.job_id}/events"
        last = {"last-event-id": str(self.outcome.seen[-1][0])} if self.outcome.seen else {}
        with self.http.stream("GET", url, headers=last) as answer:
            _expect(answer, httpx.codes.OK)
            yield _told(answer.iter_lines())

    @contextmanager
    def _narrow_events(self) -> Generator[Iterable[Event]]:
        """The job's events over a connection that holds few of them."""
        url = httpx.URL(next(self._url))
        with socket.socket() as opened, closing(HTTPConnection(url.host, url.port)) as connection:
            for option in _NARROW:
                opened.setsockopt(*option)
            opened.connect((url.host, url.port))
            connection.sock = opened
            connection.request("GET", f"/restore/{self.outcome.job_id}/events")
            answer = connection.getresponse()
            yield _told(line.decode() for line in answer if line.endswith(b"\n"))

    def _at_end(self) -> bool:
        return self.outcome.status in ENDS

    def _check_end(self) -> None:
        if not self._at_end():
            raise Unexpected(f"the stream of {self.outcome.job_id} ended before its job")

    # Behaviors

    def follow(self) -> None:
        """Submits, then follows to the end."""
        if self._submitted():
            with self._events() as events:
                self._read(events)
            self._check_end()

    def stream(self) -> None:
        """Asks for the events at once."""
        url, headers = f"{next(self._url)}/restore", {"accept": "text/event-stream"}
        with self.http.stream("POST", url, headers=headers, **self._form) as answer:
            if self._admitted(answer):
                self._note("answer")
                self._read(_told(answer.iter_lines()))
                self._check_end()

    def socket(self) -> None:
        """Follows by websocket."""
        if self._submitted():
            url = next(self._url).replace("http", "ws", 1)
            with connect(f"{url}/restore/{self.outcome.job_id}/progress", max_size=None) as opened:
                self._read(map(_message, opened))
            self._check_end()

    def wait(self) -> None:
        """Asks for the finished job; follows it where that takes too long for one answer."""
        answer = self._submit(prefer="wait=60")
        if answer is not None and answer.status_code == httpx.codes.OK:
            self._ended(answer.json()["status"])
        elif answer is not None:
            with self._events() as events:
                self._read(events)
            self._check_end()

    def come_back(self) -> None:
        """Leaves and returns, again and again."""
        if self._submitted():
            while not self._at_end():
                with self._events() as events:
                    self._read(islice(events, _PIECE))
                self.outcome.resumed += not self._at_end()

    def stall(self) -> None:
        """Takes nothing for long; then what is left, by a new stream where this one is gone."""
        if self._submitted():
            # A stream that was given up breaks, or ends before its job.
            with suppress(OSError, HTTPException), self._narrow_events() as events:
                self._read(events, lambda event: event["type"] == "preview")
                gevent.sleep(_STALL_S)
                self._read(events)
            self.outcome.dropped += not self._at_end()
            while not self._at_end():
                self.outcome.resumed += 1
                with self._events() as events:
                    self._read(events)

    def cancel(self) -> None:
        """Cancels after the first progress."""
        self._end("POST", "/cancel", httpx.codes.OK)

    def delete(self) -> None:
        """Deletes after the first progress; nothing is there any more then."""
        self._end("DELETE", "", httpx.codes.NO_CONTENT)
        if self.outcome.job_id:
            url = f"{next(self._url)}/restore/{self.outcome.job_id}"
            _check_problem(self.http.get(url), "not_found")

    def _end(self, method: str, path: str, expected: int) -> None:
        if self._submitted():
            with self._events() as events:
                self._read(events, lambda event: event["type"] == "progress")
                url = f"{next(self._url)}/restore/{self.outcome.job_id}{path}"
                _expect(self.http.request(method, url), expected)
                self._read(events)
            self._check_end()

    def invalid(self) -> None:
        """Sends what cannot be restored."""
        request, code = _INVALID[self.visit.number % len(_INVALID)]
        answer = self.http.post(f"{next(self._url)}/restore", **request)
        _check_problem(answer, code)
        self._note("answer")


_BEHAVIORS: Final[dict[str, Callable[[Visitor], None]]] = {
    "follow": Visitor.follow,
    "stream": Visitor.stream,
    "socket": Visitor.socket,
    "wait": Visitor.wait,
    "return": Visitor.come_back,
    "stall": Visitor.stall,
    "cancel": Visitor.cancel,
    "delete": Visitor.delete,
    "invalid": Visitor.invalid,
}
_ENDING: Final = ("cancel", "delete")


def _expect(answer: httpx.Response, *codes: int) -> None:
    if answer.status_code not in codes:
        text = answer.read().decode(errors="replace")[:300]
        raise Unexpected(f"{answer.request.method} {answer.url} is {answer.status_code}: {text}")


def _check_problem(answer: httpx.Response, code: str) -> None:
    """An error in the one form, and of this code."""
    kind = answer.headers.get("content-type", "")
    told = answer.json() if kind.startswith("application/problem+json") else {}
    if (told.get("code"), told.get("status")) != (code, answer.status_code):
        raise Unexpected(f"{answer.status_code} {kind} {answer.text[:300]}; expected {code}")


def _told(lines: Iterable[str]) -> Generator[Event]:
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def _message(message: str | bytes) -> Event:
    """An event of the websocket; of a preview's frame the facts."""
    if isinstance(message, str):
        return json.loads(message)
    length = struct.unpack(">I", message[4:8])[0]
    return {"type": "preview", **json.loads(message[8 : 8 + length])}


def play(urls: Sequence[str], load: Load) -> dict[str, Any]:
    """All visits of a load: when it began, Locust's statistics, and every outcome."""
    visits = arrivals(load)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    Visitor.urls = urls
    Visitor.pictures = {visit.number: picture(visit.side, visit.number) for visit in visits}
    Visitor.http = httpx.Client(timeout=_TIMEOUT_S, limits=limits)
    environment = Environment(user_classes=[Visitor])
    runner = environment.create_local_runner()
    Visitor.began = time.time()
    outcomes: list[Outcome] = []
    for visit in visits:
        outcomes.append(Outcome(visit.number, visit.kind, visit.at_s))
        gevent.sleep(max(0.0, Visitor.began + visit.at_s - time.time()))
        [user] = cast("list[Visitor]", runner.spawn_users({Visitor.__name__: 1}))
        user.visit, user.outcome = visit, outcomes[-1]
    runner.user_greenlets.join(timeout=2 * _TIMEOUT_S)
    runner.quit()
    for outcome in outcomes:
        outcome.error = outcome.error or ("" if outcome.over else "the visit had no end")
    return {
        "began": Visitor.began,
        "kinds": _table(environment),
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }


def _table(environment: Environment) -> dict[str, dict[str, Any]]:
    """Locust's statistics: kind, phase, then how many and how long (two digits are exact)."""
    table: dict[str, dict[str, Any]] = {}
    for (phase, kind), entry in sorted(environment.stats.entries.items()):
        row: dict[str, float] = {"count": entry.num_requests, "errors": entry.num_failures}
        for percent in (50, 95, 99):
            row[f"p{percent}_ms"] = entry.get_response_time_percentile(percent / 100)
        table.setdefault(kind, {})[phase] = row
    return table


def main() -> None:
    """Play, and write what came of it."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.visitors", description=__doc__)
    parser.add_argument("--url", nargs="+", required=True, help="of one or more API processes")
    parser.add_argument("--load", default="{}", help="fields of loadtests.visits.Load as JSON")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = play(options.url, Load(**json.loads(options.load)))
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
