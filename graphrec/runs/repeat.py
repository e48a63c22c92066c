"""Trains a recorded run again and compares the two; on a CPU they are equal to the last bit.

``run.json``, which :func:`graphrec.runs.train` writes, holds everything needed. The dataset and the features
are opened where they were and refused if they have changed since. A sum of floats depends on the number of
threads, so the training uses as many threads as the recorded run, whatever ``OMP_NUM_THREADS`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphrec.core.environment import differences
from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.data import Dataset
from graphrec.models.base import Features
from graphrec.runs.record import COPY, RunRecord, damaged, inputs_of, read_record, source_of
from graphrec.runs.run import configure, refuse_another, train
from graphrec.runs.source import Source
from graphrec.training import checkpoint
from graphrec.training.trainer import Run

AGAIN = "-again"
CHANGED = "-changed"


@dataclass(frozen=True)
class Reproduction:
    """A recorded run that was trained again, and how the two compare.

    Attributes:
        run: the new run.
        original: directory of the recorded run.
        select: metric the new run selects its epoch on, or ``"none"``.
        changed: option -> (its value in the original, in the new run), for options that affect results.
        best: the original's best value of ``select``; None if it selects on another metric.
        epochs: number of epochs the original has.
        unequal: epoch -> (name, value in the original, in the new run) of its first loss or metric that
            differs.
        weights: whether the selected weights are equal; None if the original is not finished.
        differences: possible causes of other results: versions, processor, threads, device (see
            :func:`graphrec.core.environment.differences`).
        on_cpu: whether both were trained on a CPU, where results must be equal.
    """

    run: Run
    original: Path
    select: str
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    best: float | None = None
    epochs: int = 0
    unequal: dict[int, tuple[str, float | None, float | None]] = field(default_factory=dict)
    weights: bool | None = None
    differences: list[str] = field(default_factory=list)
    on_cpu: bool = True

    @property
    def equal(self) -> bool | None:
        """Whether everything that can be compared is equal to the last bit; None if nothing can be."""
        if self.changed or not (self.epochs or self.weights is not None):
            return None
        return not self.unequal and self.weights is not False

    @property
    def unexplained(self) -> bool:
        """Whether the results differ on a CPU without any recorded cause, which is a defect."""
        return self.equal is False and self.on_cpu and not self.differences

    def __str__(self) -> str:
        """The outcome in one to three phrases."""
        if self.changed:
            options = ", ".join(f"{name} {old!r} -> {new!r}" for name, (old, new) in self.changed.items())
            text = f"the same as {self.original} but for {options}; not compared epoch by epoch"
            if self.best is not None and self.run.best_value is not None:
                text += f"; best {self.select} {self.best:.4f} there, {self.run.best_value:.4f} here"
            return text
        if self.equal is None:
            return f"{self.original} has no finished epoch to compare with"
        if self.equal:
            extent = "and the selected weights" if self.weights is not None else "all that it has"
            return (
                f"equal to {self.original} to the last bit: each loss and metric of {self.epochs:,} epochs, "
                f"{extent}"
            )
        if self.unequal:
            first = min(self.unequal)
            name, old, new = self.unequal[first]
            what = (
                f"{len(self.unequal):,} of {self.epochs:,} epochs differ, first epoch {first}: {name} {old} "
                f"there, {new} here"
            )
        else:
            what = f"all losses and metrics of {self.epochs:,} epochs are, but not the selected weights"
        if self.differences:
            cause = f"possible causes: {'; '.join(self.differences)}"
        elif self.on_cpu:
            cause = "nothing that is recorded differs"
        else:
            cause = "a GPU does not add numbers in the same order each time"
        return f"not equal to {self.original}; {what}; {cause}"


def train_like(
    path: str | Path,
    *,
    out: str | Path | None = None,
    seed: int | None = None,
    model_options: Mapping[str, Any] | None = None,
    train_options: Mapping[str, Any] | None = None,
    select: str | None = None,
    data: Dataset | None = None,
    features: Features | None = None,
    root: str | Path | None = None,
    store: str | Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Reproduction:
    """Trains a recorded run again, into another directory, and compares the two.

    It learns from ``train`` and chooses the epoch on ``valid``, as the recorded run did; not from ``test``.

    The device and the number of threads are those of the recorded run: a run that ``device=auto`` placed on a
    CPU stays on a CPU.

    Args:
        path: a run directory written by :func:`graphrec.runs.train`.
        out: the new run directory; default: ``path`` with ``-again``, ``-seed-N`` or ``-changed`` appended.
        seed: new seed of both model and training.
        model_options: options of the model to change.
        train_options: options of the training to change.
        select: metric to select the epoch on instead, or ``"none"``.
        data: the dataset; default: read from where it was.
        features: the tables by field; default: read from the store they came from.
        root: where the dataset is now, if it has moved.
        store: where the feature store is now, if it has moved.
        resume: resume from the last checkpoint in ``out``.
        on_epoch: called with each epoch's record.

    Raises:
        CheckpointError: ``path`` holds no run, a damaged one, or one whose dataset or features have changed
            since; or ``out`` holds a run and ``resume`` is false.
        ConfigError: an option is unknown, or the device is not available.
        DataError: the dataset cannot be read.
        FeatureError: the feature tables are gone or damaged.
        TrainingError: training failed.
    """
    path = Path(path)
    record = read_record(path)
    selected = select if select is not None else record.select
    if selected is None:
        raise CheckpointError(
            f"{path}: run.json does not record the metric the epoch was selected on; name it with --select "
            "(or --select none)"
        )
    options, changed = _options(path, record, seed, model_options or {}, train_options or {})
    if select is not None and select != record.select:
        changed["select"] = record.select, select
    out = Path(out) if out is not None else _default_out(path, changed, seed)
    if out.absolute() == path.absolute():
        raise CheckpointError(
            f"{path} is the run to repeat; choose another directory (--out), or resume it with the command "
            "that started it and --resume"
        )
    refuse_another(out, selected, resume)
    source = None if data is not None and record.source is None else source_of(path, record, root)
    data, tables = inputs_of(path, data=data, features=features, root=root, store=store)
    with torch_threads(record.environment.get("threads")):
        run = train(
            record.model, data, tables, model_options=options["model"], train_options=options["train"],
            out=out, seed=seed if seed is not None else options["train"]["seed"], select=selected,
            resume=resume, source=None if source == Source(COPY) else source,
            store=store if store is not None else record.store, on_epoch=on_epoch,
        )  # fmt: skip
    return _compare(run, path, out, record, selected, changed)


def _options(
    path: Path, record: RunRecord, seed: int | None, model: Mapping[str, Any], training: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[Any, Any]]]:
    """The options to train with, and those that affect results and differ from the recorded ones."""
    try:
        _, *recorded = configure(record.model, record.config, record.training)
    except ConfigError as cause:
        raise damaged(path, str(cause)) from cause
    seeds = {"seed": seed} if seed is not None else {}
    kind = str(record.device.get("device", "")).partition(":")[0]
    device = {"device": kind} if kind in ("cpu", "cuda", "mps") else {}
    options = {
        "model": {**recorded[0].model_dump(mode="json"), **seeds, **model},
        "train": {**recorded[1].model_dump(mode="json"), **device, **seeds, **training},
    }
    _, *configs = configure(record.model, options["model"], options["train"])
    if kind == "cuda" and options["train"]["device"] == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"{path}: was trained on {record.device.get('name')} ({record.device['device']}), and this "
            "machine has no CUDA device; train on the CPU (--device cpu), which gives other last digits"
        )
    changed = {}
    for prefix, old, new in zip(options, recorded, configs, strict=True):
        before = old.result_options(old.model_dump(mode="json"))
        after = new.result_options(new.model_dump(mode="json"))
        for name in before:
            if before[name] != after[name]:
                changed[f"{prefix}.{name}"] = before[name], after[name]
    return options, changed


def _default_out(path: Path, changed: Mapping[str, object], seed: int | None) -> Path:
    """The new run directory, next to the recorded one."""
    path = path if path.name else path.absolute()
    if seed is not None and changed and changed.keys() <= {"model.seed", "train.seed"}:
        return path.with_name(f"{path.name}-seed-{seed}")
    return path.with_name(path.name + (CHANGED if changed else AGAIN))


@contextmanager
def torch_threads(n: object) -> Iterator[None]:
    """Sets torch's number of threads inside; anything but a number from 1 leaves it."""
    before = torch.get_num_threads()
    if isinstance(n, int) and n >= 1:
        torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _compare(
    run: Run, path: Path, out: Path, record: RunRecord, select: str, changed: dict[str, tuple[Any, Any]]
) -> Reproduction:
    original = checkpoint.read(path / "last")["training"] if checkpoint.exists(path / "last") else {}
    best = original.get("best_value") if select == record.select else None
    if changed:
        return Reproduction(run, path, select, changed, best)
    new_record = read_record(out)
    devices = [str(r.device.get("device", "cpu")) for r in (record, new_record)]
    cuda = any(d.startswith("cuda") for d in devices)
    causes = differences(record.environment, new_record.environment, cuda)
    if devices[0] != devices[1]:
        causes.insert(0, f"device {devices[0]} there, {devices[1]} here")
    for earlier in record.earlier_environments:
        phrases = differences(earlier.get("environment", {}), new_record.environment, cuda)
        causes += [f"{phrase} (before it was resumed)" for phrase in phrases if phrase not in causes]
    old_history = {int(h["epoch"]): h for h in original.get("history", [])}
    new_history = {int(h["epoch"]): h for h in run.history}
    finished = bool(original.get("done"))
    unequal = {}
    # An unfinished run is compared as far as it went; of a finished one, the number of epochs counts too.
    for epoch in sorted(old_history.keys() | new_history.keys() if finished else old_history.keys()):
        old = old_history.get(epoch, {})
        new = new_history.get(epoch, {})
        for name in {**old, **new}:
            if not name.startswith(("seconds", "profile/")) and old.get(name) != new.get(name):
                unequal[epoch] = name, old.get(name), new.get(name)
                break
    weights = _weights_sha256(path) == _weights_sha256(out) if finished else None
    on_cpu = all(d.startswith("cpu") for d in devices)
    return Reproduction(run, path, select, {}, best, len(old_history), unequal, weights, causes, on_cpu)


def _weights_sha256(path: Path) -> str | None:
    """sha256 of the selected weights of a finished run, after reading them; None without a checkpoint."""
    folder = checkpoint.selected(path)
    if folder is None:
        return None
    saved = checkpoint.open_committed(folder)
    saved.file("model")
    return saved.files["model"]["sha256"]
