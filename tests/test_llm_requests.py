"""Asking over HTTP: what is known is not asked again; refusals, time-outs, budgets, what a kill leaves."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the extra llm is not installed")

from chat_server import Answer, serving

from graphrec.core.errors import ConfigError, FeatureError
from graphrec.features.extract.llm import parsing
from graphrec.features.extract.llm.client import Chat
from graphrec.features.extract.llm.requests import (
    Prices,
    Question,
    RequestStats,
    ask_all,
    estimate,
    print_progress,
)
from graphrec.features.extract.llm.response_cache import FILE, Reply, ResponseCache, open_cache, request_key


def question(row: int, n: int = 10) -> Question:
    messages = [{"role": "system", "content": "Choose."}, {"role": "user", "content": f"Question {row}"}]
    return Question(row, messages, {"type": "object"}, lambda reply: parsing.parse_pair(reply, n))


def number(request: dict) -> int:
    return int(request["messages"][1]["content"].split()[-1])


def right(request: dict, _: int) -> Answer:
    row = number(request)
    return Answer(f"{row % 5 + 1}::{row % 5 + 6}")


def quick(url: str, **options) -> Chat:
    return Chat("tiny", url, **{"timeout": 120.0, "retries": 3, **options})


# -- what is kept --------------------------------------------------------------------------------------------


def test_what_is_known_is_not_asked_again(tmp_path) -> None:
    questions = [question(row) for row in range(20)]
    with serving(right) as server:
        for again in range(2):
            with open_cache(tmp_path) as known:
                values, counts = ask_all(questions, quick(server.url), known, concurrency=4)
            assert values == [(row % 5, row % 5 + 5) for row in range(20)]
            assert (counts.fetched, counts.cached) == ((0, 20) if again else (20, 0))
            assert counts.outcomes == {"first try": 20}
        assert len(server.requests) == 20
        assert server.most_at_once <= 4
        with open_cache(tmp_path) as known:  # another temperature is another question
            _, counts = ask_all(questions[:3], quick(server.url, temperature=0.0), known)
        assert counts.fetched == 3


def test_replay_asks_nobody(tmp_path) -> None:
    with serving(right) as server:
        with open_cache(tmp_path) as known:
            ask_all([question(1)], quick(server.url), known)
        with open_cache(tmp_path) as known:
            values, counts = ask_all([question(0), question(1)], quick(server.url), known, replay=True)
        assert len(server.requests) == 1
    assert values == [None, (1, 6)]
    assert counts.outcomes == {"not requested": 1, "first try": 1}


def test_replies_are_found_by_who_how_and_what() -> None:
    messages, parameters = [{"role": "user", "content": "x"}], {"temperature": 0.5}
    key = request_key("a", parameters, messages)
    assert key == request_key("a", dict(parameters), [dict(m) for m in messages])
    assert key != request_key("b", parameters, messages)
    assert key != request_key("a", {"temperature": 0.6}, messages)
    assert key != request_key("a", parameters, [{"role": "user", "content": "y"}])
    assert key != request_key("a", parameters, [{"role": "system", "content": "x"}])


def filled(path: Path, n: int) -> bytes:
    known = ResponseCache(path)
    for i in range(n):
        known.put(f"key {i}", Reply(f"text {i} \ud83d é\n", "stop", "m", 1, 2))
    known.close()
    return path.read_bytes()


def test_a_line_cut_short_at_any_byte_is_dropped_and_the_others_stay(tmp_path) -> None:
    path = tmp_path / FILE
    data = filled(path, 3)
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    assert len(ends) == 3
    for cut in range(ends[0], len(data) + 1):
        path.write_bytes(data[:cut])
        known = ResponseCache(path)
        whole = sum(end <= cut for end in ends)
        assert len(known) == whole
        assert not known.damaged
        known.put("new", Reply("later", "stop", "m", 1, 1))
        known.close()
        again = ResponseCache(path)
        again.close()
        assert len(again) == whole + 1
        assert again.get("key 0") == Reply("text 0 \ud83d é\n", "stop", "m", 1, 2)


def test_a_damaged_line_is_never_a_reply(tmp_path) -> None:
    path = tmp_path / FILE
    data = filled(path, 3)
    start = data.index(b"\n") + 1
    rng = random.Random(0)
    for _ in range(60):
        at = rng.randrange(start, data.index(b"\n", start))
        other = rng.choice([b for b in b'0aZ"{}:, ' if b != data[at]])
        path.write_bytes(data[:at] + bytes([other]) + data[at + 1 :])
        known = ResponseCache(path)
        known.close()
        assert known.get("key 0") is not None
        assert known.get("key 2") is not None
        if known.get("key 1") != Reply("text 1 \ud83d é\n", "stop", "m", 1, 2):
            assert known.damaged == [2]
            assert known.get("key 1") is None


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch) -> None:
    path = tmp_path / FILE
    data, write = filled(path, 2), os.write
    known = ResponseCache(path)
    monkeypatch.setattr(os, "write", lambda out, line: write(out, line[:20]))
    with pytest.raises(FeatureError, match="No space left"):
        known.put("key 2", Reply("x", "stop", "m", 1, 1))
    monkeypatch.undo()
    assert path.read_bytes() == data
    assert known.get("key 2") is None
    known.put("key 3", Reply("x", "stop", "m", 1, 1))
    known.close()
    again = ResponseCache(path)
    again.close()
    assert (len(again), again.damaged) == (3, [])


def test_one_process_at_a_time(tmp_path) -> None:
    with (
        open_cache(tmp_path),
        pytest.raises(FeatureError, match="--cache"),
        open_cache(tmp_path),
    ):
        pass
    with open_cache(tmp_path):
        pass


def test_fifty_kills_cost_what_was_in_flight(tmp_path) -> None:
    """Every reply that was sent before a kill and not in flight is on the disk; nothing is paid for twice but
    that.
    """
    rng = random.Random(1)

    def slow(request: dict, n: int) -> Answer:
        return right(request, n)

    with serving(slow) as server:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        # One child that is killed and forked again would share nothing; 50 children start far too slowly, so
        # each is a fork of one that has imported everything.
        driver = subprocess.Popen(
            [sys.executable, "-c", FORKS, str(tmp_path), server.url, str(Path(__file__).parent)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert driver.stdin is not None
        assert driver.stdout is not None
        kills = paid = 0
        for _ in range(50):
            driver.stdin.write("go\n")
            driver.stdin.flush()
            child = int(driver.stdout.readline())
            goal = len(server.requests) + rng.randrange(1, 12)
            deadline = time.monotonic() + 120
            while len(server.requests) < goal and time.monotonic() < deadline:
                time.sleep(0.001)
            os.kill(child, signal.SIGKILL)
            assert driver.stdout.readline().strip() == "dead"
            kills += 1
            known = ResponseCache(tmp_path / FILE)
            known.close()
            assert not known.damaged
            assert len(known) <= len(server.requests)
            paid = len(server.requests) - len(known)
            assert paid <= 4 * kills, "four at a time are in flight"
        driver.stdin.close()
        driver.wait(120)
        with open_cache(tmp_path) as known:
            values, counts = ask_all(
                [question(row) for row in range(300)], quick(server.url), known, concurrency=4
            )
    assert kills == 50
    assert values == [(row % 5, row % 5 + 5) for row in range(300)]
    assert counts.cached > 50
    assert len(server.requests) <= 300 + 4 * kills


FORKS = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_llm_requests import question, quick
from graphrec.features.extract.llm.requests import ask_all
from graphrec.features.extract.llm.response_cache import open_cache
import openai
os.fsync = lambda handle: None  # a kill loses nothing that was written
for line in sys.stdin:
    child = os.fork()
    if not child:
        with open_cache(Path(sys.argv[1])) as known:
            ask_all([question(row) for row in range(300)], quick(sys.argv[2]), known, concurrency=4)
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


# -- what the server does ------------------------------------------------------------------------------------


def test_bad_replies_are_asked_again_three_times_and_then_given_up(tmp_path) -> None:
    said = {0: ["3::7"], 1: ["no idea", "3::7"], 2: ["11::1", "1::1", "", "2::9"], 3: ["x"] * 9}

    def answer(request: dict, _: int) -> Answer:
        turns = len(request["messages"]) // 2 - 1
        return Answer(said[number(request)][turns])

    with serving(answer) as server, open_cache(tmp_path) as known:
        values, counts = ask_all([question(row) for row in range(4)], quick(server.url), known, concurrency=1)
    assert values == [(2, 6), (2, 6), (1, 8), None]
    assert counts.outcomes == {"first try": 1, "repeated": 2, "failed": 1}
    assert counts.reasons == {"no pair": 5, "outside the candidates": 1, "the same twice": 1, "empty": 1}
    assert counts.fetched == len(server.requests) == 1 + 2 + 4 + 4
    assert "outside the candidates" in server.requests[4]["messages"][-1]["content"]


def test_what_is_cut_off_is_no_answer(tmp_path) -> None:
    with serving(lambda r, n: Answer("3::7", finish="length")) as server, open_cache(tmp_path) as known:
        values, counts = ask_all([question(0)], quick(server.url), known)
    assert values == [None]
    assert counts.reasons == {"cut off": 4}


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_server_that_is_busy_is_asked_again(tmp_path, status) -> None:
    def answer(request: dict, n: int) -> Answer:
        return Answer(status=status, headers={"retry-after": "0.05"}) if n < 2 else right(request, n)

    with serving(answer) as server, open_cache(tmp_path) as known:
        values, counts = ask_all([question(1)], quick(server.url), known)
    assert values == [(1, 6)]
    assert counts.statuses == {status: 2}


def test_retry_after_is_honored(tmp_path) -> None:
    def answer(request: dict, n: int) -> Answer:
        return Answer(status=429, headers={"retry-after": "1"}) if n == 0 else right(request, n)

    with serving(answer) as server, open_cache(tmp_path) as known:
        ask_all([question(1)], quick(server.url), known)
    assert server.times[1] - server.times[0] >= 0.95


@pytest.mark.parametrize(
    ("status", "says"), [(400, "no"), (401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "--base-url")]
)
def test_other_refusals_are_final(tmp_path, status, says) -> None:
    with serving(lambda r, n: Answer(status=status)) as server, open_cache(tmp_path) as known:
        with pytest.raises(FeatureError, match=says):
            ask_all([question(1)], quick(server.url, structured=False), known)
        assert len(server.requests) == 1


def test_hanging_up_and_silence_are_tried_again_and_said(tmp_path) -> None:
    def answer(request: dict, n: int) -> Answer:
        return [Answer(hang_up=True), Answer(until=asked), right(request, n)][min(n, 2)]

    asked = threading.Event()
    with serving(answer) as server, open_cache(tmp_path) as known:
        values, _ = ask_all([question(1)], quick(server.url, timeout=1.0), known)
        asked.set()
        assert values == [(1, 6)]
        assert len(server.requests) >= 3, (
            "and more if the last answer takes a busy machine longer than a second"
        )
    refused = threading.Event()
    with serving(lambda r, n: Answer(until=refused)) as server, open_cache(tmp_path / "b") as known:
        with pytest.raises(FeatureError, match="timeout"):
            ask_all([question(1)], quick(server.url, timeout=1.0, retries=1), known)
        refused.set()
        assert len(server.requests) <= 2
    with open_cache(tmp_path / "c") as known, pytest.raises(FeatureError, match="--base-url"):
        ask_all([question(1)], quick("http://127.0.0.1:9/v1", retries=0), known)


BODIES = (b"{", b"", b"null", b"[]", b'{"choices": []}', b"<html>hello</html>", b'{"choices": null}',
          b'{"choices": [{"message": null}]}')  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_what_is_no_completion_is_said(tmp_path, body) -> None:
    with serving(lambda r, n: Answer(body=body)) as server, open_cache(tmp_path) as known:
        with pytest.raises(FeatureError, match=r"localhost|127.0.0.1"):
            ask_all([question(1)], quick(server.url, retries=0), known)
        assert not len(known)


def test_the_form_is_asked_for_until_the_server_refuses_to(tmp_path) -> None:
    def strict(request: dict, n: int) -> Answer:
        return Answer(status=400, text="unknown field") if "response_format" in request else right(request, n)

    with serving(strict) as server, open_cache(tmp_path) as known:
        chat = quick(server.url)
        values, _ = ask_all([question(row) for row in range(5)], chat, known, concurrency=1)
    assert values == [(row % 5, row % 5 + 5) for row in range(5)]
    assert not chat.response_formats
    assert ["response_format" in r for r in server.requests] == [True, True, *[False] * 5]
    with serving(right) as server, open_cache(tmp_path / "b") as known:
        ask_all([question(1)], quick(server.url), known)
    assert server.requests[0]["response_format"]["json_schema"]["schema"] == {"type": "object"}


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_server_of_the_other_form_is_asked_in_that(tmp_path, status) -> None:
    """llama-cpp-python's knows ``json_object`` with a schema, and answers ``json_schema`` with a 500."""

    def other(request: dict, n: int) -> Answer:
        form = request["response_format"]["type"]
        return right(request, n) if form == "json_object" else Answer(status=status, text="response_format")

    with serving(other) as server, open_cache(tmp_path) as known:
        chat = quick(server.url, retries=0)
        values, _ = ask_all([question(row) for row in range(5)], chat, known, concurrency=2)
    assert values == [(row % 5, row % 5 + 5) for row in range(5)]
    assert chat.response_formats == ("json_object",)
    assert server.requests[-1]["response_format"] == {"type": "json_object", "schema": {"type": "object"}}


def test_progress_says_how_fast_and_how_long_still(capsys) -> None:
    counts = RequestStats(100, Counter({"first try": 15, "repeated": 5}), fetched=25, cost=0.5, seconds=10.0)
    print_progress(counts)
    assert (
        capsys.readouterr().err
        == "\r20 of 100 questions, 25 requests, 2.0 per second, 1 min left, cost 0.5000"
    )


def test_a_failure_ends_everything_and_what_was_answered_is_kept(tmp_path) -> None:
    def answer(request: dict, n: int) -> Answer:
        return Answer(status=401) if n == 30 else right(request, n)

    questions = [question(row) for row in range(200)]
    with serving(answer) as server:
        with open_cache(tmp_path) as known, pytest.raises(FeatureError, match="OPENAI_API_KEY"):
            ask_all(questions, quick(server.url), known, concurrency=4)
        first = len(server.requests)
        assert first < 45, "the others are not asked any more"
        with open_cache(tmp_path) as known:
            values, counts = ask_all(questions, quick(server.url), known, concurrency=4)
        assert counts.cached == first - 1
        assert len(server.requests) == 201
    assert None not in values


# -- money, keys ---------------------------------------------------------------------------------------------


def test_the_budget_is_not_exceeded(tmp_path) -> None:
    questions, prices = [question(row) for row in range(100)], Prices(1000.0, 10_000.0, 4.0)
    with serving(right) as server, open_cache(tmp_path) as known:
        chat = quick(server.url, max_tokens=20)
        with pytest.raises(FeatureError, match="budget of 4 "):
            ask_all(questions, chat, known, prices=prices, concurrency=4)
        spent = len(server.requests) * prices.cost(100, 10)
        assert 3 < spent <= 4.0
        before = len(server.requests)
        _, counts = ask_all(
            questions[:before], chat, known, prices=Prices(1000.0, 10_000.0, 0.0), replay=True
        )
        assert not counts.cost, "what is known costs nothing"


def test_an_estimate_asks_nobody(tmp_path) -> None:
    questions = [question(row) for row in range(10)]
    with serving(right) as server, open_cache(tmp_path) as known:
        chat = quick(server.url, max_tokens=50)
        ask_all(questions[:4], chat, known)
        found = estimate(questions, chat, known, Prices(1.0, 2.0))
        assert len(server.requests) == 4
    assert (found["questions"], found["cached"]) == (10, 4)
    assert found["completion tokens at most"] == 6 * 50
    tokens = sum(q.tokens for q in questions[4:])
    assert found["cost at most"] == pytest.approx((tokens + 2 * 300) / 1e6)


def test_the_key_is_sent_and_kept_nowhere(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    failing = serving(lambda r, n: Answer(status=500) if n == 1 else right(r, n))
    with failing as server, open_cache(tmp_path) as known:
        chat = quick(server.url, key_variable="MY_KEY", retries=0)
        ask_all([question(1)], chat, known)
        with pytest.raises(FeatureError) as raised:
            ask_all([question(2)], chat, known)
    assert server.keys[0] == "Bearer sk-very-secret"
    assert "secret" not in str(raised.value)
    assert b"secret" not in (tmp_path / FILE).read_bytes()
    assert "secret" not in repr(vars(chat).get("parameters"))


def test_options_out_of_range_are_refused() -> None:
    for options in ({"temperature": 3}, {"top_p": 0}, {"max_tokens": 0}, {"timeout": 0}, {"retries": -1}):
        with pytest.raises(ConfigError, match="temperature"):
            Chat("m", "http://127.0.0.1:9/v1", **options)
    with pytest.raises(ConfigError, match="--price-in"):
        Prices(budget=1.0)
    with pytest.raises(ConfigError, match="-1"):
        Prices(-1.0)


def test_order_and_values_do_not_depend_on_who_is_first(tmp_path) -> None:
    arrived = [threading.Event() for _ in range(60)]

    def answer(request: dict, n: int) -> Answer:
        """Every other request is answered after the one that follows it has arrived."""
        arrived[n].set()
        return Answer(right(request, n).text, until=None if n % 2 else arrived[n + 1])

    with serving(answer) as server, open_cache(tmp_path) as known:
        values, _ = ask_all([question(row) for row in range(60)], quick(server.url), known, concurrency=16)
    assert values == [(row % 5, row % 5 + 5) for row in range(60)]
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert len({line["key"] for line in lines}) == 60
