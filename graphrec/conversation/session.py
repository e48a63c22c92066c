"""A conversation with a person: questions, recommendations, answers, and undo.

A session is the list of its events. Everything else follows from them, so that a session can be written as
JSON, read back on another machine, replayed, and shortened by its last event.
"""

from __future__ import annotations

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
        values: possible answers: the group's attributes among the candidates; empty for yes or no.
        path: names along the path that explains the question.
        why: the same explanation as a sentence.
        items: the recommended items.
        unmet: number of answers that the candidates contradict; above 0 where no item is consistent with all
            answers.
    """

    number: int
    kind: Literal["question", "recommendation", "end"]
    remaining: int
    question: str | None = None
    values: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    why: str = ""
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
        items = tuple(self._recommended_item(int(i)) for i in belief.slate) if belief.n_candidates else ()
        kind: Literal["recommendation", "end"] = "recommendation" if items else "end"
        return Turn(number, kind, belief.n_candidates, items=items, unmet=belief.unmet)

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
        return Turn(
            number,
            "question",
            belief.n_candidates,
            question=name,
            values=tuple(catalog.names[int(v)] for v in values),
            path=self._path_names(path),
            why=self._explain(path, belief.n_candidates),
            unmet=belief.unmet,
        )

    def _recommended_item(self, item: int) -> RecommendedItem:
        path = path_to_item(self.agent.setting.catalog, self._dialogue.belief, self.history, item)
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

    def _explain(self, path: ExplanationPath, remaining: int) -> str:
        names = self._path_names(path)
        kinds = [kind for kind, _ in path.nodes]
        if path.reason == "splits":
            return f"it tells the {remaining:,} items apart best" if remaining else "it is what is left"
        if kinds[-1] == "item":
            shared = ", ".join(n for n, k in zip(names, kinds, strict=True) if k == "attribute")
            if path.reason == "accepted":
                return f"it has what you asked for: {shared}"
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
