"""Conversations with people: what is asked, why, taken back, written down, replayed; agents on disk."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from conversations import catalog, setting, table_of, vectors

from graphrec.conversation.agent import ConversationalRecommender
from graphrec.conversation.belief import Setting
from graphrec.conversation.catalog import Catalog
from graphrec.conversation.config import ConversationConfig
from graphrec.conversation.rules import parse_rule
from graphrec.conversation.session import Session
from graphrec.conversation.states import TrainedPolicy, state_width
from graphrec.core.errors import CheckpointError, ConfigError, DataError, UnknownIdError
from graphrec.core.random import numpy_rng
from graphrec.data import Interactions, Vocabulary

USERS = Vocabulary([f"u{i}" for i in range(7)], "user")
ITEMS = Vocabulary([f"i{i:03d}" for i in range(300)])


def network(shared) -> TrainedPolicy:
    rng, s = numpy_rng(0, "tests/network"), state_width(shared, ("history", "length"))
    shapes = {"first": (8, s), "first_bias": (8,), "second": (2, 8), "second_bias": (2,)}
    return TrainedPolicy(
        ("history", "length"), {k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()}
    )


def agent(policy: str | None = "ask-then-recommend:5", **rules) -> ConversationalRecommender:
    shared = setting(catalog(300, 12, 0.25), **rules)
    history = Interactions(np.array([0, 0, 1]), np.array([3, 8, 5]), 7, 300)
    titles = {"i003": "The Third", "i008": "The Eighth"}
    decides = network(shared) if policy is None else None
    if decides is None:
        decides = parse_rule(policy)
    return ConversationalRecommender(
        shared, decides, USERS, ITEMS, history, titles, {"i003": "pictures/3.jpg"}, policy
    )


KINDS = {
    "rule": {},
    "network": {"policy": None},
    "posterior": {"policy": "recommend-when-sure:60", "belief": "posterior", "error": 0.05},
    "enumerated": {"questions": "enumerated"},
}


@pytest.fixture(params=KINDS)
def anybody(request) -> ConversationalRecommender:
    return agent(**KINDS[request.param])


def play(session: Session, target: int, turns: int = 60) -> None:
    """Answers honestly until the target is found."""
    table, shelf = table_of(session.agent.setting.catalog), session.agent.setting.catalog
    for _ in range(turns):
        turn = session.next()
        if turn.kind == "recommendation":
            ids = [item.id for item in turn.items]
            session.answer(ITEMS[target] if ITEMS[target] in ids else None)
        elif turn.values:
            has = [shelf.names[a] for a in np.flatnonzero(table[target])]
            session.answer([v for v in turn.values if v in has])
        else:
            session.answer("yes" if table[target, shelf.names.index(turn.question)] else "no")
        if session.chosen_item is not None:
            return


def test_an_honest_person_finds_what_it_looks_for(anybody) -> None:
    for target in (3, 77, 250):
        session = Session.start(anybody)
        play(session, target)
        assert session.chosen_item == ITEMS[target]
        assert session.done
        with pytest.raises(DataError, match="over"):
            session.answer("yes")


def test_the_next_turn_stays_until_it_is_answered(anybody) -> None:
    session = Session.start(anybody, "u0")
    assert session.next() is session.next()
    assert session.next().number == 1
    assert session.next().remaining == 300


def test_taking_back_leads_to_where_one_was(anybody) -> None:
    session, turns = Session.start(anybody, "u0"), []
    assert not session.undo()
    for _ in range(4):
        turns.append(session.next())
        empty = [] if turns[-1].values else "no"
        session.answer(None if turns[-1].kind == "recommendation" else empty)
    for turn in reversed(turns):
        assert session.undo()
        assert session.next() == turn
    assert not session.events
    play(session, 77)
    assert session.chosen_item == "i077"
    session.undo()
    assert session.chosen_item is None


def test_a_session_is_json_and_goes_on_elsewhere(anybody, tmp_path) -> None:
    session = Session.start(anybody, "u1", likes=[anybody.setting.catalog.names[2]])
    for _ in range(3):
        turn = session.next()
        empty = [] if turn.values else "unknown"
        session.answer(None if turn.kind == "recommendation" else empty)
    anybody.save(tmp_path / "agent")
    loaded = ConversationalRecommender.load(tmp_path / "agent")
    assert loaded.fingerprint == anybody.fingerprint
    other = Session.resume(loaded, json.loads(json.dumps(session.state())))
    assert other.next() == session.next()
    assert other.state() == session.state()
    gone = {id_ for event in session.events for id_ in event.get("shown", ())}
    target = next(int(i) for i in anybody.setting.catalog.items_with(2) if ITEMS[i] not in gone)
    for one in (session, other):
        play(one, target)
    assert other.state() == session.state()


def test_every_turn_has_a_path_that_the_graph_has() -> None:
    made = agent()
    shelf, table = made.setting.catalog, table_of(made.setting.catalog)
    titles = [made.title(i) for i in range(300)]
    session = Session.start(made, "u0")
    first = session.next()
    assert first.path[:2] in {("you", "The Third"), ("you", "The Eighth")} or first.why.startswith("it tells")
    assert "which has it" in first.why or first.why.startswith("it tells")
    for _ in range(12):
        turn = session.next()
        if turn.kind == "end" or session.chosen_item:
            break
        walks = [turn.path] if turn.kind == "question" else [item.path for item in turn.items]
        for walk in walks:
            ends = [w for w in walk if w != "you"]
            for one, two in pairwise(ends):
                pair = [(one, two), (two, one)]
                joined = [table[titles.index(i), shelf.names.index(a)] for i, a in pair
                          if i in titles and a in shelf.names]  # fmt: skip
                assert all(joined)
            assert walk[-1] in (turn.question, *(item.title for item in turn.items))
        session.answer("yes" if turn.kind == "question" and turn.number % 2 else None if turn.items else "no")


def test_somebody_unknown_begins_without_a_history_and_is_told_why() -> None:
    session = Session.start(agent())
    assert session.next().why == "it tells the 300 items apart best"
    assert session.history.tolist() == []
    liked = Session.start(agent(), likes=["group 2: 5"])
    assert liked.next().remaining == len(liked.agent.setting.catalog.items_with(5))
    assert liked.next().why.startswith("you asked for group 2: 5")


@pytest.mark.parametrize("error", [None, 0.0, 0.05])
def test_it_is_said_when_no_item_meets_all_that_was_said(error) -> None:
    rules = {} if error is None else {"belief": "posterior", "error": error}
    made = agent(**rules)
    table, names = table_of(made.setting.catalog), made.setting.catalog.names
    three = next(list(np.flatnonzero(row)[:3]) for row in table if row.sum() >= 3)
    assert Session.start(made, likes=[names[a] for a in three]).next().unmet == 0
    misses = (~table).sum(1)
    assert misses.min() > 0
    turn = Session.start(made, likes=list(names)).next()
    assert turn.unmet == misses.min() if error else turn.unmet > 0
    assert turn.remaining == (misses == misses.min()).sum() if error else turn.remaining > 0


def test_after_the_last_question_it_goes_on_recommending_until_nothing_is_left() -> None:
    session, shown, asked = Session.start(agent("ask-then-recommend:9", turns=4)), [], 0
    while not session.done:
        turn = session.next()
        shown += [item.id for item in turn.items]
        asked += turn.kind == "question"
        session.answer("unknown" if turn.kind == "question" else None)
    assert len(shown) == len(set(shown)) == 300
    assert asked == 3
    assert session.next().kind == "end"
    assert session.chosen_item is None


def test_not_knowing_rules_nothing_out() -> None:
    session = Session.start(agent(belief="posterior"))
    first = session.next()
    session.answer("unknown")
    assert session.next().remaining == first.remaining
    assert session.next().question != first.question
    session.undo()
    session.answer("no")
    assert session.next().remaining < first.remaining


def test_answers_that_a_question_does_not_have_are_refused() -> None:
    session = Session.start(agent())
    for wrong in ("maybe", None, ["yes"], 3):
        with pytest.raises(ConfigError, match="expected yes, no or unknown"):
            session.answer(wrong)
    several = Session.start(agent(questions="enumerated"))
    with pytest.raises(ConfigError, match="expected a list"):
        several.answer("yes")
    with pytest.raises(ConfigError, match="not one of the 4 values"):
        several.answer(["group 9: 1"])
    shown = Session.start(agent("abs-greedy"))
    with pytest.raises(ConfigError, match="was not recommended"):
        shown.answer("i999")
    assert not session.events + several.events + shown.events


def test_who_and_what_is_not_known_is_said() -> None:
    made = agent()
    with pytest.raises(UnknownIdError, match="u9"):
        Session.start(made, "u9")
    with pytest.raises(ConfigError, match="Did you mean 'group 2: 5'"):
        Session.start(made, likes=["grup 2: 5"])
    for broken in ({}, {"format": 9}, None, [], {**Session.start(made).state(), "agent": "x"}):
        with pytest.raises(DataError):
            Session.resume(made, broken)
    state = Session.start(made).state()
    for event in (
        {"asked": "nothing", "answer": "yes"},
        {"shown": []},
        3,
        {"asked": Session.start(made).next().question},
    ):
        with pytest.raises(DataError, match="event 1"):
            Session.resume(made, {**state, "events": [event]})


def test_sessions_in_many_threads_are_those_in_one(anybody) -> None:
    def talk(target: int) -> dict:
        session = Session.start(anybody, likes=())
        play(session, target)
        return session.state()

    alone = [talk(t) for t in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(talk, range(40))) == alone


def test_agents_that_would_lead_otherwise_have_another_fingerprint() -> None:
    made = agent(None)
    shared, policy = made.setting, made.policy

    def other(setting=shared, policy=policy) -> str:
        return ConversationalRecommender(setting, policy, USERS, ITEMS, made.history).fingerprint

    moved = {k: v + 1 for k, v in policy.weights.items()}
    prior = np.arange(300.0)
    found = [
        other(),
        other(policy=TrainedPolicy(("length", "history"), policy.weights)),
        other(policy=TrainedPolicy(policy.fields, moved)),
        other(Setting(shared.catalog, shared.vectors, shared.config, prior)),
        other(Setting(shared.catalog, shared.vectors, shared.config.replace(turns=9))),
    ]
    assert len(set(found)) == 5
    assert found[0] == made.fingerprint


def test_damaged_agents_are_refused(tmp_path) -> None:
    agent(None).save(tmp_path / "agent")
    for file in sorted((tmp_path / "agent").iterdir()):
        kept = file.read_bytes()
        for damage in (kept[:-3], kept[:50] + b"x" + kept[51:], b""):
            file.write_bytes(damage)
            with pytest.raises(CheckpointError):
                ConversationalRecommender.load(tmp_path / "agent")
        file.unlink()
        with pytest.raises(CheckpointError):
            ConversationalRecommender.load(tmp_path / "agent")
        file.write_bytes(kept)
    assert ConversationalRecommender.load(tmp_path / "agent").fingerprint == agent(None).fingerprint


def test_another_rule_can_be_given_and_odd_policies_are_not_saved(tmp_path) -> None:
    made = agent(None).replace("abs-greedy", "posterior", 0.1)
    assert Session.start(made).next().kind == "recommendation"
    assert made.setting.config.error == 0.1
    with pytest.raises(ConfigError, match="cannot be saved"):
        ConversationalRecommender(made.setting, object(), USERS, ITEMS, made.history).save(tmp_path / "odd")


def named_shop(names: list[str], groups: list[int], group_names: list[str], **rules) -> Session:
    """A session over 8 items, each with one of the named attributes; half of them have the first."""
    pairs = np.array([np.arange(8), [0, 0, 0, 0, 1, 2, 3, 3]])
    shelf = Catalog(pairs, 8, names, np.array(groups), group_names)
    shared = Setting(shelf, vectors(shelf), ConversationConfig(**rules))
    nobody = Interactions(np.array([0]), np.array([0]), 1, 8)
    users, items = Vocabulary(["u"], "user"), Vocabulary([f"i{n}" for n in range(8)])
    rule = parse_rule("ask-then-recommend:3")
    return Session.start(ConversationalRecommender(shared, rule, users, items, nobody, name="a rule"))


@pytest.mark.parametrize(
    ("name", "group", "topic", "sentence"),
    [
        ("Genre: Drama", "Genre", "Genre", "Are you looking for “Drama”?"),
        ("Genre: 1990s: neo-noir", "Genre", "Genre", "Are you looking for “1990s: neo-noir”?"),
        ("Made of: ash, and an oak", "Made of", "Made of", "Are you looking for “ash, and an oak”?"),
        ("Gluten free: yes", "Gluten free", "", "Are you looking for “Gluten free: yes”?"),
        ("indie rock", None, "", "Are you looking for “indie rock”?"),
        ("what? now", None, "", "Are you looking for “what? now”?"),
    ],
)
def test_a_question_is_a_sentence_whatever_the_attribute_is_called(name, group, topic, sentence) -> None:
    others = [f"{group}: x{n}" if group else f"x{n}" for n in range(3)]
    groups = [-1 if group is None else 0] * 4
    turn = named_shop([name, *others], groups, [] if group is None else [group]).next()
    assert turn.question == name
    assert (turn.topic, turn.sentence) == (topic, sentence)
    if group is not None:
        turn = named_shop([name, *others], groups, [group], questions="enumerated").next()
        assert (turn.topic, turn.sentence) == (group, "Which of these are you looking for?")


def test_a_reason_that_several_items_share_is_given_once() -> None:
    session = Session.start(agent(policy="abs-greedy"), likes=["group 2: 5"])
    turn = session.next()
    assert len(turn.items) == 10
    assert {item.why for item in turn.items} == {turn.shared} == {"it has what you asked for: group 2: 5"}
    assert turn.why == "all of these have what you asked for: group 2: 5"
    turn = Session.start(agent(policy="abs-greedy"), "u0").next()
    reasons = [item.why for item in turn.items]
    n = max(map(reasons.count, reasons))
    assert (turn.shared != "") == (n > 1)
    if turn.shared:
        assert reasons.count(turn.shared) == n
        assert turn.why.startswith("you liked ")
        assert turn.why.endswith("as all of these have" if n == 10 else f"as {n} of these have")
