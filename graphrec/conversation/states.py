"""What a learned policy sees of a conversation, and such a policy without the framework it was trained in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from graphrec.conversation.belief import Setting
from graphrec.conversation.dialogue import ASK, RECOMMEND, Action, Dialogue

BITS = 20  # of the number of candidates
ACTIONS = (ASK, RECOMMEND)
Part = Literal["history", "length", "entropy", "user"]
PARTS: tuple[str, ...] = get_args(Part)


def width(setting: Setting, parts: Sequence[str]) -> int:
    """Length of a state."""
    sizes = {"history": setting.config.turns, "length": BITS, "entropy": setting.n_questions,
             "user": setting.vectors.users.shape[1]}  # fmt: skip
    return sum(sizes[part] for part in parts)


def state(dialogue: Dialogue, parts: Sequence[str]) -> np.ndarray:
    """What came of each turn, the number of candidates in binary, what each question is worth, the user's
    vector: those of them that are asked for, side by side ``(s,) float32``.
    """
    found: list[np.ndarray] = []
    for part in parts:
        if part == "history":
            found.append(dialogue.history)
        elif part == "length":
            found.append(dialogue.knows.n >> np.arange(BITS - 1, -1, -1) & 1)
        elif part == "entropy":
            found.append(np.maximum(dialogue.knows.values, 0))
        else:
            found.append(dialogue.setting.user(dialogue.user))
    return np.concatenate(found, dtype=np.float32)


@dataclass(frozen=True)
class Trained:
    """The greedy policy of a trained network of two layers.

    Attributes:
        parts: what it sees.
        weights: ``first (h, s)``, ``first_bias (h,)``, ``second (2, h)``, ``second_bias (2,)``.
    """

    parts: tuple[str, ...]
    weights: Mapping[str, np.ndarray]

    def act(self, dialogues: Sequence[Dialogue], chance: np.ndarray | None = None) -> list[Action]:
        """The action worth most in each conversation; chance has no part in it."""
        w = self.weights
        states = np.stack([state(d, self.parts) for d in dialogues])
        hidden = np.maximum(states @ w["first"].T + w["first_bias"], 0)
        best = (hidden @ w["second"].T + w["second_bias"]).argmax(1)
        return [ACTIONS[i] for i in best.tolist()]
