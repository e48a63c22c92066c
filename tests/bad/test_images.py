"""Broken, unusual and hostile pictures: decoded or refused with a reason, in bounded time and memory."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graphrec.core.errors import FeatureError
from graphrec.core.random import numpy_rng
from graphrec.data import Content, Dataset, Interactions, Vocabulary
from graphrec.features import FeatureStore
from graphrec.features.extract.decoding import UnreadableImageError, decode
from graphrec.features.extract.extraction import extract
from graphrec.features.extract.shard import MAX_FILE_BYTES

from .pictures import CASES, encoded, noise

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

SLOWEST = 3.0  # seconds; every case takes a few milliseconds on an idle machine
LARGEST = 1_000  # MiB for pictures of the largest size that is decoded, Python and Pillow included


def shop(names: list[str | None], root: Path) -> Dataset:
    n = len(names)
    none, pairs = (Interactions(np.arange(m), np.arange(m), n, n) for m in (0, n))
    users, items = (Vocabulary((f"{kind}{i}" for i in range(n)), kind) for kind in ("user", "item"))
    return Dataset("shop", users, items, pairs, none, none, content={"image": Content("image", names, root)})


class Mean:
    """The mean color: an extractor that costs nothing."""

    name, kind, dim = "mean", "image", 3

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def prepare(self, picture: Image.Image) -> np.ndarray:
        return np.asarray(picture.resize((1, 1)), dtype=np.float32).ravel() + 1

    def encode(self, batch: list[Any]) -> np.ndarray:
        return np.stack(batch)


def gallery(root: Path, extra: dict[str, bytes]) -> list[str | None]:
    """Two good pictures around the others."""
    names: list[str | None] = ["good.png", *extra, "good.png"]
    (root / "good.png").write_bytes(noise("PNG"))
    for name, data in extra.items():
        (root / name).write_bytes(data)
    return names


@pytest.mark.parametrize("case", CASES)
def test_a_picture_is_decoded_or_counted(case: str, tmp_path: Path) -> None:
    make, expected = CASES[case]
    data = make()
    begun = time.process_time()
    names = gallery(tmp_path, {"odd.jpg": data})
    table = extract(shop(names, tmp_path), "image", Mean(), FeatureStore(tmp_path / "s"), max_bad=0.5)
    assert time.process_time() - begun < SLOWEST
    assert table.present[[0, 2]].all()
    if isinstance(expected, str):
        assert expected in table.meta["unreadable"]["reasons"]["item1"]
        assert not table.present[1]
        with pytest.raises(UnreadableImageError, match=r"^[^\n]+$"):
            decode(data)
    else:
        assert table.present.all()
        found = decode(data)
        assert found.mode == "RGB"
        assert not expected or found.getpixel((0, 0)) == expected


def directory(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path)


def large(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)


def closed(path: Path) -> None:
    path.write_bytes(noise("PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")


PLACES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("gone.png", lambda path: None, "gone.png: No such file"),
    "directory": ("folder", directory, "folder: is a directory"),
    "link to nowhere": ("link.png", lambda path: path.symlink_to("nowhere"), "link.png: No such file"),
    "link to itself": ("loop.png", loop, "loop.png: Too many levels"),
    "pipe": ("pipe.png", os.mkfifo, "pipe.png: not a regular file"),
    "endless": ("zero.png", lambda path: path.symlink_to("/dev/zero"), "zero.png: not a regular file"),
    "too large to read": ("large.png", large, "268,435,457 bytes; at most"),
    "not permitted": ("closed.png", closed, "closed.png: Permission denied"),
    "below a file": ("good.png/below.png", lambda path: None, "below.png: Not a directory"),
    "NUL in the name": ("a\0b.png", lambda path: None, r"a\x00b.png: embedded null"),
    "lone surrogate in the name": ("\ud800.png", lambda path: None, r"\ud800.png: "),
    "line break in the name": ("a\nb.png", lambda path: None, r"a\nb.png: No such file"),
    "escape codes in the name": ("\x1b[31m.png", lambda path: None, r"\x1b[31m.png: No such file"),
    "endless name": ("x" * 10**6, lambda path: None, "File name too long"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_place_without_a_picture_is_counted(case: str, tmp_path: Path) -> None:
    name, make, expected = PLACES[case]
    names = [*gallery(tmp_path, {}), name]
    if "\0" not in name and "\ud800" not in name:
        make(tmp_path / name)
    store = FeatureStore(tmp_path / "s")
    for _ in range(2):  # the second time the files are only compared
        table = extract(shop(names, tmp_path), "image", Mean(), store, max_bad=0.5)
        reason = table.meta["unreadable"]["reasons"]["item2"]
        assert expected in reason
        assert len(reason) < 300
        assert str(tmp_path) not in reason
        assert table.present.tolist() == [True, True, False]


NAMES = ["-dash.png", "zwei wörter.png", "日本.png", "a\nb.png", "named.jpg", "none", "%s.png", ".hidden"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files_do_not_matter(name: str, tmp_path: Path) -> None:
    names = gallery(tmp_path, {name: noise("PNG")})
    table = extract(shop(names, tmp_path), "image", Mean(), FeatureStore(tmp_path / "s"))
    assert table.present.all()
    assert np.array_equal(table.take([1]), table.take([0]))


@pytest.mark.parametrize("kind", ["progressive", "RGBA"])
def test_the_largest_picture_takes_bounded_memory(kind: str, tmp_path: Path) -> None:
    """The peak of a process of its own that decodes a picture just below the limit, on several threads."""
    picture = Image.new("RGBA" if kind == "RGBA" else "RGB", (7_990, 8_000))
    form, options = ("PNG", {"compress_level": 1}) if kind == "RGBA" else ("JPEG", {"progressive": True})
    (tmp_path / "large").write_bytes(encoded(picture, form, **options))
    code = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from bad.test_images import Mean, shop
from graphrec.features.extract.extraction import extract
from graphrec.features import FeatureStore
root = Path(sys.argv[1])
table = extract(shop(["large"] * 3, root), "image", Mean(), FeatureStore(root / "s"), workers=3)
assert table.present.all(), table.meta
line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
print(int(line.split()[1]) // 1024)
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("no peak memory on this system")
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", code, str(tmp_path), str(tests), str(tests.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < LARGEST


def test_large_pictures_convert_like_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    values = numpy_rng(0, "bad/bands").integers(0, 256, (50, 40, 4)).astype(np.uint8)
    pictures = [
        encoded(Image.fromarray(values), "PNG"),
        encoded(Image.fromarray(values).convert("CMYK"), "TIFF"),
        encoded(Image.fromarray(values[..., 0].astype(np.uint16) * 200), "PNG"),
        encoded(Image.fromarray(values[..., 0].astype(np.float32) / 255), "TIFF"),
    ]
    whole = [np.asarray(decode(data)) for data in pictures]
    monkeypatch.setattr("graphrec.features.extract.decoding.BAND_PIXELS", 130)
    for data, expected in zip(pictures, whole, strict=True):
        assert np.array_equal(np.asarray(decode(data)), expected)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """10,000 tiny pictures, every hundredth of them broken, in ten ways."""
    root = tmp_path_factory.mktemp("many")
    good = [encoded(Image.new("RGB", (4, 4), (i, 0, 9)), "PNG") for i in range(256)]
    ways = [b"", b"text", b"\xff\xd8", good[0][:40], good[1][:-25], noise("JPEG")[:900], b"GIF89a", None]
    broken = [make() for case, (make, _) in list(CASES.items()) if case.startswith("bomb")][:2]
    names: list[str | None] = []
    for i in range(10_000):
        names.append(f"{i}.png")
        data = [*ways, *broken][i // 100 % 10] if i % 100 == 99 else good[i % 256]
        if data is not None:
            (root / f"{i}.png").write_bytes(data)
    return shop(names, root)


def test_a_batch_with_one_percent_broken_completes(many: Dataset, tmp_path: Path, graphrec: Any) -> None:
    begun = time.process_time()
    table = extract(many, "image", Mean(), FeatureStore(tmp_path / "cache"))
    assert time.process_time() - begun < 60
    assert np.flatnonzero(~table.present).tolist() == list(range(99, 10_000, 100))
    assert table.meta["unreadable"]["count"] == 100
    many.save(tmp_path / "saved")
    answer = graphrec("features", "broken", "saved", "--csv")
    assert answer.code == 0, answer
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert [row["item"] for row in rows] == [f"item{i}" for i in range(99, 10_000, 100)]
    assert [Path(row["content"]).name for row in rows] == [f"{i}.png" for i in range(99, 10_000, 100)]
    assert all(row["reason"] for row in rows)
    assert len({row["reason"] for row in rows}) >= 7


def test_too_many_broken_pictures_stop_it_early(many: Dataset, tmp_path: Path, refused: Any) -> None:
    root = many.content["image"].root
    assert root is not None
    names = ["99.png" if i % 10 == 0 else "0.png" for i in range(10_000)]
    data = shop(list(names), root)
    expected = r"5\d\d of 10,000 .*\(after 5,\d\d\d of 10,000 items\).*item0: empty file; item10: empty"
    with pytest.raises(FeatureError, match=expected):
        extract(data, "image", Mean(), FeatureStore(tmp_path / "cache"))
    shop(list(names[:30]), root).save(tmp_path / "saved")
    error = refused("features", "build", "saved", "--text", "none")
    assert "3 of 30" in error
    assert "--max-bad" in error
    assert "item0: empty file" in error


def test_truncated_pictures_are_built_on_request(tmp_path: Path, graphrec: Any, refused: Any) -> None:
    names = gallery(tmp_path, {"part.jpg": noise("JPEG")[:2000]})
    shop(names, tmp_path).save(tmp_path / "saved")
    error = refused("features", "build", "saved", "--text", "none")
    assert "item1: " in error
    assert "truncated=accept" in error
    assert "part.jpg" in graphrec("features", "broken", "saved").out
    option = ("--set", "image.truncated=accept")
    answer = graphrec("features", "build", "saved", "--text", "none", *option)
    assert answer.code == 0, answer
    assert "unreadable" not in answer.out
    error = refused("features", "build", "saved", "--text", "none", "--set", "image.truncated=perhaps")
    assert "'perhaps'" in error
    assert "accept" in error
