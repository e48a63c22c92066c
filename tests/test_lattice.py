"""LATTICE against dense matrices, and what it does beyond them: the course of an epoch, memory, gaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tolerances import BFLOAT16, PARITY, SCORE
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize
from torch.utils._python_dispatch import TorchDispatchMode

from graphrec import testing
from graphrec.core.errors import FeatureError
from graphrec.core.random import numpy_rng
from graphrec.features import FeatureTable
from graphrec.models.batches import EpochContext, Triplets
from graphrec.models.lattice import LATTICE
from graphrec.models.train_config import TrainConfig
from graphrec.training.trainer import Trainer

NO_IMAGE, NO_TEXT, COLD = (1, 2), (2, 3), tuple(range(4, 8))


@pytest.fixture(scope="module")
def catalog():
    """Communities: item 1 lacks its image, item 3 its text, item 2 both; nobody takes items 4-7."""
    full, _ = testing.communities(2, 15)
    keep = ~np.isin(full.train.items, COLD)
    pairs = np.stack([full.train.users[keep], full.train.items[keep]], 1)
    data = testing.dataset(pairs, [], full.n_users, full.n_items, "gaps")
    tables = {}
    for field, width, missing in (("image", 7, NO_IMAGE), ("text", 5, NO_TEXT)):
        values = numpy_rng(0, f"tests/{field}").normal(size=(data.n_items, width)).astype(np.float32)
        present = ~np.isin(np.arange(data.n_items), missing)
        tables[field] = FeatureTable.from_array(values, data, field, present=present)
    return data, tables


# -- against dense matrices ----------------------------------------------------------------------------------


def nearest(x: Tensor, own: np.ndarray, k: int) -> Tensor:
    """Cosines ``(n, n)`` of each row and its neighbors, 0 elsewhere; rows not in ``own`` have no column."""
    unit = normalize(x, dim=1)
    cosine = unit @ unit.T
    kept = torch.zeros_like(cosine)
    for i in range(len(x)):
        if x[i].detach().any():
            others = cosine[i].detach().masked_fill(~torch.from_numpy(own), -2.0)
            count = min(k if own[i] else k - 1, own.sum())
            kept[i, others.argsort(descending=True)[:count]] = 1
            kept[i, i] = 1
    return (cosine * kept).clamp(min=0)


def symmetric(a: Tensor) -> Tensor:
    total = a.sum(1)
    inverse = torch.where(total > 0, total, 1.0) ** -0.5
    return inverse[:, None] * a * inverse


def twin(model: LATTICE, data: Any, tables: Any, batch: Triplets) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Item graph, embeddings and loss on dense float64 matrices, and the parameters they depend on."""
    c = model.config
    p = {k: v.detach().double().requires_grad_() for k, v in model.state_dict().items()}
    share = torch.exp(p["modality_weight"]) / torch.exp(p["modality_weight"]).sum()
    original, learned = 0, 0
    for m, w in zip(tables, share, strict=True):
        x, own = model.views[m].features.values.double(), np.array(tables[m].present)
        projected = x @ p[f"views.{m}.projection.weight"].T + p[f"views.{m}.projection.bias"]
        projected = torch.where(x.any(1, keepdim=True), projected, 0.0)
        original = original + w * symmetric(nearest(x, own, c.knn_k))
        learned = learned + w * nearest(projected, own, c.knn_k)
    graph = c.original_weight * original + (1 - c.original_weight) * symmetric(learned)
    users, items = p["user_embedding.weight"], p["item_embedding.weight"]
    h = torch.linalg.matrix_power(graph, c.n_mm_layers) @ items
    n_users, n = data.n_users, data.n_users + data.n_items
    adjacency = torch.eye(n, dtype=torch.float64)
    pairs = torch.from_numpy(np.stack([data.train.users, n_users + data.train.items]).astype(np.int64))
    adjacency[pairs[0], pairs[1]] = adjacency[pairs[1], pairs[0]] = 1
    layers = [torch.cat([users, items])]
    for _ in range(c.n_ui_layers):
        layers.append(adjacency / adjacency.sum(1, keepdim=True) @ layers[-1])
    x = torch.stack(layers).mean(0)
    out_users, out_items = x[:n_users], x[n_users:] + h / h.norm(dim=1, keepdim=True).clamp(min=1e-12)
    u, i, j = out_users[batch.users], out_items[batch.positives], out_items[batch.negatives]
    loss = -logsigmoid((u * i).sum(1) - (u * j).sum(1)).mean()
    loss = loss + c.reg_weight / 2 * ((u**2).sum() + (i**2).sum() + (j**2).sum()) / len(u)
    return {"graph": graph, "users": out_users, "items": out_items, "loss": loss}, p


def assert_close(found: Tensor, expected: Tensor, what: str) -> None:
    worst = (found.detach().double() - expected.detach()).abs().max() / expected.detach().abs().max()
    assert worst <= PARITY, f"{what} differs by {worst:.1e} of its largest entry"


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


@pytest.mark.parametrize("fill", ["zero", "mean", "neighbors"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"knn_k": 1, "n_ui_layers": 0},
        {"knn_k": 30, "original_weight": 0.0},  # all pairs: negative cosines are among the neighbors
        {"knn_k": 5, "n_mm_layers": 2, "n_ui_layers": 3, "original_weight": 0.3},
    ],
)
def test_graph_embeddings_loss_and_gradients_are_those_of_dense_matrices(catalog, fill, options) -> None:
    data, tables = catalog
    config = LATTICE.Config(dim=8, feature_dim=4, reg_weight=0.1, fill=fill, cold_items="as_trained")
    model = LATTICE.build(data, tables, config.replace(**options))
    with torch.no_grad():
        model.modality_weight.copy_(torch.tensor([0.2, 0.9]))
    batch = next(iter(model.batches(EpochContext(1, 64, 0))))
    expected, parameters = twin(model, data, tables, batch)
    assert_close(model.latent_graph().dense(), expected["graph"], "the item graph")
    for found, name in zip(model.embed(), ("users", "items"), strict=True):
        assert_close(found, expected[name], name)
    loss = total(model.loss(batch))
    assert_close(loss, expected["loss"], "the loss")
    loss.backward()
    expected["loss"].backward()
    for name, parameter in model.named_parameters():
        if model.config.knn_k == 1 and "embedding" not in name:  # self-loops alone: their length cancels
            assert parameter.grad.abs().max() < SCORE
            continue
        assert parameters[name].grad.abs().max() > 0
        assert_close(parameter.grad, parameters[name].grad, f"the gradient of {name}")


# -- the course of an epoch ----------------------------------------------------------------------------------


def test_only_the_first_batch_of_an_epoch_reaches_what_the_graph_is_made_of(catalog) -> None:
    data, tables = catalog
    model = LATTICE.build(data, tables, LATTICE.Config(dim=8))
    makers = {n: p for n, p in model.named_parameters() if "projection" in n or n == "modality_weight"}
    assert len(makers) == 5
    batches = list(model.batches(EpochContext(1, 32, 0)))
    for _ in range(2):
        model.start_epoch(numpy_rng(0, "start_epoch", 1))
        for number, batch in enumerate(batches[:3]):
            model.zero_grad(set_to_none=True)
            graph = model.epoch_graph
            total(model.loss(batch)).backward()
            for name, parameter in makers.items():
                reached = parameter.grad is not None and bool(parameter.grad.any())
                assert reached == (number == 0), f"{name} in batch {number}"
            assert model.item_embedding.weight.grad.any()
            assert graph is None if number == 0 else graph is model.epoch_graph
            assert not model.epoch_graph.weight.requires_grad


def test_each_epoch_begins_with_the_graph_of_its_weights(catalog) -> None:
    data, tables = catalog
    model = LATTICE.build(data, tables, LATTICE.Config(dim=8))
    batch = next(iter(model.batches(EpochContext(1, 32, 0))))
    total(model.loss(batch))
    before = model.epoch_graph.dense()
    with torch.no_grad():
        model.views["text"].projection.bias += 1.0
    total(model.loss(batch))
    assert torch.equal(model.epoch_graph.dense(), before)
    model.start_epoch(numpy_rng(0, "start_epoch", 2))
    total(model.loss(batch))
    assert torch.equal(model.epoch_graph.dense(), model.latent_graph().dense())
    assert not torch.equal(model.epoch_graph.dense(), before)


def test_embedding_within_an_epoch_changes_nothing_of_it(catalog) -> None:
    data, tables = catalog
    losses = []
    for watched in (False, True):
        model = LATTICE.build(data, tables, LATTICE.Config(dim=8))
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        for batch in list(model.batches(EpochContext(1, 32, 0)))[:3]:
            if watched:
                model.score([0])
            loss = total(model.loss(batch))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.detach())
    assert torch.equal(*losses)


def test_scores_within_an_epoch_are_those_of_the_weights_alone(catalog) -> None:
    data, tables = catalog
    model = LATTICE.build(data, tables, LATTICE.Config(dim=8))
    batch = next(iter(model.batches(EpochContext(1, 64, 0))))
    total(model.loss(batch)).backward()
    torch.optim.SGD(model.parameters(), lr=10.0).step()
    fresh = LATTICE.build(data, tables, LATTICE.Config(dim=8, seed=1))
    fresh.load_state_dict(model.state_dict())
    users = torch.arange(data.n_users)
    assert torch.equal(model.score(users), fresh.score(users))
    assert not torch.equal(model.propagate(model.epoch_graph)[1], model.propagate(model.latent_graph())[1])


# -- memory --------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that any operation returns, or returns a view of."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves(result):
            if isinstance(value, Tensor) and value.layout == torch.strided:
                self.elements = max(self.elements, value.untyped_storage().nbytes() // value.element_size())
        return result


def test_no_matrix_of_items_by_items_is_ever_made() -> None:
    n = 5_000
    rng = numpy_rng(0, "tests/many items")
    pairs = np.stack([np.arange(n) % 200, np.arange(n)], 1)
    data = testing.dataset(pairs, [], 200, n, "many items")
    values = rng.normal(size=(n, 8)).astype(np.float32)
    missing = tuple(range(0, n, 10))
    tables = testing.features_of(data, values, missing)
    with Largest() as seen:
        model = LATTICE.build(data, tables, LATTICE.Config(dim=8, feature_dim=8, fill="mean"))
        first, second = list(model.batches(EpochContext(1, 2_500, 0)))
        for batch in (first, second):
            total(model.loss(batch)).backward()
        model.embed()
    assert 10 * n < seen.elements < n * n / 4
    with Largest() as seen:
        unit = normalize(torch.from_numpy(values), dim=1)
        (unit @ unit.T).sum()
    assert seen.elements == n * n


# -- gaps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["zero", "mean", "neighbors"])
def test_items_without_a_modality_are_nobodys_neighbors_in_it(catalog, fill) -> None:
    data, tables = catalog
    model = LATTICE.build(data, tables, LATTICE.Config(dim=8, fill=fill))
    for m, missing in (("image", NO_IMAGE), ("text", NO_TEXT)):
        graph, cosines = model.views[m]()
        learned = graph.weighted(cosines).dense()
        for i in missing:
            column = learned[:, i].clone()
            assert column[i] == pytest.approx(0 if fill == "zero" else 1)
            column[i] = 0
            assert not column.any()
            assert learned[i].any() == (fill != "zero")
    dense = model.latent_graph().dense()
    others = np.setdiff1d(np.arange(data.n_items), [2])
    assert not dense[others, 2].any()
    assert dense[2].any() == (fill != "zero")


def test_an_item_without_any_content_is_what_lightgcn_makes_of_it(catalog) -> None:
    data, tables = catalog
    model = LATTICE.build(data, tables, LATTICE.Config(dim=8))
    _, items = model.propagate(model.latent_graph())
    _, plain = model.propagate(model.latent_graph().scaled(0.0))
    same = (items == plain).all(1)
    assert same.nonzero().flatten().tolist() == [2]


def test_cold_items_get_direction_and_length_of_their_warm_neighbors(catalog) -> None:
    data, tables = catalog
    config = LATTICE.Config(dim=8, knn_k=3)
    model = LATTICE.build(data, tables, config)
    users, items = model.embed()
    _, trained = model.propagate(model.latent_graph())
    warm = np.flatnonzero(data.train.item_degree > 0)
    assert torch.equal(items[warm], trained[warm])
    for item in COLD:
        mean, length = torch.zeros(8), 0.0
        for table in tables.values():
            x = normalize(torch.from_numpy(table.numpy(np.float32)), dim=1)
            usable = np.array([i for i in warm if table.present[i]])
            order = np.argsort(-(x @ x[item]).numpy()[usable], kind="stable")[:3]
            mean += 0.5 * trained[usable[order]].mean(0)
            length += 0.5 * trained[usable[order]].norm(dim=1).mean()
        assert torch.allclose(items[item], mean / mean.norm() * length, atol=SCORE)
    as_trained = LATTICE.build(data, tables, config.replace(cold_items="as_trained"))
    assert (model.cold_scores, as_trained.cold_scores) == ("from content", "as trained")
    assert torch.equal(as_trained.embed()[0], users)
    assert torch.equal(as_trained.embed()[1], trained)


def test_it_trains_in_mixed_precision(catalog) -> None:
    data, tables = catalog
    runs = []
    for precision in ("no", "bf16"):
        settings = TrainConfig(epochs=3, patience=None, batch_size=64, device="cpu", precision=precision)
        runs.append(Trainer(settings).fit(LATTICE.build(data, tables, LATTICE.Config(dim=8))))
    full, half = (run.history[-1]["loss/bpr"] for run in runs)
    assert half == pytest.approx(full, rel=BFLOAT16)


def test_any_modalities_will_do_and_a_single_one_has_all_the_weight(catalog) -> None:
    data, tables = catalog
    alone = LATTICE.build(data, {"sound": tables["text"]}, LATTICE.Config(dim=8, original_weight=1.0))
    both = LATTICE.build(data, tables, LATTICE.Config(dim=8, original_weight=1.0))
    with torch.no_grad():
        both.modality_weight.copy_(torch.tensor([-200.0, 200.0]))
    assert set(alone.views) == {"sound"}
    assert torch.allclose(alone.latent_graph().dense(), both.latent_graph().dense())


def test_what_it_cannot_be_built_from_is_said(catalog) -> None:
    data, tables = catalog
    with pytest.raises(FeatureError, match=r"LATTICE.*features build"):
        LATTICE.build(data, {})
    other, _ = testing.communities(3, 20)
    with pytest.raises(FeatureError):
        LATTICE.build(other, tables)
