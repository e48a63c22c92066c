"""The page of a comparison, for readers who know neither the program nor the models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graphrec.core.errors import DataError
from graphrec.core.files import explain_os_errors, write_text
from graphrec.evaluation.metrics import METRICS, direction, parse_metric
from graphrec.runs.comparison import sections
from graphrec.runs.comparison.narrative import answer, notes
from graphrec.runs.comparison.results import ModelComparison
from graphrec.runs.html import Table, options, render
from graphrec.runs.record import extractor_name

COUNTS = {"n_items": "items to choose from", "n_held_out": "interactions held out"}
"""Key of a report's meta -> what it counts."""


def to_html(
    comparison: ModelComparison, path: str | Path, *, title: str | None = None, command: str | None = None
) -> Path:
    """Writes the page of a comparison as one HTML file that needs nothing else; the best model comes first.

    Args:
        comparison: what to show.
        path: the file.
        title: headline; default: from the number of models and the dataset.
        command: shown as the command that makes the page again.

    Raises:
        DataError: the file cannot be written; what was there is intact.
    """
    comparison = comparison.best_first()
    base, cut = parse_metric(comparison.metric)
    report = comparison.first.report
    counts = {
        "models": len(comparison.results),
        "trainings": sum(len(r.entries) for r in comparison.results.values()),
        "users measured": len(report),
        **{counted: report.meta[key] for key, counted in COUNTS.items() if key in report.meta},
    }
    text = render(
        Path(__file__).with_name("page.html"),
        title=title or _title(comparison),
        answer=answer(comparison),
        metric=comparison.metric,
        meaning=METRICS[base].meaning,
        cut=cut,
        better="Higher" if direction(base) > 0 else "Lower",
        counts={counted: f"{n:,}" for counted, n in counts.items()},
        results=sections.results(comparison),
        tests=sections.tests(comparison),
        cutoffs=sections.cutoffs(comparison),
        cold_items=sections.cold_items(comparison),
        curves=sections.training_curves(comparison),
        times=sections.training_times(comparison),
        recommended=sections.recommended_items(comparison),
        metrics=[METRICS[b] for b in dict.fromkeys(parse_metric(name)[0] for name in comparison.names)],
        notes=notes(comparison),
        command=command,
        settings=_settings(comparison),
    )
    with explain_os_errors(path, DataError):
        write_text(path, text)
    return Path(path)


def _title(comparison: ModelComparison) -> str:
    name = (comparison.first.entries[0].about.get("dataset") or {}).get("name")
    n = len(comparison.results)
    models = f"{n} models" if n > 1 else "One model"
    return f"{models} on {name}" if name else f"{models} compared"


def _settings(comparison: ModelComparison) -> Table:
    about = comparison.first.entries[0].about
    meta = comparison.first.report.meta
    data = about.get("dataset") or {}
    environment = about.get("environment") or {}
    split = about.get("split")
    training = [r.entries[0].about.get("train_config") or {} for r in comparison.results.values()]
    shared = {
        k: v for k, v in training[0].items() if all(k in t and t[k] == v for t in training) and k != "seed"
    }
    masked = f"what users have in {meta['seen']} is not ranked" if meta.get("seen") else "nothing is masked"
    rows = [
        ("dataset", data.get("name", "not recorded")),
        ("split", options(split) if isinstance(split, Mapping) else split),
        ("measured on", f"{meta.get('split', 'not recorded')}; {masked}"),
        ("dataset fingerprint", str(data.get("fingerprint", ""))[:16]),
        ("selected on", about.get("select")),
        ("training, all models", options(shared)),
    ]
    for (label, result), trained in zip(comparison.results.items(), training, strict=True):
        first = result.entries[0].about
        settings = {
            **(first.get("model_config") or {}),
            **{f"train.{k}": v for k, v in trained.items() if k not in shared},
            **{f"{f} features": extractor_name(e) for f, e in (first.get("extractors") or {}).items()},
        }
        seeds = ", ".join(str(s) for s in result.seeds if s is not None) or "not recorded"
        described = options({k: v for k, v in settings.items() if not k.endswith("seed")})
        rows.append((label, "; ".join(filter(None, [f"seeds {seeds}", described]))))
    if environment:
        versions = {"Python": environment.get("python"), **(environment.get("packages") or {})}
        rows.append(("software", options(versions)))
    rows.append(("machine", "; ".join(sections.machines(comparison))))
    recorded = [row for row in rows if row[1]]
    return Table(["setting", "value"], recorded, "What was trained and measured", left=True)
