"""FREEDOM against numbers computed by the reference implementation on a 30 x 20 toy problem."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from reference import MODALITIES, assert_close, dataset, numbers

from graphrec.data import Dataset, Interactions
from graphrec.features import FeatureTable
from graphrec.graphs.graph import bipartite, degree_probability
from graphrec.models.batches import SeededTriplets
from graphrec.models.freedom import FREEDOM


@pytest.fixture(scope="module")
def toy() -> dict[str, np.ndarray]:
    return numbers()


@pytest.fixture(scope="module")
def data(toy) -> Dataset:
    return dataset(toy)


def reference_model(toy, data: Dataset, **options) -> FREEDOM:
    """FREEDOM with the fixture's features, options and parameters."""
    c = json.loads(str(toy["freedom.config"]))
    tables = {m: FeatureTable.from_array(toy[m], data, m) for m in MODALITIES}
    config = FREEDOM.Config(
        dim=c["dim"], n_ui_layers=c["n_ui_layers"], n_mm_layers=c["n_mm_layers"], knn_k=c["knn_k"],
        image_weight=c["mm_image_weight"], dropout=c["dropout"], reg_weight=c["reg_weight"], **options,
    )  # fmt: skip
    model = FREEDOM.build(data, tables, config)
    given = {k.removeprefix("freedom.param."): torch.from_numpy(v) for k, v in toy.items() if ".param." in k}
    with torch.no_grad():
        model.user_embedding.weight.copy_(given["user_embedding.weight"])
        model.item_embedding.weight.copy_(given["item_id_embedding.weight"])
        for m in MODALITIES:
            model.projections[m].weight.copy_(given[f"{m}_trs.weight"])
            if options.get("train_features"):
                model.features[m].values.copy_(given[f"{m}_embedding.weight"])
    return model


def kept(toy, data: Dataset) -> Interactions:
    return Interactions(*toy["freedom.kept_edges"], data.n_users, data.n_items)


def test_graphs(toy, data) -> None:
    model = reference_model(toy, data)
    assert_close(model.item_graph.dense(), toy["freedom.item_graph_dense"], "frozen item graph")
    assert_close(model.full_graph.dense(), toy["freedom.norm_adj_dense"], "user-item graph")
    assert_close(
        bipartite(kept(toy, data)).dense(), toy["freedom.masked_adj_dense"], "graph of the kept edges"
    )


def test_edge_sampling_weights(toy, data) -> None:
    users, items = toy["freedom.edge_index"]
    order = np.lexsort((items, users))  # ours stand sorted by user, then item
    assert np.array_equal(data.train.users, users[order])
    assert_close(degree_probability(data.train), toy["freedom.edge_prob"][order], "edge probabilities")


def test_a_new_epoch_keeps_the_stated_share(toy, data) -> None:
    model = reference_model(toy, data)
    model.start_epoch(np.random.default_rng(0))
    assert len(model.epoch_graph) == 2 * toy["freedom.kept_edges"].shape[1]


def test_embeddings_and_scores(toy, data) -> None:
    model = reference_model(toy, data)
    users, items = model.embed()
    assert_close(users, toy["freedom.user_out"], "user embeddings")
    assert_close(items, toy["freedom.item_out"], "item embeddings")
    assert_close(model.score(np.arange(data.n_users)), toy["freedom.scores"], "scores")


@pytest.mark.parametrize("train_features", [False, True])
def test_loss_and_gradients(toy, data, train_features: bool) -> None:
    model = reference_model(toy, data, train_features=train_features)
    model.epoch_graph = bipartite(kept(toy, data))
    parts = (torch.from_numpy(toy[f"batch_{n}"]) for n in ("users", "pos", "neg"))
    batch = SeededTriplets(*parts, torch.tensor(0))
    total = torch.stack(list(model.loss(batch).values())).sum()
    assert_close(total, toy["freedom.loss"], "loss")
    total.backward()
    expected = {k.removeprefix("freedom.grad."): v for k, v in toy.items() if k.startswith("freedom.grad.")}
    assert_close(model.user_embedding.weight.grad, expected["user_embedding.weight"], "gradient of users")
    assert_close(model.item_embedding.weight.grad, expected["item_id_embedding.weight"], "gradient of items")
    for m in MODALITIES:
        assert_close(
            model.projections[m].weight.grad, expected[f"{m}_trs.weight"], f"gradient of the {m} projection"
        )
        # The bias that the reference has and ours leaves out: its gradient is zero up to rounding.
        assert np.abs(expected[f"{m}_trs.bias"]).max() < 1e-9
        if train_features:
            assert_close(
                model.features[m].values.grad, expected[f"{m}_embedding.weight"], f"gradient of {m} features"
            )
