"""Random streams that are functions of (seed, purpose, epoch), never of global state or of call order.

Two parts of a program that draw from different purposes cannot disturb each other, and epoch 7 of a resumed
run draws exactly what epoch 7 of an uninterrupted run draws.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, purpose: str, epoch: int = 0) -> int:
    """A 63-bit integer that depends on all three arguments and on nothing else.

    Args:
        seed: the run's seed, any integer.
        purpose: what the numbers are for, such as ``"negatives"``.
        epoch: counts repetitions of the same purpose.
    """
    digest = hashlib.sha256(f"{int(seed)}/{purpose}/{int(epoch)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_rng(seed: int, purpose: str, epoch: int = 0) -> np.random.Generator:
    """A NumPy generator for one purpose in one epoch (see :func:`derive`)."""
    return np.random.default_rng(derive(seed, purpose, epoch))


def torch_rng(seed: int, purpose: str, epoch: int = 0, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for one purpose in one epoch (see :func:`derive`)."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, purpose, epoch))


def splitmix(z: torch.Tensor) -> torch.Tensor:
    """The mixing function of splitmix64 on ``int64``: one bit of ``z`` changes about half of all bits."""
    z = (z ^ ((z >> 30) & (1 << 34) - 1)) * -0x40A7B892E31B1A47
    z = (z ^ ((z >> 27) & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
    return z ^ ((z >> 31) & (1 << 33) - 1)
