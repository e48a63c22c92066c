"""``graphrec data``: list, show, convert and generate datasets."""

from __future__ import annotations

import inspect
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphrec.cli import output, settings
from graphrec.cli.help import ReaderCommand, epilog, group
from graphrec.core.errors import DataError

if TYPE_CHECKING:
    from graphrec.data import Dataset
    from graphrec.runs import Source

app = group(
    "Datasets: list, show, convert, generate.",
    "graphrec data list",
    "graphrec data show amazon-baby --root data",
    "graphrec data generate data/shop",
)

OWN_DATA_EXAMPLE = (
    "graphrec data show table --set interactions=clicks.csv --set items=items.csv --set item_id=sku",
    "      --set text=title,description --set images=pictures --set time=time --set split=leave-one-out",
)


def read(dataset: str, root: Path | None, options: dict[str, Any]) -> tuple[Dataset, Source]:
    """Reads the dataset that a command names; returns it and its source."""
    from graphrec.runs import Source

    source = Source.create(dataset, root, settings.reader_options(dataset, options))
    return source.read(), source


def read_with(dataset: str, root: Path | None, pairs: list[str] | None) -> tuple[Dataset, Source]:
    """Reads the dataset with the ``--set`` options of a command that has no others."""
    return read(dataset, root, settings.read(pairs, ["data"], bare="data")["data"])


@app.command("list", epilog=epilog("graphrec data list --root data"))
def show_readers(root: settings.Root = None) -> None:
    """List the datasets and file formats graphrec can read, with their sources."""
    from graphrec.data.readers import FORMATS, READERS, dataset_folder

    rows = []
    for name, reader in settings.registered(READERS):
        first = (inspect.getdoc(reader) or name).splitlines()[0].rstrip(".").replace("``", "")
        link = re.search(r"https?://[^\s),]+", inspect.getdoc(inspect.getmodule(reader)) or "")
        here = "" if name in FORMATS else "yes" if dataset_folder(name, root).is_dir() else "no"
        rows.append((name, here, first, link.group().rstrip(".") if link else "your own files"))
    output.print_table(["name", "here", "what", "source"], rows)
    output.print_next_steps("graphrec data show NAME", OWN_DATA_EXAMPLE[0] + " ...")


@app.command(
    "show",
    cls=ReaderCommand,
    epilog=epilog(
        "graphrec data show movielens-small --set min_rating=3 --set split=time",
        "graphrec data show saved/shop",
        *OWN_DATA_EXAMPLE,
    ),
)
def show(dataset: settings.Dataset, root: settings.Root = None, options: settings.Set = None) -> None:
    """Read a dataset and print its counts, split, content and dropped rows."""
    data, _ = read_with(dataset, root, options)
    output.print_fields(data.summary())
    output.print_line()
    output.print_fields({k: _flatten(v) for k, v in data.meta.items() if k != "options"})
    for name, value in dict(data.meta.get("options", {})).items():
        output.print_line(f"option {name} = {_flatten(value)}")


@app.command(
    "convert",
    cls=ReaderCommand,
    epilog=epilog(
        "graphrec data convert movielens-small --set split=time --out saved/movielens-time",
        "graphrec data convert table --set interactions=clicks.csv --out saved/shop --name shop",
        "graphrec data convert table --help   # also lists the options of the reader",
    ),
)
def convert(
    dataset: settings.Dataset,
    out: Annotated[Path, typer.Option(help="Directory to write to; a dataset in it is replaced.")],
    root: settings.Root = None,
    options: settings.Set = None,
    name: Annotated[str | None, typer.Option(help="Name of the dataset. Default: the reader's.")] = None,
) -> None:
    """Save a dataset as a directory that loads quickly and without options.

    With the name of a reader, --help also lists its options. Images are not copied; the directory records
    their paths.
    """
    from graphrec.core.files import explain_os_errors

    data, _ = read_with(dataset, root, options)
    if name is not None:
        data = replace(data, name=name)
    with explain_os_errors(out, DataError):
        data.save(out)
    output.print_line(f"{out}: {data!r}")
    without = data.meta.get("item rows without interactions", 0)
    if without:
        kept = data.meta.get("cold items kept", 0)
        left_out = f", {without - kept:,} left out (options cold_items, k_core)" if kept < without else ""
        output.print_line(f"items of the item table without interactions: {kept:,} kept{left_out}")
    output.print_next_steps(*_next_steps(out))


@app.command(
    "git",
    epilog=epilog(
        "graphrec data git . --out saved/history",
        "graphrec data git clones/flask clones/click --out saved/web",
        "graphrec data git . --out saved/own --set split=chronological   # each person's newest share",
    ),
)
def git(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Local clones.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Directory to write to; a dataset in it is replaced.")],
    options: settings.Set = None,
) -> None:
    """Convert local git clones into a dataset of who worked on which file, when and in which directory.

    Names and addresses are hashed while they are read and never stored; set GRAPHREC_SALT to use your own
    salt. The options are those of the reader git.
    """
    from graphrec.core.files import explain_os_errors
    from graphrec.runs import Source

    given = settings.read(options, ["data"], bare="data")["data"]
    given["repositories"] = [str(path.absolute()) for path in paths]
    data = Source.create("git", Path.cwd(), settings.reader_options("git", given)).read()
    with explain_os_errors(out, DataError):
        data.save(out)
    output.print_line(f"{out}: {data!r}")
    for name, facts in data.meta["repositories"].items():
        output.print_line(f"{name}: {_flatten(facts)}")
    output.print_next_steps(
        f"graphrec data show {shlex.quote(str(out))}", f"graphrec train lightgcn {shlex.quote(str(out))}"
    )


@app.command(
    "generate", epilog=epilog("graphrec data generate data/shop", "graphrec data generate s --items 100")
)
def generate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to write to.")],
    items: Annotated[int, typer.Option(help="Number of items.")] = 640,
    users: Annotated[int, typer.Option(help="Number of users.")] = 1500,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    sounds: Annotated[
        bool, typer.Option("--sounds", help="Give items sounds too, a third modality.")
    ] = False,
) -> None:
    """Write a generated catalog with images, texts and purchases, to try graphrec without data of your own.

    DIR receives ordinary files (interactions.csv, items.csv, images/, with --sounds sounds/) and the same
    data as a saved dataset in DIR/dataset.
    """
    from graphrec.core.files import explain_os_errors
    from graphrec.data.generated import generated_options, write_catalog
    from graphrec.runs import Source

    with explain_os_errors(directory, DataError):
        write_catalog(directory, items, users, seed, sounds=sounds)
    source = Source.create("table", directory, generated_options(sounds=sounds))
    data = source.read()
    data.save(directory / "dataset")
    output.print_line(f"{directory}: generated data, {data!r}")
    output.print_line(f"to read its files: graphrec data show {source.arguments(prefix='')}")
    output.print_next_steps(*_next_steps(directory / "dataset"))


def _next_steps(saved: Path) -> list[str]:
    place = shlex.quote(str(saved))
    return [
        f"graphrec data show {place}",
        f"graphrec features build {place}",
        f"graphrec train lightgcn {place}",
    ]


def _flatten(value: Any) -> object:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_flatten(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(str(_flatten(v)) for v in value)
    return value
