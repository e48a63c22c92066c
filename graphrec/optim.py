"""Adam that moves the rows a step has a gradient for, and leaves the others as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RowAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba, https://arxiv.org/abs/1412.6980) that costs what the gradient costs.

    Rows of a sparse gradient are moved and their moments updated; other rows and their moments stay, as in
    ``torch.optim.SparseAdam``. Parameters with a dense gradient get ordinary Adam, so that one optimiser
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
        t = float(state["step"])
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            rows, g = gradient.indices()[0], gradient.values()
            m, v = state["exp_avg"][rows], state["exp_avg_sq"][rows]
        else:
            rows, g, m, v = None, gradient, state["exp_avg"], state["exp_avg_sq"]
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        change = m / (v / (1 - beta2**t)).sqrt_().add_(group["eps"]) * (-group["lr"] / (1 - beta1**t))
        if rows is None:
            p += change
            return
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = m, v
        p.index_add_(0, rows, change)


def trusted_indices() -> None:
    """Leaves the indices of sparse gradients unchecked, as torch does by default and warns of until told."""
    if not torch.sparse.check_sparse_tensor_invariants.is_enabled():
        torch.sparse.check_sparse_tensor_invariants.disable()
