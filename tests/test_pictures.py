"""Folders and columns of pictures of many layouts: subfolders, suffixes, roots, broken and stray files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graphrec.cli.main import main
from graphrec.core.errors import ConfigError, DataError, FeatureError
from graphrec.data import Dataset
from graphrec.data.readers import load_dataset
from graphrec.data.readers.images import SUFFIXES, match_images
from graphrec.features import FeatureStore
from graphrec.features.extract.decoding import FORMATS
from graphrec.features.extract.extraction import extract, unreadable
from graphrec.features.extract.offline import HogHsv

IDS = ["0108775015", "0110065001", "7", "8", "9"]


def picture(path: Path, seed: int = 0, cut: float = 1.0) -> None:
    """Writes a picture of noise, or the first part of one."""
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue()[: int(cut * len(file.getvalue()))])


def catalog(folder: Path, column: Callable[[str], str] | None = None) -> Path:
    rows = [f"u{u},{item}" for u in range(4) for item in IDS]
    (folder / "interactions.csv").write_text("\n".join(["user,item", *rows]) + "\n")
    lines = ["item,pic", *(f"{i},{column(i) if column else ''}" for i in IDS)]
    (folder / "items.csv").write_text("\n".join(lines) + "\n")
    return folder


def read(folder: Path, **options: object) -> Dataset:
    return load_dataset("table", folder, **options)


def pictures_of(data: Dataset) -> dict[str, str | None]:
    return dict(zip(data.items.ids, data.content["image"].values, strict=True))


def test_every_suffix_that_extraction_decodes_is_looked_for() -> None:
    Image.init()
    assert {s for s, name in Image.registered_extensions().items() if name in FORMATS} == SUFFIXES


def test_folders_of_folders_are_searched_and_strays_counted(tmp_path: Path) -> None:
    catalog(tmp_path)
    for name in ("010/0108775015.jpg", "011/0110065001.JPEG", "7.jfif", "a/b/8.webp", "a/nobody.png"):
        picture(tmp_path / "pics" / name)
    for name in ("9.heic", "x.heic", "notes.txt", "none", ".hidden/9.jpg", "a/.9.jpg"):
        picture(tmp_path / "pics" / name)
    data = read(tmp_path, images="pics")
    assert pictures_of(data) == {
        "0108775015": "010/0108775015.jpg", "0110065001": "011/0110065001.JPEG", "7": "7.jfif",
        "8": "a/b/8.webp", "9": None,
    }  # fmt: skip
    assert data.meta["pictures"] == {
        "of no item": 1, "such as": ["a/nobody.png"],
        "other files": {".heic": 2, ".txt": 1, "no suffix": 1},
    }  # fmt: skip
    path = data.content["image"].path(data.items.index("8"))
    assert path is not None
    assert path.is_file()


def test_two_pictures_of_an_item_are_refused_and_two_of_nobody_are_not(tmp_path: Path) -> None:
    for name in ("small/cover.jpg", "large/cover.jpg", "small/7.jpg"):
        picture(tmp_path / name)
    assert match_images(tmp_path, IDS) == ([None, None, "small/7.jpg", None, None], 2)
    picture(tmp_path / "large/7.png")
    with pytest.raises(DataError, match=r"'large/7\.png' and 'small/7\.jpg'.*item '7'"):
        match_images(tmp_path, IDS)


def test_ids_that_look_like_paths_name_only_files_inside(tmp_path: Path) -> None:
    picture(tmp_path / "secret.jpg")
    picture(tmp_path / "pics/a/b.jpg")
    (tmp_path / "pics/link").symlink_to(tmp_path)
    assert match_images(tmp_path / "pics", ["a/b", "../secret", "secret"]) == (["a/b.jpg", None, None], 0)


@pytest.mark.parametrize("form", ["relative", "backslashes", "absolute"])
def test_paths_of_a_column_are_relative_to_an_image_root(tmp_path: Path, form: str) -> None:
    root = tmp_path / "elsewhere"
    write = {
        "relative": lambda i: f"{i[:2]}/{i}.jpg",
        "backslashes": lambda i: f"{i[:2]}\\{i}.jpg",
        "absolute": lambda i: f"{root}/{i[:2]}/{i}.jpg",
    }[form]
    for i in IDS:
        picture(root / i[:2] / f"{i}.jpg")
    (tmp_path / "shop").mkdir()
    catalog(tmp_path / "shop", write)
    data = read(tmp_path / "shop", items="items.csv", image="pic", image_root=str(root))
    assert pictures_of(data) == {i: f"{i[:2]}/{i}.jpg" for i in IDS}
    assert all(data.content["image"].path(row).is_file() for row in range(len(IDS)))  # type: ignore[union-attr]


@pytest.mark.parametrize("path", ["/etc/x.jpg", "a\\..\\..\\x.jpg", "{root}/../x.jpg", "C:\\x.jpg"])
def test_paths_outside_the_image_root_are_refused(tmp_path: Path, path: str) -> None:
    root = tmp_path / "pics"
    root.mkdir()
    catalog(tmp_path, lambda i: path.format(root=root) if i == "8" else "")
    with pytest.raises(DataError, match=r"items\.csv, row 5: .*pics.*image_root"):
        read(tmp_path, items="items.csv", image="pic", image_root="pics")
    with pytest.raises(ConfigError, match="image="):
        read(tmp_path, image_root="pics")
    with pytest.raises(DataError, match="nowhere"):
        read(tmp_path, items="items.csv", image="pic", image_root="nowhere")


def test_after_a_refused_extraction_all_broken_pictures_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    catalog(tmp_path)
    for row, i in enumerate(IDS):
        picture(tmp_path / "pics" / f"{i}.jpg", row, 1.0 if i == "9" else 0.5)
    data = read(tmp_path, images="pics")
    data.save(tmp_path / "shop")
    with pytest.raises(FeatureError, match="more than the maximum"):
        extract(data, "image", HogHsv(), FeatureStore(tmp_path / "cache"), shard_size=1)
    assert sorted(unreadable(data.content["image"])) == [data.items.index(i) for i in IDS[:4]]
    with pytest.raises(SystemExit):
        main(["features", "broken", "shop", "--csv"])
    lines = capfd.readouterr().out.splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == IDS[:4]
