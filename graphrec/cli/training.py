"""``graphrec train`` and ``graphrec models``."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphrec.cli import launch, output, settings
from graphrec.cli.data import read
from graphrec.cli.help import command
from graphrec.cli.tuning import show_space
from graphrec.core.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from graphrec.models.base import Model
    from graphrec.training.trainer import Run


@command(
    "graphrec train lightgcn movielens-small",
    "graphrec train freedom saved/shop --set model.knn_k=20 --seed 1 --out runs/shop",
    "graphrec train freedom saved/shop --set model.knn_k=20 --seed 1 --out runs/shop --resume",
    "graphrec train --like runs/shop --seed 2",
    "graphrec train lightgcn movielens-small --processes 2",
    "graphrec train --list",
)
def train(
    model: settings.Model = None,
    dataset: settings.TrainedOn = None,
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/<dataset>-<model>.")] = None,
    options: settings.Set = None,
    image: settings.Image = None,
    text: settings.Text = None,
    modality: settings.Modality = None,
    root: settings.Root = None,
    store: Annotated[
        Path | None, typer.Option(help="Directory of the feature store. Default: cache.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the initial parameters and the training. Default: 0.")
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(
            help="Validation metric to select the epoch on; none: the last epoch. Default: the model's."
        ),
    ] = None,
    device: settings.Device = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Train what this run directory records, instead of MODEL and DATASET; with --seed or --set, "
            "the same but for these.",
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="How many processes of this machine train together.")
    ] = 1,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Measure the seconds of each phase of training, and show them."),
    ] = False,
    list_models: Annotated[bool, typer.Option("--list", help="List the models and stop.")] = False,
) -> None:
    """Train a model and write a run directory.

    It holds checkpoints, metrics and a recommender. Options are model.KEY (see `graphrec models MODEL`),
    train.KEY (see `graphrec models`) and data.KEY. The test split is not looked at.
    """
    if list_models:
        _list_models()
        return
    given = settings.read(options, ["model", "train", "data"])
    settings.on_device(device, given)
    if profile:
        given["train"]["profile"] = True
    if processes > 1 and not launch.is_launched():
        launch.launch(processes, "--processes")
        return
    trained: list[dict[str, float]] = []
    modalities = settings.modalities(modality, image, text)
    if like is not None:
        _refuse_with_like(model, dataset, given["data"], modalities)
        from graphrec.runs.repeat import train_like

        again = train_like(
            like, out=out, seed=seed, model_options=given["model"], train_options=given["train"],
            select=select, root=root, store=store, resume=resume, on_epoch=trained.append,
        )  # fmt: skip
        out = again.run.out or like
        _print_result(out, again.run, again.run.model.name, again.select, resume and not trained)
        output.print_line(str(again) if again.equal is not False else f"warning: {again}")
        output.print_next_steps(f"graphrec evaluate {shlex.quote(str(out))}")
        if again.unexplained:
            raise typer.Exit(1)
        return
    if model is None or dataset is None:
        raise ConfigError(_what_to_train(model, root, given["data"]))
    from graphrec import runs

    seed = seed or 0
    store = store or settings.CACHE
    # What can be wrong without reading any data is found before reading any.
    model_class, config, _ = runs.configure(model, given["model"], given["train"], seed)
    runs.ranks(model_class, select or model_class.select)
    if out is not None:
        runs.refuse_another(out, select, resume)
    data, source = read(dataset, root, given["data"])
    features = runs.features_for(model_class, data, store, modalities, source, config)
    out = out or Path("runs") / f"{data.name}-{model_class.name}"
    output.print_note(repr(data))
    for field, table in features.items():
        output.print_note(f"{field}: {table!r}")
    run = runs.train(
        model, data, features, model_options=given["model"], train_options=given["train"], out=out,
        seed=seed, select=select, resume=resume, source=source, store=store if features else None,
        on_epoch=trained.append,
    )  # fmt: skip
    select = select or (model_class.select if len(data.valid) else runs.NONE)
    _print_result(out, run, model_class.name, select, resume and not trained)
    place = shlex.quote(str(out))
    steps = [f"graphrec evaluate {place}"]
    if not model_class.converses:
        steps.append(f"graphrec recommend {place} --user {shlex.quote(data.users[0])}")
        steps.append(f"graphrec similar {place} --item {shlex.quote(data.items[0])}")
    if (out / "conversation").is_dir():
        steps.append(f"graphrec converse {place}")
    output.print_next_steps(*steps)


def _what_to_train(named: str | None, root: Path | None, options: dict[str, Any]) -> str:
    """What to say where a model or a dataset is missing: which model to train, if the one name that was given
    is a dataset's.
    """
    from graphrec.models import MODELS

    general = "name a MODEL and a DATASET, such as: graphrec train lightgcn movielens-small"
    if named is None or named in MODELS:
        return general
    from graphrec.runs.proposal import propose

    try:
        data, _ = read(named, root, options)
    except (ConfigError, DataError):
        if close := nearest(named, MODELS):
            return f"{general}.{close}"
        raise
    proposal = propose(data)
    command = shlex.join(["graphrec", "train", proposal.model, named])
    return (
        f"{named} is a dataset, and no model is named; {proposal.model} is a good first one, since "
        f"{proposal.reason}. Run: {command}"
    )


@command(
    "graphrec fit-final runs/shop --out runs/shop-final",
    "graphrec recommend runs/shop-final --user U00001",
)
def fit_final(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A finished run, or a directory of `graphrec tune`, whose best trial is taken.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The new run directory.")],
    device: settings.Device = None,
    root: settings.MovedRoot = None,
    store: settings.MovedStore = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train a finished run again on train, valid and test, to be served.

    The options and the number of epochs are those that RUN selected on validation. Nothing is held out, so
    the result cannot be evaluated; what RUN measures on test stays the estimate of its quality.
    """
    from graphrec import runs

    trained: list[dict[str, float]] = []
    fitted = runs.fit_final(
        run, out=out, train_options={} if device is None else {"device": device}, root=root, store=store,
        resume=resume, on_epoch=trained.append,
    )  # fmt: skip
    _print_result(out, fitted, fitted.model.name, runs.NONE, resume and not trained)
    origin = runs.read_meta(out)["origin"]
    parts = " + ".join(f"{n:,} {name}" for name, n in origin["interactions"].items())
    output.print_line(f"fitted on {parts} interactions, with the options and epochs of {origin['run']}")
    place = shlex.quote(str(out))
    output.print_next_steps(f"graphrec recommend {place} --user ID")


def _refuse_with_like(
    model: str | None, dataset: str | None, data: Mapping[str, Any], modalities: Mapping[str, str]
) -> None:
    """Refuses arguments that --like takes from the recorded run."""
    given = [repr(name) for name in (model, dataset) if name is not None]
    given += [f"--set data.{name}" for name in data]
    given += [f"--{f}" if f in ("image", "text") else f"--modality {f}=" for f in modalities]
    if given:
        raise ConfigError(
            f"--like takes model, dataset and features from the run, and {', '.join(given)} was given too; "
            "leave it out, or leave out --like to train something else"
        )


def _print_result(out: Path, run: Run, model: str, select: str, nothing_new: bool) -> None:
    """Prints the epochs, the best validation metrics and the profile of a run."""
    from graphrec import runs

    epochs = int(run.history[-1]["epoch"]) if run.history else 0
    output.print_line(f"{out}: {model}, {epochs:,} epochs in {run.seconds:.1f} s")
    if nothing_new and epochs:
        output.print_line("it was finished already; nothing more was trained")
    if select != runs.NONE:
        best = next((h for h in run.history if h["epoch"] == run.best_epoch), {})
        output.print_line(f"best on {select}: epoch {run.best_epoch}")
        names = [n for n in best if n != "epoch" and not n.startswith(("loss/", "profile/", "seconds"))]
        output.print_table(["validation", "value"], [(n, f"{best[n]:.4f}") for n in names])
    if run.profile:
        total = sum(run.profile.values()) or 1.0
        rows = [(phase, f"{s:.2f}", f"{s / total:.0%}") for phase, s in run.profile.items()]
        output.print_table(["phase", "seconds", "share"], rows)


@command("graphrec models", "graphrec models freedom")
def models(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Show this model's options.")] = None,
    scale: Annotated[
        bool, typer.Option("--scale", help="How each grows beyond one process, whole graphs and memory.")
    ] = False,
) -> None:
    """List the models, or show what one is and which options it has."""
    from graphrec.models import MODELS, model as find

    if model is not None:
        model_class = find(model)
        output.print_line(inspect.getdoc(inspect.getmodule(model_class)) or "")
        output.print_line()
        _print_options("model", model_class.Config.options())
        show_space(model_class.search_space)
        output.print_next_steps(
            "graphrec models (the options of training)", f"graphrec train {model_class.name} DATASET"
        )
        return
    if scale:
        output.print_table(SCALE, [(name, *grows(kind)) for name, kind in settings.registered(MODELS, find)])
        output.print_next_steps(
            "graphrec train MODEL DATASET --processes 2 --set model.features_on_disk=true"
        )
        return
    _list_models()


def _list_models() -> None:
    from graphrec.models import MODELS, model as find
    from graphrec.models.train_config import TrainConfig

    rows = []
    for name, kind in settings.registered(MODELS, find):
        doc = inspect.getdoc(inspect.getmodule(kind)) or inspect.getdoc(kind) or name
        description = doc.splitlines()[0].rstrip(".")
        package = MODELS.package(name)
        if package is not None:
            description += f" ({package})"
        capability = getattr(kind, "capability", "").replace("_", " ")
        new_items = "from content" if getattr(kind, "supports_cold_items", False) else ""
        rows.append((name, capability, describe_modalities(kind), new_items, description))
    output.print_table(["model", "answers by", "modalities", "new items", "what"], rows)
    output.print_line()
    _print_options("train", TrainConfig.options())
    output.print_next_steps("graphrec models MODEL (its options)", "graphrec train MODEL DATASET")


def describe_modalities(model: type[Model]) -> str:
    """What content a model is built from, for the table of models."""
    if not model.modalities:
        return ""
    return "any" if model.extractor is None else model.extractor


SCALE = ("model", "processes divide", "sampled subgraphs", "features on disk")


def grows(model: type[Model]) -> tuple[str, str, str]:
    """The row of a model under :data:`SCALE`; empty where there is nothing to train, or no features."""
    scaling = model.scaling()
    if not scaling.trains:
        return "", "", ""
    divided = {"batches": "batches", "dialogues": "conversations"}.get(scaling.data_parallel or "", "no")
    yes = {True: "yes", False: "no"}
    return divided, yes[scaling.sampled_subgraphs], yes[scaling.features_on_disk] if model.modalities else ""


def _print_options(prefix: str, options: dict[str, str]) -> None:
    for name, text in options.items():
        kind, _, meaning = text.partition(": ")
        output.print_line(f"--set {prefix}.{name}=...   {kind}")
        output.print_line(f"    {meaning}")
