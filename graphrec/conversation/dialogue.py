"""One conversation between an agent and a user: turns, rewards, and what a policy observes.

The turn counter starts at 1, as the opening is turn 0; the step at turn ``turns`` only ends the conversation,
so that an agent has ``turns - 1`` actions. Rewards are those of the authors' code.
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
HISTORY_CODES = {"accepted": 1, "rejected": -1, "found": 2, "refused": -2}


class User(Protocol):
    """What a conversation needs of a user; see :class:`graphrec.conversation.simulator.SimulatedUser`."""

    @property
    def opening(self) -> int:
        """The question that the user's opening answers."""
        ...

    def true_attributes(self, question: int) -> np.ndarray:
        """The attributes that an honest answer accepts."""
        ...

    def answer(self, question: int, turn: int) -> Answer:
        """The answer to a question."""
        ...

    def rank(self, slate: np.ndarray) -> int:
        """Rank of the target among recommended items, from 1; 0 if it is not one of them."""
        ...


class Action(NamedTuple):
    """An agent's action: recommend, or ask ``question`` (None: the question of highest value)."""

    kind: Literal["ask", "recommend"]
    question: int | None = None


ASK = Action("ask")
RECOMMEND = Action("recommend")


class Dialogue:
    """A conversation in progress.

    Args:
        setting: catalog, vectors and rules.
        user: index of the user, or None for an unknown user.
        respondent: opens the conversation and answers in :meth:`step`; None where answers are passed to
            :meth:`record_answer` and :meth:`record_recommendation`.
        opening: a question and the answer that opens the conversation, where there is no ``respondent``.

    Attributes:
        belief: the agent's belief.
        turn: number of the next action, from 1.
        history: result of each turn: 1 accepted, -1 rejected, 2 found, -2 refused, 0 not reached yet
            ``(turns,) int8``; the opening is at 0.
        done: whether the conversation is over.
        success_turn: the action that found the target, from 1; 0 if none did.
        rank: rank of the target in that slate, from 1.
    """

    def __init__(
        self,
        setting: Setting,
        user: int | None,
        respondent: User | None = None,
        opening: tuple[int, Answer] | None = None,
    ) -> None:
        self.setting = setting
        self.user = user
        self.respondent = respondent
        if respondent is not None:
            # The opening is always true; only answers to questions may be wrong.
            opening = respondent.opening, Answer(respondent.true_attributes(respondent.opening))
        kind = Posterior if setting.config.belief == "posterior" else Candidates
        self.belief: Belief = kind(setting, user, *(opening or ()))
        self.turn = 1
        self.done = False
        self.success_turn = 0
        self.rank = 0
        self.history = np.zeros(setting.config.turns, dtype=np.int8)
        self.history[0] = HISTORY_CODES["accepted"]

    @property
    def actions_left(self) -> int:
        """Number of actions left, including this one."""
        return max(self.setting.config.turns - self.turn, 0)

    def step(self, action: Action) -> float:
        """Takes an action, gets the user's response, and returns the reward."""
        assert self.respondent is not None
        if self.turn >= self.setting.config.turns:
            self.done = True
            return REWARDS["quit"]
        if action.kind == "recommend":
            return self.record_recommendation(self.respondent.rank(self.belief.slate))
        question = self.belief.best_question if action.question is None else action.question
        if question is None:
            self.done = True
            return REWARDS["no question"]
        return self.record_answer(question, self.respondent.answer(question, self.turn))

    def record_answer(self, question: int, answer: Answer) -> float:
        """Uses the answer to a question and returns the reward."""
        self.belief.update(question, answer)
        return self._record("accepted" if len(answer.accepted) else "rejected")

    def record_recommendation(self, rank: int) -> float:
        """Uses the response to the slate and returns the reward.

        Args:
            rank: rank of the target in the slate, from 1; 0 if it is not in it.
        """
        if rank:
            self.done = True
            self.success_turn = self.turn
            self.rank = rank
            return self._record("found")
        self.belief.reject_slate()
        return self._record("refused")

    def _record(self, event: str) -> float:
        if self.turn < len(self.history):
            self.history[self.turn] = HISTORY_CODES[event]
        self.turn += 1
        return REWARDS[event]
