"""Simulated beginnings of conversations against ones played with sets, and what is drawn from them."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from hypothesis import given, settings, strategies as st

from graphrec.conversation import prefixes
from graphrec.conversation.prefixes import POOL_SIZE, items_with_all, sample_distinct, simulate_prefixes
from graphrec.conversation.samples import ComplementSampler
from graphrec.core.random import numpy_rng


def entropy(k: int, n: int) -> float:
    return sum(-p * math.log2(p) for p in (k / n, 1 - k / n) if p)


def beginnings(table: np.ndarray, item: int, opening: int) -> list[tuple[list[int], set[int]]]:
    """Prefixes of one conversation and the other items that have all of it, with sets and logarithms."""
    own, said = set(np.flatnonzero(table[item])), [opening]
    others = set(np.flatnonzero(table[:, opening])) - {item}
    found = [(list(said), others)] if others else []
    while len(others) > (POOL_SIZE if len(said) == 1 else 0) and own - set(said):
        count = {q: sum(table[v, q] for v in others) for q in sorted(own - set(said))}
        best = max(round(entropy(k, len(others)), 12) for k in count.values())
        said.append(next(q for q, k in count.items() if round(entropy(k, len(others)), 12) == best))
        others = {v for v in others if table[v, said[-1]]}
        if others:
            found.append((list(said), others))
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 7), st.sampled_from([0.2, 0.5, 0.9]), st.integers(0, 10**6))
def test_prefixes_are_those_of_conversations_played_one_by_one(n_items, n_attributes, density, seed) -> None:
    table = np.random.default_rng(seed).random((n_items, n_attributes)) < density
    found = simulate_prefixes(np.stack(np.nonzero(table)), n_items, n_attributes, numpy_rng(seed, "tests"))
    for item in range(n_items):
        rows = np.arange(found.bounds[item], found.bounds[item + 1])
        expected = [b for a in np.flatnonzero(table[item]) for b in beginnings(table, item, a)]
        offsets, said = found.prefix_attributes(rows)
        assert len(rows) == max(len(expected), 1)
        if not expected:
            assert not len(said)
            assert (found.pools[rows] == -1).all()
        for row, (prefix, others) in enumerate(expected):
            assert said[offsets[row] : offsets[row + 1]].tolist() == prefix
            pool = [v for v in found.pools[rows[row]].tolist() if v >= 0]
            assert len(pool) == len(set(pool)) == min(POOL_SIZE, len(others))
            assert set(pool) <= others
        every = found.all_attributes(rows, np.full(len(rows), item)).reshape(len(rows), -1)
        assert (np.sort(every, 1) == np.flatnonzero(table[item])).all()


def test_few_cells_at_a_time_change_nothing(monkeypatch) -> None:
    table = numpy_rng(0, "tests/cells").random((60, 9)) < 0.5
    made = []
    for cells in (prefixes.MAX_CELLS, 20):
        monkeypatch.setattr(prefixes, "MAX_CELLS", cells)
        made.append(simulate_prefixes(np.stack(np.nonzero(table)), 60, 9, numpy_rng(0, "tests/cells")))
    assert len(made[0].length) > 1000
    for one, other in zip(*made, strict=True):
        assert np.array_equal(one, other)


def test_items_that_satisfy_a_set_have_all_of_it() -> None:
    rng = numpy_rng(0, "tests/satisfying")
    table = rng.random((50, 6)) < 0.6
    sets = [np.flatnonzero(row) for row in rng.random((20, 6)) < 0.4]
    sets = [s for s in sets if len(s)]
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sets])])
    found = items_with_all(
        offsets, np.concatenate(sets), prefixes.item_attribute_matrix(np.stack(np.nonzero(table)), 50, 6)
    )
    for said, row in zip(sets, found.toarray(), strict=True):
        assert np.array_equal(row, table[:, said].all(1))


def test_sets_are_drawn_with_equal_probability() -> None:
    drawn = sample_distinct(np.array([5] * 20_000 + [1, 0]), 2, numpy_rng(0, "tests/distinct"))
    count = Counter(tuple(sorted(row)) for row in drawn[:20_000].tolist())
    assert len(count) == 10
    assert max(abs(n - 2000) for n in count.values()) < 5 * math.sqrt(2000)
    assert drawn[20_000:].tolist() == [[0, -1], [-1, -1]]


def test_complements_are_drawn_from_uniformly() -> None:
    table = numpy_rng(0, "tests/complement").random((6, 9)) < np.array(
        [[0], [0.2], [0.5], [0.5], [0.8], [1.1]]
    )
    rows, columns = np.nonzero(table)
    drawn = ComplementSampler(rows, columns, table.shape).draw(
        np.repeat(np.arange(6), 3000), numpy_rng(0, "tests/draw")
    )
    for row, found in enumerate(drawn.reshape(6, -1)):
        free = np.flatnonzero(~table[row])
        if not len(free):
            assert (found == -1).all()
            continue
        values, count = np.unique(found, return_counts=True)
        assert np.array_equal(values, free)
        assert np.abs(count - 3000 / len(free)).max() < 5 * math.sqrt(3000 / len(free))
