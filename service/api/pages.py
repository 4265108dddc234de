"""The page, its files, and the API's documentation for browsers."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.staticfiles import StaticFiles

WEB = Path(__file__).parent.parent / "web"

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The viewer sets styles on its elements; its one inline script is allowed by hash.
DOCS_POLICY = (
    "default-src 'none'; script-src 'self' {script}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger UI from a package, so that the documentation works without the internet.
VIEWER_FILES = ("swagger-ui-bundle.js", "swagger-ui.css")
_VIEWER = ("fastapi_swagger", "resources")
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
# Files keep their names between releases, so browsers ask each time and are told 304; the
# pictures to try are the only large ones and never change.
_ASK_EACH_TIME = "no-cache"
_PICTURES = "public, max-age=86400"


def build_pages() -> APIRouter:
    """Routes of the page and of the documentation; reads no file until asked."""
    router = APIRouter(include_in_schema=False)
    files = StaticFiles(directory=WEB, check_dir=False)

    async def serve(path: str, request: Request) -> Response:
        response = await files.get_response(path, request.scope)
        pictures = path.startswith("samples/")
        response.headers["Cache-Control"] = _PICTURES if pictures else _ASK_EACH_TIME
        response.headers["Content-Security-Policy"] = PAGE_POLICY
        return response

    async def page(request: Request) -> Response:
        return await serve("index.html", request)

    async def file(path: str, request: Request) -> Response:
        return await serve(path, request)

    router.add_api_route("/", page, methods=["GET", "HEAD"])
    router.add_api_route("/web/{path:path}", file, methods=["GET", "HEAD"])
    _add_docs(router)
    return router


def _add_docs(router: APIRouter) -> None:
    files = StaticFiles(packages=[_VIEWER])

    async def docs(request: Request) -> Response:
        prefix = request.scope.get("root_path", "")
        script, style = (f"{prefix}/docs/{name}" for name in VIEWER_FILES)
        response = get_swagger_ui_html(
            openapi_url=f"{prefix}/openapi.json",
            title="InstantIR Serve: API",
            swagger_js_url=script,
            swagger_css_url=style,
            swagger_favicon_url=f"{prefix}/web/icon.svg",
            swagger_ui_parameters={"validatorUrl": None},  # else it asks a public service
        )
        hashes = " ".join(map(_source_hash, _INLINE_SCRIPT.findall(bytes(response.body))))
        response.headers["Content-Security-Policy"] = DOCS_POLICY.format(script=hashes)
        return response

    async def viewer(request: Request) -> Response:
        response = await files.get_response(request.url.path.rpartition("/")[2], request.scope)
        response.headers["Cache-Control"] = _ASK_EACH_TIME
        return response

    router.add_api_route("/docs", docs)
    for name in VIEWER_FILES:
        router.add_api_route(f"/docs/{name}", viewer, methods=["GET", "HEAD"])


def _source_hash(script: bytes) -> str:
    """How a content policy names an inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
