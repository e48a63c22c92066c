"""What is asked about whom: histories of train alone, the latest last; candidates that are none of it."""

from __future__ import annotations

import numpy as np
import pytest

from graphrec import testing
from graphrec.core.errors import FeatureError
from graphrec.data.interactions import Interactions
from graphrec.features.extract.llm import jobs
from graphrec.features.extract.llm.parsing import parse_profile


@pytest.fixture
def shop():
    """The first has items 4, 0, 2 in this order, the second has one, the others have none."""
    data, _ = testing.communities(2, 20)
    train = Interactions(
        np.array([0, 0, 0, 1]), np.array([0, 2, 4, 5]), data.n_users, data.n_items, np.array([20, 30, 10, 5])
    )
    return data.with_splits(train, data.valid, data.test)


def test_histories_are_in_the_order_of_time_and_end_with_the_last(shop) -> None:
    assert [h.tolist() for h in jobs.histories(shop)[:3]] == [[4, 0, 2], [5], []]
    assert jobs.histories(shop, 2)[0].tolist() == [0, 2]


def test_candidates_that_are_taken_or_are_no_items_are_refused(shop) -> None:
    titles = [f"T{i}" for i in range(shop.n_items)]
    pool = np.full((shop.n_users, 3), -1)
    pool[0] = [1, 3, 5]
    assert [q.row for q in jobs.preference_questions(shop, titles, pool, "item")] == [0]
    for wrong in (2, shop.n_items):
        bad = pool.copy()
        bad[0, 1] = wrong
        with pytest.raises(FeatureError, match="training items"):
            jobs.preference_questions(shop, titles, bad, "item")


def test_nobody_is_asked_about_without_a_history_or_a_choice(shop) -> None:
    titles = [f"T{i}" for i in range(shop.n_items)]
    pool = np.full((shop.n_users, 2), -1)
    pool[1, 0] = 3  # one candidate is no choice
    pool[2] = [0, 1]  # nothing in train
    assert jobs.preference_questions(shop, titles, pool, "item") == []
    assert [q.row for q in jobs.profile_questions(shop, titles, "item")] == [0, 1]


def test_what_was_given_up_is_the_first_and_the_last_candidate(shop) -> None:
    titles = [f"T{i}" for i in range(shop.n_items)]
    pool = np.full((shop.n_users, 3), -1)
    pool[0], pool[1] = [1, 3, 5], [2, 0, -1]
    questions = jobs.preference_questions(shop, titles, pool, "item")
    table = jobs.preference_table(shop, pool, questions, [(1, 0), None], "x")
    assert table.numpy(np.int64)[:2].tolist() == [[3, 1], [2, 0]]
    assert table.present.tolist()[:3] == [True, True, False]
    assert table.meta["fallback"] == 1
    assert table.meta["extractor"]["train"] == shop.train.fingerprint


def test_halves_of_characters_do_not_get_into_a_profile() -> None:
    assert parse_profile("likes a\ud800b") == "likes ab"
