"""Conversations of a policy with simulated users, and validation by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphrec.conversation.belief import Setting
from graphrec.conversation.dialogue import Dialogue
from graphrec.conversation.outcomes import Outcomes
from graphrec.conversation.rules import Policy
from graphrec.conversation.simulator import Simulator
from graphrec.data import Interactions
from graphrec.errors import DataError
from graphrec.seeds import stream

WAVE = 64
"""Conversations that go on at a time: a learned policy then decides for all of them at once."""


def play(
    policy: Policy,
    setting: Setting,
    simulator: Simulator,
    users: np.ndarray,
    targets: np.ndarray,
    *,
    epoch: int = 0,
    wave: int = WAVE,
) -> Outcomes:
    """Lets a policy talk to one simulated user per pair, to the end.

    What a conversation comes to depends on its number in the list and the simulator's seed, not on those
    beside it.

    Args:
        policy: decides.
        setting: catalogue, vectors, rules.
        simulator: answers.
        users: ``(n,) int``.
        targets: the item each has in mind ``(n,) int``.
        epoch: another one draws openings and errors anew.
        wave: conversations at a time.

    Raises:
        DataError: there are no pairs, or a target has no attribute.
    """
    if not len(targets):
        raise DataError("no held-out pair to talk about; choose a split that holds some out")
    turns = setting.config.turns
    talks = simulator.talks(targets, turns, epoch)
    chance = stream(simulator.seed, "conversation/policy", epoch).random((len(targets), turns))
    found, place = np.zeros(len(targets), dtype=np.int64), np.zeros(len(targets), dtype=np.int64)
    for start in range(0, len(targets), wave):
        numbers = range(start, min(start + wave, len(targets)))
        going = {n: Dialogue(setting, int(users[n]), talks[n]) for n in numbers}
        while going:
            luck = np.array([chance[n, d.turn] for n, d in going.items()])
            actions = policy.act(list(going.values()), luck)
            for (number, dialogue), action in zip(list(going.items()), actions, strict=True):
                dialogue.step(action)
                if dialogue.done or not dialogue.actions_left:
                    found[number], place[number] = dialogue.found, dialogue.place
                    del going[number]
    return Outcomes(found, np.where(found > 0, place, 0), turns)


@dataclass(frozen=True)
class DialogueTask:
    """Validates a policy by conversations about held-out pairs.

    Attributes:
        setting: catalogue, vectors, rules.
        split: the pairs.
        simulator: who answers.
        n: how many of the pairs, drawn without replacement by the simulator's seed; None takes all.
    """

    setting: Setting
    split: Interactions
    simulator: Simulator
    n: int | None = None

    def __call__(self, model: Any) -> dict[str, float]:
        """Success rates and the like, see :meth:`Outcomes.mean`; ``at/saved`` is the turns saved, so that
        higher is better.
        """
        outcomes = self.outcomes(model)
        mean = outcomes.mean()
        return {**mean, "at/saved": outcomes.turns - mean["at"]}

    def outcomes(self, policy: Policy) -> Outcomes:
        """The conversations one by one."""
        chosen = np.arange(len(self.split))
        if self.n is not None and self.n < len(chosen):
            drawn = stream(self.simulator.seed, "conversation/pairs").permutation(len(chosen))
            chosen = np.sort(drawn[: self.n])
        return play(policy, self.setting, self.simulator, self.split.users[chosen], self.split.items[chosen])
