"""A conversation with a person: questions, recommendations, answers, and undo.

A session is the list of its events. Everything else follows from them, so that a session can be written as
JSON, read back on another machine, replayed, and shortened by its last event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from graphrec.conversation.agent import ConversationalRecommender
from graphrec.conversation.belief import Answer
from graphrec.conversation.dialogue import RECOMMEND, Action, Dialogue
from graphrec.conversation.paths import ExplanationPath, path_to_item, path_to_question
from graphrec.core.bundle import FileFormat
from graphrec.core.errors import ConfigError, DataError, nearest
from graphrec.core.random import numpy_rng

YES = "yes"
NO = "no"
UNKNOWN = "unknown"
TRUTHS = ("yes", "no", "true", "false")
"""Values that say nothing without their group's name."""
FORMAT = FileFormat("session")
"""Format of a saved session."""


@dataclass(frozen=True)
class RecommendedItem:
    """One recommended item.

    Attributes:
        id: external id.
        title: title; the id where there is no title.
        image: path of its picture relative to the dataset's pictures, or None.
        path: names along the path that explains the item.
        why: the same explanation as a sentence.
    """

    id: str
    title: str
    image: str | None
    path: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Turn:
    """The agent's next action.

    Attributes:
        number: from 1.
        kind: ``"question"``, ``"recommendation"`` or ``"end"``, when nothing is left to recommend.
        remaining: number of candidate items.
        question: name of the attribute or group that is asked about.
        topic: what the question is about: the attribute's group; empty if the name says it.
        sentence: the question as a sentence.
        values: possible answers: the group's attributes among the candidates; empty for yes or no.
        path: names along the path that explains the question.
        why: the same explanation as a sentence. Of a recommendation: the reason that several items share.
        shared: the reason of those items, as each of them has it in ``why``; empty if no two share one.
        items: the recommended items.
        unmet: number of answers that the candidates contradict; above 0 where no item is consistent with all
            answers.
    """

    number: int
    kind: Literal["question", "recommendation", "end"]
    remaining: int
    question: str | None = None
    topic: str = ""
    sentence: str = ""
    values: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    why: str = ""
    shared: str = ""
    items: tuple[RecommendedItem, ...] = ()
    unmet: int = 0


class Session:
    """A conversation with one person; created by :meth:`start` or :meth:`resume`."""

    def __init__(
        self, agent: ConversationalRecommender, user: str | None = None, likes: Sequence[str] = ()
    ) -> None:
        self.agent = agent
        self.user = user
        self.likes = tuple(likes)
        self.events: list[dict[str, Any]] = []
        self._user_index = None if user is None else agent.users.index(user)
        self.history = np.empty(0, np.int64)
        if self._user_index is not None:
            self.history = agent.history.items_of(self._user_index)
        self._begin()

    @classmethod
    def start(
        cls, agent: ConversationalRecommender, user: str | None = None, likes: Sequence[str] = ()
    ) -> Self:
        """Starts a conversation.

        Args:
            agent: leads the conversation.
            user: external user id; None for an unknown user.
            likes: names of attributes that the person likes.

        Raises:
            UnknownIdError: there is no such user; pass None for an unknown user.
            ConfigError: there is no such attribute; the error names the nearest one.
        """
        return cls(agent, user, likes)

    @classmethod
    def resume(cls, agent: ConversationalRecommender, state: Mapping[str, Any]) -> Self:
        """Restores a conversation from the return value of :meth:`state`.

        Raises:
            DataError: ``state`` is not such a value, belongs to another agent, or does not match what this
                agent asks and recommends.
        """
        try:
            state = FORMAT.read(state, "session", "start a new session", DataError)
            fingerprint = state["agent"]
            events = list(state["events"])
            session = cls(agent, state["user"], state["likes"])
        except (KeyError, TypeError) as cause:
            raise DataError(
                f"not the state of a session ({type(cause).__name__}: {cause}); expected what "
                "Session.state() returned"
            ) from cause
        if fingerprint != agent.fingerprint:
            raise DataError(
                f"the session was led by agent {str(fingerprint)[:12]}, this one is "
                f"{agent.fingerprint[:12]}; load the agent that led it, or start a new session"
            )
        for number, event in enumerate(events, 1):
            try:
                session._replay(event)
            except (KeyError, TypeError, ConfigError) as cause:
                raise DataError(
                    f"event {number} of the session, {event!r}, is not one of this agent's: {cause}"
                ) from cause
        return session

    def _replay(self, event: Mapping[str, Any]) -> None:
        turn = self.next()
        expected: str | list[str] | None
        if turn.kind == "question":
            expected = turn.question
            actual = event["asked"]
            value = event["answer"]
        else:
            expected = [item.id for item in turn.items]
            actual = event["shown"]
            value = event["chosen"]
        if actual != expected:
            raise ConfigError(f"expected {expected!r}")
        self.answer(value)

    def _begin(self) -> None:
        self._dialogue = Dialogue(self.agent.setting, self._user_index)
        self._turn: Turn | None = None
        groups = self.agent.setting.catalog.groups
        for name in self.likes:
            attribute = self.agent.attribute_index(name)
            question = int(groups[attribute]) if self.agent.setting.enumerated else attribute
            self._dialogue.belief.update(question, Answer(np.array([attribute])))

    @property
    def chosen_item(self) -> str | None:
        """Id of the item that was chosen, if one was."""
        return next((e["chosen"] for e in self.events if e.get("chosen") is not None), None)

    @property
    def done(self) -> bool:
        """Whether an item was chosen, or nothing is left to recommend."""
        return self.chosen_item is not None or self.next().kind == "end"

    def next(self) -> Turn:
        """The current question or recommendation; the same until it is answered."""
        if self._turn is None:
            self._turn = self._decide()
        return self._turn

    def answer(self, value: str | Sequence[str] | None) -> None:
        """Answers the current question or recommendation.

        Args:
            value: for a question ``"yes"``, ``"no"`` or ``"unknown"``; for one with ``values``, those that
                fit (none of them: an empty list) or ``"unknown"``. For a recommendation the id of the item
                chosen, or None for none of them.

        Raises:
            ConfigError: an answer that the question does not have.
            DataError: the conversation is over.
        """
        turn = self.next()
        if self.chosen_item is not None or turn.kind == "end":
            raise DataError("the conversation is over; undo() the last answer, or start a new session")
        if turn.kind == "question":
            event = {"asked": turn.question, "answer": self._checked_answer(turn, value)}
        else:
            event = {"shown": [item.id for item in turn.items], "chosen": self._checked_choice(turn, value)}
        self._apply(event)
        self.events.append(event)

    def undo(self) -> bool:
        """Removes the last answer; returns False if there is none."""
        if not self.events:
            return False
        self.events.pop()
        self._begin()
        for event in self.events:
            self._apply(event)
        return True

    def state(self) -> dict[str, Any]:
        """The session as JSON-able values; :meth:`resume` restores it."""
        return {
            **FORMAT.header,
            "agent": self.agent.fingerprint,
            "user": self.user,
            "likes": list(self.likes),
            "events": [dict(event) for event in self.events],
        }

    # -- the agent's side ------------------------------------------------------------------------------------

    def _decide(self) -> Turn:
        belief = self._dialogue.belief
        number = len(self.events) + 1
        action = self._action(number)
        if action.kind == "ask":
            question = belief.best_question if action.question is None else action.question
            assert question is not None
            return self._question_turn(number, question)
        slate = belief.slate.tolist() if belief.n_candidates else []
        paths = [path_to_item(self.agent.setting.catalog, belief, self.history, item) for item in slate]
        items = tuple(self._recommended_item(i, path) for i, path in zip(slate, paths, strict=True))
        kind: Literal["recommendation", "end"] = "recommendation" if items else "end"
        why, shared = self._shared_reason(items, paths)
        return Turn(
            number, kind, belief.n_candidates, why=why, shared=shared, items=items, unmet=belief.unmet
        )

    def _action(self, number: int) -> Action:
        """The policy's action; to recommend when no turn or no question is left."""
        if not self._dialogue.actions_left or self._dialogue.belief.best_question is None:
            return RECOMMEND
        uniform = numpy_rng(0, "session/turn", number).random(1)
        return self.agent.policy.act([self._dialogue], uniform)[0]

    def _apply(self, event: dict[str, Any]) -> None:
        if "asked" in event:
            value = event["answer"]
            question = self.agent.question_index(event["asked"])
            if value in (UNKNOWN, NO) or not value:
                answer = Answer(np.empty(0, np.int64), known=value != UNKNOWN)
            else:
                names = [event["asked"]] if value == YES else value
                answer = Answer(np.array(sorted(self.agent.attribute_index(name) for name in names)))
            self._dialogue.record_answer(question, answer)
        else:
            self._dialogue.belief.slate  # noqa: B018, computes the slate that was shown
            shown = event["shown"]
            rank = 0 if event["chosen"] is None else shown.index(event["chosen"]) + 1
            self._dialogue.record_recommendation(rank)
        self._turn = None

    # -- texts -----------------------------------------------------------------------------------------------

    def _question_turn(self, number: int, question: int) -> Turn:
        setting = self.agent.setting
        catalog = setting.catalog
        belief = self._dialogue.belief
        values = np.empty(0, np.int64)
        attribute = question
        name = catalog.names[question] if not setting.enumerated else catalog.group_names[question]
        if setting.enumerated:
            totals = catalog.attribute_totals(belief.items, (belief.weights > 0).astype(float))
            members = np.flatnonzero((catalog.groups == question) & (totals > 0))
            values = members[np.argsort(-totals[members], kind="stable")]
            attribute = int(values[0])
        path = path_to_question(catalog, belief, self.history, attribute)
        topic, sentence = self._sentence(question)
        return Turn(
            number,
            "question",
            belief.n_candidates,
            question=name,
            topic=topic,
            sentence=sentence,
            values=tuple(catalog.names[int(v)] for v in values),
            path=self._path_names(path),
            why=self._explain(path, belief.n_candidates),
            unmet=belief.unmet,
        )

    def _sentence(self, question: int) -> tuple[str, str]:
        """Topic and sentence of a question.

        Names are quoted, as no article or number suits all of them.
        """
        catalog = self.agent.setting.catalog
        if self.agent.setting.enumerated:
            return catalog.group_names[question], "Which of these are you looking for?"
        name = catalog.names[question]
        group = int(catalog.groups[question])
        topic = catalog.group_names[group] if group >= 0 else ""
        value = name.removeprefix(f"{topic}: ")
        if value.casefold() in TRUTHS:
            topic, value = "", name
        return topic, f"Are you looking for “{value}”?"

    def _shared_reason(
        self, items: Sequence[RecommendedItem], paths: Sequence[ExplanationPath]
    ) -> tuple[str, str]:
        """The reason that most of the items share, said of all of them, and as each of them has it."""
        reasons = Counter(item.why for item in items).most_common(1)
        if not reasons or reasons[0][1] == 1:
            return "", ""
        shared, n = reasons[0]
        path = next(path for item, path in zip(items, paths, strict=True) if item.why == shared)
        return self._explain(path, 0, "all of these" if n == len(items) else f"{n} of these"), shared

    def _recommended_item(self, item: int, path: ExplanationPath) -> RecommendedItem:
        id_ = self.agent.items[item]
        return RecommendedItem(
            id_,
            self.agent.title(item),
            self.agent.images.get(id_),
            self._path_names(path),
            self._explain(path, 0),
        )

    def _path_names(self, path: ExplanationPath) -> tuple[str, ...]:
        names = []
        for kind, index in path.nodes:
            if kind == "you":
                names.append("you")
            elif kind == "item":
                names.append(self.agent.title(index))
            else:
                names.append(self.agent.setting.catalog.names[index])
        return tuple(names)

    def _explain(self, path: ExplanationPath, remaining: int, several: str = "") -> str:
        """A path in words; ``several`` is the subject where it explains more than one item."""
        names = self._path_names(path)
        kinds = [kind for kind, _ in path.nodes]
        if path.reason == "splits":
            left = f"{several} are what is left" if several else "it is what is left"
            return f"it tells the {remaining:,} items apart best" if remaining else left
        if kinds[-1] == "item":
            shared = ", ".join(n for n, k in zip(names, kinds, strict=True) if k == "attribute")
            if path.reason == "accepted":
                return f"{f'{several} have' if several else 'it has'} what you asked for: {shared}"
            if several:
                return f"you liked {names[1]}, which has {shared}, as {several} have"
            return f"you liked {names[1]}, and both have {shared}"
        if path.reason == "liked":
            return f"you liked {names[1]}, which has it"
        if kinds[2] != "item":
            return f"you asked for {names[1]}"
        return f"you asked for {names[1]}; {names[2]} has that, and this as well"

    # -- checks ----------------------------------------------------------------------------------------------

    def _checked_answer(self, turn: Turn, value: str | Sequence[str] | None) -> str | list[str]:
        """The answer to a question; raises a ConfigError for one that the question does not have."""
        if value == UNKNOWN:
            return UNKNOWN
        if not turn.values:
            if value in (YES, NO):
                return str(value)
            raise ConfigError(f"answer {value!r} to {turn.question!r}; expected yes, no or unknown")
        if value is None or isinstance(value, str):
            raise ConfigError(f"answer {value!r} to {turn.question!r}; expected a list of values, or unknown")
        for name in value:
            if name not in turn.values:
                raise ConfigError(
                    f"{name!r} is not one of the {len(turn.values)} values of {turn.question!r}."
                    f"{nearest(name, turn.values)}"
                )
        return sorted(set(value))

    def _checked_choice(self, turn: Turn, value: str | Sequence[str] | None) -> str | None:
        """The chosen item; raises a ConfigError for one that was not recommended."""
        ids = [item.id for item in turn.items]
        if value is not None and value not in ids:
            raise ConfigError(f"{value!r} was not recommended; expected one of {ids}, or None")
        return None if value is None else str(value)
