"""`instantir submit | watch | get | cancel | list`: the client on the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from tqdm import tqdm

from service.client import ApiError, AsyncClient, JobFailedError
from service.client.folders import Memory, Task, tasks
from service.client.terminal import Progress
from service.jobs import RestoreOptions

_NOT_ASKED = frozenset({"on_disconnect", "previews", "metadata", "webhook"})
OPTIONS = [name for name in RestoreOptions.model_fields if name not in _NOT_ASKED]
Command = Callable[[str, Callable[[argparse.Namespace], None], str], argparse.ArgumentParser]


class CommandFailed(Exception):
    """Some job did not succeed; the message says which and why."""


@dataclass(slots=True)
class _Batch:
    client: AsyncClient
    options: dict[str, Any]
    memory: Memory | None
    wait: bool
    previews: bool
    failures: list[str]


def add(command: Command, add_options: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the commands to a parser."""
    submit = command("submit", _submit, "restore pictures, or folders of them, by a service")
    submit.add_argument("sources", nargs="+", type=Path, metavar="FILE|FOLDER")
    submit.add_argument("--out", type=Path, help="file or folder; beside the source without")
    submit.add_argument("--jobs", type=int, default=2, metavar="N", help="so many at a time")
    submit.add_argument("--no-wait", action="store_true", help="print the ids and leave")
    submit.add_argument("--no-preview", action="store_true", help="no pictures in the terminal")
    add_options(submit)
    watch = command("watch", _watch, "follow a job to its end")
    get = command("get", _get, "fetch the result of a job")
    get.add_argument("-o", "--out", type=Path, help="file; ID.FORMAT without")
    for parser in (watch, get, command("cancel", _cancel, "cancel a job")):
        parser.add_argument("job", metavar="ID")
    listing = command("list", _list, "list your jobs, newest first")
    listing.add_argument("--status", help="only jobs of this status")
    listing.add_argument("--limit", type=int, default=20)


def _submit(args: argparse.Namespace) -> None:
    given = {name: getattr(args, name) for name in OPTIONS if getattr(args, name, None) is not None}
    options = RestoreOptions.model_validate(given)  # refused here, before anything is sent
    todo = tasks(args.sources, args.out, _ending(options, args.out))
    if not todo:
        raise ValueError("no pictures there")
    if args.jobs < 1:
        raise ValueError(f"--jobs is {args.jobs}; it must be 1 or more")
    anyio.run(_submit_all, args, given, todo)


def _ending(options: RestoreOptions, out: Path | None) -> str:
    return options.output_format if out is None or not out.suffix else out.suffix.lstrip(".")


async def _submit_all(args: argparse.Namespace, options: dict[str, Any], todo: list[Task]) -> None:
    out: Path | None = args.out
    if out is not None and out.suffix and "output_format" not in options:
        options = {**options, "output_format": out.suffix.lstrip(".").replace("jpg", "jpeg")}
    folder = out if out is not None and not out.suffix else None
    slots = list(range(args.jobs))
    room = anyio.Semaphore(args.jobs)
    async with AsyncClient() as client:
        memory = Memory.of(folder) if folder is not None else None
        batch = _Batch(client, options, memory, not args.no_wait, not args.no_preview, [])

        async def one(task: Task) -> None:
            async with room:
                slot = slots.pop(0)
                try:
                    await _restore(batch, task, slot)
                finally:
                    slots.append(slot)

        async with anyio.create_task_group() as group:
            for task in todo:
                group.start_soon(one, task)
    if batch.failures:
        raise CommandFailed("\n".join(batch.failures))


async def _restore(batch: _Batch, task: Task, slot: int) -> None:
    image = await anyio.Path(task.source).read_bytes()
    job_id = batch.memory.job_of(image, batch.options) if batch.memory is not None else None
    if batch.memory is not None and task.target.exists():
        return  # done by an earlier run: results are written last
    try:
        options = {**batch.options, "previews": batch.previews}
        job = await batch.client.submit(image, job_id=job_id, **options)
        if not batch.wait:
            tqdm.write(job["id"], file=sys.stdout)
            return
        progress = Progress(task.source.name, sys.stderr, slot, _environment())
        try:
            done = await batch.client.wait(job["id"], on_event=progress)
        finally:
            progress.close()
        task.target.parent.mkdir(parents=True, exist_ok=True)
        done.save(task.target)
        tqdm.write(str(task.target), file=sys.stdout)
    except (ApiError, JobFailedError) as error:
        if batch.memory is not None and job_id is not None:
            batch.memory.forget(job_id)
        batch.failures.append(f"{task.source}: {error}")


def _environment() -> dict[str, str]:
    """What terminals say of themselves."""
    names = ("TERM", "TERM_PROGRAM")
    return {name: value for name in names if (value := os.environ.get(name))}  # noqa: TID251 - not a setting


def _watch(args: argparse.Namespace) -> None:
    async def run() -> None:
        progress = Progress(args.job[:8], sys.stderr, 0, _environment())
        try:
            async with AsyncClient() as client:
                async for event in client.follow(args.job):
                    progress(event)
                job = await client.job(args.job)
        finally:
            progress.close()
        if job["status"] != "succeeded":
            raise JobFailedError(job)

    anyio.run(run)


def _get(args: argparse.Namespace) -> None:
    async def run() -> None:
        async with AsyncClient() as client:
            done = await client.wait(args.job)
        kind = done.job["output"]["content_type"].removeprefix("image/")
        target: Path = args.out or Path(f"{args.job}.{kind}")
        done.save(target)
        sys.stdout.write(f"{target}\n")

    anyio.run(run)


def _cancel(args: argparse.Namespace) -> None:
    async def run() -> None:
        async with AsyncClient() as client:
            sys.stdout.write((await client.cancel(args.job))["status"] + "\n")

    anyio.run(run)


def _list(args: argparse.Namespace) -> None:
    async def run() -> None:
        left = args.limit
        async with AsyncClient() as client:
            async for job in client.jobs(args.status):
                if left == 0:
                    return
                left -= 1
                source = job["source"]
                size = f"{source['width']}x{source['height']}"
                sys.stdout.write(f"{job['id']}  {job['status']:<9}  {size:>9}\n")

    anyio.run(run)
