"""Policies without anything to learn: what every learned one has to be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from graphrec.conversation.dialogue import ASK, RECOMMEND, Action, Dialogue
from graphrec.core.errors import ConfigError, nearest


class Policy(Protocol):
    """What decides between asking and recommending."""

    def act(self, dialogues: Sequence[Dialogue], chance: np.ndarray) -> list[Action]:
        """One action for each conversation.

        Args:
            dialogues: none of them over.
            chance: a uniform number for each ``(n,)``, all the randomness a policy has.
        """
        ...


@dataclass(frozen=True)
class Rule:
    """A policy that looks at one conversation at a time. Without a question left it recommends."""

    def recommends(self, dialogue: Dialogue, chance: float) -> bool:
        """Whether to recommend now."""
        return True

    def act(self, dialogues: Sequence[Dialogue], chance: np.ndarray) -> list[Action]:
        """See :class:`Policy`."""
        return [
            RECOMMEND if self.recommends(d, luck) or d.knows.question is None else ASK
            for d, luck in zip(dialogues, chance.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class AbsGreedy(Rule):
    """Recommends at every turn (Christakopoulou et al., KDD 2016)."""


@dataclass(frozen=True)
class MaxEntropy(Rule):
    """Recommends with probability ``k / candidates``, and asks otherwise (as in EAR's code)."""

    def recommends(self, dialogue: Dialogue, chance: float) -> bool:
        """See :class:`Rule`."""
        return chance * dialogue.knows.n < dialogue.setting.config.k


@dataclass(frozen=True)
class AskThenRecommend(Rule):
    """Asks ``n`` questions, then recommends for good."""

    n: int = 8

    def recommends(self, dialogue: Dialogue, chance: float) -> bool:
        """See :class:`Rule`."""
        return dialogue.turn > self.n


@dataclass(frozen=True)
class RecommendWhenFew(Rule):
    """Recommends once at most ``n`` candidates are left."""

    n: int = 100

    def recommends(self, dialogue: Dialogue, chance: float) -> bool:
        """See :class:`Rule`."""
        return dialogue.knows.n <= self.n


@dataclass(frozen=True)
class RecommendWhenFewOrLate(RecommendWhenFew):
    """Recommends once at most ``n`` candidates are left, and in the last turns whatever is left."""

    last: int = 5

    def recommends(self, dialogue: Dialogue, chance: float) -> bool:
        """See :class:`Rule`."""
        return dialogue.actions_left <= self.last or super().recommends(dialogue, chance)


@dataclass(frozen=True)
class RecommendWhenSure(Rule):
    """Recommends once the slate holds the target with probability ``n`` per cent, and in the last turns that
    are left for the candidates; meant for the belief ``posterior``.
    """

    n: int = 30
    last: int = 4

    def recommends(self, dialogue: Dialogue, chance: float) -> bool:
        """See :class:`Rule`."""
        return dialogue.actions_left <= self.last or dialogue.knows.sure * 100 >= self.n


@dataclass(frozen=True)
class Random(Rule):
    """Tosses a coin."""

    def recommends(self, dialogue: Dialogue, chance: float) -> bool:
        """See :class:`Rule`."""
        return chance < 0.5


RULES: dict[str, type[Rule]] = {
    "abs-greedy": AbsGreedy,
    "max-entropy": MaxEntropy,
    "ask-then-recommend": AskThenRecommend,
    "recommend-when-few": RecommendWhenFew,
    "recommend-when-few-or-late": RecommendWhenFewOrLate,
    "recommend-when-sure": RecommendWhenSure,
    "random": Random,
}


def rule(name: str) -> Rule:
    """A rule by its name, with its number after a colon where it takes one: ``ask-then-recommend:6``.

    Raises:
        ConfigError: there is no such rule, or its number is not one.
    """
    kind, _, number = name.partition(":")
    if kind not in RULES:
        raise ConfigError(f"rule {kind!r} is not one of {sorted(RULES)}.{nearest(kind, RULES)}")
    if not number:
        return RULES[kind]()
    if not number.isdecimal() or not RULES[kind].__dataclass_fields__:
        raise ConfigError(f"rule {name!r}; expected a name, or ask-then-recommend:8, recommend-when-few:100")
    return RULES[kind](n=int(number))  # type: ignore[call-arg]
