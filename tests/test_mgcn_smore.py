"""MGCN and SMORE against the reference implementations, and what they do beyond them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from content_reference import ContentReference
from gaps import users_and_items_with_gaps
from reference import MODALITIES, assert_close
from tolerances import SCORE
from torch import Tensor
from torch.nn.functional import normalize

from graphrec.core.random import numpy_rng
from graphrec.graphs.graph import Graph, bipartite, items_to_users, maximum
from graphrec.models.batches import EpochContext
from graphrec.models.content_views import Gate, ModalityAttention, SpectralFilter
from graphrec.models.layers import fan_in_uniform_, projection
from graphrec.models.mgcn import MGCN
from graphrec.models.smore import SMORE


@pytest.fixture(scope="module")
def mgcn() -> ContentReference:
    return ContentReference("mgcn")


@pytest.fixture(scope="module")
def smore() -> ContentReference:
    return ContentReference("smore")


def parameters(model: MGCN | SMORE) -> dict[str, torch.nn.Parameter]:
    """Ours by the reference's names."""
    found = {"user_embedding": model.user_embedding.weight, "item_embedding": model.item_embedding.weight}
    layers: dict[str, torch.nn.Linear] = {}
    for m in MODALITIES:
        layers[f"project.{m}"] = model.projections[m].projection
        layers[f"purify.{m}"] = model.gates[m].linear
        layers[f"prefer.{m}"] = model.preferences[m].linear
        if model.config.train_features:
            found[f"features.{m}"] = model.projections[m].features.values
    if isinstance(model, MGCN):
        layers |= {"fuse.hidden": model.attention.hidden, "fuse.out": model.attention.out}
    else:
        layers |= {"purify.fusion": model.fusion_gate.linear, "prefer.fusion": model.fusion_preference.linear}
        found["filter.fusion"] = model.fusion_filter.weight
        for m in MODALITIES:
            found[f"filter.{m}"] = model.filters[m].weight
            layers |= {
                f"attend.{m}.hidden": model.selections[m][0],
                f"attend.{m}.out": model.selections[m][2],
            }
    for name, layer in layers.items():
        found |= {f"{name}.{part}": p for part, p in layer.named_parameters()}
    return found


def reference_model(kind: Any, reference: ContentReference, **options: Any) -> Any:
    """The model with the reference's parameters. The reference divides its regularizer by the size of a full
    batch, we by that of the batch at hand.
    """
    c = reference.config
    full = c["batch_size"] / len(reference.batch.users)
    given = {name: c[name] for name in ("dim", "n_ui_layers", "n_layers", "cl_weight", "temperature")}
    if kind is SMORE:
        given |= {"image_knn_k": c["image_knn_k"], "knn_k": c["text_knn_k"], "dropout": c["dropout"]}
    else:
        given["knn_k"] = c["knn_k"]
    config = kind.Config(
        **given, reg_weight=c["reg_weight"] / full, contrast_repeats=True, cold_items="as_trained", **options
    )
    model = kind.build(reference.data, reference.tables, config)
    reference.load(parameters(model))
    return model


def check_training(model: Any, reference: ContentReference) -> None:
    """Loss terms and gradients."""
    losses = model.loss(reference.batch)
    assert set(losses) == {"bpr", "reg", "contrast_users", "contrast_items"}
    for name, value in losses.items():
        assert_close(value, reference[f"loss.{name}"], name)
    total = torch.stack(list(losses.values())).sum()
    assert_close(total, reference["loss"], "total")
    total.backward()
    found = {name: p.grad for name, p in parameters(model).items()}
    assert len(found) == len(list(model.parameters()))
    if not model.config.train_features:
        found |= {f"features.{m}": torch.from_numpy(reference[f"grad.features.{m}"]) for m in MODALITIES}
    reference.check_gradients(found)


# -- MGCN ----------------------------------------------------------------------------------------------------


def test_graphs_of_mgcn(mgcn) -> None:
    model = reference_model(MGCN, mgcn)
    assert_close(model.graph.dense(), mgcn["graph.user_item"], "user-item graph")
    for graph, m in zip(model.item_graphs, MODALITIES, strict=True):
        assert_close(graph.dense(), mgcn[f"graph.{m}"], f"{m} graph")


def test_fusion_embeddings_and_scores_of_mgcn(mgcn) -> None:
    model = reference_model(MGCN, mgcn)
    nodes = model.all_nodes()
    assert_close(nodes.content, mgcn["mid.content"], "by behavior")
    assert_close(model.fuse(nodes, None), mgcn["mid.side"], "by content")
    mgcn.check_embeddings(model)


@pytest.mark.parametrize("train_features", [True, False])
def test_losses_and_gradients_of_mgcn(mgcn, train_features: bool) -> None:
    check_training(reference_model(MGCN, mgcn, train_features=train_features), mgcn)


# -- SMORE ---------------------------------------------------------------------------------------------------


def test_graphs_and_filters_of_smore(smore) -> None:
    model = reference_model(SMORE, smore)
    assert_close(model.graph.dense(), smore["graph.user_item"], "user-item graph")
    for graph, name in zip(model.item_graphs, (*MODALITIES, "fusion"), strict=True):
        assert_close(graph.dense(), smore[f"graph.{name}"], f"{name} graph")
    for found, name in zip(model.filtered(), (*MODALITIES, "fusion"), strict=True):
        assert_close(found, smore[f"mid.filtered_{name}"], f"filtered {name}")


def with_masks(model: SMORE, reference: ContentReference, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = 1 - reference.config["dropout"]

    def dropout(rows: Tensor, ids: Tensor, view: int, key: Tensor) -> Tensor:
        return rows * torch.from_numpy(reference[f"noise.dropout_keep.{view}"])[ids] / keep

    monkeypatch.setattr(model, "dropout", dropout)


def test_fusion_embeddings_and_scores_of_smore(smore, monkeypatch) -> None:
    model = reference_model(SMORE, smore)
    smore.check_embeddings(model)
    with_masks(model, smore, monkeypatch)
    nodes = model.all_nodes()
    assert_close(nodes.content, smore["mid.content"], "by behavior")
    side = model.fuse(nodes, smore.batch.key)
    assert_close(side, smore["mid.side"], "by content, while training")
    trained = (nodes.content + side).split([smore.data.n_users, smore.data.n_items])
    for which, found in zip(("user", "item"), trained, strict=True):
        assert_close(found, smore[f"{which}_out_train"], f"{which}s while training")


@pytest.mark.parametrize("train_features", [True, False])
def test_losses_and_gradients_of_smore(smore, monkeypatch, train_features: bool) -> None:
    model = reference_model(SMORE, smore, train_features=train_features)
    with_masks(model, smore, monkeypatch)
    check_training(model, smore)


def test_masks_follow_from_seed_view_and_row(smore) -> None:
    model = reference_model(SMORE, smore)
    rows, ids = torch.ones(4, 2000), torch.tensor([3, 7, 3, 9])
    found = model.dropout(rows, ids, 0, torch.tensor(5))
    assert found.unique().tolist() == pytest.approx([0.0, 1.25])
    assert ((found == 0).float().mean() - 0.2).abs() < 0.02
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    assert torch.equal(model.dropout(rows[:2], ids[1:3], 0, torch.tensor(5)), found[1:3])
    assert not torch.equal(model.dropout(rows, ids, 1, torch.tensor(5)), found)
    assert not torch.equal(model.dropout(rows, ids, 0, torch.tensor(6)), found)


def test_dropout_is_for_training_alone(smore) -> None:
    model = reference_model(SMORE, smore)
    losses = [model.loss(smore.batch._replace(key=torch.tensor(key)))["bpr"].item() for key in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(model.embed()[1], model.embed()[1])


# -- blocks --------------------------------------------------------------------------------------------------


def test_the_maximum_of_graphs_is_that_of_their_matrices() -> None:
    rng = numpy_rng(0, "tests/maximum")
    dense = [np.where(rng.random((6, 6)) < 0.4, rng.random((6, 6)), 0).astype(np.float32) for _ in range(3)]
    graphs = []
    for values in dense:
        target, source = values.nonzero()
        graphs.append(Graph.from_edges(source, target, values[target, source], n_source=6, n_target=6))
    assert np.array_equal(maximum(graphs).dense().numpy(), np.maximum.reduce(dense))
    assert np.array_equal(maximum(graphs[:1]).dense().numpy(), dense[0])


def test_items_to_users_is_a_block_of_the_bipartite_graph(mgcn) -> None:
    train = mgcn.data.train
    whole = bipartite(train).dense()
    assert torch.equal(items_to_users(train).dense(), whole[: train.n_users, train.n_users :])


def test_attention_is_over_the_modalities_that_a_node_has() -> None:
    rng = torch.Generator().manual_seed(0)
    attention = ModalityAttention(4, rng)
    x = [torch.randn(3, 4, generator=rng) for _ in range(3)]
    known = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])
    found = attention(x, known)
    logits = [
        torch.tanh(v @ attention.hidden.weight.T + attention.hidden.bias) @ attention.out.weight[0] for v in x
    ]
    share = torch.stack(logits, 1).exp() * known
    expected = torch.einsum("nm,mnd->nd", share / share.sum(1, keepdim=True).clamp(min=1e-9), torch.stack(x))
    assert torch.allclose(found, expected, atol=1e-6)
    found.sum().backward()
    assert torch.isfinite(attention.hidden.weight.grad).all()


@pytest.mark.parametrize("dim", [6, 7])
def test_a_filter_is_a_circular_convolution(dim: int) -> None:
    filter_ = SpectralFilter(dim, torch.Generator().manual_seed(1))
    x = torch.randn(2, dim, generator=torch.Generator().manual_seed(2))
    found = filter_(SpectralFilter.spectra(x)).detach()
    kernel = torch.fft.irfft(torch.view_as_complex(filter_.weight.detach()), n=dim)
    expected = torch.stack([(x * kernel.flip(0).roll(i + 1)).sum(1) for i in range(dim)], 1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_initial_values_are_distributed_as_torchs_and_filters_are_standard_normal() -> None:
    rng = torch.Generator().manual_seed(0)
    layer = Gate(400, 50, rng).linear
    for values in (layer.weight, layer.bias, projection(400, 50, rng, fan_in_uniform_).weight):
        assert values.abs().max() <= 0.05
        assert values.abs().max() > 0.04
    assert layer.weight.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.02)
    assert SpectralFilter(4000, rng).weight.std().item() == pytest.approx(1, rel=0.05)


# -- gaps ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalog():
    return users_and_items_with_gaps()


def test_nodes_are_fused_from_what_they_have(catalog) -> None:
    data, tables = catalog
    model = MGCN.build(data, tables, MGCN.Config(dim=8))
    assert model.known[[0, 1, 2, 3]].tolist() == [[False, True], [False, False], [False, False], [True, True]]
    assert model.known[data.n_users + np.array([0, 1, 2])].tolist() == [
        [True, True],
        [False, True],
        [False] * 2,
    ]
    alone = MGCN.build(data, {"text": tables["text"]}, MGCN.Config(dim=8))
    state = {k: v for k, v in model.state_dict().items() if "image" not in k}
    alone.load_state_dict(state)
    (users, items), (text_users, text_items) = model.embed(), alone.embed()
    assert torch.allclose(items[1], text_items[1], atol=1e-6)  # as if there were no images
    assert torch.allclose(users[0], text_users[0], atol=1e-6)
    assert not torch.allclose(items[4], text_items[4], atol=1e-6)
    nodes = model.all_nodes()
    side = model.fuse(nodes, None)
    assert not side[[1, 2, data.n_users + 2]].any()
    filled = MGCN.build(data, tables, MGCN.Config(dim=8, fill="mean"))
    assert filled.known[data.n_users :].all()


def test_smore_fuses_the_views_that_a_node_has(catalog) -> None:
    data, tables = catalog
    model = SMORE.build(data, tables, SMORE.Config(dim=8, image_knn_k=4, knn_k=3))
    assert model.known[data.n_users + np.array([0, 1, 2])].tolist() == [
        [True] * 3,
        [False, True, True],
        [False] * 3,
    ]
    *_, fused = model.filtered()
    text = model.fusion_filter(SpectralFilter.spectra(model.projections["text"]()))
    assert torch.allclose(fused[1], text[1], atol=1e-6)  # the spectrum of its text alone
    assert not torch.allclose(fused[4], text[4], atol=1e-6)
    side = model.fuse(model.all_nodes(), None)
    assert not side[[1, 2, data.n_users + 2]].any()
    assert side[[0, data.n_users + 1]].any(1).all()


@pytest.mark.parametrize("kind", [MGCN, SMORE])
@pytest.mark.parametrize("names", [["sound"], ["a", "b", "sound"]])
def test_any_modalities_will_do(catalog, kind: Any, names: list[str]) -> None:
    data, tables = catalog
    model = kind.build(data, dict.fromkeys(names, tables["text"]), kind.Config(dim=8))
    losses = model.loss(next(iter(model.batches(EpochContext(1, 64, 0)))))
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert torch.isfinite(model.embed()[1]).all()


@pytest.mark.parametrize("kind", [MGCN, SMORE])
def test_repeats_in_a_batch_are_no_negatives_by_default(catalog, kind: Any) -> None:
    data, tables = catalog
    model = kind.build(data, tables, kind.Config(dim=8))
    batch = next(iter(model.batches(EpochContext(1, 256, 0))))
    assert len(batch.positives.unique()) < len(batch.positives)
    compared = kind.build(data, tables, kind.Config(dim=8, contrast_repeats=True))
    losses, with_repeats = model.loss(batch), compared.loss(batch)
    for name in losses:
        assert (losses[name] < with_repeats[name]) == name.startswith("contrast")
        assert torch.equal(losses[name], with_repeats[name]) == (not name.startswith("contrast"))


def test_only_the_rows_of_the_batch_are_fused(catalog, monkeypatch) -> None:
    data, tables = catalog
    model = MGCN.build(data, tables, MGCN.Config(dim=8))
    sizes = []
    fuse = model.fuse
    monkeypatch.setattr(model, "fuse", lambda nodes, key: sizes.append(len(nodes.ids)) or fuse(nodes, key))
    batch = next(iter(model.batches(EpochContext(1, 7, 0))))
    model.loss(batch)
    assert sizes == [21]


@pytest.mark.parametrize("kind", [MGCN, SMORE])
def test_cold_items_are_placed_by_their_neighbors(catalog, kind: Any) -> None:
    data, tables = catalog
    model = kind.build(data, tables, kind.Config(dim=8))
    as_trained = kind.build(data, tables, kind.Config(dim=8, cold_items="as_trained"))
    cold = [3, 8, 9]
    assert (data.train.item_degree[cold] == 0).all()
    items, trained = model.embed()[1], as_trained.embed()[1]
    different = (items != trained).any(1)
    assert set(different.nonzero().flatten().tolist()) == set(cold)
    assert not items[3].any()  # it has no content, so no neighbors
    mean = model.cold_items.graph @ trained
    assert torch.allclose(normalize(mean, dim=1)[cold], normalize(items, dim=1)[cold], atol=SCORE)
