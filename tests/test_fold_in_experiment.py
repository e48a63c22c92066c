"""What the experiment on folded-in users compares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import graphrec as gr
from experiments.fold_in import AsStrangers, compared, table
from graphrec import testing
from graphrec.data import Histories, Query
from graphrec.models import MF, ItemKNN


def test_item_weights_know_no_difference_and_embeddings_do() -> None:
    data, _ = testing.communities()
    found = compared(ItemKNN.build(data), data)
    assert (found["spearman"], found["error"]) == (pytest.approx(1), 0)
    assert found["recall@20"][0] == found["recall@20"][1] > 0
    model = MF.build(data)
    found = compared(model, data)
    own = model.score(np.arange(data.n_users)).numpy()
    folded = model.score(Query(histories=Histories.from_interactions(data.train))).numpy()
    ranks, errors = [], []
    for user in range(data.n_users):
        others = np.setdiff1d(np.arange(data.n_items), data.train.items_of(user))
        ranks.append(spearmanr(own[user, others], folded[user, others]).statistic)
        errors.append(np.linalg.norm(own[user] - folded[user]) / np.linalg.norm(own[user]))
    assert found["spearman"] == pytest.approx(np.mean(ranks), abs=1e-4)
    assert found["error"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert found["recall@20"][0] != found["recall@20"][1]
    known = gr.evaluate(model, data.test, seen=data.train, k=20, metrics=("recall",)).mean()
    assert found["recall@20"][0] == known["recall@20"]


def test_strangers_are_scored_by_their_own_items() -> None:
    data, _ = testing.communities(2, 20)
    model = MF.build(data)
    users = torch.tensor([3, 0])
    lists = Histories.from_lists([data.train.items_of(3), data.train.items_of(0)])
    assert torch.equal(AsStrangers(model, data.train).scorer()(users), model.score(Query(histories=lists)))


def test_the_table_shows_what_is_recorded() -> None:
    row = {"spearman": 0.9876, "error": 0.123, "recall@20": [0.25, 0.24], "ndcg@20": [0.15, 0.1444]}
    text = table({"command": "python -m x", "order": ["M"], "models": {"M": row}})
    assert "| M | 0.988 | 0.12 | 0.2500 | 0.2400 | 0.1500 | 0.1444 |" in text
    assert "python -m x" in text
