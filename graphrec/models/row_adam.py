"""Adam that moves the rows a step has a gradient for, and leaves the others as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

BLOCK = 8192  # rows moved at a time: what is computed on the way stays in the cache, in memory already there


class RowAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba, https://arxiv.org/abs/1412.6980) that costs what the gradient costs.

    Rows of a sparse gradient are moved and their moments updated; other rows and their moments stay, as in
    ``torch.optim.SparseAdam``. Parameters with a dense gradient get ordinary Adam, so that one optimizer
    serves a model of both kinds. A table of millions of rows is not read in every step.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: of the moments.
        eps: in the denominator.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step."""
        result = closure() if closure is not None else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, p.grad, group)
        return result

    def _move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        state["step"] += 1
        t, m, v = float(state["step"]), state["exp_avg"], state["exp_avg_sq"]

        def change(m: Tensor, v: Tensor, g: Tensor) -> Tensor:
            m.lerp_(g, 1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            size = (v / (1 - beta2**t)).sqrt_().add_(group["eps"])
            return torch.div(m, size, out=size).mul_(-group["lr"] / (1 - beta1**t))

        if not gradient.is_sparse:
            p += change(m, v, gradient)
            return
        gradient = gradient.coalesce()
        for rows, g in zip(gradient.indices()[0].split(BLOCK), gradient.values().split(BLOCK), strict=True):
            # Rows are distinct; index_add_ would take them one after another.
            mean, square = m[rows], v[rows]
            p[rows] = p[rows].add_(change(mean, square, g))
            m[rows], v[rows] = mean, square


def trusted_indices() -> None:
    """Leaves the indices of sparse gradients unchecked, as torch does by default and warns of until told."""
    if not torch.sparse.check_sparse_tensor_invariants.is_enabled():
        torch.sparse.check_sparse_tensor_invariants.disable()
