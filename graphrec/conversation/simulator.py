"""Simulated users, each with one target item, who answer questions about it.

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
    """Creates simulated users.

    Attributes:
        catalog: which item has which attribute.
        enumerated: questions are about groups; the answer is which of its attributes the target has.
        error_rate: share of wrong answers: yes for no, no for yes; of a group, none.
        unknown_rate: share of answers "I do not know".
        seed: of openings and errors, which depend on it, the number of the conversation and the turn.
    """

    catalog: Catalog
    enumerated: bool = False
    error_rate: float = 0.0
    unknown_rate: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        shares = (self.error_rate, self.unknown_rate)
        if not (min(shares) >= 0 and sum(shares) <= 1):
            raise ConfigError(
                f"error_rate={self.error_rate!r}, unknown_rate={self.unknown_rate!r}; expected shares of at "
                "least 0 that sum to at most 1"
            )

    def users(self, targets: np.ndarray, turns: int, epoch: int = 0) -> list[SimulatedUser]:
        """One simulated user per target.

        Args:
            targets: item indices ``(n,)``.
            turns: turns of a conversation, for which random numbers are drawn in advance.
            epoch: another epoch draws other numbers.

        Raises:
            DataError: a target has no attribute to open with.
        """
        opening = numpy_rng(self.seed, "conversation/opening", epoch).random(len(targets))
        uniform = numpy_rng(self.seed, "conversation/answers", epoch).random((len(targets), turns + 1))
        return [SimulatedUser(self, int(t), opening[i], uniform[i]) for i, t in enumerate(targets)]


class SimulatedUser:
    """One simulated user in one conversation.

    Args:
        simulator: catalog and error rates.
        target: the item in mind.
        opening: uniform random number that chooses the opening.
        uniform: a uniform random number for each turn ``(turns + 1,)``.
    """

    def __init__(self, simulator: Simulator, target: int, opening: float, uniform: np.ndarray) -> None:
        self.simulator = simulator
        self.target = target
        self._uniform = uniform
        self.attributes = simulator.catalog.attributes_of(target)  # ascending
        questions = self._answerable_questions()
        if not len(questions):
            raise DataError(
                f"item {target} has no attribute to ask about, so no conversation can begin with it; "
                "leave it out of the targets"
            )
        self.opening = int(questions[int(opening * len(questions))])

    def _answerable_questions(self) -> np.ndarray:
        """Questions to which an honest answer accepts an attribute."""
        if not self.simulator.enumerated:
            return self.attributes
        groups = self.simulator.catalog.groups[self.attributes]
        return np.unique(groups[groups >= 0])

    def true_attributes(self, question: int) -> np.ndarray:
        """The attributes of the target that a question is about ``(n,) int64``."""
        groups = self.simulator.catalog.groups
        questions = groups[self.attributes] if self.simulator.enumerated else self.attributes
        accepted: np.ndarray = self.attributes[questions == question]
        return accepted

    def answer(self, question: int, turn: int) -> Answer:
        """The answer to a question, with the simulator's rates of errors."""
        accepted = self.true_attributes(question)
        uniform = self._uniform[turn]
        if uniform < self.simulator.unknown_rate:
            return Answer(accepted[:0], known=False)
        if uniform < self.simulator.unknown_rate + self.simulator.error_rate:
            false_yes = not len(accepted) and not self.simulator.enumerated
            return Answer(np.array([question]) if false_yes else accepted[:0])
        return Answer(accepted)

    def rank(self, slate: np.ndarray) -> int:
        """Rank of the target among recommended items, from 1; 0 if it is not one of them."""
        position = np.flatnonzero(slate == self.target)
        return int(position[0]) + 1 if len(position) else 0
