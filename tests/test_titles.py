"""Titles of items: of a column of their own, or the beginning of the text."""

import numpy as np
import pytest

from graphrec.core.errors import DataError
from graphrec.data.content import TITLE, Content, title, titles
from graphrec.data.readers import load_dataset
from graphrec.features import FeatureStore, FeatureTable
from graphrec.features.extract.llm.jobs import item_titles
from graphrec.runs import features_for
from tests.layouts import write

CLICKS = "user,item\n" + "".join(f"u{u},{i}\n" for u in range(6) for i in (1, 2, 3) if u % 3 != i - 1)
ITEMS = "item,name,text\n1,Tea. Green & black.,Leaves of tea. Dried.\n2,,Mr. Bean goes out. Comedy.\n3,  ,\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("E.T. the Extra-Terrestrial (1982). Drama.", "E.T. the Extra-Terrestrial (1982)"),
        ("E.T. A film about a boy. Drama.", "E.T. A film about a boy"),
        ("Mr. Bean. Comedy.", "Mr. Bean"),
        ("Dr. Strangelove or: How I Learned. Satire.", "Dr. Strangelove or: How I Learned"),
        ("Seven (a.k.a. Se7en) (1995). Crime. Mills.", "Seven (a.k.a. Se7en) (1995)"),
        ("Album feat. Somebody. Rock.", "Album feat. Somebody"),
        ("Red cup. Blue inside.", "Red cup"),
        ("Version 2.0 of it. New.", "Version 2.0 of it"),
        ("\n  First   line\nSecond line. More", "First line"),
        ("Toy Story 2. Animation.", "Toy Story 2"),
        ("Whole. ", "Whole"),
    ],
)
def test_the_beginning_of_a_text(text, expected):
    assert title(text) == expected


def test_a_long_line_is_cut():
    cut = title("word " * 100)
    assert len(cut) <= TITLE
    assert cut.endswith("word…")


def test_titles_without_texts_or_of_another_field():
    assert titles({"title": Content("text", ["A. B", None])}) == ["A. B", None]
    assert titles({"about": Content("text", ["One. Two.", None])}, "about") == ["One", None]
    assert titles({}) == []


def test_a_column_of_titles_is_no_modality(tmp_path, graphrec):
    write(tmp_path, {"interactions.csv": CLICKS, "items.csv": ITEMS})
    data = load_dataset("table", tmp_path, items="items.csv", title="name", text="text")
    assert data.content["title"].values == ("Tea. Green & black.", None, None)
    assert titles(data.content) == ["Tea. Green & black.", "Mr. Bean goes out", None]
    assert item_titles(data) == ["Tea. Green & black.", "Mr. Bean goes out", "3"]
    assert item_titles(data, full_text=True)[0] == "Leaves of tea. Dried."
    store = FeatureStore(tmp_path / "cache")
    vectors = np.ones((3, 4), dtype=np.float32)
    store.save(data, "text", FeatureTable.from_array(vectors, data, "text"))
    assert set(store.load_tables(data)) == {"text"}
    assert set(features_for("freedom", data, store)) == {"text"}
    saved = str(data.save(tmp_path / "saved"))
    line = ["train", "mf", saved, "--out", str(tmp_path / "run"), "--set", "train.epochs=1"]
    answer = graphrec(*line, "--select", "none")
    assert answer.code == 0, answer.err
    answer = graphrec("similar", str(tmp_path / "run"), "--item", "2")
    assert "Tea. Green & black." in answer.out
    with pytest.raises(DataError, match=r"items\.csv.*'nmae'.*'name'"):
        load_dataset("table", tmp_path, items="items.csv", title="nmae")
