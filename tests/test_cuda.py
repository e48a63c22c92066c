"""What holds on a GPU: the losses of the CPU, and a step loop that never waits for the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from graphrec import models, testing
from graphrec.evaluation.ranking import RankingTask
from graphrec.graphs.knn import knn
from graphrec.models.batches import EpochContext
from graphrec.models.train_config import TrainConfig
from graphrec.training.trainer import Run, Trainer

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NAMES = ["MF", "LightGCN", "VBPR", "LATTICE", "BM3", "FREEDOM"]


def trained(name: str, device: Any) -> Run:
    data, tables = testing.communities(4, 30)
    kind = getattr(models, name)
    settings = TrainConfig(epochs=3, patience=None, batch_size=64, device=device)
    task = RankingTask(data.test, seen=data.train)
    return Trainer(settings).fit(kind.build(data, tables, kind.Config(dim=16)), validate=task)


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_those_of_the_cpu(name: str) -> None:
    there, here = trained(name, "cuda"), trained(name, "cpu")
    for a, b in zip(there.history, here.history, strict=True):
        for term in (t for t in b if t.startswith("loss/")):
            assert a[term] == pytest.approx(b[term], rel=1e-3), (
                term
            )  # float32 sums in another order, 3 epochs


@pytest.mark.parametrize("name", NAMES)
def test_the_step_loop_never_waits_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = getattr(models, name)
    plain = kind.batches

    def watched(self: Any, plan: EpochContext) -> Iterator[Any]:
        for number, batch in enumerate(plain(self, plan)):
            if number == 1:  # the first step may set things up
                torch.cuda.set_sync_debug_mode("error")
            yield batch
        torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(kind, "batches", watched)
    try:
        trained(name, "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_neighbors_are_those_of_the_cpu() -> None:
    _, tables = testing.communities(4, 30)
    assert torch.equal(knn(tables["text"], 5, device="cuda").col.cpu(), knn(tables["text"], 5).col)
