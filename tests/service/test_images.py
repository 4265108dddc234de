"""Uploads of every kind: what is read, what is refused and with which words."""

import io
import random
import struct
import warnings
import zlib

import pytest
from PIL import Image, ImageCms, ImageOps

from service.errors import ImageTooLarge, InvalidImage, ServiceError, UnsupportedImage
from service.images import MAX_JPEG_SCANS, Decoded, ImageLimits, decode, encode, inspect
from service.settings import Settings

LIMITS = ImageLimits(max_bytes=2_000_000, max_pixels=4_194_304, max_side_px=8192, min_side_px=16)


def picture(size: tuple[int, int] = (48, 32), mode: str = "RGB") -> Image.Image:
    """Smooth colors, so that JPEG and WebP keep them within a few levels."""
    across = Image.linear_gradient("L").rotate(90).resize(size)
    down = Image.linear_gradient("L").resize(size)
    bands = {"L": [across], "RGB": [across, down, Image.new("L", size, 90)]}
    bands["RGBA"] = [*bands["RGB"], ImageOps.invert(across)]
    bands["CMYK"] = [across, down, Image.new("L", size, 40), Image.new("L", size, 20)]
    return Image.merge(mode, bands[mode])


def file_of(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def png(width: int, height: int, bits: int, color: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG written by hand: layouts that the imaging library reads but cannot write."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def icc(space: bytes, connection: bytes, **tags: bytes) -> bytes:
    """A color profile of one or two tags, written by hand."""
    d50 = struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    tags = {**tags, "wtpt": b"XYZ " + bytes(4) + d50}
    table, body = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        start = 128 + 4 + 12 * len(tags) + len(body)
        table += name.encode() + struct.pack(">II", start, len(tag))
        body += tag + bytes(-len(tag) % 4)
    head = struct.pack(
        ">I4s4s4s4s4s", 128 + len(table) + len(body), b"", b"\2\x10\0\0", b"prtr", space, connection
    )
    head += bytes(12) + b"acsp" + bytes(28) + d50 + bytes(48)
    return head + table + body


def largest_difference(one: Image.Image, other: Image.Image) -> int:
    pairs = zip(one.tobytes(), other.tobytes(), strict=True)
    return max(abs(a - b) for a, b in pairs)


# --- what is read ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "content_type", "tolerance"),
    [("PNG", "image/png", 0), ("JPEG", "image/jpeg", 12), ("WEBP", "image/webp", 16)],
)
def test_the_three_formats_are_described_and_decoded(
    format: str, content_type: str, tolerance: int
) -> None:
    original = picture()
    data = file_of(original, format)

    info = inspect(data, LIMITS)
    decoded = decode(data, LIMITS)

    assert (info.width, info.height, info.content_type) == (48, 32, content_type)
    assert info.bytes == len(data)
    assert len(info.sha256) == 64
    assert decoded.rgb.mode == "RGB"
    assert largest_difference(decoded.rgb, original) <= tolerance
    assert decoded.alpha is None


def test_limits_come_from_the_settings() -> None:
    settings = Settings(max_upload_bytes=1000, max_pixels=900, max_side_px=80, min_side_px=20)

    assert ImageLimits.of(settings) == ImageLimits(1000, 900, 80, 20)


def test_16_bit_gray_is_scaled_instead_of_clipped() -> None:
    values = [0, 257, 32768, 65535] * 4
    rows = b"".join(b"\0" + struct.pack(">16H", *values) for _ in range(16))

    decoded = decode(png(16, 16, 16, 0, rows), LIMITS)

    assert [decoded.rgb.getpixel((x, 0)) for x in range(4)] == [
        (0, 0, 0),
        (1, 1, 1),
        (128, 128, 128),
        (255, 255, 255),
    ]


def test_16_bit_gray_keeps_its_transparent_level() -> None:
    rows = b"".join(b"\0" + struct.pack(">16H", *([300, 301] * 8)) for _ in range(16))

    decoded = decode(png(16, 16, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 300))), LIMITS)

    assert decoded.alpha is not None
    assert [decoded.alpha.getpixel((x, 0)) for x in range(2)] == [0, 255]


def test_16_bit_rgb_is_scaled_and_keeps_its_transparent_color() -> None:
    pixels = [(0, 32768, 65535), (65535, 65535, 65535)] * 8
    rows = b"".join(b"\0" + b"".join(struct.pack(">3H", *p) for p in pixels) for _ in range(16))
    transparent = chunk(b"tRNS", struct.pack(">3H", 0xFFFF, 0xFFFF, 0xFFFF))

    decoded = decode(png(16, 16, 16, 2, rows, transparent), LIMITS)

    assert decoded.rgb.getpixel((0, 0)) == (0, 128, 255)
    assert decoded.alpha is not None
    assert [decoded.alpha.getpixel((x, 0)) for x in range(2)] == [255, 0]


def test_16_bit_rgba_and_gray_with_alpha_are_scaled() -> None:
    rgba_rows = (b"\0" + struct.pack(">4H", 0, 32768, 65535, 32768) * 16) * 16
    gray_rows = (b"\0" + struct.pack(">2H", 32768, 65535) * 16) * 16

    rgba = decode(png(16, 16, 16, 6, rgba_rows), LIMITS)
    gray = decode(png(16, 16, 16, 4, gray_rows), LIMITS)

    assert rgba.rgb.getpixel((3, 3)) == (0, 128, 255)
    assert rgba.alpha is not None
    assert rgba.alpha.getpixel((3, 3)) == 128
    assert gray.rgb.getpixel((3, 3)) == (128, 128, 128)


def test_gray_becomes_equal_bands() -> None:
    original = picture(mode="L")

    decoded = decode(file_of(original), LIMITS)

    assert decoded.rgb.tobytes() == Image.merge("RGB", [original] * 3).tobytes()


def test_one_bit_becomes_black_and_white() -> None:
    checks = Image.new("1", (16, 16))
    checks.putpixel((3, 3), 1)

    decoded = decode(file_of(checks), LIMITS)

    assert decoded.rgb.getpixel((3, 3)) == (255, 255, 255)
    assert decoded.rgb.getpixel((4, 3)) == (0, 0, 0)


def test_palette_becomes_its_colors() -> None:
    image = Image.new("P", (16, 16))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((5, 5), 1)

    decoded = decode(file_of(image), LIMITS)

    assert decoded.rgb.getpixel((0, 0)) == (10, 20, 30)
    assert decoded.rgb.getpixel((5, 5)) == (200, 100, 50)
    assert decoded.alpha is None


def test_transparency_of_a_palette_becomes_alpha() -> None:
    image = Image.new("P", (16, 16))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((5, 5), 1)

    decoded = decode(file_of(image, transparency=bytes([0, 130])), LIMITS)

    assert decoded.alpha is not None
    assert decoded.alpha.getpixel((0, 0)) == 0
    assert decoded.alpha.getpixel((5, 5)) == 130
    assert decoded.rgb.getpixel((5, 5)) == (200, 100, 50)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_alpha_is_split_from_the_colors(format: str) -> None:
    original = picture(mode="RGBA")

    decoded = decode(file_of(original, format, lossless=True, exact=True), LIMITS)

    assert decoded.rgb.tobytes() == original.convert("RGB").tobytes()
    assert decoded.alpha is not None
    assert decoded.alpha.tobytes() == original.getchannel("A").tobytes()


def test_cmyk_without_a_profile_is_converted_plainly() -> None:
    original = picture(mode="CMYK")

    decoded = decode(file_of(original, "JPEG", quality=95), LIMITS)

    assert largest_difference(decoded.rgb, original.convert("RGB")) <= 12


def test_cmyk_goes_through_its_profile() -> None:
    # A press on which any ink prints the same middle gray, L* 50, and all four together black.
    paper, inked, black = (bytes([lightness, 128, 128]) for lightness in (255, 128, 0))
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(0x10000 * (i % 4 == 0) for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix
    table += ramp * 4 + paper + inked * 14 + black + ramp * 3
    original = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    data = file_of(original, "JPEG", quality=100, icc_profile=icc(b"CMYK", b"Lab ", A2B0=table))

    decoded = decode(data, LIMITS)

    assert original.convert("RGB").getpixel((9, 9)) == (0, 255, 255)
    assert decoded.rgb.getpixel((9, 9)) == pytest.approx((119, 119, 119), abs=3)
    assert decoded.icc_profile is None


def test_gray_goes_through_its_profile() -> None:
    linear_light = b"curv" + bytes(4) + struct.pack(">I", 0)
    data = file_of(
        Image.new("L", (32, 32), 128), icc_profile=icc(b"GRAY", b"XYZ ", kTRC=linear_light)
    )

    decoded = decode(data, LIMITS)

    assert decoded.rgb.getpixel((9, 9)) == pytest.approx((188, 188, 188), abs=2)
    assert decoded.icc_profile is None


def test_cmyk_with_a_false_profile_is_converted_plainly() -> None:
    profile = bytearray(srgb())
    profile[16:20] = b"CMYK"  # a matrix profile cannot describe four inks
    original = picture(mode="CMYK")

    decoded = decode(file_of(original, "JPEG", quality=95, icc_profile=bytes(profile)), LIMITS)

    assert largest_difference(decoded.rgb, original.convert("RGB")) <= 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_turns_the_picture_upright(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif, "lossless": True} if format == "WEBP" else {"exif": exif}
    data = file_of(picture(mode="RGB"), format, **options)
    with Image.open(io.BytesIO(data)) as opened:
        expected = ImageOps.exif_transpose(opened).convert("RGB")

    info = inspect(data, LIMITS)
    decoded = decode(data, LIMITS)

    assert (info.width, info.height) == expected.size
    assert decoded.rgb.tobytes() == expected.tobytes()


def test_alpha_turns_with_the_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    original = picture(mode="RGBA")

    decoded = decode(file_of(original, exif=exif), LIMITS)

    assert decoded.alpha is not None
    expected = original.getchannel("A").transpose(Image.Transpose.ROTATE_270)
    assert decoded.alpha.tobytes() == expected.tobytes()


def test_a_multi_picture_jpeg_of_a_phone_gives_its_main_picture() -> None:
    main, extra = picture(), Image.new("RGB", (24, 24), "red")
    data = file_of(main, "MPO", save_all=True, append_images=[extra])

    decoded = decode(data, LIMITS)

    assert decoded.rgb.size == main.size
    assert largest_difference(decoded.rgb, main) <= 20


# --- what goes back onto the result ---------------------------------------------------------


@pytest.mark.parametrize("format", ["png", "webp"])
def test_alpha_is_attached_to_the_result(format: str) -> None:
    source = decode(file_of(picture(mode="RGBA")), LIMITS)

    encoded = encode(source.rgb, source, format, 90)

    assert encoded.content_type == f"image/{format}"
    with Image.open(io.BytesIO(encoded.data)) as result:
        assert result.mode == "RGBA"
        assert source.alpha is not None
        assert result.getchannel("A").tobytes() == source.alpha.tobytes()


def test_jpeg_flattens_transparency_on_white() -> None:
    rgb = Image.new("RGB", (32, 32), "black")
    alpha = Image.new("L", (32, 32), 0)
    alpha.paste(255, (0, 0, 16, 32))

    encoded = encode(rgb, Decoded(rgb, alpha, None), "jpeg", 95)

    with Image.open(io.BytesIO(encoded.data)) as result:
        assert result.mode == "RGB"
        assert result.getpixel((4, 16)) == pytest.approx((0, 0, 0), abs=10)
        assert result.getpixel((28, 16)) == pytest.approx((255, 255, 255), abs=10)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_the_result_keeps_the_profile_and_drops_exif_position_and_comments(format: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "SECRETMAKER"
    exif.get_ifd(0x8825)[1] = "N"
    data = file_of(picture(), "JPEG", exif=exif, icc_profile=srgb(), comment=b"SECRETMAKER")
    source = decode(data, LIMITS)

    encoded = encode(source.rgb, source, format, 90)

    assert b"SECRETMAKER" in data
    assert b"SECRETMAKER" not in encoded.data
    with Image.open(io.BytesIO(encoded.data)) as result:
        assert result.info["icc_profile"] == srgb()
        assert not result.getexif()
        assert (encoded.width, encoded.height) == result.size == (48, 32)


def test_a_profile_of_another_color_space_is_not_put_on_an_rgb_result() -> None:
    gray_profile = bytearray(srgb())
    gray_profile[16:20] = b"GRAY"

    on_rgb = decode(file_of(picture(), icc_profile=bytes(gray_profile)), LIMITS)
    on_gray = decode(file_of(picture(mode="L"), icc_profile=srgb()), LIMITS)
    nonsense = decode(file_of(picture(), icc_profile=b"\0" * 16 + b"RGB nonsense"), LIMITS)

    assert on_rgb.icc_profile is None
    assert on_gray.icc_profile is None
    assert nonsense.icc_profile is None


def test_quality_changes_the_size_of_lossy_results() -> None:
    noisy = Image.effect_noise((64, 64), 80).convert("RGB")

    for format in ("jpeg", "webp"):
        sizes = [len(encode(noisy, None, format, quality).data) for quality in (20, 60, 95)]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[2]


def test_an_unknown_result_format_is_named() -> None:
    with pytest.raises(ValueError, match="'gif'"):
        encode(picture(), None, "gif", 90)


# --- what is refused ------------------------------------------------------------------------


def test_too_many_bytes_are_refused_by_number() -> None:
    with pytest.raises(ImageTooLarge, match="2000001 bytes; at most 2000000"):
        inspect(b"\x89PNG\r\n\x1a\n" + bytes(1_999_993), LIMITS)


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(InvalidImage, match="0 bytes"):
        inspect(b"", LIMITS)


@pytest.mark.parametrize("format", ["GIF", "TIFF", "BMP", "PPM", "ICO", "EPS"])
def test_other_formats_are_refused_by_their_content(format: str) -> None:
    with pytest.raises(UnsupportedImage, match="must be JPEG, PNG or WebP .TIFF, BMP"):
        inspect(file_of(picture(), format), LIMITS)


def test_text_is_refused() -> None:
    with pytest.raises(UnsupportedImage, match="3c 73 76 67"):
        inspect(b"<svg xmlns='http://www.w3.org/2000/svg'/>", LIMITS)


def test_a_bomb_of_30000_pixels_a_side_is_refused_before_it_is_decoded() -> None:
    bomb = png(30_000, 30_000, 8, 2, b"\0" * 1000)

    with pytest.raises(ImageTooLarge, match="30000x30000 px; a side may have at most 8192"):
        inspect(bomb, LIMITS)


def test_a_jpeg_header_that_claims_65500_pixels_a_side_is_refused() -> None:
    data = bytearray(file_of(picture(), "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", 65500, 65500)

    with pytest.raises(ImageTooLarge, match="65500x65500"):
        inspect(bytes(data), LIMITS)


@pytest.mark.parametrize(
    "header",
    [
        b"VP8X" + struct.pack("<I", 10) + bytes(4) + (29_999).to_bytes(3, "little") * 2,
        b"VP8L" + struct.pack("<I", 9) + b"\x2f" + struct.pack("<I", 9_999 << 14 | 9_999),
        b"VP8 " + struct.pack("<I", 18) + bytes(3) + b"\x9d\x01\x2a" + b"\x10\x27\x10\x27",
    ],
    ids=["extended", "lossless", "lossy"],
)
def test_a_webp_header_that_claims_a_huge_canvas_is_refused(header: bytes) -> None:
    data = b"RIFF" + struct.pack("<I", 60) + b"WEBP" + header + bytes(30)

    with pytest.raises(ImageTooLarge, match="30000x30000|10000x10000"):
        inspect(data, LIMITS)


def test_too_many_pixels_within_the_side_limit_are_refused_by_number() -> None:
    with pytest.raises(ImageTooLarge, match="8000x600 px = 4800000 pixels; at most 4194304"):
        inspect(png(8000, 600, 8, 2, b""), LIMITS)


@pytest.mark.parametrize("size", [(15, 40), (40, 15), (1, 1)])
def test_a_side_too_short_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidImage, match="at least 16 px"):
        inspect(file_of(picture(size)), LIMITS)


@pytest.mark.parametrize("size", [(0, 0), (0, 32), (32, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidImage):
        inspect(png(*size, 8, 2, b""), LIMITS)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(format: str, share: float) -> None:
    data = file_of(Image.effect_noise((64, 64), 60).convert("RGB"), format)

    with pytest.raises(InvalidImage, match="cut short"):
        inspect(data[: int(len(data) * share)], LIMITS)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_an_animation_is_refused_with_its_number_of_frames(format: str) -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "green", "blue")]
    data = file_of(frames[0], format, save_all=True, append_images=frames[1:])

    with pytest.raises(InvalidImage, match="3 frames"):
        inspect(data, LIMITS)


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = file_of(picture(), "JPEG", progressive=True)

    with pytest.raises(InvalidImage, match=f"at most {MAX_JPEG_SCANS} are decoded"):
        inspect(data + b"\xff\xda" * (MAX_JPEG_SCANS + 1), LIMITS)


def test_a_text_chunk_that_inflates_without_end_is_refused() -> None:
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000)))
    rows = (b"\0" + bytes(48)) * 16

    with pytest.raises(InvalidImage, match="too large"):
        inspect(png(16, 16, 8, 2, rows, bomb), LIMITS)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_damaged_files_are_read_or_refused_and_nothing_else(format: str) -> None:
    chance = random.Random(20261123)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.effect_noise((40, 40), 60).convert("RGBA" if format != "JPEG" else "RGB")
    whole = file_of(image, format, exif=exif, icc_profile=srgb())
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                inspect(bytes(data), LIMITS)
            except ServiceError:
                refused += 1
    assert refused > 0
