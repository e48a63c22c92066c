"""AutoCF against the reference implementation, and its blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reference import Reference, assert_close
from tolerances import PROPAGATION

from graphrec.core.errors import ConfigError, GraphError
from graphrec.core.random import torch_rng
from graphrec.graphs import attention
from graphrec.graphs.attention import edge_attention
from graphrec.graphs.graph import EDGE_BLOCK, Graph, bipartite
from graphrec.graphs.masking import mask_neighborhoods, random_nodes, random_pairs, with_pairs
from graphrec.models import autocf, self_supervision
from graphrec.models.autocf import AutoCF, Pairs
from graphrec.models.batches import EpochContext

EXACT = 1e-12  # float64
ATTENTION = ("query", "key", "value")


@pytest.fixture
def reference() -> Reference:
    return Reference("autocf", "sslrec")


def edges_of(graph: Graph) -> np.ndarray:
    """Its targets and sources ``(2, E)``."""
    return np.stack([graph.target.numpy(), graph.col.numpy()])


def in_order(edges: np.ndarray) -> np.ndarray:
    return edges[:, np.lexsort((edges[1], edges[0]))]


def of_the_reference(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model with the reference's parameters and what it drew."""

    def drawn(name: str) -> torch.Tensor:
        return torch.from_numpy(reference[f".draw.{name}"])

    def pairs(nodes: torch.Tensor, n: int, rng: torch.Generator) -> torch.Tensor:
        assert n == len(drawn("row_picks"))
        return nodes[torch.stack([drawn("row_picks"), drawn("column_picks")])]

    def noise(n: int, rng: torch.Generator) -> torch.Tensor:
        return self_supervision.gumbel(drawn("uniform_nodes"))

    def nodes(n: int, count: int, rng: torch.Generator) -> torch.Tensor:
        assert count == len(drawn("sampled_nodes"))
        return drawn("sampled_nodes")

    monkeypatch.setattr(autocf, "gumbel_noise", noise)
    monkeypatch.setattr(autocf, "random_nodes", nodes)
    monkeypatch.setattr(autocf, "random_pairs", pairs)
    model = reference.model(
        AutoCF, self_loops="training", n_seeds=6, seed_share=1.0, spread_weight=0.5, reg_weight=1e-4
    )
    with torch.no_grad():
        for name in ATTENTION:
            getattr(model, name).copy_(torch.from_numpy(reference[f".param.{name}"]))
    return model


def batch_of(reference: Reference, redraw: bool = True, key: int = 0) -> Pairs:
    batch = reference.batch
    return Pairs(batch.users, batch.positives, torch.tensor(key), torch.tensor(redraw))


def test_autocf(reference, monkeypatch: pytest.MonkeyPatch) -> None:
    model = of_the_reference(reference, monkeypatch)
    losses = model.loss(batch_of(reference))
    expected = {"alignment": "rec_loss", "spread": "cl_loss", "infomax": "infomax", "reg": "reg_loss"}
    reference.check(model, losses, expected)
    for name in ATTENTION:
        assert_close(getattr(model, name).grad, reference[f".grad.{name}"], f"gradient of {name}")
    users, items = model.final(*model.masked)
    assert_close(users, reference[".train_users"], "users on the masked graphs")
    assert_close(items, reference[".train_items"], "items on the masked graphs")


def test_masked_graphs(reference, monkeypatch: pytest.MonkeyPatch) -> None:
    model = of_the_reference(reference, monkeypatch)
    scores, (encoder, decoder) = model.draw(torch.tensor(0))
    assert_close(scores, reference[".seed_scores"], "scores")
    assert set(scores.topk(6).indices.tolist()) == set(reference[".seeds"].tolist())
    assert np.array_equal(edges_of(encoder), in_order(reference[".encoder_edges"]))
    order = np.lexsort(reference[".encoder_edges"][::-1])
    assert_close(encoder.weight, reference[".encoder_values"][order], "weights")
    assert np.array_equal(edges_of(decoder), in_order(reference[".decoder_edges"]))


def test_graphs_stay_until_they_are_drawn_anew(reference) -> None:
    model = reference.model(AutoCF, n_seeds=5)
    batches = list(model.batches(EpochContext(1, 10, 0)))
    assert [int(b.redraw) for b in batches] == ([1] + [0] * 9) * 2 + [1] + [0] * 4
    assert len({int(b.key) for b in batches}) == 3
    again = list(model.batches(EpochContext(1, 10, 0)))
    assert [int(b.key) for b in again] == [int(b.key) for b in batches]
    following = model.batches(EpochContext(2, 10, 0))
    assert int(next(following).key) != int(batches[0].key)

    first = model.loss(batches[0])
    drawn = model.masked
    assert first["infomax"].requires_grad
    second = model.loss(batches[1])
    assert model.masked is drawn
    assert float(second["infomax"]) == 0
    model.loss(batches[10])
    assert model.masked is not drawn
    one, other = ([graph.dense() for graph in model.draw(batches[0].key)[1]] for _ in range(2))
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b), "a function of the key"
    assert not torch.equal(one[0], model.masked.encoder.dense())


@pytest.mark.parametrize("self_loops", ["graph", "attention", "training"])
def test_self_loops(reference, self_loops: str) -> None:
    model = reference.model(AutoCF, self_loops=self_loops, n_seeds=3, mask_depth=1)
    plain = (bipartite(reference.data.train).dense() > 0).float()
    eye = torch.eye(len(plain))
    in_graph = plain + eye if self_loops == "graph" else plain
    root = in_graph.sum(1).rsqrt()
    assert torch.allclose(model.graph.dense(), root[:, None] * in_graph * root, atol=PROPAGATION)
    attended = plain if self_loops == "training" else plain + eye
    assert torch.equal((model.attended.dense() > 0).float(), attended)
    _, (encoder, decoder) = model.draw(torch.tensor(3))
    looped = encoder.dense().diagonal() > 0
    assert looped.any() == (self_loops == "graph")
    assert not looped.all()
    assert (decoder.dense().diagonal() == 1).all()

    x = torch.cat(model.id_embeddings).detach()
    degree = in_graph.sum(1, keepdim=True)
    first = in_graph @ x - x
    second = in_graph @ first - first - degree * x
    n_around = degree + (in_graph @ degree - degree - degree)
    mean = (first + second) / (n_around + 1e-8)
    expected = torch.cosine_similarity(x, mean, eps=1e-12).sigmoid().log()
    found = self_supervision.infomax_scores(model.adjacency, x)
    assert torch.allclose(found, expected, atol=PROPAGATION)


@pytest.mark.parametrize(("n_seeds", "share", "expected"), [(7, 1.0, 7), (7, 0.05, 5), (200, 1.0, 100)])
def test_seeds_are_a_share_of_the_nodes_at_most(
    reference, monkeypatch: pytest.MonkeyPatch, n_seeds: int, share: float, expected: int
) -> None:
    model = reference.model(AutoCF, n_seeds=n_seeds, seed_share=share)
    drawn = []

    def spy(graph: Graph, seeds: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        drawn.append(seeds)
        return mask_neighborhoods(graph, seeds, depth)

    monkeypatch.setattr(autocf, "mask_neighborhoods", spy)
    scores, _ = model.draw(torch.tensor(0))
    assert set(drawn[0].tolist()) == set(scores.argsort(descending=True)[:expected].tolist())


def test_heads_divide_the_embedding() -> None:
    with pytest.raises(ConfigError, match="n_heads=3 does not divide dim=32"):
        AutoCF.Config(n_heads=3)


# -- blocks --------------------------------------------------------------------------------------------------


def uneven_graph(n_target: int, n_source: int, share: float) -> Graph:
    """With a target without any edge."""
    mask = torch.rand(n_target, n_source, generator=torch_rng(0, "tests/attention")) < share
    mask[1] = False
    target, source = mask.nonzero().T.numpy()
    return Graph.from_edges(source, target, n_source=n_source, n_target=n_target)


def normal(n: int, d: int, purpose: str, scale: float = 1.0) -> torch.Tensor:
    x = torch.randn(n, d, generator=torch_rng(0, f"tests/attention/{purpose}"), dtype=torch.float64)
    return (scale * x).requires_grad_()


def plain_attention(graph: Graph, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, h: int) -> torch.Tensor:
    parts = []
    for q_h, k_h, v_h in zip(q.chunk(h, 1), k.chunk(h, 1), v.chunk(h, 1), strict=True):
        weight = (q_h @ k_h.T).clamp(-10, 10).exp() * (graph.dense() > 0)
        parts.append(weight / (weight.sum(1, keepdim=True) + 1e-8) @ v_h)
    return torch.cat(parts, 1)


@pytest.mark.parametrize("scale", [1.0, 4.0], ids=["inside", "clamped"])
@pytest.mark.parametrize("block", [EDGE_BLOCK, 7])
@pytest.mark.parametrize("n_heads", [1, 3])
def test_edge_attention(n_heads: int, block: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "EDGE_BLOCK", block)
    graph = uneven_graph(8, 11, 0.5)
    q, k, v = normal(8, 6, "q", scale), normal(11, 6, "k", scale), normal(11, 6, "v")
    assert ((q @ k.T).abs() > 10).any() == (scale > 1)
    found = edge_attention(graph, q, k, v, n_heads)
    expected = plain_attention(graph, q, k, v, n_heads)
    assert torch.allclose(found, expected, atol=EXACT)
    assert not found[1].any()
    pull = normal(8, 6, "pull").detach()
    of_found, of_expected = (torch.autograd.grad((y * pull).sum(), (q, k, v)) for y in (found, expected))
    for one, other in zip(of_found, of_expected, strict=True):
        assert torch.allclose(one, other, atol=EXACT)


def test_edge_attention_over_a_symmetric_graph(reference) -> None:
    graph = bipartite(reference.data.train)
    q, k, v = (normal(100, 8, purpose) for purpose in "qkv")
    found = torch.autograd.grad(edge_attention(graph, q, k, v, 2).square().sum(), (q, k, v))
    expected = torch.autograd.grad(plain_attention(graph, q, k, v, 2).square().sum(), (q, k, v))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=EXACT)


def test_edge_attention_keeps_no_rows_of_edges() -> None:
    graph = uneven_graph(40, 40, 0.9)
    saved = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        saved.append(x.numel())
        return x

    rows = [normal(40, 16, purpose) for purpose in "qkv"]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        edge_attention(graph, *rows, 2)
    assert max(saved) == 2 * len(graph)
    half = edge_attention(graph, *(x.bfloat16() for x in rows), 2)
    assert half.dtype == torch.float32
    with pytest.raises(GraphError, match="n_heads=3"):
        edge_attention(graph, *rows, 3)


def test_the_order_of_the_transpose() -> None:
    graph = uneven_graph(8, 11, 0.5)
    weight = torch.rand(len(graph), generator=torch_rng(0, "tests/order"))
    order = graph.reversed_order()
    assert torch.equal(graph.t().weighted(weight[order]).dense(), graph.weighted(weight).dense().T)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_masked_neighborhoods(reference, depth: int) -> None:
    graph = bipartite(reference.data.train)
    seeds = torch.tensor([3, 50])
    kept, masked = mask_neighborhoods(graph, seeds, depth)
    # The reference's way: take away the edges at a node, then those at their ends.
    left = {(int(t), int(s)) for t, s in edges_of(graph).T}
    front, reached = set(seeds.tolist()), set(seeds.tolist())
    for _ in range(depth):
        reached |= front
        gone = {edge for edge in left if front & set(edge)}
        left -= gone
        front = {node for edge in gone for node in edge}
    assert {tuple(edge) for edge in edges_of(graph)[:, kept].T.tolist()} == left
    assert set(masked.nonzero().squeeze(1).tolist()) == reached


def test_random_pairs_are_added_once_in_both_directions(reference) -> None:
    graph = bipartite(reference.data.train)
    nodes = torch.tensor([2, 5, 41, 99])
    pairs = random_pairs(nodes, 500, torch_rng(0, "tests/pairs"))
    assert set(map(tuple, pairs.T.tolist())) == {(a, b) for a in nodes.tolist() for b in nodes.tolist()}
    for self_loops in (False, True):
        expected = (graph.dense() > 0).float()
        expected[pairs[0], pairs[1]] = 1
        if self_loops:
            expected.fill_diagonal_(1)
        found = with_pairs(graph, pairs, self_loops)
        assert found.symmetric
        assert torch.equal(found.dense(), expected)
        again = Graph.from_edges(found.col, found.target, n_source=100, n_target=100, symmetric=True)
        assert torch.equal(again.dense(), found.dense())
    drawn = random_nodes(1000, 500, torch_rng(0, "tests/nodes"))
    assert len(drawn) == 500
    assert len(drawn.unique()) < 500, "with replacement"
    assert 450 < drawn.double().mean() < 550


def test_gumbel_noise() -> None:
    noise = self_supervision.gumbel_noise(100_000, torch_rng(0, "tests/gumbel"))
    assert abs(float(noise.mean()) - np.euler_gamma) < 0.02
    assert abs(float(noise.var()) - np.pi**2 / 6) < 0.05
    assert torch.isfinite(self_supervision.gumbel(torch.tensor([0.0]))).all()


def test_infomax_scores_of_nodes_without_edges_are_finite() -> None:
    graph = Graph.from_edges([0, 1], [1, 0], n_source=3, n_target=3, symmetric=True)
    x = torch.randn(3, 4, generator=torch_rng(0, "tests/infomax")).requires_grad_()
    scores = self_supervision.infomax_scores(graph, x)
    scores.sum().backward()
    assert torch.isfinite(scores).all()
    assert torch.isfinite(x.grad).all()
    assert torch.allclose(scores[2], torch.tensor(0.5).log())
