"""Every message survives the pipe."""

from __future__ import annotations

import multiprocessing
from dataclasses import FrozenInstanceError
from typing import Any, get_args

import pytest

from service.jobs import RestoreOptions
from service.messages import (
    Begin,
    Cancel,
    Canceled,
    Failed,
    Finished,
    FromExecutor,
    LoadFailed,
    Preview,
    Progress,
    Ready,
    Shutdown,
    Started,
    Stepped,
    ToExecutor,
)

MESSAGES: list[Any] = [
    Begin(1, "job", b"\x00picture", RestoreOptions(preset="fast", seed=3)),
    Cancel(1),
    Shutdown(),
    Ready("nano", "abc", {"fast": {"steps": 4}}),
    LoadFailed("no such model"),
    Started(1, {"steps": 4}),
    Progress(1, 2, 4, "restoring", 500, 0.25, 1.0),
    Preview(1, 2, 4, 32, 24, "image/jpeg", b"\xff\xd8"),
    Finished(1, b"\x89PNG", "image/png", 32, 24, "ab" * 32, 1.5, 20),
    Failed(1, "engine_error", "why", retryable=True),
    Canceled(1),
    Stepped(3, 0.5),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent_and_cannot_be_changed(message: Any) -> None:
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        ours.send(message)
        assert theirs.recv() == message
    for name in message.__slots__:
        with pytest.raises(FrozenInstanceError):
            setattr(message, name, None)


def test_the_list_above_is_complete() -> None:
    kinds = {*get_args(ToExecutor), *get_args(FromExecutor)}
    assert {type(message) for message in MESSAGES} == kinds
