"""``graphrec evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphrec.cli import output, settings
from graphrec.cli.help import command
from graphrec.core.errors import DataError

if TYPE_CHECKING:
    from graphrec.evaluation.report import Report
    from graphrec.runs import OpenedRun

NEW = 2
"""Most training contributions of a person who counts as new."""


@command(
    "graphrec evaluate runs/shop",
    "graphrec evaluate runs/shop --k 5,10,50 --metrics recall,ndcg,map --masked train --out report.parquet",
    "graphrec evaluate runs/shop --cold --beyond --format markdown",
    "graphrec evaluate runs/shop --json",
    "graphrec evaluate runs/history --projects own --k 5,10,20 --metrics ndcg,hit,mrr",
)
def evaluate(
    run: settings.Run,
    k: Annotated[str, typer.Option(help="Cut-offs.")] = "10,20",
    metrics: Annotated[str, typer.Option(help="Names, with or without a cut-off.")] = "recall,ndcg",
    split: settings.Split = "test",
    masked: settings.Masked = None,
    cold: Annotated[
        bool, typer.Option("--cold", help="Also rank warm and cold items each among themselves.")
    ] = False,
    projects: Annotated[
        str | None,
        typer.Option(
            help="For git histories: rank the files of the repositories that a person worked in (own), or of "
            "all others (others). Default: all files."
        ),
    ] = None,
    beyond: Annotated[
        bool, typer.Option("--beyond", help="Add coverage, Gini, novelty, popularity and diversity.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write per-user values as Parquet.")] = None,
    form: settings.TableFormat = "table",
    as_json: settings.AsJson = False,
    root: settings.MovedRoot = None,
    store: settings.MovedStore = None,
) -> None:
    """Rank all items for every user of a held-out split.

    Prints means with 95 % bootstrap intervals. The dataset and the features are checked against the record of
    the run. If items without a training interaction are held out, warm and cold items have rows of their own.
    A policy of conversations is evaluated with simulated users, beside rules chosen on validation; only
    --split applies to it.
    """
    form = settings.json_format(as_json, form, "table")
    settings.choice(form, settings.TABLE_FORMATS, "--format")
    settings.suffix(out, [".parquet"], "--out")
    if projects is not None:
        settings.choice(projects, ["own", "others"], "--projects")
    cuts = settings.numbers(k, "--k")
    from graphrec.core.files import explain_os_errors
    from graphrec.evaluation.candidates import CandidateGroups
    from graphrec.evaluation.metrics import metric_names
    from graphrec.evaluation.ranking import Beyond, evaluate as measure, warm_cold
    from graphrec.models.base import Ranker
    from graphrec.runs import open_run, read_meta
    from graphrec.runs.comparison.from_runs import check_masking, held_out_and_masked
    from graphrec.runs.record import refuse_final

    masked = check_masking(split, masked)
    names = metric_names([name.strip() for name in metrics.split(",")], cuts)
    refuse_final(run, read_meta(run), "evaluated")
    opened = open_run(run, root=root, store=store)
    if not isinstance(opened.model, Ranker):
        _conversations(opened, split, form)
        return
    data = opened.data
    held_out, seen = held_out_and_masked(data, split, masked)
    groups = warm_cold(data.train)
    show_groups = cold or bool(groups["cold"][held_out.items].any())
    candidate_groups = user_groups = None
    if projects is not None:
        candidate_groups = CandidateGroups.from_repositories(data, projects == "own")
        user_groups = {"new": data.train.user_degree <= NEW}
    report: Report = measure(
        opened.model, held_out, seen=seen, k=cuts, metrics=names, candidate_groups=candidate_groups,
        user_groups=user_groups, item_groups=groups if show_groups else None, within=cold,
        beyond=Beyond(data.train, opened.features) if beyond else None, name=opened.meta["model"],
    )  # fmt: skip
    if out is not None:
        with explain_os_errors(out, DataError):
            report.to_parquet(out)
    if form == "markdown":
        output.print_line(report.to_markdown(intervals=True))
    elif form == "latex":
        output.print_line(report.to_latex(intervals=True))
    elif form == "json":
        counts = {key: report.meta[key] for key in ("n_users", "n_excluded", "n_held_out")}
        about = {"run": str(run), "dataset": data.name, "split": split, "masked": masked, **counts}
        output.print_json({**about, **report.summary()})
    else:
        meta = report.meta
        output.print_line(
            f"{report.name} on {split} of {data.name}, {masked} masked: {meta['n_users']:,} users "
            f"({meta['n_excluded']:,} without held-out items), {meta['n_held_out']:,} held-out interactions"
        )
        header, rows = report.cells(intervals=True)
        output.print_table(header, rows, left=["group", *header[2:]])
    if out is not None:
        output.print_note(f"written: {out}")


def _conversations(opened: OpenedRun, split: str, form: str) -> None:
    """Evaluates a policy and the rules to compare it with, in the same conversations."""
    from graphrec.conversation.baselines import TABLE_HEADER, baselines, table_row
    from graphrec.conversation.play import play

    model, data = opened.model, opened.data
    pairs = data.test if split == "test" else model.holdout
    limit = model.config.validation_conversations
    pairs = pairs.where(model.setting.catalog.has_attributes[pairs.items])
    say = output.print_note if form == "json" else output.print_line
    say(
        f"{opened.meta['model']} on {split} of {data.name}: conversations about {len(pairs):,} pairs; rules "
        f"chosen on {min(len(model.holdout), limit or len(model.holdout)):,} held-out validation pairs"
    )
    policies = {opened.meta["model"]: (model, model.setting), **baselines(model.task(data))}
    rows = []
    for name, (policy, setting) in policies.items():
        outcomes = play(policy, setting, model.simulator("test"), pairs.users, pairs.items)
        rows.append([name, *table_row(outcomes)])
    if form == "json":
        output.print_json([dict(zip(TABLE_HEADER, row, strict=True)) for row in rows])
        return
    output.print_table(TABLE_HEADER, rows, left=["policy"])
