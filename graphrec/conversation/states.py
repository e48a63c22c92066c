"""The state that a learned policy observes, and a trained policy without its training framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from graphrec.conversation.belief import Setting
from graphrec.conversation.dialogue import ASK, RECOMMEND, Action, Dialogue

LENGTH_BITS = 20
"""Binary digits of the number of candidates."""
ACTIONS = (ASK, RECOMMEND)
StateField = Literal["history", "length", "entropy", "user"]
STATE_FIELDS: tuple[str, ...] = get_args(StateField)


def state_width(setting: Setting, fields: Sequence[str]) -> int:
    """Length of a state that consists of these fields."""
    sizes = {
        "history": setting.config.turns,
        "length": LENGTH_BITS,
        "entropy": setting.n_questions,
        "user": setting.vectors.users.shape[1],
    }
    return sum(sizes[field] for field in fields)


def encode_state(dialogue: Dialogue, fields: Sequence[str]) -> np.ndarray:
    """The state of a conversation ``(s,) float32``.

    Args:
        dialogue: the conversation.
        fields: what to concatenate: the result of each turn (``history``), the number of candidates in binary
            (``length``), the value of each question (``entropy``), the user's vector (``user``).
    """
    parts: list[np.ndarray] = []
    for field in fields:
        if field == "history":
            parts.append(dialogue.history)
        elif field == "length":
            parts.append(dialogue.belief.n_candidates >> np.arange(LENGTH_BITS - 1, -1, -1) & 1)
        elif field == "entropy":
            parts.append(np.maximum(dialogue.belief.question_values, 0))
        else:
            parts.append(dialogue.setting.user_vector(dialogue.user))
    return np.concatenate(parts, dtype=np.float32)


@dataclass(frozen=True)
class TrainedPolicy:
    """The greedy policy of a trained network of two layers.

    Attributes:
        fields: the fields of its state, see :func:`encode_state`.
        weights: ``first (h, s)``, ``first_bias (h,)``, ``second (2, h)``, ``second_bias (2,)``.
    """

    fields: tuple[str, ...]
    weights: Mapping[str, np.ndarray]

    def act(self, dialogues: Sequence[Dialogue], uniform: np.ndarray | None = None) -> list[Action]:
        """The action of highest value in each conversation; ``uniform`` is not used."""
        w = self.weights
        states = np.stack([encode_state(dialogue, self.fields) for dialogue in dialogues])
        hidden = np.maximum(states @ w["first"].T + w["first_bias"], 0)
        best = (hidden @ w["second"].T + w["second_bias"]).argmax(1)
        return [ACTIONS[i] for i in best.tolist()]
