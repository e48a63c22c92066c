"""Conversations: candidates and questions against a walk over the graph, turns, rewards and rates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from conversations import catalog, setting, table_of, vectors
from hypothesis import given, strategies as st

import graphrec.conversation.catalog as catalog_module
from graphrec.conversation.belief import Answer, Setting
from graphrec.conversation.candidates import Candidates
from graphrec.conversation.catalog import Catalog
from graphrec.conversation.config import ConversationConfig
from graphrec.conversation.dialogue import ASK, HISTORY_CODES, RECOMMEND, REWARDS, Action, Dialogue
from graphrec.conversation.outcomes import Outcomes
from graphrec.conversation.play import DialogueTask, play
from graphrec.conversation.rules import RULES, AbsGreedy, AskThenRecommend, Rule, parse_rule
from graphrec.conversation.simulator import Simulator
from graphrec.core.errors import ConfigError, DataError
from graphrec.core.random import numpy_rng
from graphrec.data import Interactions

ANY_RULES = [
    {"questions": q, "weighting": w, "belief": b}
    for q in ("binary", "enumerated")
    for w in ("weighted", "plain")
    for b in ("candidates", "posterior")
]
IDS = ["-".join(r.values()) for r in ANY_RULES]


class Watched(Rule):
    """Asks and recommends at random, and looks at every conversation before each action."""

    def __init__(self, look) -> None:
        object.__setattr__(self, "look", look)

    def act(self, dialogues: Sequence[Dialogue], uniform: np.ndarray) -> list[Action]:
        for dialogue in dialogues:
            self.look(dialogue)
        return [RECOMMEND if u < 0.4 or d.belief.best_question is None else ASK
                for d, u in zip(dialogues, uniform, strict=True)]  # fmt: skip


def watch(shared: Setting, look, n: int = 40) -> Outcomes:
    rng = numpy_rng(0, "tests/pairs")
    users, targets = rng.integers(0, 7, n), rng.integers(0, shared.catalog.n_items, n)
    simulator = Simulator(shared.catalog, shared.enumerated)
    return play(Watched(look), shared, simulator, users, targets)


# -- what is known -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", ANY_RULES, ids=IDS)
def test_the_target_never_leaves_the_candidates(rules) -> None:
    def look(dialogue: Dialogue) -> None:
        belief = dialogue.belief
        assert dialogue.respondent.target in belief.items[belief.weights > 0]
        if belief.n_candidates <= 10:
            assert dialogue.respondent.target in belief.slate

    watch(setting(**rules), look)


@pytest.mark.parametrize("rules", ANY_RULES, ids=IDS)
def test_nothing_is_asked_twice_and_an_agent_has_fourteen_actions(rules) -> None:
    asked: dict[int, list[int]] = {}

    def look(dialogue: Dialogue) -> None:
        known = asked.setdefault(id(dialogue.respondent), [dialogue.respondent.opening])
        assert set(known) == set(np.flatnonzero(dialogue.belief.asked_questions))
        assert 1 <= dialogue.turn <= 14
        question = dialogue.belief.best_question
        if question is not None:
            assert question not in known
        original = dialogue.respondent.answer

        def answer(question: int, turn: int) -> Answer:
            assert question not in known
            known.append(question)
            return original(question, turn)

        if "answer" not in vars(dialogue.respondent):
            dialogue.respondent.answer = answer

    watch(setting(catalog(200, 30, 0.1), **rules), look)
    assert len(asked) == 40


@pytest.mark.parametrize("rules", ANY_RULES, ids=IDS)
def test_what_was_refused_is_not_recommended_again_whatever_is_said_later(rules) -> None:
    again = 0
    for target in range(12):
        dialogue, shown = conversation(target, k=2, **rules), set()
        dialogue.respondent.rank = lambda slate: 0
        while not dialogue.done and dialogue.belief.n_candidates:
            if dialogue.turn % 2:
                slate = set(dialogue.belief.slate.tolist())
                assert not slate & shown
                again += bool(shown)
                shown |= slate
                dialogue.step(RECOMMEND)
                assert (
                    dialogue.belief.n_candidates == (dialogue.belief.weights > 0).sum()
                    or not dialogue.belief.n_candidates
                )
            else:
                dialogue.step(ASK)
    assert again > 12


def walk(dialogue: Dialogue, table: np.ndarray) -> set[int]:
    """Attributes at the end of a walk from the one accepted last, over candidates, without those asked."""
    belief = dialogue.belief
    candidates = [int(i) for i in belief.items[belief.weights > 0]]
    last = belief.accepted_attributes[-1]
    reached = {a for i in candidates if table[i, last] for a in np.flatnonzero(table[i])}
    return reached - set(np.flatnonzero(belief.asked_questions)) - set(belief.accepted_attributes)


@pytest.mark.parametrize("dense", [True, False])
@given(seed=st.integers(0, 30), share=st.sampled_from([0.05, 0.2, 0.6]))
def test_candidate_attributes_are_those_that_a_walk_over_the_graph_reaches(dense, seed, share) -> None:
    kept = catalog_module.MAX_DENSE_ATTRIBUTES
    try:
        catalog_module.MAX_DENSE_ATTRIBUTES = kept if dense else 0
        items_catalog = catalog(50, 8, share, seed)
    finally:
        catalog_module.MAX_DENSE_ATTRIBUTES = kept
    assert (items_catalog.table is not None) == dense
    table = table_of(items_catalog)

    def look(dialogue: Dialogue) -> None:
        values = dialogue.belief.question_values
        assert set(np.flatnonzero(values >= 0)) == walk(dialogue, table)

    watch(setting(items_catalog, seed), look, n=10)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("entropy", ["binary", "one_sided"])
@pytest.mark.parametrize("weighting", ["weighted", "plain"])
def test_scores_and_entropies_are_those_of_the_formulas(weighting, entropy, dense, monkeypatch) -> None:
    monkeypatch.setattr(catalog_module, "MAX_DENSE_ATTRIBUTES", 256 if dense else 0)
    shared = setting(weighting=weighting, entropy=entropy)
    table, of = table_of(shared.catalog), shared.vectors

    def look(dialogue: Dialogue) -> None:
        belief, left = dialogue.belief, dialogue.belief.weights > 0
        items = belief.items[left]
        accepted = of.attributes[belief.accepted_attributes].sum(0)
        scores = of.items[items] @ of.users[dialogue.user] + of.items[items] @ accepted
        assert np.allclose(belief.scores[left], scores, atol=1e-4)
        weights = 1 / (1 + np.exp(-scores)) if weighting == "weighted" else np.ones(len(items))
        for attribute in np.flatnonzero(belief.question_values >= 0):
            p = weights[table[items, attribute]].sum() / weights.sum()
            expected = 0.0
            if 0 < p < 1 - 1e-6:
                expected = -p * np.log2(p) - (entropy == "binary") * (1 - p) * np.log2(1 - p)
            assert belief.question_values[attribute] == pytest.approx(expected, abs=1e-4)
        best = sorted(zip(-belief.scores[left], items, strict=True))[:10]
        assert [i for _, i in best] == belief.slate.tolist()

    watch(shared, look)


def test_a_group_is_worth_the_sum_over_its_attributes_that_occur() -> None:
    shared, plain = setting(questions="enumerated"), setting()
    person = Simulator(shared.catalog, enumerated=True).users(np.array([3]), 15)[0]
    belief = Dialogue(shared, 0, person).belief
    single = Candidates(plain, 0)
    for attribute in belief.accepted_attributes:
        single._accept(attribute)
    single.asked_questions[:] = False
    single._question_values = None
    for group in range(3):
        members = np.flatnonzero(shared.catalog.groups == group)
        occurring = members[single.question_values[members] >= 0]
        expected = -1 if belief.asked_questions[group] else single.question_values[occurring].sum()
        assert belief.question_values[group] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["candidates", "posterior"])
def test_who_opens_with_a_group_names_all_that_fits(kind) -> None:
    shared = setting(questions="enumerated", belief=kind)
    table, several = table_of(shared.catalog), 0
    for person in Simulator(shared.catalog, enumerated=True).users(np.arange(60), 15):
        named = person.true_attributes(person.opening)
        belief = Dialogue(shared, 0, person).belief
        assert belief.accepted_attributes == named.tolist()
        fits = table[:, named].all(1)
        if kind == "posterior":  # and nothing else of the group
            fits &= table[:, shared.catalog.groups == person.opening].sum(1) == len(named)
        assert np.flatnonzero(fits).tolist() == belief.items.tolist()
        several += len(named) > 1
    assert several


def test_equals_are_decided_by_the_lowest_number() -> None:
    items_catalog = Catalog(
        np.array([[0, 1, 2, 3, 0, 1, 2, 3], [0, 0, 0, 0, 1, 1, 2, 2]]), 4, ["a", "b", "c"]
    )
    of = vectors(items_catalog)
    shared = Setting(items_catalog, of._replace(items=np.ones_like(of.items)), ConversationConfig(k=2))
    belief = Candidates(shared, 0, 0, Answer(np.array([0])))
    assert belief.best_question == 1  # b and c halve the items alike
    assert belief.slate.tolist() == [0, 1]
    belief.reject_slate()
    assert belief.slate.tolist() == [2, 3]
    assert belief.n_candidates == 2
    assert belief.question_values.tolist() == [-1, -1, 0]  # b occurs no more, c is certain


def test_somebody_unknown_has_the_mean_of_all_users_and_may_open_with_nothing() -> None:
    shared = setting()
    belief = Candidates(shared, None)
    assert belief.n_candidates == shared.catalog.n_items
    assert not belief.accepted_attributes
    scores = shared.vectors.items @ shared.vectors.users.mean(0)
    assert np.allclose(belief.scores, scores, atol=1e-5)
    question = belief.best_question
    belief.update(question, Answer(np.array([question])))
    assert belief.accepted_attributes == [question]
    assert set(belief.items) == set(shared.catalog.items_with(question))


# -- turns and rewards ---------------------------------------------------------------------------------------


def conversation(target: int = 5, **rules) -> Dialogue:
    shared = setting(catalog(300, 12, 0.2), **rules)
    user = Simulator(shared.catalog, shared.enumerated).users(np.array([target]), 15)[0]
    return Dialogue(shared, 0, user)


def test_rewards_are_those_of_the_table() -> None:
    assert REWARDS == {"accepted": 0.01, "rejected": -0.1, "found": 1.0, "refused": -0.1, "quit": -0.3,
                       "no question": -0.1}  # fmt: skip
    dialogue = conversation()
    table, seen = table_of(dialogue.setting.catalog), set()
    while not dialogue.done:
        question = dialogue.belief.best_question
        action = RECOMMEND if dialogue.turn in (1, 6, 7) or question is None else ASK
        turn, hit = dialogue.turn, dialogue.respondent.target in dialogue.belief.slate
        reward = dialogue.step(action)
        if action is RECOMMEND:
            expected = "found" if hit else "refused"
        else:
            expected = "accepted" if table[dialogue.respondent.target, question] else "rejected"
        seen.add(expected)
        assert reward == REWARDS[expected]
        assert dialogue.history[turn] == HISTORY_CODES[expected]
    assert {"accepted", "rejected", "refused"} <= seen
    assert dialogue.history[0] == 1


def test_the_fifteenth_call_only_ends_the_conversation() -> None:
    dialogue = conversation(k=1)
    dialogue.respondent.rank = lambda slate: 0
    rewards = [dialogue.step(RECOMMEND) for _ in range(14)]
    assert rewards == [REWARDS["refused"]] * 14
    assert not dialogue.done
    assert dialogue.actions_left == 0
    assert dialogue.step(RECOMMEND) == REWARDS["quit"]
    assert dialogue.done
    assert not dialogue.success_turn


def test_asking_without_a_question_left_ends_it_and_takes_no_turn() -> None:
    items_catalog = Catalog(np.array([[0, 1, 2], [0, 0, 0]]), 3, ["only"])
    shared = Setting(items_catalog, vectors(items_catalog), ConversationConfig(k=1))
    dialogue = Dialogue(shared, 0, Simulator(items_catalog).users(np.array([2]), 15)[0])
    assert dialogue.belief.best_question is None
    assert dialogue.step(ASK) == REWARDS["no question"]
    assert dialogue.done
    assert dialogue.turn == 1
    everything = play(AskThenRecommend(8), shared, Simulator(items_catalog), np.zeros(3, int), np.arange(3))
    assert (everything.success_turn > 0).all(), "a rule recommends instead"


# -- simulated users -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("enumerated", [False, True])
def test_openings_are_uniform_over_what_the_target_has(enumerated) -> None:
    items_catalog = catalog()
    item = int(np.argmax(np.diff(items_catalog.item_offsets)))
    simulated = Simulator(items_catalog, enumerated).users(np.full(6000, item), 15)
    counts = np.bincount([t.opening for t in simulated])
    about = items_catalog.attributes_of(item)
    about = np.unique(items_catalog.groups[about]) if enumerated else about
    assert set(np.flatnonzero(counts)) == set(about)
    assert counts[about] == pytest.approx(6000 / len(about), rel=0.15)


def test_answers_are_what_the_target_has_and_wrong_as_often_as_asked_for() -> None:
    items_catalog = catalog()
    table, targets = table_of(items_catalog), np.arange(60).repeat(50)
    for wrong, unsure in ((0.0, 0.0), (0.2, 0.1)):
        simulated = Simulator(items_catalog, error_rate=wrong, unknown_rate=unsure).users(targets, 15)
        answers = [t.answer(4, turn=3) for t in simulated]
        told = [(a, t) for a, t in zip(answers, simulated, strict=True) if a.known]
        lied = [bool(len(a.accepted)) != table[t.target, 4] for a, t in told]
        unknown = np.mean([not a.known for a in answers])
        assert np.mean(lied) == pytest.approx(wrong / (1 - unsure), abs=0.03)
        assert unknown == pytest.approx(unsure, abs=0.03)


def test_openings_are_true_however_many_answers_are_wrong_and_chance_is_drawn_anew_in_every_epoch() -> None:
    items_catalog = catalog()
    simulator, shared = Simulator(items_catalog, error_rate=1.0), setting(items_catalog)
    for user in simulator.users(np.arange(20), 15):
        assert user.target in Dialogue(shared, 0, user).belief.items
    half = Simulator(items_catalog, error_rate=0.5)
    said = [
        [len(t.answer(4, 3).accepted) for t in half.users(np.arange(40), 15, epoch)] for epoch in (0, 0, 1)
    ]
    assert said[0] == said[1] != said[2]


def test_a_conversation_does_not_depend_on_those_beside_it() -> None:
    shared, targets = setting(), np.arange(60)
    simulator = Simulator(shared.catalog, error_rate=0.1)
    users = targets % 7
    results = [
        play(parse_rule("max-entropy"), shared, simulator, users, targets, concurrency=w) for w in (1, 7, 64)
    ]
    assert all(np.array_equal(r.success_turn, results[0].success_turn) for r in results)
    other = play(parse_rule("max-entropy"), shared, simulator, users, targets, epoch=1)
    assert not np.array_equal(other.success_turn, results[0].success_turn)


def test_what_cannot_be_talked_about_is_said() -> None:
    with pytest.raises(DataError, match="nothing to ask"):
        Catalog(np.empty((2, 0), int), 3, ["a"])
    items_catalog = Catalog(np.array([[0], [0]]), 2, ["a"])
    with pytest.raises(DataError, match="item 1 has no attribute"):
        Simulator(items_catalog).users(np.array([1]), 15)
    with pytest.raises(ConfigError, match="dataset has none"):
        Setting(items_catalog, vectors(items_catalog), ConversationConfig(questions="enumerated"))
    with pytest.raises(DataError, match="train the scorer"):
        Setting(items_catalog, vectors(catalog()))
    with pytest.raises(ConfigError, match="at most 1"):
        Simulator(items_catalog, error_rate=0.7, unknown_rate=0.4)


# -- rates ---------------------------------------------------------------------------------------------------


def test_the_first_place_in_the_first_turn_is_worth_one() -> None:
    outcomes = Outcomes(np.array([1, 0, 14, 3]), np.array([1, 0, 10, 2]), 15)
    gains = outcomes.hdcg()
    assert gains[0] == 1
    assert gains[1] == 0
    assert gains[3] == pytest.approx(1 / np.log2(5) + (1 / np.log2(4) - 1 / np.log2(5)) / np.log2(3))
    assert outcomes.hdcg(opening=True)[0] == pytest.approx(1 / np.log2(3))
    assert outcomes.turns_used().tolist() == [1, 15, 14, 3]


@given(found=st.lists(st.integers(0, 14), min_size=1, max_size=50))
def test_counting_the_opening_adds_the_success_rate_to_the_average_turn(found) -> None:
    values = np.array(found)
    mean = Outcomes(values, np.minimum(values, 1), 15).mean()
    assert mean["at/opening"] - mean["at"] == pytest.approx(mean["sr@15"])
    assert mean["sr@15/opening"] == mean["sr@15"]
    assert mean["sr@5/opening"] == np.mean([0 < f <= 4 for f in found])


def test_rules_by_name() -> None:
    assert parse_rule("ask-then-recommend:3") == AskThenRecommend(3)
    assert parse_rule("abs-greedy") == AbsGreedy()
    assert all(isinstance(parse_rule(name), Rule) for name in RULES)
    with pytest.raises(ConfigError, match="Did you mean 'max-entropy'"):
        parse_rule("max-entrpy")
    for wrong in ("abs-greedy:3", "ask-then-recommend:x"):
        with pytest.raises(ConfigError, match="expected a name"):
            parse_rule(wrong)


def test_rules_with_a_number_recommend_from_there_on() -> None:
    def seen(name: str) -> list[tuple[int, int, bool]]:
        policy, looked = parse_rule(name), []
        dialogue = conversation(target=7, k=1)
        dialogue.respondent.rank = lambda slate: 0
        for _ in range(14):
            action = policy.act([dialogue], np.array([0.5]))[0]
            if dialogue.belief.best_question is not None:
                looked.append((dialogue.turn, dialogue.belief.n_candidates, action is RECOMMEND))
            dialogue.step(action)
        return looked

    assert all(r == (t > 3) for t, _, r in seen("ask-then-recommend:3"))
    border = seen("ask-then-recommend:14")[4][1]  # at exactly so many candidates it recommends, too
    few = seen(f"recommend-when-few:{border}")
    assert all(r == (n <= border) for _, n, r in few)
    assert {r for _, _, r in few} == {True, False}
    dialogue = conversation()
    for n, u, recommends in ((100, 0.09, True), (100, 0.11, False), (9, 0.99, True)):
        dialogue.belief.n_candidates = n
        assert (parse_rule("max-entropy").act([dialogue], np.array([u]))[0] is RECOMMEND) == recommends
    late = seen("recommend-when-few-or-late:1")
    assert all(r == (t > 9 or n <= 1) for t, n, r in late)
    assert {r for _, _, r in late} == {True, False}


def test_recommending_first_or_asking_first_is_what_it_says() -> None:
    shared = setting(catalog(900, 12, 0.2))
    users, targets = np.zeros(900, int), np.arange(900)
    simulator = Simulator(shared.catalog)
    greedy = play(AbsGreedy(), shared, simulator, users, targets)
    assert (greedy.success_turn == 1).any()
    asks = play(AskThenRecommend(4), shared, simulator, users, targets)
    assert asks.success_turn[asks.success_turn > 0].min() == 5
    assert asks.mean()["sr@15"] > greedy.mean()["sr@15"]


def test_validation_takes_as_many_pairs_as_asked_for() -> None:
    shared = setting()
    split = Interactions(np.arange(7).repeat(5), np.arange(35), n_users=7, n_items=60)
    task = DialogueTask(shared, split, Simulator(shared.catalog), n=20)
    assert len(task.outcomes(AbsGreedy())) == 20
    found = task(AbsGreedy())
    assert found["at/saved"] == pytest.approx(15 - found["at"])
    assert found == task(AbsGreedy())
