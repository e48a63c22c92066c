"""MICRO against the reference implementation, and what it does beyond it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from content_reference import ContentReference
from gaps import items_with_gaps
from reference import MODALITIES, assert_close
from torch import Tensor
from torch.nn.functional import normalize

from graphrec.core.random import numpy_rng
from graphrec.graphs.graph import Graph
from graphrec.models.batches import EpochContext
from graphrec.models.learned_graphs import symmetric_weights
from graphrec.models.micro import MICRO


@pytest.fixture(scope="module")
def reference() -> ContentReference:
    return ContentReference("micro")


def parameters(model: MICRO) -> dict[str, torch.nn.Parameter]:
    """Ours by the reference's names."""
    found = {"user_embedding": model.user_embedding.weight, "item_embedding": model.item_embedding.weight}
    layers = {f"project.{m}": model.views[m].projection for m in MODALITIES}
    layers |= {"fuse.hidden": model.attention.hidden, "fuse.out": model.attention.out}
    for name, layer in layers.items():
        found |= {f"{name}.{part}": p for part, p in layer.named_parameters()}
    return found


def reference_model(reference: ContentReference, **options: Any) -> MICRO:
    """The model with the reference's parameters. The reference divides its regularizer by the size of a full
    batch, we by that of the batch at hand.
    """
    c = reference.config
    same = ("dim", "n_ui_layers", "n_layers", "knn_k", "original_weight", "cl_weight", "temperature")
    given = {name: c[name] for name in same} | {"feature_dim": c["dim"], "cold_items": "as_trained"}
    reg_weight = c["reg_weight"] * len(reference.batch.users) / c["batch_size"]
    model = MICRO.build(
        reference.data, reference.tables, MICRO.Config(**given | {"reg_weight": reg_weight} | options)
    )
    reference.load(parameters(model))
    return model


def test_graphs(reference) -> None:
    model = reference_model(reference)
    assert_close(model.user_item_graph.dense(), reference["graph.user_item"], "user-item graph")
    for m, learned in zip(MODALITIES, model.latent_graphs(), strict=True):
        assert_close(model.original_graphs[m].dense(), reference[f"graph.{m}_original"], f"original {m}")
        assert_close(learned.dense(), reference[f"graph.{m}"], f"{m} graph")


def test_fusion_embeddings_and_scores(reference) -> None:
    model = reference_model(reference)
    _, modal, fused = model.propagate(model.latent_graphs())
    for m, found in zip(MODALITIES, modal, strict=True):
        assert_close(found, reference[f"mid.{m}"], m)
    assert_close(fused, reference["mid.fused"], "fusion")
    reference.check_embeddings(model)


def test_losses_and_gradients_of_first_and_later_batches(reference) -> None:
    model = reference_model(reference)
    model.start_epoch(numpy_rng(0, "start_epoch", 1))
    losses = model.loss(reference.batch)
    assert set(losses) == {"bpr", "reg", "contrast_image", "contrast_text"}
    for name, value in losses.items():
        assert_close(value, reference[f"loss.{name}"], name)
    total = torch.stack(list(losses.values())).sum()
    assert_close(total, reference["loss"], "total")
    total.backward()
    found = {name: p.grad for name, p in parameters(model).items()}
    assert len(found) == len(list(model.parameters()))
    frozen = {f"features.{m}": torch.from_numpy(reference[f"grad.features.{m}"]) for m in MODALITIES}
    reference.check_gradients(found | frozen)

    model.zero_grad()
    total = torch.stack(list(model.loss(reference.batch).values())).sum()
    assert_close(total, reference["later_batch.loss"], "later batch")
    total.backward()
    for name, parameter in parameters(model).items():
        if name.startswith("project"):
            assert parameter.grad is None, name
        else:
            assert_close(parameter.grad, reference[f"later_batch.grad.{name}"], f"later gradient of {name}")

    model.start_epoch(numpy_rng(0, "start_epoch", 2))
    model.zero_grad()
    torch.stack(list(model.loss(reference.batch).values())).sum().backward()
    assert model.views["image"].projection.weight.grad is not None


def test_symmetric_weights_are_those_of_the_matrix() -> None:
    rng = numpy_rng(0, "tests/symmetric")
    dense = np.where(rng.random((5, 5)) < 0.5, rng.random((5, 5)), 0).astype(np.float32)
    dense[2] = 0
    target, source = dense.nonzero()
    graph = Graph.from_edges(source, target, n_source=5, n_target=5)
    weight = torch.from_numpy(dense[graph.target, graph.col]).requires_grad_()
    found = symmetric_weights(graph, weight)
    total = np.where(dense.sum(1) > 0, dense.sum(1), 1)
    expected = dense / np.sqrt(total[:, None] * total)
    assert np.allclose(graph.weighted(found.detach()).dense(), expected, atol=1e-6)
    x = torch.from_numpy(dense).double().requires_grad_()
    sums = torch.where(x.sum(1) > 0, x.sum(1), 1.0)
    (x / (sums[:, None] * sums).sqrt()).square().sum().backward()
    found.square().sum().backward()
    assert torch.allclose(weight.grad.double(), x.grad[graph.target, graph.col.long()], atol=1e-5)


@pytest.fixture(scope="module")
def catalog():
    return items_with_gaps()


def first_batch(model: MICRO, size: int = 64) -> Any:
    return next(iter(model.batches(EpochContext(1, size, 0))))


def test_the_contrast_is_that_of_all_pairs_of_items_that_have_the_modality(catalog) -> None:
    data, tables = catalog
    model = MICRO.build(data, tables, MICRO.Config(dim=8, feature_dim=4, cl_weight=1))
    batch = first_batch(model)
    losses = model.loss(batch)
    _, modal, fused = model.propagate(model.latent_graphs())
    for m, h, missing in (("image", modal[0], [1, 2]), ("text", modal[1], [2])):
        rows = [i for i in range(data.n_items) if i not in missing]
        a, b = (normalize(x[rows].detach().double(), dim=1) for x in (h, fused))
        to_fused, within = (a @ b.T / 0.5).exp(), (a @ a.T / 0.5).exp()
        below = to_fused.sum(1) + within.sum(1) - within.diagonal()
        expected = -(to_fused.diagonal() / below).log().mean()
        assert losses[f"contrast_{m}"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert not modal[0][1].any()
    assert torch.equal(fused[1], modal[1][1])  # it has a text alone
    assert not fused[2].any()


def test_the_contrast_may_be_over_drawn_items(catalog) -> None:
    data, tables = catalog
    model = MICRO.build(data, tables, MICRO.Config(dim=8, contrast_sample=9))
    one, again, other = (model.contrasted(torch.tensor(key)) for key in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert len(one.unique()) == 9
    seen = []
    model.contrast_with_fusion = lambda h, fused, items: seen.append(items) or h.sum() * 0
    batch = first_batch(model)
    model.loss(batch)
    drawn = model.contrasted(batch.key)
    assert torch.equal(seen[0], drawn[~torch.isin(drawn, torch.tensor([1, 2]))])
    assert torch.equal(seen[1], drawn[drawn != 2])
    whole = MICRO.build(data, tables, MICRO.Config(dim=8)).contrasted(batch.key)
    assert whole.tolist() == list(range(data.n_items))


def test_users_or_interactions_make_an_epoch(catalog) -> None:
    data, tables = catalog
    n = len(data.train)

    def pairs(sampling: str, size: int) -> list[Tensor]:
        model = MICRO.build(data, tables, MICRO.Config(dim=8, sampling=sampling))
        return [torch.stack([b.users, b.positives], 1) for b in model.batches(EpochContext(1, size, 0))]

    every = torch.cat(pairs("interactions", 16))
    assert len(every) == len(every.unique(dim=0)) == n
    by_user = pairs("users", 16)
    assert len(by_user) == n // 16 + 1
    assert all(len(batch[:, 0].unique()) == len(batch) == 16 for batch in by_user)
    keys = [
        int(b.key) for b in MICRO.build(data, tables, MICRO.Config(dim=8)).batches(EpochContext(1, 16, 0))
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("names", [["sound"], ["a", "b", "sound"]])
def test_any_modalities_will_do(catalog, names: list[str]) -> None:
    data, tables = catalog
    model = MICRO.build(data, dict.fromkeys(names, tables["text"]), MICRO.Config(dim=8))
    losses = model.loss(first_batch(model))
    assert len(losses) == 2 + (len(names) if len(names) > 1 else 0)
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert torch.isfinite(model.embed()[1]).all()


def test_cold_items_are_placed_by_their_neighbors(catalog) -> None:
    data, tables = catalog
    model, as_trained = (
        MICRO.build(data, tables, MICRO.Config(dim=8, cold_items=how)) for how in ("neighbors", "as_trained")
    )
    cold = data.train.item_degree == 0
    items, trained = model.embed()[1], as_trained.embed()[1]
    assert torch.equal(items[~cold], trained[~cold])
    assert not (items[cold] == trained[cold]).all(1).any()
