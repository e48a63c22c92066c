"""UltraGCN against the reference implementation and against plain formulas; gaps, options, memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import assert_close, dataset, numbers
from tolerances import PROPAGATION
from torch.nn.functional import softplus

from graphrec import testing
from graphrec.core.errors import ConfigError
from graphrec.models import ultragcn
from graphrec.models.batches import EpochContext, Triplets
from graphrec.models.ultragcn import UltraGCN

FIXTURE = Path(__file__).parent / "fixtures" / "ssl_ultragcn.npz"
VARIANTS = ("gowalla", "mixed")


@pytest.fixture(scope="module")
def toy() -> dict[str, np.ndarray]:
    return numbers(FIXTURE)


@pytest.fixture(scope="module")
def data(toy):
    return dataset(toy)


def reference_model(toy, data, variant: str, **options: Any) -> UltraGCN:
    c = json.loads(str(toy[f"{variant}.config"]))
    config = UltraGCN.Config(
        dim=c["embedding_dim"],
        n_negatives=c["negative_num"],
        negative_weight=c["negative_weight"],
        item_weight=c["lambda"],
        n_neighbors=c["ii_neighbor_num"],
        reg_weight=c["gamma"],
        **{w: c[w] for w in ("w1", "w2", "w3", "w4")},
        **options,
    )
    model = UltraGCN.build(data, None, config)
    with torch.no_grad():
        for side, table in zip(("user", "item"), model.id_embeddings, strict=True):
            table.copy_(torch.from_numpy(toy[f"{variant}.param.{side}_embedding"]))
    return model


def reference_batch(toy, variant: str) -> Triplets:
    names = ("batch_users", "batch_pos", f"{variant}.draw.negatives")
    return Triplets(*(torch.from_numpy(toy[name]) for name in names))


def backward(model: UltraGCN, batch: Triplets) -> dict[str, float]:
    losses = model.loss(batch)
    torch.stack(list(losses.values())).sum().backward()
    return {name: value.item() for name, value in losses.items()}


# -- against the reference -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights(toy, data, variant) -> None:
    model = reference_model(toy, data, variant)
    batch = reference_batch(toy, variant)
    c = model.config
    assert_close(model.user_factor, toy[f"{variant}.beta_user"], "factors of users")
    assert_close(model.item_factor, toy[f"{variant}.beta_item"], "factors of items")
    by_user = model.user_factor[batch.users]
    positive = c.w1 + c.w2 * by_user * model.item_factor[batch.positives]
    negative = c.w3 + c.w4 * by_user[:, None] * model.item_factor[batch.negatives]
    assert_close(positive, toy[f"{variant}.weights_pos"], "weights of positives")
    assert_close(negative, toy[f"{variant}.weights_neg"], "weights of negatives")


@pytest.mark.parametrize("variant", VARIANTS)
def test_neighbors(toy, data, variant) -> None:
    model = reference_model(toy, data, variant)
    assert_close(model.neighbor_weights, toy[f"{variant}.neighbour_weights"], "weights of neighbors")
    expected = toy[f"{variant}.neighbours"]
    least = model.neighbor_weights.min(1, keepdim=True).values
    clear = (model.neighbor_weights > least * (1 + 1e-5)).numpy()  # others share the last place
    for row, found in enumerate(model.neighbors.numpy()):
        assert set(found[clear[row]]) == set(expected[row][clear[row]])


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_gradients_and_scores(toy, data, variant) -> None:
    model = reference_model(toy, data, variant)
    # Where neighbors share the last place, the reference's choice.
    model.neighbors = torch.from_numpy(toy[f"{variant}.neighbours"])
    losses = backward(model, reference_batch(toy, variant))
    c = model.config
    main = losses["positive"] + losses["negative"]
    for found, name in (
        (main, "main"),
        (losses["neighbors"] / c.item_weight, "item_unweighted"),
        (losses["reg"] / c.reg_weight, "half_squared_norms"),
        (sum(losses.values()), "total"),
    ):
        assert_close(np.float64(found), toy[f"{variant}.loss.{name}"], name)
    for side, table in zip(("user", "item"), model.id_embeddings, strict=True):
        assert_close(table.grad, toy[f"{variant}.grad.{side}_embedding"], f"gradient of {side}s")
    assert_close(model.score(toy["score_users"]), toy[f"{variant}.scores"], "scores")


# -- against plain formulas ----------------------------------------------------------------------------------


def gaps():
    full, _ = testing.communities(3, 20)
    keep = (full.train.users != 4) & (full.train.items != 7)
    pairs = np.stack([full.train.users[keep], full.train.items[keep]], 1)
    return testing.dataset(pairs, [], full.n_users, full.n_items, "gaps")


def test_neighbors_are_the_largest_of_a_dense_matrix() -> None:
    data = gaps()
    x = np.zeros((data.n_users, data.n_items))
    x[data.train.users, data.train.items] = 1
    gram = x.T @ x
    total = gram.sum(1)
    weight = gram * np.sqrt(total + 1)[:, None] / np.maximum(total, 1)[:, None] / np.sqrt(total + 1)
    neighbors, weights = ultragcn.item_neighbors(data.train, 5)
    assert np.allclose(weights, -np.sort(-weight, 1)[:, :5], rtol=1e-5)
    assert np.allclose(np.take_along_axis(weight, neighbors, 1)[weights > 0], weights[weights > 0], rtol=1e-5)
    assert not weights[7].any()


@pytest.mark.parametrize("block", [2**21, 150, 1])
@pytest.mark.parametrize("shared", [False, True])
def test_negatives_are_a_plain_sum(block, shared, monkeypatch) -> None:
    monkeypatch.setattr(ultragcn, "SCORES", block)
    data = gaps()
    config = UltraGCN.Config(
        dim=8, n_negatives=9, shared_negatives=shared, init_scale=0.5, w3=0.3, negative_weight=300
    )
    model = UltraGCN.build(data, None, config)
    batch = next(iter(model.batches(EpochContext(1, 13, 0))))
    assert batch.negatives.shape == (13, 9)
    assert (len(torch.unique(batch.negatives, dim=0)) == 1) == shared
    model.loss(batch)["negative"].backward()
    users, items = (t.detach().clone().requires_grad_() for t in model.id_embeddings)
    score = (users[batch.users][:, None] * items[batch.negatives]).sum(2)
    weight = 0.3 + model.user_factor[batch.users][:, None] * model.item_factor[batch.negatives]
    expected = 300 * (weight * softplus(score)).mean(1).sum()
    expected.backward()
    assert torch.allclose(model.loss(batch)["negative"], expected, rtol=PROPAGATION)
    for table, plain in zip(model.id_embeddings, (users, items), strict=True):
        assert torch.allclose(table.grad, plain.grad, atol=float(plain.grad.abs().max()) * PROPAGATION)


@pytest.mark.parametrize("weight", ["w1", "w2", "w3", "w4"])
def test_each_weight_may_be_zero(toy, data, weight) -> None:
    model = reference_model(toy, data, "mixed")
    before = model.loss(reference_batch(toy, "mixed"))
    without = UltraGCN.build(data, None, model.config.replace(**{weight: 0}))
    without.load_state_dict(model.state_dict())
    after = without.loss(reference_batch(toy, "mixed"))
    term = "positive" if weight in ("w1", "w2") else "negative"
    for name in before:
        assert (after[name] < before[name]) if name == term else torch.equal(after[name], before[name])


def test_the_weight_of_negatives_follows_the_number_of_items() -> None:
    data = gaps()
    assert UltraGCN.build(data).negative_weight == pytest.approx(300 * data.n_items / 40_981)
    assert UltraGCN.build(data, None, UltraGCN.Config(negative_weight=7)).negative_weight == 7


def test_users_and_items_without_interactions() -> None:
    data = gaps()
    model = UltraGCN.build(data)
    assert model.user_factor[4] == 0
    assert not model.neighbor_weights[7].any()
    assert torch.isfinite(model.user_factor).all()


def test_negatives_are_uniform_and_may_be_positives() -> None:
    data, _ = testing.communities(3, 20)
    model = UltraGCN.build(data, None, UltraGCN.Config(n_negatives=200))
    batches = list(model.batches(EpochContext(1, 64, 0)))
    drawn = np.bincount(torch.cat([b.negatives.flatten() for b in batches]).numpy(), minlength=data.n_items)
    expected = drawn.sum() / data.n_items
    assert ((drawn - expected) ** 2 / expected).sum() < data.n_items + 5 * (2 * data.n_items) ** 0.5
    batch = batches[0]
    users = batch.users.numpy().repeat(200)
    assert data.train.contains(users, batch.negatives.flatten().numpy()).any()
    pairs = {(u, i) for b in batches for u, i in zip(b.users.tolist(), b.positives.tolist(), strict=True)}
    assert pairs == set(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))


def test_the_negatives_vectors_are_never_held() -> None:
    """512 users with 1,500 negatives of 64 numbers would be 187 MiB."""
    users = torch.randn(512, 64, requires_grad=True)
    items = torch.randn(3000, 64, requires_grad=True)
    negatives = torch.randint(3000, (512, 1500))
    with torch.profiler.profile(profile_memory=True) as profile:
        ultragcn._Negatives.apply(users, items, negatives, torch.ones(512, 1500)).backward()
    largest = max(abs(event.self_cpu_memory_usage) for event in profile.events())
    assert largest < 20 * 2**20


@pytest.mark.parametrize("option", [{"n_negatives": 0}, {"w2": -1}, {"n_neighbors": 0}, {"init_scale": 0}])
def test_options_out_of_range_are_refused(option) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        UltraGCN.Config(**option)
