"""Image files that are broken, unusual or hostile, as bytes; and what becomes of each."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from graphrec.core.random import numpy_rng

KNOWN = "not a picture in a known format"
CUT = "cannot be decoded: "


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@cache
def noise(kind: str = "JPEG") -> bytes:
    return encoded(Image.fromarray(numpy_rng(0, "bad").integers(0, 256, (60, 80, 3)).astype(np.uint8)), kind)


def cut(kind: str, share: float) -> bytes:
    data = noise(kind)
    return data[: int(len(data) * share)]


def chunk(name: bytes, data: bytes) -> bytes:
    checked = name + data
    return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))


def png_with(*chunks: bytes) -> bytes:
    return noise("PNG")[:33] + b"".join(chunks) + noise("PNG")[33:]


def deflated(n: int) -> bytes:
    packer = zlib.compressobj()
    return b"".join([*(packer.compress(bytes(10**6)) for _ in range(n // 10**6)), packer.flush()])


def header(width: int, height: int) -> bytes:
    """A PNG that promises a size and has nothing of it."""
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def with_exif(exif: bytes) -> bytes:
    return encoded(Image.open(io.BytesIO(noise("PNG"))), "JPEG", exif=exif)


def oriented(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def tiff_with(tag: int, count: int) -> bytes:
    """A TIFF one of whose tags says it has ``count`` values."""
    data = bytearray(noise("TIFF"))
    first = struct.unpack("<I", data[4:8])[0]
    for at in range(first + 2, first + 2 + 12 * struct.unpack("<H", data[first : first + 2])[0], 12):
        if struct.unpack("<H", data[at : at + 2])[0] == tag:
            data[at + 4 : at + 8] = struct.pack("<I", count)
    return bytes(data)


def looping_tiff() -> bytes:
    """A TIFF whose directory names itself as the next one."""
    data = bytearray(noise("TIFF"))
    first = struct.unpack("<I", data[4:8])[0]
    end = first + 2 + 12 * struct.unpack("<H", data[first : first + 2])[0]
    data[end : end + 4] = struct.pack("<I", first)
    return bytes(data)


def many_scans(n: int) -> bytes:
    """A progressive JPEG whose last scan is there ``n`` more times."""
    data = encoded(Image.open(io.BytesIO(noise("PNG"))), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * n + data[-2:]


def overwritten(marker: bytes, skip: int, n: int) -> bytes:
    data = bytearray(noise("JPEG"))
    at = data.find(marker) + skip
    data[at : at + n] = b"\xff" * n
    return bytes(data)


def frames(kind: str, n: int = 20) -> bytes:
    pictures = [
        Image.new("RGB", (30, 20), "red"),
        *(Image.new("RGB", (30, 20), (0, 0, i % 256)) for i in range(n)),
    ]
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:])


def long_gif() -> bytes:
    """10,000 frames."""
    data = frames("GIF", 1)
    first = data.find(b"\x21\xf9")
    second = data.find(b"\x21\xf9", first + 2)
    return data[:second] + data[second:-1] * 10_000 + b";"


def gray(values: Any, dtype: Any) -> Image.Image:
    return Image.fromarray(np.array(values, dtype=dtype))


def inverted_cmyk() -> bytes:
    """As Adobe's programs write it: 0 is full ink. Pillow writes the same and its marker."""
    return encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG")


def transparent(mode: str) -> Image.Image:
    return Image.new(mode, (20, 10), (0, 0) if mode == "LA" else (0, 0, 0, 0))


def palette(**options: Any) -> bytes:
    image = Image.new("P", (20, 10))
    image.putpalette([200, 0, 0])
    return encoded(image, "PNG", **options)


RED, WHITE, BLACK, GRAY = (255, 0, 0), (255,) * 3, (0,) * 3, (128,) * 3
ANY = ()

# What a file holds, and the reason it is refused with, or the color of its first pixel (ANY: whatever).
CASES: dict[str, tuple[Callable[[], bytes], str | tuple[int, ...]]] = {
    "empty": (lambda: b"", "empty file"),
    "one byte": (lambda: b"\xff", KNOWN),
    "zero bytes": (lambda: bytes(5000), KNOWN),
    **{
        f"{kind} cut at {share:.0%}": (lambda k=kind, s=share: cut(k, s), CUT)  # type: ignore[misc]
        for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
        for share in (0.5, 0.97)
    },
    **{f"{kind} cut at 1": (lambda k=kind: noise(k)[:1], KNOWN) for kind in ("JPEG", "PNG", "TIFF", "PPM")},  # type: ignore[misc]
    "JPEG without its end marker": (lambda: noise("JPEG")[:-2], CUT),
    "PNG without its end chunk": (lambda: noise("PNG")[:-12], ANY),
    "PNG with a wrong checksum": (lambda: noise("PNG")[:31] + b"\0\0" + noise("PNG")[33:], KNOWN),
    "JPEG with damaged Huffman tables": (lambda: overwritten(b"\xff\xc4", 5, 16), CUT),
    "JPEG of 0 x 0": (lambda: noise("JPEG").replace(b"\x00\x3c\x00\x50", b"\0\0\0\0", 1), KNOWN),
    "JPEG of 10,000 scans": (lambda: many_scans(10_000), "scans; at most 100 are decoded"),
    "text": (lambda: b"hello", KNOWN),
    "HTML": (lambda: b"<!doctype html><title>404 Not Found</title>", KNOWN),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", KNOWN),
    "EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", KNOWN),
    "PDF": (lambda: b"%PDF-1.7\n%\xe2\xe3\n", KNOWN),
    "zip": (lambda: b"PK\x03\x04" + bytes(60), KNOWN),
    "bomb by header": (lambda: header(60_000, 60_000), "could be decompression bomb"),
    "bomb of middle size": (lambda: header(9_000, 9_000), "9000 x 9000 pixels; at most"),
    "bomb that never comes": (lambda: header(7_000, 7_000), CUT),
    "a thread": (lambda: encoded(Image.new("L", (2_000, 1)), "PNG"), "sides may differ 100 times"),
    "text bomb, zTXt": (lambda: png_with(chunk(b"zTXt", b"k\0\0" + deflated(2 * 10**7))), "too large"),
    "text bomb, iTXt": (lambda: png_with(chunk(b"iTXt", b"k\0\1\0\0\0" + deflated(2 * 10**7))), "too large"),
    "profile bomb": (lambda: png_with(chunk(b"iCCP", b"k\0\0" + deflated(2 * 10**7))), "too large"),
    "many texts": (lambda: png_with(*[chunk(b"zTXt", b"k\0\0" + deflated(10**6))] * 80), "text chunks"),
    "data bomb": (lambda: header(8, 8)[:33] + chunk(b"IDAT", deflated(10**7)) + chunk(b"IEND", b""), BLACK),
    "profile of garbage": (lambda: png_with(chunk(b"iCCP", b"k\0\0garbage")), ANY),
    "profile of garbage in a JPEG": (
        lambda: encoded(Image.new("L", (9, 9)), "JPEG", icc_profile=b"x" * 99), BLACK
    ),
    "1 x 1": (lambda: encoded(Image.new("RGB", (1, 1), RED), "PNG"), RED),
    "1 x 100": (lambda: encoded(Image.new("RGB", (1, 100), RED), "PNG"), RED),
    "CMYK TIFF": (lambda: encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "TIFF"), RED),
    "CMYK JPEG": (inverted_cmyk, RED),
    "palette": (palette, (200, 0, 0)),
    "palette with a transparent color": (lambda: palette(transparency=0), WHITE),
    "palette with an alpha for each color": (lambda: palette(transparency=bytes(256)), WHITE),
    "transparent": (lambda: encoded(transparent("RGBA"), "PNG"), WHITE),
    "transparent gray": (lambda: encoded(transparent("LA"), "PNG"), WHITE),
    "gray": (lambda: encoded(Image.new("L", (9, 9), 128), "JPEG"), GRAY),
    "1 bit": (lambda: encoded(Image.new("1", (9, 9), 1), "PNG"), WHITE),
    "16-bit gray": (lambda: encoded(gray([[32896] * 3] * 3, np.uint16), "PNG"), GRAY),
    "32-bit integers": (lambda: encoded(gray([[70_000, -5]] * 2, np.int32), "TIFF"), WHITE),
    "floats to 1": (lambda: encoded(gray([[0.5, 1.0]], np.float32), "TIFF"), GRAY),
    "floats with NaN": (lambda: encoded(gray([[0.5, 1.0, np.nan]], np.float32), "TIFF"), GRAY),
    "floats with Inf": (lambda: encoded(gray([[np.inf, -np.inf, 0.1]], np.float32), "TIFF"), WHITE),
    "nothing but NaN": (lambda: encoded(gray([[np.nan] * 3] * 3, np.float32), "TIFF"), BLACK),
    "LAB": (lambda: encoded(Image.new("LAB", (9, 9)), "TIFF"), ANY),
    **{f"animated {kind}": (lambda k=kind: frames(k), ANY) for kind in ("WEBP", "MPO", "AVIF")},  # type: ignore[misc]
    **{f"animated {kind}": (lambda k=kind: frames(k), RED) for kind in ("GIF", "PNG", "TIFF")},  # type: ignore[misc]
    "GIF of 10,000 frames": (long_gif, RED),
    "orientation 99": (lambda: with_exif(oriented(99)), ANY),
    "EXIF cut short": (lambda: with_exif(oriented(6)[:-5]), ANY),
    "EXIF of 8 bytes": (lambda: with_exif(oriented(6)[:8]), ANY),
    "EXIF of garbage": (lambda: with_exif(b"Exif\0\0" + b"\xff" * 200), ANY),
    "EXIF that names itself": (
        lambda: with_exif(b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8)), ANY
    ),
    "TIFF that names itself": (looping_tiff, ANY),
    "TIFF of 4 billion widths": (lambda: tiff_with(256, 2**32 - 1), KNOWN),
    "TIFF of 4 billion strips": (lambda: tiff_with(273, 2**32 - 1), KNOWN),
}  # fmt: skip
