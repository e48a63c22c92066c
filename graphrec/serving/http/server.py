"""Listening and error responses, shared by all servers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from graphrec.core.errors import ConfigError, GraphrecError, missing_dependency

try:
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException as AnyHTTPException
except ImportError as cause:
    raise missing_dependency("fastapi", "serve") from cause

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HEADERS = 10
"""Seconds that a client may take to send the request line and headers of a request."""
SHUTDOWN = 5
"""Seconds that requests in progress may still take once the server is to end."""
_LONGEST = 600  # characters of an error


def shown_host(host: str) -> str:
    """A host as it is written in an address: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def names_of(host: str) -> tuple[str, ...] | None:
    """Names that requests may be addressed to when listening at ``host``; None: any."""
    return LOOPBACK if shown_host(host) in LOOPBACK else None


def listen(app: FastAPI, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves an application until Ctrl-C or SIGTERM; requests in progress then have :data:`SHUTDOWN` seconds.

    Args:
        app: the application.
        host: address to listen at.
        port: 0 takes a free one.
        ready: called with the address once requests are accepted.

    Raises:
        MissingDependencyError: uvicorn is not installed.
        ConfigError: nothing can listen there, as when the port is taken.
    """
    try:
        import uvicorn
    except ImportError as cause:
        raise missing_dependency("uvicorn", "serve") from cause
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError, UnicodeError) as cause:
        raise ConfigError(
            f"cannot listen at {shown_host(host)}:{port} ({cause}); give another host or port"
        ) from cause
    # Where the kind of protocol is left open, as here, asyncio does not do it, and the second piece of an
    # answer would wait until the client has acknowledged the first, 40 ms later.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listening:
        ready(f"http://{shown_host(host)}:{listening.getsockname()[1]}/")
        with suppress(KeyboardInterrupt):
            config = uvicorn.Config(
                app,
                http=_protocol_with_deadline(),
                ws="none",
                log_level="warning",
                lifespan="off",
                access_log=False,
                timeout_graceful_shutdown=SHUTDOWN,
            )
            uvicorn.Server(config).run(sockets=[listening])


def _protocol_with_deadline() -> type[asyncio.Protocol]:
    """Uvicorn's protocol, which closes connections that are idle after a request, with a limit for the rest:
    a connection whose next request line and headers are not complete in time is closed.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Protocol(AutoHTTPProtocol):  # type: ignore[valid-type, misc]
        deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.set_deadline()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:  # the headers are complete
                self.cancel_deadline()
            elif self.deadline is None:
                self.set_deadline()

        def connection_lost(self, exc: Exception | None) -> None:
            self.cancel_deadline()
            super().connection_lost(exc)

        def set_deadline(self) -> None:
            self.deadline = asyncio.get_running_loop().call_later(HEADERS, self.transport.abort)

        def cancel_deadline(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

    return Protocol


def explain_errors(app: FastAPI, status: Callable[[GraphrecError], int] = lambda _: 400) -> None:
    """Answers every error with ``{"error": one line}``, those that graphrec raises with the given status."""

    def error(status: int, message: str) -> JSONResponse:
        line = " ".join(message.encode("utf-8", "replace").decode("utf-8").split())
        return JSONResponse({"error": line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"}, status)

    @app.exception_handler(GraphrecError)
    async def graphrec_error(_: Request, cause: Exception) -> JSONResponse:
        assert isinstance(cause, GraphrecError)
        return error(status(cause), str(cause).removesuffix(cause.suggestion))

    @app.exception_handler(RequestValidationError)
    async def invalid_request(_: Request, cause: Exception) -> JSONResponse:
        assert isinstance(cause, RequestValidationError)
        first = cause.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:6])
        return error(422, f"{where}: {first['msg']}")

    @app.exception_handler(AnyHTTPException)
    async def http_error(_: Request, cause: Exception) -> JSONResponse:
        assert isinstance(cause, AnyHTTPException)
        answer = error(cause.status_code, str(cause.detail))
        answer.headers.update(cause.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def internal_error(_: Request, __: Exception) -> JSONResponse:
        answer = error(500, "internal error; the server's log has the traceback")
        answer.headers.update(getattr(app.state, "security_headers", {}))
        return answer
