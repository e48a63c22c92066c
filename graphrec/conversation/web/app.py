"""The server of the page: ``graphrec converse RUN --web``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np

from graphrec.conversation.agent import ConversationalRecommender
from graphrec.conversation.web.messages import LENGTH, Answered, Attributes, Going, Reply, Start, State, reply
from graphrec.conversation.web.page import PAGE, POLICY
from graphrec.conversation.web.pictures import picture_file, picture_type
from graphrec.core.errors import missing_dependency
from graphrec.serving.http.guard import Guard
from graphrec.serving.http.server import explain_errors, listen, names_of

try:
    from fastapi import FastAPI, HTTPException, Query
    from fastapi.responses import FileResponse, HTMLResponse, Response
except ImportError as cause:
    raise missing_dependency("fastapi", "serve") from cause

OFFERED = 50
"""Attributes that a search returns at most."""


def create_app(agent: ConversationalRecommender, hosts: Sequence[str] | None = None) -> FastAPI:
    """The server as an application, for any ASGI server.

    It holds nothing of a conversation: each request brings the session's state and gets the new one. What is
    wrong with a request is answered with status 4xx and ``{"error": one line}``.

    Args:
        agent: who leads the conversations.
        hosts: names that requests may be addressed to, without port (an IPv6 address in brackets); None: any.
    """
    # Interactive documentation would load its scripts from elsewhere; /openapi.json describes the same.
    app = FastAPI(
        title="graphrec converse",
        summary="Conversations that lead to an item.",
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Guard, hosts=None if hosts is None else tuple(hosts), policy=POLICY)
    fingerprint, search = agent.fingerprint, _search(agent)  # worked out once, before anybody waits

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(PAGE)

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(status_code=204)

    @app.get("/health")
    def health() -> dict[str, Any]:
        """That the server is there, and for what."""
        shelf = agent.setting.catalog
        return {
            "status": "ok",
            "agent": fingerprint,
            "items": shelf.n_items,
            "attributes": shelf.n_attributes,
        }

    @app.post("/api/start")
    def start(body: Start) -> Reply:
        """Begins a conversation."""
        return reply(agent.start(body.user, body.likes))

    @app.post("/api/next")
    def following(body: Going) -> Reply:
        """What is asked or shown now."""
        return reply(agent.resume(_plain(body.state)))

    @app.post("/api/answer")
    def answer(body: Answered) -> Reply:
        """Takes an answer in."""
        session = agent.resume(_plain(body.state))
        session.answer(body.value)
        return reply(session)

    @app.post("/api/undo")
    def undo(body: Going) -> Reply:
        """Takes the last answer back, if there is one."""
        session = agent.resume(_plain(body.state))
        session.undo()
        return reply(session)

    @app.get("/api/attributes")
    def attributes(q: Annotated[str, Query(max_length=LENGTH)] = "") -> Attributes:
        """Names of attributes to begin with: those that contain ``q``, the commonest first."""
        return search(q)

    @app.get("/picture/{item:path}", response_class=FileResponse)
    def picture(item: str) -> FileResponse:
        """An item's picture."""
        path = picture_file(agent, item)
        kind = None if path is None else picture_type(path)
        if path is None or kind is None:
            raise HTTPException(404, "there is no picture of this item")
        return FileResponse(path, media_type=kind, headers={"cache-control": "private, max-age=3600"})

    explain_errors(app)
    return app


def serve(
    agent: ConversationalRecommender,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serves the page until Ctrl-C.

    On this machine's own address, the default, only this machine can open it, under its own name. Anybody who
    reaches another address can converse and see the catalog: there is no log-in.

    Args:
        agent: who leads the conversations.
        host: address to listen at.
        port: 0 takes a free one.
        ready: is called with the page's address when it can be opened; default: says so on stderr.

    Raises:
        MissingDependencyError: uvicorn is not installed.
        ConfigError: nothing can listen there, as when the port is taken.
    """
    if ready is None:
        from graphrec.core.progress import print_note

        def ready(address: str) -> None:
            print_note(f"{address}: open it in a browser; Ctrl-C ends it")

    listen(create_app(agent, names_of(host)), host, port, ready)


def _plain(state: State) -> dict[str, Any]:
    return state.model_dump()


def _search(agent: ConversationalRecommender) -> Callable[[str], Attributes]:
    """Finds attributes that some item has: those that begin with what is sought, then those that hold it."""
    shelf = agent.setting.catalog
    counts = np.bincount(shelf.attributes, minlength=shelf.n_attributes)
    order = [int(a) for a in np.argsort(-counts, kind="stable") if counts[a]]
    known = [(shelf.names[a], shelf.names[a].casefold()) for a in order]

    def search(text: str) -> Attributes:
        sought = text.strip().casefold()
        hits = [(name, folded) for name, folded in known if sought in folded]
        hits.sort(key=lambda hit: not hit[1].startswith(sought))  # stable: within each, the commonest first
        return Attributes(names=[name for name, _ in hits[:OFFERED]], total=len(hits))

    return search
