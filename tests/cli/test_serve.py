"""``graphrec index`` and ``graphrec serve``, as commands."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphrec.runs import open_recommender, recommender_folder

Command = Callable[..., Any]
Refused = Callable[..., str]
RUN = "runs/freedom"


@pytest.fixture
def run(there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a run that may be written to."""
    shutil.copytree(there / RUN, tmp_path / RUN)
    monkeypatch.chdir(tmp_path)
    return tmp_path / RUN


def test_an_index_is_built_and_used(run: Path, graphrec: Command) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed; pip install 'graphrec[ann]'")
    answer = graphrec("index", RUN, "--recall", 1, "-k", 5, "--lists", 4)
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["recommend", "similar"]
    assert all("recall@5 1.0000" in line and "4 of 4 lists searched" in line for line in lines)
    asked = ("recommend", RUN, "--user", "U00001", "-k", 4, "--search")
    one, other = (graphrec(*asked, search).out for search in ("approximate", "exact"))
    assert one == other
    one, other = (
        graphrec("similar", RUN, "--item", "P0001", "--search", s).out for s in ("approximate", "auto")
    )
    assert one == other
    assert graphrec("export", RUN, "--out", "all.parquet", "--search", "approximate").code == 0
    assert len(graphrec("index", RUN, "--lists", 2, "--no-similar").out.splitlines()) == 1


def test_mistakes(run: Path, refused: Refused, tmp_path: Path) -> None:
    assert "graphrec index" in refused("recommend", RUN, "--user", "U00001", "--search", "approximate")
    assert "--search" in refused("similar", RUN, "--item", "P0001", "--search", "fast")
    assert "--search" in refused("serve", RUN, "--search", "fast")
    assert "graphrec index" in refused("serve", RUN, "--search", "approximate")
    assert "recall" in refused("index", RUN, "--recall", 2)
    assert "lists" in refused("index", RUN, "--lists", 10**6)
    assert "--read-only" in refused("serve", RUN, "--read-only", "--journal", "j")
    (tmp_path / "file").write_text("")
    assert "--read-only" in refused("serve", RUN, "--journal", "file/j")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen" in refused("serve", RUN, "--port", taken.getsockname()[1])


def test_a_model_that_cannot_place_items_is_served_without_them(
    there: Path, refused: Refused, graphrec: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphrec.serving.http import service

    given: dict[str, Any] = {}
    monkeypatch.setattr(service, "serve", lambda *_, **options: given.update(options))
    answer = graphrec("serve", "runs/popularity")
    assert answer.code == 0
    assert given["journal"] is None
    assert "new items" in answer.err
    assert "--journal" in refused("serve", "runs/popularity", "--journal", "j")
    assert graphrec("serve", RUN).code == 0
    assert given["journal"] == recommender_folder(RUN) / "added.journal"
    assert graphrec("serve", RUN, "--read-only").code == 0
    assert given["journal"] is None


def test_a_server_remembers_what_was_added_to_it(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    recommender, _ = open_recommender(RUN)
    rng = np.random.default_rng(0)
    vectors = {m: [rng.standard_normal(n).tolist()] for m, n in recommender.modalities.items()}
    for turn in range(2):
        command = [sys.executable, "-m", "graphrec", "serve", RUN, "--port", str(port)]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            said = ""
            while "http://" not in said:
                line = server.stderr.readline()
                assert line, said
                said += line
            assert ("1 items added again" in said) == bool(turn)
            health = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/health"))
            assert (health["items"], health["model"], health["takes_items"]) == (60 + turn, "freedom", True)
            if not turn:
                body = json.dumps({"ids": ["new"], "features": vectors}).encode()
                ask = urllib.request.Request(
                    f"http://127.0.0.1:{port}/items", body, {"content-type": "application/json"}
                )
                assert json.load(urllib.request.urlopen(ask)) == {"added": 1, "items": 61}
            server.send_signal(signal.SIGINT)
            assert server.wait(120) == 0
        finally:
            server.kill()
            server.communicate()


@pytest.mark.parametrize("mark", ["\x1b[2J", "\x9b1m", "\u202e", "\u2066", "\u200f", "\u061c", "\u2028"])
def test_names_cannot_direct_a_terminal(mark: str, capsys: pytest.CaptureFixture[str]) -> None:
    from graphrec.cli import output

    output.print_table(["item"], [[f"exe{mark}gpj"]])
    output.print_note(f"item exe{mark}gpj")
    output.print_error(f"error: item exe{mark}gpj", "\ntwo lines")
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        assert mark not in text
        assert text.replace("\n", "").isprintable()
    assert printed.err.count("exe\\x" if mark < "\xff" else "exe\\u") == 2
    assert printed.err.endswith("\ntwo lines\n")


def test_an_item_is_added_by_its_content(run: Path, graphrec: Command, refused: Refused) -> None:
    before, _ = open_recommender(RUN)
    assert set(before.modalities) == set(before.extractors)
    answer = graphrec("add", RUN, "--item", "NEW", "--content", "text=a red leather shoe")
    assert answer.code == 0, answer.err
    after, _ = open_recommender(RUN)
    assert after.n_items == before.n_items + 1
    expected = before.add_items(["NEW"], content={"text": ["a red leather shoe"]})
    np.testing.assert_allclose(after.item_vectors, expected.item_vectors, rtol=0, atol=1e-6)
    assert graphrec("similar", RUN, "--item", "NEW").code == 0
    assert "'NEW'" in refused("add", RUN, "--item", "NEW", "--content", "text=a red shoe")
    assert "gone.jpg" in refused("add", RUN, "--item", "N2", "--content", "image=gone.jpg")
    assert "txet" in refused("add", RUN, "--item", "N2", "--content", "txet=red")
    assert "twice" in refused("add", RUN, "--item", "N2", "--content", "text=a", "--content", "text=b")
    assert "MODALITY=VALUE" in refused("add", RUN, "--item", "N2", "--content", "red")
    assert open_recommender(RUN)[0].n_items == after.n_items
    assert graphrec("add", RUN, "--item", "N2", "--content", "text=a red shoe", "--out", "other").code == 0
    assert open_recommender("other")[0].n_items == after.n_items + 1
