"""A recorded run trained once more: the same, to the last bit on a CPU, or the same but for some options.

What :func:`graphrec.runs.train` wrote into ``run.json`` is all it takes: the dataset and the features are
opened from where they were and refused if they have changed since. Sums of floats depend on how many threads
share them, so the training gets as many as it had, whatever this process or ``OMP_NUM_THREADS`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphrec.core.bundle import Committed
from graphrec.core.environment import differences
from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.data import Dataset
from graphrec.models.base import Features
from graphrec.runs.record import COPY, RunRecord, damaged, inputs_of, read_record, source_of
from graphrec.runs.run import configure, refuse_another, train
from graphrec.runs.source import Source
from graphrec.training import checkpoint
from graphrec.training.trainer import Run

__all__ = ["Reproduction", "train_like"]

AGAIN, CHANGED = "-again", "-changed"


@dataclass(frozen=True)
class Reproduction:
    """A run that was trained like another.

    Attributes:
        run: the new one.
        original: directory of the other.
        select: the metric the new one selects on, or ``"none"``.
        changed: option -> (its value there, here), for those that decide what is trained.
        best: the best value of that metric there, where it was selected on.
        epochs: how many epochs the other has.
        unequal: epochs in which a loss or metric is another, with the first such: name, value there, here.
        weights: whether the selected weights are equal; None where the two are not to be compared.
        differences: what may be to blame: versions, processor, threads, device (see
            :func:`graphrec.core.environment.differences`).
        on_cpu: whether both were trained on a CPU, where nothing else may differ.
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
        """Whether all that can be compared is equal to the last bit; None where nothing can be."""
        if self.changed or not (self.epochs or self.weights is not None):
            return None
        return not self.unequal and self.weights is not False

    @property
    def unexplained(self) -> bool:
        """Whether it ended otherwise with nothing recorded to blame; on a CPU that is a defect."""
        return self.equal is False and self.on_cpu and not self.differences

    def _best(self) -> str:
        if self.best is None or self.run.best_value is None:
            return ""
        return f"; best {self.select} {self.best:.4f} there, {self.run.best_value:.4f} here"

    def __str__(self) -> str:
        """The outcome in a sentence or three."""
        if self.changed:
            options = ", ".join(f"{name} {was!r} -> {now!r}" for name, (was, now) in self.changed.items())
            return f"the same as {self.original} but for {options}; not compared epoch by epoch{self._best()}"
        if self.equal is None:
            return f"{self.original} has no finished epoch to compare with"
        whole = ", and the selected weights" if self.weights is not None else ", all that it has"
        if self.equal:
            all_of_it = f"each loss and metric of {self.epochs:,} epochs{whole}"
            return f"equal to {self.original} to the last bit: {all_of_it}"
        parts = [f"not equal to {self.original}"]
        if self.unequal:
            first = min(self.unequal)
            name, was, now = self.unequal[first]
            parts.append(
                f"{len(self.unequal):,} of {self.epochs:,} epochs differ, first epoch {first}: {name} {was} "
                f"there, {now} here"
            )
        else:
            parts.append(
                f"all losses and metrics of {self.epochs:,} epochs are, but not the selected weights"
            )
        if self.differences:
            parts.append(f"what may be to blame: {'; '.join(self.differences)}")
        elif self.on_cpu:
            parts.append("nothing that is recorded differs")
        else:
            parts.append("on a GPU sums are not made in the same order each time")
        return "; ".join(parts)


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
    """Trains what a run directory records, into another directory, and compares the two.

    It is trained where the run was (a run of ``device=auto`` that came to a CPU on a CPU, even where there is
    a GPU now), with the same number of threads.

    Args:
        path: a run directory written by :func:`graphrec.runs.train`.
        out: the new run directory; default: beside it, ``-again``, ``-seed-N`` or ``-changed`` appended.
        seed: another seed, of model and training both.
        model_options: options of the model that are to be other than there.
        train_options: options of the training, likewise.
        select: another metric to select on, or ``"none"``.
        data: the dataset, if it is at hand; default: read again from where it was.
        features: the tables, if they are at hand; default: from the store they came from.
        root: where the dataset is now, if it has been moved.
        store: where the feature store is now, if it has been moved.
        resume: go on from the last checkpoint in ``out``.
        on_epoch: called with each epoch's record.

    Raises:
        CheckpointError: no run there, a damaged one, one whose dataset or features have changed since, or
            ``out`` holds a run that is not to be resumed.
        ConfigError: an unknown option, or a device that is not here.
        DataError: the dataset cannot be read.
        FeatureError: the feature tables are gone or damaged.
        TrainingError: training failed.
    """
    path = Path(path)
    facts = read_record(path)
    selected = select if select is not None else facts.select
    if selected is None:
        raise CheckpointError(
            f"{path}: does not record what it was selected on, as graphrec train does; name the metric "
            "(--select), or none"
        )
    options, changed = _options(path, facts, seed, model_options or {}, train_options or {})
    if select is not None and select != facts.select:
        changed["select"] = facts.select, select
    out = Path(out) if out is not None else _beside(path, changed, seed)
    if out.absolute() == path.absolute():
        raise CheckpointError(
            f"{path} is the run to repeat; choose another directory (--out), or go on with it by the command "
            "it was started with and --resume"
        )
    refuse_another(out, selected, resume)
    source = None if data is not None and facts.source is None else source_of(path, facts, root)
    data, tables = inputs_of(path, data=data, features=features, root=root, store=store)
    with _threads(facts):
        run = train(
            facts.model, data, tables, model_options=options["model"], train_options=options["train"],
            out=out, seed=seed if seed is not None else options["train"]["seed"], select=selected,
            resume=resume, source=None if source == Source(COPY) else source,
            store=store if store is not None else facts.store, on_epoch=on_epoch,
        )  # fmt: skip
    return _compared(run, path, out, facts, selected, changed)


def _options(
    path: Path, facts: RunRecord, seed: int | None, model: Mapping[str, Any], training: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[Any, Any]]]:
    """The options to train with, and which of them are other than recorded."""
    try:
        _, model_was, train_was = configure(facts.model, facts.config, facts.training)
    except ConfigError as cause:
        raise damaged(path, str(cause)) from cause
    again = {"seed": seed} if seed is not None else {}
    used = str(facts.device.get("device", "")).partition(":")[0]
    placed = {"device": used} if used in ("cpu", "cuda", "mps") else {}
    options = {
        "model": {**model_was.model_dump(mode="json"), **again, **model},
        "train": {**train_was.model_dump(mode="json"), **placed, **again, **training},
    }
    _, model_is, train_is = configure(facts.model, options["model"], options["train"])
    if used == "cuda" and train_is.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"{path}: was trained on {facts.device.get('name')} ({facts.device['device']}), and there is no "
            "CUDA device here; train it on the CPU (--device cpu), which ends in other last digits"
        )
    changed = {}
    for prefix, was, now in (("model", model_was, model_is), ("train", train_was, train_is)):
        before = was.result_options(was.model_dump(mode="json"))
        after = now.result_options(now.model_dump(mode="json"))
        for name in before:
            if before[name] != after[name]:
                changed[f"{prefix}.{name}"] = before[name], after[name]
    return options, changed


def _beside(path: Path, changed: Mapping[str, object], seed: int | None) -> Path:
    """Where the new run goes when nobody says."""
    path = path if path.name else path.absolute()
    seeds = {"model.seed", "train.seed"}
    if seed is not None and changed and changed.keys() <= seeds:
        return path.with_name(f"{path.name}-seed-{seed}")
    return path.with_name(path.name + (CHANGED if changed else AGAIN))


@contextmanager
def _threads(facts: RunRecord) -> Iterator[None]:
    """As many threads as the run had, where it says how many; afterwards what there were."""
    before, wanted = torch.get_num_threads(), facts.environment.get("threads")
    if isinstance(wanted, int) and wanted >= 1:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _compared(
    run: Run, path: Path, out: Path, facts: RunRecord, select: str, changed: dict[str, tuple[Any, Any]]
) -> Reproduction:
    before = checkpoint.read(path / "last")["training"] if checkpoint.exists(path / "last") else {}
    best = before.get("best_value") if select == facts.select else None
    if changed:
        return Reproduction(run, path, select, changed, best)
    now = read_record(out)
    devices = [str(f.device.get("device", "cpu")) for f in (facts, now)]
    cuda = any(d.startswith("cuda") for d in devices)
    found = differences(facts.environment, now.environment, cuda)
    if devices[0] != devices[1]:
        found.insert(0, f"device {devices[0]} there, {devices[1]} here")
    for earlier in facts.earlier_environments:
        phrases = differences(earlier.get("environment", {}), now.environment, cuda)
        found += [f"{phrase} (before it was resumed)" for phrase in phrases if phrase not in found]
    there = {int(h["epoch"]): h for h in before.get("history", [])}
    here = {int(h["epoch"]): h for h in run.history}
    finished = bool(before.get("done"))
    unequal = {}
    # An unfinished run is compared as far as it went; of a finished one, the number of epochs counts too.
    for epoch in sorted(there.keys() | here.keys() if finished else there.keys()):
        one, other = there.get(epoch, {}), here.get(epoch, {})
        names = [
            n
            for n in {**one, **other}
            if not n.startswith(("seconds", "profile/")) and one.get(n) != other.get(n)
        ]
        if names:
            unequal[epoch] = names[0], one.get(names[0]), other.get(names[0])
    weights = _weights(path) == _weights(out) if finished else None
    on_cpu = all(d.startswith("cpu") for d in devices)
    return Reproduction(run, path, select, {}, best, len(there), unequal, weights, found, on_cpu)


def _weights(path: Path) -> str | None:
    """sha256 of the selected weights of a finished run, after reading them."""
    folder = next((path / d for d in ("best", "last") if checkpoint.exists(path / d)), None)
    if folder is None:
        return None
    saved = Committed(folder / checkpoint.STATE, checkpoint.FORMAT, checkpoint.REMEDY)
    saved.file("model")
    return saved.files["model"]["sha256"]
