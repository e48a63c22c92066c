"""Requests and responses of the recommendation service, and the limits of a request."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, create_model

BODY = 2**20
"""Bytes of a request's body."""
LENGTH = 512
"""Characters of an id."""
USERS = 100
"""Users or items in one request; items added by one request."""
K = 1000
"""Items per user or item."""
LIMITS = 10_000
"""Items that ``only`` and ``exclude`` may name."""

Id = Annotated[str, StringConstraints(min_length=1, max_length=LENGTH)]
Ids = Annotated[list[Id], Field(min_length=1, max_length=USERS)]
ItemIds = Annotated[list[Id], Field(max_length=LIMITS)]
# To a JSON schema 5.0 is an integer, too.
_WholeNumber = BeforeValidator(lambda v: int(v) if isinstance(v, float) and v.is_integer() else v)
TopK = Annotated[int, Field(ge=1, le=K), _WholeNumber]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-3e38, le=3e38)]


class RequestModel(BaseModel):
    """Base of requests: exact types, no other fields."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Recommend(RequestModel):
    """A request for recommendations."""

    users: Ids
    """External ids."""
    k: TopK = 10
    """How many items each user gets."""
    exclude_seen: bool = True
    """Leave out what a user is known to have."""
    only: ItemIds | None = None
    """Recommend among these items alone, such as those in stock."""
    exclude: ItemIds = Field([])
    """Never recommend these items."""
    unknown: Literal["error", "popularity"] = "error"
    """What unknown users get: an error for the whole request, or the most popular items."""


class Similar(RequestModel):
    """A request for similar items."""

    items: Ids
    """External ids."""
    k: TopK = 10
    """How many similar items each of them gets."""


class RankedItems(BaseModel):
    """Items for one user or item, best first; fewer than ``k`` where there are no more."""

    id: str
    items: list[str]
    scores: list[float]


class Answers(BaseModel):
    """One list for each user or item of the request, in that order."""

    answers: list[RankedItems]


class Added(BaseModel):
    """Items were added and are on the disk; ``items`` is the number of all items now."""

    added: int
    items: int


class Health(BaseModel):
    """What the server serves."""

    status: Literal["ok"]
    model: str
    users: int
    items: int
    added: int
    """Items added since the recommender was saved."""
    quarantined: int
    """Additions of the journal that are left out, because the recommender cannot take them."""
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
    features = create_model("Features", __base__=RequestModel, __doc__="Content by modality.", **fields)
    return create_model(
        "Add",
        __base__=RequestModel,
        __doc__="Items nobody has yet, with vectors made by the extractors of the model's features.",
        ids=(Ids, Field(description="External ids, none of them known.")),
        features=(features, Field(description="At least one vector for each item.")),
    )
