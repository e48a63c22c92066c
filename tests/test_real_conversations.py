"""Conversations about all test pairs of LastFM, with the vectors that SCPR's authors published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphrec.conversation.belief import Setting
from graphrec.conversation.catalog import Catalog
from graphrec.conversation.config import ConversationConfig
from graphrec.conversation.play import play
from graphrec.conversation.rules import parse_rule
from graphrec.conversation.simulator import Simulator
from graphrec.conversation.vectors import read_vectors
from graphrec.data import Dataset
from graphrec.data.readers import load_dataset


@pytest.fixture(scope="module")
def lastfm(real_data: Path) -> Dataset:
    return load_dataset("lastfm", real_data)


def rates(data: Dataset, root: Path, name: str, **rules: object) -> dict[str, float]:
    vectors = read_vectors(root / "lastfm" / "fm_embeddings.npz", data)
    setting = Setting(Catalog.from_dataset(data), vectors, ConversationConfig(**rules))
    simulator = Simulator(setting.catalog)
    return play(parse_rule(name), setting, simulator, data.test.users, data.test.items).mean()


def test_recommending_greedily_succeeds_as_often_as_published(lastfm, real_data) -> None:
    found = rates(lastfm, real_data, "abs-greedy")
    assert found["sr@15"] == pytest.approx(0.223, abs=0.008)
    assert found["at/opening"] == pytest.approx(13.48, abs=0.05)


@pytest.mark.parametrize("weighting", ["plain", "weighted"])
def test_asking_by_entropy_succeeds_as_often_as_published(lastfm, real_data, weighting: str) -> None:
    found = rates(lastfm, real_data, "max-entropy", weighting=weighting)
    assert found["sr@15"] == pytest.approx(0.284, abs=0.01)
    assert found["at/opening"] == pytest.approx(13.91, abs=0.05)


def test_a_no_that_counts_more_than_doubles_the_best_rule(lastfm, real_data) -> None:
    some = lastfm.test.where(np.arange(len(lastfm.test)) % 10 == 0)
    few = lastfm.with_splits(lastfm.train, lastfm.valid, some)
    plain = rates(few, real_data, "ask-then-recommend:8")["sr@15"]
    assert rates(few, real_data, "recommend-when-sure:30", belief="posterior")["sr@15"] > 1.8 * plain


def test_pairs_of_items_without_train_pairs_are_those_that_the_page_counts(lastfm) -> None:
    counts = lastfm.summary()
    page = (Path(__file__).parent.parent / "docs" / "results" / "conversations.md").read_text()
    n, of = counts["test pairs with such an item"], counts["test"]
    assert n == sum(lastfm.train.item_degree[item] == 0 for item in lastfm.test.items)
    assert f"{n:,} of the {of:,} test pairs ({n / of:.0%})".replace("%", " %") in page
