"""Which model ``graphrec train`` proposes where it is given a dataset alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphrec.models import gram
from graphrec.runs.proposal import propose
from graphrec.testing import communities


def test_content_and_size_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = communities(2, 10)
    assert propose(data).model == "ials"
    described = data.with_content(title=["a text"] * data.n_items)
    assert propose(described).model == "content-ease"
    assert "title" in propose(described).reason
    monkeypatch.setattr(gram, "GIB", 1)  # bytes instead of GiB: the matrix is larger than the 16 allowed
    proposal = propose(described)
    assert proposal.model == "freedom"
    assert f"{4 * data.n_items**2} GiB" in proposal.reason


def test_train_without_a_model_names_one(graphrec: Callable[..., Any], tmp_path: Path) -> None:
    data, _ = communities(2, 10)
    saved = data.save(tmp_path / "my shop")
    answer = graphrec("train", saved)
    assert answer.code == 2
    assert f"graphrec train ials '{saved}'" in answer.err
    command = answer.err.split("Run: ")[1].split()[:3]
    assert command == ["graphrec", "train", "ials"]


@pytest.mark.parametrize("given", [[], ["lightgcn"]])
def test_without_a_dataset_the_answer_is_general(graphrec: Callable[..., Any], given: list[str]) -> None:
    answer = graphrec("train", *given)
    assert answer.code == 2
    assert "MODEL" in answer.err
    assert "DATASET" in answer.err


def test_a_mistyped_model_alone_is_not_taken_for_a_dataset(graphrec: Callable[..., Any]) -> None:
    assert "'freedom'" in graphrec("train", "freedm").err


def test_a_mistyped_dataset_is_named(graphrec: Callable[..., Any]) -> None:
    assert "'movielens-small'" in graphrec("train", "movielens-smal").err
