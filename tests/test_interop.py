"""PyG and DGL: round trips, and three ways to propagate that agree in values and gradients."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from tolerances import PROPAGATION
from torch_geometric import EdgeIndex
from torch_geometric.data import HeteroData
from torch_geometric.nn import LGConv
from torch_geometric.transforms import RandomLinkSplit, ToUndirected

import graphrec as gr
from graphrec.core.errors import DataError, FeatureError, GraphError, MissingDependencyError
from graphrec.core.random import numpy_rng
from graphrec.data import Interactions, Vocabulary
from graphrec.graphs.graph import Graph, bipartite
from graphrec.graphs.interop import (
    from_dgl,
    from_edge_index,
    from_hetero_data,
    graph_from_dgl,
    graph_to_dgl,
    hetero_graphs,
    to_dgl,
    to_edge_index,
    to_hetero_data,
)
from graphrec.models.layers import propagate

N_USERS, N_ITEMS = 12, 9


@pytest.fixture(scope="module")
def dgl():
    return pytest.importorskip("dgl", reason="DGL: pip install 'graphrec[dgl]'")


def made(times: bool = True, **changes) -> gr.Dataset:
    """Twelve users, nine items, three splits, a file tree and attributes."""
    rng = numpy_rng(0, "test/interop")
    keys = rng.choice(N_USERS * N_ITEMS, 60, replace=False)
    parts = [
        Interactions(
            k // N_ITEMS, k % N_ITEMS, N_USERS, N_ITEMS, rng.integers(0, 10**9, len(k)) if times else None
        )
        for k in np.split(keys, [40, 50])
    ]
    given = {
        "nodes": {
            "attribute": Vocabulary(["red", "blue", "big"], "attribute"),
            "folder": Vocabulary("ab", "folder"),
        },
        "relations": {
            ("item", "has", "attribute"): np.array([[0, 1, 1, 8], [2, 0, 1, 2]], dtype=np.int32),
            ("folder", "contains", "folder"): np.array([[0], [1]], dtype=np.int32),
        },
        **changes,
    }
    users = Vocabulary([f"U{i:03}" for i in range(N_USERS)], "user")
    return gr.Dataset("made", users, Vocabulary([f"ü{i}" for i in range(N_ITEMS)]), *parts, **given)


def tables(data: gr.Dataset) -> dict[str, gr.FeatureTable]:
    values = numpy_rng(0, "test/features").normal(size=(N_ITEMS, 5)).astype(np.float32)
    values[3] = 0
    return {
        "text": gr.FeatureTable.from_array(values.astype(np.float16), data, "text"),
        "image": gr.FeatureTable.from_array(values[:, :2].copy(), data, "image"),
    }


# -- PyG -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [True, False])
def test_hetero_data_round_trip(times: bool) -> None:
    data = made(times)
    found = from_hetero_data(to_hetero_data(data).to("cpu").clone(), name="made")
    assert found == data
    assert found.fingerprint == data.fingerprint
    for split in ("train", "valid", "test"):
        assert getattr(found, split) == getattr(data, split)
    assert found.users == data.users
    assert set(found.relations) == set(data.relations)


def test_hetero_data_has_pygs_usual_form() -> None:
    data = made()
    hetero = to_hetero_data(data, tables(data))
    assert hetero.validate(raise_on_error=True)
    assert set(hetero.edge_types) == {
        ("user", "rates", "item"), ("item", "rev_rates", "user"), ("item", "has", "attribute"),
        ("attribute", "rev_has", "item"), ("folder", "contains", "folder"),
        ("folder", "rev_contains", "folder"),
    }  # fmt: skip
    rates = hetero["user", "rates", "item"]
    assert rates.edge_index.tolist() == [data.train.users.tolist(), data.train.items.tolist()]
    assert rates.edge_label_index.tolist() == [data.test.users.tolist(), data.test.items.tolist()]
    assert rates.edge_label_index_valid.tolist() == [data.valid.users.tolist(), data.valid.items.tolist()]
    assert torch.equal(hetero["item", "rev_rates", "user"].edge_index, rates.edge_index.flip(0))
    item, given = hetero["item"], tables(data)
    assert item.x.shape == (N_ITEMS, 7)
    for name, (first, last) in item.columns.items():
        assert np.array_equal(item.x[:, first:last].numpy(), given[name].numpy())
        assert item[f"present_{name}"].tolist() == [i != 3 for i in range(N_ITEMS)]
    assert list(hetero.ids["user"]) == list(data.users)
    assert ToUndirected()(hetero.clone()).edge_types
    part = hetero.subgraph({"user": torch.arange(4)})
    assert part["user"].num_nodes == 4


def test_features_of_other_items_are_refused() -> None:
    data = made()
    other = gr.FeatureTable(np.ones((4, 2), np.float32), meta={"field": "image"})
    with pytest.raises(FeatureError, match="has 4 rows"):
        to_hetero_data(data, {"image": other})


def test_pygs_own_datasets_are_read() -> None:
    """The form of PyG's Amazon-Book: other names, no ids, a reverse with a name of its own."""
    hetero = HeteroData()
    hetero["user"].num_nodes, hetero["book"].num_nodes = 3, 4
    hetero["user", "rates", "book"].edge_index = torch.tensor([[0, 1, 2], [3, 0, 1]])
    hetero["user", "rates", "book"].edge_label_index = torch.tensor([[0], [0]])
    hetero["book", "rated_by", "user"].edge_index = torch.tensor([[3, 0, 1], [0, 1, 2]])
    data = from_hetero_data(hetero, item="book")
    assert (list(data.users), list(data.items)) == (["0", "1", "2"], ["0", "1", "2", "3"])
    assert (data.train.items.tolist(), data.test.items.tolist(), len(data.valid)) == ([3, 0, 1], [0], 0)
    assert list(data.relations) == [("item", "rated_by", "user")]


def test_negative_label_edges_are_left_out() -> None:
    data = made(times=False, nodes={}, relations={})
    split = RandomLinkSplit(
        num_val=0.0,
        num_test=0.2,
        edge_types=[("user", "rates", "item")],
        rev_edge_types=[("item", "rev_rates", "user")],
    )
    hetero = to_hetero_data(data)
    del hetero["user", "rates", "item"].edge_label_index_valid
    _, _, test = split(hetero)
    found = from_hetero_data(test)
    label = test["user", "rates", "item"].edge_label
    assert 0 < len(found.test) == int((label > 0).sum()) < len(label)
    assert data.train.contains(found.test.users, found.test.items).all()


def test_hetero_data_that_does_not_fit_is_refused() -> None:
    hetero = to_hetero_data(made())
    with pytest.raises(DataError, match=r"no edge type \('user', 'buys', 'item'\)"):
        from_hetero_data(hetero, relation="buys")
    hetero["user"].num_nodes = 13
    with pytest.raises(DataError, match="12 ids for 13 nodes of type 'user'"):
        from_hetero_data(hetero)
    for name in ("rev_has", "rates"):
        ends = ("user", name, "item") if name == "rates" else ("item", name, "attribute")
        clash = made(relations={ends: np.zeros((2, 1), np.int32)})
        with pytest.raises(DataError, match="rename it"):
            to_hetero_data(clash)


def test_edge_index_round_trip() -> None:
    rng = numpy_rng(0, "test/edges")
    keys = rng.choice(7 * 5, 14, replace=False)
    graph = Graph.from_edges(keys % 7, keys // 7, rng.normal(size=14), n_source=7, n_target=5)
    edges, weight = to_edge_index(graph)
    assert isinstance(edges, EdgeIndex)
    edges.validate()
    assert edges.sparse_size() == (7, 5)
    order = rng.permutation(14)
    plain = torch.as_tensor(edges.as_tensor())[:, order]
    for found in (
        from_edge_index(edges, weight),
        from_edge_index(plain, weight[order], n_source=7, n_target=5),
    ):
        assert torch.equal(found.dense(), graph.dense())
    assert torch.equal(from_edge_index(edges).weight, torch.ones(14))
    with pytest.raises(GraphError, match="expected \\(2, E\\) and both"):
        from_edge_index(plain)
    with pytest.raises(GraphError, match="expected 0 <= source < 3"):
        from_edge_index(plain, n_source=3, n_target=5)


# -- DGL -----------------------------------------------------------------------------------------------------


def test_dgl_round_trip(dgl) -> None:
    data = made()
    graph = to_dgl(data, held_out=True)
    ids = {"user": data.users, "item": data.items, **data.nodes}
    found = from_dgl(graph, ids=ids)
    assert found.fingerprint == data.fingerprint
    for split in ("train", "valid", "test"):
        assert getattr(found, split) == getattr(data, split)
    assert list(from_dgl(graph).users) == [str(i) for i in range(N_USERS)]
    with pytest.raises(DataError, match="no edge type"):
        from_dgl(graph, relation="buys")
    with pytest.raises(DataError, match="1 ids for 12 nodes"):
        from_dgl(graph, ids={"user": ["only"]})


def test_dgl_graphs_hold_train_edges_alone_unless_asked(dgl) -> None:
    data = made()
    graph = to_dgl(data)
    n_edges = {etype: graph.num_edges(etype) for etype in graph.canonical_etypes}
    assert n_edges == {
        ("user", "rates", "item"): 40, ("item", "rev_rates", "user"): 40, ("item", "has", "attribute"): 4,
        ("attribute", "rev_has", "item"): 4, ("folder", "contains", "folder"): 1,
        ("folder", "rev_contains", "folder"): 1,
    }  # fmt: skip
    found = from_dgl(graph)
    assert (len(found.train), len(found.valid), len(found.test)) == (40, 0, 0)


def test_graph_to_dgl_and_back(dgl) -> None:
    square = bipartite(made().train)
    oblong = Graph.from_edges([0, 3, 2], [1, 0, 1], [0.5, -1.0, 2.0], n_source=4, n_target=2)
    for graph in (square, oblong):
        back = graph_from_dgl(graph_to_dgl(graph))
        assert torch.equal(back.dense(), graph.dense())
    with pytest.raises(GraphError, match="6 edge types"):
        graph_from_dgl(to_dgl(made()))


def test_dgl_is_asked_for_by_the_name_of_its_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "dgl", None)
    with pytest.raises(MissingDependencyError, match=r"graphrec\[dgl\]"):
        to_dgl(made())


# -- three engines, one propagation --------------------------------------------------------------------------


def with_gradient(propagated, x: torch.Tensor, pull: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two layers' mean, and the gradient of its product with ``pull``."""
    x = x.clone().requires_grad_()
    result = propagated(x)
    result.backward(pull)
    return result.detach(), x.grad


def assert_close(
    found: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]
) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= PROPAGATION * other.abs().max()


@pytest.fixture(scope="module")
def problem():
    """A random bipartite graph with isolated nodes, embeddings and a gradient to pull back."""
    rng = numpy_rng(0, "test/propagation")
    keys = rng.choice(60 * 40, 300, replace=False)
    pairs = Interactions(keys // 40, keys % 40, 64, 44)
    x, pull = (torch.from_numpy(rng.normal(size=(108, 16)).astype(np.float32)) for _ in range(2))
    graph = bipartite(pairs)
    return pairs, graph, x, pull, with_gradient(lambda v: propagate(graph, v, 2), x, pull)


def test_pyg_propagates_alike(problem) -> None:
    pairs, _, x, pull, expected = problem
    users = torch.from_numpy(pairs.users.astype(np.int64))
    items = torch.from_numpy(pairs.items.astype(np.int64)) + pairs.n_users
    edge_index = torch.stack([torch.cat([users, items]), torch.cat([items, users])])
    conv = LGConv()

    def lightgcn(v: torch.Tensor) -> torch.Tensor:
        first = conv(v, edge_index)
        return (v + first + conv(first, edge_index)) / 3

    assert_close(with_gradient(lightgcn, x, pull), expected)


def test_dgl_propagates_alike(dgl, problem) -> None:
    import dgl.function as fn

    _, graph, x, pull, expected = problem
    other = graph_to_dgl(graph)

    def layer(v: torch.Tensor) -> torch.Tensor:
        with other.local_scope():
            other.ndata["h"] = v
            other.update_all(fn.u_mul_e("h", "weight", "m"), fn.sum("m", "h"))
            return other.ndata["h"]

    def lightgcn(v: torch.Tensor) -> torch.Tensor:
        first = layer(v)
        return (v + first + layer(first)) / 3

    assert_close(with_gradient(lightgcn, x, pull), expected)


def test_a_dataset_as_one_graph_per_edge_type_holds_train_alone() -> None:
    data = made()
    graphs = hetero_graphs(data)
    edges = to_hetero_data(data)
    assert set(graphs) == set(edges.edge_types)
    for (source, relation, target), graph in graphs.items():
        sizes = len(data.vocabulary(target)), len(data.vocabulary(source))
        expected = torch.zeros(sizes)
        one, two = edges[source, relation, target].edge_index
        expected[two, one] = 1
        assert torch.equal(graph.dense(), expected), (source, relation, target)
    rates = graphs["user", "rates", "item"].dense().T.numpy()
    assert not rates[data.valid.users, data.valid.items].any()
    assert not rates[data.test.users, data.test.items].any()
