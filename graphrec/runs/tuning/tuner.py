"""Choosing a model's options by validation: a study of some trials, each of them a run.

What a trial tries follows from the seed and the trials before it (:mod:`graphrec.runs.tuning.samplers`), and
those are read back from the study's directory (:mod:`graphrec.runs.tuning.study`), so that a study killed at
any moment goes on as if it had not been.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graphrec.core.bundle import read_sealed, write_sealed
from graphrec.core.config import Config
from graphrec.core.environment import environment
from graphrec.core.errors import CheckpointError, ConfigError, DataError, TrainingError, nearest
from graphrec.core.files import acquire_lock, explain_os_errors, remove_stale_temporaries
from graphrec.data import Dataset
from graphrec.evaluation.metrics import direction, parse_metric
from graphrec.models import model as model_class
from graphrec.models.base import Features
from graphrec.models.search_space import Choice, Integers, Space, Uniform
from graphrec.models.train_config import TrainConfig
from graphrec.runs import run as runs
from graphrec.runs.run import SELECT, configure
from graphrec.runs.source import Source
from graphrec.runs.tuning import samplers
from graphrec.runs.tuning.samplers import SAMPLERS, CompletedTrial
from graphrec.runs.tuning.study import (
    FORMAT,
    REMEDY,
    STUDY,
    TRAIN,
    Study,
    Trial,
    TrialJournal,
    prune,
    read_study,
    trial_name,
    trials_of_format_1,
    upgrade_option,
)
from graphrec.training.trainer import Run

__all__ = ["Study", "Trial", "read_study", "refuse_another", "search_space", "steps_beyond", "tune"]

KEEP = ("best", "all")
EXTEND = 4
"""Trials beyond the edges of the search space, at most, while the best value of an option is there."""
LOCK = ".lock"


def tune(
    model: str,
    data: Dataset,
    features: Features | None = None,
    *,
    trials: int = 20,
    out: str | Path,
    seed: int = 0,
    select: str = SELECT,
    model_options: Mapping[str, Any] | None = None,
    train_options: Mapping[str, Any] | None = None,
    space: Space | None = None,
    sampler: str = "tpe",
    extend: int = EXTEND,
    keep: str = "best",
    resume: bool = False,
    source: Source | None = None,
    store: str | Path | None = None,
    on_trial: Callable[[Trial], None] | None = None,
) -> Study:
    """Trains a model with several options and finds the best in validation; test is not used.

    Trial 0 has the defaults. No two trials have the same options: a space with fewer combinations than
    ``trials`` is tried in full, and a model without a space has one trial. No trial is stopped because others
    did better at the same epoch: each gets what the training options allow.

    Where the best trial has an option at an edge of what is searched, further trials go beyond it, one step
    at a time and with the other options of the best trial, as long as they are better and the option takes
    such values.

    Args:
        model: a registered name.
        data: trained on ``train``, validated on ``valid``.
        features: tables by field, for models that need them.
        trials: how many within the search space, those of a resumed study included.
        out: the study directory.
        seed: of the suggestions, and of model and training in every trial unless fixed options set their own.
        select: validation metric to select epochs and trials on.
        model_options: of the model's ``Config``, the same in all trials; they leave the space.
        train_options: of :class:`~graphrec.training.trainer.TrainConfig`, likewise.
        space: what is searched; default: the model's own.
        sampler: ``"tpe"``, ``"random"`` or ``"coordinate"``, see :func:`.samplers.suggest`; the last ends
            with fewer trials where no change of a single option is left to try.
        extend: how many trials may go beyond the edges of the search space; 0 stays inside.
        keep: ``"best"`` keeps checkpoints and recommender of the best trial alone, ``"all"`` of every trial.
        resume: go on with the study in ``out``, or start one.
        source: where ``data`` came from; None keeps a copy of the dataset in the best trial.
        store: directory of the feature store the tables came from.
        on_trial: called with each trial when it is over; not with those a resumed study had already.

    Raises:
        ConfigError: an unknown name, option or metric, a space that does not fit the model, or options that a
            trial cannot be made with.
        DataError: ``valid`` is empty.
        CheckpointError: the directory holds a study already and ``resume`` is false, or holds another one.
        TrainingError: all trials failed.
        MissingDependencyError: optuna is not installed (extra ``tune``).
    """
    check_options(trials, sampler, keep, select, extend)
    samplers.require_optuna()
    cls, model_config, train_config = configure(model, model_options, train_options, seed, ranking=True)
    searched = search_space(model, space, model_options, train_options)
    if not len(data.valid):
        raise DataError(
            f"{data.name}: the valid split is empty, so there is nothing to select {select} on; move "
            "some train interactions to the valid part (the test part stays), or train without tuning"
        )
    configs = {
        "model_config": model_config.model_dump(mode="json"),
        "train_config": train_config.model_dump(mode="json"),
    }
    flat = {**configs["model_config"], **{TRAIN + k: v for k, v in configs["train_config"].items()}}
    defaults = {key: flat[key] for key in searched}
    planned = int(min(trials, samplers.most_trials(searched, defaults, sampler)))
    inputs = cls.inputs(features, model_config)
    facts = {
        "model": cls.name,
        "dataset": {"name": data.name, "fingerprint": data.fingerprint},
        "features": {name: table.sha256 for name, table in sorted(inputs.items())},
        **configs,
        "space": samplers.described(searched),
        "select": select,
        "seed": seed,
        "sampler": sampler,
    }
    study = Study(Path(out), cls.name, select)
    with _opened(study.path, facts, searched, planned, resume) as journal, cls.reuse():
        study.trials.extend(journal.read())

        def is_kept(run: Run) -> bool:
            values = [trial.value for trial in study.trials if trial.value is not None]
            return keep == "all" or not values or (run.best_value or 0.0) > max(values)

        def run_trial(options: dict[str, Any], beyond: str = "") -> None:
            trial_options = _combine(options, model_options, train_options)
            number = len(study.trials)
            directory = study.path / trial_name(number)
            try:
                run = runs.train(
                    model, data, features, **trial_options, out=directory, seed=seed, select=select,
                    resume=True, source=source, store=store, complete=is_kept,
                )  # fmt: skip
            except TrainingError as cause:
                outcome: dict[str, Any] = {"state": "failed", "value": None, "message": str(cause)}
            else:
                outcome = {
                    "state": "finished",
                    "value": run.best_value,
                    "best_epoch": run.best_epoch,
                    "epochs": int(run.history[-1]["epoch"]),
                    "seconds": run.seconds,
                }
            trial_options = json.loads(json.dumps(trial_options, default=str))
            trial = Trial(
                number=number, path=directory, options=options, seed=seed, beyond=beyond, **trial_options,
                **outcome,
            )  # fmt: skip
            journal.add(searched, trial)
            study.trials.append(trial)
            prune(study, keep)
            if on_trial is not None:
                on_trial(trial)

        # What is suggested depends on the trials within the space alone, so that a study may get more of them
        # after some went beyond it.
        while len(tried := [t for t in study.trials if not t.beyond]) < planned:
            completed = [CompletedTrial(trial.options, trial.value) for trial in tried]
            suggested = (
                samplers.suggest(searched, completed, seed=seed, number=len(tried), sampler=sampler)
                if tried
                else defaults
            )
            if suggested is None:
                break
            run_trial(_plain(suggested))
        while sum(bool(trial.beyond) for trial in study.trials) < extend:
            steps = steps_beyond(study, searched, model_options, train_options)
            if not steps:
                break
            option, options = steps[0]
            run_trial(options, option)
        prune(study, keep)
    _ = study.best  # raises if all trials failed
    return study


def search_space(
    model: str,
    space: Space | None = None,
    model_options: Mapping[str, Any] | None = None,
    train_options: Mapping[str, Any] | None = None,
) -> dict[str, Choice | Uniform | Integers]:
    """What a study of a model searches: its space without the options that are fixed.

    Args:
        model: a registered name.
        space: instead of the model's own.
        model_options: fixed, of the model.
        train_options: fixed, of the training.

    Raises:
        ConfigError: a key that is no option (the nearest is named), or values that the option does not take.
    """
    cls, _, _ = configure(model, model_options, train_options, ranking=True)
    own = cls.search_space if space is None else space
    known = [*cls.Config.model_fields, *(TRAIN + name for name in TrainConfig.model_fields)]
    known = [name for name in known if name.removeprefix(TRAIN) != "seed"]  # no seed is better than another
    fixed = {*(model_options or {}), *(TRAIN + name for name in train_options or {})}
    for key, kind in own.items():
        if key not in known:
            raise ConfigError(
                f"search space of {cls.name}: {key!r} is no option that can be searched; those are {known}."
                f"{nearest(key, known)}"
            )
        if not isinstance(kind, (Choice, Uniform, Integers)):
            raise ConfigError(
                f"search space of {cls.name}: {key} = {kind!r}; expected Choice(...), Uniform(low, high) or "
                "Integers(low, high) of graphrec.models.search_space"
            )
        values = kind.values if isinstance(kind, Choice) else (kind.low, kind.high)
        for value in () if key in fixed else values:
            option = {key: value}
            try:
                _plain(option)
                configure(model, **_combine(option, model_options, train_options))
            except (ConfigError, TypeError, ValueError) as cause:
                raise ConfigError(f"search space of {cls.name}, {key}: {cause}") from None
    return {key: kind for key, kind in own.items() if key not in fixed}


def refuse_another(out: Path, resume: bool) -> None:
    """Refuses an output directory that holds a run, or a study that is not resumed, before any work is done.

    Raises:
        CheckpointError: it holds a study and ``resume`` is false, or it holds a run.
    """
    if (out / "run.json").exists():
        raise CheckpointError(f"{out}: holds a run; choose another directory for the study (--out)")
    if (out / STUDY).exists() and not resume:
        raise CheckpointError(
            f"{out} already holds a study; go on with it (resume=True, --resume), or choose another "
            "directory (--out)"
        )


def steps_beyond(
    study: Study,
    space: Space,
    model_options: Mapping[str, Any] | None = None,
    train_options: Mapping[str, Any] | None = None,
) -> list[tuple[str, dict[str, Any]]]:
    """Trials that would move an option of the best trial beyond its edge of the search space.

    Args:
        study: with its trials so far.
        space: what was searched, from :func:`search_space`.
        model_options: fixed, of the model.
        train_options: fixed, of the training.

    Returns:
        the option and the options of the whole trial, for each option whose best value is at an edge or
        beyond it, whose next value the model takes, and that was not tried yet.
    """
    if all(trial.value is None for trial in study.trials):
        return []
    best = study.best.options
    tried = [trial.options for trial in study.trials]
    steps = []
    for name, kind in sorted(space.items()):
        for way in (1, -1):
            value = kind.beyond(best[name], way)
            options = _plain({**best, name: value})
            if value is None or options in tried:
                continue
            try:
                configure(study.model, **_combine(options, model_options, train_options))
            except ConfigError:
                continue  # the natural end of the option
            steps.append((name, options))
    return steps


def check_options(trials: Any, sampler: str, keep: str, select: str, extend: Any = EXTEND) -> None:
    """Refuses options that are wrong for every model and dataset.

    Raises:
        ConfigError: an unknown sampler or metric, a metric that is better when lower, or another such value.
    """
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise ConfigError(f"trials = {trials!r}; expected a whole number from 1")
    if isinstance(extend, bool) or not isinstance(extend, int) or extend < 0:
        raise ConfigError(f"extend = {extend!r}; expected a whole number from 0")
    for what, value, known in (("sampler", sampler, SAMPLERS), ("keep", keep, KEEP)):
        if value not in known:
            raise ConfigError(f"{what} = {value!r} is not one of {list(known)}.{nearest(str(value), known)}")
    parse_metric(select)
    if direction(select) < 0:
        raise ConfigError(
            f"select = {select!r} is better when it is lower, and a study maximizes; name another"
        )


@contextmanager
def _opened(
    out: Path, facts: Mapping[str, Any], space: Space, planned: int, resume: bool
) -> Iterator[TrialJournal]:
    """Opens the journal of a new or resumed study and locks it against other processes.

    ``facts`` are recorded in ``study.json``; ``planned`` is the final number of trials.
    """
    refuse_another(out, resume)
    before = read_sealed(out / STUDY, REMEDY, FORMAT) if (out / STUDY).exists() else {}
    if before:
        _refuse_another_study(out, before, facts)
    with explain_os_errors(out, CheckpointError):
        out.mkdir(parents=True, exist_ok=True)
        lock = acquire_lock(
            out / LOCK,
            CheckpointError(
                f"{out}: another tuning is writing to it; wait for its end, or choose another directory "
                "(--out)"
            ),
        )
    try:
        with explain_os_errors(out, CheckpointError):
            remove_stale_temporaries(out)
            journal = TrialJournal(out, lock)
            for trial in trials_of_format_1(out, str(facts["model"]))[len(journal.read()) :]:
                journal.add(space, trial)
            _begin(out, before, facts, sum(not trial.beyond for trial in journal.read()), planned)
        yield journal
    finally:
        lock.release()


def _begin(
    out: Path, before: Mapping[str, Any], facts: Mapping[str, Any], finished: int, planned: int
) -> None:
    """Writes ``study.json``, unless all trials are finished; refuses more trials or another optuna."""
    if finished > planned:
        raise CheckpointError(
            f"{out}: holds {finished} trials, this study has {planned}; ask for at least {finished} "
            "(--trials), or choose another directory (--out)"
        )
    if finished == planned:
        return
    version = str(samplers.require_optuna().__version__)
    suggested_by = before.get("optuna")
    if finished and suggested_by not in (None, version):
        raise CheckpointError(
            f"{out}: its trials were suggested by optuna {suggested_by}, and optuna {version} may suggest "
            f"others; run: pip install optuna=={suggested_by}, or choose another directory (--out)"
        )
    about = {**facts, "optuna": version, "environment": environment()}
    write_sealed(out / STUDY, {**FORMAT.header, **about})


def _refuse_another_study(out: Path, before: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Refuses a study of another model, other data or other options; the error names what differs."""
    model = str(facts["model"])
    configs: dict[str, type[Config]] = {
        "model_config": model_class(model).Config,
        "train_config": TrainConfig,
    }
    for key, new in facts.items():
        old = before.get(key)
        where = key
        if isinstance(new, dict) and isinstance(old, dict):
            if key in configs:
                new = configs[key].result_options(new)
                old = configs[key].result_options(old)
            elif key == "space":
                old = dict(_upgrade_kind(model, name, kind) for name, kind in old.items())
            differs = (
                n for n in {**old, **new} if (key, n) != ("dataset", "name") and old.get(n) != new.get(n)
            )
            name = next(differs, None)
            if name is None:
                continue
            where = f"{key}.{name}"
            old = old.get(name)
            new = new.get(name)
        if old != new:
            raise CheckpointError(
                f"{out} holds another study: its {where} is {old!r}, this one's is {new!r}; give the same, "
                "or choose another directory (--out)"
            )


def _upgrade_kind(model: str, name: str, kind: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """An option of a recorded space, as :func:`samplers.described` describes it, under its present name."""
    if "values" in kind:
        kind = {**kind, "values": [upgrade_option(model, name, value)[1] for value in kind["values"]]}
    return upgrade_option(model, name, None)[0], kind


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON returns them, so that a resumed study sees what an uninterrupted one sees."""
    return dict(json.loads(json.dumps(dict(options), allow_nan=False)))


def _combine(
    options: Mapping[str, Any],
    model_options: Mapping[str, Any] | None,
    train_options: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The fixed options of model and training, with those of one trial."""
    combined: dict[str, Any] = {
        "model_options": {**(model_options or {})},
        "train_options": {**(train_options or {})},
    }
    for key, value in options.items():
        kind = "train_options" if key.startswith(TRAIN) else "model_options"
        combined[kind][key.removeprefix(TRAIN)] = value
    return combined
