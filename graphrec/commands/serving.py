"""``graphrec recommend``, ``similar`` and ``export``: what a trained run is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from graphrec.commands import output, settings
from graphrec.errors import ConfigError

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
FORMS = ("table", "json", "csv")

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


def recommend(
    run: settings.Run,
    user: Annotated[list[str], typer.Option(help="A user's id; may be given several times.")],
    k: K = 10,
    only: Only = None,
    exclude: Exclude = None,
    include_seen: IncludeSeen = False,
    unknown: Annotated[str, typer.Option(help="For unknown users: error or popularity.")] = "error",
    form: Form = "table",
) -> None:
    """Recommend items to users.

    RUN is a run directory or a saved recommender; neither dataset nor features are needed.
    """
    settings.choice(form, FORMS, "--format")
    settings.choice(unknown, ["error", "popularity"], "--unknown")
    limits = settings.lines(only), settings.lines(exclude)
    from graphrec.runs import open_recommender

    recommender, titles = open_recommender(run)
    k = min(k, len(recommender.items))
    ids, scores = recommender.recommend(
        user, k, exclude_seen=not include_seen, only=limits[0], exclude=limits[1],
        unknown=cast(Literal["error", "popularity"], unknown),
    )  # fmt: skip
    _print("user", user, ids, scores, titles, form)


def similar(
    run: settings.Run,
    item: Annotated[list[str], typer.Option(help="An item's id; may be given several times.")],
    k: K = 10,
    form: Form = "table",
) -> None:
    """Find the items that the model holds to be most like an item (cosine of embeddings)."""
    settings.choice(form, FORMS, "--format")
    from graphrec.runs import open_recommender

    recommender, titles = open_recommender(run)
    ids, scores = recommender.similar_items(item, min(k, len(recommender.items)))
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
) -> None:
    """Write recommendations for all users as Parquet, or the item embeddings as a FAISS index, or both."""
    if out is None and faiss is None:
        raise ConfigError(
            "nothing to write: name a Parquet file with --out, a directory with --faiss, or both"
        )
    limits = settings.lines(users), settings.lines(only), settings.lines(exclude)
    from graphrec.runs import open_recommender

    recommender, _ = open_recommender(run)
    k = min(k, len(recommender.items))
    if out is not None:
        recommender.export(
            out, k, limits[0], exclude_seen=not include_seen, only=limits[1], exclude=limits[2]
        )
        n = len(recommender.users) if limits[0] is None else len(limits[0])
        output.say(f"{out}: up to {k} items for each of {n:,} users")
    if faiss is not None:
        recommender.export_faiss(faiss)
        output.say(f"{faiss}: FAISS index of {len(recommender.items):,} items")


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
