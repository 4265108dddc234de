"""The client's commands, against a live service with a hand-driven worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from service import tasks
from service.cli import main
from service.client.folders import STATE
from service.jobs import ErrorInfo
from service.queue import JobQueue
from tests.conftest import WaitUntil
from tests.service.api.conftest import Live, Worker, photo, serve, worker

__all__ = ["photo", "worker"]

Run = Callable[..., Awaitable[int]]


@pytest.fixture
async def live(settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Live]:
    async with serve(settings) as made:
        monkeypatch.setenv("INSTANTIR_URL", f"http://{made.address}")
        yield made


@pytest.fixture
def run(live: Live) -> Run:
    """`await run("list")`: the exit status of a command."""

    async def command(*words: object) -> int:
        return await asyncio.to_thread(main, [str(word) for word in words])

    return command


@pytest.fixture
async def busy(worker: Worker, queue: JobQueue, wait_until: WaitUntil) -> AsyncIterator[list[str]]:
    """A worker that does whatever comes; the prompts of what it did."""
    done: list[str] = []

    async def work() -> None:
        async def waits() -> bool:
            return (await queue.depth())["normal"] > 0

        while True:
            await wait_until(waits, timeout_s=60.0)
            lease = await worker.claim()
            if lease.options.prompt == "fail":
                await queue.fail(lease, ErrorInfo(code="engine_error", message="it broke"))
                continue
            await worker.step(lease, 1, b"frame")
            await worker.succeed(lease, lease.job_id.encode())
            done.append(lease.job_id)

    task = asyncio.create_task(work())
    yield done
    await tasks.end(task)


@pytest.fixture
def album(tmp_path: Path, photo: bytes) -> Path:
    """A folder of pictures."""
    for name in ("a.png", "sub/b.jpg", "c.png"):
        path = tmp_path / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo + name.encode())  # what follows the picture makes it another file
    (tmp_path / "album" / "notes.txt").write_text("no picture")
    return tmp_path / "album"


async def test_a_file_is_restored_beside_it(run: Run, busy, album: Path, capsys) -> None:
    assert await run("submit", album / "a.png", "--seed", "3") == 0
    shown = capsys.readouterr()
    assert shown.out == f"{album / 'a-restored.png'}\n"
    assert "a.png" in shown.err
    assert (album / "a-restored.png").read_text() == busy[0]


async def test_a_folder_is_restored_and_the_same_command_goes_on(
    run: Run, busy, album: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert await run("submit", album, "--out", out, "--jobs", "2") == 0
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {
        *("a.png", "c.png", "sub/b.png", STATE)
    }
    first = set(busy)
    (out / "c.png").unlink()
    assert await run("submit", album, "--out", out) == 0
    assert (out / "c.png").read_text() in first  # the job's result is fetched, nothing is redone
    assert set(busy) == first


async def test_what_failed_is_tried_anew_by_the_next_run(
    run: Run, busy, album: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    assert await run("submit", album / "a.png", "--out", out, "--prompt", "fail") == 1
    assert "it broke" in capsys.readouterr().err
    assert json.loads((out / STATE).read_text()) == {}
    assert not (out / "a.png").exists()


async def test_without_waiting_the_id_is_printed(run: Run, album: Path, queue, capsys) -> None:
    assert await run("submit", album / "a.png", "--no-wait") == 0
    job_id = capsys.readouterr().out.strip()
    assert (await queue.get(job_id)).status == "queued"


async def test_a_job_is_listed_followed_fetched_and_canceled(
    run: Run, busy, album: Path, tmp_path: Path, capsys, wait_until: WaitUntil, queue
) -> None:
    await run("submit", album / "a.png", "--no-wait")
    job_id = capsys.readouterr().out.strip()
    assert await run("watch", job_id) == 0
    capsys.readouterr()
    assert await run("get", job_id, "-o", tmp_path / "got.png") == 0
    assert (tmp_path / "got.png").read_text() == job_id
    assert capsys.readouterr().out == f"{tmp_path / 'got.png'}\n"
    assert await run("list", "--status", "succeeded", "--limit", "5") == 0
    assert capsys.readouterr().out.split()[:2] == [job_id, "succeeded"]
    assert await run("cancel", job_id) == 0
    assert capsys.readouterr().out == "succeeded\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("submit", "absent.png"), "no such file"),
        (("submit", "{album}/a.png", "--steps", "0"), "steps: Input should be greater"),
        (("submit", "{album}", "--jobs", "0"), "--jobs is 0"),
        (("watch", "nothing"), "no job 'nothing'"),
        (("list", "--status", "x"), "/status"),
    ],
)
async def test_what_is_wrong_is_said_in_a_line(
    run: Run, album: Path, capsys, words: tuple, said: str
) -> None:
    assert await run(*(word.format(album=album) for word in words)) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("instantir: ")]
    assert line.startswith("instantir: error: ")
    assert said in line
