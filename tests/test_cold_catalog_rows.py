"""Items of an item table that nobody has taken yet."""

import numpy as np
import pytest

from graphrec.data import Dataset
from graphrec.data.readers import load_dataset
from graphrec.evaluation.ranking import evaluate
from graphrec.features import FeatureTable
from graphrec.graphs.knn import knn
from graphrec.models import model
from tests.layouts import write

PAIRS = [(user, item) for user in range(8) for item in range(20, 40, 2) if (user + item // 2) % 3]
ROWS = {"user": [u for u, _ in PAIRS] + [99], "item": [i for _, i in PAIRS] + [50]}
"""Ten items of five or six interactions, and item 50 with one."""
CATALOG = {"item": [7, *range(20, 40), 50], "title": [f"item {i}" for i in (7, *range(20, 40), 50)]}
TEXT = {"text": ("text", "title")}
UNTAKEN = {"7", *(str(i) for i in range(21, 40, 2))}


def pairs(data, part):
    split = getattr(data, part)
    return {(data.users[u], data.items[i]) for u, i in zip(split.users, split.items, strict=True)}


def test_items_that_nobody_took_stay_without_train_rows(tmp_path):
    data = Dataset.from_frame(ROWS, items=CATALOG, content=TEXT, seed=3)
    warm = Dataset.from_frame(ROWS, items=CATALOG, content=TEXT, seed=3, cold_items=False)
    assert data.items.ids == tuple(map(str, CATALOG["item"])), "numbers by value, all rows"
    assert set(data.items.ids) - set(warm.items.ids) == UNTAKEN
    assert {data.items[i] for i in data.cold_items} >= UNTAKEN
    assert data.content["text"].values == tuple(CATALOG["title"])
    assert data.meta["item rows without interactions"] == data.meta["cold items kept"] == len(UNTAKEN)
    assert warm.meta["item rows without interactions"] == len(UNTAKEN)
    assert "cold items kept" not in warm.meta
    for part in ("train", "valid", "test"):
        assert pairs(data, part) == pairs(warm, part), "the split is the same with and without them"
    assert data.fingerprint != warm.fingerprint
    assert Dataset.load(data.save(tmp_path / "saved")) == data


def test_a_table_of_the_items_with_interactions_changes_nothing():
    taken = {"item": sorted(set(ROWS["item"]))}
    plain = Dataset.from_frame(ROWS)
    assert Dataset.from_frame(ROWS, items=taken) == plain
    assert Dataset.from_frame(ROWS, items=taken, cold_items=False) == plain


@pytest.mark.parametrize("core", [2, (0, 2)])
def test_items_that_the_k_core_drops_are_not_cold(core):
    dropped = Dataset.from_frame(ROWS, items=CATALOG, k_core=core)
    assert dropped.items.ids == tuple(map(str, range(20, 40, 2)))
    assert dropped.meta["item rows without interactions"] == len(UNTAKEN) + 1
    kept = Dataset.from_frame(ROWS, items=CATALOG, k_core=core, cold_items=True)
    assert set(kept.items.ids) == {*dropped.items.ids, *UNTAKEN}
    assert kept.meta["cold items kept"] == len(UNTAKEN)
    assert kept.meta["item rows without interactions"] == len(UNTAKEN) + 1
    users_only = Dataset.from_frame(ROWS, items=CATALOG, k_core=(2, 0))
    assert set(users_only.items.ids) == {*dropped.items.ids, *UNTAKEN}


def test_an_item_of_low_ratings_alone_is_cold():
    rated = {**ROWS, "rating": [5] * len(PAIRS) + [1]}
    data = Dataset.from_frame(rated, rating="rating", min_rating=3, items=CATALOG)
    assert set(data.items.ids) == set(map(str, CATALOG["item"]))
    assert data.meta["cold items kept"] == len(UNTAKEN) + 1


def test_cold_items_are_candidates_and_have_neighbors():
    data = Dataset.from_frame(ROWS, items=CATALOG, content=TEXT)
    ranker = model("popularity").build(data, {}, model("popularity").Config())
    report = evaluate(ranker, data.test, seen=data.train + data.valid, progress=False)
    assert report.meta["n_candidates"] == report.meta["n_items"] == len(CATALOG["item"])
    vectors = np.random.default_rng(0).normal(size=(data.n_items, 4)).astype(np.float32)
    graph = knn(FeatureTable.from_array(vectors, data, "text"), k=3)
    assert set(np.diff(graph.rowptr.numpy())) == {3}


def test_lightgcn_trains_beside_items_without_edges():
    data = Dataset.from_frame(ROWS, items=CATALOG, content=TEXT)
    kind = model("lightgcn")
    ranker = kind.build(data, {}, kind.Config(dim=4))
    users, items = ranker.embed()
    assert items.shape == (len(CATALOG["item"]), 4)
    assert users.isfinite().all()
    assert items.isfinite().all()


def test_convert_counts_them(tmp_path, graphrec):
    write(tmp_path, {
        "interactions.csv": "user,item\n" + "".join(f"{u},{i}\n" for u, i in PAIRS),
        "items.csv": "item,title\n" + "".join(f"{i},t{i}\n" for i in (7, 20, 22, 24, 21)),
    })  # fmt: skip
    command = ["data", "convert", "table", "--root", str(tmp_path), "--set", "items=items.csv", "--out"]

    def counts(*options):
        answer = graphrec(*command, str(tmp_path / "saved"), *options)
        assert answer.code == 0, answer.err
        return [line for line in answer.out.splitlines() if "without interactions" in line]

    assert [line.split(": ")[1] for line in counts()] == ["2 kept"]
    assert load_dataset(tmp_path / "saved").n_items == 12
    (line,) = counts("--set", "cold_items=false")
    assert "0 kept, 2 left out" in line
    (line,) = counts("--set", "k_core=3")
    assert "0 kept, 2 left out" in line
    assert load_dataset(tmp_path / "saved").n_items == 10
