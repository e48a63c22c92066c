"""``graphrec features``: extract, import and maintain item features."""

from __future__ import annotations

import inspect
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphrec.cli import output, settings
from graphrec.cli.data import read, read_with
from graphrec.cli.help import epilog, group
from graphrec.core.errors import ConfigError, FeatureError

if TYPE_CHECKING:
    from graphrec.core.ray import Cluster

app = group(
    "Image, text and sound features of items: build, import, maintain.",
    "graphrec features build movielens-small",
    "graphrec features status movielens-small",
)

MAX_TEXT = 60  # characters of a text to print


@app.command("list", epilog=epilog("graphrec features list"))
def show_extractors() -> None:
    """List the extractors."""
    from graphrec.features.extract import DEFAULTS, EXTRACTORS

    rows = []
    for name, extractor_class in settings.registered(EXTRACTORS):
        description = (extractor_class.__doc__ or name).splitlines()[0].rstrip(".")
        rows.append((name, extractor_class.kind, "yes" if name in DEFAULTS.values() else "", description))
    output.print_table(["name", "kind", "default", "what"], rows)
    output.print_next_steps("graphrec features build DATASET --image NAME --text NAME")


@app.command(
    "build",
    epilog=epilog(
        "graphrec features build movielens-small",
        "graphrec features build movielens-small --text none --image open_clip --set image.model=ViT-B-32",
        "graphrec features build table --set interactions=clicks.csv --set text.size=128",
        "graphrec features build movielens-small --ray auto",
    ),
)
def build(
    dataset: settings.Dataset,
    image: Annotated[
        str | None, typer.Option(metavar="EXTRACTOR", help="Extractor for images; none skips them.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="EXTRACTOR", help="Extractor for texts; none skips them.")
    ] = None,
    modality: Annotated[
        list[str] | None,
        typer.Option(
            "--modality",
            metavar="FIELD=EXTRACTOR",
            help="Extractor for a field of any name or kind, such as audio=clap; may be given several "
            "times; none skips the field.",
        ),
    ] = None,
    root: settings.Root = None,
    store: settings.Store = settings.CACHE,
    options: settings.Set = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Extract everything again.")] = False,
    max_bad: Annotated[float, typer.Option(help="Maximum share of unreadable content.")] = 0.05,
    workers: Annotated[
        int | None,
        typer.Option(help="Threads per process that read files. Default: two per CPU core."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Compute on a Ray cluster: local (started on this machine), auto (the one this machine is "
            "part of), or HOST:PORT of the head node.",
        ),
    ] = None,
) -> None:
    """Extract features from the images, texts and sounds of a dataset into the store.

    Unless chosen otherwise, extractors without pretrained weights are used. Finished shards are kept, so
    an interrupted extraction resumes where it stopped. Options: image.KEY, text.KEY, audio.KEY, FIELD.KEY for
    a field of --modality, data.KEY or KEY, and with --ray: ray.workers, ray.cpus and ray.gpus (per worker).
    """
    from graphrec.data.content import TITLE_FIELD
    from graphrec.features import FeatureStore
    from graphrec.features.extract import DEFAULTS, EXTRACTORS, extractor
    from graphrec.features.extract.extraction import extract

    choices = settings.modalities(modality, image, text)
    given = settings.read(options, [*{*DEFAULTS, *choices}, "data", "ray"], bare="data")
    cluster = _cluster(ray, given["ray"])
    for name in {*DEFAULTS, *choices}:
        if name in choices:
            option = f"--{name}" if name in ("image", "text") else f"--modality {name}="
            settings.choice(choices[name], [*EXTRACTORS, "none"], option)
        used = choices.get(name, DEFAULTS.get(name))
        if given[name] and used in EXTRACTORS:
            extractor_class = EXTRACTORS.load(str(used))
            known = settings.arguments_of(extractor_class)
            encoder = (
                given[name].get("encoder", _default_encoder(extractor_class)) if "encoder" in known else None
            )
            if encoder in EXTRACTORS:  # code-segments passes further options to its encoder
                known += settings.arguments_of(EXTRACTORS.load(str(encoder)))
            settings.known_only(given[name], known, f"extractor {used!r}")
    data, source = read(dataset, root, given["data"])
    for files in ("pictures", "sounds"):
        if data.meta.get(files):
            facts = "; ".join(f"{name}: {value}" for name, value in data.meta[files].items())
            output.print_note(output.printable(f"{files} {facts}"))
    n_tables = 0
    incomplete = False
    kinds = {content.kind for content in data.content.values()}
    requested = (f for f, name in choices.items() if name != "none" and f not in {*kinds, *data.content})
    with cluster.connect() if cluster is not None else nullcontext():
        for field in (*data.content, *requested):
            kind = data.field(field).kind
            # A choice for the field itself, or for all content of its kind.
            key = field if field in choices or kind not in given else kind
            used = choices.get(key, DEFAULTS.get(kind))
            if field == TITLE_FIELD and field not in choices:
                continue
            if used == "none":
                continue
            if used is None:
                output.print_note(
                    f"{field}: there is no default extractor for {kind} content; "
                    f"choose one with --modality {field}=NAME"
                )
                continue
            tool = extractor(used, **given.get(key, {}))
            output.print_note(f"{field}: {tool.name} over {data.field(field).n_present:,} items ...")
            table = extract(
                data, field, tool, FeatureStore(store), rebuild=rebuild, max_bad=max_bad, workers=workers,
                cluster=cluster,
            )  # fmt: skip
            output.print_line(f"{field}: {table!r}")
            for key, label in (("unreadable", "unreadable"), ("empty", "without a vector")):
                missing = table.meta.get(key, {})
                if missing.get("count"):
                    item, reason = next(iter(missing["reasons"].items()))
                    output.print_line(
                        f"{field}: {missing['count']:,} items {label}, such as {item}: {reason}"
                    )
                    incomplete = True
            n_tables += 1
    if not n_tables:
        raise FeatureError(
            f"{data.name} has content {sorted(data.content) or 'of no kind'} and none of it is to be "
            "extracted; set its text and image columns (graphrec data show --help), or import existing "
            "vectors (graphrec features import --help)"
        )
    where = settings.store_argument(store)
    more = [f"graphrec features broken {source.arguments()}{where}"] if incomplete else []
    output.print_next_steps(*more, f"graphrec train freedom {source.arguments()}{where}")


@app.command(
    "import",
    epilog=epilog(
        "graphrec features import amazon-baby",
        "graphrec features import saved/shop image vectors.npy --ids ids.txt",
        "graphrec features import saved/shop text vectors.parquet --ids vectors.parquet:asin",
    ),
)
def import_vectors(
    dataset: settings.Dataset,
    field: Annotated[
        str | None,
        typer.Argument(metavar="[FIELD]", help="Content field of the vectors, such as image or text."),
    ] = None,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="Vectors: .npy, .npz, .safetensors, .pt, .csv, .tsv or .parquet; FILE:NAME for one array of "
            "several.",
        ),
    ] = None,
    ids: Annotated[
        str | None,
        typer.Option(
            metavar="FILE[:COLUMN]",
            help="Item id of each row: one per line, .npy, or a column of a table, which may be that of the "
            "vectors. Default: row i is item i of the dataset.",
        ),
    ] = None,
    present: Annotated[
        str | None,
        typer.Option(
            metavar="FILE[:COLUMN]",
            help="Which rows hold a vector, as true and false or 1 and 0. Default: all that are not zero.",
        ),
    ] = None,
    root: settings.Root = None,
    store: settings.Store = settings.CACHE,
    options: settings.Set = None,
) -> None:
    """Import existing vectors into the store: from a file, or those published with the dataset."""
    from graphrec.data.readers import load_features
    from graphrec.features import FeatureStore, FeatureTable
    from graphrec.features.vector_files import describe_near
    from graphrec.runs.source import unusual_field

    if file is None and (ids or present):
        raise ConfigError("--ids and --present need FIELD and FILE of vectors")
    if (field is None) != (file is None):
        raise ConfigError(
            f"found only {field or file}; expected both FIELD and FILE, or neither for the vectors of "
            f"{dataset}"
        )
    data, source = read_with(dataset, root, options)
    if field is not None and file is not None:
        tables = {field: FeatureTable.from_file(file, data, field, ids, present)}
    else:
        ready = load_features(source.dataset, source.root, **source.options)
        tables = {
            name: FeatureTable.from_array(r.values, data, name, ids=r.ids, name=f"{data.name} {name}")
            for name, r in ready.items()
        }
    for name, table in tables.items():
        FeatureStore(store).save(data, name, table)
        output.print_line(f"{name}: {table!r}")
        matched = table.meta["matched"]
        ends = " and ".join(
            f"row {row} is item {output.printable(repr(item))}" for row, item in matched["rows"]
        )
        output.print_line(f"{name}: rows matched by {matched['by']}: {ends}")
        note = unusual_field(name, data)
        if note:
            output.print_note(output.printable(note))
        if matched["by"] == "position":
            output.print_note(
                f"{name}: row i went to item i of {data.name}; if the rows have another order, name their "
                "ids with --ids"
            )
        if table.meta["near_ids"]:
            output.print_note(f"{name}: {output.printable(describe_near(table.meta['near_ids']))}")
        if table.meta.get("unknown_ids"):
            output.print_line(f"{name}: {table.meta['unknown_ids']:,} rows of unknown items were skipped")


@app.command("status", epilog=epilog("graphrec features status movielens-small --store cache"))
def status(
    dataset: settings.Dataset,
    root: settings.Root = None,
    store: settings.Store = settings.CACHE,
    options: settings.Set = None,
) -> None:
    """List the feature tables of a dataset; models use the first table of each field."""
    from graphrec.features import FeatureStore

    data, source = read_with(dataset, root, options)
    if store.exists():
        _require_store(store)
    rows = FeatureStore(store).status(data)
    if not rows:
        output.print_line(f"{store}: no feature tables for the items of {data.name}")
        output.print_next_steps(
            f"graphrec features build {source.arguments()} --store {shlex.quote(str(store))}"
        )
        return
    header = ["field", "extractor", "model", "key", "shape", "present", "unreadable", "fresh", "built"]
    cells = []
    for row in rows:
        shown: dict[str, Any] = {
            **row, "key": row["key"][:12], "shape": " x ".join(map(str, row["shape"])),
            "fresh": "yes" if row["fresh"] else "no: the content has changed",
        }  # fmt: skip
        cells.append([shown[column] for column in header])
    output.print_table(header, cells)


@app.command(
    "broken",
    epilog=epilog("graphrec features broken movielens-small", "graphrec features broken shop/dataset --csv"),
)
def broken(
    dataset: settings.Dataset,
    root: settings.Root = None,
    store: settings.Store = settings.CACHE,
    options: settings.Set = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """List every item whose content was unreadable or gave no vector, with file or text and reason.

    Where a field of files has no table yet, as after a refused extraction, its files are read and decoded.
    """
    from graphrec.features import FeatureStore
    from graphrec.features.extract.extraction import unreadable

    data, _ = read_with(dataset, root, options)
    if store.exists():
        _require_store(store)
    tables = {
        table.manifest["field"]: table
        for table in reversed(FeatureStore(store).tables(items=data.items.fingerprint))
    }  # the table built last of each field, the one models use
    entries = [
        (field, data.items.index(item), what, reason)
        for field, table in sorted(tables.items())
        for entry in table.manifest["shards"]
        for what in ("unreadable", "empty")
        for item, reason in entry[what].items()
    ]
    unbuilt = sorted(f for f, content in data.content.items() if f not in tables and content.kind != "text")
    for field in unbuilt:
        content = data.content[field]
        output.print_note(f"{field}: no table yet; reading {content.n_present:,} files ...")
        entries += [(field, row, "unreadable", reason) for row, reason in unreadable(content).items()]
    rows = []
    for field, row, what, reason in entries:
        values = data.content.get(field)
        shown: object = values[row] if values is not None else None
        if values is not None and values.kind != "text":
            shown = output.printable(str(values.path(row)))
        elif isinstance(shown, str):
            shown = output.printable(shown[:MAX_TEXT])
        rows.append((row, field, data.items[row], what, shown, reason))
    header = ["field", "item", "what", "content", "reason"]
    cells = [row[1:] for row in sorted(rows, key=lambda r: (r[1], r[0]))]
    if as_csv:
        output.print_csv(header, cells)
    elif cells:
        output.print_table(header, cells, left=header)
    else:
        read_too = f"; every file of {', '.join(unbuilt)} is readable" if unbuilt else ""
        output.print_line(
            f"{store}: {len(tables)} tables for the items of {data.name}, all items have vectors{read_too}"
        )


@app.command(
    "verify", epilog=epilog("graphrec features verify --store cache", "graphrec features verify saved/shop")
)
def verify(
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATASET]",
            help="Verify only the tables of this dataset: a name, or a directory of a saved dataset.",
        ),
    ] = None,
    root: settings.Root = None,
    store: settings.Store = settings.CACHE,
    options: settings.Set = None,
) -> None:
    """Verify the hash of every file in the store; exits with 1 if files are damaged, missing or unknown."""
    from graphrec.features import FeatureStore

    _require_store(store)
    data = None if dataset is None else read_with(dataset, root, options)[0]
    feature_store = FeatureStore(store)
    problems = feature_store.verify(data)
    what = str(store) if data is None else f"{store}, {data.name}"
    for problem in problems:
        output.print_line(problem)
    if problems:
        output.print_note(
            f"{what}: {len(problems)} problems; build the features again, which extracts only what is missing"
        )
        raise typer.Exit(1)
    tables = feature_store.tables() if data is None else feature_store.tables_for(data)
    output.print_line(f"{what}: {len(tables)} tables, no problems")


@app.command("gc", epilog=epilog("graphrec features gc --dry-run", "graphrec features gc --keep 3fa1c2"))
def collect_garbage(
    store: settings.Store = settings.CACHE,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Key prefix of a table to keep; all other tables are removed."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be removed, remove nothing.")
    ] = False,
) -> None:
    """Remove unfinished and superseded tables and temporary files, or all tables except some."""
    from graphrec.features import FeatureStore

    _require_store(store)
    feature_store = FeatureStore(store)
    keys = None
    if keep:
        all_keys = [table.folder.name for table in feature_store.tables(skip_damaged=True)]
        for prefix in keep:
            if not any(key.startswith(prefix) for key in all_keys):
                raise FeatureError(f"{store}: no table's key starts with {prefix!r}; the keys are {all_keys}")
        keys = [key for key in all_keys if key.startswith(tuple(keep))]
    removed = feature_store.gc(keys, dry_run)
    for path in removed:
        output.print_line(f"{'would remove' if dry_run else 'removed'} {path}")
    if not removed:
        output.print_line(f"{store}: nothing to remove")


def _cluster(address: str | None, options: dict[str, Any]) -> Cluster | None:
    """The cluster to compute on; None is this process."""
    from graphrec.core.ray import Cluster

    settings.known_only(options, ["workers", "cpus", "gpus"], "--ray")
    if address is None and options:
        raise ConfigError(f"--set ray.{next(iter(options))} needs --ray ADDRESS")
    return None if address is None else Cluster(address, **options)


def _default_encoder(extractor: Any) -> Any:
    return inspect.signature(extractor).parameters["encoder"].default


def _require_store(store: Path) -> None:
    if not store.is_dir():
        what = "not a directory" if store.exists() else "no such directory"
        raise FeatureError(f"{store}: {what}; expected a feature store; set its directory with --store")
