"""The demonstration end to end, tiny: files, a page that stands alone, a second run, nobody else's files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphrec.cli import demo
from graphrec.cli.demo.pictures import pick_users, recommendations
from graphrec.core.errors import ConfigError, DataError
from graphrec.data import Dataset
from graphrec.evaluation.report import Report
from graphrec.runs import open_run

TINY: dict[str, Any] = {"n_items": 60, "n_users": 80, "epochs": 2, "quiet": True}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("demo") / "runs" / "demo"
    return out, demo.run(out, **TINY)


def test_everything_is_there(finished: tuple[Path, dict[str, Any]]) -> None:
    out, results = finished
    assert (out / "catalog" / "README.txt").read_text().startswith("GENERATED DATA")
    for name in demo.MODELS:
        for file in (
            "run.json",
            "metrics.jsonl",
            "recommender/recommender.json",
            "test.parquet",
            "titles.json",
        ):
            assert (out / name / file).is_file(), f"{name}/{file}"
    assert json.loads((out / demo.MARKER).read_text()) == json.loads(json.dumps(results))
    assert results["complete"]
    assert results["generated"]
    assert results["report"] == str(out / "report.html")
    assert len(results["comparisons"]) == 12
    assert all(c["p_holm"] >= c["p"] for c in results["comparisons"])


def test_the_page_stands_alone(finished: tuple[Path, dict[str, Any]]) -> None:
    from test_html import Parsed

    out, _ = finished
    text = (out / "report.html").read_text(encoding="utf-8")
    parsed = Parsed(text)
    assert not re.search(r"https?:|@import|url\(|<script|<link|<iframe", text)
    assert str(out.parent) not in text, "no paths of this machine"
    pictures = parsed.values("img", "src")
    assert len(pictures) >= 20
    assert all(p.startswith("data:image/jpeg;base64,") for p in pictures)
    assert all(parsed.values("img", "alt"))
    assert "generated" in parsed.text.lower()
    for title, _ in demo.MODELS.values():
        assert parsed.text.count(f"{title} recommends") == len(re.findall(r'class="person"', text)) > 0
    for heading, _ in demo.GROUPS.values():
        assert heading in parsed.text
    assert len(parsed.values("svg", "aria-label")) == 3


def test_printed_numbers_are_the_evaluated_ones(finished: tuple[Path, dict[str, Any]]) -> None:
    out, results = finished
    text = (out / "report.html").read_text(encoding="utf-8")
    for name in demo.MODELS:
        kept = Report.from_parquet(out / name / "test.parquet")
        number = results["metrics"][name]["all"]["recall@20"]
        assert number["mean"] == pytest.approx(kept["recall@20"].mean())
        assert number["low"] <= number["mean"] <= number["high"]
        within = results["metrics"][name]["items/cold/within"]["ndcg@10"]
        assert within["mean"] == pytest.approx(kept.groups["items/cold/within"]["ndcg@10"].mean())
        assert f"{number['mean']:.4f}" in text


def test_saved_runs_open_and_recommend_what_the_page_shows(finished: tuple[Path, dict[str, Any]]) -> None:
    from graphrec.serving import Recommender

    out, _ = finished
    opened = open_run(out / "freedom")
    ids, _ = Recommender.load(out / "freedom" / "recommender").recommend(opened.data.users[0], k=5)
    assert len(set(ids)) == 5
    users = pick_users(opened.data, 0)
    items = recommendations(opened.model, opened.data, users, 20)
    hidden = opened.data.train + opened.data.valid
    shown = items >= 0
    assert shown[:, :8].all()
    assert not (hidden.contains(users[:, None], np.maximum(items, 0)) & shown).any()
    text = (out / "report.html").read_text(encoding="utf-8")
    titles = json.loads((out / "freedom" / "titles.json").read_text())["titles"]
    first = titles.get(opened.data.items[int(items[0, 0])], opened.data.items[int(items[0, 0])])
    strip = text.split("FREEDOM recommends", 1)[1]
    assert first in strip.split("</ol>", 1)[0].split("</li>", 1)[0]


def test_users_are_picked_by_data_and_seed_alone(finished: tuple[Path, dict[str, Any]]) -> None:
    data: Dataset = open_run(finished[0] / "popularity").data
    users = pick_users(data, 0)
    assert len(set(users.tolist())) == len(users) == 6
    assert (data.test.user_degree[users] > 0).all()
    cold = data.train.item_degree == 0
    assert all(cold[data.test.items_of(int(u))].any() for u in users[3:])
    assert users.tolist() == pick_users(data, 0).tolist() != pick_users(data, 1).tolist()


def test_a_second_run_starts_afresh_and_repeats_itself(
    finished: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, before = finished
    (out / "freedom" / "run.json").write_text("{ damaged")  # as a killed run might leave it
    (out / "mine.txt").write_text("not the demo's")
    again = demo.run(out, **{**TINY, "quiet": False})
    assert again["metrics"] == before["metrics"]
    assert (out / "mine.txt").read_text() == "not the demo's"
    printed = capsys.readouterr().out
    assert "graphrec recommend" in printed
    assert "FREEDOM" in printed
    assert "generated data" in printed


def test_files_of_others_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "freedom").mkdir()
    (tmp_path / "freedom" / "run.json").write_text("{}")
    with pytest.raises(DataError, match=r"freedom.*no demo wrote"):
        demo.run(tmp_path, **TINY)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["freedom", "run.json"]
    other = tmp_path / "other"
    other.mkdir()
    (other / demo.MARKER).write_text('{"complete": true}')
    with pytest.raises(DataError, match="not written by the demo"):
        demo.run(other, **TINY)


def test_options_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="epochs 0"):
        demo.run(tmp_path / "a", epochs=0, quiet=True)
    with pytest.raises(ConfigError, match="items"):
        demo.run(tmp_path / "b", n_items=3, quiet=True)
