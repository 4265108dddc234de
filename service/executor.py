"""The process that owns the model: it steps all active restorations together, one step at a time.

It is spawned by the worker and talks to it in the typed messages of `service.messages`. New runs
join between two steps; a cancel takes effect before the next step and before decoding. This is
the only module that reaches the engine, through the reference `settings.engine`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar, cast

from PIL import Image

from service import logs
from service.errors import InvalidRequest, ServiceError
from service.images import Decoded, ImageLimits, decode, encode
from service.jobs import RestoreOptions
from service.lifeline import die_with_parent
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
from service.provenance import Provenance
from service.settings import Settings

_log = logging.getLogger(__name__)

_PREVIEW_QUALITY = 80  # JPEG; a preview is looked at for a moment

T = TypeVar("T")


class Restoration(Protocol):
    """What the executor reads of a restoration in progress."""

    @property
    def steps(self) -> int:
        """Steps in all."""
        ...

    @property
    def done(self) -> bool:
        """No step is left; it can be finished."""
        ...


class StepInfo(Protocol):
    """What one step reports."""

    # fmt: off
    @property
    def step(self) -> int: ...  # noqa: D102
    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def timestep(self) -> int: ...  # noqa: D102
    @property
    def reference_variance(self) -> float | None: ...  # noqa: D102
    @property
    def adaptive_factor(self) -> float: ...  # noqa: D102
    # fmt: on


class RestoreParams(Protocol):
    """Settled parameters of one restoration."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        ...


class Restorer(Protocol):
    """A loaded model; `engines.load` gives one, and so does every fault fixture."""

    # fmt: off
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def backend(self) -> str: ...  # noqa: D102
    @property
    def presets(self) -> Mapping[str, Mapping[str, Any]]: ...  # noqa: D102
    def params(self, preset: str | None, overrides: dict[str, Any]) -> RestoreParams: ...  # noqa: D102
    def begin(self, image: Image.Image, params: Any) -> Restoration: ...  # noqa: D102
    def step(self, restorations: Sequence[Any]) -> Sequence[StepInfo]: ...  # noqa: D102
    def preview(self, restoration: Any) -> Image.Image | None: ...  # noqa: D102
    def finish(self, restoration: Any) -> Image.Image: ...  # noqa: D102
    # fmt: on


class LoadError(RuntimeError):
    """The model cannot be loaded; the message says which one and why."""


def load_restorer(settings: Settings) -> Restorer:
    """Call the engine reference with the model's name, and give it its CPU threads."""

    def load() -> Restorer:
        name, _, function = settings.engine.partition(":")
        module = importlib.import_module(name)
        if torch := sys.modules.get("torch"):  # before engines are compiled for these threads
            torch.set_num_threads(settings.threads or _cores())
        return getattr(module, function)(settings.model, **settings.engine_options)

    restorer = _attempt(load)
    if isinstance(restorer, Exception):
        reason = f"{type(restorer).__name__}: {restorer}"
        raise LoadError(f"cannot load model {settings.model!r}: {reason}") from restorer
    return restorer


def engine_command(words: Sequence[str], settings: Settings) -> int:
    """`instantir engines ...` and `instantir export ...`; returns the exit status."""
    name, *rest = words
    module = importlib.import_module("engines.commands")
    if name == "export":
        return module.export_command(rest)
    return module.run(rest, settings.engine_folder)


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))  # fewer than the machine has, in a container
    return os.cpu_count() or 1


def main(connection: Connection, settings: Settings, parent_pid: int) -> None:
    """What the spawned process runs: load, say so, serve until the pipe closes."""
    die_with_parent(parent_pid)
    for number in (signal.SIGINT, signal.SIGTERM):  # the worker decides when this process goes
        signal.signal(number, signal.SIG_IGN)
    logs.configure(settings.log_level)
    with suppress(BrokenPipeError, ConnectionResetError):
        try:
            restorer = load_restorer(settings)
        except LoadError as error:
            _log.exception("leaving")
            connection.send(LoadFailed(str(error)))
            return
        presets = {name: dict(preset) for name, preset in restorer.presets.items()}
        connection.send(Ready(restorer.name, restorer.fingerprint, presets))
        Executor(connection, restorer, settings).serve()


@dataclass(slots=True)
class _Active:
    """A run between its encoding and its decoding."""

    run: int
    job_id: str
    options: RestoreOptions
    picture: Decoded
    restoration: Restoration
    provenance: Provenance
    cost_s: float
    previewed_at: float | None = None

    @property
    def pixels(self) -> int:
        """What its share of a step taken with others is reckoned by."""
        return self.picture.rgb.width * self.picture.rgb.height


class Executor:
    """The step loop over one pipe and one restorer."""

    def __init__(self, connection: Connection, restorer: Restorer, settings: Settings) -> None:
        self._connection = connection
        self._restorer = restorer
        self._limits = ImageLimits.of(settings)
        self._preview_interval_s = 1.0 / settings.previews_per_s
        self._active: dict[int, _Active] = {}

    def serve(self) -> None:
        """Step what is active and take messages in between, until told to leave."""
        while self._take_messages():
            finished = next((a for a in self._active.values() if a.restoration.done), None)
            if finished is not None:
                self._finish(finished)
            elif self._active:
                self._step(list(self._active.values()))

    def _take_messages(self) -> bool:
        """Handle every waiting message, and wait for one when idle; False means leave."""
        while self._connection.poll(0 if self._active else None):
            try:
                message = cast("ToExecutor", self._connection.recv())
            except EOFError:
                return False
            match message:
                case Begin():
                    self._begin(message)
                case Cancel(run):
                    if self._active.pop(run, None) is not None:
                        self._send(Canceled(run))
                case Shutdown():
                    return False
        return True

    def _begin(self, message: Begin) -> None:
        with logs.job_context(message.job_id):
            active = _attempt(lambda: self._encode(message))
            if isinstance(active, Exception):
                self._fail(message.run, active)
            else:
                self._active[message.run] = active

    def _encode(self, message: Begin) -> _Active:
        options, began = message.options, time.monotonic()
        picture = decode(message.image, self._limits)
        try:
            params = self._restorer.params(options.preset, options.overrides())
            # Plain JSON, or the worker would import the engine's types to read it.
            resolved: dict[str, Any] = json.loads(json.dumps(params.as_dict()))
            self._send(Started(message.run, resolved))
            self._send(Progress(message.run, 0, int(resolved["steps"]), "encoding"))
            restoration = self._restorer.begin(picture.rgb, params)
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        origin = provenance_of(self._restorer, resolved, options, message.image)
        origin = origin.model_copy(update={"job_id": message.job_id})
        cost_s = time.monotonic() - began
        return _Active(message.run, message.job_id, options, picture, restoration, origin, cost_s)

    def _step(self, batch: list[_Active]) -> None:
        """One step for every run of the batch; one that raises is found by stepping it alone."""
        began = time.monotonic()
        infos = _attempt(lambda: self._restorer.step([active.restoration for active in batch]))
        took_s = time.monotonic() - began
        self._send(Stepped(len(batch), took_s))
        pixels = sum(active.pixels for active in batch)
        for active in batch:
            active.cost_s += took_s * active.pixels / pixels
        if not isinstance(infos, Exception):
            for active, info in zip(batch, infos, strict=True):
                self._report(active, info)
        elif len(batch) == 1:
            with logs.job_context(batch[0].job_id):
                self._fail(batch[0].run, infos)
        else:
            _log.warning("a step of %d runs raised; stepping each alone", len(batch))
            for active in batch:
                if not active.restoration.done:
                    self._step([active])

    def _report(self, active: _Active, info: StepInfo) -> None:
        self._send(
            Progress(
                active.run,
                info.step,
                info.steps,
                "restoring",
                info.timestep,
                _finite(info.reference_variance),
                _finite(info.adaptive_factor),
            )
        )
        now = time.monotonic()
        if not self._preview_is_due(active, now):
            return
        active.previewed_at = now
        with logs.job_context(active.job_id):
            preview = _attempt(lambda: self._preview(active, info))
            if isinstance(preview, Exception):
                self._fail(active.run, preview)
            elif preview is not None:
                self._send(preview)
        active.cost_s += time.monotonic() - now

    def _preview_is_due(self, active: _Active, now: float) -> bool:
        """The first step and the last one are always shown, others as the rate allows."""
        if not active.options.previews:
            return False
        if active.previewed_at is None or active.restoration.done:
            return True
        return now - active.previewed_at >= self._preview_interval_s

    def _preview(self, active: _Active, info: StepInfo) -> Preview | None:
        picture = self._restorer.preview(active.restoration)
        if picture is None:
            return None
        jpeg = encode(picture, None, "jpeg", _PREVIEW_QUALITY)
        size = (jpeg.width, jpeg.height)
        return Preview(active.run, info.step, info.steps, *size, jpeg.content_type, jpeg.data)

    def _finish(self, active: _Active) -> None:
        steps = active.restoration.steps
        self._send(Progress(active.run, steps, steps, "decoding"))
        with logs.job_context(active.job_id):
            finished = _attempt(lambda: self._decode(active))
            if isinstance(finished, Exception):
                self._fail(active.run, finished)
            else:
                del self._active[active.run]
                self._send(finished)

    def _decode(self, active: _Active) -> Finished:
        options, began = active.options, time.monotonic()
        picture = self._restorer.finish(active.restoration)
        format, quality = options.output_format, options.output_quality
        xmp = active.provenance.packet()
        result = encode(picture, active.picture, format, quality, xmp)
        return Finished(
            run=active.run,
            image=result.data,
            content_type=result.content_type,
            width=result.width,
            height=result.height,
            sha256=hashlib.sha256(result.data).hexdigest(),
            cost_s=active.cost_s + time.monotonic() - began,
            steps=active.restoration.steps,
        )

    def _fail(self, run: int, error: Exception) -> None:
        self._active.pop(run, None)
        match error:
            case ServiceError():
                self._send(Failed(run, error.code, error.message, error.retryable))
            case _:
                _log.error("the engine raised", exc_info=error)
                message = f"{type(error).__name__}: {error}"
                self._send(Failed(run, "engine_error", message, retryable=True))

    def _send(self, message: FromExecutor) -> None:
        self._connection.send(message)


def provenance_of(
    restorer: Restorer, resolved: dict[str, Any], options: RestoreOptions, source: bytes
) -> Provenance:
    """What goes into the finished file: settled parameters, model and backend, and its source."""
    return Provenance(
        model=restorer.name,
        fingerprint=restorer.fingerprint,
        backend=restorer.backend,
        parameters=resolved,
        output_format=options.output_format,
        output_quality=options.output_quality,
        source_sha256=hashlib.sha256(source).hexdigest(),
    )


def _finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if value is not None and math.isfinite(value) else None


def _attempt(call: Callable[[], T]) -> T | Exception:
    """The job boundary: what `call` returns, or what it raised, as a value."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - one job (or model) must not take down the others
        return error
