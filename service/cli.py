"""The commands: `serve`, its parts, files without a server, and those of `service.commands`."""

from __future__ import annotations

import argparse
import gc
import signal
import socket
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from service import commands, executor, files, logs, worker
from service.capacity import command as capacity
from service.client import ApiError, JobFailedError
from service.embedded import EmbeddedServerError
from service.errors import ServiceError
from service.jobs import OutputFormat, RestoreOptions
from service.settings import Settings
from service.supervisor import PortInUseError, Supervisor, listen

_FORMATS: dict[str, OutputFormat] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".avif": "avif",
}
_RESTORE_SETTINGS = (
    "model",
    "engine",
    "backend",
    "device",
    "memory",
    "engine_cache",
    "threads",
    "log_level",
)
_NOT_FOR_FILES = frozenset(
    {"output_format", "previews", "priority", "start_by", "finish_by", "on_disconnect"}
    | {"cache", "metadata", "webhook"}
)
_ENGINE_COMMANDS = {
    "engines": "build, list, verify and prune compiled engines; plan GPU memory",
    "export": "write a model's graphs as ONNX files",
}
_OWN_PARSERS = {**_ENGINE_COMMANDS, "capacity": capacity.TEXT}
_GRACEFUL_S = 5  # open streams get this long after SIGTERM; clients resume by event id
_HEARD_BYTES = 4096  # of a websocket's message to us, which nobody reads


class _UsageError(Exception):
    """What the user asked for cannot be done; the message says why."""


class _Different(Exception):
    """A file made again is not the same; the message says how much they differ."""


_REFUSALS = (
    _UsageError,
    ApiError,
    ServiceError,
    EmbeddedServerError,
    PortInUseError,
    executor.LoadError,
    ValueError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in _ENGINE_COMMANDS:
        return executor.engine_command(words, Settings())
    try:
        if words[:1] == ["capacity"]:
            return capacity.run(words[1:])
        args = _parser().parse_args(words)
        args.command(args)
    except _REFUSALS as error:
        print(f"instantir: error: {_words(error)}", file=sys.stderr)
        return 2
    except _Different as error:
        print(error)
        return 1
    except (commands.CommandFailed, JobFailedError) as error:
        print(f"instantir: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"instantir: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="instantir",
        description="Restores photographs by diffusion: a service, its client, or one file.",
    )
    all_commands = parser.add_subparsers(required=True, metavar="COMMAND")
    every = tuple(Settings.model_fields)

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> Any:
        sub = all_commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=run)
        return sub

    _add_flags(command("serve", _serve, "run everything on this machine"), Settings, every)
    api = command("api", _api, "run one API process; needs REDIS_URL")
    _add_flags(api, Settings, every)
    api.add_argument("--fd", type=int, help="serve on this inherited listening socket")
    _add_flags(command("worker", _worker, "run one worker; needs REDIS_URL"), Settings, every)
    restore = command("restore", _restore, "restore one picture file, without a server")
    restore.add_argument("source", type=Path, metavar="IN", help="PNG, JPEG or WebP")
    restore.add_argument("target", type=Path, metavar="OUT", help="its ending gives the format")
    options = [name for name in RestoreOptions.model_fields if name not in _NOT_FOR_FILES]
    _add_flags(restore, RestoreOptions, options)
    _add_flags(restore, Settings, _RESTORE_SETTINGS)
    rerun = command("rerun", _rerun, "make a restored file again, from what it says of itself")
    rerun.add_argument("result", type=Path, metavar="FILE", help="a file that InstantIR restored")
    rerun.add_argument("source", type=Path, metavar="SOURCE", help="the picture it was made from")
    rerun.add_argument("--out", type=Path, metavar="OUT", help="write the new file there")
    _add_flags(rerun, Settings, _RESTORE_SETTINGS)
    for name, text in _OWN_PARSERS.items():
        all_commands.add_parser(name, help=text)
    commands.add(command, lambda sub: _add_flags(sub, RestoreOptions, commands.OPTIONS))
    return parser


def _add_flags(
    parser: argparse.ArgumentParser, model: type[BaseModel], names: Iterable[str]
) -> None:
    """One flag for each field; its value is checked by the model, like one from the environment."""
    for name in names:
        parser.add_argument(
            "--" + name.replace("_", "-"),
            dest=name,
            default=argparse.SUPPRESS,
            help=model.model_fields[name].description or " ",
        )


def _given(args: argparse.Namespace, model: type[BaseModel]) -> dict[str, str]:
    return {name: value for name, value in vars(args).items() if name in model.model_fields}


def _settings(args: argparse.Namespace) -> Settings:
    overrides: dict[str, Any] = _given(args, Settings)
    return Settings(**overrides)


def _serve(args: argparse.Namespace) -> None:
    settings = _settings(args)
    logs.configure(settings.log_level)

    def announce(address: str) -> None:
        print(f"InstantIR is ready: {address}", flush=True)

    supervisor = Supervisor(settings, _given(args, Settings), announce)

    def stop(*_: object) -> None:
        supervisor.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    supervisor.run()


def _api(args: argparse.Namespace) -> None:
    import uvicorn

    from service.api.app import create_app

    settings = _settings(args)
    _need_redis(settings)
    logs.configure(settings.log_level)
    inherited = args.fd is not None
    listener = socket.socket(fileno=args.fd) if inherited else listen(settings.host, settings.port)
    config = uvicorn.Config(
        create_app(settings),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_GRACEFUL_S,
        ws_max_size=_HEARD_BYTES,
        ws_per_message_deflate=False,  # pictures are compressed, and each stream would need 300 KB
    )
    # A search for garbage holds up every stream: none among what is there now and stays, and seldom
    # among what thousands of streams hold, as nearly all that ends here ends by itself.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    uvicorn.Server(config).run(sockets=[listener])


def _worker(args: argparse.Namespace) -> None:
    settings = _settings(args)
    _need_redis(settings)
    worker.main(settings)


def _need_redis(settings: Settings) -> None:
    if settings.redis_url is None:
        raise _UsageError(
            "no Redis address: set REDIS_URL or --redis-url, "
            "or run everything on this machine with `instantir serve`"
        )


def _restore(args: argparse.Namespace) -> None:
    settings = _settings(args)
    logs.configure(settings.log_level)
    source: Path = args.source
    target: Path = args.target
    if not source.is_file():
        raise _UsageError(f"no such file: {source}")
    if target.suffix.lower() not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise _UsageError(f"OUT must end in one of {known}; it is {target.name!r}")
    if not target.parent.is_dir():
        raise _UsageError(f"no such folder: {target.parent}")
    options = RestoreOptions.model_validate(
        {**_given(args, RestoreOptions), "output_format": _FORMATS[target.suffix.lower()]}
    )
    with _progress(source.name) as on_step:
        files.restore_file(source, target, options, settings, on_step)


def _rerun(args: argparse.Namespace) -> None:
    settings = _settings(args)
    logs.configure(settings.log_level)
    for path in (args.result, args.source):
        if not path.is_file():
            raise _UsageError(f"no such file: {path}")
    with _progress(args.result.name) as on_step:
        made = files.rerun_file(args.result, args.source, args.out, settings, on_step)
    if made.identical:
        print("identical")
        return
    theirs, ours = made.backends
    where = "" if theirs == ours else f"; it was made on {theirs}, this is {ours}"
    raise _Different(f"different, by {made.largest_difference} of 255 at most{where}")


@contextmanager
def _progress(name: str) -> Generator[files.OnStep]:
    """A bar on stderr."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="step", file=sys.stderr) as bar:

        def on_step(step: int, steps: int) -> None:
            if step == 0:
                bar.reset(steps)  # its clock has run while the model was loaded
            bar.n = step
            bar.refresh()

        yield on_step


def _words(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(str(part) for part in detail['loc']) or 'settings'}: {detail['msg']}"
            for detail in error.errors()
        )
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
