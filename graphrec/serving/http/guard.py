"""What stands before every request: whom it is for, how long it may be, what browsers are told."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

BODY = 64 * 1024
"""Bytes of a request's body, where no other limit is given."""
DRAINED = 2**24
"""Bytes of a body that is too long which are read before it is refused: a client that still sends when the
connection is closed may never see why."""
POLICY = "default-src 'none'; frame-ancestors 'none'"
"""What a browser may do with an answer that is no page: nothing."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """An ASGI application around another.

    Args:
        app: the other.
        hosts: names that requests may be addressed to, without port; None: any. A page elsewhere whose name
            is made to point to this machine is turned away by that.
        limit: bytes of a request's body.
        remedy: what to do about a longer one.
        policy: content security policy of every answer.
    """

    def __init__(
        self,
        app: App,
        hosts: Sequence[str] | None = None,
        limit: int = BODY,
        remedy: str = "start anew",
        policy: str = POLICY,
    ) -> None:
        self.app = app
        self.hosts = hosts
        self.limit = limit
        self.remedy = remedy
        self.policy = policy

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                known = {name.lower() for name, _ in headers}
                new = {"cache-control": "no-store", "content-security-policy": self.policy, **HEADERS}
                headers += [(k.encode(), v.encode()) for k, v in new.items() if k.encode() not in known]
                message = {**message, "headers": headers}
            await send(message)

        given = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = _name(given.get(b"host", ""))
        if self.hosts is not None and host not in self.hosts:
            await _refuse(told, 400, f"{host[:200]!r} is not this server's name; open it as {self.hosts[0]}")
            return
        declared = given.get(b"content-length", "0")
        fits = not declared.isdecimal() or int(declared) <= DRAINED
        body = await _read(receive, self.limit) if fits else None
        if body is None:
            error = f"the request is longer than {self.limit // 1024} KB; {self.remedy}"
            await _refuse(told, 413, error)
            return
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return waiting.pop() if waiting else await receive()

        await self.app(scope, again, told)


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None if it is too long."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":  # the browser has gone
            break
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size > DRAINED:
            return None
        if size <= limit:
            parts.append(part)
    return b"".join(parts) if size <= limit else None


async def _refuse(send: Send, status: int, error: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": error}).encode()})


def _name(host: str) -> str:
    """A host header without its port."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.rsplit(":", 1)[0].lower()
