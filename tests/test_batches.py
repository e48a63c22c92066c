"""Negatives, batches and the losses they feed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats
from tolerances import SCORE

from graphrec import testing
from graphrec.core.errors import TrainingError
from graphrec.core.random import derive_seed, numpy_rng, torch_rng
from graphrec.data import Interactions
from graphrec.models.batches import (
    BatchSampler,
    EpochContext,
    InGroupNegatives,
    Preferences,
    triplets,
    uniform_negatives,
)
from graphrec.models.lightgcn import LightGCN
from graphrec.models.losses import bpr, embedding_norms
from graphrec.models.mf import MF
from graphrec.models.train_config import TrainConfig
from graphrec.training.trainer import Trainer

few = settings(max_examples=40, deadline=None)


@st.composite
def interactions(draw) -> Interactions:
    """From nearly empty to nearly full, so that some users have every train item."""
    n_users, n_items = draw(st.integers(1, 8)), draw(st.integers(2, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    keys = rng.permutation(n_users * n_items)[: draw(st.integers(1, n_users * n_items))]
    return Interactions(keys // n_items, keys % n_items, n_users, n_items)


@pytest.fixture(scope="module")
def train() -> Interactions:
    rng = numpy_rng(0, "test/sampling")
    keys = rng.choice(30 * 20, 200, replace=False)
    return Interactions(keys // 20, keys % 20, 30, 25)  # items 20..24 do not occur


def epoch(train: Interactions, plan: EpochContext) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One epoch's users, positives and negatives."""
    batches = list(triplets(train, plan))
    return tuple(torch.cat(part).numpy() for part in zip(*batches, strict=True))


# -- negatives -----------------------------------------------------------------------------------------------


@few
@given(interactions(), st.integers(0, 2**32))
def test_a_negative_is_never_a_positive(train: Interactions, seed: int) -> None:
    users = np.repeat(np.arange(train.n_users), 20)
    negatives = uniform_negatives(train, users, np.random.default_rng(seed))
    pool = np.flatnonzero(train.item_degree)
    full = np.array([np.isin(pool, train.items_of(u)).all() for u in range(train.n_users)])
    assert np.array_equal(negatives == -1, full[users]), "-1 exactly for users who have every train item"
    drawn = negatives >= 0
    assert not train.contains(users[drawn], negatives[drawn]).any()
    assert np.isin(negatives[drawn], pool).all(), "only items that occur in train"


def test_negatives_are_uniform_over_what_is_left(train) -> None:
    """Chi-square against equal shares, user by user, and items with many interactions no less often."""
    n = 4000
    pool = np.flatnonzero(train.item_degree)
    values = []
    for user in range(10):
        drawn = uniform_negatives(train, np.full(n, user), numpy_rng(user, "test/uniform"))
        free = np.setdiff1d(pool, train.items_of(user))
        counts = np.bincount(drawn, minlength=train.n_items)[free]
        assert counts.sum() == n
        values.append(stats.chisquare(counts).pvalue)
    assert min(values) > 1e-4, "a fair sampler fails this once in a thousand seeds"


@pytest.mark.parametrize("n_items", [40, 400])
def test_users_with_all_but_one_item_get_that_one(n_items: int) -> None:
    """Rejection hardly ever finds the one item; the exact answer has to."""
    users = np.repeat([0, 1], [n_items - 1, n_items])
    items = np.concatenate([np.delete(np.arange(n_items), 7), np.arange(n_items)])
    train = Interactions(users, items, 3, n_items)
    negatives = uniform_negatives(train, np.array([0, 1, 0, 2, 0]), numpy_rng(0, "test/rare"))
    assert negatives[[0, 2, 4]].tolist() == [7, 7, 7]
    assert negatives[1] == -1
    assert 0 <= negatives[3] < n_items


def test_users_with_few_items_left_get_each_of_them_equally_often() -> None:
    n_items, free = 2000, [3, 900, 1999]
    train = Interactions(
        np.repeat([0, 1], [n_items - 3, 3]),
        np.concatenate([np.delete(np.arange(n_items), free), free]),
        2,
        n_items,
    )
    drawn = uniform_negatives(train, np.zeros(3000, dtype=int), numpy_rng(0, "test/few"))
    counts = np.bincount(drawn, minlength=n_items)
    assert counts[free].sum() == 3000
    assert stats.chisquare(counts[free]).pvalue > 1e-4


# -- triplets ------------------------------------------------------------------------------------------------


@few
@given(interactions(), st.integers(1, 70), st.integers(0, 5))
def test_an_epoch_visits_every_interaction_once(train: Interactions, size: int, seed: int) -> None:
    pool = np.flatnonzero(train.item_degree)
    possible = train.user_degree < len(pool)
    expected = train.keys[possible[train.users]]
    plan = EpochContext(1, size, seed)
    if not len(expected):
        with pytest.raises(TrainingError, match="no negatives"):
            list(triplets(train, plan))
        return
    batches = list(triplets(train, plan))
    assert [len(b.users) for b in batches[:-1]] == [size] * (len(batches) - 1)
    assert 0 < len(batches[-1].users) <= size
    users, positives, negatives = epoch(train, plan)
    assert np.array_equal(np.sort(users * train.n_items + positives), expected)
    assert not train.contains(users, negatives).any()
    assert (negatives >= 0).all()
    assert batches[0].users.dtype == torch.int64


def test_epochs_depend_on_seed_and_number_alone(train) -> None:
    plans = {(seed, number): EpochContext(number, 32, seed) for seed in (0, 1) for number in (1, 2)}
    first = {key: epoch(train, plan) for key, plan in plans.items()}
    numpy_rng(0, "something/else").random(100)
    np.random.default_rng().random(3)
    again = {key: epoch(train, plans[key]) for key in reversed(list(plans))}
    for key in plans:
        assert all(np.array_equal(a, b) for a, b in zip(first[key], again[key], strict=True))
    orders = {tuple(users * 1000 + positives) for users, positives, _ in first.values()}
    assert len(orders) == 4, "every epoch and seed has an order of its own"
    assert not np.array_equal(first[0, 1][2], first[0, 2][2])
    larger = epoch(train, EpochContext(1, 7, 0))
    assert all(np.array_equal(a, b) for a, b in zip(larger, first[0, 1], strict=True)), "batch size only cuts"


def test_the_order_is_shuffled_fairly(train) -> None:
    """Where an interaction stands says nothing about its user: Kendall's tau of a fair shuffle is near 0."""
    users, _, _ = epoch(train, EpochContext(1, 64, 0))
    assert stats.kendalltau(np.arange(len(users)), users).pvalue > 1e-3


def test_streams_are_functions_of_their_arguments() -> None:
    keys = [(s, p, e) for s in (0, 1) for p in ("a", "b") for e in (0, 1)]
    assert len({derive_seed(*key) for key in keys}) == len(keys)
    assert numpy_rng(3, "a", 2).integers(1 << 60) == numpy_rng(3, "a", 2).integers(1 << 60)
    one, other = (torch.rand(3, generator=torch_rng(3, "a", e)) for e in (0, 1))
    assert not torch.equal(one, other)
    assert all(0 <= derive_seed(*key) < 2**63 for key in keys)


# -- losses --------------------------------------------------------------------------------------------------


def test_bpr_equals_the_plain_formula() -> None:
    difference = numpy_rng(0, "test/bpr").normal(scale=3, size=50)
    expected = -np.mean(np.log(1 / (1 + np.exp(-difference))))
    found = bpr(torch.from_numpy(difference).float())
    assert abs(float(found) - expected) <= SCORE * expected
    assert bpr(torch.full((3,), 100.0)) < bpr(torch.zeros(3)) < bpr(torch.full((3,), -100.0))
    assert float(bpr(torch.tensor([-200.0]))) == 200.0, "no overflow, where the plain formula has one"


def test_masked_bpr_counts_valid_pairs_alone() -> None:
    rng = numpy_rng(0, "test/masked")
    difference = torch.from_numpy(rng.normal(size=40)).float().requires_grad_()
    valid = torch.from_numpy(rng.random(40) < 0.4)
    found = bpr(difference, valid)
    assert torch.allclose(found, bpr(difference[valid]), rtol=SCORE)
    found.backward()
    assert not difference.grad[~valid].any()
    assert (difference.grad[valid] < 0).all(), "a larger difference lowers the loss"
    everything = torch.ones(40, dtype=torch.bool)
    assert torch.allclose(bpr(difference, everything), bpr(difference), rtol=SCORE)
    nothing = bpr(difference, ~everything)
    assert float(nothing.detach()) == 0.0
    nothing.backward()
    assert torch.isfinite(difference.grad).all()


def test_embedding_norms_equal_the_plain_formula() -> None:
    rng = numpy_rng(0, "test/norms")
    batches = [rng.normal(size=(6, 4)) for _ in range(3)]
    expected = sum(np.sqrt((b**2).sum()) for b in batches) / 6
    found = embedding_norms(*(torch.from_numpy(b).float() for b in batches))
    assert abs(float(found) - expected) <= SCORE * expected


# -- n negatives ---------------------------------------------------------------------------------------------


def test_several_negatives_of_each_interaction(train) -> None:
    one = epoch(train, EpochContext(1, 32, 0))
    plan = EpochContext(1, 32, 0)
    batches = list(triplets(train, plan, n_negatives=3))
    users, positives, negatives = (torch.cat(part).numpy() for part in zip(*batches, strict=True))
    assert np.array_equal(users, one[0])
    assert np.array_equal(positives, one[1])
    assert negatives.shape == (len(users), 3)
    assert not train.contains(users.repeat(3), negatives.ravel()).any()
    assert (negatives[:, 0] != negatives[:, 1]).any()


def test_users_with_every_item_have_no_row_of_negatives() -> None:
    train = Interactions([0, 0, 0, 1], [0, 1, 2, 0], 2, 3)
    (batch,) = triplets(train, EpochContext(1, 8, 0), n_negatives=4)
    assert batch.users.tolist() == [1]
    assert batch.negatives.shape == (1, 4)


def test_a_preference_has_one_negative_repeated(train) -> None:
    likes, dislikes = np.full(30, 3), np.full(30, 4)
    sampler = BatchSampler(train, 2, None, Preferences(likes, dislikes, 0.5))
    for batch in sampler.triplets(EpochContext(1, 50, 0)):
        n = len(batch.users) * 2 // 3
        assert batch.negatives.shape == (len(batch.users), 2)
        assert (batch.positives[n:] == 3).all()
        assert (batch.negatives[n:] == 4).all()


@pytest.mark.parametrize("cls", [MF, LightGCN])
def test_the_loss_of_n_negatives_is_the_mean_over_them(cls) -> None:
    data = testing.communities(2, 20)[0]
    model = cls.build(data, None, cls.Config(n_negatives=3, reg_weight=0.0))
    batch = next(model.batches(EpochContext(1, 64, 0)))
    assert batch.negatives.shape == (64, 3)
    each = [model.loss(batch._replace(negatives=batch.negatives[:, j]))["bpr"] for j in range(3)]
    assert torch.allclose(model.loss(batch)["bpr"], torch.stack(each).mean())
    run = Trainer(TrainConfig(epochs=20, batch_size=64, learning_rate=0.01, progress=False)).fit(model)
    assert run.history[-1]["loss/bpr"] < 0.8 * run.history[0]["loss/bpr"]


def test_n_negatives_in_sampled_neighborhoods_are_those_of_the_whole_graph() -> None:
    data = testing.communities(2, 20)[0]
    losses = []
    for fanouts in (None, [-1, -1]):
        model = LightGCN.build(data, None, LightGCN.Config(n_negatives=3, fanouts=fanouts))
        losses.append(model.loss(next(model.batches(EpochContext(1, 64, 0)))))
    for name, value in losses[0].items():
        assert torch.allclose(value, losses[1][name], atol=1e-6), name


def test_n_negatives_come_from_the_group_too() -> None:
    data, _ = testing.communities(4, 60)
    group = np.arange(data.n_items) % 20
    sampler = BatchSampler(data.train, 2, InGroupNegatives(group, 1.0))
    batches = list(sampler.triplets(EpochContext(1, 256, 0)))
    positives = torch.cat([b.positives for b in batches]).numpy()
    negatives = torch.cat([b.negatives for b in batches]).numpy()
    assert (group[negatives] == group[positives][:, None]).mean() > 0.95
