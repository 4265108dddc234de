"""Pictures and progress in a terminal."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final, TextIO

from tqdm import tqdm

from service.client.asynchronous import Event

_ROWS: Final = 12  # of a preview
_CHUNK: Final = 4096  # of base64, the most that kitty takes at a time
_ITERM: Final = ("iTerm.app", "WezTerm")


def picture(data: bytes, environment: Mapping[str, str]) -> str:
    """The characters that show a picture file in this terminal; "" where it can show none."""
    text = base64.b64encode(data).decode()
    if environment.get("TERM_PROGRAM") in _ITERM:
        return f"\x1b]1337;File=inline=1;height={_ROWS};preserveAspectRatio=1:{text}\a\n"
    if "kitty" in environment.get("TERM", "") and data.startswith(b"\x89PNG"):
        return _kitty(text)
    return ""


def _kitty(text: str) -> str:
    parts = [text[at : at + _CHUNK] for at in range(0, len(text), _CHUNK)]
    shown: list[str] = []
    for number, part in enumerate(parts):
        more = int(number < len(parts) - 1)
        head = f"a=T,f=100,r={_ROWS},m={more}" if number == 0 else f"m={more}"
        shown.append(f"\x1b_G{head};{part}\x1b\\")
    return "".join(shown) + "\n"


class Progress:
    """One bar for one job: waiting with its place and time, then its steps."""

    def __init__(
        self, name: str, stream: TextIO, position: int, environment: Mapping[str, str]
    ) -> None:
        self._stream = stream
        self._environment = environment
        self._pictures = stream.isatty() and position == 0
        self._bar = tqdm(desc=name, unit="step", file=stream, position=position, leave=True)

    def __call__(self, event: Event) -> None:
        """Show what an event says."""
        data = event.data
        if event.type == "progress":
            self._bar.total = data["steps"]
            self._bar.n = data["step"]
            self._bar.set_postfix_str("")
        elif event.type == "eta":
            place = data.get("position")
            behind = f"{place} before it, " if place is not None else ""
            self._bar.set_postfix_str(f"{behind}about {data.get('likely_s', 0):.0f} s")
        elif event.type == "status":
            self._bar.set_postfix_str(data["status"])
        elif event.picture is not None and self._pictures:
            self._draw(picture(event.picture, self._environment))
        self._bar.refresh()

    def _draw(self, shown: str) -> None:
        if shown:
            self._bar.clear()
            self._stream.write(shown)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
