"""The server of the page of conversations: what it answers, what it refuses, what it never lets through."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from shop_agent import N_ITEMS, attributes, item, shop, title

pytest.importorskip("fastapi", reason="fastapi is not installed; pip install 'graphrec[serve]'")
pytest.importorskip("httpx2", reason="httpx2 is not installed; FastAPI's test client needs it")
from fastapi import FastAPI
from fastapi.testclient import TestClient

from graphrec.conversation.session import Session
from graphrec.conversation.web import app as web
from graphrec.conversation.web.app import create_app, serve
from graphrec.conversation.web.messages import MAX_EVENTS, MAX_LENGTH, MAX_LIKES
from graphrec.conversation.web.page import PAGE, POLICY
from graphrec.core.errors import ConfigError, MissingDependencyError
from graphrec.serving.http.guard import BODY

ROOT = Path(__file__).parent.parent
KINDS = {
    "binary": {},
    "enumerated": {"questions": "enumerated"},
    "random": {"policy": "random"},
    "posterior": {"policy": "recommend-when-sure:60", "belief": "posterior", "error": 0.05},
}


def client(agent=None, **options) -> TestClient:
    return TestClient(create_app(agent or shop(), **options), raise_server_exceptions=False)


def error(response, *statuses: int) -> str:
    """The one line a refusal says."""
    assert response.status_code in (statuses or (400, 404, 405, 413, 422)), response.text
    (said,) = response.json().values()
    assert "\n" not in said
    assert 0 < len(said) <= 600
    assert "Traceback" not in said
    return said


def honest(reply: dict, target: int) -> str | list[str] | None:
    """What somebody says who looks for an item."""
    if reply["kind"] == "recommendation":
        return item(target) if item(target) in [i["id"] for i in reply["items"]] else None
    has = attributes(target)
    if reply["values"]:
        return [v for v in reply["values"] if v in has]
    return "yes" if reply["question"] in has else "no"


def converse(to: TestClient, target: int, **start) -> list[dict]:
    """Every reply of a conversation, to the end."""
    replies = [to.post("/api/start", json=start).json()]
    while replies[-1]["kind"] in ("question", "recommendation"):
        last = replies[-1]
        sent = {"state": last["state"], "value": honest(last, target)}
        replies.append(to.post("/api/answer", json=sent).raise_for_status().json())
    return replies


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_over_the_wire_is_the_one_in_python(kind) -> None:
    agent = shop(**KINDS[kind])
    replies = converse(client(agent), 77, user="U1")
    session = Session.start(agent, "U1")
    for reply in replies[:-1]:
        turn = session.next()
        assert (reply["kind"], reply["number"], reply["remaining"]) == (
            turn.kind,
            turn.number,
            turn.remaining,
        )
        assert (reply["question"], reply["values"]) == (turn.question, list(turn.values))
        assert (reply["path"], reply["why"]) == (list(turn.path), turn.why)
        assert [(i["id"], i["title"], i["path"], i["why"]) for i in reply["items"]] == [
            (i.id, i.title, list(i.path), i.why) for i in turn.items
        ]
        assert reply["state"] == session.state()
        assert reply["total"] == N_ITEMS
        session.answer(honest(reply, 77))
    last = replies[-1]
    assert last["kind"] == "found"
    assert last["state"] == session.state()
    assert last["items"] == []
    shown = next(i for i in replies[-2]["items"] if i["id"] == item(77))
    assert last["found"] == shown
    assert shown["title"] == title(77)


def test_nothing_of_a_conversation_is_held_by_the_server() -> None:
    one, two = client(), client()
    replies = converse(one, 40)
    for before, after in pairwise(replies):
        sent = {"state": before["state"], "value": honest(before, 40)}
        assert two.post("/api/answer", json=sent).json() == after
        assert two.post("/api/next", json={"state": after["state"]}).json() == after
        assert one.post("/api/undo", json={"state": after["state"]}).json() == before
    first = replies[0]
    assert one.post("/api/undo", json={"state": first["state"]}).json() == first


def test_conversations_at_the_same_time_are_those_one_by_one() -> None:
    to, targets = client(), range(12)
    alone = [converse(to, t) for t in targets]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda t: converse(to, t), targets)) == alone


def test_a_conversation_begins_with_what_is_liked_and_known() -> None:
    to = client()
    reply = to.post("/api/start", json={"user": "U0", "likes": ["mug"]}).json()
    assert reply["remaining"] == sum("mug" in attributes(i) for i in range(N_ITEMS))
    assert reply["state"]["likes"] == ["mug"]
    assert reply["why"].startswith("you asked for mug")
    assert "nobody" in error(to.post("/api/start", json={"user": "nobody"}), 400)
    assert "Did you mean 'mug'" in error(to.post("/api/start", json={"likes": ["muug"]}), 400)


def test_attributes_are_found_by_any_part_of_their_names_the_commonest_first(monkeypatch) -> None:
    renamed = {"mug": "Straße", "vase": "house", "small": "HOUSEBOAT", "clay": "warehouse"}
    to = client(shop(renamed=renamed))
    n = {name: sum(name in attributes(i) for i in range(N_ITEMS)) for name in ("vase", "small", "clay")}
    assert n["small"] > n["vase"]
    found = to.get("/api/attributes", params={"q": "House "}).json()
    assert found == {"names": ["HOUSEBOAT", "house", "warehouse"], "total": 3}
    assert to.get("/api/attributes", params={"q": "STRASSE"}).json()["names"] == ["Straße"]
    everything = to.get("/api/attributes").json()
    assert everything["total"] == len(everything["names"]) == 24
    assert to.get("/api/attributes", params={"q": "no such thing"}).json() == {"names": [], "total": 0}
    error(to.get("/api/attributes", params={"q": "x" * (MAX_LENGTH + 1)}), 422)
    assert web.MAX_MATCHES == 50
    monkeypatch.setattr(web, "MAX_MATCHES", 5)
    found = client().get("/api/attributes").json()
    assert (len(found["names"]), found["total"]) == (5, 24)


def test_health_says_for_what_the_server_is_there() -> None:
    agent = shop()
    expected = {"status": "ok", "agent": agent.fingerprint, "items": N_ITEMS, "attributes": 24}
    assert client(agent).get("/health").json() == expected


def test_pictures_come_as_what_they_are(tmp_path) -> None:
    agent = shop(tmp_path)
    to = client(agent)
    got = to.get("/picture/P000")
    assert got.status_code == 200
    assert got.headers["content-type"] == "image/png"
    assert got.content == (tmp_path / "pictures/P000.png").read_bytes()
    assert "P006" not in agent.images
    error(to.get("/picture/P006"), 404)
    error(to.get("/picture/nothing"), 404)
    heads = {
        b"\xff\xd8\xff\xe0": "jpeg",
        b"GIF89a": "gif",
        b"RIFF1234WEBP": "webp",
        b"\0\0\0 ftypavif": "avif",
    }
    for head, kind in heads.items():
        (tmp_path / "pictures/P001.png").write_bytes(head + bytes(20))
        assert to.get("/picture/P001").headers["content-type"] == f"image/{kind}"
    for other in (b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<html>", b"", b"%PDF-1.7", b"RIFF1234WAVE"):
        (tmp_path / "pictures/P001.png").write_bytes(other)
        error(to.get("/picture/P001"), 404)


def test_nothing_outside_the_folder_of_pictures_is_shown(tmp_path) -> None:
    root = tmp_path / "shop"
    agent = shop(root)
    secret = tmp_path / "secret.png"
    secret.write_bytes((root / "pictures/P000.png").read_bytes())
    (root / "link.png").symlink_to(secret)
    beside = tmp_path / "shop-and-more"
    beside.mkdir()
    (beside / "a.png").write_bytes(secret.read_bytes())
    names = [
        "../secret.png", str(secret), "link.png", "pictures/../../secret.png", "../shop-and-more/a.png",
        "pictures", "x" * 5000, "a\0b", "", ".",
    ]  # fmt: skip
    to = client(agent)
    for name in names:
        agent.images["P000"] = name
        error(to.get("/picture/P000"), 404)
        reply = to.post("/api/start", json={}).json()
        assert reply["kind"] == "question"
    agent.images["P000"] = "pictures/../pictures/P001.png"
    assert to.get("/picture/P000").status_code == 200
    for path in (
        "../secret.png",
        "%2e%2e/secret.png",
        "..%2fsecret.png",
        "%2fetc%2fpasswd",
        "pictures/P000.png",
    ):
        error(to.get(f"/picture/{path}"), 404)
    agent.picture_root = None
    error(to.get("/picture/P001"), 404)


def test_replies_name_pictures_only_where_there_are_any(tmp_path) -> None:
    agent = shop(tmp_path, policy="abs-greedy", pictures=N_ITEMS, k=N_ITEMS)
    (tmp_path / agent.images["P001"]).unlink()
    items = client(agent).post("/api/start", json={}).json()["items"]
    assert len(items) == N_ITEMS
    named = {i["id"] for i in items if i["picture"] is not None}
    assert named == {item(i) for i in range(N_ITEMS) if i % 7 != 6 and i != 1}
    to = client(agent)
    assert all(to.get("/" + i["picture"]).status_code == 200 for i in items if i["picture"])


def states() -> dict:
    """A state that is going on, with one question and one recommendation answered."""
    to = client(shop(policy="ask-then-recommend:1"))
    reply = to.post("/api/start", json={"likes": ["clay"]}).json()
    for value in ("no", None):
        reply = to.post("/api/answer", json={"state": reply["state"], "value": value}).json()
    return reply["state"]


def test_answers_and_states_that_do_not_fit_are_refused_in_words() -> None:
    state, to = states(), client(shop(policy="ask-then-recommend:1"))
    events = state["events"]
    assert "was not recommended" in error(to.post("/api/answer", json={"state": state, "value": "P999"}), 400)
    for changed, words in (
        ({"agent": "0" * 64}, "was led by agent 000"),
        ({"format": 2}, "format 2"),
        ({"user": "nobody"}, "nobody"),
        ({"likes": ["nothing"]}, "nothing"),
        ({"likes": ["mug"]}, "event"),
        ({"events": [{**events[0], "answer": "maybe"}]}, "event 1"),
        ({"events": [{**events[0], "answer": ["no"]}]}, "event 1"),
        ({"events": [events[1]]}, "event 1"),
        ({"events": [events[0], {**events[1], "shown": []}]}, "event 2"),
        ({"events": [events[0], {**events[1], "chosen": "P999"}]}, "event 2"),
    ):
        for path in ("next", "undo"):
            said = error(to.post(f"/api/{path}", json={"state": {**state, **changed}}), 400)
            assert words in said
    over = {**events[1], "chosen": events[1]["shown"][0]}
    found = {**state, "events": [events[0], over]}
    assert to.post("/api/next", json={"state": found}).json()["kind"] == "found"
    assert "is over" in error(to.post("/api/answer", json={"state": found, "value": None}), 400)
    more = {**found, "events": [*found["events"], over]}
    assert "is over" in error(to.post("/api/next", json={"state": more}), 400)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b"3", b"\xff\xfe", b"[" * 60_000, b'{"user": NaN}', b'{"user": "\\ud800"}',
        b'{"user": 3}', b'{"likes": "mug"}', b'{"likes": [["mug"]]}', b'{"more": 1}', b'{"likes": null}',
        b'{"user": ' + b"9" * 5000 + b"}", b'{"user": true}',
    ],
    ids=lambda body: body[:20].decode("latin-1"),
)  # fmt: skip
def test_bodies_that_are_nothing_are_refused_in_words(body) -> None:
    error(client().post("/api/start", content=body, headers={"content-type": "application/json"}), 400, 422)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["yes", "P001"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(field=st.sampled_from(["format", "agent", "user", "likes", "events"]), value=JSON, said=JSON)
def test_no_state_whatever_makes_the_server_stumble(field, value, said) -> None:
    to, state = STUMBLE
    for changed in (value, [value], [{"asked": value, "answer": said}], [{"shown": [value], "chosen": said}]):
        sent = json.dumps({"state": {**state, field: changed}, "value": said})
        answer = to.post("/api/answer", content=sent, headers={"content-type": "application/json"})
        if answer.status_code != 200:
            error(answer)


STUMBLE = client(shop(policy="ask-then-recommend:1")), states()


def test_what_is_too_long_is_refused() -> None:
    to, state = STUMBLE
    long = b'{"user": "' + b"x" * BODY + b'"}'
    assert "64 KB" in error(to.post("/api/start", content=long), 413)
    pieces = (long[i : i + 1000] for i in range(0, len(long), 1000))
    assert "64 KB" in error(to.post("/api/start", content=pieces), 413), "also when no length is declared"
    error(to.post("/api/start", content=b"{}", headers={"content-length": "9" * 30}), 413)
    name = "x" * (MAX_LENGTH + 1)
    for sent in ({"user": name}, {"likes": [name]}, {"likes": ["mug"] * (MAX_LIKES + 1)}):
        error(to.post("/api/start", json=sent), 422)
    many = {**state, "events": [{"asked": "mug", "answer": "no"}] * (MAX_EVENTS + 1)}
    assert str(MAX_EVENTS) in error(to.post("/api/next", json={"state": many}), 422)
    many["events"] = many["events"][:MAX_EVENTS]
    assert "event 1" in error(to.post("/api/next", json={"state": many}), 400)


def test_a_defect_is_a_500_that_tells_nothing(monkeypatch) -> None:
    agent = shop()

    def broken(*_: object) -> None:
        raise RuntimeError("the secret of /a/path")

    monkeypatch.setattr(Session, "start", broken)
    answer = client(agent).post("/api/start", json={})
    assert "log" in error(answer, 500)
    assert "secret" not in answer.text
    assert answer.headers["content-security-policy"] == POLICY


def test_every_answer_tells_browsers_what_they_may_do(tmp_path) -> None:
    to = client(shop(tmp_path))
    long = to.post("/api/start", content=b"x" * (BODY + 1))
    answers = [to.get(p) for p in ("/", "/health", "/nothing", "/picture/P000", "/picture/x", "/favicon.ico")]
    for answer in [*answers, long, to.put("/api/start"), to.post("/api/start", json={"user": "nobody"})]:
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        private = str(answer.url).endswith("/picture/P000")
        assert answer.headers["cache-control"] == ("private, max-age=3600" if private else "no-store")
    error(answers[2], 404)
    error(to.put("/api/start"), 405)


def test_the_page_runs_its_own_script_and_nothing_else() -> None:
    answer = client().get("/")
    assert answer.text == PAGE
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    (script,) = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", PAGE, re.DOTALL)
    for text, directive in ((script, "script-src"), (style, "style-src")):
        hashed = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{hashed}';" in POLICY
    assert "unsafe" not in POLICY
    assert not re.search(r"https?://|//\w+\.|@import|url\(", PAGE), "nothing is loaded from elsewhere"
    assert not re.search(r"<[^>]+\s(on\w+|style)=", PAGE)
    assert not re.search(r"[\"'`]/?(?:/|\.\.)\w", script), (
        "addresses are relative, so it may lie below a path"
    )
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser"):
        assert way not in script


def test_names_and_titles_are_sent_as_they_are() -> None:
    odd = '<script>alert(1)</script> "><img src=x onerror=alert(2)> \u202e \0'
    agent = shop(policy="abs-greedy", titles={item(i): odd for i in range(N_ITEMS)}, renamed={"mug": odd})
    to = client(agent)
    answer = to.post("/api/start", json={"likes": [odd]})
    assert answer.json()["items"][0]["title"] == odd
    assert answer.headers["content-type"] == "application/json"
    agent.titles.update({item(i): "half \ud83d" for i in range(N_ITEMS)})
    assert to.post("/api/start", json={}).json()["items"][0]["title"] == "half ?"


def test_requests_meant_for_another_name_are_turned_away() -> None:
    to = client(hosts=("127.0.0.1", "localhost", "[::1]"))
    for host in ("127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:8000"):
        assert to.get("/health", headers={"host": host}).status_code == 200, host
    for host in (
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "",
        "[::2]",
        "127.0.0.1.nip.io",
    ):
        assert "open it as 127.0.0.1" in error(to.get("/health", headers={"host": host}), 400), host


def test_the_interface_describes_itself() -> None:
    described = client().get("/openapi.json").json()
    assert {"/api/start", "/api/next", "/api/answer", "/api/undo"} <= set(described["paths"])
    assert "found" in described["components"]["schemas"]["Reply"]["properties"]
    error(client().get("/docs"), 404)


def test_it_may_lie_below_a_path(tmp_path) -> None:
    outer = FastAPI()
    outer.mount("/talk", create_app(shop(tmp_path, policy="abs-greedy", pictures=N_ITEMS)))
    to = TestClient(outer)
    assert to.get("/talk/").text == PAGE
    items = to.post("/talk/api/start", json={}).json()["items"]
    assert to.get(f"/talk/{items[0]['picture']}").headers["content-type"] == "image/png"


def test_where_nothing_can_listen_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1:{port}.*give another"):
            serve(shop(), port=port)
    for host, port in (("no.such.host.invalid", 0), ("127.0.0.1", 99999), ("::zz", 0)):
        with pytest.raises(ConfigError, match="cannot listen"):
            serve(shop(), host, port)


def test_a_missing_server_is_named_with_the_extra_that_brings_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingDependencyError, match=r"uvicorn is not installed.*graphrec\[serve\]"):
        serve(shop())


def test_served_on_a_free_port_it_answers_and_ends_quietly_on_ctrl_c() -> None:
    code = (
        "from shop_agent import shop; from graphrec.conversation.web.app import serve; serve(shop(), port=0)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=ROOT / "tests",
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )  # fmt: skip
    try:
        line = process.stderr.readline()
        address = re.match(r"(http://127\.0\.0\.1:\d+/): open it in a browser", line).group(1)
        with urllib.request.urlopen(address + "health", timeout=120) as answer:
            assert json.load(answer)["items"] == N_ITEMS
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0
    assert rest == ""


def test_the_page_is_part_of_the_package() -> None:
    folder = ROOT / "graphrec" / "conversation" / "web"
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packed = {
        path.name for pattern in package_data["graphrec.conversation.web"] for path in folder.glob(pattern)
    }
    assert {p.name for p in folder.iterdir() if p.is_file() and p.suffix != ".py"} == packed


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"origin": "http://testserver"}, 200),
    ],
)
def test_pages_of_other_sites_cannot_converse(headers, status: int) -> None:
    headers = {"content-type": "application/json", **headers}
    assert client().post("/api/start", content=b"{}", headers=headers).status_code == status


def test_no_answer_names_a_user_that_the_request_does_not() -> None:
    said = error(client().post("/api/start", json={"user": "U1x"}), 400, 404)
    assert "'U1x'" in said
    assert "mean" not in said
