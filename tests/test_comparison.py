"""Comparing models over seeds: numbers by hand, refusals, tables, files and what a page shows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from test_html import NASTY, Parsed
from test_ranking import MatMul, drawn as drawn_splits

from graphrec.core.errors import ConfigError, DataError
from graphrec.core.random import numpy_rng
from graphrec.evaluation import metrics
from graphrec.evaluation.metrics import bootstrap_means, holm, permutation_p
from graphrec.evaluation.ranking import Beyond, evaluate
from graphrec.evaluation.report import Report
from graphrec.runs.comparison import (
    Entry,
    ModelComparison,
    answer,
    compare_reports,
    notes,
    summary,
    to_html,
    to_parquet,
)

NAMES = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


def report(values: Any, **extra: Any) -> Report:
    """A report with the same values under every metric of the table."""
    vector = np.asarray(values, dtype=np.float64)
    meta = {"model": "m", "split": "test", "seen": "train+valid", **extra.pop("meta", {})}
    return Report(np.arange(len(vector)), dict.fromkeys(NAMES, vector), meta=meta, **extra)


def drawn(label: str, n: int = 40, n_seeds: int = 3, shift: float = 0.0) -> list[Entry]:
    rng = numpy_rng(0, f"tests/comparison/{label}")
    return [Entry(report(rng.random(n) * 0.2 + shift), seed) for seed in range(n_seeds)]


def compared(**options: Any) -> ModelComparison:
    entries = {"A": drawn("A"), "B": drawn("B", shift=0.03), "C": drawn("C", shift=0.1)}
    return compare_reports(entries, **options)


# Numbers


@pytest.mark.parametrize("baseline", [None, "A", "B", "D"])
def test_all_p_values_of_a_page_are_corrected_together(baseline: str | None, tmp_path: Path) -> None:
    """The table has the tests with the baseline, the answer those with the best: one family."""
    made = compare_reports(closely(A=0.0, B=0.27, C=0.29, D=0.3), baseline=baseline)
    tests = {frozenset((c.model, c.baseline)): c for c in (*made.comparisons, *made.against_best)}
    assert len(tests) == made.n_tests == (3 if baseline in (None, "D") else 5)
    corrected = dict(zip(tests, holm([c.p for c in tests.values()]), strict=True))
    for c in (*made.comparisons, *made.against_best):
        assert c.p_holm == pytest.approx(corrected[frozenset((c.model, c.baseline))])
    first = made.best_first()
    assert {(c.model, c.p_holm) for c in first.comparisons} == {(c.model, c.p_holm) for c in made.comparisons}
    assert first.n_tests == made.n_tests
    assert f"for all {made.n_tests} tests" in Parsed(to_html(made, tmp_path / "r.html").read_text()).text


def test_mean_spread_and_interval_are_those_done_by_hand() -> None:
    entries = drawn("A")
    result = compare_reports({"A": entries}).results["A"]
    vectors = np.array([e.report["recall@20"] for e in entries])
    each = [sum(v) / len(v) for v in vectors.tolist()]
    mean = sum(each) / 3
    assert result.values("recall@20").tolist() == pytest.approx(each)
    assert result.mean("recall@20") == pytest.approx(mean)
    assert result.sd("recall@20") == pytest.approx((sum((x - mean) ** 2 for x in each) / 2) ** 0.5)
    over_users = bootstrap_means(vectors.mean(0), 2000, 0)
    assert result.interval("recall@20") == pytest.approx(tuple(np.quantile(over_users, [0.025, 0.975])))


def test_tests_are_paired_on_means_over_seeds_and_corrected() -> None:
    made = compared(baseline="A")
    means = {x: np.mean([e.report["recall@20"] for e in r.entries], 0) for x, r in made.results.items()}
    p = [permutation_p(means[x] - means["A"]) for x in ("B", "C")]
    assert [c.model for c in made.comparisons] == ["B", "C"]
    assert [c.p for c in made.comparisons] == pytest.approx(p)
    p.append(permutation_p(means["B"] - means["C"]))  # C is best, and the answer tests it against B too
    assert made.n_tests == 3
    assert [c.p_holm for c in made.comparisons] == pytest.approx(holm(p)[:2].tolist())
    assert [c.p_holm for c in made.against_best] == pytest.approx(holm(p)[[1, 2]].tolist())
    default = compared()
    assert default.n_tests == 2
    assert [c.p_holm for c in default.comparisons] == pytest.approx(holm(p[1:]).tolist())
    assert [c.difference for c in made.comparisons] == pytest.approx(
        [(means[x] - means["A"]).mean() for x in ("B", "C")]
    )
    pairs = [
        (b, a) for b in made.results["B"].values("recall@20") for a in made.results["A"].values("recall@20")
    ]
    assert made.seed_wins("B") == (sum(b > a for b, a in pairs), 9)


def test_without_a_baseline_the_others_are_tested_against_the_best() -> None:
    made = compared()
    assert (made.baseline, made.default_baseline) == ("C", True)
    assert made.ranking == ["C", "B", "A"]
    assert answer(made).startswith("C is best on recall@20: ")
    assert "over 3 seeds" in answer(made)
    assert "read a p near 0.05 with care" in " ".join(notes(made))
    named = compared(baseline="A")
    assert not named.default_baseline
    assert "the baseline, A" in answer(named)
    assert "with care" not in " ".join(notes(named))


def test_the_answer_says_when_users_or_seeds_could_account_for_the_lead() -> None:
    rng = numpy_rng(0, "tests/comparison/close")
    base = rng.random(60)
    noise = [rng.normal(0, 0.2, 60) for _ in range(4)]
    close = {"A": [Entry(report(base + n), i) for i, n in enumerate(noise[:2])],
             "B": [Entry(report(base + n), i) for i, n in enumerate(noise[2:])]}  # fmt: skip
    near = answer(compare_reports(close))
    assert "may be chance" in near
    clear = answer(compare_reports({"A": [Entry(report(base))], "B": [Entry(report(base + 0.5))]}))
    assert "may be chance" not in clear
    assert "spread over training seeds" not in clear
    assert "with a single seed" in clear
    wide = {
        "A": [Entry(report(base + x), i) for i, x in enumerate((0.0, 0.4))],
        "B": [Entry(report(base + 0.1))],
    }
    assert "smaller than the spread over training seeds" in answer(compare_reports(wide))


def closely(**shifts: float) -> dict[str, list[Entry]]:
    """Models that differ by a constant and by noise, label -> one training."""
    base = numpy_rng(0, "tests/comparison/base").random(200) * 0.5
    noise = {x: numpy_rng(0, f"tests/comparison/noise/{x}").normal(0, 0.1, 200) for x in shifts}
    return {x: [Entry(report(base + shift + noise[x]), 0)] for x, shift in shifts.items()}


@pytest.mark.parametrize("baseline", [None, "A", "D"])
def test_best_is_said_where_every_corrected_p_supports_it_and_leaders_are_named_elsewhere(
    baseline: str | None,
) -> None:
    clear = compare_reports(closely(A=0.0, B=0.1, D=0.3), baseline=baseline)
    assert clear.leaders == ["D"]
    assert answer(clear).startswith("D is best on recall@20: ")
    close = compare_reports(closely(A=0.0, B=0.298, C=0.299, D=0.3), baseline=baseline)
    best, *rest = close.ranking
    assert sorted(close.leaders) == ["B", "C", "D"]
    said = answer(close)
    assert "is best" not in said
    assert said.startswith(
        f"No significant difference on recall@20 between {best}, {rest[0]} and {rest[1]} ("
    )
    assert f"Significantly behind {best}: A." in said
    p = min(c.p_holm for c in close.against_best if c.model in close.leaders)
    assert p >= 0.05
    assert f"every p at least {p:.2g} after Holm’s correction" in said
    if baseline == "A":
        assert "the baseline, A" in said
        assert [c.baseline for c in close.against_best] == [best] * 3, "tests of the headline are its own"


def test_a_middle_model_that_varies_more_is_a_leader_where_the_second_is_not() -> None:
    base = numpy_rng(0, "tests/comparison/base").random(100) * 0.5
    wild = numpy_rng(0, "tests/comparison/wild").normal(0, 0.6, 100)
    made = compare_reports(
        {
            "A": [Entry(report(base))],
            "B": [Entry(report(base - 0.02))],
            "C": [Entry(report(base - 0.03 + wild - wild.mean()))],
        }
    )
    assert made.ranking == ["A", "B", "C"]
    assert made.leaders == ["A", "C"]
    assert answer(made).startswith("No significant difference on recall@20 between A and C (p = ")


def test_the_page_shows_the_best_first_and_leaves_the_comparison_as_it_was(tmp_path: Path) -> None:
    made = compared()
    text = to_html(made, tmp_path / "r.html").read_text()
    assert list(made.results) == ["A", "B", "C"]
    results = text[text.index('<section id="results"') :]
    assert re.findall(r'<th scope="row">(.)</th>', results)[:3] == ["C", "B", "A"]
    tests = text[text.index('<section id="who-is-better') :]
    assert re.findall(r'<th scope="row">(. vs .)</th>', tests)[:2] == ["B vs C", "A vs C"]
    assert [c.model for c in made.best_first().comparisons] == ["B", "A"]


def test_equal_models_have_p_one_and_share_the_first_place() -> None:
    same = drawn("A")
    made = compare_reports({"A": same, "B": same, "C": drawn("C", shift=-0.05)})
    (b,) = (c for c in made.comparisons if c.model == "B")
    assert (b.difference, b.p, b.p_holm) == (0.0, 1.0, 1.0)
    assert [made.rank(x, "recall@20") for x in "ABC"] == [0, 0, 1]
    assert "equal" in answer(made)
    assert made.seed_wins("B") == (3, 9)  # every seed is level with itself, and that is not ahead


def test_no_variance_at_all_is_no_error(tmp_path: Path) -> None:
    flat = {
        x: [Entry(report(np.full(5, v)), s) for s in range(2)] for x, v in (("A", 0.5), ("B", 0.25), ("Z", 0))
    }
    made = compare_reports(flat, baseline="Z")
    assert made.results["A"].sd("recall@20") == 0.0
    assert made.results["A"].interval("recall@20") == (0.5, 0.5)
    assert [made.rank(x, "recall@20") for x in ("A", "B")] == [0, 1]
    two = compare_reports({label: flat[label] for label in ("A", "Z")})
    assert two.rank("Z", "recall@20") == 2, "nothing found is no second place"
    json.dumps(summary(made), allow_nan=False)  # relative to a baseline of 0 is undefined
    assert "nan" not in to_html(made, tmp_path / "r.html").read_text().lower()


def test_a_single_model_and_a_single_seed_are_described_as_such() -> None:
    made = compare_reports({"A": drawn("A", n_seeds=1), })  # fmt: skip
    assert made.results["A"].sd("recall@20") is None
    assert "±" not in made.table()
    assert not made.comparisons
    assert "nothing to compare it with" in answer(made)
    assert "single seed, so no spread is known: A" in " ".join(notes(made))
    assert "rough" not in " ".join(notes(made))
    five = compare_reports({"A": drawn("A", n_seeds=5)})
    assert "Fewer than" not in " ".join(notes(five))


def test_what_cannot_be_compared_is_refused_by_name() -> None:
    a = drawn("A")
    with pytest.raises(DataError, match="A: seed 1 "):
        compare_reports({"A": [a[0], a[1], a[1]]})
    with pytest.raises(DataError, match=r"A \(seed 0\) covers 40 users and B \(seed 0\) 30"):
        compare_reports({"A": a, "B": drawn("B", n=30)})
    on = [Entry(report(np.ones(3), meta={"data": d}), s) for s, d in enumerate("xy")]
    with pytest.raises(DataError, match=r"A \(seed 0\) was evaluated on .*, A \(seed 1\) on"):
        compare_reports({"A": on})
    with pytest.raises(ConfigError, match=r"B \(seed 0\) holds .*recall@10"):
        compare_reports({"A": a, "B": [Entry(Report(np.arange(40), {"recall@20": np.ones(40)}), 0)]})
    with pytest.raises(ConfigError, match="Did you mean 'lightgcn'"):
        compare_reports({"lightgcn": a, "B": a}, baseline="lightgcm")
    with pytest.raises(ConfigError, match="no cut-off"):
        compare_reports({"A": a}, metric="recall")
    for nothing in ({}, {"A": []}):
        with pytest.raises(DataError, match="nothing to compare"):
            compare_reports(nothing)


# Tables and files


def test_tables_mark_best_and_second_in_every_form() -> None:
    made = compared(k=20, metrics="recall")
    best, second, third = (made.results[x] for x in "CBA")
    cells = [f"{r.mean('recall@20'):.4f} ± {r.sd('recall@20'):.4f}" for r in (best, second, third)]
    plain, markdown, latex = (made.table(form) for form in ("plain", "markdown", "latex"))
    for text in (plain, markdown):
        assert f"**{cells[0]}**" in text
        assert re.search(rf"(?<!\*)\*{re.escape(cells[1])}\*(?!\*)", text)
        assert f"*{cells[2]}" not in text
    in_latex = [cell.replace("±", r"$\pm$") for cell in cells]
    assert rf"\textbf{{{in_latex[0]}}}" in latex
    assert rf"\underline{{{in_latex[1]}}}" in latex
    low, high = best.interval("recall@20") or (0, 0)
    assert f"[{low:.4f}, {high:.4f}]" in plain
    assert "[" not in made.table(intervals=False)
    with pytest.raises(ConfigError, match="Did you mean 'latex'"):
        made.table("latx")  # type: ignore[arg-type]


def test_labels_are_escaped_in_every_form(tmp_path: Path) -> None:
    label = "50%_a & b|c\\d{e}~"
    made = compare_reports({label: drawn("A"), NASTY: drawn("B")})
    latex = made.table("latex")
    assert r"50\%\_a \& b|c\textbackslash{}d\{e\}\textasciitilde{}" in latex
    assert not re.search(r"(?<!\\)[%_#]", latex)
    assert r"b\|c" in made.table("markdown")
    assert "<script" not in made.table("markdown")
    text = to_html(made, tmp_path / "r.html", title=NASTY, command=NASTY).read_text()
    parsed = Parsed(text)
    assert not {"script", "img"} & set(parsed.tags)
    assert not [key for _, key, _ in parsed.attributes if key.startswith("on")]
    assert parsed.text.count("<script>") > 3


def test_parquet_holds_every_number_once(tmp_path: Path) -> None:
    made = compared()
    found = pl.read_parquet(to_parquet(made, tmp_path / "deep" / "c.parquet"))
    row: Callable[..., Any] = lambda label, kind, seed=None: found.filter(  # noqa: E731
        (pl.col("label") == label)
        & (pl.col("metric") == "recall@20")
        & (pl.col("kind") == kind)
        & (pl.col("seed").is_null() if seed is None else pl.col("seed") == seed)
    )["value"].item()
    for label, result in made.results.items():
        assert [row(label, "value", s) for s in range(3)] == result.values("recall@20").tolist()
        assert (row(label, "mean"), row(label, "sd")) == (result.mean("recall@20"), result.sd("recall@20"))
        assert (row(label, "low"), row(label, "high")) == result.interval("recall@20")
    kept = pq.read_schema(tmp_path / "deep" / "c.parquet").metadata[b"graphrec_comparison"]
    assert json.loads(kept) == summary(made)
    users = pl.read_parquet(to_parquet(made, tmp_path / "u.parquet", per="user"))
    assert (
        users.filter(pl.col("label") == "B")["ndcg@10"].to_list()
        == made.results["B"].report["ndcg@10"].tolist()
    )
    with pytest.raises(ConfigError, match="Did you mean 'user'"):
        to_parquet(made, tmp_path / "x", per="users")  # type: ignore[arg-type]


# The page


def test_parts_without_data_are_left_out(tmp_path: Path) -> None:
    parsed = Parsed(to_html(compared(), tmp_path / "r.html").read_text())
    assert parsed.values("section", "id") == [
        "the-answer", "results", "who-is-better-and-how-sure-it-is", "metric-against-k", "how-to-read-this",
        "how-it-was-run",
    ]  # fmt: skip


def test_curves_are_means_over_the_epochs_all_seeds_have(tmp_path: Path) -> None:
    histories = [
        [{"epoch": e, "seconds": 1.0, "recall@20": 0.1 * e} for e in (1, 2, 3)],
        [{"epoch": e, "seconds": 1.0, "recall@20": 0.2 * e} for e in (1, 2)],
    ]
    entries = [Entry(report(np.full(4, 0.5)), s, h, 10.0) for s, h in enumerate(histories)]
    still = [Entry(report(np.full(4, 0.25)), 0, [{"epoch": 0, "seconds": 0.0, "recall@20": 0.2}], 0.0)]
    text = to_html(compare_reports({"A": entries, "still": still}), tmp_path / "r.html").read_text()
    hovers = re.findall(r"<title>(A, epoch .*?)</title>", text)
    assert hovers == ["A, epoch 1: 0.15", "A, epoch 2: 0.3"]
    assert len(re.findall(r"<title>A, seconds 10: 0.5</title>", text)) == 2
    assert (
        len(re.findall("<line[^>]*stroke-dasharray", text)) == 2
    )  # untrained: a level in the curves and among the times


@pytest.mark.parametrize("name", metrics.user_metrics())
def test_every_registered_metric_can_decide_a_comparison(name: str, tmp_path: Path) -> None:
    full = f"{name}@20"
    entries = {
        label: [Entry(Report(np.arange(9), {full: np.full(9, value)}), 0)]
        for label, value in (("A", 0.25), ("B", 0.5))
    }
    made = compare_reports(entries, metric=full, metrics=[name], k=20)
    assert made.ranking == ["B", "A"]
    assert metrics.METRICS[name].meaning in Parsed(to_html(made, tmp_path / "r.html").read_text()).text


def test_a_metric_of_ones_own_is_in_the_comparison_and_its_page(
    metric_registry: None, tmp_path: Path
) -> None:
    @metrics.metric("missed", "the share of <held-out> items not found", higher_is_better=False)
    def missed(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
        return np.asarray(1 - metrics.recall(hits, n_relevant, k))

    @metrics.metric("longest", "the length of the longest list", per="lists", higher_is_better=None)
    def longest(lists: metrics.RecommendedLists) -> float:
        return float((lists.items >= 0).sum(1).max())

    train, test = drawn_splits(150, 60, 1500)
    entries = {
        label: [Entry(evaluate(MatMul(150, 60, seed=seed), test, seen=train, k=20, beyond=Beyond(train)), 0)]
        for seed, label in enumerate("AB")
    }
    made = compare_reports(entries, metric="missed@20", metrics=["missed", "recall"], k=20)
    best, second = made.ranking
    means = {label: made.results[label].mean("missed@20") for label in made.ranking}
    assert means[best] < means[second], "the lowest is the best where lower is better"
    assert made.baseline == best
    assert (made.rank(best, "missed@20"), made.rank(second, "missed@20")) == (0, 1)
    assert made.seed_wins(second) == (0, 1)
    assert f"on missed@20 between {best} and {second}" in answer(made), "a difference that is chance"
    assert f"The lowest mean is {best}’s: {means[best]:.4f}" in answer(made)
    assert f"**{means[best]:.4f}**" in made.table()
    text = to_html(made, tmp_path / "r.html").read_text()
    parsed = Parsed(text)
    assert "Lower is better" in parsed.text
    assert "missed@k : the share of <held-out> items not found" in parsed.text
    assert "longest: the length of the longest list" in parsed.text
    assert f'<span class="best">{means[best]:.4f}</span>' in text
    assert summary(made)["models"][best]["beyond"]["longest@20"]["mean"] == 20


def test_notebooks_show_the_table_and_the_tests() -> None:
    made = compare_reports({"<A>": drawn("A"), "B": drawn("B", shift=0.1)})
    text = made._repr_html_()
    ElementTree.fromstring(f"<div>{text}</div>")
    assert text.count("<table>") == 2
    result = made.results["B"]
    assert f"<b>{result.mean('recall@20'):.4f} ± {result.sd('recall@20'):.4f}</b>" in text
    assert "&lt;A&gt;" in text
    assert "<A>" not in text
    single = compare_reports({"A": drawn("A")})
    assert single._repr_html_().count("<table>") == 1
