"""Random generators that depend only on (seed, purpose, epoch), never on global state or call order.

Parts of a program that use different purposes do not affect each other, and epoch 7 of a resumed run draws
the same numbers as epoch 7 of an uninterrupted run.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """A 63-bit seed derived from the three arguments.

    Args:
        seed: seed of the run, any integer.
        purpose: use of the random numbers, such as ``"negatives"``.
        epoch: number of the repetition of this purpose.
    """
    digest = hashlib.sha256(f"{int(seed)}/{purpose}/{int(epoch)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_rng(seed: int, purpose: str, epoch: int = 0) -> np.random.Generator:
    """A NumPy generator for one purpose in one epoch (see :func:`derive_seed`)."""
    return np.random.default_rng(derive_seed(seed, purpose, epoch))


def torch_rng(seed: int, purpose: str, epoch: int = 0, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for one purpose in one epoch (see :func:`derive_seed`)."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, purpose, epoch))


def splitmix64(z: torch.Tensor) -> torch.Tensor:
    """The mixing function of splitmix64 on ``int64``: one bit of ``z`` changes about half of all bits."""
    z = (z ^ ((z >> 30) & (1 << 34) - 1)) * -0x40A7B892E31B1A47
    z = (z ^ ((z >> 27) & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
    return z ^ ((z >> 31) & (1 << 33) - 1)
