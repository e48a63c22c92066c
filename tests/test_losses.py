"""Losses against plain formulas, their gradients against finite differences, and divided among processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from graphrec.core import distributed
from graphrec.core.random import torch_rng
from graphrec.models import losses
from graphrec.models.losses import (
    BPR,
    AlignmentUniformity,
    CosineContrastive,
    InfoNCE,
    Margin,
    SampledSoftmax,
    log_sum_exp,
    score_difference,
)

EXACT = 1e-12  # float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(*shape, generator=torch_rng(seed, "tests/losses"), dtype=torch.float64)
    return x.requires_grad_()


def unit(x: Tensor) -> np.ndarray:
    array = x.detach().numpy()
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def close(found: Tensor, expected: float) -> bool:
    return found.dim() == 0 and abs(found.item() - expected) <= EXACT * max(1, abs(expected))


def test_score_differences_of_one_and_of_n_negatives() -> None:
    u, p, n = normal(4, 3), normal(4, 3, seed=1), normal(4, 5, 3, seed=2)
    found = score_difference(u, p, n)
    expected = (u * p).sum(1)[:, None] - torch.einsum("bd,bnd->bn", u, n)
    assert torch.allclose(found, expected, atol=EXACT)
    for j in range(5):
        assert torch.allclose(score_difference(u, p, n[:, j]), expected[:, j], atol=EXACT)


@pytest.mark.parametrize("shape", [(7,), (7, 3)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_bpr_and_margin(shape: tuple[int, ...], masked: bool) -> None:
    x = normal(*shape)
    valid = torch.tensor([True, False, True, True, False, True, False]) if masked else None
    rows = [b for b in range(7) if valid is None or valid[b]]
    values = [np.atleast_1d(x.detach().numpy()[b]) for b in rows]
    assert close(BPR()(x, valid), np.mean([np.log1p(np.exp(-v)).mean() for v in values]))
    assert close(Margin(0.7)(x, valid), np.mean([np.maximum(0, 0.7 - v).mean() for v in values]))
    for loss in (BPR(), Margin(0.7)):
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, valid), x)
        assert loss(x, torch.zeros(7, dtype=torch.bool)).item() == 0


def test_sampled_softmax() -> None:
    p, n = normal(5), normal(5, 4, seed=1)
    loss = SampledSoftmax(0.5)
    s, t = p.detach().numpy() / 0.5, n.detach().numpy() / 0.5
    expected = np.mean([-np.log(np.exp(s[b]) / (np.exp(s[b]) + np.exp(t[b]).sum())) for b in range(5)])
    assert close(loss(p, n), expected)
    assert torch.autograd.gradcheck(loss, (p, n))
    one = loss(p, n[:, :1])
    assert torch.allclose(one, BPR()((p - n[:, 0]) / 0.5), atol=EXACT), "with one negative it is BPR"
    log_q = normal(5, seed=2).detach(), normal(5, 4, seed=3).detach()
    corrected = loss(p - 0.5 * log_q[0], n - 0.5 * log_q[1])
    assert torch.allclose(loss(p, n, log_q), corrected, atol=EXACT)


def plain_info_nce(q: np.ndarray, pool: np.ndarray, positives: list[int], ids: list[int], t: float) -> float:
    values = []
    for b, positive in enumerate(positives):
        logits = {j: q[b] @ pool[j] / t for j in range(len(pool)) if j == positive or ids[j] != ids[positive]}
        values.append(np.log(sum(np.exp(v) for v in logits.values())) - logits[positive])
    return float(np.mean(values))


@pytest.mark.parametrize(("cosine", "duplicates", "fused"), list(product([False, True], repeat=3)), ids=str)
def test_info_nce(cosine: bool, duplicates: bool, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "FUSED", 0 if fused else 2**22)
    monkeypatch.setattr(losses, "SIMILARITIES", 13)  # two queries a block
    q, pool = normal(5, 3), normal(6, 3, seed=1)
    positives = torch.tensor([0, 3, 3, 5, 1])
    ids = torch.tensor([7, 8, 9, 7, 1, 8]) if duplicates else None
    loss = InfoNCE(0.3, cosine)
    arrays = (unit(q), unit(pool)) if cosine else (q.detach().numpy(), pool.detach().numpy())
    names = ids.tolist() if ids is not None else list(range(6))
    assert close(loss(q, pool, positives, ids), plain_info_nce(*arrays, positives.tolist(), names, 0.3))
    assert torch.autograd.gradcheck(lambda q, pool: loss(q, pool, positives, ids), (q, pool))


@pytest.mark.parametrize("fused", [False, True])
def test_log_sum_exp(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "FUSED", 0 if fused else 2**20)
    monkeypatch.setattr(losses, "SIMILARITIES", 13)  # two queries a block
    q, pool = normal(5, 3), normal(6, 3, seed=1)
    logits = q.detach().numpy() @ pool.detach().numpy().T
    assert close(log_sum_exp(q, pool), np.log(np.exp(logits).sum(1)).mean())
    assert torch.autograd.gradcheck(log_sum_exp, (q, pool))
    far = log_sum_exp(1e4 * q, pool)
    assert torch.isfinite(far), "without overflow"


def test_blocks_of_a_pool_are_computed_in_float32_with_mixed_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(losses, "FUSED", 0)
    q, pool = (x.detach().float().requires_grad_() for x in (normal(5, 3), normal(6, 3, seed=1)))
    for loss in (log_sum_exp, lambda q, pool: InfoNCE()(q, pool, torch.arange(5))):
        plain = loss(q, pool)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = loss(q, pool)
        assert torch.equal(plain, mixed)
        expected = torch.autograd.grad(plain, (q, pool))
        assert all(map(torch.equal, torch.autograd.grad(mixed, (q, pool)), expected))


def test_info_nce_within_a_batch_is_that_over_its_keys() -> None:
    q, k = normal(5, 3), normal(5, 3, seed=1)
    ids = torch.tensor([4, 4, 2, 1, 0])
    assert torch.equal(InfoNCE().in_batch(q, k, ids), InfoNCE()(q, k, torch.arange(5), ids))
    assert InfoNCE().in_batch(q, k, ids) < InfoNCE().in_batch(q, k), "a repeated item is not a negative"


def test_fused_info_nce_holds_a_block_of_similarities_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "FUSED", 100)
    monkeypatch.setattr(losses, "SIMILARITIES", 100)
    shapes = []
    plain = losses._logits

    def spy(queries: Tensor, pool: Tensor, *rest: Tensor | None) -> Tensor:
        shapes.append((len(queries), len(pool)))
        return plain(queries, pool, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(losses, "_logits", spy)
    InfoNCE()(normal(30, 4), normal(20, 4, seed=1), torch.arange(20).repeat(2)[:30])
    assert shapes == [(5, 20)] * 6


def test_cosine_contrastive() -> None:
    x, y, counts = normal(5, 3), normal(5, 3, seed=1), torch.tensor([1.0, 0, 3, 2, 1], dtype=torch.float64)
    cosine = (unit(x) * unit(y)).sum(1)
    loss = CosineContrastive(1.5)
    assert close(loss(x, y, counts), 1.5 * ((1 - cosine) * counts.numpy()).sum() / 7)
    assert close(loss.symmetric((x, y), (x[:2], y[:2])), 1.5 * (2 - cosine.mean() - cosine[:2].mean()))
    assert torch.autograd.gradcheck(lambda x, y: loss(x, y, counts), (x, y))
    assert torch.autograd.gradcheck(lambda x, y: loss.symmetric((x, y), (y, x)), (x, y))
    assert loss(x, y, 0 * counts).item() == 0


@pytest.mark.parametrize("block", [2**22, 13])
def test_alignment_and_uniformity(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "SIMILARITIES", block)
    u, i = normal(6, 3), normal(6, 3, seed=1)
    a, b = unit(u), unit(i)

    def uniformity(x: np.ndarray) -> float:
        pairs = [np.exp(-2 * ((x[m] - x[n]) ** 2).sum()) for m in range(6) for n in range(m)]
        return float(np.log(np.mean(pairs)))

    expected = ((a - b) ** 2).sum(1).mean() + 0.8 * (uniformity(a) + uniformity(b)) / 2
    assert close(AlignmentUniformity(0.8)(u, i), expected)
    assert torch.autograd.gradcheck(AlignmentUniformity(0.8), (u, i))


# -- several processes ---------------------------------------------------------------------------------------

COUNTS = torch.tensor([1.0, 0, 3, 2, 1, 2, 1], dtype=torch.float64)
VALID = torch.tensor([True, False, True, True, False, True, True])
IDS = torch.tensor([1, 2, 1, 3, 4, 2, 5])
DIVIDED: dict[str, Callable[[Tensor, Tensor, slice], Tensor]] = {
    "bpr": lambda x, y, s: BPR()((x[s] * y[s]).sum(1)),
    "bpr valid": lambda x, y, s: BPR()(x[s] * y[s], VALID[s]),
    "margin": lambda x, y, s: Margin()(x[s] * y[s]),
    "sampled softmax": lambda x, y, s: SampledSoftmax()(x[s, 0], y[s]),
    "info nce": lambda x, y, s: InfoNCE()(x[s], y, torch.arange(7)[s]),
    "info nce in batch": lambda x, y, s: InfoNCE().in_batch(x[s], y[s], IDS[s]),
    "log sum exp": lambda x, y, s: log_sum_exp(x[s], y),
    "cosine": lambda x, y, s: CosineContrastive(2.0)(x[s], y[s], COUNTS[s]),
    "cosine symmetric": lambda x, y, s: CosineContrastive().symmetric((x[s], y[s]), (y[s], x[s].detach())),
    "alignment": lambda x, y, s: AlignmentUniformity(0.5)(x[s], y[s]),
    "norms": lambda x, y, s: losses.embedding_norms(x[s], y[s]),
    "squares": lambda x, y, s: losses.half_squares(x[s], y[s]),
}


def values_and_gradients() -> dict[str, list[Tensor]]:
    """Of each loss its value and, added up over the processes, its gradients."""
    found = {}
    for name, loss in DIVIDED.items():
        x, y = normal(7, 3), normal(7, 3, seed=1)
        value = loss(x, y, distributed.local_slice(7))
        value.backward()
        distributed.all_reduce_gradients([x, y])
        found[name] = [value.detach(), x.grad, y.grad]
    return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_two_processes_compute_the_loss_and_the_gradient_of_one(tmp_path: Path) -> None:
    """Each process has three or four of seven rows."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        if child := os.fork():
            children.append(child)
            continue
        code = 1
        try:  # nothing of the parent may go on in here
            torch.set_num_threads(1)
            dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
            arrays = {
                f"{name}/{n}": tensor
                for name, tensors in values_and_gradients().items()
                for n, tensor in enumerate(tensors)
            }
            save_file(arrays, tmp_path / f"{rank}.safetensors")
            dist.destroy_process_group()
            code = 0
        finally:
            os._exit(code)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    alone = values_and_gradients()
    for rank in range(2):
        together = load_file(tmp_path / f"{rank}.safetensors")
        for name, tensors in alone.items():
            for n, expected in enumerate(tensors):
                assert torch.allclose(together[f"{name}/{n}"], expected, atol=1e-10), (name, rank)
                assert expected.abs().sum() > 0
