"""Sounds of the generated catalog: a short tone for each item, in the item's timbre and at a random pitch."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np

RATE = 16_000
"""Samples per second."""
SECONDS = 0.8


class Timbre(NamedTuple):
    """How a sound is made up."""

    pitch: float
    """Hertz, of the middle of its range."""
    partials: tuple[float, ...]
    """Frequencies of its sines, in multiples of the pitch."""
    rolloff: float
    """How much softer each partial is than the one before, 0 to 1."""
    decay: float
    """Seconds after which its amplitude has fallen to 1/e."""
    noise: float
    """Share of noise, 0 to 1."""
    tremolo: float
    """Times a second that its loudness goes up and down; 0: steady."""


TIMBRES: dict[str, Timbre] = {
    "bell": Timbre(780.0, (1.0, 2.76, 5.40, 8.93), 0.3, 0.35, 0.01, 0.0),
    "flute": Timbre(590.0, (1.0, 2.0, 3.0), 0.8, 5.0, 0.06, 5.0),
    "harp": Timbre(330.0, (1.0, 2.0, 3.0, 4.0, 5.0), 0.4, 0.15, 0.01, 0.0),
    "organ": Timbre(150.0, (0.5, 1.0, 2.0, 4.0, 8.0), 0.1, 5.0, 0.01, 0.0),
    "reed": Timbre(220.0, (1.0, 3.0, 5.0, 7.0, 9.0), 0.2, 5.0, 0.02, 9.0),
    "rattle": Timbre(2000.0, (1.0,), 0.0, 0.1, 0.9, 14.0),
}


def render(timbre: int, rng: np.random.Generator) -> np.ndarray:
    """One sound ``(RATE * SECONDS,) int16``.

    Args:
        timbre: index into :data:`TIMBRES`.
        rng: for pitch, loudness and noise.
    """
    chosen = list(TIMBRES.values())[timbre]
    time = np.arange(int(RATE * SECONDS)) / RATE
    pitch = chosen.pitch * 2 ** (rng.integers(-2, 3) / 12)  # by up to two semitones
    tone = np.zeros(len(time))
    for i, partial in enumerate(chosen.partials):
        phase = rng.uniform(0, 2 * np.pi)
        tone += (1 - chosen.rolloff) ** i * np.sin(2 * np.pi * pitch * partial * time + phase)
    tone /= np.abs(tone).max()
    sound = (1 - chosen.noise) * tone + chosen.noise * rng.uniform(-1, 1, len(time))
    sound *= np.exp(-time / chosen.decay) * np.minimum(1, time / 0.01)
    if chosen.tremolo:
        sound *= 0.6 + 0.4 * np.sin(2 * np.pi * chosen.tremolo * time)
    loudness = rng.uniform(0.2, 0.8)
    return np.asarray(np.round(sound / np.abs(sound).max() * loudness * 32_767), dtype=np.int16)


def write_wav(path: Path, samples: np.ndarray) -> None:
    """Writes mono samples ``(n,) int16`` at :data:`RATE` as a WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())
