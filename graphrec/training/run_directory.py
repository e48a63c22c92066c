"""The run directory: what a training keeps on disk, so that it can go on after it was stopped at any moment.

It holds ``run.json`` (what is trained, on what, with what), ``metrics.jsonl`` (one line an epoch) and two
checkpoints, ``last`` (model, optimizer, history: all that resuming needs) and ``best`` (the model alone).
"""

from __future__ import annotations

import json
import math
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

RUN, METRICS, LAST, BEST = "run.json", "metrics.jsonl", "last", "best"
LOCK = ".lock"


@dataclass
class State:
    """What early stopping and the run directory remember.

    Attributes:
        history: one dict per epoch.
        best_epoch: epoch of the best validation, counted from 1.
        best_value: the selected metric there, or None.
        threshold: the same as it is compared.
        misses: validations since.
        done: whether training is over.
        best_weights: the weights there, where no directory keeps them.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float | None = None
    threshold: float = -math.inf
    misses: int = 0
    done: bool = False
    best_weights: dict[str, Tensor] | None = None

    def saved(self) -> dict[str, Any]:
        """All but the weights, JSON-able."""
        kept = {k: v for k, v in vars(self).items() if k != "best_weights"}
        return {**kept, "threshold": self.threshold if math.isfinite(self.threshold) else -1e300}


class RunDirectory:
    """Facts, metrics and checkpoints of one run.

    Args:
        path: the directory; None keeps nothing on disk.

    Attributes:
        writes: whether this process does; the others only read.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.writes = path, True
        self._lock: FileLock | None = None

    def open(
        self, facts: Mapping[str, Any], resume: bool, configs: Mapping[str, type[Config]] | None = None
    ) -> None:
        """Creates the directory, or makes sure that the one to resume is this run.

        Args:
            facts: of the run, for ``run.json``: ``model``, ``model_config``, ``train_config``, ...
            resume: whether there may be a run already.
            configs: class of the options by fact (``model_config``, ``train_config``), so that options
                recorded by an earlier version are compared under their present names.

        Raises:
            CheckpointError: it holds another run, or one although ``resume`` is false; its ``run.json`` is
                damaged; it holds a dataset; another training is writing to it; or it cannot be written.
        """
        if self.path is None or not self.writes:
            return
        if (self.path / RUN).exists():
            if not resume:
                raise CheckpointError(
                    f"{self.path} already holds a run; resume it (resume=True, --resume) or choose "
                    "another directory"
                )
            self._refuse_another(self.path, facts, configs or {})
        elif (self.path / "dataset.json").exists():
            raise CheckpointError(f"{self.path}: holds a dataset; choose another directory for the run")
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            self._hold(self.path)
            remove_stale_temporaries(self.path)
            write_sealed(self.path / RUN, {**facts, "environment": environment()})

    def _hold(self, path: Path) -> None:
        """Takes the lock of whoever writes."""
        refusal = CheckpointError(
            f"{path}: another training is writing to it; wait for its end, or choose another directory"
        )
        with suppress(NotImplementedError):  # a file system without locks: none is held, as before there were
            self._lock = acquire_lock(path / LOCK, refusal)

    def close(self) -> None:
        """Lets others write."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _refuse_another(
        self, path: Path, facts: Mapping[str, Any], configs: Mapping[str, type[Config]]
    ) -> None:
        before = read_sealed(path / RUN, checkpoint.REMEDY)
        # How long to train may change when a run is resumed, but not the epochs a schedule is stretched over.
        duration = ["patience", *(["epochs"] if facts["train_config"]["schedule"] == "constant" else [])]
        for key in ("model", "model_config", "train_config", "dataset", "features"):
            old = before.get(key)
            new = facts.get(key)
            if key in configs:
                old = configs[key].result_options(old or {})
                new = configs[key].result_options(new or {})
            if key == "train_config":
                old = {name: value for name, value in (old or {}).items() if name not in duration}
                new = {name: value for name, value in (new or {}).items() if name not in duration}
            if old != new:
                raise CheckpointError(
                    f"{path} holds another run: its {key} is {old}, this one's is {new}; "
                    "choose another directory"
                )

    def holds_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return self.path is not None and checkpoint.exists(self.path / LAST)

    def read(self, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> tuple[State, int]:
        """Loads the last checkpoint; returns what it remembers and how many epochs are done.

        Raises:
            CheckpointError: it is missing or damaged, or the best one is.
        """
        path = self.path or Path()
        saved = checkpoint.read(path / LAST)
        state, step = State(**saved["training"]), int(saved["step"])
        if state.best_value is not None and self.writes:
            self._check_best(path, model, state, step)
        checkpoint.read(path / LAST, model, optimizer)
        distributed.barrier()
        for part in (LAST, BEST) if state.best_value is not None else (LAST,):
            if self.writes:
                checkpoint.tidy(path / part)
        return state, step

    def _check_best(self, path: Path, model: nn.Module, state: State, step: int) -> None:
        """Sees, before more time is spent, that the best weights are there and whole.

        Where a run was killed between writing the two checkpoints, the last one holds them.
        """
        best = path / BEST
        if step == state.best_epoch:
            checkpoint.read(path / LAST, model)
            checkpoint.write(best, step, model, value=state.best_value)
            return
        found = checkpoint.read(best, model)["step"]
        if found != state.best_epoch:
            raise CheckpointError(
                f"{best}: is of epoch {found}, but according to {path / LAST} epoch {state.best_epoch} was "
                f"the best; restore it or {checkpoint.REMEDY}"
            )

    def write(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        epoch: int,
        state: State,
        improved: bool = True,
    ) -> None:
        """Writes the last checkpoint and, where the epoch is the best yet, the best one.

        Raises:
            CheckpointError: they cannot be written, or the directory has vanished.
        """
        if self.path is None or not self.writes:
            return
        if not (self.path / RUN).exists():
            raise CheckpointError(
                f"{self.path}: the run directory has vanished during training (no {RUN} in it); train "
                "again, and leave it in place"
            )
        # last before best: killed in between, the resumed run finds the best weights in last.
        checkpoint.write(self.path / LAST, epoch, model, optimizer, training=state.saved())
        if improved and state.best_value is not None:
            checkpoint.write(self.path / BEST, epoch, model, value=state.best_value)

    def load_best(self, model: nn.Module, state: State) -> None:
        """Loads the best weights; those of the last epoch stay where nothing was validated.

        Raises:
            CheckpointError: the checkpoint is missing or damaged.
        """
        if self.path is not None and state.best_value is not None:
            checkpoint.read(self.path / BEST, model)
        elif state.best_weights is not None:
            model.load_state_dict(state.best_weights)

    def rewrite_metrics(self, history: Sequence[Mapping[str, float]]) -> None:
        """Drops what a killed run had logged after its last checkpoint, and half a line at the end."""
        if self.path is not None and self.writes:
            with self._writing():
                write_text(self.path / METRICS, "".join(json.dumps(h) + "\n" for h in history))

    def log(self, record: Mapping[str, float]) -> None:
        """Adds an epoch's line to the metrics; it need not be durable, the checkpoint holds it too."""
        if self.path is not None and self.writes:
            with self._writing(), open(self.path / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Says of what cannot be written where it is and what to do."""
        try:
            yield
        except OSError as cause:
            raise CheckpointError(
                f"{self.path}: cannot be written ({cause}); its checkpoints are intact: make room or permit "
                "writing, then resume, or choose another directory"
            ) from cause
