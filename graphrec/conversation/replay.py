"""The replay memory of a learned policy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Transitions(NamedTuple):
    """Actions and their results.

    Attributes:
        states: ``(B, s) float32``.
        actions: ``(B,) int64``.
        rewards: ``(B,) float32``.
        next_states: the states that followed ``(B, s) float32``.
        not_done: 0 where the conversation was over, else 1 ``(B,) float32``.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor
    not_done: Tensor


class Replay(nn.Module):
    """The last ``size`` transitions. They are part of the state dict, so that a resumed training equals an
    uninterrupted one.

    Args:
        size: number of transitions.
        state_width: length of a state.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    after: Tensor
    goes_on: Tensor
    seen: Tensor

    def __init__(self, size: int, state_width: int) -> None:
        super().__init__()
        self.size = size
        # Checkpoints hold the buffers under these names.
        self.register_buffer("states", torch.zeros(size, state_width))
        self.register_buffer("rewards", torch.zeros(size))
        self.register_buffer("after", torch.zeros(size, state_width))
        self.register_buffer("goes_on", torch.zeros(size))
        self.register_buffer("actions", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return min(int(self.seen), self.size)

    def add(
        self, state: np.ndarray, action: int, reward: float, next_state: np.ndarray, not_done: bool
    ) -> None:
        """Stores a transition in place of the oldest."""
        index = int(self.seen) % self.size
        self.states[index] = torch.from_numpy(state)
        self.after[index] = torch.from_numpy(next_state)
        self.actions[index] = action
        self.rewards[index] = reward
        self.goes_on[index] = float(not_done)
        self.seen += 1

    def draw(self, n: int, rng: np.random.Generator) -> Transitions:
        """``n`` transitions, uniformly and with replacement."""
        index = torch.from_numpy(rng.integers(0, len(self), n)).to(self.seen.device)
        buffers = (self.states, self.actions, self.rewards, self.after, self.goes_on)
        return Transitions(*(buffer.index_select(0, index) for buffer in buffers))
