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
from graphrec.core.errors import ConfigError

if TYPE_CHECKING:
    from graphrec.data import Dataset
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
    if like is not None:
        _refuse_with_like(model, dataset, given["data"], settings.modalities(modality, image, text))
        _like(like, given, out, seed, select, root, store, resume)
        return
    if model is None or dataset is None:
        raise ConfigError("name a MODEL and a DATASET, such as: graphrec train lightgcn movielens-small")
    from graphrec import runs

    seed, store = seed or 0, store or settings.CACHE
    # What can be wrong without reading any data is found before reading any.
    made, config, _ = runs.configure(model, given["model"], given["train"], seed)
    select = select or made.select
    runs.ranks(made, select)
    if out is not None:
        runs.refuse_another(out, select, resume)
    data, source = read(dataset, root, given["data"])
    chosen = settings.modalities(modality, image, text)
    features = runs.features_for(made, data, store, chosen, source, config)
    out = out or Path("runs") / f"{data.name}-{made.name}"
    output.print_note(repr(data))
    for field, table in features.items():
        output.print_note(f"{field}: {table!r}")
    trained: list[dict[str, float]] = []
    run = runs.train(
        model, data, features, model_options=given["model"], train_options=given["train"], out=out,
        seed=seed, select=select, resume=resume, source=source, store=store if features else None,
        on_epoch=trained.append,
    )  # fmt: skip
    _print_result(out, run, made.name, select, resume and not trained)
    _print_next_commands(out, data, made)


def _refuse_with_like(
    model: str | None, dataset: str | None, data: Mapping[str, Any], modalities: Mapping[str, str]
) -> None:
    """Refuses what a recorded run says itself."""
    given = [repr(name) for name in (model, dataset) if name is not None]
    given += [f"--set data.{name}" for name in data]
    given += [f"--{f}" if f in ("image", "text") else f"--modality {f}=" for f in modalities]
    if given:
        raise ConfigError(
            f"--like takes model, dataset and features from the run, and {', '.join(given)} was given too; "
            "leave it out, or leave out --like to train something else"
        )


def _like(
    like: Path,
    given: Mapping[str, Mapping[str, Any]],
    out: Path | None,
    seed: int | None,
    select: str | None,
    root: Path | None,
    store: Path | None,
    resume: bool,
) -> None:
    """Trains a recorded run again and says whether it ended the same."""
    from graphrec.runs.repeat import train_like

    trained: list[dict[str, float]] = []
    again = train_like(
        like, out=out, seed=seed, model_options=given["model"], train_options=given["train"], select=select,
        root=root, store=store, resume=resume, on_epoch=trained.append,
    )  # fmt: skip
    place = again.run.out or like
    _print_result(place, again.run, again.run.model.name, again.select, resume and not trained)
    output.print_line(str(again) if again.equal is not False else f"warning: {again}")
    output.print_next_steps(f"graphrec evaluate {shlex.quote(str(place))}")
    if again.unexplained:
        raise typer.Exit(1)


def _print_result(out: Path, run: Run, model: str, select: str, nothing_new: bool) -> None:
    """Prints how a training went."""
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
        whole = sum(run.profile.values()) or 1.0
        rows = [(phase, f"{s:.2f}", f"{s / whole:.0%}") for phase, s in run.profile.items()]
        output.print_table(["phase", "seconds", "share"], rows)


def _print_next_commands(out: Path, data: Dataset, made: type[Model]) -> None:
    place = shlex.quote(str(out))
    talk = [f"graphrec converse {place}"] if (out / "conversation").is_dir() else []
    serve = [
        f"graphrec recommend {place} --user {shlex.quote(data.users[0])}",
        f"graphrec similar {place} --item {shlex.quote(data.items[0])}",
    ]
    output.print_next_steps(f"graphrec evaluate {place}", *([] if made.converses else serve), *talk)


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
        made = find(model)
        module = inspect.getmodule(made)
        output.print_line(inspect.getdoc(module) or "")
        output.print_line()
        _options("model", made.Config.options())
        show_space(made.search_space)
        output.print_next_steps(
            "graphrec models (the options of training)", f"graphrec train {made.name} DATASET"
        )
        return
    if scale:
        output.print_table(SCALE, [(name, *grows(made)) for name, made in settings.registered(MODELS, find)])
        output.print_next_steps(
            "graphrec train MODEL DATASET --processes 2 --set model.features_on_disk=true"
        )
        return
    _list_models()


def _list_models() -> None:
    from graphrec.models import MODELS, model as find
    from graphrec.models.train_config import TrainConfig

    rows = []
    for name, made in settings.registered(MODELS, find):
        described = inspect.getdoc(inspect.getmodule(made)) or inspect.getdoc(made) or name
        new_items = "from content" if getattr(made, "supports_cold_items", False) else ""
        answers = getattr(made, "capability", "").replace("_", " ")
        first = described.splitlines()[0].rstrip(".")
        package = MODELS.package(name)
        first += f" ({package})" if package is not None else ""
        rows.append((name, answers, describe_modalities(made), new_items, first))
    output.print_table(["model", "answers by", "modalities", "new items", "what"], rows)
    output.print_line()
    _options("train", TrainConfig.options())
    output.print_next_steps("graphrec models MODEL (its options)", "graphrec train MODEL DATASET")


def describe_modalities(made: type[Model]) -> str:
    """What content a model is built from, for the table of models."""
    if not made.modalities:
        return ""
    return "any" if made.extractor is None else made.extractor


SCALE = ("model", "processes divide", "sampled subgraphs", "features on disk")


def grows(made: type[Model]) -> tuple[str, str, str]:
    """What a model says under :data:`SCALE`; nothing where there is nothing to train, or no features."""
    scaling = made.scaling()
    if not scaling.trains:
        return "", "", ""
    divided = {"batches": "batches", "dialogues": "conversations"}.get(scaling.data_parallel or "", "no")
    yes = {True: "yes", False: "no"}
    return divided, yes[scaling.sampled_subgraphs], yes[scaling.features_on_disk] if made.modalities else ""


def _options(prefix: str, options: dict[str, str]) -> None:
    for name, text in options.items():
        kind, _, meaning = text.partition(": ")
        output.print_line(f"--set {prefix}.{name}=...   {kind}")
        output.print_line(f"    {meaning}")
