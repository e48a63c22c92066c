"""A study directory: the search, its finished trials, and the best of them.

It holds ``study.json`` (model, data, fixed options and search space), ``trials.log`` (the finished and failed
trials, in a journal of Optuna), ``best.json`` (the best options so far) and one run directory a trial,
``trial-0000`` and so on, as :func:`graphrec.runs.train` writes it.

A trial enters the journal when its training has ended, by one line that is synchronized to the disk. Until
then only its run directory exists, so that a killed study resumes from that run's last checkpoint. Optuna's
own ask and tell write a line per parameter and state; a kill between two of them leaves a trial that Optuna
cannot resume.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from graphrec.core.bundle import FileFormat, read_sealed, write_sealed
from graphrec.core.errors import CheckpointError, GraphrecError, TrainingError
from graphrec.core.files import digest, explain_os_errors
from graphrec.models import model as model_class
from graphrec.models.search_space import Space
from graphrec.models.train_config import TrainConfig
from graphrec.runs.run import TITLES
from graphrec.runs.tuning.samplers import optuna_trial, quiet, require_optuna
from graphrec.training.run_directory import RUN

FORMAT = FileFormat("study", 2, {1: dict})  # version 1 kept each trial as trial.json in its run directory
BEST_FORMAT = FileFormat("best trial", 2, {1: dict}, sealed_since=2, unmarked=1)
STUDY = "study.json"
TRIALS = "trials.log"
BEST = "best.json"
TRIAL_OF_FORMAT_1 = "trial.json"
PRUNED = ("best", "last", "recommender", "dataset")
"""Parts of a run directory that only the best trial keeps."""
REMEDY = "tune again in another directory"
TRAIN = "train."
"""Before the keys of a search space that are options of training."""


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
        beyond: the option whose best value was at an edge of the space, and that this trial moves beyond it;
            empty for the trials within the space.
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
    beyond: str = ""


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


class TrialJournal:
    """The finished and failed trials of a study, in a journal of Optuna.

    The journal is a text file of JSON lines, which Optuna reads without pickle. Each trial carries a digest
    of its own content.

    Args:
        folder: the study directory.
        lock: held by the process that adds trials; None only reads.

    Raises:
        CheckpointError: the journal is not what was written.
        MissingDependencyError: optuna is not installed.
    """

    def __init__(self, folder: Path, lock: FileLock | None = None) -> None:
        optuna = require_optuna()
        self.folder = folder
        self.path = folder / TRIALS
        if lock is not None:
            _cut_torn_line(self.path)
        self._check_lines()
        storages = optuna.storages
        with quiet():
            try:
                # The system frees this lock when its process dies; Optuna's own is left behind for 30 s.
                backend = storages.journal.JournalFileBackend(str(self.path), lock)
                storage = storages.JournalStorage(backend)
                self._study: Any = None
                if storage.get_all_studies():
                    self._study = optuna.load_study(study_name=STUDY, storage=storage)
                elif lock is not None:
                    self._study = optuna.create_study(study_name=STUDY, storage=storage, direction="maximize")
            except OSError:
                raise
            except Exception as cause:  # whatever an edited journal leads to
                raise self._damaged(f"{type(cause).__name__}: {cause}") from cause

    def _check_lines(self) -> None:
        """Refuses lines that are not JSON, as Optuna skips such a last one without a word.

        A killed process may leave a last line without its end, which is no whole JSON object.
        """
        if not self.path.exists():
            return
        try:
            *lines, rest = self.path.read_bytes().split(b"\n")
        except OSError as cause:
            raise CheckpointError(f"{self.path}: cannot be read ({cause.strerror or cause})") from cause
        for number, line in enumerate(lines, 1):
            if not _is_object(line):
                raise self._damaged(f"line {number} is not what was written")
        if _is_object(rest[:-1]):  # only its line end differs
            raise self._damaged(f"line {len(lines) + 1} does not end as it was written")

    def read(self) -> list[Trial]:
        """The trials, in their order.

        Raises:
            CheckpointError: a trial is not what was written.
        """
        trials = []
        stored_trials = [] if self._study is None else self._study.get_trials(deepcopy=False)
        for number, stored in enumerate(stored_trials):
            content = dict(stored.user_attrs)
            if content.pop("seal", None) != digest("trial", content) or content["number"] != number:
                raise self._damaged(f"trial {number} is not what was written")
            trials.append(Trial(path=self.folder / trial_name(number), **content))
        return trials

    def add(self, space: Space, trial: Trial) -> None:
        """Adds the next trial, whose options are JSON-able."""
        content = {key: value for key, value in asdict(trial).items() if key != "path"}
        sealed = {**content, "seal": digest("trial", content)}
        with explain_os_errors(self.path, CheckpointError), quiet():
            self._study.add_trial(optuna_trial(space, trial.options, trial.value, sealed))

    def _damaged(self, cause: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: not the journal that was written ({cause}); restore it, or remove it and resume "
            "(--resume): trials whose checkpoints were not kept are trained again"
        )


def read_study(path: str | Path) -> Study:
    """Reads a study with its finished and failed trials; more may follow.

    Raises:
        CheckpointError: no study there, or a damaged one.
        MissingDependencyError: optuna is not installed.
    """
    path = Path(path)
    if not (path / STUDY).exists():
        raise CheckpointError(
            f"{path}: no study there (no {STUDY}); expected a directory that graphrec tune wrote"
        )
    facts = read_sealed(path / STUDY, REMEDY, FORMAT)
    model: str = facts["model"]
    trials = TrialJournal(path).read() if (path / TRIALS).exists() else trials_of_format_1(path, model)
    return Study(path, model, facts["select"], trials)


def best_trial(path: str | Path) -> Path | None:
    """The run directory of a study's best trial so far; None before the first one is finished.

    Raises:
        CheckpointError: ``best.json`` is not what was written, or the trial it names is missing.
    """
    file = Path(path) / BEST
    if not file.exists():
        return None
    remedy = "remove it and resume the study (--resume), which writes it again"
    content = read_sealed(file, remedy, BEST_FORMAT)
    name = content.get("trial")
    if not isinstance(name, str) or Path(name).name != name or not (file.parent / name / RUN).exists():
        raise CheckpointError(
            f"{file}: names the trial {name!r}, which is no run there; restore it, or {remedy}"
        )
    return file.parent / name


def trials_of_format_1(path: Path, model: str) -> list[Trial]:
    """The trials that a study of format 1 kept one by one, under present names of the options.

    Raises:
        CheckpointError: the record of a trial is damaged, or that of another trial.
    """
    trials: list[Trial] = []
    while (file := path / trial_name(len(trials)) / TRIAL_OF_FORMAT_1).exists():
        content = read_sealed(file, REMEDY, FileFormat("study"))
        if content["number"] != len(trials):
            raise CheckpointError(f"{file}: is of trial {content['number']}; restore it or {REMEDY}")
        del content["format"]
        options = {name: upgrade_option(model, name, value) for name, value in content["options"].items()}
        trials.append(Trial(path=file.parent, **{**content, "options": dict(options.values())}))
    return trials


def upgrade_option(model: str, name: str, value: Any) -> tuple[str, Any]:
    """The present name and value of a recorded option, unchanged for a model that is not registered."""
    prefix = TRAIN if name.startswith(TRAIN) else ""
    try:
        config = TrainConfig if prefix else model_class(model).Config
        ((name, value),) = config.upgrade({name.removeprefix(prefix): value}).items()
    except GraphrecError:
        return name, value
    return prefix + name, value


def prune(study: Study, keep: str) -> None:
    """Writes the best trial so far to ``best.json`` and removes the checkpoints of the others.

    ``keep="best"`` removes checkpoints, recommender and dataset of the other trials, ``"all"`` nothing.
    """
    failed = sum(trial.value is None for trial in study.trials)
    best = study.best if failed < len(study.trials) else None
    with explain_os_errors(study.path, CheckpointError):
        if best is not None:
            named = {k: v for k, v in asdict(best).items() if k not in ("path", "state", "message")}
            about = {"model": study.model, "select": study.select, "trials": len(study.trials)}
            content = {**BEST_FORMAT.header, "trial": best.path.name, **about, "failed": failed, **named}
            write_sealed(study.path / BEST, content)
        for trial in study.trials:
            if keep == "best" and trial is not best:
                for part in PRUNED:
                    if (trial.path / part).exists():
                        shutil.rmtree(trial.path / part)
                (trial.path / TITLES).unlink(missing_ok=True)


def trial_name(number: int) -> str:
    """Name of a trial's directory."""
    return f"trial-{number:04d}"


def _is_object(line: bytes) -> bool:
    """Whether a line is a whole JSON object."""
    try:
        return isinstance(json.loads(line.decode()), dict)
    except (ValueError, RecursionError):
        return False


def _cut_torn_line(path: Path) -> None:
    """Cuts off an unfinished last line; a line appended to it would be unreadable, too."""
    if path.exists():
        with explain_os_errors(path, CheckpointError):
            data = path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data) and not _is_object(data[whole:-1]):  # else its end was changed
                os.truncate(path, whole)
