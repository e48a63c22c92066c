"""Requests and responses of the recommendation service, and the limits of a request."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    create_model,
    model_validator,
)

from graphrec.data.query import WEIGHTS
from graphrec.data.times import LIMIT

BODY = 2**20
"""Bytes of a request's body."""
CONTENT = 8 * 2**20
"""Bytes of the body of a request that adds items by their content."""
PIXELS = 16_000_000
"""Pixels of a picture of a new item."""
TEXT = 100_000
"""Characters of the text of a new item."""
LENGTH = 512
"""Characters of an id."""
USERS = 100
"""Users or items in one request; items added by one request."""
K = 1000
"""Items per user or item."""
HISTORY = 1000
"""Items of one history."""
LIMITS = 10_000
"""Items that ``only`` and ``exclude`` may name."""

Id = Annotated[str, StringConstraints(min_length=1, max_length=LENGTH)]
Ids = Annotated[list[Id], Field(min_length=1, max_length=USERS)]
ItemIds = Annotated[list[Id], Field(max_length=LIMITS)]
# To a JSON schema 5.0 is an integer, too.
_WholeNumber = BeforeValidator(lambda v: int(v) if isinstance(v, float) and v.is_integer() else v)
TopK = Annotated[int, Field(ge=1, le=K), _WholeNumber]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-3e38, le=3e38)]
Weight = Annotated[float, Field(allow_inf_nan=False, ge=WEIGHTS[0], le=WEIGHTS[1])]
Seconds = Annotated[float, Field(allow_inf_nan=False, gt=-LIMIT, lt=LIMIT)]


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as cause:
        raise ValueError("not base64; expected the bytes of a file in base64") from cause


Text = Annotated[str, StringConstraints(max_length=TEXT)]
File = Annotated[str, AfterValidator(_decode)]


class RequestModel(BaseModel):
    """Base of requests: exact types, no other fields."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Visitor(RequestModel):
    """A user known by a list of items: somebody new, or a known user whose list is now another."""

    id: Id
    """What to call the user in the answer; may be unknown."""
    history: Annotated[list[Id], Field(min_length=1, max_length=HISTORY)]
    """Ids of the items that the user took, oldest first."""
    weights: Annotated[list[Weight], Field(max_length=HISTORY)] | None = None
    """How much each item counts, one number an item; by default 1, however often an item is repeated."""
    times: Annotated[list[Seconds], Field(max_length=HISTORY)] | None = None
    """When the user took each item, in seconds since 1970, one number an item; they give the order."""

    @model_validator(mode="after")
    def _check_lengths(self) -> Visitor:
        for name, values in (("weights", self.weights), ("times", self.times)):
            if values is not None and len(values) != len(self.history):
                raise ValueError(
                    f"{len(values)} {name} for {len(self.history)} items; expected one for each item"
                )
        return self

    def without(self, items: Collection[str]) -> Visitor:
        """The visitor but for some items, with their weights and times."""
        kept = [n for n, item in enumerate(self.history) if item not in items]
        fields = {name: getattr(self, name) for name in ("history", "weights", "times")}
        given = {name: [values[n] for n in kept] for name, values in fields.items() if values is not None}
        return self.model_copy(update=given)


# Told apart by their type, so that an error is about the one that was meant.
IdOrVisitor = Annotated[
    Annotated[Id, Tag("id")] | Annotated[Visitor, Tag("visitor")],
    Discriminator(lambda user: "visitor" if isinstance(user, (dict, Visitor)) else "id"),
]


class Recommend(RequestModel):
    """A request for recommendations."""

    users: Annotated[list[IdOrVisitor], Field(min_length=1, max_length=USERS)]
    """External ids, or users with their histories."""
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
    strict: bool = True
    """False: unknown ids are left out and listed in the answer; unknown users get no items, and those of
    whose history no item is known the most popular ones."""


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
    popular: bool | None = None
    """True where no item of the history is known: these are the most popular items."""


class Answers(BaseModel):
    """One list for each user or item of the request, in that order."""

    answers: list[RankedItems]
    unknown: dict[Literal["users", "history", "only", "exclude"], list[str]] | None = None
    """Without ``strict``: the ids of the request that are not known, where there are any."""


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


def addition(widths: Mapping[str, int], kinds: Mapping[str, str] | None = None) -> Any:
    """The model of a request that adds items to a recommender.

    Args:
        widths: modality -> length of its vectors.
        kinds: modality -> kind of the content that the recommender can encode, such as ``"text"``.
    """
    fields: dict[str, Any] = {}
    for modality, width in widths.items():
        vector = Annotated[list[Number], Field(min_length=width, max_length=width)]
        rows = Annotated[list[vector | None] | None, Field(max_length=USERS)]
        fields[modality] = (rows, Field(None, description="A vector for each item, null where it has none."))
    features = create_model("Features", __base__=RequestModel, __doc__="Vectors by modality.", **fields)
    parts: dict[str, Any] = {}
    if kinds:
        files = "A file for each item in base64, null where it has none."
        contents: dict[str, Any] = {}
        for modality, kind in kinds.items():
            value: Any = Text if kind == "text" else File
            values = Annotated[list[value | None] | None, Field(max_length=USERS)]
            about = "A text for each item, null where it has none." if kind == "text" else files
            contents[modality] = (values, Field(None, description=about))
        content = create_model("Content", __base__=RequestModel, __doc__="Content by modality.", **contents)
        parts["content"] = (
            content | None,
            Field(None, description="Where there are no vectors."),
        )
        parts["features"] = (features | None, Field(None, description="At least one vector for each item."))
    else:
        parts["features"] = (features, Field(description="At least one vector for each item."))
    return create_model(
        "Add",
        __base__=RequestModel,
        __doc__="Items nobody has yet, with vectors made by the extractors of the model's features.",
        ids=(Ids, Field(description="External ids, none of them known.")),
        **parts,
    )
