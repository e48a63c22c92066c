"""A study directory: its trials, which of them is best, and what is kept of the others.

It holds ``study.json`` (what is tuned, on what, with what), ``best.json`` (the best options so far) and one
run directory a trial, ``trial-0000`` and so on, as :func:`graphrec.runs.train` writes it. A ``trial.json`` at
its end says that the trial is over.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from graphrec.core.bundle import FileFormat, read_sealed
from graphrec.core.errors import CheckpointError, TrainingError
from graphrec.core.files import explained, write_json

FORMAT = FileFormat("study")
STUDY, TRIAL, BEST = "study.json", "trial.json", "best.json"
WEIGHTS = ("best", "last", "recommender", "dataset")  # the parts of a run that only the best trial keeps
REMEDY = "tune again in another directory"


@dataclass(frozen=True)
class Trial:
    """One training of a study.

    Attributes:
        number: from 0, the one with the defaults.
        path: its run directory.
        state: ``"failed"`` where training could not go on, such as with a loss that is not finite.
        value: the selected metric of the best epoch; None if failed.
        options: value by key of the space.
        model_options: what is given to the model: what was fixed, and what this trial tried.
        train_options: likewise of training.
        seed: of the study, and of model and training where their options do not set their own.
        best_epoch: epoch of the value.
        epochs: epochs trained.
        seconds: time spent in them.
        message: why it failed.
    """

    number: int
    path: Path
    state: Literal["finished", "failed"]
    value: float | None
    options: dict[str, Any]
    model_options: dict[str, Any]
    train_options: dict[str, Any]
    seed: int
    best_epoch: int = 0
    epochs: int = 0
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        path: its directory.
        model: the model's name.
        select: the validation metric it selects on.
        trials: in their order.
    """

    path: Path
    model: str
    select: str
    trials: list[Trial] = field(default_factory=list)

    @property
    def best(self) -> Trial:
        """The trial with the greatest value; of several, the earliest.

        Raises:
            TrainingError: none is finished.
        """
        finished = [trial for trial in self.trials if trial.value is not None]
        if not finished:
            if not self.trials:
                raise TrainingError(f"{self.path}: no trial is over yet; go on with the study (--resume)")
            raise TrainingError(
                f"{self.path}: all {len(self.trials)} trials failed; the first: {self.trials[0].message}"
            )
        return max(finished, key=lambda trial: (trial.value or 0.0, -trial.number))

    def table(self) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Header and rows of all trials, best first, failed ones last."""
        keys = list(dict.fromkeys(key for trial in self.trials for key in trial.options))
        ordered = sorted(self.trials, key=lambda t: (t.value is None, -(t.value or 0.0), t.number))
        rows = [
            (
                f"trial-{t.number:04d}", "failed" if t.value is None else f"{t.value:.4f}", t.best_epoch,
                t.epochs, f"{t.seconds:.1f}", *(json.dumps(t.options.get(key)) for key in keys),
            )
            for t in ordered
        ]  # fmt: skip
        return ["trial", self.select, "best epoch", "epochs", "seconds", *keys], rows


def read_study(path: str | Path) -> Study:
    """The trials of a study directory that are over, whether or not all of them are.

    Raises:
        CheckpointError: no study there, or a damaged one.
    """
    path = Path(path)
    if not (path / STUDY).exists():
        raise CheckpointError(
            f"{path}: no study there (no {STUDY}); expected a directory that graphrec tune wrote"
        )
    facts = read_sealed(path / STUDY, REMEDY, FORMAT)
    return Study(
        path, facts["model"], facts["select"], [read_trial(path / trial_name(n), n) for n in over(path)]
    )


def prune(study: Study, keep: str) -> None:
    """Names the best trial so far, and removes what nobody needs of the others.

    Args:
        study: with all trials that are over.
        keep: ``"best"`` removes checkpoints, recommender and dataset of the other trials, ``"all"`` nothing.

    Raises:
        CheckpointError: the directory cannot be written.
    """
    failed = sum(trial.value is None for trial in study.trials)
    best = study.best if failed < len(study.trials) else None
    with explained(study.path, CheckpointError):
        if best is not None:
            named = {k: v for k, v in asdict(best).items() if k not in ("path", "state", "message")}
            about = {"model": study.model, "select": study.select, "trials": len(study.trials)}
            write_json(study.path / BEST, {"trial": best.path.name, **about, "failed": failed, **named})
        for trial in study.trials:
            if keep == "best" and trial is not best:
                for part in WEIGHTS:
                    if (trial.path / part).exists():
                        shutil.rmtree(trial.path / part)
                (trial.path / "titles.json").unlink(missing_ok=True)


def read_trial(place: Path, number: int) -> Trial:
    """A trial that is over.

    Raises:
        CheckpointError: its record is damaged, or that of another trial.
    """
    remedy = f"remove the folder {place.name} and resume: the trial is trained again"
    found = read_sealed(place / TRIAL, remedy, FORMAT)
    if found["number"] != number:
        raise CheckpointError(f"{place / TRIAL}: is of trial {found['number']}; restore it or {remedy}")
    return Trial(path=place, **{key: value for key, value in found.items() if key != "format"})


def over(out: Path) -> list[int]:
    """Numbers of the trials that are over."""
    names = (path.parent.name.removeprefix("trial-") for path in out.glob(f"trial-*/{TRIAL}"))
    return sorted(int(name) for name in names if name.isdecimal())


def trial_name(number: int) -> str:
    """Name of a trial's directory."""
    return f"trial-{number:04d}"
