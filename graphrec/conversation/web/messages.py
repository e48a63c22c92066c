"""What page and server send each other, and the limits on what is taken in."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, Field, StringConstraints

from graphrec.conversation.agent import ConversationalRecommender
from graphrec.conversation.session import Recommended, Session, Turn
from graphrec.conversation.web.pictures import picture_file
from graphrec.serving.http.schema import RequestModel

EVENTS = 500
"""Turns a conversation may have."""
LIKES = 50
"""Attributes it may begin with."""
LENGTH = 1000
"""Characters of a name or an id."""

Name = Annotated[str, StringConstraints(max_length=LENGTH)]


class Asked(RequestModel):
    """A question that was answered."""

    asked: Name
    answer: Name | list[Name]


class Shown(RequestModel):
    """A recommendation that was answered."""

    shown: list[Name]
    chosen: Name | None


class State(RequestModel):
    """A session, as :meth:`Session.state` writes it."""

    format: int
    agent: Name
    user: Name | None
    likes: Annotated[list[Name], Field(max_length=LIKES)]
    events: Annotated[list[Asked | Shown], Field(max_length=EVENTS)]


class Start(RequestModel):
    """Who begins a conversation, and with what."""

    user: Name | None = None
    """External id; null for somebody unknown."""
    likes: Annotated[list[Name], Field(default_factory=list, max_length=LIKES)]
    """Names of attributes."""


class Going(RequestModel):
    """A conversation that is going on."""

    state: State


class Answered(RequestModel):
    """A conversation that is going on, and what the person says now."""

    state: State
    value: Name | list[Name] | None
    """See :meth:`Session.answer`."""


class ShownItem(BaseModel):
    """A recommended item; ``picture`` is an address relative to the page's."""

    id: str
    title: str
    picture: str | None
    path: list[str]
    why: str


class Reply(BaseModel):
    """Where a conversation stands.

    Of a question, ``values`` is what may be answered; empty for yes or no. ``found`` is the item that was
    chosen.
    """

    state: dict[str, Any]
    total: int
    kind: Literal["question", "recommendation", "end", "found"]
    number: int
    remaining: int
    unmet: int
    question: str | None
    values: list[str]
    path: list[str]
    why: str
    items: list[ShownItem]
    found: ShownItem | None


class Attributes(BaseModel):
    """Names of attributes that contain what was searched for, of ``total`` that do."""

    names: list[str]
    total: int


def reply(session: Session) -> Reply:
    """Where a session stands, as the page wants it."""
    agent, found, state = session.agent, None, session.state()
    if session.found is None:
        turn = session.next()
    else:
        chosen = session.found
        session.undo()  # the turn that led to it tells why
        turn = session.next()
        found = next(_item(agent, item) for item in turn.items if item.id == chosen)
    return Reply(
        state=state,
        total=agent.setting.catalog.n_items,
        kind=turn.kind if found is None else "found",
        number=turn.number,
        remaining=turn.remaining,
        unmet=turn.unmet,
        question=turn.question,
        values=list(turn.values),
        path=_names(turn),
        why=_displayed(turn.why),
        items=[_item(agent, item) for item in turn.items] if found is None else [],
        found=found,
    )


def _item(agent: ConversationalRecommender, item: Recommended) -> ShownItem:
    picture = f"picture/{quote(item.id, safe='')}" if picture_file(agent, item.id) is not None else None
    return ShownItem(
        id=item.id, title=_displayed(item.title), picture=picture, path=_names(item),
        why=_displayed(item.why),
    )  # fmt: skip


def _names(of: Turn | Recommended) -> list[str]:
    return [_displayed(name) for name in of.path]


def _displayed(text: str) -> str:
    """Text that can be sent: lone surrogates, which a title may hold, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
