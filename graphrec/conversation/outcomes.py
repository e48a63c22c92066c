"""What became of conversations: success rates, average turns, discounted gains.

Turns are counted two ways. In the authors' code of 2020 and since 2023, and in UNICORN's, the agent's first
action is turn 1; the published tables count the opening as turn 1 (their average turns are larger by just the
success rate). Both are given; the second under ``/opening``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CUTS = (5, 10, 15)
OPENING = "/opening"


@dataclass(frozen=True)
class Outcomes:
    """Results of some conversations.

    Attributes:
        found: action that found the target, from 1; 0 if none did ``(n,) int``.
        place: where it stood in the slate, from 1; 0 likewise ``(n,) int``.
        turns: turns a conversation had at most, which is what a failure counts as.
    """

    found: np.ndarray
    place: np.ndarray
    turns: int

    def __len__(self) -> int:
        return len(self.found)

    def success(self, turn: int) -> np.ndarray:
        """Whether the target was found by a turn ``(n,) bool``."""
        return (self.found > 0) & (self.found <= turn)

    def used(self, opening: bool = False) -> np.ndarray:
        """Turns used ``(n,) int``; failures count in full."""
        return np.where(self.found > 0, self.found + opening, self.turns)

    def gain(self, opening: bool = False) -> np.ndarray:
        """``hDCG`` of each conversation ``(n,) float64``: 1 for the first place in turn 1, 0 for a failure.

        ``1 / log2(t + 2) + (1 / log2(t + 1) - 1 / log2(t + 2)) / log2(k + 1)`` for turn t and place k.
        """
        t, place = np.maximum(self.found, 1) + opening, np.maximum(self.place, 1)
        later = 1 / np.log2(t + 2)
        gain = later + (1 / np.log2(t + 1) - later) / np.log2(place + 1)
        return np.where(self.found > 0, gain, 0.0)

    def mean(self, cuts: Sequence[int] = CUTS) -> dict[str, float]:
        """``sr@<turn>``, ``at`` and ``hdcg``; with ``/opening`` where the opening counts as a turn."""
        result = {}
        for opening, suffix in ((False, ""), (True, OPENING)):
            for cut in cuts:
                found = self.success(cut - opening) if cut < self.turns else self.found > 0
                result[f"sr@{cut}{suffix}"] = float(found.mean())
            result[f"at{suffix}"] = float(self.used(opening).mean())
            result[f"hdcg{suffix}"] = float(self.gain(opening).mean())
        return result
