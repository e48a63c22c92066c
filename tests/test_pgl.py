"""PGL against the reference implementation, and what it does beyond it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from content_reference import ContentReference
from gaps import items_with_gaps
from reference import MODALITIES, assert_close
from tolerances import PROPAGATION, SCORE
from torch import Tensor
from torch.nn.functional import normalize

from graphrec.core.random import numpy_rng
from graphrec.data import Histories, Interactions
from graphrec.graphs import low_rank
from graphrec.graphs.graph import bipartite, degree_probability
from graphrec.graphs.low_rank import principal_graph
from graphrec.models.batches import EpochContext
from graphrec.models.fold_in import LeastSquaresFoldIn, fold_in
from graphrec.models.pgl import PGL
from graphrec.models.propagation import BatchEmbeddings


@pytest.fixture(scope="module")
def reference() -> ContentReference:
    return ContentReference("pgl")


def parameters(model: PGL, gradients: bool = False) -> dict[str, Tensor]:
    """Ours, or their gradients, by the reference's names; users' tables are columns of one of ours."""
    names = {"user_embedding": model.user_embedding}
    for m in MODALITIES:
        names |= {f"project.{m}.{part}": p for part, p in model.content[m].projection.named_parameters()}
        if model.config.train_features:
            names[f"features.{m}"] = model.content[m].features.values
    found = {name: p.grad if gradients else p.data for name, p in names.items()}
    columns = found.pop("user_embedding").chunk(2, 1)
    return found | {f"user_embedding.{m}": part for m, part in zip(MODALITIES, columns, strict=True)}


def reference_model(reference: ContentReference, **options: Any) -> PGL:
    c = reference.config
    config = PGL.Config(
        dim=c["dim"], n_ui_layers=c["n_ui_layers"], n_mm_layers=c["n_mm_layers"], knn_k=c["knn_k"],
        image_weight=c["image_weight"], keep=c["keep"], dropout=c["dropout"], cl_weight=c["reg_weight"],
        temperature=c["temperature"], contrast_repeats=True, cold_items="as_trained", **options,
    )  # fmt: skip
    model = PGL.build(reference.data, reference.tables, config)
    reference.load(parameters(model))
    return model


def kept(reference: ContentReference) -> Interactions:
    return Interactions(*reference["graph.kept_edges"], reference.data.n_users, reference.data.n_items)


def test_graphs(reference) -> None:
    model = reference_model(reference)
    assert_close(model.full_graph.dense(), reference["graph.user_item"], "user-item graph")
    assert_close(model.item_graph.dense(), reference["graph.item"], "item graph")
    assert_close(bipartite(kept(reference)).dense(), reference["graph.principal"], "graph of kept edges")
    users, items = reference["graph.edge_index"]
    order = np.lexsort((items, users))  # ours stand sorted by user, then item
    probability = degree_probability(reference.data.train)
    assert_close(probability, reference["graph.edge_prob"][order], "edge probabilities")
    model.start_epoch(numpy_rng(0, "start_epoch", 1))
    assert len(model.epoch_graph) == 2 * reference["graph.kept_edges"].shape[1]


def test_the_global_graph_from_half_the_matrix_is_that_from_all_of_it(reference, monkeypatch) -> None:
    train = reference.data.train.where(reference.data.train.users != 39)  # one component, so it is defined
    rank = reference.config["global_rank"] // 2
    expected = reference["graph.principal_global"]
    assert_close(principal_graph(train, rank).dense(), expected, "global graph")
    monkeypatch.setattr(low_rank, "DENSE_ENTRIES", 3 * train.n_items)
    assert_close(principal_graph(train, rank).dense(), expected, "global graph in blocks")


@pytest.mark.parametrize("train_features", [True, False])
def test_losses_and_gradients(reference, monkeypatch, train_features: bool) -> None:
    model = reference_model(reference, train_features=train_features)
    model.epoch_graph = bipartite(kept(reference))
    for side, found in zip(("user", "item"), model.propagate(model.epoch_graph), strict=True):
        assert_close(found, reference[f"{side}_out_train"], f"{side}s while training")
    masks = {
        side: [torch.from_numpy(reference[f"noise.dropout_keep.{first + copy}"]) for copy in (0, 1)]
        for side, first in (("users", 0), ("items", 2))
    }
    monkeypatch.setattr(model, "copies", lambda x, ids, side, key: [x * mask for mask in masks[side]])
    losses = model.loss(reference.batch)
    assert set(losses) == {"bpr", "contrast_users", "contrast_items"}
    for name, value in losses.items():
        assert_close(value, reference[f"loss.{name}"], name)
    total = torch.stack(list(losses.values())).sum()
    assert_close(total, reference["loss"], "total")
    total.backward()
    found = parameters(model, gradients=True)
    if not train_features:
        found |= {f"features.{m}": torch.from_numpy(reference[f"grad.features.{m}"]) for m in MODALITIES}
    reference.check_gradients(found)


def test_embeddings_and_scores(reference) -> None:
    reference.check_embeddings(reference_model(reference))


def test_repeats_in_a_batch_are_no_negatives_by_default(reference) -> None:
    model = reference_model(reference)
    once = PGL.build(reference.data, reference.tables, model.config.replace(contrast_repeats=False))
    once.load_state_dict(model.state_dict())
    batch = reference.batch
    losses, without = model.loss(batch), once.loss(batch)
    assert torch.equal(losses["bpr"], without["bpr"])
    for side, ids in (("users", batch.users), ("items", batch.positives)):
        assert len(ids.unique()) < len(ids)
        assert without[f"contrast_{side}"] < losses[f"contrast_{side}"]


def test_masks_follow_from_seed_copy_and_row(reference) -> None:
    model = reference_model(reference)
    ids = torch.tensor([3, 7, 3, 9])
    x = torch.ones(4, 2000)
    one, other = model.copies(x, ids, "users", torch.tensor(5))
    assert torch.equal(one[0], one[2])
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one, other)
    assert ((one == 0).float().mean() - 0.2).abs() < 0.02
    again, _ = model.copies(x[:2], ids[1:3], "users", torch.tensor(5))
    assert torch.equal(again, one[1:3])
    for copies in (
        model.copies(x, ids, "items", torch.tensor(5)),
        model.copies(x, ids, "users", torch.tensor(6)),
    ):
        assert not torch.equal(copies[0], one)


@pytest.fixture(scope="module")
def catalog():
    return items_with_gaps()


def test_items_without_a_modality_have_zeros_in_its_columns(catalog) -> None:
    data, tables = catalog
    model = PGL.build(data, tables, PGL.Config(dim=4))
    content = model.item_content()
    zero = (content == 0).view(data.n_items, 2, 4).all(2)
    assert zero.nonzero().tolist() == [[1, 0], [2, 0], [2, 1]]
    assert torch.allclose(content.norm(dim=1)[3:], torch.tensor(2.0).sqrt())
    assert not (PGL.build(data, tables, PGL.Config(dim=4, fill="mean")).item_content() == 0).any()


@pytest.mark.parametrize("principal", ["local", "global"])
def test_an_epoch_trains_on_its_graph_and_scores_on_the_full_one(catalog, principal: str) -> None:
    data, tables = catalog
    model = PGL.build(data, tables, PGL.Config(dim=8, principal=principal))
    graphs = []
    for epoch in (1, 2, 1):
        model.start_epoch(numpy_rng(0, "start_epoch", epoch))
        graphs.append(model.epoch_graph.dense())
    assert torch.equal(graphs[0], graphs[2])
    assert torch.equal(graphs[0], graphs[1]) == (principal == "global")
    batch = next(iter(model.batches(EpochContext(1, 64, 0))))
    users, positives, negatives = BatchEmbeddings.lookup(batch, *model.propagate(model.epoch_graph))
    expected = -torch.nn.functional.logsigmoid((users * (positives - negatives)).sum(1)).mean()
    assert torch.allclose(model.loss(batch)["bpr"], expected, atol=PROPAGATION)
    full = model.propagate(model.full_graph)
    assert torch.equal(model.embed()[0], full[0])
    assert not torch.allclose(full[0], model.propagate(model.epoch_graph)[0])


def test_cold_items_get_direction_and_length_of_their_neighbors(catalog) -> None:
    data, tables = catalog
    model = PGL.build(data, tables, PGL.Config(dim=8, knn_k=3))
    as_trained = PGL.build(data, tables, model.config.replace(cold_items="as_trained"))
    (users, items), (same_users, trained) = model.embed(), as_trained.embed()
    warm = data.train.item_degree > 0
    assert torch.equal(users, same_users)
    assert torch.equal(items[warm], trained[warm])
    assert not torch.isclose(items[~warm], trained[~warm]).all(1).any()
    graph = model.cold_items.graph
    assert torch.allclose(
        normalize(graph @ trained, dim=1)[~warm], normalize(items, dim=1)[~warm], atol=SCORE
    )


def test_a_trained_user_is_the_folded_list_and_the_share_of_the_embedding(catalog) -> None:
    data, tables = catalog
    model = PGL.build(data, tables, PGL.Config(dim=8))
    users, items = (table.detach() for table in model.embed())
    folded = fold_in(model.fold_in(), Histories.from_interactions(data.train), items)
    assert torch.allclose(folded + model.user_embedding / 3, users, atol=SCORE)
    assert PGL.build(data, tables, PGL.Config(n_ui_layers=0)).fold_in() == LeastSquaresFoldIn()


def test_any_modalities_will_do(catalog) -> None:
    data, tables = catalog
    for names in (["sound"], ["a", "b", "sound"]):
        model = PGL.build(data, dict.fromkeys(names, tables["text"]), PGL.Config(dim=4))
        assert model.embed()[1].shape == (data.n_items, 4 * len(names))
