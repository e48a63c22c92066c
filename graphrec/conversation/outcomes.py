"""Results of conversations: success rates, average turns, discounted gains.

Turns are counted in two ways. In the authors' code of 2020 and since 2023, and in UNICORN's, the agent's
first action is turn 1; the published tables count the opening as turn 1 (their average turns are larger by
exactly the success rate). Both are reported; the second under ``/opening``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TURN_CUTOFFS = (5, 10, 15)
OPENING = "/opening"


@dataclass(frozen=True)
class Outcomes:
    """Results of several conversations.

    Attributes:
        success_turn: action that found the target, from 1; 0 if none did ``(n,) int``.
        rank: rank of the target in that slate, from 1; 0 if it was not found ``(n,) int``.
        turns: maximum number of turns of a conversation, which a failure counts as.
    """

    success_turn: np.ndarray
    rank: np.ndarray
    turns: int

    def __len__(self) -> int:
        return len(self.success_turn)

    def success(self, turn: int | None = None) -> np.ndarray:
        """Whether the target was found by a turn; None: at all ``(n,) bool``."""
        found: np.ndarray = self.success_turn > 0
        return found if turn is None else found & (self.success_turn <= turn)

    def turns_used(self, opening: bool = False) -> np.ndarray:
        """Number of turns ``(n,) int``; ``turns`` for a failure."""
        return np.where(self.success(), self.success_turn + opening, self.turns)

    def hdcg(self, opening: bool = False) -> np.ndarray:
        """``hDCG`` of each conversation ``(n,) float64``: 1 for rank 1 in turn 1, 0 for a failure.

        ``1 / log2(t + 2) + (1 / log2(t + 1) - 1 / log2(t + 2)) / log2(k + 1)`` for turn t and rank k.
        """
        t = np.maximum(self.success_turn, 1) + opening
        rank = np.maximum(self.rank, 1)
        next_turn = 1 / np.log2(t + 2)
        gain = next_turn + (1 / np.log2(t + 1) - next_turn) / np.log2(rank + 1)
        return np.where(self.success(), gain, 0.0)

    def mean(self, cutoffs: Sequence[int] = TURN_CUTOFFS) -> dict[str, float]:
        """``sr@<turn>``, ``at`` and ``hdcg``; with ``/opening`` where the opening counts as a turn."""
        means = {}
        for opening, suffix in ((False, ""), (True, OPENING)):
            for cutoff in cutoffs:
                success = self.success(cutoff - opening if cutoff < self.turns else None)
                means[f"sr@{cutoff}{suffix}"] = float(success.mean())
            means[f"at{suffix}"] = float(self.turns_used(opening).mean())
            means[f"hdcg{suffix}"] = float(self.hdcg(opening).mean())
        return means
