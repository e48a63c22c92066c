"""Vectors of texts from a server on loopback, through the store."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("openai", reason="the extra llm is not installed")

from chat_server import Answer, serving

from graphrec import testing
from graphrec.core.errors import ConfigError, FeatureError
from graphrec.data import Content
from graphrec.features import FeatureStore
from graphrec.features.extract import extractor
from graphrec.features.extract.extraction import extract


def embedded(request: dict, _: int) -> Answer:
    """Five values of each text, in another order than asked."""
    data = [
        {"object": "embedding", "index": i, "embedding": [len(text), text.count("a"), 1.0, 0.5, -2.0]}
        for i, text in enumerate(request["input"])
    ]
    body = {
        "object": "list",
        "model": request["model"],
        "data": data[::-1],
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }
    return Answer(body=json.dumps(body).encode())


def test_texts_are_sent_in_batches_and_come_back_in_order(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    data, _ = testing.communities(2, 10)
    texts = [None if i == 3 else "a" * (i + 1) + "b" for i in range(data.n_items)]
    data = data.with_content(text=Content("text", texts))
    with serving(embedded) as server:
        made = extractor("openai", model="tiny", base_url=server.url, batch_size=6)
        table = extract(data, "text", made, FeatureStore(tmp_path))
        sizes = [len(r["input"]) for r in server.requests]
        extract(
            data,
            "text",
            extractor("openai", model="tiny", base_url=server.url, batch_size=6),
            FeatureStore(tmp_path),
        )
        assert len(server.requests) == len(sizes), "what is finished is not asked for again"
    assert max(sizes) == 6
    assert table.dim == 5
    assert not table.present[3]
    assert table.numpy()[4].tolist() == [6.0, 5.0, 1.0, 0.5, -2.0]
    assert server.keys[0] == "Bearer sk-secret"
    assert "secret" not in json.dumps(table.meta)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(body=b"{}"), "127.0.0.1|localhost"),
        (Answer(body=b'{"data": []}'), "1 texts"),
        (Answer(body=b'{"data": [{"index": 5, "embedding": [1.0]}]}'), "1 texts"),
        (Answer(body=b'{"data": [{"index": 0, "embedding": ["x"]}]}'), "127.0.0.1|localhost"),
        (Answer(status=401), "OPENAI_API_KEY"), (Answer(status=404), "--base-url"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(answer, says) -> None:
    with serving(lambda r, n: answer) as server:
        made = extractor("openai", model="tiny", base_url=server.url, retries=0)
        with pytest.raises(FeatureError, match=says):
            made.encode(["one"])


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size 0"):
        extractor("openai", batch_size=0)
