"""Secrets of a language model's server: sent to it, and found in no file and no stream of a run."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, quote_plus

import pytest

pytest.importorskip("openai", reason="the extra llm is not installed")

from chat_server import Answer, Server, serving

from graphrec import testing
from graphrec.cli.main import main
from graphrec.core.errors import ConfigError, FeatureError
from graphrec.data import Content
from graphrec.features.extract import extractor
from graphrec.features.extract.llm.client import Chat
from graphrec.features.extract.llm.endpoint import Endpoint

USER = "shopkeeper"
PASSWORD = 'pa"ss/wörd&17'
QUERY_KEY = "q-79é31-key"
API_KEY = "sk-not-to-be-seen"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def secret_url(server: Server, user: bool = True) -> str:
    login = f"{USER}:{quote(PASSWORD, safe='')}@" if user else ""
    return server.url.replace("://", f"://{login}") + f"?version=2&key={quote(QUERY_KEY)}"


def traces(found: bytes) -> list[str]:
    """The secrets that occur in some bytes, in any of their usual forms."""
    wanted = []
    for secret in (PASSWORD, QUERY_KEY, API_KEY, BASIC):
        forms = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
        forms.add(json.dumps(secret, ensure_ascii=False)[1:-1])
        forms.add(secret.replace("/", "\\/"))
        wanted += [secret for form in forms if form.encode() in found]
    return wanted


def careless(box: list[Server], status: int, user: bool):
    """An answer function that repeats the secrets it was sent in its body and headers."""

    def answer(request: dict, _: int) -> Answer:
        sent = f"{PASSWORD} {BASIC}" if user else API_KEY
        text = f"{box[0].keys[-1]} {box[0].requests[-1]['path']} {QUERY_KEY} {sent}"
        headers = {"x-echo": quote(text), "location": f"http://elsewhere.invalid/v1?key={quote(QUERY_KEY)}"}
        if "input" in request and status == 200:
            rows = [{"index": i, "embedding": [1.0, len(t)]} for i, t in enumerate(request["input"])]
            return Answer(body=json.dumps({"data": rows, "model": text}).encode(), headers=headers)
        if status == 200:
            request["model"] = text
        return Answer(text=text, status=status, headers=headers)

    return answer


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    data, _ = testing.communities(2, 6)
    data = data.with_content(text=Content("text", [f"item {i} of oak" for i in range(data.n_items)]))
    data.save(tmp_path / "shop")
    return tmp_path / "shop"


@pytest.mark.parametrize("user", [True, False])
@pytest.mark.parametrize("status", [200, 307, 401, 418, 500])
def test_no_file_and_no_stream_of_a_run_holds_a_secret(
    shop: Path, tmp_path: Path, status: int, user: bool, monkeypatch, capfd, caplog
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "openai")
    box: list[Server] = []
    outputs = []
    with serving(careless(box, status, user)) as server:
        box.append(server)
        url = secret_url(server, user)
        for arguments in (
            ["llm", "profiles", str(shop), "--model", "m", "--base-url", url, "--set", "chat.retries=0"],
            ["features", "build", str(shop), "--text", "openai", "--set", f"text.base_url={url}",
             "--set", "text.retries=0"],
            ["features", "build", str(shop), "--set", f"txt.base_url={url}"],
            ["features", "status", str(shop)],
        ):  # fmt: skip
            with pytest.raises(SystemExit):
                main(["--debug", *arguments])
            outputs.append("".join(capfd.readouterr()).encode())
        outputs.append(caplog.text.encode())
        assert b"POST" in outputs[-1]
        n_requests = len(server.requests)
        expected = f"Basic {BASIC}" if user else f"Bearer {API_KEY}"
        assert set(server.keys) == {expected}
        for request in server.requests:
            path, _, query = request["path"].partition("?")
            assert path in ("/v1/chat/completions", "/v1/embeddings")
            assert query == f"version=2&key={quote(QUERY_KEY)}"
    assert n_requests >= 2
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    if status == 200:
        assert any(p.name == "responses.jsonl" and b"***" in p.read_bytes() for p in files)
        assert any(b"127.0.0.1" in p.read_bytes() for p in files if p.name == "manifest.json")
    elif status != 307:
        assert all(b"127.0.0.1" in output for output in outputs[:2]), outputs
    else:
        assert all(b"http://elsewhere.invalid/v1" in output for output in outputs[:2])
    leaks = {str(p): traces(p.read_bytes()) for p in files} | dict(enumerate(map(traces, outputs)))
    assert not {where: found for where, found in leaks.items() if found}


def test_the_search_for_secrets_finds_them() -> None:
    for text in (PASSWORD, quote(PASSWORD), json.dumps({"a": QUERY_KEY}), BASIC, f"Bearer {API_KEY}"):
        assert traces(text.encode())


def test_redirects_are_not_followed() -> None:
    with serving(lambda r, n: Answer("1::2")) as other:
        there = f"{other.url}/chat/completions?key=1"
        with serving(lambda r, n: Answer(status=307, headers={"location": there})) as server:
            with pytest.raises(FeatureError, match=r"307") as raised:
                Chat("m", server.url, retries=3).ask([{"role": "user", "content": "x"}])
            assert len(server.requests) == 1
        assert not other.requests
    assert f"{other.url}/chat/completions/" in str(raised.value)
    assert "key=1" not in str(raised.value)


def test_an_endpoint_cannot_be_printed_and_can_be_sent_to_a_worker(monkeypatch, caplog) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
    url = f"https://{USER}:{quote(PASSWORD, safe='')}@h.example:8443/v1?key={quote(QUERY_KEY)}"
    endpoint = Endpoint(url)
    made = extractor("openai", base_url=url)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("x").info("%s %r %s", endpoint, made.__dict__, vars(endpoint))
    shown = f"{endpoint} {endpoint!r} {vars(endpoint)} {made.__reduce__()} {made.describe()} {caplog.text}"
    assert not traces(shown.encode())
    assert str(endpoint) == "https://h.example:8443/v1/"
    restore, parts = endpoint.__reduce__()  # what is pickled for a worker
    assert API_KEY not in parts[0].get_secret_value()
    request = SimpleNamespace(headers={}, extensions={}, url=SimpleNamespace(raw_path=b"/v1/x"))
    with restore(*parts).authorized(request):
        assert request.headers["authorization"] == f"Basic {BASIC}"
    assert request.headers == {}


@pytest.mark.parametrize(
    "url", [f"http://a:{API_KEY}/x@h/v1", f"{API_KEY}@h/v1", f"ftp://a:{API_KEY}@h/v1", f"http://[{API_KEY}"]
)
def test_a_url_that_is_not_valid_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError, match="base URL") as raised:
        Endpoint(url)
    assert API_KEY not in str(raised.value)
    assert raised.value.__context__ is None or API_KEY not in str(raised.value.__context__)


def test_a_key_given_as_the_name_of_its_variable_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="key_variable") as raised:
        Endpoint("http://h/v1", API_KEY)
    assert API_KEY not in str(raised.value)
    with serving(lambda r, n: Answer(status=401)) as server, pytest.raises(FeatureError) as refused:
        Chat("m", server.url, key_variable="sk_given_by_mistake").ask([{"role": "user", "content": "x"}])
    assert "sk_given_by_mistake" not in str(refused.value)


def test_short_placeholders_change_no_reply(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "oak")
    with serving(lambda r, n: Answer("a table of oak, key Bearer oak")) as server:
        reply = Chat("m", server.url).ask([{"role": "user", "content": "x"}])
    assert reply.text == "a table of oak, key ***"
