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

CONCURRENCY = 64
"""Number of simultaneous conversations; a learned policy decides for all of them at once."""


def play(
    policy: Policy,
    setting: Setting,
    simulator: Simulator,
    users: np.ndarray,
    targets: np.ndarray,
    *,
    epoch: int = 0,
    concurrency: int = CONCURRENCY,
    divided: bool = False,
) -> Outcomes:
    """Simulates one conversation per pair of user and target.

    The result of a conversation depends on its number in the list and the simulator's seed, not on the
    other conversations.

    Args:
        policy: decides.
        setting: catalog, vectors, rules.
        simulator: answers.
        users: ``(n,) int``.
        targets: the item each user has in mind ``(n,) int``.
        epoch: another epoch draws other openings and errors.
        concurrency: number of simultaneous conversations.
        divided: several processes call this function together; each runs a share of the conversations, and
            all get all outcomes.

    Raises:
        DataError: there are no pairs, or a target has no attribute.
    """
    if not len(targets):
        raise DataError("no held-out pair to talk about; expected one or more")
    turns = setting.config.turns
    simulated = simulator.users(targets, turns, epoch)
    uniform = numpy_rng(simulator.seed, "conversation/policy", epoch).random((len(targets), turns))
    success_turn = np.zeros(len(targets), dtype=np.int64)
    rank = np.zeros(len(targets), dtype=np.int64)
    share = range(len(targets))[distributed.local_slice(len(targets)) if divided else slice(None)]
    for start in range(share.start, share.stop, concurrency):
        numbers = range(start, min(start + concurrency, share.stop))
        active = {n: Dialogue(setting, int(users[n]), simulated[n]) for n in numbers}
        while active:
            now = np.array([uniform[n, dialogue.turn] for n, dialogue in active.items()])
            actions = policy.act(list(active.values()), now)
            for (n, dialogue), action in zip(list(active.items()), actions, strict=True):
                dialogue.step(action)
                if dialogue.done or not dialogue.actions_left:
                    success_turn[n] = dialogue.success_turn
                    rank[n] = dialogue.rank
                    del active[n]
    if divided:  # conversations of other processes are 0 here
        success_turn, rank = distributed.all_reduce_array(np.stack([success_turn, rank]))
    return Outcomes(success_turn, np.where(success_turn > 0, rank, 0), turns)


class StepResult(NamedTuple):
    """Result of one action in each of several conversations.

    Attributes:
        actions: the actions taken, as indices into :data:`graphrec.conversation.states.ACTIONS`.
        rewards: the rewards.
        done: whether each conversation is over.
        next_states: the states that follow, zero where a conversation is over ``(n, s) float32``.
    """

    actions: list[int]
    rewards: list[float]
    done: list[bool]
    next_states: np.ndarray


def step(
    active: Sequence[tuple[int, Dialogue]], actions: Sequence[int], encode: Callable[[Dialogue], np.ndarray]
) -> StepResult:
    """Takes one action in each of several conversations. With several processes, each runs the conversations
    of its numbers, and all get all results.

    Args:
        active: conversations with their numbers.
        actions: an action for each; should processes differ, the one that runs the conversation decides.
        encode: the state of a conversation ``(s,) float32``.
    """
    results = np.zeros((len(active), 3 + len(encode(active[0][1]))), dtype=np.float32)
    for row, (number, dialogue), action in zip(results, active, actions, strict=True):
        if number % distributed.world_size() == distributed.rank():
            row[:3] = action, dialogue.step(ACTIONS[action]), dialogue.done
            if not dialogue.done:
                row[3:] = encode(dialogue)
    results = distributed.all_reduce_array(results)
    return StepResult(
        actions=results[:, 0].astype(int).tolist(),
        rewards=results[:, 1].tolist(),
        done=(results[:, 2] > 0).tolist(),
        next_states=results[:, 3:],
    )


@dataclass(frozen=True)
class DialogueTask:
    """Validates a policy by conversations about held-out pairs.

    Attributes:
        setting: catalog, vectors, rules.
        split: the pairs.
        simulator: creates the users.
        n: number of pairs, drawn without replacement by the simulator's seed; None takes all.
    """

    setting: Setting
    split: Interactions
    simulator: Simulator
    n: int | None = None
    divided: ClassVar[bool] = True
    """Several processes call the task together."""

    def __call__(self, model: Any) -> dict[str, float]:
        """See :meth:`Outcomes.mean`; ``at/saved`` is the number of turns saved, where higher is better."""
        outcomes = self.outcomes(model, divided=True)
        mean = outcomes.mean()
        return {**mean, "at/saved": outcomes.turns - mean["at"]}

    def outcomes(self, policy: Policy, divided: bool = False) -> Outcomes:
        """The outcome of each conversation; see :func:`play`."""
        chosen = np.arange(len(self.split))
        if self.n is not None and self.n < len(chosen):
            drawn = numpy_rng(self.simulator.seed, "conversation/pairs").permutation(len(chosen))
            chosen = np.sort(drawn[: self.n])
        users = self.split.users[chosen]
        items = self.split.items[chosen]
        return play(policy, self.setting, self.simulator, users, items, divided=divided)
