"""Adam for some rows against torch's two."""

from __future__ import annotations

import pytest
import torch

from graphrec import testing
from graphrec.core.errors import ConfigError
from graphrec.models.lightgcn import LightGCN
from graphrec.models.row_adam import RowAdam
from graphrec.models.train_config import TrainConfig


def table() -> torch.Tensor:
    return torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize("sparse", [False, True])
def test_it_is_torchs(sparse) -> None:
    ours, theirs = table(), table()
    other = torch.optim.SparseAdam([theirs], lr=0.1) if sparse else torch.optim.Adam([theirs], lr=0.1)
    optimizers = (RowAdam([ours], lr=0.1), other)
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        rows = torch.randint(0, 8, (5,), generator=generator)  # some twice, the last four never
        target = torch.randn(5, 4, generator=generator)
        for p, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            ((torch.nn.functional.embedding(rows, p, sparse=sparse) - target) ** 2).sum().backward()
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.equal(ours[8:], table()[8:])


def test_its_state_is_kept_and_read(tmp_path) -> None:
    straight, stopped = table(), table()
    first = RowAdam([stopped], lr=0.1)

    def step(p, optimizer, k) -> None:
        optimizer.zero_grad()
        (torch.nn.functional.embedding(torch.tensor([k, k + 1]), p, sparse=True) ** 2).sum().backward()
        optimizer.step()

    whole = RowAdam([straight], lr=0.1)
    for k in range(6):
        step(straight, whole, k)
    for k in range(3):
        step(stopped, first, k)
    second = RowAdam([stopped], lr=0.1)
    second.load_state_dict(first.state_dict())
    for k in range(3, 6):
        step(stopped, second, k)
    assert torch.equal(straight, stopped)


@pytest.mark.parametrize("option", [{"weight_decay": 0.1}, {"clip_norm": 1.0}])
def test_what_needs_whole_gradients_is_refused(option) -> None:
    data, _ = testing.communities(2, 20)
    model = LightGCN.build(data, None, LightGCN.Config(fanouts=[2, 2]))
    with pytest.raises(ConfigError, match="leave out fanouts"):
        model.optimizer(TrainConfig(**option))
