"""The training loop.

The trainer iterates ``model.epoch_batches(context)``, sums the terms of ``model.loss(batch)``, steps the
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
from graphrec.core.html_table import html_table
from graphrec.core.memory import keep_freed_memory
from graphrec.core.progress import EpochProgress, epoch_progress, tensorboard
from graphrec.core.random import numpy_rng
from graphrec.models.base import Model
from graphrec.models.batches import EpochContext
from graphrec.models.train_config import Task, TrainConfig
from graphrec.training.profiler import PHASES, PhaseTimer
from graphrec.training.run_directory import RunDirectory, TrainingState

logger = logging.getLogger("graphrec")


@dataclass
class Run:
    """The result of a training.

    Attributes:
        model: the model with its best weights (the last ones if nothing was validated).
        history: one dict per epoch: ``epoch``, ``seconds``, ``loss/<term>``, metrics.
        best_epoch: epoch of the best validation, counted from 1.
        best_value: the selected metric of that epoch, or None.
        out: the run directory, or None.
    """

    model: Any
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float | None = None
    out: Path | None = None

    @property
    def seconds(self) -> float:
        """Seconds of all epochs, including validation and the epochs before resuming."""
        return sum(h["seconds"] for h in self.history)

    @property
    def profile(self) -> dict[str, float]:
        """Phase -> seconds in all profiled epochs; empty without ``TrainConfig.profile``."""
        profiled = [h for h in self.history if f"profile/{PHASES[0]}" in h]
        return {phase: sum(h[f"profile/{phase}"] for h in profiled) for phase in PHASES if profiled}

    def _repr_html_(self) -> str:
        """A small table for notebooks: model, epochs, seconds, and the metrics of the best epoch."""
        best = next((h for h in self.history if h["epoch"] == self.best_epoch), {})
        rows: dict[str, object] = {
            "epochs": int(self.history[-1]["epoch"]) if self.history else 0,
            "best epoch": self.best_epoch,
            "seconds": self.seconds,
            "run directory": "none" if self.out is None else str(self.out),
        }
        rows |= {k: v for k, v in best.items() if "/" not in k and k not in ("epoch", "seconds")}
        return html_table(f"Run of {getattr(self.model, 'name', '') or type(self.model).__name__}", rows)


@dataclass
class _Fit:
    """One call of :meth:`Trainer.fit`: its arguments, and what it sets up."""

    model: Model
    optimizer: torch.optim.Optimizer | None
    validate: Task | None
    select: str | None
    precision: _Precision
    timer: PhaseTimer
    state: TrainingState = field(default_factory=TrainingState)


class Trainer:
    """Trains a model.

    Args:
        config: a :class:`TrainConfig`.
        out: run directory for checkpoints and metrics; None writes nothing to disk.
    """

    def __init__(self, config: TrainConfig | None = None, out: str | Path | None = None) -> None:
        self.config = config or TrainConfig()
        self.out = Path(out) if out is not None else None
        self.run_directory = RunDirectory(self.out)

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
            model: trained in place.
            validate: returns the validation metrics of a model; must not use the test split.
            select: name of the validation metric to select the epoch on; default: the first.
            resume: resume from the run directory's last checkpoint, or start if there is none.
            about: JSON-able facts to record in ``run.json`` (dataset fingerprint, feature hashes, ...).
            on_epoch: called with each epoch's record.

        Raises:
            TrainingError: a loss term or a validation metric is not finite, or there are no batches.
            CheckpointError: the run directory holds another run, or cannot be written.
            ConfigError: ``select`` is not among the validation metrics, or the model trains in one process
                only and there are several.
        """
        config = self.config
        start = 0
        # Checked before other processes wait for this one.
        if distributed.env_world_size() > 1 and model.data_parallel is None:
            raise ConfigError(
                f"{model.name} trains in one process; its batches cannot be divided among several"
            )
        device = distributed.set_up(config.device)
        if device.type == "cpu":
            keep_freed_memory()
        precision = _Precision(config.precision, device)
        timer = PhaseTimer(device, enabled=config.profile)
        self.run_directory.writes = distributed.is_rank_zero()
        model.to(device)
        trainable = any(p.requires_grad for p in model.parameters())
        optimizer = model.optimizer(config) if trainable else None
        rates = [group["lr"] for group in optimizer.param_groups] if optimizer is not None else []
        fit = _Fit(model, optimizer, validate, select, precision, timer)
        try:
            self.run_directory.open(self._facts(fit, about or {}), resume, self._configs(model))
            if resume and distributed.broadcast_object(self.run_directory.holds_checkpoint, device):
                fit.state, start = self.run_directory.read(model, optimizer)
                if optimizer is not None:  # there may be more epochs or patience than before
                    fit.state.done = self._is_over(start, fit.state)
            state = fit.state
            self.run_directory.rewrite_metrics(state.history)
            if state.done:
                logger.info("the run in %s is finished; nothing to do", self.out)
            elif optimizer is None:
                self._validate(fit, {"epoch": 0, "seconds": 0.0}, last=True)
                state.done = True
                self.run_directory.rewrite_metrics(state.history)
                self.run_directory.write(model, None, 0, state)
            else:
                for group, own in zip(optimizer.param_groups, rates, strict=True):
                    group["initial_lr"] = own  # a checkpoint holds that of its epoch
                self._loop(fit, optimizer, start, on_epoch)
            distributed.barrier()  # until the best weights are written
            self.run_directory.load_best(model, state)
        finally:
            self.run_directory.close()
        model.eval()
        return Run(model, state.history, state.best_epoch, state.best_value, self.out)

    def _loop(
        self,
        fit: _Fit,
        optimizer: torch.optim.Optimizer,
        start: int,
        on_epoch: Callable[[dict[str, float]], None] | None,
    ) -> None:
        config = self.config
        state = fit.state
        first = distributed.is_rank_zero()
        events = tensorboard(config.tensorboard and first, self.out)
        progress = epoch_progress(
            config.progress if first else False, self._last_epoch, start,
            fit.select, None if fit.validate is None else config.patience,
        )  # fmt: skip
        with events as write_events, progress as shown:
            for epoch in range(start + 1, self._last_epoch + 1):
                began = time.perf_counter()
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * rate(config, epoch)
                record = {"epoch": epoch, **self._epoch(fit, optimizer, epoch, shown)}
                record["seconds/train"] = time.perf_counter() - began
                fit.timer.start()
                improved = self._validate(fit, record, last=epoch == self._last_epoch)
                fit.timer.lap("validation")
                record.update(fit.timer.pop())
                record["seconds"] = time.perf_counter() - began
                state.done = self._is_over(epoch, state)
                checkpoint_due = improved or state.done or epoch % config.checkpoint_every == 0
                self.run_directory.log(record, sync=checkpoint_due)
                if checkpoint_due:
                    self.run_directory.write(fit.model, optimizer, epoch, state, improved)
                write_events(record)
                if config.patience is not None and state.misses:  # in validations, as it is shown
                    steps_each = state.missed_steps / state.misses
                    shown.patience = max(config.patience, math.ceil(config.patience_steps / steps_each))
                shown.on_epoch(record, state.best_value, state.best_epoch, state.misses)
                if on_epoch is not None:
                    on_epoch(record)
                if state.done:
                    break

    def _is_over(self, epoch: int, state: TrainingState) -> bool:
        config = self.config
        if epoch >= self._last_epoch:
            return True
        if config.patience is None:
            return False
        return state.misses > config.patience and state.missed_steps >= config.patience_steps

    @property
    def _last_epoch(self) -> int:
        config = self.config
        return config.epochs if config.stop_after is None else min(config.stop_after, config.epochs)

    def _epoch(
        self, fit: _Fit, optimizer: torch.optim.Optimizer, epoch: int, shown: EpochProgress
    ) -> dict[str, float]:
        """Trains one pass over the model's batches; returns the mean of each loss term."""
        config = self.config
        model = fit.model
        timer = fit.timer
        terms: dict[str, list[Tensor]] = {}
        timer.start()
        model.train()
        model.start_epoch(numpy_rng(config.seed, "start_epoch", epoch))
        batches = model.epoch_batches(EpochContext(epoch, config.batch_size, config.seed))
        for step, batch in enumerate(batches, 1):
            batch = _to(batch, fit.precision.device)
            timer.lap("batches")
            losses = fit.precision.losses(model, batch)
            timer.lap("forward")
            fit.precision.backward(torch.stack(list(losses.values())).sum())
            if model.data_parallel == "batches":
                distributed.all_reduce_gradients(model.parameters())
            timer.lap("backward")
            fit.precision.step(model, optimizer, config.clip_norm)
            optimizer.zero_grad(set_to_none=True)
            for name, value in losses.items():
                terms.setdefault(name, []).append(value.detach())
            timer.lap("step")
            shown.on_step(epoch, step)
            fit.state.missed_steps += 1
        if not terms:
            raise TrainingError(f"epoch {epoch}: the model yielded no batches; is its training split empty?")
        # Checked once an epoch: reading a loss at every step would stall a GPU.
        stacked = {name: torch.stack(values) for name, values in terms.items()}
        steps = {name: (~torch.isfinite(v)).nonzero() for name, v in stacked.items()}
        broken = {name: int(step[0]) for name, step in steps.items() if len(step)}
        if broken:
            # It breaks the weights, and with them every term of the next step: the first one is the cause.
            name = min(broken, key=broken.__getitem__)
            at = broken[name]
            raise TrainingError(
                f"epoch {epoch}, step {at + 1}: loss term {name!r} is {float(stacked[name][at])}; the "
                "last checkpoint is intact: lower the learning rate, clip gradients (clip_norm) or check "
                "the features"
            )
        return {f"loss/{name}": float(v.double().mean()) for name, v in stacked.items()}

    def _validate(self, fit: _Fit, record: dict[str, float], last: bool) -> bool:
        """Validates if the epoch is due, and updates the record and the state of early stopping.

        Returns:
            Whether the epoch is the best so far.
        """
        state = fit.state
        validate = fit.validate
        epoch = int(record["epoch"])
        state.history.append(record)
        if validate is None:
            state.best_epoch = epoch
            return False
        if epoch % self.config.validate_every and not last:
            return False
        fit.model.eval()
        with torch.no_grad():
            if getattr(validate, "divided", False):
                metrics = validate(fit.model)
            else:
                metrics = distributed.broadcast_object(lambda: validate(fit.model), fit.precision.device)
        record.update(metrics)
        select = fit.select or next(iter(metrics))
        if select not in metrics:
            raise ConfigError(
                f"select={select!r} is not a validation metric; expected one of {list(metrics)}."
                f"{nearest(select, metrics)}"
            )
        for name, metric in metrics.items():
            if not math.isfinite(metric):
                raise TrainingError(
                    f"epoch {epoch}: validated {name} is {metric}; check the validation split"
                )
        value = float(metrics[select])
        digits = self.config.decimals
        rounded = value if digits is None else round(value, digits)
        higher_is_better = getattr(validate, "higher_is_better", {}).get(select, True)
        better = rounded > state.threshold if higher_is_better else rounded < state.threshold
        if state.best_value is None or better:
            state.best_value = value
            state.threshold = rounded
            state.best_epoch = epoch
            state.misses = 0
            state.missed_steps = 0
            if self.out is None:
                state.best_weights = {k: v.detach().clone() for k, v in fit.model.state_dict().items()}
            return True
        state.misses += 1
        return False

    def _facts(self, fit: _Fit, about: Mapping[str, Any]) -> dict[str, Any]:
        """The content of ``run.json``."""
        config = self.config
        model = fit.model
        device = device_facts(fit.precision.device, config.precision)
        return {
            "model": model.name,
            "model_config": model.config.model_dump(mode="json") if hasattr(model, "config") else {},
            "train_config": config.model_dump(mode="json"),
            "device": {**device, "processes": distributed.world_size()},
            "select": "none" if fit.validate is None else fit.select,
            **about,
        }

    def _configs(self, model: Model) -> dict[str, type[Config]]:
        """Classes of the options in ``run.json``; they read names that earlier versions recorded."""
        model_config = type(model.config) if hasattr(model, "config") else Config
        return {"train_config": type(self.config), "model_config": model_config}


def rate(config: TrainConfig, epoch: int) -> float:
    """Factor on the learning rate in an epoch, counted from 1.

    It is a function of the epoch alone, so resuming needs no state.
    """
    if epoch <= config.warmup:
        return epoch / (config.warmup + 1)
    past = epoch - 1 - config.warmup
    if config.schedule == "exponential":
        return math.pow(config.decay, past / config.decay_epochs)
    done = past / max(1, config.epochs - config.warmup)
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
        self.scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")

    def losses(self, model: Model, batch: Any) -> dict[str, Tensor]:
        """The loss terms; float32 also after a forward pass in lower precision."""
        losses: dict[str, Tensor]
        if self.dtype is None:
            losses = model(batch)
            return losses
        with torch.autocast(self.device.type, self.dtype):
            losses = model(batch)
        return {name: value.float() for name, value in losses.items()}

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients."""
        self.scaler.scale(loss).backward()

    def step(self, model: Model, optimizer: torch.optim.Optimizer, clip_norm: float | None) -> None:
        """Clips the gradients, unless ``clip_norm`` is None, and updates the parameters."""
        if clip_norm is not None:
            self.scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        self.scaler.step(optimizer)
        self.scaler.update()


def _to(batch: Any, device: torch.device) -> Any:
    return type(batch)(*(v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for v in batch))
