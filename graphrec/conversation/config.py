"""Rules of a conversation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from graphrec.core.config import Config


class ConversationConfig(Config):
    """Rules of a conversation and the value of questions; the defaults are SCPR's.

    Turn 1 is the agent's first turn. The user's opening counts as the turn before it, so an agent has
    ``turns - 1`` actions.
    """

    turns: int = Field(15, ge=2, le=127)
    """Maximum number of turns, including the opening."""
    k: int = Field(10, ge=1)
    """Number of items in a recommendation."""
    questions: Literal["binary", "enumerated"] = "binary"
    """Ask about one attribute (yes or no), or about a group of attributes (which of these?)."""
    weighting: Literal["weighted", "plain"] = "weighted"
    """Weight of an item in an attribute's entropy: the sigmoid of its score, or 1."""
    entropy: Literal["binary", "one_sided"] = "binary"
    """``-p log p - (1 - p) log (1 - p)``, as in the authors' code, or its first term alone, as in the
    paper."""
    belief: Literal["candidates", "posterior"] = "candidates"
    """How the agent uses answers. ``candidates`` is SCPR's: it drops the items that lack an accepted
    attribute, and does not ask about a rejected attribute again. ``posterior`` weights items by the
    likelihood of all answers, yes and no."""
    error: float = Field(0.0, ge=0, lt=0.5)
    """Share of wrong answers that ``posterior`` assumes; above 0, no single answer excludes an item."""
    temperature: float = Field(2.0, gt=0)
    """``posterior`` starts from the softmax of the items' scores divided by this."""


INTERACTIVE_RULES: dict[str, Any] = {"belief": "posterior", "error": 0.05}
"""Rules of conversations with people, independent of the rules a policy was trained with: answers of no count
as well, and the agent recovers from a wrong answer."""
