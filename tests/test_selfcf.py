"""SelfCF against the authors' code, and what it draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import assert_close
from tolerances import PROPAGATION
from zoo import Zoo

from graphrec import testing
from graphrec.core.random import numpy_rng
from graphrec.graphs.augmentation import keep_entries
from graphrec.models.batches import EpochContext, SeededPairs
from graphrec.models.layers import propagate_tables
from graphrec.models.selfcf import SelfCF

NAMES = {
    "user_embedding": "user_embedding.weight",
    "item_embedding": "item_embedding.weight",
    "predictor.weight": "predictor.weight",
    "predictor.bias": "predictor.bias",
}


@pytest.fixture
def zoo() -> Zoo:
    return Zoo("selfcfed_lgn")


def of_the_reference(zoo: Zoo) -> SelfCF:
    model = SelfCF.build(zoo.data, None, SelfCF.Config(**zoo.config))
    zoo.load(model, NAMES)
    return model


def pairs(zoo: Zoo, key: int = 3) -> SeededPairs:
    return SeededPairs(zoo.batch.users, zoo.batch.positives, torch.tensor(key))


def test_loss_and_gradients(zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    model = of_the_reference(zoo)
    assert_close(model.graph.dense(), zoo["graph.user_item"], "graph")
    rows, columns = zoo["graph.directed_edges"]
    order = np.lexsort((columns, rows))
    assert np.array_equal(model.graph.target, rows[order])
    assert np.array_equal(model.graph.col, columns[order])
    kept = torch.from_numpy(zoo["noise.edge_keep"][order] > 0)
    assert 0 < kept.sum() < len(kept)
    graph = keep_entries(model.graph, kept, 1 / (1 - float(zoo["noise.uniform_scalar.0"])))
    monkeypatch.setattr(model, "draw", lambda key: graph)

    masks = {
        side: torch.from_numpy(zoo[f"noise.dropout_keep.{n}"]) for n, side in enumerate(("users", "items"))
    }
    seen = {}

    def target(x: torch.Tensor, side: str, batch: SeededPairs) -> torch.Tensor:
        seen[side] = x.detach() * masks[side] / (1 - model.config.dropout)
        return seen[side]

    monkeypatch.setattr(model, "target", target)
    losses = model.loss(pairs(zoo))
    for side in ("user", "item"):
        assert_close(seen[f"{side}s"], zoo[f"mid.{side}_target"], f"{side} targets")
    # 1 - cos in place of -cos, twice with the weight 1/2.
    losses["rec"] = losses["rec"] - 1
    zoo.check_losses(model, losses, {"rec": "user_to_item + item_to_user", "reg": "reg"})
    zoo.check_gradients(model, NAMES)


def test_embeddings_and_scores(zoo) -> None:
    model = of_the_reference(zoo)
    users, items = (table.detach() for table in model.embed())
    d = model.config.dim
    assert_close(users[:, d:], zoo["user_out"], "users")
    assert_close(items[:, :d], zoo["item_out"], "items")
    assert_close(users[:, :d], model.predictor(users[:, d:]).detach().numpy(), "predicted items")
    assert_close(items[:, d:], model.predictor(items[:, :d]).detach().numpy(), "predicted users")
    assert_close(model.score(zoo["score_users"]), zoo["scores"], "scores")


def test_graphs_are_a_function_of_the_seed(zoo) -> None:
    model = of_the_reference(zoo)
    shares = []
    for key in range(40):
        graph = model.draw(torch.tensor(key))
        assert torch.equal(graph.dense(), model.draw(torch.tensor(key)).dense())
        rate = np.random.default_rng(key).random()
        shares.append(len(graph) / len(model.graph))
        assert abs(shares[-1] - (1 - rate)) < 5 * (rate * (1 - rate) / len(model.graph)) ** 0.5
        kept = graph.dense() > 0
        scaled = model.graph.dense()[kept] / (1 - rate)
        assert torch.allclose(graph.dense()[kept], scaled, rtol=1e-5)
        if 0.1 < rate < 0.9:
            assert not torch.equal(kept, kept.T), "both directions of an edge are drawn apart"
    assert min(shares) < 0.2
    assert max(shares) > 0.8


def test_the_share_of_dropped_edges_has_a_bound(zoo) -> None:
    model = of_the_reference(zoo)
    key = next(k for k in range(1000) if 0.96 < np.random.default_rng(k).random() < 0.97)
    for bound, (least, most) in {1.0: (25, 34), 0.9: (9.999, 10.001), 0.0: (1, 1)}.items():
        model.config = model.config.replace(max_edge_dropout=bound)
        graph = model.draw(torch.tensor(key)).dense()
        kept = graph > 0
        factor = graph[kept] / model.graph.dense()[kept]
        assert least <= factor.min() <= factor.max() <= most


def test_a_step_without_any_edge_is_finite(zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    model = of_the_reference(zoo)
    nothing = keep_entries(model.graph, torch.zeros(len(model.graph), dtype=torch.bool))
    monkeypatch.setattr(model, "draw", lambda key: nothing)
    torch.stack(list(model.loss(pairs(zoo)).values())).sum().backward()
    assert torch.isfinite(model.user_embedding.weight.grad).all()
    assert model.user_embedding.weight.grad.any()


def test_targets_are_masked_pair_by_pair(zoo) -> None:
    model = of_the_reference(zoo)
    batch = pairs(zoo)
    x = torch.ones(len(batch.users), 64, requires_grad=True)
    users, items = (model.target(x, side, batch) for side in ("users", "items"))
    assert not users.requires_grad
    assert not torch.equal(users, items), "both sides have masks of their own"
    assert abs((users == 0).float().mean() - 0.2) < 0.05
    assert torch.equal(users, model.target(x, "users", batch))
    assert not torch.equal(users, model.target(x, "users", pairs(zoo, 4))), "other masks in another step"
    repeated = int(batch.items.mode().values)
    first, second = torch.nonzero(batch.items == repeated).flatten()[:2].tolist()
    assert batch.users[first] != batch.users[second]
    assert not torch.equal(items[first], items[second])
    part = SeededPairs(batch.users[5:9], batch.items[5:9], batch.key)
    assert torch.equal(model.target(x[5:9], "users", part), users[5:9]), "whatever else is in the batch"


def test_an_epoch_has_every_pair_once_and_seeds_of_its_own() -> None:
    data, _ = testing.communities(2, 20)
    model = SelfCF.build(data)
    batches = list(model.batches(EpochContext(3, 64, 0)))
    seen = np.concatenate([np.stack([b.users, b.items], 1) for b in batches])
    assert sorted(map(tuple, seen)) == sorted(zip(data.train.users, data.train.items, strict=True))
    keys = [int(b.key) for b in batches]
    assert len(set(keys)) == len(keys)
    assert keys == [int(b.key) for b in model.batches(EpochContext(3, 64, 0))]
    for other in (EpochContext(4, 64, 0), EpochContext(3, 64, 1)):
        assert not set(keys) & {int(b.key) for b in model.batches(other)}


def test_a_known_users_items_give_the_users_embedding_but_for_their_own() -> None:
    data, _ = testing.communities(2, 20)
    model = SelfCF.build(data, None, SelfCF.Config(dim=8, n_layers=2))
    with torch.no_grad():
        model.user_embedding.weight.copy_(
            torch.from_numpy(numpy_rng(0, "tests/selfcf").normal(size=(data.n_users, 8)))
        )
    table, bias = model.fold_in()
    for user in (0, 5, 11):
        items = torch.from_numpy(data.train.items_of(user).astype(np.int64))
        folded = (table[items].sum(0) / len(items) ** 0.5 + bias).detach()
        own = torch.zeros_like(model.user_embedding.weight)
        own[user] = model.user_embedding.weight.detach()[user] / 3
        expected = propagate_tables(model.graph, *model.id_embeddings, 2)[0][user].detach() - own[user]
        assert torch.allclose(folded[8:], expected, atol=PROPAGATION)
        assert torch.allclose(folded[:8], model.predictor(expected).detach(), atol=PROPAGATION)
