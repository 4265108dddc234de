"""Restoring files without a server, and restoring them again from what they say of themselves."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops

from service import provenance
from service.errors import InvalidRequest
from service.executor import RestoreParams, Restorer, load_restorer, provenance_of
from service.images import Decoded, ImageLimits, decode, encode
from service.jobs import RestoreOptions
from service.settings import Settings

OnStep = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Rerun:
    """How a file made again compares with the file."""

    identical: bool  # byte for byte
    largest_difference: int  # of any channel of any pixel, of 255
    backends: tuple[str, str]  # the file's and ours


def restore_file(
    source: Path, target: Path, options: RestoreOptions, settings: Settings, on_step: OnStep
) -> None:
    """Restore one picture file straight through the engine; `on_step` gets (step, steps).

    Raises OSError, LoadError, ServiceError for a picture that is not taken, and ValueError for a
    bad parameter.
    """
    image = source.read_bytes()
    picture = decode(image, ImageLimits.of(settings))
    restorer = load_restorer(settings)
    params = restorer.params(options.preset, options.overrides())
    _write(target, _restored(image, picture, restorer, params, options, on_step))


def rerun_file(
    result: Path, source: Path, target: Path | None, settings: Settings, on_step: OnStep
) -> Rerun:
    """Make a restored file again from its source, as its provenance says, and compare.

    The new one is written to `target` where there is one. Raises OSError, LoadError, and
    InvalidRequest where the file does not say how it was made, was made from another source, or
    by another model.
    """
    old, image = result.read_bytes(), source.read_bytes()
    said = provenance.read(old)
    if said is None:
        raise InvalidRequest(f"{result}: does not say how it was made")
    if (digest := hashlib.sha256(image).hexdigest()) != said.source_sha256:
        raise InvalidRequest(
            f"{source}: is not what {result.name} was made from: its SHA-256 is {digest[:12]}..., "
            f"wanted is {said.source_sha256[:12]}..."
        )
    picture = decode(image, ImageLimits.of(settings))
    restorer = load_restorer(settings)
    if restorer.fingerprint != said.fingerprint:
        raise InvalidRequest(
            f"{result}: was made by {said.model} ({said.fingerprint}); "
            f"loaded is {restorer.name} ({restorer.fingerprint})"
        )
    options = RestoreOptions.model_validate(
        {"output_format": said.output_format, "output_quality": said.output_quality}
    )
    params = restorer.params(None, said.parameters)
    new = _restored(image, picture, restorer, params, options, on_step)
    if target is not None:
        _write(target, new)
    return Rerun(new == old, _largest_difference(old, new), (said.backend, restorer.backend))


def _restored(
    image: bytes,
    picture: Decoded,
    restorer: Restorer,
    params: RestoreParams,
    options: RestoreOptions,
    on_step: OnStep,
) -> bytes:
    """The finished file."""
    restoration = restorer.begin(picture.rgb, params)
    on_step(0, restoration.steps)
    while not restoration.done:
        (info,) = restorer.step([restoration])
        on_step(info.step, info.steps)
    result = restorer.finish(restoration)
    resolved = json.loads(json.dumps(params.as_dict()))
    origin = provenance_of(restorer, resolved, options, image)
    format, quality = options.output_format, options.output_quality
    return encode(result, picture, format, quality, origin.packet()).data


def _write(target: Path, data: bytes) -> None:
    """Whole or not at all."""
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _largest_difference(one: bytes, other: bytes) -> int:
    first, second = (Image.open(io.BytesIO(data)).convert("RGBA") for data in (one, other))
    if first.size != second.size:
        return 255
    extrema = ImageChops.difference(first, second).getextrema()
    return max(int(high) for _, high in extrema)  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType, reportUnknownArgumentType] - four bands give four pairs
