"""``graphrec compare``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphrec.cli import output, settings
from graphrec.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from graphrec.runs.comparison import ModelComparison

EXAMPLES = (
    "graphrec compare runs/freedom runs/lightgcn --baseline lightgcn",
    "graphrec compare runs/shop --out comparison",
    "graphrec compare runs/shop --metric ndcg@10 --k 5,10 --format latex",
    "graphrec compare --label A=runs/a-0,runs/a-1 --label B=runs/b-0,runs/b-1 --html report.html",
)
FILES = ("report.html", "comparison.parquet", "users.parquet", "comparison.json", "table.md", "table.tex")


def compare(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN...",
            help="Run directories, or directories that hold some.",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=RUN,RUN",
            help="A row with a name of your own: runs that differ in the seed alone. May be repeated.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Row that the others are tested against. Default: the best."),
    ] = None,
    metric: Annotated[str, typer.Option(help="Decides which model is best; is tested.")] = "recall@20",
    k: Annotated[str, typer.Option(help="Cut-offs of the table.")] = "10,20",
    metrics: Annotated[str, typer.Option(help="Of the table, with or without a cut-off.")] = "recall,ndcg",
    split: settings.Split = "test",
    masked: Annotated[
        str | None,
        typer.Option(
            help="What users are not recommended again: train, train+valid or none. Default: train+valid for "
            "test, train for valid."
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="table, markdown or latex.")] = "table",
    out: Annotated[
        Path | None, typer.Option(help=f"Write everything into this directory: {', '.join(FILES)}.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the report with its charts as one HTML file.")
    ] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write the numbers as Parquet.")] = None,
    root: settings.MovedRoot = None,
    store: settings.MovedStore = None,
) -> None:
    """Compare finished runs: several seeds a model, spread, intervals, paired tests, an HTML report.

    Runs in which everything but the seed is equal form one row. Each run is evaluated once; what came out is
    kept in its directory and read back the next time.
    """
    settings.choice(form, ["table", "markdown", "latex"], "--format")
    cuts, labels = settings.numbers(k, "--k"), _labels(label or [])
    if not runs and not labels:
        raise ConfigError("name RUNs to compare, such as: graphrec compare runs/freedom runs/lightgcn")
    from graphrec.core.files import explain_os_errors, write_json, write_text
    from graphrec.runs.comparison import compare as compared

    made = compared(
        runs or [], baseline=baseline, metric=metric, k=cuts, split=split, masked=masked, labels=labels,
        metrics=[name.strip() for name in metrics.split(",")], root=root, store=store, say=output.print_note,
    )  # fmt: skip
    _print(made, form)
    again = _again(
        runs or [], label or [],
        {
            "--baseline": (baseline, None), "--metric": (metric, "recall@20"), "--k": (k, "10,20"),
            "--metrics": (metrics, "recall,ndcg"), "--split": (split, "test"), "--masked": (masked, None),
            "--root": (root, None), "--store": (store, None), "--html": (html, None), "--out": (out, None),
        },
    )  # fmt: skip
    written = []
    with explain_os_errors(out or html or parquet or Path(), DataError):
        if out is not None:
            made.to_html(out / FILES[0], command=again)
            made.to_parquet(out / FILES[1])
            made.to_parquet(out / FILES[2], per="user")
            write_json(out / FILES[3], made.summary())
            write_text(out / FILES[4], made.table("markdown") + "\n")
            write_text(out / FILES[5], made.table("latex") + "\n")
            written += [out / name for name in FILES]
        if html is not None:
            written.append(made.to_html(html, command=again))
        if parquet is not None:
            written.append(made.to_parquet(parquet))
    for path in written:
        output.print_note(f"written: {path}")


def _labels(pairs: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, paths = pair.partition("=")
        listed = [path.strip() for path in paths.split(",") if path.strip()]
        if not equals or not name.strip() or not listed:
            raise ConfigError(f"--label {pair}: expected NAME=RUN or NAME=RUN,RUN")
        if name.strip() in found:
            raise ConfigError(
                f"--label {pair}: {name.strip()} is given twice; name all its runs in one --label"
            )
        found[name.strip()] = listed
    return found


def _print(made: ModelComparison, form: str) -> None:
    if form == "markdown" or form == "latex":
        output.print_line(made.table("markdown" if form == "markdown" else "latex"))
        if made.comparisons:
            output.print_line()
            output.print_line(made.comparisons.table("markdown" if form == "markdown" else "latex"))
        for text in (made.answer, *made.notes):
            output.print_note(output.printable(text))
        return
    output.print_line(output.printable(made.answer))
    output.print_line()
    output.print_table(*made.cells(), left=["model"])
    if made.comparisons:
        output.print_line()
        output.print_table(*made.comparisons.cells(), left=["model", "metric"])
    output.print_line()
    for text in made.notes:
        output.print_line(output.printable(text))


def _again(runs: list[Path], labels: list[str], options: dict[str, tuple[object, object]]) -> str:
    """The command line that makes the same again."""
    parts = ["graphrec", "compare", *map(str, runs)]
    for pair in labels:
        parts += ["--label", pair]
    for name, (value, usual) in options.items():
        if value != usual:
            parts += [name, str(value)]
    return shlex.join(parts)
