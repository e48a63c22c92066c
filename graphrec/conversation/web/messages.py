"""Messages between page and server, and limits on their size."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, Field, StringConstraints

from graphrec.conversation.agent import ConversationalRecommender
from graphrec.conversation.session import RecommendedItem, Session
from graphrec.conversation.web.pictures import picture_file
from graphrec.serving.http.schema import RequestModel

MAX_EVENTS = 500
"""Maximum number of turns in a conversation."""
MAX_LIKES = 50
"""Maximum number of attributes that a conversation starts with."""
MAX_LENGTH = 1000
"""Maximum length of a name or an id in characters."""

Name = Annotated[str, StringConstraints(max_length=MAX_LENGTH)]


class QuestionEvent(RequestModel):
    """A question and its answer."""

    asked: Name
    answer: Name | list[Name]


class RecommendationEvent(RequestModel):
    """Recommended items and the one chosen."""

    shown: list[Name]
    chosen: Name | None


class State(RequestModel):
    """A session, as returned by :meth:`Session.state`."""

    format: int | dict[Name, Name | int]
    agent: Name
    user: Name | None
    likes: Annotated[list[Name], Field(max_length=MAX_LIKES)]
    events: Annotated[list[QuestionEvent | RecommendationEvent], Field(max_length=MAX_EVENTS)]


class StartRequest(RequestModel):
    """The start of a conversation."""

    user: Name | None = None
    """External id; null for an unknown user."""
    likes: Annotated[list[Name], Field(default_factory=list, max_length=MAX_LIKES)]
    """Names of attributes that the person likes."""


class StateRequest(RequestModel):
    """A conversation in progress."""

    state: State


class AnswerRequest(StateRequest):
    """A conversation in progress and the next answer."""

    value: Name | list[Name] | None
    """See :meth:`Session.answer`."""


class ShownItem(BaseModel):
    """A recommended item; ``picture`` is a URL relative to the page."""

    id: str
    title: str
    picture: str | None
    path: list[str]
    why: str


class Reply(BaseModel):
    """The current turn of a conversation.

    ``values`` are the possible answers to a question, empty for yes or no. ``why`` of recommended items is
    the reason that several share, ``shared`` as each of them has it. ``found`` is the chosen item.
    """

    state: dict[str, Any]
    total: int
    kind: Literal["question", "recommendation", "end", "found"]
    number: int
    remaining: int
    unmet: int
    question: str | None
    topic: str
    sentence: str
    values: list[str]
    path: list[str]
    why: str
    shared: str
    items: list[ShownItem]
    found: ShownItem | None


class AttributeMatches(BaseModel):
    """Names of the first attributes that match a search, and the number of all matches."""

    names: list[str]
    total: int


def reply(session: Session) -> Reply:
    """The current turn of a session, for the page."""
    agent = session.agent
    state = session.state()
    chosen_id = session.chosen_item
    if chosen_id is not None:
        session.undo()  # the turn before the choice explains the item
    turn = session.next()
    chosen = next((_shown_item(agent, item) for item in turn.items if item.id == chosen_id), None)
    return Reply(
        state=state,
        total=agent.setting.catalog.n_items,
        kind=turn.kind if chosen is None else "found",
        number=turn.number,
        remaining=turn.remaining,
        unmet=turn.unmet,
        question=turn.question,
        topic=_encodable(turn.topic),
        sentence=_encodable(turn.sentence),
        values=list(turn.values),
        path=[_encodable(name) for name in turn.path],
        why=_encodable(turn.why) if chosen is None else "",
        shared=_encodable(turn.shared) if chosen is None else "",
        items=[_shown_item(agent, item) for item in turn.items] if chosen is None else [],
        found=chosen,
    )


def _shown_item(agent: ConversationalRecommender, item: RecommendedItem) -> ShownItem:
    picture = f"picture/{quote(item.id, safe='')}" if picture_file(agent, item.id) is not None else None
    return ShownItem(
        id=item.id,
        title=_encodable(item.title),
        picture=picture,
        path=[_encodable(name) for name in item.path],
        why=_encodable(item.why),
    )


def _encodable(text: str) -> str:
    """The text with lone surrogates, which a title may contain, replaced by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
