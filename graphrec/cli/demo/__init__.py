"""The demonstration: a generated shop, from files on disk to recommendations in pictures, in about a minute.

:func:`run` generates a catalog, writes it as ordinary files, reads it back through the ordinary reader,
extracts features that need no downloaded weights, trains three models and compares them on the test split.
All data in it are generated, and everything it writes says so.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphrec.core.errors import ConfigError, DataError
from graphrec.core.files import read_json, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from graphrec.data import Dataset
    from graphrec.evaluation.report import Comparisons, Report

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "popularity": ("Popularity", {}),
    "lightgcn": ("LightGCN", {"reg_weight": 0.03}),
    "freedom": ("FREEDOM", {"dropout": 0.7, "reg_weight": 0.1}),
}
"""Registered name -> name in tables, options, chosen on the validation split of generated data."""

TRAINING: dict[str, Any] = {
    "batch_size": 2048,
    "learning_rate": 5e-3,
    "patience": 5,
    "checkpoint_every": 10,
    "progress": False,
}
EPOCHS = 60
METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
SELECT = "recall@20"
VIEWS: dict[str, tuple[str, str]] = {
    "": ("all items", "every held-out item counts"),
    "items/warm": ("warm items", "only held-out items with train interactions count"),
    "items/cold": ("cold items, among all", "only held-out items nobody bought in train count"),
    "items/cold/within": ("cold items, among new arrivals only", "the same, ranked against one another"),
}
"""Part of a report -> its name in tables, what it measures."""
MARKER = "demo.json"


def run(
    out: str | Path = "runs/demo",
    n_items: int = 640,
    n_users: int = 1500,
    seed: int = 0,
    epochs: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Runs the demonstration; an earlier one in the same directory is replaced.

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
        DataError: ``out`` holds something under a name the demo writes to, and it is not an earlier demo's.
        ConfigError: numbers out of range.
    """
    from rich.console import Console

    out, begun = Path(out), time.perf_counter()
    console = Console(quiet=quiet, highlight=False)
    if epochs is not None and epochs < 1:
        raise ConfigError(f"epochs {epochs}; expected at least 1")
    settings = {"n_items": n_items, "n_users": n_users, "seed": seed, "epochs": epochs or EPOCHS}
    _start_afresh(out, settings)
    console.print("[bold]graphrec demo[/bold]: a generated shop, from files to recommendations")
    steps: dict[str, float] = {}
    with _one_thread():
        return _run(out, settings, console, steps, begun)


def _run(
    out: Path, settings: Mapping[str, Any], console: Console, steps: dict[str, float], begun: float
) -> dict[str, Any]:
    data = _data(out, settings, console, steps)
    features = _features(out, data, console, steps)
    runs = _train(out, data, features, settings, console, steps)
    with _step("evaluate on test", console, steps) as told:
        reports = _evaluate({name: r.model for name, r in runs.items()}, data)
        for name, report in reports.items():
            report.to_parquet(out / name / "test.parquet")
        comparisons = _compare(reports)
        told.append(f"{len(reports['popularity']):,} users with held-out items")
    with _step("write the report", console, steps):
        from graphrec.cli.demo.page import write_page

        write_page(out, data, features, runs, reports, comparisons, settings, steps)
    results = {
        **settings,
        "generated": True,
        "complete": True,
        "report": str(out / "report.html"),
        "seconds": time.perf_counter() - begun,
        "steps": steps,
        "data": data.summary(),
        "metrics": {name: _numbers(report) for name, report in reports.items()},
        "comparisons": [{**vars(c), "interval": list(c.interval)} for c in comparisons],
    }
    write_json(out / MARKER, results)
    console.print(_table(reports))
    console.print(_sentence(comparisons))
    _print_next(out, data, time.perf_counter() - begun, console)
    return results


def _start_afresh(out: Path, settings: Mapping[str, Any]) -> None:
    """Removes an earlier demo's runs and nothing else; its features stay, as a cache."""
    taken = [name for name in ("catalog", "features", "report.html", *MODELS) if (out / name).exists()]
    if (out / MARKER).exists():
        before = read_json(out / MARKER)
        if not isinstance(before, dict) or before.get("generated") is not True:
            raise DataError(f"{out / MARKER}: not written by the demo; choose another directory (--out)")
        for name in MODELS:
            shutil.rmtree(out / name, ignore_errors=True)
    elif taken:
        raise DataError(f"{out}: holds {taken}, which no demo wrote; choose another directory (--out)")
    write_json(out / MARKER, {**settings, "generated": True, "complete": False})


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread inside: matrices this small gain nothing from more, and on a busy machine lose."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _step(title: str, console: Console, steps: dict[str, float]) -> Iterator[list[str]]:
    """Shows what is being done, then how long it took and what was appended to the yielded list."""
    told: list[str] = []
    begun = time.perf_counter()
    with console.status(f"{title} ..."):
        yield told
    steps[title] = time.perf_counter() - begun
    console.print(
        f"  [green]done[/green] {title:<26} {steps[title]:6.1f} s   {'; '.join(told)}", soft_wrap=True
    )


def _source(out: Path, seed: int) -> Any:
    from graphrec.data.generated import generated_options
    from graphrec.runs import Source

    return Source.create("table", out / "catalog", {**generated_options(), "seed": seed})


def _data(out: Path, settings: Mapping[str, Any], console: Console, steps: dict[str, float]) -> Dataset:
    from graphrec.data.generated import write_catalog

    with _step("generate a catalog", console, steps) as told:
        write_catalog(out / "catalog", settings["n_items"], settings["n_users"], settings["seed"])
        told.append("ordinary files: interactions.csv, items.csv, images/")
    with _step("read it back", console, steps) as told:
        data: Dataset = _source(out, settings["seed"]).read()
        n = len(data.train) + len(data.valid) + len(data.test)
        told.append(f"{data.n_users:,} users, {data.n_items:,} items, {n:,} interactions")
    return data


def _features(out: Path, data: Dataset, console: Console, steps: dict[str, float]) -> dict[str, Any]:
    from graphrec.features import FeatureStore
    from graphrec.features.extract import extractor
    from graphrec.features.extract.extraction import extract

    store, tables = FeatureStore(out / "features"), {}
    for field in ("image", "text"):
        with _step(f"extract {field} features", console, steps) as told:
            made = extractor(field)
            tables[field] = extract(data, field, made, store, progress=False)
            n, dim = int(tables[field].present.sum()), tables[field].values.shape[1]
            told.append(f"{made.name}: {n:,} of {data.n_items:,} items, {dim} numbers each")
    return tables


def _train(
    out: Path,
    data: Dataset,
    features: Mapping[str, Any],
    settings: Mapping[str, Any],
    console: Console,
    steps: dict[str, float],
) -> dict[str, Any]:
    from graphrec import runs

    source, made = _source(out, settings["seed"]), {}
    for name, (title, options) in MODELS.items():
        with _step(f"train {title}", console, steps) as told:
            made[name] = runs.train(
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
            best = f"{SELECT} {made[name].best_value:.4f} on validation"
            told.append(f"{best}, epoch {made[name].best_epoch}" if made[name].best_epoch else best)
    return made


def _evaluate(models: Mapping[str, Any], data: Dataset) -> dict[str, Report]:
    """The one look at test: every model on the same users, train and validation purchases hidden."""
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
    from dataclasses import replace

    from graphrec.evaluation.metrics import holm
    from graphrec.evaluation.report import Comparisons

    pairs = (("freedom", "lightgcn"), ("freedom", "popularity"), ("lightgcn", "popularity"))
    made = [reports[a].compare(reports[b], metric) for metric in ("recall@20", "ndcg@20") for a, b in pairs]
    corrected = holm([c.p for c in made])
    return Comparisons(replace(c, p_holm=float(p)) for c, p in zip(made, corrected, strict=True))


def part(report: Report, view: str) -> Report | None:
    """One of :data:`VIEWS` of a report; None where no user has such a held-out item."""
    found = report.groups.get(view) if view else report
    return found if found is not None and len(found) else None


def _numbers(report: Report) -> dict[str, dict[str, dict[str, float]]]:
    result = {}
    for view in VIEWS:
        found = part(report, view)
        if found is not None:
            result[view or "all"] = {m: _number(found, m) for m in METRICS}
    return result


def _number(report: Report, metric: str) -> dict[str, float]:
    low, high = report.interval(metric)
    return {"mean": float(report[metric].mean()), "low": low, "high": high, "n_users": len(report)}


def _table(reports: Mapping[str, Report]) -> Table:
    from rich import box
    from rich.table import Table

    title = "Test split of the generated data: means over users, 95 % intervals below"
    shown = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    shown.add_column("items", max_width=18)
    shown.add_column("model")
    for metric in METRICS:
        shown.add_column(metric, justify="right", no_wrap=True)
    for view, (name_of_view, _) in VIEWS.items():
        found = {name: p for name, r in reports.items() if (p := part(r, view)) is not None}
        highest = {m: max((p[m].mean() for p in found.values()), default=0.0) for m in METRICS}
        for place, (name, report) in enumerate(found.items()):
            cells = []
            for metric in METRICS:
                value = _number(report, metric)
                mean = f"{value['mean']:.3f}"
                best = 0 < value["mean"] == highest[metric]
                below = "-".join(f"{value[end]:.3f}".removeprefix("0") for end in ("low", "high"))
                cells.append(f"{f'[bold]{mean}[/bold]' if best else mean}\n[dim]{below}[/dim]")
            shown.add_row(name_of_view if not place else "", MODELS[name][0], *cells)
        shown.add_section()
    return shown


def _sentence(comparisons: Comparisons) -> str:
    """The comparison of FREEDOM with LightGCN in words, as it was computed."""
    c = comparisons[0]
    return (
        f"{c.model} against {c.baseline} in {c.metric}: {c.difference:+.4f} ({c.relative:+.1%}), 95 % "
        f"interval \\[{c.interval[0]:+.4f}, {c.interval[1]:+.4f}]; paired permutation test p = {c.p:.2g}, "
        f"corrected for {len(comparisons)} comparisons p = {c.p_holm:.2g}."
    )


def _print_next(out: Path, data: Dataset, seconds: float, console: Console) -> None:
    best = shlex.quote(str(out / "freedom"))
    console.print(f"\nThe whole demo took {seconds:.0f} s. The report, with pictures:")
    console.print(f"  [bold]{out / 'report.html'}[/bold]\n\nTry next:", soft_wrap=True)
    for command, what in (
        (f"graphrec recommend {best} --user {data.users[0]}", "what to offer one user"),
        (f"graphrec evaluate {best} --cold", "the numbers above, from the saved run"),
        ("graphrec data show table --help", "then read your own files: docs/get-started/own-catalog.md"),
    ):
        console.print(f"  [bold]{command}[/bold]\n      {what}", soft_wrap=True)


__all__ = ["EPOCHS", "METRICS", "MODELS", "SELECT", "TRAINING", "VIEWS", "part", "run"]
