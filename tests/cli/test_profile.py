"""``graphrec train --profile``."""

from __future__ import annotations

import json

from graphrec import testing


def test_it_shows_the_seconds_of_each_phase(tmp_path, monkeypatch, graphrec) -> None:
    monkeypatch.chdir(tmp_path)
    testing.communities(2, 20)[0].resplit("random").save("shop")
    small = ("--set", "train.epochs=2", "--set", "train.progress=false")
    plain = graphrec("train", "mf", "shop", "--out", "plain", *small)
    shown = graphrec("train", "mf", "shop", "--out", "profiled", "--profile", *small)
    assert shown.code == 0, shown.err
    for phase in ("batches", "forward", "backward", "step", "validation"):
        assert phase in shown.out
        for line in (tmp_path / "profiled/metrics.jsonl").read_text().splitlines():
            assert json.loads(line)[f"profile/{phase}"] > 0
    assert "backward" not in plain.out
    assert "profile/" not in (tmp_path / "plain/metrics.jsonl").read_text()
