"""Conversations: candidates and questions against a walk over the graph, turns, rewards and rates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from conversations import catalog, setting, table_of, vectors
from hypothesis import given, strategies as st

import graphrec.conversation.catalog as shelves
from graphrec.conversation.belief import Answer, Setting
from graphrec.conversation.candidates import Candidates
from graphrec.conversation.catalog import Catalog
from graphrec.conversation.config import ConversationConfig
from graphrec.conversation.dialogue import ASK, CODES, RECOMMEND, REWARDS, Action, Dialogue
from graphrec.conversation.outcomes import Outcomes
from graphrec.conversation.play import DialogueTask, play
from graphrec.conversation.rules import RULES, AbsGreedy, AskThenRecommend, Rule, rule
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

    def act(self, dialogues: Sequence[Dialogue], chance: np.ndarray) -> list[Action]:
        for dialogue in dialogues:
            self.look(dialogue)
        return [RECOMMEND if luck < 0.4 or d.knows.question is None else ASK
                for d, luck in zip(dialogues, chance, strict=True)]  # fmt: skip


def watch(shared: Setting, look, n: int = 40) -> Outcomes:
    rng = numpy_rng(0, "tests/pairs")
    users, targets = rng.integers(0, 7, n), rng.integers(0, shared.catalog.n_items, n)
    simulator = Simulator(shared.catalog, shared.enumerated)
    return play(Watched(look), shared, simulator, users, targets)


# -- what is known -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", ANY_RULES, ids=IDS)
def test_the_target_never_leaves_the_candidates(rules) -> None:
    def look(dialogue: Dialogue) -> None:
        knows = dialogue.knows
        assert dialogue.person.target in knows.items[knows.weights > 0]
        if knows.n <= 10:
            assert dialogue.person.target in knows.slate

    watch(setting(**rules), look)


@pytest.mark.parametrize("rules", ANY_RULES, ids=IDS)
def test_nothing_is_asked_twice_and_an_agent_has_fourteen_actions(rules) -> None:
    asked: dict[int, list[int]] = {}

    def look(dialogue: Dialogue) -> None:
        known = asked.setdefault(id(dialogue.person), [dialogue.person.opening])
        assert set(known) == set(np.flatnonzero(dialogue.knows.asked))
        assert 1 <= dialogue.turn <= 14
        question = dialogue.knows.question
        if question is not None:
            assert question not in known
        original = dialogue.person.answer

        def answer(question: int, turn: int) -> Answer:
            assert question not in known
            known.append(question)
            return original(question, turn)

        if "answer" not in vars(dialogue.person):
            dialogue.person.answer = answer

    watch(setting(catalog(200, 30, 0.1), **rules), look)
    assert len(asked) == 40


@pytest.mark.parametrize("rules", ANY_RULES, ids=IDS)
def test_what_was_refused_is_not_recommended_again_whatever_is_said_later(rules) -> None:
    again = 0
    for target in range(12):
        dialogue, shown = conversation(target, k=2, **rules), set()
        dialogue.person.place = lambda slate: 0
        while not dialogue.done and dialogue.knows.n:
            if dialogue.turn % 2:
                slate = set(dialogue.knows.slate.tolist())
                assert not slate & shown
                again += bool(shown)
                shown |= slate
                dialogue.step(RECOMMEND)
                assert dialogue.knows.n == (dialogue.knows.weights > 0).sum() or not dialogue.knows.n
            else:
                dialogue.step(ASK)
    assert again > 12


def walk(dialogue: Dialogue, table: np.ndarray) -> set[int]:
    """Attributes at the end of a walk from the one accepted last, over candidates, without those asked."""
    knows = dialogue.knows
    candidates = [int(i) for i in knows.items[knows.weights > 0]]
    last = knows.accepted[-1]
    reached = {a for i in candidates if table[i, last] for a in np.flatnonzero(table[i])}
    return reached - set(np.flatnonzero(knows.asked)) - set(knows.accepted)


@pytest.mark.parametrize("dense", [True, False])
@given(seed=st.integers(0, 30), share=st.sampled_from([0.05, 0.2, 0.6]))
def test_candidate_attributes_are_those_that_a_walk_over_the_graph_reaches(dense, seed, share) -> None:
    kept = shelves.DENSE
    try:
        shelves.DENSE = kept if dense else 0
        shelf = catalog(50, 8, share, seed)
    finally:
        shelves.DENSE = kept
    assert (shelf.table is not None) == dense
    table = table_of(shelf)

    def look(dialogue: Dialogue) -> None:
        values = dialogue.knows.values
        assert set(np.flatnonzero(values >= 0)) == walk(dialogue, table)

    watch(setting(shelf, seed), look, n=10)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("entropy", ["binary", "one_sided"])
@pytest.mark.parametrize("weighting", ["weighted", "plain"])
def test_scores_and_entropies_are_those_of_the_formulas(weighting, entropy, dense, monkeypatch) -> None:
    monkeypatch.setattr(shelves, "DENSE", 256 if dense else 0)
    shared = setting(weighting=weighting, entropy=entropy)
    table, of = table_of(shared.catalog), shared.vectors

    def look(dialogue: Dialogue) -> None:
        knows, left = dialogue.knows, dialogue.knows.weights > 0
        items = knows.items[left]
        accepted = of.attributes[knows.accepted].sum(0)
        scores = of.items[items] @ of.users[dialogue.user] + of.items[items] @ accepted
        assert np.allclose(knows.scores[left], scores, atol=1e-4)
        weights = 1 / (1 + np.exp(-scores)) if weighting == "weighted" else np.ones(len(items))
        for attribute in np.flatnonzero(knows.values >= 0):
            p = weights[table[items, attribute]].sum() / weights.sum()
            expected = 0.0
            if 0 < p < 1 - 1e-6:
                expected = -p * np.log2(p) - (entropy == "binary") * (1 - p) * np.log2(1 - p)
            assert knows.values[attribute] == pytest.approx(expected, abs=1e-4)
        best = sorted(zip(-knows.scores[left], items, strict=True))[:10]
        assert [i for _, i in best] == knows.slate.tolist()

    watch(shared, look)


def test_a_group_is_worth_the_sum_over_its_attributes_that_occur() -> None:
    shared, plain = setting(questions="enumerated"), setting()
    person = Simulator(shared.catalog, enumerated=True).talks(np.array([3]), 15)[0]
    knows = Dialogue(shared, 0, person).knows
    single = Candidates(plain, 0)
    for attribute in knows.accepted:
        single._accept(attribute)
    single.asked[:] = False
    single._values = None
    for group in range(3):
        members = np.flatnonzero(shared.catalog.groups == group)
        occurring = members[single.values[members] >= 0]
        expected = -1 if knows.asked[group] else single.values[occurring].sum()
        assert knows.values[group] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("belief", ["candidates", "posterior"])
def test_who_opens_with_a_group_names_all_that_fits(belief) -> None:
    shared = setting(questions="enumerated", belief=belief)
    table, several = table_of(shared.catalog), 0
    for person in Simulator(shared.catalog, enumerated=True).talks(np.arange(60), 15):
        named = person.truth(person.opening)
        knows = Dialogue(shared, 0, person).knows
        assert knows.accepted == named.tolist()
        fits = table[:, named].all(1)
        if belief == "posterior":  # and nothing else of the group
            fits &= table[:, shared.catalog.groups == person.opening].sum(1) == len(named)
        assert np.flatnonzero(fits).tolist() == knows.items.tolist()
        several += len(named) > 1
    assert several


def test_equals_are_decided_by_the_lowest_number() -> None:
    shelf = Catalog(np.array([[0, 1, 2, 3, 0, 1, 2, 3], [0, 0, 0, 0, 1, 1, 2, 2]]), 4, ["a", "b", "c"])
    of = vectors(shelf)
    shared = Setting(shelf, of._replace(items=np.ones_like(of.items)), ConversationConfig(k=2))
    knows = Candidates(shared, 0, 0, Answer(np.array([0])))
    assert knows.question == 1  # b and c halve the items alike
    assert knows.slate.tolist() == [0, 1]
    knows.refused()
    assert knows.slate.tolist() == [2, 3]
    assert knows.n == 2
    assert knows.values.tolist() == [-1, -1, 0]  # b occurs no more, c is certain


def test_somebody_unknown_has_the_mean_of_all_users_and_may_open_with_nothing() -> None:
    shared = setting()
    knows = Candidates(shared, None)
    assert knows.n == shared.catalog.n_items
    assert not knows.accepted
    scores = shared.vectors.items @ shared.vectors.users.mean(0)
    assert np.allclose(knows.scores, scores, atol=1e-5)
    question = knows.question
    knows.answered(question, Answer(np.array([question])))
    assert knows.accepted == [question]
    assert set(knows.items) == set(shared.catalog.items_with(question))


# -- turns and rewards ---------------------------------------------------------------------------------------


def conversation(target: int = 5, **rules) -> Dialogue:
    shared = setting(catalog(300, 12, 0.2), **rules)
    talk = Simulator(shared.catalog, shared.enumerated).talks(np.array([target]), 15)[0]
    return Dialogue(shared, 0, talk)


def test_rewards_are_those_of_the_table() -> None:
    assert REWARDS == {"accepted": 0.01, "rejected": -0.1, "found": 1.0, "refused": -0.1, "quit": -0.3,
                       "no question": -0.1}  # fmt: skip
    dialogue = conversation()
    table, seen = table_of(dialogue.setting.catalog), set()
    while not dialogue.done:
        question = dialogue.knows.question
        action = RECOMMEND if dialogue.turn in (1, 6, 7) or question is None else ASK
        turn, hit = dialogue.turn, dialogue.person.target in dialogue.knows.slate
        reward = dialogue.step(action)
        if action is RECOMMEND:
            expected = "found" if hit else "refused"
        else:
            expected = "accepted" if table[dialogue.person.target, question] else "rejected"
        seen.add(expected)
        assert reward == REWARDS[expected]
        assert dialogue.history[turn] == CODES[expected]
    assert {"accepted", "rejected", "refused"} <= seen
    assert dialogue.history[0] == 1


def test_the_fifteenth_call_only_ends_the_conversation() -> None:
    dialogue = conversation(k=1)
    dialogue.person.place = lambda slate: 0
    rewards = [dialogue.step(RECOMMEND) for _ in range(14)]
    assert rewards == [REWARDS["refused"]] * 14
    assert not dialogue.done
    assert dialogue.actions_left == 0
    assert dialogue.step(RECOMMEND) == REWARDS["quit"]
    assert dialogue.done
    assert not dialogue.found


def test_asking_without_a_question_left_ends_it_and_takes_no_turn() -> None:
    shelf = Catalog(np.array([[0, 1, 2], [0, 0, 0]]), 3, ["only"])
    shared = Setting(shelf, vectors(shelf), ConversationConfig(k=1))
    dialogue = Dialogue(shared, 0, Simulator(shelf).talks(np.array([2]), 15)[0])
    assert dialogue.knows.question is None
    assert dialogue.step(ASK) == REWARDS["no question"]
    assert dialogue.done
    assert dialogue.turn == 1
    everything = play(AskThenRecommend(8), shared, Simulator(shelf), np.zeros(3, int), np.arange(3))
    assert (everything.found > 0).all(), "a rule recommends instead"


# -- simulated users -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("enumerated", [False, True])
def test_openings_are_uniform_over_what_the_target_has(enumerated) -> None:
    shelf = catalog()
    item = int(np.argmax(np.diff(shelf.of_item)))
    talks = Simulator(shelf, enumerated).talks(np.full(6000, item), 15)
    counts = np.bincount([t.opening for t in talks])
    about = shelf.attributes_of(item)
    about = np.unique(shelf.groups[about]) if enumerated else about
    assert set(np.flatnonzero(counts)) == set(about)
    assert counts[about] == pytest.approx(6000 / len(about), rel=0.15)


def test_answers_are_what_the_target_has_and_wrong_as_often_as_asked_for() -> None:
    shelf = catalog()
    table, targets = table_of(shelf), np.arange(60).repeat(50)
    for wrong, unsure in ((0.0, 0.0), (0.2, 0.1)):
        talks = Simulator(shelf, wrong=wrong, unsure=unsure).talks(targets, 15)
        answers = [t.answer(4, turn=3) for t in talks]
        told = [(a, t) for a, t in zip(answers, talks, strict=True) if a.known]
        lied = [bool(len(a.accepted)) != table[t.target, 4] for a, t in told]
        unknown = np.mean([not a.known for a in answers])
        assert np.mean(lied) == pytest.approx(wrong / (1 - unsure), abs=0.03)
        assert unknown == pytest.approx(unsure, abs=0.03)


def test_openings_are_true_however_many_answers_are_wrong_and_chance_is_drawn_anew_in_every_epoch() -> None:
    shelf = catalog()
    simulator, shared = Simulator(shelf, wrong=1.0), setting(shelf)
    for talk in simulator.talks(np.arange(20), 15):
        assert talk.target in Dialogue(shared, 0, talk).knows.items
    half = Simulator(shelf, wrong=0.5)
    said = [
        [len(t.answer(4, 3).accepted) for t in half.talks(np.arange(40), 15, epoch)] for epoch in (0, 0, 1)
    ]
    assert said[0] == said[1] != said[2]


def test_a_conversation_does_not_depend_on_those_beside_it() -> None:
    shared, targets = setting(), np.arange(60)
    simulator = Simulator(shared.catalog, wrong=0.1)
    users = targets % 7
    results = [play(rule("max-entropy"), shared, simulator, users, targets, wave=w) for w in (1, 7, 64)]
    assert all(np.array_equal(r.found, results[0].found) for r in results)
    other = play(rule("max-entropy"), shared, simulator, users, targets, epoch=1)
    assert not np.array_equal(other.found, results[0].found)


def test_what_cannot_be_talked_about_is_said() -> None:
    with pytest.raises(DataError, match="nothing to ask"):
        Catalog(np.empty((2, 0), int), 3, ["a"])
    shelf = Catalog(np.array([[0], [0]]), 2, ["a"])
    with pytest.raises(DataError, match="item 1 has no attribute"):
        Simulator(shelf).talks(np.array([1]), 15)
    with pytest.raises(ConfigError, match="dataset has none"):
        Setting(shelf, vectors(shelf), ConversationConfig(questions="enumerated"))
    with pytest.raises(DataError, match="train the scorer"):
        Setting(shelf, vectors(catalog()))
    with pytest.raises(ConfigError, match="at most 1"):
        Simulator(shelf, wrong=0.7, unsure=0.4)


# -- rates ---------------------------------------------------------------------------------------------------


def test_the_first_place_in_the_first_turn_is_worth_one() -> None:
    outcomes = Outcomes(np.array([1, 0, 14, 3]), np.array([1, 0, 10, 2]), 15)
    gains = outcomes.gain()
    assert gains[0] == 1
    assert gains[1] == 0
    assert gains[3] == pytest.approx(1 / np.log2(5) + (1 / np.log2(4) - 1 / np.log2(5)) / np.log2(3))
    assert outcomes.gain(opening=True)[0] == pytest.approx(1 / np.log2(3))
    assert outcomes.used().tolist() == [1, 15, 14, 3]


@given(found=st.lists(st.integers(0, 14), min_size=1, max_size=50))
def test_counting_the_opening_adds_the_success_rate_to_the_average_turn(found) -> None:
    values = np.array(found)
    mean = Outcomes(values, np.minimum(values, 1), 15).mean()
    assert mean["at/opening"] - mean["at"] == pytest.approx(mean["sr@15"])
    assert mean["sr@15/opening"] == mean["sr@15"]
    assert mean["sr@5/opening"] == np.mean([0 < f <= 4 for f in found])


def test_rules_by_name() -> None:
    assert rule("ask-then-recommend:3") == AskThenRecommend(3)
    assert rule("abs-greedy") == AbsGreedy()
    assert all(isinstance(rule(name), Rule) for name in RULES)
    with pytest.raises(ConfigError, match="Did you mean 'max-entropy'"):
        rule("max-entrpy")
    for wrong in ("abs-greedy:3", "ask-then-recommend:x"):
        with pytest.raises(ConfigError, match="expected a name"):
            rule(wrong)


def test_rules_with_a_number_recommend_from_there_on() -> None:
    def seen(name: str) -> list[tuple[int, int, bool]]:
        policy, looked = rule(name), []
        dialogue = conversation(target=7, k=1)
        dialogue.person.place = lambda slate: 0
        for _ in range(14):
            action = policy.act([dialogue], np.array([0.5]))[0]
            if dialogue.knows.question is not None:
                looked.append((dialogue.turn, dialogue.knows.n, action is RECOMMEND))
            dialogue.step(action)
        return looked

    assert all(r == (t > 3) for t, _, r in seen("ask-then-recommend:3"))
    border = seen("ask-then-recommend:14")[4][1]  # at exactly so many candidates it recommends, too
    few = seen(f"recommend-when-few:{border}")
    assert all(r == (n <= border) for _, n, r in few)
    assert {r for _, _, r in few} == {True, False}
    dialogue = conversation()
    for n, luck, recommends in ((100, 0.09, True), (100, 0.11, False), (9, 0.99, True)):
        dialogue.knows.n = n
        assert (rule("max-entropy").act([dialogue], np.array([luck]))[0] is RECOMMEND) == recommends
    late = seen("recommend-when-few-or-late:1")
    assert all(r == (t > 9 or n <= 1) for t, n, r in late)
    assert {r for _, _, r in late} == {True, False}


def test_recommending_first_or_asking_first_is_what_it_says() -> None:
    shared = setting(catalog(900, 12, 0.2))
    users, targets = np.zeros(900, int), np.arange(900)
    simulator = Simulator(shared.catalog)
    greedy = play(AbsGreedy(), shared, simulator, users, targets)
    assert (greedy.found == 1).any()
    asks = play(AskThenRecommend(4), shared, simulator, users, targets)
    assert asks.found[asks.found > 0].min() == 5
    assert asks.mean()["sr@15"] > greedy.mean()["sr@15"]


def test_validation_takes_as_many_pairs_as_asked_for() -> None:
    shared = setting()
    split = Interactions(np.arange(7).repeat(5), np.arange(35), n_users=7, n_items=60)
    task = DialogueTask(shared, split, Simulator(shared.catalog), n=20)
    assert len(task.outcomes(AbsGreedy())) == 20
    found = task(AbsGreedy())
    assert found["at/saved"] == pytest.approx(15 - found["at"])
    assert found == task(AbsGreedy())
