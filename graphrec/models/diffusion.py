"""Diffusion over rows of interactions: noise in a few steps, and a network that takes it away again.

Wang et al., "Diffusion Recommender Model" (DiffRec), SIGIR 2023, https://arxiv.org/abs/2304.04971, in the
form of DiffMM (Jiang et al., ACM MM 2024, https://arxiv.org/abs/2406.11781). ``Eq. n`` refers to the numbered
equations in docs/models/diffmm.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from graphrec.models.layers import linear

FIRST_VARIANCE = 1e-4  # of the first step, whatever the schedule says
MOST_VARIANCE = 0.999  # of a step


class NoiseDraws(NamedTuple):
    """What is drawn for the rows of a batch.

    Attributes:
        step: of each row, from 0 ``(B,) int64``.
        noise: standard normal ``(B, n_items)``.
        factors: 0 where dropout leaves an item out, else what it is scaled by ``(B, n_items)``.
    """

    step: Tensor
    noise: Tensor
    factors: Tensor


class NoiseSchedule(nn.Module):
    """How much noise each of ``T`` steps adds (Eqs. 1 and 5).

    Args:
        n_steps: ``T``.
        low: variance of the noise up to the first step.
        high: variance of the noise up to the last step.

    Attributes:
        beta: variance that each step adds ``(T,) float64``, on the CPU.
        cumulative: share of the signal's variance that is left after each step ``(T,) float64``, likewise.
    """

    signal: Tensor
    noise: Tensor
    weight: Tensor
    from_estimate: Tensor
    from_current: Tensor

    def __init__(self, n_steps: int, low: float, high: float) -> None:
        super().__init__()
        left = 1 - np.linspace(low, high, n_steps)
        beta = np.minimum(1 - left / np.append(left[:1], left[:-1]), MOST_VARIANCE)
        beta[0] = FIRST_VARIANCE
        cumulative = np.cumprod(1 - beta)
        before = np.append(1.0, cumulative[:-1])
        snr = cumulative / (1 - cumulative)
        self.beta, self.cumulative = beta, cumulative
        tables = {
            "signal": np.sqrt(cumulative),
            "noise": np.sqrt(1 - cumulative),
            "weight": np.append(1.0, snr[:-1] - snr[1:]),
            "from_estimate": beta * np.sqrt(before) / (1 - cumulative),
            "from_current": (1 - before) * np.sqrt(1 - beta) / (1 - cumulative),
        }
        for name, values in tables.items():  # (T,) each
            self.register_buffer(name, torch.from_numpy(values.astype(np.float32)), persistent=False)

    def __len__(self) -> int:
        return len(self.beta)

    def noisy(self, rows: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """Rows after some steps ``(B, n_items)`` (Eq. 2).

        Args:
            rows: ``(B, n_items)``.
            step: of each row ``(B,) int64``.
            noise: standard normal ``(B, n_items)``.
        """
        return self.signal[step, None] * rows + self.noise[step, None] * noise


class Denoiser(nn.Module):
    """An autoencoder that estimates rows of interactions from what noise has left of them (Eq. 3).

    Args:
        n_items: width of a row.
        hidden: width between encoder and decoder.
        time_dim: width of the code of a step, even.
        schedule: of the noise.
        dropout: share of a row that is left out while training.
        generator: of the initial parameters.
    """

    def __init__(
        self,
        n_items: int,
        hidden: int,
        time_dim: int,
        schedule: NoiseSchedule,
        dropout: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.dropout = dropout
        self.time = _layer(time_dim, time_dim, generator)
        self.encode = _layer(n_items + time_dim, hidden, generator)
        self.decode = _layer(hidden, n_items, generator)

    def forward(self, rows: Tensor, step: Tensor) -> Tensor:
        """What rows were without noise ``(B, n_items)``.

        Args:
            rows: with noise ``(B, n_items)``.
            step: of each row ``(B,) int64``.
        """
        code = self.time(time_code(step, self.time.in_features))
        hidden = self.encode(torch.cat([rows, code], 1)).tanh()
        estimate: Tensor = self.decode(hidden)
        return estimate

    def draw(self, n: int, rng: torch.Generator) -> NoiseDraws:
        """Steps, noise and dropout of ``n`` rows."""
        shape, device = (n, self.decode.out_features), rng.device
        step = torch.randint(len(self.schedule), (n,), generator=rng, device=device)
        noise = torch.randn(shape, generator=rng, device=device)
        kept = torch.rand(shape, generator=rng, device=device) >= self.dropout
        return NoiseDraws(step, noise, kept / (1 - self.dropout))

    def estimate(self, rows: Tensor, draws: NoiseDraws) -> tuple[Tensor, Tensor]:
        """Rows estimated from what is left of them after noise ``(B, n_items)``, and the weighted squared
        error of each ``(B,)`` (Eq. 4).
        """
        noisy = self.schedule.noisy(rows, draws.step, draws.noise)
        estimate = self(noisy * draws.factors, draws.step)
        error = (rows - estimate).square().mean(1)
        return estimate, self.schedule.weight[draws.step] * error

    @torch.no_grad()
    def denoising(self) -> Callable[[Tensor], Tensor]:
        """A function that takes rows to which no noise was added through all steps backward, ``(B, n_items)``
        to ``(B, n_items)`` (Eq. 5).

        All of a step is linear but the tanh, so ``T`` steps take one product with the encoder, one with the
        decoder and ``T`` with the product of both, which is small.
        """
        schedule, width = self.schedule, self.decode.out_features
        into, out, bias = self.encode.weight[:, :width], self.decode.weight, self.decode.bias
        again, again_bias = into @ out, into @ bias  # (hidden, hidden), (hidden,)
        steps = torch.arange(len(schedule), device=out.device)
        code = self.time(time_code(steps, self.time.in_features))
        offsets = code @ self.encode.weight[:, width:].T + self.encode.bias  # (T, hidden)

        def denoise(rows: Tensor) -> Tensor:
            encoded = rows @ into.T
            total = torch.zeros_like(encoded)  # of what is to be decoded
            share_of_bias, share_of_rows = out.new_zeros(()), out.new_ones(())
            for t in reversed(range(len(schedule))):
                estimate, current = schedule.from_estimate[t], schedule.from_current[t]
                hidden = (encoded + offsets[t]).tanh()
                encoded = estimate * (hidden @ again.T + again_bias) + current * encoded
                total = estimate * hidden + current * total
                share_of_bias = estimate + current * share_of_bias
                share_of_rows = current * share_of_rows
            return total @ out.T + share_of_bias * bias + share_of_rows * rows

        return denoise


def time_code(step: Tensor, dim: int) -> Tensor:
    """Cosines and sines of steps at ``dim / 2`` frequencies from 1 down ``(B, dim)``.

    Args:
        step: ``(B,) int64``.
        dim: even.
    """
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=step.device) * (-math.log(10000) / half))
    angles = step[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


def _layer(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """A Xavier-normal linear map with a small bias."""
    layer = linear(n_in, n_out, generator, nn.init.xavier_normal_)
    nn.init.normal_(layer.bias, std=1e-3, generator=generator)
    return layer
