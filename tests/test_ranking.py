from __future__ import annotations

import numpy as np
import pytest
import torch
from tolerances import METRIC

from graphrec.core.errors import ConfigError, DataError
from graphrec.data import Interactions
from graphrec.evaluation.candidates import CandidateGroups
from graphrec.evaluation.ranking import TILE, Beyond, RankingTask, activity_groups, evaluate, warm_cold


class Dense:
    """Scores read from a matrix, which it must find unchanged afterwards."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = torch.as_tensor(scores)
        self.n_users, self.n_items = scores.shape

    def scorer(self):
        return lambda users: self.scores[users]


class MatMul:
    def __init__(self, n_users: int, n_items: int, dim: int = 24, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.users = torch.randn(n_users, dim, generator=generator)
        self.items = torch.randn(n_items, dim, generator=generator)
        self.n_users, self.n_items, self.sizes = n_users, n_items, set()

    def scorer(self):
        def score(users: torch.Tensor) -> torch.Tensor:
            self.sizes.add(len(users))
            return self.users[users] @ self.items.T

        return score


class Popularity:
    """One row for everybody, shared memory and ties included."""

    def __init__(self, train: Interactions) -> None:
        self.n_users, self.n_items = train.n_users, train.n_items
        self.degree = torch.from_numpy(train.item_degree.copy()).float()

    def scorer(self):
        return lambda users: self.degree.expand(len(users), -1)


def drawn(n_users: int, n_items: int, n: int, seed: int = 0) -> tuple[Interactions, Interactions]:
    """Disjoint train and test, with popular items and users without test items."""
    rng = np.random.default_rng(seed)
    items = np.minimum(rng.geometric(4 / n_items, n) - 1, n_items - 1)
    keys = rng.permutation(np.unique(rng.integers(0, n_users, n) * n_items + items))
    cut = len(keys) * 3 // 4
    parts = [(keys[:cut], "train"), (keys[cut:], "test")]
    train, test = (Interactions(k // n_items, k % n_items, n_users, n_items, name=name) for k, name in parts)
    return train, test


def twin(scores, split, seen, k, allowed=None, wanted=None):
    """Recall per user with sorted() and sets."""
    result = {}
    for user in range(split.n_users):
        relevant = {i for i in split.items_of(user).tolist() if wanted is None or wanted[i]}
        if not relevant:
            continue
        hidden = set() if seen is None else set(seen.items_of(user).tolist())
        items = [i for i in range(split.n_items) if i not in hidden and (allowed is None or allowed[i])]
        top = sorted(items, key=lambda i: (-scores[user, i], i))[:k]
        result[user] = len(relevant & set(top)) / len(relevant)
    return result


def same(report, expected, metric):
    assert report.users.tolist() == list(expected)
    np.testing.assert_allclose(report[metric], list(expected.values()), rtol=0, atol=METRIC)


@pytest.mark.parametrize("levels", [3, 10_000])
def test_equals_a_brute_force_twin_with_and_without_ties(levels):
    train, test = drawn(300, 90, 3000)
    scores = np.random.default_rng(1).integers(0, levels, (300, 90)).astype(np.float32)
    model = Dense(scores)
    item_groups = {"even": np.arange(90) % 2 == 0}
    candidates = np.arange(5, 90)[::-1]
    allowed = np.isin(np.arange(90), candidates)
    report = evaluate(model, test, seen=train, k=7, item_groups=item_groups, within=True)
    same(report, twin(scores, test, train, 7), "recall@7")
    even = item_groups["even"]
    same(report.groups["items/even"], twin(scores, test, train, 7, wanted=even), "recall@7")
    same(report.groups["items/even/within"], twin(scores, test, train, 7, even, even), "recall@7")
    limited = evaluate(
        model, test, seen=train, k=7, candidates=candidates, item_groups=item_groups, within=True
    )
    same(limited, twin(scores, test, train, 7, allowed, allowed), "recall@7")
    both = even & allowed
    same(limited.groups["items/even"], twin(scores, test, train, 7, allowed, both), "recall@7")
    same(limited.groups["items/even/within"], twin(scores, test, train, 7, both, both), "recall@7")
    assert limited.meta["n_outside"] == int((test.items < 5).sum()) > 0
    assert limited.meta["n_candidates"] == 85
    assert np.array_equal(model.scores.numpy(), scores)


def test_popularity_ties_and_shared_scores():
    train, test = drawn(400, 700, 3000)
    model = Popularity(train)
    before = model.degree.clone()
    report = evaluate(model, test, seen=train, k=10)
    same(report, twin(np.tile(train.item_degree, (400, 1)), test, train, 10), "recall@10")
    assert torch.equal(model.degree, before)


def test_batch_size_changes_no_bit():
    train, test = drawn(900, 333, 9000)
    model = MatMul(900, 333)
    first = evaluate(model, test, seen=train, k=(5, 50))
    for size in (1, 255, 257, 600, 5000):
        again = evaluate(model, test, seen=train, k=(5, 50), batch_size=size)
        assert np.array_equal(first.users, again.users)
        for name, values in first.metrics.items():
            assert np.array_equal(values, again[name]), (size, name)
    assert model.sizes == {TILE}  # a matrix product may round differently with another number of rows
    with pytest.raises(ConfigError, match="batch_size 0"):
        evaluate(model, test, seen=train, batch_size=0)


def test_padding_is_never_a_hit():
    # User 1's list runs out; -1 as an item would be the last item of user 0, which is relevant to user 0.
    test = Interactions([0, 1], [3, 0], 2, 4, name="test")
    seen = Interactions([1, 1, 1], [1, 2, 3], 2, 4)
    report = evaluate(
        Dense(np.zeros((2, 4), np.float32)), test, seen=seen, k=6, metrics=["precision", "recall"]
    )
    assert report["precision@6"].tolist() == [1 / 6, 1 / 6]
    assert report["recall@6"].tolist() == [1, 1]


def test_forgetting_seen_gives_another_number():
    train, test = drawn(200, 60, 3000)
    scores = np.random.default_rng(0).random((200, 60)).astype(np.float32)
    scores[train.users, train.items] += 1  # a model that has learned its training data
    masked = evaluate(Dense(scores), test, seen=train, k=10).mean()["recall@10"]
    naive = evaluate(Dense(scores), test, seen=None, k=10).mean()["recall@10"]
    assert masked > naive + 0.05


def test_counts_and_meta():
    train, test = drawn(50, 40, 260)
    report = evaluate(MatMul(50, 40), test, seen=train, k=(3, 1), metrics=["recall", "ndcg@2"], name="M")
    with_items = int((test.user_degree > 0).sum())
    assert list(report.metrics) == ["recall@1", "recall@3", "ndcg@2"]
    assert (report.meta["n_users"], report.meta["n_excluded"]) == (with_items, 50 - with_items)
    assert 0 < with_items < 50
    assert report.meta["model"] == "M"
    assert report.meta["seen"] == "train"
    other = evaluate(MatMul(50, 40), test, seen=None, k=3)
    assert other.meta["data"] != report.meta["data"]


def test_user_groups_and_activity():
    train, test = drawn(300, 80, 3000)
    groups = activity_groups(train)
    assert len(groups) >= 3
    assert np.array_equal(sum(g.astype(int) for g in groups.values()), np.ones(300))
    report = evaluate(MatMul(300, 80), test, seen=train, k=5, user_groups=groups)
    parts = [report.groups[f"users/{g}"] for g in groups]
    assert sum(map(len, parts)) == len(report)
    mixed = sum(p["recall@5"].sum() for p in parts) / len(report)
    assert mixed == pytest.approx(report.mean()["recall@5"])
    tiny = Interactions([0, 1, 1, 2, 2, 2, 2, 2], [0, 0, 1, 0, 1, 2, 3, 4], 4, 5)
    named = activity_groups(tiny, edges=(1, 2, 5))
    assert {k: np.flatnonzero(v).tolist() for k, v in named.items()} == {
        "0": [3], "1": [0], "2-4": [1], "5+": [2],
    }  # fmt: skip
    for bad in ({"edges": (0, 2)}, {"edges": (1.5,)}, {"quantiles": (1.2,)}):
        with pytest.raises(ConfigError, match="expected"):
            activity_groups(tiny, **bad)


def test_warm_and_cold_and_an_empty_group():
    train, test = drawn(100, 60, 900)
    groups = warm_cold(train)
    assert np.array_equal(groups["warm"], ~groups["cold"])
    assert groups["cold"].sum() == (train.item_degree == 0).sum()
    report = evaluate(
        MatMul(100, 60), test, seen=train, k=5, item_groups={"none": np.zeros(60, dtype=bool)}, within=True
    )
    for label in ("items/none", "items/none/within"):
        assert len(report.groups[label]) == 0
        assert np.isnan(report.groups[label].mean()["recall@5"])


def test_beyond_accuracy():
    train, test = drawn(120, 50, 1500)
    vectors = np.random.default_rng(0).normal(size=(50, 6))
    top = np.argsort(-train.item_degree, kind="stable")[:4]
    report = evaluate(Popularity(train), test, seen=None, k=4, beyond=Beyond(train, {"x": vectors}))
    users = report.users
    mean = report.mean()
    assert mean["coverage@4"] == 4 / 50
    assert mean["gini@4"] == pytest.approx(46 / 50)
    assert mean["popularity@4"] == pytest.approx(train.item_degree[top].mean())
    assert mean["novelty@4"] == pytest.approx(-np.log2(train.item_degree[top] / 120).mean())
    history = [train.item_degree[train.items_of(u)].mean() for u in users if train.user_degree[u]]
    assert mean["popularity_lift@4"] == pytest.approx(mean["popularity@4"] / np.mean(history) - 1)
    unit = vectors[top] / np.linalg.norm(vectors[top], axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(4, 1)]
    assert mean["diversity/x@4"] == pytest.approx(1 - cosines.mean(), abs=METRIC)
    few = evaluate(Popularity(train), test, seen=None, k=4, candidates=top[:3], beyond=Beyond(train)).mean()
    assert (few["coverage@4"], few["gini@4"]) == (1.0, 0.0)  # of the items that could be recommended
    with pytest.raises(DataError, match=r"'x'.*\(9, 6\)"):
        evaluate(Popularity(train), test, seen=None, k=4, beyond=Beyond(train, {"x": vectors[:9]}))


def test_model_is_put_into_evaluation_mode_and_back():
    class Dropout(torch.nn.Module):
        n_users, n_items = 30, 20

        def scorer(self):
            assert not self.training
            assert not torch.is_grad_enabled()
            return lambda users: torch.zeros(len(users), 20)

    _, test = drawn(30, 20, 200)
    model = Dropout().train()
    evaluate(model, test, seen=None, k=3)
    assert model.training


def test_ranking_task():
    train, test = drawn(200, 60, 2000)
    model = MatMul(200, 60)
    task = RankingTask(test, seen=train, k=20)
    assert task.metrics == ("recall@20", "ndcg@20")
    assert task.higher_is_better == {"recall@20": True, "ndcg@20": True}
    expected = evaluate(model, test, seen=train, k=20).mean()
    assert task(model) == {name: expected[name] for name in task.metrics}
    empty = Interactions([], [], 200, 60, name="valid")
    with pytest.raises(DataError, match=r"valid: no pair to validate on; train without validation"):
        RankingTask(empty, seen=train)
    with pytest.raises(ConfigError, match="Did you mean 'recall'"):
        RankingTask(test, seen=train, metrics=("recal",))


def test_mistakes_are_named():
    train, test = drawn(60, 30, 500)
    model = MatMul(60, 30)
    with pytest.raises(DataError, match=r"pairs of 'test'.*seen="):
        evaluate(model, test, seen=train + test)
    with pytest.raises(DataError, match="the model 61 x 30"):
        evaluate(MatMul(61, 30), test, seen=train)
    with pytest.raises(DataError, match="no held-out pair"):
        evaluate(model, Interactions([], [], 60, 30, name="test"), seen=train)
    with pytest.raises(DataError, match="no held-out pair"):
        evaluate(model, test, seen=train, candidates=[])
    with pytest.raises(DataError, match="flatnonzero"):
        evaluate(model, test, seen=train, candidates=np.ones(30, dtype=bool))
    with pytest.raises(DataError, match="candidates: 30 at position 1"):
        evaluate(model, test, seen=train, candidates=[0, 30])
    with pytest.raises(DataError, match="item group 'g'"):
        evaluate(model, test, seen=train, item_groups={"g": np.zeros(29, dtype=bool)})
    with pytest.raises(DataError, match="user group 'g'"):
        evaluate(model, test, seen=train, user_groups={"g": np.zeros(60)})
    user = int(test.users[-1])
    model.users[user] = torch.nan
    with pytest.raises(DataError, match=f"user {user} with NaN"):
        evaluate(model, test, seen=train)
    narrow = Dense(np.zeros((60, 29), np.float32))
    narrow.n_items = 30
    with pytest.raises(DataError, match=r"\(256, 29\)"):
        evaluate(narrow, test, seen=train)


@pytest.mark.parametrize("inside", [True, False])
def test_candidates_that_differ_between_users(inside):
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(30, 40)).astype(np.float32)
    group, member = rng.integers(0, 5, 40), rng.random((30, 5)) < 0.4
    pairs = np.argwhere(rng.random((30, 40)) < 0.2)
    half = rng.random(len(pairs)) < 0.5
    train, test = (Interactions(*pairs[m].T, 30, 40) for m in (half, ~half))
    among = CandidateGroups(group, Interactions(*np.argwhere(member).T, 30, 5), inside)
    report = evaluate(
        Dense(scores), test, seen=train, k=5, metrics=("ndcg", "recall"), candidate_groups=among
    )
    found, users = [], []
    for user in range(30):
        free = (member[user, group] == inside) & ~np.isin(np.arange(40), train.items_of(user))
        wanted = set(test.items_of(user)[(member[user, group] == inside)[test.items_of(user)]].tolist())
        if not wanted:
            continue
        items = np.flatnonzero(free)
        top = items[np.argsort(-scores[user, items])][:5]
        gain = sum(1 / np.log2(i + 2) for i, item in enumerate(top) if item in wanted)
        ideal = sum(1 / np.log2(i + 2) for i in range(min(5, len(wanted))))
        found.append([gain / ideal, len(wanted & set(top.tolist())) / len(wanted)])
        users.append(user)
    assert report.users.tolist() == users
    assert np.allclose(report.metrics["ndcg@5"], np.array(found)[:, 0])
    assert np.allclose(report.metrics["recall@5"], np.array(found)[:, 1])
    task = RankingTask(test, seen=train, k=5, metrics=("ndcg",), candidate_groups=among)
    assert task(Dense(scores))["ndcg@5"] == pytest.approx(np.mean(np.array(found)[:, 0]))
    assert report.meta["data"] != evaluate(Dense(scores), test, seen=train, k=5).meta["data"]


def test_candidates_by_group_are_checked():
    user_groups = Interactions([0], [1], 3, 2)
    with pytest.raises(DataError, match="0 <= group < 2"):
        CandidateGroups(np.array([0, 2]), user_groups)
    with pytest.raises(DataError, match="float64"):
        CandidateGroups(np.array([0.5]), user_groups)
    split = Interactions([0], [0], 4, 2)
    with pytest.raises(DataError, match="3 users x 2 items, the model 4 x 2"):
        evaluate(
            Dense(np.zeros((4, 2), np.float32)),
            split,
            seen=None,
            candidate_groups=CandidateGroups(np.array([0, 1]), user_groups),
        )
