"""The inputs of a run: where its dataset is read again, and which feature tables its model is built with."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from graphrec.core.errors import ConfigError, DataError, FeatureError, nearest
from graphrec.core.progress import print_note
from graphrec.data import Dataset
from graphrec.data.readers import FEATURES, READERS, dataset_folder, load_dataset
from graphrec.features import ATTRIBUTE_PREFIX, PREFERENCES, PROFILE, FeatureStore, FeatureTable
from graphrec.models import model as model_class
from graphrec.models.base import Model, ModelConfig

NONE = "none"
"""As an extractor: leave the field out. As the metric to select on: do not validate."""
USUAL_FIELDS = ("audio", "image", "text", "video")
"""Fields that items may have features of without having the content in the dataset."""


@dataclass(frozen=True)
class Source:
    """The place a dataset was read from, from which it can be read again.

    Attributes:
        dataset: a reader's name, or the directory of a saved dataset.
        root: the dataset's own folder; None for a saved dataset.
        options: of the reader, JSON-able.

    Raises:
        ConfigError: an option that JSON cannot hold.
    """

    dataset: str
    root: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.options.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as cause:
                raise ConfigError(
                    f"dataset option {name}={value!r} cannot be recorded as JSON ({cause}); expected text, "
                    "numbers, lists or mappings of them"
                ) from cause

    @classmethod
    def create(
        cls, dataset: str | Path, root: str | Path | None = None, options: Mapping[str, Any] | None = None
    ) -> Self:
        """The source with absolute paths, valid from any working directory.

        Args:
            dataset: a reader's name, or the directory of a saved dataset.
            root: as in :func:`graphrec.load_dataset`.
            options: of the reader.

        Raises:
            DataError: a path at which there is no saved dataset.
        """
        given = dict(options or {})
        if str(dataset) in READERS:
            return cls(str(dataset), str(dataset_folder(str(dataset), root)), given)
        folders = [Path(dataset), *([Path(root) / dataset] if root is not None else [])]
        saved = next((p for p in folders if (p / "dataset.json").is_file()), None)
        if saved is None and (len(Path(dataset).parts) > 1 or Path(dataset).is_dir()):
            inside = Path(dataset) / "dataset"  # where `graphrec data generate` puts it
            hint = nearest(str(dataset), READERS)
            if (inside / "dataset.json").is_file():
                hint = f" Did you mean {str(inside)!r}?"
            raise DataError(
                f"{dataset}: no saved dataset there (no dataset.json); expected a directory written by "
                f"`graphrec data convert`, or one of {sorted(READERS)}.{hint}"
            )
        return cls(str(saved.absolute()) if saved else str(dataset), None, given)

    def read(self) -> Dataset:
        """The dataset (see :func:`graphrec.load_dataset`)."""
        return load_dataset(self.dataset, self.root, **self.options)

    def describe(self) -> dict[str, Any]:
        """The source as JSON-able values; ``Source(**describe())`` is the same source."""
        return asdict(self)

    def arguments(self, prefix: str = "data.") -> str:
        """The source as arguments of a command; ``prefix`` goes before the reader's options."""
        root = ["--root", self.root] if self.root is not None else []
        return shlex.join([self.dataset, *root, *set_arguments(prefix, self.options)])


def set_arguments(prefix: str, options: Mapping[str, Any]) -> list[str]:
    """Options as ``--set`` arguments that a command reads back as the same values."""
    arguments = []
    for key, value in options.items():
        text = json.dumps(value)
        if isinstance(value, str):
            try:
                json.loads(value)  # a text that is also JSON, such as "5", stays quoted
            except ValueError:
                text = value
        arguments += ["--set", f"{prefix}{key}={text}"]
    return arguments


def features_for(
    model: type[Model] | str,
    data: Dataset,
    store: FeatureStore | str | Path,
    modalities: Mapping[str, str | None] | None = None,
    source: Source | None = None,
    config: ModelConfig | None = None,
    *,
    image: str | None = None,
    text: str | None = None,
) -> dict[str, FeatureTable]:
    """The features a model is built with; none for a model that needs none.

    Unless chosen otherwise these are the images, texts and sounds of the dataset, every other field of its
    items that the store has features of, and what else the model takes with its options.

    Args:
        model: a model class or registered name.
        data: whose items the tables are for.
        store: where they are kept.
        modalities: field -> extractor name or beginning of a table's key; None takes the table built last,
            ``"none"`` leaves the field out.
        source: where the dataset came from, so that messages can name the exact command.
        config: the model's options; default: its defaults.
        image: short for an entry of ``modalities``.
        text: likewise.

    Raises:
        FeatureError: a field has no table, or all fields are left out; names the command that builds one.
    """
    if isinstance(model, str):
        model = model_class(model)
    config = config or model.Config()
    patterns = model.optional_fields(config)
    needs_content = model.needs_features(config)
    choices = {
        f: c for f, c in [*(modalities or {}).items(), ("image", image), ("text", text)] if c is not None
    }
    unused = [f for f, c in choices.items() if c != NONE and not any(fnmatchcase(f, p) for p in patterns)]
    if unused and not needs_content:
        print_note(
            f"{model.name} takes no features of {', '.join(map(repr, unused))} with these options; they "
            "are not used"
        )
    if not needs_content and not patterns:
        return {}
    store = store if isinstance(store, FeatureStore) else FeatureStore(store)
    stored = {str(row["field"]) for row in store.status(data)}
    if model.extractor is not None:
        return _features_of_one_extractor(model, data, store, stored, choices, source)
    optional = sorted(f for f in stored if any(fnmatchcase(f, pattern) for pattern in patterns))
    generated = {f for f in stored if f in (PROFILE, PREFERENCES) or f.startswith(ATTRIBUTE_PREFIX)}
    content = (
        {f for f in ("audio", "image", "text") if f in data.content} | (stored - generated) | set(choices)
    )
    wanted = sorted(f for f in content if choices.get(f) != NONE) if needs_content else []
    missing = [f for f in wanted if f not in stored]
    if missing or not (wanted or optional):
        if patterns and not needs_content:
            raise FeatureError(
                f"{model.name} needs {' and '.join(patterns)} with these options, and {store.root} has none; "
                f"run: graphrec llm {patterns[0]} {_arguments(source, store)}"
            )
        raise FeatureError(_missing_features(model.name, data.name, store, wanted, missing, source))
    for note in (unusual_field(f, data) for f in wanted):
        if note:
            print_note(note)
    left_out = dict.fromkeys((stored | set(data.content)) - {*wanted, *optional})
    return store.load_tables(data, **left_out, **{f: choices[f] for f in wanted if f in choices})


def unusual_field(field: str, data: Dataset) -> str:
    """What to know about a field of features that is no content of the dataset and has no usual name; empty
    for all others.
    """
    known = {*data.content, *USUAL_FIELDS, PROFILE, PREFERENCES}
    if field in known or field.startswith(ATTRIBUTE_PREFIX):
        return ""
    return (
        f"{field!r} is no content field of {data.name} ({', '.join(sorted(data.content)) or 'it has none'}); "
        f"multimodal models take it as one more modality.{nearest(field, known)} It is left out with "
        f"--modality {field}=none"
    )


def _arguments(source: Source | None, store: FeatureStore) -> str:
    """Arguments of a command that builds features of the dataset."""
    dataset = source.arguments() if source is not None else "DATASET"
    return f"{dataset} --store {shlex.quote(str(store.root))}"


def _features_of_one_extractor(
    model: type[Model],
    data: Dataset,
    store: FeatureStore,
    stored: set[str],
    choices: Mapping[str, str],
    source: Source | None,
) -> dict[str, FeatureTable]:
    """The table of the first field that the model's extractor was run on."""
    if choices:
        raise ConfigError(
            f"{model.name} takes features of {model.extractor} alone; leave out the choice of "
            f"{sorted(choices)}"
        )
    assert model.extractor is not None
    fields = sorted(str(row["field"]) for row in store.status(data) if row["extractor"] == model.extractor)
    if not fields:
        needs = f"{model.name} needs features by {model.extractor}, and "
        if any(content.kind == "text" for content in data.content.values()):
            raise FeatureError(
                f"{needs}{store.root} has none for the items of {data.name}; run: graphrec features build "
                f"{_arguments(source, store)} --text {model.extractor}"
            )
        raise FeatureError(
            f"{needs}{data.name} has no texts to make them from; make a dataset of clones: graphrec data git"
        )
    left_out: dict[str, str | None] = dict.fromkeys(stored | set(data.content))
    return store.load_tables(data, **{**left_out, fields[0]: model.extractor})


def _missing_features(
    model: str, data: str, store: FeatureStore, wanted: list[str], missing: list[str], source: Source | None
) -> str:
    """Message where features are missing, with the command that builds them."""
    arguments = _arguments(source, store)
    run = f"graphrec features build {arguments}"
    if source is not None and source.dataset in FEATURES:
        run = f"graphrec features import {arguments} (the vectors it comes with) or {run}"
    if not wanted:
        return (
            f"{model} needs features of content, and for {data} there are none and nothing to make them "
            f"from, or all are left out; run: {run}"
        )
    # One field is enough for a model, so a missing one may be left out where another has features.
    option = f"--{missing[0]} none" if missing[0] in ("image", "text") else f"--modality {missing[0]}=none"
    leave = f"; or leave out what is missing with {option}" if len(wanted) > len(missing) else ""
    return (
        f"{model} needs {' and '.join(wanted)} features, and {store.root} has no {' and no '.join(missing)} "
        f"features for the items of {data}; run: {run}{leave}"
    )
