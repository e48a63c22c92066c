"""A user with one item in mind, who says what is asked about it and nothing else.

The simulator knows the target and never the agent's state; an agent sees answers only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphrec.conversation.belief import Answer
from graphrec.conversation.catalog import Catalog
from graphrec.core.errors import ConfigError, DataError
from graphrec.core.random import numpy_rng


@dataclass(frozen=True)
class Simulator:
    """Answers for users with a target item.

    Attributes:
        catalog: which item has which attribute.
        enumerated: questions are about groups; the answer is which of its attributes the target has.
        wrong: share of the questions that are answered wrongly: yes for no, no for yes; of a group, none.
        unsure: share of the questions that the user has no answer to.
        seed: of the openings and of the errors, which are functions of it, the conversation's number and the
            turn.
    """

    catalog: Catalog
    enumerated: bool = False
    wrong: float = 0.0
    unsure: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.wrong >= 0 and self.unsure >= 0 and self.wrong + self.unsure <= 1):
            raise ConfigError(
                f"wrong={self.wrong!r}, unsure={self.unsure!r}; expected shares of at least 0 that sum to at "
                "most 1"
            )

    def talks(self, targets: np.ndarray, turns: int, epoch: int = 0) -> list[Talk]:
        """One simulated user per target.

        Args:
            targets: item indices ``(n,)``.
            turns: turns of a conversation, for which chance is drawn ahead.
            epoch: another one draws anew.

        Raises:
            DataError: a target has no attribute to open with.
        """
        opening = numpy_rng(self.seed, "conversation/opening", epoch).random(len(targets))
        luck = numpy_rng(self.seed, "conversation/answers", epoch).random((len(targets), turns + 1))
        return [Talk(self, int(t), opening[i], luck[i]) for i, t in enumerate(targets)]


class Talk:
    """One simulated user in one conversation."""

    def __init__(self, simulator: Simulator, target: int, opening: float, luck: np.ndarray) -> None:
        self.simulator, self.target, self._luck = simulator, target, luck
        self.attributes = simulator.catalog.attributes_of(target)  # ascending
        about = self._about()
        if not len(about):
            raise DataError(
                f"item {target} has no attribute to ask about, so no conversation can begin with it; "
                "leave it out of the targets"
            )
        self.opening = int(about[int(opening * len(about))])

    def _about(self) -> np.ndarray:
        """Questions that the target is an answer to."""
        if not self.simulator.enumerated:
            return self.attributes
        groups = self.simulator.catalog.groups[self.attributes]
        return np.unique(groups[groups >= 0])

    def truth(self, question: int) -> np.ndarray:
        """The attributes of the target that a question is about ``(n,) int64``."""
        groups = self.simulator.catalog.groups
        about = groups[self.attributes] if self.simulator.enumerated else self.attributes
        found: np.ndarray = self.attributes[about == question]
        return found

    def answer(self, question: int, turn: int) -> Answer:
        """What the user says; wrong or unsure as often as the simulator has it."""
        truth, luck = self.truth(question), self._luck[turn]
        if luck < self.simulator.unsure:
            return Answer(truth[:0], known=False)
        if luck < self.simulator.unsure + self.simulator.wrong:
            lies = not len(truth) and not self.simulator.enumerated
            return Answer(np.array([question]) if lies else truth[:0])
        return Answer(truth)

    def place(self, slate: np.ndarray) -> int:
        """Where the target stands among recommendations, from 1; 0 if it does not."""
        found = np.flatnonzero(slate == self.target)
        return int(found[0]) + 1 if len(found) else 0
