"""What a terminal shows."""

import base64
import io

import pytest

from service.client import Event
from service.client.terminal import Progress, picture

PNG = b"\x89PNG" + bytes(9000)


@pytest.mark.parametrize("program", ["iTerm.app", "WezTerm"])
def test_terminals_with_inline_images_get_the_file(program: str) -> None:
    shown = picture(b"data", {"TERM_PROGRAM": program})
    assert shown.startswith("\x1b]1337;File=inline=1;")
    assert base64.b64encode(b"data").decode() in shown


def test_kitty_gets_a_png_in_pieces() -> None:
    shown = picture(PNG, {"TERM": "xterm-kitty"})
    pieces = [piece.partition(";")[2] for piece in shown.strip().split("\x1b\\")[:-1]]
    assert base64.b64decode("".join(pieces)) == PNG
    assert max(map(len, pieces)) <= 4096
    assert shown.count("m=1") == len(pieces) - 1


@pytest.mark.parametrize("environment", [{}, {"TERM": "xterm"}, {"TERM_PROGRAM": "code"}])
def test_other_terminals_get_nothing(environment: dict) -> None:
    assert picture(PNG, environment) == ""


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_bar_says_where_the_job_is() -> None:
    stream = Terminal()
    shown = Progress("photo.png", stream, 0, {"TERM_PROGRAM": "WezTerm"})
    shown(Event("eta", {"position": 2, "likely_s": 12.2}))
    shown(Event("progress", {"step": 1, "steps": 4}))
    shown(Event("preview", {}, b"frame"))
    shown(Event("status", {"status": "succeeded"}))
    shown.close()
    text = stream.getvalue()
    assert "2 before it, about 12 s" in text
    assert "1/4" in text
    assert "succeeded" in text
    assert "\x1b]1337;File" in text


def test_where_nobody_looks_no_picture_is_drawn() -> None:
    stream = io.StringIO()
    shown = Progress("photo.png", stream, 0, {"TERM_PROGRAM": "WezTerm"})
    shown(Event("preview", {}, b"frame"))
    shown.close()
    assert "1337" not in stream.getvalue()
