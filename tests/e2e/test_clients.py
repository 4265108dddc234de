"""Clients that are not ours, and ours as its users run it, against the real service."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from service import provenance
from service.client import Client
from tests.e2e.serving import SAMPLES

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(240)]

NODE_MODULES = Path("/usr/share/nodejs")
FOLLOW = Path(__file__).with_name("follow.js")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A small part of a photograph."""
    path = tmp_path / "photo.png"
    with Image.open(SAMPLES / "lake.jpg") as photo:
        photo.crop((40, 60, 136, 140)).save(path)
    return path


def output_of(*command: object, **environment: str) -> str:
    """What a command prints; it must end well."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_gets_the_picture_in_one_call(service_url: str, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "restored.webp"
    form = ("-F", f"image=@{picture}", "-F", "preset=fast", "-F", "seed=4")
    accept = ("-H", "Accept: image/webp")
    output_of("curl", "-sSf", *accept, *form, "-o", out, f"{service_url}/restore")
    with Image.open(out) as restored:
        assert (restored.format, restored.size) == ("WEBP", (96, 80))


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_follows_a_submission_as_events(service_url: str, picture: Path) -> None:
    form = ("-F", f"image=@{picture}", "-F", "preset=fast", "-F", "seed=5")
    accept = ("-H", "Accept: text/event-stream")
    text = output_of("curl", "-sSNf", *accept, *form, f"{service_url}/restore")
    kinds = [line.removeprefix("event: ") for line in text.splitlines() if line[:6] == "event:"]
    assert kinds[0] == kinds[-1] == "status"
    assert {"progress", "preview", "output"} <= set(kinds)


@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE_MODULES / "ws").exists(), reason="needs node-ws"
)
def test_a_node_client_follows_a_job_with_binary_previews(service_url: str, picture: Path) -> None:
    with Client(service_url) as client:
        job = client.submit(picture, preset="fast", seed=6, steps=4)
    address = service_url.replace("http", "ws") + job["urls"]["progress"]
    received = json.loads(output_of("node", FOLLOW, address, NODE_PATH=str(NODE_MODULES)))
    assert received["code"] == 1000
    assert received["extensions"] == ""  # to compress each stream would take 300 KB of memory
    assert received["texts"][-1]["status"] == "succeeded"
    assert {frame["kind"] for frame in received["frames"]} == {4}
    assert {frame["magic"] for frame in received["frames"]} == {0xFFD8}
    assert {frame["facts"]["job_id"] for frame in received["frames"]} == {job["id"]}


def test_a_result_of_the_service_is_made_again_bit_for_bit(
    service_url: str, picture: Path, tmp_path: Path
) -> None:
    with Client(service_url) as client:
        done = client.restore(picture, preset="fast", seed=8, prompt="warm", output_format="webp")
    done.save(tmp_path / "restored.webp")
    said = provenance.read(done.data)
    assert said is not None
    assert (said.model, said.parameters["seed"], said.parameters["prompt"]) == ("nano", 8, "warm")
    command = (sys.executable, "-m", "service.cli", "rerun")
    assert output_of(*command, tmp_path / "restored.webp", picture) == "identical\n"


def test_the_command_restores_a_folder(service_url: str, picture: Path, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "service.cli", "submit", picture.parent, "--preset", "fast")
    output_of(*command, "--out", tmp_path / "out", INSTANTIR_URL=service_url)
    with Image.open(tmp_path / "out" / "photo.png") as restored:
        assert restored.size == (96, 80)
