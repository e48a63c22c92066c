"""Co-change and same directory against plain Python; co-change as a term of another model."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from math import ceil, exp, floor, log1p, sqrt

import numpy as np
import pytest
from tolerances import SCORE

from graphrec import testing
from graphrec.code.cochange import CoChangeConfig, CoChangeTerm, user_profiles
from graphrec.code.models.cochange import CoChange
from graphrec.code.models.directory import Directory
from graphrec.core.errors import DataError
from graphrec.core.random import numpy_rng
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.data.repositories import tree_of
from graphrec.data.times import LEADING, MAX_LEAD, SECONDS_PER_DAY
from graphrec.models.batches import Triplets
from graphrec.models.popularity import Popularity


@pytest.fixture(scope="module")
def data():
    """Communities, with times over half a year."""
    full, _ = testing.communities(2, 15)
    times = numpy_rng(0, "tests/times").integers(0, 180 * int(SECONDS_PER_DAY), len(full.train))
    train = Interactions(full.train.users, full.train.items, full.n_users, full.n_items, times)
    return replace(full, train=train)


def together(train: Interactions, config: CoChange.Config) -> dict[tuple[int, int], float]:
    """Eq. 2, one pair of a basket at a time."""
    baskets = defaultdict(list)
    for user, item, time in zip(train.users, train.items, train.times, strict=True):
        for shift in (0, 0.5):
            baskets[user, shift, floor(time / SECONDS_PER_DAY / config.window_days + shift)].append(item)
        baskets[user, "ever"].append(item)
    found: dict[tuple[int, int], float] = defaultdict(float)
    for key, items in baskets.items():
        for i in items:
            for j in items:
                if i != j:
                    found[i, j] += (config.global_weight if key[1] == "ever" else 0.5) / sqrt(len(items))
    return found


def scored(train: Interactions, config: CoChange.Config) -> np.ndarray:
    """Eqs. 3 to 5."""
    degree, c = train.item_degree, together(train, config)
    s = np.zeros((train.n_items, train.n_items))
    for (i, j), value in c.items():
        s[i, j] = value / sqrt(degree[i] + config.shrink) / (degree[j] + config.shrink) ** 0.25
    for j in range(train.n_items):
        kept = sorted(range(train.n_items), key=lambda i: (-np.float32(s[i, j]), i))[: config.k]
        s[[i for i in range(train.n_items) if i not in kept], j] = 0
    p = np.zeros((train.n_users, train.n_items))
    for user in range(train.n_users):
        mine = train.users == user
        if mine.any():
            for item, time in zip(train.items[mine], train.times[mine], strict=True):
                p[user, item] = (
                    exp((time - train.times[mine].max()) / SECONDS_PER_DAY / config.recency_days)
                    + config.recency_floor
                )
            p[user] /= p[user].sum()
    return p @ s


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3},
        {"window_days": 5.0, "global_weight": 1.0},
        {"recency_days": 3.0, "recency_floor": 0.5},
        {"shrink": 0.0},
    ],
)
def test_scores_are_those_of_the_equations(data, options) -> None:
    config = CoChange.Config(**options)
    model = CoChange.build(data, None, config)
    assert np.allclose(model.score(np.arange(data.n_users)), scored(data.train, config), atol=SCORE)


@pytest.mark.parametrize("half_life", [20.0, 1000.0])
def test_recent_popularity_is_added_in_proportion_to_the_best_score(data, half_life) -> None:
    """Eq. 5, its second term; and for who has nothing that is changed with anything, popularity alone."""
    lonely = replace(data, train=data.train.where(data.train.users != 3))
    train = lonely.train
    config = CoChange.Config(popular=2.0, half_life=half_life)
    recent = np.zeros(data.n_items)
    for item, time in zip(train.items, train.times, strict=True):
        recent[item] += 0.5 ** ((train.times.max() - time) / SECONDS_PER_DAY / half_life)
    plain = scored(train, config)
    highest = plain.max(1, keepdims=True)
    highest[3] = 1
    expected = plain + 2.0 * highest * recent / recent.max()
    found = CoChange.build(lonely, None, config).score(np.arange(data.n_users))
    assert np.allclose(found, expected, atol=SCORE)
    timeless = replace(data, train=Interactions(train.users, train.items, data.n_users, data.n_items))
    found = CoChange.build(timeless, None, config).score(np.array([3]))[0].numpy()
    assert np.allclose(found, 2.0 * train.item_degree / train.item_degree.max(), atol=SCORE)


def test_popularity_counts_old_interactions_less(data) -> None:
    train = data.train
    found = Popularity.build(data, None, Popularity.Config(half_life=30.0)).count.numpy()
    age = (train.times.max() - train.times) / SECONDS_PER_DAY
    assert np.allclose(found, np.bincount(train.items, 0.5 ** (age / 30), minlength=data.n_items), rtol=SCORE)
    assert np.array_equal(Popularity.build(data).count.numpy(), train.item_degree)
    later = replace(data, test=train.where(train.users == 0), train=train.where(train.users != 0))
    alone = replace(later, test=train.where(np.zeros(len(train), dtype=bool)))
    counts = [
        Popularity.build(d, None, Popularity.Config(half_life=30.0)).count.numpy() for d in (later, alone)
    ]
    assert counts[0].tobytes() == counts[1].tobytes(), "test counts for nothing"
    timeless = replace(data, train=Interactions(train.users, train.items, data.n_users, data.n_items))
    with pytest.raises(DataError, match=r"half_life=30\.0 needs times"):
        Popularity.build(timeless, None, Popularity.Config(half_life=30.0))


def test_a_clock_in_the_future_does_not_make_everything_else_old(data) -> None:
    train = data.train
    times = train.times.copy()
    times[0] += 50 * 365 * int(SECONDS_PER_DAY)
    wrong = Interactions(train.users, train.items, data.n_users, data.n_items, times)
    distinct = np.unique(times)
    others = distinct[len(distinct) - ceil(LEADING * len(distinct)) - 1] + MAX_LEAD
    assert others < distinct[-1] - 40 * 365 * SECONDS_PER_DAY
    expected = 0.5 ** (np.maximum(others - times, 0) / SECONDS_PER_DAY / 30)
    found = wrong.recent_degree(30.0)
    assert np.allclose(found, np.bincount(train.items, expected, minlength=data.n_items))


def test_times_before_1970_are_times(data) -> None:
    """Of baskets it matters only which are one."""
    train = data.train
    early = Interactions(
        train.users, train.items, data.n_users, data.n_items, train.times - 90 * int(SECONDS_PER_DAY)
    )
    found = CoChange.build(replace(data, train=early), None, CoChange.Config()).score(np.arange(data.n_users))
    assert np.allclose(found, scored(early, CoChange.Config()), atol=SCORE)


def test_without_times_everything_was_at_once(data) -> None:
    def at(times) -> Dataset:
        train = data.train
        return replace(data, train=Interactions(train.users, train.items, data.n_users, data.n_items, times))

    timeless, once = at(None), at(np.full(len(data.train), 9))
    a, b = (CoChange.build(d, None, CoChange.Config()).score(np.arange(5)) for d in (timeless, once))
    assert np.allclose(a, b, atol=SCORE)
    assert not np.allclose(a, CoChange.build(data, None, CoChange.Config()).score(np.arange(5)), atol=SCORE)


def test_what_a_person_did_lately_counts_more(data) -> None:
    taken = user_profiles(data.train, CoChange.Config())
    assert np.allclose(taken.sum(1)[data.train.user_degree > 0], 1, atol=SCORE)
    for user in range(5):
        mine = data.train.users == user
        order = np.argsort(data.train.times[mine])
        assert (np.diff(taken[user].toarray()[0][data.train.items[mine]][order]) >= 0).all()


def test_beside_another_model_nothing_a_person_did_speaks_for_itself(data) -> None:
    """Each train pair counts as if the person had not taken the item up, but for how many took it up."""
    config = CoChange.Config()
    term, train = CoChangeTerm(data.train, config), data.train
    found = term.leave_one_out_scores()
    degree = train.item_degree
    for at in range(0, len(train), 17):
        user, item = train.users[at], train.items[at]
        rest = (np.arange(len(train)) != at) & (train.users != user)
        c = together(train.where(rest), config)
        p = user_profiles(train, config)[user].toarray()[0]
        p[item] = 0
        expected = sum(
            p[i] / p.sum() * c[i, item] / sqrt(degree[i] + 1) / (degree[item] + 1) ** 0.25
            for i in np.flatnonzero(p)
        )
        assert found[at] == pytest.approx(expected, abs=1e-5)


def test_what_is_left_out_is_not_below_nothing_where_few_neighbors_are_kept(data) -> None:
    found = CoChangeTerm(data.train, CoChangeConfig(k=1)).leave_one_out_scores()
    assert found.min() == 0
    assert found.max() > 0


def test_differences_are_of_pairs(data) -> None:
    import torch

    term, train = CoChangeTerm(data.train, CoChange.Config()), data.train
    scores = CoChange.build(data, None, CoChange.Config()).score(np.arange(data.n_users)).numpy()
    at = np.arange(0, len(train), 11)
    negatives = (train.items[at] + 7) % data.n_items
    triplet = Triplets(
        *(torch.from_numpy(a.astype(np.int64)) for a in (train.users[at], train.items[at], negatives))
    )
    expected = term.leave_one_out_scores()[at] - scores[train.users[at], negatives]
    assert np.allclose(term.differences(triplet), expected, atol=SCORE)


def test_same_directory_by_hand() -> None:
    """The first person has f0 and f2, the other f3."""
    paths = ("x/a/f0", "x/a/f1", "x/a/b/f2", "x/c/f3", "x/f4", "y/a/f5")
    places = [("xy".index(path[0]), path.split("/")[1:]) for path in paths]
    nodes, relations = tree_of(places, ["x", "y"])
    plain = testing.dataset([(0, 0), (0, 2), (1, 3)], [], 2, 6, "places")
    model = Directory.build(
        replace(plain, nodes=nodes, relations=relations), None, Directory.Config(above=0.1, popular=0.001)
    )
    worked = 0.001 * log1p(1)
    expected = [
        [1 + 0.1 + worked, 1 + 0.1, 0.5 + 0.1 + 0.01 + worked, 0.1 + worked, 1, 0],
        [0.1 + worked, 0.1, 0.01 + worked, 1 + 0.1 + worked, 1, 0],
    ]
    assert np.allclose(model.score([0, 1]), expected, atol=SCORE)


def test_same_directory_needs_directories(data) -> None:
    with pytest.raises(DataError, match="graphrec data git"):
        Directory.build(replace(data, relations={}))
