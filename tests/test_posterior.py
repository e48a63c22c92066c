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
    user = Simulator(shared.catalog, seed=seed).users(np.array([target]), 15)[0]
    belief = Posterior(shared, 2, user.opening, Answer(np.array([user.opening])))
    p = np.exp(of.items @ (of.users[2] + of.attributes[user.opening]) / 1.5) * table[:, user.opening]
    for _ in range(turns):
        question = belief.best_question
        if question is None:
            break
        yes = bool(table[target, question]) ^ bool(error and rng.random() < 0.3)
        belief.update(question, Answer(np.array([question]) if yes else np.array([], int)))
        p *= np.where(table[:, question] == yes, 1 - error, error)
    p /= p.sum()
    full = np.zeros(60)
    full[belief.items] = belief.weights
    assert np.allclose(full, p, atol=1e-6)
    assert belief.slate_probability == pytest.approx(np.sort(p)[-10:].sum(), abs=1e-6)
    share = table.T @ p
    value = binary(share * (1 - error) + (1 - share) * error) - binary(np.array([error]))[0]
    open_questions = np.flatnonzero(belief.question_values >= 0)
    assert np.allclose(belief.question_values[open_questions], value[open_questions], atol=1e-4)
    assert not belief.asked_questions[open_questions].any()


def test_a_no_rules_out_what_has_the_attribute() -> None:
    shared = setting(belief="posterior")
    belief = Posterior(shared, None)
    belief.update(4, Answer(np.array([], int)))
    assert not table_of(shared.catalog)[belief.items, 4].any()
    before = belief.items
    belief.update(5, Answer(np.array([], int), known=False))
    assert np.array_equal(belief.items, before)
    assert belief.asked_questions[5]


def test_of_a_group_exactly_the_named_attributes_are_taken_as_had() -> None:
    shared = setting(belief="posterior", questions="enumerated")
    table = table_of(shared.catalog)
    belief = Posterior(shared, None)
    belief.update(0, Answer(np.array([3])))  # of 0, 3 and 6
    assert len(belief.items)
    assert (table[belief.items][:, [0, 3, 6]] == [False, True, False]).all()


def test_one_wrong_answer_does_not_lose_the_target() -> None:
    items_catalog = catalog(300, 14, 0.3)
    shared = setting(items_catalog, belief="posterior", error=0.1)
    table, target = table_of(items_catalog), 17
    belief = Posterior(shared, 0)
    for question in range(14):
        yes = bool(table[target, question]) ^ (question == 0)
        belief.update(question, Answer(np.array([question]) if yes else np.array([], int)))
    assert target in belief.slate
    sure = Posterior(setting(items_catalog, belief="posterior"), 0)
    for question in range(7):
        yes = bool(table[target, question]) ^ (question == 0)
        sure.update(question, Answer(np.array([question]) if yes else np.array([], int)))
    assert target not in sure.items


def test_what_is_left_are_the_items_that_contradict_the_fewest_answers() -> None:
    shared = setting(belief="posterior", error=0.1)
    table, belief = table_of(shared.catalog), Posterior(shared, 0)
    assert belief.n_candidates == 60
    against = np.zeros(60, dtype=int)
    for question, yes in ((0, True), (1, False), (2, True), (3, True), (4, True), (5, False)):
        belief.update(question, Answer(np.array([question]) if yes else np.array([], int)))
        against += table[:, question] != yes
        assert belief.n_candidates == (against == against.min()).sum()
    assert len(belief.items) == 60


def test_answers_that_nothing_agrees_with_leave_something_to_recommend() -> None:
    shared = setting(belief="posterior")
    belief = Posterior(shared, 0)
    for question in range(9):
        belief.update(question, Answer(np.array([], int)))
    assert len(belief.items)
    assert len(belief.slate)
    for _ in range(10):
        belief.reject_slate()
    assert len(belief.items)
    assert len(belief.slate)
    assert belief.n_candidates == 0, "and it is said that they were all refused"


def test_a_prior_moves_it() -> None:
    shared = setting(belief="posterior")
    prior = np.zeros(60)
    prior[33] = 50
    moved = Setting(shared.catalog, shared.vectors, shared.config, prior)
    assert Posterior(moved, 0).slate[0] == 33
    assert Posterior(moved, 0).slate_probability == pytest.approx(1)


def test_believing_a_no_finds_more_and_expecting_errors_more_again_where_there_are_some() -> None:
    items_catalog = catalog(2000, 25, 0.2)
    users, targets = np.zeros(400, int), np.arange(0, 2000, 5)
    found = {}
    for wrong in (0.0, 0.1):
        simulator = Simulator(items_catalog, error_rate=wrong)
        for belief, error in (("candidates", 0.0), ("posterior", 0.0), ("posterior", 0.1)):
            shared = setting(items_catalog, belief=belief, error=error)
            policy = AskThenRecommend(9) if belief == "candidates" else RecommendWhenSure(50)
            outcomes = play(policy, shared, simulator, users, targets)
            found[wrong, belief, error] = outcomes.mean()["sr@15"]
    assert found[0.0, "posterior", 0.0] > found[0.0, "candidates", 0.0] + 0.2
    assert found[0.1, "posterior", 0.1] > found[0.1, "posterior", 0.0] + 0.03
