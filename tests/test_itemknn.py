"""Both ItemKNNs and UserKNN against dense formulas, their options, gaps and cold items, and the commands."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from cold_catalog import gaps
from dense_formulas import dense, nearest_only
from tolerances import SCORE

import graphrec as gr
from graphrec import runs, testing
from graphrec.core.errors import ConfigError, FeatureError
from graphrec.core.random import numpy_rng
from graphrec.evaluation.ranking import evaluate
from graphrec.features import FeatureTable
from graphrec.graphs import sparse
from graphrec.graphs.graph import Graph
from graphrec.models.base import Ranker
from graphrec.models.itemknn import ItemKNN
from graphrec.models.itemknn_content import ItemKNNContent
from graphrec.models.similarity import SimilarityConfig
from graphrec.models.userknn import UserKNN


@pytest.fixture(scope="module")
def data():
    return testing.communities(2, 20)[0]


@pytest.fixture(scope="module")
def catalog():
    """Items 1 to 3 without a picture, 3 and 5 without a text, 4 to 9 without train interactions."""
    return gaps(6, 5, [1, 2, 3], [3, 5])


# -- on interactions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("products", [2**22, 300, 1])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("k", "shrink"), [(5, 0.0), (5, 3.0), (1, 10.0), (400, 10.0)])
def test_scores_are_sums_of_shrunk_cosines(data, k, shrink, normalize, products, monkeypatch) -> None:
    monkeypatch.setattr(sparse, "PRODUCTS", products)
    model = ItemKNN.build(data, None, ItemKNN.Config(k=k, shrink=shrink, normalize=normalize))
    x = dense(data.train)
    degree = x.sum(0)
    cosine = (x.T @ x) / np.maximum(np.sqrt(np.outer(degree, degree)) + shrink, 1e-12)
    np.fill_diagonal(cosine, 0)
    # To the precision in which similarities are compared, so that equals are equals here too.
    kept = nearest_only(cosine.astype(np.float32), k)
    if normalize:
        kept /= np.maximum(kept.sum(1, keepdims=True), 1e-12)
    assert np.allclose(model.neighbors.dense(), kept, atol=SCORE)
    assert np.allclose(model.score(np.arange(data.n_users)), x @ kept.T, atol=10 * SCORE)


def plainly_weighted(x: np.ndarray, weighting: str) -> np.ndarray:
    """Weights of the entries of ``x (m, n)``, whose columns are compared."""
    if weighting == "none":
        return x
    out = np.zeros_like(x)
    mean = x.sum() / x.shape[1]
    for row, column in zip(*np.nonzero(x), strict=True):
        rarity = max(math.log(x.shape[1] / (1 + x[row].sum())), 0)
        length = 1.2 * (0.25 + 0.75 * x[:, column].sum() / mean)
        out[row, column] = rarity * (2.2 / (length + 1) if weighting == "bm25" else 1)
    return out


def plainly_similar(x: np.ndarray, config: SimilarityConfig) -> np.ndarray:
    """Similarities of the columns of ``x``, pair by pair."""
    x = plainly_weighted(x, config.weighting)
    n = x.shape[1]
    result = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            shared, a, b = x[:, i] @ x[:, j], x[:, i] @ x[:, i], x[:, j] @ x[:, j]
            if i != j and shared > 0:
                result[i, j] = {
                    "cosine": shared / (math.sqrt(a * b) + config.shrink),
                    "asymmetric": shared
                    / (a**config.asymmetry * b ** (1 - config.asymmetry) + config.shrink),
                    "jaccard": shared / (a + b - shared + config.shrink),
                    "dice": 2 * shared / (a + b + config.shrink),
                }[config.similarity]
    return result


def assert_nearest(rows: np.ndarray, similarity: np.ndarray, k: int) -> None:
    """``rows`` holds the ``k`` largest of each row; which of equals is left to rounding."""
    assert np.allclose(rows[rows > 0], similarity[rows > 0], rtol=1e-5, atol=SCORE)
    kept = nearest_only(similarity, k)
    assert np.allclose(np.sort(rows, axis=1), np.sort(kept, axis=1), rtol=1e-5, atol=SCORE)


SIMILARITIES = [
    {"similarity": "jaccard"},
    {"similarity": "jaccard", "shrink": 0.0, "k": 400},
    {"similarity": "dice", "shrink": 0.0},
    {"similarity": "dice", "shrink": 3.0, "k": 1},
    {"similarity": "asymmetric", "asymmetry": 0.5},
    {"similarity": "asymmetric", "asymmetry": 0.2, "k": 400},
    {"similarity": "asymmetric", "asymmetry": 1.0, "shrink": 0.0},
    {"weighting": "tf-idf"},
    {"weighting": "bm25", "k": 400, "shrink": 0.0},
    {"weighting": "bm25", "similarity": "asymmetric", "asymmetry": 0.3},
    {"weighting": "tf-idf", "similarity": "jaccard"},
]


@pytest.mark.parametrize("options", SIMILARITIES, ids=str)
def test_other_similarities_and_weightings(data, options) -> None:
    config = ItemKNN.Config(**{"k": 5, **options})
    model = ItemKNN.build(data, None, config)
    x = dense(data.train)
    rows = model.neighbors.dense().numpy()
    assert_nearest(rows, plainly_similar(x, config), config.k)
    assert np.allclose(model.score(np.arange(data.n_users)), x @ rows.T, atol=10 * SCORE)


@pytest.mark.parametrize("options", [{}, *SIMILARITIES], ids=str)
def test_users_are_compared_likewise(data, options) -> None:
    config = UserKNN.Config(**{"k": 5, **options})
    model = UserKNN.build(data, None, config)
    x = dense(data.train)
    rows = model.neighbors.dense().numpy()
    assert rows.shape == (data.n_users, data.n_users)
    assert_nearest(rows, plainly_similar(x.T, config), config.k)
    scores = model.score(np.arange(data.n_users))
    assert np.allclose(scores, rows @ x, rtol=1e-5, atol=10 * SCORE)


@pytest.mark.parametrize("weighting", ["tf-idf", "bm25"])
def test_what_everyone_has_counts_nothing(weighting) -> None:
    """A weight of ``log(n / (1 + n))`` would be negative, and its square positive."""
    pairs = [(0, i) for i in range(6)] + [(1, 0), (1, 1), (2, 2)]
    data = testing.dataset(pairs, [], 3, 6, "everything")
    rows = ItemKNN.build(data, None, ItemKNN.Config(weighting=weighting, shrink=0.0)).neighbors.dense()
    shared = torch.zeros(6, 6)
    shared[0, 1] = shared[1, 0] = 1
    assert torch.equal(rows > 0, shared > 0)


def test_of_the_options_of_similarity_each_has_an_effect(data) -> None:
    def rows(**options: Any) -> torch.Tensor:
        return ItemKNN.build(data, None, ItemKNN.Config(**options)).neighbors.dense()

    plain = rows()
    for options in SIMILARITIES:
        even = options.get("asymmetry") == 0.5
        assert torch.allclose(rows(**options), plain) == (even and "shrink" not in options)
    with pytest.raises(ConfigError, match=r"cosine.*asymmetric.*jaccard.*dice"):
        ItemKNN.Config(similarity="pearson")
    with pytest.raises(ConfigError, match="asymmetry"):
        ItemKNN.Config(asymmetry=1.5)


@pytest.mark.parametrize("options", [{}, {"weighting": "bm25"}, {"similarity": "asymmetric"}], ids=str)
def test_a_user_without_items_has_no_neighbors_and_is_none(options) -> None:
    full, _ = testing.communities(2, 20)
    keep = (full.train.users != 0) & ~np.isin(full.train.items, [0, 7, 39])
    pairs = np.stack([full.train.users[keep], full.train.items[keep]], 1)
    data = testing.dataset(pairs, [], full.n_users, full.n_items, "gaps")
    model = UserKNN.build(data, None, UserKNN.Config(shrink=0.0, **options))
    rows = model.neighbors.dense()
    assert not rows[0].any()
    assert not rows[:, 0].any()
    scores = model.score(np.arange(data.n_users))
    assert torch.isfinite(scores).all()
    assert not scores[:, [0, 7, 39]].any()
    assert not scores[0].any()


def test_items_never_taken_score_zero() -> None:
    full, _ = testing.communities(2, 20)
    keep = (full.train.users != 0) & ~np.isin(full.train.items, [0, 7, 39])
    pairs = np.stack([full.train.users[keep], full.train.items[keep]], 1)
    data = testing.dataset(pairs, [], full.n_users, full.n_items, "gaps")
    scores = ItemKNN.build(data).score(np.arange(data.n_users))
    assert not scores[:, [0, 7, 39]].any()
    assert not scores[0].any()
    assert scores[1:].any(1).all()


def test_no_square_matrix_is_held() -> None:
    """30,000 items would be 3.4 GiB of pairs; their graph is as large as its neighbors."""
    n = 30_000
    rng = numpy_rng(0, "tests/many")
    keys = np.unique(rng.integers(0, 2_000, 40_000) * n + rng.integers(0, n, 40_000))
    data = testing.dataset(np.stack([keys // n, keys % n], 1), [], 2_000, n, "many")
    model = ItemKNN.build(data, None, ItemKNN.Config(k=5))
    users, items = model.embed()
    assert len(items) <= 5 * n
    assert len(users) == len(data.train)
    assert model.score([0, 1]).shape == (2, n)


# -- on content ----------------------------------------------------------------------------------------------


def expected_content(data, tables, k: int, weights: dict[str, float], normalize: bool) -> np.ndarray:
    """Rows of similarities from dense cosines, without fill."""
    warm = data.train.item_degree > 0
    total, share = np.zeros((data.n_items, data.n_items)), np.zeros(data.n_items)
    for m, weight in weights.items():
        x, present = tables[m].numpy().astype(np.float64), tables[m].present
        unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        cosine = unit @ unit.T
        np.fill_diagonal(cosine, 0)
        cosine[:, ~(warm & present)] = 0
        cosine[~present] = 0
        total += weight * nearest_only(cosine, k)
        share += weight * present
    by = total.sum(1) if normalize else share
    return total / np.where(by > 0, by, 1)[:, None]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("k", "image_weight"), [(3, 0.5), (8, 0.2), (400, 0.5), (3, 0.0), (3, 1.0)])
def test_scores_are_weighted_sums_of_cosines(catalog, k, image_weight, normalize) -> None:
    data, tables = catalog
    config = ItemKNNContent.Config(k=k, image_weight=image_weight, normalize=normalize)
    model = ItemKNNContent.build(data, tables, config)
    weights = {"image": image_weight, "text": 1 - image_weight}
    expected = expected_content(data, tables, k, weights, normalize)
    assert np.allclose(model.neighbors.dense(), expected, atol=SCORE)
    scores = dense(data.train) @ expected.T
    assert np.allclose(model.score(np.arange(data.n_users)), scores, atol=10 * SCORE)


def test_cold_items_are_scored_and_are_nobodys_neighbor(catalog) -> None:
    data, tables = catalog
    model = ItemKNNContent.build(data, tables, ItemKNNContent.Config(k=3))
    rows = model.neighbors.dense()
    assert rows[4:10].any(1).all()
    assert not rows[:, 4:10].any()
    assert not rows[3].any()  # neither a picture nor a text


@pytest.mark.parametrize("fill", ["mean", "neighbors"])
def test_filled_items_look_for_neighbors_and_are_nobodys(catalog, fill) -> None:
    data, tables = catalog
    config = ItemKNNContent.Config(k=3, fill=fill, image_weight=1.0)
    rows = ItemKNNContent.build(data, tables, config).neighbors.dense()
    zero = ItemKNNContent.build(data, tables, config.replace(fill="zero")).neighbors.dense()
    assert rows[1:4].any(1).all()
    assert not zero[1:4].any()
    assert not rows[:, 1:4].any()
    others = [i for i in range(data.n_items) if i not in (1, 2, 3)]
    assert torch.equal(rows[others], zero[others])


def test_equal_items_share_k_places(catalog) -> None:
    """Of more than ``k + 1`` equal items, each gets the same similarity to all others."""
    data, _ = catalog
    table = FeatureTable.from_array(np.ones((data.n_items, 3), np.float32), data, "text")
    rows = ItemKNNContent.build(data, {"text": table}, ItemKNNContent.Config(k=3)).neighbors.dense()
    warm = data.train.item_degree > 0
    for i in range(data.n_items):
        others = warm & (np.arange(data.n_items) != i)
        assert np.allclose(rows[i], np.where(others, 3 / others.sum(), 0), atol=1e-6)


def test_weights_of_any_modalities(catalog) -> None:
    data, tables = catalog

    def weights(*names: str) -> dict[str, float]:
        given = {m: tables["image" if m == "image" else "text"] for m in names}
        model = ItemKNNContent.build(data, given, ItemKNNContent.Config(image_weight=0.2))
        return model.cold_start_rule.weights

    assert weights("image") == {"image": 1.0}
    assert weights("sound", "text") == {"sound": 0.5, "text": 0.5}
    assert weights("image", "sound", "text") == {"image": 0.2, "sound": 0.4, "text": 0.4}
    with pytest.raises(FeatureError, match="features build"):
        ItemKNNContent.build(data)


def test_without_content_or_train_items_that_have_it_scores_are_zero(catalog) -> None:
    data, _ = catalog
    vectors = numpy_rng(0, "tests/few").normal(size=(data.n_items, 4)).astype(np.float32)
    only_cold = np.isin(np.arange(data.n_items), [4, 5])
    table = FeatureTable.from_array(vectors, data, "text", present=only_cold)
    model = ItemKNNContent.build(data, {"text": table})
    assert not model.score(np.arange(data.n_users)).any()


def test_neighbors_may_be_kept(catalog, tmp_path) -> None:
    data, tables = catalog
    config = ItemKNNContent.Config(k=3, graph_cache=tmp_path)
    first, again = (ItemKNNContent.build(data, tables, config).neighbors for _ in range(2))
    assert torch.equal(first.dense(), again.dense())
    assert len(list(tmp_path.iterdir())) == 2


# -- as rankers ----------------------------------------------------------------------------------------------


def test_sparse_scores_do_not_depend_on_the_batch(data) -> None:
    score = ItemKNN.build(data).scorer()
    together = score(torch.arange(data.n_users))
    assert torch.equal(together, torch.cat([score(torch.tensor([u])) for u in range(data.n_users)]))
    assert torch.equal(score(torch.tensor([3, 3, 1])), together[[3, 3, 1]])


def test_evaluation_ranks_by_the_scores(data) -> None:
    model = ItemKNN.build(data)
    report = evaluate(model, data.test, seen=data.train, k=5, metrics=["recall"])
    scores = model.score(np.arange(data.n_users)).numpy()
    scores[data.train.users, data.train.items] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    hits = [
        len(set(order[u]) & set(data.test.items_of(u))) / len(data.test.items_of(u)) for u in report.users
    ]
    assert np.allclose(report.metrics["recall@5"], hits)
    assert report.meta["cold_items"] == "as trained"


def test_largest_keeps_the_lowest_of_equals() -> None:
    rows = np.array([[1, 3, 3, 0, 2], [0, 0, 0, 0, 0], [5, 5, 5, 5, 5]], dtype=np.float32)
    graph = Graph.from_edges(*np.nonzero(rows)[::-1], rows[np.nonzero(rows)], n_source=5, n_target=3)
    kept = sparse.keep_largest(sparse.to_scipy(graph), 2).toarray()
    assert kept.tolist() == [[0, 3, 3, 0, 0], [0, 0, 0, 0, 0], [5, 5, 0, 0, 0]]


@pytest.mark.parametrize("name", ["itemknn", "userknn", "itemknn-content"])
def test_from_training_to_exports(name: str, tmp_path, monkeypatch, graphrec: Any, refused: Any) -> None:
    monkeypatch.chdir(tmp_path)
    graphrec("data", "generate", "shop", "--items", 60, "--users", 80)
    graphrec("features", "build", "shop/dataset")
    trained = graphrec("train", name, "shop/dataset", "--out", "runs/knn", "--set", "model.k=20")
    assert trained.code == 0, trained
    opened = runs.open_run("runs/knn")
    assert isinstance(opened.model, Ranker)
    assert opened.model.config.k == 20
    assert graphrec("evaluate", "runs/knn", "--cold").code == 0
    users, items = opened.data.users, opened.data.items
    answer = graphrec("recommend", "runs/knn", "--user", users[3], "-k", 4, "--format", "json")
    scores = opened.model.score([3])[0]
    known = opened.data.train + opened.data.valid + opened.data.test
    scores[known.items_of(3).tolist()] = -torch.inf
    best = scores.sort(descending=True, stable=True).indices[:4]
    assert [row["item"] for row in json.loads(answer.out)] == items.take(best.numpy())
    assert graphrec("similar", "runs/knn", "--item", items[1]).code == 0
    assert graphrec("export", "runs/knn", "--out", "recs.parquet", "-k", 3).code == 0
    assert "sparse" in refused("export", "runs/knn", "--faiss", "index")
    rec = gr.Recommender.load("runs/knn/recommender")
    assert rec.item_vectors.nnz == len(opened.model.embed()[1])
