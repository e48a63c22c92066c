"""Sampled neighborhoods against the whole graph."""

from __future__ import annotations

import pytest
import torch

from graphrec import testing
from graphrec.core.errors import GraphError
from graphrec.core.random import numpy_rng
from graphrec.evaluation.ranking import RankingTask
from graphrec.graphs.graph import Graph, bipartite
from graphrec.graphs.neighbor_sampling import neighborhood
from graphrec.models.batches import EpochContext
from graphrec.models.freedom import FREEDOM
from graphrec.models.layers import propagate
from graphrec.models.lightgcn import LightGCN
from graphrec.models.train_config import TrainConfig
from graphrec.training.trainer import Trainer

PARITY = 1e-6
MODELS_OF = {"lightgcn": LightGCN, "freedom": FREEDOM}


@pytest.fixture(scope="module")
def graph() -> Graph:
    return bipartite(testing.communities(3, 40)[0].train)


def some(graph: Graph, n: int = 25) -> torch.Tensor:
    return torch.from_numpy(numpy_rng(0, "tests/neighborhood").permutation(graph.n_source)[:n])


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_with_full_fanout_it_is_the_whole_graph(graph, layers) -> None:
    nodes = some(graph)
    whole, part = (
        torch.randn(graph.n_source, 8, generator=torch.Generator().manual_seed(0)) for _ in range(2)
    )
    whole.requires_grad_()
    part.requires_grad_()
    expected = propagate(graph, whole, layers)[nodes]
    around = neighborhood(graph, nodes, [-1] * layers, key=1)
    found = around.propagate(part[around.nodes[0]])[0]
    assert torch.allclose(found, expected, atol=PARITY)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    assert torch.allclose(whole.grad, part.grad, atol=PARITY)
    assert whole.grad.abs().sum() > 0


def test_levels_begin_with_the_next_and_hold_each_node_once(graph) -> None:
    nodes = some(graph)
    around = neighborhood(graph, nodes, [3, 2], key=1)
    assert torch.equal(around.nodes[-1], nodes)
    for outer, inner, hop in zip(around.nodes[:-1], around.nodes[1:], around.hops, strict=True):
        assert torch.equal(outer[: len(inner)], inner)
        assert len(outer.unique()) == len(outer)
        assert (hop.n_source, hop.n_target) == (len(outer), len(inner))
        assert torch.equal(hop.t().dense(), hop.dense().T)


@pytest.mark.parametrize("fanout", [1, 2, 5])
def test_each_node_keeps_as_many_of_its_own_sources_as_it_may(graph, fanout) -> None:
    nodes = some(graph, graph.n_source)
    around = neighborhood(graph, nodes, [fanout], key=3)
    (outer, _), hop, dense = around.nodes, around.hops[0], graph.dense()
    degree = (graph.rowptr[1:] - graph.rowptr[:-1]).long()
    for row, node in enumerate(nodes.tolist()):
        edges = slice(int(hop.rowptr[row]), int(hop.rowptr[row + 1]))
        sources = outer[hop.col[edges].long()]
        kept = min(fanout, int(degree[node]))
        assert len(sources.unique()) == len(sources) == kept
        assert torch.allclose(hop.weight[edges], dense[node, sources] * degree[node] / max(kept, 1))


def test_draws_are_fair_and_their_mean_is_the_row(graph) -> None:
    nodes, fanout, draws = torch.arange(graph.n_source), 2, 3000
    x = torch.eye(graph.n_source)
    total = torch.zeros(graph.n_source, graph.n_source, dtype=torch.float64)
    for key in range(draws):
        around = neighborhood(graph, nodes, [fanout], key=key)
        total += around.hops[0] @ x[around.nodes[0]]
    dense = graph.dense()
    degree = (dense > 0).sum(1, keepdim=True)
    # of a binomial with probability fanout / degree
    p = (fanout / degree.float()).clamp(max=1)
    deviation = dense / p * (p * (1 - p) / draws).sqrt()
    assert ((total / draws - dense).abs() <= 5 * deviation + 1e-6).all()


def test_what_a_node_draws_does_not_depend_on_the_others(graph) -> None:
    """So a process with a part of a batch draws what one with the whole does."""
    nodes = some(graph)
    x = torch.randn(graph.n_source, 4, generator=torch.Generator().manual_seed(0))
    whole = neighborhood(graph, nodes, [3, 2], key=9)
    part = neighborhood(graph, nodes[5:9], [3, 2], key=9)
    expected = whole.propagate(x[whole.nodes[0]])[0][5:9]
    assert torch.allclose(part.propagate(x[part.nodes[0]])[0], expected, atol=PARITY)
    other = neighborhood(graph, nodes[5:9], [3, 2], key=10)
    assert not torch.allclose(other.propagate(x[other.nodes[0]])[0], expected, atol=1e-3)


def test_nodes_without_sources_and_no_nodes_at_all() -> None:
    graph = Graph.from_edges([1], [0], n_source=3, n_target=3)
    around = neighborhood(graph, torch.tensor([2, 0]), [1, -1], key=0)
    assert torch.allclose(
        around.propagate(torch.ones(len(around.nodes[0]), 1))[0], torch.tensor([[1 / 3], [2 / 3]])
    )
    assert neighborhood(graph, torch.empty(0, dtype=torch.int64), [2], key=0).propagate(torch.ones(0, 2))[
        0
    ].shape == (0, 2)


def test_a_graph_between_two_sets_is_refused() -> None:
    graph = Graph.from_edges([0], [0], n_source=2, n_target=3)
    with pytest.raises(GraphError, match="not over one node set"):
        neighborhood(graph, torch.tensor([0]), [-1], key=0)


# -- models --------------------------------------------------------------------------------------------------


def losses_and_gradients(model, batch) -> tuple[dict, dict]:
    losses = model.loss(batch)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return losses, {name: g.to_dense() if g.is_sparse else g for name, g in gradients.items()}


@pytest.mark.parametrize(
    ("name", "options"),
    [("lightgcn", {"n_layers": 3}), ("freedom", {"dropout": 0.5}), ("freedom", {"n_mm_layers": 2})],
    ids=str,
)
def test_with_full_fanout_a_model_learns_what_it_learns_from_the_whole_graph(name, options) -> None:
    data, features = testing.communities(3, 40)
    cls = MODELS_OF[name]
    layers = options.get("n_layers", 2)
    found = []
    for fanouts in (None, [-1] * layers):
        model = cls.build(data, features, cls.Config(fanouts=fanouts, **options))
        model.start_epoch(numpy_rng(0, "epoch"))
        found.append(losses_and_gradients(model, next(iter(model.batches(EpochContext(1, 64, 0))))))
    (one, there), (other, here) = found
    for term, value in one.items():
        assert torch.allclose(value, other[term], atol=PARITY), term
    for parameter, gradient in there.items():
        assert torch.allclose(gradient, here[parameter], atol=PARITY), parameter
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", ["lightgcn", "freedom"])
def test_with_sampled_neighborhoods_a_model_learns(name) -> None:
    data, features = testing.communities(3, 40)
    data = data.resplit("random")
    cls = MODELS_OF[name]
    model = cls.build(data, features, cls.Config(fanouts=[3, 2]))
    options = TrainConfig(epochs=15, batch_size=128, learning_rate=1e-2, progress=False, patience=None)
    run = Trainer(options).fit(model, RankingTask(data.valid, seen=data.train, k=10))
    assert run.history[-1]["recall@10"] > 0.25, "chance finds a twelfth"


@pytest.mark.parametrize("fanouts", [[3], [3, 2, 1], [0, 2], [-2, 1]])
def test_fanouts_are_one_for_each_layer(fanouts) -> None:
    for cls in MODELS_OF.values():
        with pytest.raises(ValueError, match="one for each, at least 1 or -1"):
            cls.Config(fanouts=fanouts)
