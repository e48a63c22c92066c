"""What a learned policy remembers of its conversations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Transitions(NamedTuple):
    """What was done and what came of it.

    Attributes:
        states: ``(B, s) float32``.
        actions: ``(B,) int64``.
        rewards: ``(B,) float32``.
        after: the states that followed ``(B, s) float32``.
        goes_on: 0 where the conversation was over, else 1 ``(B,) float32``.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    after: Tensor
    goes_on: Tensor


class Replay(nn.Module):
    """The last ``size`` transitions. They are part of the state dict, so that a resumed training is the same
    training.

    Args:
        size: how many.
        s: length of a state.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    after: Tensor
    goes_on: Tensor
    seen: Tensor

    def __init__(self, size: int, s: int) -> None:
        super().__init__()
        self.size = size
        for name, shape in (("states", (size, s)), ("rewards", (size,)), ("after", (size, s)),
                            ("goes_on", (size,))):  # fmt: skip
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("actions", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return min(int(self.seen), self.size)

    def add(self, state: np.ndarray, action: int, reward: float, after: np.ndarray, goes_on: bool) -> None:
        """Keeps a transition in place of the oldest."""
        at = int(self.seen) % self.size
        self.states[at], self.after[at] = torch.from_numpy(state), torch.from_numpy(after)
        self.actions[at], self.rewards[at], self.goes_on[at] = action, reward, float(goes_on)
        self.seen += 1

    def draw(self, n: int, rng: np.random.Generator) -> Transitions:
        """``n`` transitions, uniformly and with replacement."""
        rows = torch.from_numpy(rng.integers(0, len(self), n)).to(self.seen.device)
        return Transitions(*(getattr(self, f).index_select(0, rows) for f in Transitions._fields))
