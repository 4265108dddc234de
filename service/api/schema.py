"""What OpenAPI says about submissions and errors, derived from the models that check them."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api import problems
from service.api.submission import JSON, MULTIPART, InlineImage
from service.errors import ServiceError
from service.images import ACCEPTED
from service.jobs import RestoreOptions

TITLE: Final = "InstantIR Serve"
VERSION: Final = "0.1.0"
ABOUT: Final = (
    "Blind image restoration. Submit a picture, follow its job over server-sent events or the "
    "websocket `/restore/{id}/progress` (events as JSON text; previews as binary frames: "
    "big-endian uint32 4, uint32 length of the JSON that follows, that JSON, JPEG bytes), and "
    "fetch the result. Every error is an `application/problem+json`."
)

# field of RestoreOptions -> (what it does, an example)
PARAMETERS: Final[dict[str, tuple[str, Any]]] = {
    "preset": (
        "Starting point for all other parameters: `faithful` as published, `balanced`, or `fast`. "
        "Without one the model's own default applies.",
        "balanced",
    ),
    "prompt": ("What the picture shows or should show; empty for none.", "a portrait, sharp"),
    "negative_prompt": ("What the result should not look like.", "blurry, oversmoothed"),
    "steps": ("Denoising steps: more take longer and add detail.", 20),
    "guidance_scale": ("How strongly the prompt and the picture steer; 1 is off.", 7.0),
    "preview_start": (
        "Share of the run before which the upload itself guides in place of the one-step "
        "reference; 0 is never.",
        0.0,
    ),
    "creative_start": (
        "Share of the run from which no reference guides any more, for freer detail; 1 is never.",
        1.0,
    ),
    "adaptive": (
        "What the movement of the references from step to step decides: `official`, how strongly "
        "they guide (`true` says the same); `reuse`, when an earlier one serves again; `off`.",
        "reuse",
    ),
    "seed": ("Noise seed; the same seed and parameters give the same result.", 7),
    "color_match": ("How the result's colors are pulled to those of the input.", "wavelet"),
    "output_format": (
        "File format of the result. PNG and WebP keep transparency, JPEG flattens it on white.",
        "png",
    ),
    "output_quality": ("Quality of JPEG and WebP results.", 90),
    "previews": ("Send pictures of the restoration while it runs.", True),
    "priority": ("Which queue the job waits in.", "normal"),
    "start_by": ("Seconds from now; a job that has not started by then expires.", 600),
    "finish_by": ("Seconds from now; a job that has not finished by then is ended.", 900),
    "on_disconnect": (
        "`cancel`: when its last follower leaves and nobody comes back soon, the job is canceled.",
        "continue",
    ),
    "cache": ("Take the result of an equal request of yours, where there is one.", True),
    "webhook": (
        "Where signed messages about the job go; without `events` those of its end.",
        {"url": "https://example.org/hook", "events": ["job.succeeded", "job.failed"]},
    ),
    "metadata": ("Words of your own, given back with the job.", {"album": "holiday"}),
}
_ADDRESS: Final = "https://example.org/photo.jpg"
_EXAMPLE: Final = {"preset": "balanced", "seed": 7, "output_format": "png"}
# A gray ramp of 16 px a side, the smallest picture that is taken.
_RAMP: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAG0lEQVR42mPkYEAFLPzoAoLoAgLDR4DxO5oAALc0"
    "Ahp3QqCzAAAAAElFTkSuQmCC"
)


def submission_body() -> dict[str, Any]:
    """`requestBody` of a submission: the form and its JSON twin."""
    fields = _parameters()
    file = {
        "type": "string",
        "format": "binary",
        "description": f"The picture: {ACCEPTED}, one frame.",
    }
    ways = InlineImage.model_json_schema()["properties"]
    ways = {name: _without_null(schema) for name, schema in ways.items()}
    inside = {
        **_object(ways),
        "oneOf": [{"required": [name]} for name in ways],
        "description": f"The picture: {ACCEPTED}, one frame.",
    }
    address = {**ways["url"], "examples": [_ADDRESS]}
    return {
        "requestBody": {
            "required": True,
            "content": {
                MULTIPART: {
                    "schema": {
                        **_object({"image": file, "image_url": address, **fields}),
                        "oneOf": [{"required": ["image"]}, {"required": ["image_url"]}],
                    }
                },
                JSON: {
                    "schema": {
                        **_object({"image": inside, **fields}),
                        "required": ["image"],
                    },
                    "example": {"image": {"base64": _RAMP}, **_EXAMPLE},
                },
            },
        }
    }


def refusals(*kinds: type[ServiceError] | tuple[int, str]) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: each error it gives by name, and the shape of any other."""
    said: dict[int | str, list[str]] = {}
    for kind in kinds:
        status, words = (
            kind
            if isinstance(kind, tuple)
            else (kind.status, f"`{kind.code}`: {(kind.__doc__ or kind.title).strip()}")
        )
        said.setdefault(status, []).append(words)
    said["default"] = ["Any other error."]
    content = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": "\n\n".join(words), "content": content}
        for status, words in said.items()
    }


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the app."""
    document = get_openapi(title=TITLE, version=VERSION, description=ABOUT, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    problem = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    return document


def _parameters() -> dict[str, dict[str, Any]]:
    whole: dict[str, dict[str, Any]] = RestoreOptions.model_json_schema()
    described: dict[str, dict[str, Any]] = {}
    for name, schema in whole["properties"].items():
        words, example = PARAMETERS[name]
        field = _without_null(schema)
        if "$ref" in field:
            field = whole["$defs"][field["$ref"].rpartition("/")[2]]
        described[name] = {**field, "description": words, "examples": [example]}
    return described


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Leaving a field out is how a client says null."""
    kept = {key: value for key, value in schema.items() if key != "anyOf"}
    if kept.get("default", ...) is None:
        del kept["default"]
    for choice in schema.get("anyOf", ()):
        if choice != {"type": "null"}:
            kept.update(choice)
    return kept


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
