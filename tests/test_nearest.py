"""Neighbors against brute force, with and without a cache; top-k against a stable sort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.sparse import csr_matrix
from tolerances import PROPAGATION

from graphrec.core.errors import GraphError
from graphrec.core.random import numpy_rng
from graphrec.core.topk import top_indices, topk, update_topk
from graphrec.features import FeatureTable
from graphrec.graphs import equal_rows, knn as graph_module, nearest
from graphrec.graphs.equal_rows import EqualRows
from graphrec.graphs.knn import content_graph, knn, nearest_edges
from graphrec.graphs.nearest import nearest_rows
from graphrec.graphs.sparse import unit_rows

few = settings(max_examples=40, deadline=None)


def table(values, present=None) -> FeatureTable:
    return FeatureTable(np.asarray(values, dtype=np.float32), present)


@pytest.mark.parametrize("exponent", [-110, -63, -62, -40, 40, 59, 60, 63, 64, 120])
def test_vectors_of_one_direction_have_one_unit_vector(exponent: int) -> None:
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    unit = nearest.unit_length(rows)
    assert torch.equal(unit, torch.nn.functional.normalize(rows, dim=1))
    assert torch.equal(nearest.unit_length(rows * 2.0**exponent), unit)
    mixed = torch.cat([rows[:9] * 2.0**exponent, torch.zeros(1, 8), rows[9:]])
    assert torch.equal(nearest.unit_length(mixed), torch.cat([unit[:9], torch.zeros(1, 8), unit[9:]]))
    sparse = unit_rows(csr_matrix((rows * 2.0**exponent).numpy())).toarray()
    assert np.allclose(sparse, unit.numpy(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("factor", [1e-30, 1e-15, 1e15, 1e30])
def test_neighbors_do_not_depend_on_length(factor: float) -> None:
    values = numpy_rng(0, "test/length").normal(size=(60, 5)).astype(np.float32)
    scaled = values * np.float32(factor)
    same = knn(table(values), 5)
    for other in (scaled, np.where(np.arange(60)[:, None] % 2, scaled, values)):
        assert torch.equal(knn(table(other), 5).dense() > 0, same.dense() > 0)
        found = nearest_rows(torch.from_numpy(other), torch.from_numpy(values), 5)
        exact = nearest_rows(torch.from_numpy(values), torch.from_numpy(values), 5)
        assert torch.equal(found[1], exact[1])
        assert torch.allclose(found[0], exact[0], rtol=PROPAGATION, atol=PROPAGATION)


# -- neighbors ----------------------------------------------------------------------------------------------


@st.composite
def features(draw):
    """Vectors with repeated rows and missing items: whole numbers, so that equal rows are equally similar."""
    n, d = draw(st.integers(1, 14)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.integers(-3, 4, (n, d)).astype(np.float32)
    values[~values.any(1)] = 1
    if n > 3:
        values[n - 1] = values[0]
    present = rng.random(n) < 0.8
    present[draw(st.integers(0, n - 1))] = True
    values[~present] = 0
    return values, present


def brute_neighbors(values: np.ndarray, present: np.ndarray, k: int) -> np.ndarray:
    """``(n, n)`` mask of each item's k nearest by cosine, lowest id first among equals."""
    unit = values.astype(np.float64) / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    mask = np.zeros((len(values), len(values)), dtype=bool)
    for i in np.flatnonzero(present):
        cosine = np.round(unit @ unit[i], 5)
        order = sorted(np.flatnonzero(present), key=lambda j: (-cosine[j], j))
        mask[i, order[:k]] = True
    return mask


def test_knn_equals_brute_force() -> None:
    rng = numpy_rng(0, "test/knn")
    for n, d, k in ((1, 1, 3), (2, 3, 1), (17, 3, 5), (40, 8, 7), (40, 8, 40), (9, 2, 20)):
        values = rng.normal(size=(n, d)).astype(np.float32)
        present = rng.random(n) < 0.8
        present[0] = True
        values[~present] = 0
        graph = knn(table(values, present), k)
        expected = brute_neighbors(values, present, k)
        assert np.array_equal(graph.dense().numpy() > 0, expected)
        assert set(graph.weight.tolist()) == {1.0}
        itself = np.diag(graph.dense().numpy()) > 0
        assert np.array_equal(itself, present), "every present item is its own nearest neighbor"
        assert not expected[~present].any()
        assert not expected[:, ~present].any()
        cosine = knn(table(values, present), k, weight="cosine").dense().numpy()
        unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
        assert np.allclose(cosine, np.where(expected, np.maximum(unit @ unit.T, 0), 0), atol=1e-6)


# -- equal rows ---------------------------------------------------------------------------------------------


def with_equal_rows(counts: list[int], seed: int, d: int = 5) -> np.ndarray:
    """Random vectors, each as often as its count says, in random order."""
    rng = np.random.default_rng(seed)
    values = np.repeat(rng.normal(size=(len(counts), d)), counts, axis=0).astype(np.float32)
    return rng.permutation(values)


def shared_places(values: np.ndarray, k: int) -> np.ndarray:
    """``(n, n)``: the k places of each item; it takes the first, and equal items share what they get."""
    n = len(values)
    unit = values.astype(np.float64) / np.linalg.norm(values, axis=1, keepdims=True)
    places = np.eye(n)
    for i in range(n):
        cosine = np.round(unit @ unit[i], 9)
        cosine[(values == values[i]).all(1)] = 2
        left = k - 1
        for level in sorted(set(cosine), reverse=True):
            group = [j for j in np.flatnonzero(cosine == level) if j != i]
            if group and left:
                given = min(left, len(group))
                places[i, group] = given / len(group)
                left -= given
    return places


counts = st.lists(st.integers(1, 6), min_size=1, max_size=8)


@few
@given(counts, st.integers(1, 8), st.integers(0, 2**32))
def test_equal_items_share_places(counts: list[int], k: int, seed: int) -> None:
    values = with_equal_rows(counts, seed)
    expected = shared_places(values, k)
    graph = knn(table(values), k)
    assert np.allclose(graph.dense().numpy(), expected, atol=1e-6)
    assert np.allclose(graph.dense().sum(1), min(k, len(values)), atol=1e-5)
    assert (graph.dense().diagonal() == 1).all(), "every item is its own neighbor"
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    cosine = knn(table(values), k, weight="cosine").dense().numpy()
    assert np.allclose(cosine, expected * np.maximum(unit @ unit.T, 0), atol=1e-6)


@few
@given(counts, st.integers(1, 8), st.integers(0, 2**32), st.booleans())
def test_permuting_items_permutes_the_graph(counts: list[int], k: int, seed: int, whole: bool) -> None:
    values = with_equal_rows(counts, seed)
    if whole:  # whole numbers: different vectors are equally similar, too
        values = np.round(values)
        values[~values.any(1)] = 1
    order = np.random.default_rng(seed + 1).permutation(len(values))
    graph = knn(table(values), k).dense().numpy()
    permuted = knn(table(values[order]), k).dense().numpy()
    assert np.array_equal(permuted, graph[order][:, order])


def test_more_equal_items_than_places_are_all_alike() -> None:
    values = with_equal_rows([300, 200, 100], 0)
    graph = knn(table(values), 10)
    dense = graph.dense().numpy()
    assert np.allclose(dense.sum(0), 10, atol=1e-4), "no item is the neighbor of more items than another"
    assert np.allclose(dense[dense < 1].max(), 9 / 99, atol=1e-6)


def test_too_many_equal_items_to_link_them_all_take_places_in_turn(monkeypatch) -> None:
    monkeypatch.setattr(equal_rows, "MOST_SHARED", 100)
    values = with_equal_rows([60, 5, 1], 0)
    dense = knn(table(values), 10).dense().numpy()
    assert (dense.sum(1) == 10).all()
    assert set(np.unique(dense)) == {0, 1}
    assert (np.diag(dense) == 1).all()
    large = (values == values[np.argmax(dense.sum(0))]).all(1)
    assert dense[large][:, large].sum(0).max() <= 10, "places inside a group are dealt evenly"


def test_new_and_cold_items_average_all_equal_neighbors() -> None:
    values = with_equal_rows([30, 4, 4], 3)
    queries = values[:6] + np.float32(0.001)
    edges = nearest_edges(torch.from_numpy(queries), torch.from_numpy(values), 5)
    weight = np.zeros((6, len(values)))
    weight[edges.query, edges.row] = edges.share
    assert np.allclose(weight.sum(1), 5, atol=1e-5)
    for i in range(6):
        same = (values == values[i]).all(1)
        assert np.allclose(weight[i, same], min(5, same.sum()) / same.sum(), atol=1e-6)


def test_zeros_of_either_sign_are_equal() -> None:
    values = np.array([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]], dtype=np.float32)
    assert len(EqualRows.of([values])) == 2


@few
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=14),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_block_sizes_do_not_matter(labels: list[int], k: int, rows: int, columns: int) -> None:
    vectors = torch.eye(4)[labels]  # cosines of exactly 0 and 1, so nearly all are ties
    whole, cut = nearest_rows(vectors, vectors, k), nearest_rows(vectors, vectors, k, block=(rows, columns))
    assert torch.equal(whole[1], cut[1])
    assert torch.equal(whole[0], cut[0])
    same = vectors @ vectors.T
    order = np.argsort(-same.numpy(), axis=1, kind="stable")[:, :k]
    assert np.array_equal(whole[1].numpy(), order)


@pytest.mark.parametrize("block", [1, 7, 16, 25, 50, 64])
@pytest.mark.parametrize("k", [1, 9, 50])
def test_half_the_products_give_all_neighbors(block: int, k: int) -> None:
    corners = (
        numpy_rng(0, "test/within").integers(0, 2, (50, 4)) * 2.0 - 1
    )  # halves after scaling: exact, many ties
    unit = torch.nn.functional.normalize(torch.from_numpy(corners.astype(np.float32)), dim=1)
    values, rows = nearest._search_within(k, block, unit)
    order = np.argsort(-(unit @ unit.T).numpy(), axis=1, kind="stable")[:, :k]
    assert np.array_equal(rows.numpy(), order)
    assert torch.equal(values, (unit @ unit.T).gather(1, rows))


@pytest.mark.parametrize("wide", [1, 1024])
def test_both_ways_to_compare_all_rows_find_the_same(wide: int, monkeypatch) -> None:
    monkeypatch.setattr(nearest, "WIDE", wide)
    monkeypatch.setattr(nearest, "SQUARE", 16)
    vectors = numpy_rng(0, "test/wide").normal(size=(50, 6)).astype(np.float32)
    expected = nearest_rows(torch.from_numpy(vectors), torch.from_numpy(vectors), 9)[1]
    assert np.array_equal(columns(knn(table(vectors), 9)), expected.sort(1).values.numpy())


def test_block_sizes_do_not_matter_for_real_vectors() -> None:
    vectors = torch.from_numpy(numpy_rng(0, "test/blocks").normal(size=(50, 6)).astype(np.float32))
    whole = nearest_rows(vectors, vectors, 9)
    for block in ((7, 11), (50, 3), (1, 50)):
        values, rows = nearest_rows(vectors, vectors, 9, block=block)
        assert torch.equal(rows, whole[1])
        assert torch.allclose(values, whole[0], atol=1e-6)


def test_knn_refuses_what_it_cannot() -> None:
    values = np.ones((3, 2))
    with pytest.raises(GraphError, match="k = 0"):
        knn(table(values), 0)
    with pytest.raises(GraphError, match="no item has this feature"):
        knn(table(values, np.zeros(3, dtype=bool)), 2)
    with pytest.raises(GraphError, match="expected 'binary' or 'cosine'"):
        knn(table(values), 2, weight="gauss")


def test_neighbors_come_from_the_cache_where_it_holds_them(tmp_path, monkeypatch) -> None:
    calls = []
    compute = graph_module.all_neighbors
    monkeypatch.setattr(graph_module, "all_neighbors", lambda *a: calls.append(1) or compute(*a))
    values = numpy_rng(0, "test/cache").normal(size=(20, 4)).astype(np.float32)
    first = knn(table(values), 3)

    def n_computed(t: FeatureTable, k: int = 3) -> int:
        before = len(calls)
        graph = knn(t, k, cache=tmp_path)
        assert np.array_equal(graph.dense(), knn(t, k).dense())
        return len(calls) - before - 1  # the comparison computes once

    assert n_computed(table(values)) == 1
    assert n_computed(table(values)) == 0
    assert np.array_equal(knn(table(values), 3, cache=tmp_path).dense(), first.dense())
    # Other numbers, another mask, another k: none of them is answered from what was kept.
    changed = values.copy()
    changed[0, 0] += 1
    assert n_computed(table(changed)) == 1
    present = np.ones(20, dtype=bool)
    present[4] = False
    assert n_computed(table(np.where(present[:, None], values, 0), present)) == 1
    assert n_computed(table(values), k=4) == 1
    assert len(list(tmp_path.iterdir())) == 4
    assert n_computed(table(values)) == 0


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [_flip, lambda p: p.write_bytes(p.read_bytes()[:-8]), Path.unlink])
@pytest.mark.parametrize("name", ["group.npy", "neighbors.npy", "similarity.npy"])
def test_a_damaged_cache_is_computed_again(tmp_path, name: str, damage) -> None:
    values = numpy_rng(0, "test/cache").normal(size=(20, 4)).astype(np.float32)
    expected = knn(table(values), 3, cache=tmp_path)
    (file,) = tmp_path.glob(f"*/{name}")
    whole = file.read_bytes()
    damage(file)
    assert np.array_equal(knn(table(values), 3, cache=tmp_path).dense(), expected.dense())
    assert file.read_bytes() == whole, "the cache is whole again"


def test_a_damaged_cache_manifest_is_computed_again(tmp_path) -> None:
    values = numpy_rng(0, "test/cache").normal(size=(20, 4)).astype(np.float32)
    expected = knn(table(values), 3, cache=tmp_path)
    (manifest,) = tmp_path.glob("*/manifest.json")
    whole = manifest.read_bytes()
    for damaged in (b"", whole[:20], b"{}", b"[]", b'{"neighbors.npy": 3}'):
        manifest.write_bytes(damaged)
        assert np.array_equal(knn(table(values), 3, cache=tmp_path).dense(), expected.dense())
        assert manifest.read_bytes() == whole


@few
@given(
    features(),
    features(),
    st.integers(1, 5),
    st.floats(0, 1, width=16, allow_subnormal=False),  # the expected value divides by it
    st.integers(0, 2**32),
)
def test_content_graph_averages_the_nearest_warm_items(one, other, k: int, share: float, seed: int) -> None:
    n = min(len(one[0]), len(other[0]))
    tables = {"image": table(one[0][:n], one[1][:n]), "text": table(other[0][:n], other[1][:n])}
    weights = {"image": share, "text": 1 - share}
    warm = np.random.default_rng(seed).random(n) < 0.6
    matrix = content_graph(tables, weights, k, targets=~warm, sources=warm).dense().numpy()
    expected = np.zeros((n, n))
    total = np.zeros(n)
    for name, weight in weights.items():
        has = tables[name].present
        keys, queries = np.flatnonzero(has & warm), np.flatnonzero(has & ~warm)
        if weight > 0 and len(keys) and len(queries):
            vectors = (torch.from_numpy(tables[name].take(r)) for r in (queries, keys))
            edges = nearest_edges(*vectors, k)
            share = weight * edges.share / min(k, len(keys))
            np.add.at(expected, (queries[edges.query], keys[edges.row]), share)
            total[queries] += weight
    assert np.allclose(matrix, expected / np.where(total > 0, total, 1)[:, None], atol=PROPAGATION)
    sums = matrix.sum(1)
    assert np.allclose(sums, total > 0, atol=1e-5), "rows sum to one, or are empty"
    assert not matrix[warm].any()
    assert not matrix[:, ~warm].any()


# -- approximate neighbors ----------------------------------------------------------------------------------


def clustered(n: int = 3000, d: int = 12) -> np.ndarray:
    rng = numpy_rng(0, "test/clusters")
    return (rng.normal(size=(60, d))[rng.integers(0, 60, n)] + 0.3 * rng.normal(size=(n, d))).astype(
        np.float32
    )


def columns(graph) -> np.ndarray:
    return graph.col.view(graph.n_target, -1).numpy()


def share_found(found: np.ndarray, true: np.ndarray) -> float:
    return float((found[:, :, None] == true[:, None]).any(1).mean())


@pytest.mark.parametrize("recall", [0.8, 0.95, 0.99])
def test_approximate_neighbors_reach_the_wanted_recall(recall: float) -> None:
    values = table(clustered())
    exact = columns(knn(values, 10, method="exact"))
    found = columns(knn(values, 10, method="approximate", recall=recall))
    assert share_found(found, exact) >= recall
    assert (found == np.arange(len(found))[:, None]).any(1).all(), "every item is among its own neighbors"
    assert np.array_equal(found, columns(knn(values, 10, method="approximate", recall=recall)))


def test_approximate_search_compares_a_fraction_of_the_pairs(monkeypatch) -> None:
    products = []
    compute = nearest._search

    def counted(queries, keys, *rest):
        products.append(len(queries) * len(keys))
        return compute(queries, keys, *rest)

    monkeypatch.setattr(nearest, "_search", counted)
    knn(table(clustered()), 10, method="approximate", recall=0.9)
    assert sum(products[1:]) < 0.3 * 3000**2, "the first product is that of the sample"


def test_approximate_search_of_features_without_clusters_is_exact(monkeypatch) -> None:
    values = table(numpy_rng(0, "test/gaussian").normal(size=(900, 40)))
    expected = columns(knn(values, 5))
    calls = []
    compute = nearest.all_neighbors
    monkeypatch.setattr(nearest, "all_neighbors", lambda *a: calls.append(1) or compute(*a))
    assert np.array_equal(columns(knn(values, 5, method="approximate")), expected)
    assert len(calls) == 1, "all rows at once instead of cluster by cluster"


@pytest.mark.parametrize(("n", "k"), [(1, 3), (2, 1), (7, 20), (40, 30)])
def test_approximate_neighbors_of_few_items(n: int, k: int) -> None:
    values = table(np.repeat(np.eye(8), 5, axis=0)[:n] + 0.01)
    graph = knn(values, k, method="approximate", recall=0.1)
    assert len(graph) == n * min(k, n)


def test_the_form_follows_from_the_number_of_items(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(graph_module, "EXACT_UP_TO", 100)
    values = numpy_rng(0, "test/auto").normal(size=(101, 4)).astype(np.float32)
    for count, folders in ((100, 1), (101, 3)):
        knn(table(values[:count]), 3, cache=tmp_path)
        knn(table(values[:count]), 3, cache=tmp_path, method="exact")
        assert len(list(tmp_path.iterdir())) == folders
    knn(table(values), 3, cache=tmp_path, recall=0.5)
    knn(table(values), 3, cache=tmp_path, seed=1)
    assert len(list(tmp_path.iterdir())) == 5, "recall and seed are part of the cache key"
    with pytest.raises(GraphError, match="expected 'auto', 'exact' or 'approximate'"):
        knn(table(values), 3, method="fast")
    with pytest.raises(GraphError, match="recall = 0"):
        knn(table(values), 3, recall=0)


def test_blocks_hold_the_k_best_and_the_lowest_rows() -> None:
    rng = numpy_rng(0, "test/better")
    for n_values in (3, 50, 10**6):
        rows = torch.from_numpy(rng.integers(0, n_values, (3, 5000)).astype(np.float32))
        best, at = rows[:, :0], torch.empty(3, 0, dtype=torch.int64)
        for start in range(0, 5000, 1100):
            best, at = update_topk(best, at, rows[:, start : start + 1100].clone(), start, 9)
        order = np.argsort(-rows.numpy(), axis=1, kind="stable")[:, :9]
        assert np.array_equal(at.numpy(), order)
        assert np.array_equal(best.numpy(), np.take_along_axis(rows.numpy(), order, 1))


# -- top-k ---------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 8), st.integers(1, 80), st.integers(1, 4), st.data())
def test_topk_equals_a_stable_sort(b: int, n: int, n_values: int, draw) -> None:
    k = draw.draw(st.integers(1, n))
    scores = np.random.default_rng(draw.draw(st.integers(0, 2**32))).integers(0, n_values, (b, n))
    scores = scores.astype(np.float32)
    values, columns = topk(torch.from_numpy(scores), k)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert np.array_equal(columns.numpy(), order)
    assert np.array_equal(values.numpy(), np.take_along_axis(scores, order, 1))


def test_topk_of_wide_rows_equals_a_stable_sort() -> None:
    rng = numpy_rng(0, "test/topk")
    for n, k, n_values in ((3000, 20, 40), (3001, 7, 5), (2999, 1, 3), (5000, 50, 10**6)):
        scores = rng.integers(0, n_values, (12, n)).astype(np.float32)
        values, columns = topk(torch.from_numpy(scores), k)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        assert np.array_equal(columns.numpy(), order)
        assert np.array_equal(values.numpy(), np.take_along_axis(scores, order, 1))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(-3, 3), max_size=30), st.integers(1, 40))
def test_top_indices_equals_a_stable_sort(values: list[int], k: int) -> None:
    scores = np.array([*values, -np.inf])
    assert np.array_equal(top_indices(scores, k), np.argsort(-scores, kind="stable")[:k])
