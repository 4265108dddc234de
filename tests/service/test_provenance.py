"""Provenance in and out of picture files."""

import io

import pytest
from PIL import Image

from service import provenance
from service.images import FORMATS, convert
from service.provenance import Provenance

SAID = Provenance(
    model="nano",
    fingerprint="ab12",
    backend="torch 2.13 on cpu",
    parameters={"prompt": 'a "quoted" <tag> & ümlaut', "seed": 7, "steps": 3},
    output_format="png",
    output_quality=90,
    source_sha256="0" * 64,
)


@pytest.fixture(scope="module")
def png() -> bytes:
    """A picture with provenance."""
    out = io.BytesIO()
    picture = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    picture.save(out, "WEBP", lossless=True, xmp=SAID.packet())
    return convert(out.getvalue(), "png", 90)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_carries_it_also_through_a_conversion(png: bytes, name: str) -> None:
    assert provenance.read(convert(png, name, 80)) == SAID


def test_a_rewritten_packet_is_understood(png: bytes) -> None:
    text = SAID.packet().decode()
    start = text.index(' instantir:provenance="')
    end = text.index('"/>', start)
    value = text[start + len(' instantir:provenance="') : end]
    element = f"<instantir:provenance>{value}</instantir:provenance></rdf:Description>"
    rewritten = text[:start] + ">" + element + text[end + 3 :]
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "WEBP", xmp=rewritten.encode())
    assert provenance.read(out.getvalue()) == SAID


@pytest.mark.parametrize("xmp", [b"<x/>", b'instantir:provenance="{}"', b""])
def test_other_packets_say_nothing(xmp: bytes) -> None:
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "WEBP", xmp=xmp)
    assert provenance.read(out.getvalue()) is None


def test_what_is_no_picture_says_nothing() -> None:
    assert provenance.read(b"no picture") is None
