"""GFormer against the reference implementation, and its blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reference import Reference, assert_close
from scipy.sparse.csgraph import shortest_path
from test_autocf import edges_of, in_order, normal, plain_attention, uneven_graph
from tolerances import PROPAGATION

from graphrec.core.errors import ConfigError, GraphError
from graphrec.core.random import numpy_rng, torch_rng
from graphrec.data.query import Histories, Query
from graphrec.graphs.attention import edge_shares
from graphrec.graphs.distances import closeness, hops
from graphrec.graphs.graph import Graph, bipartite
from graphrec.graphs.masking import with_pairs
from graphrec.models import gformer
from graphrec.models.batches import EpochContext
from graphrec.models.fold_in import LeastSquaresFoldIn
from graphrec.models.gformer import AnchorLayer, Anchors, GFormer, Graphs, Triplets
from graphrec.models.self_supervision import draw_without_replacement

PARAMETERS = {
    "query": "query",
    "key": "key",
    "value": "value",
    "anchor_weight": "anchor_layer.map.weight",
    "anchor_bias": "anchor_layer.map.bias",
    "sampler_anchor_weight": "scorer_layer.map.weight",
    "sampler_anchor_bias": "scorer_layer.map.bias",
}
GRAPHS = {"encoder": "encoder", "decoder": "decoder", "rationale": "sub", "complement": "cmp"}
OPTIONS = {
    "scramble": True, "own_scorer": True, "n_anchors": 6, "added_pairs": 0.05, "encoder_share": 0.8,
    "view_share": 0.3, "decoder_pairs": 0.6, "spread_weight": 0.5, "contrast_weight": 0.01,
}  # fmt: skip
N = 100  # nodes of the toy


@pytest.fixture
def reference() -> Reference:
    return Reference("gformer", "sslrec")


def of_the_reference(reference: Reference) -> Any:
    """A model with the reference's parameters and anchors."""
    model = reference.model(GFormer, PARAMETERS, **OPTIONS)
    with torch.no_grad():
        model.anchors.copy_(torch.from_numpy(reference[".draw.anchors"]))
    return model


def graph_of(reference: Reference, name: str) -> Graph:
    """One of its graphs; its first row of indices are targets."""
    target, source = reference[f".{name}_edges"]
    return Graph.from_edges(source, target, reference[f".{name}_values"], n_source=N, n_target=N)


def batch_of(reference: Reference, redraw: bool = False, key: int = 0) -> Triplets:
    return Triplets(*reference.batch[:3], torch.tensor(key), torch.tensor(redraw))


# -- parity --------------------------------------------------------------------------------------------------


def test_gformer(reference) -> None:
    model = of_the_reference(reference)
    model.drawn = Graphs(**{ours: graph_of(reference, theirs) for ours, theirs in GRAPHS.items()})
    losses = model.loss(batch_of(reference))
    unused = sum(np.square(reference.all[key]).sum() for key in reference.all if ".param.unused_" in key)
    weighted = losses["rationale"].detach()
    total = torch.stack(list(losses.values())).sum() + 1e-4 * float(unused)
    found = {
        "bpr_loss": losses["alignment"],
        "cl_loss": losses["spread"] + losses["contrast"],
        "reg_loss": losses["reg"] + 1e-4 * float(unused),
        "total": total,
    }
    # The fixture names three of the four terms, so the total checks the rest.
    named = sum(float(reference[f".loss.{key}"]) for key in found if key != "total")
    assert float(weighted) == pytest.approx(float(reference[".loss.total"]) - named, rel=1e-5)
    for key, value in found.items():
        assert_close(value, reference[f".loss.{key}"], key)
    total.backward()
    for theirs, ours in reference.parameters.items():
        assert_close(model.get_parameter(ours).grad, reference[f".grad.{theirs}"], f"gradient of {ours}")
    assert len(reference.parameters) == sum(".grad." in key for key in reference.all) == 9


def test_embeddings(reference) -> None:
    model = of_the_reference(reference)
    graphs = Graphs(**{ours: graph_of(reference, theirs) for ours, theirs in GRAPHS.items()})
    final, found = model.final(graphs.encoder, graphs.decoder, model.near())
    users, items = final.split([40, 60])
    assert_close(users, reference[".train_users"], "users on the masked graphs")
    assert_close(items, reference[".train_items"], "items on the masked graphs")
    rationale, complement = model.views(graphs, found)
    assert_close(rationale, reference[".sub_out"], "rationale")
    assert_close(complement, reference[".cmp_out"], "complement")
    for side, table in zip(("user", "item"), model.embed(), strict=True):
        assert_close(table, reference[f".{side}_out"], f"{side}s")
    assert_close(model.score(reference.all["score_users"]), reference[".scores"], "scores")
    assert_close(model.near().closeness.T, reference[".anchor_distances"], "distances")


def kept_entries(reference: Reference, name: str, graph: Graph) -> torch.Tensor:
    """Which entries of the scored graph ``(E,) bool`` one of the reference's graphs has. A self-loop was
    kept if the weights say that it counts twice.
    """
    dense = graph_of(reference, name).dense().double()
    others = (dense > 0).double().fill_diagonal_(0).sum(1)  # entries of a row
    twice = dense.diagonal() > 1.5 / (others + 1.5)
    # Rows without others are divided by themselves; what they send to other rows tells them apart.
    degree = torch.where(twice, others + 2, others + 1)
    for node in (others == 0).nonzero().squeeze(1).tolist():
        hears = (dense[:, node] > 0).nonzero().squeeze(1)
        hears = hears[hears != node]
        if len(hears):
            own = 1 / (dense[hears[0], node] ** 2 * degree[hears[0]])
            twice[node] = own > 1.5
    present = (dense > 0) & ~torch.eye(N, dtype=torch.bool) | torch.diag(twice)
    return present[graph.target, graph.col.long()]


def test_drawn_graphs(reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph whose edges are scored, their scores, and the graphs made of what the reference has kept."""
    model = of_the_reference(reference)
    added = torch.from_numpy(reference[".added_adj_dense"])
    scored = (added - with_pairs(model.adjacency).dense()).triu(1)  # how often each pair was drawn
    row, column = scored.nonzero().T
    drawn_pairs = torch.stack([row, column]).repeat_interleave(scored[row, column].long(), 1)
    # Four entries have the weight 2: their pairs were drawn twice, or once and are train interactions.
    asked, log_weights, shares = [], [], []

    def pairs(nodes: torch.Tensor, n: int, rng: torch.Generator) -> torch.Tensor:
        asked.append((nodes, n))
        return drawn_pairs if len(asked) == 1 else drawn_pairs[:, :0]

    def draw(weights: torch.Tensor, n: int, rng: torch.Generator) -> torch.Tensor:
        log_weights.append(weights)
        shares.append(n)
        name = ("encoder", "sub", "cmp")[len(shares) - 1]
        return kept_entries(reference, name, graph)

    monkeypatch.setattr(gformer, "random_pairs", pairs)
    monkeypatch.setattr(gformer, "draw_without_replacement", draw)
    graph, attention = model.scored(torch.Generator())
    assert torch.equal(graph.dense() > 0, added > 0)
    assert asked[0][1] == drawn_pairs.shape[1] == 24
    assert torch.equal(asked[0][0], model.adjacency.target), "in proportion to the degree"
    target, source = (added > 0).nonzero().T
    assert torch.equal(graph.target, target)
    assert torch.equal(graph.col.long(), source)
    expected = np.minimum(reference[".edge_attention"], 3)
    assert_close(attention, expected, "scores of edges")

    asked.clear()
    found = model.draw(torch.tensor(0))
    for ours, theirs in GRAPHS.items():
        if ours == "decoder":
            continue
        edges = reference[f".{theirs}_edges"]
        drawn = getattr(found, ours)
        assert np.array_equal(edges_of(drawn), in_order(edges)), ours
        order = np.lexsort(edges[::-1])
        assert_close(drawn.weight, reference[f".{theirs}_values"][order], f"weights of {ours}")
        assert not drawn.symmetric
    assert shares == [int(0.8 * 638), int(0.3 * 638), int(0.3 * 638)]
    scores = torch.from_numpy(expected)
    for weights, of in zip(log_weights, (-scores, (scores + 1e-3).log(), -scores), strict=True):
        assert torch.allclose(weights, of, atol=PROPAGATION)
    # The reference's pairs are not in the fixture; without any the decoder is what is kept.
    assert asked[1][1] == int(0.6 * 638)
    decoder = found.decoder.dense()
    assert torch.equal(decoder, (found.encoder.dense() > 0).float())
    inside = torch.from_numpy(reference[".decoder_edges"])
    assert decoder[inside[0].long(), inside[1].long()].sum() == decoder.sum(), "a part of the reference's"
    dropped = ~kept_entries(reference, "encoder", graph)
    ends = asked[1][0]
    n_ends = 2 * int(dropped.sum())
    assert set(ends[:n_ends].tolist()) == set(graph.target[dropped].tolist()) | set(
        graph.col[dropped].tolist()
    )
    assert len(ends) == n_ends + n_ends // 2


# -- the model -----------------------------------------------------------------------------------------------


def small(reference: Reference, **options: Any) -> Any:
    return reference.model(GFormer, **{"n_anchors": 5, **options})


def test_draws_follow_from_the_key(reference) -> None:
    model = small(reference)
    batches = list(model.batches(EpochContext(1, 10, 0)))
    assert [int(b.redraw) for b in batches] == ([1] + [0] * 9) * 2 + [1] + [0] * 4
    assert len({int(b.key) for b in batches}) == 3
    assert not torch.equal(batches[0].negatives, batches[1].negatives)
    again = list(model.batches(EpochContext(1, 10, 0)))
    assert all(
        torch.equal(x, y) for a, b in zip(again, batches, strict=True) for x, y in zip(a, b, strict=True)
    )
    model.loss(batches[0])
    drawn = model.drawn
    model.loss(batches[1])
    assert model.drawn is drawn
    model.loss(batches[10])
    assert model.drawn is not drawn
    for one, other in zip(model.draw(batches[0].key), drawn, strict=True):
        assert torch.equal(one.dense(), other.dense()), "a function of the key"
    assert not torch.equal(model.drawn.rationale.dense(), drawn.rationale.dense())


def test_graphs_have_the_shares_of_the_options(reference) -> None:
    model = small(reference, encoder_share=0.7, view_share=0.2, added_pairs=0.1, decoder_pairs=0.5)
    with torch.no_grad():
        model.query.mul_(4)  # attention that differs between edges
    graphs = model.draw(torch.tensor(1))
    scored, attention = model.scored(torch.Generator().manual_seed(1))
    assert len(model.adjacency) + N < len(scored) <= len(model.adjacency) + N + 2 * 49
    plain = bipartite(reference.data.train).dense() > 0
    assert (scored.dense() > 0)[plain].all()
    for name, share in (("encoder", 0.7), ("rationale", 0.2), ("complement", 0.2)):
        dense = getattr(graphs, name).dense()
        assert (dense.diagonal() > 0).all(), "self-loops besides"
        off_diagonal = (dense > 0).float().fill_diagonal_(0)
        count = off_diagonal.sum(1) + 1
        loops = torch.where(dense.diagonal() * (count + 1) > 1.5, 2, 1)
        isolated = off_diagonal.sum(1) == 0
        kept = int(off_diagonal.sum() + (loops - 1)[~isolated].sum())
        assert kept <= int(share * len(scored)) <= kept + int(isolated.sum())
    decoder = graphs.decoder.dense()
    assert ((decoder == 0) | (decoder == 1)).all()
    assert (decoder > 0)[graphs.encoder.dense() > 0].all()
    assert int(decoder.sum()) > len(graphs.encoder) + len(scored) // 2, "random pairs in both directions"

    pairs = graph_without_loops(scored)
    a = attention[pairs]
    dense_attention = torch.zeros(N, N)
    dense_attention[scored.target[pairs], scored.col.long()[pairs]] = a
    expected = {"rationale": (a * a).sum() / a.sum(), "complement": (a * (-a).exp()).sum() / (-a).exp().sum()}
    assert expected["rationale"] > expected["complement"] + 0.1
    model = small(reference, view_share=0.05, added_pairs=0.1)
    with torch.no_grad():
        model.query.mul_(4)
    graphs_of_keys = [model.draw(torch.tensor(key)) for key in range(20)]
    for name, mean in expected.items():
        found = [dense_attention[getattr(graphs, name).dense() > 0] for graphs in graphs_of_keys]
        drawn = torch.cat([x[x > 0] for x in found])
        # Entries drawn without replacement are a little more even.
        assert abs(float(drawn.mean() - mean)) < 0.03, name


def graph_without_loops(graph: Graph) -> torch.Tensor:
    """Which entries ``(E,) bool`` are no self-loops."""
    return graph.target != graph.col


def test_attention_counts_up_to_three(reference) -> None:
    model = small(reference, added_pairs=0.0)
    with torch.no_grad():
        model.key.zero_()
    graph, attention = model.scored(torch.Generator())
    degree = torch.bincount(graph.target)[graph.target]
    assert torch.allclose(attention, (4 / degree).clamp(max=3), atol=PROPAGATION)
    lonely = small(reference, added_pairs=0.0)
    lonely.adjacency = Graph.from_edges([0, 50], [50, 0], n_source=N, n_target=N, symmetric=True)
    graph, attention = lonely.scored(torch.Generator())
    assert float(attention.max()) == 3, "of a node that has only itself"


@pytest.mark.parametrize("scramble", [False, True])
def test_anchor_layer(scramble: bool) -> None:
    layer = AnchorLayer(4, torch_rng(0, "tests/anchors")).double()
    x = normal(7, 4, "anchors")
    nodes = torch.tensor([5, 0, 2])
    near = normal(7, 3, "closeness").detach()
    found = layer(x, Anchors(nodes, near), scramble)
    rows = []
    for v in range(7):
        slots = []
        for a in range(3):
            z = x[(v * 3 + a) % 7] if scramble else x[v]
            slots.append(layer.map(torch.cat([near[v, a] * x[nodes[a]], z])))
        rows.append(torch.stack(slots).mean(0))
    expected = torch.stack(rows)
    assert torch.allclose(found, expected, atol=1e-12)
    pull = normal(7, 4, "pull").detach()
    inputs = (x, layer.map.weight, layer.map.bias)
    for one, other in zip(
        torch.autograd.grad((found * pull).sum(), inputs),
        torch.autograd.grad((expected * pull).sum(), inputs),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-12)


def test_by_default_edges_are_scored_with_the_trained_layer(reference) -> None:
    model = small(reference, added_pairs=0.0)
    assert model.scorer_layer is None
    _, before = model.scored(torch.Generator())
    with torch.no_grad():
        model.anchor_layer.map.weight.mul_(2)
    _, after = model.scored(torch.Generator())
    assert not torch.equal(before, after)
    own = small(reference, added_pairs=0.0, own_scorer=True)
    _, before = own.scored(torch.Generator())
    with torch.no_grad():
        own.anchor_layer.map.weight.mul_(2)
    _, after = own.scored(torch.Generator())
    assert torch.equal(before, after)
    losses = own.loss(batch_of(reference, redraw=True))
    learned = sum(value for name, value in losses.items() if name != "reg")
    assert torch.autograd.grad(learned, own.scorer_layer.map.weight, allow_unused=True)[0] is None


def test_inference_as_trained(reference) -> None:
    model = small(reference, inference="trained", n_layers=3)
    users, items = model.embed()
    a = (bipartite(reference.data.train).dense() > 0).double()
    looped = a + 2 * torch.eye(N)
    root = looped.sum(1).rsqrt()
    x = torch.cat(model.id_embeddings).detach().double()
    found = [x]
    for _ in range(3):
        found.append(root[:, None] * looped * root @ found[-1])
    placed = model.anchor_layer.double()(found[-1], Anchors(model.anchors, model.near().closeness.double()))
    tables = [placed @ getattr(model, name).double() for name in ("query", "key", "value")]
    attended = plain_attention(with_pairs(model.adjacency), *tables, 4)
    expected = sum(found) + placed + attended
    assert torch.allclose(torch.cat([users, items]).double(), expected, atol=PROPAGATION)
    assert isinstance(model.fold_in(), LeastSquaresFoldIn)


def test_anchors_are_drawn_each_epoch_and_saved(reference) -> None:
    model = small(reference, inference="trained")
    first = model.near()
    model.start_epoch(numpy_rng(0, "start_epoch", 1))
    second = model.near()
    assert model.near() is second, "distances are found once an epoch"
    assert not torch.equal(first.nodes, second.nodes)
    assert len(second.nodes.unique()) == 5
    assert torch.equal(second.closeness, closeness(model.adjacency, second.nodes))
    other = small(reference, inference="trained", seed=3)
    assert not torch.equal(other.embed()[0], model.embed()[0])
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.embed()[0], model.embed()[0])
    assert len(small(reference, n_anchors=500).anchors) == N


def test_a_history_is_folded_in_but_for_the_own_embedding(reference) -> None:
    model = small(reference)
    with torch.no_grad():
        model.user_embedding.weight.zero_()
        model.item_embedding.weight.normal_(generator=torch_rng(0, "tests/fold_in"))
    histories = Histories.from_interactions(reference.data.train)
    folded = model.score(Query(histories=histories))
    one_layer = small(reference, n_layers=1)
    one_layer.load_state_dict(model.state_dict())
    exact = one_layer.score(np.arange(40))
    assert torch.allclose(one_layer.score(Query(histories=histories)), exact, atol=1e-5)
    assert torch.allclose(folded, model.score(np.arange(40)), atol=1e-4)


def test_several_negatives(reference) -> None:
    model = small(reference, n_negatives=3)
    batch = next(iter(model.batches(EpochContext(1, 20, 0))))
    assert batch.negatives.shape == (20, 3)
    of_three = model.loss(batch)["rationale"]
    of_each = [model.loss(batch._replace(negatives=batch.negatives[:, i]))["rationale"] for i in range(3)]
    assert torch.allclose(of_three, torch.stack(of_each).mean(), atol=PROPAGATION)


def test_large_embeddings_give_finite_losses(reference) -> None:
    model = small(reference)
    with torch.no_grad():
        model.user_embedding.weight.mul_(200)
        model.item_embedding.weight.mul_(200)
    losses = model.loss(batch_of(reference, redraw=True))
    assert float(losses["spread"].detach()) > 1000, "exponentials of these are not finite"
    assert all(torch.isfinite(value) for value in losses.values())


def test_heads_divide_the_embedding() -> None:
    with pytest.raises(ConfigError, match="n_heads=3 does not divide dim=32"):
        GFormer.Config(n_heads=3)


# -- blocks --------------------------------------------------------------------------------------------------


def test_hops() -> None:
    edges = np.array([[0, 1, 2, 3, 5, 6, 0], [1, 2, 3, 4, 6, 7, 4]])  # a path with a short cut, and a part
    both = np.concatenate([edges, edges[::-1]], 1)
    graph = Graph.from_edges(*both, np.full(both.shape[1], 1e-30), n_source=9, n_target=9, symmetric=True)
    sources = torch.tensor([0, 6, 0, 8])
    found = hops(graph, sources)
    expected = shortest_path(graph.dense().numpy() > 0, unweighted=True, indices=sources.numpy()).T
    assert np.array_equal(np.where(np.isinf(expected), -1, expected), found.numpy())
    assert int(found[3, 0]) == 2
    near = closeness(graph, sources)
    assert torch.allclose(near.double(), torch.from_numpy(1 / (expected + 1)))
    assert float(near[8, 0]) == 0
    assert float(near[8, 3]) == 1


def test_hops_go_along_the_edges() -> None:
    graph = Graph.from_edges([0, 1], [1, 2], n_source=3, n_target=3)
    assert hops(graph, torch.tensor([0, 2])).T.tolist() == [[0, 1, 2], [-1, -1, 0]]


@pytest.mark.parametrize("scale", [1.0, 4.0], ids=["inside", "clamped"])
def test_edge_shares(scale: float) -> None:
    graph = uneven_graph(8, 11, 0.5)
    q, k = normal(8, 6, "q", scale), normal(11, 6, "k", scale)
    found = edge_shares(graph, q, k, 3)
    assert not found.requires_grad
    eye = torch.eye(11, dtype=torch.float64).repeat(1, 3)  # values that show the weights
    for head in range(3):
        columns = slice(2 * head, 2 * head + 2)
        expected = plain_attention(graph, q[:, columns], k[:, columns], eye[:, :11], 1)
        assert torch.allclose(
            graph.weighted(found[head].float()).dense().double(), expected, atol=PROPAGATION
        )
    with pytest.raises(GraphError, match="n_heads=4"):
        edge_shares(graph, q, k, 4)


def test_edges_are_counted() -> None:
    graph = Graph.from_edges([0, 1, 2, 0], [1, 0, 2, 2], n_source=4, n_target=4)
    pairs = torch.tensor([[0, 0], [1, 3]])
    once = with_pairs(graph, pairs)
    often = with_pairs(graph, pairs, counted=True)
    expected = torch.tensor([[1.0, 2, 0, 1], [2, 1, 0, 0], [1, 0, 2, 0], [1, 0, 0, 1]])
    assert torch.equal(often.dense(), expected)
    assert torch.equal(once.dense(), (expected > 0).float())
    assert not once.symmetric
    assert not often.symmetric
    assert torch.equal(with_pairs(graph, self_loops=False).dense(), (graph.dense() > 0).float())


def test_draws_without_replacement_follow_the_weights() -> None:
    weights = torch.tensor([1.0, 2.0, 4.0, 0.5])
    rng = torch_rng(0, "tests/draws")
    counts = torch.zeros(4)
    n = 4000
    for _ in range(n):
        drawn = draw_without_replacement(weights.log(), 2, rng)
        assert drawn.sum() == 2
        counts += drawn
    # The first is drawn by the weights, the second by those of the others.
    p = weights / weights.sum()
    expected = p.clone()
    for first in range(4):
        rest = p.clone()
        rest[first] = 0
        expected += p[first] * rest / rest.sum()
    assert torch.allclose(counts / n, expected, atol=0.03)
    assert not draw_without_replacement(weights, 0, rng).any()
    assert draw_without_replacement(weights, 4, rng).all()
