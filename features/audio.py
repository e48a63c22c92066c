"""Extractors of sounds: statistics of a mel spectrogram, and CLAP audio towers from transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from graphrec.core.errors import ConfigError, FeatureError, missing_dependency
from graphrec.features.extract.audio_decoding import MAX_RATE, MAX_SECONDS, decode_audio, import_soundfile
from graphrec.features.extract.decoding import check_truncated
from graphrec.features.extract.registry import versions
from graphrec.features.extract.weights import files_sha256, locate_model, weight_files

if TYPE_CHECKING:
    import scipy.sparse

WINDOW = 2048  # samples
HOP = 512  # samples
WINDOWS_AT_ONCE = 512
SILENCE = 1e-10  # power in a mel band, where a full-scale sine has about 1
DYNAMIC_RANGE = 80.0  # decibels


class MelStatistics:
    """Timbre of a sound: mean and standard deviation over time of log-mel bands and of MFCC.

    The four parts are each scaled to length 1 and weighted, and the result is scaled to length 1. The overall
    level is left out (bands are taken relative to their mean, and there is no coefficient 0), so that a
    louder copy has the same vector; silence has none. Source of MFCC: Davis and Mermelstein 1980,
    https://doi.org/10.1109/TASSP.1980.1163420. Mel filters are triangles of equal area on the mel scale
    ``2595 log10(1 + f / 700)``; windows are Hann windows of 2,048 samples every 512.

    Files are averaged to mono and converted to ``sampling_rate``. A file with a lower rate has nothing in the
    upper bands, which its vector shows: for a catalog with files of several rates, choose the lowest. A sound
    shorter than a window is put into the middle of one.

    Args:
        sampling_rate: samples per second that the vector is computed at.
        n_mels: number of mel bands, from 0 to half the sampling rate.
        n_mfcc: number of cepstral coefficients, from coefficient 1.
        seconds: length that is read from the start of a sound, at most 600.
        weights: weights of the means and standard deviations of the bands, then of the coefficients.
            Standard deviations are positive, which makes their cosines large for any two sounds; they weigh
            less by default.
        truncated: ``"accept"`` takes what is there of a sound whose file was cut off; such a sound is
            unreadable otherwise.

    Raises:
        ConfigError: an option out of range.
        MissingDependencyError: soundfile is not installed.
    """

    name = "mel-statistics"
    kind = "audio"
    batch_size: int | None = None
    empty_reason = "the sound is silent"

    def __init__(
        self,
        sampling_rate: int = 22_050,
        *,
        n_mels: int = 64,
        n_mfcc: int = 20,
        seconds: float = 30.0,
        weights: tuple[float, float, float, float] = (1.0, 0.5, 1.0, 0.5),
        truncated: Literal["refuse", "accept"] = "refuse",
    ) -> None:
        if not 4_000 <= sampling_rate <= MAX_RATE or not 8 <= n_mels <= 256 or not 1 <= n_mfcc < n_mels:
            raise ConfigError(
                f"mel-statistics: sampling_rate {sampling_rate}, n_mels {n_mels}, n_mfcc {n_mfcc}; expected "
                f"4000 to {MAX_RATE}, 8 to 256, and 1 to n_mels - 1"
            )
        if not 0 < seconds <= MAX_SECONDS or len(weights) != 4 or min(weights) < 0 or not any(weights):
            raise ConfigError(
                f"mel-statistics: seconds {seconds}, weights {weights}; expected more than 0 and at most "
                f"{MAX_SECONDS:.0f}, and four non-negative weights"
            )
        import_soundfile()
        self.sampling_rate = int(sampling_rate)
        self.n_mels = int(n_mels)
        self.n_mfcc = int(n_mfcc)
        self.seconds = float(seconds)
        self.weights = tuple(float(w) for w in weights)
        self.truncated = check_truncated(self.name, truncated)

    @property
    def dim(self) -> int:
        """Length of a vector: ``2 (n_mels + n_mfcc)``."""
        return 2 * (self.n_mels + self.n_mfcc)

    def describe(self) -> dict[str, Any]:
        """Options and library versions."""
        return {
            "name": self.name,
            "sampling_rate": self.sampling_rate,
            "n_mels": self.n_mels,
            "n_mfcc": self.n_mfcc,
            "seconds": self.seconds,
            "weights": list(self.weights),
            "window": [WINDOW, HOP, "hann"],
            **({"truncated": self.truncated} if self.truncated != "refuse" else {}),
            "versions": versions("soundfile", "scipy", "numpy"),
        }

    def prepare(self, data: bytes) -> np.ndarray:
        """Vector ``(dim,) float32`` of a file; zero where it is silent.

        Raises:
            UnreadableAudioError: the file cannot be decoded.
        """
        waveform = decode_audio(
            data, self.sampling_rate, self.seconds, accept_truncated=self.truncated == "accept"
        )
        return self.of_waveform(waveform)

    def encode(self, batch: list[Any]) -> np.ndarray:
        """Vectors ``(B, dim) float32`` of files, prepared or not."""
        return np.stack([self.prepare(x) if isinstance(x, bytes) else x for x in batch])

    def of_waveform(self, waveform: np.ndarray) -> np.ndarray:
        """Vector ``(dim,) float32`` of a mono waveform ``(n,)`` at the sampling rate, of length 1 or zero."""
        from scipy.fft import dct

        power = self.mel_power(waveform)  # (n_mels, n_windows)
        if power.max() <= SILENCE:
            return np.zeros(self.dim, dtype=np.float32)
        decibels = 10 * np.log10(np.maximum(power, power.max() * 10 ** (-DYNAMIC_RANGE / 10)))
        coefficients = dct(decibels, axis=0, norm="ortho")[1 : self.n_mfcc + 1]  # (n_mfcc, n_windows)
        levels = decibels.mean(axis=1)
        parts = (
            levels - levels.mean(),
            decibels.std(axis=1),
            coefficients.mean(axis=1),
            coefficients.std(axis=1),
        )
        joined = np.concatenate([w * _unit(part) for w, part in zip(self.weights, parts, strict=True)])
        return _unit(joined).astype(np.float32)

    def mel_power(self, waveform: np.ndarray) -> np.ndarray:
        """Power in each mel band and window ``(n_mels, n_windows) float64`` of a waveform ``(n,)``."""
        from scipy.fft import rfft
        from scipy.signal.windows import hann

        samples = np.asarray(waveform, dtype=np.float64)
        samples = samples - samples.mean()  # a constant offset makes no sound
        short = max(0, WINDOW - len(samples))
        samples = np.pad(samples, (short // 2, short - short // 2))
        windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
        shape = hann(WINDOW, sym=False) / (WINDOW / 4)  # a full-scale sine has an amplitude of 1
        # A sparse product always adds in one order; a threaded dense product need not.
        return np.concatenate(
            [
                self._filters @ np.square(np.abs(rfft(windows[i : i + WINDOWS_AT_ONCE] * shape))).T
                for i in range(0, len(windows), WINDOWS_AT_ONCE)
            ],
            axis=1,
        )

    @cached_property
    def _filters(self) -> scipy.sparse.csr_array:
        import scipy.sparse

        return scipy.sparse.csr_array(mel_filters(self.n_mels, WINDOW, self.sampling_rate))


def mel_filters(n_mels: int, window: int, sampling_rate: int) -> np.ndarray:
    """Triangular filters of equal area ``(n_mels, window // 2 + 1) float64``, up to half the sampling rate.

    Corners are equally far apart on the mel scale ``2595 log10(1 + f / 700)``; a filter is divided by half
    its width in hertz.
    """
    frequencies = np.linspace(0, sampling_rate / 2, window // 2 + 1)
    mels = np.linspace(0, 2595 * np.log10(1 + sampling_rate / 2 / 700), n_mels + 2)
    corners = 700 * (10 ** (mels / 2595) - 1)
    low, middle, high = (corners[i : n_mels + i, None] for i in range(3))
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return np.asarray(np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low))


class Clap:
    """The audio tower of a contrastive audio-text model (CLAP), frozen; vectors have length 1.

    Source: Wu et al. 2023, https://arxiv.org/abs/2211.06687; weights through transformers' ``ClapModel``.

    Files are averaged to mono and converted to the model's sampling rate. Only the first seconds that the
    model takes at once are read (10 in the published models): transformers would crop longer sounds at
    random. Shorter ones are repeated as the model's configuration says.

    Args:
        model: a name on the Hugging Face hub (the default owner is ``laion/``), or a local directory with
            ``config.json``, ``preprocessor_config.json`` and a ``.safetensors`` file.
        batch_size: sounds per forward pass.
        device: ``"auto"`` uses a GPU if available.
        truncated: ``"accept"`` takes what is there of a sound whose file was cut off; such a sound is
            unreadable otherwise.

    Raises:
        FeatureError: pickled or unavailable weights, a directory without a CLAP model, or, on first use,
            weights that lack a part of the model.
        ConfigError: a batch size below 1.
        MissingDependencyError: soundfile or transformers is not installed.
    """

    name = "clap"
    kind = "audio"

    def __init__(
        self,
        model: str | Path = "clap-htsat-unfused",
        *,
        batch_size: int = 16,
        device: str = "auto",
        truncated: Literal["refuse", "accept"] = "refuse",
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}; expected at least 1")
        import_soundfile()
        self.batch_size = batch_size
        self.device = device
        self.truncated = check_truncated(self.name, truncated)
        self.model, self.directory = locate_model(str(model), "laion", "a CLAP model", MelStatistics.name)
        self._files = weight_files(self.directory, "a CLAP model")
        self.sampling_rate, self.seconds = _clap_input(self.directory / "preprocessor_config.json")

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The frozen model and its preprocessing, loaded on first use."""
        try:
            import torch
            from transformers import ClapFeatureExtractor, ClapModel
            from transformers.utils import logging as transformers_logging
        except Exception as cause:  # a torchvision of another build than torch raises a RuntimeError
            raise missing_dependency("transformers", "features", cause) from cause
        shown = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()  # it would fill log files
        try:
            preprocessing = ClapFeatureExtractor.from_pretrained(str(self.directory), local_files_only=True)
            loaded: Any = ClapModel.from_pretrained(
                str(self.directory), local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            model, report = loaded
        except Exception as cause:
            first = (str(cause).splitlines() or [type(cause).__name__])[0]
            raise FeatureError(f"{self.directory}: transformers cannot load it ({first})") from cause
        finally:
            if shown:
                transformers_logging.enable_progress_bar()
        missing = sorted(key for key in report["missing_keys"] if key.startswith("audio_"))
        if missing:  # transformers would draw them at random
            raise FeatureError(
                f"{self.directory}: the weights lack {len(missing)} tensors of the audio tower, such as "
                f"{missing[0]!r}; expected all weights of ClapModel"
            )
        device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        return model.requires_grad_(False).eval().to(device), preprocessing

    def __getstate__(self) -> dict[str, Any]:
        """The state without the model, which each process loads itself."""
        return {k: v for k, v in self.__dict__.items() if k != "_loaded"}

    @cached_property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.encode([np.zeros(self.sampling_rate, dtype=np.float32)]).shape[1])

    def describe(self) -> dict[str, Any]:
        """Model, weights, preprocessing, batch size and library versions."""
        return {
            "name": self.name,
            "model": self.model,
            "weights": files_sha256(self._files, self.directory),
            "batch_size": self.batch_size,
            **({"truncated": self.truncated} if self.truncated != "refuse" else {}),
            "versions": versions("soundfile", "scipy", "numpy", "torch", "transformers"),
        }

    def prepare(self, data: bytes) -> np.ndarray:
        """The waveform ``(n,) float32`` that the model gets of a file.

        Raises:
            UnreadableAudioError: the file cannot be decoded.
        """
        waveform = decode_audio(
            data, self.sampling_rate, self.seconds, accept_truncated=self.truncated == "accept"
        )
        return waveform[: int(self.seconds * self.sampling_rate)]

    def encode(self, batch: list[Any]) -> np.ndarray:
        """Vectors ``(B, dim) float32`` of length 1 of files, prepared or not."""
        import torch

        model, preprocessing = self._loaded
        waveforms = [self.prepare(x) if isinstance(x, bytes) else x for x in batch]
        with _numpy_state_kept(), torch.inference_mode():
            inputs = preprocessing(waveforms, sampling_rate=self.sampling_rate, return_tensors="pt")
            # Without a sound that is too long, preprocessing marks a random one as too long.
            inputs["is_longer"] = torch.zeros_like(inputs["is_longer"], dtype=torch.bool)
            output = model.get_audio_features(**inputs.to(model.device))
        vectors = getattr(output, "pooler_output", output)  # a tensor before transformers 5
        return np.asarray(vectors.cpu(), dtype=np.float32)


def _clap_input(path: Path) -> tuple[int, float]:
    """Sampling rate and length in seconds of what a CLAP model takes at once."""
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        rate, seconds = int(described["sampling_rate"]), float(described["max_length_s"])
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise FeatureError(
            f"{path}: {type(cause).__name__}: {cause}; expected the configuration of a ClapFeatureExtractor "
            "with sampling_rate and max_length_s"
        ) from cause
    if not 0 < rate <= MAX_RATE or not 0 < seconds <= MAX_SECONDS:
        raise FeatureError(
            f"{path}: sampling_rate {rate}, max_length_s {seconds}; expected at most {MAX_RATE} and "
            f"{MAX_SECONDS:.0f}"
        )
    return rate, seconds


@contextmanager
def _numpy_state_kept() -> Iterator[None]:
    """Restores numpy's global random state, from which transformers' preprocessing draws."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    # The levels of a noise that is equal in all bands differ by rounding errors only.
    return vector / length if length > 1e-9 else np.zeros_like(vector)
