"""LayerGCN against the equations of the paper on dense float64 matrices with autograd; pruning and gaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tolerances import PARITY
from torch import Tensor
from torch.nn.functional import cosine_similarity, logsigmoid

from graphrec import testing
from graphrec.core.errors import ConfigError
from graphrec.core.random import numpy_rng
from graphrec.graphs.graph import bipartite
from graphrec.models.batches import EpochContext
from graphrec.models.layergcn import LayerGCN
from graphrec.models.layers import refine


@pytest.fixture(scope="module")
def data():
    """With a user and an item without interactions."""
    full, _ = testing.communities(3, 20)
    keep = (full.train.users != 4) & (full.train.items != 7)
    pairs = np.stack([full.train.users[keep], full.train.items[keep]], 1)
    return testing.dataset(pairs, [], full.n_users, full.n_items, "gaps")


def plain(train, users: Tensor, items: Tensor, n_layers: int) -> tuple[Tensor, Tensor]:
    """The equations, in float64."""
    n_users = train.n_users
    n = n_users + train.n_items
    adjacency = torch.zeros(n, n, dtype=torch.float64)
    adjacency[train.users.astype(np.int64), train.items.astype(np.int64) + n_users] = 1
    adjacency = adjacency + adjacency.T
    scale = adjacency.sum(1).clamp(min=1) ** -0.5
    adjacency = scale[:, None] * adjacency * scale
    initial = torch.cat([users, items])
    x = initial
    total = torch.zeros_like(initial)
    for _ in range(n_layers):
        x = adjacency @ x
        x = cosine_similarity(x, initial, dim=1)[:, None] * x
        total = total + x
    return total[:n_users], total[n_users:]


def close(found: Tensor, expected: Tensor, what: str) -> None:
    worst = (found.detach().double() - expected).abs().max() / expected.abs().max()
    assert worst < PARITY, f"{what} differ by {worst:.1e}"


def doubles(model: LayerGCN) -> list[Tensor]:
    return [t.detach().double().requires_grad_() for t in model.id_embeddings]


@pytest.mark.parametrize("n_layers", [1, 2, 4])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_embeddings_losses_and_gradients(data, n_layers, dropout) -> None:
    config = LayerGCN.Config(dim=8, n_layers=n_layers, dropout=dropout, reg_weight=0.02)
    model = LayerGCN.build(data, None, config)
    model.start_epoch(numpy_rng(0, "start_epoch", 1))
    users, items = doubles(model)
    for found, expected in zip(model.embed(), plain(data.train, users, items, n_layers), strict=True):
        close(found, expected.detach(), "embeddings")
        assert torch.isfinite(found).all()
    batch = next(iter(model.batches(EpochContext(1, 50, 0))))
    losses = model.loss(batch)
    (losses["bpr"] + losses["reg"]).backward()

    kept = model.epoch_graph
    of_users = kept.target < data.n_users
    pairs = np.stack([kept.target[of_users], kept.col.long()[of_users] - data.n_users], 1)
    assert len(pairs) == int(len(data.train) * (1 - dropout))
    train = testing.dataset(pairs, [], data.n_users, data.n_items, "kept").train
    out_users, out_items = plain(train, users, items, n_layers)
    positive = (out_users[batch.users] * out_items[batch.positives]).sum(1)
    negative = (out_users[batch.users] * out_items[batch.negatives]).sum(1)
    bpr = -logsigmoid(positive - negative).mean()
    rows = (users[batch.users], items[batch.positives], items[batch.negatives])
    reg = 0.02 * sum(r.square().sum() for r in rows) / 2 / len(batch.users)
    close(losses["bpr"], bpr.detach(), "bpr")
    close(losses["reg"], reg.detach(), "reg")
    (bpr + reg).backward()
    for table, expected in zip(model.id_embeddings, (users, items), strict=True):
        close(table.grad, expected.grad, "gradients")


def test_the_gradient_of_a_refined_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    x, initial = (
        torch.randn(6, 5, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2)
    )
    assert torch.autograd.gradcheck(refine, (x, initial))
    zero = torch.zeros(2, 5, requires_grad=True)
    refine(zero, initial[:2].detach().float()).sum().backward()
    assert not zero.grad.any()


def test_pruning_is_redrawn_and_serving_takes_the_full_graph(data) -> None:
    model = LayerGCN.build(data, None, LayerGCN.Config(dropout=0.5))
    before = model.score([0])
    edges = []
    for epoch in (1, 2):
        model.start_epoch(numpy_rng(0, "start_epoch", epoch))
        assert len(model.epoch_graph) == 2 * (len(data.train) // 2)
        edges.append(model.epoch_graph.col)
    assert not torch.equal(*edges)
    assert torch.equal(model.score([0]), before)


def test_pruning_by_degree_spares_edges_of_rare_nodes(data) -> None:
    """How often an edge is kept rises with its probability, and is the same for all with ``uniform``."""

    def kept(prune: str) -> np.ndarray:
        model = LayerGCN.build(data, None, LayerGCN.Config(dropout=0.5, prune=prune))
        count = np.zeros(len(data.train))
        full = bipartite(data.train)
        n_users = data.n_users
        key = full.target * full.n_source + full.col
        for epoch in range(300):
            model.start_epoch(numpy_rng(0, "start_epoch", epoch))
            graph = model.epoch_graph
            present = torch.isin(key, graph.target * graph.n_source + graph.col)
            count += present[full.target < n_users].numpy()
        return np.asarray(np.corrcoef(count, model.edge_probability)[0, 1])

    by_degree, uniform, mixed = (kept(p) for p in ("degree", "uniform", "mixed"))
    assert by_degree > 0.9
    assert abs(uniform) < 0.2
    assert uniform + 0.1 < mixed < by_degree


def test_nodes_without_interactions_are_zero(data) -> None:
    users, items = LayerGCN.build(data).embed()
    assert not users[4].any()
    assert not items[7].any()


@pytest.mark.parametrize("option", [{"n_layers": 0}, {"dropout": 1.0}, {"prune": "none"}])
def test_options_out_of_range_are_refused(option) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        LayerGCN.Config(**option)
