"""``graphrec features``: extracting, importing and looking after item features."""

from __future__ import annotations

import inspect
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphrec.cli import output, settings
from graphrec.cli.data import read
from graphrec.cli.help import epilog, group
from graphrec.core.errors import ConfigError, FeatureError

if TYPE_CHECKING:
    from graphrec.core.ray import Cluster

app = group(
    "Image and text features of items: build, import, status, broken, verify, gc, list.",
    "graphrec features build movielens-small",
    "graphrec features status movielens-small",
)

CACHE = Path("cache")
LONGEST_TEXT = 60  # characters of a text that are enough to know it by


@app.command("list", epilog=epilog("graphrec features list"))
def show_extractors() -> None:
    """List the extractors."""
    from graphrec.features.extract import DEFAULTS, EXTRACTORS

    rows = []
    for name, made in settings.registered(EXTRACTORS):
        first = (made.__doc__ or name).splitlines()[0].rstrip(".")
        rows.append((name, made.kind, "yes" if name in DEFAULTS.values() else "", first))
    output.table(["name", "kind", "default", "what"], rows)
    output.following("graphrec features build DATASET --image NAME --text NAME")


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
        str | None, typer.Option(metavar="EXTRACTOR", help="For pictures; none leaves them out.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="EXTRACTOR", help="For texts; none leaves them out.")
    ] = None,
    root: settings.Root = None,
    store: settings.Store = CACHE,
    options: settings.Set = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make everything again.")] = False,
    max_bad: Annotated[
        float, typer.Option(help="Largest share of the content that may be unreadable.")
    ] = 0.05,
    workers: Annotated[
        int | None,
        typer.Option(help="Threads that read pictures, of each process. Default: two per core it takes."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Compute on a Ray cluster: local (one on this machine), auto (the one it is part of), or "
            "HOST:PORT of the head.",
        ),
    ] = None,
) -> None:
    """Extract features from the pictures and texts of a dataset into the store.

    Without --image and --text, the extractors that need no pretrained weights are used. Finished work is
    kept, so an interrupted extraction goes on where it was. Options: image.KEY, text.KEY, data.KEY or KEY,
    and with --ray: ray.workers, ray.cpus and ray.gpus (of a worker).
    """
    from graphrec.features import FeatureStore
    from graphrec.features.extract import DEFAULTS, EXTRACTORS, extractor
    from graphrec.features.extract.extraction import extract

    given = settings.read(options, ["image", "text", "data", "ray"], bare="data")
    cluster = _cluster(ray, given["ray"])
    chosen = {"image": image, "text": text}
    for kind, name in chosen.items():
        if name is not None:
            settings.choice(name, [*EXTRACTORS, "none"], f"--{kind}")
        used = name or DEFAULTS[kind]
        if given[kind] and used in EXTRACTORS:
            made_by = EXTRACTORS.load(used)
            known = settings.arguments_of(made_by)
            inner = given[kind].get("of", _default_of(made_by)) if "of" in known else None
            if inner in EXTRACTORS:  # takes the options of the extractor that it hands its parts to
                known += settings.arguments_of(EXTRACTORS.load(str(inner)))
            settings.known_only(given[kind], known, f"extractor {name or DEFAULTS[kind]!r}")
    data, source = read(dataset, root, given["data"])
    made, incomplete = 0, False
    kinds = {content.kind for content in data.content.values()}
    asked = (k for k, name in chosen.items() if name not in (None, "none") and k not in kinds)
    with cluster.joined() if cluster is not None else nullcontext():
        for field in (*data.content, *asked):
            kind = data.field(field).kind
            if chosen[kind] == "none":
                continue
            tool = extractor(chosen[kind] or DEFAULTS[kind], **given[kind])
            output.note(f"{field}: {tool.name} over {data.field(field).n_present:,} items ...")
            table = extract(
                data, field, tool, FeatureStore(store), rebuild=rebuild, max_bad=max_bad, workers=workers,
                cluster=cluster,
            )  # fmt: skip
            output.say(f"{field}: {table!r}")
            for what, told in (("unreadable", "unreadable"), ("empty", "without a vector")):
                found = table.meta.get(what, {})
                if found.get("count"):
                    first = next(iter(found["reasons"].items()))
                    output.say(f"{field}: {found['count']:,} items {told}, such as {first[0]}: {first[1]}")
                    incomplete = True
            made += 1
    if not made:
        raise FeatureError(
            f"{data.name} has content {sorted(data.content) or 'of no kind'} and nothing of it is left to "
            "extract; name its text and picture columns (graphrec data show --help), or import ready-made "
            "vectors (graphrec features import --help)"
        )
    where = "" if store == CACHE else f" --store {shlex.quote(str(store))}"
    more = [f"graphrec features broken {source.arguments()}{where}"] if incomplete else []
    output.following(*more, f"graphrec train freedom {source.arguments()}{where}")


@app.command(
    "import",
    epilog=epilog(
        "graphrec features import amazon-baby",
        "graphrec features import saved/shop image vectors.npy --ids ids.txt",
    ),
)
def bring(
    dataset: settings.Dataset,
    field: Annotated[
        str | None, typer.Argument(metavar="[FIELD]", help="What the vectors describe: image or text.")
    ] = None,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Vectors, .npy.")] = None,
    ids: Annotated[
        Path | None,
        typer.Option(help="Item id of each row, one a line. Default: row i is item i of the dataset."),
    ] = None,
    root: settings.Root = None,
    store: settings.Store = CACHE,
    options: settings.Set = None,
) -> None:
    """Bring ready-made vectors into the store: a .npy file, or without one what the dataset comes with."""
    from graphrec.data.readers import load_features
    from graphrec.features import FeatureStore, FeatureTable

    given = settings.read(options, ["data"], bare="data")["data"]
    if (field is None) != (file is None):
        raise ConfigError(
            f"found {field or file} alone; expected FIELD and FILE, or neither for what {dataset} comes with"
        )
    data, source = read(dataset, root, given)
    if field is not None and file is not None:
        tables = {field: FeatureTable.from_npy(file, data, field, settings.lines(ids))}
    else:
        ready = load_features(source.dataset, source.root, **source.options)
        tables = {
            name: FeatureTable.from_array(r.values, data, name, ids=r.ids, name=f"{data.name} {name}")
            for name, r in ready.items()
        }
    for name, table in tables.items():
        FeatureStore(store).save(data, name, table)
        output.say(f"{name}: {table!r}")
        if table.meta.get("unknown_ids"):
            output.say(f"{name}: {table.meta['unknown_ids']:,} rows are of unknown items and were left out")


@app.command("status", epilog=epilog("graphrec features status movielens-small --store cache"))
def status(
    dataset: settings.Dataset,
    root: settings.Root = None,
    store: settings.Store = CACHE,
    options: settings.Set = None,
) -> None:
    """List the feature tables there are for a dataset; the first of each field is the one that is used."""
    from graphrec.features import FeatureStore

    data, source = read(dataset, root, settings.read(options, ["data"], bare="data")["data"])
    if store.exists():
        _there(store)
    rows = FeatureStore(store).status(data)
    if not rows:
        output.say(f"{store}: no features for the items of {data.name}")
        output.following(f"graphrec features build {source.arguments()} --store {shlex.quote(str(store))}")
        return
    header = ["field", "extractor", "model", "key", "shape", "present", "unreadable", "fresh", "built"]
    cells = []
    for row in rows:
        shown: dict[str, Any] = {
            **row, "key": row["key"][:12], "shape": " x ".join(map(str, row["shape"])),
            "fresh": "yes" if row["fresh"] else "no: the content has changed",
        }  # fmt: skip
        cells.append([shown[column] for column in header])
    output.table(header, cells)


@app.command(
    "broken",
    epilog=epilog("graphrec features broken movielens-small", "graphrec features broken shop/dataset --csv"),
)
def broken(
    dataset: settings.Dataset,
    root: settings.Root = None,
    store: settings.Store = CACHE,
    options: settings.Set = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """List every item whose content could not be read or gave no vector, with its file or text and why."""
    from graphrec.features import FeatureStore

    data, _ = read(dataset, root, settings.read(options, ["data"], bare="data")["data"])
    if store.exists():
        _there(store)
    tables = {
        table.manifest["field"]: table
        for table in reversed(FeatureStore(store).tables(items=data.items.fingerprint))
    }  # the last built of each field, which is the one that is used
    rows = []
    for field, table in sorted(tables.items()):
        content = data.content.get(field)
        for entry in table.manifest["shards"]:
            for what in ("unreadable", "empty"):
                for item, reason in entry[what].items():
                    row = data.items.index(item)
                    shown: object = content[row] if content is not None else None
                    if content is not None and content.kind == "image":
                        shown = output.printable(str(content.path(row)))
                    elif isinstance(shown, str):
                        shown = output.printable(shown[:LONGEST_TEXT])
                    rows.append((row, field, item, what, shown, reason))
    header = ["field", "item", "what", "content", "reason"]
    cells = [row[1:] for row in sorted(rows, key=lambda r: (r[1], r[0]))]
    if as_csv:
        output.as_csv(header, cells)
    elif cells:
        output.table(header, cells, left=header)
    else:
        output.say(f"{store}: {len(tables)} tables for the items of {data.name}, nothing broken in them")


@app.command("verify", epilog=epilog("graphrec features verify --store cache"))
def verify(store: settings.Store = CACHE) -> None:
    """Hash every file of the store again; names what is damaged, missing or foreign and exits with 1."""
    from graphrec.features import FeatureStore

    _there(store)
    problems = FeatureStore(store).verify()
    for problem in problems:
        output.say(problem)
    if problems:
        output.note(
            f"{store}: {len(problems)} problems; build the features again, which makes only what is lost"
        )
        raise typer.Exit(1)
    output.say(f"{store}: {len(FeatureStore(store).tables())} tables, all whole")


@app.command("gc", epilog=epilog("graphrec features gc --dry-run", "graphrec features gc --keep 3fa1c2"))
def collect(
    store: settings.Store = CACHE,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Beginning of a key to keep; all other tables are removed."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list.")] = False,
) -> None:
    """Remove unfinished and superseded tables and temporary files, or all tables but some."""
    from graphrec.features import FeatureStore

    _there(store)
    found = FeatureStore(store)
    keys = None
    if keep:
        every = [table.folder.name for table in found.tables(skip_damaged=True)]
        for beginning in keep:
            if not any(key.startswith(beginning) for key in every):
                raise FeatureError(f"{store}: no table's key begins with {beginning!r}; there are {every}")
        keys = [key for key in every if key.startswith(tuple(keep))]
    removed = found.gc(keys, dry_run)
    for path in removed:
        output.say(f"{'would remove' if dry_run else 'removed'} {path}")
    if not removed:
        output.say(f"{store}: nothing to remove")


def _cluster(address: str | None, options: dict[str, Any]) -> Cluster | None:
    """Where to compute: None is this process."""
    from graphrec.core.ray import Cluster

    settings.known_only(options, ["workers", "cpus", "gpus"], "--ray")
    if address is None and options:
        raise ConfigError(f"--set ray.{next(iter(options))}: expected with --ray ADDRESS")
    return None if address is None else Cluster(address, **options)


def _default_of(extractor: Any) -> Any:
    return inspect.signature(extractor).parameters["of"].default


def _there(store: Path) -> None:
    if not store.is_dir():
        what = "not a directory" if store.exists() else "no such directory"
        raise FeatureError(f"{store}: {what}; expected a feature store, named with --store")
