"""The generated catalog: whole, repeatable, read by the ordinary reader, and worth learning from."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import polars as pl
import pytest
from PIL import Image

from graphrec.core.errors import ConfigError, DataError
from graphrec.core.random import numpy_rng
from graphrec.data.generated import README_MARK, THEMES, generated_options, write_catalog
from graphrec.data.generated_pictures import KINDS, LOOKS, SIZE, render
from graphrec.data.readers import load_dataset

N_ITEMS, N_USERS = 160, 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_catalog(tmp_path_factory.mktemp("shop"), N_ITEMS, N_USERS, seed=3)


@pytest.fixture(scope="module")
def data(folder):
    return load_dataset("table", folder, **generated_options())


def hashes(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_files_repeat_bit_for_bit_and_depend_on_the_seed(tmp_path):
    one = hashes(write_catalog(tmp_path / "one", 30, 20, seed=1))
    assert one == hashes(write_catalog(tmp_path / "two", 30, 20, seed=1))
    assert one == hashes(write_catalog(tmp_path / "one", 30, 20, seed=1))
    other = hashes(write_catalog(tmp_path / "three", 30, 20, seed=2))
    assert one["interactions.csv"] != other["interactions.csv"]
    assert one["items.csv"] != other["items.csv"]


def test_it_says_that_it_is_generated(folder):
    text = (folder / "README.txt").read_text()
    assert text.startswith(README_MARK)
    assert "seed=3" in text


def test_it_never_writes_over_other_data(tmp_path):
    (tmp_path / "items.csv").write_text("mine")
    with pytest.raises(DataError, match=r"\['items.csv'\]"):
        write_catalog(tmp_path, 30, 20)
    assert (tmp_path / "items.csv").read_text() == "mine"
    with pytest.raises(ConfigError, match="20"):
        write_catalog(tmp_path / "new", 5, 5)


def test_pictures_are_whole_and_named_by_the_items(folder):
    items = pl.read_csv(folder / "items.csv", infer_schema=False)
    named = items["image"].drop_nulls().to_list()
    assert sorted(named) == sorted(f"images/{p.name}" for p in (folder / "images").iterdir())
    for name in named[:20]:
        with Image.open(folder / name) as picture:
            assert (picture.size, picture.mode) == ((SIZE, SIZE), "RGB")
            assert np.asarray(picture).std() > 10
    n_missing = N_ITEMS - len(named)
    assert 0.02 * N_ITEMS < n_missing < 0.2 * N_ITEMS
    assert 0.02 * N_ITEMS < items["title"].null_count() < 0.2 * N_ITEMS
    assert items["title"].null_count() == items["description"].null_count()


def test_texts_are_sentences(folder):
    for text in pl.read_csv(folder / "items.csv")["description"].drop_nulls():
        assert text[0].isupper()
        assert text.endswith(".")
        assert not re.search(r"[{}]|  |\b[Aa] [aeiou]", text)


def test_the_ordinary_reader_reads_it(data):
    assert (data.name, data.n_items) == ("generated", N_ITEMS)
    assert data.n_users == N_USERS
    assert len(data.cold_items) == round(0.1 * N_ITEMS)
    for part in (data.valid, data.test):
        assert np.isin(part.items, data.cold_items).any()
        assert not np.isin(part.items, data.cold_items).all()
    assert data.content["text"].n_present < N_ITEMS
    assert data.meta["options"]["split"]["name"] == "cold-items"


def test_purchases_have_a_long_tail(data):
    per_user = data.train.user_degree + data.valid.user_degree + data.test.user_degree
    assert 12 <= np.median(per_user) <= 20
    assert per_user.min() >= 9
    assert per_user.max() > 2 * np.median(per_user)
    per_item = np.sort(data.train.item_degree[data.train.item_degree > 0])[::-1]
    # The best-selling tenth would have a tenth of the purchases if all items sold alike.
    assert per_item[: len(per_item) // 10].sum() > 0.15 * per_item.sum()


def attributes(data):
    """How alike items are by the words of their theme and use, and by the mean color of the middle."""
    words = [[*theme.tags, *theme.uses] for theme in THEMES.values()] + [
        [use] for theme in THEMES.values() for use in theme.uses
    ]
    text = np.zeros((data.n_items, len(words)))
    for row, value in enumerate(data.content["text"]):
        text[row] = [any(word in (value or "") for word in some) for some in words]
    image = np.zeros((data.n_items, 3))
    for row in range(data.n_items):
        path = data.content["image"].path(row)
        if path is not None:
            with Image.open(path) as picture:
                image[row] = np.asarray(picture)[56:88, 48:80].mean(axis=(0, 1))
    distance = np.linalg.norm(image[:, None] - image[None], axis=2)
    seen = image.any(axis=1)
    alike = np.exp(-((distance / 30) ** 2)) * seen[:, None] * seen[None]
    return text @ text.T, alike


def recall(scores, data, items, k=10):
    hidden = np.zeros((data.n_users, data.n_items), dtype=bool)
    hidden[data.test.users, data.test.items] = True
    hidden[:, ~items] = False
    allowed = np.where(
        items[None] & ~data.train.contains(np.arange(data.n_users)[:, None], np.arange(data.n_items)),
        scores,
        -np.inf,
    )
    users = hidden.any(axis=1)
    top = np.argsort(-allowed[users], axis=1, kind="stable")[:, :k]
    return float((np.take_along_axis(hidden[users], top, axis=1).sum(1) / hidden[users].sum(1)).mean())


def test_content_predicts_purchases_of_warm_and_of_cold_items(data):
    train = np.zeros((data.n_users, data.n_items))
    train[data.train.users, data.train.items] = 1
    popularity = np.tile(train.sum(0), (data.n_users, 1))
    text, image = attributes(data)
    together = (text + image) ** 2
    np.fill_diagonal(together, 0)
    cold = np.zeros(data.n_items, dtype=bool)
    cold[data.cold_items] = True
    warm_gain = recall(train @ together, data, ~cold) / recall(popularity, data, ~cold)
    assert warm_gain > 1.3
    chance = 3 / cold.sum()
    assert recall(train @ together, data, cold, k=3) > 1.7 * chance
    assert recall(train @ text, data, cold, k=3) > 1.2 * chance
    assert recall(train @ image, data, cold, k=3) > 1.2 * chance


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=list(KINDS))
def test_every_kind_is_drawn_in_every_look(kind):
    corners = []
    for look in range(len(LOOKS)):
        pixels = np.asarray(render(kind, look, numpy_rng(0, "test/picture", look)), dtype=float)
        assert pixels.shape == (SIZE, SIZE, 3)
        corners.append(pixels[:6, :6].mean())
        middle = pixels[60:84, 52:76].reshape(-1, 3).mean(0)
        assert np.linalg.norm(middle - pixels[:6, :6].reshape(-1, 3).mean(0)) > 20
    assert min(corners) > 200
