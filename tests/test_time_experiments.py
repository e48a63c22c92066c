"""Experiments at one time for all: cuts of contributions, and splits per user beside them."""

from __future__ import annotations

import gzip
import sys
from functools import partial

import numpy as np
import pytest
from scipy.stats import t as student

import graphrec as gr
from experiments import contribution_cuts, contributions, time_splits
from experiments.contribution_cuts import cuts_of, interval
from experiments.time_splits import later_share
from graphrec.core.files import read_json
from graphrec.data import Interactions

TRAINED = [row.label for row in contributions.CUT_ROWS if row.model in ("coder", "lightgcn", "mf")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Contributions of thirty people to two repositories, each time another one."""
    folder = tmp_path_factory.mktemp("data") / "oss-contrib"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pairs = rng.permutation(30 * 40)[:700]
    rows = [
        f"u{pair // 40}\torg/r{pair % 2}\tsrc/f{pair % 40}.py\t{1_000_000_000 + 86_400 * day}\t1"
        for day, pair in enumerate(pairs.tolist())
    ]
    text = "\n".join(["user\trepo\tpath\tfirst_ts\tn_commits", *rows])
    (folder / "DB_contrib.tsv.gz").write_bytes(gzip.compress(text.encode()))
    return folder.parent


def ran(module, monkeypatch, root, out, *arguments) -> dict:
    monkeypatch.setattr(sys, "argv", ["x", "--root", str(root), "--out", str(out), "--quick", *arguments])
    module.main()
    (path,) = (out / "quick").glob("*.json")
    return read_json(path)


def test_cuts_follow_one_another_and_tests_do_not_overlap() -> None:
    seconds = np.random.default_rng(0).permutation(np.arange(120))
    cuts = cuts_of(seconds, 6)
    assert [cut.test for cut in cuts] == [60, 70, 80, 90, 100, 110]
    assert [cut.valid for cut in cuts] == [50, 60, 70, 80, 90, 100]
    assert [cut.end for cut in cuts] == [70, 80, 90, 100, 110, 120]


def test_the_interval_is_students_over_cuts() -> None:
    values = [0.1, 0.2, 0.4, 0.1]
    half = student.ppf(0.975, 3) * np.std(values, ddof=1) / 2
    assert interval(values) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert interval([0.3]) == (0.3, 0.3, 0.3)


def test_what_is_later_than_a_first_test_interaction_is_counted() -> None:
    train = Interactions([0, 0, 1, 2], [0, 1, 0, 0], 3, 4, [1, 5, 9, 9])
    test = Interactions([0, 0, 1], [2, 3, 3], 3, 4, [5, 20, 9])
    assert later_share(train, test) == pytest.approx((2 / 4 + 0 / 4) / 2)


def test_options_are_chosen_before_a_cut_and_only_what_is_before_it_is_known(
    root, tmp_path, monkeypatch
) -> None:
    result = ran(contributions, monkeypatch, root, tmp_path, "--topics", "DB", "--without", *TRAINED)
    assert result["experiment"] == "contributions_cuts_db"
    assert len(result["cuts"]) == 2
    load = partial(gr.load_dataset, "oss-contrib", root=root, topic="DB")
    for number, cut in enumerate(result["cuts"]):
        before = load(split={"name": "cut", "valid": cut["valid"], "test": cut["test"]})
        at = load(split={"name": "cut", "valid": cut["test"], "test": cut["test"]})
        assert cut["train"] == len(at.train)
        runs = {label: row["runs"][number] for label, row in result["rows"].items()}
        options = result["rows"]["Popularity, recent"]["grid"]
        values = []
        for option in options:
            model = gr.models.Popularity.build(before, None, gr.models.Popularity.Config(**option))
            own = contribution_cuts.CandidateGroups.from_repositories(before)
            report = gr.evaluate(model, before.valid, seen=before.train, k=(10,), candidate_groups=own)
            values.append(report.mean()["ndcg@10"])
        assert runs["Popularity, recent"]["tried"] == pytest.approx(values, abs=1e-6)
        assert runs["Popularity, recent"]["chosen"] == options[int(np.argmax(values))]
        test = at.test.where(at.test.seconds < cut["end"])
        own = contribution_cuts.CandidateGroups.from_repositories(at)
        plain = gr.evaluate(
            gr.models.Popularity.build(at), test, seen=at.train, k=(10,), candidate_groups=own
        )
        assert runs["Popularity"]["after"]["ndcg@10"] == pytest.approx(plain.mean()["ndcg@10"], abs=1e-7)
    text = contribution_cuts.table(result)
    means = [run["after"]["ndcg@10"] for run in result["rows"]["Co-change"]["runs"]]
    line = next(line for line in text.splitlines() if line.startswith("| Co-change |"))
    assert f"| {np.mean(means):.4f} [" in line
    assert "of 2 cuts" in line
    assert len(contribution_cuts.choices(result).splitlines()) == 2 + sum(
        len(row["grid"]) for row in result["rows"].values()
    )
    assert f"{result['later']:.0%} of train" in contribution_cuts.about(result)


def test_splits_per_user_stand_beside_one_time_for_all(root, tmp_path, monkeypatch) -> None:
    result = ran(time_splits, monkeypatch, root, tmp_path)
    (splits,) = result["datasets"].values()
    later = {name: found["facts"][0]["later"] for name, found in splits.items()}
    assert later["one time for all"] == 0
    assert later["random per user"] > 0.2
    assert later["newest per user"] > 0
    text = time_splits.table(result)
    for label in time_splits.MODELS:
        line = next(line for line in text.splitlines() if line.startswith(f"| {label} |"))
        for name in time_splits.SPLITS:
            assert f"{splits[name]['models'][label][0]['recall@20']:.4f}" in line
