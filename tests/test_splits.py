"""Splits and k-core, as properties and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from graphrec.core.errors import ConfigError, DataError
from graphrec.data import (
    Chronological,
    ColdItems,
    Dataset,
    Interactions,
    LeaveOneOut,
    RandomSplit,
    TimeCut,
    TimeSplit,
)
from graphrec.data.splits import TEST, TRAIN, VALID, _order_by_user, as_split, k_core
from graphrec.testing import communities

RECIPES = [
    RandomSplit(),
    RandomSplit(0.3, 0.2),
    LeaveOneOut(),
    TimeSplit(0.2, 0.2),
    Chronological(),
    Chronological(0.3, 0.3, least=1),
    TimeCut(8, 12),
    ColdItems(0.3),
    ColdItems(0.2, LeaveOneOut()),
    ColdItems(0.2, TimeSplit()),
]
pairs_strategy = st.sets(st.tuples(st.integers(0, 7), st.integers(0, 9)), min_size=1, max_size=50).map(sorted)


def interactions(pairs: list[tuple[int, int]], times: list[int] | None = None) -> Interactions:
    users, items = zip(*pairs, strict=True)
    made = [(u * 7 + i * 13) % 17 for u, i in pairs] if times is None else times
    return Interactions(users, items, 8, 10, made)


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
@settings(max_examples=25, deadline=None)
@given(pairs=pairs_strategy, seed=st.integers(0, 3))
def test_every_pair_gets_one_label_and_the_same_one_again(recipe, pairs, seed):
    made = interactions(pairs)
    labels = recipe.assign(made, seed)
    assert labels.dtype == np.int8
    assert labels.shape == (len(made),)
    assert set(labels.tolist()) <= {TRAIN, VALID, TEST}
    assert np.array_equal(labels, recipe.assign(made, seed))


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 5), order=st.permutations(range(60)))
def test_datasets_do_not_depend_on_row_order(recipe, seed, order):
    rows = [(u, i, (u * 31 + i * 17) % 23) for u in range(6) for i in range(10)]
    shuffled = [rows[k] for k in order]

    def build(rows):
        users, items, times = zip(*rows, strict=True)
        return Dataset.from_frame(
            {"user": users, "item": items, "t": times}, time="t", split=recipe, seed=seed
        )

    one, other = build(rows), build(shuffled)
    assert one.fingerprint == other.fingerprint
    assert len(one.train) + len(one.valid) + len(one.test) == 60
    keys = np.concatenate([one.train.keys, one.valid.keys, one.test.keys])
    assert len(np.unique(keys)) == 60


def test_random_split_takes_each_users_share_and_depends_on_the_seed():
    made = interactions([(u, i) for u in range(8) for i in range(10)])
    labels = RandomSplit(0.2, 0.3).assign(made, 0)
    assert np.array_equal(np.bincount(made.users[labels == VALID]), np.full(8, 2))
    assert np.array_equal(np.bincount(made.users[labels == TEST]), np.full(8, 3))
    assert not np.array_equal(labels, RandomSplit(0.2, 0.3).assign(made, 1))
    # Different users must not lose the same items.
    assert len({tuple(made.items[(labels == TEST) & (made.users == u)]) for u in range(8)}) > 1


@settings(max_examples=40, deadline=None)
@given(pairs=pairs_strategy, valid=st.floats(0, 0.49), test=st.floats(0, 0.49))
def test_random_split_never_takes_a_users_last_train_interaction(pairs, valid, test):
    made = interactions(pairs)
    labels = RandomSplit(valid, test).assign(made, 0)
    assert set(made.users[labels == TRAIN].tolist()) == set(made.users.tolist())


@settings(max_examples=40, deadline=None)
@given(pairs=pairs_strategy)
def test_leave_one_out_against_brute_force(pairs):
    made = interactions(pairs)
    labels = LeaveOneOut().assign(made, 0)
    for user in set(made.users.tolist()):
        own = np.flatnonzero(made.users == user)
        ranked = sorted(own, key=lambda e: (made.times[e], made.items[e]))
        expected = dict.fromkeys(ranked, TRAIN)
        if len(ranked) >= 3:
            expected[ranked[-1]], expected[ranked[-2]] = TEST, VALID
        assert {e: labels[e] for e in own} == expected


@settings(max_examples=40, deadline=None)
@given(pairs=pairs_strategy, times=st.lists(st.integers(0, 9), min_size=50, max_size=50))
def test_time_split_cuts_once_for_everybody(pairs, times):
    made = interactions(pairs, times[: len(pairs)])
    labels = TimeSplit(0.2, 0.2).assign(made, 0)
    order = np.argsort(made.times, kind="stable")
    assert (np.diff(labels[order]) >= 0).all()
    for time in set(made.times.tolist()):
        assert len(set(labels[made.times == time].tolist())) == 1


@pytest.mark.parametrize("bits", [1, 6, 53, 62, 63, 64])
def test_pairs_are_ordered_by_user_then_value_then_item(bits):
    rng = np.random.default_rng(bits)
    made = Interactions(np.repeat(np.arange(40), 30), np.tile(np.arange(30), 40), 40, 30)
    for values in (rng.integers(0, 2**bits, len(made), dtype=np.uint64), np.full(len(made), 2**bits - 1)):
        values = values.astype(np.uint64)
        values[1::3] = values[0::3]  # equal values, among them those of one user
        assert np.array_equal(_order_by_user(made, values), np.lexsort((made.items, values, made.users)))


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_cold_items_are_whole_and_out_of_train(share):
    made = interactions([(u, i) for u in range(8) for i in range(10)])
    labels = ColdItems(share).assign(made, 0)
    held = [i for i in range(10) if not (labels[made.items == i] == TRAIN).any()]
    assert len(held) >= max(2, round(share * 10))
    whole = [i for i in range(10) if len(set(labels[made.items == i].tolist())) == 1]
    assert {labels[made.items == i][0] for i in whole} == {VALID, TEST}
    warm = [i for i in range(10) if i not in held]
    assert (labels[np.isin(made.items, warm)] == TEST).any()


@pytest.mark.parametrize("recipe", [LeaveOneOut(), TimeSplit()], ids=repr)
def test_splits_by_time_need_times(recipe):
    made = Interactions([0, 0, 1], [0, 1, 0], 2, 2)
    with pytest.raises(DataError, match=f"'{recipe.name}'"):
        recipe.assign(made, 0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomSplit(0.5, 0.5), "0.5"),
        (lambda: RandomSplit(-0.1, 0.1), "-0.1"),
        (lambda: TimeSplit(0.1, 1.0), "1.0"),
        (lambda: ColdItems(0.0), "0 < share < 1"),
        (lambda: ColdItems(1.0), "0 < share < 1"),
        (lambda: as_split("rndom"), "Did you mean 'random'"),
        (lambda: as_split({"name": "random", "vaild": 0.1}), "Did you mean 'valid'"),
        (lambda: as_split({"name": "leave-one-out", "test": 0.1}), "'test'"),
        (lambda: as_split({"valid": 0.1}), "''"),
        (lambda: as_split(3), "3"),
    ],
)
def test_wrong_recipes(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_a_description_makes_the_recipe_again(recipe):
    assert as_split(recipe.describe()) == recipe


@settings(max_examples=80, deadline=None)
@given(
    pairs=pairs_strategy,
    user_core=st.integers(0, 5),
    item_core=st.integers(0, 5),
)
def test_k_core_against_brute_force(pairs, user_core, item_core):
    left = list(range(len(pairs)))
    while True:
        users = [pairs[e][0] for e in left]
        items = [pairs[e][1] for e in left]
        kept = [
            e for e in left if users.count(pairs[e][0]) >= user_core and items.count(pairs[e][1]) >= item_core
        ]
        if len(kept) == len(left):
            break
        left = kept
    users, items = (np.array(column) for column in zip(*pairs, strict=True))
    assert np.flatnonzero(k_core(users, items, user_core, item_core)).tolist() == left


def test_a_dataset_is_divided_anew_with_all_its_interactions() -> None:
    data, _ = communities(2, 20)
    again = data.resplit({"name": "cold-items", "share": 0.2}, seed=3)
    before, after = (
        np.sort(np.concatenate([d.train.keys, d.valid.keys, d.test.keys])) for d in (data, again)
    )
    assert np.array_equal(before, after)
    assert len(again.cold_items) == 8
    assert again.meta["split"]["name"] == "cold-items"
    assert again.meta["split"]["seed"] == 3
    assert again.fingerprint == data.resplit({"name": "cold-items", "share": 0.2}, seed=3).fingerprint
    assert again.fingerprint != data.resplit({"name": "cold-items", "share": 0.2}, seed=4).fingerprint
    with pytest.raises(ConfigError, match="random"):
        data.resplit("randon")


def test_each_user_has_its_own_newest_share_held_out():
    users = [0] * 10 + [1] * 4 + [2] * 2
    items = [*range(10), *range(4), 0, 1]
    times = [*range(100, 110), 7, 5, 6, 4, 1, 2]
    made = Interactions(users, items, 3, 10, times)
    label = Chronological(valid=0.25, test=0.25).assign(made, 0)
    assert label[:10].tolist() == [TRAIN] * 4 + [VALID] * 3 + [TEST] * 3
    assert label[10:14].tolist() == [TEST, TRAIN, VALID, TRAIN]
    assert label[14:].tolist() == [TRAIN, TRAIN], "too few to hold any out"
    assert Chronological(0.0, 0.5, least=2).assign(made, 0)[14:].tolist() == [TRAIN, TEST]


def test_a_cut_is_one_time_for_all():
    made = Interactions([0, 0, 1, 1], [0, 1, 0, 1], 2, 2, [9, 10, 19, 20])
    assert TimeCut(10, 20).assign(made, 0).tolist() == [TRAIN, VALID, VALID, TEST]
    assert TimeCut(10, 10).assign(made, 0).tolist() == [TRAIN, TEST, TEST, TEST]
    assert TimeCut("1970-01-01", "1970-01-01T00:00:20Z") == TimeCut(0, 20)
    with pytest.raises(DataError, match=r"'cut', row 1: time 'soon'"):
        TimeCut("soon", 20)
    for wrong in ((20, 10), ("1", 3), (True, 3), (1.0, float("nan")), (1_600_000_000_000, 1_600_000_000_000)):
        with pytest.raises(ConfigError, match="'cut'"):
            TimeCut(*wrong)
    with pytest.raises(ConfigError, match=r"valid.*test"):
        as_split("cut")
    with pytest.raises(ConfigError, match="least=0"):
        Chronological(least=0)


def test_ties_at_a_cut_go_to_one_side_and_a_share_of_zero_holds_out_nothing():
    users, items = np.divmod(np.arange(20), 10)
    made = Interactions(users, items, 2, 10, [1] * 8 + [5] * 9 + [7] * 3)
    assert TimeSplit(0.1, 0.2).assign(made, 0).tolist() == [TRAIN] * 8 + [TEST] * 12, (
        "16 and 14 of 20 are at 5"
    )
    assert TimeSplit(0.3, 0.1).assign(made, 0).tolist() == [TRAIN] * 8 + [VALID] * 9 + [TEST] * 3
    assert TimeSplit(0.1, 0.0).assign(made, 0).tolist() == [TRAIN] * 17 + [VALID] * 3
    assert TimeSplit(0.0, 0.1).assign(made, 0).tolist() == [TRAIN] * 17 + [TEST] * 3
    assert not TimeSplit(0.0, 0.0).assign(made, 0).any()


@pytest.mark.parametrize(
    "split", [TimeSplit(0.2, 0.2), TimeCut(60, 80), ColdItems(0.1, TimeCut(60, 80))], ids=repr
)
def test_what_is_done_again_later_stays_where_it_was_done_first(split):
    columns = {"user": [f"u{i % 10}" for i in range(100)], "item": [f"i{i // 10}" for i in range(100)]}
    once = Dataset.from_frame({**columns, "time": list(range(100))}, time="time", split=split)
    again = {name: [*values, *values[:30]] for name, values in columns.items()}
    twice = Dataset.from_frame({**again, "time": [*range(100), *range(100, 130)]}, time="time", split=split)
    assert twice == once
    assert twice.train.times.tolist() == once.train.times.tolist()
    per_user = Dataset.from_frame(
        {**again, "time": [*range(100), *range(100, 130)]}, time="time", split="chronological"
    )
    assert per_user.test.times.max() == 129, "elsewhere the latest is kept"


@pytest.mark.parametrize("split", ["time", {"name": "cut", "valid": 800, "test": 950}])
def test_what_is_done_after_a_cut_changes_nothing_before_it(split):
    rng = np.random.default_rng(0)
    pairs = rng.permutation(40 * 50)[:1000]
    users, items = np.divmod(pairs, 50)
    found = []
    for seed in (1, 2):
        late = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(2000), pairs[:800]))[:200]
        u, i = (
            np.concatenate([a[:800], b]) for a, b in zip((users, items), np.divmod(late, 50), strict=True)
        )
        found.append(Dataset.from_frame({"user": u, "item": i, "t": np.arange(1000)}, time="t", split=split))
    one, other = found
    assert one.train.fingerprint == other.train.fingerprint
    assert one.train.times.tobytes() == other.train.times.tobytes()
    assert one.test.fingerprint != other.test.fingerprint
