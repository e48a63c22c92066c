"""Several processes that train one model: which of them this is, and what is summed over all of them.

Each process has the whole model and its part of every batch. A loss that is written with the functions below
has the same value in each of them, that of the whole batch; its gradients are each process's share, and the
trainer adds them up. With one process every function is what it says without the others, to the bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

Batch = TypeVar("Batch")


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_rank_zero() -> bool:
    """Whether this is the one that writes and speaks; known before the others can be reached."""
    return os.environ.get("RANK", "0") == "0"


def env_world_size() -> int:
    """How many processes were started together; known before they can be reached."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def barrier() -> None:
    """Until all processes are here."""
    if world_size() > 1:
        dist.barrier()


def local_slice(n: int) -> slice:
    """Which of ``n`` rows are this process's: neighbors, as many for each as can be."""
    return slice(n * rank() // world_size(), n * (rank() + 1) // world_size())


def local_shard(batch: Batch) -> Batch:
    """This process's rows of a batch, a NamedTuple of tensors of as many rows each."""
    if world_size() == 1:
        return batch
    fields: Any = batch
    own: Batch = type(fields)(*(t[local_slice(len(t))] for t in fields))
    return own


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum of a tensor over the processes; the gradient of each is that of its own."""
    found: Tensor = x if world_size() == 1 else _Total.apply(x)
    return found


def all_reduce_array(x: np.ndarray) -> np.ndarray:
    """The sum of an array over the processes."""
    if world_size() == 1:
        return x
    on = "cuda" if dist.get_backend() == "nccl" else "cpu"
    found: np.ndarray = all_reduce_sum(torch.from_numpy(x).to(on)).cpu().numpy()
    return found


def replicated(x: Tensor) -> Tensor:
    """A value that every process computes in full: each has its share of the gradient."""
    shared: Tensor = x if world_size() == 1 else _Once.apply(x)
    return shared


def global_mean(x: Tensor) -> Tensor:
    """The mean of the rows that all processes have of a tensor."""
    if world_size() == 1:
        return x.mean()
    return all_reduce_sum(x.sum()) / all_reduce_sum(torch.tensor(x.numel(), device=x.device))


def global_norm(x: Tensor) -> Tensor:
    """The Frobenius norm of the rows that all processes have."""
    own: Tensor = x.norm()
    return own if world_size() == 1 else torch.linalg.vector_norm(all_gather(own[None]))


def global_rows(x: Tensor) -> Tensor | int:
    """How many rows all processes have."""
    return len(x) if world_size() == 1 else all_reduce_sum(torch.tensor(len(x), device=x.device))


def all_gather(x: Tensor) -> Tensor:
    """The rows ``(B, ...)`` of all processes, in their order; the gradient of each is that of its own."""
    found: Tensor = x if world_size() == 1 else _Gathered.apply(x)
    return found


def all_gather_pool(x: Tensor) -> tuple[Tensor, int]:
    """The rows ``(B, ...)`` of all processes, to compare own rows with, and the position of the first own row.

    Unlike with :func:`all_gather`, each process computes something else from them. The gradient of each row is
    therefore the sum over the processes. A sum over own rows of what is computed from the pool, passed to
    :func:`all_reduce_sum`, then has the value and the gradient of the whole batch.
    """
    if world_size() == 1:
        return x, 0
    pool: Tensor = _GatheredPool.apply(x) if x.requires_grad else _Gathered.apply(x)
    sizes = torch.zeros(world_size(), dtype=torch.int64, device=x.device)
    sizes[rank()] = len(x)
    dist.all_reduce(sizes)
    return pool, int(sizes[: rank()].sum())


def all_reduce_gradients(parameters: Iterable[Tensor]) -> None:
    """Adds up the gradients of all processes, dense ones in one go."""
    if world_size() == 1:
        return
    found = list[Tensor]()
    for p in parameters:
        if p.grad is not None and p.grad.is_sparse:
            own = p.grad.coalesce()
            rows, values = all_gather(own.indices()[0]), all_gather(own.values())
            p.grad = torch.sparse_coo_tensor(rows[None], values, own.shape).coalesce()
        elif p.grad is not None:
            found.append(p.grad)
    if not found:
        return
    flat = torch.cat([g.reshape(-1) for g in found])
    dist.all_reduce(flat)
    at = 0
    for g in found:
        g.copy_(flat[at : at + g.numel()].view_as(g))
        at += g.numel()


def broadcast_object(make: Callable[[], Any], device: torch.device) -> Any:
    """What the first process makes, JSON-able, in all of them."""
    if world_size() == 1:
        return make()
    text = json.dumps(make()).encode() if is_rank_zero() else b""
    size = torch.tensor([len(text)], device=device)
    dist.broadcast(size, 0)
    data = torch.zeros(int(size), dtype=torch.uint8, device=device)
    if is_rank_zero():
        data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(data, 0)
    return json.loads(bytes(data.cpu().numpy()))


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.detach().clone()
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] / world_size()


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        sizes = torch.zeros(world_size(), dtype=torch.int64, device=x.device)
        sizes[rank()] = len(x)
        dist.all_reduce(sizes)
        ctx.starts = [0, *sizes.cumsum(0).tolist()]
        y = x.new_zeros(ctx.starts[-1], *x.shape[1:])
        y[ctx.starts[rank()] : ctx.starts[rank() + 1]] = x
        dist.all_reduce(y)  # rows of unequal numbers; others add nothing to them
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0][ctx.starts[rank()] : ctx.starts[rank() + 1]]


class _GatheredPool(_Gathered):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total[ctx.starts[rank()] : ctx.starts[rank() + 1]]
