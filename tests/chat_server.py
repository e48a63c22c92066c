"""An OpenAI-compatible server on loopback that answers as a test tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What the server does with one request; ``body`` overrides ``text``."""

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    until: threading.Event | None = None
    """Which to wait for before it answers."""
    hang_up: bool = False
    finish: str = "stop"


@dataclass
class Server:
    """Where it listens and what it was asked."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0


@contextmanager
def serving(answer: Callable[[dict[str, Any], int], Answer]) -> Iterator[Server]:
    """Runs a server; ``answer`` gets the request's JSON and how many came before it."""
    lock, busy = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(server.requests)
                server.requests.append({**request, "path": self.path})
                server.keys.append(self.headers.get("authorization", ""))
                server.times.append(time.monotonic())
                busy[0] += 1
                server.most_at_once = max(server.most_at_once, busy[0])
            try:
                self._reply(answer(request, number), request)
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                with lock:
                    busy[0] -= 1

        def _reply(self, made: Answer, request: dict[str, Any]) -> None:
            if made.until is not None:
                made.until.wait()
            if made.hang_up:
                self.close_connection = True
                self.connection.close()
                return
            body = made.body
            if body is None and made.status >= 400:
                body = json.dumps({"error": {"message": made.text or "no"}}).encode()
            elif body is None:
                body = json.dumps(
                    {
                        "id": "x", "object": "chat.completion", "created": 0, "model": request.get("model"),
                        "choices": [{"index": 0, "finish_reason": made.finish,
                                     "message": {"role": "assistant", "content": made.text}}],
                        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
                    }
                ).encode()  # fmt: skip
            self.send_response(made.status)
            for name, value in {"content-type": "application/json", **made.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
