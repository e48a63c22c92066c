"""Rule-based policies, the baselines of every learned policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from graphrec.conversation.dialogue import ASK, RECOMMEND, Action, Dialogue
from graphrec.core.errors import ConfigError, nearest


class Policy(Protocol):
    """Decides between asking and recommending."""

    def act(self, dialogues: Sequence[Dialogue], uniform: np.ndarray) -> list[Action]:
        """One action for each conversation.

        Args:
            dialogues: conversations, none of them over.
            uniform: a uniform random number for each ``(n,)``, the only randomness of a policy.
        """
        ...


@dataclass(frozen=True)
class Rule:
    """A policy that considers one conversation at a time. It recommends when no question is left."""

    def recommends(self, dialogue: Dialogue, uniform: float) -> bool:
        """Whether to recommend now."""
        return True

    def act(self, dialogues: Sequence[Dialogue], uniform: np.ndarray) -> list[Action]:
        """See :class:`Policy`."""
        return [
            RECOMMEND if self.recommends(dialogue, u) or dialogue.belief.best_question is None else ASK
            for dialogue, u in zip(dialogues, uniform.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class AbsGreedy(Rule):
    """Recommends in every turn (Christakopoulou et al., KDD 2016)."""


@dataclass(frozen=True)
class MaxEntropy(Rule):
    """Recommends with probability ``k / candidates``, and asks otherwise (as in EAR's code)."""

    def recommends(self, dialogue: Dialogue, uniform: float) -> bool:
        """See :class:`Rule`."""
        return uniform * dialogue.belief.n_candidates < dialogue.setting.config.k


@dataclass(frozen=True)
class AskThenRecommend(Rule):
    """Asks ``n`` questions, then only recommends."""

    n: int = 8

    def recommends(self, dialogue: Dialogue, uniform: float) -> bool:
        """See :class:`Rule`."""
        return dialogue.turn > self.n


@dataclass(frozen=True)
class RecommendWhenFew(Rule):
    """Recommends once at most ``n`` candidates are left."""

    n: int = 100

    def recommends(self, dialogue: Dialogue, uniform: float) -> bool:
        """See :class:`Rule`."""
        return dialogue.belief.n_candidates <= self.n


@dataclass(frozen=True)
class RecommendWhenFewOrLate(RecommendWhenFew):
    """Recommends once at most ``n`` candidates are left, and always in the last turns."""

    last: int = 5

    def recommends(self, dialogue: Dialogue, uniform: float) -> bool:
        """See :class:`Rule`."""
        return dialogue.actions_left <= self.last or super().recommends(dialogue, uniform)


@dataclass(frozen=True)
class RecommendWhenSure(Rule):
    """Recommends once the slate holds the target with a probability of at least ``n`` percent, and always in
    the last turns; meant for the belief ``posterior``.
    """

    n: int = 30
    last: int = 4

    def recommends(self, dialogue: Dialogue, uniform: float) -> bool:
        """See :class:`Rule`."""
        return dialogue.actions_left <= self.last or dialogue.belief.slate_probability * 100 >= self.n


@dataclass(frozen=True)
class Random(Rule):
    """Recommends with probability 1/2."""

    def recommends(self, dialogue: Dialogue, uniform: float) -> bool:
        """See :class:`Rule`."""
        return uniform < 0.5


RULES: dict[str, type[Rule]] = {
    "abs-greedy": AbsGreedy,
    "max-entropy": MaxEntropy,
    "ask-then-recommend": AskThenRecommend,
    "recommend-when-few": RecommendWhenFew,
    "recommend-when-few-or-late": RecommendWhenFewOrLate,
    "recommend-when-sure": RecommendWhenSure,
    "random": Random,
}


def parse_rule(name: str) -> Rule:
    """A rule by its name, followed by a colon and its number where it has one: ``ask-then-recommend:6``.

    Raises:
        ConfigError: there is no such rule, or the number is not valid.
    """
    kind, _, number = name.partition(":")
    if kind not in RULES:
        raise ConfigError(f"rule {kind!r} is not one of {sorted(RULES)}.{nearest(kind, RULES)}")
    if not number:
        return RULES[kind]()
    if not number.isdecimal() or not RULES[kind].__dataclass_fields__:
        raise ConfigError(f"rule {name!r}; expected a name, or ask-then-recommend:8, recommend-when-few:100")
    return RULES[kind](n=int(number))  # type: ignore[call-arg]
