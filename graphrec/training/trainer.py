"""The training loop.

The trainer iterates ``model.epoch_batches(plan)``, sums the terms of ``model.loss(batch)``, steps the
optimizer, validates, writes checkpoints and stops early. It never sees a test split.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphrec.core import distributed
from graphrec.core.config import Config
from graphrec.core.environment import device_facts
from graphrec.core.errors import ConfigError, TrainingError, nearest
from graphrec.core.progress import ProgressBar, TensorBoard
from graphrec.core.random import numpy_rng
from graphrec.models.base import Model
from graphrec.models.batches import EpochContext
from graphrec.models.train_config import Task, TrainConfig
from graphrec.training.profiler import PHASES, PhaseTimer
from graphrec.training.run_directory import RunDirectory, State

logger = logging.getLogger("graphrec")


@dataclass
class Run:
    """The result of a training.

    Attributes:
        model: with the best weights loaded (the last ones if nothing was validated).
        history: one dict per epoch: ``epoch``, ``seconds``, ``loss/<term>``, metrics.
        best_epoch: epoch of the best validation, counted from 1.
        best_value: the selected metric there, or None.
        out: the run directory, or None.
    """

    model: Any
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float | None = None
    out: Path | None = None

    @property
    def seconds(self) -> float:
        """Seconds spent in all epochs, validation and epochs before resuming included."""
        return sum(h["seconds"] for h in self.history)

    @property
    def profile(self) -> dict[str, float]:
        """Phase -> seconds in all epochs that were profiled; empty without ``TrainConfig.profile``."""
        profiled = [h for h in self.history if f"profile/{PHASES[0]}" in h]
        return {phase: sum(h[f"profile/{phase}"] for h in profiled) for phase in PHASES if profiled}


class Trainer:
    """Trains a model.

    Args:
        config: a :class:`TrainConfig`.
        out: run directory for checkpoints and metrics; None keeps nothing on disk.
    """

    def __init__(self, config: TrainConfig | None = None, out: str | Path | None = None) -> None:
        self.config = config or TrainConfig()
        self.out = Path(out) if out is not None else None
        self.run_directory = RunDirectory(self.out)
        self._device = torch.device("cpu")

    def fit(
        self,
        model: Model,
        validate: Task | None = None,
        select: str | None = None,
        *,
        resume: bool = False,
        about: Mapping[str, Any] | None = None,
        on_epoch: Callable[[dict[str, float]], None] | None = None,
    ) -> Run:
        """Trains until the last epoch or until ``select`` stops improving, then loads the best weights.

        Args:
            model: is trained in place.
            validate: called after epochs; sees what it was made with, which should never be a test split.
            select: name of the validated metric to select on; default: the first.
            resume: go on from the run directory's last checkpoint; start afresh if there is none.
            about: JSON-able facts recorded in ``run.json`` (dataset fingerprint, feature hashes, ...).
            on_epoch: called with each epoch's record.

        Raises:
            TrainingError: a loss term is not finite (named, with epoch and step), or there are no batches.
            CheckpointError: the run directory holds another run, or cannot be written.
            ConfigError: ``select`` is not validated.
        """
        config = self.config
        start = 0
        state = State()
        # Refused before other processes wait for this one.
        if distributed.env_world_size() > 1 and model.data_parallel is None:
            raise ConfigError(f"{model.name} trains in one process; its batches cannot be divided")
        self._device = distributed.set_up(config.device)
        precision = _Precision(config.precision, self._device)
        timer = PhaseTimer(self._device) if config.profile else None
        self.run_directory.writes = distributed.is_rank_zero()
        model.to(self._device)
        trainable = any(p.requires_grad for p in model.parameters())
        optimizer = model.optimizer(config) if trainable else None
        device = {**device_facts(self._device, config.precision), "processes": distributed.world_size()}
        try:
            self.run_directory.open(
                self._facts(model, {"device": device, **(about or {})}), resume, self._configs(model)
            )
            if resume and distributed.broadcast_object(self.run_directory.holds_checkpoint, self._device):
                state, start = self.run_directory.read(model, optimizer)
                if optimizer is not None:  # more epochs or patience than before go on from here
                    state.done = self._is_over(start, state)
            self.run_directory.rewrite_metrics(state.history)
            if state.done:
                logger.info("the run in %s is finished; nothing to do", self.out)
            elif optimizer is None:
                self._validate(model, validate, select, state, {"epoch": 0, "seconds": 0.0}, last=True)
                state.done = True
                self.run_directory.write(model, None, 0, state)
                self.run_directory.rewrite_metrics(state.history)
            else:
                self._loop(precision, timer, model, optimizer, validate, select, state, start, on_epoch)
            distributed.barrier()  # for the best weights to be written
            self.run_directory.load_best(model, state)
        finally:
            self.run_directory.close()
        model.eval()
        return Run(model, state.history, state.best_epoch, state.best_value, self.out)

    def _loop(
        self,
        precision: _Precision,
        timer: PhaseTimer | None,
        model: Model,
        optimizer: torch.optim.Optimizer,
        validate: Task | None,
        select: str | None,
        state: State,
        start: int,
        on_epoch: Callable[[dict[str, float]], None] | None,
    ) -> None:
        config = self.config
        for group in optimizer.param_groups:
            group["initial_lr"] = config.learning_rate * group.get("lr_scale", 1.0)
        bar = ProgressBar(config.progress if distributed.is_rank_zero() else False, config.epochs, start)
        events = TensorBoard(config.tensorboard and distributed.is_rank_zero(), self.out)
        with bar as progress, events as board:
            for epoch in range(start + 1, config.epochs + 1):
                began = time.perf_counter()
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * rate(config, epoch)
                record = {"epoch": epoch, **self._epoch(precision, timer, model, optimizer, epoch)}
                record["seconds/train"] = time.perf_counter() - began
                last = epoch == config.epochs
                if timer is not None:
                    timer.start()
                improved = self._validate(model, validate, select, state, record, last)
                if timer is not None:
                    timer.lap("validation")
                    record.update(timer.pop())
                record["seconds"] = time.perf_counter() - began
                state.done = self._is_over(epoch, state)
                if improved or state.done or epoch % config.checkpoint_every == 0:
                    self.run_directory.write(model, optimizer, epoch, state, improved)
                self.run_directory.log(record)
                board(record)
                progress(record, state.best_value, state.best_epoch)
                if on_epoch is not None:
                    on_epoch(record)
                if state.done:
                    break

    def _is_over(self, epoch: int, state: State) -> bool:
        patience = self.config.patience
        return epoch >= self.config.epochs or (patience is not None and state.misses > patience)

    def _epoch(
        self,
        precision: _Precision,
        timer: PhaseTimer | None,
        model: Model,
        optimizer: torch.optim.Optimizer,
        epoch: int,
    ) -> dict[str, float]:
        """One pass over the model's batches; the mean of each loss term."""
        config = self.config
        terms: dict[str, list[Tensor]] = {}
        if timer is not None:
            timer.start()
        model.train()
        model.start_epoch(numpy_rng(config.seed, "start_epoch", epoch))
        for batch in model.epoch_batches(EpochContext(epoch, config.batch_size, config.seed)):
            batch = _to(batch, self._device)
            if timer is not None:
                timer.lap("batches")
            losses = precision.losses(model, batch)
            if timer is not None:
                timer.lap("forward")
            precision.backward(torch.stack(list(losses.values())).sum())
            if model.data_parallel == "batches":
                distributed.all_reduce_gradients(model.parameters())
            if timer is not None:
                timer.lap("backward")
            precision.step(model, optimizer, config.clip_norm)
            optimizer.zero_grad(set_to_none=True)
            for name, value in losses.items():
                terms.setdefault(name, []).append(value.detach())
            if timer is not None:
                timer.lap("step")
        if not terms:
            raise TrainingError(f"epoch {epoch}: the model made no batches; is its train split empty?")
        # Looked at once an epoch: reading a loss at every step would stall a GPU.
        stacked = {name: torch.stack(values) for name, values in terms.items()}
        broken = {name: (~torch.isfinite(v)).nonzero() for name, v in stacked.items()}
        first = {name: int(at[0]) for name, at in broken.items() if len(at)}
        if first:
            # A broken term spoils the weights, and with them every term of the next step: the first one is
            # the cause.
            name = min(first, key=first.__getitem__)
            raise TrainingError(
                f"epoch {epoch}, step {first[name] + 1}: loss term {name!r} is "
                f"{float(stacked[name][first[name]])}; "
                "the last checkpoint is intact: lower the learning rate, clip gradients (clip_norm) or check "
                "the features"
            )
        return {f"loss/{name}": float(v.double().mean()) for name, v in stacked.items()}

    def _validate(
        self,
        model: Model,
        validate: Task | None,
        select: str | None,
        state: State,
        record: dict[str, float],
        last: bool,
    ) -> bool:
        """Validates if the epoch is due and updates the state of early stopping. Returns whether the epoch is
        the best so far.
        """
        epoch = int(record["epoch"])
        state.history.append(record)
        if validate is None:
            state.best_epoch = epoch
            return False
        if epoch % self.config.validate_every and not last:
            return False
        model.eval()
        with torch.no_grad():
            divided = getattr(validate, "divided", False)
            metrics = (
                validate(model)
                if divided
                else distributed.broadcast_object(lambda: validate(model), self._device)
            )
        record.update(metrics)
        chosen = select or next(iter(metrics))
        if chosen not in metrics:
            raise ConfigError(
                f"select={chosen!r} is not validated; there are {list(metrics)}.{nearest(chosen, metrics)}"
            )
        if broken := [name for name, found in metrics.items() if not math.isfinite(found)]:
            raise TrainingError(
                f"epoch {epoch}: validated {broken[0]} is {metrics[broken[0]]}; check the validation split"
            )
        value = float(metrics[chosen])
        digits = self.config.decimals
        rounded = value if digits is None else round(value, digits)
        if state.best_value is None or rounded > state.threshold:
            state.best_value, state.threshold, state.best_epoch, state.misses = value, rounded, epoch, 0
            if self.out is None:
                state.best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
            return True
        state.misses += 1
        return False

    def _facts(self, model: Model, about: Mapping[str, Any]) -> dict[str, Any]:
        """The facts that ``run.json`` records."""
        return {
            "model": model.name,
            "model_config": model.config.model_dump(mode="json") if hasattr(model, "config") else {},
            "train_config": self.config.model_dump(mode="json"),
            **about,
        }

    def _configs(self, model: Model) -> dict[str, type[Config]]:
        """The classes of the options in ``run.json``, which know the names earlier versions recorded."""
        model_config = type(model.config) if hasattr(model, "config") else Config
        return {"train_config": type(self.config), "model_config": model_config}


def rate(config: TrainConfig, epoch: int) -> float:
    """Factor on the learning rate in one epoch (from 1): a function of the epoch alone, so resuming needs no
    state.
    """
    if epoch <= config.warmup:
        return epoch / (config.warmup + 1)
    done = (epoch - 1 - config.warmup) / max(1, config.epochs - config.warmup)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if config.schedule == "linear" else 1.0


class _Precision:
    """Mixed precision: autocast in the forward pass, and with ``fp16`` a scaled loss.

    Args:
        precision: see :class:`TrainConfig`.
        device: where the model is.

    Raises:
        ConfigError: ``fp16`` without CUDA.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        if precision == "fp16" and device.type != "cuda":
            raise ConfigError("precision 'fp16' needs a CUDA device; use bf16 or no")
        self.dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self.device = device
        self.scaler = torch.amp.GradScaler("cuda") if precision == "fp16" else None

    def losses(self, model: Model, batch: Any) -> dict[str, Tensor]:
        """The loss terms, in float32 if the forward pass is not."""
        losses: dict[str, Tensor]
        if self.dtype is None:
            losses = model(batch)
            return losses
        with torch.autocast(self.device.type, self.dtype):
            losses = model(batch)
        return {name: value.float() for name, value in losses.items()}

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, model: Model, optimizer: torch.optim.Optimizer, clip_norm: float | None) -> None:
        """Clips the gradients, if asked to, and updates the parameters."""
        if clip_norm is not None:
            if self.scaler is not None:
                self.scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()


def _to(batch: Any, device: torch.device) -> Any:
    return type(batch)(*(v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for v in batch))
