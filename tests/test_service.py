"""The service of recommendations: what it answers, what it refuses, what it never loses."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from test_recommender_index import DIM, ITEMS, USERS, catalog, clustered
from tolerances import SCORE

pytest.importorskip("fastapi", reason="fastapi is not installed; pip install 'graphrec[serve]'")
pytest.importorskip("httpx2", reason="httpx2 is not installed; FastAPI's test client needs it")
pytest.importorskip("faiss", reason="faiss is not installed; pip install 'graphrec[ann]'")
from fastapi.testclient import TestClient

from graphrec.core.errors import CheckpointError, ConfigError, DataError, FeatureError, UnknownIdError
from graphrec.data import Vocabulary
from graphrec.models.fold_in import LeastSquaresFoldIn
from graphrec.serving import Recommender
from graphrec.serving.http import journal as journal_module, live as served_module, schema
from graphrec.serving.http.journal import Addition, Journal
from graphrec.serving.http.live import LiveRecommender, Options
from graphrec.serving.http.service import create_service


@pytest.fixture(scope="module")
def rec(tmp_path_factory) -> Recommender:
    place = tmp_path_factory.mktemp("served")
    made = catalog()
    made.save(place)
    made.build_index(place, recall=0.9, lists=50)
    return made


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "added.journal") as opened:
        yield opened


def client(served: LiveRecommender, **options) -> TestClient:
    return TestClient(create_service(served, **options), raise_server_exceptions=False)


def error(response, status: int) -> str:
    """The one line a refusal says."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (said,) = response.json().values()
    assert "\n" not in said
    assert 0 < len(said) <= 600
    return said


def expected(answer, names) -> dict:
    """What the service makes of a recommender's answer."""
    rows = []
    for name, ids, scores in zip(names, *answer, strict=True):
        found = [(i, s) for i, s in zip(ids, scores.tolist(), strict=True) if i is not None]
        rows.append({"id": name, "items": [i for i, _ in found], "scores": [s for _, s in found]})
    return {"answers": rows}


def line(n: int, seed: int = 9) -> Addition:
    """Items to be added."""
    values = clustered(n, seed).astype(float).tolist()
    return Addition([f"new{seed}-{i}" for i in range(n)], {"text": values})


# -- answering -----------------------------------------------------------------------------------------------


def test_answers_are_the_recommenders(rec) -> None:
    to = client(LiveRecommender(rec))
    names = ["u3", "u9", "u3"]
    some = [f"i{i}" for i in range(0, ITEMS, 11)]
    for options in (
        {},
        {"k": 1000},
        {"k": 3, "exclude_seen": False},
        {"only": some, "k": 400},
        {"only": []},
        {"exclude": some},
        {"only": some[:9], "exclude": some[:4], "exclude_seen": False},
    ):
        answer = to.post("/recommend", json={"users": names, **options})
        assert answer.status_code == 200, answer.text
        assert answer.json() == expected(rec.recommend(names, **options), names)
    mixed = {"users": ["u1", "nobody"], "unknown": "popularity"}
    found = rec.recommend(mixed["users"], unknown="popularity")
    assert to.post("/recommend", json=mixed).json() == expected(found, mixed["users"])
    alike = to.post("/similar", json={"items": ["i5", "i6"], "k": 4})
    assert alike.json() == expected(rec.similar_items(["i5", "i6"], 4), ["i5", "i6"])


@pytest.mark.parametrize("search", ["exact", "approximate", "auto"])
def test_the_server_searches_as_it_is_told(rec, search: str) -> None:
    to, names = client(LiveRecommender(rec, search)), [f"u{i}" for i in range(100)]
    answer = to.post("/recommend", json={"users": names, "k": 20}).json()
    assert answer == expected(rec.recommend(names, 20, search=search), names)
    assert to.get("/health").json()["approximate"] == (search != "exact")
    alike = to.post("/similar", json={"items": ["i5"], "k": 20}).json()
    assert alike == expected(rec.similar_items(["i5"], 20, search=search), ["i5"])


def test_an_index_is_needed_for_approximate_answers(tmp_path) -> None:
    plain = catalog()
    with pytest.raises(ConfigError, match="no index; build one with graphrec index"):
        LiveRecommender(plain, "approximate")
    plain.save(tmp_path)
    plain.build_index(tmp_path, similar=False, lists=9)
    to = client(LiveRecommender(plain, "approximate"))
    assert to.post("/similar", json={"items": ["i5"]}).json() == expected(plain.similar_items(["i5"]), ["i5"])


def test_requests_are_answered_together_and_each_as_if_alone(rec) -> None:
    served = LiveRecommender(rec)
    requests = [
        (["u1", "u2"], Options(5)),
        (["u3"], Options(7)),
        (["u4", "nobody"], Options(5)),
        (["nobody"], Options(5, unknown="popularity")),
        (["u5"], Options(5)),
        (["u6"], Options(5, only=("i1", "i9x"))),
        (["u6"], Options(5, only=("i1", "i9"))),
        (["u7", "u7"], Options(5)),
    ]
    found = served.recommend(requests)
    assert "user 'nobody'" in str(found[2])
    assert "item 'i9x'" in str(found[5])
    for number in (0, 1, 3, 4, 6, 7):
        alone = served.recommend([requests[number]])[0]
        assert np.array_equal(found[number][0], alone[0])
        assert np.array_equal(found[number][1], alone[1])
        assert len(alone[0]) == len(requests[number][0])


def test_health_says_what_is_served(rec, journal) -> None:
    told = client(LiveRecommender(rec, journal=journal)).get("/health").json()
    assert told == {
        "status": "ok", "model": "made", "users": USERS, "items": ITEMS, "added": 0, "quarantined": 0,
        "approximate": True, "takes_items": True,
    }  # fmt: skip
    assert client(LiveRecommender(rec)).get("/health").json()["takes_items"] is False


# -- refusing ------------------------------------------------------------------------------------------------


def test_what_is_not_known_is_a_404(rec) -> None:
    to = client(LiveRecommender(rec))
    assert "user 'u99x'" in error(to.post("/recommend", json={"users": ["u1", "u99x"]}), 404)
    assert "item 'x'" in error(to.post("/recommend", json={"users": ["u1"], "exclude": ["x"]}), 404)
    assert "item 'x'" in error(to.post("/similar", json={"items": ["x"]}), 404)
    error(to.get("/elsewhere"), 404)
    for path in ("/docs", "/redoc"):
        error(to.get(path), 404)
    refused = to.get("/recommend")
    error(refused, 405)
    assert refused.headers["allow"] == "POST"


def test_no_answer_names_an_id_that_the_request_does_not(rec) -> None:
    """The message on a terminal suggests the closest id; to a stranger it would tell a customer's."""
    rec = copy.copy(rec)
    rec.users = Vocabulary(["c10@shop.example", *list(rec.users.ids)[1:]], "user")
    with pytest.raises(UnknownIdError, match=r"mean 'c10@shop\.example'"):
        rec.recommend("c11@shop.example")
    to = client(LiveRecommender(rec))
    strict = {"users": ["c11@shop.example"], "unknown": "error"}
    for path, body in (
        ("/recommend", strict),
        ("/recommend", {**strict, "users": ["u1"], "only": ["i10x"]}),
        ("/similar", {"items": ["i10x"]}),
    ):
        said = error(to.post(path, json=body), 404)
        assert "mean" not in said
        assert "c10" not in said
        assert "'i10'" not in said


FOREIGN = (
    ({"origin": "http://evil.example"}, 403),
    ({"origin": "null"}, 403),
    ({"origin": "http://testserver:81"}, 403),
    ({"origin": "http://eviltestserver"}, 403),
    ({"sec-fetch-site": "cross-site", "origin": "http://testserver"}, 403),
    ({"sec-fetch-site": "same-site"}, 403),
    ({"content-type": ""}, 415),
    ({"content-type": "text/plain"}, 415),
    ({"content-type": "application/x-www-form-urlencoded"}, 415),
    ({"content-type": "multipart/form-data; boundary=application/json"}, 415),
    ({"content-type": "text/plain;application/json"}, 415),
    ({"origin": "http://testserver"}, 201),
    ({"sec-fetch-site": "same-origin", "origin": "https://proxy.example"}, 201),
    ({"sec-fetch-site": "none"}, 201),
    ({"content-type": "application/json; charset=utf-8"}, 201),
    ({}, 201),
)


@pytest.mark.parametrize(("headers", "status"), FOREIGN)
def test_pages_of_other_sites_cannot_post(rec, journal, headers, status: int) -> None:
    to = client(LiveRecommender(rec, journal=journal))
    body = json.dumps(line(1)._asdict()).encode()
    answer = to.post("/items", content=body, headers={"content-type": "application/json", **headers})
    if status == 201:
        assert answer.status_code == 201, answer.text
    else:
        error(answer, status)
        assert answer.headers["cache-control"] == "no-store"
    assert to.get("/health", headers=headers).json()["added"] == (status == 201)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "users"),
        ({"users": []}, "users"),
        ({"users": ["u1"] * (schema.USERS + 1)}, "users"),
        ({"users": "u1"}, "users"),
        ({"users": [7]}, "users"),
        ({"users": [""]}, "users"),
        ({"users": ["u" * (schema.LENGTH + 1)]}, "users"),
        ({"users": ["u1"], "k": 0}, "k"),
        ({"users": ["u1"], "k": schema.K + 1}, "k"),
        ({"users": ["u1"], "k": "3"}, "k"),
        ({"users": ["u1"], "k": 2.5}, "k"),
        ({"users": ["u1"], "k": True}, "k"),
        ({"users": ["u1"], "only": ["i1"] * (schema.LIMITS + 1)}, "only"),
        ({"users": ["u1"], "exclude": ["i1"] * (schema.LIMITS + 1)}, "exclude"),
        ({"users": ["u1"], "unknown": "ignore"}, "unknown"),
        ({"users": ["u1"], "exclude_seen": 1}, "exclude_seen"),
        ({"users": ["u1"], "more": 1}, "more"),
        ([], "body"),
        (None, "body"),
    ],
)
def test_limits_on_what_is_asked(rec, body, where: str) -> None:
    assert where in error(client(LiveRecommender(rec)).post("/recommend", json=body), 422)


def test_bodies_that_are_no_json_or_too_long(rec) -> None:
    to, kind = client(LiveRecommender(rec)), {"content-type": "application/json"}
    for body in (b"{", b"\xff\xfe", b"[" * 5000, b'{"users": ["\\ud800"]}'):
        answer = to.post("/recommend", content=body, headers=kind)
        error(answer, 400 if answer.status_code == 400 else 422)
    body = json.dumps({"users": ["u1"]}).encode()
    fits = body + b" " * (schema.BODY - len(body))
    assert to.post("/recommend", content=fits, headers=kind).status_code == 200
    for path in ("/recommend", "/similar", "/items"):
        assert "1024 KB" in error(to.post(path, content=fits + b" ", headers=kind), 413)
    assert "1024 KB" in error(to.post("/similar", content=iter([fits, b" "]), headers=kind), 413)


def test_requests_for_another_name_are_turned_away(rec) -> None:
    to = client(LiveRecommender(rec), hosts=["localhost"])
    assert to.get("/health", headers={"host": "localhost:8000"}).status_code == 200
    error(to.get("/health", headers={"host": "elsewhere"}), 400)
    assert to.get("/health", headers={"host": "localhost"}).headers["cache-control"] == "no-store"


def test_a_defect_is_a_500_that_tells_nothing(rec, monkeypatch) -> None:
    served = LiveRecommender(rec)
    monkeypatch.setattr(served, "recommend", lambda _: 1 / 0)
    assert "division" not in error(client(served).post("/recommend", json={"users": ["u1"]}), 500)


# -- adding --------------------------------------------------------------------------------------------------


def test_added_items_are_recommended_and_kept(rec, tmp_path) -> None:
    path = tmp_path / "deep" / "added.journal"
    star = (10 * rec.user_vectors[4]).astype(float).tolist()
    with Journal(path) as kept:
        served = LiveRecommender(rec, journal=kept)
        to = client(served)
        answer = to.post("/items", json={"ids": ["star"], "features": {"text": [star]}})
        assert (answer.status_code, answer.json()) == (201, {"added": 1, "items": ITEMS + 1})
        assert to.post("/items", json=line(3)._asdict()).json()["items"] == ITEMS + 4
        assert to.post("/recommend", json={"users": ["u4"]}).json()["answers"][0]["items"][0] == "star"
        assert to.get("/health").json()["added"] == 4
        asked_of = {"users": ["u4", "u5"], "k": 30, "exclude": ["new9-1"]}
        before = to.post("/recommend", json=asked_of).json()
        assert rec.n_items == ITEMS, "the one that was given is not changed"
    with Journal(path) as kept:
        again = LiveRecommender(rec, journal=kept)
        assert (again.replayed, again.known) == (4, 0)
        to = client(again)
        after = to.post("/recommend", json=asked_of).json()
        for one, other in zip(after["answers"], before["answers"], strict=True):
            assert one["items"] == other["items"]
            assert np.allclose(one["scores"], other["scores"], rtol=SCORE, atol=SCORE)
        assert to.get("/health").json() == {**to.get("/health").json(), "items": ITEMS + 4, "added": 4}
        to.post("/items", json=line(1, 10)._asdict())
    saved = again.recommender.save(tmp_path / "saved")
    with Journal(path) as kept:
        retrained = LiveRecommender(
            Recommender.load(saved), journal=kept
        )  # it has learned about them meanwhile
        assert (retrained.replayed, retrained.known) == (0, 5)


def test_additions_that_cannot_be_are_refused_and_leave_nothing(rec, journal) -> None:
    to, good = client(LiveRecommender(rec, journal=journal)), [1.0] * DIM
    for body, status, said in (
        ({"ids": ["i5"], "features": {"text": [good]}}, 409, "known already"),
        ({"ids": ["a", "a"], "features": {"text": [good, good]}}, 409, "more than once"),
        ({"ids": ["a\0b"], "features": {"text": [good]}}, 409, "NUL"),
        ({"ids": ["a"], "features": {"text": [None]}}, 400, "no content"),
        ({"ids": ["a"], "features": {}}, 400, "no content"),
        ({"ids": ["a", "b"], "features": {"text": [good]}}, 400, "shape"),
        ({"ids": ["a"], "features": {"text": [good[1:]]}}, 422, "text"),
        ({"ids": ["a"], "features": {"image": [good]}}, 422, "image"),
        ({"ids": [], "features": {"text": []}}, 422, "ids"),
        ({"ids": ["a"], "features": {"text": [["1"] * DIM]}}, 422, "text"),
        ({"ids": ["a"], "features": {"text": [[1e39] * DIM]}}, 422, "text"),
    ):
        assert said in error(to.post("/items", json=body), status)
    nan = json.dumps({"ids": ["a"], "features": {"text": [[float("nan")] * DIM]}})
    error(to.post("/items", content=nan, headers={"content-type": "application/json"}), 422)
    journal.close()
    with Journal(journal.path) as again:
        assert again.additions == []
    assert to.get("/health").json()["items"] == ITEMS
    error(client(LiveRecommender(rec)).post("/items", json={"ids": ["a"], "features": {"text": [good]}}), 403)


def test_a_full_disk_adds_nothing(rec, journal) -> None:
    served = LiveRecommender(rec, journal=journal)
    to = client(served)
    assert to.post("/items", json=line(2, 1)._asdict()).status_code == 201
    journal._database.execute("PRAGMA max_page_count = 1")  # SQLite's own full disk
    large = line(100, 2)._asdict()
    assert "full" in error(to.post("/items", json=large), 503)
    assert to.get("/health").json()["items"] == ITEMS + 2
    journal._database.execute("PRAGMA max_page_count = 100000")
    assert to.post("/items", json=large).status_code == 201
    journal.close()
    with Journal(journal.path) as again:
        assert [len(a.ids) for a in again.additions] == [2, 100]


def rows(path) -> int:
    """Additions that another process sees, which is what a restarted server would read."""
    count = "sqlite3.connect(sys.argv[1]).execute('SELECT COUNT(*) FROM additions').fetchone()[0]"
    code = f"import sqlite3, sys; print({count})"
    return int(subprocess.run([sys.executable, "-c", code, path], stdout=subprocess.PIPE, check=True).stdout)


def test_nothing_is_acknowledged_before_it_is_on_the_disk(rec, journal, monkeypatch) -> None:
    served, order = LiveRecommender(rec, journal=journal), []
    append = journal.append

    def observed(addition: Addition) -> None:
        before = rows(journal.path), served.recommender.n_items
        append(addition)
        order.append((before, (rows(journal.path), served.recommender.n_items)))

    monkeypatch.setattr(journal, "append", observed)
    served.add(line(1))
    assert order == [((0, ITEMS), (1, ITEMS))], "committed, then acknowledged"
    assert served.recommender.n_items == ITEMS + 1
    settings = [
        journal._database.execute(f"PRAGMA {p}").fetchone()[0] for p in ("journal_mode", "synchronous")
    ]
    assert settings == ["delete", 3], "every commit is synchronized, with the directory"


def delete(path: Path) -> None:
    path.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_suffix(".old"))


def replace(path: Path) -> None:
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 4096 // 2 * 4096)


def cut_within_a_page(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def extend(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 4096)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(b"new1-0") + 3)
        file.write(b"8")


def overwrite_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\0" * 4096)


def put_earlier_copy(path: Path) -> None:
    with Journal(path.with_suffix(".other")) as other:
        other.append(line(2, 1))
    with path.open("r+b") as file:  # in place, so that device and inode stay
        file.write(path.with_suffix(".other").read_bytes())
        file.truncate()


HARM = (
    delete, rename, replace, empty, cut, cut_within_a_page, extend, overwrite, overwrite_page,
    put_earlier_copy,
)  # fmt: skip


@pytest.mark.parametrize("harm", HARM)
def test_a_journal_harmed_under_the_server_takes_nothing(rec, journal, harm) -> None:
    served = LiveRecommender(rec, journal=journal)
    to = client(served)
    for number in (1, 2):
        assert to.post("/items", json=line(40, number)._asdict()).status_code == 201
    harm(journal.path)
    for _ in range(2):
        refused = error(to.post("/items", json=line(1, 3)._asdict()), 503)
        assert str(journal.path) in refused
    assert to.get("/health").json()["items"] == ITEMS + 80


@pytest.mark.parametrize("harm", HARM)
def test_a_journal_harmed_while_no_server_ran_is_refused(journal, harm) -> None:
    for number in (1, 2):
        journal.append(line(40, number))
    journal.close()
    harm(journal.path)
    if harm in (replace, extend):  # nothing is lost
        with Journal(journal.path) as again:
            assert len(again.additions) == 2
        return
    for _ in range(2):
        with pytest.raises(CheckpointError) as refused:
            Journal(journal.path)
        assert str(journal.path) in str(refused.value)
    if harm in (delete, rename, empty, put_earlier_copy):
        state = journal.path.with_name(f"{journal.path.name}.acknowledged")
        assert f"the 2 acknowledged ones are not all among them; restore the file, or delete {state}" in str(
            refused.value
        )
        state.unlink()
        with Journal(journal.path) as again:
            assert len(again.additions) == (1 if harm is put_earlier_copy else 0)


def test_a_journal_whose_times_changed_is_read_again(rec, journal) -> None:
    to = client(LiveRecommender(rec, journal=journal))
    for number, change in enumerate((os.utime, lambda path: path.chmod(0o600))):
        assert to.post("/items", json=line(2, number)._asdict()).status_code == 201
        change(journal.path)
    path = journal.path
    path.rename(path.with_suffix(".old"))
    error(to.post("/items", json=line(1, 3)._asdict()), 503)
    path.with_suffix(".old").rename(path)
    assert to.post("/items", json=line(1, 3)._asdict()).status_code == 201
    journal.close()
    with Journal(path) as again:
        assert [len(a.ids) for a in again.additions] == [2, 2, 1]


def test_a_row_written_and_not_acknowledged_is_replaced(rec, journal, monkeypatch) -> None:
    """As when the disk is full between the two: what is added next takes the row's number."""
    to = client(LiveRecommender(rec, journal=journal))
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "write_sealed", lambda *_: os.open("/no such folder/file", os.O_RDONLY))
        error(to.post("/items", json=line(3, 1)._asdict()), 503)
    assert to.get("/health").json()["items"] == ITEMS
    assert rows(journal.path) == 1
    assert to.post("/items", json=line(2, 2)._asdict()).status_code == 201
    journal.close()
    with Journal(journal.path) as again:
        assert again.additions == [line(2, 2)]


def test_a_row_of_another_server_is_not_replaced(rec, journal) -> None:
    """Two servers write to one journal once its lock file was deleted."""
    to = client(LiveRecommender(rec, journal=journal))
    Path(f"{journal.path}.lock").unlink()
    with Journal(journal.path) as other:
        other.append(line(2, 1))
    assert "1 additions" in error(to.post("/items", json=line(2, 2)._asdict()), 503)
    with sqlite3.connect(journal.path) as database:
        assert "new1-0" in database.execute("SELECT content FROM additions").fetchone()[0]
    database.close()


def test_a_write_ahead_log_of_an_earlier_version_is_read(tmp_path) -> None:
    path = tmp_path / "j"
    with Journal(path) as kept:
        kept.append(line(2, 0))
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(journal_module.INSERT, (2, *journal_module._digest_and_json(line(2, 1))))
    database.execute("SELECT COUNT(*) FROM additions")
    with pytest.raises(CheckpointError, match=r"another program has it open|locked"):
        Journal(path)
    database.close()
    with Journal(path) as kept:
        assert kept.additions == [line(2, 0), line(2, 1)]
    assert not Path(f"{path}-wal").exists()


def test_who_asks_meanwhile_never_sees_a_half_grown_recommender(rec, journal) -> None:
    served, over, wrong = LiveRecommender(rec, journal=journal), threading.Event(), []
    vector = (10 * rec.user_vectors[4]).astype(float)

    def ask() -> None:
        while not over.is_set():
            ids = list(served.recommend([(["u4"], Options(12))])[0][0][0])
            n = sum(i.startswith("pair") for i in ids)
            if n % 2 or len(set(ids)) != 12 or None in ids:
                wrong.append(ids)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(20):
        rows = [(vector * (1 + number / 100)).tolist()] * 2
        served.add(Addition([f"pair{number}a", f"pair{number}b"], {"text": rows}))
    over.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert served.recommender.n_items == ITEMS + 40


# -- the journal ---------------------------------------------------------------------------------------------


def text_journal(n: int) -> bytes:
    """A journal of ``n`` lines as graphrec wrote it up to November 2026."""
    texts = [json.dumps(line(2, number)._asdict()).encode() for number in range(n)]
    return b"".join(b"%s %s\n" % (hashlib.sha256(text).hexdigest().encode(), text) for text in texts)


def test_a_text_journal_is_migrated(tmp_path) -> None:
    """A torn last line, which was never acknowledged, is dropped; damage is refused."""
    path, whole = tmp_path / "j", text_journal(3)
    kept_text = tmp_path / "j.migrated"
    state = tmp_path / "j.acknowledged"
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    assert len(ends) == 3
    for cut in (len(whole) - 1, ends[1] + 1, ends[1] + 70):  # the last line, torn anywhere
        path.write_bytes(whole[:cut])
        with Journal(path) as kept:
            assert [a.ids for a in kept.additions] == [line(2, n).ids for n in range(2)]
            assert kept_text.read_bytes() == whole[:cut]
            kept.append(line(2, 7))
        with Journal(path) as kept:
            assert kept.additions[2] == line(2, 7)
        path.unlink()
        state.unlink()
    path.write_bytes(whole[: ends[0]] + b"\0" * 300)  # as a file system may leave it
    with Journal(path) as kept:
        assert len(kept.additions) == 1
    path.unlink()
    state.unlink()
    kept_text.unlink()
    for at in (0, 70, ends[0] - 3, ends[1] + 80, len(whole) - 5):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        number = 1 + sum(at >= end for end in ends)
        with pytest.raises(CheckpointError, match=rf"j, line {number}: .*sha256"):
            Journal(path)
        assert path.read_bytes() == damaged
    assert not kept_text.exists()
    path.write_bytes(whole)
    with Journal(path) as kept:
        assert kept.additions == [line(2, n) for n in range(3)]


MIGRATION = """
import os, sys
from pathlib import Path
from graphrec.serving.http import journal
step = {"write_bytes": journal, "replace": os}
name = sys.argv[2]
real = getattr(step[name], name)
def die(*arguments):
    if sys.argv[3] == "after":
        real(*arguments)
    os.kill(os.getpid(), 9)
setattr(step[name], name, die)
journal.Journal(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_while_migrating_loses_nothing(tmp_path, step: str, when: str) -> None:
    path = tmp_path / "j"
    path.write_bytes(text_journal(3))
    done = subprocess.run([sys.executable, "-c", MIGRATION, str(path), step, when], check=False)
    assert done.returncode == -signal.SIGKILL
    with Journal(path) as kept:
        assert kept.additions == [line(2, n) for n in range(3)]
    assert (tmp_path / "j.migrated").read_bytes() == text_journal(3)


def test_a_damaged_row_is_refused(tmp_path) -> None:
    path = tmp_path / "j"
    with Journal(path) as kept:
        for number in range(3):
            kept.append(line(2, number))
    whole = path.read_bytes()
    at = whole.index(b"new1-0") + 3  # in the second row
    path.write_bytes(whole[:at] + b"8" + whole[at + 1 :])
    with pytest.raises(CheckpointError, match=r"j, row 2: .*sha256"):
        Journal(path)
    for damaged in (b"\0" + whole[1:], whole[: len(whole) // 2], whole[:60] + b"\xff" * 100 + whole[160:]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{path}.*"):
            Journal(path)
    path.write_bytes(whole)
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM additions WHERE number = 2")
    database.close()
    with pytest.raises(CheckpointError, match="j, row 2: is missing"):
        Journal(path)


def test_a_journal_has_one_writer_and_a_place(tmp_path) -> None:
    with Journal(tmp_path / "j"), pytest.raises(ConfigError, match="another server"):
        Journal(tmp_path / "j")
    Journal(tmp_path / "j").close()
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "j"):
        with pytest.raises(CheckpointError, match=r"cannot be written.*--read-only"):
            Journal(place)


def test_additions_that_cannot_be_placed_are_quarantined(rec, tmp_path) -> None:
    """Rows of another model, and one that an earlier version accepted although its numbers overflow."""
    with Journal(tmp_path / "j") as kept:
        kept.append(line(2))
        kept.append(Addition(["a"], {"text": [[1.0] * (DIM + 1)]}))
        kept.append(line(2, 10))
        kept.append(Addition(["b"], {"text": [[3e38] * DIM]}))
        kept.append(line(2, 11))
    for _ in range(2):
        with Journal(tmp_path / "j") as kept:
            served = LiveRecommender(rec, journal=kept)
            assert [row for row, _ in served.quarantined] == [2, 4]
            assert "'b'" in served.quarantined[1][1]
            assert list(served.recommender.items)[-6:] == [*line(2).ids, *line(2, 10).ids, *line(2, 11).ids]
            told = client(served).get("/health").json()
            assert (told["added"], told["quarantined"]) == (6, 2)
    with Journal(tmp_path / "j") as kept:  # what was left out can be added again
        to = client(LiveRecommender(rec, journal=kept))
        assert to.post("/items", json={"ids": ["b"], "features": {"text": [[1.0] * DIM]}}).status_code == 201
    with Journal(tmp_path / "j") as kept:
        served = LiveRecommender(rec, journal=kept)
        assert list(served.recommender.items)[-1] == "b"
        assert [row for row, _ in served.quarantined] == [2, 4]


@pytest.mark.parametrize("value", [3e38, -3e38, 1e30, 1e8])
def test_an_item_that_would_spoil_every_answer_is_refused(rec, journal, value: float) -> None:
    to = client(LiveRecommender(rec, journal=journal))
    body = {"ids": ["fine", "huge"], "features": {"text": [[1.0] * DIM, [value] * DIM]}}
    assert "'huge'" in error(to.post("/items", json=body), 400)
    assert to.post("/recommend", json={"users": ["u1"], "k": 1000}).status_code == 200
    assert to.post("/similar", json={"items": ["i5"], "k": 1000}).status_code == 200
    assert to.get("/health").json()["items"] == ITEMS
    with pytest.raises(FeatureError, match="'huge'"):
        rec.copy().add_items(body["ids"], body["features"])


@pytest.mark.parametrize("at_once", [served_module.REPLAYED, 2])
def test_many_lines_are_replayed_together(rec, tmp_path, monkeypatch, at_once: int) -> None:
    monkeypatch.setattr(served_module, "REPLAYED", at_once)
    with Journal(tmp_path / "j") as kept:
        for number in range(5):
            kept.append(line(2, number))
        kept.append(Addition(["i1", "last"], {"text": [[1.0] * DIM, [2.0] * DIM]}))
    with Journal(tmp_path / "j") as kept:
        served = LiveRecommender(rec, journal=kept)
    assert (served.replayed, served.known, served.recommender.n_items) == (11, 1, ITEMS + 11)
    expected = [*(i for n in range(5) for i in line(2, n).ids), "last"]
    assert list(served.recommender.items)[-11:] == expected
    assert np.allclose(served.recommender.item_vectors[-1], 2.0)


def test_a_directory_that_cannot_be_written(rec, journal, monkeypatch) -> None:
    with pytest.raises(DataError):
        LiveRecommender(rec, journal=journal).add(Addition(["i1"], {"text": [[1.0] * DIM]}))
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    from graphrec.core.errors import MissingDependencyError
    from graphrec.serving.http.service import serve

    with pytest.raises(MissingDependencyError, match="uvicorn"):
        serve(rec, port=0)


def test_without_strict_unknown_ids_are_listed_and_the_rest_is_answered(rec):
    with client(LiveRecommender(rec)) as http:
        users = [rec.users[0], rec.users[1]]
        some = [rec.items[i] for i in range(9)]
        expected = http.post("/recommend", json={"users": users, "k": 3, "only": some}).json()["answers"]
        body = {"users": [users[0], "nobody", users[1]], "k": 3, "only": [*some, "lost"], "exclude": ["gone"]}
        assert http.post("/recommend", json=body).status_code == 404
        answer = http.post("/recommend", json={**body, "strict": False}).json()
        assert answer["unknown"] == {"users": ["nobody"], "only": ["lost"], "exclude": ["gone"]}
        assert answer["answers"] == [expected[0], {"id": "nobody", "items": [], "scores": []}, expected[1]]
        nobody = http.post("/recommend", json={"users": ["nobody"], "strict": False}).json()
        assert nobody["answers"] == [{"id": "nobody", "items": [], "scores": []}]
        nothing = http.post("/recommend", json={"users": users, "only": ["lost"], "strict": False})
        assert "only" in error(nothing, 404)


def test_histories_are_answered_as_the_recommender_does(rec):
    folding = rec.copy()
    folding.fold_in = LeastSquaresFoldIn()
    lists = [[rec.items[3], rec.items[8]], [rec.items[5]]]
    names = ["newcomer", rec.users[1]]
    visitors = [{"id": name, "history": items} for name, items in zip(names, lists, strict=True)]
    body = {"users": [visitors[0], rec.users[2], visitors[1]], "k": 4, "exclude": [rec.items[0]]}
    with client(LiveRecommender(folding)) as http:
        answer = http.post("/recommend", json=body).json()["answers"]
        wanted = folding.recommend(names, 4, history=lists, exclude=[rec.items[0]])
        known = http.post("/recommend", json={**body, "users": [rec.users[2]]}).json()["answers"]
        of_lists = expected(wanted, names)["answers"]
        assert answer == [of_lists[0], *known, of_lists[1]]
        lost = [
            {"id": "a", "history": [rec.items[3], "lost", rec.items[8]]},
            {"id": "b", "history": ["gone"]},
        ]
        assert "lost" in error(http.post("/recommend", json={**body, "users": lost}), 404)
        partly = http.post("/recommend", json={**body, "users": lost, "strict": False}).json()
        assert partly["unknown"] == {"history": ["lost", "gone"]}
        assert partly["answers"][0]["items"] == of_lists[0]["items"]
        popular = {"users": ["x"], "k": 4, "unknown": "popularity", "exclude": [rec.items[0]]}
        rest = http.post("/recommend", json=popular).json()["answers"][0]
        assert partly["answers"][1] == {**rest, "id": "b", "popular": True}
        empty = {**body, "users": [{"id": "c", "history": []}]}
        assert "history" in error(http.post("/recommend", json=empty), 422)
    with client(LiveRecommender(rec)) as http:  # saved without a rule
        assert "history" in error(http.post("/recommend", json=body), 409)


def test_weights_and_times_of_histories_are_those_of_the_recommender(rec):
    folding = rec.copy()
    folding.fold_in = LeastSquaresFoldIn(4.0)
    one, two, three = (rec.items[i] for i in (3, 8, 5))
    plain = {"id": "plain", "history": [one, two, two]}
    weighted = {"id": "weighted", "history": [one, "lost", two, two], "weights": [1, 90, 2.5, 3]}
    timed = {"id": "timed", "history": [three, one], "times": [1.5e9, 0]}
    both = {"id": "both", "history": [three, one], "weights": [7, 1], "times": [20, 10.5]}
    body = {"users": [weighted, plain, both, timed, {**weighted, "id": "w2"}], "k": 5, "strict": False}
    with client(LiveRecommender(folding)) as http:
        answer = http.post("/recommend", json=body).json()
        assert answer["unknown"] == {"history": ["lost"]}
        for user, found in zip(body["users"], answer["answers"], strict=True):
            alone = http.post("/recommend", json={**body, "users": [user]}).json()
            (answered,) = alone["answers"]
            assert (answered["id"], answered["items"]) == (found["id"], found["items"])
            assert np.allclose(answered["scores"], found["scores"], atol=SCORE)
        wanted = [
            folding.recommend(history=[one, two], weights=[1, 5.5], k=5),
            folding.recommend(history=[one, two], k=5),
            folding.recommend(history=[three, one], weights=[7, 1], k=5),
            folding.recommend(history=[three, one], k=5),
        ]
        for (ids, scores), found in zip(wanted, answer["answers"], strict=False):
            assert found["items"] == ids.tolist()
            assert np.allclose(found["scores"], scores, atol=SCORE)
        assert answer["answers"][0]["scores"] != answer["answers"][1]["scores"]
        for fields, facts in (
            ({"weights": [1]}, ("1 weights", "2 items")),
            ({"times": [1, 2, 3]}, ("3 times", "2 items")),
            ({"weights": [1, 0]}, ("weights.1",)),
            ({"weights": [-1, 1]}, ("weights.0",)),
            ({"weights": [1, 1e7]}, ("weights.1",)),
            ({"weights": ["2", 1]}, ("weights.0",)),
            ({"weights": [1, None]}, ("weights.1",)),
            ({"times": [1, 1.7e12]}, ("times.1",)),
        ):
            wrong = {"users": [plain, {"id": "x", "history": [one, two], **fields}]}
            said = error(http.post("/recommend", json=wrong), 422)
            assert not [fact for fact in ("users.1", *facts) if fact not in said], said
        text = json.dumps({"users": [{**weighted, "weights": [1, float("nan"), 2, 3]}]})
        assert "weights.1" in error(
            http.post("/recommend", content=text, headers={"content-type": "application/json"}), 422
        )


def test_metrics_count_requests_by_route_and_status(rec, journal):
    with client(LiveRecommender(rec, journal=journal)) as http:
        for _ in range(3):
            http.post("/recommend", json={"users": [rec.users[0]]})
        http.post("/recommend", json={"users": ["nobody"]})
        http.get("/of/a/stranger")
        answer = http.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        lines = answer.text.splitlines()
        for line in (
            'graphrec_requests_total{method="POST",route="/recommend",status="200"} 3.0',
            'graphrec_requests_total{method="POST",route="/recommend",status="404"} 1.0',
            'graphrec_requests_total{method="GET",route="other",status="404"} 1.0',
            'graphrec_request_seconds_count{route="/recommend"} 4.0',
            f"graphrec_users {float(len(rec.users))}",
            f"graphrec_items {float(rec.n_items)}",
            "graphrec_takes_items 1.0",
        ):
            assert line in lines, answer.text
        assert "stranger" not in answer.text
        assert "nobody" not in answer.text


def test_docs_are_a_page_without_scripts_on_this_machines_address_alone(rec, journal):
    served = LiveRecommender(rec, journal=journal)
    with client(served, hosts=("testserver",)) as http:
        answer = http.get("/docs")
        assert answer.status_code == 200
        assert "<script" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        for fact in ("POST /recommend", "exclude_seen", "POST /items", "curl ", "/metrics"):
            assert fact in answer.text
    with client(served) as http:
        assert "address" in error(http.get("/docs"), 404)
