"""Recommenders of sparse vectors, and new items by every rule that a model may have to place them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.sparse import csc_matrix, csr_matrix
from tolerances import SCORE

from graphrec import testing
from graphrec.core.errors import CheckpointError, ConfigError, FeatureError, TrainingError
from graphrec.core.random import numpy_rng
from graphrec.features import FeatureTable
from graphrec.graphs.graph import Graph
from graphrec.models import MODELS, model as model_class
from graphrec.models.alpharec import AlphaRec
from graphrec.models.base import Ranker
from graphrec.models.itemknn import ItemKNN
from graphrec.models.itemknn_content import ItemKNNContent
from graphrec.models.train_config import TrainConfig
from graphrec.models.vbpr import VBPR
from graphrec.models.zero_shot import ZeroShot
from graphrec.serving import Recommender, exact
from graphrec.training.trainer import Trainer

COLD = [30, 31, 32, 34, 35, 36, 37, 38, 39]


@pytest.fixture(scope="module")
def cold():
    """Items 30..39 have no train interaction; some items lack a picture or a text, 33 lacks both."""
    full, _ = testing.communities(2, 20)
    warm = full.train.items < 30
    pairs = np.stack([full.train.users[warm], full.train.items[warm]], 1)
    data = testing.dataset(pairs, [], full.n_users, full.n_items, "cold")
    tables = {}
    for modality, dim, missing in (("image", 12, [3, 31, 33]), ("text", 7, [4, 32, 33])):
        values = numpy_rng(0, f"test/{modality}").normal(size=(data.n_items, dim)).astype(np.float32)
        values[missing] = 0
        tables[modality] = FeatureTable.from_array(values, data, modality)
    return data, tables


@pytest.fixture(scope="module")
def knn(cold) -> Recommender:
    return Recommender.from_model(ItemKNN.build(cold[0]), cold[0])


def vectors(rec: Recommender) -> np.ndarray:
    found = rec.item_vectors
    return found if isinstance(found, np.ndarray) else found.toarray()


def embedded(model: Ranker) -> np.ndarray:
    items = model.embed()[1]
    return (items.dense() if isinstance(items, Graph) else items.detach()).numpy()


# -- new items -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in MODELS if issubclass(model_class(n), Ranker)])
def test_models_say_whether_they_place_new_items(cold, name: str) -> None:
    data, tables = cold
    kind = model_class(name)
    assert issubclass(kind, Ranker)
    model = kind.build(data, testing.select_features(kind, tables))
    assert kind.supports_cold_items == (model.cold_start_rule is not None)
    assert model.cold_scores == ("from content" if kind.supports_cold_items else "as trained")
    rec = Recommender.from_model(model, data, tables)
    if not kind.supports_cold_items:
        with pytest.raises(FeatureError, match=rf"\({name}\) has no rule"):
            rec.add_items(["new"], {"text": tables["text"].take([35])})
    else:
        assert len(rec.add_items(["new"], {"text": tables["text"].take([35])}).items) == data.n_items + 1


CASES = [
    (VBPR, {"dim": 8}),
    (VBPR, {"dim": 8, "content_dim": 3, "fill": "mean"}),
    (VBPR, {"dim": 8, "fill": "neighbors"}),
    (ItemKNNContent, {"k": 4, "image_weight": 0.3}),
    (ItemKNNContent, {"k": 4, "image_weight": 0.3, "normalize": True}),
    (ItemKNNContent, {"k": 4, "image_weight": 0.3, "fill": "mean"}),
    (ItemKNNContent, {"k": 4, "image_weight": 0.0}),
    (AlphaRec, {"dim": 8}),
    (AlphaRec, {"dim": 8, "normalize_features": False}),
    (AlphaRec, {"dim": 8, "fill": "mean"}),
    (ZeroShot, {}),
    (ZeroShot, {"normalize_features": False}),
    (ZeroShot, {"fill": "mean"}),
]


@pytest.mark.parametrize("reloaded", [False, True])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_added_items_get_what_cold_ones_get(cold, kind, options, reloaded: bool, tmp_path) -> None:
    data, tables = cold
    model = kind.build(data, tables, kind.Config(**options))
    if kind in (VBPR, AlphaRec):
        settings = TrainConfig(epochs=3, patience=None, batch_size=64, learning_rate=0.05, device="cpu")
        Trainer(settings).fit(model)  # the rule is to follow the weights
    expected = embedded(model)
    rec = Recommender.from_model(model, data, tables)
    if reloaded:
        rec = Recommender.load(rec.save(tmp_path / "rec"))
    rows = [i for i in COLD if options.get("image_weight") != 0 or i != 32]  # 32 has but an image
    new = [f"new-{i}" for i in rows]
    assert rec.add_items(new, {m: t.take(rows) for m, t in tables.items()}) is rec
    scale = np.abs(expected[rows]).max()
    assert np.abs(expected[rows]).sum(1).min() > 0
    assert np.abs(vectors(rec)[rec.items.indices(new)] - expected[rows]).max() <= SCORE * scale
    assert np.array_equal(vectors(rec)[: data.n_items], expected)
    ids, scores = rec.recommend("u1", len(rec.items))
    score = dict(zip(ids, scores, strict=True))
    for i in rows:
        assert score[f"new-{i}"] == pytest.approx(score[f"i{i}"], abs=10 * SCORE)
    assert rec.similar_items("new-30", 1)[0][0] == "i30"
    again = Recommender.load(rec.save(tmp_path / "again"))
    for one, other in zip(again.recommend("u1", 9), rec.recommend("u1", 9), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("factor", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("name", ["freedom", "itemknn-content", "alpharec", "zero-shot"])
def test_the_length_of_content_does_not_matter_to_its_neighbors(cold, name: str, factor: float) -> None:
    data, tables = cold
    rec = Recommender.from_model(model_class(name).build(data, tables), data, tables)
    content = {m: t.take([30, 35]).astype(np.float32) for m, t in tables.items()}
    rec.add_items(["a", "b"], content)
    rec.add_items(["c", "d"], {m: values * np.float32(factor) for m, values in content.items()})
    a, b, c, d = vectors(rec)[-4:]
    assert np.allclose(a, c, rtol=SCORE, atol=SCORE * np.abs(a).max())
    assert np.allclose(b, d, rtol=SCORE, atol=SCORE * np.abs(b).max())
    assert np.abs(a).max() > 0


def test_a_projection_needs_no_known_items(cold) -> None:
    data, tables = cold
    model = VBPR.build(data, tables, VBPR.Config(dim=8))
    rec = Recommender.from_model(model, data).add_items(["new"], {"image": tables["image"].take([35])})
    image = model.weights()["image"].detach().numpy()
    assert np.allclose(
        rec.item_vectors[-1], [*np.zeros(8), *(image @ tables["image"].values[35])], atol=SCORE
    )
    with torch.no_grad():
        model.projection.weight.zero_()
    assert rec.rule.weights["image"].any(), "the recommender's rule is its own"


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_what_cannot_be_placed_is_refused(cold, kind, options) -> None:
    data, tables = cold
    rec = Recommender.from_model(kind.build(data, tables, kind.Config(**options)), data, tables)
    text = tables["text"].take([30, 31])
    for features, message in [
        ({"txt": text}, "Did you mean 'text'"),
        ({"text": text[:, :3]}, r"'text' has shape \(2, 3\); expected \(2, 7\)"),
        ({"text": [text[0], None]}, "'b' has no content"),
        ({}, "'a' has no content"),
        ({"text": text * [[1], [np.inf]]}, "'b' holds NaN or Inf"),
    ]:
        with pytest.raises(FeatureError, match=message):
            rec.add_items(["a", "b"], features)
        assert len(rec.items) == data.n_items == vectors(rec).shape[0]
    with pytest.raises(FeatureError, match=r"\['text'\] are missing"):
        Recommender.from_model(kind.build(data, tables), data, {"image": tables["image"]})


def test_similarities_need_known_items(cold) -> None:
    data, tables = cold
    rec = Recommender.from_model(ItemKNNContent.build(data, tables), data)
    with pytest.raises(FeatureError, match="without features"):
        rec.add_items(["new"], {"text": tables["text"].take([35])})


# -- sparse vectors ------------------------------------------------------------------------------------------


def test_recommends_by_the_models_scores(cold, knn) -> None:
    data, _ = cold
    scores = ItemKNN.build(data).score(np.arange(data.n_users)).numpy()
    scores[data.train.users, data.train.items] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")
    for allowed in (None, [1, 5, 12, 28]):
        kept = {"only": data.items.take(allowed)} if allowed else {}
        ids, found = knn.recommend(list(data.users), 40, **kept)
        for u in range(data.n_users):
            best = [i for i in order[u] if scores[u, i] > -np.inf and (allowed is None or i in allowed)]
            assert list(ids[u][: len(best)]) == data.items.take(np.array(best, dtype=int))
            assert np.array_equal(found[u][: len(best)], scores[u][best])
            assert (ids[u][len(best) :] == None).all()  # noqa: E711
    alone, _ = knn.recommend("u7", 5, exclude=["i2"])
    assert "i2" not in alone
    assert list(knn.recommend("stranger", 3, unknown="popularity")[0]) == data.items.take(
        np.argsort(-data.train.item_degree, kind="stable")[:3]
    )


def test_similar_items_are_those_of_the_highest_cosine(cold, knn) -> None:
    data, _ = cold
    rows = knn.item_vectors.toarray().astype(np.float64)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    ids, scores = knn.similar_items(list(data.items), 6)
    assert np.allclose(scores, -np.sort(-cosine, axis=1)[:, :6], atol=SCORE)
    found = np.take_along_axis(cosine, np.array([data.items.indices(row) for row in ids]), 1)
    assert np.allclose(scores, found, atol=SCORE)


def test_saves_and_loads_and_damage_is_named(cold, tmp_path) -> None:
    data, tables = cold
    rec = Recommender.from_model(
        ItemKNNContent.build(data, tables, ItemKNNContent.Config(fill="mean")), data, tables
    )
    names = sorted(p.name for p in rec.save(tmp_path).iterdir())
    found = Recommender.load(tmp_path)
    assert isinstance(found.item_vectors, csr_matrix)
    for one, other in zip(
        rec.recommend(list(data.users), 20), found.recommend(list(data.users), 20), strict=True
    ):
        assert np.array_equal(one, other)
    assert repr(found) == "Recommender(itemknn-content, cold: 40 users, 40 items, dim 40)"
    assert sum(name.startswith(("user_vectors_", "item_vectors_")) for name in names) == 6
    for name in names:
        path, whole = tmp_path / name, (tmp_path / name).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match=name):
            Recommender.load(tmp_path)
        path.write_bytes(whole)


def test_the_vectors_are_copies(cold) -> None:
    data, _ = cold
    model = ItemKNN.build(data)
    rec = Recommender.from_model(model, data)
    before = rec.item_vectors.toarray()
    model.neighbors.weight.zero_()
    assert np.array_equal(rec.item_vectors.toarray(), before)
    model.neighbors.weight[0] = torch.nan
    with pytest.raises(TrainingError, match="item 'i0' is not finite"):
        Recommender.from_model(model, data)


def test_faiss_refuses_sparse_vectors_and_says_why(knn, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"item vectors of itemknn are sparse.*lightgcn"):
        knn.export_faiss(tmp_path / "index")
    assert not (tmp_path / "index").exists()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_sparse_retrieval_equals_dense(draw) -> None:
    b, n, d = (draw.draw(st.integers(1, top)) for top in (40, 30, 6))
    k = draw.draw(st.integers(1, n))
    rng = np.random.default_rng(draw.draw(st.integers(0, 2**32)))
    queries, keys = (rng.integers(-1, 3, s).clip(0).astype(np.float32) for s in ((b, d), (n, d)))
    hidden = torch.from_numpy(rng.random((b, n)) < 0.2)

    def mask(start: int, block: torch.Tensor) -> None:
        block[hidden[start : start + len(block)]] = -torch.inf

    dense = exact.retrieve(torch.from_numpy(queries), torch.from_numpy(keys), k, mask)
    found = exact.retrieve(csr_matrix(queries), csc_matrix(keys), k, mask)
    finite = dense[0] > -torch.inf
    assert torch.equal(found[0], dense[0])
    assert torch.equal(found[1][finite], dense[1][finite])
