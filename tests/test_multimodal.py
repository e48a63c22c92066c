"""Items without an image or a text, and items without interactions, in every multimodal model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tolerances import SCORE

from graphrec.core.errors import FeatureError
from graphrec.core.random import numpy_rng
from graphrec.features import FeatureTable
from graphrec.models.base import ContentRule
from graphrec.models.multimodal import ColdItems, filled, item_graph, tables_of
from graphrec.testing import communities, dataset

PRESENT = np.array([True, True, False, True, False, False])
VECTORS = np.array([[1, 0], [0, 1], [9, 9], [1, 1], [9, -9], [np.nan, 9]])
PAIRS = [(0, 0), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (3, 4), (0, 4)]


@pytest.fixture
def data():
    return dataset(PAIRS, [], 4, 6, "toy")  # nobody took item 5


@pytest.fixture
def table(data) -> FeatureTable:
    about = {"field": "image", "items": data.items.fingerprint}
    return FeatureTable(VECTORS.astype(np.float32), PRESENT, about)  # with something in the missing rows


def test_zero_masks_what_is_missing(data, table) -> None:
    values, usable = filled(table, "zero", data.train)
    assert np.array_equal(usable, PRESENT)
    assert not values[~PRESENT].any()


def test_mean_is_that_of_the_items_that_have_it(data, table) -> None:
    values, usable = filled(table, "mean", None)
    assert usable.all()
    assert np.allclose(values[~PRESENT], [2 / 3, 2 / 3])
    assert np.array_equal(values[PRESENT], VECTORS[PRESENT].astype(np.float32))


def test_neighbors_are_weighted_by_shared_users(data, table) -> None:
    values, usable = filled(table, "neighbors", data.train)
    assert usable.all()
    # Item 2 shares user 0 with item 0 and users 1 and 2 with item 1; item 4 users 3 and 0 with items 3 and 0.
    assert np.allclose(values[2], (VECTORS[0] + 2 * VECTORS[1]) / 3)
    assert np.allclose(values[4], (VECTORS[3] + VECTORS[0]) / 2)
    assert np.allclose(values[5], [2 / 3, 2 / 3]), "an item that shares no user gets the mean of all"


def test_neighbors_agree_with_a_loop_over_pairs() -> None:
    data, _ = communities(3, 30)
    rng = numpy_rng(0, "test/fill")
    present = rng.random(data.n_items) < 0.4
    vectors = rng.normal(size=(data.n_items, 5)).astype(np.float32)
    table = FeatureTable.from_array(vectors, data, "text", present=present)
    values, _ = filled(table, "neighbors", data.train)
    users = [set(data.train.users[data.train.items == i]) for i in range(data.n_items)]
    for i in np.flatnonzero(~present):
        shared = np.array([len(users[i] & users[j]) if present[j] else 0 for j in range(data.n_items)])
        expected = shared @ vectors / shared.sum() if shared.sum() else vectors[present].mean(0)
        assert np.allclose(values[i], expected, atol=1e-5), i


def test_nothing_to_fill_with_is_an_error(data) -> None:
    empty = FeatureTable.from_array(np.zeros((6, 2)), data, "image")
    for how in ("mean", "neighbors"):
        with pytest.raises(FeatureError, match=r"'image': no item has this feature"):
            filled(empty, how, data.train)


def test_without_interactions_neighbors_cannot_be_found(table) -> None:
    with pytest.raises(FeatureError, match="needs the train interactions"):
        filled(table, "neighbors", None)


@pytest.mark.parametrize("weight", ["binary", "cosine"])
def test_a_filled_item_looks_for_neighbors_and_is_nobodys(data, table, weight: str) -> None:
    graph = item_graph(table, 2, weight=weight, fill="mean", train=data.train).dense()
    assert not graph[PRESENT][:, ~PRESENT].any(), "an estimated vector is no evidence about other items"
    # The mean (2/3, 2/3) points where item 3 does.
    for i in np.flatnonzero(~PRESENT):
        assert graph[i].nonzero().ravel().tolist() == sorted([i, 3])
    masked = item_graph(table, 2, weight=weight).dense()
    assert torch.equal(masked[PRESENT], graph[PRESENT])
    assert not masked[~PRESENT].any()


def test_tables_are_checked_and_ordered(data, table) -> None:
    assert list(tables_of("BM3", data, {"text": table, "image": table})) == ["image", "text"]
    with pytest.raises(FeatureError, match="BM3"):
        tables_of("BM3", data, {})
    with pytest.raises(FeatureError, match="was extracted for items"):
        tables_of("BM3", dataset([(0, 0)], [], 1, 7, "other"), {"image": table})


def test_a_cold_item_points_where_its_neighbors_mean_does_and_is_as_long_as_they_are(data, table) -> None:
    vectors = np.array([[1, 0], [0, 1], [0, 1], [1, 1], [1, 1], [1, 0.9]], dtype=np.float32)
    full = {"image": FeatureTable.from_array(vectors, data, "image")}
    cold = ColdItems(data.train, full, ContentRule({"image": 1.0}, 2), enabled=True)
    items = torch.tensor([[1.0, 0], [0, 1], [0, 1], [0, 3], [4, 0], [7, 7]])
    placed = cold(items)
    assert torch.equal(placed[:5], items[:5])
    assert float((placed[5] - torch.tensor([4.0, 3.0]) / 5 * 3.5).abs().max()) <= 10 * SCORE
    assert ColdItems(data.train, full, ContentRule({"image": 1.0}, 2), enabled=False)(items) is items
