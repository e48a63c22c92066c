"""Steps of the demonstration, from generating a catalog to its report."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphrec.cli.demo.protocol import EPOCHS, GROUPS, METRICS, MODELS, SELECT, TRAINING, group_report
from graphrec.cli.help import command
from graphrec.core.errors import ConfigError, DataError
from graphrec.core.files import read_json, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from graphrec.data import Dataset
    from graphrec.evaluation.report import Comparisons, Report

MARKER = "demo.json"
"""File that marks a directory as written by the demo, with its results."""


@command("graphrec demo", "graphrec demo --out runs/small --items 200 --users 400")
def demo(
    out: Annotated[Path, typer.Option(help="Directory for data, runs and report.")] = Path("runs/demo"),
    items: Annotated[int, typer.Option(help="Number of items to generate.")] = 640,
    users: Annotated[int, typer.Option(help="Number of users to generate.")] = 1500,
    seed: Annotated[int, typer.Option(help="Seed of the data and of training.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="Maximum number of epochs. Default: 60.")] = None,
) -> None:
    """Generate a catalog, train models on it and compare them.

    Writes the comparison as a table and an HTML report.
    """
    run(out=out, n_items=items, n_users=users, seed=seed, epochs=epochs)


def run(
    out: str | Path = "runs/demo",
    n_items: int = 640,
    n_users: int = 1500,
    seed: int = 0,
    epochs: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Runs the demonstration; replaces an earlier one in the same directory.

    Writes into ``out``: ``catalog/`` (the generated files), ``features/`` (a feature store), a run
    directory for each model, ``report.html`` and ``demo.json`` (what this returns).

    Args:
        out: directory to write to.
        n_items: items to generate.
        n_users: users to generate.
        seed: of the catalog, the split, the models and the choice of users in the report.
        epochs: most epochs of training; default: 60.
        quiet: print nothing.

    Returns:
        JSON-able: ``report`` (path), ``seconds``, ``steps`` (seconds by step), ``data``, ``metrics``
        (model -> part of the report -> metric -> mean, low, high, n_users), ``comparisons``.

    Raises:
        DataError: ``out`` holds a file or folder that the demo would write and no earlier demo wrote.
        ConfigError: numbers out of range.
    """
    from rich.console import Console

    from graphrec.cli.demo.page import write_page
    from graphrec.runs.repeat import torch_threads

    out = Path(out)
    started = time.perf_counter()
    progress = _Progress(Console(quiet=quiet, highlight=False))
    if epochs is not None and epochs < 1:
        raise ConfigError(f"epochs {epochs}; expected at least 1")
    settings = {"n_items": n_items, "n_users": n_users, "seed": seed, "epochs": epochs or EPOCHS}
    _clear(out, settings)
    progress.print("[bold]graphrec demo[/bold]: a generated shop, from files to recommendations")
    with torch_threads(1):  # more do not speed up matrices this small, and slow a busy machine
        data = _data(out, settings, progress)
        features = _features(out, data, progress)
        runs = _train(out, data, features, settings, progress)
        with progress.step("evaluate on test") as details:
            reports = _evaluate({name: run.model for name, run in runs.items()}, data)
            for name, report in reports.items():
                report.to_parquet(out / name / "test.parquet")
            comparisons = _compare(reports)
            details.append(f"{len(reports['popularity']):,} users with held-out items")
        with progress.step("write the report"):
            write_page(out, data, features, runs, reports, comparisons, settings, progress.seconds)
    results = {
        **settings,
        "generated": True,
        "complete": True,
        "report": str(out / "report.html"),
        "seconds": time.perf_counter() - started,
        "steps": progress.seconds,
        "data": data.summary(),
        "metrics": {name: _numbers(report) for name, report in reports.items()},
        "comparisons": [{**vars(c), "interval": list(c.interval)} for c in comparisons],
    }
    write_json(out / MARKER, results)
    progress.print(_table(reports))
    progress.print(_sentence(comparisons))
    _print_next(out, data, time.perf_counter() - started, progress)
    return results


class _Progress:
    """The console, and the seconds of each finished step."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.print = console.print
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """Shows a step while it runs, then its time and the texts appended to the yielded list."""
        details: list[str] = []
        started = time.perf_counter()
        with self.console.status(f"{title} ..."):
            yield details
        self.seconds[title] = time.perf_counter() - started
        self.print(
            f"  [green]done[/green] {title:<26} {self.seconds[title]:6.1f} s   {'; '.join(details)}",
            soft_wrap=True,
        )


def _clear(out: Path, settings: Mapping[str, Any]) -> None:
    """Removes an earlier demo's runs and nothing else; its features are kept, as a cache."""
    existing = [name for name in ("catalog", "features", "report.html", *MODELS) if (out / name).exists()]
    if (out / MARKER).exists():
        before = read_json(out / MARKER)
        if not isinstance(before, dict) or before.get("generated") is not True:
            raise DataError(f"{out / MARKER}: not written by the demo; choose another directory (--out)")
        for name in MODELS:
            shutil.rmtree(out / name, ignore_errors=True)
    elif existing:
        raise DataError(f"{out}: holds {existing}, which no demo wrote; choose another directory (--out)")
    write_json(out / MARKER, {**settings, "generated": True, "complete": False})


def _source(out: Path, seed: int) -> Any:
    from graphrec.data.generated import generated_options
    from graphrec.runs import Source

    return Source.create("table", out / "catalog", {**generated_options(), "seed": seed})


def _data(out: Path, settings: Mapping[str, Any], progress: _Progress) -> Dataset:
    from graphrec.data.generated import write_catalog

    with progress.step("generate a catalog") as details:
        write_catalog(out / "catalog", settings["n_items"], settings["n_users"], settings["seed"])
        details.append("ordinary files: interactions.csv, items.csv, images/")
    with progress.step("read it back") as details:
        data: Dataset = _source(out, settings["seed"]).read()
        n = len(data.train) + len(data.valid) + len(data.test)
        details.append(f"{data.n_users:,} users, {data.n_items:,} items, {n:,} interactions")
    return data


def _features(out: Path, data: Dataset, progress: _Progress) -> dict[str, Any]:
    from graphrec.features import FeatureStore
    from graphrec.features.extract import extractor
    from graphrec.features.extract.extraction import extract

    store = FeatureStore(out / "features")
    tables = {}
    for field in ("image", "text"):
        with progress.step(f"extract {field} features") as details:
            encoder = extractor(field)
            table = extract(data, field, encoder, store, progress=False)
            n, dim = int(table.present.sum()), table.values.shape[1]
            details.append(f"{encoder.name}: {n:,} of {data.n_items:,} items, {dim} numbers each")
            tables[field] = table
    return tables


def _train(
    out: Path,
    data: Dataset,
    features: Mapping[str, Any],
    settings: Mapping[str, Any],
    progress: _Progress,
) -> dict[str, Any]:
    from graphrec import runs

    source = _source(out, settings["seed"])
    trained = {}
    for name, (title, options) in MODELS.items():
        with progress.step(f"train {title}") as details:
            run = runs.train(
                name,
                data,
                features,
                model_options=options,
                train_options={**TRAINING, "epochs": settings["epochs"]},
                out=out / name,
                seed=settings["seed"],
                select=SELECT,
                source=source,
                store=out / "features",
            )
            best = f"{SELECT} {run.best_value:.4f} on validation"
            details.append(f"{best}, epoch {run.best_epoch}" if run.best_epoch else best)
            trained[name] = run
    return trained


def _evaluate(models: Mapping[str, Any], data: Dataset) -> dict[str, Report]:
    """Evaluates every model on the same test users; purchases of train and validation are not ranked."""
    from graphrec.evaluation.ranking import evaluate, warm_cold

    return {
        name: evaluate(
            model,
            data.test,
            seen=data.train + data.valid,
            metrics=METRICS,
            item_groups=warm_cold(data.train),
            within=True,
            name=MODELS[name][0],
            progress=False,
        )
        for name, model in models.items()
    }


def _compare(reports: Mapping[str, Report]) -> Comparisons:
    """Each model with each simpler one, p-values corrected for the number of comparisons."""
    from graphrec.evaluation.report import corrected

    names = list(reports)[::-1]
    pairs = [(a, b) for n, a in enumerate(names) for b in names[n + 1 :]]
    return corrected(
        reports[a].compare(reports[b], metric) for metric in ("recall@20", "ndcg@20") for a, b in pairs
    )


def _numbers(report: Report) -> dict[str, dict[str, dict[str, float]]]:
    parts = {group or "all": group_report(report, group) for group in GROUPS}
    return {name: {m: _number(p, m) for m in METRICS} for name, p in parts.items() if p is not None}


def _number(report: Report, metric: str) -> dict[str, float]:
    low, high = report.interval(metric)
    return {"mean": float(report[metric].mean()), "low": low, "high": high, "n_users": len(report)}


def _table(reports: Mapping[str, Report]) -> Table:
    from rich import box
    from rich.table import Table

    title = "Test split of the generated data: means over users, 95 % intervals below"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("items", max_width=18)
    table.add_column("model")
    for metric in METRICS:
        table.add_column(metric, justify="right", no_wrap=True)
    for group, (group_name, _) in GROUPS.items():
        parts = {name: p for name, r in reports.items() if (p := group_report(r, group)) is not None}
        highest = {m: max((p[m].mean() for p in parts.values()), default=0.0) for m in METRICS}
        for number, (name, report) in enumerate(parts.items()):
            cells = []
            for metric in METRICS:
                value = _number(report, metric)
                mean = f"{value['mean']:.3f}"
                best = 0 < value["mean"] == highest[metric]
                below = "-".join(f"{value[end]:.3f}".removeprefix("0") for end in ("low", "high"))
                cells.append(f"{f'[bold]{mean}[/bold]' if best else mean}\n[dim]{below}[/dim]")
            table.add_row(group_name if not number else "", MODELS[name][0], *cells)
        table.add_section()
    return table


def _sentence(comparisons: Comparisons) -> str:
    """The comparison of FREEDOM with LightGCN in a sentence."""
    c = next(c for c in comparisons if (c.model, c.baseline) == (MODELS["freedom"][0], MODELS["lightgcn"][0]))
    return (
        f"{c.model} against {c.baseline} in {c.metric}: {c.difference:+.4f} ({c.relative:+.1%}), 95 % "
        f"interval \\[{c.interval[0]:+.4f}, {c.interval[1]:+.4f}]; paired permutation test p = {c.p:.2g}, "
        f"corrected for {len(comparisons)} comparisons p = {c.p_holm:.2g}."
    )


def _print_next(out: Path, data: Dataset, seconds: float, progress: _Progress) -> None:
    best = shlex.quote(str(out / "freedom"))
    progress.print(f"\nThe whole demo took {seconds:.0f} s. The report, with pictures:")
    progress.print(f"  [bold]{out / 'report.html'}[/bold]\n\nTry next:", soft_wrap=True)
    for line, purpose in (
        (f"graphrec recommend {best} --user {data.users[0]}", "what to offer one user"),
        (f"graphrec evaluate {best} --cold", "the numbers above, from the saved run"),
        ("graphrec data show table --help", "then read your own files: docs/get-started/own-catalog.md"),
    ):
        progress.print(f"  [bold]{line}[/bold]\n      {purpose}", soft_wrap=True)
