"""``graphrec recommend``, ``similar``, ``export``, ``index`` and ``serve``: use a trained run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from graphrec.cli import output, settings
from graphrec.cli.help import command
from graphrec.core.errors import ConfigError, first_few

if TYPE_CHECKING:
    from graphrec.data import Vocabulary

FORMATS = ("table", "json", "csv")
SEARCHES = ("auto", "exact", "approximate")
JOURNAL = "added.journal"
NOBODY = "(history)"
"""What stands for a user who is known by a list of items alone."""

K = Annotated[int, typer.Option("-k", "--k", min=1, help="Number of items.")]
Format = Annotated[str, typer.Option("--format", help="table, json or csv.")]
Only = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Recommend only these items; one id per line.")
]
Exclude = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Never recommend these items; one id per line.")
]
IncludeSeen = Annotated[
    bool, typer.Option("--include-seen", help="Also recommend items the user has interacted with.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse unknown ids instead of naming them and answering the rest.")
]
Search = Annotated[str, typer.Option("--search", help="exact, approximate (needs graphrec index), or auto.")]


@command(
    "graphrec recommend runs/shop --user U00001",
    "graphrec recommend runs/shop --user U00001 --user U00002 -k 5 --only in-stock.txt --format json",
    "graphrec recommend runs/shop --user newcomer --unknown popularity",
    "graphrec recommend runs/shop --history P0001 --history P0007",
    "graphrec recommend runs/shop --history-file basket.csv",
)
def recommend(
    run: settings.Run,
    user: Annotated[list[str] | None, typer.Option(help="User id; may be repeated.")] = None,
    history: Annotated[
        list[str] | None,
        typer.Option(
            help="Id of an item that the user took, oldest first; may be repeated. Instead of what is known "
            "of the user, or of somebody without --user."
        ),
    ] = None,
    history_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Such items in a CSV file instead: the columns item and, if there are any, weight (how much "
            "it counts, above 0) and time (which gives the order).",
        ),
    ] = None,
    k: K = 10,
    only: Only = None,
    exclude: Exclude = None,
    include_seen: IncludeSeen = False,
    unknown: Annotated[str, typer.Option(help="For unknown users: error or popularity.")] = "error",
    search: Search = "auto",
    strict: Strict = False,
    form: Format = "table",
    as_json: settings.AsJson = False,
) -> None:
    """Recommend items to users, or to somebody who is known by a list of items.

    RUN is a run directory or a saved recommender; dataset and features are not needed. Unknown ids are named
    on stderr and the rest is answered; it is an error if no user or no item of --only is known. If no item of
    --history is known, the most popular items are recommended.
    """
    weights = times = None
    if history_file is not None:
        if history:
            raise ConfigError("--history and --history-file both list what one user took; give one of them")
        history, weights, times = settings.history(history_file)
    source = "--history" if history_file is None else "--history-file"
    if not user and not history:
        raise ConfigError("nobody to recommend to; give --user, --history, or both")
    if history and len(user or ()) > 1:
        raise ConfigError(f"{source} describes one user, and --user names {len(user or ())}")
    form = settings.json_format(as_json, form, "table")
    settings.choice(form, FORMATS, "--format")
    settings.choice(unknown, ["error", "popularity"], "--unknown")
    settings.choice(search, SEARCHES, "--search")
    allowed = settings.lines(only)
    excluded = settings.lines(exclude)
    from graphrec.runs import open_recommender

    recommender, titles = open_recommender(run)
    k = min(k, len(recommender.items))
    if user and not history and unknown == "error":
        user = _known(recommender.users, user, "--user", strict)
    if history:
        known = [name in recommender.items for name in history]
        history = _known(recommender.items, history, source, strict, required=False)
        weights, times = (values and list(compress(values, known)) for values in (weights, times))
        if not history:
            output.print_note(f"no item of {source} is known; the most popular items follow")
            unknown = "popularity"
    allowed = allowed and _known(recommender.items, allowed, "--only", strict)
    excluded = excluded and _known(recommender.items, excluded, "--exclude", strict, required=False)
    ids, scores = recommender.recommend(
        user or None, k, history=history, weights=weights, times=times,
        exclude_seen=not include_seen, only=allowed, exclude=excluded,
        unknown=cast(Literal["error", "popularity"], unknown), search=cast(Any, search),
    )  # fmt: skip
    if not user:  # one row
        ids = ids[None]
        scores = scores[None]
    _print_ranking("user", user or [NOBODY], ids, scores, titles, form)


@command("graphrec similar runs/shop --item P0001 -k 5")
def similar(
    run: settings.Run,
    item: Annotated[list[str], typer.Option(help="Item id; may be repeated.")],
    k: K = 10,
    search: Search = "auto",
    strict: Strict = False,
    form: Format = "table",
    as_json: settings.AsJson = False,
) -> None:
    """Find the items most similar to an item.

    Similarity is the cosine of the items' embeddings.
    """
    form = settings.json_format(as_json, form, "table")
    settings.choice(form, FORMATS, "--format")
    settings.choice(search, SEARCHES, "--search")
    from graphrec.runs import open_recommender

    recommender, titles = open_recommender(run)
    item = _known(recommender.items, item, "--item", strict)
    ids, scores = recommender.similar_items(item, min(k, len(recommender.items)), search=cast(Any, search))
    _print_ranking("item", item, ids, scores, titles, form)


@command(
    "graphrec export runs/shop --out recommendations.parquet -k 50",
    "graphrec export runs/shop --out recommendations.csv",
    "graphrec export runs/shop --faiss index",
)
def export(
    run: settings.Run,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for recommendations: user, rank, item, score. Its suffix is the format: .parquet, "
            ".csv, .jsonl or .arrow."
        ),
    ] = None,
    faiss: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory for a FAISS index over the items.")
    ] = None,
    k: K = 10,
    users: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Only these users; one id per line.")
    ] = None,
    only: Only = None,
    exclude: Exclude = None,
    include_seen: IncludeSeen = False,
    search: Search = "auto",
    strict: Strict = False,
    escape_formulas: Annotated[
        bool,
        typer.Option(
            "--escape-formulas",
            help="In .csv, put ' before ids that begin with =, +, -, @ or a tab, so that a spreadsheet does "
            "not run them.",
        ),
    ] = False,
) -> None:
    """Write recommendations for all users, or a FAISS index, or both.

    The index is over the item embeddings.
    """
    if out is None and faiss is None:
        raise ConfigError("nothing to write; set a file with --out, a directory with --faiss, or both")
    settings.suffix(out, [".parquet", ".csv", ".jsonl", ".arrow"], "--out")
    settings.choice(search, SEARCHES, "--search")
    selected = settings.lines(users)
    allowed = settings.lines(only)
    excluded = settings.lines(exclude)
    from graphrec.runs import open_recommender

    recommender, _ = open_recommender(run)
    k = min(k, len(recommender.items))
    selected = selected and _known(recommender.users, selected, "--users", strict)
    allowed = allowed and _known(recommender.items, allowed, "--only", strict)
    excluded = excluded and _known(recommender.items, excluded, "--exclude", strict, required=False)
    if out is not None:
        recommender.export(
            out, k, selected, exclude_seen=not include_seen, only=allowed, exclude=excluded,
            search=cast(Any, search), escape_formulas=escape_formulas,
        )  # fmt: skip
        n = len(recommender.users) if selected is None else len(selected)
        output.print_line(f"{out}: up to {k} items for each of {n:,} users")
    if faiss is not None:
        recommender.export_faiss(faiss)
        output.print_line(f"{faiss}: FAISS index of {len(recommender.items):,} items")


@command("graphrec index runs/shop", "graphrec index runs/shop --recall 0.99 --no-similar")
def index(
    run: settings.Run,
    recall: Annotated[
        float,
        typer.Option(help="Target recall: average share of the exact top K that a search finds, up to 1."),
    ] = 0.95,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="The K of the recall.")] = 20,
    lists: Annotated[
        int | None, typer.Option(min=1, help="Number of inverted lists. Default: 4 sqrt(items).")
    ] = None,
    similar: Annotated[
        bool,
        typer.Option(
            "--similar/--no-similar", help="Also build an index for similar items, of the same size."
        ),
    ] = True,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Build an approximate search index over the items (extra ann).

    Useful from hundreds of thousands of items; with fewer, exact search is as fast. The index is stored with
    the recommender and used until a recommender with other vectors is saved there.
    """
    from graphrec.runs import recommender_folder
    from graphrec.serving import Recommender

    folder = recommender_folder(run)
    recommender = Recommender.load(folder)
    k = min(k, len(recommender.items))
    built = recommender.build_index(folder, recall=recall, k=k, lists=lists, similar=similar, seed=seed)
    for what, facts in built.items():
        output.print_line(
            f"{what}: recall@{facts.k} {facts.recall:.4f} on {facts.queries:,} queries, {facts.probes:,} of "
            f"{facts.lists:,} lists searched, {facts.scanned:.2%} of {facts.items:,} items compared"
        )
    output.print_next_steps(
        f"graphrec serve {run}", f"graphrec recommend {run} --user ID --search approximate"
    )


@command(
    "graphrec serve runs/shop",
    "graphrec serve runs/shop --read-only --host 0.0.0.0 --port 80",
    "graphrec serve runs/shop --search exact --journal added.journal",
    "curl -H 'content-type: application/json' -d '{\"users\": [\"U00001\"]}' localhost:8000/recommend",
)
def serve(
    run: settings.Run,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    search: Search = "auto",
    journal: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"File that records added items. Default: {JOURNAL} in the recommender's folder.",
        ),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Accept no new items.")] = False,
) -> None:
    """Serve recommendations over HTTP (extra serve).

    Endpoints: POST /recommend, POST /similar, POST /items, GET /health; /openapi.json describes them. The
    service has no authentication: to expose it beyond this machine, put an authenticating proxy in front.
    """
    settings.choice(search, SEARCHES, "--search")
    if read_only and journal is not None:
        raise ConfigError(
            "--read-only accepts no items, so there is nothing to record with --journal; remove one of the "
            "two"
        )
    from graphrec.runs import open_recommender, recommender_folder
    from graphrec.serving.http.service import serve as run_server

    folder = recommender_folder(run)
    recommender, _ = open_recommender(run)
    path = None if read_only else journal or folder / JOURNAL
    if path is not None and not recommender.modalities:
        if journal is not None:
            raise ConfigError("--journal records new items, but this recommender does not support new items")
        output.print_note("new items are not accepted: this recommender does not support them")
        path = None
    run_server(recommender, host, port, search=cast(Any, search), journal=path)


def _known(
    vocabulary: Vocabulary, ids: list[str], option: str, strict: bool, required: bool = True
) -> list[str]:
    """The ids that are known, after a line about the others.

    Raises:
        UnknownIdError: an id is unknown and ``strict``, or none is known and ``required``.
    """
    unknown = list(dict.fromkeys(name for name in ids if name not in vocabulary))
    known = [name for name in ids if name in vocabulary]
    if unknown and (strict or (required and not known)):
        vocabulary.indices(ids)
    if unknown:
        output.print_note(
            f"{option}: {len(unknown):,} of {len(set(ids)):,} ids are unknown and left out: "
            f"{first_few([output.printable(name) for name in unknown])}"
        )
    return known


def _print_ranking(
    kind: str, requested: Sequence[str], ids: Any, scores: Any, titles: Mapping[str, str], form: str
) -> None:
    answer = "item" if kind == "user" else "similar"
    rows = [
        (name, rank, result, float(score), titles.get(result, ""))
        for name, results, values in zip(requested, ids, scores, strict=True)
        for rank, (result, score) in enumerate(zip(results, values, strict=True), 1)
        if result is not None
    ]
    header = [kind, "rank", answer, "score", "title"][: 5 if titles else 4]
    if form == "json":
        output.print_json([dict(zip(header, row, strict=False)) for row in rows])
    elif form == "csv":
        output.print_csv(header, [row[: len(header)] for row in rows])
    else:
        shown = [(*row[:3], f"{row[3]:.4f}", row[4])[: len(header)] for row in rows]
        output.print_table(header, shown, left=[kind, answer, "title"])
    for name in sorted(set(requested) - {row[0] for row in rows}):
        output.print_note(f"{kind} {name}: no items to recommend")
