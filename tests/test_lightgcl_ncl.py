"""LightGCL and NCL against the reference implementations, and their blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reference import Reference, assert_close
from sklearn.cluster import KMeans
from tolerances import PROPAGATION

from graphrec import testing
from graphrec.core.errors import ConfigError
from graphrec.graphs import augmentation
from graphrec.graphs.graph import Graph, bipartite
from graphrec.graphs.low_rank import LowRankGraph, low_rank_view
from graphrec.models import losses, self_supervision
from graphrec.models.batches import EpochContext
from graphrec.models.lightgcl import LightGCL
from graphrec.models.losses import InfoNCE
from graphrec.models.ncl import NCL
from graphrec.models.self_supervision import Prototypes, combine, prototypes


def lightgcl(variant: str, **options: Any) -> tuple[Reference, LightGCL]:
    """The reference, and a model with its parameters and singular vectors."""
    reference = Reference("lightgcl", variant)
    model = reference.model(LightGCL, reg_weight=1e-4, limit=5.0, **options)
    left, values, right = (torch.from_numpy(reference[f".draw.svd_{part}"]) for part in "usv")
    model.low_rank = LowRankGraph(left * values, right)
    return reference, model


def check_view(reference: Reference, view: torch.Tensor) -> None:
    for side, found in zip(("user", "item"), view.split([40, 60]), strict=True):
        assert_close(found, reference[f".svd_{side}_out"], f"view of {side}s")


def check_official(reference: Reference, model: LightGCL) -> None:
    terms = model.loss(reference.batch)
    # The reference's is what the other two leave of the total, in float32.
    assert abs(float(terms["reg"].detach()) - reference[".loss.reg"]) < 2e-7
    reference.check(model, terms, {"bpr": "bpr", "contrast": "cl"})


def test_lightgcl() -> None:
    reference, model = lightgcl("official")
    check_view(reference, model.propagate([model.graph] * 2)[1])
    check_official(reference, model)


def layers_of(reference: Reference, graph: Graph) -> list[Graph]:
    """The graph of each layer without what the reference dropped."""
    users, items = reference.all["train_edges"]
    by_item = np.lexsort((users, items))  # the graph's order of edges to items
    found = []
    for layer in (1, 2):
        to_users, to_items = (reference[f".draw.kept_mask_{side}_layer{layer}"] for side in ("user", "item"))
        kept = torch.from_numpy(np.concatenate([to_users, to_items[by_item]]))
        found.append(augmentation.keep_entries(graph, kept, 1 / 0.75))
    return found


def test_lightgcl_with_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, model = lightgcl("official_dropout", dropout=0.25)
    graphs = layers_of(reference, model.graph)
    monkeypatch.setattr(model, "draw", lambda key: graphs)
    check_view(reference, model.propagate(graphs)[1])
    # The reference ranks with the embeddings of the last step, dropout included.
    monkeypatch.setattr(model, "embed", lambda: model.propagate(graphs)[0].split([40, 60]))
    check_official(reference, model)


def test_lightgcl_of_sslrec() -> None:
    reference, model = lightgcl("sslrec", contrast_negatives=False)
    check_view(reference, model.propagate([model.graph] * 2)[1])
    terms = model.loss(reference.batch)
    # Squares of matrices that only its regularizer sees.
    unused = sum(np.square(reference[f".param.unused_W{layer}"]).sum() for layer in (0, 1))
    terms["reg"] = terms["reg"] + 1e-4 * float(unused)
    reference.check(model, terms, {"bpr": "bpr_loss", "contrast": "cl_loss", "reg": "reg_loss"})


def ncl(variant: str, **options: Any) -> tuple[Reference, NCL]:
    """The reference, and a model with its parameters and clusters."""
    reference = Reference("ncl", variant)
    model = reference.model(NCL, **options)
    where = ".draw." if variant == "official" else "."
    parts = ("centroids", "cluster")
    clusters = [
        Prototypes(*(torch.from_numpy(reference[f"{where}{side}_{part}"]) for part in parts))
        for side in ("user", "item")
    ]
    model.clusters = (clusters[0], clusters[1])
    return reference, model


def test_ncl() -> None:
    """Its contrasts are sums over the batch."""
    n = 24
    reference, model = ncl(
        "official", contrast_weight=1e-3 * n, item_weight=0.8, prototype_weight=2e-3 * n, reg_weight=1e-3
    )
    terms = model.loss(reference.batch)
    terms["bpr"] = terms["bpr"] + terms.pop("reg")
    expected = {"bpr": "bpr_and_reg", "structure": "struct", "prototypes": "proto"}
    reference.check(model, terms, expected)


def test_ncl_of_sslrec() -> None:
    reference, model = ncl(
        "sslrec", readout="sum", regularizer="all_squares", contrast_weight=0.01, prototype_weight=0.01,
    )  # fmt: skip
    model.contrast = InfoNCE(0.1, eps=1e-8)
    expected = {"bpr": "bpr_loss", "structure": "struct_loss", "prototypes": "proto_loss", "reg": "reg_loss"}
    reference.check(model, model.loss(reference.batch), expected)


# -- options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["mean", "sum", "layers"])
def test_the_view_has_the_readout_of_the_graph(readout) -> None:
    _, model = lightgcl("official", readout=readout, n_layers=3)
    found = [torch.cat(model.id_embeddings)]
    view = [found[0]]
    for _ in range(3):
        view.append(model.low_rank @ found[-1])
        found.append(model.graph @ found[-1])
    expected = combine(found, readout), combine(view, readout)
    for one, other in zip(model.propagate([model.graph] * 3), expected, strict=True):
        assert torch.allclose(one, other, atol=PROPAGATION)
    assert torch.allclose(torch.cat(model.embed()), expected[0], atol=PROPAGATION)


def test_dropout_follows_from_the_batch_and_is_left_out_of_the_embeddings() -> None:
    reference, model = lightgcl("official", dropout=0.3)
    graphs = model.draw(torch.tensor(1))
    entries = [graph.dense() for graph in graphs]
    kept = [(dense > 0)[:40, 40:] for dense in entries] + [(dense > 0)[40:, :40].T for dense in entries]
    assert len({tuple(mask.flatten().tolist()) for mask in kept}) == 4, "each layer and direction by itself"
    assert torch.allclose(entries[0][entries[0] > 0], model.graph.dense()[entries[0] > 0] / 0.7)
    batches = [reference.batch._replace(key=torch.tensor(key)) for key in (1, 1, 2)]
    values = [float(model.loss(batch)["bpr"].detach()) for batch in batches]
    assert values[0] == values[1] != values[2]
    assert_close(torch.cat(model.embed())[:40], reference[".user_out"], "users")


def test_the_negatives_are_contrasted_on_demand() -> None:
    reference, model = lightgcl("official", contrast_negatives=False)
    batch = reference.batch
    _, both = lightgcl("official")
    alone = model.loss(batch)["contrast"]
    assert not torch.isclose(alone, both.loss(batch)["contrast"])
    assert torch.isclose(alone, both.loss(batch._replace(negatives=batch.positives))["contrast"])


def test_clusters_come_after_the_warm_up() -> None:
    reference = Reference("ncl", "official")
    model = reference.model(NCL, n_clusters=7, warm_up=2, prototype_weight=1.0)
    values = []
    for epoch in (1, 2, 3, 4):
        batch = next(model.batches(EpochContext(epoch, 24, 0)))
        values.append(float(model.loss(batch)["prototypes"].detach()))
    assert values[0] == values[1] == 0
    assert 0 not in values[2:]
    assert [len(kind.centers) for kind in model.clusters] == [7, 7]
    assert [len(kind.cluster) for kind in model.clusters] == [40, 60]
    without = reference.model(NCL, warm_up=0, prototype_weight=0.0)
    next(without.batches(EpochContext(1, 24, 0)))
    assert without.clusters is None


def test_the_neighbors_of_a_layer_beyond_the_final_embeddings() -> None:
    reference = Reference("ncl", "official")
    model = reference.model(NCL, n_layers=1, contrast_layer=4, contrast_weight=1.0, item_weight=0.5)
    x = torch.cat(model.id_embeddings)
    dense = model.graph.dense()
    layer = dense @ (dense @ (dense @ (dense @ x)))
    n = torch.nn.functional.normalize
    logits = n(layer) @ n(x).T / 0.1
    users = (logits[:40, :40].logsumexp(1) - logits.diagonal()[:40])[reference.batch.users].mean()
    items = (logits[40:, 40:].logsumexp(1) - logits.diagonal()[40:])[reference.batch.positives].mean()
    terms = model.loss(reference.batch)
    assert torch.isclose(terms["structure"], users + 0.5 * items)
    assert torch.allclose(torch.cat(model.embed()), (x + dense @ x) / 2, atol=PROPAGATION)


def test_neighbors_of_the_same_kind_are_in_even_layers() -> None:
    with pytest.raises(ConfigError, match="contrast_layer"):
        NCL.Config(contrast_layer=3)


@pytest.mark.parametrize("check", ["repeats_bit_for_bit", "resume_equals_a_straight_run", "processes"])
@pytest.mark.parametrize(
    ("model_class", "options"),
    [
        (LightGCL, {"dropout": 0.3, "limit": 0.5}),
        (LightGCL, {"pool": "batch", "limit": 5.0}),
        (NCL, {"warm_up": 0, "n_clusters": 5, "prototype_weight": 0.1}),
        (NCL, {"pool": "batch", "contrast_weight": 0.1}),
    ],
)
def test_the_contract_with_other_options(model_class: Any, options: dict[str, Any], check: str) -> None:
    testing.CHECKS[check](model_class, model_class.Config(**options))


# -- blocks --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy() -> Any:
    return Reference("lightgcl", "official").data


@pytest.mark.parametrize("rank", [3, 24, 1000])
def test_the_low_rank_view(toy, rank) -> None:
    """By Lanczos iterations, by a dense decomposition, and with all there is."""
    graph = bipartite(toy.train)
    normalized = graph.dense()[:40, 40:].double().numpy()
    left, values, right = np.linalg.svd(normalized, full_matrices=False)
    expected = (left[:, :rank] * values[:rank]) @ right[:rank]
    view = low_rank_view(toy.train, rank)
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    users, items = (view @ x).split([40, 60])
    assert torch.allclose(users, torch.from_numpy(expected).float() @ x[40:], atol=10 * PROPAGATION)
    assert torch.allclose(items, torch.from_numpy(expected).float().T @ x[:40], atol=10 * PROPAGATION)
    if rank == 1000:
        assert torch.allclose(view @ x, graph @ x, atol=10 * PROPAGATION)
    else:
        assert not torch.allclose(view @ x, graph @ x, atol=0.01)
    assert view.state_dict() == {}


@pytest.mark.parametrize("similarities", [2**22, 30])
def test_positives_beyond_the_limit_are_not_pulled(monkeypatch, similarities) -> None:
    monkeypatch.setattr(losses, "SIMILARITIES", similarities)
    rng = torch.Generator().manual_seed(0)
    queries = torch.randn(9, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    pool = torch.randn(12, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    positives = torch.arange(9)
    logits = queries @ pool.T / 0.5
    own = logits[positives, positives]
    inside = own.abs() < 1.5
    assert inside.any()
    assert (own > 1.5).any()
    assert (own < -1.5).any()
    expected = (logits.logsumexp(1) - own.clamp(-1.5, 1.5)).mean()
    found = InfoNCE(0.5, cosine=False, limit=1.5)(queries, pool, positives)
    assert torch.allclose(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, [queries, pool]),
        torch.autograd.grad(expected, [queries, pool]),
        strict=True,
    ):
        assert torch.allclose(one, other)


def test_large_inner_products_do_not_overflow() -> None:
    x = torch.full((3, 4), 30.0, requires_grad=True)
    value = InfoNCE(0.2, cosine=False, limit=5.0)(x, x, torch.arange(3))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(x.grad).all()


def rng_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(k: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows around ``k`` points that are far apart, and the point of each."""
    label = torch.randint(k, (n,), generator=rng_of(1))
    points = 10 * torch.eye(k)
    return points[label] + 0.1 * torch.randn(n, k, generator=rng_of(2)), label


def test_prototypes_are_the_planted_clusters() -> None:
    x, label = blobs(12, 400)
    found = prototypes(x, 12, 25, rng_of(0))
    pairs = set(zip(label.tolist(), found.cluster.tolist(), strict=True))
    assert len(pairs) == 12
    for cluster, center in enumerate(found.centers):
        assert torch.allclose(center, x[found.cluster == cluster].mean(0), atol=1e-5)


def test_prototypes_are_as_good_as_those_of_scikit_learn() -> None:
    """On rows without clusters, by the sum of squared distances."""
    x = torch.randn(500, 6, generator=rng_of(0))
    found = prototypes(x, 20, 100, rng_of(1))
    distance = torch.cdist(x, found.centers)
    assert torch.equal(distance.argmin(1), found.cluster)
    theirs = KMeans(20, n_init=1, random_state=0).fit(x.numpy())
    assert distance.min(1).values.square().sum() < 1.05 * theirs.inertia_


def test_prototypes_repeat_and_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(500, 6, generator=rng_of(0))
    first, second, other = (prototypes(x, 20, 5, rng_of(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.centers, second.centers)
    assert torch.equal(first.cluster, second.cluster)
    assert not torch.equal(first.centers, other.centers)
    monkeypatch.setattr(self_supervision, "SIMILARITIES", 20 * 7)
    blocked = prototypes(x, 20, 5, rng_of(1))
    assert torch.equal(blocked.cluster, first.cluster)
    assert torch.allclose(blocked.centers, first.centers)


def test_empty_clusters_go_on_from_far_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = blobs(6, 200)
    monkeypatch.setattr(self_supervision, "_spread_rows", lambda x, k, rng: torch.zeros(k, dtype=torch.int64))
    found = prototypes(x, 6, 25, rng_of(0))
    assert len(found.cluster.unique()) == 6
    assert torch.cdist(x, found.centers).min(1).values.max() < 10


def test_a_row_is_drawn_once() -> None:
    """Far from the origin, where rounding leaves a distance between a row and itself."""
    x = 3000 + 3 * torch.randn(30, 7, generator=rng_of(3))
    for seed in range(5):
        assert len(self_supervision._spread_rows(x, 30, rng_of(seed)).unique()) == 30


def test_no_more_prototypes_than_rows() -> None:
    x = torch.randn(5, 3, generator=rng_of(0))
    found = prototypes(x, 1000, 25, rng_of(1))
    assert torch.equal(found.centers[found.cluster], x)
    same = prototypes(torch.ones(5, 3), 3, 25, rng_of(1))
    assert torch.allclose(same.centers, torch.ones(3, 3))
