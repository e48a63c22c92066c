"""Clients that send slowly or not at all: what they cost a server, and that it ends in spite of them.

A limit that is tested is one second and the others are :data:`NEVER`; a test that ends within
:data:`PATIENCE`, on a machine however busy, has met the one and not the others.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed; pip install 'graphrec[serve]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed; pip install 'graphrec[serve]'")

NEVER = 3600  # seconds
PATIENCE = 120
ROOT = Path(__file__).parent.parent
SERVER = """
import sys
from fastapi import FastAPI
from graphrec.serving.http import guard, server
guard.BODY_SECONDS, server.HEADERS, server.SHUTDOWN = map(float, sys.argv[1:])
app = FastAPI()
guard.protect(app)
@app.post("/")
def answer(body: dict) -> dict:
    return body
server.explain_errors(app)
server.listen(app, "127.0.0.1", 0, lambda address: print(address, flush=True))
"""
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 8\r\n"
WHOLE = HEAD + b'\r\n{"a": 1}'


@pytest.fixture
def start(request):
    """Starts a server with these limits: seconds for a body, for headers, and for the end."""
    servers = []

    def started(body: float, headers: float, shutdown: float) -> tuple[subprocess.Popen, int]:
        command = [sys.executable, "-c", SERVER, str(body), str(headers), str(shutdown)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        servers.append(server)
        return server, int(server.stdout.readline().rsplit(":", 1)[1].strip("/\n"))

    yield started
    for server in servers:
        server.kill()
        server.communicate()


def connect(port: int, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    connection.sendall(sent)
    return connection


def until_closed(connection: socket.socket) -> bytes:
    """What the server sends until it closes the connection; waits no longer than :data:`PATIENCE` for it."""
    received = b""
    try:
        while part := connection.recv(4096):
            received += part
    except ConnectionError:
        pass
    return received


def test_half_sent_bodies_do_not_keep_the_server(start) -> None:
    server, port = start(NEVER, NEVER, 1)
    connections = [connect(port, HEAD + b'\r\n{"a"') for _ in range(20)]
    connections += [connect(port, HEAD) for _ in range(20)]
    connections += [connect(port, b"") for _ in range(5)]
    for _ in range(3):  # what was sent before is read before these are answered
        with connect(port, WHOLE) as whole:
            assert whole.recv(4096).startswith(b"HTTP/1.1 200")
    os.kill(server.pid, signal.SIGTERM)
    server.wait(PATIENCE)
    for connection in connections:
        connection.close()


def test_headers_that_do_not_come_are_not_waited_for(start) -> None:
    _, port = start(NEVER, 1, 1)
    connections = [connect(port, part) for part in (b"", b"P", HEAD, HEAD + b"x-more: ") for _ in range(50)]
    for connection in connections[::50]:
        assert until_closed(connection) == b""
    with connect(port, b"") as dripping:  # a byte now and then does not gain time
        dripping.settimeout(0.2)
        for _ in range(5 * PATIENCE):
            try:
                dripping.sendall(b"G")
                if not dripping.recv(1):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("never closed")
    again = connect(port, WHOLE)
    assert again.recv(4096).startswith(b"HTTP/1.1 200")
    again.sendall(HEAD)  # the next request of a connection
    until_closed(again)


def test_bodies_that_do_not_come_are_answered_with_408(start) -> None:
    _, port = start(1, NEVER, 1)
    with connect(port, HEAD + b'\r\n{"a"') as half:
        received = until_closed(half)
    assert received.startswith(b"HTTP/1.1 408")
    assert b"1.0 seconds" in received


def test_a_slow_but_timely_request_is_answered(start) -> None:
    _, port = start(NEVER, NEVER, 1)
    with connect(port, b"") as slow:
        for n in range(0, len(WHOLE), 20):
            slow.sendall(WHOLE[n : n + 20])
            time.sleep(0.1)
        assert slow.recv(4096).startswith(b"HTTP/1.1 200")
