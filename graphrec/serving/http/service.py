"""Recommendations over HTTP: ``graphrec serve RUN``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from graphrec.core.errors import (
    CheckpointError,
    DataError,
    GraphrecError,
    UnknownIdError,
    missing_dependency,
)
from graphrec.serving import Recommender
from graphrec.serving.http import schema
from graphrec.serving.http.docs import POLICY, docs_page
from graphrec.serving.http.guard import protect
from graphrec.serving.http.journal import Journal
from graphrec.serving.http.live import (
    NO_HISTORIES,
    NO_ITEMS,
    Answer,
    LiveRecommender,
    Options,
    RequestBatcher,
)
from graphrec.serving.http.metrics import add_metrics
from graphrec.serving.http.server import explain_errors, listen, names_of
from graphrec.serving.recommend import Search, without

try:
    from fastapi import FastAPI, HTTPException, Request, Response
    from fastapi.concurrency import run_in_threadpool
except ImportError as cause:
    raise missing_dependency("fastapi", "serve") from cause

_WHY = {
    400: "The request cannot be answered, or is for another host.",
    403: "The request is from a page of another site, or this server accepts no items.",
    404: "A user or an item is not known.",
    408: "The body did not arrive in time.",
    409: "An item is known already, or named twice.",
    413: f"The body is longer than {schema.BODY // 1024} KB (of POST /items, {schema.CONTENT // 1024} KB).",
    415: "The body is not sent as application/json.",
    422: "The body is not of this form, or beyond a limit.",
    503: "The journal cannot be written; nothing was added.",
}


_OF_BODIES = (400, 403, 408, 413, 415, 422)


def create_service(served: LiveRecommender, hosts: Sequence[str] | None = None) -> FastAPI:
    """The service as an application, for any ASGI server.

    What is wrong with a request is answered with status 4xx and ``{"error": one line}``.

    Args:
        served: the recommender.
        hosts: names that requests may be addressed to, without port (an IPv6 address in brackets); None: any.
    """
    app = FastAPI(
        title="graphrec serve",
        summary="Recommendations, similar items, new items.",
        docs_url=None,  # FastAPI's page loads its scripts from elsewhere; /docs below has none
        redoc_url=None,
    )
    kinds = {m: served.recommender.extractors[m].kind for m in served.recommender.modalities
             if m in served.recommender.extractors}  # fmt: skip
    limits = {"/items": schema.CONTENT} if kinds else {}
    protect(app, hosts, schema.BODY, "send less at once", limits=limits)
    batches = RequestBatcher(served.recommend, served.prepare)
    similar_batches = RequestBatcher(served.similar, served.prepare)

    @app.get("/health", responses=_refusals(400, 408, 413))
    async def health() -> schema.Health:
        """What the server serves."""
        rec = served.recommender
        return schema.Health(
            status="ok",
            model=str(rec.meta.get("model", "")),
            users=len(rec.users),
            items=rec.n_items,
            added=rec.n_items - before,
            quarantined=len(served.quarantined),
            approximate=served.search != "exact" and rec.index is not None,
            takes_items=served.journal is not None,
        )

    before = served.recommender.n_items - served.replayed

    @app.post("/recommend", response_model=schema.Answers, responses=_refusals(*_OF_BODIES, 404, 409))
    async def recommend(body: schema.Recommend) -> Response:
        """The items with the highest scores for each user, best first."""
        unknown: dict[str, list[str]] = {}
        known = [user for user in body.users if isinstance(user, str)]
        visitors = [user for user in body.users if not isinstance(user, str)]
        if visitors and not served.recommender.answers_histories:
            raise HTTPException(409, NO_HISTORIES)
        if not body.strict:
            looked_up = known if body.unknown == "error" else None
            unknown = served.recommender.unknown_ids(looked_up, body.only, body.exclude)
            lost = served.recommender.unknown_ids(only=[item for user in visitors for item in user.history])
            if lost:
                unknown["history"] = lost["only"]
                visitors = [user.without(set(lost["only"])) for user in visitors]
        users, only, exclude = (
            without(ids, unknown.get(field, ()))
            for field, ids in (("users", known), ("only", body.only), ("exclude", body.exclude))
        )
        if body.only and not only:
            raise UnknownIdError(f"none of the {len(body.only)} items of 'only' is known")
        allowed = None if only is None else tuple(only)
        options = Options(body.k, body.exclude_seen, allowed, tuple(exclude or ()), body.unknown)
        answered = iter(_rows(users, await batches.submit((users, options))) if users else ())
        of_visitors = iter(await _by_history(served, visitors, options, body.strict))
        nobody = set(unknown.get("users", ()))
        rows = []
        for user in body.users:
            if not isinstance(user, str):
                rows.append(next(of_visitors))
            elif user in nobody:
                rows.append({"id": user, "items": [], "scores": []})
            else:
                rows.append(next(answered))
        return _answers(rows, unknown)

    @app.post("/similar", response_model=schema.Answers, responses=_refusals(*_OF_BODIES, 404))
    async def similar(body: schema.Similar) -> Response:
        """The items whose embeddings have the highest cosine with each item's."""
        return _answers(_rows(body.items, await similar_batches.submit((body.items, body.k))))

    async def items(body: Any) -> schema.Added:
        """Adds items, placed by their content. The reply is sent when they are on the disk."""
        if served.journal is None:
            raise HTTPException(403, NO_ITEMS)
        features = {m: rows for m, rows in body.features or () if rows is not None}
        content = {m: values for m, values in getattr(body, "content", None) or () if values is not None}
        total = await run_in_threadpool(served.add_content, body.ids, features, content)
        return schema.Added(added=len(body.ids), items=total)

    items.__annotations__["body"] = schema.addition(served.recommender.modalities, kinds)
    app.post("/items", status_code=201, responses=_refusals(*_OF_BODIES, 409, 503))(items)

    plain_text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}

    @app.get("/metrics", response_class=Response, responses=plain_text | _refusals(400, 408, 413))
    def metrics() -> Response:
        """Numbers of requests and their latencies in the text format of Prometheus."""
        return Response(counted.text(), headers={"content-type": counted.content_type})

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> Response:
        """A page about the routes, for people; on this machine's own address only."""
        if hosts is None:
            raise HTTPException(404, "the page is shown on this machine's own address only")
        page = docs_page(app.openapi(), str(request.base_url).rstrip("/"))
        headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": POLICY}
        return Response(page, headers=headers)

    def status(cause: GraphrecError) -> int:
        if isinstance(cause, UnknownIdError):
            return 404
        if isinstance(cause, CheckpointError):
            return 503
        return 409 if isinstance(cause, DataError) else 400

    explain_errors(app, status)
    counted = add_metrics(app, served)
    return app


def serve(
    recommender: Recommender,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    search: Search = "auto",
    journal: Path | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serves recommendations until Ctrl-C.

    On this machine's own address, the default, only this machine can ask, under its own name. Anybody who
    reaches another address can ask and, with a journal, add items: there is no log-in.

    Args:
        recommender: served; not changed.
        host: address to listen at.
        port: 0 takes a free one.
        search: as in :meth:`graphrec.Recommender.recommend`.
        journal: file that keeps additions; None: no items are accepted.
        ready: called with the address once requests are accepted; default: prints it on stderr.

    Raises:
        MissingDependencyError: uvicorn is not installed.
        ConfigError: nothing can listen there, the journal is in use, or there is no index to search.
        CheckpointError: the journal is damaged, lacks additions, or cannot be written.
    """
    from graphrec.core.progress import print_note

    ready = ready or (lambda address: print_note(f"{address}: accepts requests; Ctrl-C ends it"))
    with nullcontext() if journal is None else Journal(journal) as opened:
        served = LiveRecommender(recommender, search, opened)
        if served.replayed or served.known:
            known = f", {served.known:,} were known already" if served.known else ""
            print_note(f"{journal}: {served.replayed:,} items added again{known}")
        if served.quarantined:
            row, why = served.quarantined[0]
            print_note(
                f"{journal}: {len(served.quarantined):,} additions are left out, because this recommender "
                f"cannot take them; the first is row {row} ({why})"
            )
        listen(create_service(served, names_of(host)), host, port, ready)


async def _by_history(
    served: LiveRecommender,
    visitors: Sequence[schema.Visitor],
    options: Options,
    strict: bool,
) -> list[dict[str, Any]]:
    """The answers to users with histories, of which unknown items were left out unless ``strict``."""
    if not visitors:
        return []
    if not strict:
        options = options._replace(unknown="popularity")
    answer = await run_in_threadpool(served.recommend_by_history, visitors, options)
    rows = _rows([visitor.id for visitor in visitors], answer)
    return [
        row if visitor.history else {**row, "popular": True}
        for row, visitor in zip(rows, visitors, strict=True)
    ]


def _rows(names: Sequence[str], answer: Answer) -> list[dict[str, Any]]:
    ids, scores = answer
    rows = []
    for name, items, values in zip(names, ids.tolist(), scores.tolist(), strict=True):
        n = items.index(None) if None in items else len(items)
        rows.append({"id": name, "items": items[:n], "scores": values[:n]})
    return rows


def _answers(rows: list[dict[str, Any]], unknown: Mapping[str, list[str]] | None = None) -> Response:
    """The response as bytes: it is valid by construction, and a check would cost more than making it."""
    body = {"answers": rows} | ({"unknown": unknown} if unknown else {})
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode(), media_type="application/json")


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": schema.Error, "description": _WHY[status]} for status in statuses}
