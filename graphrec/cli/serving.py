"""``graphrec recommend``, ``similar`` and ``export``: what a trained run is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from graphrec.cli import output, settings
from graphrec.core.errors import ConfigError

RECOMMEND_EXAMPLES = (
    "graphrec recommend runs/shop --user U00001",
    "graphrec recommend runs/shop --user U00001 --user U00002 -k 5 --only in-stock.txt --format json",
    "graphrec recommend runs/shop --user newcomer --unknown popularity",
)
SIMILAR_EXAMPLES = ("graphrec similar runs/shop --item P0001 -k 5",)
EXPORT_EXAMPLES = (
    "graphrec export runs/shop --out recommendations.parquet -k 50",
    "graphrec export runs/shop --faiss index",
)
INDEX_EXAMPLES = (
    "graphrec index runs/shop",
    "graphrec index runs/shop --recall 0.99 --no-similar",
)
SERVE_EXAMPLES = (
    "graphrec serve runs/shop",
    "graphrec serve runs/shop --read-only --host 0.0.0.0 --port 80",
    "graphrec serve runs/shop --search exact --journal added.journal",
    "curl -H 'content-type: application/json' -d '{\"users\": [\"U00001\"]}' localhost:8000/recommend",
)
FORMS = ("table", "json", "csv")
SEARCHES = ("auto", "exact", "approximate")
JOURNAL = "added.journal"

K = Annotated[int, typer.Option("-k", "--k", min=1, help="How many items.")]
Form = Annotated[str, typer.Option("--format", help="table, json or csv.")]
Only = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Recommend these items alone; one id a line.")
]
Exclude = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Never recommend these items; one id a line.")
]
IncludeSeen = Annotated[
    bool, typer.Option("--include-seen", help="Recommend also what the user is known to have.")
]


Searched = Annotated[
    str,
    typer.Option("--search", help="exact, approximate (graphrec index makes it possible), or auto."),
]


def recommend(
    run: settings.Run,
    user: Annotated[list[str], typer.Option(help="A user's id; may be given several times.")],
    k: K = 10,
    only: Only = None,
    exclude: Exclude = None,
    include_seen: IncludeSeen = False,
    unknown: Annotated[str, typer.Option(help="For unknown users: error or popularity.")] = "error",
    search: Searched = "auto",
    form: Form = "table",
) -> None:
    """Recommend items to users.

    RUN is a run directory or a saved recommender; neither dataset nor features are needed.
    """
    settings.choice(form, FORMS, "--format")
    settings.choice(unknown, ["error", "popularity"], "--unknown")
    settings.choice(search, SEARCHES, "--search")
    limits = settings.lines(only), settings.lines(exclude)
    from graphrec.runs import open_recommender

    recommender, titles = open_recommender(run)
    k = min(k, len(recommender.items))
    ids, scores = recommender.recommend(
        user, k, exclude_seen=not include_seen, only=limits[0], exclude=limits[1],
        unknown=cast(Literal["error", "popularity"], unknown), search=cast(Any, search),
    )  # fmt: skip
    _print("user", user, ids, scores, titles, form)


def similar(
    run: settings.Run,
    item: Annotated[list[str], typer.Option(help="An item's id; may be given several times.")],
    k: K = 10,
    search: Searched = "auto",
    form: Form = "table",
) -> None:
    """Find the items that the model holds to be most like an item (cosine of embeddings)."""
    settings.choice(form, FORMS, "--format")
    settings.choice(search, SEARCHES, "--search")
    from graphrec.runs import open_recommender

    recommender, titles = open_recommender(run)
    ids, scores = recommender.similar_items(item, min(k, len(recommender.items)), search=cast(Any, search))
    _print("item", item, ids, scores, titles, form)


def export(
    run: settings.Run,
    out: Annotated[
        Path | None, typer.Option(help="Parquet file for recommendations: user, rank, item, score.")
    ] = None,
    faiss: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory for a FAISS index over the items.")
    ] = None,
    k: K = 10,
    users: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For these users alone; one id a line.")
    ] = None,
    only: Only = None,
    exclude: Exclude = None,
    include_seen: IncludeSeen = False,
    search: Searched = "auto",
) -> None:
    """Write recommendations for all users as Parquet, or the item embeddings as a FAISS index, or both."""
    if out is None and faiss is None:
        raise ConfigError(
            "nothing to write: name a Parquet file with --out, a directory with --faiss, or both"
        )
    settings.choice(search, SEARCHES, "--search")
    limits = settings.lines(users), settings.lines(only), settings.lines(exclude)
    from graphrec.runs import open_recommender

    recommender, _ = open_recommender(run)
    k = min(k, len(recommender.items))
    if out is not None:
        recommender.export(
            out, k, limits[0], exclude_seen=not include_seen, only=limits[1], exclude=limits[2],
            search=cast(Any, search),
        )  # fmt: skip
        n = len(recommender.users) if limits[0] is None else len(limits[0])
        output.say(f"{out}: up to {k} items for each of {n:,} users")
    if faiss is not None:
        recommender.export_faiss(faiss)
        output.say(f"{faiss}: FAISS index of {len(recommender.items):,} items")


def index(
    run: settings.Run,
    recall: Annotated[
        float, typer.Option(help="Share of the exact top K that a search is to find on average, up to 1.")
    ] = 0.95,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="The K that recall is about.")] = 20,
    lists: Annotated[
        int | None, typer.Option(min=1, help="Divide items among so many lists. Default: 4 sqrt(items).")
    ] = None,
    similar: Annotated[
        bool, typer.Option("--similar/--no-similar", help="One for similar items, too, as large again.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
) -> None:
    """Build an index over the items, so that a search need not compare with every one of them (extra ann).

    For hundreds of thousands of items and more; with fewer, an exact search is as fast. The index lies beside
    the recommender and is used from then on, until a recommender with other vectors is saved there.
    """
    from graphrec.runs import recommender_folder
    from graphrec.serving import Recommender

    folder = recommender_folder(run)
    recommender = Recommender.load(folder)
    k = min(k, len(recommender.items))
    built = recommender.build_index(folder, recall=recall, k=k, lists=lists, similar=similar, seed=seed)
    for what, facts in built.items():
        output.say(
            f"{what}: recall@{facts.k} {facts.recall:.4f} on {facts.queries:,} queries, {facts.probes:,} of "
            f"{facts.lists:,} lists searched, {facts.scanned:.2%} of {facts.items:,} items compared"
        )
    output.following(f"graphrec serve {run}", f"graphrec recommend {run} --user ID --search approximate")


def serve(
    run: settings.Run,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
    search: Searched = "auto",
    journal: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"Keeps added items. Default: {JOURNAL} beside the recommender."),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Take no new items.")] = False,
) -> None:
    """Serve recommendations, similar items and new items over HTTP (extra serve).

    POST /recommend, POST /similar, POST /items, GET /health; /openapi.json describes them. There is no
    log-in: beyond this machine, put a proxy in front that has one.
    """
    settings.choice(search, SEARCHES, "--search")
    if read_only and journal is not None:
        raise ConfigError("--read-only takes no items to keep in a journal; leave out one of the two")
    from graphrec.runs import open_recommender, recommender_folder
    from graphrec.serving.http.service import serve as run_server

    folder = recommender_folder(run)
    recommender, _ = open_recommender(run)
    kept = None if read_only else journal or folder / JOURNAL
    if kept is not None and not recommender.modalities:
        if journal is not None:
            raise ConfigError(
                "--journal keeps new items, and this recommender cannot place any by their content"
            )
        output.note("new items are not taken: this recommender cannot place any by their content")
        kept = None
    run_server(recommender, host, port, search=cast(Any, search), journal=kept)


def _print(
    kind: str, asked: Sequence[str], ids: Any, scores: Any, titles: Mapping[str, str], form: str
) -> None:
    answer = "item" if kind == "user" else "similar"
    rows = [
        (name, rank, found, float(score), titles.get(found, ""))
        for name, some, values in zip(asked, ids, scores, strict=True)
        for rank, (found, score) in enumerate(zip(some, values, strict=True), 1)
        if found is not None
    ]
    header = [kind, "rank", answer, "score", "title"][: 5 if titles else 4]
    if form == "json":
        output.as_json([dict(zip(header, row, strict=False)) for row in rows])
    elif form == "csv":
        output.as_csv(header, [row[: len(header)] for row in rows])
    else:
        shown = [(*row[:3], f"{row[3]:.4f}", row[4])[: len(header)] for row in rows]
        output.table(header, shown, left=[kind, answer, "title"])
    for name in sorted(set(asked) - {row[0] for row in rows}):
        output.note(f"{kind} {name}: nothing is left to recommend")
