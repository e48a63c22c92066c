"""Seconds that an epoch spends on each phase of training."""

from __future__ import annotations

import time

import torch

PHASES = ("batches", "forward", "backward", "step", "validation")
"""Drawing batches and copying them to the device, with what a model redraws in an epoch; loss; gradients;
clipping and optimizer; validation."""


class PhaseTimer:
    """Adds up the seconds of each phase: :meth:`start`, then :meth:`lap` at the end of each phase.

    An accelerator works in the background; every lap waits for it, so that time counts where it is spent.

    Args:
        device: where the model is.
        enabled: false measures nothing and waits for nothing.

    Attributes:
        seconds: phase -> seconds since the last :meth:`pop`.
    """

    def __init__(self, device: torch.device, enabled: bool = True) -> None:
        self.device = device
        self.enabled = enabled
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._last = time.perf_counter()

    def start(self) -> None:
        """Starts the next phase."""
        if self.enabled:
            self._synchronize()
            self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Ends a phase and starts the next one."""
        last = self._last
        self.start()
        self.seconds[phase] += self._last - last

    def pop(self) -> dict[str, float]:
        """``profile/<phase>`` -> seconds of this epoch; the next one begins with zeros."""
        if not self.enabled:
            return {}
        record = {f"profile/{phase}": seconds for phase, seconds in self.seconds.items()}
        self.seconds = dict.fromkeys(PHASES, 0.0)
        return record

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
