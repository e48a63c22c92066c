"""DA-MRS against the reference implementation, and what it does beyond it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from content_reference import ContentReference
from gaps import items_with_gaps
from reference import MODALITIES, assert_close
from torch import Tensor
from torch.nn.functional import normalize

from graphrec.core.random import numpy_rng
from graphrec.graphs import agreed_neighbors as blocks
from graphrec.graphs.agreed_neighbors import Vectors, agreed_neighbors
from graphrec.graphs.cooccurrence import cooccurrence_graph
from graphrec.graphs.graph import Graph, normalize_weights
from graphrec.graphs.sparse import interaction_matrix
from graphrec.models import neighbor_discrimination
from graphrec.models.batches import EpochContext
from graphrec.models.damrs import DAMRS
from graphrec.models.neighbor_discrimination import NeighborDiscrimination

VIEWS = (*MODALITIES, "behaviour")


@pytest.fixture(scope="module")
def reference() -> ContentReference:
    return ContentReference("damrs")


def parameters(model: DAMRS) -> dict[str, torch.nn.Parameter]:
    """Ours by the reference's names."""
    return {"user_embedding": model.user_embedding.weight, "item_embedding": model.item_embedding.weight}


def reference_model(reference: ContentReference) -> DAMRS:
    """The model with the reference's parameters, and with its choice among items that share equally many
    users.
    """
    c = reference.config
    same = ("dim", "n_ui_layers", "n_mm_layers", "knn_k", "kl_weight", "n_positives", "temperature")
    config = DAMRS.Config(
        **{name: c[name] for name in (*same, "least_cooccurrence")},
        neighbor_weight=c["neighbour_weight"],
        n_cooccurring=c["n_behaviour"],
        cold_items="as_trained",
    )
    model = DAMRS.build(reference.data, reference.tables, config)
    target, place = np.nonzero(reference["graph.behaviour_neighbours"] >= 0)
    source = reference["graph.behaviour_neighbours"][target, place]
    graph = Graph.from_edges(source, target, n_source=model.n_items, n_target=model.n_items)
    model.item_graphs[2] = normalize_weights(graph, "symmetric")
    reference.load(parameters(model))
    return model


def test_graphs(reference) -> None:
    model = reference_model(reference)
    assert_close(model.graph.dense(), reference["graph.user_item"], "user-item graph")
    for graph, name in zip(model.item_graphs, VIEWS, strict=True):
        assert_close(graph.dense(), reference[f"graph.{name}"], f"{name} graph")


def test_items_that_are_taken_together(reference) -> None:
    c = reference.config
    found = (
        cooccurrence_graph(reference.data.train, c["n_behaviour"], c["least_cooccurrence"]).dense().numpy()
    )
    x = interaction_matrix(reference.data.train).toarray()
    shared = x.T @ x
    assert np.array_equal(np.diag(found), np.ones(len(found)))
    others = found - np.eye(len(found))
    expected = reference["graph.behaviour_neighbours"]
    for item, row in enumerate(others):
        theirs = [i for i in expected[item] if i not in (-1, item)]
        counts = sorted(shared[item, row > 0])
        assert counts == sorted(shared[item, theirs])  # the same up to ties
        if counts:  # ties by the lowest number
            last = np.flatnonzero((shared[item] == counts[0]) & (np.arange(len(row)) != item))
            taken = np.flatnonzero((row > 0) & (shared[item] == counts[0]))
            assert taken.tolist() == last[: len(taken)].tolist()


def test_views_embeddings_and_scores(reference) -> None:
    model = reference_model(reference)
    step = model.propagate()
    assert_close(step.users, reference["mid.user"], "users")
    assert_close(step.items, reference["mid.item"], "items")
    for name, view in zip(VIEWS, step.views, strict=True):
        assert_close(view, reference[f"mid.{name}"], name)
    reference.check_embeddings(model)


def test_weights_of_positives(reference) -> None:
    model = reference_model(reference)
    found = model.trust(model.propagate(), reference.batch)
    for name, weight in zip(("positive", "negative"), found, strict=True):
        assert_close(weight, reference[f"mid.{name}_weight"], f"{name} weight")
    assert found[1].any()


def test_neighbors_in_common_and_special_to_a_view(reference) -> None:
    model = reference_model(reference)
    items = torch.from_numpy(reference["mid.batch_items"])
    unit = [normalize(view.detach(), dim=1) for view in model.propagate().views]
    cosines = [x[items] @ x.T for x in unit]
    found = model.discrimination.neighbors(cosines, model.known, items)
    total = torch.stack([x.softmax(1) for x in cosines]).sum(0)
    for cosine, common, special, name in zip(cosines, *found, VIEWS, strict=True):
        for kind, numbers, compared in (
            ("joint", common, total + cosine.softmax(1)),
            ("own", special, cosine.softmax(1)),
        ):
            expected = torch.from_numpy(reference[f"mid.{kind}_positives_{name}"])
            ours, theirs = (compared.gather(1, x).sort(1).values for x in (numbers, expected))
            assert_close(ours, theirs.numpy(), f"{kind} {name}")  # equal items may stand for each other


@pytest.mark.parametrize("block", [None, 50 * 7])
def test_losses_and_gradients(reference, monkeypatch, block: int | None) -> None:
    if block:
        monkeypatch.setattr(neighbor_discrimination, "SIMILARITIES", block)
    model = reference_model(reference)
    losses = model.loss(reference.batch)
    names = {f"neighbors_{m}": f"neighbours_{m}" for m in MODALITIES}
    names |= {"bpr": "bpr", "align": "align_kl", "co_neighbors": "neighbours_behaviour"}
    assert set(losses) == set(names)
    for ours, theirs in names.items():
        assert_close(losses[ours], reference[f"loss.{theirs}"], ours)
    total = torch.stack(list(losses.values())).sum()
    assert_close(total, reference["loss"], "total")
    total.backward()
    found = {name: p.grad for name, p in parameters(model).items()}
    assert len(found) == len(list(model.parameters()))
    reference.check_gradients(found)


# -- blocks --------------------------------------------------------------------------------------------------


def dense_agreed(modalities: list[Vectors], k: int) -> list[np.ndarray]:
    """:func:`agreed_neighbors` pair by pair."""
    n = len(modalities[0].own)
    cosines = [np.asarray(v.unit @ v.unit.T) for v in modalities]
    means = [c[np.ix_(v.own, v.own)].mean() for c, v in zip(cosines, modalities, strict=True)]
    found = []
    for v, cosine in zip(modalities, cosines, strict=True):
        matrix = np.zeros((n, n), dtype=np.float32)
        for i in np.flatnonzero(v.usable):
            others = [
                j
                for j in np.flatnonzero(v.own)
                if j != i
                and all(
                    c[i, j] >= mean or not (w.usable[i] and w.usable[j])
                    for c, mean, w in zip(cosines, means, modalities, strict=True)
                )
            ]
            others.sort(key=lambda j: -cosine[i, j])
            matrix[i, [i, *others[: k - 1]]] = 1
        found.append(matrix)
    return found


@pytest.mark.parametrize("k", [1, 4, 40])
def test_agreed_neighbors_are_those_of_all_pairs(monkeypatch, k: int) -> None:
    rng = numpy_rng(0, "tests/agreed")
    modalities = []
    for missing, estimated in (((0, 1, 5), (1,)), ((0, 2), (2,)), ((), ())):
        own = torch.ones(20, dtype=torch.bool)
        own[list(missing)] = False
        usable = own.clone()
        usable[list(estimated)] = True
        unit = normalize(torch.from_numpy(rng.normal(size=(20, 5)).astype(np.float32)), dim=1)
        modalities.append(Vectors(unit, own, usable))
    monkeypatch.setattr(blocks, "SIMILARITIES", 60)
    found = agreed_neighbors(modalities, k)
    for graph, expected in zip(found, dense_agreed(modalities, k), strict=True):
        assert np.array_equal(graph.dense().numpy(), expected)
    if k == 40:
        assert not np.array_equal(found[0].dense(), found[2].dense())


def discriminated(views: list[Tensor], known: Tensor, items: list[int], k: int) -> list[Tensor]:
    """The loss of each view, item by item."""
    n = len(known)
    unit = [normalize(view, dim=1) for view in views]
    results = []
    for v, x in enumerate(unit):
        values = []
        for i in items:
            if not known[i, v]:
                continue
            q = torch.zeros(len(views), n, dtype=x.dtype)
            for w, y in enumerate(unit):
                if known[i, w]:
                    e = (y @ y[i]).detach().exp() * known[:, w]
                    q[w] = e / e.sum()
            common = (q.sum(0) + q[v]).argsort(descending=True)[:k].tolist()
            rest = [j for j in q[v].argsort(descending=True).tolist() if j not in common]
            e = (x @ x[i] / 0.2).exp() * known[:, v]
            others = e.sum() - e[common].sum()
            share = e[common].sum() / e.sum(), e[rest[:k]].sum() / others
            values.append(-(share[0] + 1e-9).log() - (share[1] + 1e-9).log())
        results.append(torch.stack(values).mean())
    return results


def test_discrimination_where_items_lack_a_view(monkeypatch) -> None:
    monkeypatch.setattr(neighbor_discrimination, "SIMILARITIES", 70)
    rng = torch.Generator().manual_seed(0)
    known = torch.ones(20, 3, dtype=torch.bool)
    known[[0, 1, 2, 3], 0] = False
    known[[2, 7], 1] = False
    views = [
        torch.where(
            known[:, v, None], torch.randn(20, 4, generator=rng, dtype=torch.float64), 0
        ).requires_grad_()
        for v in range(3)
    ]
    items = [0, 2, 5, 7, 9, 11]
    found = NeighborDiscrimination(3, 0.2)(views, known, torch.tensor(items))
    expected = discriminated(views, known, items, 3)
    for one, other in zip(found, expected, strict=True):
        assert one.item() == pytest.approx(other.item(), rel=1e-5)
    weights = (1.0, 2.0, 3.0)
    gradients = [
        torch.autograd.grad(sum(w * x for w, x in zip(weights, losses, strict=True)), views)
        for losses in (found, expected)
    ]
    for v, (one, other) in enumerate(zip(*gradients, strict=True)):
        assert torch.allclose(one[known[:, v]], other[known[:, v]], atol=1e-5)
        assert torch.isfinite(one).all()


def test_discrimination_of_a_few_items_is_finite() -> None:
    known = torch.tensor([[True, False]] * 3 + [[True, True]])
    views = [torch.eye(4), torch.eye(4) * known[:, 1:]]
    views = [x.requires_grad_() for x in views]
    found = NeighborDiscrimination(10, 0.2)(views, known, torch.arange(4))
    torch.stack(found).sum().backward()
    assert all(torch.isfinite(x).all() for x in (*found, *(view.grad for view in views)))


# -- gaps ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalog():
    return items_with_gaps()


def test_the_mean_is_over_the_views_that_an_item_has(catalog) -> None:
    data, tables = catalog
    model = DAMRS.build(data, tables, DAMRS.Config(dim=8))
    assert model.known[[0, 1, 2]].tolist() == [[True] * 3, [False, True, True], [False, False, True]]
    step = model.propagate()
    image, text, together = step.views
    assert torch.allclose(step.mean[0], (image + text + together)[0] / 3)
    assert torch.allclose(step.mean[1], (text + together)[1] / 2)
    assert torch.equal(step.mean[2], together[2])
    assert not image[[1, 2]].any()
    assert not text[2].any()


def test_trust_is_over_the_views_that_an_item_has(catalog) -> None:
    data, tables = catalog
    model = DAMRS.build(data, tables, DAMRS.Config(dim=8))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(20)
    batch = next(iter(model.batches(EpochContext(1, 4096, 0))))
    step = model.propagate()
    found = model.trust(step, batch)
    sides = []
    for items in (batch.positives, batch.negatives):
        sides.append(
            [
                [
                    (step.users[u] @ normalize(view[i], dim=0)).sigmoid().item()
                    for v, view in enumerate(step.views)
                    if model.known[i, v]
                ]
                for u, i in zip(batch.users.tolist(), items.tolist(), strict=True)
            ]
        )
    usual = np.mean(np.concatenate(sides[1]))
    assert {len(s) for s in sides[0]} == {1, 2, 3}
    for row, s in enumerate(sides[0]):
        variance = np.var(s, ddof=1) if len(s) > 1 else 0
        assert found[0][row].item() == pytest.approx(np.mean(s) * np.exp(-2 * variance), rel=1e-4)
        expected = max(np.max(s) - usual, 0) if np.mean(s) < usual else 0
        assert found[1][row].item() == pytest.approx(expected, abs=1e-5)


def test_a_sure_score_is_no_nan(catalog) -> None:
    data, tables = catalog
    model = DAMRS.build(data, tables, DAMRS.Config(dim=8))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1e4)
    losses = model.loss(next(iter(model.batches(EpochContext(1, 64, 0)))))
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("names", [["sound"], ["a", "b", "sound"]])
def test_any_modalities_will_do(catalog, names: list[str]) -> None:
    data, tables = catalog
    model = DAMRS.build(data, dict.fromkeys(names, tables["text"]), DAMRS.Config(dim=8))
    losses = model.loss(next(iter(model.batches(EpochContext(1, 64, 0)))))
    assert set(losses) == {"bpr", "align", "co_neighbors", *(f"neighbors_{m}" for m in names)}
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert torch.isfinite(model.embed()[1]).all()


def test_cold_items_are_placed_by_their_neighbors(catalog) -> None:
    data, tables = catalog
    model, as_trained = (
        DAMRS.build(data, tables, DAMRS.Config(dim=8, cold_items=how)) for how in ("neighbors", "as_trained")
    )
    cold = data.train.item_degree == 0
    items, trained = model.embed()[1], as_trained.embed()[1]
    assert torch.equal(items[~cold], trained[~cold])
    assert not (items[cold] == trained[cold]).all(1).any()
