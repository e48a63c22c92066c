"""``graphrec compare``."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from graphrec.cli import output, settings
from graphrec.cli.help import command
from graphrec.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from graphrec.core.text_table import Format
    from graphrec.runs.comparison import ModelComparison

FILES = ("report.html", "comparison.parquet", "users.parquet", "comparison.json", "table.md", "table.tex")


@command(
    "graphrec compare runs/freedom runs/lightgcn --baseline lightgcn",
    "graphrec compare runs/shop --out comparison",
    "graphrec compare runs/shop --metric ndcg@10 --k 5,10 --format latex",
    "graphrec compare --label A=runs/a-0,runs/a-1 --label B=runs/b-0,runs/b-1 --html report.html",
)
def compare(
    context: typer.Context,
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN...",
            help="Run directories, or directories with run directories.",
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
    metric: Annotated[
        str, typer.Option(help="Metric that decides which model is best, and is tested.")
    ] = "recall@20",
    k: Annotated[str, typer.Option(help="Cut-offs of the table.")] = "10,20",
    metrics: Annotated[
        str, typer.Option(help="Metrics of the table, with or without a cut-off.")
    ] = "recall,ndcg",
    split: settings.Split = "test",
    masked: settings.Masked = None,
    common: Annotated[
        bool,
        typer.Option(
            "--common",
            help="Compare runs of several versions of a dataset, on the users, items and held-out pairs "
            "that all versions have.",
        ),
    ] = False,
    form: settings.TableFormat = "table",
    as_json: settings.AsJson = False,
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
    """Compare finished runs: tables, paired tests, an HTML report.

    Runs in which everything but the seed is equal form one row, with the spread over seeds and intervals over
    users. Each dataset has a table of its own; trials of `graphrec tune` are left out unless they are named.
    Each run is evaluated once; its report is stored in its directory and read the next time.
    """
    form = settings.json_format(as_json, form, "table")
    settings.choice(form, settings.TABLE_FORMATS, "--format")
    settings.suffix(html, [".html", ".htm"], "--html")
    settings.suffix(parquet, [".parquet"], "--parquet")
    cuts = settings.numbers(k, "--k")
    labels = _labels(label or [])
    if not runs and not labels:
        raise ConfigError("name RUNs to compare, such as: graphrec compare runs/freedom runs/lightgcn")
    from graphrec.core.files import explain_os_errors
    from graphrec.runs import comparison as comparisons

    parts = comparisons.split_by_dataset(runs or [], labels, log=output.print_note, common=common)
    several = len(parts) > 1
    if several and (html is not None or parquet is not None):
        raise ConfigError(
            f"the runs are of {len(parts)} datasets ({', '.join(parts)}), and a report is of one; name runs "
            "of one of them, or use --out, which gets a folder for each"
        )
    compared = comparisons.compare_by_dataset(
        parts, baseline=baseline, metric=metric, k=cuts, split=split, masked=masked, root=root, store=store,
        metrics=[name.strip() for name in metrics.split(",")], common=common, log=output.print_note,
    )  # fmt: skip
    command_line = _command_line(context)
    written = []
    if form == "json":
        output.print_json({name: comparisons.summary(comparison) for name, comparison in compared.items()})
    for number, (name, comparison) in enumerate(compared.items()):
        if form != "json":
            if number:
                output.print_line()
            if several:
                output.print_line(f"on {output.printable(name)}:")
            _print(comparison, form)
        with explain_os_errors(out or html or parquet or Path(), DataError):
            if out is not None:
                written += _write_all(comparison, out / _folder_name(name) if several else out, command_line)
            if html is not None:
                written.append(comparisons.to_html(comparison, html, command=command_line))
            if parquet is not None:
                written.append(comparisons.to_parquet(comparison, parquet))
    for study, best in comparisons.studies(runs or []).items():
        hint = "" if best is None else f"; to compare the best one, name it too: {shlex.quote(str(best))}"
        output.print_note(f"{study}: trials of graphrec tune are left out{hint}")
    for path in written:
        output.print_note(f"written: {path}")


def _folder_name(dataset: str) -> str:
    """The name of a dataset as that of a folder."""
    return re.sub(r"[^\w.-]+", "-", dataset).strip(".") or "dataset"


def _write_all(comparison: ModelComparison, out: Path, command_line: str) -> list[Path]:
    """Writes :data:`FILES` into a directory."""
    from graphrec.core.files import write_json, write_text
    from graphrec.runs import comparison as comparisons

    comparisons.to_html(comparison, out / FILES[0], command=command_line)
    comparisons.to_parquet(comparison, out / FILES[1])
    comparisons.to_parquet(comparison, out / FILES[2], per="user")
    write_json(out / FILES[3], comparisons.summary(comparison))
    write_text(out / FILES[4], comparison.table("markdown") + "\n")
    write_text(out / FILES[5], comparison.table("latex") + "\n")
    return [out / name for name in FILES]


def _labels(pairs: list[str]) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, paths = pair.partition("=")
        listed = [path.strip() for path in paths.split(",") if path.strip()]
        if not equals or not name.strip() or not listed:
            raise ConfigError(f"--label {pair}: expected NAME=RUN or NAME=RUN,RUN")
        if name.strip() in labels:
            raise ConfigError(
                f"--label {pair}: {name.strip()} occurs twice; name all its runs in one --label"
            )
        labels[name.strip()] = listed
    return labels


def _print(comparison: ModelComparison, form: str) -> None:
    from graphrec.runs.comparison import answer, notes

    if form != "table":
        markup = cast("Format", form)
        output.print_line(comparison.table(markup))
        if comparison.comparisons:
            output.print_line()
            output.print_line(comparison.comparisons.table(markup))
        for text in (answer(comparison), *notes(comparison)):
            output.print_note(output.printable(text))
        return
    comparison = comparison.best_first()
    output.print_line(output.printable(answer(comparison)))
    output.print_line()
    output.print_table(*comparison.cells(), left=["model"])
    if comparison.comparisons:
        output.print_line()
        output.print_table(*comparison.comparisons.cells(), left=["model", "metric"])
    output.print_line()
    for text in notes(comparison):
        output.print_line(output.printable(text))


def _command_line(context: typer.Context) -> str:
    """The command line that makes the same comparison."""
    parts = ["graphrec", "compare", *map(str, context.params["runs"] or ())]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name in ("runs", "form", "as_json", "parquet") or value in (None, parameter.default):
            continue
        for each in value if isinstance(value, (list, tuple)) else [value]:
            parts += [parameter.opts[0]] if each is True else [parameter.opts[0], str(each)]
    return shlex.join(parts)
