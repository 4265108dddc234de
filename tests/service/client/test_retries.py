"""Pauses between tries."""

import httpx
import pytest

from service.client.retries import Retries, retry_after_s


async def pauses(retries: Retries, slept: list[float], answer: httpx.Response | None = None) -> int:
    tries = 0
    while await retries.pause(answer) and tries < 12:
        tries += 1
    return tries


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def retries(slept: list[float]) -> Retries:
    async def note(seconds: float) -> None:
        slept.append(seconds)

    return Retries(1000.0, note)


async def test_pauses_grow_up_to_a_limit(retries: Retries, slept: list[float]) -> None:
    await pauses(retries, slept)
    assert 0.1 <= slept[0] <= 0.2
    assert all(seconds <= 20.0 for seconds in slept)
    assert slept[-1] >= 10.0


async def test_what_the_answer_says_is_heeded(retries: Retries, slept: list[float]) -> None:
    await retries.pause(httpx.Response(429, headers={"retry-after": "7"}))
    assert slept == [7.0]


async def test_it_ends_when_time_is_up(slept: list[float]) -> None:
    async def note(seconds: float) -> None:
        slept.append(seconds)

    assert not await Retries(1.0, note).pause(httpx.Response(503, headers={"retry-after": "9"}))
    assert slept == []


async def test_progress_begins_anew(retries: Retries, slept: list[float]) -> None:
    await pauses(retries, slept)
    retries.reset()
    await retries.pause()
    assert slept[-1] <= 0.2


@pytest.mark.parametrize("text", ["", "soon", "-1", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_what_is_no_number_of_seconds_says_nothing(text: str) -> None:
    assert retry_after_s(httpx.Response(503, headers={"retry-after": text})) == 0.0
