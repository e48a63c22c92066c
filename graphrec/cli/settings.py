"""Options and arguments that several commands have, and how their values are read."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphrec.cli import output
from graphrec.core.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from graphrec.core.registry import Registry

CACHE = Path("cache")
"""The default feature store."""
Dataset = Annotated[
    str,
    typer.Argument(
        metavar="DATASET", help="A name from `graphrec data list`, or a directory of a saved dataset."
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds the dataset folders, or the dataset's own. Default: $GRAPHREC_DATA, else "
        "data; for the readers table, inter and scpr, the current folder."
    ),
]
Store = Annotated[Path, typer.Option(help="Directory of the feature store.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set an option; may be given several times."),
]
Run = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run directory, as `graphrec train` writes it.", show_default=False),
]
Model = Annotated[str | None, typer.Argument(metavar="MODEL", help="A name from `graphrec models`.")]
TrainedOn = Annotated[
    str | None, typer.Argument(metavar="DATASET", help="A name or a directory of a saved dataset.")
]
Image = Annotated[
    str | None, typer.Option(help="Image features: extractor, key or none. Default: those built last.")
]
Text = Annotated[
    str | None, typer.Option(help="Text features: extractor, key or none. Default: those built last.")
]
Modality = Annotated[
    list[str] | None,
    typer.Option(
        "--modality",
        metavar="FIELD=CHOICE",
        help="Features of any field, such as audio: extractor, key or none; may be given several times.",
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps. Default: auto.")]
Split = Annotated[str, typer.Option(help="test or valid.")]
Masked = Annotated[
    str | None,
    typer.Option(
        help="Items that are not recommended to their users again: those of train, of train+valid, or none. "
        "Default: train+valid for test, train for valid. Published tables often mask train alone."
    ),
]
TableFormat = Annotated[str, typer.Option("--format", help="table, markdown, latex or json.")]
TableOrJson = Annotated[str, typer.Option("--format", help="table or json.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as --format json does.")]
TABLE_FORMATS = ("table", "markdown", "latex", "json")
MovedRoot = Annotated[Path | None, typer.Option(help="Where the dataset is now, if it has moved.")]
MovedStore = Annotated[Path | None, typer.Option(help="Where the feature store is now, if it has moved.")]


def store_argument(store: Path) -> str:
    """The option ``--store`` for a command to run next; empty for the default store."""
    return "" if store == CACHE else f" --store {shlex.quote(str(store))}"


def on_device(device: str | None, given: dict[str, dict[str, Any]]) -> None:
    """Puts ``--device`` among the options of training, unless ``--set`` names one too."""
    if device is None:
        return
    if "device" in given["train"]:
        raise ConfigError("--device and --set train.device= are the same option; give one of them")
    given["train"]["device"] = choice(device, ["auto", "cpu", "cuda", "mps"], "--device")


def read(
    pairs: Iterable[str] | None, prefixes: Collection[str], bare: str | None = None
) -> dict[str, dict[str, Any]]:
    """Options such as ``model.dim=128`` as prefix -> key -> value, with every prefix in it.

    A value is read as JSON where it is JSON, else it is text. ``bare`` is the prefix of keys without a dot;
    with None they are refused.
    """
    options: dict[str, dict[str, Any]] = {prefix: {} for prefix in prefixes}
    for pair in pairs or ():
        key, equals, text = pair.partition("=")
        prefix, dot, name = key.strip().partition(".")
        if bare is not None and not dot:
            prefix, name = bare, prefix
        if not equals or not name:
            raise ConfigError(f"--set {pair}: expected {_forms(prefixes, bare)}")
        if prefix not in options:  # the value may hold a password and is not repeated
            raise ConfigError(
                f"--set {key}: {prefix!r} is not one of the prefixes {sorted(options)}; expected "
                f"{_forms(prefixes, bare)}.{nearest(prefix, options)}"
            )
        if name in options[prefix]:
            raise ConfigError(f"--set {key}: {key} is set twice; expected each key once")
        options[prefix][name] = _value(text)
    return options


def modalities(
    pairs: Iterable[str] | None, image: str | None = None, text: str | None = None
) -> dict[str, str]:
    """The choices of ``--modality FIELD=CHOICE``, ``--image`` and ``--text``, by field."""
    choices = {field: name for field, name in (("image", image), ("text", text)) if name is not None}
    for pair in pairs or ():
        field, _, value = (part.strip() for part in pair.partition("="))
        if not field or not value:
            raise ConfigError(f"--modality {pair}: expected FIELD=CHOICE, such as audio=none")
        if field in choices:
            raise ConfigError(f"--modality {pair}: {field!r} is chosen twice; expected each field once")
        choices[field] = value
    return choices


def reader_options(dataset: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Checked options of a reader; where it takes a list, ``a,b`` means that list."""
    from graphrec.data.readers import READERS

    if dataset not in READERS:
        return dict(options)
    parameters = inspect.signature(READERS.load(dataset)).parameters.values()
    annotations = {p.name: str(p.annotation) for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    known_only(options, annotations, f"dataset {dataset!r}")
    return {
        key: [part.strip() for part in value.split(",")]
        if isinstance(value, str) and "," in value and "list[" in annotations[key]
        else value
        for key, value in options.items()
    }


def registered(registry: Registry, load: Callable[[str], Any] | None = None) -> Iterator[tuple[str, Any]]:
    """Every name of a registry and the object registered under it, from ``load`` or ``registry.load``.

    Prints one warning line for each package that is broken or takes another's name, and goes on.
    """
    for sentence in registry.clashes:
        output.print_error(f"warning: {sentence}")
    for name in registry:
        try:
            yield name, (load or registry.load)(name)
        except ConfigError as cause:
            if registry.package(name) is None:
                raise
            output.print_error(f"warning: {' '.join(str(cause).split())}")


def known_only(options: Iterable[str], known: Collection[str], owner: str) -> None:
    """Refuses options that the owner does not have; the error names the known ones and the nearest."""
    for option in options:
        if option not in known:
            raise ConfigError(
                f"{owner} has no option {option!r}; it has {sorted(known) or 'none'}.{nearest(option, known)}"
            )


def arguments_of(function: Callable[..., Any]) -> list[str]:
    """Names of the arguments a function or class can be called with."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds]


def choice(value: str, known: Collection[str], option: str) -> str:
    """The value itself if it is one of the known ones; the error names the nearest."""
    if value not in known:
        raise ConfigError(f"{option} {value!r} is not one of {list(known)}.{nearest(value, known)}")
    return value


def json_format(as_json: bool, form: str, default: str) -> str:
    """The format: ``json`` with ``--json``, which is refused beside another ``--format``."""
    if not as_json:
        return form
    if form not in (default, "json"):
        raise ConfigError(f"--json and --format {form} exclude each other; give one of them")
    return "json"


def suffix(path: Path | None, known: Collection[str], option: str) -> None:
    """Refuses an output file whose suffix does not name a format that the option writes."""
    if path is not None and path.suffix.lower() not in known:
        raise ConfigError(
            f"{option} {path}: the suffix {path.suffix!r} names no format; expected one of {', '.join(known)}"
        )


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers from 1 to 999,999 in a text such as ``"10,20"``."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) <= 6 and int(part) >= 1 for part in parts):
        raise ConfigError(f"{option} {text!r}; expected whole numbers from 1 to 999999, such as 10 or 10,20")
    return tuple(int(part) for part in parts)


def lines(path: Path | None) -> list[str] | None:
    """Ids from a text file, one a line; blank lines are left out. None for None."""
    if path is None:
        return None
    try:
        if path.exists() and not path.is_file():  # reading a pipe waits for ever if nobody writes to it
            raise OSError("not a regular file")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as cause:
        raise DataError(f"{path}: no such file; expected a text file with one id a line") from cause
    except (OSError, UnicodeDecodeError) as cause:
        raise DataError(
            f"{path}: not readable ({cause}); expected a UTF-8 text file with one id a line"
        ) from cause
    ids = [line.strip() for line in text.splitlines() if line.strip()]
    if not ids:
        raise DataError(f"{path}: the file holds no id; expected one id a line")
    return ids


def history(path: Path) -> tuple[list[str], list[float] | None, list[float] | None]:
    """The items that one user took, their weights and their times, from a CSV file with the column ``item``
    and, if there are any, ``weight`` and ``time``.

    Raises:
        DataError: the file is missing or damaged, has other columns, or holds a wrong value; names file and
            row.
    """
    from graphrec.data import frames
    from graphrec.data.query import WEIGHTS
    from graphrec.data.readers.files import first_row, read_table
    from graphrec.data.times import as_seconds

    suffix(path, [".csv"], "--history-file")
    columns = ("item", "weight", "time")
    if not path.exists():
        raise DataError(f"{path}: no such file; expected a CSV file with the columns {', '.join(columns)}")
    frame, source, row = read_table(path), str(path), first_row(path)
    for name in frame.columns:
        if name not in columns:
            raise DataError(
                f"{path}, line 1: unknown column {name!r}; expected item and, if you have them, weight and "
                f"time.{nearest(name, columns)}"
            )
    items = frames.as_ids(frames.column(frame, "item", source), "item", source, row).to_list()
    weights = times = None
    if "weight" in frame.columns:
        found = frames.as_numbers(frame["weight"], "weight", source, row)
        outside = (found < WEIGHTS[0]) | (found > WEIGHTS[1])
        limits = f"; expected a number from {WEIGHTS[0]:g} to {WEIGHTS[1]:g}"
        frames.refuse(outside, frame["weight"], "weight", limits, source, row)
        weights = found.tolist()
    if "time" in frame.columns:
        times = as_seconds(frame["time"], source, row).tolist()
    return items, weights, times


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _forms(prefixes: Collection[str], bare: str | None) -> str:
    forms = ["KEY=VALUE"] if bare is not None else []
    return " or ".join([*forms, *(f"{prefix}.KEY=VALUE" for prefix in prefixes if prefix != bare)])
