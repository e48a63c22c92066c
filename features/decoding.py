"""Decodes image files of many formats to RGB in bounded time and memory."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from graphrec.core.errors import ConfigError

MAX_PIXELS = 64_000_000
MAX_ASPECT = 100
MAX_SCANS = 100
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
TRUNCATED = ("refuse", "accept")
"""What becomes of a truncated picture: the option ``truncated`` of extractors of images."""
JPEG_END = b"\xff\xd9"
BAND_PIXELS = 4_000_000  # pixels converted to RGB at a time
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableContentError(ValueError):
    """Content of a file that cannot be decoded; the message is the reason recorded for the item."""


class UnreadableImageError(UnreadableContentError):
    """An image that cannot be decoded; the message is the reason recorded for the item."""


def check_truncated(name: str, value: str) -> str:
    """The option ``truncated`` of the extractor ``name``.

    Raises:
        ConfigError: it is not one of :data:`TRUNCATED`.
    """
    if value not in TRUNCATED:
        raise ConfigError(f"{name}: truncated={value!r}; expected {' or '.join(TRUNCATED)}")
    return value


def decode(data: bytes, max_pixels: int = MAX_PIXELS, *, accept_truncated: bool = False) -> Image.Image:
    """Decodes an image file to an RGB image.

    EXIF orientation is applied, transparency is blended with white, 16-bit grays are scaled to 8 bits, and an
    animation yields its first frame. The size limit is checked before decompression. Only raster formats are
    read (EPS, for example, would start another program). Damage that a format cannot detect, as in the
    compressed data of a JPEG, changes pixels silently.

    Args:
        data: content of the file.
        max_pixels: refuse larger images.
        accept_truncated: decode what is there of a file that was cut off, if its format allows it (BMP, GIF,
            JPEG, PNG, PPM, TIFF); the rest is black, white where the image has transparency, or gray (JPEG).

    Raises:
        UnreadableImageError: not an image, truncated, damaged, or too large; the message does not depend on
            the path.
    """
    picture = open_picture(data, max_pixels, accept_truncated=accept_truncated)
    return decode_picture(picture, accept_truncated=accept_truncated)


def open_picture(data: bytes, max_pixels: int = MAX_PIXELS, *, accept_truncated: bool = False) -> Image.Image:
    """Opens an image file and checks its size without decompressing it; see :func:`decode`."""
    Image.init()
    if accept_truncated and data.startswith(b"\xff\xd8"):
        # With an end, libjpeg fills in what is missing; without, it holds back rows (all of a progressive
        # JPEG).
        data += JPEG_END
    with _as_unreadable(data):
        picture = Image.open(io.BytesIO(data), formats=[f for f in FORMATS if f in Image.OPEN])
        _check_size(picture, max_pixels)
        # Thousands of tiny scans would take hours to decode.
        if picture.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_SCANS:
            scans = _scans(data)
            if scans > MAX_SCANS:
                raise UnreadableImageError(f"JPEG of {scans:,} scans; at most {MAX_SCANS} are decoded")
    return picture


def decode_picture(picture: Image.Image, *, accept_truncated: bool = False) -> Image.Image:
    """Decompresses, rotates and converts an image from :func:`open_picture` to RGB; see :func:`decode`."""
    with _as_unreadable():
        _load(picture, accept_truncated)
        _check_size(picture, MAX_PIXELS)  # some formats correct the header here
        return _to_rgb(_upright(picture))


class PixelBudget:
    """Limits the pixels that threads decode at a time to :data:`MAX_PIXELS`, which bounds their memory."""

    def __init__(self) -> None:
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, picture: Image.Image) -> Iterator[None]:
        """Waits until the image fits into the budget and reserves its pixels for the block."""
        n = picture.width * picture.height
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + n <= MAX_PIXELS)
            self._used += n
        try:
            yield
        finally:
            with self._changed:
                self._used -= n
                self._changed.notify_all()


def _load(picture: Image.Image, accept_truncated: bool) -> None:
    """Decompresses an image in place.

    Pillow's own switch for truncated files holds for a whole process, and so for other threads.
    """
    try:
        picture.load()
    except OSError as cause:
        if not str(cause).startswith("image file is truncated"):
            raise
        if not accept_truncated:
            raise OSError(f"{cause}; the extractor's option truncated=accept takes what is there") from cause
        picture.tile = []  # type: ignore[attr-defined]  # nothing more to decode: keep the pixels read so far
        picture.load()


@contextmanager
def _as_unreadable(data: bytes = b" ") -> Iterator[None]:
    """Converts exceptions of Pillow to :class:`UnreadableImageError`."""
    try:
        yield
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as cause:
        raise UnreadableImageError("not a picture in a known format" if data else "empty file") from cause
    except Exception as cause:
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", str(cause)) or type(cause).__name__
        raise UnreadableImageError(f"cannot be decoded: {text}") from cause


def _check_size(picture: Image.Image, max_pixels: int) -> None:
    width, height = picture.size
    if width < 1 or height < 1:
        raise UnreadableImageError(f"{width} x {height} pixels; expected at least one")
    if width * height > max_pixels:
        raise UnreadableImageError(f"{width} x {height} pixels; at most {max_pixels:,} are decoded")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImageError(f"{width} x {height} pixels; sides may differ {MAX_ASPECT} times at most")


def _scans(data: bytes) -> int:
    """Number of scans of a JPEG file up to its end marker; a video may follow it."""
    at = 2
    scans = 0
    marker = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # other markers occur within a scan
    while match := marker.search(data, at):
        code, at = data[match.end() - 1], match.end()
        if code == 0xD9:
            break
        scans += code == 0xDA
        at += int.from_bytes(data[at : at + 2], "big")
    return scans


def _upright(picture: Image.Image) -> Image.Image:
    try:
        how = UPRIGHT.get(picture.getexif().get(ORIENTATION) or 1)
    except Exception:  # unreadable EXIF data: orientation unknown
        return picture
    return picture if how is None else picture.transpose(how)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    width, height = picture.size
    peak = _peak(picture) if picture.mode == "F" else 0.0
    if width * height <= BAND_PIXELS:
        return _convert(picture, peak)
    result = Image.new("RGB", picture.size)
    for top, band in _bands(picture):
        result.paste(_convert(band, peak), (0, top))
    return result


def _bands(picture: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Horizontal bands of at most ``BAND_PIXELS`` pixels; conversion makes several copies of its input."""
    width, height = picture.size
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        yield top, picture.crop((0, top, width, min(top + rows, height)))


def _peak(picture: Image.Image) -> float:
    """The largest finite value of a float image, 0 if there is none."""
    parts = (np.asarray(band) for _, band in _bands(picture))
    return max((float(p[np.isfinite(p)].max(initial=0)) for p in parts), default=0.0)


def _convert(picture: Image.Image, peak: float) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        gray = np.asarray(picture, dtype=np.float64)
        if picture.mode == "F":
            scaled = gray * 255 if peak <= 1 else gray
        else:
            scaled = gray / 257  # 65,535 is white
        return Image.fromarray(np.clip(np.nan_to_num(scaled), 0, 255).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")
