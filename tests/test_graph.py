"""Graphs and their builders against dense matrices."""

from __future__ import annotations

import copy
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tolerances import PROPAGATION

from graphrec.core.errors import GraphError
from graphrec.core.random import numpy_rng
from graphrec.data import Interactions
from graphrec.graphs import graph as graphs
from graphrec.graphs.augmentation import keep_entries
from graphrec.graphs.graph import (
    EDGE_BLOCK,
    Graph,
    bipartite,
    degree_probability,
    edge_products,
    mix,
    normalize_weights,
    sample_edges,
    union,
)
from graphrec.models.base import ITEM_BLOCK, LEAST_BLOCKED, inner_products
from graphrec.models.layers import propagate, propagate_tables

few = settings(max_examples=40, deadline=None)


@st.composite
def edges(draw, square: bool = False, positive: bool = False):
    """Distinct edges in random order: ``n_source, n_target, source, target, weight``."""
    n_source = draw(st.integers(1, 12))
    n_target = n_source if square else draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    keys = rng.permutation(n_source * n_target)[: draw(st.integers(0, n_source * n_target))]
    weight = rng.normal(size=len(keys)).astype(np.float32)
    return n_source, n_target, keys % n_source, keys // n_source, np.abs(weight) + 0.1 if positive else weight


def dense(n_source: int, n_target: int, source, target, weight) -> np.ndarray:
    matrix = np.zeros((n_target, n_source))
    np.add.at(matrix, (target, source), weight)
    return matrix


def made(case, **options) -> Graph:
    n_source, n_target, source, target, weight = case
    return Graph.from_edges(source, target, weight, n_source=n_source, n_target=n_target, **options)


def close(found, expected) -> bool:
    expected = np.asarray(expected, dtype=np.float64)
    scale = max(1.0, np.abs(expected).max(initial=0.0))
    return bool(
        np.abs(np.asarray(found, dtype=np.float64) - expected).max(initial=0.0) <= PROPAGATION * scale
    )


# -- the product ---------------------------------------------------------------------------------------------


@few
@given(edges(), st.sampled_from([torch.float32, torch.float64]))
def test_product_and_gradient_equal_dense(case, dtype) -> None:
    graph, matrix = made(case), dense(*case)
    rng = numpy_rng(0, "test/product")
    x = torch.from_numpy(rng.normal(size=(graph.n_source, 3))).to(dtype).requires_grad_()
    pull = torch.from_numpy(rng.normal(size=(graph.n_target, 3))).to(dtype)
    result = graph @ x
    result.backward(pull)
    assert result.dtype == dtype
    assert close(result.detach(), matrix @ x.detach().numpy())
    assert close(x.grad, matrix.T @ pull.numpy())


# -- a module ------------------------------------------------------------------------------------------------


class Holder(torch.nn.Module):
    """Keeps graphs wherever a module may keep another."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = Graph.from_edges([0, 1, 2], [1, 0, 0], n_source=3, n_target=2)
        self.listed = torch.nn.ModuleList([self.plain.scaled(2.0)])
        self.named = torch.nn.ModuleDict({"x": self.plain.scaled(3.0)})
        self.later: Graph | None = None

    def graphs(self) -> list[Graph]:
        return [self.plain, *self.listed, *self.named.values(), *([self.later] if self.later else [])]


def test_a_graph_follows_its_module_wherever_it_is_kept() -> None:
    holder = Holder()
    holder.later = holder.plain.weighted(torch.ones(3))
    transposes = [graph.t() for graph in holder.graphs()]
    holder.to("meta")
    for graph, transpose in zip(holder.graphs(), transposes, strict=True):
        assert graph.device.type == graph.rowptr.device.type == graph.col.device.type == "meta"
        assert graph.t() is transpose, "the cached transpose is computed again"
        assert transpose.device.type == transpose.col.device.type == "meta"
        assert transpose.t() is graph


def test_edges_are_not_in_the_state_dict_and_caches_are_not_submodules() -> None:
    holder = Holder()
    before = [name for name, _ in holder.named_modules()]
    for graph in holder.graphs():
        graph.t().t().matrix()
    assert not holder.state_dict()
    assert not list(holder.parameters())
    assert [name for name, _ in holder.named_modules()] == before
    assert {name for name, _ in holder.plain.named_buffers()} == {"rowptr", "col", "weight"}


def test_a_matrix_made_before_a_move_is_not_used_after_it() -> None:
    graph = Graph.from_edges([0, 1], [1, 0], [2.0, 3.0], n_source=2, n_target=2)
    assert graph.matrix().dtype == torch.float32
    graph.double()
    assert graph.matrix().dtype == torch.float64
    assert graph.t().weight.dtype == torch.float64
    x = torch.eye(2)
    assert torch.equal(graph @ x, graph.dense().float())


def test_a_transpose_that_was_moved_alone_is_computed_again() -> None:
    graph = Graph.from_edges([0, 1], [1, 0], n_source=2, n_target=2)
    graph.t().to("meta")
    assert graph.t().device.type == "cpu"


def test_a_graph_and_its_transpose_are_freed_without_the_garbage_collector() -> None:
    graph = Graph.from_edges([0, 1, 1], [1, 0, 1], n_source=2, n_target=2)
    alive = [weakref.ref(graph), weakref.ref(graph.t())]
    assert graph.t().t() is graph
    del graph
    assert [ref() for ref in alive] == [None, None]


def test_a_transpose_outlives_its_graph() -> None:
    transpose = Graph.from_edges([0, 1, 1], [1, 0, 1], [1, 2, 3], n_source=2, n_target=2).t()
    assert torch.equal(transpose.t().dense(), transpose.dense().T)


def test_a_copy_has_its_own_edges_and_transpose() -> None:
    graph = Graph.from_edges([0, 1, 1], [1, 0, 1], n_source=2, n_target=2)
    graph.t()
    twin = copy.deepcopy(graph)
    twin.weight.mul_(5)
    assert torch.equal(twin.t().dense(), 5 * graph.dense().T)
    assert torch.equal(graph.t().dense(), graph.dense().T)


def test_a_graph_in_a_notebook_is_a_small_table() -> None:
    graph = Graph.from_edges([0, 1, 2], [1, 0, 0], [0.5, 1.0, -2.0], n_source=3, n_target=2)
    shown = graph._repr_html_()
    for fact in ("<td>3</td>", "<td>2</td>", "-2 to 1", "<td>no</td>"):
        assert fact in shown
    assert "learned" in graph.weighted(torch.ones(3, requires_grad=True))._repr_html_()
    assert "none" in Graph.from_edges([], [], n_source=3, n_target=2)._repr_html_()


@few
@given(edges(), st.sampled_from([torch.float32, torch.float64]))
def test_gradients_to_weights_equal_dense(case, dtype) -> None:
    graph, matrix = made(case), torch.from_numpy(dense(*case)).requires_grad_()
    rng = numpy_rng(0, "test/weights")
    x = torch.from_numpy(rng.normal(size=(graph.n_source, 3)))
    pull = torch.from_numpy(rng.normal(size=(graph.n_target, 3)))
    weight = graph.weight.to(dtype).requires_grad_()
    given_x = x.to(dtype).requires_grad_()
    (graph.weighted(weight) @ given_x).backward(pull.to(dtype))
    expected_x = x.requires_grad_()
    (matrix @ expected_x).backward(pull)
    assert close(given_x.grad, expected_x.grad)
    assert close(weight.grad, matrix.grad[graph.target, graph.col.long()])


@few
@given(edges(square=True), st.sampled_from([torch.float32, torch.float64]))
def test_edge_products_and_their_gradient_equal_dense(case, dtype) -> None:
    graph = made(case)
    rng = numpy_rng(0, "test/edge products")
    x = torch.from_numpy(rng.normal(size=(graph.n_source, 3)))
    pull = torch.from_numpy(rng.normal(size=len(graph)))
    given_x, expected_x = x.to(dtype).requires_grad_(), x.requires_grad_()
    found = edge_products(graph, given_x)
    expected = (expected_x @ expected_x.T)[graph.target, graph.col.long()]
    assert found.dtype == dtype
    assert close(found.detach(), expected.detach())
    found.backward(pull.to(dtype))
    expected.backward(pull)
    assert close(given_x.grad, expected_x.grad)


@pytest.mark.parametrize("learned", [False, True])
def test_a_graph_of_many_edges_is_multiplied_densely(learned: bool, monkeypatch) -> None:
    rng = numpy_rng(0, "test/dense")
    target, source = np.nonzero(rng.random((300, 280)) < 0.4)
    weight = torch.from_numpy(rng.normal(size=len(source)).astype(np.float32)).requires_grad_(learned)
    x = torch.from_numpy(rng.normal(size=(280, 8)).astype(np.float32)).requires_grad_()

    def computed() -> list[torch.Tensor]:
        graph = Graph.from_edges(source, target, n_source=280, n_target=300).weighted(weight)
        out = graph @ x
        inputs = (x, weight) if learned else (x,)
        return [out, *torch.autograd.grad((out * torch.linspace(-1, 1, 8)).sum(), inputs)]

    sums = []
    summed = graphs.nn.functional.embedding_bag
    monkeypatch.setattr(
        graphs.nn.functional, "embedding_bag", lambda *a, **k: sums.append(1) or summed(*a, **k)
    )
    dense = computed()
    assert not sums
    monkeypatch.setattr(graphs, "DENSE_SHARE", 2)
    sparse = computed()
    assert len(sums) == 2, "forward, and backward with the transpose"
    for one, other in zip(dense, sparse, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_edge_products_of_several_blocks_are_those_of_one() -> None:
    n = 2 * EDGE_BLOCK + 5
    rng = numpy_rng(0, "test/blocks")
    graph = Graph.from_edges(rng.integers(0, n, n), np.arange(n), n_source=n, n_target=n)
    x = torch.from_numpy(rng.normal(size=(n, 2)))
    assert torch.equal(edge_products(graph, x), (x[graph.target] * x[graph.col]).sum(1))


def test_a_detached_graph_keeps_nothing_of_what_its_weights_came_from() -> None:
    plain = Graph.from_edges([0, 1, 2, 2], [1, 0, 0, 1], n_source=3, n_target=3)
    weight = torch.arange(1.0, 5.0, requires_grad=True)
    learned = plain.weighted(2 * weight)
    kept = learned.detached()
    assert torch.equal(kept.dense(), learned.dense())
    for graph in (kept, kept.t(), kept.t().t(), learned.t(), learned.t().t()):
        assert not graph.weight.requires_grad
    assert kept.t() is learned.t()
    (kept @ torch.ones(3, 1, requires_grad=True)).sum().backward()
    assert weight.grad is None
    with pytest.raises(GraphError, match=r"shape \(3,\); expected \(4,\)"):
        plain.weighted(torch.ones(3))
    with pytest.raises(GraphError, match="row for each node"):
        edge_products(plain, torch.ones(4, 2))


@few
@given(st.lists(edges(square=True), min_size=1, max_size=3))
def test_union_says_where_each_edge_went(cases) -> None:
    n = max(case[0] for case in cases)
    graphs = [made((n, n, *case[2:])) for case in cases]
    both, places = union(graphs)
    present = np.zeros((n, n))
    for graph, place in zip(graphs, places, strict=True):
        assert torch.equal(both.target[place], graph.target)
        assert torch.equal(both.col[place], graph.col)
        present[graph.target, graph.col] = 1
    assert np.array_equal(both.dense(), present)
    assert np.array_equal(both.t().dense(), present.T)


@few
@given(edges())
def test_transpose_and_views_equal_dense(case) -> None:
    graph, matrix = made(case), dense(*case).astype(np.float32)
    assert np.array_equal(graph.dense(), matrix)
    assert np.array_equal(graph.t().dense(), matrix.T)
    assert graph.t().t() is graph
    assert np.array_equal(graph.scaled(2).dense(), 2 * matrix)
    listed = (v.numpy() for v in (graph.col, graph.target, graph.weight))
    back = dense(graph.n_source, graph.n_target, *listed)
    assert np.array_equal(back, matrix)
    keys = graph.target.numpy() * graph.n_source + graph.col.numpy()
    assert (np.diff(keys) > 0).all(), "edges are sorted by target, then source"


@few
@given(edges(square=True))
def test_a_symmetric_graph_is_its_own_transpose(case) -> None:
    n, matrix = case[0], dense(*case)
    both = matrix + matrix.T
    at = np.argwhere(both)
    graph = Graph.from_edges(at[:, 1], at[:, 0], both[both != 0], n_source=n, n_target=n, symmetric=True)
    assert graph.t() is graph
    x = torch.ones(n, 2, requires_grad=True)
    (graph @ x).sum().backward()
    assert close(x.grad, both.T @ np.ones((n, 2)))
    if not np.array_equal(matrix, matrix.T):
        with pytest.raises(GraphError, match="symmetric=True"):
            made(case, symmetric=True)


def test_a_graph_that_is_not_symmetric_is_not_taken_for_one() -> None:
    for weights, n in (([1.0, 2.0], 2), ([1.0, 1.0], 3)):
        with pytest.raises(GraphError, match="symmetric=True"):
            Graph.from_edges([0, 1], [1, 0], weights, n_source=2, n_target=n, symmetric=True)


@few
@given(edges(square=True), st.integers(0, 3))
def test_propagation_is_the_mean_of_powers(case, n_layers: int) -> None:
    graph, matrix = made(case), dense(*case)
    x = numpy_rng(0, "test/x").normal(size=(graph.n_source, 2)).astype(np.float32)
    powers = [np.linalg.matrix_power(matrix, i) @ x for i in range(n_layers + 1)]
    expected, found = sum(powers) / (n_layers + 1), propagate(graph, torch.from_numpy(x), n_layers)
    scale = max(1.0, *(np.abs(p).max() for p in powers))
    assert np.abs(found.numpy() - expected).max() <= 10 * PROPAGATION * scale


@pytest.mark.parametrize("n_layers", [0, 1, 3])
@pytest.mark.parametrize("learned", [False, True])
def test_tables_are_propagated_as_their_nodes_are(n_layers: int, learned: bool) -> None:
    rng = numpy_rng(0, "test/tables")
    pairs = np.unique(rng.integers(20 * 9, size=60))
    graph = bipartite(Interactions(pairs // 9, pairs % 9, 20, 9, name="drawn"))
    if learned:
        graph = graph.weighted(graph.weight.clone().requires_grad_(True))
    users, items, pull = (
        torch.from_numpy(rng.normal(size=(n, 4)).astype(np.float32)).requires_grad_(True) for n in (20, 9, 29)
    )
    wanted = [users, items, *([graph.weight] if learned else [])]
    expected = propagate(graph, torch.cat([users, items]), n_layers)
    found = torch.cat(propagate_tables(graph, users, items, n_layers))
    assert torch.equal(found, expected)
    gradients = [torch.autograd.grad((h * pull).sum(), wanted, allow_unused=True) for h in (found, expected)]
    for mine, autograd in zip(*gradients, strict=True):
        assert (mine is None and autograd is None) or torch.equal(mine, autograd)


@pytest.mark.parametrize("n_items", [1, ITEM_BLOCK, ITEM_BLOCK + 1, 2 * ITEM_BLOCK + 7])
@pytest.mark.parametrize("n_rows", [1, LEAST_BLOCKED])
def test_inner_products_in_blocks_are_those_of_one_product(n_rows: int, n_items: int) -> None:
    rng = numpy_rng(0, "test/products")
    rows, items = (torch.from_numpy(rng.normal(size=(n, 8))) for n in (n_rows, n_items))
    assert torch.allclose(inner_products(rows, items), rows @ items.T, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("source", "target", "weight", "message"),
    [
        ([0, 3], [0, 0], None, "edge 1 has source 3; expected 0 <= source < 3"),
        ([0, -1], [0, 0], None, "edge 1 has source -1"),
        ([0], [2], None, "edge 0 has target 2; expected 0 <= target < 2"),
        ([0, 1], [0, 0], [1.0, np.nan], r"edge 1 \(1 -> 0\) has weight nan; expected finite"),
        ([0], [0], [np.inf], "has weight inf"),
        ([0, 1, 0], [1, 1, 1], None, "edge 0 -> 1 occurs more than once"),
        ([0, 1], [0], None, "expected three of one length"),
        ([0], [0], [1.0, 2.0], "expected three of one length"),
    ],
)
def test_unusable_edges_are_refused(source, target, weight, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Graph.from_edges(source, target, weight, n_source=3, n_target=2)


def test_repeated_edges_add_up_if_asked_to() -> None:
    graph = Graph.from_edges([2, 0, 2, 2], [1, 0, 1, 0], [1, 2, 3, 4], n_source=3, n_target=2, repeated="sum")
    assert graph.dense().tolist() == [[2, 0, 4], [0, 0, 4]]
    assert len(graph) == 3


@pytest.mark.parametrize("shape", [(2, 4), (3,), (4, 4)])
def test_a_wrong_shape_is_refused(shape) -> None:
    graph = Graph.from_edges([0], [1], n_source=3, n_target=2)
    with pytest.raises(GraphError, match=r"expected \(3, d\)"):
        graph @ torch.ones(shape)


# -- builders ------------------------------------------------------------------------------------------------


@st.composite
def interactions(draw) -> Interactions:
    n_users, n_items = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    keys = rng.permutation(n_users * n_items)[: draw(st.integers(1, n_users * n_items))]
    return Interactions(keys // n_items, keys % n_items, n_users, n_items)


def inverse_root(degree: np.ndarray) -> np.ndarray:
    return np.where(degree > 0, np.maximum(degree, 1e-9), np.inf) ** -0.5


@few
@given(interactions())
def test_bipartite_equals_the_normalized_adjacency(pairs: Interactions) -> None:
    n = pairs.n_users + pairs.n_items
    adjacency = np.zeros((n, n))
    adjacency[pairs.users, pairs.n_users + pairs.items] = 1
    adjacency += adjacency.T
    root = inverse_root(adjacency.sum(1))
    graph = bipartite(pairs)
    assert graph.symmetric
    assert close(graph.dense(), root[:, None] * adjacency * root)
    assert np.array_equal(bipartite(pairs, "none").dense(), adjacency)
    assert close(normalize_weights(bipartite(pairs, "none"), "symmetric").dense(), graph.dense())
    users, items = pairs.user_degree[pairs.users], pairs.item_degree[pairs.items]
    assert np.allclose(degree_probability(pairs), 1 / np.sqrt(users * items), rtol=1e-12)


@few
@given(edges(square=True, positive=True))
def test_normalize_equals_dense(case) -> None:
    graph, matrix = made(case), dense(*case)
    total = matrix.sum(1)  # over incoming edges, for both sides, also where the graph is directed
    rows = matrix / np.where(total > 0, total, 1)[:, None]
    # A source without incoming edges has an inverse root of 1 by convention.
    root = np.where(total > 0, np.where(total > 0, total, 1) ** -0.5, 1)
    assert close(normalize_weights(graph, "row").dense(), rows)
    assert close(normalize_weights(graph, "symmetric").dense(), root[:, None] * matrix * root)
    assert close(graph.dense(), matrix)


def test_a_row_normalized_graph_passes_the_gradient_of_its_transpose() -> None:
    graph = normalize_weights(bipartite(Interactions([0, 0, 1], [0, 1, 1], 2, 2), "none"), "row")
    x = torch.arange(4.0)[:, None].requires_grad_()
    above = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    (gradient,) = torch.autograd.grad(graph @ x, x, above)
    assert close(gradient, graph.dense().T @ above)
    assert not close(gradient, graph.dense() @ above)


def test_normalize_refuses_what_it_cannot() -> None:
    oblong = Graph.from_edges([0, 1], [0, 0], n_source=2, n_target=1)
    assert normalize_weights(oblong, "row").dense().tolist() == [[0.5, 0.5]]
    with pytest.raises(GraphError, match="not square"):
        normalize_weights(oblong, "symmetric")
    with pytest.raises(GraphError, match="expected 'row' or 'symmetric'"):
        normalize_weights(oblong, "columns")
    for weights in ([1.0, -1.0], [-1.0, -1.0]):
        negative = Graph.from_edges([0, 1], [0, 0], weights, n_source=2, n_target=1)
        with pytest.raises(GraphError, match="zero or less"):
            normalize_weights(negative, "row")


@few
@given(edges(square=True), st.integers(0, 2**32), st.floats(0, 1))
def test_mix_equals_the_weighted_sum(case, seed: int, share: float) -> None:
    n, _, source, target, weight = case
    kept = np.random.default_rng(seed).permutation(len(source))[: len(source) // 2]
    shifted = (n, n, (source[kept] + 1) % n, target[kept], weight[kept])
    found = mix([(share, made(case)), (1 - share, made(shifted))])
    assert close(found.dense(), share * dense(*case) + (1 - share) * dense(*shifted))


def test_mix_refuses_graphs_over_other_nodes() -> None:
    one, other = (Graph.from_edges([0], [0], n_source=n, n_target=2) for n in (1, 2))
    with pytest.raises(GraphError, match="different nodes"):
        mix([(1.0, one), (1.0, other)])
    with pytest.raises(GraphError, match="nothing to mix"):
        mix([])


# -- sampling edges ----------------------------------------------------------------------------------------


@few
@given(st.integers(1, 60), st.data())
def test_sampled_edges_are_as_many_as_asked_for(n: int, draw) -> None:
    rng = np.random.default_rng(draw.draw(st.integers(0, 2**32)))
    kept = draw.draw(st.integers(0, n))
    probability = rng.random(n) + 0.01
    mask = sample_edges(probability, kept, numpy_rng(3, "edges"))
    assert mask.dtype == bool
    assert mask.sum() == kept
    assert np.array_equal(mask, sample_edges(probability, kept, numpy_rng(3, "edges")))


def test_heavier_edges_are_kept_more_often() -> None:
    """The first draw is proportional to the weights; more draws keep their order."""
    probability = np.array([1.0, 2.0, 3.0, 4.0])
    rng = numpy_rng(0, "test/sampled")
    n = 20_000
    first = sum(sample_edges(probability, 1, rng) for _ in range(n)) / n
    error = 4 * np.sqrt(0.25 / n)  # four standard deviations of a share
    assert np.abs(first - probability / 10).max() < error
    two = sum(sample_edges(probability, 2, rng) for _ in range(n // 4)) / (n // 4)
    assert (np.diff(two) > 0).all()
    # P(edge 3 among two) = p3 + sum_j p_j p3 / (1 - p_j), drawing one after the other.
    p = probability / 10
    expected = p[3] + sum(p[j] * p[3] / (1 - p[j]) for j in range(3))
    assert abs(two[3] - expected) < 2 * error


def test_graphs_that_differ_in_weights_are_sorted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, 30 * 20, 200))
    graph = Graph.from_edges(pairs % 30, pairs // 30, n_source=30, n_target=20)
    one = graph.weighted(torch.rand(len(graph)))
    assert torch.equal(one.t().dense(), one.dense().T)
    order = graph.reversed_order()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("sorted again")

    monkeypatch.setattr(torch, "argsort", refuse)
    weight = torch.rand(len(graph), requires_grad=True)
    other = one.weighted(weight)
    assert torch.equal(other.t().dense(), other.dense().T)
    assert torch.equal(graph.t().dense(), graph.dense().T)
    assert torch.equal(other.t().weight, weight.detach()[order])


def test_kept_entries_bring_their_transpose(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, 30 * 20, 200))
    graph = Graph.from_edges(pairs % 30, pairs // 30, rng.random(len(pairs)), n_source=30, n_target=20)
    graph.reversed_order()
    monkeypatch.setattr(torch, "argsort", None)
    kept = torch.from_numpy(rng.random(len(graph)) < 0.5)
    found = keep_entries(graph, kept, 2.0)
    expected = 2 * graph.weighted(graph.weight * kept).dense()
    assert torch.equal(found.dense(), expected)
    assert torch.equal(found.t().dense(), expected.T)
    nothing = keep_entries(graph, torch.zeros_like(kept))
    assert not (nothing @ torch.ones(30, 2)).any()
