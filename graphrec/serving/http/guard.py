"""Middleware of every server: trusted hosts and origins, limits on a request's body, security headers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from graphrec.core.errors import missing_dependency

try:
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse
except ImportError as cause:
    raise missing_dependency("fastapi", "serve") from cause

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PORT = re.compile(r":\d*\Z")
BODY = 64 * 1024
"""Bytes of a request's body, where no other limit is given."""
DRAINED = 2**24
"""Bytes of a body above the limit that are read before it is refused: a client that is still sending when the
connection is closed may never read the answer."""
BODY_SECONDS = 30
"""Seconds that a client may take to send a body."""
POLICY = "default-src 'none'; frame-ancestors 'none'"
"""Content security policy of an answer that is not a page: nothing is permitted."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def protect(
    app: FastAPI,
    hosts: Sequence[str] | None = None,
    limit: int = BODY,
    remedy: str = "start anew",
    policy: str = POLICY,
    limits: Mapping[str, int] | None = None,
) -> None:
    """Adds the middleware to an application.

    Args:
        app: the application.
        hosts: names that requests may be addressed to, without port; None: any. This refuses pages of other
            sites whose name was made to point to this machine.
        limit: bytes of a request's body.
        remedy: advice about a longer one, for the message.
        policy: content security policy of every answer.
        limits: path -> bytes of a request's body, where it is another than ``limit``.
    """
    app.add_middleware(SameOrigin)  # within the limit of bodies, so that a body is read before it is refused
    app.add_middleware(BodyLimit, limit=limit, remedy=remedy, limits=limits or {})
    if hosts is not None:
        app.add_middleware(TrustedHosts, hosts=hosts)
    headers = {"cache-control": "no-store", "content-security-policy": policy, **HEADERS}
    app.add_middleware(SecurityHeaders, headers=headers)  # the last one is the outermost
    app.state.security_headers = headers  # for the answer to a defect, which no middleware sees


class TrustedHosts:
    """Refuses requests that are addressed to another host, in JSON that names the right one.

    Starlette's middleware of this purpose depends on its version: before 1.6 it compares letter case and cuts
    IPv6 addresses short.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":  # the start and end of the application have no headers
            await self.app(scope, receive, send)
            return
        host = Headers(scope=scope).get("host", "")
        if PORT.sub("", host).lower() not in self.hosts:
            error = f"{host[:200]!r} is not this server's name; open it as {self.hosts[0]}"
            await JSONResponse({"error": error}, 400, {"connection": "close"})(scope, receive, send)
            return
        await self.app(scope, receive, send)


class SameOrigin:
    """Refuses requests that a page of another site sends through its visitor's browser.

    A browser says where a request comes from in ``Sec-Fetch-Site`` or, on connections that are not secure,
    only in ``Origin``. A form or a simple script cannot send JSON under its content type without asking
    first, so a body of any other type is refused, too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            headers = Headers(scope=scope)
            site, origin = headers.get("sec-fetch-site"), headers.get("origin")
            own = f"//{headers.get('host', '')}"
            foreign = site not in ("same-origin", "none") if site else origin and not origin.endswith(own)
            if foreign:
                error = f"a page of another site ({origin or site}) may not use this server"
                await JSONResponse({"error": error}, 403)(scope, receive, send)
                return
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
            if not empty and kind != "application/json":
                error = f"content-type {kind[:100]!r}; expected application/json"
                await JSONResponse({"error": error}, 415)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class BodyLimit:
    """Refuses a request whose body is too long, whether or not it declares a length, or takes too long."""

    def __init__(self, app: ASGIApp, limit: int, remedy: str, limits: Mapping[str, int]) -> None:
        self.app = app
        self.limit = limit
        self.limits = limits
        self.remedy = remedy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.limits.get(scope["path"], self.limit)
        declared = Headers(scope=scope).get("content-length", "0")
        size = int(declared) if declared.isdecimal() and int(declared) > DRAINED else 0
        body = bytearray()
        if not size:
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    async for part in Request(scope, receive).stream():
                        size += len(part)
                        if size > DRAINED:
                            break
                        if size <= limit:
                            body += part
            except TimeoutError:
                error = f"the request's body did not arrive within {BODY_SECONDS} seconds"
                await JSONResponse({"error": error}, 408, {"connection": "close"})(scope, receive, send)
                return
            except ClientDisconnect:
                return
        if size > limit:
            error = f"the request is longer than {limit // 1024} KB; {self.remedy}"
            await JSONResponse({"error": error}, 413, {"connection": "close"})(scope, receive, send)
            return
        messages: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, replay, send)


class SecurityHeaders:
    """Adds the headers that an answer does not have yet."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self.app = app
        self.headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)
