"""What an agent makes of answers when a no counts as much as a yes, and when answers may be wrong."""

from __future__ import annotations

import numpy as np
import pytest
from conversations import catalog, setting, table_of
from hypothesis import given, strategies as st

from graphrec.conversation.belief import Answer, Setting
from graphrec.conversation.play import play
from graphrec.conversation.posterior import Posterior
from graphrec.conversation.rules import AskThenRecommend, RecommendWhenSure
from graphrec.conversation.simulator import Simulator
from graphrec.core.random import numpy_rng


def binary(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


@given(seed=st.integers(0, 20), error=st.sampled_from([0.0, 0.1]), turns=st.integers(0, 5))
def test_it_is_bayes_rule(seed: int, error: float, turns: int) -> None:
    shared = setting(seed=seed, belief="posterior", error=error, temperature=1.5)
    table, of, rng = table_of(shared.catalog), shared.vectors, numpy_rng(seed, "tests/answers")
    target = int(rng.integers(60))
    talk = Simulator(shared.catalog, seed=seed).talks(np.array([target]), 15)[0]
    knows = Posterior(shared, 2, talk.opening, Answer(np.array([talk.opening])))
    p = np.exp(of.items @ (of.users[2] + of.attributes[talk.opening]) / 1.5) * table[:, talk.opening]
    for _ in range(turns):
        question = knows.question
        if question is None:
            break
        yes = bool(table[target, question]) ^ bool(error and rng.random() < 0.3)
        knows.answered(question, Answer(np.array([question]) if yes else np.array([], int)))
        p *= np.where(table[:, question] == yes, 1 - error, error)
    p /= p.sum()
    full = np.zeros(60)
    full[knows.items] = knows.weights
    assert np.allclose(full, p, atol=1e-6)
    assert knows.sure == pytest.approx(np.sort(p)[-10:].sum(), abs=1e-6)
    share = table.T @ p
    value = binary(share * (1 - error) + (1 - share) * error) - binary(np.array([error]))[0]
    open_questions = np.flatnonzero(knows.values >= 0)
    assert np.allclose(knows.values[open_questions], value[open_questions], atol=1e-4)
    assert not knows.asked[open_questions].any()


def test_a_no_rules_out_what_has_the_attribute() -> None:
    shared = setting(belief="posterior")
    knows = Posterior(shared, None)
    knows.answered(4, Answer(np.array([], int)))
    assert not table_of(shared.catalog)[knows.items, 4].any()
    before = knows.items
    knows.answered(5, Answer(np.array([], int), known=False))
    assert np.array_equal(knows.items, before)
    assert knows.asked[5]


def test_of_a_group_exactly_the_named_attributes_are_taken_as_had() -> None:
    shared = setting(belief="posterior", questions="enumerated")
    table = table_of(shared.catalog)
    knows = Posterior(shared, None)
    knows.answered(0, Answer(np.array([3])))  # of 0, 3 and 6
    assert len(knows.items)
    assert (table[knows.items][:, [0, 3, 6]] == [False, True, False]).all()


def test_one_wrong_answer_does_not_lose_the_target() -> None:
    shelf = catalog(300, 14, 0.3)
    shared = setting(shelf, belief="posterior", error=0.1)
    table, target = table_of(shelf), 17
    knows = Posterior(shared, 0)
    for question in range(14):
        yes = bool(table[target, question]) ^ (question == 0)
        knows.answered(question, Answer(np.array([question]) if yes else np.array([], int)))
    assert target in knows.slate
    sure = Posterior(setting(shelf, belief="posterior"), 0)
    for question in range(7):
        yes = bool(table[target, question]) ^ (question == 0)
        sure.answered(question, Answer(np.array([question]) if yes else np.array([], int)))
    assert target not in sure.items


def test_what_is_left_are_the_items_that_contradict_the_fewest_answers() -> None:
    shared = setting(belief="posterior", error=0.1)
    table, knows = table_of(shared.catalog), Posterior(shared, 0)
    assert knows.n == 60
    against = np.zeros(60, dtype=int)
    for question, yes in ((0, True), (1, False), (2, True), (3, True), (4, True), (5, False)):
        knows.answered(question, Answer(np.array([question]) if yes else np.array([], int)))
        against += table[:, question] != yes
        assert knows.n == (against == against.min()).sum()
    assert len(knows.items) == 60


def test_answers_that_nothing_agrees_with_leave_something_to_recommend() -> None:
    shared = setting(belief="posterior")
    knows = Posterior(shared, 0)
    for question in range(9):
        knows.answered(question, Answer(np.array([], int)))
    assert len(knows.items)
    assert len(knows.slate)
    for _ in range(10):
        knows.refused()
    assert len(knows.items)
    assert len(knows.slate)
    assert knows.n == 0, "and it is said that they were all refused"


def test_a_prior_moves_it() -> None:
    shared = setting(belief="posterior")
    prior = np.zeros(60)
    prior[33] = 50
    moved = Setting(shared.catalog, shared.vectors, shared.config, prior)
    assert Posterior(moved, 0).slate[0] == 33
    assert Posterior(moved, 0).sure == pytest.approx(1)


def test_believing_a_no_finds_more_and_expecting_errors_more_again_where_there_are_some() -> None:
    shelf = catalog(2000, 25, 0.2)
    users, targets = np.zeros(400, int), np.arange(0, 2000, 5)
    found = {}
    for wrong in (0.0, 0.1):
        simulator = Simulator(shelf, wrong=wrong)
        for belief, error in (("candidates", 0.0), ("posterior", 0.0), ("posterior", 0.1)):
            shared = setting(shelf, belief=belief, error=error)
            policy = AskThenRecommend(9) if belief == "candidates" else RecommendWhenSure(50)
            outcomes = play(policy, shared, simulator, users, targets)
            found[wrong, belief, error] = outcomes.mean()["sr@15"]
    assert found[0.0, "posterior", 0.0] > found[0.0, "candidates", 0.0] + 0.2
    assert found[0.1, "posterior", 0.1] > found[0.1, "posterior", 0.0] + 0.03
