"""The server of the page: ``graphrec converse RUN --web``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np

from graphrec.conversation.agent import ConversationalRecommender
from graphrec.conversation.session import Session
from graphrec.conversation.web.messages import (
    MAX_LENGTH,
    AnswerRequest,
    AttributeMatches,
    Reply,
    StartRequest,
    StateRequest,
    reply,
)
from graphrec.conversation.web.page import PAGE, POLICY
from graphrec.conversation.web.pictures import picture_file, picture_type
from graphrec.core.errors import missing_dependency
from graphrec.core.progress import print_note
from graphrec.serving.http.guard import protect
from graphrec.serving.http.server import explain_errors, listen, names_of

try:
    from fastapi import FastAPI, HTTPException, Query
    from fastapi.responses import FileResponse, HTMLResponse, Response
except ImportError as cause:
    raise missing_dependency("fastapi", "serve") from cause

MAX_MATCHES = 50
"""Maximum number of attributes that a search returns."""


def create_app(agent: ConversationalRecommender, hosts: Sequence[str] | None = None) -> FastAPI:
    """Creates the application for an ASGI server.

    It is stateless: each request sends the session's state, and the reply holds the new one. An invalid
    request is answered with status 4xx and ``{"error": one line}``.

    Args:
        agent: leads the conversations.
        hosts: accepted host names, without port (an IPv6 address in brackets); None: any.
    """
    # Interactive documentation loads scripts from other servers; /openapi.json describes the same interface.
    app = FastAPI(
        title="graphrec converse",
        summary="Conversations that lead to an item.",
        docs_url=None,
        redoc_url=None,
    )
    protect(app, None if hosts is None else tuple(hosts), policy=POLICY)
    fingerprint = agent.fingerprint  # computed before the first request
    search = _attribute_search(agent)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(PAGE)

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(status_code=204)

    @app.get("/health")
    def health() -> dict[str, Any]:
        """Status of the server, and sizes of its catalog."""
        catalog = agent.setting.catalog
        return {
            "status": "ok",
            "agent": fingerprint,
            "items": catalog.n_items,
            "attributes": catalog.n_attributes,
        }

    @app.post("/api/start")
    def start(body: StartRequest) -> Reply:
        """Starts a conversation."""
        return reply(Session.start(agent, body.user, body.likes))

    @app.post("/api/next")
    def current(body: StateRequest) -> Reply:
        """The current question or recommendation."""
        return reply(Session.resume(agent, body.state.model_dump()))

    @app.post("/api/answer")
    def answer(body: AnswerRequest) -> Reply:
        """Answers the current question or recommendation."""
        session = Session.resume(agent, body.state.model_dump())
        session.answer(body.value)
        return reply(session)

    @app.post("/api/undo")
    def undo(body: StateRequest) -> Reply:
        """Removes the last answer, if there is one."""
        session = Session.resume(agent, body.state.model_dump())
        session.undo()
        return reply(session)

    @app.get("/api/attributes")
    def attributes(q: Annotated[str, Query(max_length=MAX_LENGTH)] = "") -> AttributeMatches:
        """Names of attributes to start with: those that contain ``q``, the most common first."""
        return search(q)

    @app.get("/picture/{item:path}", response_class=FileResponse)
    def picture(item: str) -> FileResponse:
        """An item's picture."""
        path = picture_file(agent, item)
        media_type = None if path is None else picture_type(path)
        if path is None or media_type is None:
            raise HTTPException(404, "there is no picture of this item")
        return FileResponse(path, media_type=media_type, headers={"cache-control": "private, max-age=3600"})

    explain_errors(app)
    return app


def serve(
    agent: ConversationalRecommender,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serves the page until Ctrl-C.

    At the default address only this machine can open the page. At another address anybody who can reach it
    can converse and see the catalog: there is no log-in.

    Args:
        agent: leads the conversations.
        host: address to listen at.
        port: port to listen at; 0 takes a free one.
        ready: called with the page's address once it can be opened; default: print it on stderr.

    Raises:
        MissingDependencyError: uvicorn is not installed.
        ConfigError: the server cannot listen there, as when the port is in use.
    """
    if ready is None:

        def ready(address: str) -> None:
            print_note(f"{address}: open it in a browser; stop with Ctrl-C")

    listen(create_app(agent, names_of(host)), host, port, ready)


def _attribute_search(agent: ConversationalRecommender) -> Callable[[str], AttributeMatches]:
    """A search for names of attributes: those that begin with the text, then those that contain it."""
    catalog = agent.setting.catalog
    counts = np.bincount(catalog.attributes, minlength=catalog.n_attributes)
    order = [int(a) for a in np.argsort(-counts, kind="stable") if counts[a]]
    names = [(catalog.names[a], catalog.names[a].casefold()) for a in order]

    def search(text: str) -> AttributeMatches:
        query = text.strip().casefold()
        hits = [(name, folded) for name, folded in names if query in folded]
        hits.sort(key=lambda hit: not hit[1].startswith(query))  # stable: the most common first within each
        return AttributeMatches(names=[name for name, _ in hits[:MAX_MATCHES]], total=len(hits))

    return search
