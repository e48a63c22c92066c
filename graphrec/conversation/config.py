"""Rules of a conversation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from graphrec.core.config import Config


class ConversationConfig(Config):
    """Rules of a conversation and how questions are valued; the defaults are SCPR's.

    Turn 1 is the agent's first; the user's opening counts as the turn before it, so an agent has
    ``turns - 1`` actions.
    """

    turns: int = Field(15, ge=2, le=127)
    """Turns in all, the opening included."""
    k: int = Field(10, ge=1)
    """Items that are recommended at once."""
    questions: Literal["binary", "enumerated"] = "binary"
    """Ask for one attribute (yes or no), or for a whole group (which of these?)."""
    weighting: Literal["weighted", "plain"] = "weighted"
    """Items count in an attribute's entropy by the sigmoid of their score, or all alike."""
    entropy: Literal["binary", "one_sided"] = "binary"
    """``-p log p - (1 - p) log (1 - p)``, as the authors' code has it, or its first term alone, as the paper
    writes it."""
    belief: Literal["candidates", "posterior"] = "candidates"
    """What the agent makes of answers. ``candidates`` is SCPR's: items that lack an accepted attribute are
    out, a rejected attribute is only not asked again. ``posterior`` weighs items by how likely they would
    have led to all answers, yes and no."""
    error: float = Field(0.0, ge=0, lt=0.5)
    """Share of wrong answers that ``posterior`` reckons with; above 0 no single answer rules an item out."""
    temperature: float = Field(2.0, gt=0)
    """``posterior`` starts from the softmax of the items' scores divided by this."""


SPOKEN: dict[str, Any] = {"belief": "posterior", "error": 0.05}
"""Rules of conversations with people, whatever a policy was trained on: a no counts as well, and one wrong
answer is forgiven."""
