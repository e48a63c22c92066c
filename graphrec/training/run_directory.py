"""The run directory: files from which a training that was stopped at any moment resumes.

It holds ``run.json`` (the model, its data and all options), ``metrics.jsonl`` (one line per epoch) and two
checkpoints: ``last`` (model, optimizer and history, everything that resuming needs) and ``best`` (the model).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from graphrec.core import distributed
from graphrec.core.bundle import read_sealed, write_sealed
from graphrec.core.config import Config
from graphrec.core.environment import environment
from graphrec.core.errors import CheckpointError
from graphrec.core.files import acquire_lock, remove_stale_temporaries, write_text
from graphrec.training import checkpoint

RUN = "run.json"
METRICS = "metrics.jsonl"
LAST = "last"
BEST = "best"
LOCK = ".lock"
LOGGED = "logged"
"""Entry of a checkpoint whose epochs were all in the metrics before it was written."""


@dataclass
class TrainingState:
    """Progress of a training: its history and the state of early stopping.

    Attributes:
        history: one dict per epoch.
        best_epoch: epoch of the best validation, counted from 1.
        best_value: the selected metric of that epoch, or None.
        threshold: that metric, rounded, which later epochs must beat.
        misses: number of validations since then.
        missed_steps: number of optimizer steps since then.
        done: whether training is over.
        best_weights: weights of that epoch, if there is no run directory to hold them.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float | None = None
    threshold: float = -math.inf
    misses: int = 0
    missed_steps: int = 0
    done: bool = False
    best_weights: dict[str, Tensor] | None = None

    def saved(self) -> dict[str, Any]:
        """Everything but the weights, as JSON-able values."""
        state = {k: v for k, v in vars(self).items() if k != "best_weights"}
        return {**state, "threshold": self.threshold if math.isfinite(self.threshold) else -1e300}


def read_state(path: str | Path) -> TrainingState:
    """The progress of a run, from its last checkpoint; its metrics are checked against it.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or a line of ``metrics.jsonl`` is missing or
            not the one that was written.
    """
    saved = checkpoint.read(Path(path) / LAST)
    state = TrainingState(**saved["training"])
    check_metrics(Path(path) / METRICS, state.history, complete=LOGGED in saved)
    return state


def check_metrics(path: Path, history: Sequence[Mapping[str, float]], complete: bool = True) -> None:
    """Compares the lines of ``metrics.jsonl`` with the epochs of a checkpoint.

    Further lines are of epochs after that checkpoint, and are removed when the training goes on.

    Args:
        path: the file.
        history: the checkpoint's record of each epoch.
        complete: whether every epoch was logged before the checkpoint was written. Runs of before 2026-12
            logged the last one afterwards, so that one may be missing if they were killed.

    Raises:
        CheckpointError: names the file and the line that is missing, not readable or different.
    """
    remedy = f"restore it, or resume the run (--resume), which writes it again from {LAST}"
    try:
        lines = path.read_bytes().split(b"\n")  # the last is empty, or was not written to its end
    except OSError as cause:
        raise CheckpointError(f"{path}: cannot be read ({cause.strerror or cause}); {remedy}") from cause
    written = len(lines) - 1
    for number, record in enumerate(history, 1):
        if number > written and (complete or number < len(history)):
            raise CheckpointError(
                f"{path}, line {number}: missing, though the checkpoint is of epoch {len(history)}; {remedy}"
            )
        if number <= written and not _is_record(lines[number - 1], record):
            raise CheckpointError(f"{path}, line {number}: not what was written for this epoch; {remedy}")


def _is_record(line: bytes, record: Mapping[str, float]) -> bool:
    try:
        return bool(json.loads(line.decode()) == record)
    except (ValueError, RecursionError):
        return False


class RunDirectory:
    """Record, metrics and checkpoints of one run.

    Args:
        path: the directory; None writes nothing to disk.

    Attributes:
        writes: whether this process writes; of several processes, only the first does.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.writes = True
        self._lock: FileLock | None = None

    def open(self, facts: Mapping[str, Any], resume: bool, configs: Mapping[str, type[Config]]) -> None:
        """Creates the directory, or checks that the run in it is the one to resume.

        Args:
            facts: the content of ``run.json``: ``model``, ``model_config``, ``train_config``, ...
            resume: whether the directory may hold a run already.
            configs: class of the options by key of ``facts`` (``model_config``, ``train_config``), so that
                options recorded by an earlier version are compared under their present names.

        Raises:
            CheckpointError: the directory holds another run, or this one although ``resume`` is false; its
                ``run.json`` is damaged; it holds a dataset; another training is writing to it; or it cannot
                be written.
        """
        if self.path is None or not self.writes:
            return
        before: dict[str, Any] = {}
        if (self.path / RUN).exists():
            if not resume:
                raise CheckpointError(
                    f"{self.path} already holds a run; resume it (resume=True, --resume), or choose another "
                    "directory"
                )
            before = read_sealed(self.path / RUN, checkpoint.REMEDY)
            self._check_same_run(self.path, before, facts, configs)
        elif (self.path / "dataset.json").exists():
            raise CheckpointError(f"{self.path}: holds a dataset; choose another directory for the run")
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            refusal = CheckpointError(
                f"{self.path}: another training is writing to it; wait until it ends, or choose another "
                "directory"
            )
            with suppress(NotImplementedError):  # a file system without locks
                self._lock = acquire_lock(self.path / LOCK, refusal)
            remove_stale_temporaries(self.path)
            # What was added to the record after the training, such as by save_run, stays.
            write_sealed(self.path / RUN, {**before, **facts, "environment": environment()})

    def close(self) -> None:
        """Releases the lock of the directory."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _check_same_run(
        self,
        path: Path,
        before: Mapping[str, Any],
        facts: Mapping[str, Any],
        configs: Mapping[str, type[Config]],
    ) -> None:
        """Refuses to resume another run; the error has a line for each option that differs."""
        # A resumed run may train longer, but the epochs that a schedule spans stay.
        duration = ["patience", "patience_steps", "stop_after"]
        if facts["train_config"]["schedule"] in ("constant", "exponential"):
            duration.append("epochs")
        parts = ["model", "model_config", "train_config", "dataset", "features"]
        if before.get("model") != facts.get("model"):
            parts = ["model"]  # their options have nothing to do with each other
        differing = []
        for key in parts:
            if key in ("dataset", "features") and key not in facts:
                continue  # a Trainer alone does not know them
            old, new = _flatten(key, before.get(key), configs), _flatten(key, facts.get(key), configs)
            for name in {**old, **new}:
                skipped = key == "train_config" and name.partition(".")[2] in duration
                if not skipped and old.get(name) != new.get(name):
                    differing.append(f"{name}: {_shown(old, name)} there, {_shown(new, name)} here")
        if differing:
            raise CheckpointError(
                f"{path} holds another run; give the same options to resume it, or choose another directory. "
                "They differ in\n  " + "\n  ".join(differing)
            )

    def holds_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return self.path is not None and checkpoint.exists(self.path / LAST)

    def read(self, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> tuple[TrainingState, int]:
        """Loads the last checkpoint; returns its state and the number of epochs trained.

        Raises:
            CheckpointError: the last or the best checkpoint is missing or damaged.
        """
        path = self.path or Path()
        saved = checkpoint.read(path / LAST)
        state = TrainingState(**saved["training"])
        step = int(saved["step"])
        if state.best_value is not None and self.writes:
            self._check_best(path, model, state, step)
        checkpoint.read(path / LAST, model, optimizer)
        distributed.barrier()
        if self.writes:
            checkpoint.tidy(path / LAST)
            if state.best_value is not None:
                checkpoint.tidy(path / BEST)
        return state, step

    def _check_best(self, path: Path, model: nn.Module, state: TrainingState, step: int) -> None:
        """Checks, before more time is spent, that the best weights are intact.

        If a run was killed between writing the two checkpoints, the last one holds them.
        """
        best = path / BEST
        if step == state.best_epoch:
            checkpoint.read(path / LAST, model)
            checkpoint.write(best, step, model, value=state.best_value)
            return
        epoch = checkpoint.read(best, model)["step"]
        if epoch != state.best_epoch:
            raise CheckpointError(
                f"{best}: is of epoch {epoch}, but according to {path / LAST} epoch {state.best_epoch} was "
                f"the best; restore it or {checkpoint.REMEDY}"
            )

    def write(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        epoch: int,
        state: TrainingState,
        improved: bool = True,
    ) -> None:
        """Writes the last checkpoint and, if the epoch is the best so far, the best one.

        Raises:
            CheckpointError: they cannot be written, or the directory was removed.
        """
        if self.path is None or not self.writes:
            return
        self._check_present()
        # The last one first: if the process is killed in between, it holds the best weights.
        checkpoint.write(self.path / LAST, epoch, model, optimizer, training=state.saved(), **{LOGGED: True})
        if improved and state.best_value is not None:
            checkpoint.write(self.path / BEST, epoch, model, value=state.best_value)

    def load_best(self, model: nn.Module, state: TrainingState) -> None:
        """Loads the best weights; without validation, the model keeps those of the last epoch.

        Raises:
            CheckpointError: the checkpoint is missing or damaged.
        """
        if self.path is not None and state.best_value is not None:
            checkpoint.read(self.path / BEST, model)
        elif state.best_weights is not None:
            model.load_state_dict(state.best_weights)

    def rewrite_metrics(self, history: Sequence[Mapping[str, float]]) -> None:
        """Removes lines that a killed run logged after its last checkpoint, and an incomplete line."""
        if self.path is not None and self.writes:
            with self._writing():
                write_text(self.path / METRICS, "".join(json.dumps(h) + "\n" for h in history))

    def log(self, record: Mapping[str, float], sync: bool) -> None:
        """Appends an epoch's line to the metrics.

        Args:
            record: of the epoch.
            sync: flush the file to the disk, as before a checkpoint that holds the epoch, too.

        Raises:
            CheckpointError: it cannot be written, or the directory was removed.
        """
        if self.path is not None and self.writes:
            self._check_present()
            with self._writing(), open(self.path / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
                if sync:
                    file.flush()
                    os.fsync(file.fileno())

    def _check_present(self) -> None:
        assert self.path is not None
        if not (self.path / RUN).exists():
            raise CheckpointError(
                f"{self.path}: the run directory has vanished during training (no {RUN} in it); train "
                "again, and leave it in place"
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns an error of writing into one that names the directory and says what to do."""
        try:
            yield
        except OSError as cause:
            raise CheckpointError(
                f"{self.path}: cannot be written ({cause}); its checkpoints are intact: free disk space or "
                "allow writing and resume, or choose another directory"
            ) from cause


PREFIXES = {
    "model_config": "model.",
    "train_config": "train.",
    "dataset": "dataset.",
    "features": "features.",
}
"""Key of ``run.json`` -> what its options begin with on the command line and in messages."""


def _flatten(key: str, value: Any, configs: Mapping[str, type[Config]]) -> dict[str, Any]:
    """One part of a record as option -> value; of options, those that affect results, under present names."""
    if key not in PREFIXES:
        return {key: value}
    options = configs[key].result_options(value or {}) if key in configs else dict(value or {})
    return {f"{PREFIXES[key]}{name}": option for name, option in options.items()}


def _shown(options: Mapping[str, Any], name: str) -> str:
    return json.dumps(options[name]) if name in options else "none"
