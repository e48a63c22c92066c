"""What FREEDOM does beyond the reference: missing modalities, cold items, single modalities, its errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cold_catalog import without
from tolerances import BFLOAT16, SCORE

from graphrec import testing
from graphrec.core.errors import ConfigError, FeatureError
from graphrec.core.random import numpy_rng, torch_rng
from graphrec.features import FeatureTable
from graphrec.models.batches import SeededTriplets
from graphrec.models.freedom import FREEDOM
from graphrec.models.layers import ItemFeatures, projection
from graphrec.models.losses import bpr
from graphrec.models.train_config import TrainConfig
from graphrec.training.trainer import Trainer


@pytest.fixture(scope="module")
def catalog():
    """Communities with items 1-3 without content and items 4-9 without train interactions."""
    data = without(np.arange(4, 10))
    vectors = numpy_rng(0, "tests/freedom").normal(size=(data.n_items, 6))
    return data, testing.features_of(data, vectors, missing=(1, 2, 3))


def test_pairs_with_a_missing_modality_are_left_out_of_its_loss(catalog) -> None:
    data, tables = catalog
    model = FREEDOM.build(data, tables, FREEDOM.Config(dim=8, reg_weight=0.5))
    batch = SeededTriplets(*(torch.tensor(v) for v in ([0, 1, 2, 3], [10, 1, 12, 13], [14, 15, 2, 16], 0)))
    users, _ = model.propagate(model.epoch_graph)
    whole = torch.tensor([True, False, False, True])  # items 1 and 2 have no content
    for m in ("image", "text"):
        x = model.features[m].values
        difference = model.projections[m](x[batch.positives] - x[batch.negatives])
        expected = 0.5 * bpr((users[batch.users] * difference).sum(1)[whole])
        assert torch.allclose(model.loss(batch)[f"bpr_{m}"], expected, atol=1e-6)
        assert not torch.allclose(expected, 0.5 * bpr((users[batch.users] * difference).sum(1)), atol=1e-6)


def test_items_without_content_have_no_row_and_no_column(catalog) -> None:
    data, tables = catalog
    dense = FREEDOM.build(data, tables).item_graph.dense()
    assert not dense[[1, 2, 3]].any()
    assert not dense[:, [1, 2, 3]].any()


def test_cold_items_point_where_their_warm_neighbors_do_and_are_as_long(catalog) -> None:
    data, tables = catalog
    config = FREEDOM.Config(dim=8, knn_k=3, image_weight=0.25)
    model = FREEDOM.build(data, tables, config)
    users, items = model.embed()
    _, trained = model.propagate(model.full_graph)
    warm = np.flatnonzero(data.train.item_degree > 0)
    assert torch.equal(items[warm], trained[warm])
    for item in (4, 9):
        expected, length = torch.zeros(8), 0.0
        for m, weight in (("image", 0.25), ("text", 0.75)):
            x = torch.nn.functional.normalize(torch.from_numpy(tables[m].numpy()), dim=1)
            similarity = x @ x[item]
            usable = np.array([i for i in warm if tables[m].present[i]])
            nearest = usable[np.argsort(-similarity.numpy()[usable], kind="stable")[:3]]
            expected += weight * trained[nearest].mean(0)
            length += weight * float(trained[nearest].detach().norm(dim=1).mean())
        expected *= length / expected.norm()
        assert torch.allclose(items[item], expected, atol=SCORE)
    as_trained = FREEDOM.build(data, tables, config.replace(cold_items="as_trained"))
    assert torch.equal(as_trained.embed()[1], trained)
    assert torch.equal(as_trained.embed()[0], users)


def test_one_modality_has_all_the_weight(catalog) -> None:
    data, tables = catalog
    alone = FREEDOM.build(data, {"text": tables["text"]}, FREEDOM.Config(image_weight=0.9))
    both = FREEDOM.build(data, tables, FREEDOM.Config(image_weight=0.0))
    assert torch.allclose(alone.item_graph.dense(), both.item_graph.dense())
    assert set(alone.projections) == {"text"}


def test_pruning_is_a_function_of_the_epoch(catalog) -> None:
    data, tables = catalog
    model = FREEDOM.build(data, tables, FREEDOM.Config(dropout=0.5))
    graphs = []
    for epoch in (1, 2, 1):
        model.start_epoch(numpy_rng(0, "start_epoch", epoch))
        graphs.append(model.epoch_graph.dense())
        assert len(model.epoch_graph) == 2 * (len(data.train) // 2)
    assert torch.equal(graphs[0], graphs[2])
    assert not torch.equal(graphs[0], graphs[1])
    unpruned = FREEDOM.build(data, tables, FREEDOM.Config(dropout=0.0))
    unpruned.start_epoch(numpy_rng(0, "start_epoch", 1))
    assert unpruned.epoch_graph is unpruned.full_graph


def test_what_it_cannot_be_built_from_is_said(catalog) -> None:
    data, tables = catalog
    with pytest.raises(FeatureError, match="features build"):
        FREEDOM.build(data, {})
    assert FREEDOM.build(data, {"sound": tables["text"]}).weights == {"sound": 1.0}
    other, _ = testing.communities(3, 20)
    with pytest.raises(FeatureError):
        FREEDOM.build(other, tables)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("n_items", [40, 2000])  # fewer and more than a batch has
@pytest.mark.parametrize("n", [0, 1, 512, 1300])
def test_projected_differences_are_those_of_two_projections(trained, n_items, n) -> None:
    values = numpy_rng(0, "tests/features").normal(size=(n_items, 6)).astype(np.float32)
    features = ItemFeatures(FeatureTable(values, np.full(n_items, True)), trained)
    items, others = torch.from_numpy(numpy_rng(0, "tests/pairs").integers(0, n_items, (2, n)))
    layer = projection(6, 3, torch_rng(0, "tests/layer"))
    above = torch.from_numpy(numpy_rng(0, "tests/above").normal(size=(n, 3)).astype(np.float32))
    leaves = [layer.weight, *([features.values] if trained else [])]
    found = features.projected_difference(layer.weight, items, others)
    expected = layer(features(items)) - layer(features(others))
    assert torch.allclose(found, expected, atol=SCORE)
    pairs = (torch.autograd.grad(y, leaves, above) for y in (found, expected))
    for one, two in zip(*pairs, strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-4)  # over 1,300 terms of size 1


def test_memory_of_differences_is_never_shared_by_two_that_need_it(catalog) -> None:
    features, layer = ItemFeatures(catalog[1]["image"]), projection(6, 3, torch_rng(0, "tests/layer"))
    pairs = torch.from_numpy(numpy_rng(0, "tests/pairs").integers(0, 40, (3, 2, 20)))

    def gradient(y: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(y.square().sum(), layer.weight, retain_graph=True)[0]

    def found(i: int) -> torch.Tensor:
        return features.projected_difference(layer.weight, *pairs[i])

    expected = [gradient(layer(features(a) - features(b))) for a, b in pairs]
    one, two = found(0), found(1)
    for y, i in ((one, 0), (two, 1), (one, 0)):
        assert torch.allclose(gradient(y), expected[i], rtol=1e-5)
    three = found(2)
    with torch.no_grad():
        found(0)
    for y, i in ((one, 0), (three, 2), (two, 1), (three, 2)):
        assert torch.allclose(gradient(y), expected[i], rtol=1e-5)


def test_bfloat16_features_give_nearly_the_same_scores() -> None:
    data, _ = testing.communities(4, 30)
    tables = {
        m: testing.features_of(data, numpy_rng(0, f"tests/{m}").normal(size=(data.n_items, 64)))[m]
        for m in ("image", "text")
    }
    settings = TrainConfig(epochs=20, patience=None, batch_size=64, learning_rate=0.01, device="cpu")
    scores = []
    for dtype in ("float32", "bfloat16"):
        config = FREEDOM.Config(dim=16, reg_weight=0.1, feature_dtype=dtype)  # 100 times the usual weight
        model = FREEDOM.build(data, tables, config)
        Trainer(settings).fit(model)
        scores.append(model.score(torch.arange(data.n_users)))
    full, half = scores
    difference = (full - half).square().mean().sqrt() / full.std()
    assert 0 < difference < BFLOAT16
    with pytest.raises(ConfigError, match="train_features needs feature_dtype float32"):
        FREEDOM.Config(train_features=True, feature_dtype="bfloat16")


def test_a_learned_item_graph_follows_the_projections_and_stays_out_of_the_way_when_frozen(catalog) -> None:
    data, tables = catalog
    config = FREEDOM.Config(dim=8, knn_k=3, image_weight=0.25)
    frozen = FREEDOM.build(data, tables, config)
    model = FREEDOM.build(data, tables, config.replace(freeze_item_graph=False))
    for each in (frozen, model):
        each.start_epoch(np.random.default_rng(0))
    z = {m: model.projections[m](model.features[m].values).detach() for m in tables}
    expected = torch.zeros(data.n_items, data.n_items)
    for m, weight in (("image", 0.25), ("text", 0.75)):
        unit, present = torch.nn.functional.normalize(z[m], dim=1), np.flatnonzero(tables[m].present)
        similarity = (unit @ unit.T).detach().numpy()
        for item in present:
            nearest = present[np.argsort(-similarity[item, present], kind="stable")[:3]]
            expected[item, nearest] += weight / 3
    assert torch.allclose(model.item_graph.dense(), expected, atol=SCORE)
    before = frozen.item_graph
    with torch.no_grad():
        for each in (frozen, model):
            each.projections["text"].weight.mul_(torch.linspace(-3, 3, 8)[:, None])
            each.embed()
    assert frozen.item_graph is before
    assert not torch.allclose(model.item_graph.dense(), expected, atol=SCORE), (
        "scores follow the weights alone"
    )
