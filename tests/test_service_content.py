"""Items added over HTTP by their texts and pictures."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_new_content import SAME, picture, saved, shop  # noqa: F401

pytest.importorskip("fastapi", reason="fastapi is not installed; pip install 'graphrec[serve]'")
pytest.importorskip("httpx2", reason="httpx2 is not installed; FastAPI's test client needs it")
from fastapi.testclient import TestClient

from graphrec.serving import Recommender
from graphrec.serving.http import schema
from graphrec.serving.http.journal import Journal
from graphrec.serving.http.live import LiveRecommender
from graphrec.serving.http.service import create_service


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def client(rec: Recommender, journal: Journal | None) -> TestClient:
    return TestClient(create_service(LiveRecommender(rec, "exact", journal)), raise_server_exceptions=False)


def test_an_item_is_added_by_its_content(saved: Path, tmp_path: Path) -> None:  # noqa: F811
    rec = Recommender.load(saved)
    content = {"text": ["a red garden chair", None], "image": [encoded(picture(3)), encoded(picture(99))]}
    with Journal(tmp_path / "journal") as journal:
        answer = client(rec, journal).post("/items", json={"ids": ["a", "b"], "content": content})
        assert answer.status_code == 201, answer.text
    vectors = rec.encode_content(["a", "b"], {"text": content["text"], "image": [picture(3), picture(99)]})
    with Journal(tmp_path / "journal") as journal:
        (kept,) = journal.additions
        np.testing.assert_allclose(kept.features["image"], vectors["image"], **SAME)
        assert kept.features["text"][1] is None
        rec.extractors = {}  # a replay needs the vectors alone
        again = LiveRecommender(rec, "exact", journal)
        assert (again.replayed, again.quarantined) == (2, [])
    expected = Recommender.load(saved).add_items(["a", "b"], vectors)
    given = again.recommender.item_vectors[[-2, -1]].toarray()
    np.testing.assert_allclose(given, expected.item_vectors[[-2, -1]].toarray(), **SAME)
    assert again.recommender.similar_items("a", 3)[0].tolist() == expected.similar_items("a", 3)[0].tolist()


def huge() -> bytes:
    """A small PNG of more pixels than are decoded."""
    file = io.BytesIO()
    Image.new("1", (5000, 5000)).save(file, "PNG")
    return file.getvalue()


def test_mistakes_name_the_field(saved: Path, tmp_path: Path) -> None:  # noqa: F811
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(1))
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"image": [str(secret)]}, 422, "content.image.0"),
        ({"image": ["no base64!"]}, 422, "content.image.0"),
        ({"text": [7]}, 422, "content.text.0"),
        ({"text": ["x" * (schema.TEXT + 1)]}, 422, "content.text.0"),
        ({"audio": ["x"]}, 422, "content.audio"),
        ({"text": ["red", "blue"]}, 400, "'text'"),
        ({"text": ["zzz"]}, 400, "'text' of item 'new'"),
        ({"image": [encoded(b"%!PS-Adobe")]}, 400, "'image' of item 'new'"),
        ({"image": [encoded(str(secret).encode())]}, 400, "'image' of item 'new'"),
        ({"image": [encoded(huge())]}, 400, "5000 x 5000"),
        ({"text": [None]}, 400, "'new'"),
    ]
    with Journal(tmp_path / "journal") as journal:
        http = client(Recommender.load(saved), journal)
        for content, status, fact in cases:
            answer = http.post("/items", json={"ids": ["new"], "content": content})
            assert answer.status_code == status, (content, answer.text)
            assert fact in answer.json()["error"], answer.text
        both = {"ids": ["new"], "content": {"text": ["red"]}, "features": {"text": [[1.0] * 16]}}
        assert "'text'" in http.post("/items", json=both).json()["error"]
        assert http.post("/items", json={"ids": ["new"]}).status_code == 400
        long = json.dumps({"ids": ["new"], "pad": "x" * schema.CONTENT})
        header = {"content-type": "application/json"}
        assert http.post("/items", content=long, headers=header).status_code == 413
        long = json.dumps({"users": ["u1"], "pad": "x" * schema.BODY})
        assert http.post("/recommend", content=long, headers=header).status_code == 413
        assert http.get("/health").json()["added"] == 0
    with Journal(tmp_path / "journal") as journal:
        assert journal.additions == []


def test_without_extractors_the_request_has_no_content(saved: Path, tmp_path: Path) -> None:  # noqa: F811
    rec = Recommender.load(saved)
    rec.extractors = {}
    with Journal(tmp_path / "journal") as journal:
        answer = client(rec, journal).post("/items", json={
            "ids": ["new"], "content": {"text": ["red"]}, "features": {"text": [[1.0] * 16]},
        })  # fmt: skip
        assert (answer.status_code, "content" in answer.json()["error"]) == (422, True)
