"""A conversation with a person: what is asked or shown next, what was said to it, and how to take it back.

A session is its events. Everything else is worked out from them, so that a session can be written as JSON,
read back anywhere, replayed, and shortened by its last event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from graphrec.conversation.belief import Answer
from graphrec.conversation.dialogue import RECOMMEND, Action, Dialogue
from graphrec.conversation.paths import Path, to_item, to_question
from graphrec.core.bundle import FileFormat
from graphrec.core.errors import ConfigError, DataError, nearest
from graphrec.core.random import numpy_rng

if TYPE_CHECKING:
    from graphrec.conversation.agent import ConversationalRecommender

YES, NO, UNKNOWN = "yes", "no", "unknown"
FORMAT = FileFormat("session")


@dataclass(frozen=True)
class Recommended:
    """One recommended item.

    Attributes:
        id: external id.
        title: what it is called; the id where nothing else is known.
        image: its picture's path relative to the dataset's pictures, or None.
        path: names along the walk that led to it.
        why: the same in words.
    """

    id: str
    title: str
    image: str | None
    path: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Turn:
    """What the agent does next.

    Attributes:
        number: from 1.
        kind: ``"question"``, ``"recommendation"`` or ``"end"``, when nothing is left to recommend.
        remaining: how many items are still possible.
        unmet: how many of the answers these items do not meet; above 0 where no item meets all.
        question: name of the attribute or group that is asked about.
        values: what may be answered: the group's attributes that are still possible; empty for yes or no.
        path: names along the walk that led to the question.
        why: the same in words.
        items: what is recommended.
    """

    number: int
    kind: Literal["question", "recommendation", "end"]
    remaining: int
    question: str | None = None
    values: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    why: str = ""
    items: tuple[Recommended, ...] = field(default_factory=tuple)
    unmet: int = 0


class Session:
    """A conversation with one person; made by :meth:`ConversationalRecommender.start`.

    Args:
        agent: who leads it.
        user: external id of the user; None for somebody unknown.
        likes: names of attributes the person begins with.
    """

    def __init__(
        self, agent: ConversationalRecommender, user: str | None = None, likes: Sequence[str] = ()
    ) -> None:
        self.agent, self.user, self.likes = agent, user, tuple(likes)
        self.events: list[dict[str, Any]] = []
        self._index = None if user is None else agent.users.index(user)
        self.history = agent.history_of(self._index)
        for name in self.likes:
            agent.attribute(name)
        self._begin()

    def _begin(self) -> None:
        self._dialogue = Dialogue(self.agent.setting, self._index)
        self._turn: Turn | None = None
        self._asked: int | None = None
        groups = self.agent.setting.catalog.groups
        for name in self.likes:
            attribute = self.agent.attribute(name)
            question = int(groups[attribute]) if self.agent.setting.enumerated else attribute
            self._dialogue.knows.answered(question, Answer(np.array([attribute])))

    @property
    def found(self) -> str | None:
        """Id of the item that was chosen, if one was."""
        return next((e["chosen"] for e in self.events if e.get("chosen") is not None), None)

    @property
    def done(self) -> bool:
        """Whether an item was chosen, or nothing is left to recommend."""
        return self.found is not None or self.next().kind == "end"

    def next(self) -> Turn:
        """What the agent asks or shows now; the same until it is answered."""
        if self._turn is None:
            self._turn = self._decide()
        return self._turn

    def answer(self, value: str | Sequence[str] | None) -> None:
        """What the person says to it.

        Args:
            value: to a question ``"yes"``, ``"no"`` or ``"unknown"``; to one with ``values``, those that
                fit (none of them: an empty list) or ``"unknown"``. To a recommendation the id of the item
                chosen, or None for none of these.

        Raises:
            ConfigError: an answer that the question does not have.
            DataError: the conversation is over.
        """
        turn = self.next()
        if self.found is not None or turn.kind == "end":
            raise DataError("the conversation is over; take the last answer back with undo(), or start anew")
        if turn.kind == "question":
            event = {"asked": turn.question, "answer": self._spoken(turn, value)}
        else:
            event = {"shown": [item.id for item in turn.items], "chosen": self._chosen(turn, value)}
        self._take(event)
        self.events.append(event)

    def undo(self) -> bool:
        """Takes the last answer back; False if there is none."""
        if not self.events:
            return False
        events = self.events[:-1]
        self.events = []
        self._begin()
        for event in events:
            self._take(event)
            self.events.append(event)
        return True

    def state(self) -> dict[str, Any]:
        """The session, JSON-able; :meth:`ConversationalRecommender.resume` goes on from it."""
        return {
            **FORMAT.header,
            "agent": self.agent.fingerprint,
            "user": self.user,
            "likes": list(self.likes),
            "events": [dict(event) for event in self.events],
        }

    # -- what is done ----------------------------------------------------------------------------------------

    def _decide(self) -> Turn:
        knows, number = self._dialogue.knows, len(self.events) + 1
        action = self._action(number)
        if action.kind == "ask":
            question = knows.question if action.question is None else action.question
            assert question is not None
            self._asked = question
            return self._question(number, question)
        items = tuple(self._recommended(int(i)) for i in knows.slate) if knows.n else ()
        kind: Literal["recommendation", "end"] = "recommendation" if items else "end"
        return Turn(number, kind, knows.n, items=items, unmet=knows.unmet)

    def _action(self, number: int) -> Action:
        """The policy's; when its turns are used up or there is nothing to ask, to recommend."""
        if not self._dialogue.actions_left or self._dialogue.knows.question is None:
            return RECOMMEND
        chance = numpy_rng(0, "session/turn", number).random(1)
        return self.agent.policy.act([self._dialogue], chance)[0]

    def _take(self, event: dict[str, Any]) -> None:
        if "asked" in event:
            spoken, question = event["answer"], self.agent.question(event["asked"])
            if spoken in (UNKNOWN, NO) or not spoken:
                answer = Answer(np.empty(0, np.int64), known=spoken != UNKNOWN)
            else:
                names = [event["asked"]] if spoken == YES else spoken
                answer = Answer(np.array(sorted(self.agent.attribute(name) for name in names)))
            self._dialogue.asked(question, answer)
        else:
            self._dialogue.knows.slate  # noqa: B018, is what was shown
            shown = event["shown"]
            self._dialogue.recommended(0 if event["chosen"] is None else shown.index(event["chosen"]) + 1)
        self._turn = None

    # -- what is said ----------------------------------------------------------------------------------------

    def _question(self, number: int, question: int) -> Turn:
        setting, knows = self.agent.setting, self._dialogue.knows
        catalog, values = setting.catalog, np.empty(0, np.int64)
        attribute = question
        if setting.enumerated:
            totals = catalog.totals(knows.items, (knows.weights > 0).astype(float))
            members = np.flatnonzero((catalog.groups == question) & (totals > 0))
            values = members[np.argsort(-totals[members], kind="stable")]
            attribute = int(values[0])
        path = to_question(catalog, knows, self.history, attribute)
        name = catalog.group_names[question] if setting.enumerated else catalog.names[question]
        return Turn(
            number, "question", knows.n, name, tuple(catalog.names[int(v)] for v in values),
            self._names(path), self._why(path, knows.n), unmet=knows.unmet,
        )  # fmt: skip

    def _recommended(self, item: int) -> Recommended:
        path = to_item(self.agent.setting.catalog, self._dialogue.knows, self.history, item)
        id_ = self.agent.items[item]
        return Recommended(
            id_, self.agent.title(item), self.agent.images.get(id_), self._names(path), self._why(path, 0)
        )

    def _names(self, path: Path) -> tuple[str, ...]:
        named = {"you": lambda _: "you", "item": self.agent.title,
                 "attribute": self.agent.setting.catalog.names.__getitem__}  # fmt: skip
        return tuple(named[kind](index) for kind, index in path.nodes)

    def _why(self, path: Path, remaining: int) -> str:
        names, kinds = self._names(path), [kind for kind, _ in path.nodes]
        if path.reason == "splits":
            return f"it tells the {remaining:,} items apart best" if remaining else "it is what is left"
        if kinds[-1] == "item":
            has = ", ".join(n for n, k in zip(names, kinds, strict=True) if k == "attribute")
            if path.reason == "accepted":
                return f"it has what you asked for: {has}"
            return f"you liked {names[1]}, and both have {has}"
        if path.reason == "liked":
            return f"you liked {names[1]}, which has it"
        if kinds[2] != "item":
            return f"you asked for {names[1]}"
        return f"you asked for {names[1]}; {names[2]} has that, and this as well"

    def _spoken(self, turn: Turn, value: str | Sequence[str] | None) -> str | list[str]:
        """The answer to a question, checked."""
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

    def _chosen(self, turn: Turn, value: str | Sequence[str] | None) -> str | None:
        known = [item.id for item in turn.items]
        if value is not None and value not in known:
            raise ConfigError(f"{value!r} was not recommended; expected one of {known}, or None")
        return None if value is None else str(value)
