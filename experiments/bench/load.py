"""Requests for recommendations over keep-alive connections, as fast as they are answered or at a given rate.

    python -m experiments.bench.load PORT --seconds 10 --connections 32 [--rate 1000]

A client as lean as can be: bytes made beforehand, answers found by their length and otherwise not read. Times
count from when a request was due, so a server that falls behind is not flattered by requests that were sent
late. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

import numpy as np

from graphrec.core.random import numpy_rng


def request(user: str, k: int) -> bytes:
    """One request as it goes over the wire."""
    body = json.dumps({"users": [user], "k": k}).encode()
    head = f"POST /recommend HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    return f"{head}content-type: application/json\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One keep-alive connection, on which one request is under way at a time."""

    def __init__(self) -> None:
        self._held, self._answer = b"", None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called once connected."""
        self._transport = transport

    def ask(self, data: bytes) -> asyncio.Future[bytes]:
        """Sends a request; the future is its answer's status."""
        self._held, self._answer = b"", asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return self._answer

    def data_received(self, data: bytes) -> None:
        """Called with a part of an answer."""
        self._held += data
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._held[:end].lower()
        at = head.index(b"content-length:") + 15
        if len(self._held) >= end + 4 + int(head[at:].split(b"\r\n", 1)[0]):
            self._answer.set_result(head[9:12])


async def drive(
    port: int, seconds: float, connections: int, rate: float, users: int, k: int
) -> dict[str, object]:
    """Asks for ``seconds``, after a second to warm up; what came of it."""
    loop = asyncio.get_running_loop()
    names = numpy_rng(0, "bench/load").integers(0, users, 5000)
    requests = [request(f"U{n:07d}", k) for n in names]
    made = [(await loop.create_connection(Connection, "127.0.0.1", port))[1] for _ in range(connections)]
    began = time.perf_counter() + 1.0
    until, sent, times, wrong = began + seconds, 0, [], 0

    async def ask(connection: Connection) -> None:
        nonlocal sent, wrong
        while True:
            number = sent
            due = time.perf_counter() if not rate else began - 1.0 + number / rate
            if due >= until:
                return
            sent += 1
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            status = await connection.ask(requests[number % len(requests)])
            if due >= began:
                times.append(time.perf_counter() - due)
                wrong += status != b"200"

    cpu, first = time.process_time(), time.perf_counter()
    await asyncio.gather(*(ask(c) for c in made))
    taken = time.perf_counter() - began
    half, most = (float(p) for p in np.percentile(1e3 * np.array(times), [50, 99]))
    return {
        "answered": len(times), "wrong": wrong, "per_second": len(times) / taken, "p50_ms": half,
        "p99_ms": most, "client_cores": (time.process_time() - cpu) / (time.perf_counter() - first),
        "took": time.perf_counter() - first,
    }  # fmt: skip


def client() -> None:
    """Prints what came of it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0, help="requests a second; 0: as many as are answered")
    parser.add_argument("--users", type=int, default=100_000, help="ids U0000000 and so on")
    parser.add_argument("-k", type=int, default=10)
    o = parser.parse_args()
    print(json.dumps(asyncio.run(drive(o.port, o.seconds, o.connections, o.rate, o.users, o.k))))


if __name__ == "__main__":
    client()
