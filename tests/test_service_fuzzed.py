"""The service under a fuzzer that knows its schema, and under load on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from test_recommender_index import DIM, ITEMS, catalog

pytest.importorskip("fastapi", reason="fastapi is not installed; pip install 'graphrec[serve]'")
pytest.importorskip("faiss", reason="faiss is not installed; pip install 'graphrec[ann]'")
pytest.importorskip("schemathesis", reason="schemathesis is not installed")
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from graphrec.serving import Recommender
from graphrec.serving.http.journal import Journal
from graphrec.serving.http.live import LiveRecommender
from graphrec.serving.http.service import create_service

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("fuzzed") / "rec"
    made = catalog()
    made.save(place)
    made.build_index(place, recall=0.9, lists=50)
    return place


@pytest.fixture(scope="module")
def app(folder):
    with Journal(folder.parent / "journal") as kept:
        yield create_service(LiveRecommender(Recommender.load(folder), journal=kept))


@pytest.mark.parametrize("name", ["GET /health", "POST /recommend", "POST /similar", "POST /items"])
def test_replies_are_as_the_schema_says(app, name: str) -> None:
    """No 5xx; every status, header and body is documented; what breaks the schema is refused."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    method, path = name.split()
    # More than a form is checked: whether items can be added depends on what is known and on having some
    # content, and histories have as many weights and times as items.
    more = path in ("/items", "/recommend")
    semantic = [CHECKS.get_one("positive_data_acceptance")] if more else []
    tried = []
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        operation = schema[path][method]

        @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def fuzz(case) -> None:
            reply = case.call()
            tried.append(reply.status_code)
            # Too long is a refusal as well, which the check does not know.
            refused = [CHECKS.get_one("negative_data_rejection")] if reply.status_code == 413 else []
            case.validate_response(reply, excluded_checks=[*semantic, *refused])

        if mode is GenerationMode.POSITIVE or operation.body:
            fuzz()
    assert not [status for status in tried if status >= 500]
    assert len(tried) > 100 or path == "/health"
    assert min(tried) in (200, 201, 400, 404)
    assert path == "/health" or 422 in tried


def test_the_schema_is_complete(app) -> None:
    found = app.openapi()
    assert set(found["paths"]) == {"/health", "/metrics", "/recommend", "/similar", "/items"}
    metrics = found["paths"]["/metrics"]["get"]["responses"]["200"]
    assert set(metrics["content"]) == {"text/plain"}
    for path in found["paths"].values():
        for operation in path.values():
            assert operation["summary"]
            assert {"400", "413"} < set(operation["responses"]) | {"extra"}
            for status, reply in operation["responses"].items():
                if reply is metrics:
                    continue
                form = reply["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
                assert (form == "Error") == status.startswith("4") or status == "503"
    forms = found["components"]["schemas"]
    assert forms["Recommend"]["properties"]["k"]["maximum"] == 1000
    assert forms["Recommend"]["additionalProperties"] is False
    vector = forms["Features"]["properties"]["text"]["anyOf"][0]["items"]["anyOf"][0]
    assert (vector["minItems"], vector["maxItems"]) == (DIM, DIM)
    assert "HTTPValidationError" not in forms


async def ask(port: int, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    head += "content-type: application/json\r\n"
    try:
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        answer = await reader.read()
    finally:
        writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), rest


def start(folder: Path, *options: str) -> tuple[subprocess.Popen, int, str]:
    """A server in a process of its own, its port, and what it said before that."""
    code = (
        "import sys; from pathlib import Path; from graphrec.serving import Recommender\n"
        "from graphrec.serving.http.service import serve\n"
        "serve(Recommender.load(sys.argv[1]), port=0, journal=Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(folder), *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    said = ""
    while "http://" not in (last := server.stderr.readline()):
        assert last, f"the server ended: {said}"
        said += last
    return server, int(last.split("127.0.0.1:")[1].split("/")[0]), said


def test_hundreds_at_once_with_bad_ones_among_them(folder, tmp_path) -> None:
    rec = Recommender.load(folder)
    users = [f"u{i}" for i in range(300)]
    ids, scores = rec.recommend(users, 5)
    like = rec.similar_items([f"i{i}" for i in range(100)], 5)
    good = [("POST", "/recommend", {"users": [user], "k": 5}, 200) for user in users]
    good += [("POST", "/similar", {"items": [f"i{i}"], "k": 5}, 200) for i in range(100)]
    vector = (-5 * rec.user_vectors[:50].mean(0)).astype(float).tolist()
    added = [{"ids": [f"new{i}"], "features": {"text": [vector]}} for i in range(40)]
    items = [("POST", "/items", body, 201) for body in added]
    bad = [
        ("POST", "/recommend", {"users": ["nobody"], "k": 5}, 404),
        ("POST", "/recommend", {"users": ["u1"], "k": 10**9}, 422),
        ("POST", "/recommend", "{", 422),
        ("POST", "/recommend", " " * (2**20 + 1), 413),
        ("POST", "/items", {"ids": ["i1"], "features": {"text": [vector]}}, 409),
        ("DELETE", "/items", "", 405),
        ("GET", "/nowhere", "", 404),
    ]
    journal = tmp_path / "added.journal"
    server, port, _ = start(folder, str(journal))
    try:
        mixed = [*good, *items, *(bad * 12)]
        order = np.random.default_rng(0).permutation(len(mixed))

        async def all_at_once() -> list[tuple[int, bytes]]:
            async def one(at: int) -> tuple[int, bytes]:
                method, path, body, _ = mixed[at]
                return await ask(
                    port, method, path, (body if isinstance(body, str) else json.dumps(body)).encode()
                )

            return await asyncio.gather(*(one(int(at)) for at in order))

        answers = dict(zip(order.tolist(), asyncio.run(all_at_once()), strict=True))
        assert [answers[i][0] for i in range(len(mixed))] == [request[3] for request in mixed]
        for number in range(300):
            (one,) = json.loads(answers[number][1])["answers"]
            new = [i for i in one["items"] if i.startswith("new")]
            if not new:  # an item added meanwhile may be among them
                assert (one["items"], one["scores"]) == (list(ids[number]), scores[number].tolist())
        for number in range(100):
            (one,) = json.loads(answers[300 + number][1])["answers"]
            if not any(i.startswith("new") for i in one["items"]):
                assert (one["items"], one["scores"]) == (list(like[0][number]), like[1][number].tolist())
        assert sum(b"new" not in answers[i][1] for i in range(300)) > 200
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        server, port, said = start(folder, str(journal))
        assert "40 items added again" in said
        status, body = asyncio.run(ask(port, "GET", "/health", b""))
        assert (status, json.loads(body)["items"]) == (200, ITEMS + 40)
        os.kill(server.pid, signal.SIGINT)
        assert server.wait(120) == 0
    finally:
        server.kill()
        server.communicate()
