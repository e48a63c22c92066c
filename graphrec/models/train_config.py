"""Options of training, and the protocol of a validation task."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from pydantic import Field

from graphrec.core.config import Config, option


class TrainConfig(Config):
    """How to train; the defaults are the protocol of the published Amazon tables."""

    epochs: int = Field(1000, ge=1)
    """Maximum number of epochs."""
    stop_after: int | None = Field(None, ge=1)
    """Stop after so many epochs, while ``schedule`` still spans ``epochs``; None trains all of them."""
    batch_size: int = Field(2048, ge=1)
    """Interactions per step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Learning rate at the start."""
    schedule: Literal["constant", "cosine", "linear", "exponential"] = "constant"
    """How the learning rate falls: it stays constant, falls to zero over ``epochs`` along a cosine or a line,
    or is multiplied by ``decay`` over every ``decay_epochs``."""
    decay: float = Field(0.96, gt=0, le=1)
    """Factor of the exponential schedule."""
    decay_epochs: float = Field(50.0, gt=0)
    """Epochs over which the exponential schedule reaches its factor, a little in each of them."""
    warmup: int = Field(0, ge=0)
    """Epochs over which the learning rate rises linearly first."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty applied by the optimizer to all parameters."""
    clip_norm: float | None = Field(None, gt=0)
    """Gradients are scaled down to this norm over all parameters; None does not clip."""
    patience: int | None = Field(20, ge=1)
    """Validations without improvement to tolerate; one more stops training, if there were ``patience_steps``
    too. None never stops early."""
    patience_steps: int = Field(1000, ge=0)
    """Optimizer steps without improvement to tolerate at least. On small data, where an epoch has few steps,
    a model would otherwise stop on the plateau it starts from. 0 counts validations only."""
    decimals: int | None = Field(4, ge=1)
    """Digits to which the selected metric is rounded before comparing; None compares exactly."""
    validate_every: int = Field(1, ge=1)
    """Epochs between validations; the last epoch is always validated."""
    validate_users: int | None = Field(None, ge=1)
    """Number of users in a validation of ``graphrec train``, drawn once by the seed; None takes all.
    The cost is users times items."""
    checkpoint_every: int = option(1, affects_result=False, ge=1)
    """Epochs between checkpoints of the full state; improvements and the last epoch always write one."""
    seed: int = Field(0, ge=0)
    """Seed of batches, negatives and everything else drawn while training."""
    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", affects_result=False)
    """Device to train on; ``auto`` takes an accelerator if there is one."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the forward pass; ``fp16`` needs CUDA."""
    progress: bool | None = option(None, affects_result=False)
    """Show a progress bar; None: on a terminal, else one line in a notebook or a line every 30 s."""
    tensorboard: bool = option(False, affects_result=False)
    """Write TensorBoard events under the run directory (needs the extra ``track``)."""
    profile: bool = option(False, affects_result=False)
    """Measure the seconds that each epoch spends on batches, forward, backward, step and validation
    (``profile/...`` in ``metrics.jsonl``). On an accelerator this waits for it after each of them."""


class Task(Protocol):
    """A validation of a model, such as :class:`graphrec.RankingTask`."""

    def __call__(self, model: Any) -> dict[str, float]:
        """Metric name -> value. Higher is better, but for names that an attribute ``higher_is_better``, where
        the task has one, maps to False.
        """
        ...
