"""Trains a run from names and options, and opens a run directory: its model, dataset and features.

A run directory holds the files of the :class:`~graphrec.training.trainer.Trainer` (``run.json``,
``metrics.jsonl``, ``best/``, ``last/``), a ``recommender/``, ``titles.json`` if the items have texts, and a
copy of the dataset in ``dataset/`` if it was passed without its source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from graphrec.core import distributed
from graphrec.core.bundle import FileFormat, read_sealed, write_sealed
from graphrec.core.config import Config
from graphrec.core.environment import commit, environment
from graphrec.core.errors import CheckpointError, ConfigError, DataError
from graphrec.core.files import explain_os_errors, read_json
from graphrec.core.progress import print_note
from graphrec.data import Dataset
from graphrec.data.content import titles
from graphrec.evaluation.metrics import parse_metric
from graphrec.evaluation.ranking import RankingTask
from graphrec.features import FeatureStore, FeatureTable
from graphrec.models import model as model_class
from graphrec.models.base import Features, Model, ModelConfig, Ranker
from graphrec.models.train_config import Task, TrainConfig
from graphrec.runs.record import COPY, ORIGIN, damaged, inputs_of, read_meta, read_record
from graphrec.runs.source import NONE, Source
from graphrec.serving import Recommender
from graphrec.training import checkpoint
from graphrec.training.trainer import Run, Trainer

SELECT = Model.select
CONVERSATION = "conversation"
"""Folder of a run directory for the conversational agent."""
TITLES = "titles.json"
TITLES_FORMAT = FileFormat("titles")
C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class OpenedRun:
    """A trained run with its model, dataset and features.

    Attributes:
        path: the run directory.
        model: the model with its best weights (the last ones if nothing was validated), in evaluation mode.
        data: the dataset the model was trained on.
        features: the tables by field it was built with; empty for models that need none.
        meta: the content of ``run.json``.
    """

    path: Path
    model: Any
    data: Dataset
    features: dict[str, FeatureTable]
    meta: dict[str, Any]


def configure(
    model: str,
    model_options: Mapping[str, Any] | None = None,
    train_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    ranking: bool = False,
) -> tuple[type[Model], ModelConfig, TrainConfig]:
    """Model class, model options and training options from names and values.

    Args:
        model: a registered name.
        model_options: options of the model's ``Config``.
        train_options: options of :class:`~graphrec.training.trainer.TrainConfig`.
        seed: seed of model and training, unless their options set one.
        ranking: refuse a model that does not rank items.

    Raises:
        ConfigError: an unknown name; an option that is unknown or out of range; or, with ``ranking``, a model
            that does not rank items.
    """
    cls = model_class(model)
    if ranking and not issubclass(cls, Ranker):
        raise ConfigError(
            f"{cls.name} does not rank items, and models are compared here by ranking; train it with: "
            f"graphrec train {cls.name}"
        )
    config = _configured(
        cls.Config, f"model.* options of {cls.name}", {"seed": seed, **(model_options or {})}
    )
    training = {"seed": seed, **cls.train_defaults, **(train_options or {})}
    return cls, config, _configured(TrainConfig, "train.* options", training)


def train(
    model: str,
    data: Dataset,
    features: Features | None = None,
    *,
    model_options: Mapping[str, Any] | None = None,
    train_options: Mapping[str, Any] | None = None,
    out: str | Path,
    seed: int = 0,
    select: str | None = None,
    resume: bool = False,
    source: Source | None = None,
    store: str | Path | None = None,
    origin: Mapping[str, Any] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    complete: Callable[[Run], bool] = lambda run: True,
) -> Run:
    """Trains a registered model and writes a run directory with everything that evaluation and serving need.

    Args:
        model: a registered name.
        data: the dataset. The model is trained on ``train`` and validated on ``valid``: by ranking it with
            ``train`` masked if ``select`` is a ranking metric, else by the model's
            :meth:`~graphrec.models.base.Model.task`. ``test`` is used only so that the saved recommender does
            not offer users items they already have.
        features: tables by field, for models that need them (see :func:`features_for`).
        model_options: options of the model's ``Config``.
        train_options: options of :class:`~graphrec.training.trainer.TrainConfig`.
        out: the run directory.
        seed: seed of model and training, unless their options set one.
        select: metric to select the epoch on, or ``"none"`` for no validation and the last epoch. Default:
            the model's; for a dataset without a validation part ``"none"``, which is said on stderr.
        resume: resume from the last checkpoint in ``out``.
        source: where ``data`` was read; None copies the dataset into the run directory.
        store: directory of the feature store the tables came from, recorded for :func:`open_run`.
        origin: JSON-able facts of the run that this one is fitted on everything for, see
            :func:`graphrec.runs.fit_final`.
        on_epoch: called with each epoch's record.
        complete: called with the finished run; where it returns False, recommender, titles and a copy of the
            dataset are not written.

    Raises:
        ConfigError: an unknown name, option or metric.
        DataError: ``valid`` is empty and ``select`` names a metric.
        CheckpointError: ``out`` holds this run and ``resume`` is false, or another run.
        TrainingError: training failed.
    """
    cls, model_config, train_config = configure(model, model_options, train_options, seed)
    out = Path(out)
    if select is None:
        select = cls.select if len(data.valid) else NONE
        if select != cls.select:
            print_note(
                f"{data.name} has no validation part: trains {train_config.epochs:,} epochs and keeps the "
                "last (--set train.epochs=N sets their number)"
            )
    is_ranked = ranks(cls, select)  # refuses an unknown metric before anything that takes time
    refuse_another(out, select, resume)
    task: Task | None = None
    if select != NONE and not len(data.valid):
        raise DataError(
            f"{data.name}: the valid split is empty, expected interactions to compute {select} on; train "
            f"on the split as it is, for a number of epochs of your choice: --select {NONE} --set "
            "train.epochs=N"
        )
    inputs = cls.inputs(features, model_config)
    untrained = cls.build(data, inputs or None, model_config)
    if is_ranked:
        n_users = train_config.validate_users
        valid = data.valid if n_users is None else data.valid.sample_users(n_users, train_config.seed)
        task = RankingTask(valid, seen=data.train, metrics=("recall", "ndcg", select))
    elif select != NONE:
        task = untrained.task(data)
    facts = {
        **_facts(data, inputs, source, store),
        "select": select,
        "seed": seed,
        "commit": commit(Path()),
        "earlier_environments": _earlier_environments(out) if resume else [],
    }
    if origin is not None:
        facts[ORIGIN] = dict(origin)
    run = Trainer(train_config, out).fit(
        untrained, task, None if task is None else select, resume=resume, about=facts, on_epoch=on_epoch
    )
    if distributed.is_rank_zero() and complete(run):
        _write_products(out, run.model, data, inputs, source)
    return run


def save_run(
    run: Run | str | Path,
    data: Dataset,
    features: Features | None = None,
    *,
    source: Source | None = None,
    store: FeatureStore | str | Path | None = None,
) -> Path:
    """Completes the run directory of a :class:`~graphrec.training.trainer.Trainer`.

    The Trainer sees neither the dataset nor the features. This adds the record of both, a copy of the dataset
    unless its source is given, and the recommender, so that the run is like one of :func:`train`: evaluated,
    compared, served and trained again by its path alone.

    Args:
        run: what :meth:`~graphrec.training.trainer.Trainer.fit` returned, or its run directory.
        data: the dataset that the model was built with.
        features: the tables by field that the model was built with.
        source: where ``data`` was read; None copies the dataset into the run directory.
        store: the feature store the tables came from, recorded for :func:`open_run`.

    Returns:
        The run directory.

    Raises:
        ConfigError: the run has no directory, or its model has no registered name.
        CheckpointError: there is no run, no checkpoint, the run is of another dataset, or its weights do not
            fit a model built with these inputs.
        FeatureError: the model needs features that are not among ``features``.
    """
    if isinstance(run, Run) and run.out is None:
        raise ConfigError("the run has no directory; give the Trainer one: Trainer(config, out=...)")
    path = Path(run.out or "" if isinstance(run, Run) else run)
    meta = read_meta(path)
    recorded = meta.get("dataset", {}).get("fingerprint", data.fingerprint)
    if recorded != data.fingerprint:
        raise CheckpointError(
            f"{path}: was trained on {meta['dataset'].get('name')} {recorded[:12]}…, and the dataset given "
            f"is {data.name} {data.fingerprint[:12]}… (fingerprints); give the one it was trained on"
        )
    cls = _registered_model(path, str(meta.get("model")))
    try:
        config = cls.Config(**meta.get("model_config", {}))
    except ConfigError as cause:
        raise damaged(path, str(cause)) from cause
    inputs = cls.inputs(features, config)
    model = _load_model(path, cls, data, inputs, config)
    root = store.root if isinstance(store, FeatureStore) else store
    with explain_os_errors(path, CheckpointError):
        write_sealed(path / "run.json", {**meta, **_facts(data, inputs, source, root)})
    _write_products(path, model, data, inputs, source)
    return path


def _facts(
    data: Dataset, inputs: Features, source: Source | None, store: str | Path | None
) -> dict[str, Any]:
    """What ``run.json`` records of the inputs of a run."""
    return {
        "dataset": {"name": data.name, "fingerprint": data.fingerprint},
        "features": {field: table.sha256 for field, table in inputs.items()},
        "keys": {f: str(t.meta["key"]) for f, t in inputs.items() if "key" in t.meta},
        "extractors": {f: t.meta.get("extractor") for f, t in inputs.items()},
        "store": str(Path(store).absolute()) if store is not None else None,
        "source": (source or Source(COPY)).describe(),
        "split": data.meta.get("split"),
        "dataset_meta": dict(data.meta),
    }


def _write_products(out: Path, model: Model, data: Dataset, inputs: Features, source: Source | None) -> None:
    """Writes what a run directory holds besides the files of the Trainer."""
    titles = _titles(data)
    with explain_os_errors(out, CheckpointError):
        if source is None:
            data.save(out / COPY)
        if titles:
            write_sealed(out / TITLES, {**TITLES_FORMAT.header, "titles": titles})
    if isinstance(model, Ranker):
        Recommender.from_model(model, data, inputs or None).save(out / "recommender")
    agent = model.conversational_agent(data)
    if agent is not None:
        agent.save(out / CONVERSATION)


def ranks(model: type[Model], select: str) -> bool:
    """Whether a model is validated by ranking when its epoch is selected on this metric.

    Raises:
        ConfigError: an unknown metric, for a model that is validated by ranking only.
    """
    if select == NONE or not issubclass(model, Ranker):
        return False
    try:
        parse_metric(select)
    except ConfigError:
        if model.task is Model.task:
            raise
        return False
    return True


def refuse_another(out: Path, select: str | None, resume: bool) -> None:
    """Refuses an output directory that holds another run, before any work is done.

    Raises:
        CheckpointError: it holds a run and ``resume`` is false, or a run that selects on another metric
            than ``select`` (None: any metric will do).
    """
    if not (out / "run.json").exists() or not distributed.is_rank_zero():
        return
    if not resume:
        raise CheckpointError(
            f"{out} already holds a run; resume it (--resume), or choose another directory (--out)"
        )
    selected = read_meta(out).get("select") or select
    if select is not None and selected != select:
        raise CheckpointError(
            f"{out} selects on {selected}, this run selects on {select}; resume it with --select {selected}, "
            "or choose another directory (--out)"
        )


def open_run(
    path: str | Path,
    *,
    data: Dataset | None = None,
    features: Features | None = None,
    root: str | Path | None = None,
    store: str | Path | None = None,
) -> OpenedRun:
    """Opens a run: its model, on the CPU, with its dataset and features.

    Args:
        path: a run directory written by :func:`train`.
        data: the dataset; default: read from where it was.
        features: the tables by field; default: read from the store they came from.
        root: where the dataset is now, if it has moved.
        store: where the feature store is now, if it has moved.

    Raises:
        CheckpointError: there is no run, or it is damaged, or its dataset or features have changed since.
        DataError: the dataset cannot be read.
        FeatureError: the feature tables are gone or damaged.
    """
    path = Path(path)
    record = read_record(path)
    data, tables = inputs_of(path, data=data, features=features, root=root, store=store)
    cls = _registered_model(path, record.model)
    try:
        _, config, _ = configure(record.model, record.config)
    except ConfigError as cause:
        raise damaged(path, str(cause)) from cause
    model = _load_model(path, cls, data, tables, config)
    return OpenedRun(path, model, data, tables, read_meta(path))


def _registered_model(path: Path, name: str) -> type[Model]:
    """The class of a recorded model; the error for one of another program names the entry point group."""
    try:
        return model_class(name)
    except ConfigError as cause:
        raise CheckpointError(
            f"{path}: its model {name!r} cannot be opened by name: {cause} A model of your own is opened "
            "where it is registered: install its package, with an entry point in the group graphrec.models"
        ) from cause


def _load_model(path: Path, cls: type[Model], data: Dataset, tables: Features, config: ModelConfig) -> Model:
    """The model of a run with its selected weights, in evaluation mode."""
    weights = checkpoint.selected(path)
    if weights is None:
        raise CheckpointError(f"{path}: holds no checkpoint yet; resume the training (--resume)")
    model = cls.build(data, tables or None, config)
    checkpoint.read(weights, model)
    model.eval()
    return model


def open_recommender(path: str | Path) -> tuple[Recommender, dict[str, str]]:
    """The recommender of a run, or one saved separately, and the item titles if the run has them.

    Args:
        path: a run directory, or a directory that :meth:`Recommender.save` wrote.

    Raises:
        CheckpointError: there is no recommender, or it is damaged.
    """
    path = Path(path)
    folder = recommender_folder(path)
    # ``path`` may also be the recommender/ folder of a run.
    file = (path if folder != path else path.absolute().parent) / TITLES
    has_titles = folder.absolute().name == "recommender" and file.exists()
    return Recommender.load(folder), _read_titles(file) if has_titles else {}


def _read_titles(path: Path) -> dict[str, str]:
    """Titles by item id; files of 2026-11 hold them without a format and a seal."""
    remedy = "remove the file, which loses only the titles"
    content: Any = read_json(path, CheckpointError)
    titles: Any = content
    if isinstance(content, dict) and isinstance(content.get("format"), dict):
        titles = read_sealed(path, remedy, TITLES_FORMAT)["titles"]
    if not (isinstance(titles, dict) and all(isinstance(title, str) for title in titles.values())):
        raise CheckpointError(f"{path}: expected titles by item id; {remedy}")
    return titles


def recommender_folder(path: str | Path) -> Path:
    """The folder of a run's recommender, or of one saved separately.

    Raises:
        CheckpointError: there is no recommender.
    """
    path = Path(path)
    folder = next((p for p in (path, path / "recommender") if (p / "recommender.json").exists()), None)
    if folder is None:
        trained = read_record(path).model
        if (path / CONVERSATION).is_dir():
            raise CheckpointError(
                f"{path}: a run of {trained!r}, which recommends only in conversations; run: "
                f"graphrec converse {path}"
            )
        raise CheckpointError(f"{path}: holds no recommender yet; finish the training (--resume)")
    return folder


def _configured(kind: type[C], owner: str, options: Mapping[str, Any]) -> C:
    try:
        return kind(**options)
    except ConfigError as cause:
        raise ConfigError(f"{owner}: {cause}") from None


def _earlier_environments(out: Path) -> list[dict[str, Any]]:
    """Each device and environment, other than the present, in which a resumed run was trained before."""
    if not (out / "run.json").exists():
        return []
    before = read_record(out)
    if before.environment in ({}, environment()):
        return before.earlier_environments
    return [*before.earlier_environments, {"device": before.device, "environment": before.environment}]


def _titles(data: Dataset) -> dict[str, str]:
    """Titles of the items that have one or a text, by item id."""
    named = zip(data.items.ids, titles(data.content), strict=False)
    return {item: name for item, name in named if name is not None}
