"""Decodes sound files to mono waveforms in bounded time and memory."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from graphrec.core.errors import missing_dependency
from graphrec.features.extract.decoding import UnreadableContentError

FORMATS = ("AIFF", "FLAC", "MP3", "OGG", "WAV", "WAVEX")
"""Formats that are decoded, as libsndfile names them: common ones in which a truncated file is noticed.
MP3 needs libsndfile 1.1, which wheels of soundfile 0.12 and newer contain."""
MIN_RATE, MAX_RATE = 1_000, 384_000  # samples per second
MAX_CHANNELS = 32
MAX_SECONDS = 600.0  # seconds
BLOCK = 65_536  # samples of all channels decoded at a time
BLOCK_OF_TRUNCATED = 1_024  # of a block that ends in an error, nothing is kept
OGG_LAST_PAGE = 0x04
STREAMED = (0, 0xFFFFFFFF)  # sizes in the header of a file whose length was not known when it was written


class UnreadableAudioError(UnreadableContentError):
    """A sound that cannot be decoded; the message is the reason recorded for the item."""


class _Bytes(io.BytesIO):
    """Bytes whose ``seek`` never raises: libsndfile calls it from C, where an exception would be printed."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Goes to a place; to the end if it is before the start, which libsndfile takes for an error."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return super().seek(0, io.SEEK_END)


def import_soundfile() -> Any:
    """The module ``soundfile``.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import soundfile
    except ModuleNotFoundError as cause:
        raise missing_dependency("soundfile", "audio") from cause
    return soundfile


def decode_audio(
    data: bytes, sampling_rate: int, seconds: float = MAX_SECONDS, *, accept_truncated: bool = False
) -> np.ndarray:
    """Decodes the beginning of a sound file to a mono waveform.

    Channels are averaged. Another sampling rate is converted with a polyphase low-pass filter
    (:func:`scipy.signal.resample_poly`). At most ``seconds`` are decoded, however long the file is or says it
    is. Damage that a format cannot detect changes samples silently; a truncated MP3 is noticed if
    the file has a Xing header, as common encoders write it.

    Args:
        data: content of the file, in one of :data:`FORMATS`.
        sampling_rate: samples per second of the result.
        seconds: length that is decoded, from the start.
        accept_truncated: decode what is there of a file that was cut off.

    Returns:
        Waveform ``(n,) float32``, where full scale is -1 to 1; at least one sample.

    Raises:
        UnreadableAudioError: not a sound, truncated, damaged, without samples, or with channels or a sampling
            rate out of range; the message does not depend on the path.
        MissingDependencyError: soundfile is not installed.
    """
    soundfile = import_soundfile()
    if not data:
        raise UnreadableAudioError("empty file")
    try:
        file = soundfile.SoundFile(_Bytes(data))
    except (soundfile.SoundFileError, TypeError, ValueError) as cause:  # TypeError: raw samples by the name
        raise UnreadableAudioError("not a sound in a known format") from cause
    with file:
        if file.format not in FORMATS:
            raise UnreadableAudioError(f"a sound in the format {file.format}; expected {', '.join(FORMATS)}")
        rate, channels = int(file.samplerate), int(file.channels)
        if not MIN_RATE <= rate <= MAX_RATE or channels > MAX_CHANNELS:
            raise UnreadableAudioError(
                f"{rate:,} samples per second, {channels} channels; expected {MIN_RATE:,} to {MAX_RATE:,}, "
                f"and at most {MAX_CHANNELS}"
            )
        if not accept_truncated and (_is_cut_off(data) or not _has_last_sample(file, soundfile)):
            raise UnreadableAudioError(
                "sound file is truncated; the extractor's option truncated=accept takes what is there"
            )
        mono = _read_mono(file, math.ceil(seconds * rate), soundfile, accept_truncated)
    if not len(mono):
        raise UnreadableAudioError("a sound without samples")
    if not np.isfinite(mono).all():
        raise UnreadableAudioError("a sound with samples that are infinite or not a number")
    return _resample(mono, rate, sampling_rate)


def _read_mono(file: Any, n: int, soundfile: Any, accept_truncated: bool) -> np.ndarray:
    """The mean of the channels of at most ``n`` samples ``(m,) float32``."""
    blocks: list[np.ndarray] = []
    per_block = max(1, (BLOCK_OF_TRUNCATED if accept_truncated else BLOCK) // file.channels)
    while n > 0:
        try:
            block = file.read(min(per_block, n), dtype="float32", always_2d=True)
        except soundfile.SoundFileError as cause:
            if accept_truncated and blocks:
                break
            raise UnreadableAudioError(f"cannot be decoded: {_reason(cause)}") from cause
        if not len(block):
            break
        blocks.append(block.mean(axis=1, dtype=np.float32))
        n -= len(block)
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


def _resample(mono: np.ndarray, rate: int, sampling_rate: int) -> np.ndarray:
    if rate == sampling_rate:
        return mono
    from scipy.signal import resample_poly

    shared = math.gcd(rate, sampling_rate)
    converted = resample_poly(mono.astype(np.float64), sampling_rate // shared, rate // shared)
    return np.asarray(converted, dtype=np.float32)


def _has_last_sample(file: Any, soundfile: Any) -> bool:
    """Whether the last sample that a FLAC file announces is there; the file is at its start afterwards.

    libsndfile shortens the length that other formats announce to what is there.
    """
    if file.format != "FLAC" or not 0 < file.frames < 2**62:  # not announced otherwise
        return True
    try:
        file.seek(file.frames - 1)
        found = len(file.read(1, dtype="float32")) == 1
        file.seek(0)
    except soundfile.SoundFileError:
        return False
    return found


def _is_cut_off(data: bytes) -> bool:
    """Whether a WAV, AIFF, Ogg or MP3 file ends before its own end."""
    if data[:4] in (b"RIFF", b"FORM"):
        size = int.from_bytes(data[4:8], "little" if data[:4] == b"RIFF" else "big")
        # One byte less: some programs leave out the padding of an odd chunk.
        return size not in STREAMED and len(data) < 8 + size - 1
    return _is_cut_off_ogg(data) if data[:4] == b"OggS" else _is_cut_off_mp3(data)


def _is_cut_off_ogg(data: bytes) -> bool:
    """Whether the last page of an Ogg file is incomplete, or not marked as the last."""
    at, is_last = 0, False
    while data[at : at + 4] == b"OggS":
        header = data[at : at + 27]
        table = data[at + 27 : at + 27 + header[26]] if len(header) == 27 else b""
        if len(header) < 27 or len(table) < header[26]:
            return True
        is_last = bool(header[5] & OGG_LAST_PAGE)
        at += 27 + len(table) + sum(table)
    return at > len(data) or not is_last


def _is_cut_off_mp3(data: bytes) -> bool:
    """Whether an MP3 file has fewer bytes than its Xing header says; False without such a header."""
    start = 0
    if data[:3] == b"ID3":
        start = 10 + sum(
            (byte & 0x7F) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=False)
        )
    if data[start : start + 1] != b"\xff":
        return False
    first = data[start : start + 64]
    at = max(first.find(b"Xing"), first.find(b"Info"))
    flags = int.from_bytes(first[at + 4 : at + 8], "big")
    if at < 0 or not flags & 2:
        return False
    size = first[at + 8 + 4 * (flags & 1) :][:4]
    return len(data) < start + int.from_bytes(size, "big")


def _reason(cause: Exception) -> str:
    """The message of libsndfile alone: what soundfile puts before it may hold an address in memory."""
    return str(getattr(cause, "error_string", None) or type(cause).__name__)
