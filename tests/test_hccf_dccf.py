"""HCCF and DCCF against the reference implementations, and the blocks they are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reference import Reference, assert_close
from tolerances import PARITY, PROPAGATION
from torch import Tensor
from torch.nn.functional import leaky_relu, normalize

from graphrec import testing
from graphrec.graphs import augmentation
from graphrec.graphs.graph import Graph, bipartite, edge_products
from graphrec.models import self_supervision
from graphrec.models.dccf import DCCF
from graphrec.models.hccf import HCCF, Part
from graphrec.models.losses import InfoNCE

HYPEREDGES = {"user_hyper": "user_hyperedges", "item_hyper": "item_hyperedges"}
INTENTS = {"user_intent": "user_intents", "item_intent": "item_intents"}


class ShiftedInfoNCE(InfoNCE):
    """Both references of HCCF add 1e-8 to every number before they scale rows to length one, which gives the
    rows of zeros of nodes that lost all their edges a direction, and all of them the same.
    """

    def _scaled(self, x: Tensor) -> Tensor:
        return normalize(x + 1e-8, dim=1)


def hccf(variant: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Reference, HCCF]:
    """The model of one variant, with the reference's parameters and masks."""
    reference = Reference("hccf", variant)
    shared = {"n_layers": 2, "n_hyperedges": 12, "dropout": 0.3, "temperature": 0.2, "reg_weight": 1e-4}
    model = reference.model(HCCF, HYPEREDGES, **{**shared, **options})
    if model.config.dropout:
        order = reference.edge_order(model.graph)
        parts = []
        for n in (1, 2):
            kept = torch.from_numpy(reference[f".draw.kept_mask_layer{n}"].astype(bool))
            masks = [reference[f".draw.{side}_hyper_mask_layer{n}"] for side in ("user", "item")]
            graph = augmentation.keep_entries(model.graph, kept[order], 1 / 0.7)
            parts.append(Part(graph, torch.from_numpy(np.concatenate(masks)) / 0.7))
        monkeypatch.setattr(model, "draw", lambda key: parts)
    return reference, model


@pytest.mark.parametrize(("variant", "dropout"), [("official", 0.3), ("official_full", 0.0)])
def test_hccf(variant: str, dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, model = hccf(variant, monkeypatch, dropout=dropout)
    final, heard = model.propagate(model.draw(reference.batch.key))
    assert_close(final, reference[".train_out"], "final embeddings while training")
    for n, layer in enumerate(heard, 1):
        assert_close(layer.local, reference[f".gcn_layer{n}"], f"neighbors in layer {n}")
        assert_close(layer.shared, reference[f".hyper_layer{n}"], f"hyperedges in layer {n}")
    model.contrast = ShiftedInfoNCE(0.2)
    losses = model.loss(reference.batch)
    assert_close(losses["contrast"] / 0.2, reference[".loss.ssl_unweighted"], "contrast")
    reference.check(model, losses, {"bpr": "bpr", "reg": "reg"})


def test_hccf_of_sslrec(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, model = hccf("sslrec", monkeypatch, pool="all", hypergraph_scale=0.1, negative_slope=0.5)
    model.contrast = ShiftedInfoNCE(0.2)
    expected = {"bpr": "bpr_loss", "contrast": "cl_loss", "reg": "reg_loss"}
    reference.check(model, model.loss(reference.batch), expected)


def test_hccf_does_not_give_a_direction_to_nodes_without_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, model = hccf("official", monkeypatch)
    _, heard = model.propagate(model.draw(reference.batch.key))
    lost = ~heard[0].local.any(1)
    assert lost.any(), "nodes whose edges the reference dropped"
    shared = heard[0].shared.detach().requires_grad_()
    ids = torch.arange(100)
    local = heard[0].local.detach()
    # Such a row is as near to every row of the pool: it adds a constant, and no gradient.
    (gradient,) = torch.autograd.grad(model.contrast(local[lost], shared, ids[lost]), shared)
    assert not gradient.any()
    (gradient,) = torch.autograd.grad(ShiftedInfoNCE(0.2)(local[lost], shared, ids[lost]), shared)
    assert gradient.any(), "what the references do"


def test_hccf_draws_by_seed_and_layer() -> None:
    data = Reference("hccf", "official").data
    model = HCCF.build(data, None, HCCF.Config(dropout=0.3, n_layers=2, n_hyperedges=32))
    one, alike, other = (model.draw(torch.tensor(key)) for key in (1, 1, 2))
    for n in range(2):
        assert torch.equal(one[n].graph.dense(), alike[n].graph.dense())
        assert torch.equal(one[n].incidence, alike[n].incidence)
        assert not torch.equal(one[n].graph.dense(), other[n].graph.dense())
        assert not torch.equal(one[n].incidence, other[n].incidence)
        kept = one[n].incidence > 0
        assert 0.65 < kept.float().mean() < 0.75
        assert torch.allclose(one[n].incidence[kept], torch.tensor(1 / 0.7))
    assert not torch.equal(one[0].graph.dense(), one[1].graph.dense()), "new ones in each layer"
    assert not torch.equal(one[0].incidence, one[1].incidence)


def test_hccf_scale_of_hyperedges_enters_twice() -> None:
    reference = Reference("hccf", "official_full")
    whole, tenth = (
        reference.model(HCCF, HYPEREDGES, n_layers=1, n_hyperedges=12, hypergraph_scale=scale)
        for scale in (1.0, 0.1)
    )
    with torch.no_grad():
        _, (large,) = whole.propagate([Part(whole.graph)])
        _, (small,) = tenth.propagate([Part(tenth.graph)])
        assert torch.allclose(small.shared, large.shared / 100, rtol=1e-4)
        assert torch.equal(small.local, large.local)
        whole.user_embedding.weight *= 2
        _, (doubled,) = whole.propagate([Part(whole.graph)])
    assert torch.allclose(doubled.shared[:40], 8 * large.shared[:40], rtol=1e-4), "cubic in the embeddings"


@pytest.mark.parametrize("readout", ["mean", "sum", "layers"])
def test_hccf_folds_in_what_the_graph_adds(readout: str) -> None:
    """Without hyperedges the sum over a known user's items is the user's embedding but for their own."""
    data = Reference("hccf", "official").data
    model = HCCF.build(data, None, HCCF.Config(readout=readout, n_layers=3, hypergraph_scale=1e-9))
    table = model.fold_in().table
    users, _ = model.embed()
    for user in (0, 7, 23):
        items = torch.from_numpy(data.train.items_of(user).astype(np.int64))
        folded = table[items].sum(0) / len(items) ** 0.5
        own = {"mean": 1 / 4, "sum": 1, "layers": 0}[readout] * model.user_embedding.weight[user]
        assert torch.allclose(folded, users[user] - own, atol=PROPAGATION)


def test_dccf() -> None:
    reference = Reference("dccf", "official")
    n = len(reference.batch.users)
    model = reference.model(
        DCCF, INTENTS, n_layers=2, n_intents=8, temperature=0.5, contrast_weight=0.1,
        reg_weight=2 * n * 2.5e-5, intent_reg_weight=5e-3,
    )  # fmt: skip
    _, added = model.propagate()
    for number, layer in enumerate(added, 1):
        names = ("gnn", "intent", "graph_adaptive", "intent_adaptive")
        for name, found in zip(names, layer, strict=True):
            assert_close(found, reference[f".{name}_layer{number}"], f"{name} in layer {number}")
    expected = {"bpr": "bpr", "contrast": "cl", "reg": "emb", "intents": "cen"}
    reference.check(model, model.loss(reference.batch), expected)


def test_dccf_of_sslrec() -> None:
    reference = Reference("dccf", "sslrec")
    model = reference.model(
        DCCF, INTENTS, n_layers=2, n_intents=8, temperature=0.2, contrast_weight=0.1, reg_weight=1e-4,
        regularizer="all_squares", intent_reg_weight=0, contrast_negatives=True, divide_items_by_users=True,
    )  # fmt: skip
    model.contrast = InfoNCE(0.2, eps=1e-8)
    expected = {"bpr": "bpr_loss", "contrast": "cl_loss", "reg": "reg_loss"}
    reference.check(model, model.loss(reference.batch), expected)


def test_default_weight_of_dccf_is_that_of_its_batches() -> None:
    config = DCCF.Config()
    assert config.regularizer == "id_half_squares"
    # Half the squares over the size of a batch, against 2.5e-5 times the squares.
    assert config.reg_weight / 2 / DCCF.train_defaults["batch_size"] == pytest.approx(2.5e-5)


@pytest.mark.parametrize("model_class", [HCCF, DCCF])
def test_nodes_without_edges(model_class: Any) -> None:
    """They hear nothing from the graph, and nothing is NaN: neither embeddings nor gradients."""
    data = testing.dataset([(0, 1), (0, 2), (2, 1), (3, 4)], [], 5, 6, "gaps")
    model = model_class.build(data, None, model_class.Config(dim=4))
    lonely = torch.tensor([1, 4, 5 + 0, 5 + 3, 5 + 5])
    parts = [model.draw(torch.tensor(0))] if model_class is HCCF else []
    _, layers = model.propagate(*parts)
    for layer in layers:
        for name, table in zip(layer._fields, layer, strict=True):
            assert torch.isfinite(table).all(), name
            if name != "shared":
                assert not table[lonely].any(), name
    batch = Reference("hccf", "official").batch._replace(
        users=torch.tensor([0, 1]), positives=torch.tensor([1, 3]), negatives=torch.tensor([4, 5])
    )
    torch.stack(list(model.loss(batch).values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    ("model_class", "options"),
    [
        (HCCF, {"pool": "all", "negative_slope": 0.5}),
        (DCCF, {"contrast_negatives": True, "divide_items_by_users": True, "regularizer": "all_squares"}),
    ],
)
def test_two_processes_with_the_options_of_sslrec(model_class: Any, options: dict[str, Any]) -> None:
    testing.CHECKS["processes"](model_class, model_class.Config(**options))


# -- blocks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [1.0, 0.2])
def test_hypergraph(slope: float) -> None:
    rng = torch.Generator().manual_seed(0)
    h, x = torch.randn(30, 5, generator=rng), torch.randn(30, 8, generator=rng)
    expected = leaky_relu(h @ leaky_relu(h.T @ x, slope), slope)
    assert torch.allclose(self_supervision.hypergraph(h, x, slope), expected, atol=PROPAGATION)


def test_intents() -> None:
    rng = torch.Generator().manual_seed(0)
    x, prototypes = torch.randn(30, 8, generator=rng), torch.randn(8, 5, generator=rng)
    found = self_supervision.intents(x, prototypes)
    share = torch.exp(x @ prototypes)
    share = share / share.sum(1, keepdim=True)
    assert torch.allclose(found, share @ prototypes.T, atol=PROPAGATION)
    nearest = self_supervision.intents(1e4 * prototypes.T, prototypes)
    assert torch.isfinite(nearest).all(), "large products do not overflow"


def test_adaptive_edges() -> None:
    data = Reference("dccf", "official").data
    graph = bipartite(data.train)
    rng = torch.Generator().manual_seed(0)
    y = torch.randn(100, 8, generator=rng, dtype=torch.float64).requires_grad_()
    unit = normalize(y, dim=1)
    dense = torch.where(graph.dense() > 0, (unit @ unit.T + 1) / 2, 0)
    dense = dense / dense.sum(1, keepdim=True)
    x = torch.randn(100, 3, generator=rng)
    factor = torch.randn(100, 3, generator=rng)
    (expected,) = torch.autograd.grad((dense @ x.double() * factor).sum(), y)

    single = y.detach().float().requires_grad_()
    found = graph.weighted(augmentation.adaptive_edges(graph, single))
    assert torch.allclose(found.dense(), dense.float(), atol=PROPAGATION)
    assert torch.allclose(found.dense().sum(1), torch.ones(100), atol=PROPAGATION)
    (gradient,) = torch.autograd.grad((found @ x * factor).sum(), single)
    assert torch.allclose(gradient, expected.float(), atol=PARITY)


def test_adaptive_edges_between_opposites() -> None:
    """A node whose neighbors all point the other way has weights from 0 to 1 and finite gradients."""
    nodes = np.arange(400)
    graph = Graph.from_edges(nodes, (nodes + 200) % 400, n_source=400, n_target=400)
    one = torch.randn(200, 32, generator=torch.Generator().manual_seed(0))
    y = torch.cat([one, -2 * one]).requires_grad_()
    assert (edge_products(graph, normalize(y, dim=1)) < -1).any(), "rounding takes cosines below -1"
    weight = augmentation.adaptive_edges(graph, y)
    assert ((weight >= 0) & (weight <= 1)).all()
    weight.sum().backward()
    assert torch.isfinite(y.grad).all()


def test_distinct_ids() -> None:
    ids, own = self_supervision.distinct_ids(torch.tensor([5, 2, 5, 0]))
    assert ids.tolist() == [0, 2, 5]
    assert own == slice(0, 3)
