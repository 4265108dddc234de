"""The page and its files: served whole, checked by browsers, and locked in by their policy."""

import base64
import hashlib
import re

import httpx
import pytest

from service.api.pages import WEB


async def test_the_page_stands_at_the_root(api: httpx.AsyncClient) -> None:
    answer = await api.get("/")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text == (WEB / "index.html").read_text(encoding="utf-8")


async def test_every_file_that_the_page_names_is_served(api: httpx.AsyncClient) -> None:
    page = (await api.get("/")).text
    names = set(re.findall(r'(?:href|src)="(web/[^"]+)"', page))
    types = {"js": "javascript", "css": "text/css", "svg": "image/svg+xml", "jpg": "image/jpeg"}

    assert len(names) > 3
    for name in names:
        answer = await api.get(f"/{name}")
        assert answer.status_code == 200, name
        assert types[name.rpartition(".")[2]] in answer.headers["content-type"]


@pytest.mark.parametrize("path", ["/", "/web/app.js"])
async def test_the_policy_allows_only_ourselves_and_local_pictures(
    api: httpx.AsyncClient, path: str
) -> None:
    policy = dict(
        part.strip().split(" ", 1)
        for part in (await api.get(path)).headers["content-security-policy"].split(";")
    )

    assert policy.pop("img-src") == "'self' data: blob:"
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert set(policy.values()) == {"'self'", "'none'"}


async def test_the_page_obeys_its_own_policy() -> None:
    page = (WEB / "index.html").read_text(encoding="utf-8")

    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert re.findall(r"\son\w+=|\sstyle=|<style", page) == []
    assert re.findall(r'(?:src|href)="(?:https?:)?//', page) == []


async def test_files_are_asked_for_each_time_and_not_sent_twice(api: httpx.AsyncClient) -> None:
    first = await api.get("/web/app.js")
    again = await api.get("/web/app.js", headers={"if-none-match": first.headers["etag"]})

    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")


async def test_sample_pictures_are_kept_for_a_day(api: httpx.AsyncClient) -> None:
    name = min((WEB / "samples").glob("*.jpg")).name

    answer = await api.get(f"/web/samples/{name}")

    assert answer.headers["cache-control"] == "public, max-age=86400"


@pytest.mark.parametrize(
    "path", ["/web/", "/web/nothing.js", "/web/../settings.py", "/web/%2e%2e/settings.py"]
)
async def test_nothing_else_is_served(api: httpx.AsyncClient, path: str) -> None:
    answer = await api.get(path)

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_the_documentation_needs_nobody_else(api: httpx.AsyncClient) -> None:
    answer = await api.get("/docs")
    policy = answer.headers["content-security-policy"]
    names = re.findall(r'(?:src|href)="([^"]+)"', answer.text)

    assert answer.status_code == 200
    assert "url: '/openapi.json'" in answer.text
    assert sorted(names) == ["/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/web/icon.svg"]
    assert re.findall(r"(?:https?:)?//\w[^\s'\"]*", answer.text + policy) == []


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("swagger-ui-bundle.js", "javascript", b"SwaggerUIBundle"),
        ("swagger-ui.css", "text/css", b".swagger-ui"),
    ],
)
async def test_the_viewer_of_the_documentation_is_served_here(
    api: httpx.AsyncClient, name: str, kind: str, words: bytes
) -> None:
    answer = await api.get(f"/docs/{name}")
    again = await api.get(f"/docs/{name}", headers={"if-none-match": answer.headers["etag"]})

    assert (answer.status_code, again.status_code) == (200, 304)
    assert kind in answer.headers["content-type"]
    assert words in answer.content


async def test_of_the_viewers_package_nothing_else_is_served(api: httpx.AsyncClient) -> None:
    assert (await api.get("/docs/__init__.py")).status_code == 404


async def test_only_the_documentations_own_inline_script_may_run(api: httpx.AsyncClient) -> None:
    answer = await api.get("/docs")
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
    )

    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy["script-src"] == f"'self' 'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
