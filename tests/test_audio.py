"""Sounds: decoded in bounded time, described by their timbre, read by the table reader, through the chain."""

from __future__ import annotations

import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphrec import Content, Dataset, FeatureStore, Recommender, load_dataset
from graphrec.core.errors import ConfigError, DataError, FeatureError, MissingDependencyError
from graphrec.core.random import numpy_rng, torch_rng
from graphrec.data import generated_sounds
from graphrec.data.generated import generated_options, write_catalog
from graphrec.features import extract as features
from graphrec.features.extract.extraction import extract, unreadable
from graphrec.features.extract.saved import SavedExtractor

soundfile = pytest.importorskip("soundfile")

from graphrec.features.extract.audio import mel_filters  # noqa: E402
from graphrec.features.extract.audio_decoding import UnreadableAudioError, decode_audio  # noqa: E402

RATE = 22_050
FORMATS = ("WAV", "FLAC", "OGG", "MP3", "AIFF")


def tone(frequency: float = 440.0, rate: int = 44_100, seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """A sine of half of full scale with a little noise ``(n,) float32``."""
    time = np.arange(int(rate * seconds)) / rate
    noise = numpy_rng(seed, "test/tone").normal(size=len(time))
    return (0.5 * np.sin(2 * np.pi * frequency * time) + 0.003 * noise).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = 44_100, form: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def mel(**options: Any) -> Any:
    return features.extractor("mel-statistics", **options)


# -- decoding ------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_rate_and_number_of_channels_gives_the_same_waveform(form: str) -> None:
    found = decode_audio(encoded(tone(), form=form), RATE)
    assert found.dtype == np.float32
    assert abs(len(found) - 2 * RATE) <= 2304  # MP3 pads to whole frames
    time = np.arange(RATE // 2, RATE) / RATE
    basis = np.stack([np.sin(2 * np.pi * 440 * time), np.cos(2 * np.pi * 440 * time)], axis=1)
    fitted = np.linalg.lstsq(basis, found[RATE // 2 : RATE], rcond=None)[0]
    assert np.isclose(np.linalg.norm(fitted), 0.5, atol=0.02)


def test_channels_are_averaged_and_rates_converted() -> None:
    mono = tone(rate=RATE)
    assert np.allclose(decode_audio(encoded(mono, RATE), RATE), mono, atol=1e-4)
    stereo = np.stack([mono, np.zeros_like(mono)], axis=1)
    assert np.allclose(decode_audio(encoded(stereo, RATE), RATE), mono / 2, atol=1e-4)
    for rate in (8_000, 16_000, 48_000, 96_000):
        converted = decode_audio(encoded(tone(rate=rate), rate), RATE)
        assert len(converted) == 2 * RATE
        spectrum = np.abs(np.fft.rfft(converted))
        assert abs(spectrum.argmax() / 2 - 440) < 1, "two seconds: half a hertz a bin"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_truncated_sounds_are_errors_and_accepted_on_request(form: str, share: float) -> None:
    data = encoded(tone(), form=form)
    part = data[: int(len(data) * share)]
    with pytest.raises(UnreadableAudioError, match="truncated=accept") as caught:
        decode_audio(part, RATE)
    assert "0x" not in str(caught.value)
    whole, found = decode_audio(data, RATE), decode_audio(part, RATE, accept_truncated=True)
    assert 0.3 * share * len(whole) < len(found) <= len(whole)
    n = len(found) - 2 * 2304  # the last frame of a lossy format may be incomplete
    assert np.allclose(found[:n], whole[:n], atol=1e-3)
    assert np.allclose(decode_audio(data, RATE, accept_truncated=True), whole, atol=1e-6)


BROKEN = {
    "empty": (b"", "empty file"),
    "text": (b"<html>no such file</html>" * 20, "not a sound"),
    "header alone": (b"RIFF", "not a sound"),
    "no samples": (encoded(tone()[:0]), "without samples"),
    "not a number": (encoded(np.full(99, np.nan, np.float32), subtype="FLOAT"), "not a number"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "not a sound"),
    "another format": (encoded(tone(), form="AU"), "AU"),
    "few samples a second": (encoded(tone(rate=8_000), 100), "100 samples per second"),
    "many channels": (encoded(np.zeros((10, 40), np.float32)), "40 channels"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_sound_is_an_error_that_says_why(what: str) -> None:
    data, fact = BROKEN[what]
    for accept in (False, True):
        with pytest.raises(UnreadableAudioError, match=fact):
            decode_audio(data, RATE, accept_truncated=accept)


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_bytes_never_raise_another_error(form: str) -> None:
    data = encoded(tone(seconds=0.3), form=form)
    rng = numpy_rng(0, f"test/damage/{form}")
    for _ in range(40):
        damaged = bytearray(data)
        for at in rng.integers(0, min(len(data), 400), size=6):
            damaged[at] = rng.integers(256)
        for accept in (False, True):
            try:
                found = decode_audio(bytes(damaged), RATE, seconds=5, accept_truncated=accept)
            except UnreadableAudioError:
                continue
            assert np.isfinite(found).all()
            assert len(found) <= 5 * RATE + 1


def test_only_the_beginning_of_a_long_sound_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    # An hour of silence is 30 KiB of FLAC.
    data = encoded(np.zeros(3_600 * 8_000, np.int16), 8_000, "FLAC")
    assert len(data) < 2_000_000
    decoded = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, n, **kw: (decoded.append(n), read(self, n, **kw))[1]
    )
    assert len(decode_audio(data, 8_000, seconds=3)) == 24_000
    assert sum(decoded) == 24_001, "what is used, and the last sample"


def test_a_header_that_announces_more_than_there_is_does_not_allocate_it() -> None:
    data = bytearray(encoded(tone(rate=8_000, seconds=0.5), 8_000))
    data[4:8] = data[40:44] = (2**31 - 1).to_bytes(4, "little")
    with pytest.raises(UnreadableAudioError, match="truncated"):
        decode_audio(bytes(data), RATE)
    assert len(decode_audio(bytes(data), RATE, accept_truncated=True)) == RATE // 2 + RATE % 2
    data[4:8] = data[40:44] = b"\xff" * 4  # as programs write it that do not know the length yet
    assert len(decode_audio(bytes(data), RATE)) in (RATE // 2, RATE // 2 + 1)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(MissingDependencyError, match=r"graphrec\[audio\]"):
        mel()


# -- statistics of the mel spectrogram -----------------------------------


@pytest.mark.parametrize(("n_mels", "window", "rate"), [(64, 2048, 22_050), (40, 512, 8_000)])
def test_filters_are_those_of_transformers(n_mels: int, window: int, rate: int) -> None:
    reference = pytest.importorskip("transformers.audio_utils").mel_filter_bank(
        window // 2 + 1, n_mels, 0, rate / 2, rate, norm="slaney", mel_scale="htk"
    )
    assert np.abs(mel_filters(n_mels, window, rate) - reference.T).max() < 1e-12


def test_mel_power_is_that_of_transformers() -> None:
    utils = pytest.importorskip("transformers.audio_utils")
    extractor, waveform = mel(), tone(rate=RATE).astype(np.float64)
    waveform -= waveform.mean()
    reference = utils.spectrogram(
        waveform, utils.window_function(2048, "hann"), 2048, 512, power=2.0, center=False,
        mel_filters=mel_filters(64, 2048, RATE).T, mel_floor=0.0, dtype=np.float64,
    )  # fmt: skip
    found = extractor.mel_power(waveform) * (2048 / 4) ** 2
    assert found.shape == reference.shape
    assert np.allclose(found, reference, rtol=1e-5)


def test_the_vector_is_mean_and_deviation_of_bands_and_coefficients() -> None:
    from scipy.fft import dct

    extractor, waveform = mel(n_mels=16, n_mfcc=5, weights=(2, 1, 3, 1)), tone(rate=RATE)
    power = extractor.mel_power(waveform)
    decibels = 10 * np.log10(np.maximum(power, power.max() / 1e8))
    mfcc = dct(decibels, axis=0, norm="ortho")[1:6]
    parts = [decibels.mean(1) - decibels.mean(), decibels.std(1), mfcc.mean(1), mfcc.std(1)]
    expected = np.concatenate(
        [w * p / np.linalg.norm(p) for w, p in zip((2, 1, 3, 1), parts, strict=True)]
    ) / np.sqrt(15)
    found = extractor.of_waveform(waveform)
    assert found.shape == (extractor.dim,) == (42,)
    assert np.allclose(found, expected, atol=1e-6)


def test_loudness_and_channels_do_not_matter_and_silence_has_no_vector() -> None:
    extractor = mel()
    one = extractor.encode([encoded(tone(), subtype="FLOAT")])[0]
    assert np.isclose(np.linalg.norm(one), 1, atol=1e-6)
    for same in (tone() / 16, np.stack([tone()] * 2, axis=1), tone() + np.float32(0.25)):
        assert np.allclose(extractor.encode([encoded(same, subtype="FLOAT")])[0], one, atol=1e-4)
    for silent in (np.zeros(44_100, np.float32), np.full(44_100, 0.5, np.float32), np.zeros(1, np.float32)):
        assert not extractor.encode([encoded(silent)]).any()


@pytest.mark.parametrize("n", [20, 700, 2_047, 2_048, 2_049])
def test_sounds_shorter_than_a_window_have_a_vector(n: int) -> None:
    found = mel().encode([encoded(tone(rate=RATE)[:n], RATE)])
    assert np.isfinite(found).all()
    assert np.isclose(np.linalg.norm(found), 1, atol=1e-6)


def test_only_the_first_seconds_count() -> None:
    sound = np.concatenate([tone(440, seconds=1), tone(3_000, seconds=1)])
    first, both = (mel(seconds=s).encode([encoded(sound)])[0] for s in (1, 2))
    assert np.allclose(first, mel().encode([encoded(sound[:44_100])])[0], atol=1e-6)
    assert first @ both < 0.99


def test_sounds_of_one_timbre_are_neighbors_whatever_their_pitch() -> None:
    timbre = np.repeat(np.arange(len(generated_sounds.TIMBRES)), 8)
    extractor = mel(sampling_rate=generated_sounds.RATE)
    vectors = np.stack(
        [
            extractor.of_waveform(generated_sounds.render(t, numpy_rng(0, "test/timbre", i)) / 32_768)
            for i, t in enumerate(timbre)
        ]
    )
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    nearest = timbre[np.argsort(-cosines, axis=1)[:, :3]]
    assert (nearest == timbre[:, None]).mean() > 0.9


@pytest.mark.parametrize(
    "options",
    [
        {"sampling_rate": 100}, {"n_mels": 4}, {"n_mfcc": 64}, {"n_mfcc": 0}, {"seconds": 0},
        {"seconds": 1_000}, {"seconds": float("nan")}, {"weights": (1, 1, 1)}, {"weights": (0, 0, 0, 0)},
        {"weights": (1, -1, 1, 1)}, {"truncated": "maybe"},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        mel(**options)


# -- extraction ----------------------------------------------------------


def catalog(folder: Path, n: int = 20) -> Dataset:
    """Items with sounds of several formats; item 3 has none."""
    names: list[str | None] = []
    for i in range(n):
        form = FORMATS[i % len(FORMATS)]
        name = f"{i}.{form.lower()}"
        (folder / name).write_bytes(encoded(tone(200 + 40 * i, seconds=0.4, seed=i), form=form))
        names.append(name)
    names[3] = None
    frame = {"user": [f"u{i % 4}" for i in range(n)], "item": [f"i{i:02}" for i in range(n)]}
    data = Dataset.from_frame(frame, user="user", item="item")
    return data.with_content(audio=Content("audio", names, folder))


def test_extraction_repeats_byte_by_byte_for_any_number_of_threads(tmp_path: Path) -> None:
    data = catalog(tmp_path)
    one = extract(data, "audio", mel(), FeatureStore(tmp_path / "a"), workers=1, shard_size=7)
    two = extract(data, "audio", mel(), FeatureStore(tmp_path / "b"), workers=4, shard_size=7, batch_size=3)
    assert one.sha256 == two.sha256
    assert one.dim == 168
    assert not one.present[3]
    assert one.present.sum() == len(data.content["audio"]) - 1


def test_broken_sounds_are_listed_and_too_many_are_refused(tmp_path: Path, graphrec: Any) -> None:
    data = catalog(tmp_path)
    (tmp_path / "0.wav").write_bytes(BROKEN["text"][0])
    (tmp_path / "1.flac").write_bytes((tmp_path / "1.flac").read_bytes()[:-900])
    (tmp_path / "2.ogg").unlink()
    (tmp_path / "4.aiff").write_bytes(encoded(np.zeros(9_000, np.float32)))
    store = FeatureStore(tmp_path / "cache")
    with pytest.raises(FeatureError, match=r"i00: not a sound.*i01: .*truncated.*i02: 2\.ogg"):
        extract(data, "audio", mel(), store)
    assert sorted(unreadable(data.content["audio"])) == [0, 1, 2]
    saved = data.save(tmp_path / "saved")
    listed = graphrec("features", "broken", saved, "--store", tmp_path / "none", "--csv")
    assert listed.code == 0, listed.err
    assert [line.split(",")[1] for line in listed.out.splitlines()[1:]] == ["i00", "i01", "i02"]
    assert "0.wav" in listed.out
    table = extract(data, "audio", mel(), store, max_bad=0.5)
    assert np.flatnonzero(~table.present).tolist() == [0, 1, 2, 3, 4]
    assert set(table.meta["unreadable"]["reasons"]) == {"i00", "i01", "i02"}
    assert "silent" in table.meta["empty"]["reasons"]["i04"]
    accepted = extract(data, "audio", mel(truncated="accept"), store, max_bad=0.5)
    assert np.flatnonzero(~accepted.present).tolist() == [0, 2, 3, 4]


def test_new_items_are_encoded_from_bytes_or_paths(tmp_path: Path) -> None:
    data = catalog(tmp_path)
    table = extract(data, "audio", mel(n_mels=32), FeatureStore(tmp_path / "cache"))
    saved = SavedExtractor.from_table(table)
    assert saved is not None
    path = tmp_path / "5.wav"
    rows = saved.encode([path, path.read_bytes(), None], ["path", "bytes", "none"])
    assert np.array_equal(rows[:2], table.numpy()[[5, 5]])
    assert np.isnan(rows[2]).all()
    with pytest.raises(FeatureError, match="chime: not a sound"):
        saved.encode([BROKEN["text"][0]], ["chime"])


# -- CLAP ----------------------------------------------------------------


@pytest.fixture(params=["rand_trunc", "fusion"])
def clap_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny ClapModel with random weights, with or without fusion, and how its input is made."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    text = {
        "vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 8, "projection_dim": 12,
    }  # fmt: skip
    audio = {
        "num_mel_bins": 16, "spec_size": 32, "patch_size": 4, "patch_stride": [4, 4], "window_size": 2,
        "depths": [1, 1], "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "hidden_size": 16,
        "projection_dim": 12, "num_hidden_layers": 2, "enable_fusion": request.param == "fusion",
    }  # fmt: skip
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=12)
    folder = tmp_path / "tiny-clap"
    model, rng = transformers.ClapModel(config), torch_rng(0, "test/clap")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2, generator=rng)
    model.save_pretrained(folder)
    transformers.ClapFeatureExtractor(
        feature_size=16, sampling_rate=8_000, hop_length=256, max_length_s=1, fft_window_size=512,
        frequency_max=4_000, truncation=request.param,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_clap_from_a_directory_is_frozen_and_repeats(clap_folder: Path, tmp_path: Path) -> None:
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    data = catalog(sounds)
    (sounds / "5.wav").write_bytes(encoded(tone(seconds=3.0)))  # longer than the model takes
    made = features.extractor("clap", model=clap_folder, batch_size=4)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    table = extract(data, "audio", made, FeatureStore(tmp_path / "a"), shard_size=6)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert table.shape == (20, 12)
    assert np.allclose(np.linalg.norm(table.numpy()[table.present], axis=1), 1, atol=1e-5)
    assert not any(p.requires_grad for p in made._loaded[0].parameters())
    again = features.extractor("clap", model=clap_folder, batch_size=4)
    assert again.describe() == made.describe()
    assert extract(data, "audio", again, FeatureStore(tmp_path / "b"), shard_size=6).sha256 == table.sha256
    short = encoded(tone(seconds=3.0)[:44_100])
    assert np.allclose(made.encode([short])[0], table.numpy()[5], atol=1e-3), "the first second counts"


def test_clap_gives_what_transformers_gives(clap_folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    waveform = tone(rate=8_000, seconds=0.7)
    model = transformers.ClapModel.from_pretrained(clap_folder).eval()
    inputs = transformers.ClapFeatureExtractor.from_pretrained(clap_folder)(
        waveform, sampling_rate=8_000, return_tensors="pt"
    )
    inputs["is_longer"] = torch.zeros_like(inputs["is_longer"], dtype=torch.bool)
    with torch.inference_mode():
        pooled = model.audio_projection(model.audio_model(**inputs).pooler_output)
    expected = torch.nn.functional.normalize(pooled, dim=-1).numpy()
    found = features.extractor("clap", model=clap_folder).encode([encoded(waveform, 8_000, subtype="FLOAT")])
    assert np.allclose(found, expected, atol=1e-5)


def test_clap_refuses_what_it_cannot_load(clap_folder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    with pytest.raises(FeatureError, match="no such directory"):
        features.extractor("clap", model=tmp_path / "none")
    with pytest.raises(ConfigError, match="batch_size 0"):
        features.extractor("clap", model=clap_folder, batch_size=0)
    weights = clap_folder / "model.safetensors"
    tensors = load_file(weights)
    lost = next(name for name in sorted(tensors) if name.startswith("audio_model"))
    save_file({k: v for k, v in tensors.items() if k != lost}, weights, metadata={"format": "pt"})
    with pytest.raises(FeatureError, match=lost):
        features.extractor("clap", model=clap_folder).encode([encoded(tone())])
    settings = clap_folder / "preprocessor_config.json"
    described = json.loads(settings.read_text())
    settings.write_text(json.dumps({**described, "max_length_s": 10**9}))
    with pytest.raises(FeatureError, match="max_length_s 1000000000"):
        features.extractor("clap", model=clap_folder)
    settings.unlink()
    with pytest.raises(FeatureError, match="preprocessor_config"):
        features.extractor("clap", model=clap_folder)
    weights.rename(clap_folder / "pytorch_model.bin")
    with pytest.raises(FeatureError, match=r"\.safetensors"):
        features.extractor("clap", model=clap_folder)


# -- reader --------------------------------------------------------------


def shop_files(folder: Path) -> Path:
    """A table of interactions, one of items with paths, and sounds named by the items."""
    (folder / "clips" / "a").mkdir(parents=True)
    (folder / "clicks.csv").write_text(
        "user,item\n" + "".join(f"u{u},{i}\n" for u in range(3) for i in "123")
    )
    (folder / "items.csv").write_text("item,clip\n1,clips/1.wav\n2,clips\\a\\2.flac\n3,\n")
    (folder / "clips" / "1.wav").write_bytes(encoded(tone()))
    (folder / "clips" / "a" / "2.flac").write_bytes(encoded(tone(), form="FLAC"))
    (folder / "clips" / "notes.txt").write_text("x")
    (folder / "clips" / "9.ogg").write_bytes(b"x")
    return folder


def test_sounds_come_from_a_column_or_a_folder(tmp_path: Path) -> None:
    shop = shop_files(tmp_path)
    options = {"interactions": "clicks.csv", "items": "items.csv"}
    expected = ["clips/1.wav", "clips/a/2.flac", None]
    for given in ({"audio": "clip"}, {"audio": "clip", "audio_root": "."}):
        data = load_dataset("table", shop, **options, **given)
        assert list(data.content["audio"]) == expected
        assert data.content["audio"].path(0) == shop / "clips" / "1.wav"
    data = load_dataset("table", shop, interactions="clicks.csv", sounds="clips")
    assert list(data.content["audio"]) == ["1.wav", "a/2.flac", None]
    assert data.meta["sounds"] == {"of no item": 1, "such as": ["9.ogg"], "other files": {".txt": 1}}


def test_pictures_and_sounds_may_have_folders_of_their_own(tmp_path: Path) -> None:
    shop = shop_files(tmp_path)
    (shop / "pics").mkdir()
    (shop / "pics" / "1.png").write_bytes(b"x")
    (shop / "items.csv").write_text("item,clip,photo\n1,1.wav,1.png\n2,a/2.flac,\n3,,\n")
    data = load_dataset(
        "table", shop, interactions="clicks.csv", items="items.csv", image="photo", image_root="pics",
        audio="clip", audio_root="clips",
    )  # fmt: skip
    assert data.content["audio"].path(1) == shop / "clips" / "a" / "2.flac"
    assert data.content["image"].path(0) == shop / "pics" / "1.png"


def test_mistakes_in_the_options_of_sounds_are_errors(tmp_path: Path) -> None:
    shop = shop_files(tmp_path)
    items = {"interactions": "clicks.csv", "items": "items.csv"}
    for error, facts, given in (
        (ConfigError, "audio=.*sounds=", {"audio": "clip", "sounds": "clips"}),
        (ConfigError, "audio_root=", {"audio_root": "clips"}),
        (DataError, "'clap'", {"audio": "clap"}),
        (DataError, "nowhere", {"sounds": "nowhere"}),
        (DataError, "none of the audio files exists.*clips/1.wav", {"audio": "clip", "audio_root": "clips"}),
    ):
        with pytest.raises(error, match=facts):
            load_dataset("table", shop, **items, **given)
    (shop / "items.csv").write_text("item,clip\n1,../secret.wav\n")
    with pytest.raises(DataError, match=r"row 2: audio path '\.\./secret\.wav'"):
        load_dataset("table", shop, **items, audio="clip")
    (shop / "clips" / "a" / "1.mp3").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1\.wav.*a/1\.mp3.*'1'"):
        load_dataset("table", shop, interactions="clicks.csv", sounds="clips")


# -- generated catalog, and the whole chain ------------------------------


def test_generated_sounds_repeat_and_leave_the_catalog_without_them_alone(tmp_path: Path) -> None:
    plain = write_catalog(tmp_path / "plain", 40, 30, seed=2)
    one = write_catalog(tmp_path / "one", 40, 30, seed=2, sounds=True)
    two = write_catalog(tmp_path / "two", 40, 30, seed=2, sounds=True)
    names = sorted(p.name for p in (one / "sounds").iterdir())
    assert 25 < len(names) < 40
    for name in names:
        assert (one / "sounds" / name).read_bytes() == (two / "sounds" / name).read_bytes()
        with wave.open(str(one / "sounds" / name)) as file:
            assert file.getframerate() == generated_sounds.RATE
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert 6_000 < np.abs(samples.astype(int)).max() < 32_767
    rows = (one / "items.csv").read_text().splitlines()
    assert [row.rpartition(",")[0] for row in rows] == (plain / "items.csv").read_text().splitlines()
    assert not (plain / "sounds").exists()
    assert (one / "interactions.csv").read_text() != (plain / "interactions.csv").read_text()
    former = {p.name: p.read_bytes() for p in plain.iterdir() if p.is_file()}
    write_catalog(one, 40, 30, seed=2)
    assert {p.name: p.read_bytes() for p in one.iterdir() if p.is_file()} == former
    assert not list(one.glob("sounds/*"))


def test_sounds_predict_purchases(tmp_path: Path) -> None:
    shop = write_catalog(tmp_path, 300, 600, seed=0, sounds=True)
    data = load_dataset("table", shop, **generated_options(sounds=True))
    table = extract(data, "audio", mel(sampling_rate=generated_sounds.RATE), FeatureStore(tmp_path / "cache"))
    vectors = table.numpy() - table.numpy()[table.present].mean(0)
    vectors[~table.present] = 0
    train = np.zeros((data.n_users, data.n_items))
    train[data.train.users, data.train.items] = 1
    # New items sound more like what their buyers bought than like what all users bought.
    new = np.flatnonzero(np.isin(np.arange(data.n_items), data.cold_items) & table.present)
    profiles = train @ vectors / train.sum(1, keepdims=True)
    scores = profiles @ vectors[new].T
    scores -= scores.mean(0)
    bought = np.zeros((data.n_users, data.n_items), dtype=bool)
    for part in (data.valid, data.test):
        bought[part.users, part.items] = True
    found, chance = scores[bought[:, new]], numpy_rng(0, "test/chance").permutation(scores.ravel())
    assert found.mean() > 0.1 * scores.std()
    assert abs(chance[: len(found)].mean()) < 0.1 * scores.std()


def test_the_whole_chain_with_three_modalities(tmp_path: Path, graphrec: Any) -> None:
    shop, store = tmp_path / "shop", ("--store", tmp_path / "cache")

    def run(*arguments: Any) -> Any:
        answer = graphrec(*arguments)
        assert answer.code == 0, answer.err
        return answer

    run("data", "generate", shop, "--items", 60, "--users", 80, "--sounds")
    data = Dataset.load(shop / "dataset")
    assert set(data.content) == {"audio", "image", "text"}
    built = run("features", "build", shop / "dataset", *store, "--set", "audio.sampling_rate=16000")
    assert "mel-statistics" in built.out
    widths = {"audio": 168, "image": 976, "text": 60}
    for model in ("freedom", "vbpr"):
        out = tmp_path / model
        run("train", model, shop / "dataset", *store, "--set", "train.epochs=2", "--out", out)
        assert "ndcg" in run("evaluate", out).out.lower()
        recommender = Recommender.load(out / "recommender")
        assert recommender.modalities.keys() == widths.keys()
        assert recommender.modalities["audio"] == widths["audio"]
        ids, scores = recommender.recommend(data.users[0], 5)
        assert len(ids) == 5
        assert np.isfinite(scores).all()
        sounding = min((shop / "sounds").iterdir())
        more = tmp_path / f"{model}-more"
        run("add", out, "--item", "NEW1", "--content", f"audio={sounding}", "--out", more)
        assert "NEW1" in Recommender.load(more).recommend(data.users[0], 61)[0]
