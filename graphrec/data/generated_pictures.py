"""Images of the generated catalog: a silhouette in the colors and pattern of a look on a light background."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 128
"""Side of a picture in pixels."""
SCALE = 3
"""Silhouettes are drawn this much larger and averaged down, which smooths their edges."""


class Look(NamedTuple):
    """Colors (main, second; RGB) and pattern of a look."""

    main: tuple[int, int, int]
    second: tuple[int, int, int]
    pattern: str


LOOKS: dict[str, Look] = {
    "coast": Look((38, 98, 155), (232, 240, 244), "stripes"),
    "ember": Look((203, 74, 44), (247, 190, 92), "zigzag"),
    "meadow": Look((74, 140, 84), (216, 232, 178), "leaves"),
    "dusk": Look((104, 76, 150), (214, 190, 230), "waves"),
    "sand": Look((206, 178, 138), (178, 146, 104), "plain"),
    "graphite": Look((58, 62, 70), (150, 156, 166), "checks"),
    "blossom": Look((232, 134, 158), (253, 233, 236), "flowers"),
    "citrus": Look((244, 196, 48), (255, 248, 222), "dots"),
}


def render(kind: int, look: int, rng: np.random.Generator) -> Image.Image:
    """One picture ``(SIZE, SIZE)`` RGB.

    Args:
        kind: index into :data:`KINDS`.
        look: index into :data:`LOOKS`.
        rng: for proportions, shade, place and turn of the pattern.
    """
    drawn = Image.new("L", (SIZE * SCALE, SIZE * SCALE), 0)
    shape = list(KINDS.values())[kind]
    shape(ImageDraw.Draw(drawn), _Placement(SIZE * SCALE, rng))
    silhouette = drawn.reduce(SCALE)
    mask = _to_unit_range(silhouette)
    chosen = list(LOOKS.values())[look]
    # Mostly lighter or darker, hardly another hue: the colors are what a look is known by.
    shift = rng.normal(0, 8) + rng.normal(0, 3, size=3)
    main, second = (np.clip(np.array(c) + shift, 0, 255).astype(np.float32) for c in chosen[:2])
    amount = _pattern(chosen.pattern, rng)[..., None]
    surface = (main + (second - main) * amount) * _shading(bool(rng.integers(2)))
    small = silhouette.reduce(4).filter(ImageFilter.GaussianBlur(1.6))
    shadow = _to_unit_range(small.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    shadow = np.roll(shadow, (SIZE // 28, SIZE // 50), axis=(0, 1))
    ground = _ground(int(rng.integers(4))) * (1 - np.float32(0.28) * shadow)
    picture = ground + (surface - ground) * mask
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _to_unit_range(image: Image.Image) -> np.ndarray:
    """A gray image as ``(side, side, 1)``, 0 to 1."""
    return (np.asarray(image, dtype=np.float32) / np.float32(255))[..., None]


class _Placement:
    """Maps shape coordinates, 0 to 1 in both directions, to pixels, with an item's own proportions."""

    def __init__(self, side: int, rng: np.random.Generator) -> None:
        self.side = side
        self.width, self.height = rng.uniform(0.86, 1.08, size=2)
        self.dx, self.dy = rng.uniform(-0.025, 0.025, size=2)
        self.detail = float(rng.random())

    def __call__(self, *points: tuple[float, float]) -> list[tuple[float, float]]:
        return [
            (
                self.side * (0.5 + (x - 0.5) * self.width + self.dx),
                self.side * (0.53 + (y - 0.53) * self.height + self.dy),
            )
            for x, y in points
        ]

    def thick(self, share: float) -> int:
        return max(1, round(self.side * share))


def _profile(draw: ImageDraw.ImageDraw, at: _Placement, points: list[tuple[float, float]]) -> None:
    """A body symmetric about the middle: half-widths by height, joined by a smooth curve."""
    heights, half = np.array([y for _, y in points]), np.array([x for x, _ in points])
    fine = np.linspace(heights[0], heights[-1], 40)
    smooth = np.interp(fine, heights, half)
    for _ in range(2):
        padded = np.pad(smooth, 2, mode="edge")
        smooth = np.convolve(padded, (0.1, 0.25, 0.3, 0.25, 0.1), mode="valid")
    right = [(0.5 + w, y) for w, y in zip(smooth, fine, strict=True)]
    left = [(0.5 - w, y) for w, y in zip(smooth[::-1], fine[::-1], strict=True)]
    draw.polygon(at(*right, *left), fill=255)


def _mug(draw: ImageDraw.ImageDraw, at: _Placement) -> None:
    handle = at((0.58, 0.40), (0.83, 0.68))
    draw.ellipse([handle[0], handle[1]], outline=255, width=at.thick(0.045))
    draw.rounded_rectangle(at((0.27, 0.29), (0.68, 0.78)), radius=at.thick(0.05), fill=255)


def _vase(draw: ImageDraw.ImageDraw, at: _Placement) -> None:
    belly = 0.19 + 0.06 * at.detail
    _profile(
        draw,
        at,
        [(0.12, 0.18), (0.07, 0.27), (0.08, 0.36), (belly, 0.56), (belly - 0.03, 0.70), (0.11, 0.84)],
    )


def _lamp(draw: ImageDraw.ImageDraw, at: _Placement) -> None:
    top = 0.09 + 0.06 * at.detail
    draw.polygon(at((0.5 - top, 0.18), (0.5 + top, 0.18), (0.74, 0.50), (0.26, 0.50)), fill=255)
    draw.rectangle(at((0.475, 0.48), (0.525, 0.80)), fill=255)
    draw.rounded_rectangle(at((0.35, 0.78), (0.65, 0.84)), radius=at.thick(0.02), fill=255)


def _cushion(draw: ImageDraw.ImageDraw, at: _Placement) -> None:
    turn = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    # A superellipse with drawn-in sides: corners stick out as those of a filled cushion do.
    radius = (
        0.30
        * (np.abs(np.cos(turn)) ** 6 + np.abs(np.sin(turn)) ** 6) ** (-1 / 6)
        * (1 - 0.07 * np.cos(4 * turn) - 0.02 * at.detail)
    )
    points = [(0.5 + r * np.cos(a), 0.53 + r * np.sin(a)) for r, a in zip(radius, turn, strict=True)]
    draw.polygon(at(*points), fill=255)


def _tote(draw: ImageDraw.ImageDraw, at: _Placement) -> None:
    handle = at((0.37, 0.14 + 0.05 * at.detail), (0.63, 0.62))
    draw.arc([handle[0], handle[1]], 180, 360, fill=255, width=at.thick(0.03))
    draw.polygon(at((0.28, 0.38), (0.72, 0.38), (0.76, 0.84), (0.24, 0.84)), fill=255)


def _bottle(draw: ImageDraw.ImageDraw, at: _Placement) -> None:
    neck = 0.05 + 0.02 * at.detail
    draw.rounded_rectangle(
        at((0.5 - neck - 0.015, 0.13), (0.515 + neck, 0.20)), radius=at.thick(0.015), fill=255
    )
    _profile(draw, at, [(neck, 0.19), (neck, 0.33), (0.15, 0.46), (0.155, 0.60), (0.155, 0.86)])


def _bowl(draw: ImageDraw.ImageDraw, at: _Placement) -> None:
    depth = 0.60 + 0.06 * at.detail
    draw.pieslice([*at((0.18, 0.44 - (depth - 0.3)), (0.82, 0.44 + (depth - 0.3)))], 0, 180, fill=255)
    draw.rounded_rectangle(at((0.38, 0.70), (0.62, 0.80)), radius=at.thick(0.02), fill=255)
    draw.ellipse(at((0.18, 0.395), (0.82, 0.485)), fill=255)


def _clock(draw: ImageDraw.ImageDraw, at: _Placement) -> None:
    middle, edge = at((0.5, 0.53), (0.82, 0.53))
    radius = edge[0] - middle[0]
    box = [middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius]
    draw.ellipse(box, fill=255)
    inner = radius * 0.84
    draw.ellipse(
        [middle[0] - inner, middle[1] - inner, middle[0] + inner, middle[1] + inner],
        outline=0, width=at.thick(0.008),
    )  # fmt: skip
    for turn, length in ((at.detail * 6.28, 0.5), (at.detail * 6.28 * 12, 0.72)):
        tip = (middle[0] + radius * length * np.sin(turn), middle[1] - radius * length * np.cos(turn))
        draw.line([middle, tip], fill=0, width=at.thick(0.022))


KINDS: dict[str, Callable[[ImageDraw.ImageDraw, _Placement], None]] = {
    "mug": _mug,
    "vase": _vase,
    "table lamp": _lamp,
    "cushion": _cushion,
    "tote bag": _tote,
    "bottle": _bottle,
    "bowl": _bowl,
    "wall clock": _clock,
}
"""Item kinds and how to draw their silhouettes."""


@cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(SIZE, dtype=np.float32) / SIZE
    across, down = np.meshgrid(axis, axis)
    return across, down


def _pattern(name: str, rng: np.random.Generator) -> np.ndarray:
    """How much of the second color each pixel has ``(SIZE, SIZE)``, 0 to 1."""
    across, down = _grid()
    turn = np.float32(rng.normal(0, 0.08))
    x = across * np.cos(turn) - down * np.sin(turn) + np.float32(rng.random())
    y = across * np.sin(turn) + down * np.cos(turn) + np.float32(rng.random())
    pitch = np.float32(rng.uniform(0.10, 0.14))
    u, v = x / pitch, y / pitch
    if name == "stripes":
        field = np.abs((v % 1) - 0.5) - 0.27
    elif name == "zigzag":
        field = np.abs((v + np.abs((u % 1) - 0.5) * 1.2) % 1 - 0.5) - 0.30
    elif name == "waves":
        field = np.abs((v + 0.22 * np.sin(2 * np.pi * u * 0.8)) % 1 - 0.5) - 0.32
    elif name == "checks":
        bands = [np.clip((np.abs((w * 0.8) % 1 - 0.5) - 0.25) * 18 + 0.5, 0, 1) for w in (u, v)]
        return np.asarray((bands[0] + bands[1]) * np.float32(0.42))
    elif name == "plain":
        return np.asarray(0.35 + 0.15 * np.sin(40 * v + 2 * np.sin(9 * u)), dtype=np.float32)
    else:
        row = np.floor(v * 0.85)
        a, b = (u * 0.85 + 0.5 * (row % 2)) % 1 - 0.5, (v * 0.85) % 1 - 0.5
        if name == "dots":
            field = 0.26 - np.hypot(a, b)
        elif name == "flowers":
            petals = np.hypot(a, b) - 0.30 * (1 + 0.35 * np.cos(5 * np.arctan2(b, a)))
            heart = np.clip((np.hypot(a, b) - 0.09) * 24, 0.25, 1)
            return np.asarray(np.clip(-petals * 24, 0, 1) * heart)
        else:
            p, q = (a + b) * np.float32(0.7071), (a - b) * np.float32(0.7071)
            field = 0.40 - np.hypot(p, q * 2.6)
    # About one pixel from color to color.
    return np.asarray(np.clip(field * 16 + 0.5, 0, 1))


@cache
def _shading(from_left: bool) -> np.ndarray:
    """Light from one side, a little darker below ``(SIZE, SIZE, 1)``."""
    across, down = _grid()
    x = across if from_left else 1 - across
    light = 1.10 - 0.55 * (x - 0.38) ** 2 * 2.2 - 0.12 * x - 0.06 * down
    return np.asarray(light[..., None], dtype=np.float32)


@cache
def _ground(tone: int) -> np.ndarray:
    """A light ground that darkens toward the rim ``(SIZE, SIZE, 3)``."""
    across, down = _grid()
    base = np.array(
        [(246, 243, 238), (240, 243, 246), (243, 246, 241), (247, 241, 243)][tone], dtype=np.float32
    )
    fall = 1.02 - 0.16 * ((across - 0.45) ** 2 + (down - 0.4) ** 2)
    return np.asarray(fall[..., None] * base, dtype=np.float32)
