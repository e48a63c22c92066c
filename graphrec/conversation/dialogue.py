"""One conversation between an agent and a user: turns, rewards, and what a policy may know of it.

The turn counter starts at 1, as the opening is turn 0's; the call made at turn ``turns`` only ends the
conversation, so that an agent has ``turns - 1`` actions. Rewards are those of the authors' code.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np

from graphrec.conversation.belief import Answer, Belief, Setting
from graphrec.conversation.candidates import Candidates
from graphrec.conversation.posterior import Posterior

REWARDS = {
    "accepted": 0.01,
    "rejected": -0.1,
    "found": 1.0,
    "refused": -0.1,
    "quit": -0.3,
    "no question": -0.1,
}
CODES = {"accepted": 1, "rejected": -1, "found": 2, "refused": -2}


class Person(Protocol):
    """Whom an agent talks to, as far as a conversation needs it; see :class:`simulator.Talk`."""

    @property
    def opening(self) -> int:
        """The question it opens the conversation with an answer to."""
        ...

    def truth(self, question: int) -> np.ndarray:
        """The attributes that an honest answer affirms."""
        ...

    def answer(self, question: int, turn: int) -> Answer:
        """What it says to a question."""
        ...

    def place(self, slate: np.ndarray) -> int:
        """Where what it looks for stands among recommendations, from 1; 0 if it does not."""
        ...


class Action(NamedTuple):
    """What an agent does: recommend, or ask ``question`` (None: the one worth most)."""

    kind: Literal["ask", "recommend"]
    question: int | None = None


ASK, RECOMMEND = Action("ask"), Action("recommend")


class Dialogue:
    """A conversation that is going on.

    Args:
        setting: catalog, vectors and rules.
        user: index of the user, or None for somebody unknown.
        person: who opens it and answers in :meth:`step`; None where answers come in from elsewhere.
        opening: what it is opened with where there is no ``person``: a question and the answer to it.

    Attributes:
        knows: what the agent knows.
        turn: the next action's number, from 1.
        history: what came of each turn: 1 accepted, -1 rejected, 2 found, -2 refused, 0 not there yet
            ``(turns,) int8``; the opening stands at 0.
        done: whether it is over.
        found: the action that found the target, from 1; 0 if none did.
        place: where it then stood in the slate, from 1.
    """

    def __init__(
        self,
        setting: Setting,
        user: int | None,
        person: Person | None = None,
        opening: tuple[int, Answer] | None = None,
    ) -> None:
        self.setting, self.user, self.person = setting, user, person
        if person is not None:
            # A user says of its own accord what is true; only questions are answered wrongly.
            opening = person.opening, Answer(person.truth(person.opening))
        kind = Posterior if setting.config.belief == "posterior" else Candidates
        self.knows: Belief = kind(setting, user, *(opening or ()))
        self.turn, self.done, self.found, self.place = 1, False, 0, 0
        self.history = np.zeros(setting.config.turns, dtype=np.int8)
        self.history[0] = CODES["accepted"]

    @property
    def actions_left(self) -> int:
        """How many actions the agent has, this one included."""
        return max(self.setting.config.turns - self.turn, 0)

    def step(self, action: Action) -> float:
        """Does an action, lets the person react, and returns the reward."""
        assert self.person is not None
        if self.turn >= self.setting.config.turns:
            self.done = True
            return REWARDS["quit"]
        if action.kind == "recommend":
            return self.recommended(self.person.place(self.knows.slate))
        question = self.knows.question if action.question is None else action.question
        if question is None:
            self.done = True
            return REWARDS["no question"]
        return self.asked(question, self.person.answer(question, self.turn))

    def asked(self, question: int, answer: Answer) -> float:
        """A question was asked and answered; the reward for it."""
        self.knows.answered(question, answer)
        return self._happened("accepted" if len(answer.accepted) else "rejected")

    def recommended(self, place: int) -> float:
        """The slate was recommended; the reward for it.

        Args:
            place: of what was looked for in the slate, from 1; 0 if it was not there.
        """
        if place:
            self.done, self.found, self.place = True, self.turn, place
            return self._happened("found")
        self.knows.refused()
        return self._happened("refused")

    def _happened(self, event: str) -> float:
        if self.turn < len(self.history):
            self.history[self.turn] = CODES[event]
        self.turn += 1
        return REWARDS[event]
