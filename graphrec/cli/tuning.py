"""``graphrec tune``, and how a search space is shown."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphrec.cli import output, settings
from graphrec.cli.data import read
from graphrec.cli.help import command
from graphrec.core.errors import ConfigError

if TYPE_CHECKING:
    from graphrec.models.search_space import Choice, Integers, Space, Uniform
    from graphrec.runs.tuning.tuner import Trial


@command(
    "graphrec tune lightgcn movielens-small --trials 20",
    "graphrec tune freedom saved/shop --trials 8 --set train.epochs=100 --out runs/tune-shop",
    "graphrec tune freedom saved/shop --trials 12 --set train.epochs=100 --out runs/tune-shop --resume",
    "graphrec tune --list",
)
def tune(
    model: settings.Model = None,
    dataset: settings.TrainedOn = None,
    trials: Annotated[
        int, typer.Option(help="How many within the search space, the first with the defaults.")
    ] = 20,
    extend: Annotated[
        int,
        typer.Option(help="How many more, at most, go beyond an edge of the search space where the best is."),
    ] = 4,
    out: Annotated[
        Path | None, typer.Option(help="Study directory. Default: runs/tune-<dataset>-<model>.")
    ] = None,
    options: settings.Set = None,
    image: settings.Image = None,
    text: settings.Text = None,
    modality: settings.Modality = None,
    root: settings.Root = None,
    store: settings.Store = settings.CACHE,
    seed: Annotated[int, typer.Option(help="Of the suggestions, and of every training.")] = 0,
    select: Annotated[
        str, typer.Option(help="Validation metric to select epochs and trials on.")
    ] = "recall@20",
    sampler: Annotated[str, typer.Option(help="tpe, random, or coordinate: one option at a time.")] = "tpe",
    keep: Annotated[str, typer.Option(help="Whose checkpoints are kept: best or all.")] = "best",
    device: settings.Device = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study in --out.")] = False,
    list_spaces: Annotated[bool, typer.Option("--list", help="List what is searched and stop.")] = False,
) -> None:
    """Train a model with several options and rank them in validation.

    Each trial is a run. `graphrec tune --list` shows what is searched for each model. An option given as
    --set model.KEY or train.KEY is the same in all trials and is not searched. The test split is not looked
    at.
    """
    if list_spaces:
        list_all()
        return
    if model is None or dataset is None:
        raise ConfigError("name a MODEL and a DATASET, such as: graphrec tune lightgcn movielens-small")
    from graphrec import runs
    from graphrec.runs.source import set_arguments
    from graphrec.runs.tuning import tuner

    fixed = settings.read(options, ["model", "train", "data"])
    settings.on_device(device, fixed)
    # What can be wrong without reading any data is found before reading any.
    tuner.check_options(trials, sampler, keep, select, extend)
    searched = tuner.search_space(model, None, fixed["model"], fixed["train"])
    model_class, config, _ = runs.configure(model, fixed["model"], fixed["train"], seed, ranking=True)
    if out is not None:
        tuner.refuse_another(out, resume)
    data, source = read(dataset, root, fixed["data"])
    modalities = settings.modalities(modality, image, text)
    features = runs.features_for(model_class, data, store, modalities, source, config)
    out = out or Path("runs") / f"tune-{data.name}-{model_class.name}"
    output.print_note(repr(data))
    for field, table in features.items():
        output.print_note(f"{field}: {table!r}")
    for key, kind in searched.items():
        output.print_note(f"searched: {key}: {describe(kind)}")
    new: list[Trial] = []

    def show(trial: Trial) -> None:
        new.append(trial)
        values = ", ".join(f"{key}={value}" for key, value in trial.options.items()) or "defaults"
        if trial.value is None:
            result = f"failed: {trial.message}"
        else:
            result = (
                f"{select} {trial.value:.4f} at epoch {trial.best_epoch} of {trial.epochs}, "
                f"{trial.seconds:.1f} s"
            )
        where = f", {trial.beyond} beyond its edge" if trial.beyond else ""
        output.print_note(f"trial {trial.number} ({values}{where}): {result}")

    study = tuner.tune(
        model, data, features, trials=trials, out=out, seed=seed, select=select, sampler=sampler,
        extend=extend, keep=keep,
        model_options=fixed["model"], train_options=fixed["train"], resume=resume, source=source,
        store=store if features else None, on_trial=show,
    )  # fmt: skip
    best = study.best
    n = sum(not trial.beyond for trial in study.trials)
    output.print_line(f"{out}: {model_class.name} on {data.name}, {n:,} trial{'s' if n > 1 else ''}")
    for name in dict.fromkeys(trial.beyond for trial in study.trials if trial.beyond):
        more = [trial for trial in study.trials if trial.beyond == name]
        values = ", ".join(json.dumps(trial.options[name]) for trial in more)
        output.print_line(f"the best {name} was at an edge of its range, so {values} was tried as well")
    if further := tuner.steps_beyond(study, searched, fixed["model"], fixed["train"]):
        names = ", ".join(dict.fromkeys(name for name, _ in further))
        output.print_line(
            f"the best {names} is at an edge of what was tried; a larger --extend tries further"
        )
    if n < trials:
        output.print_line(f"its search space has no more than that; {trials:,} were asked for")
    if not new:
        output.print_line("it was finished already; nothing more was trained")
    output.print_table(*study.table())
    best_options = [
        *set_arguments("model.", best.model_options), *set_arguments("train.", best.train_options)
    ]  # fmt: skip
    output.print_line(
        f"best: {best.path.name}: {shlex.join(best_options) or 'the model has no options to choose'}"
    )
    again = ["graphrec", "train", model_class.name, *shlex.split(source.arguments())]
    again += [part for pair in modality or () for part in ("--modality", pair)]
    for name, value in (("--image", image), ("--text", text), ("--store", store if features else None)):
        again += [name, str(value)] if value is not None else []
    again += ["--select", select] if select != runs.SELECT else []
    again += [*best_options, "--seed", str(seed + 1), "--out", f"{out}-seed-{seed + 1}"]
    output.print_next_steps(f"graphrec evaluate {shlex.quote(str(best.path))}", shlex.join(again))


def list_all() -> None:
    """Prints what is searched for each model."""
    from graphrec.models import MODELS, model as find

    rows = []
    for name, model in settings.registered(MODELS, find):
        space = model.search_space
        rows += [(name, key, describe(kind)) for key, kind in space.items()] or [(name, "", "nothing")]
    output.print_table(["model", "option", "searched"], rows)
    output.print_next_steps("graphrec models MODEL (its options)", "graphrec tune MODEL DATASET")


def show_space(space: Space) -> None:
    """Prints a search space below a model's options."""
    if space:
        output.print_line()
        output.print_line("searched by graphrec tune:")
        output.print_fields({key: describe(kind) for key, kind in space.items()})


def describe(kind: Choice | Uniform | Integers) -> str:
    """What is searched, in words."""
    from graphrec.models.search_space import Choice, Integers

    if isinstance(kind, Choice):
        return "one of " + ", ".join(json.dumps(value) for value in kind.values)
    what = "a whole number" if isinstance(kind, Integers) else "a number"
    return f"{what} from {kind.low} to {kind.high}" + (", on a logarithmic scale" if kind.log else "")
