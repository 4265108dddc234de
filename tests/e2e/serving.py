"""`instantir serve` as a user starts and stops it, with nothing replaced."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from service.lifeline import tied_to_me

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "service" / "web" / "samples"

_READY = re.compile(r"InstantIR is ready: (http://\S+)/")
_STOP_S = 60  # the drain of running jobs takes up to half of it
_LOG_TAIL_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class Service:
    """A running `instantir serve`."""

    url: str  # without a slash at its end
    pid: int

    def part(self, name: str) -> psutil.Process:
        """Its process that runs `instantir NAME`."""
        (found,) = [
            child
            for child in psutil.Process(self.pid).children()
            if child.cmdline()[1:4] == ["-m", "service.cli", name]
        ]
        return found


@contextmanager
def served(folder: Path, *flags: str) -> Generator[Service]:
    """From the ready line to a clean end by SIGTERM that leaves no process behind."""
    command = [
        *(sys.executable, "-m", "service.cli", "serve", "--port", "0"),
        *("--data-dir", str(folder / "data"), *flags),
    ]
    log = folder / "serve.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=tied_to_me(),
        ) as process,
    ):
        try:
            assert process.stdout is not None
            ready = _READY.fullmatch(process.stdout.readline().strip())
            assert ready, log.read_text()[-_LOG_TAIL_CHARACTERS:]
            yield Service(ready[1], process.pid)
            _stop(process)
        finally:
            process.kill()


def _environment() -> dict[str, str]:
    """That of the tests without the settings of whoever runs them."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("INSTANTIR_") and name != "REDIS_URL"
    }


def _stop(process: subprocess.Popen[str]) -> None:
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(_STOP_S) == 0
    _, left = psutil.wait_procs(family, timeout=5)
    assert not left
