"""GRCN against the authors' code, attention over edges, and what its options do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cold_catalog import cold_catalog
from reference import MODALITIES, assert_close
from tolerances import PROPAGATION
from torch.nn.functional import leaky_relu, normalize
from zoo import IDS, Zoo

from graphrec import testing
from graphrec.core.errors import GraphError
from graphrec.core.random import numpy_rng
from graphrec.graphs.attention import edge_attention, edge_softmax
from graphrec.graphs.graph import Graph, bipartite, edge_products
from graphrec.models.grcn import GRCN
from graphrec.serving import Recommender

NAMES = {"id_embedding": IDS, "confidence": "confidence"}
for m in MODALITIES:
    NAMES[f"preference.{m}"] = f"preferences.{m}"
    for part in ("weight", "bias"):
        NAMES[f"project.{m}.{part}"] = f"content.{m}.projection.{part}"


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return Zoo("grcn")


def of_the_reference(zoo: Zoo, **options) -> GRCN:
    config = {"dim": 16, "content_dim": 16, "n_routing": 3, "reg_weight": 0.1, **options}
    model = GRCN.build(zoo.data, zoo.tables, GRCN.Config(**config))
    zoo.load(model, NAMES)
    return model


def test_losses_gradients_and_scores(zoo) -> None:
    model = of_the_reference(zoo, reference_compat=True, cold_items="as_trained")
    users, items = zoo["graph.edges"]  # the reference's messages: to items first, then to users
    source, target = np.concatenate([[users, items], [items, users]], 1)
    order = np.lexsort((source, target))
    assert np.array_equal(model.graph.target, target[order])
    assert np.array_equal(model.graph.col, source[order])
    shares = []
    for m in MODALITIES:
        view, share = model.attend(m)
        assert_close(view, zoo[f"mid.{m}"], m)
        assert_close(share, zoo[f"mid.attention_{m}"][order, 0], f"attention of {m}")
        shares.append(share)
    assert_close(model.refined(shares).weight, zoo["mid.edge_weight"][order, 0], "edge weights")
    assert_close(torch.cat(model.propagate())[:, :16], zoo["mid.id"], "IDs")
    zoo.check_losses(model, model.loss(zoo.batch), {"bpr": "bpr", "reg": "reg"})
    zoo.check_gradients(model, NAMES)
    zoo.check_embeddings(model)


def test_the_reference_updates_no_preferences(zoo) -> None:
    compatible = of_the_reference(zoo, reference_compat=True)
    without = of_the_reference(zoo, n_routing=0)
    routed = of_the_reference(zoo)
    for m in MODALITIES:
        assert torch.equal(compatible.compared(m), without.compared(m))
        assert not torch.allclose(compatible.compared(m), routed.compared(m), atol=0.01)


@pytest.mark.parametrize("n_routing", [1, 3])
def test_preferences_are_updated_by_items(zoo, n_routing: int) -> None:
    """The paper's form, by dense matrices."""
    model = of_the_reference(zoo, n_routing=n_routing)
    taken = bipartite(zoo.data.train).dense()[:40, 40:] > 0
    for m in MODALITIES:
        layer = model.content[m].projection
        z = normalize(leaky_relu(layer(torch.from_numpy(zoo[m]))), dim=1)
        p = normalize(model.preferences[m], dim=1)
        for _ in range(n_routing):
            logits = torch.where(taken, p @ z.T, -torch.inf)
            p = normalize(p + logits.softmax(1) @ z, dim=1)
        found = model.compared(m)
        assert torch.allclose(found, torch.cat([p, z]), atol=PROPAGATION)
        wanted = torch.autograd.grad(
            p.square().sum(1) @ torch.arange(40.0) + p[:, 0].sum(), model.preferences[m]
        )
        users = found[:40]
        total = users.square().sum(1) @ torch.arange(40.0) + users[:, 0].sum()
        (gradient,) = torch.autograd.grad(total, model.preferences[m])
        assert torch.allclose(gradient, wanted[0], atol=1e-5)


def test_preferences_are_regularized_alike(zoo) -> None:
    alike, compatible = (of_the_reference(zoo, reference_compat=c, n_routing=0) for c in (False, True))
    added = compatible.loss(zoo.batch)["reg"] - alike.loss(zoo.batch)["reg"]
    expected = 0.1 * np.square(zoo["param.preference.image"]).mean()
    assert abs(float(added.detach()) - expected) < 1e-6 * expected + 1e-8


# -- attention -----------------------------------------------------------------------------------------------


@pytest.fixture
def graph() -> Graph:
    """7 sources and 6 targets, the third without edges."""
    rng = numpy_rng(0, "tests/attention")
    edges = np.argwhere(rng.random((6, 7)) < 0.5)
    edges = edges[edges[:, 0] != 2]
    return Graph.from_edges(edges[:, 1], edges[:, 0], n_source=7, n_target=6)


@pytest.mark.parametrize("shift", [0.0, 1000.0, -1000.0])
def test_softmax_over_the_edges_of_a_target(graph, shift: float) -> None:
    rng = numpy_rng(1, "tests/attention")
    logits = torch.from_numpy(rng.normal(size=len(graph)) * 3 + shift).requires_grad_()
    above = torch.from_numpy(rng.normal(size=len(graph)))
    present = graph.dense() > 0
    dense = torch.full(present.shape, -torch.inf, dtype=torch.float64).masked_scatter(present, logits)
    expected = dense.softmax(1)[present]
    found = edge_softmax(graph, logits)
    assert torch.allclose(found, expected, atol=1e-12)
    one, other = (torch.autograd.grad(x, logits, above)[0] for x in (found, expected))
    assert torch.allclose(one, other, atol=1e-12)
    with pytest.raises(GraphError, match=r"\(3,\)"):
        edge_softmax(graph, logits[:3])


def test_both_forms_of_attention_agree(zoo) -> None:
    graph = bipartite(zoo.data.train)
    x = normalize(torch.from_numpy(numpy_rng(2, "tests/attention").normal(size=(90, 8)).astype(np.float32)))
    heard = graph.weighted(edge_softmax(graph, edge_products(graph, x))) @ x
    assert torch.allclose(heard, edge_attention(graph, x, x, x), atol=PROPAGATION)


# -- modalities, cold items ----------------------------------------------------------------------------------


def test_any_number_of_any_modalities_will_do() -> None:
    data, tables = testing.communities(2, 20)
    for names in (["audio"], ["video", "audio", "text"]):
        given = dict.fromkeys(names, tables["text"])
        model = testing.train(GRCN, GRCN.Config(dim=8, content_dim=4), data, given, 1)
        assert model.confidence.shape[1] == len(names)
        assert model.embed()[1].shape == (data.n_items, 8 + 4 * len(names))


def test_an_item_without_content_hears_users_alone() -> None:
    data, _ = testing.communities(2, 20)
    vectors = numpy_rng(0, "tests/grcn").normal(size=(data.n_items, 6))
    model = GRCN.build(data, testing.features_of(data, vectors, missing=(1, 2)), GRCN.Config(content_dim=4))
    users, items = model.compared("image").split([data.n_users, data.n_items])
    assert not items[[1, 2]].any()
    view, share = model.attend("image")
    takers = torch.from_numpy(data.train.users[data.train.items == 1].astype(np.int64))
    edges = model.graph.target == data.n_users + 1
    assert torch.allclose(share[edges], torch.full((len(takers),), 1 / len(takers)))
    assert torch.allclose(view[data.n_users + 1], users[takers].mean(0), atol=PROPAGATION)


def test_cold_items_are_placed_as_the_recommender_places_new_ones() -> None:
    data, tables, _ = cold_catalog()
    model = testing.train(GRCN, GRCN.Config(dim=8, content_dim=4, knn_k=5), data, tables, 2)
    items = model.embed()[1].detach()
    trained = model.propagate()[1].detach()
    warm, rows = data.train.item_degree > 0, [i for i in data.cold_items if i != 33]  # 33 has no content
    assert torch.equal(items[warm], trained[warm])
    new = [f"new-{i}" for i in rows]
    rec = Recommender.from_model(model, data, tables).add_items(
        new, {m: t.take(rows) for m, t in tables.items()}
    )
    placed = rec.item_vectors[rec.items.indices(new)]
    assert np.abs(placed - items[rows].numpy()).max() <= PROPAGATION * float(items[rows].abs().max())
    assert (items[rows] - trained[rows]).abs().max() > 1e-4
