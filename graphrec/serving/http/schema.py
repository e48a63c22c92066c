"""What is sent to the service of recommendations and what it sends, and the limits on what is taken in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, create_model

BODY = 2**20
"""Bytes of a request's body."""
LENGTH = 512
"""Characters of an id."""
USERS = 100
"""Users, or items, that are asked about at once; items added at once."""
K = 1000
"""Items that each of them gets."""
LIMITS = 10_000
"""Items that ``only`` and ``exclude`` may name."""

Id = Annotated[str, StringConstraints(min_length=1, max_length=LENGTH)]
Ids = Annotated[list[Id], Field(min_length=1, max_length=USERS)]
Some = Annotated[list[Id], Field(max_length=LIMITS)]
# To a JSON schema 5.0 is an integer, too.
_Whole = BeforeValidator(lambda v: int(v) if isinstance(v, float) and v.is_integer() else v)
Wanted = Annotated[int, Field(ge=1, le=K), _Whole]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-3e38, le=3e38)]


class Received(BaseModel):
    """Base of what comes in: exact types, nothing besides."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Recommend(Received):
    """Who is to get recommendations, and which."""

    users: Ids
    """External ids."""
    k: Wanted = 10
    """How many items each user gets."""
    exclude_seen: bool = True
    """Leave out what a user is known to have."""
    only: Some | None = None
    """Recommend among these items alone, such as those in stock."""
    exclude: Some = Field([])
    """Never recommend these items."""
    unknown: Literal["error", "popularity"] = "error"
    """What unknown users get: an error for the whole request, or the most popular items."""


class Similar(Received):
    """Which items others are to be like."""

    items: Ids
    """External ids."""
    k: Wanted = 10
    """How many items each of them gets."""


class Answered(BaseModel):
    """What one user, or one item, gets: the best first, fewer than ``k`` where there are no more."""

    id: str
    items: list[str]
    scores: list[float]


class Answers(BaseModel):
    """An answer for each that was asked about, in that order."""

    answers: list[Answered]


class Added(BaseModel):
    """Items were added, and are on the disk; ``items`` is how many there are now."""

    added: int
    items: int


class Health(BaseModel):
    """That the server is there, and for what."""

    status: Literal["ok"]
    model: str
    users: int
    items: int
    added: int
    """Items added since the recommender was saved."""
    approximate: bool
    """Whether users are answered by an index."""
    takes_items: bool


class Error(BaseModel):
    """Why a request was refused, in one line."""

    error: str


def addition(widths: dict[str, int]) -> Any:
    """The model of a request that adds items to a recommender.

    Args:
        widths: modality -> length of its vectors.
    """
    fields: dict[str, Any] = {}
    for modality, width in widths.items():
        vector = Annotated[list[Number], Field(min_length=width, max_length=width)]
        rows = Annotated[list[vector | None] | None, Field(max_length=USERS)]
        fields[modality] = (rows, Field(None, description="A vector for each item, null where it has none."))
    features = create_model(
        "Features",
        __config__=ConfigDict(extra="forbid", strict=True),
        __doc__="Content by modality.",
        **fields,
    )
    return create_model(
        "Add",
        __config__=ConfigDict(extra="forbid", strict=True),
        __doc__="Items nobody has yet, with vectors made by the extractors of the model's features.",
        ids=(Ids, Field(description="External ids, none of them known.")),
        features=(features, Field(description="At least one vector for each item.")),
    )
