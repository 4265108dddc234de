"""Pictures in and out: check an upload, decode it to 8-bit RGB, encode a result.

Everything here is blocking; callers on an event loop run it in a thread. Only three plain raster
formats are read, each recognized by its first bytes and opened by its own decoder, so that no
other parser of the imaging library ever sees an upload. TIFF and BMP are left out on purpose:
TIFF is a container of many codecs with a long record of memory faults, and every BMP is a
lossless PNG that has not been compressed yet.
"""

import hashlib
import io
import struct
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast, get_args

from PIL import Image, ImageCms, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile, PngInfo
from PIL.WebPImagePlugin import WebPImageFile

from service.errors import ImageTooLarge, InvalidImage, UnsupportedImage
from service.jobs import OutputFormat, SourceInfo

ACCEPTED = "JPEG, PNG or WebP"
FORMATS: tuple[str, ...] = get_args(OutputFormat)  # of results

# A progressive JPEG may carry any number of passes over the whole picture, each of them costing
# the decoder a full sweep: encoders write about ten.
MAX_JPEG_SCANS = 100

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What the imaging library raises for damaged files, gathered by mutating good ones.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)
_ICC_SPACE = slice(16, 20)


class _HasLimits(Protocol):
    @property
    def max_upload_bytes(self) -> int: ...
    @property
    def max_pixels(self) -> int: ...
    @property
    def max_side_px(self) -> int: ...
    @property
    def min_side_px(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest and smallest picture taken in."""

    max_bytes: int
    max_pixels: int
    max_side_px: int
    min_side_px: int

    @classmethod
    def of(cls, settings: _HasLimits) -> Self:
        """The limits that the settings state."""
        return cls(
            max_bytes=settings.max_upload_bytes,
            max_pixels=settings.max_pixels,
            max_side_px=settings.max_side_px,
            min_side_px=settings.min_side_px,
        )

    def check_bytes(self, size: int) -> None:
        """Refuse an upload of `size` bytes over the limit (ImageTooLarge)."""
        if size > self.max_bytes:
            raise ImageTooLarge(f"the image has {size} bytes; at most {self.max_bytes} are taken")

    def check_size(self, width: int, height: int) -> None:
        """Refuse dimensions out of range: ImageTooLarge, or InvalidImage when too small."""
        if min(width, height) < self.min_side_px:
            raise InvalidImage(
                f"the image is {width}x{height} px; each side must have at least "
                f"{self.min_side_px} px"
            )
        if max(width, height) > self.max_side_px:
            raise ImageTooLarge(
                f"the image is {width}x{height} px; a side may have at most {self.max_side_px} px"
            )
        if width * height > self.max_pixels:
            raise ImageTooLarge(
                f"the image is {width}x{height} px = {width * height} pixels; at most "
                f"{self.max_pixels} pixels are taken"
            )


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture as the model wants it, and what goes back onto the result."""

    rgb: Image.Image
    alpha: Image.Image | None
    icc_profile: bytes | None


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture file."""

    data: bytes
    content_type: str
    width: int
    height: int


def inspect(data: bytes, limits: ImageLimits) -> SourceInfo:
    """Read the whole picture and describe it; width and height are those seen by a viewer.

    It decodes just as the worker will, so that a job never fails later for its input.
    Raises ImageTooLarge, InvalidImage or UnsupportedImage.
    """
    content_type, picture = _load(data, limits)
    with _reading(content_type):
        rgb = _decode(picture).rgb
    return SourceInfo(
        width=rgb.width,
        height=rgb.height,
        content_type=content_type,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def decode(data: bytes, limits: ImageLimits) -> Decoded:
    """Decode to upright 8-bit RGB; transparency and the RGB color profile are set apart.

    Raises ImageTooLarge, InvalidImage or UnsupportedImage.
    """
    content_type, picture = _load(data, limits)
    with _reading(content_type):
        return _decode(picture)


def encode(
    rgb: Image.Image, like: Decoded | None, format: str, quality: int, xmp: bytes | None = None
) -> Encoded:
    """Write `rgb` in one of `FORMATS`, with the transparency and color profile of `like`.

    JPEG has no transparency: there it is flattened on white. Nothing else of the source (EXIF,
    position, comments) is carried over; `xmp` is a packet to put in. `quality` is 1 to 100, unused
    by PNG.
    """
    picture = rgb.copy()
    picture.info = {}
    alpha = like.alpha if like else None
    if alpha is not None and format == "jpeg":
        white = Image.new("RGB", picture.size, "white")
        picture = Image.composite(picture, white, alpha)
    elif alpha is not None:
        picture.putalpha(alpha)
    profile = like.icc_profile if like else None
    out = io.BytesIO()
    more: dict[str, Any] = {"icc_profile": profile, "xmp": xmp or b""}
    match format:
        case "png":
            notes = PngInfo()
            if xmp:
                notes.add_itxt("XML:com.adobe.xmp", xmp.decode())
            picture.save(out, "PNG", icc_profile=profile, compress_level=4, pnginfo=notes)
        case "jpeg":
            # Above 90 halved color resolution would be the largest loss left.
            subsampling = "4:4:4" if quality >= 90 else "4:2:0"
            picture.save(out, "JPEG", quality=quality, subsampling=subsampling, **more)
        case "webp":
            picture.save(out, "WEBP", quality=quality, **more)
        case "avif":
            # One thread, or the bytes would depend on the machine; a fast setting: 4 of 0 to 10
            # takes five times as long for a few per cent.
            picture.save(out, "AVIF", quality=quality, speed=8, max_threads=1, **more)
        case _:
            raise ValueError(f"format is {format!r}; it must be one of {', '.join(FORMATS)}")
    return Encoded(out.getvalue(), f"image/{format}", picture.width, picture.height)


def convert(data: bytes, format: str, quality: int) -> bytes:
    """A result of ours in another format, with its transparency, color profile and XMP packet."""
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        rgb, alpha = _split(opened)
        profile: bytes | None = opened.info.get("icc_profile")
        notes: Any = opened.info.get("xmp") or opened.info.get("XML:com.adobe.xmp")
    xmp = notes.encode() if isinstance(notes, str) else notes
    return encode(rgb, Decoded(rgb, alpha, profile), format, quality, xmp).data


def _load(data: bytes, limits: ImageLimits) -> tuple[str, ImageFile.ImageFile]:
    """Open by magic bytes, check the dimensions before any pixel is decoded, then decode."""
    limits.check_bytes(len(data))
    if not data:
        raise InvalidImage("the image is empty: 0 bytes")
    content_type, opener = _sniff(data)
    if content_type == "image/webp":
        # This decoder allocates its canvas as soon as it is opened.
        _check_webp_header(data, limits)
    if content_type == "image/jpeg" and (scans := data.count(b"\xff\xda")) > MAX_JPEG_SCANS:
        raise InvalidImage(f"the JPEG has {scans} scans; at most {MAX_JPEG_SCANS} are decoded")
    with _reading(content_type):
        picture = opener(io.BytesIO(data))
    limits.check_size(*picture.size)
    frames: int = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise InvalidImage(f"the image is animated: it has {frames} frames; send a single frame")
    with _reading(content_type):
        picture.load()
    return content_type, picture


def _sniff(data: bytes) -> tuple[str, type[ImageFile.ImageFile]]:
    if data.startswith(b"\xff\xd8\xff"):
        # Opened as plain JPEG, the multi-picture files of phones give their main picture.
        return "image/jpeg", JpegImageFile
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png", PngImageFile
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp", WebPImageFile
    raise UnsupportedImage(
        f"the image must be {ACCEPTED} (TIFF, BMP, GIF and others are not read); "
        f"this file starts with the bytes {data[:8].hex(' ')}"
    )


def _check_webp_header(data: bytes, limits: ImageLimits) -> None:
    """Check the canvas size stated by the first chunk; an odd header is left to the decoder."""
    chunk = data[12:16]
    if len(data) < 30:
        raise InvalidImage(f"the WebP is cut short: it has {len(data)} bytes")
    if chunk == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif chunk == b"VP8 ":
        width = int.from_bytes(data[26:28], "little") & 0x3FFF
        height = int.from_bytes(data[28:30], "little") & 0x3FFF
    else:
        raise InvalidImage("the WebP does not start with a picture chunk")
    limits.check_size(width, height)


@contextmanager
def _reading(content_type: str) -> Generator[None]:
    """Turn what the imaging library raises into one error of ours."""
    name = content_type.removeprefix("image/").upper()
    try:
        yield
    except _DAMAGED as error:
        raise InvalidImage(f"the {name} is damaged or cut short: {error}") from error


def _decode(picture: ImageFile.ImageFile) -> Decoded:
    profile: bytes | None = picture.info.get("icc_profile")
    turn = _UPRIGHT.get(_orientation(picture))
    rgb, alpha = _split(picture)
    if rgb.mode != "RGB":
        rgb, profile = _to_rgb(rgb, profile), None
    if turn is not None:
        rgb = rgb.transpose(turn)
        alpha = alpha.transpose(turn) if alpha else None
    rgb.info = {}
    return Decoded(rgb, alpha, profile if _is_usable(profile, b"RGB ") else None)


def _orientation(picture: ImageFile.ImageFile) -> int:
    try:
        value: object = picture.getexif().get(_ORIENTATION_TAG, 1)
    except _DAMAGED:
        return 1  # a viewer shows such a picture as it lies
    return value if isinstance(value, int) else 1


def _split(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Part the colors (RGB, L or CMYK, 8 bits) from the transparency."""
    transparent = picture.info.get("transparency")
    if picture.mode == "I;16":
        return _split_16_bit_gray(picture, transparent)
    if picture.mode == "RGB" and isinstance(transparent, tuple):
        # The decoder has halved 16-bit samples but not the color that marks transparency.
        levels = cast("tuple[int, ...]", transparent)
        picture = picture.copy()
        picture.info["transparency"] = tuple(n >> 8 if n > 0xFF else n for n in levels)
    if picture.mode in ("RGBA", "LA", "PA") or transparent is not None:
        rgba = picture.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
    match picture.mode:
        case "RGB" | "L" | "CMYK":
            return picture.copy(), None
        case "1":
            return picture.convert("L"), None
        case "P":
            return picture.convert("RGB"), None
        case mode:
            raise ValueError(f"pixel layout {mode} is not read")


def _split_16_bit_gray(
    picture: Image.Image, transparent: int | None
) -> tuple[Image.Image, Image.Image | None]:
    # Image.convert clips 16-bit samples to 255; the high byte is the right 8-bit value.
    gray = Image.frombytes("L", picture.size, picture.tobytes()[1::2])
    if transparent is None:
        return gray, None
    opaque = [0 if level == transparent else 0xFF for level in range(1 << 16)]
    return gray, picture.convert("I").point(opaque, "L")


def _to_rgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Bring gray or CMYK to sRGB, through the picture's own profile when it has a sound one."""
    space = b"CMYK" if picture.mode == "CMYK" else b"GRAY"
    if profile is not None and _is_usable(profile, space):
        # The library does not say what this returns.
        srgb = cast("Any", ImageCms.createProfile("sRGB"))  # pyright: ignore[reportUnknownMemberType]
        try:
            converted = ImageCms.profileToProfile(
                picture,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                srgb,
                outputMode="RGB",
            )
        except ImageCms.PyCMSError:
            converted = None
        if converted is not None:
            return converted
    return picture.convert("RGB")


def _is_usable(profile: bytes | None, space: bytes) -> bool:
    if not profile or profile[_ICC_SPACE] != space:
        return False
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except _DAMAGED:
        return False
    return True
