from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from test_ranking import MatMul, drawn

from graphrec.core.errors import ConfigError, DataError
from graphrec.data import Interactions
from graphrec.evaluation import metrics
from graphrec.evaluation.metrics import bootstrap_means
from graphrec.evaluation.ranking import Beyond, evaluate, warm_cold
from graphrec.evaluation.report import Report, compare_all, table


def report(values, name="m", **meta) -> Report:
    return Report(np.arange(len(values)), {"recall@5": np.asarray(values)}, meta={"model": name, **meta})


def test_vectors_means_and_errors():
    r = Report(np.array([3, 8]), {"recall@5": [0.5, 1.0]}, {"gini@5": 0.3})
    assert r["recall@5"].tolist() == [0.5, 1.0]
    assert r.mean() == {"recall@5": 0.75, "gini@5": 0.3}
    assert len(r.where(np.array([False, True]))) == 1
    with pytest.raises(ConfigError, match="Did you mean 'recall@5'"):
        _ = r["recal@5"]
    with pytest.raises(ConfigError, match="scalars"):
        _ = r["gini@5"]
    with pytest.raises(DataError, match="ascending"):
        Report(np.array([8, 3]), {})
    with pytest.raises(DataError, match="all finite"):
        Report(np.array([1, 2]), {"x@1": np.array([0.0, np.nan])})


def test_interval_brackets_the_mean_and_narrows():
    rng = np.random.default_rng(0)
    small, large = report(rng.random(50)), report(rng.random(5000))
    for r in (small, large):
        low, high = r.interval("recall@5")
        assert low < r.mean()["recall@5"] < high
        inner = r.interval("recall@5", level=0.5)
        assert low < inner[0] < inner[1] < high
    quantiles = np.quantile(bootstrap_means(small["recall@5"], 2000, 0), [0.025, 0.975])
    assert small.interval("recall@5") == tuple(quantiles)
    width = [np.subtract(*r.interval("recall@5")) for r in (large, small)]
    assert width[0] / width[1] == pytest.approx(0.1, rel=0.25)
    normal = 1.96 * large["recall@5"].std() / np.sqrt(5000)
    assert large.interval("recall@5")[1] - large.mean()["recall@5"] == pytest.approx(normal, rel=0.1)
    with pytest.raises(ConfigError, match="level 95"):
        small.interval("recall@5", level=95)
    with pytest.raises(DataError, match="no users"):
        report([]).interval("recall@5")


def test_compare_is_paired():
    rng = np.random.default_rng(1)
    base = rng.random(300)
    better = report(base + 0.02 + rng.normal(0, 0.01, 300), "better")
    plain = report(base, "plain")
    for test in ("permutation", "t", "wilcoxon"):
        c = better.compare(plain, "recall@5", test)
        assert c.difference == pytest.approx((better["recall@5"] - base).mean())
        assert c.difference > 0
        assert c.relative == pytest.approx(c.difference / base.mean())
        assert c.interval[0] < c.difference < c.interval[1]
        assert c.interval[0] > 0.015
        assert c.p < 0.001
        assert (c.model, c.baseline, c.n_users, c.test) == ("better", "plain", 300, test)
    noisy = report(base + rng.normal(0, 0.3, 300))
    expected = stats.ttest_rel(noisy["recall@5"], base).pvalue
    assert noisy.compare(plain, "recall@5", "t").p == pytest.approx(expected)
    assert noisy.compare(plain, "recall@5").p == pytest.approx(expected, abs=0.02)
    assert plain.compare(plain, "recall@5", "wilcoxon").p == 1.0


def test_compare_refuses_what_cannot_be_compared():
    a, b = report(np.ones(5), "a", data="x" * 64), report(np.ones(5), "b", data="y" * 64)
    with pytest.raises(DataError, match="same split, seen"):
        a.compare(b, "recall@5")
    with pytest.raises(DataError, match=r"a covers 5 users and b 4, of which 4 are common"):
        a.compare(report(np.ones(4), "b"), "recall@5")
    with pytest.raises(ConfigError, match="Did you mean 'wilcoxon'"):
        a.compare(a, "recall@5", "wilcoxn")


def test_compare_all_corrects():
    rng = np.random.default_rng(2)
    base = rng.random(200)
    reports = {
        n: report(base + s + rng.normal(0, 0.1, 200)) for n, s in (("A", 0.02), ("B", 0.0), ("C", 0.1))
    }
    found = compare_all({"base": report(base), **reports}, "recall@5", baseline="base", test="t")
    assert [c.model for c in found] == ["A", "B", "C"]
    raw = np.array([c.p for c in found])
    order = np.argsort(raw)
    by_hand, worst = np.empty(3), 0.0
    for position, index in enumerate(order):
        worst = max(worst, min(1.0, raw[index] * (3 - position)))
        by_hand[index] = worst
    np.testing.assert_allclose([c.p_holm for c in found], by_hand)
    assert "C vs base" in str(found)
    assert found.table("latex").startswith(r"\begin{tabular}{llrrrrrr}")
    with pytest.raises(ConfigError, match="Did you mean 'base'"):
        compare_all({"base": report(base)}, "recall@5", baseline="bas")


@pytest.fixture
def full() -> Report:
    train, test = drawn(150, 60, 1500)
    groups = {**warm_cold(train), "none": np.zeros(60, dtype=bool)}
    return evaluate(
        MatMul(150, 60), test, seen=train, k=(5, 10), item_groups=groups, within=True,
        user_groups={"odd": np.arange(150) % 2 == 1},
        beyond=Beyond(train, {"nothing": np.zeros((60, 3), np.float32)}), name="50%_a|b",
    )  # fmt: skip


def test_parquet_round_trip(full, tmp_path):
    path = full.to_parquet(tmp_path / "deep" / "report.parquet")
    again = Report.from_parquet(path)
    assert list(again.groups) == list(full.groups)
    for one, other in ((full, again), *((full.groups[g], again.groups[g]) for g in full.groups)):
        assert np.array_equal(one.users, other.users)
        assert list(one.metrics) == list(other.metrics)
        assert all(np.array_equal(one[m], other[m]) for m in one.metrics)
        assert one.meta == other.meta
    np.testing.assert_equal(dict(again.scalars), dict(full.scalars))
    assert np.isnan(again.scalars["diversity/nothing@5"])
    assert str(again) == str(full)
    rows = pq.read_table(path)
    assert rows.column_names[:2] == ["group", "user"]
    assert rows.num_rows == len(full) + sum(map(len, full.groups.values()))
    json.loads(rows.schema.metadata[b"graphrec_report"], parse_constant=pytest.fail)


def test_a_flipped_bit_is_refused_or_changes_nothing(full, tmp_path):
    path = full.to_parquet(tmp_path / "r.parquet")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for bit in rng.choice(8 * len(whole), 150, replace=False):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            again = Report.from_parquet(path)
        except DataError:
            refused += 1
        else:  # a byte that holds no content, such as a column's statistics
            assert str(again) == str(full), bit
            assert again.meta == full.meta, bit
            assert all(np.array_equal(again[metric], full[metric]) for metric in full.metrics), bit
    assert refused > 75


def test_damaged_files_are_named(full, tmp_path):
    path = full.to_parquet(tmp_path / "r.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"r\.parquet: not a report"):
        Report.from_parquet(path)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"other\.parquet: not a report"):
        Report.from_parquet(tmp_path / "other.parquet")
    with pytest.raises(DataError, match="no such file"):
        Report.from_parquet(tmp_path / "absent.parquet")


def test_printing_says_what_was_left_out(full):
    text = str(full)
    first = text.splitlines()[0]
    assert f"{full.meta['n_excluded']:,} users with nothing held out" in first
    assert "train masked" in first
    for label in ("items/cold/within", "users/odd", "popularity_lift"):
        assert label in text
    value = f"{full.mean()['recall@10']:.4f}"
    assert value in text
    assert value in full.to_markdown()
    low, high = full.interval("recall@10")
    assert f"{value} [{low:.4f}, {high:.4f}]" in full.to_latex(intervals=True)
    assert r"popularity\_lift" in full.to_latex()
    widths = {line.count("|") for line in full.to_markdown().splitlines()}
    assert widths == {6}


def test_tables_mark_the_best_and_escape():
    a, b, c = report([0.2, 0.4], "a"), report([0.6, 0.4], "b"), report([0.5, 0.3], "c")
    reports = {"a_1": a, "50% & more": b, "x|y": c}
    latex = table(reports, ["recall@5"], "latex", intervals=False).splitlines()
    assert r"a\_1 & 0.3000 \\" in latex
    assert r"50\% \& more & \textbf{0.5000} \\" in latex
    assert r"x|y & \underline{0.4000} \\" in latex
    markdown = table(reports, intervals=False).splitlines()
    assert markdown[2:] == [r"| a\_1 | 0.3000 |", "| 50% & more | **0.5000** |", r"| x\|y | *0.4000* |"]
    tied = table({"a": a, "b": a, "c": report([0.1, 0.1])}, form="plain", intervals=False)
    assert tied.count("**0.3000**") == 2
    assert " *0.1000*" in tied
    assert table({r"\~^<>{}$#": a}, form="latex", intervals=False).count(
        r"\textbackslash{}\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\{\}\$\#"
    )
    with pytest.raises(ConfigError, match="Did you mean 'latex'"):
        table(reports, form="latx")
    with pytest.raises(ConfigError, match="is in no report"):
        table(reports, ["recall@6"])
    with pytest.raises(DataError, match="are common"):
        table({"a": a, "b": report([1.0])})


def test_other_masking_is_not_comparable():
    train, test = drawn(80, 40, 700)
    some = Interactions(train.users[:50], train.items[:50], 80, 40, name="train")
    one, other = (evaluate(MatMul(80, 40), test, seen=s, k=5) for s in (train, some))
    with pytest.raises(DataError, match="same split, seen"):
        one.compare(other, "recall@5")
    groups = {"a": np.ones(40, dtype=bool), "b": np.arange(40) < 39}
    parts = evaluate(MatMul(80, 40), test, seen=train, k=5, item_groups=groups, within=True).groups
    with pytest.raises(DataError, match="candidates and group"):
        parts["items/a"].compare(parts["items/a/within"], "recall@5")


def test_a_registered_metric_is_in_evaluations_and_tables(metric_registry):
    @metrics.metric("missed", "the share of held-out items that are not found", higher_is_better=False)
    def missed(hits, n_relevant, k):
        return 1 - metrics.recall(hits, n_relevant, k)

    @metrics.metric("longest", "the length of the longest list", per="lists", higher_is_better=None)
    def longest(lists):
        return (lists.items >= 0).sum(1).max()

    train, test = drawn(150, 60, 1500)
    found = evaluate(MatMul(150, 60), test, seen=train, k=(5, 10), beyond=Beyond(train))
    assert np.array_equal(found["missed@5"], 1 - found["recall@5"])
    assert found.scalars["longest@10"] == 10
    assert "missed" in found.to_markdown()
    assert "longest" in str(found)
    other = evaluate(MatMul(150, 60, seed=1), test, seen=train, k=(5, 10))
    best = min((found, other), key=lambda r: r.mean()["missed@5"])
    text = table({"a": found, "b": other}, ["missed@5"], intervals=False)
    assert f"**{best.mean()['missed@5']:.4f}**" in text, "the lowest is the best where lower is better"


def test_what_a_report_shows_does_not_grow_with_its_users():
    few, many = (report([0.5, 0.25] * n, "r") for n in (1, 5000))
    assert len(repr(many)) <= len(repr(few)) + 20
    assert len(many._repr_html_()) <= len(few._repr_html_()) + 20


def test_notebooks_show_a_table_with_intervals(full):
    text = full._repr_html_()
    ElementTree.fromstring(f"<div>{text}</div>")
    low, high = full.interval("recall@10")
    assert f"{full.mean()['recall@10']:.4f} [{low:.4f}, {high:.4f}]" in text
    assert "items/cold" in text.partition("<table>")[0]
    nasty = report([0.5, 0.25], "<script>", n_users=2, split="a", seen=None, n_excluded=0, n_outside=0)
    assert "<script>" not in nasty._repr_html_()
    assert "&lt;script&gt;" in nasty._repr_html_()
