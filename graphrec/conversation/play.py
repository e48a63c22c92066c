"""Conversations of a policy with simulated users, and validation by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from graphrec.conversation.belief import Setting
from graphrec.conversation.dialogue import Dialogue
from graphrec.conversation.outcomes import Outcomes
from graphrec.conversation.rules import Policy
from graphrec.conversation.simulator import Simulator
from graphrec.conversation.states import ACTIONS
from graphrec.core import distributed
from graphrec.core.errors import DataError
from graphrec.core.random import numpy_rng
from graphrec.data import Interactions

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
    divided: bool = False,
) -> Outcomes:
    """Lets a policy talk to one simulated user per pair, to the end.

    What a conversation comes to depends on its number in the list and the simulator's seed, not on those
    beside it.

    Args:
        policy: decides.
        setting: catalog, vectors, rules.
        simulator: answers.
        users: ``(n,) int``.
        targets: the item each has in mind ``(n,) int``.
        epoch: another one draws openings and errors anew.
        wave: conversations at a time.
        divided: several processes call this together, and each has a part of the conversations; all get all
            outcomes.

    Raises:
        DataError: there are no pairs, or a target has no attribute.
    """
    if not len(targets):
        raise DataError("no held-out pair to talk about; choose a split that holds some out")
    turns = setting.config.turns
    talks = simulator.talks(targets, turns, epoch)
    chance = numpy_rng(simulator.seed, "conversation/policy", epoch).random((len(targets), turns))
    found, place = np.zeros(len(targets), dtype=np.int64), np.zeros(len(targets), dtype=np.int64)
    own = range(len(targets))[distributed.local_slice(len(targets)) if divided else slice(None)]
    for start in range(own.start, own.stop, wave):
        numbers = range(start, min(start + wave, own.stop))
        going = {n: Dialogue(setting, int(users[n]), talks[n]) for n in numbers}
        while going:
            luck = np.array([chance[n, d.turn] for n, d in going.items()])
            actions = policy.act(list(going.values()), luck)
            for (number, dialogue), action in zip(list(going.items()), actions, strict=True):
                dialogue.step(action)
                if dialogue.done or not dialogue.actions_left:
                    found[number], place[number] = dialogue.found, dialogue.place
                    del going[number]
    if divided:  # of those of others nothing is known here, so they add 0
        found, place = distributed.all_reduce_array(np.stack([found, place]))
    return Outcomes(found, np.where(found > 0, place, 0), turns)


class StepResult(NamedTuple):
    """What came of one action in each of some conversations.

    Attributes:
        actions: what was done in each, by its place in :data:`graphrec.conversation.states.ACTIONS`.
        rewards: for each.
        over: whether each is.
        after: the states that followed, zero where it is over ``(n, s) float32``.
    """

    actions: list[int]
    rewards: list[float]
    over: list[bool]
    after: np.ndarray


def step(
    going: Sequence[tuple[int, Dialogue]], actions: Sequence[int], state: Callable[[Dialogue], np.ndarray]
) -> StepResult:
    """Goes one action further in each of some conversations. Of several processes each leads those of its
    numbers, and all get what came of all.

    Args:
        going: conversations with their numbers.
        actions: what to do in each; the process that leads it decides, should they differ.
        state: what a policy sees of a conversation ``(s,) float32``.
    """
    came = np.zeros((len(going), 3 + len(state(going[0][1]))), dtype=np.float32)
    for row, (number, dialogue), action in zip(came, going, actions, strict=True):
        if number % distributed.world_size() == distributed.rank():
            row[:3] = action, dialogue.step(ACTIONS[action]), dialogue.done
            if not dialogue.done:
                row[3:] = state(dialogue)
    came = distributed.all_reduce_array(came)
    did, rewards, over = came[:, 0].astype(int), came[:, 1], came[:, 2] > 0
    return StepResult(did.tolist(), rewards.tolist(), over.tolist(), came[:, 3:])


@dataclass(frozen=True)
class DialogueTask:
    """Validates a policy by conversations about held-out pairs.

    Attributes:
        setting: catalog, vectors, rules.
        split: the pairs.
        simulator: who answers.
        n: how many of the pairs, drawn without replacement by the simulator's seed; None takes all.
    """

    setting: Setting
    split: Interactions
    simulator: Simulator
    n: int | None = None
    divided: ClassVar[bool] = True
    """Several processes call it together."""

    def __call__(self, model: Any) -> dict[str, float]:
        """Success rates and the like, see :meth:`Outcomes.mean`; ``at/saved`` is the turns saved, so that
        higher is better.
        """
        outcomes = self.outcomes(model, divided=True)
        mean = outcomes.mean()
        return {**mean, "at/saved": outcomes.turns - mean["at"]}

    def outcomes(self, policy: Policy, divided: bool = False) -> Outcomes:
        """The conversations one by one; see :func:`play`."""
        chosen = np.arange(len(self.split))
        if self.n is not None and self.n < len(chosen):
            drawn = numpy_rng(self.simulator.seed, "conversation/pairs").permutation(len(chosen))
            chosen = np.sort(drawn[: self.n])
        users, items = self.split.users[chosen], self.split.items[chosen]
        return play(policy, self.setting, self.simulator, users, items, divided=divided)
