"""Training in several processes: devices, the process group, and sums over all processes.

Each process has the whole model and its part of every batch. A loss written with the functions below has the
same value in each of them, that of the whole batch; its gradients are each process's share, and the trainer
adds them up. With a single process every function is the identity, to the bit.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from graphrec.core.errors import ConfigError

Batch = TypeVar("Batch")


def set_up(device: str = "auto") -> torch.device:
    """Chooses this process's device and, if several processes were started, joins them in a process group.

    Processes are those of torchrun (``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``, ``MASTER_ADDR``,
    ``MASTER_PORT``). On CUDA each gets a GPU of its machine; on a CPU they share its cores.

    Args:
        device: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"``, which takes an accelerator if there is one.

    Raises:
        ConfigError: the device is not available.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = next(d for d in ("cuda", "mps", "cpu") if available[d]) if device == "auto" else device
    if not available[kind]:
        raise ConfigError(f"device {kind!r} is not available here; use device=auto or cpu")
    if env_world_size() == 1:
        return torch.device(kind)
    chosen = torch.device(kind)
    if kind == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(chosen)
    elif "OMP_NUM_THREADS" not in os.environ:
        n_local = int(os.environ.get("LOCAL_WORLD_SIZE", str(env_world_size())))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // n_local))
    if not dist.is_initialized():
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
        # Its threads may abort the process if they are still there when the interpreter is torn down.
        atexit.register(_leave_group)
    return chosen


def _leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_rank_zero() -> bool:
    """Whether this process writes files and prints; known before the process group exists."""
    return os.environ.get("RANK", "0") == "0"


def env_world_size() -> int:
    """Number of processes started together; known before the process group exists."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def barrier() -> None:
    """Waits for all processes."""
    if world_size() > 1:
        dist.barrier()


def local_slice(n: int) -> slice:
    """The rows of ``n`` that this process has: consecutive, and as many for each process as possible."""
    return slice(n * rank() // world_size(), n * (rank() + 1) // world_size())


def local_shard(batch: Batch) -> Batch:
    """This process's rows of a batch, a NamedTuple of tensors with equal numbers of rows."""
    if world_size() == 1:
        return batch
    fields: Any = batch
    shard: Batch = type(fields)(*(t[local_slice(len(t))] for t in fields))
    return shard


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum of a tensor over the processes; backward passes each process the gradient of its own term."""
    total: Tensor = x if world_size() == 1 else _Sum.apply(x)
    return total


def all_reduce_array(x: np.ndarray) -> np.ndarray:
    """The sum of an array over the processes."""
    if world_size() == 1:
        return x
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total: np.ndarray = all_reduce_sum(torch.from_numpy(x).to(device)).cpu().numpy()
    return total


def replicated(x: Tensor) -> Tensor:
    """A value that every process computes in full; each gets an equal share of its gradient."""
    shared: Tensor = x if world_size() == 1 else _Replicated.apply(x)
    return shared


def global_mean(x: Tensor) -> Tensor:
    """The mean of a tensor over the rows of all processes."""
    if world_size() == 1:
        return x.mean()
    return all_reduce_sum(x.sum()) / all_reduce_sum(torch.tensor(x.numel(), device=x.device))


def global_norm(x: Tensor) -> Tensor:
    """The Frobenius norm of a tensor over the rows of all processes."""
    norm: Tensor = x.norm()
    return norm if world_size() == 1 else torch.linalg.vector_norm(all_gather(norm[None]))


def global_rows(x: Tensor) -> Tensor | int:
    """The number of rows of a tensor in all processes."""
    return len(x) if world_size() == 1 else all_reduce_sum(torch.tensor(len(x), device=x.device))


def all_gather(x: Tensor) -> Tensor:
    """The rows ``(B, ...)`` of all processes, in their order.

    Every process is to compute the same from them: backward passes each process the gradient of its own rows.
    """
    rows: Tensor = x if world_size() == 1 else _Gathered.apply(x)
    return rows


def all_gather_pool(x: Tensor) -> tuple[Tensor, int]:
    """The rows ``(B, ...)`` of all processes to compare own rows with, and the position of the first own row.

    Unlike with :func:`all_gather`, each process computes something different from them, so backward sums each
    row's gradient over the processes. A sum over own rows of what is computed from the pool, passed to
    :func:`all_reduce_sum`, then has the value and the gradient of the whole batch.
    """
    if world_size() == 1:
        return x, 0
    pool: Tensor = _GatheredPool.apply(x) if x.requires_grad else _Gathered.apply(x)
    return pool, _row_starts(x)[rank()]


def all_reduce_gradients(parameters: Iterable[Tensor]) -> None:
    """Adds up the gradients of all processes, dense ones in a single message."""
    if world_size() == 1:
        return
    dense = list[Tensor]()
    for p in parameters:
        if p.grad is not None and p.grad.is_sparse:
            grad = p.grad.coalesce()
            rows = all_gather(grad.indices()[0])
            values = all_gather(grad.values())
            p.grad = torch.sparse_coo_tensor(rows[None], values, grad.shape).coalesce()
        elif p.grad is not None:
            dense.append(p.grad)
    if not dense:
        return
    flat = torch.cat([g.reshape(-1) for g in dense])
    dist.all_reduce(flat)
    for g, total in zip(dense, flat.split([g.numel() for g in dense]), strict=True):
        g.copy_(total.view_as(g))


def broadcast_object(make: Callable[[], Any], device: torch.device) -> Any:
    """The JSON-able result that the first process computes, in all of them."""
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


def _row_starts(x: Tensor) -> list[int]:
    """Positions of the first row of each process among the rows of all, and their total number."""
    sizes = torch.zeros(world_size(), dtype=torch.int64, device=x.device)
    sizes[rank()] = len(x)
    dist.all_reduce(sizes)
    return [0, *sizes.cumsum(0).tolist()]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.detach().clone()
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _Replicated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] / world_size()


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.starts = _row_starts(x)
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
