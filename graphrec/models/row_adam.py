"""Adam for sparse gradients: updates the rows a step has a gradient for and leaves the others unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

ROW_BLOCK = 8192  # rows updated at a time, so that intermediate results stay in the cache


class RowAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba, https://arxiv.org/abs/1412.6980) at a cost in proportion to the gradient.

    With a sparse gradient, only its rows and their moments are updated, as in ``torch.optim.SparseAdam``: a
    table of millions of rows is not read in every step. Parameters with a dense gradient get ordinary Adam,
    so one optimizer serves a model with both kinds.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to the denominator.
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
                    self._update(p, p.grad, group)
        return result

    def _update(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        beta1, beta2 = group["betas"]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        state["step"] += 1
        t = float(state["step"])
        m = state["exp_avg"]
        v = state["exp_avg_sq"]

        def change(m: Tensor, v: Tensor, g: Tensor) -> Tensor:
            m.lerp_(g, 1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            size = (v / (1 - beta2**t)).sqrt_().add_(group["eps"])
            return torch.div(m, size, out=size).mul_(-group["lr"] / (1 - beta1**t))

        if not gradient.is_sparse:
            p += change(m, v, gradient)
            return
        gradient = gradient.coalesce()
        for rows, g in zip(
            gradient.indices()[0].split(ROW_BLOCK), gradient.values().split(ROW_BLOCK), strict=True
        ):
            # Rows are distinct; index_add_ would take them one after another.
            mean = m[rows]
            square = v[rows]
            p[rows] = p[rows].add_(change(mean, square, g))
            m[rows] = mean
            v[rows] = square


def skip_index_checks() -> None:
    """Leaves the indices of sparse gradients unchecked: torch's default, but it warns until that is set."""
    if not torch.sparse.check_sparse_tensor_invariants.is_enabled():
        torch.sparse.check_sparse_tensor_invariants.disable()
