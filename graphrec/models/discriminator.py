"""A discriminator of rows over items, trained with a gradient penalty.

Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017, https://arxiv.org/abs/1704.00028, in
the form of MMSSL (Wei et al., WWW 2023, https://arxiv.org/abs/2302.10632). ``Eq. n`` refers to the numbered
equations in docs/models/mmssl.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import leaky_relu

DROPOUT = (0.31, 0.5)
"""Shares that are left out after the first and after the second layer."""
SCALE = 100.0
"""Greatest value."""
EPS = 1e-5
"""Added to a variance."""


class Discriminator(nn.Module):
    """How real rows look, from 0 to :data:`SCALE` (Eq. 9).

    Args:
        n_items: width of a row.
        slope: of the leaky ReLU below 0.
        generator: of the initial parameters.
    """

    def __init__(self, n_items: int, slope: float, generator: torch.Generator) -> None:
        super().__init__()
        self.slope = slope
        widths = (n_items, max(1, n_items // 4), max(1, n_items // 8), 1)
        self.layers = nn.ModuleList()
        for n_in, n_out in pairwise(widths):
            layer = nn.Linear(n_in, n_out)
            nn.init.normal_(layer.weight, std=math.sqrt(2 / n_in), generator=generator)
            nn.init.zeros_(layer.bias)
            self.layers.append(layer)
        self.norms = nn.ModuleList(BatchNorm(width) for width in widths[1:-1])

    def draw(self, n: int, rng: torch.Generator) -> list[Tensor]:
        """For ``n`` rows what dropout leaves out, 0, or scales by, after each layer but the last
        ``(n, width)``.
        """
        widths = (len(norm.get_parameter("weight")) for norm in self.norms)
        uniform = (torch.rand(n, width, generator=rng, device=rng.device) for width in widths)
        return [(x >= p) / (1 - p) for x, p in zip(uniform, DROPOUT, strict=True)]

    def forward(self, rows: Tensor, factors: Sequence[Tensor]) -> Tensor:
        """``(n, 1)`` of rows ``(n, n_items)``.

        Args:
            rows: what is judged.
            factors: see :meth:`draw`.
        """
        *hidden, last = self.layers
        x = rows
        for layer, norm, kept in zip(hidden, self.norms, factors, strict=True):
            x = norm(leaky_relu(layer(x), self.slope)) * kept
        judged: Tensor = SCALE * last(x).sigmoid()
        return judged

    def frozen(self, rows: Tensor, factors: Sequence[Tensor]) -> Tensor:
        """The same, with a gradient to the rows alone."""
        constants = {name: p.detach() for name, p in self.named_parameters()}
        judged: Tensor = functional_call(self, constants, (rows, factors))
        return judged

    def penalty(self, rows: Tensor, factors: Sequence[Tensor]) -> Tensor:
        """``mean (|dD / dx| - 1)^2`` over rows ``x (n, n_items)``."""
        x = rows.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(self(x, factors).sum(), x, create_graph=True)
        penalty: Tensor = (slopes.norm(dim=1) - 1).square().mean()
        return penalty


class BatchNorm(nn.Module):
    """Columns with the mean and the variance of the rows at hand taken out, then scaled and shifted. It keeps
    no statistics, and a single row is no error.

    Args:
        width: number of columns.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width)``."""
        x = x.float()
        centered = x - x.mean(0)
        scaled = centered * (centered.square().mean(0) + EPS).rsqrt()
        return scaled * self.weight + self.bias
