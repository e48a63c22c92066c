from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats
from tolerances import METRIC

from graphrec.core.errors import ConfigError, DataError
from graphrec.core.topk import topk
from graphrec.evaluation import metrics


def brute(name: str, ranked: list[int], relevant: set[int], k: int) -> float:
    """The textbook definition for one user, in plain Python."""
    top = ranked[:k]
    found = [rank for rank, item in enumerate(top, 1) if item in relevant]
    match name:
        case "recall":
            return len(found) / len(relevant)
        case "precision":
            return len(found) / k
        case "hit":
            return float(bool(found))
        case "mrr":
            return 1 / found[0] if found else 0.0
        case "ndcg":
            ideal = sum(1 / math.log2(r + 1) for r in range(1, min(k, len(relevant)) + 1))
            return sum(1 / math.log2(r + 1) for r in found) / ideal
        case "ndcg_retrieved":
            everywhere = sum(item in relevant for item in ranked)
            ideal = sum(1 / math.log2(r + 1) for r in range(1, min(k, everywhere) + 1))
            return sum(1 / math.log2(r + 1) for r in found) / ideal if everywhere else 0.0
    total = sum(len([f for f in found if f <= rank]) / rank for rank in found)
    return total / (min(k, len(relevant)) if name == "map" else len(relevant))


cases = st.lists(
    st.tuples(st.permutations(range(12)), st.sets(st.integers(0, 14), min_size=1), st.integers(0, 12)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(cases, st.integers(1, 14))
def test_accuracy_equals_the_textbook(users, k):
    lists = [list(order)[:length] for order, _, length in users]
    relevant = [r for _, r, _ in users]
    hits = np.array(
        [[i < len(x) and x[i] in r for i in range(14)] for x, r in zip(lists, relevant, strict=True)]
    )
    counts = np.array([len(r) for r in relevant])
    for name in metrics.user_metrics():
        ours = metrics.accuracy(hits, counts, [f"{name}@{k}"])[f"{name}@{k}"]
        expected = [brute(name, x, r, k) for x, r in zip(lists, relevant, strict=True)]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=METRIC)
        assert ours.dtype == np.float64


def test_accuracy_equals_ir_measures():
    ir = pytest.importorskip("ir_measures")
    rng = np.random.default_rng(0)
    n, n_items = 40, 30
    lists = np.argsort(rng.random((n, n_items)), axis=1)[:, :20]
    relevance = rng.random((n, n_items)) < 0.15
    relevance[np.arange(n), rng.integers(0, n_items, n)] = True
    hits = np.take_along_axis(relevance, lists, 1)
    qrels = [ir.Qrel(str(u), str(i), 1) for u, i in np.argwhere(relevance)]
    run = [ir.ScoredDoc(str(u), str(i), float(-r)) for u in range(n) for r, i in enumerate(lists[u])]
    names = {
        "recall": ir.R,
        "ndcg": ir.nDCG,
        "precision": ir.P,
        "map_all": ir.AP,
        "mrr": ir.RR,
        "hit": ir.Success,
    }
    for k in (5, 20):
        for name, measure in names.items():
            theirs = np.zeros(n)
            for value in ir.iter_calc([measure @ k], qrels, run):
                theirs[int(value.query_id)] = value.value
            ours = metrics.accuracy(hits, relevance.sum(1), [f"{name}@{k}"])[f"{name}@{k}"]
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=METRIC, err_msg=f"{name}@{k}")


def test_blocks_of_users_change_nothing():
    rng = np.random.default_rng(1)
    hits = rng.random((65_540, 3)) < 0.4
    counts = rng.integers(3, 6, len(hits))
    whole = metrics.ndcg(hits, counts, 3)
    assert np.array_equal(metrics.accuracy(hits, counts, ["ndcg@3"])["ndcg@3"], whole)


def test_the_registry_describes_every_metric():
    for name, found in metrics.METRICS.items():
        assert found.name == name
        assert found.meaning
        assert found.higher_is_better in (True, False, None)
        assert metrics.find_metric(f"{name}@20") is found
    assert metrics.find_metric("diversity/image@20") is metrics.METRICS["diversity"]
    assert metrics.find_metric("unknown@20") is None
    assert [metrics.direction(n) for n in ("recall@5", "gini@5", "popularity@5", "unknown@5")] == [
        1,
        -1,
        1,
        1,
    ]
    assert "ndcg_retrieved" in metrics.user_metrics()
    assert "ndcg_retrieved" not in metrics.default_metrics()


@pytest.mark.parametrize("name", ["recall", "a@b", "a/b", ""])
def test_a_name_that_is_taken_or_ambiguous_is_refused(name):
    before = dict(metrics.METRICS)
    with pytest.raises(ConfigError, match="recall"):
        metrics.metric(name, "meaning")(brute)
    assert before == metrics.METRICS


def test_a_metric_that_is_defined_again_replaces_the_former(metric_registry):
    for factor in (1, 2):

        @metrics.metric("scaled", "a multiple of recall")
        def scaled(hits, n_relevant, k, factor=factor):
            return factor * metrics.recall(hits, n_relevant, k)

    assert metrics.accuracy(np.ones((1, 1), bool), np.array([1]), ["scaled@1"])["scaled@1"] == [2.0]


@pytest.mark.parametrize("name", ["gini@20", "popularity_lift@5"])
def test_a_metric_of_all_lists_is_none_of_users(name):
    with pytest.raises(ConfigError, match=name):
        metrics.parse_metric(name)


@pytest.mark.parametrize(
    "name", ["recal@20", "recall", "recall@0", "recall@-1", "recall@2.5", "recall@x", "recall@02"]
)
def test_bad_names_are_refused(name):
    with pytest.raises(ConfigError, match="recall"):
        metrics.parse_metric(name)


def test_names_expand():
    assert metrics.metric_names(("recall", "ndcg@5"), (20, 10)) == ("recall@10", "recall@20", "ndcg@5")
    assert metrics.metric_names("hit", 3) == ("hit@3",)
    for k in ((0,), 1.5, True, ()):
        with pytest.raises(ConfigError):
            metrics.metric_names(("recall",), k)


def test_impossible_input_is_refused():
    hits = np.zeros((2, 3), dtype=bool)
    with pytest.raises(DataError, match="cut-off 4"):
        metrics.recall(hits, np.array([1, 1]), 4)
    with pytest.raises(DataError, match="row 1 has 0 relevant"):
        metrics.recall(hits, np.array([1, 0]), 2)
    with pytest.raises(DataError, match="expected"):
        metrics.recall(hits, np.array([1]), 2)


# -- lists --


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 6), st.integers(1, 150), st.integers(1, 12), st.integers(0, 2**31), st.booleans())
def test_top_k_is_the_stable_sort(rows, n, k, seed, ties):
    rng = np.random.default_rng(seed)
    values = np.array([-np.inf, np.inf, -1, -0.0, 0.0, 0.5, 2.0]) if ties else rng.normal(size=1000)
    scores = rng.choice(values, (rows, n)).astype(np.float32)
    expected = np.full((rows, k), -1)
    for row in range(rows):
        best = [i for i in np.argsort(-scores[row], kind="stable") if scores[row, i] > -np.inf][:k]
        expected[row, : len(best)] = best
    assert metrics.top_k(torch.from_numpy(scores), k).tolist() == expected.tolist()


def test_top_k_reads_blocks_as_the_whole_row():
    scores = torch.randn(8, 3001, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    scores[:, ::7] = -torch.inf
    order = np.argsort(-scores.numpy(), axis=1, kind="stable")
    for k in (1, 5, 60, 187, 300):
        assert np.array_equal(metrics.top_k(scores, k).numpy(), order[:, :k])


@pytest.mark.parametrize("n", [200, 203, 341])  # blocks of different lengths
@pytest.mark.parametrize("left", [0, 1, 3, 10, 11])
def test_top_k_of_rows_that_are_all_but_masked_stays_within_them(left, n):
    k = 10
    scores = torch.full((3, n), -torch.inf)
    scores[1] = torch.arange(n, 0, -1)
    scores[2, n - left :] = 1.0
    scores[0, n - left :] = torch.arange(left) + 1.0
    values, columns = topk(scores, k)
    assert columns.max() < n
    assert all(len(set(row.tolist())) == k for row in columns)
    assert torch.equal(scores.gather(1, columns), values)
    kept = min(left, k)
    assert columns[0, :kept].tolist() == list(range(n - 1, n - 1 - kept, -1))
    assert columns[2, :kept].tolist() == list(range(n - left, n - left + kept))


def test_top_k_names_the_user_with_nan():
    scores = torch.zeros(3, 500)
    scores[2, 499] = torch.nan
    with pytest.raises(DataError, match="user 17 "):
        metrics.top_k(scores, 2, np.array([3, 5, 17]))
    assert metrics.top_k(torch.zeros(2, 0), 3).tolist() == [[-1] * 3] * 2


# -- beyond accuracy --


def shown(counts: list[int]) -> metrics.RecommendedLists:
    """Lists of one item each that show item i ``counts[i]`` times."""
    items = np.repeat(np.arange(len(counts)), counts)[:, None]
    everywhere = np.ones(len(counts), dtype=bool)
    return metrics.RecommendedLists(items, everywhere, np.ones(len(counts)), 1, np.ones(len(items)))


def test_gini_and_coverage():
    assert metrics.gini(shown([5, 5, 5, 5])) == 0
    assert metrics.gini(shown([0, 0, 8, 0])) == pytest.approx(0.75)
    x = np.array([1, 4, 2, 9, 0])
    pairs = np.abs(x[:, None] - x[None]).sum() / (2 * len(x) ** 2 * x.mean())
    assert metrics.gini(shown(x)) == pytest.approx(pairs, abs=METRIC)
    assert metrics.coverage(shown(x)) == pytest.approx(0.8)
    assert math.isnan(metrics.gini(shown([0, 0, 0])))
    assert math.isnan(metrics.coverage(shown([])))
    lists = metrics.RecommendedLists(
        np.array([[0, 2], [2, -1]]), np.array([1, 1, 1, 0]) > 0, *[np.ones(4)] * 3
    )
    assert lists.exposure.tolist() == [1, 0, 2]


def test_novelty_and_popularity():
    degree = np.array([8, 2, 0, 1])
    items = np.array([[0, 1], [2, -1], [-1, -1]])
    history = np.array([2.0, np.nan, 100.0])
    lists = metrics.RecommendedLists(items, np.ones(4, dtype=bool), degree, 8, history)
    np.testing.assert_allclose(lists.popularity, [5.0, 0.0, np.nan])
    assert metrics.novelty(lists) == pytest.approx((1.0 + 3.0) / 2)
    assert metrics.popularity(lists) == pytest.approx(2.5)
    assert metrics.popularity_lift(lists) == pytest.approx(5 / 2 - 1)
    both = metrics.RecommendedLists(items, np.ones(4, dtype=bool), degree, 8, np.array([2.0, 4.0, 100.0]))
    assert metrics.popularity_lift(both) == pytest.approx(2.5 / 3 - 1)


def test_diversity_equals_the_pairs(monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 5)).astype(np.float32)
    vectors[4] = 0
    vectors[5, 0] = np.nan
    present = np.ones(30, dtype=bool)
    present[6] = False
    lists = np.stack([rng.permutation(30)[:8] for _ in range(20)])
    lists[3, 2:] = -1
    lists[7] = [4, 5, 6, 1, -1, -1, -1, -1]
    lists[8, :3] = [4, 5, 6]
    expected = []
    for row in lists:
        used = [i for i in row if i >= 0 and i not in (4, 5, 6)]
        unit = [vectors[i].astype(float) / np.linalg.norm(vectors[i].astype(float)) for i in used]
        cosines = [a @ b for x, a in enumerate(unit) for b in unit[x + 1 :]]
        expected.append(1 - np.mean(cosines) if cosines else np.nan)
    assert math.isnan(expected[7])
    for chunk in (metrics.CHUNK_BYTES, 700):
        monkeypatch.setattr(metrics, "CHUNK_BYTES", chunk)
        np.testing.assert_allclose(
            metrics.intra_list_diversity(lists, vectors, present), expected, atol=METRIC
        )


# -- statistics --


def test_holm_by_hand():
    np.testing.assert_allclose(metrics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert metrics.holm([0.6, 0.9]).tolist() == [1.0, 1.0]
    assert len(metrics.holm([])) == 0
    with pytest.raises(DataError, match="0 to 1"):
        metrics.holm([0.5, float("nan")])


@pytest.mark.parametrize("draw", ["few values", "many values"])
def test_bootstrap_has_the_right_spread(draw):
    rng = np.random.default_rng(3)
    values = rng.integers(0, 3, 400) / 2 if draw == "few values" else rng.normal(size=400)
    means = metrics.bootstrap_means(values, 4000, 1)
    assert means.mean() == pytest.approx(values.mean(), abs=4 * values.std() / 20 / 60)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.05)
    assert np.array_equal(means, metrics.bootstrap_means(values, 4000, 1))
    assert not np.array_equal(means, metrics.bootstrap_means(values, 4000, 2))


def test_bootstrap_intervals_cover():
    rng = np.random.default_rng(4)
    covered = 0
    for trial in range(300):
        values = (rng.random(120) < 0.3).astype(float) if trial % 2 else rng.exponential(0.3, 120)
        low, high = np.quantile(metrics.bootstrap_means(values, 400, trial), [0.05, 0.95])
        covered += low <= 0.3 <= high
    assert 0.84 <= covered / 300 <= 0.95


def test_permutation_p_is_uniform_under_the_null():
    rng = np.random.default_rng(5)
    p = np.array([metrics.permutation_p(rng.normal(size=40), trial, n=400) for trial in range(300)])
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_permutation_p_equals_enumeration():
    difference = np.array([0.5, -0.1, 0.3, 0.0, 0.2, 0.4, -0.2, 0.6, 0.1])
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(difference))).reshape(len(difference), -1)
    exact = np.mean(np.abs(difference @ signs) >= abs(difference.sum()) - 1e-9)
    assert metrics.permutation_p(difference, 0, n=40_000) == pytest.approx(exact, abs=0.006)
    assert metrics.permutation_p(np.zeros(5)) == 1.0
    assert metrics.permutation_p(np.full(50, 0.1), n=999) == pytest.approx(0.001)
