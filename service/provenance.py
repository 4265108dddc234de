"""Where a finished picture comes from, inside the file itself: what made it can make it again.

One JSON object in one XMP property, in every format alike; it names no person and no file.
"""

from __future__ import annotations

import html
import io
import json
import re
from typing import Any, Final

from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, ValidationError

SERVICE: Final = "InstantIR Serve 0.1.0"
_NAMESPACE: Final = "urn:instantir:provenance:1"
# Other tools may rewrite the packet and turn the attribute into an element.
_FOUND: Final = re.compile(r'instantir:provenance(?:="([^"]*)"|>([^<]*)<)')
_IN_FILES: Final = ("xmp", "XML:com.adobe.xmp", "Raw profile type xmp")


class Provenance(BaseModel):
    """What a restoration was made of and with."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    service: str = SERVICE
    model: str
    fingerprint: str
    backend: str
    parameters: dict[str, Any]  # every engine parameter with its value, the seed among them
    output_format: str
    output_quality: int
    source_sha256: str

    def packet(self) -> bytes:
        """The XMP packet that goes into the file."""
        said = html.escape(json.dumps(self.model_dump(), sort_keys=True), quote=True)
        return (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
            '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
            f'xmlns:instantir="{_NAMESPACE}" xmp:CreatorTool="{SERVICE}" '
            f'instantir:provenance="{said}"/></rdf:RDF></x:xmpmeta>'
        ).encode()


def read(data: bytes) -> Provenance | None:
    """The provenance inside a picture file; None where there is none of ours."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP", "AVIF"]) as picture:
            packets = [picture.info[name] for name in _IN_FILES if name in picture.info]
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None
    for packet in packets:
        text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else str(packet)
        if (found := _FOUND.search(text)) is None:
            continue
        try:
            return Provenance.model_validate_json(html.unescape(found[1] or found[2]))
        except ValidationError:
            return None
    return None
